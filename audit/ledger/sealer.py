"""Sealing: events without a leaf get the next leaf indexes, and a checkpoint fixes the tree's new head.

All of it is one short transaction under the store's write lock: writers never wait for each other's sealing, indexes
have no gaps, of two sealers the second finds nothing to do, and one that dies in the middle leaves nothing behind.
Before anything is signed, the tree is held against the last checkpoint, the one in the store and the one that this
machine kept beside its key.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from audit.errors import InconsistentTree, KeyUnavailable, ProofRejected
from audit.events.canonical import digest_of
from audit.events.event import Event, make_event
from audit.events.payloads import CheckpointFacts
from audit.keyfile import write_durably
from audit.ledger import tree
from audit.ledger.keys import current_key
from audit.ledger.note import Checkpoint, SigningKey, VerifierKey, parse_checkpoint, parse_note, signed, verified
from audit.store import ledger
from audit.store.append import insert_event
from audit.store.engine import AuditStore

SOURCE = "prefect-audit/sealer"
BATCH = 10_000  # events a checkpoint at most: others wait for the lock meanwhile
KEPT = "checkpoint"  # beside the key: the last one that this machine signed


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one sealing did."""

    size: int  # leaves now
    events: int  # that were sealed
    note: str
    event: Event  # checkpoint.signed, which the next sealing seals


def seal(
    store: AuditStore,
    key: SigningKey,
    *,
    actor: str,
    kept: Path | None = None,
    takes_over_from: SigningKey | None = None,
) -> Sealed | None:
    """Seal the oldest unsealed events, at most BATCH; None if there are none but those that sealing made itself.

    `kept` is the file of the last checkpoint that this machine signed. Raises InconsistentTree if the store does not
    continue what was signed, KeyUnavailable if `key` is not the log's, StoreUnavailable.
    """
    with store.writing() as connection:
        found = ledger.unsealed(connection, BATCH)
        if all(type.startswith("checkpoint.") for _, type, _ in found):
            return None
        _demand_current(connection, key)
        read = reader(connection)
        size = ledger.size(connection)
        previous = _continued(connection, size, read, kept)
        leaves = [tree.leaf_hash(envelope) for _, _, envelope in found]
        nodes = tree.appended(size, leaves, read)
        ledger.add_leaves(connection, size, leaves)
        ledger.add_nodes(connection, [(*node, hash) for node, hash in nodes])
        size += len(leaves)
        signers = [key] if takes_over_from is None else [key, takes_over_from]
        head = Checkpoint(key.name, size, tree.root(size, read))
        note = str(signed(head.text, signers))
        ledger.add_checkpoint(connection, size, note)
        event = _told(head, note, signers, previous, actor)
        insert_event(connection, event)
    if kept is not None:
        write_durably(kept, note.encode(), mode=0o644)
    return Sealed(size, len(found), note, event)


def reader(connection: Connection) -> tree.Read:
    """Reads nodes of the stored tree."""
    return tree.through_tiles(partial(ledger.hashes, connection))


def _demand_current(connection: Connection, key: SigningKey) -> None:
    recorded = current_key(ledger.key_events(connection))
    if recorded != key.verifier:
        raise KeyUnavailable(
            f"The log's key on record is {recorded.shown if recorded else 'none'}, this process holds "
            f"{key.verifier.shown}.",
            hint="Bring the right one back, or see `audit log-key`.",
        )


def _continued(connection: Connection, size: int, read: tree.Read, kept: Path | None) -> int:
    """Size of the last checkpoint, which the tree must continue."""
    last = ledger.last_checkpoint(connection)
    if (last[0] if last else 0) != size:
        raise InconsistentTree(
            f"The tree has {size} leaves, its last checkpoint {last[0] if last else 0}.", hint="Run `audit verify`."
        )
    if last:
        _demand_same_root(last[1], size, read, "the last checkpoint", _keys_on_record(connection))
    if kept is not None and kept.exists():
        _demand_same_root(kept.read_text(), size, read, str(kept), None)
    return size


def _demand_same_root(written: str, size: int, read: tree.Read, what: str, keys: Sequence[VerifierKey] | None) -> None:
    try:
        note = parse_note(written)
        head = parse_checkpoint(note.text)
        if keys is not None and not verified(note, keys):
            raise ProofRejected("no key of this log has signed it.")
    except ProofRejected as bad:
        raise InconsistentTree(f"{what} cannot be believed: {bad.what}", hint="Run `audit verify`.") from None
    if head.size > size:
        raise InconsistentTree(
            f"The store has {size} sealed events, but a checkpoint of size {head.size} was signed here ({what}): "
            "this is an older copy.",
            hint="Bring the newer one back. A log that was cut cannot be continued under its name.",
        )
    if tree.root(head.size, read) != head.root:
        raise InconsistentTree(
            f"The tree does not continue the checkpoint of size {head.size} ({what}): sealed events were changed.",
            hint="Nothing is signed. Keep the store as it is and run `audit verify`.",
        )


def _keys_on_record(connection: Connection) -> list[VerifierKey]:
    told = ledger.key_events(connection)
    return [key for nth in range(len(told)) if (key := current_key(told[: nth + 1]))]


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
