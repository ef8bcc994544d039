"""Data that a person names on the command line, as sources of a spec and as one frame.

A CSV or Parquet file, a folder of them, an SQLite file, an SQLAlchemy URL without a password, or the name of a
database whose address stands in AUDIT_SOURCE_URL_<NAME>.
"""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import BadData
from audit.settings import settings
from audit.spec import databases
from audit.spec.drafting.profile import refuse_wide, unreadable
from audit.spec.load import ONLY_SOURCES, did_you_mean, first_line, has_password, reads_files
from audit.spec.model import SourceTable
from audit.spec.sources import OpenTable, open_table, scan

if TYPE_CHECKING:
    import polars as pl

SAID = "DATA"  # what an error about it begins with
_SEPARATORS = (",", "\t", ";", "|")
_SQLITE = b"SQLite format 3\x00"
LINES = 200  # in which the way numbers are written is looked for
_COMMA, _POINT = re.compile(rb"-?\d+,\d+"), re.compile(rb"-?\d+\.\d+")
_TEXTS = (".txt", ".dat", ".data", ".text", "")  # names that leave open what the file is


@dataclass(frozen=True, slots=True)
class Data:
    """The sources by name, and the query that joins them."""

    sources: dict[str, SourceTable]
    tables: tuple[OpenTable, ...]
    query: str | None = None

    @property
    def shown(self) -> str:
        """How a message calls it."""
        return self.tables[0].shown if len(self.tables) == 1 and not self.query else "the query's result"

    @property
    def is_text(self) -> bool:
        """Whether its columns' types are guessed from text, so that a column may be told to stay text."""
        return self.query is None and self.tables[0].format == "csv"

    def read(self, texts: Collection[str], sample: int | None) -> "pl.LazyFrame":
        """All rows. Raises BadData where the query does not work, or reads anything but the sources."""
        import polars as pl

        frames = {table.name: scan(table, texts, sample) for table in self.tables}
        if self.query is None:
            return next(iter(frames.values()))
        try:
            schemas = {name: dict(frame.collect_schema()) for name, frame in frames.items()}
            if reads_files(self.query, schemas):
                raise BadData(f"--query: {ONLY_SOURCES}")
            joined = pl.SQLContext(frames).execute(self.query, eager=False)
            joined.collect_schema()
        except (
            pl.exceptions.SQLSyntaxError,
            pl.exceptions.SQLInterfaceError,
            pl.exceptions.ColumnNotFoundError,
        ) as error:
            raise BadData(f"--query: {first_line(error)}.", hint=f"Its tables are {', '.join(frames)}.") from None
        except pl.exceptions.PolarsError as error:
            raise unreadable(error, "--query") from None
        return joined

    def without(self, words: Sequence[str]) -> "Data":
        """The same files, where each of these words stands for a missing value."""
        from dataclasses import replace

        sources = {name: table.model_copy(update={"null_values": tuple(words)}) for name, table in self.sources.items()}
        return Data(sources, tuple(replace(table, null_values=tuple(words)) for table in self.tables), self.query)


def open_data(given: Sequence[str], folder: Path, *, table: str | None, query: str | None) -> Data:
    """What `given` names, found and looked into; paths in it become relative to `folder`, where the spec will stand.

    Raises BadData for what is not there, or no table.
    """
    sources: dict[str, SourceTable] = {}
    for each in given:
        name, source = _source(each, folder, table, query if len(given) == 1 else None)
        if name in sources:
            raise BadData(f"{SAID}: two files are called {name}.", hint="Rename one, for the query knows them by name.")
        sources[name] = source
    joining = None if len(given) == 1 and next(iter(sources.values())).database else query
    if len(given) > 1 and not joining:
        raise BadData("Several files need a --query that joins them.", hint=f"Its tables are {', '.join(sources)}.")
    return Data(sources, tuple(_opened(*pair, folder) for pair in sources.items()), joining)


def _source(given: str, folder: Path, table: str | None, query: str | None) -> tuple[str, SourceTable]:
    if "://" in given:
        return _of_url(given, folder, table, query)
    path = Path(given)
    if path.is_file() and _begins(path).startswith(_SQLITE):
        return _of_url(f"sqlite:///{path}", folder, table, query)
    if path.exists():
        if table:
            raise BadData(f"--table is for a database, and {given} is a file.", hint="Leave it out.")
        return _name(path.name.partition(".")[0]), _file(path, folder)
    if given.lower() in dict(settings().source_urls):
        return _of_database(_name(given.lower()), SourceTable(database=given.lower()), folder, table, query)
    near = did_you_mean(path.name, [other.name for other in path.absolute().parent.glob("*")])
    raise BadData(
        f"{given} does not exist, and AUDIT_SOURCE_URL_{_name(given).upper()} is not set.{near}",
        hint="Name a CSV or Parquet file, a folder of them, or a database.",
    )


def _of_url(given: str, folder: Path, table: str | None, query: str | None) -> tuple[str, SourceTable]:
    scheme, _, rest = given.partition("://")
    name = _name(rest.partition("?")[0].rpartition("/")[2].partition(".")[0] or scheme)
    if has_password(given):
        raise BadData(
            "A password has no place in a spec, nor on a command line.",
            hint=f"Put the address into AUDIT_SOURCE_URL_{name.upper()} and name {name} in its place.",
        )
    if scheme.partition("+")[0] == "sqlite" and rest.startswith("/") and len(rest) > 1:
        given = f"sqlite:///{_relative(Path(rest.removeprefix('/')), folder)}"
    return _of_database(name, SourceTable(database=given), folder, table, query)


def _of_database(
    name: str, database: SourceTable, folder: Path, table: str | None, query: str | None
) -> tuple[str, SourceTable]:
    if query:
        return name, database.model_copy(update={"query": query})
    if table is None:
        found = databases.tables(database, folder, said=SAID)
        if len(found) != 1:
            listed = f"It has {', '.join(map(repr, found[:20]))}." if found else "It has none."
            raise BadData("Which table of the database? Say it with --table, or ask with --query.", hint=listed)
        table = found[0]
    return _name(table.rpartition(".")[2]), database.model_copy(update={"table": table})


def _file(path: Path, folder: Path) -> SourceTable:
    """A file as a spec names it; what its name leaves open is taken from how it begins."""
    said: dict[str, str] = {"file": _relative(path, folder)}
    if path.is_dir():
        return SourceTable(**said)
    begun = _begins(path)
    if begun.startswith(b"PAR1") and path.suffix.lower() in _TEXTS:
        said["format"] = "parquet"
    elif path.suffix.lower() in _TEXTS:
        said["format"] = "csv"
    if path.suffix.lower() in (".csv", *_TEXTS) and not begun.startswith(b"PAR1"):
        header = begun.splitlines()[0] if begun else b""
        refuse_wide(max(header.count(mark.encode()) for mark in _SEPARATORS) + 1, path.name)
        said |= _separated(header)
        if said.get("separator") and _has_decimal_commas(path, said["separator"]):
            return SourceTable(**said, decimal_comma=True)
    return SourceTable(**said)


def _separated(header: bytes) -> dict[str, str]:
    """The separator, where it is no comma and the header leaves no doubt."""
    counts = {mark: header.count(mark.encode()) for mark in _SEPARATORS}
    most = max(counts, key=lambda mark: counts[mark])
    return {"separator": most} if counts[most] and not counts[","] else {}


def _has_decimal_commas(path: Path, separator: str) -> bool:
    """Whether numbers in the first lines are written as 3,14, and none as 3.14."""
    with path.open("rb") as file:
        cells = [cell.strip() for line in islice(file, 1, LINES) for cell in line.split(separator.encode())]
    return any(map(_COMMA.fullmatch, cells)) and not any(map(_POINT.fullmatch, cells))


def _begins(path: Path) -> bytes:
    """The first line, or a megabyte of it."""
    try:
        with path.open("rb") as file:
            return file.readline(32 * 1024 * 1024)
    except OSError as error:
        raise BadData(f"{path} cannot be read ({error.strerror}).") from None


def _opened(name: str, table: SourceTable, folder: Path) -> OpenTable:
    return open_table(name, table, folder, said=SAID)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _name(given: str) -> str:
    """A name that SQL and a spec can use as it stands: small letters, digits and _."""
    plain = re.sub(r"[^a-z0-9_]+", "_", given.lower()).strip("_")
    return plain if plain[:1].isalpha() and plain.isascii() else f"data_{plain}".rstrip("_")
