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
from audit.events.references import Report, Window
from audit.spec.load import load_spec
from audit.spec.model import Drift, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks.drift import Comparison, bar, check_drift, compare, thresholds
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


def made(month: int, *, mean: float, rows: int = ROWS) -> pl.DataFrame:
    drawn = np.random.default_rng(month)
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


def test_thresholds_know_nothing_of_the_current_data(
    spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    limits = [
        {c.name: c.threshold for c in compare(reference, rows, spec).columns} for rows in (current, made(6, mean=90))
    ]
    assert limits[0] == limits[1] == {name: limit.value for name, limit in thresholds(reference, spec).items()}


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
        (lambda rows: rows.head(99), "have 99 rows, and drift needs 100"),
        (lambda rows: rows.clear(), "have 0 rows"),
        (lambda rows: rows.with_columns(income=pl.col("applied")), "'income' is of dtype Datetime"),
        (lambda rows: rows.with_columns(income=pl.col("purpose")), "'income' is a number on one side only"),
    ],
    ids=["a column is missing", "few rows", "no rows", "a date", "text for a number"],
)
def test_bad_input_is_one_line_that_names_the_thing(
    bent: Callable[[pl.DataFrame], pl.DataFrame], what: str, spec: Spec, reference: pl.DataFrame, current: pl.DataFrame
) -> None:
    with pytest.raises(BadData, match=what) as raised:
        compare(reference, bent(current), spec)
    assert raised.value.hint and "\n" not in str(raised.value)


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


def test_evidently_s_page_and_snapshot_are_kept(home: Path, spec: Spec, reference: pl.DataFrame) -> None:
    from evidently.core.report import Snapshot

    before, now = datasets.put(reference, "loans/train"), datasets.put(made(6, mean=75), "loans/features")
    verdict = check_drift.fn(before, now, spec)
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
