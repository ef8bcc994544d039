"""The drift page: the verdict first, columns against their thresholds, and spreads in which no person can be found."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.artifacts import datasets, reports
from audit.spec.model import Drift, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks.drift import FEW, GROUPS, SHOWN, check_drift, distribution
from tests.tasks.conftest import LOANS, loans_of
from tests.tasks.read_pages import Page
from tests.tasks.test_pages import HOSTILE

ANN = "ann.planted@example.org"


def watching(*names: str, title: str = "Loans", **handled: dict[str, object]) -> Spec:
    """The loans' spec that watches these columns; `handled` says more of a column by its name."""
    columns = [column | handled.get(column["name"], {}) for column in LOANS["columns"]]  # type: ignore[attr-defined]
    drift = Drift(watch=names, share=0.5)
    return Spec.model_validate(LOANS | {"title": title, "columns": columns}).model_copy(update={"drift": drift})


def moved(rows: pl.DataFrame, name: str = "income", by: float = 60) -> pl.DataFrame:
    return rows.with_columns((pl.col(name) + by).alias(name))


def page_of(spec: Spec, before: pl.DataFrame, now: pl.DataFrame) -> str:
    """What `check_drift` made of it, as the event has it."""
    verdict = check_drift.fn(datasets.put(before, "loans/train"), datasets.put(now, "loans/features"), spec)
    (event,) = read.events(open_store(), types=("drift.checked",))
    assert event.payload["page"]["address"] == verdict.page.address
    return reports.read(verdict.page).decode()


def test_the_verdict_comes_first_and_then_each_column_against_its_threshold(home: Path) -> None:
    before, now = loans_of(600, 0), loans_of(400, 1)
    read_ = Page(page_of(watching("income", "debt"), before, moved(now)))
    assert read_.faults == []
    assert "drift in loans/features Drift : 1 of 2 watched columns" in read_.words
    assert read_.count("svg", role="img") == 2, "scores, and the column that drifted"
    assert re.search(r"income [\d.]+ [\d.]+ drifted debt [\d.]+ [\d.]+ steady", read_.words)


def test_where_nothing_drifted_no_column_is_spread_out(home: Path) -> None:
    rows = loans_of(600, 0)
    read_ = Page(page_of(watching("income", "debt"), rows, rows))
    assert "No drift : 0 of 2 watched columns" in read_.words
    assert read_.count("svg") == 1 and "The columns that drifted" not in read_.words


def test_at_most_some_columns_are_spread_out_those_farthest_beyond_their_thresholds_first(home: Path) -> None:
    names = [f"n{i}" for i in range(SHOWN + 2)]
    before = pl.DataFrame({name: np.random.default_rng(i).normal(0, 1, 200) for i, name in enumerate(names)})
    now = before.with_columns((pl.col(name) + i).alias(name) for i, name in enumerate(names))
    html = page_of(watching(*names), before, now)
    (shown,) = re.findall(r"the current data as a line: ([^<]*)\.</figcaption>", html)
    assert len(shown.split(", ")) == SHOWN and "n0" not in shown.split(", ")


@pytest.mark.parametrize(
    "handled", [{"pii": "quasi", "handling": "hash"}, {"pii": "direct", "handling": "keep"}], ids=["hashed", "direct"]
)
def test_no_value_of_a_hashed_or_direct_column_is_shown(handled: dict[str, object], home: Path) -> None:
    before = loans_of(600, 0).with_columns(pl.lit(ANN).alias("purpose"))
    html = page_of(watching("purpose", purpose=handled), before, loans_of(400, 1).with_columns(purpose=pl.lit("bob")))
    assert "The columns that drifted" in html
    assert ANN not in html and "bob" not in html


def test_a_group_of_few_rows_and_all_beyond_the_largest_are_one() -> None:
    values = [f"v{i:02}" for i in range(GROUPS + 5) for _ in range(100 - i)] + [ANN] * (FEW - 1)
    before, now = pl.DataFrame({"purpose": values}), pl.DataFrame({"purpose": ["v00", None]})
    found = distribution("purpose", before, now, watching("purpose"))
    assert found.groups == (*(f"v{i:02}" for i in range(GROUPS)), "others")
    assert found.now[0] == 1.0 and sum(found.before) == pytest.approx(1)
    few = distribution("purpose", pl.DataFrame({"purpose": [ANN] * (FEW - 1)}), now, watching("purpose"))
    assert few.groups == ("others",)
    assert distribution("purpose", *[pl.DataFrame({"purpose": ["a"] * FEW})] * 2, watching("purpose")).groups == ("a",)


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.lists(st.none() | st.integers(-20, 20), max_size=50),
)
def test_every_known_value_is_in_one_bin(before: list[float | None], now: list[int | None]) -> None:
    sides = [pl.DataFrame({"income": side}, schema={"income": pl.Float64}, strict=False) for side in (before, now)]
    found = distribution("income", *sides, watching("income"))
    for side, shares in zip(sides, (found.before, found.now), strict=True):
        assert sum(shares) == pytest.approx(1.0 if side["income"].drop_nulls().len() else 0.0)
        assert len(found.edges) == len(shares) + 1 and list(found.edges) == sorted(set(found.edges))


def test_whole_numbers_of_a_short_range_have_a_bin_each() -> None:
    rows = pl.DataFrame({"debt": [1, 2, 2, 3]})
    assert list(distribution("debt", rows, rows, watching("debt")).before) == [0.25, 0.5, 0.25]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_group_or_title_stays_words(name: str, home: Path) -> None:
    before, now = loans_of(300, 0).rename({"region": name}), loans_of(300, 1).rename({"region": name})
    spec = watching(name, "debt", title=name)
    read_ = Page(page_of(spec, before.with_columns(pl.lit(name).alias(name)), now))
    assert read_.faults == []
    assert read_.words.count(" ".join(name.split())) >= 3, "title, table, and what drifted"
