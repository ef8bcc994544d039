"""Who becomes champion, and what is on record of it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from audit.errors import BadData
from audit.events.payloads import Gate, Metric
from audit.events.references import DatasetVersion, ModelVersion, Report
from audit.recording.registry import choose_champion
from audit.store import read
from audit.store.engine import open_store
from tasks._frames import Evaluation, candidate
from tasks.register import promote, register

STEPS = ("model.registered", "model.promoted", "model.rejected", "model.deployed", "model.retired")


def model_of(letter: str, version: int = 0) -> ModelVersion:
    return ModelVersion(
        name="loans", version=version, address=f"artifact://sha256/{letter * 64}", digest=f"sha256:{letter * 64}"
    )


def evaluation_of(model: ModelVersion, champion: ModelVersion | None = None, *, held: bool = True) -> Evaluation:
    return Evaluation(
        model=model,
        tested_on=DatasetVersion(name="loans/test", version=1, rows=400, address="artifact://t", digest="sha256:t"),
        champion=champion,
        held=held,
        metrics=(Metric(name="auc", value=0.61),),
        difference=(Metric(name="auc", value=0.011, low=0.004, high=0.018),) if champion else (),
        gates=(
            Gate(name="rows", limit=">= 5", value=400, held=True),
            Gate(name="auc", limit=">= 0.6", value=0.61, held=held),
        ),
        report=Report(name="loans/evaluation", address="artifact://sha256/r", digest="sha256:r"),
        event="event-1",
    )


OLD, FIRST, SECOND = model_of("a", 1), model_of("a"), model_of("b")
NUMBERED = model_of("b", 2)


@pytest.mark.parametrize(
    ("champion", "evaluation", "chosen"),
    [
        (None, evaluation_of(SECOND), NUMBERED),
        (None, evaluation_of(SECOND, held=False), None),
        (OLD, evaluation_of(SECOND, OLD), NUMBERED),
        (OLD, evaluation_of(SECOND, OLD, held=False), OLD),
        (OLD, evaluation_of(SECOND), OLD),
        (OLD, evaluation_of(FIRST, OLD), OLD),
    ],
    ids=["first", "first, not good enough", "better", "not good enough", "held against nobody", "another model's"],
)
def test_the_challenger_is_chosen_only_on_its_own_held_evaluation_against_the_champion(champion, evaluation, chosen):
    assert choose_champion(candidate(NUMBERED, evaluation), champion) == chosen


def test_the_first_champion_goes_through_staging_into_production(home, loan_spec):
    evaluation = evaluation_of(FIRST)
    registered = register.fn(FIRST, evaluation, loan_spec, cause="event-0")
    assert registered == OLD
    assert promote.fn(registered, evaluation, loan_spec, cause="event-0") == OLD
    assert read.champion(open_store(), "loans") == OLD
    assert steps() == [
        ("model.registered", "model/loans/v1", "none", None),
        ("model.promoted", "model/loans/v1", "staging", None),
        ("model.promoted", "model/loans/v1", "production", None),
        ("model.deployed", "model/loans/v1", "production", None),
    ]
    assert {event.payload["cause"] for event in read.events(open_store(), types=STEPS)} == {"event-0"}


def test_a_better_challenger_replaces_the_champion_and_says_by_how_much(home, loan_spec, first_champion):
    evaluation = evaluation_of(SECOND, first_champion)
    promote.fn(register.fn(SECOND, evaluation, loan_spec), evaluation, loan_spec)
    assert read.champion(open_store(), "loans") == NUMBERED
    assert steps()[4:] == [
        ("model.registered", "model/loans/v2", "none", None),
        ("model.promoted", "model/loans/v2", "staging", 1),
        ("model.promoted", "model/loans/v2", "production", 1),
        ("model.deployed", "model/loans/v2", "production", 1),
        ("model.retired", "model/loans/v1", "none", None),
    ]
    assert reason("model.deployed") == "2 of 2 gates held; against v1: AUC +0.011 [+0.004, +0.018]"
    assert reason("model.retired") == "replaced by v2"


def test_a_challenger_that_fails_a_gate_is_rejected_for_it_and_the_champion_stays(home, loan_spec, first_champion):
    evaluation = evaluation_of(SECOND, first_champion, held=False)
    assert promote.fn(register.fn(SECOND, evaluation, loan_spec), evaluation, loan_spec) == first_champion
    assert read.champion(open_store(), "loans") == first_champion
    assert steps()[5:] == [("model.rejected", "model/loans/v2", "none", None)]
    assert reason("model.rejected") == "auc 0.6100, wanted >= 0.6"


def test_without_a_champion_to_keep_a_rejection_is_on_record_and_an_error(home, loan_spec):
    evaluation = evaluation_of(FIRST, held=False)
    with pytest.raises(BadData, match=r"v1 was rejected and there is no champion to keep: auc 0.6100, wanted >= 0.6\."):
        promote.fn(register.fn(FIRST, evaluation, loan_spec), evaluation, loan_spec)
    assert [type for type, *_ in steps()] == ["model.registered", "model.rejected"]
    assert read.champion(open_store(), "loans") is None


def test_an_evaluation_from_before_the_last_promotion_promotes_nobody(home, loan_spec, first_champion):
    late = evaluation_of(SECOND, None)
    assert promote.fn(register.fn(SECOND, late, loan_spec), late, loan_spec) == first_champion
    assert reason("model.rejected") == "it was held against none, but the champion is now v1"


def test_a_model_without_a_number_is_not_promoted(home, loan_spec):
    with pytest.raises(BadData, match="Register it first"):
        promote.fn(FIRST, evaluation_of(FIRST), loan_spec)
    assert steps() == []


def test_a_second_attempt_after_the_deployment_changes_nothing(home, loan_spec, first_champion):
    before = steps()
    assert promote.fn(first_champion, evaluation_of(FIRST), loan_spec) == first_champion
    assert steps() == before


def test_of_two_promotions_at_once_one_wins(home, loan_spec):
    rivals = [model_of(letter) for letter in "cdef"]
    together = threading.Barrier(len(rivals))

    def compete(model):
        evaluation = evaluation_of(model)  # nobody was champion when it was judged
        numbered = register.fn(model, evaluation, loan_spec)
        together.wait()
        return numbered, promote.fn(numbered, evaluation, loan_spec)

    with ThreadPoolExecutor(len(rivals)) as pool:
        outcomes = list(pool.map(compete, rivals))

    assert sorted(numbered.version for numbered, _ in outcomes) == [1, 2, 3, 4]
    assert len({champion.version for _, champion in outcomes}) == 1
    assert [step for step, *_ in steps()].count("model.deployed") == 1


@pytest.fixture
def first_champion(home, loan_spec) -> ModelVersion:
    evaluation = evaluation_of(FIRST)
    return promote.fn(register.fn(FIRST, evaluation, loan_spec), evaluation, loan_spec)


def steps():
    found = read.events(open_store(), types=STEPS, newest_first=False)
    return [(e.type, e.subject, e.payload["environment"], e.payload.get("replaces")) for e in found]


def reason(type):
    return next(read.events(open_store(), types=(type,))).payload["reason"]
