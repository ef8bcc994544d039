"""Checkpoints, the keys that signed them, what others said of them and when: each held against the tree as it was read
again, and against the events that tell of it, which are sealed themselves.
"""

import base64
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from audit.answers import checks
from audit.answers.checks import Reign, Told, moment
from audit.answers.walk import Findings, Latest
from audit.errors import AuthorityUnknown, ProofRejected
from audit.events.canonical import digest_of, timestamp
from audit.ledger.note import Checkpoint, Note, VerifierKey, parse_checkpoint, parse_note, verified
from audit.ledger.sealer import CLOCK_TOLERANCE
from audit.store.evidence import Row
from audit.store.ledger import KEY_TYPES

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

SIGNED, ANCHORED, OPENED = "checkpoint.signed", "checkpoint.anchored", "store.opened"


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the reading came to, and what the log says of itself."""

    size: int  # leaves
    since: int  # leaves that were not read again
    roots: Mapping[int, bytes]  # by size
    hole: bool  # some roots could not be computed
    told: Sequence[Told]
    reigns: Sequence[Reign]
    origin: str | None
    latest: Sequence[Latest]

    @property
    def keys(self) -> list[VerifierKey]:
        """All that ever were the log's."""
        return [reign.key for reign in self.reigns]

    def of_type(self, type: str) -> list[Told]:
        return [event for event in self.told if event.type == type]

    def signed_at(self, size: int) -> datetime | None:
        """When the checkpoint of `size` was signed, as its event says."""
        return next((moment(event.time) for event in self.of_type(SIGNED) if event.size == size), None)


def log_of(
    told: Sequence[Told], rows: Sequence[Row], found: Findings, *, size: int, since: int, roots: Mapping[int, bytes],
    hole: bool, latest: Sequence[Latest],
) -> Log:  # fmt: skip
    """What the log says of itself; what contradicts itself goes to `found`. `rows`: the checkpoints."""
    keys = checks.succession(
        [event for event in told if event.type in KEY_TYPES and event.place <= size], partial(_first_signers, rows)
    )
    for fault in keys.faults:
        found.fault_of_whole(fault.about, fault.what)
    found.notes.extend(keys.remarks)
    origins = [
        str(event.facts["origin"])
        for event in told
        if event.type == OPENED and event.place <= size and event.facts and "origin" in event.facts
    ]
    return Log(
        size=size, since=since, roots=roots, hole=hole, told=told, reigns=keys.reigns, latest=latest,
        origin=origins[0] if origins else None,
    )  # fmt: skip


def check_checkpoints(log: Log, rows: Sequence[Row], found: Findings) -> dict[int, str]:
    """The notes of all checkpoints that are as they were signed, by size."""
    notes: dict[int, str] = {}
    signed: dict[int, list[Told]] = defaultdict(list)
    for event in log.of_type(SIGNED):
        signed[event.size if event.size is not None else -1].append(event)
    apart: list[int] = []
    for nth, (size, written, plain) in enumerate(rows):
        previous = rows[nth - 1][0] if nth else 0
        if 0 < size < log.since:
            continue
        about, tellers = f"checkpoint of size {size}", signed.pop(size, [])
        try:
            note, head = _read(written, plain)
            _demand_signed(log, note, head, size, previous)
        except ProofRejected as bad:
            found.fault_of_whole(about, bad.what)
            continue
        root = log.roots.get(size)
        if root is not None and root != head.root:
            apart.append(size)
        elif size > log.size:
            found.fault_of_whole(about, f"the tree has {log.size} leaves: the log was cut back")
        elif root is None and not log.hole:
            found.fault_of_whole(about, "there are not as many events as it seals")
        elif root is not None:
            notes[size] = str(note)
        _demand_told(tellers, note, head, previous, found)
    if apart:
        _tell_apart(apart, notes, log, found)
    for events in signed.values():
        for event in events:
            if event.size is None or event.size >= log.since:
                found.fault_of_whole(
                    f"checkpoint of size {event.size}",
                    f"is not there, though {event.about} tells of it: it was removed",
                )
    last = rows[-1][0] if rows else 0
    if last != log.size:
        found.fault_of_whole("tree", f"has {log.size} leaves, its last checkpoint is of size {last}")
    return notes


def check_anchors(
    log: Log,
    rows: Iterable[Row],
    notes: Mapping[int, str],
    roots: Sequence["Certificate"],
    witnesses: Sequence[VerifierKey],
    found: Findings,
) -> list["Held"]:
    """The time stamps and cosignatures that hold, by authorities under `roots` and by `witnesses`."""
    tellers = {event.place: event for event in log.of_type(ANCHORED)}
    held: list[Held] = []
    strangers = 0
    for place, size, kind, evidence, plain, event_seq in rows:
        teller = tellers.pop(place, None)
        about = teller.about if teller else f"anchor at event_seq {event_seq}"
        if teller is None and not (place is not None and 0 < place <= log.since):
            found.fault_of_whole(about, "no checkpoint.anchored event tells of this anchor: it was put in")
            continue
        if not plain:
            found.fault_of_whole(about, "its anchor is not kept as it was: kind as TEXT, evidence as BLOB")
            continue
        differs = _not_as_told(teller, size, kind.decode(errors="replace"), evidence)
        for what in differs:
            found.fault_of_whole(about, what)
        note = notes.get(size)
        if differs or note is None:
            continue
        try:
            held.append(_believed(kind, evidence, note, size, roots, witnesses))
        except AuthorityUnknown:
            strangers += 1
        except ProofRejected as bad:
            found.fault_of_whole(about, bad.what)
    for event in tellers.values():
        found.fault_of_whole(event.about, "tells of an anchor that is not there: it was removed")
    if strangers:
        found.notes.append(
            f"{strangers} {'anchor is' if strangers == 1 else 'anchors are'} by authorities or witnesses that were not "
            "named, and not counted: name them with --tsa-roots and --witness."
        )
    return held


@dataclass(frozen=True, slots=True)
class Held:
    """An anchor that holds."""

    size: int
    by: VerifierKey | None  # the witness; None for a time stamp
    at: datetime


def check_times(log: Log, held: Iterable[Held], found: Findings) -> None:
    """Nothing may be sealed before it was recorded, or signed before what was signed earlier."""
    signed = sorted(((event.size or 0, event) for event in log.of_type(SIGNED)), key=lambda pair: pair[0])
    times = {size: moment(event.time) for size, event in signed}
    before = None
    for _, event in signed:
        at = moment(event.time)
        if at is None:
            found.fault_of_whole(event.about, f"time is {checks.shown(event.time)}")
        elif before and at < before - CLOCK_TOLERANCE:
            found.fault_of_whole(
                event.about, f"was signed at {event.time}, after one of {timestamp(before)}: the clock was moved back"
            )
        before = at or before
    stamps = [(one.size, one.at) for one in held if one.by is None]
    for latest in log.latest:
        if latest.place:
            _demand_in_time(latest, times.get(latest.size), [at for size, at in stamps if size >= latest.size], found)
    for size, at in stamps:
        said = times.get(size)
        if said and said > at + CLOCK_TOLERANCE:
            found.fault_of_whole(
                f"checkpoint of size {size}",
                f"was signed at {timestamp(said)}, as it says, and stamped at {timestamp(at)}: the clock was moved",
            )


def _first_signers(rows: Sequence[Row], place: int, keys: Sequence[VerifierKey]) -> set[VerifierKey]:
    """Those of `keys` that signed the first checkpoint that seals the event at `place`."""
    nth = bisect_left(rows, place, key=lambda row: row[0])
    try:
        note, head = _read(*rows[nth][1:])
        return set(verified(note, keys)) if head.size == rows[nth][0] else set()
    except (IndexError, ProofRejected):
        return set()


def _read(written: bytes, plain: bool) -> tuple[Note, Checkpoint]:
    """Raises ProofRejected unless the note can be read, in one way."""
    if not plain:
        raise ProofRejected("its note is not kept as TEXT")
    try:
        note = parse_note(written.decode())
    except UnicodeDecodeError:
        raise ProofRejected("its note is not UTF-8") from None
    head = parse_checkpoint(note.text)
    if str(note).encode() != written or head.text != note.text:
        raise ProofRejected("its note says more than origin, size, root and signatures")
    return note, head


def _demand_signed(log: Log, note: Note, head: Checkpoint, size: int, previous: int) -> None:
    if head.size != size:
        raise ProofRejected(f"its note is of size {head.size}")
    if log.origin is not None and head.origin != log.origin:
        raise ProofRejected(f"its note is of the log {head.origin}, this one is {log.origin}")
    needed = checks.signers(log.reigns, previous, size)
    if not needed:
        raise ProofRejected("the log had no key on record when it was signed")
    by = verified(note, needed)
    if lacking := [key.shown for key in needed if key not in by]:
        raise ProofRejected(f"it is not signed by {', '.join(lacking)}, the log's key at that size")
    known = {(key.name, key.key_id) for key in needed}
    if surplus := [one.name for one in note.signatures if (one.name, one.key_id) not in known]:
        raise ProofRejected(f"it has a signature that is not the log's, by {', '.join(surplus)}")
    if any(key.name != head.origin for key in needed):
        raise ProofRejected(f"its note is of the log {head.origin}, the key is of {needed[0].name}")


def _demand_told(tellers: Sequence[Told], note: Note, head: Checkpoint, previous: int, found: Findings) -> None:
    if not tellers:
        found.fault_of_whole(
            f"checkpoint of size {head.size}",
            "no checkpoint.signed event tells of it: it was put in, or that event was removed",
        )
    for surplus in tellers[1:]:
        found.fault_of_whole(surplus.about, f"is a second one about the checkpoint of size {head.size}")
    expected = {
        "size": head.size,
        "root": base64.b64encode(head.root).decode(),
        "previous": previous,
        "keys": [f"{one.name}+{one.key_id.hex()}" for one in note.signatures],
        "digest": digest_of(str(note).encode()),
    }
    for teller in tellers[:1]:
        if teller.place <= head.size:
            found.fault_of_whole(teller.about, "was recorded before what it says was sealed")
        for name, value in expected.items():
            if teller.facts is not None and teller.facts.get(name) != value:
                found.fault_of_whole(
                    f"checkpoint of size {head.size}",
                    f"its {name} is {checks.shown(value)}, {teller.about} says {checks.shown(teller.facts.get(name))}",
                )


def _tell_apart(apart: Sequence[int], notes: Mapping[int, str], log: Log, found: Findings) -> None:
    good = max([size for size in notes if size < apart[0]], default=log.since)
    further = f" Nor is that of later ones ({len(apart) - 1})." if len(apart) > 1 else ""
    found.fault_of_whole(
        f"checkpoint of size {apart[0]}",
        f"its root is not that of the tree: among leaves {good} to {apart[0] - 1} something was changed, removed, "
        f"put in or moved.{further}",
    )


def _not_as_told(teller: Told | None, size: int, kind: str, evidence: bytes) -> list[str]:
    if teller is None or teller.facts is None:
        return []
    row = {"size": size, "kind": kind, "digest": digest_of(evidence)}
    return [
        f"its anchor's {'evidence' if name == 'digest' else name} is {checks.shown(value)}, the event says "
        f"{checks.shown(teller.facts.get(name))}"
        for name, value in row.items()
        if teller.facts.get(name) != value
    ]


def _believed(
    kind: bytes,
    evidence: bytes,
    note: str,
    size: int,
    roots: Sequence["Certificate"],
    witnesses: Sequence[VerifierKey],
) -> Held:
    from audit.ledger.timestamps import check_timestamp
    from audit.ledger.witnesses import check_cosignature

    if kind == b"timestamp":
        return Held(size, None, check_timestamp(evidence, note, roots))
    if kind == b"cosignature":
        by, at = check_cosignature(evidence, note, witnesses)
        return Held(size, by, at)
    raise ProofRejected(f"its anchor is of the kind {checks.shown(kind.decode(errors='replace'))}, which is none")


def _demand_in_time(latest: Latest, signed: datetime | None, stamped: Sequence[datetime], found: Findings) -> None:
    about = f"event at leaf {latest.place - 1}"
    recorded = moment(latest.recorded_at)
    if recorded is None:
        found.fault_of_whole(about, f"recorded_at is {checks.shown(latest.recorded_at)}")
        return
    for at, by in ((signed, "was signed"), (min(stamped, default=None), "was stamped by an authority")):
        if at and recorded > at + CLOCK_TOLERANCE:
            found.fault_of_whole(
                about,
                f"recorded_at is {latest.recorded_at}, a checkpoint that seals it {by} at {timestamp(at)}: "
                "the clock was moved",
            )
