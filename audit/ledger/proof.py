"""One entry's proof in c2sp.org/tlog-proof@v1: its leaf index, the inclusion proof and the log's checkpoint.

It needs no store and no network. What it proves rests on the keys that the reader brings along; nothing in a proof
names the keys to be believed.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from audit.errors import ProofRejected
from audit.ledger import tree
from audit.ledger.note import (
    ED25519,
    MAX_NOTE,
    Checkpoint,
    Note,
    VerifierKey,
    decimal,
    decoded,
    parse_checkpoint,
    parse_note,
    verified,
)

HEADER = "c2sp.org/tlog-proof@v1"
MAX_HASHES = 63  # a leaf's way up in the largest tree whose size has 63 bits
_EXTRA = "extra "
_INDEX = "index "


@dataclass(frozen=True)
class TlogProof:
    """A proof as it was read; nothing in it is verified, and `extra` never can be."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: Note
    extra: bytes | None = None

    def __str__(self) -> str:
        extra = [_EXTRA + base64.b64encode(self.extra).decode()] if self.extra else []
        hashes = [base64.b64encode(hash).decode() for hash in self.hashes]
        return "\n".join([HEADER, *extra, f"{_INDEX}{self.index}", *hashes, "", str(self.checkpoint)])


def parse_proof(written: str) -> TlogProof:
    """The proof in the text of a `.tlog-proof` file. Raises ProofRejected if there is none, or more than it."""
    if len(written) > MAX_NOTE:
        raise ProofRejected(f"The proof has {len(written)} characters; {MAX_NOTE} are read.")
    head, _, checkpoint = written.partition("\n\n")
    first, *lines = head.split("\n")
    if first != HEADER:
        raise ProofRejected(f"This is no proof of a log entry: its first line is not {HEADER}.")
    extra = None
    if lines and lines[0].startswith(_EXTRA):
        extra = decoded(lines.pop(0).removeprefix(_EXTRA), "The proof's extra data")
        if not extra:
            raise ProofRejected("The proof's line of extra data has none.")
    if not lines or not lines[0].startswith(_INDEX):
        raise ProofRejected("The proof has no line that gives the entry's index.")
    index = decimal(lines[0].removeprefix(_INDEX), "The proof's index")
    if len(lines) - 1 > MAX_HASHES:
        raise ProofRejected(f"The proof has {len(lines) - 1} hashes; no tree takes more than {MAX_HASHES}.")
    hashes = tuple(decoded(line, f"Hash {nth} of the proof", tree.HASH_BYTES) for nth, line in enumerate(lines[1:]))
    return TlogProof(index, hashes, parse_note(checkpoint), extra)


def check_proof(entry: bytes, proof: TlogProof, keys: Sequence[VerifierKey]) -> Checkpoint:
    """The checkpoint under which `entry` is proven to be in the log, as the specification has it verified.

    `keys` are those of the logs and witnesses that are believed. Raises ProofRejected unless a key of the
    checkpoint's origin signed it, every signature by one of `keys` is its own, and the inclusion proof leads there.
    """
    head = believed_head(proof.checkpoint, keys)
    tree.verify_inclusion(tree.leaf_hash(entry), proof.index, head.size, proof.hashes, head.root)
    return head


def believed_head(checkpoint: Note, keys: Sequence[VerifierKey]) -> Checkpoint:
    """The tree's head, if a key of its origin signed it and every signature by one of `keys` is its own.

    Raises ProofRejected.
    """
    head = parse_checkpoint(checkpoint.text)
    signers = verified(checkpoint, keys)
    if not any(key.kind == ED25519 and key.name == head.origin for key in signers):
        raise ProofRejected(f"No key of the log {head.origin[:60]!r} that is believed has signed the checkpoint.")
    return head
