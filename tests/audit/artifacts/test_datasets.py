"""The digest of a dataset closes a door: it is held against a second reading of its definition, in plain Python."""

import hashlib
import json
import math
import struct
from datetime import date, datetime, time, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from audit.artifacts import blobs, datasets
from audit.errors import ArtifactUnavailable, BadData

# One row set with every dtype. Whoever changes the digest below changes what every stored version is called.
VECTOR = pl.DataFrame(
    [
        pl.Series("int", [1, None, -3], dtype=pl.Int64),
        pl.Series("small", [0, 255, None], dtype=pl.UInt8),
        pl.Series("float", [0.5, -0.0, math.nan], dtype=pl.Float64),
        pl.Series("single", [None, math.nan, 1.5], dtype=pl.Float32),
        pl.Series("flag", [True, None, False], dtype=pl.Boolean),
        pl.Series("text", ["EWR", None, "Zürich \U0001f6eb"], dtype=pl.String),
        pl.Series("bytes", [b"\x00\xff", b"", None], dtype=pl.Binary),
        pl.Series("class", ["b", "a", None], dtype=pl.Categorical),
        pl.Series("day", [date(2013, 1, 1), None, date(1969, 12, 31)], dtype=pl.Date),
        pl.Series("hour", [time(23, 59), None, time(0, 0, 0, 1)], dtype=pl.Time),
        pl.Series("local", [datetime(2013, 7, 1, 5, 15), None, datetime(1960, 1, 1)], dtype=pl.Datetime("us")),
        pl.Series("zoned", [0, 1_372_655_700_000, None], dtype=pl.Int64).cast(pl.Datetime("ms", "America/New_York")),
        pl.Series("span", [timedelta(days=1), None, timedelta(microseconds=-1)], dtype=pl.Duration("us")),
        pl.Series("none", [None, None, None], dtype=pl.Null),
    ]
)
VECTOR_DIGEST = "sha256:7d44d65d0b96e78e33357e729735a299dbe79f843ea816b75733523745a92895"

INTEGERS = {pl.Int8: "<b", pl.Int16: "<h", pl.Int32: "<i", pl.Int64: "<q", pl.UInt16: "<H", pl.UInt64: "<Q"}
DTYPES = [
    *INTEGERS, pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Binary, pl.Categorical, pl.Date, pl.Time,
    pl.Datetime("us"), pl.Datetime("ns", "UTC"), pl.Duration("ms"),
]  # fmt: skip


@st.composite
def frames(draw: st.DrawFn, min_rows: int = 0) -> pl.DataFrame:
    rows = draw(st.integers(min_rows, 12))
    names = draw(st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True))
    return pl.DataFrame([draw(_series(name, rows)) for name in names])


@st.composite
def _series(draw: st.DrawFn, name: str, rows: int) -> pl.Series:
    dtype = draw(st.sampled_from(DTYPES))
    cells = draw(st.lists(st.none() | _cells(dtype), min_size=rows, max_size=rows))
    physical = isinstance(dtype, pl.DataType) or dtype in (pl.Date, pl.Time)
    return pl.Series(name, cells, dtype=None if physical and cells else dtype, strict=True).cast(dtype)


def _cells(dtype: object) -> st.SearchStrategy[object]:
    if dtype in INTEGERS:
        info = struct.calcsize(INTEGERS[dtype]) * 8  # type: ignore[index]
        signed = INTEGERS[dtype][1].islower()  # type: ignore[index]
        return st.integers(-(2 ** (info - 1)), 2 ** (info - 1) - 1) if signed else st.integers(0, 2**info - 1)
    match dtype:
        case pl.Float32:
            return st.floats(width=32)
        case pl.Float64:
            return st.floats()
        case pl.Boolean:
            return st.booleans()
        case pl.String | pl.Categorical:
            return st.text(max_size=15)
        case pl.Binary:
            return st.binary(max_size=15)
        case pl.Time:
            return st.integers(0, 86_399_999_999_999)
    return st.integers(-(2**31), 2**31 - 1)


def test_the_pinned_vector_keeps_its_digest() -> None:
    assert datasets.digest(VECTOR) == VECTOR_DIGEST
    assert as_defined(VECTOR) == VECTOR_DIGEST


@given(frames())
def test_the_digest_is_what_the_definition_says(frame: pl.DataFrame) -> None:
    assert datasets.digest(frame) == as_defined(frame)


@given(frames(min_rows=1), st.data())
def test_chunks_and_slices_do_not_count(frame: pl.DataFrame, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, frame.height), max_size=3)))
    pieces = [frame.slice(start, stop - start) for start, stop in zip([0, *cuts], [*cuts, frame.height], strict=True)]
    assert datasets.digest(pl.concat(pieces, rechunk=False)) == datasets.digest(frame)
    doubled = pl.concat([frame, frame], rechunk=True).slice(frame.height)
    assert datasets.digest(doubled) == datasets.digest(frame)


@given(frames(min_rows=1), st.data())
def test_any_one_cell_counts(frame: pl.DataFrame, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(frame.columns))
    row = data.draw(st.integers(0, frame.height - 1))
    was = _plain(frame[name])[row]
    cell = data.draw(st.none() | _cells(frame.schema[name].base_type() if not frame.schema[name].is_temporal() else 0))
    series = frame[name].to_physical() if frame.schema[name].is_temporal() else frame[name]
    if frame.schema[name] == pl.Time:
        cell = None if cell is None else abs(cell)  # type: ignore[arg-type]
    replaced = [*series.to_list()[:row], cell, *series.to_list()[row + 1 :]]
    changed = frame.with_columns(pl.Series(name, replaced, dtype=series.dtype).cast(frame.schema[name]))
    same = _normal(_plain(changed[name])[row]) == _normal(was)
    assert (datasets.digest(changed) == datasets.digest(frame)) is same


@given(frames(min_rows=1), st.data())
def test_names_and_the_order_of_columns_count(frame: pl.DataFrame, data: st.DataObject) -> None:
    renamed = frame.rename({frame.columns[0]: frame.columns[0] + "_longer_than_any"})
    assert datasets.digest(renamed) != datasets.digest(frame)
    order = data.draw(st.permutations(frame.columns))
    reordered = pl.DataFrame([frame[name] for name in order])  # in `select` a column called * would be all of them
    assert (datasets.digest(reordered) == datasets.digest(frame)) is (list(order) == frame.columns)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], pl.Series([1, 2], dtype=pl.Int32)),
        ([1, 2], [1.0, 2.0]),
        ([1, 2], [2, 1]),
        ([0, 1], [None, 1]),
        (["", "a"], [None, "a"]),
        (["ab", "c"], ["a", "bc"]),
        ([False, True], [None, True]),
        (["a", "b"], pl.Series(["a", "b"], dtype=pl.Categorical)),
        (["a", "b"], [b"a", b"b"]),
        (pl.Series([0], dtype=pl.Datetime("us")), pl.Series([0], dtype=pl.Datetime("us", "UTC"))),
        (pl.Series([0], dtype=pl.Datetime("us")), pl.Series([0], dtype=pl.Datetime("ms"))),
        (pl.Series([None], dtype=pl.Null), pl.Series([None], dtype=pl.String)),
        ([], [None]),
    ],
    ids=lambda cells: str(cells).replace("\n", " ")[:30],
)
def test_a_dtype_the_order_of_rows_and_validity_count(one: object, other: object) -> None:
    digests = {datasets.digest(pl.DataFrame({"a": cells})) for cells in (one, other)}
    assert len(digests) == 2


def test_all_nans_are_one_and_minus_zero_is_zero() -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000001))[0]
    assert datasets.digest(pl.DataFrame({"a": [odd, -0.0]})) == datasets.digest(pl.DataFrame({"a": [math.nan, 0.0]}))


def test_bytes_behind_a_null_do_not_count() -> None:
    hidden = pl.DataFrame({"a": [1, 2], "s": ["x", "secret"]}).with_columns(
        pl.when(pl.int_range(2) == 0).then(pl.all()).name.keep()
    )
    assert datasets.digest(hidden) == datasets.digest(pl.DataFrame({"a": [1, None], "s": ["x", None]}))


def test_a_column_name_may_hold_anything() -> None:
    frame = pl.DataFrame({"a\x00b": ["x"], "": [1]})
    assert datasets.digest(frame) == as_defined(frame)


def test_a_dtype_without_a_definition_is_refused() -> None:
    with pytest.raises(BadData, match=r"'a' is of dtype List\(Int64\)"):
        datasets.digest(pl.DataFrame({"a": [[1, 2]]}))


def test_a_dataset_comes_back_with_its_digest_and_dtypes(home: Path) -> None:
    reference = datasets.put(VECTOR, "flights/ingested")
    again = datasets.read(reference)
    assert (reference.name, reference.rows, reference.digest) == ("flights/ingested", 3, VECTOR_DIGEST)
    assert_frame_equal(again, VECTOR)
    assert datasets.digest(again) == VECTOR_DIGEST


def test_a_dataset_whose_file_was_changed_is_not_read(home: Path) -> None:
    reference = datasets.put(VECTOR, "flights/ingested")
    (path := blobs.local_path(reference.address)) and path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactUnavailable, match=reference.address):
        datasets.read(reference)


def test_versions_count_from_one(home: Path) -> None:
    assert datasets.put(VECTOR, "flights/ingested").version == 1


def test_without_a_store_a_dataset_is_kept_and_has_no_number(home: Path) -> None:
    home.mkdir()
    (home / "audit.db").mkdir()
    reference = datasets.put(VECTOR, "flights/ingested")
    assert reference.version == 0
    assert datasets.read(reference).height == 3


def test_a_schema_on_record_counts_nulls_and_holds_no_category() -> None:
    frame = pl.DataFrame({"a": pl.Series(["ann", None], dtype=pl.Enum(["ann"]))})
    assert json.loads(datasets.columns(frame)[0].model_dump_json()) == {"name": "a", "dtype": "categorical", "nulls": 1}


def as_defined(frame: pl.DataFrame) -> str:
    """The digest, cell by cell from the docstring of audit.artifacts.datasets."""
    head = b"prefect-audit dataset 1\n" + struct.pack("<QQ", frame.height, frame.width)
    return "sha256:" + hashlib.sha256(head + b"".join(_column(series) for series in frame)).hexdigest()


def _column(series: pl.Series) -> bytes:
    cells = _plain(series)
    valid = [cell is not None for cell in cells]
    told = _text(series.name) + _text(_dtype(series.dtype)) + _bits(valid) + _values(series.dtype, cells)
    return hashlib.sha256(told).digest()


def _plain(series: pl.Series) -> list[object]:
    return (series.to_physical() if series.dtype.is_temporal() else series).to_list()


def _normal(cell: object) -> object:
    if isinstance(cell, float):
        return "nan" if math.isnan(cell) else cell + 0.0
    return cell


def _dtype(dtype: pl.DataType) -> str:
    names = {"Boolean": "bool", "Categorical": "categorical"}
    match dtype:
        case pl.Datetime():
            return (
                f"datetime[{dtype.time_unit}]"
                if not dtype.time_zone
                else f"datetime[{dtype.time_unit},{dtype.time_zone}]"
            )
        case pl.Duration():
            return f"duration[{dtype.time_unit}]"
    plain = str(dtype.base_type())
    return names.get(plain, plain.lower())


def _values(dtype: pl.DataType, cells: list[object]) -> bytes:
    match dtype:
        case pl.Null():
            return b""
        case pl.Boolean():
            return _bits([cell is True for cell in cells])
        case pl.String() | pl.Categorical() | pl.Binary():
            raw = [b"" if cell is None else cell.encode() if isinstance(cell, str) else cell for cell in cells]
            return b"".join(struct.pack("<I", len(cell)) for cell in raw) + b"".join(raw)  # type: ignore[arg-type]
        case pl.Float32() | pl.Float64():
            code, nan = ("<f", b"\0\0\xc0\x7f") if dtype == pl.Float32() else ("<d", b"\0\0\0\0\0\0\xf8\x7f")
            normal = [_normal(0.0 if cell is None else cell) for cell in cells]
            return b"".join(nan if cell == "nan" else struct.pack(code, cell) for cell in normal)
    width = {pl.UInt8: "<B", pl.Date: "<i"} | INTEGERS
    code = width.get(dtype.base_type(), "<q")
    return b"".join(struct.pack(code, cell or 0) for cell in cells)


def _bits(flags: list[bool]) -> bytes:
    packed = bytearray((len(flags) + 7) // 8)
    for row, flag in enumerate(flags):
        packed[row // 8] |= flag << row % 8
    return bytes(packed)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
