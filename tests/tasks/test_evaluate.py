"""Judging a model: the figures are scikit-learn's, the intervals are paired, what was not measured has not held."""

import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from audit.artifacts import datasets, models, reports
from audit.errors import BadData
from audit.events.payloads import Gate, Metric
from audit.events.references import ModelVersion
from audit.spec.model import Gates
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks._judging import figures, judge, with_intervals
from tasks.evaluate import SLICE_ROWS, SLICE_VALUES, evaluate, for_people, gates, slices, widest_gap
from tasks.register import promote, register
from tasks.train import fit

ROWS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 3)), min_size=2, max_size=60
)  # target, score in twentieths (so that there are ties), how often the row was drawn


def both_classes_drawn(rows):
    return {target for target, _, count in rows if count} == {True, False}


@given(ROWS.filter(both_classes_drawn))
@settings(deadline=None)
def test_figures_are_those_of_scikit_learn_with_ties_and_with_rows_drawn_many_times(rows):
    target, score, counts = np.array(rows, dtype=float).T
    score = score / 20
    decided = score >= 0.5
    found = figures(judge(target.astype(np.int8), score, 0.5), counts)
    weights = {"sample_weight": counts}
    expected = {
        "auc": oracle.roc_auc_score(target, score, **weights),
        "average_precision": oracle.average_precision_score(target, score, **weights),
        "log_loss": oracle.log_loss(target, np.clip(score, 1e-15, 1 - 1e-15), **weights),
        "brier": oracle.brier_score_loss(target, score, **weights),
        "accuracy": oracle.accuracy_score(target, decided, **weights),
        "precision": oracle.precision_score(target, decided, zero_division=0, **weights),
        "recall": oracle.recall_score(target, decided, **weights),
        "calibration_error": calibration_error(target, score, counts),
    }
    assert found == pytest.approx(expected, abs=1e-9)


def calibration_error(target, score, counts):
    bins = np.minimum(np.floor(score * 10), 9)
    gaps = [abs(np.sum((counts * (target - score))[bins == b])) for b in range(10)]
    return sum(gaps) / counts.sum()


def test_an_interval_holds_its_figure_and_narrows_with_more_rows():
    few, many = (with_intervals([judge(*drawn(rows), 0.5)])[0] for rows in (500, 8_000))
    for small, large in zip(few, many, strict=True):
        assert small.low <= small.value <= small.high
        assert large.high - large.low < small.high - small.low


def test_against_itself_a_model_gains_exactly_nothing():
    judged = judge(*drawn(500), 0.5)
    *_, difference = with_intervals([judged, judged])
    assert {(metric.value, metric.low, metric.high) for metric in difference} == {(0.0, 0.0, 0.0)}


def test_a_difference_on_the_same_rows_is_surer_than_two_intervals_apart():
    target, score = drawn(2_000)
    blurred = np.clip(score + np.random.default_rng(3).normal(0, 0.1, len(score)), 0, 1)
    own, rival, difference = with_intervals([judge(target, score, 0.5), judge(target, blurred, 0.5)])
    assert difference[0].name == "auc"
    assert difference[0].value == pytest.approx(own[0].value - rival[0].value)
    assert difference[0].low > 0
    assert difference[0].high - difference[0].low < (own[0].high - own[0].low) / 1.5


def test_two_models_on_35000_rows_take_less_than_a_second_and_a_half():
    target, score = drawn(35_000)
    began = time.process_time()
    with_intervals([judge(target, score, 0.5), judge(target, score[::-1], 0.5)])
    assert time.process_time() - began < 1.5


def test_slices_are_the_largest_values_with_enough_rows_of_both_outcomes(loan_spec):
    many = [f"v{i:02}" for i in range(SLICE_VALUES + 5)]
    region = [value for value in many for _ in range(SLICE_ROWS + 10)] + ["few"] * (SLICE_ROWS - 1) + ["sure"] * 500
    target, score = drawn(len(region))
    target[np.array(region) == "sure"] = 1
    found = slices(pl.DataFrame({"region": region}), target, score, loan_spec)
    assert len(found) == SLICE_VALUES - 1  # the largest, `sure`, has one outcome only
    assert {metric.slice for metric in found} < {f"region={value}" for value in many}
    inside = np.array(region) == "v00"
    assert found[0].value == pytest.approx(oracle.roc_auc_score(target[inside], score[inside]))


def test_a_slice_column_that_is_not_there_is_named(loans, loan_spec):
    with pytest.raises(BadData, match="slice column 'region' is not in the test rows"):
        slices(loans.drop("region"), *drawn(600), loan_spec)


def test_the_gap_is_between_slices_of_one_column():
    sliced = [sliced_auc("a=1", 0.9), sliced_auc("a=2", 0.8), sliced_auc("b=1", 0.5)]
    assert widest_gap(sliced) == pytest.approx(0.1)
    assert widest_gap(sliced[1:]) is None


@pytest.mark.parametrize(
    ("wanted", "gain", "held"),
    [
        ({"min_auc": 0.7}, None, {"auc": True, "gain": False}),
        ({"min_auc": 0.7001}, 0.0, {"auc": False, "gain": True}),
        ({"max_calibration_error": 0.02, "min_gain": None}, 0.0, {"calibration_error": True}),
        ({"max_calibration_error": 0.019}, -0.005, {"calibration_error": False, "gain": True}),
        ({"min_rows": 100}, 0.1, {"rows": True, "gain": True}),
        ({"min_rows": 101}, -0.006, {"rows": False, "gain": False}),
        ({"max_slice_gap": 1.0}, 0.1, {"gain": True, "slice_gap": False}),
    ],
)  # fmt: skip
def test_a_gate_holds_at_its_limit_and_never_where_nothing_was_measured(wanted, gain, held):
    metrics = [Metric(name="auc", value=0.7, rows=100), Metric(name="calibration_error", value=0.02, rows=100)]
    judged = gates(Gates.model_validate(wanted), metrics, [], gain, champion=True)
    assert {gate.name: gate.held for gate in judged} == held


def test_without_a_champion_no_gain_is_asked_for():
    metrics = [Metric(name="auc", value=0.7, rows=100), Metric(name="calibration_error", value=0.02, rows=100)]
    assert gates(Gates(), metrics, [], None, champion=False) == []


def test_an_evaluation_is_on_record_with_its_report(home, loans, later_loans, loan_spec):
    model, test = models.put(fit(loans, loan_spec), "loans"), datasets.put(later_loans, "loans/test")
    found = evaluate.fn(model, test, loan_spec)

    (event,) = read.events(open_store(), types=("model.evaluated",))
    assert (event.id, event.severity, event.subject) == (found.event, "info", "model/loans/unregistered")
    assert event.payload["tested_on"]["digest"] == test.digest
    assert event.payload["held"] is found.held is True
    assert found.metric("auc").value == pytest.approx(
        oracle.roc_auc_score(later_loans["repaid"], frames.predicted(models.load(model), later_loans, loan_spec).score)
    )
    page = reports.read(found.report).decode()
    assert "| auc | 0." in page
    assert "| region=north |" in page
    assert "| 0.9 to 1.0 |" in page


def test_an_address_in_the_title_is_not_in_the_report(home, loans, later_loans, loan_spec):
    asked = loan_spec.model_copy(update={"title": "Loans, ask ann@planted.org"})
    evaluate.fn(models.put(fit(loans, asked), "loans"), datasets.put(later_loans, "loans/test"), asked)
    assert not any(b"planted.org" in file.read_bytes() for file in home.rglob("*") if file.is_file())


def test_a_gate_that_does_not_hold_is_a_warning(home, loans, later_loans, loan_spec):
    strict = loan_spec.model_copy(update={"gates": Gates(min_auc=0.999)})
    found = evaluate.fn(models.put(fit(loans, strict), "loans"), datasets.put(later_loans, "loans/test"), strict)
    (event,) = read.events(open_store(), types=("model.evaluated",))
    assert (found.held, event.severity) == (False, "warning")
    assert found.failed() == [f"auc {found.metric('auc').value:.4f}, wanted >= 0.999"]


def test_the_champion_is_judged_on_the_same_rows(home, loans, later_loans, loan_spec):
    test = datasets.put(later_loans, "loans/test")
    champion = in_production(models.put(fit(loans.head(60), loan_spec), "loans"), test, loan_spec)
    found = evaluate.fn(models.put(fit(loans, loan_spec), "loans"), test, loan_spec)

    theirs = oracle.roc_auc_score(
        later_loans["repaid"], frames.predicted(models.load(champion), later_loans, loan_spec).score
    )
    gain = next(metric for metric in found.difference if metric.name == "auc")
    assert found.champion == champion
    assert gain.value == pytest.approx(found.metric("auc").value - theirs)
    assert found.against_champion() == f"AUC {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def test_a_champion_that_cannot_be_compared_is_not_beaten(home, loans, later_loans, loan_spec):
    test = datasets.put(later_loans, "loans/test")
    in_production(models.put(fit(loans, loan_spec), "loans"), test, loan_spec)
    without = loan_spec.model_copy(update={"columns": tuple(c for c in loan_spec.columns if c.name != "debt")})
    found = evaluate.fn(models.put(fit(loans, without), "loans"), test, without)
    assert "gain could not be measured, wanted >= -0.005" in found.failed()


def test_test_rows_with_one_class_are_refused(home, loans, later_loans, loan_spec):
    model = models.put(fit(loans, loan_spec), "loans")
    with pytest.raises(BadData, match=r"'repaid' has only one class in [0-9]+ test rows"):
        evaluate.fn(model, datasets.put(later_loans.filter("repaid"), "loans/test"), loan_spec)


def in_production(model, test, spec):
    found = evaluate.fn(model, test, spec)
    return promote.fn(register.fn(model, found, spec), found, spec)


def sliced_auc(name, value):
    return Metric(name="auc", value=value, slice=name, rows=200)


def drawn(rows):
    """Targets, and scores that know something about them."""
    generator = np.random.default_rng(5)
    target = (generator.random(rows) < 0.3).astype(np.int8)
    return target, np.clip(generator.normal(0.35 + 0.2 * target, 0.2), 0, 1)


def test_the_page_shows_each_figure_whole_and_names_the_champion(loan_spec):
    gate = Gate(name="rows", limit=">= 5000", value=32_407, held=True)
    metric = Metric(name="auc", value=0.75, low=0.74, high=0.76, rows=2)
    own = judge(np.array([0, 1], dtype=np.int8), np.array([0.2, 0.8]), 0.5)
    champion = ModelVersion(address="artifact://x", digest="sha256:y", name="loans", version=3)
    page = for_people(loan_spec, [metric], [metric], [gate], [], own, champion)
    assert "| gate | found | wanted | held |" in page and "| rows | 32,407 | >= 5000 | yes |" in page
    assert "against the champion v3" in page and "| figure | model | minus v3 |" in page
