"""Which window a flow takes when it is given none, for a spec that does not say where its data end."""

from datetime import date
from pathlib import Path

import pytest

from audit import record
from audit.events.payloads import ExpiryFacts, OutcomeFacts, ScoringFacts, Used, used
from audit.events.references import Window
from audit.recording.initialise import initialise
from audit.recording.recorder import record_of_ours
from audit.spec.model import Spec
from audit.store import read, withdrawing
from audit.store.engine import open_store
from flows import _known as known
from tests.flows.conftest import SPEC
from tests.tasks.conftest import record_decisions

ENDLESS = Spec.model_validate(SPEC | {"schedule": {"train_from": "2024-01-01", "train_months": 3}})
ROWS = Used(
    name="rows", kind="dataset", of="loans/features", version=1, address="artifact://sha256/0", digest="sha256:0"
)


def decide(*windows: str | None) -> None:
    initialise()
    for window in windows:
        facts = ScoringFacts.model_construct(spec="loans", window=window, rows=1, inputs=ROWS)
        record("predictions.scored", facts, subject="dataset/loans/decisions/1")


def test_training_without_an_end_takes_all_months_up_to_the_last_decided(home: Path) -> None:
    decide()
    assert known.next_to_train(ENDLESS) == Window.month(2024, 1).model_copy(update={"end": Window.month(2024, 4).start})

    decide("2024-04", "2024-05", None)
    assert known.next_to_train(ENDLESS).end == Window.month(2024, 6).start


def test_monitoring_without_an_end_takes_the_first_month_that_was_decided_on(home: Path) -> None:
    decide()
    assert known.next_to_monitor(ENDLESS) is None

    decide("2024-04")
    assert known.next_to_monitor(ENDLESS) == Window.month(2024, 4)


def test_a_month_whose_decisions_went_by_their_retention_is_not_decided_on_again(home: Path) -> None:
    decide("2024-04", "2024-05", "2024-06")
    withdraw_payload_of("2024-04")

    assert known.next_to_score(ENDLESS, date(2024, 8, 1)) == Window.month(2024, 7)


def test_a_month_that_was_left_out_is_still_decided_on(home: Path) -> None:
    decide("2024-04", "2024-06")

    assert known.next_to_score(ENDLESS, date(2024, 8, 1)) == Window.month(2024, 5)


def withdraw_payload_of(window: str) -> None:
    scored = next(e for e in read.events(open_store()) if e.payload.get("window") == window)
    permit = record_of_ours("retention.expired", ExpiryFacts.model_construct(events=[scored.id]), subject="expired")
    with open_store().writing() as connection:
        withdrawing.withdraw(connection, permit, [scored.seq])


def test_scoring_without_an_end_takes_the_next_month_once_it_is_over(home: Path) -> None:
    assert known.next_to_score(ENDLESS, date(2024, 4, 30)) is None
    assert known.next_to_score(ENDLESS, date(2024, 5, 1)) == Window.month(2024, 4)

    decide("2024-04")
    assert known.next_to_score(ENDLESS, date(2024, 5, 31)) is None
    assert [str(month) for month in known.months_to_score(ENDLESS, date(2024, 7, 1))] == ["2024-05", "2024-06"]


def test_a_month_that_goes_on_is_not_decided_on_though_the_schedule_ends_later(home: Path) -> None:
    schedule = {"train_from": "2024-01-01", "train_months": 3, "until": "2024-12-01"}
    assert known.next_to_score(Spec.model_validate(SPEC | {"schedule": schedule}), date(2024, 4, 20)) is None


@pytest.mark.parametrize(
    ("verdict", "due"), [("steady", 0), ("decayed", 0), ("not known yet", 1), ("cannot be told", 1)]
)
def test_outcomes_are_looked_at_until_they_give_a_verdict(home: Path, verdict: str, due: int) -> None:
    initialise()
    april = Window.month(2024, 4)
    decisions = record_decisions("loans", april)
    facts = OutcomeFacts.model_construct(spec="loans", decisions=used("decisions", decisions), verdict=verdict)
    record("performance.checked", facts, subject="segment/loans/decisions/1")
    assert len(known.outcomes_due(ENDLESS, date(2026, 1, 1))) == due
