"""Rows of the ledger: leaves, nodes, checkpoints and anchors, read and inserted inside the caller's transaction."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, text

from audit.errors import InconsistentTree
from audit.store.engine import AuditStore
from audit.store.read import Recorded, recorded_of_types

HASH_BYTES = 32
KEY_TYPES = ("key.created", "key.rotated", "key.lost")


_WAITING = "seq > (SELECT coalesce(max(event_seq), 0) FROM leaf)"  # an event that has no leaf
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


def unsealed(connection: Connection, at_most: int) -> list[Waiting]:
    """(seq, type, envelope's bytes) of the oldest events without a leaf. SQLite has one writer: whatever commits,
    commits in the order of seq. By the driver's own cursor, for these may be many."""
    rows = connection.connection.cursor()
    rows.execute(
        f"SELECT seq, type, CAST(envelope AS BLOB) FROM event WHERE {_WAITING} ORDER BY seq LIMIT ?",
        (at_most,),
    )
    return list(rows.fetchall())


def add_leaves(connection: Connection, first: int, leaves: Sequence[bytes]) -> None:
    """Give the oldest events without a leaf the next indexes from `first` on, in the order in which `unsealed` names
    them. One statement: a row each from Python takes three times as long, most of it with the guard."""
    connection.exec_driver_sql(
        f"""INSERT INTO leaf (idx, event_seq, hash)
            SELECT ? + nth, seq, substr(?, 1 + {HASH_BYTES} * nth, {HASH_BYTES}) FROM
              (SELECT seq, row_number() OVER (ORDER BY seq) - 1 AS nth FROM event
                WHERE {_WAITING} ORDER BY seq LIMIT ?)""",
        (first, b"".join(leaves), len(leaves)),
    )


def add_nodes(connection: Connection, rows: Sequence[tuple[int, int, bytes]]) -> None:
    """(level, index, hash) each."""
    if rows:
        connection.exec_driver_sql("INSERT INTO node (level, idx, hash) VALUES (?, ?, ?)", list(rows))


def hashes(connection: Connection, spans: Sequence[tuple[int, int, int]]) -> list[list[bytes]]:
    """Hashes of neighbouring rows, (level, first, end) each, in one query. Raises InconsistentTree where one lacks."""
    if not spans:
        return []
    parts: list[str] = []
    values: dict[str, int] = {}
    for nth, (level, first, end) in enumerate(spans):
        values |= {f"first{nth}": first, f"end{nth}": end} | ({f"level{nth}": level} if level else {})
        table = f"node WHERE level = :level{nth} AND" if level else "leaf WHERE"
        parts.append(f"SELECT {nth} AS nth, idx, hash FROM {table} idx >= :first{nth} AND idx < :end{nth}")
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
        text("SELECT DISTINCT size >> :level AS n FROM checkpoint WHERE size >= :first AND size <= :last ORDER BY n"),
        {"level": level, "first": first, "last": last},
    )
    return list(found.scalars())


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
    values = {name: value for name, value in asdict(part).items() if value}
    where = ""
    if values:
        where = f"WHERE {_meant('e', values)}"
        if permitting:
            where += f""" OR EXISTS (SELECT 1 FROM withdrawal v JOIN event t ON t.seq = v.event_seq
                                      WHERE v.by_event_seq = e.seq AND {_meant("t", values)})"""
    bound = {name: json.dumps(value) if isinstance(value, tuple) else value for name, value in values.items()}
    for row in connection.execute(text(f"{_SEALED} {where} ORDER BY l.idx"), bound):
        yield SealedEvent(**row._mapping)


def _meant(event: str, values: Iterable[str]) -> str:
    """That the event is in a part of which these are given."""
    tests = {
        "run": f"({event}.flow_run_id = :run OR {event}.task_run_id = :run)",
        "since": f"{event}.time >= :since",
        "until": f"{event}.time < :until",
        "types": f"EXISTS (SELECT 1 FROM json_each(:types) WHERE {event}.type GLOB value)",
        "events": f"{event}.id IN (SELECT value FROM json_each(:events))",
    }
    return " AND ".join(tests[name] for name in values)


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
                 FROM anchor a LEFT JOIN payload p ON p.event_seq = a.event_seq
                WHERE a.kind = :kind ORDER BY a.event_seq DESC"""
        ),
        {"kind": kind},
    )


def not_sealed(store: AuditStore) -> tuple[int, str | None]:
    """How many events wait to be sealed, and since when the oldest; those that sealing itself makes do not count."""
    with store.reading() as connection:
        count, oldest = connection.execute(
            text(f"SELECT count(*), min(recorded_at) FROM event WHERE {_WAITING} AND type NOT GLOB 'checkpoint.*'")
        ).one()
    return int(count), oldest


def last_signed_at(connection: Connection) -> str | None:
    """When the last checkpoint was signed, by the clock of who signed it."""
    return connection.execute(text(_SIGNED_AT)).scalar_one_or_none()


def key_events(connection: Connection) -> list[tuple[Recorded, str | None]]:
    """What was said of the keys, the oldest first, each with the note of the first checkpoint that seals it."""
    first = text(
        """SELECT note FROM checkpoint WHERE size > (SELECT idx FROM leaf WHERE event_seq = :seq)
            ORDER BY size LIMIT 1"""
    )
    said = recorded_of_types(connection, KEY_TYPES)
    return [(event, connection.execute(first, {"seq": event.seq}).scalar()) for event in said]


def sealing(store: AuditStore) -> Sealing:
    """How much is sealed and when that was last fixed."""
    with store.reading() as connection:
        row = connection.execute(
            text(
                f"""SELECT ({_SIZE}), (SELECT count(*) FROM event WHERE {_WAITING}),
                           (SELECT count(*) FROM checkpoint), (SELECT count(*) FROM anchor), ({_SIGNED_AT})"""
            )
        ).one()
    return Sealing(*row)
