"""Rows of a database as frames, by SQLAlchemy: read-only, in batches, whatever it says kept out of messages.

What a driver says may hold a password, a host's name or a value of the data, so it is told in our words.
"""

import json
import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from audit.errors import BadData
from audit.settings import settings
from audit.spec.load import did_you_mean
from audit.spec.model import SourceTable

if TYPE_CHECKING:
    import polars as pl
    from sqlalchemy import URL, Connection, Engine, Executable

BATCH = 50_000  # rows that are fetched at a time
CONNECT_SECONDS = 10
_MAX_INTEGER = 2**63
# What a query of SQLite may do. ATTACH and VACUUM INTO would make files, whatever mode its own file is opened in.
_READS = (
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_TRANSACTION,
)  # fmt: skip
_ASKED = ("table_info", "table_xinfo", "read_uncommitted")  # pragmas of SQLAlchemy's own
_DENIED = ("not authorized", "authorization denied")  # SQLite's words for it
_EXTRAS = {"postgresql": "prefect-audit[postgres]", "mysql": "pymysql", "mariadb": "pymysql", "mssql": "pyodbc"}
_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"  # what a text in ISO 8601 looks like, to SQLite's GLOB
# Words of SQLite about names and grammar, never about values.
_ABOUT_SQL = re.compile(r"no such (?:table|column|function)|near |ambiguous column|incomplete input")


@dataclass(frozen=True, slots=True)
class Question:
    """What a database is to be asked."""

    said: str  # what an error begins with
    shown: str
    address: str
    url: str = field(repr=False)  # with its password: it goes to the driver and nowhere else
    table: str | None
    query: str | None
    columns: tuple[str, ...] = ()  # of the table, all that it has
    dated: tuple[str, ...] = ()  # those among them that the database itself knows as dates or times


@dataclass(frozen=True, slots=True)
class Between:
    """Rows whose `column` lies from `start` up to before `end`, or is missing."""

    column: str
    start: date
    end: date


def ask(table: SourceTable, folder: Path, *, said: str) -> Question:
    """The question that a source stands for, its table looked up; paths of SQLite are relative to `folder`.

    Raises BadData if the database cannot be reached, or does not have the table.
    """
    url = _url(table, folder, said)
    shown = f"table {table.table!r}" if table.table else "the query"
    question = Question(
        said, shown, address(table), url.render_as_string(hide_password=False), table.table, table.query
    )
    return _looked_up(question) if table.table else question


def address(table: SourceTable) -> str:
    """`postgresql://host/name?table=loans`: no user, no password, no parameter; a query by its digest."""
    from sqlalchemy.exc import ArgumentError

    part = f"table={table.table}" if table.table else f"query={sha256((table.query or '').encode()).hexdigest()[:12]}"
    try:
        url = _resolved(table, "")
    except (BadData, ArgumentError, ValueError):
        return f"database:?{part}"
    place = url.database or ""
    if _is_sqlite(url) and Path(place).is_absolute():
        place = Path(place).name
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host or ''}{port}/{place}?{part}"


def rows_of(
    question: Question,
    columns: Collection[str] | None = None,
    between: Between | None = None,
    limit: int | None = None,
) -> "pl.DataFrame":
    """The rows, in the order in which they come: of a table the `columns` that it has, of rows `between`.

    Raises BadData, in words that hold no value and no password.
    """
    import polars as pl

    batches: list[pl.DataFrame] = []
    with _connected(question) as connection, _told(question):
        result = _asked(connection, question, columns, between)
        if not result.returns_rows:
            raise BadData(f"{question.said}: {question.shown} gives no rows.", hint="A source only reads: SELECT …")
        names = list(result.keys())
        refuse_double(names, f"{question.said}: {question.shown}")
        left = limit
        for rows in result.partitions(BATCH if limit is None else min(BATCH, limit)):
            batches.append(_frame(names, rows[:left]))
            left = None if left is None else left - len(rows)
            if left is not None and left <= 0:
                break
    return _together(batches) if batches else pl.DataFrame(schema=dict.fromkeys(names, pl.Null()))


def tables(database: SourceTable, folder: Path, *, said: str) -> list[str]:
    """Names of the tables and views in a database's own schema. Raises BadData if it cannot be reached."""
    from sqlalchemy import inspect

    url = _url(database, folder, said).render_as_string(hide_password=False)
    question = Question(said, "the database", address(database), url, None, None)
    with _connected(question) as connection, _told(question):
        looked = inspect(connection)
        return sorted([*looked.get_table_names(), *looked.get_view_names()])


def refuse_double(names: Sequence[str], said: str) -> None:
    """Raise BadData if two columns have one name; the name is not shown, for without a header it is a value."""
    first_place: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        if name in first_place:
            places = f"{first_place[name]} and {place}"
            raise BadData(f"{said}: columns {places} have the same name.", hint="Rename or remove one.")
        first_place[name] = place


def _url(table: SourceTable, folder: Path, said: str) -> "URL":
    """The database's URL, with the driver that we know and an absolute path. Raises BadData."""
    from sqlalchemy.exc import ArgumentError

    try:
        url = _resolved(table, said)
    except (ArgumentError, ValueError):  # a port that is no number
        fix = "Write it as SQLAlchemy does: postgresql://host/name, sqlite:///file.db."
        raise BadData(f"{said}: the database's address is no URL.", hint=fix) from None
    if not _is_sqlite(url):
        return url
    path = folder / (url.database or "")
    if not url.database or not path.is_file():
        raise BadData(f"{said}: the SQLite file {url.database or ''} does not exist.", hint="Correct `database`.")
    return url.set(database=str(path.absolute()))


def _resolved(table: SourceTable, said: str) -> "URL":
    from sqlalchemy import make_url

    assert table.database
    url = table.database
    if "://" not in url:
        found = dict(settings().source_urls).get(url.lower())
        if found is None:
            variable = f"AUDIT_SOURCE_URL_{url.upper()}"
            raise BadData(f"{said}: {variable} is not set.", hint=f"It holds the address of the database {url!r}.")
        url = found
    made = make_url(url)
    return made.set(drivername="postgresql+psycopg") if made.drivername in ("postgresql", "postgres") else made


def _is_sqlite(url: "URL") -> bool:
    return url.get_backend_name() == "sqlite"


@contextmanager
def _connected(question: Question) -> "Iterator[Connection]":
    """A connection whose transaction only reads."""
    with _told(question):
        engine = _engine(question)
        connection = engine.connect()
    try:
        with _told(question):
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
                connection.exec_driver_sql("SET TIME ZONE 'UTC'")  # in which windows begin and end
                connection.commit()
        yield connection
    finally:
        connection.close()
        engine.dispose()


def _engine(question: Question) -> "Engine":
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.pool import NullPool

    url = make_url(question.url)
    if _is_sqlite(url):  # through a URI, so that a missing file is never made and nothing is written
        uri = f"file:{quote(str(url.database))}?mode=ro"
        return create_engine("sqlite://", creator=lambda: _reading(uri), poolclass=NullPool)
    patience = {"connect_timeout": CONNECT_SECONDS} if url.get_backend_name() in ("postgresql", "mysql") else {}
    return create_engine(url, connect_args=patience, poolclass=NullPool, hide_parameters=True)


def _reading(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True)
    connection.set_authorizer(
        lambda action, what, *_: (
            sqlite3.SQLITE_OK
            if action in _READS or (action == sqlite3.SQLITE_PRAGMA and what in _ASKED)
            else sqlite3.SQLITE_DENY
        )
    )
    return connection


@contextmanager
def _told(question: Question) -> Iterator[None]:
    """Whatever the database or its driver raises, as one line of ours."""
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError

    try:
        yield
    except (ModuleNotFoundError, NoSuchModuleError):
        raise _without_driver(question) from None
    except DBAPIError as error:
        raise _in_our_words(error, question) from None
    except (SQLAlchemyError, ValueError, OverflowError) as error:
        raise BadData(f"{question.said}: {question.shown} cannot be read ({type(error).__name__}).") from None


def _without_driver(question: Question) -> BadData:
    kind = question.address.partition(":")[0]
    package = _EXTRAS.get(kind, "")
    fix = f"Run `pip install '{package}'`." if package else "Install what SQLAlchemy needs for it."
    return BadData(f"{question.said}: the driver for {kind} is not installed.", hint=fix)


def _in_our_words(error: "Exception", question: Question) -> BadData:
    """What happened, without a value: names and grammar are the spec's own, all else is told by its kind."""
    raised = getattr(error, "orig", None)
    state, text = getattr(raised, "sqlstate", None) or "", str(raised)
    said, where = question.said, question.address.partition("?")[0]
    if "no password supplied" in text:
        fix = "Put its address with a password into AUDIT_SOURCE_URL_<NAME>, and `database: <name>` into the spec."
        return BadData(f"{said}: {where} asks for a password.", hint=fix)
    if state.startswith("28") or "authentication failed" in text:
        return BadData(f"{said}: {where} refuses this user or password.", hint="Correct AUDIT_SOURCE_URL_<NAME>.")
    if re.search(r'database "[^"]*" does not exist', text):
        return BadData(f"{said}: {where} does not exist.", hint="Correct the database's name.")
    if state == "42501":
        return BadData(f"{said}: {question.shown} of {where} may not be read.", hint="Grant SELECT to this user.")
    if state == "25006" or "readonly" in text or text in _DENIED:
        return BadData(f"{said}: {question.shown} would write.", hint="A source only reads: SELECT …")
    if state.startswith("42"):
        told = str(getattr(getattr(raised, "diag", None), "message_primary", "")).rstrip(".")
        return BadData(f"{said}: {question.shown}: {told}.", hint="Correct the SQL.")
    if isinstance(raised, sqlite3.Error) and _ABOUT_SQL.match(text):
        return BadData(f"{said}: {question.shown}: {text.splitlines()[0]}.", hint="Correct the SQL.")
    if not state and getattr(error, "statement", None) is None:
        return BadData(f"{said}: {where} cannot be reached.", hint="Is the host right, and does it answer?")
    return BadData(f"{said}: {question.shown} cannot be read ({type(raised).__name__}).", hint="Try it by hand.")


def _looked_up(question: Question) -> Question:
    """The question with the columns of its table. Raises BadData if there is none."""
    from sqlalchemy import Date, DateTime, inspect

    schema, name = _schema_and_name(question)
    with _connected(question) as connection, _told(question):
        looked = inspect(connection)
        known = [*looked.get_table_names(schema), *looked.get_view_names(schema)]
        columns = looked.get_columns(name, schema) if name in known else []
    if name not in known:
        near = did_you_mean(name, known)
        raise BadData(f"{question.said}: there is no table {question.table!r}.{near}", hint="Correct `table`.")
    dated = tuple(str(c["name"]) for c in columns if isinstance(c["type"], Date | DateTime))
    return replace(question, columns=tuple(str(c["name"]) for c in columns), dated=dated)


def _schema_and_name(question: Question) -> tuple[str | None, str]:
    schema, _, name = (question.table or "").rpartition(".")
    return schema or None, name


def _asked(
    connection: "Connection", question: Question, columns: Collection[str] | None, between: Between | None
) -> Any:
    """A result that comes in batches, from a cursor of the server where it has such."""
    options = {"stream_results": True, "yield_per": BATCH}
    if question.query:  # as it stands: no colon or percent sign of it means a parameter
        return connection.execution_options(**options, no_parameters=True).exec_driver_sql(question.query)
    return connection.execution_options(**options).execute(
        _selected(connection.dialect.name, question, columns, between)
    )


def _selected(
    dialect: str, question: Question, columns: Collection[str] | None, between: Between | None
) -> "Executable":
    from sqlalchemy import column, select, table

    schema, name = _schema_and_name(question)
    wanted = [c for c in question.columns if columns is None or c in columns]
    source = table(name, *(column(c) for c in question.columns), schema=schema)
    chosen = select(*(source.c[c] for c in wanted)) if wanted else select(source)
    if between is None or between.column not in question.columns:
        return chosen
    at = source.c[between.column]
    if dialect == "sqlite":  # dates are text there; what is no date comes too, to be found out later
        first, end = between.start.isoformat(), between.end.isoformat()
        return chosen.where(((at >= first) & (at < end)) | at.is_(None) | at.op("NOT GLOB")(_DAY))
    if between.column in question.dated:
        return chosen.where(((at >= between.start) & (at < between.end)) | at.is_(None))
    return chosen


def _frame(names: Sequence[str], rows: Sequence[Sequence[object]]) -> "pl.DataFrame":
    import polars as pl

    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pl.DataFrame([_series(name, list(values)) for name, values in zip(names, columns, strict=True)])


def _series(name: str, values: list[Any]) -> "pl.Series":
    """One column of a batch. What a file could not hold becomes text: UUIDs, JSON, times of day, networks, enums."""
    import polars as pl

    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Null)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds <= {int, Decimal, float}:
        return _numbers(name, values, kinds)
    if kinds == {datetime}:
        naive = [v.astimezone(UTC).replace(tzinfo=None) if v is not None and v.tzinfo else v for v in values]
        return pl.Series(name, naive, dtype=pl.Datetime("us"))
    if kinds == {date}:
        return pl.Series(name, values, dtype=pl.Date)
    if kinds <= {bytes, memoryview}:
        return pl.Series(name, [None if v is None else bytes(v) for v in values], dtype=pl.Binary)
    return pl.Series(name, [v if v is None or type(v) is str else _as_text(v) for v in values], dtype=pl.String)


def _numbers(name: str, values: list[Any], kinds: set[type]) -> "pl.Series":
    """Integers where all of them are, decimals too; one beyond 64 bits is kept as text, exactly."""
    import polars as pl

    if Decimal in kinds and all(v is None or (Decimal(v).is_finite() and v == int(v)) for v in values):
        values, kinds = [None if v is None else int(v) for v in values], {int}
    if kinds != {int}:
        return pl.Series(name, [None if v is None else float(v) for v in values], dtype=pl.Float64)
    if any(v is not None and not -_MAX_INTEGER <= v < _MAX_INTEGER for v in values):
        return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)
    return pl.Series(name, values, dtype=pl.Int64)


def _as_text(value: object) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _together(batches: "Sequence[pl.DataFrame]") -> "pl.DataFrame":
    """All batches; a column that is not of one type in all of them is a float where it is of numbers, else text."""
    import polars as pl

    kinds = {name: {batch.schema[name] for batch in batches} - {pl.Null()} for name in batches[0].columns}
    mixed = [name for name, found in kinds.items() if len(found) > 1 and found != {pl.Int64(), pl.Float64()}]
    texts = [batch.with_columns(_text_of(batch[name]) for name in mixed) for batch in batches]
    return pl.concat(texts, how="vertical_relaxed")


def _text_of(column: "pl.Series") -> "pl.Series":
    import polars as pl

    return column.bin.encode("hex") if column.dtype == pl.Binary else column.cast(pl.String)
