"""Validation: every kind of rule finds what breaks it, and nothing that it leaves behind holds a value."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from great_expectations import expectations as gxe
from great_expectations.expectations.row_conditions import Column as gx_column
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audit.artifacts import blobs, datasets, reports
from audit.errors import BadData, DatasetRejected, SpecError
from audit.events.payloads import ValidationFacts
from audit.events.references import Report
from audit.spec.model import Column, Derived, Drift, Expectations, Rows, Schedule, SourceTable, Spec, Target
from audit.store import read
from audit.store.engine import open_store
from tasks.validate import Validation, check, told, validate
from tests.tasks.read_pages import Page
from tests.tasks.test_pages import HOSTILE

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
@hypothesis_settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
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


def test_an_address_or_a_token_among_a_rule_s_limits_is_nowhere_to_be_read(home: Path) -> None:
    mail, token = "jane.doe@example.org", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
    listed = Column(name="contact", dtype="string", values=(mail, token))
    written = Derived(name="not_jane", sql=f"contact <> '{mail}'", dtype="boolean", role="rule")
    page = page_of(pl.DataFrame({"contact": ["x", "y"]}), spec_of(listed, derive=[written]))
    (event,) = read.events(open_store(), types=("dataset.validated",))
    for secret in (mail, token):
        assert secret not in page and secret not in json.dumps(event.payload)


def page_of(frame: pl.DataFrame, spec: Spec) -> str:
    """The page of a validation, which may have been rejected."""
    with suppress(DatasetRejected):
        validate.fn(datasets.put(frame, "loans/ingested"), spec)
    (event,) = read.events(open_store(), types=("dataset.validated",))
    return blobs.get(event.payload["report"]["address"]).decode()


def test_the_page_shows_each_rule_in_great_expectations_words_and_fetches_nothing(home: Path) -> None:
    page = page_of(pl.DataFrame({"income": [11, 2]}), spec_of(Column(name="income", dtype="integer", max=10)))
    read = Page(page)
    assert read.faults == [] and "http:" not in page
    assert "Validation of Loans" in read.words and "Accepted." in read.words
    assert "broken values must be less than or equal to 10.0 . 1 unexpected values found" in read.words
    assert "fingerprint" not in page  # Great Expectations' hash of the rows


def test_the_page_of_a_rejected_dataset_says_so_first(home: Path) -> None:
    spec = spec_of(Column(name="debt", dtype="integer", min=0, severity="critical"))
    read = Page(page_of(pl.DataFrame({"debt": [-1, 2]}), spec))
    said = "Validation of Loans Rejected: no row was passed on, for critical rules did not hold: range of debt."
    assert said in read.words


def test_the_page_shows_which_rules_cost_how_many_rows_and_where_values_are_missing(home: Path) -> None:
    frame = pl.DataFrame({"income": [11.0, 2, float("nan"), None], "debt": [1, 1, 1, 1]})
    spec = spec_of(Column(name="income", dtype="float", max=10, nulls=0.25), Column(name="debt", dtype="integer"))
    page = page_of(frame, spec)
    read = Page(page)
    assert read.faults == [] and read.count("svg", role="img") == 2
    aside, _, missing = read.words.partition("Missing values ")
    assert "range of income" in aside and "25.0%" in aside
    assert page.count("stroke: var(--ink)") == 1, "the share that the spec allows"
    assert "50.0%" in missing and "debt" not in missing.split("Great Expectations")[0]


def test_a_clean_dataset_has_no_picture_and_the_page_says_why(home: Path) -> None:
    read = Page(page_of(pl.DataFrame({"debt": [1, 2]}), spec_of(Column(name="debt", dtype="integer"))))
    assert read.count("svg") == 0
    assert "Rows that break a rule There is none." in read.words and "Missing values No column has any." in read.words


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_or_limit_stays_words(name: str, home: Path) -> None:
    column = Column(name=name, dtype="string", values=(name, "$icon"))
    spec = spec_of(column).model_copy(update={"title": name})
    read = Page(page_of(pl.DataFrame({name: ["x", "$icon"]}), spec))
    assert read.faults == [] and read.count("script") == read.count("img") == 0
    assert read.count("span", **{"class": "held"}) == 2 and read.count("span", **{"class": "broken"}) == 1
    assert " ".join(name.split()) in read.words


def test_a_column_called_reason_keeps_its_values() -> None:
    found = check(
        pl.DataFrame({"reason": ["why", "not"]}), spec_of(Column(name="reason", dtype="string", values=("why",)))
    )
    assert found.rejected.rows() == [("not", "values of reason")]
    assert found.rejected.columns == ["reason", "reason_"]


FRAME = pl.DataFrame({"a": [1, 9, 3, None], "b": ["x", "y", PLANTED, "x"], "who": ["h1", "h2", "h3", "h3"]})


def suite_of(folder: Path, *expectations: object, name: str = "loans", **stored: object) -> Path:
    """A project as Great Expectations makes it, with one suite, and the spec's file beside it."""
    import great_expectations as gx

    context = gx.get_context(mode="file", project_root_dir=str(folder))
    context.suites.add(gx.ExpectationSuite(name=name, expectations=list(expectations)))
    (folder / "loans.yaml").write_text("name: loans\nexpectations: gx/loans\n")
    if stored:
        path = folder / "gx" / "expectations" / f"{name}.json"
        suite = json.loads(path.read_text())
        path.write_text(json.dumps(suite | {"expectations": [*suite["expectations"], stored]}))
    return folder


def spec_with(project: Path, *columns: Column, **changed: object) -> Spec:
    """A spec that names the suite `loans` of the project."""
    expectations = Expectations.model_validate({"project": "gx", "suite": "loans", **changed})
    spec = spec_of(*(columns or (Column(name="a", dtype="integer", min=2),))).model_copy(
        update={"expectations": expectations}
    )
    return spec.loaded_from(str(project / "loans.yaml"))


def told_by(found: Validation) -> list[tuple[str, str | None, str, bool, int | None, str | None]]:
    return [(o.rule, o.column, o.severity, o.held, o.unexpected, o.suite) for o in found.outcomes]


def test_a_suite_of_ones_own_is_held_beside_the_rules_of_the_spec(tmp_path: Path) -> None:
    project = suite_of(
        tmp_path,
        gxe.ExpectColumnValuesToBeBetween(column="a", max_value=5, severity="warning"),
        gxe.ExpectColumnValuesToBeInSet(column="b", value_set=["x", "y"], severity="critical"),
        gxe.ExpectColumnValuesToMatchRegex(column="b", regex="^x", severity="info"),
        gxe.ExpectColumnValuesToNotBeNull(column="a", mostly=0.5, severity="critical"),
        gxe.ExpectColumnMaxToBeBetween(column="a", max_value=10, severity="warning"),
        gxe.ExpectTableColumnCountToEqual(value=3),
    )
    found = check(FRAME, spec_with(project))
    assert told_by(found)[:3] == [
        ("rows", None, "critical", True, None, None),
        ("type", "a", "critical", True, None, None),
        ("range", "a", "warning", False, 1, None),
    ]
    assert told_by(found)[3:] == [
        ("expect_column_values_to_be_between", "a", "warning", False, 1, "loans"),
        ("expect_column_values_to_be_in_set", "b", "critical", False, 1, "loans"),
        ("expect_column_values_to_match_regex", "b", "info", False, 2, "loans"),
        ("expect_column_values_to_not_be_null", "a", "critical", True, 1, "loans"),
        ("expect_column_max_to_be_between", "a", "warning", True, None, "loans"),
        ("expect_table_column_count_to_equal", None, "critical", True, None, "loans"),
    ]
    assert found.critical == ["expect_column_values_to_be_in_set of b"]
    assert found.rejected["reason"].to_list() == [
        "range of a", "expect_column_values_to_be_between of a", "expect_column_values_to_be_in_set of b"
    ]  # fmt: skip
    assert found.valid.rows() == [(None, "x", "h3")]


def test_a_suite_of_ones_own_may_stand_alone(tmp_path: Path) -> None:
    project = suite_of(tmp_path, gxe.ExpectColumnValuesToBeBetween(column="a", max_value=5, severity="warning"))
    found = check(FRAME, spec_with(project, beside=False))
    assert told_by(found) == [("expect_column_values_to_be_between", "a", "warning", False, 1, "loans")]
    assert (found.valid.height, found.rejected.height) == (3, 1)


def test_rows_that_break_an_expectation_on_two_columns_are_set_aside(tmp_path: Path) -> None:
    project = suite_of(
        tmp_path,
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="low", column_B="high", severity="warning"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["low", "high"], severity="warning"),
    )
    frame = pl.DataFrame({"low": [5, 1, 5], "high": [2, 4, 2]})
    columns = (Column(name="low", dtype="integer"), Column(name="high", dtype="integer"))
    found = check(frame, spec_with(project, *columns, beside=False))
    assert [(o.column, o.unexpected) for o in found.outcomes] == [("low, high", 1), ("low, high", 2)]
    assert found.valid.height == 0 and found.rejected.height == 3


def test_an_info_sets_no_row_aside_and_is_no_warning(home: Path, tmp_path: Path) -> None:
    project = suite_of(tmp_path, gxe.ExpectColumnValuesToBeBetween(column="a", max_value=5, severity="info"))
    rows = datasets.put(FRAME, "loans/ingested")
    assert validate.fn(rows, spec_with(project, beside=False)).rows == 4
    (event,) = read.events(open_store(), types=("dataset.validated",))
    (kept,) = event.payload["expectations"]
    assert (event.severity, kept["severity"], kept["suite"], kept["unexpected"]) == ("info", "info", "loans", 1)
    assert kept["limits"] == [{"name": "max_value", "value": 5.0}]


def test_no_value_that_a_suite_has_seen_is_in_the_record_or_on_the_page(home: Path, tmp_path: Path) -> None:
    project = suite_of(
        tmp_path,
        gxe.ExpectColumnMaxToBeBetween(column="a", max_value=5, severity="warning"),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="b", value_set=["x"], severity="warning"),
        gxe.ExpectColumnMostCommonValueToBeInSet(column="b", value_set=["q"], severity="warning"),
        gxe.ExpectColumnValuesToBeInSet(column="b", value_set=["x"], severity="warning"),
    )
    frame = FRAME.with_columns(a=pl.Series([1, 987_654_321, 3, None]))
    validate.fn(datasets.put(frame, "loans/ingested"), spec_with(project, beside=False))
    (event,) = read.events(open_store(), types=("dataset.validated",))
    page = blobs.get(event.payload["report"]["address"]).decode()
    for written in (page, json.dumps(event.payload)):
        assert PLANTED not in written and "987654321" not in written and "987,654,321" not in written
    assert "expect_column_max_to_be_between" in page


def test_a_project_is_left_as_it_was(tmp_path: Path) -> None:
    project = suite_of(tmp_path, gxe.ExpectColumnValuesToNotBeNull(column="b"))
    (project / "gx" / "expectations" / ".ge_store_backend_id").unlink()  # as in a fresh clone
    shutil.rmtree(project / "gx" / "uncommitted")
    before = contents(project)
    check(FRAME, spec_with(project))
    assert contents(project) == before


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_project_whose_passwords_are_elsewhere_is_opened_all_the_same(tmp_path: Path) -> None:
    project = suite_of(tmp_path, gxe.ExpectColumnValuesToNotBeNull(column="b"))
    described = project / "gx" / "great_expectations.yml"
    described.write_text(
        described.read_text() + "fluent_datasources:\n  bank: {type: postgres, connection_string: '${NOT_HERE}'}\n"
    )
    assert len(check(FRAME, spec_with(project, beside=False)).outcomes) == 1


@pytest.mark.parametrize(
    ("expectation", "says"),
    [
        (
            {"type": "expect_the_moon"},
            r"suite 'loans' asks for expect_the_moon, which Great Expectations does not know",
        ),
        ({"kwargs": {"column": "a", "tall": 1}}, r"to_be_unique in a way that cannot be checked \(ValidationError\)"),
        ({"kwargs": {"column": "email"}}, r"to_be_unique of column 'email', which is dropped at ingest. Keep"),
        ({"kwargs": {"column": "bb"}}, r"of column 'bb', which the spec does not declare. Did you mean 'b'\?"),
        (
            {"type": "expect_column_values_to_be_between", "kwargs": {"column": "who", "min_value": 1}},
            r"of column 'who', which is hashed at ingest. Of hashes",
        ),
    ],
    ids=["unknown type", "unknown argument", "dropped column", "unknown column", "hashed column"],
)
def test_an_expectation_that_cannot_be_asked_is_told_on_one_line(
    tmp_path: Path, expectation: dict[str, object], says: str
) -> None:
    stored = {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "a"}, "meta": {}, **expectation}
    project = suite_of(tmp_path, **stored)
    columns = (
        Column(name="a", dtype="integer"),
        Column(name="email", dtype="string", pii="direct"),
        Column(name="who", dtype="string", handling="hash"),
    )
    with pytest.raises(SpecError, match=r"^loans\.yaml:2: " + ".*" + says) as refused:
        check(FRAME, spec_with(project, *columns))
    assert "\n" not in str(refused.value)


def test_an_expectation_with_a_parameter_that_nobody_gives_is_told_on_one_line(tmp_path: Path) -> None:
    expectation = gxe.ExpectColumnValuesToBeBetween(column="a", min_value={"$PARAMETER": "least"})
    project = suite_of(tmp_path, expectation)
    with pytest.raises(SpecError, match=r"to_be_between with a parameter, which nobody gives here. Write the value"):
        check(FRAME, spec_with(project, beside=False))


RUN = "@pd.io.common.os.system('touch ran') == 0"


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ({"row_condition": RUN, "condition_parser": "pandas"}, "with a row_condition in pandas' words, which is run"),
        ({"row_condition": RUN}, "in pandas' words"),
        ({"row_condition": {"type": "pass_through", "pass_through_filter": RUN}}, "in pandas' words"),
        (
            {"row_condition": {"type": "and", "conditions": [{"type": "pass_through", "pass_through_filter": RUN}]}},
            "in pandas' words",
        ),
        ({"row_condition": f'col("who") == "{PLANTED}"', "condition_parser": "great_expectations"}, "column 'who', wh"),
        (
            {"row_condition": {"type": "or", "conditions": [
                {"type": "nullity", "column": {"name": "who"}, "is_null": True},
                {"type": "comparison", "column": {"name": "who"}, "operator": "==", "parameter": PLANTED}]}},
            "column 'who', which is hashed at ingest",
        ),
        ({"row_condition": 'col("email").notNull()', "condition_parser": "great_expectations"}, "'email', which is dr"),
    ],
)  # fmt: skip
def test_a_condition_on_rows_runs_no_code_and_holds_no_value_of_a_hashed_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: dict[str, object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    kwargs = {"column": "a"} | condition
    project = suite_of(tmp_path, type="expect_column_values_to_not_be_null", kwargs=kwargs, meta={})
    columns = (
        Column(name="a", dtype="integer"),
        Column(name="email", dtype="string", pii="direct"),
        Column(name="who", dtype="string", handling="hash"),
    )
    with pytest.raises(SpecError) as refused:
        check(FRAME, spec_with(project, *columns, beside=False))
    assert says in str(refused.value)
    assert PLANTED not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_a_condition_in_great_expectations_own_words_is_held(tmp_path: Path) -> None:
    asked = gxe.ExpectColumnValuesToNotBeNull(column="a", row_condition=gx_column("b") == "x", severity="warning")
    found = check(FRAME, spec_with(suite_of(tmp_path, asked), beside=False))
    assert [o.unexpected for o in found.outcomes] == [1]
    assert found.rejected["b"].to_list() == ["x"]


def test_a_hashed_column_can_be_asked_whether_it_differs(tmp_path: Path) -> None:
    project = suite_of(tmp_path, gxe.ExpectColumnValuesToBeUnique(column="who", severity="warning"))
    found = check(FRAME, spec_with(project, Column(name="who", dtype="string", handling="hash"), beside=False))
    assert [o.unexpected for o in found.outcomes] == [2]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, r"gx is no Great Expectations project. Name the folder that holds great_expect"),
        (lambda gx: (gx / "expectations" / "loans.json").rename(gx / "expectations" / "loan.json"),
         r"project gx has no suite 'loans'. Did you mean 'loan'\?"),
        (lambda gx: (gx / "expectations" / "loans.json").write_text("{"),
         r"suite 'loans' cannot be read \(JSONDecodeError\). Save it again"),
        (lambda gx: (gx / "expectations" / "loans.json").write_text(
            (gx / "expectations" / "loans.json").read_text().replace('"critical"', '"dire"')),
         r"suite 'loans' cannot be read \(ValidationError\)"),
        (lambda gx: (gx / "expectations" / "loans.json").write_text('{"name": "loans", "expectations": []}'),
         r"suite 'loans' asks for nothing"),
        (lambda gx: (gx / "great_expectations.yml").write_text("stores: ["),
         r"great_expectations.yml of gx cannot be read \(ValueError\)"),
        (lambda gx: (gx / "great_expectations.yml").write_text("config_version: 4"),
         r"great_expectations.yml of gx cannot be read \(KeyError\). It must be of Great Expectations 1.x"),
        (lambda gx: (gx / "great_expectations.yml").write_text(
            (gx / "great_expectations.yml").read_text().replace(
                "class_name: ExpectationsStore", "class_name: ExpectationsStore\n    module_name: theirs")),
         r"names a store of its own making"),
        (lambda gx: (gx / "great_expectations.yml").write_text(
            (gx / "great_expectations.yml").read_text().replace(
                "base_directory: expectations/", "base_directory: ../made/here")),
         r"great_expectations.yml of gx names a store that is no folder"),
        (lambda gx: (gx / "great_expectations.yml").write_text(
            (gx / "great_expectations.yml").read_text().replace(
                "class_name: TupleFilesystemStoreBackend", "class_name: NoBackend")),
         r"the store of expectations cannot be opened \("),
    ],
    ids=["no project", "no suite", "no JSON", "no severity", "empty", "no YAML", "an old project", "own code",
         "no folder", "unknown store"],
)  # fmt: skip
def test_a_project_that_cannot_be_used_is_told_on_one_line(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    project = suite_of(tmp_path, gxe.ExpectColumnValuesToNotBeNull(column="b"))
    spoil(project / "gx")
    with pytest.raises(SpecError, match=r"^loans\.yaml:2: .*" + says) as refused:
        check(FRAME, spec_with(project))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


def test_an_expectation_that_does_not_fit_the_type_of_its_column_is_told_without_a_value(tmp_path: Path) -> None:
    project = suite_of(tmp_path, gxe.ExpectColumnValuesToBeBetween(column="b", min_value=1))
    with pytest.raises(BadData, match=r"to_be_between of b cannot be checked .* in the suite 'loans'") as refused:
        check(FRAME, spec_with(project, beside=False))
    assert PLANTED not in str(refused.value)
