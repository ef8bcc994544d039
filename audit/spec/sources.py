"""Sources as lazy frames: files, folders of files, rows of a database; and what a value of them means.

Polars reads files lazily, so the window and the columns go down to them and no more comes into memory. Rows of a
database are read in batches (audit.spec.databases). No message holds a value of the data.
"""

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from audit.errors import BadData
from audit.spec import databases
from audit.spec.load import source_path
from audit.spec.model import Dtype, SourceTable

if TYPE_CHECKING:
    import polars as pl

SAMPLE_ROWS = 10_000  # from which types are guessed at first; where a later row differs, all rows are looked at
DATETIME_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
MAX_EXACT = 2**53  # from here on a float is no longer one integer

# What a file begins with that is another thing than a table of text.
_BEGINS: dict[bytes, tuple[str, str]] = {
    b"PAR1": ("a Parquet file", "Write `format: parquet`."),
    b"PK\x03\x04": ("a zip archive or an Excel file", "Name an archive .zip; save a sheet of Excel as CSV."),
    b"\xd0\xcf\x11\xe0": ("an old Excel file", "Save its sheet as CSV."),
    b"\x1f\x8b": ("compressed by gzip", "Name it .csv.gz."),
    b"BZh": ("compressed by bzip2", "Name it .csv.bz2."),
    b"SQLite format 3\x00": ("an SQLite database", "Write `database: sqlite:///…` and `table` in place of `file`."),
    b"\x89PNG": ("a picture", "Name the table."),
    b"\xff\xd8\xff": ("a picture", "Name the table."),
    b"GIF8": ("a picture", "Name the table."),
    b"%PDF": ("a PDF document", "Save its table as CSV."),
    b"<!DOCTYPE": ("a web page", "Download the table itself."),
    b"<html": ("a web page", "Download the table itself."),
    b"\xff\xfe": ("UTF-16 text", "Save it as UTF-8."),
    b"\xfe\xff": ("UTF-16 text", "Save it as UTF-8."),
}  # fmt: skip
_LOOKED_AT = 64 * 1024  # bytes of a file's beginning in which text has no NUL
_BLOCK = 1024 * 1024  # bytes that are read through at a time
_BY_TABS = (".tsv", ".tab")
_FORMATS: dict[str, str] = {".csv": "csv", ".parquet": "parquet"} | dict.fromkeys(_BY_TABS, "csv")


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A source that was found: where, what its bytes hash to, and what Polars or a database is to be asked."""

    name: str
    said: str  # what an error about it begins with, for example `loans.yaml:7`
    shown: str  # how such an error calls it
    address: str
    format: str  # csv, parquet or database
    digest: str | None = None  # of files; what a database gives is hashed by whoever reads it
    size: int | None = None  # of files, in bytes
    content: Path | bytes = b""  # bytes: of the one file in an archive
    separator: str = ","
    decimal_comma: bool = False
    null_values: tuple[str, ...] = ()
    rows: int | None = None  # of CSV files, where all could be counted
    ends_empty: bool = False  # in empty lines, which Polars would take for rows
    parts: "tuple[OpenTable, ...]" = ()  # of a folder
    database: databases.Question | None = None


def open_table(name: str, table: SourceTable, folder: Path, *, said: str) -> OpenTable:
    """The source `name`, found and looked into; its path is relative to `folder`, errors begin with `said`.

    Raises BadData if it is missing, empty, no table, or one whose lines have differing numbers of fields.
    """
    if table.database:
        question = databases.ask(table, folder, said=said)
        return OpenTable(name, said, question.shown, question.address, "database", database=question)
    assert table.file, "what comes from no database is a file"
    path = source_path(table, folder, said=said)
    if path.is_dir():
        return _open_folder(name, table, path, said)
    return _open_file(name, table, path, table.file, said)


def columns_of(name: str, table: SourceTable, folder: Path, *, said: str) -> "dict[str, pl.DataType]":
    """A source's columns and their types by its header, schema or first row alone; of a folder, by its first file.

    Raises BadData as `open_table` does, but for what stands in the rows.
    """
    if table.database:
        question = databases.ask(table, folder, said=said)
        return dict(databases.rows_of(question, limit=1).schema)
    path = source_path(table, folder, said=said)
    if path.is_dir():
        path = path / _files_of(path, f"the folder {table.file}", said)[0]
    opened = _open_file(name, table, path, path.name, said, through=False)
    return dict(scan(opened, sample=1_000).collect_schema())


def scan(table: OpenTable, texts: Collection[str] = (), sample: int | None = SAMPLE_ROWS) -> "pl.LazyFrame":
    """A lazy frame over the table. The columns `texts` stay text, also where they look like numbers: 00501 is a place.

    Types of a CSV file are guessed from its first `sample` rows, all if None. Rows of a database are read here.
    Raises BadData if it cannot be read.
    """
    import polars as pl

    if table.database:
        return databases.rows_of(table.database).lazy()
    try:
        frame = _scanned(table, texts, sample)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        fix = "Save it as UTF-8." if "utf" in str(error).lower() else "Write it anew."
        raise BadData(f"{table.said}: {table.shown} is no {table.format} table that can be read.", hint=fix) from None
    return frame


def address(table: SourceTable) -> str:
    """How a source is named on record: by package or as the spec writes it, without a folder of this machine; a
    database by its host and name, without user, password or parameters."""
    if table.database:
        return databases.address(table)
    if table.package:
        return f"package:{table.package}/{table.file}"
    assert table.file, "what is in no package and no database is a file"
    return f"file:{Path(table.file).name if Path(table.file).is_absolute() else table.file}"


def in_type(found: "pl.Expr", given: "pl.DataType", dtype: Dtype, date_format: str | None = None) -> "pl.Expr":
    """`found`, which is of type `given`, in the type that stands for `dtype`; there is one way to be missing."""
    needed = polars_type(dtype)
    if given == needed:
        return found.fill_nan(None) if dtype == "float" else found
    return converted(found, given, dtype, date_format).cast(needed)


def converted(found: "pl.Expr", given: "pl.DataType", dtype: Dtype, date_format: str | None = None) -> "pl.Expr":
    """`found`, which is of type `given`, as `dtype`; null where a value is none of that type.

    Dates that are not written as ISO 8601 does are read by `date_format`.
    """
    import polars as pl

    match dtype, given:
        case _, pl.List() | pl.Array() | pl.Struct() | pl.Object() | pl.Binary():
            return pl.lit(None)
        case "string", _:
            return found.cast(pl.String, strict=False)
        case (("date" | "datetime"), _) if date_format and (given == pl.String or given.is_integer()):
            text = found.cast(pl.String).str.strip_chars()
            return text.str.to_datetime(date_format, strict=False, time_unit="us")
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


def polars_type(dtype: Dtype) -> "pl.DataType":
    """The Polars type that stands for a spec's."""
    import polars as pl

    return {
        "integer": pl.Int64(), "float": pl.Float64(), "string": pl.String(), "boolean": pl.Boolean(),
        "date": pl.Date(), "datetime": pl.Datetime("us"),
    }[dtype]  # fmt: skip


def _moment_of(found: "pl.Expr") -> "pl.Expr":
    """Text in ISO 8601 as a moment; a `Z` is taken off, for all times are naive here."""
    import polars as pl

    text = found.str.strip_chars().str.replace("T", " ", literal=True).str.strip_suffix("Z")
    return pl.coalesce(text.str.to_datetime(form, strict=False, time_unit="us") for form in DATETIME_FORMATS)


def _whole(number: "pl.Expr") -> "pl.Expr":
    """Floats that are integers, and small enough to be exact."""
    import polars as pl

    return pl.when((number == number.round(0)) & (number.abs() < MAX_EXACT)).then(number).cast(pl.Int64, strict=False)


def _open_folder(name: str, table: SourceTable, folder: Path, said: str) -> OpenTable:
    """A folder of files of one format. What is hidden or begins with _ (as _SUCCESS does) is none of them."""
    shown = f"the folder {table.file}"
    parts = tuple(_open_file(name, table, folder / at, at.as_posix(), said) for at in _files_of(folder, shown, said))
    if len({part.format for part in parts}) > 1:
        raise BadData(f"{said}: {shown} holds both CSV and Parquet files.", hint="Keep one kind in it.")
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(f"{part.shown}\x00{part.digest}\n".encode())
    _refuse_differing(parts)
    digest, size = f"sha256:{hashed.hexdigest()}", sum(part.size or 0 for part in parts)
    counted = [part.rows for part in parts if part.rows is not None]
    rows = sum(counted) if len(counted) == len(parts) else None
    return OpenTable(name, said, shown, address(table), parts[0].format, digest, size, rows=rows, parts=parts)


def _files_of(folder: Path, shown: str, said: str) -> list[Path]:
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    names = [at for at in names if not any(part.startswith((".", "_")) for part in at.parts)]
    if not names:
        raise BadData(f"{said}: {shown} holds no file.", hint="Put its Parquet or CSV files there.")
    return names


def _open_file(name: str, table: SourceTable, path: Path, shown: str, said: str, *, through: bool = True) -> OpenTable:
    """A file, read through for its digest and for rows of other lengths; else only looked at."""
    try:
        if path.stat().st_size == 0:
            raise BadData(f"{said}: {shown} is empty.", hint=f"Source {name!r} needs a header and rows.")
        with path.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() if through else None
        inner, content = _unpacked(path, shown, said)
    except (OSError, ValueError) as error:  # ValueError: what bzip2 has packed ends too early
        why = getattr(error, "strerror", None) or "damaged"
        raise BadData(f"{said}: {shown} cannot be read ({why}).") from None
    kind = Path(inner).suffix.lower()
    separator = table.separator or ("\t" if kind in _BY_TABS else ",")
    found = OpenTable(
        name, said, shown, address(table), table.format or _FORMATS.get(kind, ""), digest, path.stat().st_size,
        content, separator, table.decimal_comma, table.null_values,
    )  # fmt: skip
    if not found.format:
        fix = "Save its sheet as CSV." if kind in (".xlsx", ".xls", ".ods") else "Say which with `format`."
        raise BadData(f"{said}: {inner} is neither .csv nor .parquet.", hint=fix)
    _refuse_disguise(found)
    return _read_through(found) if through and found.format == "csv" else found


def _unpacked(path: Path, shown: str, said: str) -> tuple[str, Path | bytes]:
    """Name and content of the one file in an archive, or of the file itself. Polars reads what gzip has packed."""
    match path.suffix.lower():
        case ".zip":
            return _unzipped(path, shown, said)
        case ".gz":
            return path.stem, path
        case ".bz2":
            return path.stem, bz2.decompress(path.read_bytes())
    return path.name, path


def _unzipped(path: Path, shown: str, said: str) -> tuple[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                fix = "It must hold one CSV or Parquet file."
                raise BadData(f"{said}: {shown} holds {len(members)} files.", hint=fix)
            return members[0].filename, archive.read(members[0])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error, lzma.LZMAError):
        # Damaged, encrypted, an unknown compression.
        fix = "Pack it anew, with no password."
        raise BadData(f"{said}: {shown} is no zip archive that we can read.", hint=fix) from None


def _refuse_disguise(table: OpenTable) -> None:
    """Raise BadData if the file is another thing than its name says."""
    with _opened(table) as file:
        first = _first_of(file, table)
    if table.format == "parquet":
        if not first.startswith(b"PAR1"):
            raise BadData(f"{table.said}: {table.shown} is no Parquet file.", hint="Correct its name, or `format`.")
        return
    begun = next((told for begins, told in _BEGINS.items() if first.startswith(begins)), None)
    if begun:
        raise BadData(f"{table.said}: {table.shown} is {begun[0]}, not CSV.", hint=begun[1])
    if b"\x00" in first:
        raise BadData(f"{table.said}: {table.shown} is no text, so no CSV.", hint="Name a table of text.")


def _first_of(file: BinaryIO, table: OpenTable) -> bytes:
    try:
        return file.read(_LOOKED_AT)
    except (OSError, EOFError, zlib.error):
        raise _damaged(table) from None


def _damaged(table: OpenTable) -> BadData:
    return BadData(f"{table.said}: {table.shown} is damaged.", hint="Pack or copy it anew.")


def _opened(table: OpenTable) -> BinaryIO:
    """The table's bytes, as Polars will read them."""
    if isinstance(table.content, bytes):
        return io.BytesIO(table.content)
    if table.content.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(table.content))
    return table.content.open("rb")


def _read_through(table: OpenTable) -> OpenTable:
    """The CSV table, where every row has as many fields as the header and is UTF-8; Polars would fill in short rows.

    Its memory is that of a block. Raises BadData that names the line of a row that differs.
    """
    header, rows, block = _header(table), 0, b""
    with _opened(table) as file:
        try:
            while (block := file.read(_BLOCK) + file.readline()) and (plain := _plain_rows(block, header, table)):
                rows += plain
            others, empty_at = _looked_at(chain(io.BytesIO(block), file), rows, header, table)
        except _Uncountable:
            return table
        except (OSError, EOFError, zlib.error):
            raise _damaged(table) from None
    return replace(table, rows=max(rows + others - 1, 0), ends_empty=bool(empty_at))


def _plain_rows(block: bytes, header: Sequence[str], table: OpenTable) -> int:
    """How many rows the block has, if each is a line with as many fields as the header; else none."""
    lines = block.removesuffix(b"\n").split(b"\n")
    if b'"' in block or {line.count(table.separator.encode()) for line in lines} != {len(header) - 1}:
        return 0
    try:
        return len(lines) if block.isascii() or block.decode() else 0
    except UnicodeDecodeError:
        return 0


def _looked_at(lines: Iterable[bytes], before: int, header: Sequence[str], table: OpenTable) -> tuple[int, int]:
    """How many rows there are in `lines`, and the first of the empty ones that they end in, if they do."""
    rows = empty_at = 0
    for at, fields in _rows(enumerate(lines, start=before + 1), table):
        if fields == 0 and len(header) > 1:
            empty_at = empty_at or at
            continue
        if empty_at:
            raise BadData(f"{table.said}: {table.shown}, line {empty_at} is empty.", hint="Remove it.")
        if fields != len(header):
            raise _ragged(table, at, fields, len(header))
        rows += 1
    return rows, empty_at


def _rows(lines: Iterator[tuple[int, bytes]], table: OpenTable) -> Iterator[tuple[int, int]]:
    """The line at which each row begins, and how many fields it has; none where the line is empty.

    Raises _Uncountable at a field that is longer than Python's reader takes; Polars may still read it. BadData at a
    quotation mark that is never closed, over which Polars would lose rows.
    """
    for at, line in lines:
        _decodable(table, at, line)
        if b'"' in line:  # it may hide separators and ends of lines
            quotes: list[int] = []
            rest = chain([line], (_decodable(table, after, more) for after, more in lines))
            reader = csv.reader((_noted(more, quotes) for more in rest), delimiter=table.separator)
            try:
                fields = len(next(reader))
            except csv.Error:
                raise _Uncountable from None
            if sum(quotes) % 2:
                fix = "Close it, or double it where it is part of the text."
                raise BadData(f"{table.said}: {table.shown}, line {at} has a quotation mark left open.", hint=fix)
            yield at, fields
            continue
        yield at, line.count(table.separator.encode()) + 1 if line.strip(b"\r\n") else 0


def _noted(line: bytes, quotes: list[int]) -> str:
    quotes.append(line.count(b'"'))
    return line.decode("latin-1")


class _Uncountable(Exception):
    """Rows cannot be told apart here."""


def _decodable(table: OpenTable, at: int, line: bytes) -> bytes:
    """The line, if it is UTF-8; else raises BadData."""
    try:
        if not line.isascii():
            line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadData(f"{table.said}: {table.shown}, line {at} is not UTF-8.", hint="Save it as UTF-8.") from None
    return line


def _ragged(table: OpenTable, line: int, fields: int, wanted: int) -> BadData:
    has = "1 field" if fields == 1 else f"{fields} fields"
    return BadData(
        f"{table.said}: {table.shown}, line {line} has {has}, the header has {wanted}.",
        hint="Mend the line, or the `separator`.",
    )


def _header(table: OpenTable) -> list[str]:
    """The names in a CSV table's header. Raises BadData if two are the same."""
    with _opened(table) as file:
        try:
            reader = csv.reader((line.decode("utf-8-sig") for line in file), delimiter=table.separator)
            names = next(reader, [])
        except (OSError, EOFError, zlib.error):
            raise _damaged(table) from None
        except (UnicodeDecodeError, csv.Error):
            fix = "Save it as UTF-8."
            raise BadData(f"{table.said}: {table.shown} has no header that can be read.", hint=fix) from None
    databases.refuse_double(names, f"{table.said}: {table.shown}")
    return names


def _scanned(table: OpenTable, texts: Collection[str], sample: int | None) -> "pl.LazyFrame":
    import polars as pl

    if table.parts and table.format == "csv":
        return pl.concat([_scanned(part, texts, sample) for part in table.parts], how="vertical_relaxed")
    if table.format == "parquet":
        paths = [part.content for part in table.parts if isinstance(part.content, Path)]
        if len(paths) < len(table.parts):  # some are packed
            return pl.concat([_scanned(part, texts, sample) for part in table.parts])
        hive = any("=" in part.shown for part in table.parts)  # year=2024/part-0.parquet
        return pl.scan_parquet(paths or table.content, glob=False, hive_partitioning=hive)
    header = _header(table)
    return pl.scan_csv(
        table.content,
        with_column_names=lambda _: header,  # in Polars' own words a doubled quotation mark of a name stays doubled
        separator=table.separator,
        decimal_comma=table.decimal_comma,
        null_values=list(table.null_values),
        infer_schema_length=sample,
        schema_overrides={name: pl.String for name in header if name in texts},
        n_rows=table.rows if table.ends_empty else None,
        glob=False,
    )


def _refuse_differing(parts: Sequence[OpenTable]) -> None:
    """Raise BadData if a file of a folder has other columns than the first."""
    first = _columns(parts[0])
    for part in parts[1:]:
        if _columns(part) != first:
            raise BadData(
                f"{part.said}: {part.shown} has other columns, or of other types, than {parts[0].shown}.",
                hint="All files of a folder are one table.",
            )


def _columns(part: OpenTable) -> "list[str] | dict[str, pl.DataType]":
    import polars as pl

    if part.format == "csv":
        return _header(part)
    try:
        return dict(pl.read_parquet_schema(part.content))
    except (pl.exceptions.PolarsError, OSError):
        raise BadData(
            f"{part.said}: {part.shown} is no parquet table that can be read.", hint="Write it anew."
        ) from None
