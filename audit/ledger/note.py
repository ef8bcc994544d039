"""Signed notes and checkpoints: c2sp.org/signed-note, tlog-checkpoint and tlog-cosignature, with Ed25519.

A note is text and signatures. Nothing may be believed of it before `verified` has named the keys that signed it;
signatures of unknown keys are ignored, as the standard demands. ML-DSA-44 cosignatures are such to us.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from audit.errors import ProofRejected, UserError

if TYPE_CHECKING:  # `audit status` names keys and checks no signature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ED25519 = 0x01
COSIGNATURE = 0x04  # a time stamped Ed25519 cosignature over a checkpoint
KINDS = (ED25519, COSIGNATURE)
MAX_NOTE = 1_000_000  # characters; and signatures, as Go's note package has it
MAX_SIGNATURES = 100
KEY_BYTES = 32
SIGNATURE_BYTES = 64
HANDOVER = "prefect-audit/handover@1"
EXPIRY = "prefect-audit/expiry@1"
_SIGNED = "— "
_PRIVATE = "PRIVATE+KEY+"
_NAME = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")  # \s are the Unicode spaces
_FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")  # half a surrogate pair is no UTF-8
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_LARGEST = (1 << 63) - 1  # that SQLite and Go's tlog count up to


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A key's public part: its name, what it signs, and 32 bytes (RFC 8032)."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that a signature names its key by: SHA-256(name ‖ 0x0A ‖ kind ‖ key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    @property
    def shown(self) -> str:
        """`acme.example/fraud+530d903a`: what names the key for people."""
        return f"{self.name}+{self.key_id.hex()}"

    def __str__(self) -> str:
        """As c2sp.org/signed-note writes verifier keys (a vkey)."""
        return f"{self.shown}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key that signs a log's checkpoints under the log's origin."""

    name: str
    seed: bytes = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, ED25519, self._private.public_key().public_bytes_raw())

    @property
    def encoded(self) -> str:
        """As Go's note package writes signer keys."""
        return f"{_PRIVATE}{self.verifier.shown}+{base64.b64encode(bytes([ED25519]) + self.seed).decode()}"

    @property
    def _private(self) -> "Ed25519PrivateKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)

    def signature(self, text: str) -> bytes:
        return self._private.sign(text.encode())

    def consent(self, new: VerifierKey) -> str:
        """That `new` takes over from this key, in base64. Its signature under a checkpoint alone is none: whoever can
        write events has it sign for what they say of keys, and can add another signature to a note."""
        return base64.b64encode(self.signature(_handover(new))).decode()

    def leave(self, digest: str) -> str:
        """That payloads may go as the facts of this digest say, in base64. A sealed event alone is none: whoever can
        write events has this key seal them."""
        return base64.b64encode(self.signature(_expiry(digest))).decode()


@dataclass(frozen=True, slots=True)
class Signature:
    """One line of a note: whose it claims to be, and its bytes."""

    name: str
    key_id: bytes
    value: bytes

    def __str__(self) -> str:
        return f"{_SIGNED}{self.name} {base64.b64encode(self.key_id + self.value).decode()}\n"


@dataclass(frozen=True)
class Note:
    """A note as it was read; nothing in it is verified."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"


@dataclass(frozen=True)
class Checkpoint:
    """A tree's head: origin of the log, number of leaves, root."""

    origin: str
    size: int
    root: bytes

    @cached_property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def signed(text: str, keys: Iterable[SigningKey]) -> Note:
    """A note over `text`, which ends in a newline, signed by each of `keys`."""
    return Note(text, tuple(Signature(key.name, key.verifier.key_id, key.signature(text)) for key in keys))


def parse_note(written: str) -> Note:
    """Text and signatures of a note. Raises ProofRejected if it is none, or one key signed it twice."""
    if len(written) > MAX_NOTE:
        raise ProofRejected(f"The note has {len(written)} characters; {MAX_NOTE} are read.")
    if odd := _FORBIDDEN.search(written):
        raise ProofRejected(f"This is no signed note: it has the character {odd.group()!r}.")
    text, found, lines = written.rpartition("\n\n")
    if not found or not lines.endswith("\n"):
        raise ProofRejected("This is no signed note: text, an empty line, signature lines.")
    signatures = tuple(_signature(line) for line in lines.removesuffix("\n").split("\n"))
    if len(signatures) > MAX_SIGNATURES:
        raise ProofRejected(f"The note has {len(signatures)} signatures; {MAX_SIGNATURES} are read.")
    for nth, one in enumerate(signatures):
        if any((one.name, one.key_id) == (other.name, other.key_id) for other in signatures[:nth]):
            raise ProofRejected(f"The note has two signatures by one key, {_excerpt(one.name)}+{one.key_id.hex()}.")
    return Note(text + "\n", signatures)


def verified(note: Note, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
    """Those of `keys` that signed the note.

    Raises ProofRejected if a signature that names one of them is not its own.
    """
    known = {(key.name, key.key_id): key for key in keys}
    found = []
    for signature in note.signatures:
        if key := known.get((signature.name, signature.key_id)):
            _check(note.text, signature, key)
            found.append(key)
    return found


def cosigned_at(signature: Signature) -> int:
    """When a witness says that it signed, in seconds since 1970; to be believed once the signature is verified."""
    return int.from_bytes(signature.value[:8], "big")


def cosignature(key: SigningKey, text: str, at: int) -> Signature:
    """What a witness with `key` adds to a checkpoint's text (c2sp.org/tlog-cosignature, Ed25519)."""
    verifier = VerifierKey(key.name, COSIGNATURE, key.verifier.public)
    value = at.to_bytes(8, "big") + key.signature(_cosigned(text, at))
    return Signature(key.name, verifier.key_id, value)


def with_cosignatures(written: str, lines: Iterable[bytes]) -> Note:
    """A checkpoint's note with the signature lines that witnesses added to it, of each witness the last.

    Raises ProofRejected if the note is none, or one of the lines.
    """
    own = parse_note(written)
    added = {}
    for line in lines:
        for signature in parse_note(f"{own.text}\n{line.decode(errors='replace')}").signatures:
            added[signature.name, signature.key_id] = signature
    return parse_note(str(Note(own.text, (*own.signatures, *added.values()))))


def consented(old: VerifierKey, new: VerifierKey, consent: object) -> bool:
    """Whether `old` signed that `new` takes over from it."""
    try:
        value = decoded(str(consent), "The consent", SIGNATURE_BYTES)
        _check(_handover(new), Signature(old.name, old.key_id, value), old)
    except ProofRejected:
        return False
    return old.kind == ED25519


def gave_leave(key: VerifierKey, digest: str, leave: object) -> bool:
    """Whether `key` signed that payloads may go as the facts of this digest say."""
    try:
        value = decoded(str(leave), "The leave", SIGNATURE_BYTES)
        _check(_expiry(digest), Signature(key.name, key.key_id, value), key)
    except ProofRejected:
        return False
    return key.kind == ED25519


def _handover(new: VerifierKey) -> str:
    """Two lines, which no checkpoint is."""
    return f"{HANDOVER}\n{new}\n"


def _expiry(digest: str) -> str:
    return f"{EXPIRY}\n{digest}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """The tree's head in a note's text. Raises ProofRejected if there is none. Extension lines are ignored."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise ProofRejected("The note is no checkpoint: origin, tree size and root, a line each.")
    return Checkpoint(
        lines[0], decimal(lines[1], "The checkpoint's tree size"), decoded(lines[2], "The checkpoint's root", 32)
    )


def decimal(written: str, what: str) -> int:
    """A count or an index below 2^63 in ASCII, without leading zeros. Raises ProofRejected, naming `what`."""
    if not _DECIMAL.fullmatch(written) or int(written) > _LARGEST:
        raise ProofRejected(f"{what} is no decimal number below 2^63 without leading zeros.")
    return int(written)


def decoded(encoded: str, what: str, length: int | None = None) -> bytes:
    """Bytes of canonical base64 (RFC 4648, 4): another spelling of the same bytes would be another note.

    Raises ProofRejected, naming `what`, if it is none or of another `length`.
    """
    try:
        found = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if base64.b64encode(found).decode() != encoded or length not in (None, len(found)):
        raise ProofRejected(f"{what} is not {f'{length} bytes' if length else 'written'} in base64.")
    return found


def parse_key(written: str) -> VerifierKey:
    """A vkey. Raises UserError, which never shows it (it may be a private key), if it is none of a kind read here."""
    name, key_id, kind, public = _key_parts(written.strip())
    key = VerifierKey(name, kind, public)
    if kind not in KINDS or len(public) != KEY_BYTES or key.key_id.hex() != key_id:
        raise UserError(
            "This is no verifier key of Ed25519.", hint="One reads <name>+<id>+<base64>: see `audit log-key`."
        )
    return key


def parse_signing_key(written: str) -> SigningKey:
    """A signer key as Go's note package writes it. Raises UserError, which never shows it, if it is none."""
    text = written.strip()
    name, key_id, kind, seed = _key_parts(text.removeprefix(_PRIVATE))
    if text.startswith(_PRIVATE) and kind == ED25519 and len(seed) == KEY_BYTES:
        key = SigningKey(name, seed)
        if key.verifier.key_id.hex() == key_id:
            return key
    raise UserError("The log's signing key is damaged or of another kind.", hint=f"One begins with {_PRIVATE}.")


def _key_parts(written: str) -> tuple[str, str, int, bytes]:
    """Name, id, kind and bytes of a key; of kind 0, which there is not, if the text is none."""
    try:
        name, key_id, encoded = written.split("+", 2)
        kind, *key = decoded(encoded, "The key")
    except (ValueError, ProofRejected):
        return "", "", 0, b""
    if not _NAME.fullmatch(name) or not name.isprintable():  # the standard allows what steers a terminal; we show names
        return "", "", 0, b""
    return name, key_id, kind, bytes(key)


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_SIGNED).partition(" ")
    if not line.startswith(_SIGNED) or not _NAME.fullmatch(name):
        raise ProofRejected(f"The note's line {_excerpt(line)} is no signature.")
    value = decoded(encoded, f"The signature of {_excerpt(name)}")
    if len(value) <= 4:
        raise ProofRejected(f"The signature of {_excerpt(name)} is cut short.")
    return Signature(name, value[:4], value[4:])


def _check(text: str, signature: Signature, key: VerifierKey) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    value, message = signature.value, text
    if key.kind == COSIGNATURE:
        value, message = signature.value[8:], _cosigned(text, cosigned_at(signature))
        if cosigned_at(signature) > _LARGEST:
            raise ProofRejected(f"The cosignature of {key.shown} is of no time that there is.")
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(value, message.encode())
    except (InvalidSignature, ValueError):
        raise ProofRejected(f"The signature of {key.shown} does not fit the note.") from None


def _cosigned(text: str, at: int) -> str:
    return f"cosignature/v1\ntime {at}\n{text}"


def _excerpt(hostile: str) -> str:
    """As much of a text by whoever as may stand in a line for people: no control of a terminal, no end of line."""
    return repr(hostile[:60])
