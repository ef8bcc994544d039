"""Rows of the ledger: leaves, nodes, checkpoints and anchors, read and inserted inside the caller's transaction."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, text

from audit.errors import InconsistentTree
from audit.store.engine import AuditStore
from audit.store.read import EVENT_COLUMNS, Recorded, bound, of_types, recorded

HASH_BYTES = 32
KEY_TYPES = ("key.created", "key.rotated", "key.lost")
LOOK_BACK = 20_000  # numbers before the last sealed one, among which an event may have come late
STREAMED = 1_000  # rows at once, where there may be more than memory holds

_SIZE = "SELECT coalesce(max(idx) + 1, 0) FROM leaf"
_SIGNED_AT = "SELECT time FROM event WHERE type = 'checkpoint.signed' ORDER BY time DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Sealing:
    """How much of the record is sealed."""

    size: int  # leaves
    unsealed: int  # events
    checkpoints: int
    anchors: int
    newest: str | None  # when the last checkpoint was signed


def size(connection: Connection) -> int:
    """Leaves in the tree."""
    return int(connection.execute(text(_SIZE)).scalar_one())


Waiting = tuple[int, str, bytes]  # an event without a leaf: seq, type, envelope's bytes


def unsealed(connection: Connection, at_most: int, *, whole: bool = False) -> list[Waiting]:
    """(seq, type, envelope's bytes) of the oldest events without a leaf; see `_waiting` for `whole`. By the driver's
    own cursor, for these may be many."""
    postgres = _is_postgres(connection)
    rows = connection.connection.cursor()
    envelope = "envelope" if postgres else "CAST(envelope AS BLOB)"
    rows.execute(
        f"SELECT seq, type, {envelope} FROM event e WHERE {_waiting(connection, whole)} ORDER BY seq "
        f"LIMIT {_mark(connection)}",
        (at_most,),
    )
    found = rows.fetchall()
    return [(seq, type, text.encode()) for seq, type, text in found] if postgres else list(found)


def _waiting(connection: Connection, whole: bool) -> str:
    """That an event `e` has no leaf.

    SQLite has one writer: whatever commits, commits in the order of seq. PostgreSQL's writers draw numbers and commit
    when they do, so an event may come in behind sealed ones. One that does so soon is found by looking back a bounded
    way, which a loop can afford; `whole` looks at every event.
    """
    last = "(SELECT coalesce(max(event_seq), 0) FROM leaf)"
    if not _is_postgres(connection):
        return f"e.seq > {last}"
    if whole:
        return "NOT EXISTS (SELECT 1 FROM leaf l WHERE l.event_seq = e.seq)"
    start = f"{last} - {LOOK_BACK}"  # of both sides, for the planner does not conclude one from the other
    return f"e.seq > {start} AND NOT EXISTS (SELECT 1 FROM leaf l WHERE l.event_seq = e.seq AND l.event_seq > {start})"


def _is_postgres(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _mark(connection: Connection) -> str:
    """Where the driver's own cursor puts a value."""
    return "%s" if _is_postgres(connection) else "?"


def add_leaves(connection: Connection, first: int, seqs: Sequence[int], leaves: Sequence[bytes]) -> None:
    """Give these events the next indexes from `first` on: those that were read, for others may have committed since.
    One statement: a row each from Python takes three times as long, most of it with the guard."""
    assert len(seqs) == len(leaves)
    if _is_postgres(connection):
        indexes = list(range(first, first + len(seqs)))
        connection.exec_driver_sql(
            """INSERT INTO leaf (idx, event_seq, hash)
               SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bytea[]) AS of (idx, event_seq, hash)""",
            (indexes, list(seqs), list(leaves)),
        )
        return
    connection.exec_driver_sql(
        f"""INSERT INTO leaf (idx, event_seq, hash)
            SELECT ? + key, value, substr(?, 1 + {HASH_BYTES} * key, {HASH_BYTES}) FROM json_each(?) ORDER BY key""",
        (first, b"".join(leaves), json.dumps(list(seqs))),
    )


def add_nodes(connection: Connection, rows: Sequence[tuple[int, int, bytes]]) -> None:
    """(level, index, hash) each."""
    if rows:
        values = ", ".join([_mark(connection)] * 3)
        connection.exec_driver_sql(f"INSERT INTO node (level, idx, hash) VALUES ({values})", list(rows))


def hashes(connection: Connection, spans: Sequence[tuple[int, int, int]]) -> list[list[bytes]]:
    """Hashes of neighbouring rows, (level, first, end) each, in one query. Raises InconsistentTree where one lacks."""
    if not spans:
        return []
    parts: list[str] = []
    values: list[int] = []
    mark = _mark(connection)
    for nth, (level, first, end) in enumerate(spans):
        values += [level, first, end] if level else [first, end]
        table = f"node WHERE level = {mark} AND" if level else "leaf WHERE"
        parts.append(f"SELECT {nth} AS nth, idx, hash FROM {table} idx >= {mark} AND idx < {mark}")
    found: list[list[bytes]] = [[] for _ in spans]
    cursor = connection.connection.cursor()  # the driver's own, for these are hundreds at each sealing
    cursor.execute(" UNION ALL ".join(parts) + " ORDER BY nth, idx", values)
    for nth, _, hash in cursor.fetchall():
        found[nth].append(hash)
    for (level, first, end), rows in zip(spans, found, strict=True):
        if len(rows) != end - first or not all(isinstance(hash, bytes) for hash in rows):
            of = f"nodes of level {level}" if level else "leaves"
            raise InconsistentTree(
                f"The tree's {of} {first} to {end - 1} are not all there.", hint="Run `audit verify`."
            )
    return found


def entries(connection: Connection, first: int, end: int) -> list[tuple[bytes, bytes, str]]:
    """(envelope's bytes, leaf hash, event id) of leaves `first` to below `end`. Raises InconsistentTree."""
    found = connection.execute(
        text(
            """SELECT e.envelope, l.hash, e.id FROM leaf l JOIN event e ON e.seq = l.event_seq
                WHERE l.idx >= :first AND l.idx < :end ORDER BY l.idx"""
        ),
        {"first": first, "end": end},
    ).all()
    if len(found) != end - first:
        raise InconsistentTree(f"The entries {first} to {end - 1} are not all there.", hint="Run `audit verify`.")
    return [(envelope.encode(), hash, id) for envelope, hash, id in found]


def rows_at_checkpoints(connection: Connection, level: int, first: int, last: int) -> list[int]:
    """How many rows of a level the trees had at the checkpoints of sizes `first` to `last`; each number once."""
    found = connection.execute(
        text("SELECT size FROM checkpoint WHERE size >= :first AND size <= :last ORDER BY size"),
        {"first": first, "last": last},
    )
    return list(dict.fromkeys(size >> level for size in found.scalars()))


def last_checkpoint(connection: Connection) -> tuple[int, str] | None:
    """(size, note) of the largest checkpoint."""
    row = connection.execute(text("SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1")).one_or_none()
    return (row.size, row.note) if row else None


def add_checkpoint(connection: Connection, size: int, note: str) -> None:
    connection.execute(text("INSERT INTO checkpoint (size, note) VALUES (:size, :note)"), {"size": size, "note": note})


def add_anchor(connection: Connection, event_seq: int, size: int, kind: str, evidence: bytes) -> None:
    """What was said of the checkpoint of `size`, filed under the event that tells of it."""
    connection.execute(
        text("INSERT INTO anchor (event_seq, size, kind, evidence) VALUES (:event_seq, :size, :kind, :evidence)"),
        {"event_seq": event_seq, "size": size, "kind": kind, "evidence": evidence},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedEvent:
    """A leaf and its event as they stand in the store, whatever somebody made of them."""

    idx: int
    hash: bytes
    id: str
    type: str
    envelope: str
    salt: bytes | None  # with `body`: None where the payload is not there
    body: str | None
    withdrawal: int | None  # seq of the event that permits the payload to go
    withdrawn_by: int | None  # leaf index of that event; None while it is not sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which events are meant; nothing said is all of them. `types` may end in `.*`."""

    run: str | None = None  # flow or task run
    since: str | None = None  # time, inclusive
    until: str | None = None  # time, exclusive
    types: tuple[str, ...] = ()
    events: tuple[str, ...] = ()  # ids
    called: str | None = None  # no condition: what to call it where its ids would be too many to name


_SEALED = """SELECT l.idx, l.hash, e.id, e.type, e.envelope, p.salt, p.body,
                    w.by_event_seq AS withdrawal, by.idx AS withdrawn_by
               FROM leaf l LEFT JOIN event e ON e.seq = l.event_seq LEFT JOIN payload p ON p.event_seq = l.event_seq
               LEFT JOIN withdrawal w ON w.event_seq = l.event_seq LEFT JOIN leaf by ON by.event_seq = w.by_event_seq"""


def sealed_event(connection: Connection, id: str) -> SealedEvent | None:
    """The event with this id and its leaf; None where it has none."""
    row = connection.execute(
        text(f"{_SEALED} WHERE l.event_seq = (SELECT seq FROM event WHERE id = :id)"), {"id": id}
    ).one_or_none()
    return SealedEvent(**row._mapping) if row else None


def sealed_events(connection: Connection, part: Part, *, permitting: bool = True) -> Iterator[SealedEvent]:
    """Every sealed event of a part, in the order of the leaves, read as they are asked for; with those that permitted
    payloads in it to go, if `permitting`. A leaf whose event is gone comes too where all are meant."""
    meant, values = _meant("e", part)
    where = f"WHERE {meant}" if meant else ""
    if meant and permitting:
        where += f""" OR EXISTS (SELECT 1 FROM withdrawal v JOIN event t ON t.seq = v.event_seq
                                  WHERE v.by_event_seq = e.seq AND {_meant("t", part)[0]})"""
    rows = connection.execution_options(yield_per=STREAMED).execute(*bound(f"{_SEALED} {where} ORDER BY l.idx", values))
    for row in rows:
        yield SealedEvent(**row._mapping)


def _meant(event: str, part: Part) -> tuple[str, dict[str, Any]]:
    """That the event is in a part, and the values for it; nothing said is all."""
    tests: list[str] = []
    values: dict[str, Any] = {}
    if part.run:
        tests.append(f"({event}.flow_run_id = :run OR {event}.task_run_id = :run)")
        values["run"] = part.run
    if part.since:
        tests.append(f"{event}.time >= :since")
        values["since"] = part.since
    if part.until:
        tests.append(f"{event}.time < :until")
        values["until"] = part.until
    if part.types:
        of, named = of_types(f"{event}.type", part.types)
        tests.append(of)
        values |= named
    if part.events:
        tests.append(f"{event}.id IN :events")
        values["events"] = part.events
    return " AND ".join(tests), values


def cosigned_checkpoints(connection: Connection, since: int = 0) -> Iterator[tuple[int, str, list[bytes]]]:
    """(size, note, cosignatures) of every checkpoint from the size `since` on, the smallest first. Anchors came after
    what their checkpoint seals."""
    rows = connection.execute(
        text(
            """SELECT c.size, c.note, a.evidence FROM checkpoint c
                 LEFT JOIN anchor a ON a.size = c.size AND a.kind = 'cosignature'
                  AND a.event_seq > coalesce((SELECT event_seq FROM leaf WHERE idx = :since - 1), 0)
                WHERE c.size >= :since ORDER BY c.size, a.event_seq"""
        ),
        {"since": since},
    )
    for (size, note), found in groupby(rows, key=lambda row: (row.size, row.note)):
        yield size, note, [row.evidence for row in found if row.evidence is not None]


def timestamps(connection: Connection, since: int = 0) -> Iterator[Row[Any]]:
    """(size, evidence) of every time stamp of a checkpoint from the size `since` on, the smallest first."""
    yield from connection.execute(
        text(
            """SELECT size, evidence FROM anchor WHERE kind = 'timestamp' AND size >= :since
                  AND event_seq > coalesce((SELECT event_seq FROM leaf WHERE idx = :since - 1), 0)
                ORDER BY size, event_seq"""
        ),
        {"since": since},
    )


def latest_anchors(connection: Connection, kind: str) -> Iterator[Row[Any]]:
    """(event_seq, size, evidence, where it was asked for) of the anchors of a kind, the latest first."""
    yield from connection.execute(
        text(
            """SELECT a.event_seq, a.size, a.evidence, json_extract(p.body, '$.asked') AS asked
                 FROM anchor a LEFT JOIN ledger_payload p ON p.event_seq = a.event_seq
                WHERE a.kind = :kind ORDER BY a.event_seq DESC"""
        ),
        {"kind": kind},
    )


def not_sealed(store: AuditStore, *, whole: bool = False) -> tuple[int, str | None]:
    """How many events wait to be sealed, and since when the oldest; those that sealing itself makes do not count.
    `whole` as with `unsealed`."""
    with store.reading() as connection:
        waiting = f"{_waiting(connection, whole)} AND NOT (e.type >= 'checkpoint.' AND e.type < 'checkpoint/')"
        count, oldest = connection.execute(
            text(f"SELECT count(*), min(recorded_at) FROM event e WHERE {waiting}")
        ).one()
    return int(count), oldest


def last_signed_at(connection: Connection) -> str | None:
    """When the last checkpoint was signed, by the clock of who signed it."""
    return connection.execute(text(_SIGNED_AT)).scalar_one_or_none()


def key_events(connection: Connection) -> list[tuple[Recorded, str | None]]:
    """What was said of the keys, each with the note of the first checkpoint that seals it. In the order of the leaves,
    which is what was signed; then those that have none yet."""
    found = text(
        f"""SELECT {EVENT_COLUMNS}, p.body,
                   (SELECT c.note FROM checkpoint c WHERE c.size > l.idx ORDER BY c.size LIMIT 1) AS note
              FROM event e LEFT JOIN ledger_payload p ON p.event_seq = e.seq LEFT JOIN leaf l ON l.event_seq = e.seq
             WHERE e.type IN {KEY_TYPES} ORDER BY l.idx IS NULL, l.idx, e.seq"""
    )
    return [(recorded(row), row.note) for row in connection.execute(found)]


def sealing(store: AuditStore) -> Sealing:
    """How much is sealed and when that was last fixed."""
    with store.reading() as connection:
        row = connection.execute(
            text(
                f"""SELECT ({_SIZE}), (SELECT count(*) FROM event e WHERE {_waiting(connection, whole=True)}),
                           (SELECT count(*) FROM checkpoint), (SELECT count(*) FROM anchor), ({_SIGNED_AT})"""
            )
        ).one()
    return Sealing(*row)
