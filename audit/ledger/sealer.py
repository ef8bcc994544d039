"""Sealing: events without a leaf get the next leaf indexes, and a checkpoint fixes the tree's new head.

All of it is one short transaction under the store's write lock: writers never wait for each other's sealing, indexes
have no gaps, of two sealers the second finds nothing to do, and one that dies in the middle leaves nothing behind.
Before anything is signed, the tree is held against the last checkpoint, the one in the store and the one that this
machine kept beside its key.
"""

import base64
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from audit.errors import InconsistentTree, KeyUnavailable, ProofRejected, StoreBusy
from audit.events.canonical import digest_of
from audit.events.event import Event, make_event
from audit.events.payloads import CheckpointFacts
from audit.keyfile import write_whole
from audit.ledger import tree
from audit.ledger.keys import current_key
from audit.ledger.note import (
    MAX_NOTE,
    Checkpoint,
    SigningKey,
    VerifierKey,
    parse_checkpoint,
    parse_note,
    signed,
    verified,
)
from audit.store import ledger, withdrawing
from audit.store.append import insert_event
from audit.store.engine import AuditStore

SOURCE = "prefect-audit/sealer"
BATCH = 10_000  # events a checkpoint at most: others wait for the lock meanwhile
ALL = sys.maxsize  # a new key's events are the last, and it may sign no checkpoint that does not seal them
KEPT = "checkpoint"  # beside the key: the last one that this machine signed
OWN = "checkpoint."  # types of the events that sealing itself brings about
CLOCK_TOLERANCE = timedelta(seconds=60)  # between two readings of clocks that are set well

DECIDING = ("pipeline.changed", "retention.held", "retention.released")  # types of what says which payloads may go

Announce = Callable[[VerifierKey | None], Sequence[Event]]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """An event that permits payloads to go, and the seqs of the events that they belong to."""

    by: Event
    of: Sequence[int]


Withdraw = Callable[[Connection], Withdrawal | None]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one sealing did."""

    size: int  # leaves now
    events: int  # that were sealed
    note: str
    event: Event  # checkpoint.signed, which the next sealing seals
    announced: Sequence[Event]  # that this sealing put on record itself
    before: str | None  # when the checkpoint before was signed, by the clock of who signed it
    not_kept: str = ""  # why this machine could not keep the checkpoint beside its key

    @property
    def clock_went_back(self) -> timedelta | None:
        """How far this machine's clock is behind the last checkpoint, if it is worth a word."""
        if self.before is None:
            return None
        behind = datetime.fromisoformat(self.before) - datetime.fromisoformat(self.event.time)
        return behind if behind > CLOCK_TOLERANCE else None


def seal(
    store: AuditStore,
    key: SigningKey,
    *,
    actor: str,
    kept: Path | None = None,
    takes_over_from: SigningKey | None = None,
    announce: Announce | None = None,
    withdraw: Withdraw | None = None,
    whole: bool = False,
) -> Sealed | None:
    """Seal the oldest unsealed events, at most BATCH; None if there are none but those that sealing made itself.

    On PostgreSQL events may come in behind sealed ones: those that come late by much are found if `whole` is asked for.

    `kept` is the file of the last checkpoint that this machine signed; the store must continue it even where nothing
    waits. A new key is announced: `announce` is given the key on record and makes the events that `key` becomes the
    log's by, which go in and are sealed in one transaction. One that takes over signs with the one before.

    `withdraw` says by what it reads which payloads go. They go in the transaction in which the event that permits it is
    put on record and sealed: at no time is there the one without the other.

    Raises InconsistentTree if the store does not continue what was signed, KeyUnavailable if `key` is not the log's,
    StoreUnavailable.
    """
    with store.deciding() as connection:
        current = current_key(ledger.key_events(connection))
        before = {seq for seq, _, _ in ledger.unsealed(connection, ALL, whole=True)} if withdraw else set()
        withdrawal = withdraw(connection) if withdraw else None
        announced = [*(announce(current) if announce else ()), *([withdrawal.by] if withdrawal else [])]
        for event in announced:
            insert_event(connection, event)
        found = ledger.unsealed(connection, ALL if announced else BATCH, whole=whole or bool(announced))
        if withdrawal:
            _demand_none_between(found, before)
        if len(found) < BATCH and all(type.startswith(OWN) for _, type, _ in found):
            if kept is not None:
                demand_continued(connection, kept)
            return None
        if not announced:
            _demand_current(takes_over_from or key, current)
        signers = [key] if takes_over_from is None else [key, takes_over_from]
        done = _sealed(connection, found, signers, current, actor, kept, announced)
        if withdrawal:
            withdrawing.withdraw(connection, withdrawal.by.id, withdrawal.of)
        if current != key.verifier:  # now that these signatures are there, it must be
            _demand_current(key, current_key(ledger.key_events(connection)))
    return done if kept is None else _kept(done, kept)


def _demand_none_between(found: Sequence[ledger.Waiting], before: Collection[int]) -> None:
    """On PostgreSQL others append while it is decided what goes. A policy or a hold among that would be sealed before
    the event that did not know of it. Raises StoreBusy."""
    if any(type in DECIDING and seq not in before for seq, type, _ in found):
        raise StoreBusy(
            "A policy or a hold was put on record just now. Nothing more was withdrawn.", hint="Run it again."
        )


def demand_continued(connection: Connection, kept: Path) -> None:
    """Hold the stored tree against the last checkpoint that this machine signed, if it keeps one.

    Raises InconsistentTree if the store does not continue it: it is an older copy, or was changed; KeyUnavailable if
    the file cannot be read. Call it before anything else is read: others seal meanwhile, and keep theirs afterwards.
    """
    if own := _text_of(kept):
        demand_past(connection, own, str(kept))


def demand_past(connection: Connection, written: str, what: str) -> None:
    """Raises InconsistentTree unless the stored tree continues a checkpoint that was kept as `what`."""
    current = current_key(ledger.key_events(connection))
    origin = current.name if current else None
    _demand_same_root(written, ledger.size(connection), reader(connection), origin, what, None)


def reader(connection: Connection) -> tree.Read:
    """Reads nodes of the stored tree."""
    return tree.through_tiles(partial(ledger.hashes, connection))


def _sealed(
    connection: Connection,
    found: Sequence[ledger.Waiting],
    signers: Sequence[SigningKey],
    current: VerifierKey | None,
    actor: str,
    kept: Path | None,
    announced: Sequence[Event],
) -> Sealed:
    read = reader(connection)
    previous = ledger.size(connection)
    _demand_continued(connection, previous, read, signers[0].name, current, kept)
    leaves = tree.leaf_hashes(envelope for _, _, envelope in found)
    nodes = tree.appended(previous, leaves, read)
    ledger.add_leaves(connection, previous, [seq for seq, _, _ in found], leaves)
    ledger.add_nodes(connection, [(*node, hash) for node, hash in nodes])
    size = previous + len(leaves)
    head = Checkpoint(signers[0].name, size, tree.root(size, read))
    note = str(signed(head.text, signers))
    before = ledger.last_signed_at(connection)
    ledger.add_checkpoint(connection, size, note)
    event = _told(head, note, signers, previous, actor)
    insert_event(connection, event)
    return Sealed(size, len(found), note, event, announced, before)


def _kept(done: Sealed, kept: Path) -> Sealed:
    """Only now that it is in the store: one kept before would look like a store that was cut, if we died between.

    A file that is behind or empty does no harm, for the tree continues older checkpoints too: no wait for the disk.
    """
    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(kept, done.note.encode(), 0o644, durably=False)
    except OSError as refused:
        return replace(done, not_kept=f"{kept} cannot be written ({refused.strerror}).")
    return done


def _demand_current(key: SigningKey, recorded: VerifierKey | None) -> None:
    if recorded != key.verifier:
        raise KeyUnavailable(
            f"The log's key on record is {recorded.shown if recorded else 'none'}, this process holds "
            f"{key.verifier.shown}.",
            hint="Bring the right one back, or see `audit log-key`.",
        )


def _demand_continued(
    connection: Connection, size: int, read: tree.Read, origin: str, current: VerifierKey | None, kept: Path | None
) -> None:
    last = ledger.last_checkpoint(connection)
    if (last[0] if last else 0) != size:
        raise InconsistentTree(
            f"The tree has {size} leaves, its last checkpoint {last[0] if last else 0}.",
            hint="Nothing is signed. Keep the store as it is and run `audit verify`.",
        )
    if last:
        _demand_same_root(last[1], size, read, origin, "the last checkpoint", [current] if current else [])
    if kept is not None and (own := _text_of(kept)) and own != (last[1] if last else None):
        _demand_same_root(own, size, read, origin, str(kept), None)


def _text_of(kept: Path) -> str:
    """Empty where none was kept."""
    try:
        with kept.open("rb") as file:
            return file.read(MAX_NOTE + 1).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as refused:
        raise KeyUnavailable(
            f"{kept} cannot be read ({refused.strerror}).", hint="It holds the last checkpoint."
        ) from None


def _demand_same_root(
    written: str, size: int, read: tree.Read, origin: str | None, what: str, keys: Sequence[VerifierKey] | None
) -> None:
    try:
        note = parse_note(written)
        head = parse_checkpoint(note.text)
        if origin and head.origin != origin:
            raise ProofRejected(f"it is one of {head.origin}, this log is {origin}.")
        if keys is not None and not verified(note, keys):
            raise ProofRejected("the log's key has not signed it.")
    except ProofRejected as bad:
        raise InconsistentTree(
            f"{what} cannot be believed: {bad.what}",
            hint="Nothing is signed. Keep the store as it is and run `audit verify`.",
        ) from None
    if head.size > size:
        raise InconsistentTree(
            f"The store has {size} sealed events, but a checkpoint of size {head.size} was signed ({what}): "
            "this is an older copy.",
            hint="Bring the newer one back. A log that was cut cannot be continued under its name.",
        )
    if tree.root(head.size, read) != head.root:
        raise InconsistentTree(
            f"The tree does not continue the checkpoint of size {head.size} ({what}): sealed events were changed.",
            hint="Nothing is signed. Keep the store as it is and run `audit verify`.",
        )


def _told(head: Checkpoint, note: str, signers: Sequence[SigningKey], previous: int, actor: str) -> Event:
    return make_event(
        "checkpoint.signed",
        CheckpointFacts(
            size=head.size,
            root=base64.b64encode(head.root).decode(),
            previous=previous,
            keys=[key.verifier.shown for key in signers],
            digest=digest_of(note.encode()),
        ),
        source=SOURCE,
        subject=f"checkpoint/{head.size}",
        actor=actor,
    )
