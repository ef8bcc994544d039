"""The store's rows as evidence: read from the file as it lies there, which may be anybody's, and never changed.

One snapshot, read-only, each table by a scan of its own: a join or an index could pass over a row. TEXT comes as
bytes, for what is no UTF-8 would otherwise end the reading; where TEXT and BLOB must differ, the query tells which.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from audit.errors import StoreBusy, StoreUnavailable
from audit.events.event import ENVELOPE_KEYS, NULLABLE_KEYS, SCHEMA_VERSION
from audit.store.ddl import GUARDS, LEDGER_GUARDS, VIEWS
from audit.store.engine import BUSY_SECONDS, HEAD

# What SQLite keeps of the migrations' statements, white space apart; a test holds it against a new store.
TABLES = {
    "alembic_version": """( version_num VARCHAR(32) NOT NULL,
        CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num) )""",
    "event": """( seq INTEGER NOT NULL, id TEXT NOT NULL, source TEXT NOT NULL, type TEXT NOT NULL,
        subject TEXT NOT NULL, time TEXT NOT NULL, severity TEXT NOT NULL, actor TEXT NOT NULL, flow_run_id TEXT,
        task_run_id TEXT, deployment TEXT, trace_id TEXT, schema_version INTEGER NOT NULL, recorded_at TEXT NOT NULL,
        payload_hash TEXT NOT NULL, envelope TEXT NOT NULL, PRIMARY KEY (seq), UNIQUE (id) )""",
    "payload": """( event_seq INTEGER NOT NULL, salt BLOB NOT NULL, body TEXT NOT NULL, PRIMARY KEY (event_seq),
        FOREIGN KEY(event_seq) REFERENCES event (seq) )""",
    "withdrawal": """( event_seq INTEGER NOT NULL, by_event_seq INTEGER NOT NULL, PRIMARY KEY (event_seq),
        FOREIGN KEY(event_seq) REFERENCES event (seq), FOREIGN KEY(by_event_seq) REFERENCES event (seq) )""",
    "leaf": """( idx INTEGER NOT NULL, event_seq INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (idx),
        UNIQUE (event_seq), FOREIGN KEY(event_seq) REFERENCES event (seq) )""",
    "node": """( level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL,
        PRIMARY KEY (level, idx) ) WITHOUT ROWID""",
    "checkpoint": "( size INTEGER NOT NULL, note TEXT NOT NULL, PRIMARY KEY (size) )",
    "anchor": """( event_seq INTEGER NOT NULL, size INTEGER NOT NULL, kind TEXT NOT NULL, evidence BLOB NOT NULL,
        PRIMARY KEY (event_seq), FOREIGN KEY(event_seq) REFERENCES event (seq),
        FOREIGN KEY(size) REFERENCES checkpoint (size) )""",
}
INDEXES = (
    "CREATE INDEX event_task_run ON event (task_run_id, time, type) WHERE task_run_id IS NOT NULL",
    "CREATE INDEX event_flow_run ON event (flow_run_id) WHERE flow_run_id IS NOT NULL",
    "CREATE INDEX event_type_time ON event (type, time)",
)
_TABLES = [f"CREATE TABLE {name} {columns}" for name, columns in TABLES.items()]
_DEFINED = {" ".join(statement.split()) for statement in (*_TABLES, *INDEXES, *GUARDS, *LEDGER_GUARDS, *VIEWS)}
_TEXTS = [key for key in ENVELOPE_KEYS if key != "schema_version"]
_AS_ENVELOPE = ", ".join(f"'{key}', {key}" for key in sorted(ENVELOPE_KEYS))
# In SQLite's order of values numbers come before text and bytes; of bytes it makes no JSON.
_SAYS_THE_SAME = " AND ".join(
    (
        f"json_object({_AS_ENVELOPE}) IS envelope COLLATE BINARY",
        f"schema_version IS {SCHEMA_VERSION}",
        *(f"coalesce({key}, '') >= ''" if key in NULLABLE_KEYS else f"{key} >= ''" for key in _TEXTS),
    )
)
_PRAGMAS = ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON", "temp_store = FILE")

LOWEST, LARGEST = -(2**63), 2**63 - 1

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Odd:
    """A table, index, view or trigger that the migrations make otherwise, or that is missing, or is none of theirs."""

    kind: str
    name: str
    how: Literal["changed", "missing", "strange"]


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection on which every query sees the store as it was at one moment.

    Raises StoreUnavailable if there is none, it is no audit store, of another schema, locked or damaged.
    """
    if not path.is_file():
        raise StoreUnavailable(
            f"There is no audit store at {path}.",
            hint="Set AUDIT_HOME to the folder that holds it, or say --store FILE.",
        )
    with named(path), closing(_connect(path)) as connection:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        _demand_ours(connection, path)
        connection.text_factory = bytes
        yield connection


def oddities(connection: sqlite3.Connection) -> list[Odd]:
    """What is defined otherwise than the migrations define it, what is missing and what else there is."""
    found = {
        (kind.decode(), name.decode(errors="replace")): " ".join(sql.decode(errors="replace").split())
        for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    }
    expected = {(statement.split()[1].lower(), statement.split()[2]): statement for statement in _DEFINED}
    odd = [
        Odd(*what, "changed" if what in expected else "strange")
        for what, sql in found.items()
        if expected.get(what) != sql
    ]
    return odd + [Odd(*what, "missing") for what in expected if what not in found]


def readable(connection: sqlite3.Connection) -> bool:
    """Whether each table can be read for what it should be, though it may be defined otherwise: it is a table, and its
    columns are those that were made, by name, type and key."""
    with closing(sqlite3.connect(":memory:")) as made:
        made.text_factory = bytes
        for name, definition in TABLES.items():
            made.execute(f"CREATE TABLE {name} {definition}")
        return all(_columns(connection, name) == _columns(made, name) for name in TABLES)


def _columns(connection: sqlite3.Connection, table: str) -> tuple[list[Row], list[Row]]:
    kind = "SELECT type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?"
    columns = "SELECT cid, name, type, pk, hidden FROM pragma_table_xinfo(?)"
    return connection.execute(kind, (table,)).fetchall(), connection.execute(columns, (table,)).fetchall()


def encoding(connection: sqlite3.Connection) -> str:
    """How the file keeps text. Another encoding than UTF-8 was not our doing."""
    return str(connection.execute("PRAGMA encoding").fetchone()[0].decode())


def damage(connection: sqlite3.Connection) -> list[str]:
    """What SQLite says of pages, keys and indexes that do not fit; empty where all do."""
    said = [
        " ".join(row[0].decode(errors="replace").split()) for row in connection.execute("PRAGMA integrity_check(20)")
    ]
    return [] if said == ["ok"] else said


def last_seq(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(seq), 0) FROM main.event").fetchone()[0])


def tree_size(connection: sqlite3.Connection) -> int:
    """Leaves, if none is missing."""
    (last,) = connection.execute("SELECT coalesce(max(idx), -1) FROM main.leaf").fetchone()
    return min(int(last), LARGEST - 1) + 1


def envelopes(connection: sqlite3.Connection, count: int) -> sqlite3.Cursor:
    """(envelope) of the first `count` events, in the order of seq."""
    return connection.execute("SELECT envelope FROM main.event NOT INDEXED ORDER BY seq LIMIT ?", (count,))


def events(connection: sqlite3.Connection, after: int, *, compared: bool = True) -> sqlite3.Cursor:
    """(seq, envelope, whether the columns are what it says, type, recorded_at, payload_hash), in the order of seq.

    The comparison is SQLite's own JSON against the sealed text, which may differ though they say the same. It raises
    what `is_no_json` knows where a column holds bytes; if not `compared`, nothing is found to be the same.
    """
    return connection.execute(
        f"""SELECT seq, envelope, {_SAYS_THE_SAME if compared else "0"}, type, recorded_at, payload_hash
              FROM main.event NOT INDEXED WHERE seq >= ? ORDER BY seq""",
        (_from(after + 1, 1),),
    )


def is_no_json(error: sqlite3.OperationalError) -> bool:
    """Whether SQLite could not make JSON of a column."""
    return "BLOB" in str(error)


def columns(connection: sqlite3.Connection, seq: int) -> dict[str, tuple[str, Any]]:
    """(storage class, value) of each of an event's columns, the envelope too."""
    names = ("envelope", *ENVELOPE_KEYS)
    wanted = ", ".join(f"typeof({name}), {name}" for name in names)
    row = connection.execute(f"SELECT {wanted} FROM main.event NOT INDEXED WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        raise sqlite3.DatabaseError(f"event {seq} is not where its number says")
    return {name: (row[2 * nth].decode(), row[2 * nth + 1]) for nth, name in enumerate(names)}


def event_row(connection: sqlite3.Connection, seq: int) -> Row | None:
    """(envelope, salt, body, whether these are BLOB and TEXT) of one event; None where there is no such one."""
    row: Row | None = connection.execute(
        """SELECT e.envelope, p.salt, p.body, typeof(p.salt) = 'blob' AND typeof(p.body) = 'text'
             FROM main.event e NOT INDEXED
             LEFT JOIN main.payload p NOT INDEXED ON p.event_seq = e.seq WHERE e.seq = ?""",
        (seq,),
    ).fetchone()
    return row


def _from(first: int, least: int) -> int:
    """Where a reading begins: one of all rows at the lowest number there is, for a row may hide below the `least`."""
    return first if first > least else LOWEST


def payloads(connection: sqlite3.Connection, after: int) -> sqlite3.Cursor:
    """(event seq, salt, body, whether they are BLOB and TEXT), in the order of seq."""
    return connection.execute(
        """SELECT event_seq, salt, body, typeof(salt) = 'blob' AND typeof(body) = 'text'
             FROM main.payload NOT INDEXED WHERE event_seq >= ? ORDER BY event_seq""",
        (_from(after + 1, 1),),
    )


def leaves(connection: sqlite3.Connection, first: int) -> sqlite3.Cursor:
    """(leaf index, event seq, hash, whether it is a BLOB), in the order of leaf indexes."""
    return connection.execute(
        "SELECT idx, event_seq, hash, typeof(hash) = 'blob' FROM main.leaf NOT INDEXED WHERE idx >= ? ORDER BY idx",
        (_from(first, 0),),
    )


def nodes(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """(level, index, hash, whether it is a BLOB)."""
    return connection.execute("SELECT level, idx, hash, typeof(hash) = 'blob' FROM main.node")


def checkpoints(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """(size, note, whether it is TEXT), in the order of sizes."""
    return connection.execute("SELECT size, note, typeof(note) = 'text' FROM main.checkpoint NOT INDEXED ORDER BY size")


def anchors(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """(event seq, size, kind, evidence, whether these are TEXT and BLOB), in the order of seq."""
    return connection.execute(
        """SELECT event_seq, size, kind, evidence, typeof(kind) = 'text' AND typeof(evidence) = 'blob'
             FROM main.anchor NOT INDEXED ORDER BY event_seq"""
    )


def withdrawals(connection: sqlite3.Connection) -> sqlite3.Cursor:
    """(event seq, seq of the event that permits it, the event's envelope or None, whether the payload is there)."""
    return connection.execute(
        """SELECT w.event_seq, w.by_event_seq, e.envelope,
                  EXISTS (SELECT 1 FROM main.payload p NOT INDEXED WHERE p.event_seq = w.event_seq)
             FROM main.withdrawal w NOT INDEXED LEFT JOIN main.event e NOT INDEXED ON e.seq = w.event_seq
            ORDER BY w.by_event_seq, w.event_seq"""
    )


def unwithdrawn(connection: sqlite3.Connection, ids: Iterable[str]) -> sqlite3.Cursor:
    """(seq, envelope) of those of these events whose payload is there and has no withdrawal."""
    return connection.execute(
        """SELECT e.seq, e.envelope FROM main.event e JOIN main.payload p ON p.event_seq = e.seq
            WHERE e.id IN (SELECT value FROM json_each(?))
              AND NOT EXISTS (SELECT 1 FROM main.withdrawal w WHERE w.event_seq = e.seq) ORDER BY e.seq""",
        (json.dumps(sorted(ids)),),
    )


def withdrawn(connection: sqlite3.Connection, seq: int) -> bool:
    return connection.execute("SELECT 1 FROM main.withdrawal WHERE event_seq = ?", (seq,)).fetchone() is not None


def before(connection: sqlite3.Connection, types: Sequence[str], seq: int) -> list[int]:
    """Where the events of these types stand at or below `seq`."""
    marks = ", ".join("?" for _ in types)
    found = connection.execute(
        f"SELECT seq FROM main.event WHERE type IN ({marks}) AND seq <= ? ORDER BY seq", (*types, seq)
    )
    return [row[0] for row in found]


def hashes(connection: sqlite3.Connection, level: int, first: int, end: int) -> list[bytes]:
    """Stored hashes of neighbouring rows of the tree; fewer where some are missing or are none."""
    table = "main.node WHERE level = ? AND" if level else "main.leaf WHERE ? = 0 AND"
    found = connection.execute(
        f"""SELECT hash FROM {table} idx >= ? AND idx < ? AND typeof(hash) = 'blob' AND length(hash) = 32
             ORDER BY idx""",
        (level, first, end),
    )
    return [row[0] for row in found]


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn the driver's errors into one line that names the store and the way out."""
    try:
        yield
    except (sqlite3.Error, OSError) as failed:
        code = getattr(failed, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_BUSY:
            raise StoreBusy(f"{path} is locked by another process.", hint="Try again, or verify a copy.") from failed
        if code == sqlite3.SQLITE_NOTADB:
            raise StoreUnavailable(f"{path} is no audit store.", hint="Name another with --store.") from failed
        raise StoreUnavailable(
            f"{path} cannot be read ({failed}).", hint="Verify a whole copy of it, with its -wal file if there is one."
        ) from failed


def _connect(path: Path) -> sqlite3.Connection:
    """The file as it is. In a folder that cannot be written SQLite can make no -shm file, which it does without where
    it is told that nobody writes; what stands in a -wal file there would then be missed."""
    log = path.with_name(f"{path.name}-wal")
    alone = not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
    uri = f"file:{quote(str(path.absolute()))}?mode=ro{'&immutable=1' if alone else ''}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def _demand_ours(connection: sqlite3.Connection, path: Path) -> None:
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        raise StoreUnavailable(
            f"{path} is empty, and no audit store.", hint="If it was one, keep it as it is and bring back a copy."
        )
    if "alembic_version" not in tables or tables.isdisjoint(TABLES.keys() - {"alembic_version"}):
        raise StoreUnavailable(f"{path} is a database of another application.", hint="Name another with --store.")
    versions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    if versions != [HEAD]:
        shown = ", ".join(map(str, versions)) or "none"
        newer = any(str(version) > HEAD for version in versions)
        raise StoreUnavailable(
            f"{path} has schema {shown}, this release reads {HEAD}.",
            hint="Update prefect-audit." if newer else "Run `audit init`, which brings it up, then verify.",
        )
