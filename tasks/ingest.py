"""Read a spec's sources for a window, handle personal columns, store the result: the first artifact there is.

Polars reads lazily, so the window and the columns go down to the files. No message holds a value of the data.
"""

import calendar
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import datasets
from audit.errors import BadData, KeyUnavailable, SpecError, StoreUnavailable
from audit.events.payloads import Masking, Named, Source
from audit.events.references import DatasetVersion, Window
from audit.privacy import redact
from audit.privacy.handling import Plan, handle, plan_of
from audit.privacy.mask_key import fingerprint, read_mask_key
from audit.settings import settings
from audit.spec.load import did_you_mean, refuse_files, where
from audit.spec.model import Spec
from audit.spec.sources import OpenTable, converted, open_table, polars_type, scan
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames

if TYPE_CHECKING:
    import polars as pl

SAMPLE_ROWS = 10_000  # from which types are guessed at first; where a later row differs, all rows are looked at
DATETIME_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
MAX_EXACT = 2**53  # from here on a float is no longer one integer
MORE_KEYS = 4  # columns beside the event time by which rows are ordered at first
_NO_COLUMN = re.compile(r"""(?:unable to find column|no column named) ["'](.*?)["']""")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_ .-]{0,40}")  # a header cell that may be shown
_BAD = "\x00bad "  # prefix of the columns that mark values of another type

log = logging.getLogger("audit")


@dataclass(frozen=True, slots=True)
class Ingested:
    """Handled rows in a fixed order, and what was done to come to them."""

    frame: "pl.DataFrame"
    sources: list[Source]
    plan: Plan
    transformations: list[str]


def read_sources(spec: Spec, window: Window | None, key: bytes) -> Ingested:
    """Rows of `window` (all, if None) as the spec declares them, personal columns handled with `key`.

    Raises SpecError for a column that is not there, BadData for what cannot be read.
    """
    opened = [open_table(name, table, spec) for name, table in spec.sources.items()]
    sample: int | None = SAMPLE_ROWS
    try:
        joined, sources, raw = _collected(opened, spec, window, sample)
    except _Guessed:
        joined, sources, raw = _collected(opened, spec, window, sample := None)
    _refuse_bad_values(joined, spec)
    timeless = joined[spec.event_time].null_count() if spec.event_time else 0
    rows = joined.drop_nulls(spec.event_time) if spec.event_time else joined
    if rows.is_empty():
        raise _no_rows(opened, spec, window, sample)
    plan = plan_of(raw, {column.name: spec.handling(column) for column in spec.columns})
    frame = in_order(handle(rows, plan, key), spec)
    plan = replace(plan, undeclared=_shown(plan.undeclared, list(raw)))
    return Ingested(frame, sources, plan, list(_transformations(spec, window, plan, raw, timeless)))


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


def _collected(
    opened: Sequence[OpenTable], spec: Spec, window: Window | None, sample: int | None
) -> tuple["pl.DataFrame", list[Source], dict[str, "pl.DataType"]]:
    """The declared columns in their declared types with marks for bad values, the sources, and the raw schema."""
    import polars as pl

    tables = {table.name: scan(table, spec, sample) for table in opened}
    try:
        refuse_files(spec, {name: table.collect_schema() for name, table in tables.items()})
        raw = _joined(tables, spec)
        schema = dict(raw.collect_schema())
        _refuse_missing_columns(spec, list(schema))
        counts = [frame.select(pl.len()) for frame in tables.values()]
        rows, *lengths = pl.collect_all([_in_window(_cast(raw, spec, schema), spec, window), *counts])
    except pl.exceptions.PolarsError as error:
        raise _unreadable(error, spec, list(tables.values()), sample) from None
    sources = [
        Source(name=table.name, address=redact.text(table.address), rows=length.item(), digest=table.digest)
        for table, length in zip(opened, lengths, strict=True)
    ]
    return rows, sources, schema


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
        found, given, needed = pl.col(column.name), schema[column.name], polars_type(column.dtype)
        if given == needed:
            wanted.append(found.fill_nan(None) if column.dtype == "float" else found)  # one way to be missing
            continue
        cast = converted(found, given, column.dtype).cast(needed)
        wanted += [cast.alias(column.name), (found.is_not_null() & cast.is_null()).alias(_BAD + column.name)]
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


def _no_rows(opened: Sequence[OpenTable], spec: Spec, window: Window | None, sample: int | None) -> BadData:
    import polars as pl

    if window is None or spec.event_time is None:
        return BadData(f"{spec.name} has no rows at all.", hint="Look at its sources and its query.")
    tables = {table.name: scan(table, spec, sample) for table in opened}
    raw = _joined(tables, spec)
    declared = _cast(raw, spec, dict(raw.collect_schema()))
    times = declared.select(pl.col(spec.event_time)).collect().to_series().drop_nulls()
    if times.is_empty():
        return BadData(f"{spec.name} has no rows at all.", hint="Look at its sources and its query.")
    first, last = _day(times.min()), _day(times.max())
    side = f"the data ends {last}" if last < window.start else f"the data begins {first}"
    if first < window.start <= last:
        side = "the data has a gap there"
    return BadData(
        f"{in_words(window)} has no rows in {spec.name} ({side}).", hint=f"Choose a window inside {first} … {last}."
    )


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
        said = redact.text(str(error).splitlines()[0].partition("; valid columns")[0])
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
            yield f"{column.name} cast from {raw[column.name]} to {column.dtype}"
    yield from (f"{name} replaced by its keyed hash" for name in plan.hashed)
    yield from (f"{name} dropped" for name in plan.dropped)
    yield from (f"{name} dropped, for it is not declared" for name in plan.undeclared)
    yield f"ordered by {spec.event_time or 'all columns'}"


@task(task_run_name=frames.run_name("ingest {spec.name} {window}"))
def ingest(spec: Spec, window: Window | None = None) -> DatasetVersion:
    """Raw sources to one stored, handled dataset version."""
    found = read_sources(spec, window, mask_key())
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


def _masking(spec: Spec, plan: Plan) -> Masking:
    return Masking(
        spec=spec.name, dropped=list(plan.dropped), hashed=list(plan.hashed), undeclared=list(plan.undeclared)
    )


def _page_key(spec: Spec) -> str:
    """`loans-ingested`; where a flow runs this stage under another name, that name, so that neither page replaces
    the other."""
    from prefect.runtime import task_run

    errand = task_run.task_name
    return f"{spec.name}-{'ingested' if errand in (None, ingest.name) else errand}"


def _in_a_line(window: Window | None, rows: DatasetVersion, found: Ingested) -> str:
    sources = "1 source" if len(found.sources) == 1 else f"{len(found.sources)} sources"
    return f"{rows.rows:,} rows{f' of {window}' if window else ''} from {sources}"


def _page(window: Window | None, rows: DatasetVersion, found: Ingested) -> str:
    lines = [f"**{rows.rows:,} rows**{f' of {window}' if window else ''}, `{rows.digest}`", ""]
    lines += ["| source | address | rows | digest |", "| --- | --- | ---: | --- |"]
    lines += [f"| {s.name} | {s.address} | {s.rows:,} | `{frames.short(s.digest)}` |" for s in found.sources]
    return "\n".join([*lines, "", *(f"- {step}" for step in found.transformations)])
