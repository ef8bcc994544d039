"""A spec's sources as lazy frames: files, folders of Parquet files, tables of a database; and what a value means.

Polars reads lazily, so the window and the columns go down to the files. No message holds a value of the data.
"""

import csv
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import BadData
from audit.spec.load import source_path, where
from audit.spec.model import Dtype, SourceTable, Spec

if TYPE_CHECKING:
    import polars as pl

DATETIME_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
MAX_EXACT = 2**53  # from here on a float is no longer one integer


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A source that was found: where, what its bytes hash to, and what Polars is to scan."""

    name: str
    address: str
    digest: str
    format: str
    content: Path | bytes
    null_values: tuple[str, ...]


def open_table(name: str, table: SourceTable, spec: Spec) -> OpenTable:
    """The source `name`, found and looked into. Raises BadData if it is missing, empty or no table."""
    assert table.file, "databases come next"
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


def scan(table: OpenTable, spec: Spec, sample: int | None) -> "pl.LazyFrame":
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


def address(table: SourceTable) -> str:
    """How a source is named on record: by package or as the spec writes it, without a folder of this machine."""
    if table.package:
        return f"package:{table.package}/{table.file}"
    assert table.file, "what is in no package and no database is a file"
    return f"file:{Path(table.file).name if Path(table.file).is_absolute() else table.file}"


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


def polars_type(dtype: Dtype) -> "pl.DataType":
    """The Polars type that stands for a spec's."""
    import polars as pl

    return {
        "integer": pl.Int64(), "float": pl.Float64(), "string": pl.String(), "boolean": pl.Boolean(),
        "date": pl.Date(), "datetime": pl.Datetime("us"),
    }[dtype]  # fmt: skip


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


def _line(spec: Spec, source: str) -> str:
    return where(spec, "sources", source)
