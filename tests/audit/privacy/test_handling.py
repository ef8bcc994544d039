"""Columns of personal data, and the key of their hashes."""

import hashlib
import hmac
import multiprocessing
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import KeyUnavailable
from audit.privacy.handling import handle, hashed, keyed, plan_of
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
