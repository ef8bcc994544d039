"""Validation: every kind of rule finds what breaks it, and nothing that it leaves behind holds a value."""

import json
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audit.artifacts import blobs, datasets, reports
from audit.errors import BadData, DatasetRejected, SpecError
from audit.events.payloads import ValidationFacts
from audit.events.references import Report
from audit.spec.model import Column, Derived, Drift, Rows, Schedule, SourceTable, Spec, Target
from audit.store import read
from audit.store.engine import open_store
from tasks.validate import Validation, check, told, validate

PLANTED = "ann@example.org"


def spec_of(*columns: Column, derive: Sequence[Derived] = (), rows: Rows = Rows()) -> Spec:  # noqa: B008
    """A spec with these columns, and nothing else that validation looks at."""
    return Spec(
        name="loans",
        title="Loans",
        sources={"loans": SourceTable(file="loans.csv")},
        event_time="at",
        columns=columns,
        derive=tuple(derive),
        target=Target(column="approved"),
        rows=rows,
        drift=Drift(watch=("income",), share=0.5),
        schedule=Schedule(train_from=date(2020, 1, 1), train_months=1),
    )


def outcome(found: Validation, rule: str) -> tuple[bool, int | None]:
    (kept,) = [o for o in found.outcomes if o.rule == rule]
    return kept.held, kept.unexpected


@pytest.mark.parametrize(
    ("cells", "column", "rule", "rejected"),
    [
        ([1, -2, None, 7], Column(name="a", dtype="integer", min=0, max=5), "range", [1, 3]),
        ([0.5, float("nan"), None, -0.1], Column(name="a", dtype="float", min=0), "range", [3]),
        (["x", "y", None, "z"], Column(name="a", dtype="string", values=("x", "y")), "values", [3]),
        ([True, False, None], Column(name="a", dtype="boolean", values=(True,)), "values", [1]),
        ([1, None, 3], Column(name="a", dtype="integer", nulls=0), "nulls", [1]),
        ([1, 2, 1, None, None], Column(name="a", dtype="integer", unique=True), "unique", [0, 2]),
        (
            ["h1", "h1", "h2"],
            Column(name="a", dtype="integer", pii="direct", handling="hash", unique=True),
            "unique",
            [0, 1],
        ),
    ],
    ids=["range", "range of floats", "values", "values of booleans", "nulls", "unique", "unique of hashes"],
)
def test_rows_that_break_a_rule_are_set_aside_with_its_name(
    cells: list[object], column: Column, rule: str, rejected: list[int]
) -> None:
    frame = pl.DataFrame({"a": cells}).with_row_index("row")
    found = check(frame, spec_of(column))
    assert outcome(found, rule) == (False, len(rejected))
    assert found.rejected["row"].to_list() == rejected
    assert found.rejected["reason"].to_list() == [f"{rule} of a"] * len(rejected)
    assert found.valid.equals(frame.filter(~pl.col("row").is_in(rejected)))


def test_a_derived_rule_compares_columns_and_does_not_judge_what_is_missing() -> None:
    frame = pl.DataFrame({"low": [1, 5, None], "high": [2, 4, 3]})
    columns = (Column(name="low", dtype="integer"), Column(name="high", dtype="integer"))
    rule = Derived(name="in_order", sql="low <= high", dtype="boolean", role="rule")
    found = check(frame, spec_of(*columns, derive=[rule]))
    assert outcome(found, "in_order") == (False, 1)
    assert found.rejected.rows() == [(5, 4, "in_order")]
    assert found.valid.columns == ["low", "high"]


def test_a_row_that_breaks_two_rules_is_set_aside_once_with_both_names() -> None:
    columns = (Column(name="a", dtype="integer", min=0), Column(name="b", dtype="string", values=("x",)))
    found = check(pl.DataFrame({"a": [-1, 1], "b": ["y", "x"]}), spec_of(*columns))
    assert found.rejected["reason"].to_list() == ["range of a; values of b"]


def test_missing_values_within_the_share_cost_no_row_and_beyond_it_the_rule_breaks_and_not_the_rows() -> None:
    frame = pl.DataFrame({"a": [1, None, 3, 4]})
    within = check(frame, spec_of(Column(name="a", dtype="integer", nulls=0.25)))
    beyond = check(frame, spec_of(Column(name="a", dtype="integer", nulls=0.2)))
    assert outcome(within, "nulls") == (True, 1)
    assert outcome(beyond, "nulls") == (False, 1)
    assert within.rejected.height == beyond.rejected.height == 0


def test_a_missing_target_is_no_fault_unless_the_spec_says_so() -> None:
    frame = pl.DataFrame({"approved": [True, None]})
    assert check(frame, spec_of(Column(name="approved", dtype="boolean", role="target"))).valid.height == 2


@pytest.mark.parametrize("dtype", ["integer", "float", "string", "boolean", "date", "datetime"])
def test_a_column_of_another_type_than_declared_is_a_critical_finding(dtype: str) -> None:
    cells = {
        "integer": [1, None], "float": [0.5, None], "string": ["x", None], "boolean": [True, None],
        "date": [date(2020, 1, 1), None], "datetime": [datetime(2020, 1, 1), None],
    }  # fmt: skip
    for actual, values in cells.items():
        found = check(pl.DataFrame({"a": values}), spec_of(Column(name="a", dtype=dtype)))  # type: ignore[arg-type]
        assert found.critical == ([] if actual == dtype else ["type of a"]), actual


@pytest.mark.parametrize("limits", [Rows(min=4), Rows(min=1, max=2)], ids=["too few", "too many"])
def test_a_number_of_rows_outside_its_limits_is_a_critical_finding(limits: Rows) -> None:
    assert check(pl.DataFrame({"a": [1, 2, 3]}), spec_of(Column(name="a", dtype="integer"), rows=limits)).critical == [
        "rows"
    ]


def test_no_rows_at_all_are_a_finding_and_no_crash() -> None:
    frame = pl.DataFrame({"a": []}, schema={"a": pl.Int64})
    assert check(frame, spec_of(Column(name="a", dtype="integer", min=0, nulls=0, unique=True))).critical == ["rows"]


def test_a_declared_column_that_is_missing_is_named() -> None:
    with pytest.raises(BadData, match="loans: the rows have no column income"):
        check(pl.DataFrame({"a": [1]}), spec_of(Column(name="income", dtype="integer")))


def test_a_rule_that_cannot_be_checked_is_named_without_a_value() -> None:
    with pytest.raises(BadData, match="rule range of a cannot be checked") as refused:
        check(pl.DataFrame({"a": [PLANTED]}), spec_of(Column(name="a", dtype="string", min=1)))
    assert PLANTED not in str(refused.value)


def test_a_derived_rule_that_cannot_be_computed_is_named_without_a_value() -> None:
    rule = Derived(name="sane", sql="CAST(a AS INT) > 0", dtype="boolean", role="rule")
    with pytest.raises(SpecError, match="sane") as refused:
        check(pl.DataFrame({"a": [PLANTED]}), spec_of(Column(name="a", dtype="string"), derive=[rule]))
    assert PLANTED not in str(refused.value)


@given(st.lists(st.none() | st.integers(-3, 3), min_size=1, max_size=20), st.integers(-2, 0), st.integers(0, 2))
@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_row_is_either_valid_or_rejected_and_rightly(cells: list[int | None], low: int, high: int) -> None:
    frame = pl.DataFrame({"a": cells}, schema={"a": pl.Int64}).with_row_index("row")
    found = check(frame, spec_of(Column(name="a", dtype="integer", min=low, max=high, nulls=0)))
    sound = [row for row, cell in enumerate(cells) if cell is not None and low <= cell <= high]
    assert found.valid["row"].to_list() == sound
    assert sorted(found.rejected["row"].to_list() + sound) == list(range(len(cells)))


def test_a_warning_goes_on_without_the_rows_and_both_are_on_record(home: Path) -> None:
    spec = spec_of(Column(name="a", dtype="integer", min=0))
    rows = datasets.put(pl.DataFrame({"a": [1, -1, 3]}), "loans/ingested")
    valid = validate.fn(rows, spec)
    assert (valid.name, datasets.read(valid)["a"].to_list()) == ("loans/validated", [1, 3])
    (event,) = read.events(open_store(), types=("dataset.validated", "dataset.rejected"))
    assert (event.type, event.severity, event.subject) == ("dataset.validated", "warning", "dataset/loans/ingested/1")
    assert event.payload["held"] and event.payload["rejected_rows"] == 1
    assert event.payload["valid"]["digest"] == valid.digest
    assert event.payload["rejected"]["of"] == "loans/rejected"
    (found,) = [o for o in event.payload["expectations"] if o["rule"] == "range"]
    assert found == {
        "rule": "range", "column": "a", "severity": "warning", "held": False, "checked": 3, "unexpected": 1,
        "limits": [{"name": "min", "value": 0}],
    }  # fmt: skip


def test_the_table_for_people_says_what_was_set_aside_and_links_to_the_page(home: Path) -> None:
    spec = spec_of(Column(name="a", dtype="integer", min=0))
    validate.fn(datasets.put(pl.DataFrame({"a": [1, -1, 3]}), "loans/ingested"), spec)
    (event,) = read.events(open_store(), types=("dataset.validated",))
    facts = ValidationFacts.model_validate(event.payload)
    assert facts.report
    page = Report(address=facts.report.address, digest=facts.report.digest, name=facts.report.of)
    text = told(facts, page)
    assert "1 of 3 rows set aside as loans/rejected version 1" in text
    assert f"[Data Docs]({reports.link(page)})" in text


def test_a_broken_critical_rule_is_on_record_and_stops_the_run(home: Path) -> None:
    spec = spec_of(Column(name="a", dtype="integer", min=0, severity="critical"), Column(name="b", dtype="string"))
    rows = datasets.put(pl.DataFrame({"a": [1, -1], "b": [PLANTED, "y"]}), "loans/ingested")
    with pytest.raises(DatasetRejected, match="loans/ingested version 1 breaks critical rules: range of a") as refused:
        validate.fn(rows, spec)
    assert "\n" not in str(refused.value) and "-1" not in str(refused.value)
    events = {event.type: event for event in read.events(open_store(), types=("dataset.validated", "dataset.rejected"))}
    assert set(events) == {"dataset.validated", "dataset.rejected"}
    assert events["dataset.rejected"].severity == "error"
    assert "valid" not in events["dataset.rejected"].payload
    assert events["dataset.rejected"].payload["rejected_rows"] == 1


def test_no_value_of_a_row_is_in_the_record_or_in_the_data_docs(home: Path) -> None:
    spec = spec_of(
        Column(name="name", dtype="string", values=("known",), unique=True),
        Column(name="income", dtype="integer", max=10),
        derive=[Derived(name="rich", sql="income < 5 AND name <> 'known'", dtype="boolean", role="rule")],
    )
    rows = datasets.put(pl.DataFrame({"name": [PLANTED, PLANTED], "income": [987_654_321, 3]}), "loans/ingested")
    validate.fn(rows, spec)
    (event,) = read.events(open_store(), types=("dataset.validated",))
    page = blobs.get(event.payload["report"]["address"]).decode()
    for written in (page, json.dumps(event.payload)):
        assert PLANTED not in written and "ann" not in written.replace("cannot", "")
        assert "987654321" not in written and "987,654,321" not in written


def test_data_docs_show_each_rule_and_fetch_nothing() -> None:
    spec = spec_of(Column(name="income", dtype="integer", max=10))
    page = check(pl.DataFrame({"income": [11, 2]}), spec).page
    assert "income" in page and "less than or equal to" in page and "Validation of loans" in page
    for fetching in ("<script", "<link", "<img", "src=", "href=", "url(", "http://", "https://", "@import"):
        assert fetching not in page, fetching
    assert "fingerprint" not in page  # Great Expectations' hash of the rows


def test_a_column_called_reason_keeps_its_values() -> None:
    found = check(
        pl.DataFrame({"reason": ["why", "not"]}), spec_of(Column(name="reason", dtype="string", values=("why",)))
    )
    assert found.rejected.rows() == [("not", "values of reason")]
    assert found.rejected.columns == ["reason", "reason_"]
