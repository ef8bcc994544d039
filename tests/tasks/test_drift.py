"""A month that differs fires, a quiet month stays quiet, and whatever cannot be compared has a stated outcome."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from audit.artifacts import datasets, models, reports
from audit.errors import BadData
from audit.events.payloads import DriftFacts
from audit.events.references import Report, Window
from audit.spec.load import load_spec
from audit.spec.model import Drift, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks.drift import Comparison, bar, check_drift, compare, in_a_line, thresholds
from tasks.features import derive_features, parted
from tasks.ingest import read_sources
from tasks.train import fit

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FLIGHTS = Path(__file__).parents[2] / "flows/specs/flights.yaml"
MONTHS = 5
ROWS = 400  # a month
METHODS = ["jensenshannon", "wasserstein", "psi", "hellinger"]


# Real flights: the decision that the pipeline retrains on.


@dataclass
class Flights:
    """Features of real flights, and the models fitted on January to some month."""

    spec: Spec
    features: pl.DataFrame
    fitted: dict[int, "Pipeline"] = field(default_factory=dict)

    def months(self, first: int, last: int) -> pl.DataFrame:
        return self.features.filter(pl.col("sched_dep").dt.month().is_between(first, last))

    def check(self, month: int, *, learned_until: int) -> Comparison:
        reference, _ = parted(self.months(1, learned_until), self.spec)
        if learned_until not in self.fitted:
            self.fitted[learned_until] = fit(reference, self.spec)
        current, model = self.months(month, month), self.fitted[learned_until]
        before, now = (frames.predicted(model, rows, self.spec).score for rows in (reference, current))
        return compare(reference, current, self.spec, reference_scores=before, current_scores=now)


@pytest.fixture(scope="module")
def flights() -> Flights:
    spec = load_spec(FLIGHTS)
    year = read_sources(spec, None, b"k" * 32).frame
    return Flights(spec, derive_features(year, spec))


def test_july_fires_for_a_model_of_the_first_months(flights: Flights) -> None:
    found = flights.check(7, learned_until=6)
    assert found.share >= flights.spec.drift.share
    assert {"wind_gust", "dewp", "late"} <= set(found.drifted)
    assert not {"carrier", "origin", "minute_of_day"} & set(found.drifted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("month", "learned_until"), [(8, 7), (11, 6)], ids=["August, once July was learnt", "November"]
)
def test_a_quiet_month_stays_quiet(month: int, learned_until: int, flights: Flights) -> None:
    found = flights.check(month, learned_until=learned_until)
    assert len(found.columns) == len(flights.spec.drift.watch)
    assert found.share < flights.spec.drift.share


# Made data: five months, of which the mean of `income` wanders and the rest stays.


@pytest.fixture
def spec(loan_spec: Spec) -> Spec:
    return watching(loan_spec, "income", "debt", "purpose", "employed")


def watching(spec: Spec, *names: str, **changes: object) -> Spec:
    drift = {"watch": names, "share": 0.5, "margin": 1.1, "floor": 0.05, **changes}
    return spec.model_copy(update={"drift": Drift.model_validate(drift)})


def made(month: int, *, mean: float, rows: int = ROWS, seed: int | None = None) -> pl.DataFrame:
    drawn = np.random.default_rng(month if seed is None else seed)
    return pl.DataFrame(
        {
            "applied": [datetime(2024, month, 1) + timedelta(hours=i) for i in range(rows)],
            "income": drawn.normal(mean, 10, rows),
            "debt": drawn.integers(0, 60, rows),
            "purpose": drawn.choice(["car", "house", "study"], rows),
            "employed": drawn.random(rows) < 0.7,
            "repaid": drawn.random(rows) < 0.8,
        }
    )


@pytest.fixture
def reference() -> pl.DataFrame:
    return pl.concat(made(month, mean=50 + month) for month in range(1, MONTHS + 1))


@pytest.fixture
def current() -> pl.DataFrame:
    return made(MONTHS + 1, mean=53)


def names(found: Comparison) -> set[str]:
    return {column.name for column in found.columns}


@pytest.mark.parametrize("method", METHODS)
def test_thresholds_are_in_the_measure_of_evidently_s_own_report(
    method: str, spec: Spec, reference: pl.DataFrame
) -> None:
    spec = watching(spec, "income", "purpose", method=method)
    month = pl.col("applied").dt.month()
    rounds = [
        compare(reference.filter(month != m), reference.filter(month == m), spec).columns for m in range(1, MONTHS + 1)
    ]
    for name, limit in thresholds(reference, spec).items():
        measured = max(column.score for columns in rounds for column in columns if column.name == name)
        assert limit.within == pytest.approx(measured, abs=1e-6)
        assert limit.value == pytest.approx(max(0.05, 1.1 * measured), abs=1e-6)


def test_every_verdict_is_that_of_evidently_s_own_tests(spec: Spec, reference: pl.DataFrame) -> None:
    found = compare(reference, made(6, mean=70), spec)
    tests = found.snapshot.dict()["tests"]
    failed = {t["metric_config"]["params"].get("column") for t in tests if t["status"] == "FAIL"} - {None}
    assert failed == set(found.drifted) == {"income"}


def test_the_same_rows_give_the_same_verdict(spec: Spec, reference: pl.DataFrame, current: pl.DataFrame) -> None:
    spec = watching(spec, "income", "purpose", sample=150)
    assert thresholds(reference, spec) == thresholds(reference, spec)
    assert compare(reference, current, spec).columns == compare(reference, current, spec).columns


def test_thresholds_know_nothing_of_the_current_data_but_how_many_they_are(
    spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    limits = [
        {c.name: c.threshold for c in compare(reference, rows, spec).columns} for rows in (current, made(6, mean=90))
    ]
    apart = thresholds(reference, spec, rows=ROWS)
    assert limits[0] == limits[1] == {name: limit.value for name, limit in apart.items()}
    fewer = thresholds(reference, spec, rows=50)
    assert all(fewer[name].value > apart[name].value for name in spec.drift.watch)


def test_a_month_that_has_only_begun_sets_no_threshold(spec: Spec, reference: pl.DataFrame) -> None:
    begun = made(6, mean=90, rows=120)
    with_it, without = (thresholds(rows, spec)["income"] for rows in (pl.concat([reference, begun]), reference))
    assert with_it.within is not None and without.within is not None
    assert with_it.within < 1.5 * without.within


@pytest.mark.parametrize("time", ["one day", "none"])
def test_without_months_the_reference_is_cut_into_equal_parts(time: str, spec: Spec, reference: pl.DataFrame) -> None:
    day = reference.with_columns(applied=pl.lit(datetime(2024, 1, 1)) + pl.duration(seconds=pl.int_range(pl.len())))
    limits = thresholds(day if time == "one day" else reference.drop("applied"), spec)
    assert limits["income"].within and limits["income"].within > 0.05


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values", [[7.0], [7], ["seven"], [True], [None]], ids=["float", "int", "text", "bool", "null"]
)
def test_a_constant_column_is_steady(
    values: list[object], method: str, spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    spec = watching(spec, "constant", "debt", method=method, floor=0)
    one, other = (rows.with_columns(constant=pl.Series(values * rows.height)) for rows in (reference, current))
    assert "constant" not in compare(one, other, spec).drifted


def test_a_column_without_any_value_is_left_out_and_said_so(
    spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    found = compare(emptied(reference, "debt"), emptied(current, "debt"), spec)
    assert "debt" not in names(found)
    assert [(n.name, n.value) for n in found.left_out] == [("debt", "no values on either side")]


@pytest.mark.parametrize("side", ["reference", "current"])
def test_a_column_with_values_on_one_side_only_has_drifted(
    side: str, spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    spec = watching(spec, "income", "debt", margin=1_000)
    rows = {"reference": reference, "current": current}
    rows[side] = emptied(rows[side], "debt")
    found = compare(rows["reference"], rows["current"], spec)
    (debt,) = (column for column in found.columns if column.name == "debt")
    assert debt.drifted and debt.method == "values on one side only"


def test_a_target_that_is_not_known_yet_is_left_out(spec: Spec, reference: pl.DataFrame, current: pl.DataFrame) -> None:
    spec = watching(spec, "income", "repaid")
    assert "repaid" in names(compare(reference, current, spec))
    for unknown in (emptied(current, "repaid"), current.drop("repaid")):
        assert names(compare(reference, unknown, spec)) == {"income"}


def test_scores_are_compared_where_there_is_a_model(spec: Spec, reference: pl.DataFrame, current: pl.DataFrame) -> None:
    spec = watching(spec, "income", "score")
    before, now = (np.random.default_rng(0).random(rows.height) for rows in (reference, current))
    found = compare(reference, current, spec, reference_scores=before, current_scores=now / 2)
    assert [(c.name, c.of) for c in found.columns if c.drifted] == [("score", "prediction")]
    assert [n.value for n in compare(reference, current, spec).left_out] == ["no model was given"]


@pytest.mark.parametrize(
    ("bent", "what"),
    [
        (lambda rows: rows.drop("income"), "watched column 'income' is not in the features"),
        (lambda rows: rows.with_columns(income=pl.col("applied")), "'income' is of dtype Datetime"),
        (lambda rows: rows.with_columns(income=pl.col("purpose")), "'income' is a number on one side only"),
    ],
    ids=["a column is missing", "a date", "text for a number"],
)
def test_bad_input_is_one_line_that_names_the_thing(
    bent: Callable[[pl.DataFrame], pl.DataFrame], what: str, spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    with pytest.raises(BadData, match=what) as raised:
        compare(reference, bent(current), spec)
    assert raised.value.hint and "\n" not in str(raised.value)


@pytest.mark.parametrize(("side", "rows"), [("current", 29), ("current", 0), ("reference", 29)])
def test_with_too_few_rows_nothing_is_compared_and_every_column_says_why(
    side: str, rows: int, spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    given = {"reference": reference, "current": current}
    given[side] = given[side].head(rows)
    found = compare(given["reference"], given["current"], spec)
    why = f"too few rows to tell: {rows} {side} ones, and drift needs 30"
    assert (found.columns, found.share, found.snapshot) == ((), 0, None)
    assert [(n.name, n.value) for n in found.left_out] == [(name, why) for name in spec.drift.watch]
    assert found.rule.startswith(f"not applied, {why}")
    assert compare(reference.head(30), current.head(30), spec).columns


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (4, 0, "left out"),
        (4, 4, "left out"),
        (MONTHS * ROWS, 4, "left out"),
        (30, 0, "drifted"),  # one in 67, which would be six of 400
        (0, 4, "drifted"),  # one in a hundred, which would be twenty of 2,000
        (0, 0, "left out"),
    ],
)
def test_a_column_with_hardly_a_value_is_not_taken_for_one_that_vanished(
    before: int, now: int, told: str, spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    spec = watching(spec, "income", "rare")
    sides = (
        rows.with_columns(pl.when(pl.int_range(pl.len()) < values).then("income").alias("rare"))
        for rows, values in ((reference, before), (current, now))
    )
    found = compare(*sides, spec)
    assert [name for name in found.drifted if name == "rare"] == (["rare"] if told == "drifted" else [])
    assert [n.name for n in found.left_out] == (["rare"] if told == "left out" else [])


def test_shares_that_differ_by_a_rounding_error_are_no_distance(spec: Spec) -> None:
    """Counts for which scipy's Jensen-Shannon distance is NaN: the root of a divergence just below zero."""
    spec = watching(spec, "purpose", sample=20_000)
    one, other = (
        pl.DataFrame({"purpose": ["car"] * cars + ["house"] * (rows - cars)})
        for cars, rows in ((6868, 17243), (4563, 11456))
    )
    (purpose,) = compare(one, other, spec).columns
    assert purpose.score == 0 and not purpose.drifted


def test_what_is_not_finite_counts_as_missing(spec: Spec, reference: pl.DataFrame, current: pl.DataFrame) -> None:
    bent = current.with_columns(income=pl.when(pl.col("income") > 60).then(float("inf")).otherwise("income"))
    nulled = current.with_columns(income=pl.when(pl.col("income") <= 60).then("income"))
    assert compare(reference, bent, spec).columns == compare(reference, nulled, spec).columns


def emptied(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    return rows.with_columns(pl.lit(None, rows.schema[name]).alias(name))


@pytest.mark.parametrize(("ratio", "filled"), [(0, 0), (0.5, 5), (1, 10), (2, 20), (9, 20)])
def test_a_bar_is_half_full_at_the_threshold(ratio: float, filled: int) -> None:
    assert bar(ratio) == "█" * filled + "░" * (20 - filled)


# Small tables, and tables without a time: what is drawn by chance is quiet, what is sorted is not.


@dataclass
class Table:
    """A real table of which the target and the eleven columns with the most values are watched."""

    rows: pl.DataFrame
    spec: Spec
    sorted_by: str

    def cut(self, order: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> tuple[pl.DataFrame, pl.DataFrame]:
        learnt = int(self.rows.height * 0.8)
        return self.rows[order[:learnt]], self.rows[order[learnt:]]


def table_of(rows: pl.DataFrame, target: str, kind: str, sorted_by: str) -> Table:
    others = sorted((name for name in rows.columns if name != target), key=lambda name: -rows[name].n_unique())
    names = [*others[:11], target]
    columns = [{"name": name, "dtype": "float"} for name in names[:-1]]
    given = {
        "name": "table",
        "title": "A table without a time",
        "sources": {"table": {"file": "table.csv"}},
        "columns": [*columns, {"name": target, "dtype": "integer", "role": "target", "known_at": "outcome"}],
        "target": {"column": target, "kind": kind, "positive": 1},
        "drift": {"watch": names, "share": 0.3},
    }
    return Table(rows, Spec.model_validate(given), sorted_by)


@pytest.fixture(scope="module", params=["breast_cancer", "diabetes", "digits", "randhie"])
def table(request: pytest.FixtureRequest) -> Table:
    import statsmodels.api as sm
    from sklearn import datasets as sklearn

    if request.param == "randhie":
        rows = pl.from_pandas(sm.datasets.randhie.load_pandas().data)
        return table_of(rows, "mdvis", "regression", "lncoins")
    rows = pl.from_pandas(getattr(sklearn, f"load_{request.param}")(as_frame=True).frame)
    kind, sorted_by = {
        "breast_cancer": ("binary", "mean radius"),
        "diabetes": ("regression", "s5"),
        "digits": ("multiclass", "target"),
    }[request.param]
    return table_of(rows, "target", kind, sorted_by)


@pytest.mark.parametrize("seed", range(20))
def test_a_part_that_was_drawn_by_chance_stays_quiet(seed: int, table: Table) -> None:
    reference, current = table.cut(np.random.default_rng(seed).permutation(table.rows.height))
    limits = thresholds(reference, table.spec, rows=current.height)
    beyond = [measured(reference[name], current[name], table.spec) >= limit.value for name, limit in limits.items()]
    assert sum(beyond) / len(beyond) < table.spec.drift.share / 2


def test_a_part_that_was_cut_off_at_a_value_fires(table: Table) -> None:
    reference, current = table.cut(table.rows[table.sorted_by].arg_sort().to_numpy())
    assert compare(reference, current, table.spec).share >= table.spec.drift.share


def measured(one: pl.Series, other: pl.Series, spec: Spec) -> float:
    """The distance of two columns as Evidently measures it: classes by their names, numbers in its own bins."""
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    classes = one.name == spec.target.column and spec.target.kind != "regression"
    kind = ColumnType.Categorical if classes else ColumnType.Numerical
    before, now = (side.head(spec.drift.sample).to_pandas() for side in (one, other))
    return float(get_stattest(before, now, kind, spec.drift.method)(before, now, kind, None).drift_score)


def people(of: range, seed: int) -> pl.DataFrame:
    """Thirty rows of each person, who differ from each other far more than the rows of one."""
    drawn = np.random.default_rng(seed)
    who = np.repeat(np.array(of), 30)
    level, debt = (np.random.default_rng(place).normal(0, 10, 1_000)[who] for place in (1, 2))
    return pl.DataFrame(
        {
            "applicant": [f"hash {each}" for each in who],
            "income": level + drawn.normal(0, 1, len(who)),
            "debt": debt + drawn.normal(0, 1, len(who)),
        }
    )


@pytest.mark.parametrize("first", [0, 100, 200, 300, 400])
def test_other_people_are_no_drift_where_the_rows_of_each_stay_together(first: int, spec: Spec) -> None:
    spec = watching(spec, "income", "debt")
    learnt, others = people(range(first, first + 20), 0), people(range(first + 20, first + 25), 1)
    assert compare(learnt, others, spec).drifted == ()
    nobody = learnt.drop("applicant"), others.drop("applicant")
    assert compare(*nobody, spec).drifted  # rows that are drawn one by one do not show how people differ


@pytest.mark.parametrize("seed", range(5))
def test_few_rows_a_month_that_stay_as_they_are_stay_quiet(seed: int, spec: Spec) -> None:
    months = [made(month, mean=50, rows=40, seed=100 * seed + month) for month in range(1, 5)]
    found = compare(pl.concat(months[:3]), months[3], watching(spec, "income", "debt", share=0.5, margin=1.2))
    assert "its 3 months and 20 draws by chance" in found.rule
    assert found.drifted == ()


def test_a_model_that_is_surer_of_what_it_has_learnt_does_not_drift_for_that(
    spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    spec = watching(spec, "score")
    drawn = np.random.default_rng(0)
    learnt, tested, now = (drawn.beta(a, a, rows) for a, rows in ((0.05, MONTHS * ROWS), (0.7, 500), (0.7, ROWS)))
    fair, naive = (
        compare(reference, current, spec, reference_scores=learnt, current_scores=now, tested_scores=held_out)
        for held_out in (tested, None)
    )
    assert (fair.drifted, naive.drifted) == ((), ("score",))
    assert "of the scores also the rows that the model was tested on" in fair.rule
    shifted = compare(
        reference, current, spec, reference_scores=learnt, current_scores=now * 0 + 0.5, tested_scores=tested
    )
    assert shifted.drifted == ("score",)


@pytest.mark.parametrize(
    ("kind", "given", "method"),
    [
        ("binary", [0, 1], "jensenshannon"),
        ("binary", ["good", "bad"], "jensenshannon"),
        ("multiclass", [10, 20, 30], "jensenshannon"),
        ("regression", [1.5, 2.5, 40.0], "wasserstein"),
    ],
    ids=["0 and 1", "text", "numbers for classes", "a number"],
)
def test_a_target_is_watched_as_what_it_is(
    kind: str, given: list[object], method: str, spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    target = spec.target.model_copy(update={"kind": kind, "positive": given[0]})
    spec = watching(spec, "repaid", method="wasserstein").model_copy(update={"target": target})
    steady, turned = (pl.Series("repaid", given * ROWS * MONTHS), pl.Series("repaid", given[:1] * ROWS))
    before = reference.with_columns(steady[: reference.height])
    (same,) = compare(before, current.with_columns(steady[:ROWS]), spec).columns
    (other,) = compare(before, current.with_columns(turned), spec).columns
    assert (same.of, same.method, same.drifted, other.drifted) == ("target", method, False, True)


# The task: what it leaves on record.


@pytest.mark.parametrize(("mean", "fires"), [(53, False), (75, True)], ids=["quiet", "drifted"])
def test_a_check_is_on_record_and_a_drift_besides(
    mean: float, fires: bool, home: Path, spec: Spec, reference: pl.DataFrame
) -> None:
    spec = watching(spec, "income")
    before, now = datasets.put(reference, "loans/train"), datasets.put(made(6, mean=mean), "loans/features")
    verdict = check_drift.fn(before, now, spec, None, Window.month(2024, 6))
    found = list(read.events(open_store(), types=("drift.*",), newest_first=False))
    assert [(e.type, e.severity) for e in found] == [
        ("drift.checked", "info"),
        *([("drift.detected", "warning")] if fires else []),
    ]
    assert (verdict.detected, verdict.event, verdict.drifted) == (fires, found[-1].id, ("income",) if fires else ())
    payload = found[-1].payload
    assert (payload["window"], payload["reference_rows"], payload["current_rows"]) == ("2024-06", MONTHS * ROWS, ROWS)
    assert (payload["seed"], payload["detected"], payload["watched"]) == (0, fires, 1)
    assert {"name", "of", "method", "score", "threshold", "within", "drifted"} == payload["columns"][0].keys()


def test_a_check_of_too_few_rows_is_on_record_as_one_that_could_not_tell(
    home: Path, spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    before, now = datasets.put(reference.head(20), "loans/train"), datasets.put(current.head(5), "loans/undecided")
    verdict = check_drift.fn(before, now, spec)
    (checked,) = read.events(open_store(), types=("drift.*",))
    why = "too few rows to tell: 5 current ones, and drift needs 30"
    assert (verdict.detected, verdict.columns, verdict.report, verdict.event) == (False, (), None, checked.id)
    assert (checked.payload["watched"], checked.payload["detected"], checked.payload.get("report")) == (0, False, None)
    assert {column["value"] for column in checked.payload["left_out"]} == {why}
    facts = DriftFacts.model_validate(checked.payload)
    assert in_a_line(facts) == f"Drift in loans/undecided cannot be told: {why}"
    assert why.encode() in reports.read(verdict.page)


def test_evidently_s_page_and_snapshot_are_kept(home: Path, spec: Spec, reference: pl.DataFrame) -> None:
    from evidently.core.report import Snapshot

    before, now = datasets.put(reference, "loans/train"), datasets.put(made(6, mean=75), "loans/features")
    verdict = check_drift.fn(before, now, spec)
    assert verdict.report
    page = reports.read(verdict.report)
    assert b"income" in page and b"</html>" in page
    (checked,) = read.events(open_store(), types=("drift.checked",))
    kept = checked.payload["snapshot"]
    snapshot = reports.read(Report(address=kept["address"], digest=kept["digest"], name=kept["of"]))
    again = Snapshot.loads(snapshot.decode())
    assert json.loads(again.json())["metrics"]


def test_a_model_s_scores_are_among_what_the_task_compares(
    home: Path, loan_spec: Spec, loans: pl.DataFrame, later_loans: pl.DataFrame
) -> None:
    spec = watching(loan_spec, "income", "score", "repaid")
    model = models.put(fit(loans, spec), spec.name)
    before, now = datasets.put(loans, "loans/train"), datasets.put(later_loans, "loans/features")
    verdict = check_drift.fn(before, now, spec, model)
    assert {c.name: c.of for c in verdict.columns} == {"income": "data", "score": "prediction", "repaid": "target"}
    (checked,) = read.events(open_store(), types=("drift.checked",))
    assert checked.payload["model"]["digest"] == model.digest


def test_evidently_is_told_to_send_nothing(spec: Spec, reference: pl.DataFrame, current: pl.DataFrame) -> None:
    compare(reference, current, spec)
    from evidently import telemetry

    assert os.environ["DO_NOT_TRACK"] and not telemetry.event_logger.is_enabled()
