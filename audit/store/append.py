"""Appending events. The first committed envelope of an id wins; a payload goes in only with its own envelope.

Written by the driver's own cursor, for every task run waits for this twice. The threads of a process go through one
connection, each commit for all who wait; what was appended is on disk when `append` returns.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from audit.errors import StoreRefused, StoreUnavailable
from audit.events.event import Event
from audit.store.engine import AuditStore
from audit.store.turns import Place, Waiter

TRIES = 8  # of a transaction that PostgreSQL ended for another's sake, or whose connection it had closed
LOST = ("08", "57P")  # sqlstate of a connection that ended, of a server that was shut down
AGAIN = 0x616761696E  # "again": the advisory lock of who lost a deadlock
ENDED = ("40P01", "40001")  # deadlock_detected, serialization_failure

_COLUMNS = tuple(f.name for f in fields(Event) if f.name not in ("salt", "body"))
_row = attrgetter(*_COLUMNS)
_NAMES = ", ".join(_COLUMNS)
_TYPES = {"schema_version": "bigint", "salt": "bytea"}

_EVENT = f"INSERT INTO event ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (id) DO NOTHING"
_PAYLOAD = "INSERT INTO payload (event_seq, salt, body) VALUES (?, ?, ?)"
# One statement, so that a single append is one exchange with the server; %b, for in text each quote of an envelope is
# escaped, which takes the server longer than all the rest.
_BATCH = f"""WITH given AS (
    SELECT * FROM unnest({", ".join(f"%b::{_TYPES.get(name, 'text')}[]" for name in (*_COLUMNS, "salt", "body"))})
      WITH ORDINALITY AS given ({_NAMES}, salt, body, nth)),
  added AS (INSERT INTO event ({_NAMES}) SELECT {_NAMES} FROM given ORDER BY nth
    ON CONFLICT (id) DO NOTHING RETURNING seq, id),
  kept AS (INSERT INTO payload (event_seq, salt, body)
    SELECT added.seq, given.salt, given.body FROM added JOIN given USING (id))
  SELECT id, seq FROM added"""

Cursor = Any  # of either driver


def append(store: AuditStore, events: Sequence[Event]) -> int:
    """Put `events` into the store in one transaction; returns how many were new.

    Raises StoreUnavailable, in which case none of them is in; StoreRefused if it is one of them that it does not take.
    """
    return store.line.put(events, partial(_serve, store)) if events else 0


def append_decided(store: AuditStore, decide: Callable[[Connection], Sequence[Event]]) -> Sequence[Event]:
    """Append the events that `decide` makes of what it reads under the write lock; returns them.

    Two processes that decide at once decide one after the other: the second reads what the first wrote.
    Raises StoreUnavailable.
    """
    with store.deciding() as connection:
        if events := decide(connection):
            _insert(connection.dialect.name)(connection.connection.cursor(), events)
    return events


def insert_event(connection: Connection, event: Event) -> int | None:
    """Put one event in under the caller's write lock: its seq, or None if its id is on record already."""
    return _insert(connection.dialect.name)(connection.connection.cursor(), [event]).get(event.id)


def _serve(store: AuditStore, group: Sequence[Waiter]) -> None:
    """Commit what a group of threads handed in. What is refused fails alone; what else fails is the same for all."""
    try:
        added = _committed(store, [event for waiter in group for event in waiter.events])
    except StoreRefused as refused:
        if len(group) == 1:
            group[0].failed = refused
        else:
            for waiter in group:
                _serve(store, [waiter])
    except StoreUnavailable as failed:
        for waiter in group:
            waiter.failed = type(failed)(failed.what, hint=failed.hint)
    else:
        for waiter in group:
            waiter.added = sum(added.pop(event.id, None) is not None for event in waiter.events)


def _committed(store: AuditStore, events: Sequence[Event]) -> dict[str, int]:
    """The seq of every event that is new, once it is on disk.

    Where PostgreSQL ended a transaction for another's sake, or had closed the connection, it is tried again: by their
    ids nothing goes in twice, even if the end of the first try was not seen.
    """
    beaten = False
    with store.naming():
        for tries_left in reversed(range(TRIES)):
            pen = _pen(store)
            try:
                return _written(store, pen, events, beaten)
            except store.engine.dialect.loaded_dbapi.Error as failed:
                if not (tries_left and _passes(failed, pen)):
                    raise
                beaten = getattr(failed, "sqlstate", None) in ENDED
    raise AssertionError("the last try returns or raises")


@dataclass(slots=True)
class _Pen:
    """The connection that a process's threads append through, one at a time."""

    connection: Any
    cursor: Cursor
    file: tuple[int, int] | None  # device and inode of the file that it writes
    place: Place
    used: bool = False


def _pen(store: AuditStore) -> _Pen:
    """The one that is kept, or a new one: also where the file is another by now, so that nothing is written into one
    that was moved away."""
    kept: _Pen | None = store.line.connection
    file = _identity(store.path)
    if kept and kept.file == file:
        return kept
    _put_down(store)
    taken = store.engine.raw_connection()
    connection: Any = taken.driver_connection
    taken.detach()
    if store.is_postgres:
        connection.autocommit = True
    store.line.connection = pen = _Pen(connection, connection.cursor(), file, Place(store.path))
    return pen


def _put_down(store: AuditStore) -> None:
    kept, store.line.connection = store.line.connection, None
    if kept:
        with suppress(store.engine.dialect.loaded_dbapi.Error):  # what failed may fail at this too
            kept.connection.rollback()  # SQLite would keep the file locked for as long as a cursor lives
            kept.cursor.close()
        kept.connection.close()
        kept.place.close()


def _identity(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    found = path.stat()
    return found.st_dev, found.st_ino


def _written(store: AuditStore, pen: _Pen, events: Sequence[Event], beaten: bool) -> dict[str, int]:
    """In one transaction; if it fails, the connection goes with it."""
    try:
        if beaten:
            with pen.connection.transaction():
                pen.cursor.execute("SELECT pg_advisory_xact_lock(%s)", (AGAIN,))  # who meet at once deadlock again
                added = _into_postgres(pen.cursor, events)
        elif store.is_postgres:
            added = _into_postgres(pen.cursor, events)
        else:
            with store.turn(pen.place):
                pen.cursor.execute("BEGIN IMMEDIATE")
                added = _into_sqlite(pen.cursor, events)
                pen.cursor.execute("COMMIT")
    except BaseException:
        _put_down(store)
        raise
    pen.used = True
    return added


def _passes(failed: Exception, pen: _Pen) -> bool:
    """Whether the same may go well at once: another's transaction came first, or the connection was an old one."""
    state = getattr(failed, "sqlstate", None)
    if isinstance(failed, sqlite3.Error):
        return False
    return state in ENDED or (pen.used and (state is None or state.startswith(LOST)))


def _insert(dialect: str) -> Callable[[Cursor, Sequence[Event]], dict[str, int]]:
    return _into_postgres if dialect == "postgresql" else _into_sqlite


def _into_sqlite(cursor: Cursor, events: Sequence[Event]) -> dict[str, int]:
    added: dict[str, int] = {}
    execute = cursor.execute
    for event in events:
        execute(_EVENT, _row(event))
        if cursor.rowcount == 1:
            added[event.id] = seq = cursor.lastrowid
            execute(_PAYLOAD, (seq, event.salt, event.body))
    if len(added) < len(events):
        _demand_on_record(cursor, "SELECT 1 FROM event WHERE id = ?", events, added)
    return added


def _into_postgres(cursor: Cursor, events: Sequence[Event]) -> dict[str, int]:
    first = {event.id: event for event in reversed(events)}  # of two with one id the first
    rows = [(*_row(event), event.salt, event.body) for event in reversed(first.values())]
    added = dict(cursor.execute(_BATCH, [list(column) for column in zip(*rows, strict=True)]).fetchall())
    if len(added) < len(events):
        _demand_on_record(cursor, "SELECT 1 FROM event WHERE id = %s", events, added)
    return added


def _demand_on_record(cursor: Cursor, query: str, events: Sequence[Event], added: Mapping[str, int]) -> None:
    """What was not added was there before; else somebody's trigger drops what is written, in silence."""
    for event in events:
        if event.id not in added and cursor.execute(query, (event.id,)).fetchone() is None:
            raise StoreUnavailable(f"The store takes no {event.type} and does not say why.", hint="See `audit status`.")
