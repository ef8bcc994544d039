"""Columns of personal data, and the key of their hashes."""

import hashlib
import hmac
import math
import multiprocessing
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.errors import KeyUnavailable
from audit.privacy.handling import Coarser, generalise, handle, hashed, keyed, plan_of
from audit.privacy.mask_key import create_mask_key, fingerprint, read_mask_key

KEY = bytes(range(32))
PEOPLE = pl.DataFrame(
    {"mail": ["a@example.org", None], "badge": ["17", None], "age": [41, 52], "note": ["x", "y"], "token": ["s1", "s2"]}
)
PLAN = plan_of(PEOPLE.columns, {"age": "keep", "badge": "hash", "mail": "drop", "token": "drop"})


def test_declared_columns_are_kept_hashed_or_dropped_and_undeclared_ones_go() -> None:
    handled = handle(PEOPLE, PLAN, KEY)

    assert handled.columns == ["age", "badge"]
    assert handled["badge"][0] == hmac.new(KEY, b"badge\x0017", hashlib.sha256).hexdigest()
    assert PLAN.dropped == ("mail", "token")
    assert PLAN.undeclared == ("note",)


def test_a_null_stays_null() -> None:
    assert handle(PEOPLE, PLAN, KEY)["badge"].is_null().to_list() == [False, True]
    assert hashed(pl.Series("badge", [None, None], dtype=pl.String), KEY).to_list() == [None, None]


def test_a_handling_that_is_unknown_drops_the_column() -> None:
    assert plan_of(["age"], {"age": "kepe"}).dropped == ("age",)


def test_what_is_to_be_generalised_is_so_in_its_place_and_dropped_where_no_way_is_given() -> None:
    handling = {"age": "generalise", "note": "generalise", "badge": "hash"}

    plan = plan_of(PEOPLE.columns, handling, {"age": Coarser(width=10.0)})
    handled = handle(PEOPLE, plan, KEY)

    assert handled.columns == ["age", "badge"]
    assert handled["age"].to_list() == [40, 50]
    assert plan.dropped == ("note",)
    assert [f"{name}: {way}" for name, way in plan.generalised] == ["age: width 10"]


@pytest.mark.parametrize(
    ("way", "values", "expected"),
    [
        (Coarser(width=5.0), pl.Series("c", [17, 20, -1, None]), [15, 20, -5, None]),
        (Coarser(width=2.5), pl.Series("c", [4, 5, 9]), [3, 5, 8]),
        (Coarser(width=5.0), pl.Series("c", [-(2**63), 2**63 - 1]), [-(2**63), 2**63 - 3]),
        (Coarser(width=0.1), pl.Series("c", [0.3, 0.37, 0.7, -0.05]), [0.3, 0.3, 0.7, -0.1]),
        (Coarser(width=0.5), pl.Series("c", [1.2, None, math.nan, math.inf, -math.inf]), [1.0] + [None] * 4),
        (Coarser(edges=(0.0, 18.0, 65.0)), pl.Series("c", [-3, 17, 18, 99, None]), [0, 0, 18, 65, None]),
        (Coarser(edges=(0.5, 1.5)), pl.Series("c", [0.1, 1.5, 2.0]), [0.5, 1.5, 1.5]),
        (Coarser(prefix=2), pl.Series("c", ["Zürich", "é", "", None]), ["Zü", "é", "", None]),
        (Coarser(to="month"), pl.Series("c", [date(2024, 2, 29), None]), [date(2024, 2, 1), None]),
        (Coarser(to="year"), pl.Series("c", [datetime(1969, 2, 28, 5)]), [datetime(1969, 1, 1)]),
        (Coarser(width=5.0), pl.Series("c", [], dtype=pl.Int64), []),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, Coarser) else "",
)
def test_a_generalised_value_is_the_beginning_of_its_band(way: Coarser, values: pl.Series, expected: list) -> None:
    coarse = generalise(values, way)

    assert coarse.to_list() == expected
    assert (coarse.name, coarse.dtype) == ("c", values.dtype)


WIDTHS = st.sampled_from([0.05, 0.1, 0.25, 0.3, 1.0, 2.5, 7.0, 12.5, 1000.0])
NUMBERS = st.floats(-1e9, 1e9) | st.integers(-(10**9), 10**9).map(float) | st.integers(-999, 999).map(lambda n: n / 10)


@given(st.lists(NUMBERS, min_size=1), WIDTHS, st.booleans())
@example([0.3, 0.6, 0.7, 0.9], 0.1, False)
def test_bands_of_a_width_hold_their_values_keep_their_order_and_stay(
    numbers: list[float], width: float, whole: bool
) -> None:
    dtype = pl.Int64 if whole else pl.Float64
    values = pl.Series("c", sorted(math.floor(number) if whole else number for number in numbers), dtype=dtype)

    coarse = generalise(values, Coarser(width=width))

    assert (coarse <= values).all()
    assert coarse.is_sorted()
    assert generalise(coarse, Coarser(width=width)).to_list() == coarse.to_list()
    for value, edge in zip(values, coarse, strict=True):
        place = round(Decimal(str(edge)) / Decimal(str(width))) if not whole else None
        if place is not None:  # the very number that people write, and the next one lies above the value
            assert edge == float(place * Decimal(str(width)))
            assert value < float((place + 1) * Decimal(str(width)))
        else:
            assert value < edge + width


LIMITS = st.integers(-50, 50).map(float)
RISING = st.lists(LIMITS, min_size=1, unique=True).map(sorted).map(tuple)


@given(
    st.lists(st.integers(-200, 200), min_size=1),
    st.builds(Coarser, width=WIDTHS) | st.builds(Coarser, edges=RISING),
    st.tuples(LIMITS, LIMITS).map(sorted),
    st.booleans(),
)
def test_limits_hold_of_a_generalised_value_where_they_hold_of_the_value_itself(
    numbers: list[int], way: Coarser, limits: list[float], whole: bool
) -> None:
    low, high = limits
    values = pl.Series("c", sorted(numbers), dtype=pl.Int64 if whole else pl.Float64)
    limited = replace(way, low=low, high=high)

    coarse = generalise(values, limited)

    assert coarse.is_between(low, high).to_list() == values.is_between(low, high).to_list()
    assert coarse.is_sorted()
    assert coarse.n_unique() <= generalise(values, way).n_unique() + 4  # a limit parts a band, no more


def test_what_stands_for_missing_does_not_vanish_in_the_last_band() -> None:
    ages = pl.Series("age", [18, 64, 70, 999_999])

    assert generalise(ages, Coarser(edges=(20.0, 40.0, 60.0), low=18.0, high=120.0)).to_list() == [20, 60, 60, 121]
    assert generalise(ages, Coarser(width=50.0, low=18.0, high=120.0)).to_list() == [18, 50, 50, 999_950]


@given(st.text(), st.text(), st.binary(min_size=32, max_size=32))
def test_equal_values_match_within_a_column_and_under_one_key_only(one: str, other: str, key: bytes) -> None:
    def of(column: str, value: str, under: bytes) -> str:
        return str(hashed(pl.Series(column, [value]), under)[0])

    assert (of("a", one, key) == of("a", other, key)) == (one == other)
    assert of("a", one, key) != of("b", one, key)
    assert (of("a", one, key) == of("a", one, KEY)) == (key == KEY)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pl.Series("c", [7, -1]), ["7", "-1"]),
        (pl.Series("c", [7, 1], dtype=pl.Int8), ["7", "1"]),
        (pl.Series("c", [0.5, -0.0]), ["0.5", "0.0"]),
        (pl.Series("c", [True, False]), ["true", "false"]),
        (pl.Series("c", [date(2024, 2, 29)]), ["2024-02-29"]),
        (pl.Series("c", [datetime(2024, 2, 29, 12)], dtype=pl.Datetime("us")), ["2024-02-29T12:00:00"]),
        (pl.Series("c", ["é", ""]), ["é", ""]),
        (pl.Series("c", ["b", "b"], dtype=pl.Categorical), ["b", "b"]),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, pl.Series) else "",
)
def test_the_canonical_value_is_the_same_for_every_width_and_version(values: pl.Series, texts: list[str]) -> None:
    assert hashed(values, KEY).to_list() == [keyed(KEY, "c", text) for text in texts]


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    key = create_mask_key(tmp_path / "keys")

    assert len(key) == 32
    assert create_mask_key(tmp_path / "keys") == key == read_mask_key(tmp_path / "keys")
    assert [file.name for file in (tmp_path / "keys").iterdir()] == ["mask.key"]
    assert (tmp_path / "keys" / "mask.key").stat().st_mode & 0o777 == 0o600
    assert fingerprint(key) not in key.hex()


def test_processes_that_make_the_key_at_one_time_get_the_same(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        keys = pool.map(create_mask_key, [tmp_path / "keys"] * 16)

    assert set(keys) == {read_mask_key(tmp_path / "keys")}


def test_a_key_that_is_missing_open_or_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="audit init") as missing:
        read_mask_key(tmp_path)
    assert missing.value.exit_code == 2

    create_mask_key(tmp_path)
    (tmp_path / "mask.key").chmod(0o640)
    with pytest.raises(KeyUnavailable, match="chmod 600"):
        read_mask_key(tmp_path)

    (tmp_path / "mask.key").chmod(0o600)
    (tmp_path / "mask.key").write_bytes(b"short")
    with pytest.raises(KeyUnavailable, match="32 bytes"):
        create_mask_key(tmp_path)
