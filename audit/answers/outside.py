"""What the checks of proofs and bundles share: strict JSON, a payload against its envelope, the keys that are believed
and the checkpoints that somebody kept. Everything here reads bytes by whoever and rejects what has two readings.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import orjson

from audit.answers.checks import Envelope, Reign, payload_fault, read_envelope, shape_faults
from audit.answers.verdict import Fault, Verdict, many
from audit.errors import AuthorityUnknown, CouldNotTell, InconsistentTree, ProofRejected, UserError
from audit.events.canonical import canonical
from audit.ledger.note import (
    Note,
    VerifierKey,
    parse_checkpoint,
    parse_key,
    parse_note,
    verified,
    with_cosignatures,
)
from audit.ledger.timestamps import check_timestamp, read_roots
from audit.ledger.tree import leaf_hash
from audit.store.ledger import SealedEvent

ENTRY_BYTES = 65_535  # of a log entry (c2sp.org/tlog-tiles)
PAYLOAD_BYTES = 64 << 20  # of a line of a bundle and of a payload's file
SMALL_BYTES = 4 << 20  # of any other file
MOST_KEYS = 1_000  # that a log had
CHANGED = "The store is not what was sealed: keep it as it is and run `audit verify`."
NEWER = "it is newer than this; ask for what was exported since."
APART = "this shows nothing of the way from the one to the other; ask for the whole log (`audit export`)."
UNSHOWN = "and no handing over is shown here. Give --key with one that you had from elsewhere."
OWN_KEY = (
    "The key came with what it is to check: this shows that all of it belongs together, not whose it is. "
    "Give --key with one that you had from elsewhere."
)

NOT_HANDED_OVER = (
    "The key that you hold is not the one that signed this, and did not hand over to it as far as is shown: it was "
    "lost, or this is not the whole log. Get the new key in another way and name it with --key."
)

Fields = dict[str, type]


@dataclass(frozen=True, slots=True)
class Trust:
    """What the reader brings along from elsewhere."""

    key: VerifierKey | None = None  # the log's
    kept: Sequence[str] = ()  # checkpoints of the log
    witnesses: Sequence[VerifierKey] = ()  # whose cosignatures are demanded
    tsa_roots: Path | None = None  # PEM file of the time stamp authorities that are believed


def strict_object(text: str, what: str, *allowed: Fields) -> dict[str, Any]:
    """The object that `text` writes in canonical form, which has one reading, with the fields of one of `allowed`.

    Raises ProofRejected, naming `what`.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or canonical(found).decode() != text:
        raise ProofRejected(f"{what} is no JSON object in canonical form.")
    if {name: type(value) for name, value in found.items()} not in allowed:
        fields = " or ".join(", ".join(fields) for fields in allowed)
        raise ProofRejected(f"{what} has not the fields {fields}.")
    return found


def utf8(content: bytes, what: str) -> str:
    """Raises ProofRejected if `content` is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ProofRejected(f"{what} is not UTF-8.") from None


def key_lines(keys: Iterable[VerifierKey]) -> bytes:
    return "".join(f"{key}\n" for key in keys).encode()


def envelope_of(entry: bytes) -> Envelope:
    """What an entry says. Raises ProofRejected if it is no event's envelope; of a later release's, which is_later,
    only what is needed here is looked at."""
    said = read_envelope(entry)
    for fault in shape_faults(said, len(entry)):
        raise ProofRejected(fault)
    if not all(isinstance(said.get(name), str) for name in ("id", "type", "actor", "payload_hash")):
        raise ProofRejected("the envelope does not name its event and payload")
    return said


def demand_payload(said: Envelope, salt: str, payload: str, what: str) -> None:
    """Raises ProofRejected unless salt (hexadecimal) and payload are those that the envelope binds."""
    try:
        bound = bytes.fromhex(salt)
    except ValueError:
        bound = b""
    if bound.hex() != salt:  # fromhex passes over spaces
        raise ProofRejected(f"{what}: the salt is not hexadecimal.")
    if fault := payload_fault(bound, payload.encode(), True, said["payload_hash"].encode()):
        raise ProofRejected(f"{what}: {fault}.")


def key_of(written: object) -> VerifierKey:
    """A verifier key that stands in what is checked. Raises ProofRejected if it is none."""
    try:
        return parse_key(str(written))
    except UserError as bad:
        raise ProofRejected(bad.what) from None


def keys_of(written: str) -> list[VerifierKey]:
    """Verifier keys, a line each. Raises ProofRejected unless there are some, and nothing else."""
    found = [key_of(line) for line in written.split("\n")[:-1]]
    if not 0 < len(found) <= MOST_KEYS or key_lines(found).decode() != written:
        raise ProofRejected("log.vkey does not name keys, a line each.")
    return found


def demand_sealed(row: SealedEvent) -> None:
    """Raises InconsistentTree if a leaf's event is gone or not what was sealed, CouldNotTell where a withdrawal is not
    sealed yet. Payloads are looked at when what was written is read back."""
    what = f"event {row.id} (leaf {row.idx})"
    if not isinstance(row.envelope, str):
        raise InconsistentTree(f"{what}: there is no such event.", hint=CHANGED)
    if leaf_hash(row.envelope.encode()) != row.hash:
        raise InconsistentTree(f"{what}: its envelope is not the one that was sealed.", hint=CHANGED)
    if row.withdrawal is not None and row.withdrawn_by is None:
        raise CouldNotTell(f"{what}: the withdrawal of its payload is not sealed yet.", hint="Run `audit seal`.")
    if row.withdrawal is None and not (isinstance(row.body, str) and isinstance(row.salt, bytes)):
        raise InconsistentTree(f"{what}: its payload is missing, and nobody withdrew it.", hint=CHANGED)


def cosigned(size: int, note: str, cosignatures: Sequence[bytes]) -> Note:
    """A stored checkpoint with what witnesses added. Raises ProofRejected if it is none of that size."""
    if not isinstance(note, str) or not all(isinstance(line, bytes) for line in cosignatures):
        raise ProofRejected(f"The checkpoint of size {size} or a cosignature of it is not kept as it was.")
    found = with_cosignatures(note, cosignatures)
    if parse_checkpoint(found.text).size != size:
        raise ProofRejected(f"The checkpoint of size {size} says that it is of another one.")
    return found


def standalone() -> bytes:
    """The verifier that needs nothing of ours: one file of Python."""
    return (files("audit.answers") / "standalone.py").read_bytes()


def plain_file(path: Path) -> IO[bytes]:
    """A file to read. Raises CouldNotTell if it cannot be opened, or may never end."""
    try:
        if path.exists() and not path.is_file():
            raise CouldNotTell(f"{path} is no plain file.")
        return path.open("rb")
    except OSError as error:
        raise CouldNotTell(f"{path} cannot be read ({error.strerror}).") from None


@dataclass(frozen=True, slots=True)
class Keys:
    """Whose signatures count, as far as what was handed out shows."""

    own: Sequence[VerifierKey]  # the log's
    in_turn: bool  # that each of them is, from the first event on, was shown
    believed: Sequence[VerifierKey]  # who may have signed the newest checkpoint
    unknown: Sequence[str] = ()


def keys_that_count(trust: Trust, named: Sequence[VerifierKey], note: Note, reigns: Sequence[Reign] = ()) -> Keys:
    """Of those that are `named` beside the newest checkpoint, or of the `reigns` that the log's events show: without a
    key of the reader's all, else that one and those to which it is shown to have handed over."""
    own = [reign.key for reign in reigns] or list(named)
    if trust.key is None or trust.key not in own:
        return Keys(own, bool(reigns), own if trust.key is None else [trust.key])
    after = reigns[own.index(trust.key) + 1 :] if reigns else ()
    if any(reign.lost for reign in after) if reigns else trust.key not in verified(note, own):
        return Keys(own, bool(reigns), own, [NOT_HANDED_OVER])
    return Keys(own, bool(reigns), [trust.key, *(reign.key for reign in after)])


def verdict(
    trust: Trust,
    note: Note,
    roots: Mapping[int, bytes],
    keys: Keys,
    stamps: Iterable[tuple[str, bytes, str]],
    *,
    events: int,
    checkpoints: int,
    later: int,
    notes: Sequence[str],
    withdrawals: tuple[tuple[str, int], ...] = (),
) -> Verdict:
    """What it comes to, once entries, proofs and signatures held, with what the reader brought along.

    `note`: the newest checkpoint; `roots` that are known, by size; `stamps`: file, content and the note that it is
    over; `later`: events that a later release wrote.
    """
    head = parse_checkpoint(note.text)
    lacking = [*keys.unknown, *_without_cosigners(trust.witnesses, note)]
    if later:
        lacking.append(f"{many(later, 'event')} came from a later release, of whose envelopes not all is known here.")
    held, faults, apart = _held_to(trust, note, roots, keys)
    stamped, bent, unchecked = _stamped(stamps, trust.tsa_roots)
    return Verdict(
        events=events,
        size=head.size,
        checkpoints=checkpoints,
        anchors=stamped + len(verified(note, trust.witnesses)),
        held_to=tuple(held),
        withdrawals=withdrawals,
        faults=(*faults, *bent),
        unknown=(*apart, *lacking),
        notes=(*([] if trust.key else [OWN_KEY]), *notes, *unchecked),
    )


def stamped_note(note: Note, keys: Sequence[VerifierKey]) -> str:
    """The note as the log signed it, without what witnesses added: what time stamps are over."""
    own = {(key.name, key.key_id) for key in keys}
    return str(Note(note.text, tuple(one for one in note.signatures if (one.name, one.key_id) in own)))


def kept_sizes(trust: Trust) -> set[int]:
    """Sizes at which the tree's root is needed for what was kept."""
    found = set()
    for written in trust.kept:
        with suppress(ProofRejected):  # the verdict tells of it
            found.add(parse_checkpoint(parse_note(written).text).size)
    return found


def _without_cosigners(witnesses: Sequence[VerifierKey], note: Note) -> list[str]:
    there = {(one.name, one.key_id) for one in note.signatures}
    return [
        f"The checkpoint has no cosignature by {key.shown}." for key in witnesses if (key.name, key.key_id) not in there
    ]


def _held_to(
    trust: Trust, newest: Note, roots: Mapping[int, bytes], keys: Keys
) -> tuple[list[str], list[Fault], list[str]]:
    """What was kept and agrees, what does not, and what could not be told."""
    log = parse_checkpoint(newest.text)
    vouched = trust.key is not None or keys.in_turn
    held, faults, unknown = [], [], []
    for written in trust.kept:
        try:
            note = parse_note(written)
            head = parse_checkpoint(note.text)
            by = verified(note, [*keys.own, *([trust.key] if trust.key else [])])
        except ProofRejected as bad:
            unknown.append(f"The checkpoint that you kept cannot be relied on: {bad.what}")
            continue
        about = f"checkpoint of size {head.size} that you kept"
        if head.origin != log.origin:
            faults.append(Fault(about, f"it is of the log {head.origin}, this one is {log.origin}"))
        elif head.size not in roots:
            unknown.append(f"The {about} cannot be compared: {NEWER if head.size > log.size else APART}")
        elif roots[head.size] != head.root:
            faults.append(Fault(about, "the tree of this size has another root: it was rewritten, or is one of two"))
        elif not by:
            faults.append(Fault(about, "it is signed by no key of this log: the log was written anew with another key"))
        elif not vouched and not verified(newest, by):
            unknown.append(f"The {about} is signed by another key than this, {UNSHOWN}")
        else:
            held.append(about)
    return held, faults, unknown


def _stamped(stamps: Iterable[tuple[str, bytes, str]], tsa_roots: Path | None) -> tuple[int, list[Fault], list[str]]:
    """How many time stamps hold, which do not, and how to check others. Without roots none is looked at."""
    roots = read_roots(tsa_roots) if tsa_roots else None
    held, faults, unchecked = 0, [], []
    for name, content, note in stamps:
        if roots is None:
            unchecked.append((name, note))
            continue
        try:
            check_timestamp(content, note, roots)
            held += 1
        except AuthorityUnknown:
            unchecked.append((name, note))
        except ProofRejected as bad:
            faults.append(Fault(name, bad.what))
    return held, faults, [_how_to_check(len(unchecked), *unchecked[-1])] if unchecked else []


def _how_to_check(count: int, name: str, note: str) -> str:
    what = "time stamp is by an authority" if count == 1 else "time stamps are by authorities"
    digest = hashlib.sha256(note.encode()).hexdigest()
    return (
        f"{count} {what} not known here, and not checked. With the authority's roots: "
        f"openssl ts -verify -digest {digest} -in {name} -CAfile ROOTS.pem"
    )
