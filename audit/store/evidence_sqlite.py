"""`evidence` of a SQLite file, opened as it lies there. Where TEXT and BLOB must differ, the query tells which."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from audit.errors import StoreBusy, StoreUnavailable
from audit.events.event import ENVELOPE_KEYS, NULLABLE_KEYS, SCHEMA_VERSION
from audit.store.ddl import GUARDS, LEDGER_GUARDS, VIEWS
from audit.store.engine import BUSY_SECONDS
from audit.store.evidence import LARGEST, LOWEST, Columns, Damage, Odd, Row, demand_schema

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


@contextmanager
def snapshot_of_file(path: Path) -> Iterator["SqliteSnapshot"]:
    """The file as it is from now on. Raises StoreUnavailable, StoreBusy."""
    if not path.is_file():
        raise StoreUnavailable(
            f"There is no audit store at {path}.",
            hint="Set AUDIT_HOME to the folder that holds it, or say --store FILE.",
        )
    with _named(path), closing(_connect(path)) as connection:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        _demand_ours(connection, path)
        connection.text_factory = bytes
        yield SqliteSnapshot(connection)


@dataclass(frozen=True, slots=True)
class SqliteSnapshot:
    """What `evidence.Snapshot` says, by a connection that sees one moment."""

    connection: sqlite3.Connection
    engine = "SQLite"
    numbers = "seq"

    def oddities(self) -> list[Odd]:
        found = {
            (kind.decode(), name.decode(errors="replace")): " ".join(sql.decode(errors="replace").split())
            for kind, name, sql in self._read("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        }
        expected = {(statement.split()[1].lower(), statement.split()[2]): statement for statement in _DEFINED}
        odd = [
            Odd(*what, "changed" if what in expected else "strange")
            for what, sql in found.items()
            if expected.get(what) != sql
        ]
        return odd + [Odd(*what, "missing") for what in expected if what not in found]

    def readable(self) -> bool:
        with closing(sqlite3.connect(":memory:")) as made:
            made.text_factory = bytes
            for name, definition in TABLES.items():
                made.execute(f"CREATE TABLE {name} {definition}")
            return all(_columns(self.connection, name) == _columns(made, name) for name in TABLES)

    def encoding(self) -> str:
        return str(self._read("PRAGMA encoding").fetchone()[0].decode())

    def damage(self) -> Damage:
        said = [" ".join(row[0].decode(errors="replace").split()) for row in self._read("PRAGMA integrity_check(20)")]
        said = [] if said == ["ok"] else said
        pages = [what for what in said if "index" not in what and not what.startswith("NULL value")]
        return Damage(pages=pages, indexes=[] if pages else said)

    def strays(self) -> Iterator[tuple[str, str]]:
        """None: rows are read side by side by one number."""
        return iter(())

    def tree_size(self) -> int:
        (last,) = self._read("SELECT coalesce(max(idx), -1) FROM main.leaf").fetchone()
        return min(int(last), LARGEST - 1) + 1

    def last_place(self) -> int:
        return int(self._read("SELECT coalesce(max(seq), 0) FROM main.event").fetchone()[0])

    def envelopes(self, count: int) -> sqlite3.Cursor:
        return self._read("SELECT envelope FROM main.event NOT INDEXED ORDER BY seq LIMIT ?", count)

    def events(self, after: int) -> "Events":
        return Events(self.connection, after)

    def columns(self, row: Row) -> Columns:
        names = ("envelope", *ENVELOPE_KEYS)
        wanted = ", ".join(f"typeof({name}), {name}" for name in names)
        found = self._read(f"SELECT {wanted} FROM main.event NOT INDEXED WHERE seq = ?", row[0]).fetchone()
        if found is None:
            raise sqlite3.DatabaseError(f"event {row[0]} is not where its number says")
        return {name: (found[2 * nth].decode(), found[2 * nth + 1]) for nth, name in enumerate(names)}

    def payloads(self, after: int) -> sqlite3.Cursor:
        return self._read(
            f"""SELECT event_seq, salt, body, {_plain("payload")}, event_seq
                  FROM main.payload NOT INDEXED WHERE event_seq >= ? ORDER BY event_seq""",
            _from(after + 1, 1),
        )

    def leaves(self, first: int) -> sqlite3.Cursor:
        return self._read(
            "SELECT idx, event_seq, hash, typeof(hash) = 'blob' FROM main.leaf NOT INDEXED WHERE idx >= ? ORDER BY idx",
            _from(first, 0),
        )

    def nodes(self) -> sqlite3.Cursor:
        return self._read("SELECT level, idx, hash, typeof(hash) = 'blob' FROM main.node")

    def checkpoints(self) -> sqlite3.Cursor:
        return self._read("SELECT size, note, typeof(note) = 'text' FROM main.checkpoint NOT INDEXED ORDER BY size")

    def anchors(self) -> sqlite3.Cursor:
        return self._read(
            """SELECT event_seq, size, kind, evidence, typeof(kind) = 'text' AND typeof(evidence) = 'blob', event_seq
                 FROM main.anchor NOT INDEXED ORDER BY event_seq"""
        )

    def withdrawn(self, after: int) -> sqlite3.Cursor:
        return self._read(
            "SELECT event_seq FROM main.withdrawal NOT INDEXED WHERE event_seq > ? ORDER BY event_seq", after
        )

    def withdrawals(self) -> sqlite3.Cursor:
        return self._read(
            """SELECT w.event_seq, w.by_event_seq, e.envelope,
                      EXISTS (SELECT 1 FROM main.payload p NOT INDEXED WHERE p.event_seq = w.event_seq),
                      w.event_seq, w.by_event_seq
                 FROM main.withdrawal w NOT INDEXED LEFT JOIN main.event e NOT INDEXED ON e.seq = w.event_seq
                ORDER BY w.by_event_seq, w.event_seq"""
        )

    def permits(self, types: Sequence[str]) -> sqlite3.Cursor:
        return self._read(
            f"""SELECT e.seq, e.envelope, p.salt, p.body, {_plain("p")}
                  FROM main.event e LEFT JOIN main.payload p ON p.event_seq = e.seq
                 WHERE e.type IN (SELECT value FROM json_each(?))
                    OR e.seq IN (SELECT by_event_seq FROM main.withdrawal)
                 ORDER BY e.seq""",
            json.dumps(types),
        )

    def unwithdrawn(self, ids: Iterable[str]) -> sqlite3.Cursor:
        return self._read(
            """SELECT e.seq, e.envelope, e.id FROM main.event e JOIN main.payload p ON p.event_seq = e.seq
                WHERE e.id IN (SELECT value FROM json_each(?))
                  AND NOT EXISTS (SELECT 1 FROM main.withdrawal w WHERE w.event_seq = e.seq) ORDER BY e.seq""",
            json.dumps(sorted(ids)),
        )

    def of_types(self, types: Sequence[str], upto: int) -> sqlite3.Cursor:
        return self._read(
            f"""SELECT e.seq, e.envelope, p.salt, p.body, {_plain("p")}
                  FROM main.event e LEFT JOIN main.payload p NOT INDEXED ON p.event_seq = e.seq
                 WHERE e.type IN (SELECT value FROM json_each(?)) AND e.seq <= ? ORDER BY e.seq""",
            json.dumps(types), upto,
        )  # fmt: skip

    def task_runs(self) -> sqlite3.Cursor:
        return self._read(
            """SELECT flow_run_id, task_run_id, min(seq) FROM main.event NOT INDEXED
                WHERE type >= 'task_run.' AND type < 'task_run/'
                  AND flow_run_id IS NOT NULL AND task_run_id IS NOT NULL
                GROUP BY flow_run_id, task_run_id ORDER BY flow_run_id, task_run_id"""
        )

    def hashes(self, level: int, first: int, end: int) -> list[bytes]:
        table = "main.node WHERE level = ? AND" if level else "main.leaf WHERE ? = 0 AND"
        found = self._read(
            f"""SELECT hash FROM {table} idx >= ? AND idx < ? AND typeof(hash) = 'blob' AND length(hash) = 32
                 ORDER BY idx""",
            level, first, end,
        )  # fmt: skip
        return [row[0] for row in found]

    def _read(self, query: str, *values: object) -> sqlite3.Cursor:
        return self.connection.execute(query, values)


class Events:
    """Events in the order of seq. SQLite makes JSON of the columns to compare them; where it comes upon one that holds
    bytes it cannot, and from there on none is found to be the same."""

    def __init__(self, connection: sqlite3.Connection, after: int) -> None:
        self._connection = connection
        self._where, self._bound = "seq >= ?", _from(after + 1, 1)
        self._compared = True
        self._cursor: sqlite3.Cursor | None = None

    def fetchmany(self, size: int) -> list[Row]:
        try:
            rows = self._fetched(size)
        except sqlite3.OperationalError as error:
            if not self._compared or "BLOB" not in str(error):
                raise
            self._compared, self._cursor = False, None
            rows = self._fetched(size)
        if rows:
            self._where, self._bound = "seq > ?", rows[-1][0]
        return rows

    def __iter__(self) -> Iterator[Row]:
        while rows := self.fetchmany(1):
            yield from rows

    def _fetched(self, size: int) -> list[Row]:
        """SQLite comes upon the first row as it begins."""
        if self._cursor is None:
            self._cursor = self._connection.execute(
                f"""SELECT seq, envelope, {_SAYS_THE_SAME if self._compared else "0"}, type, recorded_at, payload_hash
                      FROM main.event NOT INDEXED WHERE {self._where} ORDER BY seq""",
                (self._bound,),
            )
        return self._cursor.fetchmany(size)


def _plain(payload: str) -> str:
    return f"typeof({payload}.salt) = 'blob' AND typeof({payload}.body) = 'text'"


def _columns(connection: sqlite3.Connection, table: str) -> tuple[list[Row], list[Row]]:
    kind = "SELECT type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?"
    columns = "SELECT cid, name, type, pk, hidden FROM pragma_table_xinfo(?)"
    return connection.execute(kind, (table,)).fetchall(), connection.execute(columns, (table,)).fetchall()


def _from(first: int, least: int) -> int:
    """Where a reading begins: one of all rows at the lowest number there is, for a row may hide below the `least`."""
    return first if first > least else LOWEST


@contextmanager
def _named(path: Path) -> Iterator[None]:
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
    demand_schema(str(path), [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")])
