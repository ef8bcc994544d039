"""Read a spec's sources for a window, handle personal columns, store the result: the first artifact there is.

Polars reads files lazily and in a streaming way: of a file larger than memory only the window's declared columns
come into it. A database is asked for no more than them either. No message holds a value of the data.
"""

import calendar
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import datasets
from audit.errors import BadData, KeyUnavailable, NoRows, NotYet, SpecError, StoreUnavailable
from audit.events.payloads import Masking, Named, Source
from audit.events.references import DatasetVersion, Window
from audit.privacy import redact
from audit.privacy.handling import Coarser, Plan, handle, plan_of
from audit.privacy.mask_key import fingerprint, read_mask_key
from audit.recording.changes import last_change, note_change
from audit.settings import settings
from audit.spec import databases
from audit.spec.load import did_you_mean, first_line, folder_of, refuse_files, where
from audit.spec.model import Column, Spec
from audit.spec.sources import SAMPLE_ROWS, OpenTable, in_type, open_table, polars_type, scan
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames

if TYPE_CHECKING:
    import polars as pl

MORE_KEYS = 4  # columns beside the event time by which rows are ordered at first
_NO_COLUMN = re.compile(r"""(?:unable to find column|no column named) ["'](.*?)["']""")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .-]{0,40}")  # a header cell that may be shown
_QUOTES = re.compile(r'["`]')
_BAD = "\x00bad "  # prefix of the columns that mark values of another type

log = logging.getLogger("audit")


@dataclass(frozen=True, slots=True)
class Ingested:
    """Handled rows in a fixed order, and what was done to come to them."""

    frame: "pl.DataFrame"
    sources: list[Source]
    plan: Plan
    transformations: list[str]
    details: dict[str, dict[str, object]]  # of each source: what its digest is of


@dataclass(frozen=True, slots=True)
class _Table:
    """A source, and the rows that its database gave; those of a file are still there."""

    opened: OpenTable
    rows: "pl.DataFrame | None" = None

    def scan(self, spec: Spec, sample: int | None) -> "pl.LazyFrame":
        if self.rows is not None:
            return self.rows.lazy()
        return scan(self.opened, {c.name for c in spec.columns if c.dtype == "string" or c.date_format}, sample)

    def details(self) -> dict[str, object]:
        if self.rows is None:
            return {"address": self.opened.address, "bytes": self.opened.size}
        return {"address": self.opened.address, "rows": self.rows.height, "columns": ", ".join(self.rows.columns)}


def read_sources(spec: Spec, window: Window | None, key: bytes) -> Ingested:
    """Rows of `window` (all, if None) as the spec declares them, personal columns handled with `key`.

    Raises SpecError for a column that is not there, BadData for what cannot be read.
    """
    tables = [_table(name, spec, window) for name in spec.sources]
    sample: int | None = SAMPLE_ROWS
    try:
        joined, sources, raw = _collected(tables, spec, window, sample)
    except _Guessed:
        joined, sources, raw = _collected(tables, spec, window, sample := None)
    _refuse_bad_values(joined, spec)
    timeless = joined[spec.event_time].null_count() if spec.event_time else 0
    rows = joined.drop_nulls(spec.event_time) if spec.event_time else joined
    if rows.is_empty():
        raise _no_rows(tables, spec, window, sample)
    coarser = {column.name: _coarser(column) for column in spec.columns if column.generalise}
    plan = plan_of(raw, {column.name: spec.handling(column) for column in spec.columns}, coarser)
    frame = in_order(handle(rows, plan, key), spec)
    plan = replace(plan, undeclared=_shown(plan.undeclared, list(raw)))
    details = {table.opened.name: table.details() for table in tables}
    return Ingested(frame, sources, plan, list(_transformations(spec, window, plan, raw, timeless)), details)


def mask_key() -> bytes:
    """The mask key. Raises KeyUnavailable if it is gone, or another than the one on record: with it new rows would
    silently match no old ones."""
    key = read_mask_key(settings().keys_path)
    try:
        made = next(read.events(open_store(), types=("key.created",), newest_first=False, limit=1), None)
    except StoreUnavailable as error:
        log.warning("Whether the mask key is the recorded one cannot be told: %s", error)
        return key
    if made and made.payload["fingerprint"] != fingerprint(key):
        raise KeyUnavailable(
            f"keys/mask.key has fingerprint {fingerprint(key)}, the record says {made.payload['fingerprint']}.",
            hint="Put the right key back; with another one new rows no longer match old ones.",
        )
    return key


def in_order(frame: "pl.DataFrame", spec: Spec) -> "pl.DataFrame":
    """Rows by event time, then by the other columns as far as it takes: joins keep no order, digests count it."""
    names = sorted(frame.columns, key=lambda name: name != spec.event_time)
    few = frame.sort(names[: 1 + MORE_KEYS], nulls_last=True)
    return frame.sort(names, nulls_last=True) if few.select(names[: 1 + MORE_KEYS]).is_duplicated().any() else few


class _Guessed(Exception):
    """Types were guessed from the first rows and did not fit later ones."""


def _table(name: str, spec: Spec, window: Window | None) -> _Table:
    opened = open_table(name, spec.sources[name], folder_of(spec), said=where(spec, "sources", name))
    if opened.database is None:
        return _Table(opened)
    wanted = _wanted(opened.database.columns, spec)
    return _Table(opened, databases.rows_of(opened.database, wanted, _between(spec, window)))


def _wanted(present: Sequence[str], spec: Spec) -> set[str]:
    """The columns of a database's table that are read: the declared ones, or those that the spec's query mentions."""
    if spec.query is None:
        return {column.name for column in spec.columns}
    said = _QUOTES.sub("", spec.query).casefold()
    if "*" in said or "natural" in said:
        return set(present)
    return {name for name in present if _QUOTES.sub("", name).casefold() in said}


def _between(spec: Spec, window: Window | None) -> databases.Between | None:
    """The window as a database is asked for it; where tables are joined, the join needs all rows."""
    if window is None or spec.event_time is None or spec.query is not None:
        return None
    return databases.Between(spec.event_time, window.start, window.end)


def _collected(
    tables: Sequence[_Table], spec: Spec, window: Window | None, sample: int | None
) -> tuple["pl.DataFrame", list[Source], dict[str, "pl.DataType"]]:
    """The declared columns in their declared types with marks for bad values, the sources, and the raw schema."""
    import polars as pl

    frames_of = {table.opened.name: table.scan(spec, sample) for table in tables}
    try:
        refuse_files(spec, {name: frame.collect_schema() for name, frame in frames_of.items()})
        raw = _joined(frames_of, spec)
        schema = dict(raw.collect_schema())
        present = _present(schema, tables, spec)
        _refuse_missing_columns(spec, list(present))
        counts = [_counted(table.opened, frames_of[table.opened.name]) for table in tables]
        wanted = _in_window(_cast(raw, spec, schema), spec, window)
        rows, *lengths = pl.collect_all([wanted, *counts], engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise _unreadable(error, spec, list(frames_of.values()), sample) from None
    sources = [_source(table, length.item()) for table, length in zip(tables, lengths, strict=True)]
    return rows, sources, present


def _counted(table: OpenTable, frame: "pl.LazyFrame") -> "pl.LazyFrame":
    """How many rows there are; those of a CSV file are counted already, and Polars would map the whole file for it."""
    import polars as pl

    return frame.select(pl.len()) if table.rows is None else pl.LazyFrame({"len": [table.rows]})


def _present(schema: "dict[str, pl.DataType]", tables: Sequence[_Table], spec: Spec) -> "dict[str, pl.DataType]":
    """The columns that there are, with those of a database's table that were not read."""
    import polars as pl

    if spec.query is not None or not tables[0].opened.database:
        return schema
    return dict.fromkeys(tables[0].opened.database.columns, pl.Null()) | schema


def _source(table: _Table, rows: int) -> Source:
    """A source as it goes on record. What a database gave is hashed row by row in an order of its own: without ORDER BY
    it gives the same rows in another one."""
    digest = table.opened.digest
    if table.rows is not None:
        digest = datasets.digest(table.rows.sort(table.rows.columns, nulls_last=True))
    return Source(name=table.opened.name, address=redact.text(table.opened.address), rows=rows, digest=digest)


def _shown(names: Sequence[str], present: list[str]) -> tuple[str, ...]:
    """Column names that nobody declared, as they may be told: one that is no plain name by its place."""
    return tuple(name if _is_plain(name) else f"column {present.index(name) + 1}" for name in names)


def _is_plain(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and redact.text(name) == name


def _joined(tables: dict[str, "pl.LazyFrame"], spec: Spec) -> "pl.LazyFrame":
    import polars as pl

    if spec.query is None:
        return next(iter(tables.values()))
    return pl.SQLContext(tables).execute(spec.query, eager=False)


def _refuse_missing_columns(spec: Spec, present: list[str]) -> None:
    for index, column in enumerate(spec.columns):
        if column.name not in present:
            raise SpecError(
                f"{where(spec, 'columns', index, 'name')}: column {column.name!r} is not in the source."
                + did_you_mean(column.name, filter(_is_plain, present))
            )


def _cast(raw: "pl.LazyFrame", spec: Spec, schema: dict[str, "pl.DataType"]) -> "pl.LazyFrame":
    """Declared columns in their types; beside each that was cast, a mark where a value could not be."""
    import polars as pl

    wanted: list[pl.Expr] = []
    for column in spec.columns:
        found, given = pl.col(column.name), schema[column.name]
        cast = in_type(found, given, column.dtype, column.date_format)
        wanted.append(cast.alias(column.name))
        if given != polars_type(column.dtype):
            there = found.is_not_nan() & found.is_not_null() if given.is_float() else found.is_not_null()
            wanted.append((there & cast.is_null()).alias(_BAD + column.name))
    return raw.select(wanted)


def _in_window(rows: "pl.LazyFrame", spec: Spec, window: Window | None) -> "pl.LazyFrame":
    """Rows of the window, and those without an event time, which are counted before they go."""
    import polars as pl

    if window is None or spec.event_time is None:
        return rows
    time = pl.col(spec.event_time)
    return rows.filter(((time >= window.start) & (time < window.end)) | time.is_null())


def _refuse_bad_values(rows: "pl.DataFrame", spec: Spec) -> None:
    for index, column in enumerate(spec.columns):
        mark = _BAD + column.name
        bad = int(rows[mark].sum()) if mark in rows.columns else 0
        if bad:
            values = "1 value is" if bad == 1 else f"{bad:,} values are"
            raise BadData(
                f"{where(spec, 'columns', index, 'dtype')}: {values} no {column.dtype} in column {column.name!r}.",
                hint="Correct the source, or `dtype`, or name what stands for missing in `null_values`.",
            )


def _no_rows(tables: Sequence[_Table], spec: Spec, window: Window | None, sample: int | None) -> NoRows:
    if window is None or spec.event_time is None:
        return NoRows(f"{spec.name} has no rows at all.", hint="Look at its sources and its query.")
    times = _times(tables, spec, sample)
    if times.is_empty():
        return NoRows(f"{spec.name} has no rows at all.", hint="Look at its sources and its query.")
    first, last = _day(times.min()), _day(times.max())
    side = f"the data ends {last}" if last < window.start else f"the data begins {first}"
    if first < window.start <= last:
        side = "the data has a gap there"
    kind = NotYet if last < window.start else NoRows
    return kind(
        f"{in_words(window)} has no rows in {spec.name} ({side}).", hint=f"Choose a window inside {first} … {last}."
    )


def _times(tables: Sequence[_Table], spec: Spec, sample: int | None) -> "pl.Series":
    """Every event time there is, whatever the window; a database is asked anew, for it gave the window alone."""
    import polars as pl

    column = next(column for column in spec.columns if column.name == spec.event_time)
    table, *others = tables
    if table.opened.database and not others and spec.query is None:
        table = _Table(table.opened, databases.rows_of(table.opened.database, {column.name}))
    raw = _joined({each.opened.name: each.scan(spec, sample) for each in (table, *others)}, spec)
    given = raw.collect_schema()[column.name]
    times = raw.select(in_type(pl.col(column.name), given, column.dtype, column.date_format))
    return times.collect(engine="streaming").to_series().drop_nulls()


def _day(moment: object) -> date:
    if isinstance(moment, datetime):
        return moment.date()
    assert isinstance(moment, date), "an event time is a date or a datetime"
    return moment


def in_words(window: Window) -> str:
    """`August 2013`, or the window's short form where it is not one month."""
    if window == Window.months(window.start, 1):
        return f"{calendar.month_name[window.start.month]} {window.start.year}"
    return str(window)


def _unreadable(
    error: "pl.exceptions.PolarsError", spec: Spec, tables: Sequence["pl.LazyFrame"], sample: int | None
) -> Exception:
    """What to raise for an error of Polars. Its text is passed on only where it is about names, not about values."""
    import polars as pl

    about_names = isinstance(error, (pl.exceptions.ColumnNotFoundError, pl.exceptions.SQLInterfaceError))
    if spec.query and about_names:
        said = redact.text(first_line(error))
        missing = _NO_COLUMN.match(said)
        known = [column for table in tables for column in table.collect_schema().names() if _is_plain(column)]
        what = (
            f"column {missing[1]!r} is not in the source.{did_you_mean(missing[1], known)}" if missing else f"{said}."
        )
        return SpecError(f"{where(spec, 'query')}: query: {what}")
    if sample is not None:
        return _Guessed()
    hint = "Look for lines with too many fields, for text that is not UTF-8, or for a query that mixes types."
    return BadData(f"{spec.name} cannot be read ({type(error).__name__}).", hint=hint)


def _transformations(
    spec: Spec, window: Window | None, plan: Plan, raw: dict[str, "pl.DataType"], timeless: int
) -> Iterator[str]:
    if spec.query:
        yield "joined by the spec's query" if len(spec.sources) > 1 else "selected by the spec's query"
    if window:
        yield f"window {window} on {spec.event_time}"
    if timeless:
        yield f"{timeless:,} rows without {spec.event_time} left out"
    for column in spec.columns:
        if raw[column.name] != polars_type(column.dtype):
            yield f"{column.name} cast from {_in_short(raw[column.name])} to {column.dtype}"
    yield from (f"{name} generalised, {way}" for name, way in plan.generalised)
    yield from (f"{name} replaced by its keyed hash" for name in plan.hashed)
    yield from (f"{name} dropped" for name in plan.dropped)
    yield from (f"{name} dropped, for it is not declared" for name in plan.undeclared)
    yield f"ordered by {spec.event_time or 'all columns'}"


def _in_short(given: "pl.DataType") -> str:
    """A type as it may be told: that of an Enum, or of what is made of others, is a list of values or of names."""
    import polars as pl

    lists = given.is_nested() or isinstance(given, pl.Enum | pl.Categorical)
    return given.base_type().__name__ if lists else str(given)


@task(task_run_name=frames.run_name("ingest {spec.name} {window}"))
def ingest(spec: Spec, window: Window | None = None) -> DatasetVersion:
    """Raw sources to one stored, handled dataset version."""
    found = read_sources(spec, window, mask_key())
    sources = [_compared(source, found.details[source.name], spec, window) for source in found.sources]
    found = replace(found, sources=sources)
    rows = datasets.put(found.frame, f"{spec.name}/ingested")
    assumptions = tuple(Named(name=c.name, value=redact.text(c.assumption)) for c in spec.columns if c.assumption)
    facts = frames.facts(
        rows,
        found.frame,
        spec,
        window=window,
        sources=found.sources,
        transformations=tuple(found.transformations),
        assumptions=assumptions,
    )
    record("privacy.masked", _masking(spec, found.plan), subject=frames.subject(rows))
    record("dataset.ingested", facts, subject=frames.subject(rows))
    frames.leave_markdown(_page_key(spec), _page(window, rows, found), _in_a_line(window, rows, found))
    return rows


def _compared(source: Source, details: Mapping[str, object], spec: Spec, window: Window | None) -> Source:
    """The source, and since when it is another than the record says, which is put on record too."""
    asked = f" {window}" if spec.sources[source.name].table and _between(spec, window) else ""
    what = f"source {source.name}{asked}"  # of a table each window is noted by itself
    try:
        last = last_change(spec.name, what)
        changed = note_change(spec.name, what, source.digest or "", details)
    except StoreUnavailable as error:
        log.warning("Whether source %s is as it was cannot be told: %s", source.name, error)
        return source
    if not (changed and last) or _columns_in(last.payload["details"]) != details.get("columns"):
        return source  # known for the first time, or of a database other columns were asked for
    return source.model_copy(update={"changed_since": last.time[:10]})


def _columns_in(details: list[dict[str, object]]) -> object:
    return next((named["value"] for named in details if named["name"] == "columns"), None)


def _coarser(column: Column) -> Coarser:
    """How the column is generalised; its limits are held on what comes of it."""
    assert column.generalise
    way = column.generalise
    return Coarser(way.width, way.edges, way.prefix, way.to, low=column.min, high=column.max)


def _masking(spec: Spec, plan: Plan) -> Masking:
    return Masking(
        spec=spec.name,
        dropped=list(plan.dropped),
        hashed=list(plan.hashed),
        generalised=[f"{name}: {way}" for name, way in plan.generalised],
        undeclared=list(plan.undeclared),
    )


def _page_key(spec: Spec) -> str:
    """`loans-ingested`; where a flow runs this stage under another name, that name, so that neither page replaces
    the other."""
    from prefect.runtime import task_run

    errand = task_run.task_name
    return f"{spec.name}-{'ingested' if errand in (None, ingest.name) else errand}"


def _in_a_line(window: Window | None, rows: DatasetVersion, found: Ingested) -> str:
    sources = "1 source" if len(found.sources) == 1 else f"{len(found.sources)} sources"
    changed = "".join(f" · source {told}" for told in _changed(found))
    return f"{rows.rows:,} rows{f' of {window}' if window else ''} from {sources}{changed}"


def _changed(found: Ingested) -> list[str]:
    return [f"{s.name} changed since {s.changed_since}" for s in found.sources if s.changed_since]


def _page(window: Window | None, rows: DatasetVersion, found: Ingested) -> str:
    lines = [f"**{rows.rows:,} rows**{f' of {window}' if window else ''}, `{rows.digest}`", ""]
    lines += [f"Source {told}." for told in _changed(found)]
    sources = [[s.name, s.address, f"{s.rows:,}", frames.short(s.digest)] for s in found.sources]
    lines += ["", frames.markdown_table(["source", "address", "rows", "digest"], sources)]
    return "\n".join([*lines, "", *(f"- {step}" for step in found.transformations)])
