"""What whoever owns the database can do: no trigger, constraint or foreign key binds them.

`owner` opens it as it is, a SQLite file or a PostgreSQL database. `Past` is the log as a forger has it, to be bent and
written back with all that can be recomputed: seqs, leaves, nodes, roots, checkpoints and what events tell of them.
"""

import base64
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from audit.events.canonical import canonical, digest_of
from audit.events.event import ENVELOPE_KEYS, payload_hash
from audit.ledger import tree
from audit.ledger.note import Checkpoint, SigningKey, signed
from tests.attacks import superuser

ORIGIN = "acme.example/fraud"
TABLES = ("anchor", "checkpoint", "node", "leaf", "withdrawal", "payload", "event")


Database = Path | str  # a file, or PostgreSQL's address
# The key of another row, no number where there must be one, or what PostgreSQL takes for no value of the column's type.
REFUSED = (sqlite3.IntegrityError, *superuser.Hands.refusals)


class Hands(Protocol):
    """A connection of who owns the database."""

    @property
    def same(self) -> str:
        """The operator by which nothing is the same as nothing."""

    def execute(self, statement: str, values: Any = (), /) -> Any: ...

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Any: ...


class File(sqlite3.Connection):
    """A SQLite file in its owner's hands."""

    same = "IS"


@contextmanager
def owner(database: Database) -> Iterator[Hands]:
    """The store without triggers, NOT NULL and foreign keys; afterwards the schema reads as it did before."""
    with file_owner(database) if isinstance(database, Path) else superuser.superuser(database) as hands:
        yield hands


@contextmanager
def file_owner(database: Path) -> Iterator[File]:
    connection = sqlite3.connect(database, isolation_level=None, factory=File)
    connection.execute("PRAGMA synchronous = OFF")  # thousands of attacks; no power fails
    schema = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    triggers = [(name, sql) for type, name, sql in schema if type == "trigger"]
    tables = [(sql, name) for type, name, sql in schema if type == "table"]
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    _written(connection, [(sql.replace("NOT NULL", ""), name) for sql, name in tables])
    connection.execute("BEGIN")
    yield connection
    connection.execute("COMMIT")
    _written(connection, tables)
    for _, sql in triggers:
        connection.execute(sql)
    connection.close()


@contextmanager
def looking(database: Database) -> Iterator[Hands]:
    """The store, for who changes nothing."""
    if isinstance(database, Path):
        with closing(sqlite3.connect(database, factory=File)) as connection:
            yield connection
    else:
        with superuser.reading(database) as hands:
            yield hands


def contents(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table that is in the store."""
    with looking(database) as db:
        return {table: rows(db, table) for table in tables_in(db)}


def tables_in(connection: Hands) -> list[str]:
    found = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if isinstance(connection, File)
        else "SELECT tablename FROM pg_tables WHERE schemaname = 'audit' ORDER BY 1"
    )
    return [name for (name,) in connection.execute(found)]


def rows(connection: Hands, table: str) -> list[dict[str, Any]]:
    found = connection.execute(f"SELECT * FROM {table} ORDER BY 1")
    names = [name for name, *_ in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def exchange(connection: Hands, table: str, columns: Sequence[str], *keys: Mapping[str, object]) -> None:
    """Two rows, each named by its key, exchange what is in `columns`."""
    one, other = (next(row for row in rows(connection, table) if row.items() >= key.items()) for key in keys)
    remove(connection, table, one)
    remove(connection, table, other)
    insert(connection, table, one | {column: other[column] for column in columns})
    insert(connection, table, other | {column: one[column] for column in columns})


def pass_over(connection: sqlite3.Connection, index: str, table: str, row: Mapping[str, object]) -> None:
    """The row stays, and `index` no longer has it."""
    remove(connection, table, row)
    connection.execute("COMMIT")
    connection.execute("PRAGMA writable_schema = ON")
    (definition,) = connection.execute("SELECT * FROM sqlite_master WHERE name = ?", (index,))
    connection.execute("DELETE FROM sqlite_master WHERE name = ?", (index,))
    connection.execute("PRAGMA writable_schema = RESET")
    insert(connection, table, row)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", definition)
    connection.execute("PRAGMA writable_schema = RESET")
    connection.execute("BEGIN")


def remove(connection: Hands, table: str, row: Mapping[str, object]) -> None:
    where = " AND ".join(f"{name} {connection.same} ?" for name in row)
    connection.execute(f"DELETE FROM {table} WHERE {where}", list(row.values()))


def insert(connection: Hands, table: str, row: Mapping[str, object]) -> None:
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def _written(connection: sqlite3.Connection, tables: Sequence[tuple[str, str]]) -> None:
    """The tables' definitions, written where SQLite keeps them: what is in the tables is not looked at."""
    connection.execute("PRAGMA writable_schema = ON")
    connection.executemany("UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?", tables)
    connection.execute("PRAGMA writable_schema = RESET")


@dataclass(frozen=True)
class Told:
    """An event in the forger's hands; without salt and body where its payload was withdrawn."""

    columns: dict[str, Any]
    salt: bytes | None
    body: str | None

    @property
    def type(self) -> str:
        return str(self.columns["type"])

    @property
    def facts(self) -> dict[str, Any]:
        assert self.body is not None
        found: dict[str, Any] = orjson.loads(self.body)
        return found

    @property
    def envelope(self) -> str:
        return canonical(self.columns).decode()

    def saying(self, **facts: Any) -> "Told":
        """The same event with other facts, and the hash that goes with them."""
        assert self.salt is not None
        body = canonical(self.facts | facts)
        columns = self.columns | {"payload_hash": payload_hash(self.salt, body)}
        return replace(self, columns=columns, body=body.decode())

    def with_(self, **columns: Any) -> "Told":
        return replace(self, columns=self.columns | columns)


@dataclass(frozen=True)
class Past:
    """All that a log says, in its order. Withdrawals and anchors go by the events' ids."""

    events: list[Told]
    notes: dict[int, str]  # of the checkpoints, by size
    withdrawals: dict[str, str]  # of what event, by which one
    anchors: dict[str, tuple[int, str, bytes]]  # told by which event: size, kind, evidence

    def at(self, type: str, nth: int = 0) -> int:
        """Where the nth event of a type stands."""
        return [at for at, event in enumerate(self.events) if event.type == type][nth]

    def without_anchors(self) -> "Past":
        """No evidence of others, which cannot be made anew, and no event that tells of it."""
        return replace(self, events=[e for e in self.events if e.type != "checkpoint.anchored"], anchors={})


def past(connection: Hands) -> Past:
    """The log as it is on file."""
    rows = connection.execute(
        f"SELECT {', '.join(ENVELOPE_KEYS)}, salt, body FROM event LEFT JOIN payload ON event_seq = seq ORDER BY seq"
    )
    ids = dict(connection.execute("SELECT seq, id FROM event"))
    withdrawals = connection.execute("SELECT event_seq, by_event_seq FROM withdrawal")
    anchors = connection.execute("SELECT event_seq, size, kind, evidence FROM anchor")
    return Past(
        [Told(dict(zip(ENVELOPE_KEYS, row, strict=False)), *row[-2:]) for row in rows],
        dict(connection.execute("SELECT size, note FROM checkpoint")),
        {ids[event]: ids[by] for event, by in withdrawals},
        {ids[event]: (size, kind, evidence) for event, size, kind, evidence in anchors},
    )


Signers = Callable[[Sequence[Told], int], Sequence[SigningKey]]  # of events sealed, the first of them sealed before


def write_anew(connection: Hands, past: Past, signers: Signers | None) -> None:
    """The file as if it had always said `past`: seqs, leaves and nodes fit.

    With `signers` every checkpoint stands where its checkpoint.signed event does, as sealing leaves it, and is signed;
    later events are not sealed. Without, the notes are what they were.
    """
    for table in TABLES:
        connection.execute(f"DELETE FROM {table}")
    leaves: list[bytes] = []
    notes = {} if signers else past.notes
    for at, said in enumerate(past.events):
        event = said
        if signers and event.type == "checkpoint.signed":
            previous = max(notes, default=0)
            head, by = Checkpoint(ORIGIN, at, _root(leaves)), signers(past.events[:at], previous)
            notes[at] = str(signed(head.text, by))
            event = _signed(event, head, notes[at], previous, by)
        put(connection, at + 1, event)
        leaves.append(tree.leaf_hash(event.envelope.encode()))
    del leaves[max(notes) :]
    connection.executemany("INSERT INTO leaf VALUES (?, ?, ?)", [(at, at + 1, hash) for at, hash in enumerate(leaves)])
    connection.executemany("INSERT INTO node VALUES (?, ?, ?)", _nodes(leaves))
    connection.executemany("INSERT INTO checkpoint VALUES (?, ?)", notes.items())
    seqs = {event.columns["id"]: at + 1 for at, event in enumerate(past.events)}
    for id, by_id in past.withdrawals.items():
        connection.execute("INSERT INTO withdrawal VALUES (?, ?)", (seqs[id], seqs[by_id]))
    for id, anchor in past.anchors.items():
        connection.execute("INSERT INTO anchor VALUES (?, ?, ?, ?)", (seqs[id], *anchor))


def head_of(past: Past, size: int) -> Checkpoint:
    """The tree's head over the first `size` events."""
    return Checkpoint(ORIGIN, size, _root([tree.leaf_hash(told.envelope.encode()) for told in past.events[:size]]))


def put_in(connection: Hands, head: Checkpoint, by: Sequence[SigningKey]) -> None:
    insert(connection, "checkpoint", {"size": head.size, "note": str(signed(head.text, by))})


def _signed(event: Told, head: Checkpoint, note: str, previous: int, by: Sequence[SigningKey]) -> Told:
    """What a checkpoint's event says of it."""
    told = event.saying(
        size=head.size,
        root=base64.b64encode(head.root).decode(),
        previous=previous,
        keys=[key.verifier.shown for key in by],
        digest=digest_of(note.encode()),
    )
    return told.with_(subject=f"checkpoint/{head.size}")


def put(connection: Hands, seq: int, event: Told) -> None:
    """Event and payload as rows of their own."""
    insert(connection, "event", {"seq": seq, **event.columns, "envelope": event.envelope})
    if event.body is not None:
        insert(connection, "payload", {"event_seq": seq, "salt": event.salt, "body": event.body})


def _nodes(leaves: Sequence[bytes]) -> list[tuple[int, int, bytes]]:
    return [(*node, hash) for node, hash in tree.appended(0, leaves, _read(leaves))]


def _root(leaves: Sequence[bytes]) -> bytes:
    return tree.root(len(leaves), _read(leaves))


def _read(leaves: Sequence[bytes]) -> tree.Read:
    """Nodes over these leaves, each folded from all that is below it."""

    def node(level: int, nth: int) -> bytes:
        if level == 0:
            return leaves[nth]
        return tree.node_hash(node(level - 1, 2 * nth), node(level - 1, 2 * nth + 1))

    return lambda nodes: [node(*one) for one in nodes]
