"""Anchors: what somebody outside says of a checkpoint, so that the owner of database and key cannot rewrite the past.

RFC 3161 time stamps say when a checkpoint existed; cosignatures of witnesses (c2sp.org/tlog-witness, tlog-cosignature)
say that it continues all those that the witness saw before. Neither says that what was recorded was true. Only what
can be checked is kept: each is verified before it is stored, with the event that tells of it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection

from audit.errors import AnchorRefused, AnchorUnavailable, AuditError, InconsistentTree, NotFound, ProofRejected
from audit.events.canonical import digest_of, timestamp
from audit.events.event import Event, make_event
from audit.events.payloads import AnchorFacts
from audit.ledger import tree, witnesses
from audit.ledger.asking import Answer
from audit.ledger.sealer import reader
from audit.ledger.timestamps import Authority, authority, check_timestamp, stamped, timestamp_signer
from audit.ledger.witnesses import Witness, check_cosignature, read_witnesses
from audit.settings import Settings
from audit.store import ledger
from audit.store.append import insert_event
from audit.store.engine import AuditStore

Kind = Literal["timestamp", "cosignature"]

SOURCE = "prefect-audit/anchors"


@dataclass(frozen=True, slots=True)
class Anchored:
    """A checkpoint's anchor by one authority or witness."""

    size: int  # leaves, of the checkpoint
    kind: Kind
    by: str
    at: datetime
    event: Event | None  # checkpoint.anchored; None where it was on record before


@dataclass(frozen=True, slots=True)
class NotAnchored:
    """That one authority or witness does not vouch, or could not be asked."""

    kind: Kind
    by: str  # where it was asked, or the witness's key
    why: AuditError


def targets(where: Settings) -> list[Authority | Witness]:
    """Whom the settings name. Raises UserError if what they name cannot be used."""
    found: list[Authority | Witness] = [authority(where.tsa_url, where.tsa_roots)] if where.tsa_url else []
    return found + (list(read_witnesses(where.witnesses)) if where.witnesses else [])


def anchor(store: AuditStore, target: Authority | Witness, *, actor: str) -> Anchored:
    """Have `target` vouch for the newest checkpoint, unless its word on it is on record; returns that.

    Raises NotFound where nothing is sealed yet, AnchorRefused, ProofRejected if what it answers does not hold,
    InconsistentTree if it has seen another history, AnchorUnavailable, StoreUnavailable.
    """
    with store.reading() as connection:
        newest = _newest(connection)
        if known := _on_record(connection, newest, target):
            return known
    word = _stamped(target, newest) if isinstance(target, Authority) else _cosigned(store, target)
    return _filed(store, target, word, actor)


def anchor_by_each(
    store: AuditStore, targets: Iterable[Authority | Witness], *, actor: str, tell: Callable[[Event], None]
) -> list[Anchored | NotAnchored]:
    """Ask them all: that one of them fails keeps none of the others from being asked. `tell` hears of each new event.

    Raises NotFound where nothing is sealed yet, StoreUnavailable.
    """
    found: list[Anchored | NotAnchored] = []
    for target in targets:
        try:
            done = anchor(store, target, actor=actor)
        except (AnchorRefused, AnchorUnavailable, InconsistentTree, ProofRejected) as why:
            found.append(NotAnchored(target.kind, target.shown, why))
            continue
        if done.event:
            tell(done.event)
        found.append(done)
    return found


class _Head(NamedTuple):
    """A checkpoint on record."""

    size: int
    note: str


class _Word(NamedTuple):
    """What a target said of a checkpoint, verified."""

    of: _Head
    evidence: bytes
    by: str
    at: datetime


def _newest(connection: Connection) -> _Head:
    found = ledger.last_checkpoint(connection)
    if found is None:
        raise NotFound("No checkpoint is on record that could be anchored.", hint="Run `audit seal`.")
    return _Head(*found)


def _on_record(connection: Connection, head: _Head, target: Authority | Witness) -> Anchored | None:
    """What `target` said of this checkpoint, if that is on record and holds."""
    for row in ledger.latest_anchors(connection, target.kind):
        if row.size < head.size:
            break
        try:
            if isinstance(target, Witness):
                _, at = check_cosignature(row.evidence, head.note, [target.key])
                return Anchored(head.size, target.kind, target.shown, at, None)
            if row.asked == target.shown:
                at = check_timestamp(row.evidence, head.note, target.roots)
                return Anchored(head.size, target.kind, timestamp_signer(row.evidence), at, None)
        except ProofRejected:
            continue  # by another witness, or under roots that are no longer believed
    return None


def _filed(store: AuditStore, target: Authority | Witness, word: _Word, actor: str) -> Anchored:
    """Evidence and event go in together. Of two processes that asked at once, the second finds it done."""
    event = make_event(
        "checkpoint.anchored",
        AnchorFacts(
            size=word.of.size,
            kind=target.kind,
            by=word.by,
            at=timestamp(word.at),
            digest=digest_of(word.evidence),
            asked=target.shown if isinstance(target, Authority) else None,
        ),
        source=SOURCE,
        subject=f"checkpoint/{word.of.size}",
        actor=actor,
    )
    with store.deciding() as connection:
        if known := _on_record(connection, word.of, target):
            return known
        seq = insert_event(connection, event)
        assert seq is not None, "a new event has a new id"
        ledger.add_anchor(connection, seq, word.of.size, target.kind, word.evidence)
    return Anchored(word.of.size, target.kind, word.by, word.at, event)


def _stamped(target: Authority, head: _Head) -> _Word:
    response = stamped(target, head.note)
    return _Word(head, response, timestamp_signer(response), check_timestamp(response, head.note, target.roots))


def _cosigned(store: AuditStore, target: Witness) -> _Word:
    """Ask from where we left off with this witness, then once more from where it says that it is."""
    with store.reading() as connection:
        head, old = _newest(connection), _last_seen(connection, target)
    answer = _add_checkpoint(store, target, old, head)
    if answer.status == 409:
        with store.reading() as connection:
            head = _newest(connection)  # another process may have sealed since, and told the witness
        answer = _add_checkpoint(store, target, witnesses.size_said(answer, target), head)
    if answer.status != 200:
        raise witnesses.unwitnessed(answer.status, target, head.size)
    evidence = witnesses.line_by(target.key, answer.body)
    _, at = check_cosignature(evidence, head.note, [target.key])
    return _Word(head, evidence, target.shown, at)


def _last_seen(connection: Connection, target: Witness) -> int:
    """Size of the last checkpoint that this witness cosigned as far as is on record, 0 before the first."""
    for row in ledger.latest_anchors(connection, "cosignature"):
        if witnesses.is_by(target.key, row.evidence):
            return int(row.size)
    return 0


def _add_checkpoint(store: AuditStore, target: Witness, old: int, head: _Head) -> Answer:
    """Raises InconsistentTree if the witness is ahead of us."""
    if old > head.size:
        raise InconsistentTree(
            f"{target.shown} has seen {old} leaves of this log, the store's newest checkpoint has {head.size}: "
            "it was cut back, or another store goes by its name.",
            hint="Keep the store as it is, and bring the newer one back. See `audit verify`.",
        )
    with store.reading() as connection:
        proof = tree.consistency_proof(old, head.size, reader(connection))
    return witnesses.add_checkpoint(target, old, proof, head.note)
