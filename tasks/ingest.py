"""Read a spec's sources for a window, handle personal columns, store the result: the first artifact there is.

Polars reads lazily, so the window and the columns go down to the files. No message holds a value of the data.
"""

import calendar
import csv
import hashlib
import io
import logging
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
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
from audit.spec.load import did_you_mean, refuse_files, source_path, where
from audit.spec.model import Dtype, SourceTable, Spec
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


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A source that was found: where, what its bytes hash to, and what Polars is to scan."""

    name: str
    address: str
    digest: str
    format: str
    content: Path | bytes
    null_values: tuple[str, ...]


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
    timeless = joined[spec.event_time].null_count()
    rows = joined.drop_nulls(spec.event_time)
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


def open_table(name: str, table: SourceTable, spec: Spec) -> OpenTable:
    """The source `name`, found and looked into. Raises BadData if it is missing, empty or no table."""
    path = source_path(name, spec)
    if path.stat().st_size == 0:
        raise BadData(f"{table.file} is empty.", hint=f"Source {name!r} needs a header and rows.")
    try:
        with path.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadData(f"{table.file} cannot be read ({error.strerror}).") from None
    inner, content = _unzipped(path, table.file) if path.suffix == ".zip" else (path.name, path)
    format = table.format or Path(inner).suffix.lstrip(".").lower()
    if format not in ("csv", "parquet"):
        raise BadData(f"{_line(spec, name)}: {inner} is neither .csv nor .parquet.", hint="Say which with `format`.")
    return OpenTable(name, address(table), digest, format, content, table.null_values)


def address(table: SourceTable) -> str:
    """How a source is named on record: by package or as the spec writes it, without a folder of this machine."""
    if table.package:
        return redact.text(f"package:{table.package}/{table.file}")
    return redact.text(f"file:{Path(table.file).name if Path(table.file).is_absolute() else table.file}")


def in_order(frame: "pl.DataFrame", spec: Spec) -> "pl.DataFrame":
    """Rows by event time, then by the other columns as far as it takes: joins keep no order, digests count it."""
    names = [spec.event_time, *(name for name in frame.columns if name != spec.event_time)]
    few = frame.sort(names[: 1 + MORE_KEYS], nulls_last=True)
    return frame.sort(names, nulls_last=True) if few.select(names[: 1 + MORE_KEYS]).is_duplicated().any() else few


class _Guessed(Exception):
    """Types were guessed from the first rows and did not fit later ones."""


def _line(spec: Spec, source: str) -> str:
    return where(spec, "sources", source)


def _unzipped(path: Path, shown: str) -> tuple[str, bytes]:
    """Name and bytes of the one file in the archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise BadData(f"{shown} holds {len(members)} files.", hint="It must hold one CSV or Parquet file.")
            return members[0].filename, archive.read(members[0])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError):  # damaged, encrypted, unknown compression
        raise BadData(f"{shown} is no zip archive that we can read.", hint="Pack it anew, with no password.") from None


def _collected(
    opened: Sequence[OpenTable], spec: Spec, window: Window | None, sample: int | None
) -> tuple["pl.DataFrame", list[Source], dict[str, "pl.DataType"]]:
    """The declared columns in their declared types with marks for bad values, the sources, and the raw schema."""
    import polars as pl

    tables = {table.name: _scan(table, spec, sample) for table in opened}
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
        Source(name=table.name, address=table.address, rows=length.item(), digest=table.digest)
        for table, length in zip(opened, lengths, strict=True)
    ]
    return rows, sources, schema


def _scan(table: OpenTable, spec: Spec, sample: int | None) -> "pl.LazyFrame":
    """A lazy frame over the table, its header checked. Raises BadData if it has none, or a name twice."""
    import polars as pl

    try:
        if table.format == "parquet":
            frame = pl.scan_parquet(table.content)
        else:
            texts = {column.name for column in spec.columns if column.dtype == "string"}
            frame = pl.scan_csv(
                table.content,
                null_values=list(table.null_values),
                infer_schema_length=sample,
                # A declared text stays one, also where it looks like a number: 00501 is a place.
                schema_overrides={name: pl.String for name in _header(table) if name in texts},
            )
        frame.collect_schema()
    except (pl.exceptions.PolarsError, UnicodeDecodeError, csv.Error) as error:
        fix = "Save it as UTF-8." if "utf" in str(error).lower() else "Look at its first lines."
        raise BadData(f"{table.address} is no {table.format} table that can be read.", hint=fix) from None
    return frame


def _header(table: OpenTable) -> list[str]:
    if isinstance(table.content, Path):
        with table.content.open("rb") as file:
            first = file.readline()
    else:
        first = io.BytesIO(table.content).readline()
    names = next(csv.reader([first.decode("utf-8-sig").rstrip("\r\n")]), [])
    first_place: dict[str, int] = {}
    for place, name in enumerate(names, start=1):
        if name in first_place:  # its name is not shown: without a header it would be a value
            places = f"{first_place[name]} and {place}"
            raise BadData(f"{table.address}: columns {places} have the same name.", hint="Rename or remove one.")
        first_place[name] = place
    return names


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
        found, given, needed = pl.col(column.name), schema[column.name], frames.polars_type(column.dtype)
        if given == needed:
            wanted.append(found.fill_nan(None) if column.dtype == "float" else found)  # one way to be missing
            continue
        cast = converted(found, given, column.dtype).cast(needed)
        wanted += [cast.alias(column.name), (found.is_not_null() & cast.is_null()).alias(_BAD + column.name)]
    return raw.select(wanted)


def converted(found: "pl.Expr", given: "pl.DataType", dtype: Dtype) -> "pl.Expr":
    """`found`, which is of type `given`, as `dtype`; null where a value is none of that type."""
    import polars as pl

    match dtype, given:
        case _, pl.List() | pl.Array() | pl.Struct() | pl.Object() | pl.Binary():
            return pl.lit(None)
        case "string", _:
            return found.cast(pl.String, strict=False)
        case (("date" | "datetime"), pl.String()):
            return _moment_of(found)
        case (("date" | "datetime"), pl.Datetime(time_zone=str())):
            return found.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        case (("date" | "datetime"), pl.Date() | pl.Datetime()):
            return found
        case "boolean", pl.String():
            text = found.str.strip_chars().str.to_lowercase()
            return pl.when(text.is_in(["true", "false"])).then(text == "true")
        case "boolean", _ if given.is_numeric():
            return pl.when(found.is_in([0, 1])).then(found == 1)
        case "float", _ if given.is_numeric() or given == pl.String:
            text = found.str.strip_chars() if given == pl.String else found
            return text.cast(pl.Float64, strict=False).fill_nan(None)
        case "integer", pl.String():
            text = found.str.strip_chars()
            return pl.coalesce(text.cast(pl.Int64, strict=False), _whole(text.cast(pl.Float64, strict=False)))
        case "integer", _ if given.is_integer():
            return found.cast(pl.Int64, strict=False)
        case "integer", _ if given.is_numeric():
            return _whole(found.cast(pl.Float64, strict=False))
    return pl.lit(None)


def _moment_of(found: "pl.Expr") -> "pl.Expr":
    """Text in ISO 8601 as a moment; a `Z` is taken off, for all times are naive here."""
    import polars as pl

    text = found.str.strip_chars().str.replace("T", " ", literal=True).str.strip_suffix("Z")
    return pl.coalesce(text.str.to_datetime(form, strict=False, time_unit="us") for form in DATETIME_FORMATS)


def _whole(number: "pl.Expr") -> "pl.Expr":
    """Floats that are integers, and small enough to be exact."""
    import polars as pl

    return pl.when((number == number.round(0)) & (number.abs() < MAX_EXACT)).then(number).cast(pl.Int64, strict=False)


def _in_window(rows: "pl.LazyFrame", spec: Spec, window: Window | None) -> "pl.LazyFrame":
    """Rows of the window, and those without an event time, which are counted before they go."""
    import polars as pl

    if window is None:
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

    tables = {table.name: _scan(table, spec, sample) for table in opened}
    raw = _joined(tables, spec)
    declared = _cast(raw, spec, dict(raw.collect_schema()))
    times = declared.select(pl.col(spec.event_time)).collect().to_series().drop_nulls()
    if times.is_empty() or window is None:
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
        if raw[column.name] != frames.polars_type(column.dtype):
            yield f"{column.name} cast from {raw[column.name]} to {column.dtype}"
    yield from (f"{name} replaced by its keyed hash" for name in plan.hashed)
    yield from (f"{name} dropped" for name in plan.dropped)
    yield from (f"{name} dropped, for it is not declared" for name in plan.undeclared)
    yield f"ordered by {spec.event_time}"


@task(task_run_name="ingest {spec.name} {window}")
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
