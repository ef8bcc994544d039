"""The spool: a second SQLite file that takes events while the store is away.

Same tables and the same append, but no triggers: what has reached the store is deleted here, and
`secure_delete` overwrites it. Salt and payload travel as they were made, so a replay changes nothing.
"""

import os
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

from sqlalchemy import text

from audit.events.event import Event
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore, plain_engine

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
        append(store, [event for _, event in batch])
        _forget(spool(path), [seq for seq, _ in batch])
        moved += len(batch)
    return moved


@lru_cache(maxsize=4)
def _opened(path: Path, _process: int) -> AuditStore:
    from audit.store.tables import EVENT, PAYLOAD

    made = AuditStore(f"sqlite:///{path}", plain_engine(path))
    with made.writing() as connection:
        for table in (EVENT, PAYLOAD):
            table.create(connection, checkfirst=True)
    return made


def _oldest(waiting: AuditStore) -> list[tuple[int, Event]]:
    names = [f.name for f in fields(Event)]
    columns = ", ".join(f"p.{name}" if name in ("salt", "body") else f"e.{name}" for name in names)
    with waiting.reading() as connection:
        rows = connection.execute(
            text(
                f"SELECT e.seq, {columns} FROM event e JOIN payload p ON p.event_seq = e.seq ORDER BY e.seq LIMIT :most"
            ),
            {"most": BATCH},
        ).all()
    return [(row[0], Event(**dict(zip(names, row[1:], strict=True)))) for row in rows]


def _forget(waiting: AuditStore, seqs: list[int]) -> None:
    with waiting.writing() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
        for table, key in (("payload", "event_seq"), ("event", "seq")):
            connection.execute(text(f"DELETE FROM {table} WHERE {key} <= :last"), {"last": seqs[-1]})
