"""The spool: a second SQLite file that takes events while the store is away.

Same tables and the same append, but no triggers: what has reached the store is deleted here, and
`secure_delete` overwrites it. Salt and payload travel as they were made, so a replay changes nothing.
"""

import os
from collections.abc import Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import orjson
from sqlalchemy import text

from audit.events.event import Event
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore, opened

BATCH = 500


def spool(path: Path) -> AuditStore:
    """The spool at `path`, made if need be. Raises StoreUnavailable from its first use if that fails."""
    return _opened(path, os.getpid())


def waiting(path: Path) -> int:
    """How many events wait in the spool; 0 where there is none."""
    return read.waiting(spool(path)) if path.exists() else 0


def replay(path: Path, store: AuditStore) -> int:
    """Move every waiting event into `store`; returns how many. Nothing is deleted before the store has it.

    Raises StoreUnavailable, in which case the rest stays in the spool.
    """
    moved = 0
    if not path.exists():
        return moved
    while batch := _oldest(spool(path)):
        append(store, batch)
        _forget(spool(path), batch)
        moved += len(batch)
    return moved


@lru_cache(maxsize=4)
def _opened(path: Path, _process: int) -> AuditStore:
    from audit.store.tables import EVENT, PAYLOAD

    made = opened(path)
    with made.writing() as connection:
        for table in (EVENT, PAYLOAD):
            table.create(connection, checkfirst=True)
    return made


def _oldest(waiting: AuditStore) -> list[Event]:
    names = [f.name for f in fields(Event)]
    columns = ", ".join(f"p.{name}" if name in ("salt", "body") else f"e.{name}" for name in names)
    found = f"SELECT {columns} FROM event e JOIN payload p ON p.event_seq = e.seq ORDER BY e.seq LIMIT :most"
    with waiting.reading() as connection:
        rows = connection.execute(text(found), {"most": BATCH}).all()
    return [Event(**row._mapping) for row in rows]


def _forget(waiting: AuditStore, moved: Sequence[Event]) -> None:
    """By id: another process may have replayed too, and its rows' numbers be taken by newer events."""
    ids = {"ids": orjson.dumps([event.id for event in moved]).decode()}
    these = "SELECT seq FROM event WHERE id IN (SELECT value FROM json_each(:ids))"
    with waiting.writing() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
        connection.execute(text(f"DELETE FROM payload WHERE event_seq IN ({these})"), ids)
        connection.execute(text(f"DELETE FROM event WHERE seq IN ({these})"), ids)
