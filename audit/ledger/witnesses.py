"""Witnesses: others who cosign a checkpoint if it continues all those that they saw before.

c2sp.org/tlog-witness is how they are asked, c2sp.org/tlog-cosignature what they answer. What one says is kept as the
line of its signature.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal

from audit.errors import (
    AnchorRefused,
    AnchorUnavailable,
    AuditError,
    AuthorityUnknown,
    InconsistentTree,
    ProofRejected,
    UserError,
)
from audit.ledger.asking import CHECK, Answer, ask, content_of, demand_address, refusal
from audit.ledger.note import (
    COSIGNATURE,
    Note,
    Signature,
    VerifierKey,
    cosigned_at,
    decimal,
    parse_key,
    parse_note,
    verified,
)

SIZE_TYPE = "text/x.tlog.size"
_REFUSALS = {  # c2sp.org/tlog-witness
    400: ("calls the request malformed", CHECK),
    403: ("does not take the checkpoint's signature", "Give its operator the log's key: `audit log-key`."),
    404: ("does not know this log", "Give its operator the log's key: `audit log-key`."),
}


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness: the key that its cosignatures are held against, and where it is asked."""

    kind: ClassVar[Literal["cosignature"]] = "cosignature"
    key: VerifierKey
    url: str = field(repr=False)  # submission prefix

    @property
    def shown(self) -> str:
        return self.key.shown


def read_witnesses(path: Path) -> list[Witness]:
    """Witnesses of a file, a line each: verifier key, space, URL. Raises UserError that names file and line."""
    found: list[Witness] = []
    for nth, line in enumerate(content_of(path).decode(errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise UserError(f"{path}:{nth}: a witness is a verifier key, a space and a URL.")
        try:
            found.append(_witness(*words))
        except UserError as wrong:
            raise UserError(f"{path}:{nth}: {wrong.what}", hint=wrong.hint) from None
    if not found:
        raise UserError(f"{path} names no witness.", hint="Write a line for each: verifier key, space, URL.")
    return found


def add_checkpoint(target: Witness, old: int, proof: Sequence[bytes], note: str) -> Answer:
    """What the witness answers to a checkpoint with the proof that it continues the one of size `old`."""
    lines = [f"old {old}", *(base64.b64encode(step).decode() for step in proof), "", note]
    url = f"{target.url.rstrip('/')}/add-checkpoint"
    return ask(url, "\n".join(lines).encode(), "text/plain; charset=utf-8", target.shown)


def size_said(answer: Answer, target: Witness) -> int:
    """Where the witness says that it is. Raises AnchorRefused if it does not."""
    try:
        if answer.type == SIZE_TYPE:
            return decimal(answer.body.decode(errors="replace").removesuffix("\n"), "The size")
    except ProofRejected:
        pass
    raise AnchorRefused(f"{target.shown} answered 409 without the size that it has seen.", hint=CHECK)


def line_by(key: VerifierKey, answer: bytes) -> bytes:
    """The witness's own line of its answer. Raises AnchorRefused without one. Lines of keys unknown are passed over."""
    for line in answer.splitlines(keepends=True):
        if is_by(key, line):
            return line
    raise AnchorRefused(
        f"{key.shown} answered without a cosignature by this key.", hint="Ask its operator for the key in force."
    )


def unwitnessed(status: int, target: Witness, size: int) -> AuditError:
    """What a status says of the checkpoint of `size` that was sent."""
    if status == 422:
        return InconsistentTree(
            f"{target.shown} has seen another history of this log: "
            f"the checkpoint of size {size} does not continue what it cosigned before.",
            hint="Sealed events were changed, or another store goes by this log's name. Keep both; see `audit verify`.",
        )
    if status == 409:
        return AnchorUnavailable(f"{target.shown} is being told of this log by others just now.", hint="Try again.")
    if status in _REFUSALS:
        what, hint = _REFUSALS[status]
        return AnchorRefused(f"{target.shown} {what} (it answered {status}).", hint=hint)
    return refusal(status, target.shown)


def check_cosignature(evidence: bytes, note: str, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, datetime]:
    """Which of the witnesses' `keys` cosigned the note, and when it says so; `evidence` is a signature's line.

    Raises ProofRejected, also where it is of none of them.
    """
    cosignature = _signature(evidence)
    by = verified(Note(parse_note(note).text, (cosignature,)), [key for key in keys if key.kind == COSIGNATURE])
    if not by:
        raise AuthorityUnknown(f"The cosignature by {cosignature.name[:60]!r} is of no witness that is known here.")
    return by[0], _time(cosigned_at(cosignature))


def is_by(key: VerifierKey, line: bytes) -> bool:
    """Whether a signature's line names this key; its signature is not looked at."""
    try:
        signature = _signature(line)
    except ProofRejected:
        return False
    return (signature.name, signature.key_id) == (key.name, key.key_id)


def _signature(line: bytes) -> Signature:
    """Raises ProofRejected if it is none, or more than one."""
    written = line.decode(errors="replace")
    if written.count("\n") != 1 or not written.endswith("\n"):
        raise ProofRejected("This is no cosignature: one signature line.")
    return parse_note(f"-\n\n{written}").signatures[0]


def _time(seconds: int) -> datetime:
    """Raises ProofRejected for none, which only signatures over parts of a tree may leave out, and beyond year 9999."""
    try:
        if seconds:
            return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise ProofRejected(f"The cosignature says that it was made {seconds} seconds after 1970.")


def _witness(vkey: str, url: str) -> Witness:
    key = parse_key(vkey)
    if key.kind != COSIGNATURE:
        raise UserError(
            f"{key.shown} is a log's key, not a witness's.", hint="One of a witness is of kind 0x04 (tlog-cosignature)."
        )
    demand_address(url, f"The address of {key.shown}")
    return Witness(key, url)
