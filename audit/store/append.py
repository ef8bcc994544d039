"""Appending events. The first committed envelope of an id wins; a payload goes in only with its own envelope."""

from collections.abc import Callable, Sequence
from dataclasses import fields

from sqlalchemy import Connection, insert

from audit.events.event import Event
from audit.store.engine import AuditStore

_COLUMNS = tuple(f.name for f in fields(Event) if f.name not in ("salt", "body"))


def append(store: AuditStore, events: Sequence[Event]) -> int:
    """Put `events` into the store in one transaction; returns how many were new.

    Raises StoreUnavailable, in which case none of them is in.
    """
    with store.writing() as connection:
        return sum(_insert(connection, event) for event in events)


def append_numbered(
    store: AuditStore, number: Callable[[Connection], int], make: Callable[[int], Event]
) -> tuple[int, Event]:
    """Append the event made for the number that `number` reads under the write lock; returns both.

    Two processes that number the same thing get different numbers: the second reads after the first wrote.
    Raises StoreUnavailable.
    """
    with store.writing() as connection:
        drawn = number(connection)
        event = make(drawn)
        _insert(connection, event)
        return drawn, event


def _insert(connection: Connection, event: Event) -> bool:
    from audit.store.tables import EVENT, PAYLOAD

    seq = connection.execute(
        insert(EVENT).returning(EVENT.c.seq),
        {name: getattr(event, name) for name in _COLUMNS},
    ).scalar()
    if seq is None:  # the guard skipped it: this id is on record already
        return False
    connection.execute(insert(PAYLOAD), {"event_seq": seq, "salt": event.salt, "body": event.body})
    return True
