"""Outcomes that come in later: each goes to the decision that it belongs to, or to none."""

import re
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.artifacts import datasets, models
from audit.events.payloads import Metric
from audit.events.references import ModelVersion, Window
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from flows._findings import decay_finding
from flows._runs import in_words
from tasks._frames import MAIN
from tasks.evaluate import evaluate
from tasks.outcomes import ABSENT, AMBIGUOUS, NAMELESS, UNKNOWN, UNSCORED, check_performance, join, verdict_of
from tasks.register import promote, register
from tasks.score import decide
from tasks.train import fit
from tests.tasks.conftest import LOANS
from tests.tasks.kinds import loans_with, spec_of

APRIL = Window.month(2024, 4)
MODEL = ModelVersion(name="loans", version=1, address="artifact://sha256/m", digest="sha256:m")

# The outcome of row n is n, so that one that went to a foreign decision shows.
COUNTED = Spec.model_validate(LOANS | {"target": {"column": "repaid", "positive": 1}})


def rows(keys: list[tuple[int, str | None]]) -> pl.DataFrame:
    """What ingest makes of rows with these hours and applicants."""
    return pl.DataFrame(
        {
            "applied": [datetime(2024, 4, 1) + timedelta(hours=hour) for hour, _ in keys],
            "applicant": pl.Series([who for _, who in keys], dtype=pl.String),
            "repaid": pl.Series(range(len(keys)), dtype=pl.Int64),
        }
    )


def decided(source: pl.DataFrame) -> pl.DataFrame:
    return source.select("applied", "applicant", score=pl.col("repaid").cast(pl.Float64))


keys = st.tuples(st.integers(0, 6), st.sampled_from(["ann", "bob", "eve", None]))


@settings(max_examples=200)
@given(st.lists(keys, min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_no_outcome_goes_to_another_s_decision_whatever_came_went_or_doubled(keys, random) -> None:
    source = rows(keys)
    decisions = decided(source).filter(pl.Series([random.random() < 0.8 for _ in keys]))
    later = source[random.sample(range(len(keys)), len(keys))]  # in another order

    joined = join(decisions, later, COUNTED)

    assert joined.decided["score"].to_list() == joined.outcomes["repaid"].to_list()
    assert joined.known + sum(joined.left_out.values()) == decisions.height


def test_what_could_not_be_joined_is_counted_by_reason() -> None:
    source = rows([(0, "ann"), (1, "bob"), (1, "bob"), (2, None), (3, "eve"), (4, "ann"), (5, "bob")])
    decisions = decided(source).with_columns(score=pl.when(pl.col("score") != 5).then("score"))
    later = source.with_columns(repaid=pl.when(pl.col("repaid") != 6).then("repaid")).filter(
        pl.col("applicant") != "eve"
    )

    joined = join(decisions, later, COUNTED)

    assert joined.outcomes["repaid"].to_list() == [0]
    assert joined.left_out == {AMBIGUOUS: 2, NAMELESS: 1, ABSENT: 1, UNKNOWN: 1, UNSCORED: 1}


def test_a_decision_whose_twin_was_set_aside_by_validation_is_still_ambiguous() -> None:
    source = rows([(0, "ann"), (0, "ann")])
    assert join(decided(source)[:1], source, COUNTED).left_out == {AMBIGUOUS: 1}


def test_every_key_column_of_the_spec_tells_rows_apart() -> None:
    number = {"name": "loan", "dtype": "integer", "role": "key"}
    spec = COUNTED.model_copy(update={"columns": (*COUNTED.columns, type(COUNTED.columns[0])(**number))})
    source = rows([(0, "ann"), (0, "ann")]).with_columns(loan=pl.Series([1, 2]))

    joined = join(source.select("applied", "applicant", "loan", score=pl.col("repaid") / 1), source, spec)

    assert joined.outcomes["repaid"].to_list() == [0, 1]


def test_decisions_from_before_the_spec_gained_a_key_are_joined_by_the_others() -> None:
    source = rows([(0, "ann"), (1, "bob")])
    assert join(decided(source).drop("applicant"), source, COUNTED).outcomes["repaid"].to_list() == [0, 1]


def test_without_an_event_time_the_keys_alone_tell_rows_apart() -> None:
    timeless = without_time(COUNTED)
    source = rows([(0, "ann"), (1, "bob"), (2, "bob")])
    joined = join(decided(source).drop("applied"), source[::-1], timeless)
    assert (joined.outcomes["repaid"].to_list(), joined.left_out) == ([0], {AMBIGUOUS: 2})


def test_decisions_from_before_the_spec_had_any_key_are_joined_to_nothing() -> None:
    source = rows([(0, "ann"), (1, "bob")])
    joined = join(decided(source).drop("applied", "applicant"), source, without_time(COUNTED))
    assert (joined.known, joined.left_out) == (0, {NAMELESS: 2})


def without_time(spec: Spec) -> Spec:
    return spec.model_copy(update={"event_time": None, "schedule": None})


def auc(value: float, high: float) -> Metric:
    return Metric(name="auc", value=value, low=value - (high - value), high=high)


@pytest.mark.parametrize(
    ("now", "then", "verdict"),
    [
        (auc(0.67, 0.68), auc(0.75, 0.76), "decayed"),
        (auc(0.67, 0.71), auc(0.75, 0.76), "steady"),  # the interval reaches what is allowed
        (auc(0.74, 0.75), auc(0.75, 0.76), "steady"),
        (auc(0.80, 0.81), auc(0.75, 0.76), "steady"),
        (None, auc(0.75, 0.76), "cannot be told"),
        (auc(0.67, 0.68), None, "cannot be told"),
    ],
    ids=["worse", "worse or chance", "about as good", "better", "one outcome only", "never judged"],
)
def test_decay_is_a_loss_that_chance_does_not_explain(now, then, verdict, loan_spec: Spec) -> None:
    assert verdict_of(now, then, loan_spec) == verdict


def test_outcomes_that_are_not_in_are_said_once_not_every_day(home, loans: pl.DataFrame, loan_spec: Spec) -> None:
    decisions, source = stored(loans, known=100)

    first = check_performance.fn(decisions, source, MODEL, loan_spec, APRIL)
    second = check_performance.fn(decisions, source, MODEL, loan_spec, APRIL)

    assert (first.verdict, first.known, first.figure) == ("not known yet", 100, None)
    assert second.event == first.event
    assert len(list(read.events(open_store(), types=("performance.checked",)))) == 1


def test_enough_outcomes_give_figures_with_intervals(home, loans: pl.DataFrame, loan_spec: Spec) -> None:
    decisions, source = stored(loans, known=500)

    verdict = check_performance.fn(decisions, source, MODEL, loan_spec, APRIL)

    (checked,) = read.events(open_store(), types=("performance.checked",))
    found = verdict.figure
    assert found and found.name == "auc" and found.low < found.value < found.high  # type: ignore[operator]
    assert {m["name"] for m in checked.payload["metrics"]} >= {"auc", "brier", "calibration_error"}
    assert checked.payload["left_out"] == [{"name": UNKNOWN, "value": 100}]
    assert verdict.verdict == "cannot be told"  # for no evaluation of this model is on record


@pytest.mark.parametrize("loans_known", [600, 500], ids=["all", "some"])
def test_what_cannot_be_told_is_said_once_not_every_day(home, loans, loan_spec: Spec, loans_known: int) -> None:
    decisions, source = stored(loans, known=loans_known)
    first, second = (check_performance.fn(decisions, source, MODEL, loan_spec, APRIL) for _ in range(2))
    assert (first.verdict, second.event) == ("cannot be told", first.event)


def test_outcomes_that_are_all_alike_give_no_figures(home, loans: pl.DataFrame, loan_spec: Spec) -> None:
    decisions, source = stored(loans.with_columns(repaid=pl.lit(True)), known=600)
    verdict = check_performance.fn(decisions, source, MODEL, loan_spec, APRIL)
    assert (verdict.verdict, verdict.known, verdict.figure) == ("cannot be told", 600, None)


@pytest.mark.parametrize("kind", MAIN)
def test_decisions_of_every_kind_are_judged_as_their_model_was_when_it_was_promoted(home, kind: str) -> None:
    spec, test = spec_of(kind), loans_with(kind, 400, seed=1)
    model = models.put(fit(loans_with(kind), spec), "loans")
    evaluation = evaluate.fn(model, datasets.put(test, "loans/test"), spec)
    champion = promote.fn(register.fn(model, evaluation, spec), evaluation, spec)

    now = check_performance.fn(*decided_by(champion, test, spec), champion, spec, APRIL)
    again = check_performance.fn(*decided_by(champion, worse(test, spec), spec), champion, spec, Window.month(2024, 5))

    assert (now.verdict, again.verdict) == ("steady", "decayed")
    assert now.figure == now.baseline == evaluation.metric(MAIN[kind])  # the same rows, the same resamples
    assert [event.payload["main"] for event in read.events(open_store(), types=("performance.checked",))] == [
        MAIN[kind]
    ] * 2
    called = {"auc": "AUC", "r2": "R²"}[MAIN[kind]]
    assert f"of the {called}'s 95 % interval" in now.rule
    (decay,) = read.events(open_store(), types=("performance.decayed",))
    assert re.fullmatch(rf"{called} fell from 0\.\d{{3}} to -?\d+\.\d{{3}} in 2024-05", in_words(decay))
    assert f": {called} " in decay_finding(again, spec).title


def test_decisions_without_a_time_are_judged_by_their_keys(home) -> None:
    spec, test = without_time(spec_of("regression")), loans_with("regression", 300).drop("applied")
    champion = models.put(fit(test, spec), "loans")

    verdict = check_performance.fn(*decided_by(champion, test, spec), champion, spec, None)

    (checked,) = read.events(open_store(), types=("performance.checked",))
    assert (verdict.window, verdict.known, checked.payload.get("window")) == (None, 300, None)
    assert verdict.figure and verdict.figure.name == "r2"


def test_decisions_from_before_the_target_had_several_classes_cannot_be_judged(home) -> None:
    spec, rows = spec_of("multiclass"), loans_with("multiclass", 300)
    decisions = rows.select("applied", "applicant", score=pl.lit(0.5))
    stored = datasets.put(decisions, "loans/decisions"), datasets.put(rows, "loans/ingested")
    verdict = check_performance.fn(*stored, MODEL, spec, APRIL)
    assert (verdict.verdict, verdict.known, verdict.figure) == ("cannot be told", 300, None)


def decided_by(model: ModelVersion, rows: pl.DataFrame, spec: Spec):
    """What scoring decides on these rows, and the rows with their outcomes."""
    decisions = decide(rows, models.load(model), model, spec)
    return datasets.put(decisions, "loans/decisions"), datasets.put(rows, "loans/ingested")


def worse(rows: pl.DataFrame, spec: Spec) -> pl.DataFrame:
    """The same rows with the outcomes of others."""
    return rows.with_columns(pl.col(spec.target.column).shuffle(seed=0))


def stored(loans: pl.DataFrame, known: int):
    """Decisions on the loans, and the loans with the first `known` outcomes."""
    drawn = np.random.default_rng(0)
    decisions = loans.select("applied", "applicant", score=pl.Series(drawn.random(loans.height)))
    source = loans.with_columns(repaid=pl.when(pl.int_range(pl.len()) < known).then("repaid"))
    return datasets.put(decisions, "loans/decisions"), datasets.put(source, "loans/ingested")
