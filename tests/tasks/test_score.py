"""Deciding: every row has its decision or its reason, and one bad row costs no other."""

import math

import numpy as np
import polars as pl
import pytest
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from audit.artifacts import datasets, models
from audit.errors import BadData, SpecError
from audit.events.event import uuid7, uuid8
from audit.events.payloads import ScoringFacts
from audit.events.references import ModelVersion, Window
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks.score import (
    CLASSES_TOLD,
    EMPTY,
    INFINITE,
    MOST_BLAMED,
    NO_SCORE,
    decide,
    decision_ids,
    for_people,
    in_a_line,
    score,
    scored,
)
from tasks.train import fit
from tests.tasks.kinds import loans_with, spec_of

CHAMPION = ModelVersion(name="loans", version=3, address="artifact://sha256/c", digest="sha256:c")
FEATURES = ("purpose", "region", "income", "debt", "employed")


@pytest.fixture
def pipeline(loans, loan_spec):
    return fit(loans, loan_spec)


def test_each_row_has_a_decision_beside_its_inputs_and_its_model(later_loans, pipeline, loan_spec):
    decisions = decide(later_loans, pipeline, CHAMPION, loan_spec)
    expected = frames.predicted(pipeline, later_loans, loan_spec).score
    assert decisions["score"].to_list() == pytest.approx(expected.tolist())
    assert decisions["decision"].to_list() == (expected >= 0.5).tolist()
    assert decisions["row"].to_list() == list(range(400))
    assert decisions.select("applied", "applicant", *FEATURES).equals(
        later_loans.select("applied", "applicant", *FEATURES)
    )
    assert decisions.select("model", "model_version", "model_digest").unique().row(0) == ("loans", 3, "sha256:c")
    assert "repaid" not in decisions.columns  # the outcome was not known when it was decided
    assert decisions["error"].null_count() == 400


def test_a_score_at_the_threshold_is_decided_positive(later_loans, pipeline, loan_spec):
    middle = sorted(frames.predicted(pipeline, later_loans, loan_spec).score)[200]
    exact = loan_spec.model_copy(update={"threshold": middle})
    decisions = decide(later_loans, pipeline, CHAMPION, exact)
    assert decisions.filter(pl.col("score") == middle)["decision"].all()


def test_the_same_run_and_row_have_the_same_decision_id_and_others_another():
    run = uuid7()
    assert decision_ids(run, 3) == [uuid8(run, run, "0"), uuid8(run, run, "1"), uuid8(run, run, "2")]
    assert not set(decision_ids(run, 3)) & set(decision_ids(uuid7(), 3))


def test_bad_rows_keep_their_place_with_a_reason_and_cost_no_other_row(later_loans, pipeline, loan_spec):
    bad = plant(later_loans, 7, income=math.inf)
    bad = plant(bad, 9, purpose=None, region=None, income=None, debt=None, employed=None)
    decisions = decide(bad, pipeline, CHAMPION, loan_spec)
    clean = decide(later_loans, pipeline, CHAMPION, loan_spec)
    assert failed(decisions) == {7: INFINITE, 9: EMPTY}
    assert decisions["score"].null_count() == decisions["decision"].null_count() == 2
    kept = pl.col("row").is_in([7, 9]).not_()
    assert decisions.filter(kept)["score"].equals(clean.filter(kept)["score"])


def test_a_missing_value_or_an_unseen_category_is_no_failure(later_loans, pipeline, loan_spec):
    odd = plant(plant(later_loans, 3, purpose="boat"), 5, income=None, purpose=None)
    assert failed(decide(odd, pipeline, CHAMPION, loan_spec)) == {}


@pytest.mark.parametrize("planted", [[0], [399], [0, 1, 2], [13, 200, 201, 398]])
def test_rows_that_the_model_raises_on_are_found_and_the_others_scored(later_loans, pipeline, loan_spec, planted):
    bad = later_loans
    for row in planted:
        bad = plant(bad, row, debt=-999)
    decisions = decide(bad, refusing(pipeline), CHAMPION, loan_spec)
    assert failed(decisions) == dict.fromkeys(planted, "the model raised ValueError")
    assert decisions["score"].null_count() == len(planted)


@pytest.mark.parametrize("given", [math.nan, math.inf])
def test_a_row_without_a_finite_score_has_failed(later_loans, pipeline, loan_spec, given):
    class Undecided(Pipeline):
        def predict_proba(self, X):
            probabilities = super().predict_proba(X)
            probabilities[4] = given
            return probabilities

    decisions = decide(later_loans, Undecided(pipeline.steps), CHAMPION, loan_spec)
    assert failed(decisions) == {4: NO_SCORE}
    assert decisions["score"].null_count() == decisions["decision"].null_count() == 1


def test_a_model_that_raises_on_many_rows_is_a_fault_of_the_batch(later_loans, pipeline, loan_spec):
    bad = later_loans.with_columns(debt=pl.lit(-999))
    with pytest.raises(BadData, match=f"the model raised ValueError on more than {MOST_BLAMED} rows"):
        scored(bad, refusing(pipeline), loan_spec)


def test_a_feature_that_is_not_there_is_a_fault_of_the_batch(later_loans, pipeline, loan_spec):
    with pytest.raises(BadData, match="the rows have no feature debt"):
        decide(later_loans.drop("debt"), pipeline, CHAMPION, loan_spec)


def test_a_feature_with_the_name_of_one_of_our_columns_is_refused(later_loans, pipeline, loan_spec):
    first, *others = loan_spec.columns[2:]
    renamed = loan_spec.model_copy(update={"columns": (first.model_copy(update={"name": "score"}), *others)})
    with pytest.raises(SpecError, match="'score' is a column of ours"):
        decide(later_loans, pipeline, CHAMPION, renamed)


def test_a_batch_is_on_record_with_its_counts(home, later_loans, pipeline, loan_spec):
    model, rows = numbered(pipeline), datasets.put(later_loans, "loans/features")
    segment = score.fn(rows, model, loan_spec, Window.month(2024, 1))

    (event,) = read.events(open_store(), types=("predictions.scored",))
    positive = int(datasets.read(segment)["decision"].sum())
    assert event.subject == f"segment/loans/decisions/{segment.version}"
    assert (event.payload["rows"], event.payload["failed"], event.payload["window"]) == (400, 0, "2024-01")
    assert event.payload["decisions"] == [
        {"name": "positive", "value": positive},
        {"name": "negative", "value": 400 - positive},
    ]
    assert event.payload["model"]["version"] == 1
    assert not list(read.events(open_store(), types=("predictions.failed",)))


def test_the_page_says_the_share_of_each_decision_and_where_it_is_on_record(home, later_loans, pipeline, loan_spec):
    frame = plant(later_loans, 3, income=float("inf"))
    score.fn(datasets.put(frame, "loans/features"), numbered(pipeline), loan_spec, Window.month(2024, 2))
    (scored_event,) = read.events(open_store(), types=("predictions.scored",))
    page = for_people(ScoringFacts.model_validate(scored_event.payload), "0199")
    assert "**400 decisions** by loans v1 for 2024-02" in page
    assert "| failed | 1 | 0.2% |" in page
    assert "audit run 0199" in page


def test_failed_rows_are_on_record_with_their_inputs_and_the_others_are_decided(home, later_loans, pipeline, loan_spec):
    rows = datasets.put(plant(later_loans, 7, income=math.inf, purpose="car"), "loans/features")
    segment = score.fn(rows, numbered(pipeline), loan_spec)

    (told,) = read.events(open_store(), types=("predictions.failed",))
    (failure,) = told.payload["failures"]
    decisions = datasets.read(segment)
    assert (failure["row"], failure["error"]) == (7, INFINITE)
    assert failure["decision_id"] == decisions["decision_id"][7]
    assert {"name": "purpose", "value": "car"} in failure["inputs"]
    assert [known["name"] for known in failure["inputs"]] == list(FEATURES)  # neither key nor outcome
    (counted,) = read.events(open_store(), types=("predictions.scored",))
    assert (counted.payload["rows"], counted.payload["failed"]) == (400, 1)


def test_where_no_row_can_be_scored_nothing_was_decided(home, later_loans, pipeline, loan_spec):
    rows = datasets.put(later_loans.with_columns(income=pl.lit(math.inf)), "loans/features")
    with pytest.raises(BadData, match=f"not one of 400 rows could be scored \\({INFINITE}\\)"):
        score.fn(rows, numbered(pipeline), loan_spec)
    assert [e.type for e in read.events(open_store(), types=("predictions.*",))] == ["predictions.failed"]


def test_no_rows_are_refused(home, later_loans, pipeline, loan_spec):
    rows = datasets.put(later_loans.clear(), "loans/features")
    with pytest.raises(BadData, match="there are no rows to decide on in 2024-01"):
        score.fn(rows, numbered(pipeline), loan_spec, Window.month(2024, 1))


# Several classes, and numbers.


@pytest.fixture(scope="module")
def grades():
    """Spec, rows and model of loans with grades A, B and C."""
    spec = spec_of("multiclass")
    return spec, loans_with("multiclass", 400, seed=1), fit(loans_with("multiclass"), spec)


@pytest.fixture(scope="module")
def losses():
    """Likewise of loans of which so much is lost."""
    spec = spec_of("regression")
    return spec, loans_with("regression", 400, seed=1), fit(loans_with("regression"), spec)


def test_of_several_classes_the_likeliest_is_decided_with_each_one_s_probability_beside_it(grades):
    spec, rows, model = grades
    decisions = decide(rows, model, CHAMPION, spec)
    expected = frames.predicted(model, rows, spec)
    shares = decisions.select("p:A", "p:B", "p:C")
    assert decisions["decision"].to_list() == expected.label.tolist()
    assert shares.to_numpy().tolist() == expected.probabilities.tolist()
    assert decisions["score"].to_list() == shares.max_horizontal().to_list()
    assert set(decisions["decision"]) == {"A", "B", "C"}


def test_a_class_that_is_less_probable_than_the_threshold_is_left_undecided(home, grades):
    spec, rows, model = grades
    strict = spec.model_copy(update={"threshold": 0.8})
    decisions = decide(rows, model, CHAMPION, strict)
    sure = decisions["score"] >= 0.8
    assert decisions["decision"].is_not_null().to_list() == sure.to_list()
    assert 0 < sure.sum() < 400 and decisions["error"].null_count() == 400

    facts = on_record(rows, model, strict)
    assert facts.undecided == 400 - sure.sum() and facts.failed == 0
    assert in_a_line(facts) == f"400 decisions, {facts.undecided} undecided, 0 failed"
    assert f"| undecided | {facts.undecided} |" in for_people(facts, "0199")


def test_of_several_classes_each_one_s_decisions_are_counted_the_most_frequent_first(home, grades):
    spec, rows, model = grades
    facts = on_record(rows, model, spec)
    counts = decide(rows, model, CHAMPION, spec)["decision"].value_counts().sort("count", descending=True)
    assert [(count.name, count.value) for count in facts.decisions] == list(counts.iter_rows())
    assert (facts.kind, facts.threshold, facts.others, facts.undecided) == ("multiclass", None, 0, 0)
    assert in_a_line(facts) == "400 decisions, 0 failed"


def test_of_very_many_classes_the_most_frequent_are_told_and_the_others_as_one(home):
    one_tree = {"n_estimators": 1, "bootstrap": False, "min_samples_leaf": 1}
    spec = spec_of("multiclass", estimator={"kind": "random_forest", "parameters": one_tree})
    rows = loans_with("multiclass", 400).with_columns(grade=pl.format("class {}", pl.int_range(400) % 70))
    facts = on_record(rows, fit(rows, spec), spec)  # which one tree without chance has learnt by heart
    assert len(facts.decisions) == CLASSES_TOLD
    assert {count.value for count in facts.decisions} == {6}
    assert facts.others == 400 - 6 * CLASSES_TOLD
    assert f"| all other classes | {facts.others} |" in for_people(facts, "0199")


@pytest.mark.parametrize("given", [math.nan, -math.inf])
def test_a_class_without_a_finite_probability_fails_its_row(grades, given):
    spec, rows, model = grades

    class Uncertain(Pipeline):
        def predict_proba(self, X):
            probabilities = super().predict_proba(X)
            probabilities[4, 2] = given
            return probabilities

    decisions = decide(plant(rows, 9, income=math.inf), Uncertain(model.steps), CHAMPION, spec)
    assert failed(decisions) == {4: NO_SCORE, 9: INFINITE}
    assert (
        decisions.filter(pl.col("error").is_not_null()).select("score", "decision", "p:A", "p:C").null_count().row(0)
        == (2,) * 4
    )
    assert decisions["decision"].null_count() == 2


def test_a_number_is_decided_on_as_it_is_foretold(home, losses):
    spec, rows, model = losses
    decisions = decide(rows, model, CHAMPION, spec)
    expected = frames.predicted(model, rows, spec).score.tolist()
    assert decisions["score"].to_list() == decisions["decision"].to_list() == expected

    facts = on_record(rows, model, spec)
    assert (facts.kind, facts.decisions, facts.threshold) == ("regression", [], None)
    assert facts.mean_score == pytest.approx(np.mean(expected))
    shape = [np.quantile(expected, share, method="nearest") for share in (0.1, 0.5, 0.9)]
    assert [(one.name, one.value) for one in facts.scores] == [
        (name, pytest.approx(value)) for name, value in zip(("p10", "p50", "p90"), shape, strict=True)
    ]
    assert in_a_line(facts) == f"400 decisions, mean {np.mean(expected):,.4g}, 0 failed"
    assert "threshold" not in for_people(facts, "0199")


def test_a_number_with_a_threshold_is_decided_true_or_false(home, losses):
    spec, rows, model = losses
    spec = spec.model_copy(update={"threshold": 700.0})
    decisions = decide(rows, model, CHAMPION, spec)
    assert decisions["decision"].to_list() == [score >= 700 for score in decisions["score"]]

    facts = on_record(rows, model, spec)
    positive = int(decisions["decision"].sum())
    assert {count.name: count.value for count in facts.decisions} == {"positive": positive, "negative": 400 - positive}
    assert in_a_line(facts) == f"400 decisions, {positive / 400:.0%} positive, 0 failed"


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_a_row_that_fails_costs_no_other_whatever_the_kind_of_target(request, kind):
    spec, rows, model = request.getfixturevalue({"multiclass": "grades", "regression": "losses"}[kind])
    bad = plant(plant(rows, 7, income=math.inf), 200, debt=-999)
    decisions, clean = decide(bad, refusing(model), CHAMPION, spec), decide(rows, model, CHAMPION, spec)
    assert failed(decisions) == {7: INFINITE, 200: "the model raised ValueError"}
    kept = pl.col("row").is_in([7, 200]).not_()
    assert decisions.filter(kept)["decision"].equals(clean.filter(kept)["decision"])


def test_where_no_row_has_a_class_nothing_was_decided(home, grades):
    spec, rows, model = grades
    hopeless = rows.with_columns(income=pl.lit(math.inf))
    decisions = decide(hopeless, model, CHAMPION, spec)
    assert decisions.schema["decision"] == pl.String and decisions["decision"].null_count() == 400
    with pytest.raises(BadData, match="not one of 400 rows could be scored"):
        score.fn(datasets.put(hopeless, "loans/features"), numbered(model), spec)


def test_a_feature_with_the_name_of_a_class_s_column_is_refused(grades):
    spec, rows, model = grades
    first, *others = (column for column in spec.columns if column.role == "feature")
    renamed = spec.model_copy(update={"columns": (first.model_copy(update={"name": "p:A"}), *others)})
    with pytest.raises(SpecError, match="'p:A' is a column of ours"):
        decide(rows, model, CHAMPION, renamed)


def on_record(rows, model, spec):
    """What goes on record of the decisions on these rows."""
    score.fn(datasets.put(rows, "loans/features"), numbered(model), spec)
    (event,) = read.events(open_store(), types=("predictions.scored",))
    return ScoringFacts.model_validate(event.payload)


def plant(frame, row, **values):
    """`frame` with other values in one row."""
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(
        pl.when(here).then(pl.lit(value, frame.schema[name])).otherwise(name).alias(name)
        for name, value in values.items()
    )


def failed(decisions):
    return dict(decisions.filter(pl.col("error").is_not_null()).select("row", "error").iter_rows())


def refusing(pipeline):
    """The pipeline behind a step that raises, for the whole batch, when a debt is -999."""
    guarded = Pipeline([("guard", FunctionTransformer(refuse_negative_debt)), *pipeline.steps])
    guarded.named_steps["guard"].feature_names_in_ = pipeline.feature_names_in_
    return guarded


def refuse_negative_debt(rows):
    if (rows["debt"] == -999).any():
        raise ValueError("debt -999 of somebody")
    return rows


def numbered(pipeline):
    return models.put(pipeline, "loans").model_copy(update={"version": 1})
