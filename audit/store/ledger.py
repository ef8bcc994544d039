"""Rows of the ledger: leaves, nodes, checkpoints and anchors, read and inserted inside the caller's transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from audit.errors import InconsistentTree
from audit.store.engine import AuditStore
from audit.store.read import Recorded, recorded_of_types

HASH_BYTES = 32
KEY_TYPES = ("key.created", "key.rotated", "key.lost")


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
    return int(connection.execute(text("SELECT coalesce(max(idx) + 1, 0) FROM leaf")).scalar_one())


def unsealed(connection: Connection, at_most: int) -> list[tuple[int, str, bytes]]:
    """(seq, type, envelope's bytes) of the oldest events without a leaf. SQLite has one writer: whatever commits,
    commits in the order of seq. By the driver's own cursor, for these may be many."""
    rows = connection.connection.cursor()
    rows.execute(
        """SELECT seq, type, CAST(envelope AS BLOB) FROM event
            WHERE seq > (SELECT coalesce(max(event_seq), 0) FROM leaf) ORDER BY seq LIMIT ?""",
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
                WHERE seq > (SELECT coalesce(max(event_seq), 0) FROM leaf) ORDER BY seq LIMIT ?)""",
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
    for nth, _, hash in connection.execute(text(" UNION ALL ".join(parts) + " ORDER BY nth, idx"), values):
        found[nth].append(hash)
    for (level, first, end), rows in zip(spans, found, strict=True):
        if len(rows) != end - first:
            of = f"nodes of level {level}" if level else "leaves"
            raise InconsistentTree(
                f"The tree's {of} {first} to {end - 1} are not all there.", hint="Run `audit verify`."
            )
    return found


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


def anchors(connection: Connection, kinds: Iterable[str]) -> Sequence[Row[Any]]:
    """(event_seq, size, kind, evidence) of every anchor of these kinds, the oldest first."""
    wanted = tuple(kinds)
    marks = ", ".join(f":kind{nth}" for nth in range(len(wanted)))
    return connection.execute(
        text(f"SELECT event_seq, size, kind, evidence FROM anchor WHERE kind IN ({marks}) ORDER BY event_seq"),
        {f"kind{nth}": kind for nth, kind in enumerate(wanted)},
    ).all()


def key_events(connection: Connection) -> list[Recorded]:
    """What became of the keys, the oldest first."""
    return recorded_of_types(connection, KEY_TYPES)


def sealing(store: AuditStore) -> Sealing:
    """How much is sealed and when that was last fixed."""
    with store.reading() as connection:
        row = connection.execute(
            text(
                """SELECT (SELECT coalesce(max(idx) + 1, 0) FROM leaf),
                          (SELECT count(*) FROM event WHERE seq > (SELECT coalesce(max(event_seq), 0) FROM leaf)),
                          (SELECT count(*) FROM checkpoint),
                          (SELECT count(*) FROM anchor),
                          (SELECT time FROM event WHERE type = 'checkpoint.signed' ORDER BY time DESC LIMIT 1)"""
            )
        ).one()
    return Sealing(*row)
