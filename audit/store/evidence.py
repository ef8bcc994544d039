"""The store's rows as evidence: read as they lie there, which may be anybody's doing, and never changed.

One snapshot, read-only, each table by a scan of its own: a join or an index could pass over a row. TEXT comes as
bytes, for what is no UTF-8 would otherwise end the reading.

Rows go by *place*: one more than the leaf's index for a sealed event; those that wait follow in the order of their
numbers. In SQLite, where one writer counts, an event's place is its seq; in PostgreSQL seq has gaps and commits late.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from audit.errors import StoreUnavailable
from audit.store.engine import HEAD, AuditStore

LOWEST, LARGEST = -(2**63), 2**63 - 1

Row = tuple[Any, ...]
Columns = dict[str, tuple[str, Any]]  # storage class and value of each of an event's columns


@dataclass(frozen=True, slots=True)
class Odd:
    """A table, index, view or trigger that the migrations make otherwise, or that is missing, or is none of theirs."""

    kind: str
    name: str
    how: Literal["changed", "missing", "strange"]


@dataclass(frozen=True, slots=True)
class Damage:
    """What the database says of its own files; empty where all fits."""

    pages: Sequence[str] = ()  # that cannot be relied on
    indexes: Sequence[str] = ()  # and keys: rows that they pass over, or that there should not be
    unasked: str = field(default="")  # why it could not be asked, and what that leaves open


class Rows(Protocol):
    """What a query found, read as it is asked for."""

    def fetchmany(self, size: int, /) -> list[Any]:
        """The next ones, at most `size`; none at the end."""

    def __iter__(self) -> Iterator[Any]: ...


class Snapshot(Protocol):
    """The store as it was at one moment. Numbers of rows are places unless they are called seq."""

    @property
    def engine(self) -> str:
        """The database's name."""

    @property
    def numbers(self) -> str:
        """What people call a place here: `seq` where it is one."""

    def oddities(self) -> list[Odd]:
        """What is defined otherwise than the migrations define it, what is missing and what else there is."""

    def readable(self) -> bool:
        """Whether each table can be read for what it should be, though it may be defined otherwise: it is a table, and
        its columns are those that were made."""

    def encoding(self) -> str:
        """How text is kept. Another encoding than UTF-8 was not our doing."""

    def damage(self) -> Damage:
        """What the database says of pages, keys and indexes that do not fit."""

    def strays(self) -> Iterator[tuple[str, str]]:
        """(what, what is wrong with it) of rows that have no place, or share it, and so stand in no other reading."""

    def tree_size(self) -> int:
        """Leaves, if none is missing."""

    def last_place(self) -> int: ...

    def envelopes(self, count: int) -> Rows:
        """(envelope) of the first `count` events."""

    def events(self, after: int) -> Rows:
        """(place, envelope, whether the columns are what it says, type, recorded_at, payload_hash, …), in order.

        Columns and envelope are compared by the database, which may find that they differ though they say the same.
        """

    def columns(self, row: Row) -> Columns:
        """Each column of an event of which the database says that they differ, the envelope too."""

    def payloads(self, after: int) -> Rows:
        """(place of its event, salt, body, whether they are BLOB and TEXT, event seq), in order."""

    def leaves(self, first: int) -> Rows:
        """(leaf index, place of its event, hash, whether it is a BLOB), in the order of leaf indexes."""

    def nodes(self) -> Rows:
        """(level, index, hash, whether it is a BLOB)."""

    def checkpoints(self) -> Rows:
        """(size, note, whether it is TEXT), in the order of sizes."""

    def anchors(self) -> Rows:
        """(place of the event that tells of it, size, kind, evidence, whether these are TEXT and BLOB, event seq)."""

    def withdrawn(self, after: int) -> Rows:
        """(place) of the events whose payload was withdrawn, in order."""

    def withdrawals(self) -> Rows:
        """(place of the event, place of the event that permits it, the event's envelope, whether the payload is there,
        event seq, seq of the event that permits it), in the order of who permits; None for what is not there."""

    def permits(self, types: Sequence[str]) -> Rows:
        """(place, envelope, salt, body, whether these are BLOB and TEXT) of all events of these types and all others
        that a withdrawal names as its permission, in order."""

    def unwithdrawn(self, ids: Iterable[str]) -> Rows:
        """(place, envelope, id) of those of these events whose payload is there and has no withdrawal."""

    def of_types(self, types: Sequence[str], upto: int) -> Rows:
        """(place, envelope, salt, body, whether these are BLOB and TEXT) of these events at or below a place."""

    def task_runs(self) -> Rows:
        """(flow run, task run, place of its first event) of all task runs within flow runs, sorted by both ids."""

    def hashes(self, level: int, first: int, end: int) -> list[bytes]:
        """Stored hashes of neighbouring rows of the tree; fewer where some are missing or are none."""


def snapshot(store: AuditStore) -> AbstractContextManager[Snapshot]:
    """The store as it is from now on.

    Raises StoreUnavailable if there is none, it is no audit store, of another schema, locked or damaged.
    """
    if store.path is not None:
        from audit.store.evidence_sqlite import snapshot_of_file

        return snapshot_of_file(store.path)
    from audit.store.evidence_postgres import snapshot_of_database

    return snapshot_of_database(store.engine.url, store.name)


def demand_schema(name: str, versions: Sequence[object]) -> None:
    """Raises StoreUnavailable unless the store is of the schema that this release reads."""
    if versions == [HEAD]:
        return
    shown = ", ".join(map(str, versions)) or "none"
    newer = any(str(version) > HEAD for version in versions)
    raise StoreUnavailable(
        f"{name} has schema {shown}, this release reads {HEAD}.",
        hint="Update prefect-audit." if newer else "Run `audit init`, which brings it up, then verify.",
    )
