"""Figures are scikit-learn's for every kind of target, whole and resampled; intervals are paired, and quick."""

import math
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from tasks._frames import MAIN, Predicted
from tasks._judging import judge, varied, with_intervals
from tests.tasks.kinds import foretold, spec_of

BINARY, CLASSES, NUMBERS = (spec_of(kind) for kind in ("binary", "multiclass", "regression"))
KNOWN = ("a", "b", "c")  # to the model; d comes and was never learnt

DRAWN = st.integers(0, 3)  # how often a row was drawn
ROWS = st.lists(st.tuples(st.booleans(), st.integers(0, 20), DRAWN), min_size=2, max_size=60)  # ties among scores
WEIGHTS = st.tuples(*[st.integers(1, 4)] * len(KNOWN))
CLASS_ROWS = st.lists(st.tuples(st.sampled_from([*KNOWN, "d"]), WEIGHTS, DRAWN), min_size=2, max_size=40)
NUMBER_ROWS = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50), DRAWN), min_size=2, max_size=40)


def two_outcomes_drawn(rows):
    return len({outcome for outcome, _, count in rows if count}) > 1


@given(ROWS.filter(two_outcomes_drawn))
def test_figures_of_yes_and_no_are_those_of_scikit_learn(rows):
    target, score, counts = np.array(rows, dtype=float).T
    score = score / 20
    decided = score >= 0.5
    found = judge(target.astype(np.int8), Predicted(score), BINARY).figures(counts)
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


@given(CLASS_ROWS.filter(two_outcomes_drawn))
def test_figures_of_several_classes_are_those_of_scikit_learn_also_where_one_was_never_learnt(rows):
    target, counts = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
    weights = np.array([row[1] for row in rows], dtype=float)
    predicted = foretold(weights / weights.sum(axis=1, keepdims=True), KNOWN)
    found = judge(target, predicted, CLASSES).figures(counts.astype(float))

    came, label = np.repeat(target, counts), np.repeat(predicted.label, counts)
    stated = np.repeat(np.column_stack([predicted.probabilities, np.zeros(len(rows))]), counts, axis=0)
    with warnings.catch_warnings(action="ignore"):  # classes that were not drawn, rows that do not add up to one
        expected = {
            "auc": one_against_all(came, stated),
            "log_loss": oracle.log_loss(came, np.maximum(stated, 1e-15), labels=[*KNOWN, "d"]),
            "accuracy": oracle.accuracy_score(came, label),
            "balanced_accuracy": oracle.balanced_accuracy_score(came, label),
            "macro_f1": oracle.f1_score(came, label, average="macro", zero_division=0),
            "calibration_error": calibration_error(target == predicted.label, predicted.score, counts),
        }
    assert found == pytest.approx(expected, abs=1e-9)


@given(NUMBER_ROWS.filter(two_outcomes_drawn))
def test_figures_of_numbers_are_those_of_scikit_learn(rows):
    target, score, counts = np.array(rows).T
    found = judge(target.astype(float), Predicted(score.astype(float)), NUMBERS).figures(counts.astype(float))
    came, said = np.repeat(target, counts), np.repeat(score, counts)
    expected = {
        "r2": oracle.r2_score(came, said),
        "mae": oracle.mean_absolute_error(came, said),
        "rmse": oracle.root_mean_squared_error(came, said),
        "median_absolute_error": oracle.median_absolute_error(came, said),
        "bias": np.mean(said - came),
    }
    assert found == pytest.approx(expected, abs=1e-9)


def test_where_every_class_came_the_auc_is_the_macro_average_of_one_against_the_rest():
    target, predicted = drawn("multiclass", 500)
    found = judge(target, predicted, CLASSES).figures(np.ones(500))
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(target, predicted.probabilities, multi_class="ovr"))


@pytest.mark.parametrize("kind", MAIN)
def test_where_one_outcome_alone_was_drawn_there_is_no_main_figure(kind):
    target, predicted = drawn(kind, 50)
    counts = np.zeros(50)
    counts[0] = 3
    judged = judge(target, predicted, spec_of(kind))
    assert math.isnan(judged.figures(counts)[MAIN[kind]])
    assert varied(target) and not varied(target[:1])


def test_equal_numbers_whose_mean_is_not_quite_theirs_give_no_r2():
    judged = judge(np.array([0.1, 0.7]), Predicted(np.array([0.2, 0.6])), NUMBERS)
    assert 3 * 0.1 / 3 != 0.1
    assert math.isnan(judged.figures(np.array([3.0, 0.0]))["r2"])


@pytest.mark.parametrize("kind", MAIN)
def test_an_interval_holds_its_figure_and_narrows_with_more_rows(kind):
    few, many = (with_intervals([judge(*drawn(kind, rows), spec_of(kind))])[0] for rows in (500, 8_000))
    for small, large in zip(few, many, strict=True):
        assert small.low <= small.value <= small.high
        assert large.high - large.low < small.high - small.low


@pytest.mark.parametrize("kind", MAIN)
def test_against_itself_a_model_gains_exactly_nothing(kind):
    judged = judge(*drawn(kind, 500), spec_of(kind))
    *_, difference = with_intervals([judged, judged])
    assert {(metric.value, metric.low, metric.high) for metric in difference} == {(0.0, 0.0, 0.0)}


def test_a_difference_on_the_same_rows_is_surer_than_two_intervals_apart():
    target, said = drawn("binary", 2_000)
    blurred = np.clip(said.score + np.random.default_rng(3).normal(0, 0.1, 2_000), 0, 1)
    own, rival, difference = with_intervals([judge(target, said, BINARY), judge(target, Predicted(blurred), BINARY)])
    assert difference[0].name == "auc"
    assert difference[0].value == pytest.approx(own[0].value - rival[0].value)
    assert difference[0].low > 0
    assert difference[0].high - difference[0].low < (own[0].high - own[0].low) / 1.5


@pytest.mark.parametrize(("kind", "seconds"), [("binary", 1.5), ("regression", 1.5), ("multiclass", 4)])
def test_two_models_on_35000_rows_take_a_second_or_two_and_ten_classes_no_ten_times_that(kind, seconds):
    judged = judge(*drawn(kind, 35_000), spec_of(kind))
    began = time.process_time()
    with_intervals([judged, judged])
    assert time.process_time() - began < seconds


def drawn(kind, rows):
    """Outcomes, and predictions that know something about them; of ten classes where there are several."""
    generator = np.random.default_rng(5)
    if kind == "regression":
        target = generator.normal(50, 20, rows)
        return target, Predicted(target + generator.normal(3, 10, rows))
    if kind == "multiclass":
        classes = tuple("abcdefghij")
        came = generator.integers(0, 10, rows)
        raised = generator.random((rows, 10)) + 0.4 * (came[:, None] == np.arange(10))
        return np.array(classes)[came], foretold(raised / raised.sum(axis=1, keepdims=True), classes)
    target = (generator.random(rows) < 0.3).astype(np.int8)
    return target, Predicted(np.clip(generator.normal(0.35 + 0.2 * target, 0.2), 0, 1))


def one_against_all(came, stated):
    """The mean over the classes that came; scikit-learn itself knows no mean where one did not."""
    each = zip([*KNOWN, "d"], stated.T, strict=True)
    return np.mean([oracle.roc_auc_score(came == name, column) for name, column in each if (came == name).any()])


def calibration_error(came, stated, counts):
    bins = np.minimum(np.floor(stated * 10), 9)
    gaps = [abs(np.sum((counts * (came - stated))[bins == b])) for b in range(10)]
    return sum(gaps) / counts.sum()
