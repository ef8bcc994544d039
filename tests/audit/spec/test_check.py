"""What is wrong with a spec beyond itself: its estimator's parameters, its sources' columns."""

import time
from pathlib import Path

import polars as pl
import pytest

from audit.settings import settings
from audit.spec.check import problems

LOANS = """\
name: loans
title: Loans
sources:
  loans: {file: loans.csv}
columns:
  - {name: amount, dtype: float}
  - {name: zone, dtype: string}
  - {name: bad, dtype: integer, role: target, known_at: outcome}
target: {column: bad, positive: 1}
drift: {watch: [amount], share: 0.5}
estimator:
  kind: hist_gradient_boosting
  parameters:
    max_iter: 50
"""


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    (tmp_path / "loans.csv").write_text("amount,zone,bad\n1.5,a,0\n")
    return tmp_path


def found(folder: Path, *changes: tuple[str, str]) -> list[str]:
    text = LOANS
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "loans.yaml").write_text(text)
    return problems(folder / "loans.yaml")


def test_a_spec_whose_source_has_its_columns_is_without_a_problem(folder: Path) -> None:
    assert found(folder) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("max_iter", "max_iterr", "loans.yaml:14: hist_gradient_boosting has no parameter 'max_iterr'. Did you mean"),
        ("50", "-50", "loans.yaml:14: the 'max_iter' parameter of HistGradientBoostingClassifier must be an int in"),
        ("max_iter: 50", "random_state: 5", "loans.yaml:14: random_state is ours to set. Use estimator.seed."),
        (
            "kind: hist_gradient_boosting",
            "kind: mine.Forest",
            "loans.yaml:12: estimator mine.Forest is not on the allow",
        ),
        ("name: amount", "name: amont", "loans.yaml:10: column 'amount' is not declared. Did you mean 'amont'?"),
        ("{name: zone,", "{name: zones,", "loans.yaml:7: column 'zones' is not in the source. Did you mean 'zone'?"),
        ("loans.csv", "lons.csv", "loans.yaml:4: lons.csv does not exist."),
    ],
)
def test_a_problem_names_line_thing_and_fix(folder: Path, old: str, new: str, expected: str) -> None:
    assert found(folder, (old, new))[0].startswith(expected)


def test_an_estimator_of_ones_own_is_taken_as_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_ESTIMATORS", "mine.Forest")
    settings.cache_clear()

    assert found(folder, ("kind: hist_gradient_boosting", "kind: mine.Forest")) == []


def test_problems_of_the_estimator_and_the_source_come_in_the_files_order(folder: Path) -> None:
    estimator = LOANS[LOANS.index("estimator:") :]
    wrong = estimator.replace("max_iter", "max_itr")

    lines = found(folder, (estimator, ""), ("columns:", f"{wrong}columns:"), ("{name: zone,", "{name: zonee,"))

    assert [line.split(":")[1] for line in lines] == ["8", "11"]


def test_a_type_that_can_never_be_the_declared_one_is_told(folder: Path) -> None:
    pl.DataFrame({"amount": [[1.0]], "zone": ["a"], "bad": [1]}).write_parquet(folder / "loans.parquet")

    lines = found(folder, ("loans.csv", "loans.parquet"))

    assert lines == ["loans.yaml:6: column 'amount' is of type List, which is never a float."]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT amount, zone FROM loans", "loans.yaml:8: column 'bad' is not in the source."),
        ("SELECT amunt AS amount, zone, bad FROM loans", 'loans.yaml:5: query: unable to find column "amunt"'),
    ],
)
def test_the_columns_of_a_query_are_looked_at(folder: Path, query: str, expected: str) -> None:
    lines = found(folder, ("columns:", f"query: {query}\ncolumns:"))

    assert lines[0].startswith(expected.replace(":8:", ":9:"))


def test_the_columns_of_a_database_are_looked_at(folder: Path) -> None:
    pl.DataFrame({"amount": [1.0], "bad": [1]}).write_database("loans", f"sqlite:///{folder}/bank.db")

    lines = found(folder, ("{file: loans.csv}", "{database: 'sqlite:///bank.db', table: loans}"))

    assert lines == ["loans.yaml:7: column 'zone' is not in the source."]


def test_rows_are_not_read(folder: Path) -> None:
    """A line in the middle that no run would take, in a file that takes a while to read: neither is noticed."""
    line = b"1.5,a,0\n"
    (folder / "loans.csv").write_bytes(b"amount,zone,bad\n" + line * 3_000_000 + b"ragged\n" + line)
    began = time.perf_counter()

    assert found(folder) == []
    assert time.perf_counter() - began < 2
