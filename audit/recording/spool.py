"""The spool: a second SQLite file that takes events while the store is away.

Same columns and the same append, but no triggers: what has reached the store is deleted here, and
`secure_delete` overwrites it. Salt and payload travel as they were made, so a replay changes nothing.

A file that is damaged or somebody else's is left as it is, for it may still hold events: the next one in line
(spool-2.db, spool-3.db …) is used in its place. An event that the store refuses stays here with the reason, and those
behind it go home.
"""

import os
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import orjson
from sqlalchemy import text

from audit.errors import StoreDamaged, StoreRefused, StoreUnavailable
from audit.events.canonical import timestamp
from audit.events.event import NULLABLE_KEYS, Event
from audit.store.append import append
from audit.store.engine import AuditStore, opened

BATCH = 500
MOST_FILES = 9
OURS = {"event", "payload", "refused"}
LOOK_HINT = "Keep what is there, it may hold events: `audit spool` says what to do."

_OF_PAYLOAD = ("salt", "body")
_EVENT_COLUMNS = ", ".join(
    f"{f.name} {'INTEGER' if f.type is int else 'TEXT'}"
    f"{' UNIQUE' if f.name == 'id' else ''}{'' if f.name in NULLABLE_KEYS else ' NOT NULL'}"
    for f in fields(Event)
    if f.name not in _OF_PAYLOAD
)
_TABLES = (
    f"CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY, {_EVENT_COLUMNS})",
    "CREATE TABLE IF NOT EXISTS payload (event_seq INTEGER PRIMARY KEY, salt BLOB NOT NULL, body TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS refused (id TEXT PRIMARY KEY, reason TEXT NOT NULL, at TEXT NOT NULL)",
)
_COLUMNS = ", ".join(f"p.{f.name}" if f.name in _OF_PAYLOAD else f"e.{f.name}" for f in fields(Event))
_OLDEST = f"""SELECT {_COLUMNS} FROM event e LEFT JOIN payload p ON p.event_seq = e.seq
  WHERE e.id NOT IN (SELECT value FROM json_each(:kept)) ORDER BY e.seq LIMIT :most"""
_WHY = """SELECT json_extract(p.body, '$.reason') FROM event e JOIN payload p ON p.event_seq = e.seq
  WHERE e.type = 'store.spooled' ORDER BY e.seq DESC LIMIT 1"""
_REFUSED = "SELECT r.id, e.type, r.reason, r.at FROM refused r JOIN event e ON e.id = r.id ORDER BY e.seq"


@dataclass(slots=True)
class Replayed:
    """What came of a replay."""

    moved: int = 0  # events that the store did not have yet
    refused: list[tuple[Event, str]] = field(default_factory=list)  # which it does not take, and what it said
    unusable: list[StoreUnavailable] = field(default_factory=list)  # files that could not be read or emptied


class Refused(NamedTuple):
    """An event that the store does not take."""

    id: str
    type: str
    reason: str
    at: str  # when it was refused


def spool(path: Path) -> AuditStore:
    """The spool file at `path`, made if need be.

    Raises StoreUnavailable; StoreDamaged for one that is no database of ours, which is not touched.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # payloads wait there; what SQLite puts beside it is made likewise
        found = path.stat()
    except OSError as failed:
        raise StoreUnavailable(f"{path} cannot be used ({failed.strerror}).", hint=LOOK_HINT) from failed
    return _opened(path, os.getpid(), (found.st_dev, found.st_ino))


def put(path: Path, events: Sequence[Event]) -> AuditStore:
    """Let `events` wait in the first file that is not damaged; returns that one. Raises StoreUnavailable."""
    for file in _places(path):
        try:
            append(into := spool(file), events)
        except StoreDamaged:
            continue
        return into
    raise StoreUnavailable(f"{path} and all that could take its place are damaged.", hint=LOOK_HINT)


def put_refused(path: Path, event: Event, reason: str) -> None:
    """Keep an event that the store refuses, with what it said. Raises StoreUnavailable."""
    _mark(put(path, [event]), event, reason)


def files(path: Path) -> list[Path]:
    """The files that there are of the spool at `path`, the oldest first."""
    return [file for file in _places(path) if file.exists()]


def waiting(path: Path) -> int:
    """How many events wait, those that the store refused among them. A damaged file counts as empty.

    Raises StoreUnavailable for one that cannot be read.
    """
    return sum(found.count for found in contents(path))


def replay(path: Path, store: AuditStore, *, refused_too: bool = False) -> Replayed:
    """Move every event that waits into `store`. Nothing is deleted before the store has it.

    What the store refused before is offered again only if `refused_too`. Raises StoreUnavailable if the store fails, in
    which case the rest stays; a file that fails by itself keeps none of the others.
    """
    replayed = Replayed()
    for file in files(path):
        try:
            _empty(spool(file), store, replayed, refused_too=refused_too)
        except _StoreFailed as gone:
            raise gone.why from gone
        except StoreUnavailable as failed:
            if file.stat().st_size:  # an empty one was made on a disk that is full since
                replayed.unusable.append(failed)
    return replayed


@dataclass(frozen=True, slots=True)
class Contents:
    """What one file of the spool holds."""

    file: Path
    count: int
    oldest: str | None = None  # when it was recorded
    types: dict[str, int] = field(default_factory=dict)
    why: str | None = None  # the store was last away
    refused: list[Refused] = field(default_factory=list)
    damaged: str | None = None  # what is wrong with the file, which may hold more


def contents(path: Path) -> list[Contents]:
    """What waits, file by file; nothing is made or changed. Raises StoreUnavailable for one that cannot be read."""
    return [_contents(file) for file in files(path)]


def _contents(file: Path) -> Contents:
    try:
        if not (tables := _tables(file)):
            return Contents(file, 0)
        with opened(file).reading() as connection:
            rows = connection.execute(text("SELECT type, count(*) FROM event GROUP BY type ORDER BY type"))
            types = {row.type: int(row[1]) for row in rows}
            oldest = connection.execute(text("SELECT min(recorded_at) FROM event")).scalar()
            why = connection.execute(text(_WHY)).scalar()
            refused = [Refused(*row) for row in connection.execute(text(_REFUSED))] if "refused" in tables else []
    except StoreDamaged as damaged:
        return Contents(file, 0, damaged=damaged.what)
    return Contents(file, sum(types.values()), oldest, types, why, refused)


class _StoreFailed(Exception):
    """It is the store, not the spool, that cannot be used."""

    def __init__(self, why: StoreUnavailable) -> None:
        super().__init__(why.what)
        self.why = why


def _places(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, MOST_FILES + 1):
        yield path.with_stem(f"{path.stem}-{number}")


@lru_cache(maxsize=8)
def _opened(path: Path, _process: int, _file: tuple[int, int]) -> AuditStore:
    tables, made = _tables(path), opened(path)
    if not tables >= OURS:
        with made.writing() as connection:
            for table in _TABLES:
                connection.execute(text(table))
    return made


def _tables(path: Path) -> set[str]:
    """Of the file, none of a new one. Looked for without our settings, which would change another's file for good.

    Raises StoreDamaged for one that is not ours.
    """
    with opened(path).naming(), closing(sqlite3.connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not ({"event", "payload"} <= tables and "alembic_version" not in tables):  # which a store has
        raise StoreDamaged(f"{path} is a database of another application.", hint=LOOK_HINT)
    return tables


def _empty(waiting: AuditStore, store: AuditStore, replayed: Replayed, *, refused_too: bool) -> None:
    kept = set() if refused_too else _refused_before(waiting)
    while batch := _oldest(waiting, kept):
        turned_away: list[tuple[Event, str]] = []
        try:
            replayed.moved += _offer(store, batch, turned_away)
        except StoreUnavailable as gone:
            raise _StoreFailed(gone) from gone
        for event, reason in turned_away:
            _mark(waiting, event, reason)
            kept.add(event.id)
        _forget(waiting, [event for event in batch if event.id not in kept])
        replayed.refused += turned_away


def _refused_before(waiting: AuditStore) -> set[str]:
    with waiting.reading() as connection:
        return set(connection.execute(text("SELECT id FROM refused")).scalars())


def _offer(store: AuditStore, events: Sequence[Event], turned_away: list[tuple[Event, str]]) -> int:
    """Append `events` in their order, save those that the store refuses; returns how many were new."""
    try:
        return append(store, events)
    except StoreRefused as refused:
        if len(events) == 1:
            turned_away.append((events[0], refused.what))
            return 0
    half = len(events) // 2
    return _offer(store, events[:half], turned_away) + _offer(store, events[half:], turned_away)


def _oldest(waiting: AuditStore, kept: Collection[str]) -> list[Event]:
    with waiting.reading() as connection:
        rows = connection.execute(text(_OLDEST), {"most": BATCH, "kept": orjson.dumps(list(kept)).decode()}).all()
    return [Event(**row._mapping) for row in rows]


def _mark(waiting: AuditStore, event: Event, reason: str) -> None:
    with waiting.writing() as connection:
        connection.execute(
            text("INSERT OR IGNORE INTO refused (id, reason, at) VALUES (:id, :reason, :at)"),
            {"id": event.id, "reason": reason, "at": timestamp(datetime.now(UTC))},
        )


def _forget(waiting: AuditStore, moved: Sequence[Event]) -> None:
    """By id: another process may have replayed too, and its rows' numbers be taken by newer events."""
    ids = {"ids": orjson.dumps([event.id for event in moved]).decode()}
    these = "SELECT seq FROM event WHERE id IN (SELECT value FROM json_each(:ids))"
    with waiting.writing() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
        connection.execute(text(f"DELETE FROM payload WHERE event_seq IN ({these})"), ids)
        connection.execute(text("DELETE FROM refused WHERE id IN (SELECT value FROM json_each(:ids))"), ids)
        connection.execute(text(f"DELETE FROM event WHERE seq IN ({these})"), ids)
    with waiting.naming(), waiting.engine.connect() as connection:  # outside of any transaction
        connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # else the log has it yet
