"""Appending events. The first committed envelope of an id wins; a payload goes in only with its own envelope."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, select

from audit.errors import StoreUnavailable
from audit.events.event import Event
from audit.store.engine import AuditStore

_COLUMNS = tuple(f.name for f in fields(Event) if f.name not in ("salt", "body"))


def append(store: AuditStore, events: Sequence[Event]) -> int:
    """Put `events` into the store in one transaction; returns how many were new.

    Raises StoreUnavailable, in which case none of them is in.
    """
    with store.writing() as connection:
        return sum(insert_event(connection, event) is not None for event in events)


def append_decided(store: AuditStore, decide: Callable[[Connection], Sequence[Event]]) -> Sequence[Event]:
    """Append the events that `decide` makes of what it reads under the write lock; returns them.

    Two processes that decide at once decide one after the other: the second reads what the first wrote.
    Raises StoreUnavailable.
    """
    from audit.store import tables  # noqa: F401  # takes a second, for which nobody should have to wait

    with store.deciding() as connection:
        events = decide(connection)
        for event in events:
            insert_event(connection, event)
    return events


def insert_event(connection: Connection, event: Event) -> int | None:
    """Put one event in under the caller's write lock: its seq, or None if its id is on record already."""
    from audit.store.tables import EVENT, PAYLOAD

    columns = {name: getattr(event, name) for name in _COLUMNS}
    first = _insert(connection)(EVENT).on_conflict_do_nothing(index_elements=["id"]).returning(EVENT.c.seq)
    seq = connection.execute(first, columns).scalar()
    if seq is None:
        if connection.execute(select(EVENT.c.seq).where(EVENT.c.id == event.id)).scalar() is None:
            raise StoreUnavailable(f"The store takes no {event.type} and does not say why.", hint="See `audit status`.")
        return None
    connection.execute(PAYLOAD.insert(), {"event_seq": seq, "salt": event.salt, "body": event.body})
    return int(seq)


def _insert(connection: Connection) -> "Callable[..., Any]":
    from sqlalchemy.dialects import postgresql, sqlite

    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
