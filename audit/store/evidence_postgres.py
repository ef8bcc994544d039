"""`evidence` of a PostgreSQL database. It takes SELECT on the schema's tables and views, no more.

One transaction of REPEATABLE READ; no index is used where that could hide a row, names are the schema's own, rows come
by cursors of the server, so that memory stays flat. What the server answers is believed: whoever can replace the
server, or write to its own catalogs, answers what they like. A copy restored elsewhere does not.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from audit.errors import StoreBusy, StoreUnavailable
from audit.events.event import ENVELOPE_KEYS, MAX_ENVELOPE, SCHEMA_VERSION
from audit.store import schema_postgres
from audit.store.engine import BUSY_SECONDS, BUSY_STATES, NOT_PERMITTED
from audit.store.evidence import LARGEST, LOWEST, Columns, Damage, Odd, Row, Rows, demand_schema

if TYPE_CHECKING:
    import psycopg

AT_ONCE = 1_000  # rows that come in one answer
SORTING = "64MB"  # of the server's memory, for each of the readings that are open at once; beyond it files
UNASKED = (
    "Indexes were not held against the rows, for that takes PostgreSQL's extension amcheck and a role that may call "
    "it. What was read here was read without them."
)
CORRUPT = ("XX001", "XX002")  # data_corrupted, index_corrupted

# A role, a database or whoever started the server may have set any of these to something else.
_SETTINGS = (
    "search_path TO audit, pg_temp",  # PostgreSQL's own names come before either
    "row_security TO off",  # a policy that hides rows is an error then
    *(f"enable_{way} TO off" for way in ("indexscan", "indexonlyscan", "bitmapscan")),
    "transform_null_equals TO off",
    "standard_conforming_strings TO on",
    "cursor_tuple_fraction TO 1",
    "jit TO off",
    f"work_mem TO '{SORTING}'",
    "statement_timeout TO 0",
    "idle_in_transaction_session_timeout TO 0",
)

# Behind OFFSET the planner does not know what a unique index or NOT NULL promises. It believes them: a row that is
# there twice would be joined once, one that has no number be taken for one that has.
_EVENT, _PAYLOAD, _LEAF, _WITHDRAWAL, _NODE, _CHECKPOINT, _ANCHOR = (
    f"(SELECT * FROM ONLY audit.{name} OFFSET 0)"
    for name in ("event", "payload", "leaf", "withdrawal", "node", "checkpoint", "anchor")
)
_UNSEALED = f"NOT EXISTS (SELECT FROM {_LEAF} l WHERE l.event_seq = e.seq AND l.idx IS NOT NULL)"
_SIZE = f"(SELECT least(coalesce(max(idx), -1), {LARGEST - 1}) + 1 FROM {_LEAF} l)"
_AFTER_LEAVES = f"least({_SIZE}::numeric + row_number() OVER (ORDER BY e.seq), {LARGEST})::bigint"
_OF_LEAF = f"least(l.idx, {LARGEST - 1}) + 1"
# seq and place of every event; of one that two leaves claim, both.
_PLACES = f"""(SELECT l.event_seq AS seq, {_OF_LEAF} AS place FROM {_LEAF} l WHERE l.idx IS NOT NULL
  UNION ALL SELECT e.seq, {_AFTER_LEAVES} FROM {_EVENT} e WHERE {_UNSEALED})"""
# row_to_json escapes as orjson does, and where it need not escape at all there is one way to write it.
_SAYS_THE_SAME = f"""coalesce(e.schema_version = {SCHEMA_VERSION}
  AND octet_length(e.envelope) <= {MAX_ENVELOPE} AND octet_length(e.envelope) = length(e.envelope)
  AND strpos(e.envelope, '\\') = 0
  AND row_to_json(said)::text COLLATE "C" = e.envelope COLLATE "C", false)"""
_SAID = f"CROSS JOIN LATERAL (SELECT {', '.join(f'e.{key}' for key in sorted(ENVELOPE_KEYS))}) said"
_CELLS = ("envelope", *ENVELOPE_KEYS)
_AS_TEXT = ", ".join(f"{name}::text" for name in _CELLS)
_PLAIN = "p.salt IS NOT NULL AND p.body IS NOT NULL"

_STRAYS = (  # query, what it is, what is wrong with it
    (
        f"""SELECT p.event_seq FROM {_PAYLOAD} p
             WHERE NOT EXISTS (SELECT FROM {_EVENT} e WHERE e.seq = p.event_seq)
               AND NOT EXISTS (SELECT FROM {_LEAF} l WHERE l.event_seq = p.event_seq AND l.idx IS NOT NULL)""",
        "payload at event_seq {}",
        "belongs to no event",
    ),
    (
        f"SELECT seq FROM {_EVENT} e WHERE seq < 1 OR seq IS NULL",
        "event at seq {}",
        "stands where it does not belong",
    ),
    (f"SELECT seq FROM {_EVENT} e GROUP BY seq HAVING count(*) > 1", "event at seq {}", "is there twice"),
    (f"SELECT id FROM {_EVENT} e GROUP BY id HAVING count(*) > 1", "event {}", "is there twice"),
    (f"SELECT event_seq FROM {_LEAF} l WHERE idx IS NULL", "leaf of event_seq {}", "has no index"),
    (
        f"""SELECT max(idx), min(idx) FROM {_LEAF} l WHERE event_seq IS NOT NULL
             GROUP BY event_seq HAVING count(*) > 1""",
        "leaf {}",
        "is of the same event as leaf {}",
    ),
    (  # sealing gives leaves in the order of seq; only between two sealings may a commit come late
        f"""SELECT idx, event_seq, before FROM
              (SELECT idx, event_seq, lag(event_seq) OVER (ORDER BY idx) AS before FROM {_LEAF} l) l
             WHERE event_seq <= before AND NOT EXISTS
               (SELECT FROM {_CHECKPOINT} c WHERE c.size = l.idx) ORDER BY idx""",
        "leaf {}",
        "its event has seq {}, the one before has {}: numbers were changed",
    ),
)


@contextmanager
def snapshot_of_database(url: URL, name: str) -> Iterator["PostgresSnapshot"]:
    """The database as it is from now on; `name` as people know it. Raises StoreUnavailable, StoreBusy."""
    import psycopg
    from psycopg import IsolationLevel

    with _named(name):
        connection = psycopg.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False),
            client_encoding="SQL_ASCII",  # text as the bytes that are there
            connect_timeout=BUSY_SECONDS,
            application_name="prefect-audit",
        )
        with connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            for setting in (*_SETTINGS, f"lock_timeout TO '{BUSY_SECONDS}s'"):
                connection.execute(f"SET LOCAL {setting}")
            found = PostgresSnapshot(connection)
            _demand_ours(found, name)
            yield found


@dataclass(frozen=True, slots=True)
class PostgresSnapshot:
    """What `evidence.Snapshot` says, by a connection that sees one moment."""

    connection: "psycopg.Connection[Row]"
    _numbers: Iterator[int] = field(default_factory=count, repr=False)  # of cursors
    engine = "PostgreSQL"
    numbers = "place"

    def oddities(self) -> list[Odd]:
        return schema_postgres.oddities(self.said)

    def readable(self) -> bool:
        return schema_postgres.readable(self.said)

    def encoding(self) -> str:
        """Of the database; PostgreSQL has other names for what is the same."""
        ((encoding,),) = self.said("SHOW server_encoding")
        return "UTF-8" if encoding == "UTF8" else str(encoding)

    def damage(self) -> Damage:
        """By the extension amcheck, where it is installed and this role may call it."""
        can = self.said(
            """SELECT n.nspname FROM pg_extension x JOIN pg_namespace n ON n.oid = extnamespace
                WHERE extname = 'amcheck' AND has_schema_privilege(n.oid, 'USAGE') AND NOT EXISTS
                  (SELECT FROM pg_proc WHERE pronamespace = n.oid AND proname IN ('bt_index_check', 'verify_heapam')
                     AND NOT has_function_privilege(oid, 'EXECUTE'))"""
        )
        if not can:
            return Damage(unasked=UNASKED)
        ((schema,),) = can
        tables = "FROM pg_class WHERE relnamespace = 'audit'::regnamespace AND relkind"
        heaps = [oid for (oid,) in self.said(f"SELECT oid {tables} = 'r'")]
        indexes = [oid for (oid,) in self.said(f"SELECT oid {tables} = 'i'")]
        found = f"""SELECT format('%s, block %s: %s', c.relname, blkno, msg)
                      FROM pg_class c, LATERAL "{schema}".verify_heapam(c.oid) WHERE c.oid = """
        return Damage(
            pages=[said for heap in heaps for (said,) in self.said(f"{found}{heap}")],
            indexes=[*self._refusals(f'SELECT "{schema}".bt_index_check(%s::oid::regclass, true)', indexes)],
        )

    def strays(self) -> Iterator[tuple[str, str]]:
        for query, about, what in _STRAYS:
            for first, *others in (map(_readable, row) for row in self._rows(query)):
                yield about.format(first), what.format(*others)

    def tree_size(self) -> int:
        ((size,),) = self._rows(f"SELECT {_SIZE}")
        return int(size)

    def last_place(self) -> int:
        ((waiting,),) = self._rows(f"SELECT count(*) FROM {_EVENT} e WHERE {_UNSEALED}")
        return self.tree_size() + int(waiting)

    def envelopes(self, count: int) -> Rows:
        return self._rows(
            f"""SELECT e.envelope FROM {_EVENT} e JOIN {_PLACES} places USING (seq) WHERE place <= {count}
                 ORDER BY place"""
        )

    def events(self, after: int) -> Rows:
        """With the columns themselves behind, where they do not say the same, or not in the one way there is."""
        said = f"e.*, {_SAYS_THE_SAME} AS agrees FROM {_EVENT} e {_SAID}"
        found = f"""(SELECT {_OF_LEAF} AS place, {said} JOIN {_LEAF} l ON l.event_seq = e.seq
                      WHERE l.idx >= {_from(after, 0)}
                     UNION ALL SELECT {_AFTER_LEAVES}, {said} WHERE {_UNSEALED} OFFSET 0) e"""
        return self._rows(
            f"""SELECT place, envelope, agrees, type, recorded_at, payload_hash,
                       CASE WHEN NOT agrees THEN ARRAY[{_AS_TEXT}] END FROM {found} ORDER BY place"""
        )

    def columns(self, row: Row) -> Columns:
        return {name: _column(name, cell) for name, cell in zip(_CELLS, row[6], strict=True)}

    def payloads(self, after: int) -> Rows:
        return self._rows(
            f"""SELECT place, p.salt, p.body, {_PLAIN}, p.event_seq FROM {_PAYLOAD} p
                  JOIN {_PLACES} places ON places.seq = p.event_seq WHERE place >= {_from(after + 1, 1)}
                 ORDER BY place"""
        )

    def leaves(self, first: int) -> Rows:
        """The place of its event is what the leaf says it is: if there is none there, it is missing."""
        return self._rows(
            f"""SELECT idx, {_OF_LEAF}, hash, hash IS NOT NULL FROM {_LEAF} l
                 WHERE idx >= {_from(first, 0)} ORDER BY idx"""
        )

    def nodes(self) -> Rows:
        return self._rows(f"SELECT level, idx, hash, hash IS NOT NULL FROM {_NODE} n")

    def checkpoints(self) -> Rows:
        return self._rows(f"SELECT coalesce(size, -1), note, note IS NOT NULL FROM {_CHECKPOINT} c ORDER BY 1")

    def anchors(self) -> Rows:
        return self._rows(
            f"""SELECT place, size, kind, evidence, size IS NOT NULL AND kind IS NOT NULL AND evidence IS NOT NULL,
                       event_seq
                  FROM {_ANCHOR} a LEFT JOIN {_PLACES} places ON seq = event_seq ORDER BY event_seq"""
        )

    def withdrawn(self, after: int) -> Rows:
        return self._rows(
            f"""SELECT place FROM {_WITHDRAWAL} w JOIN {_PLACES} places ON seq = event_seq WHERE place > {after}
                 ORDER BY place"""
        )

    def withdrawals(self) -> Rows:
        return self._rows(
            f"""SELECT its.place, permit.place, e.envelope,
                       EXISTS (SELECT FROM {_PAYLOAD} p WHERE p.event_seq = w.event_seq), w.event_seq, w.by_event_seq
                  FROM {_WITHDRAWAL} w LEFT JOIN {_EVENT} e ON e.seq = w.event_seq
                  LEFT JOIN {_PLACES} its ON its.seq = e.seq
                  LEFT JOIN ({_EVENT} by JOIN {_PLACES} permit ON permit.seq = by.seq) ON by.seq = w.by_event_seq
                 ORDER BY permit.place NULLS FIRST, its.place"""
        )

    def permits(self, types: Sequence[str]) -> Rows:
        return self._rows(
            f"""{self._events_with_payload()}
                 WHERE e.type = ANY(%s) OR e.seq IN (SELECT by_event_seq FROM {_WITHDRAWAL} w) ORDER BY place""",
            list(types),
        )

    def unwithdrawn(self, ids: Iterable[str]) -> Rows:
        return self._rows(
            f"""SELECT place, e.envelope, e.id FROM {_EVENT} e JOIN {_PLACES} places USING (seq)
                  JOIN {_PAYLOAD} p ON p.event_seq = e.seq
                 WHERE e.id = ANY(%s) AND NOT EXISTS (SELECT FROM {_WITHDRAWAL} w WHERE w.event_seq = e.seq)
                 ORDER BY place""",
            sorted(ids),
        )

    def of_types(self, types: Sequence[str], upto: int) -> Rows:
        return self._rows(
            f"{self._events_with_payload()} WHERE e.type = ANY(%s) AND place <= %s ORDER BY place", list(types), upto
        )

    def task_runs(self) -> Rows:
        return self._rows(
            f"""SELECT flow_run_id, task_run_id, min(place) FROM {_EVENT} e JOIN {_PLACES} places USING (seq)
                 WHERE type >= 'task_run.' AND type < 'task_run/'
                   AND flow_run_id IS NOT NULL AND task_run_id IS NOT NULL
                 GROUP BY flow_run_id, task_run_id ORDER BY flow_run_id, task_run_id"""
        )

    def hashes(self, level: int, first: int, end: int) -> list[bytes]:
        """By the index: what these come to is held against a root, so an index that lies cannot make it fit."""
        table = "ONLY audit.node WHERE level = %s AND" if level else "ONLY audit.leaf WHERE 0 = %s AND"
        query = f"SELECT hash FROM {table} idx >= %s AND idx < %s AND octet_length(hash) = 32 ORDER BY idx"
        with self.connection.transaction(), self.connection.cursor(binary=True) as cursor:
            cursor.execute("SET LOCAL enable_indexscan TO on")
            found = [row[0] for row in cursor.execute(query, (level, first, end))]
            cursor.execute("SET LOCAL enable_indexscan TO off")
            return found

    def said(self, query: str) -> list[tuple[Any, ...]]:
        """Few rows, with text as people read it."""
        return [tuple(map(_readable, row)) for row in self.connection.execute(query)]

    def _rows(self, query: str, *values: object) -> "Stream":
        return Stream(self.connection, f"reading_{next(self._numbers)}", query, values)

    def _refusals(self, query: str, oids: Iterable[int]) -> Iterator[str]:
        """What PostgreSQL says where a check fails."""
        import psycopg

        for oid in oids:
            try:
                with self.connection.transaction():
                    self.connection.execute(query, (oid,))
            except psycopg.Error as failed:
                if failed.sqlstate not in CORRUPT:
                    raise
                yield _first_line(failed)

    @staticmethod
    def _events_with_payload() -> str:
        return f"""SELECT place, e.envelope, p.salt, p.body, {_PLAIN} FROM {_EVENT} e JOIN {_PLACES} places USING (seq)
                     LEFT JOIN {_PAYLOAD} p ON p.event_seq = e.seq"""


class Stream:
    """Rows by a cursor of the server, which has them all; here there are never more than AT_ONCE."""

    def __init__(self, connection: "psycopg.Connection[Row]", name: str, query: str, values: Sequence[object]) -> None:
        self._cursor = connection.cursor(name, binary=True)
        self._cursor.execute(query, values or None)
        self._ahead: list[Row] = []

    def fetchmany(self, size: int) -> list[Row]:
        if len(self._ahead) < size and not self._cursor.closed:
            self._ahead += (rows := self._cursor.fetchmany(asked := max(size, AT_ONCE)))
            if len(rows) < asked:  # the server keeps what it sorted until then
                self._cursor.close()
        found, self._ahead = self._ahead[:size], self._ahead[size:]
        return found

    def __iter__(self) -> Iterator[Row]:
        while rows := self.fetchmany(AT_ONCE):
            yield from rows


def _from(first: int, least: int) -> int:
    """Where a reading begins: one of all rows at the lowest number there is, for a row may hide below the `least`."""
    return first if first > least else LOWEST


def _column(name: str, cell: bytes | None) -> tuple[str, Any]:
    if cell is None:
        return "null", None
    return ("integer", int(cell)) if name == "schema_version" else ("text", cell)


def _readable(value: Any) -> Any:
    if isinstance(value, list):
        return [_readable(one) for one in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn the driver's errors into one line that names the store and the way out."""
    import psycopg

    try:
        yield
    except psycopg.Error as failed:
        if failed.sqlstate in BUSY_STATES:
            raise StoreBusy(f"{name} is locked by another process.", hint="Try again, or verify a copy.") from failed
        hint = "Is the server up, and is this the right host, database, user and password?"
        if failed.sqlstate == NOT_PERMITTED:
            hint = "It takes SELECT on every table and view of the schema audit: see docs/postgres.md."
        elif failed.sqlstate:
            hint = "Verify a copy of it, restored elsewhere."
        raise StoreUnavailable(f"{name} cannot be read ({_first_line(failed)}).", hint=hint) from failed


def _first_line(failed: "psycopg.Error") -> str:
    return next(iter(str(failed).splitlines()), type(failed).__name__)


def _demand_ours(found: PostgresSnapshot, name: str) -> None:
    tables = {
        table
        for (table,) in found.said(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('audit') AND relkind = 'r'"
        )
    }
    if not tables:
        raise StoreUnavailable(
            f"{name} has no audit store.", hint="If it had one, keep it as it is and bring back a copy."
        )
    if "alembic_version" not in tables or tables.isdisjoint(schema_postgres.TABLES.keys() - {"alembic_version"}):
        raise StoreUnavailable(f"{name} is a database of another application.", hint="Name another with --store.")
    demand_schema(name, [row[0] for row in found.said("SELECT version_num FROM ONLY audit.alembic_version")])
