"""What a person's answer does, and that it counts once."""

import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest

from audit.errors import AuditError, NotAwaiting, NotFound, StoreBusy, StoreUnavailable, UserError
from audit.events.canonical import timestamp
from audit.events.payloads import ApprovalFacts, Approver, StageFacts, used
from audit.events.references import ModelVersion
from audit.recording import registry
from audit.recording.recorder import record
from audit.recording.registry import Answer, Candidate, Outcome
from audit.settings import settings
from audit.store import engine, read
from audit.store.engine import close_stores, open_store

JANE = Approver(name="Jane Doe", identity="asserted", by="form")
ROOT = Approver(name="root@host", identity="operating system", by="command")
YES, NO = Answer(True, JANE, "better in both regions"), Answer(False, ROOT, "too few rows in the north")
LIMIT = datetime.now(UTC) + timedelta(days=3)


def test_an_approval_and_the_promotion_are_one_stroke_and_name_who_approved(home: Path) -> None:
    asked(1)

    outcome = registry.decide("loans", 1, YES)

    assert outcome.promoted
    assert outcome.champion == read.champion(open_store(), "loans") == model(1)
    assert outcome.told() == "**loans v1 is in production**: 2 of 2 gates held. Approved by Jane Doe (asserted)."
    assert types(1) == [
        "model.registered", "model.approval_requested", "model.approved", "model.promoted", "model.promoted",
        "model.deployed",
    ]  # fmt: skip
    approved, *promoted = steps(1)[2:]
    assert approved.payload["note"] == "better in both regions"
    assert {step.payload["approver"]["name"] for step in (approved, *promoted)} == {"Jane Doe"}


def test_a_rejection_keeps_the_champion_and_says_who_and_why(home: Path) -> None:
    asked(1)
    champion = registry.decide("loans", 1, YES).champion
    asked(2, against=1)

    outcome = registry.decide("loans", 2, NO)

    assert outcome.champion == read.champion(open_store(), "loans") == champion
    assert types(2)[2:] == ["model.rejected"]
    rejected = steps(2)[-1].payload
    assert (rejected["reason"], rejected["approver"]["name"]) == ("too few rows in the north", "root@host")


def test_what_a_person_wrote_makes_no_image_in_what_is_told(home: Path) -> None:
    asked(1)
    outcome = registry.decide("loans", 1, Answer(False, JANE, "too few\n![x](http://tracker)"))
    assert outcome.told().endswith("**: too few ![x\\](http://tracker). Decided by Jane Doe (asserted).")


def test_an_approval_comes_too_late_for_a_candidate_that_was_held_against_a_former_champion(home: Path) -> None:
    for version in (1, 2):
        asked(version)
    registry.decide("loans", 1, YES)

    outcome = registry.decide("loans", 2, YES)

    assert outcome.champion == model(1)
    assert types(2)[2:] == ["model.approved", "model.rejected"]
    assert steps(2)[-1].payload["reason"] == "it was held against none, but the champion is now v1"


@pytest.mark.parametrize("again", [YES, NO], ids=["approved", "rejected"])
def test_what_was_decided_is_not_decided_again(home: Path, again: Answer) -> None:
    asked(1)
    registry.decide("loans", 1, YES)
    before = types(1)

    with pytest.raises(NotAwaiting, match=r"it was approved by Jane Doe \(asserted\) on 20"):
        registry.decide("loans", 1, again)

    assert types(1) == before


def test_only_what_is_put_before_a_person_can_be_decided_on(home: Path) -> None:
    registered(1)
    with pytest.raises(NotAwaiting, match="loans/v1 awaits no approval: nobody was asked about it"):
        registry.decide("loans", 1, YES)
    with pytest.raises(NotFound, match="loans/v9 is not on record"):
        registry.decide("loans", 9, YES)


def test_a_decision_counts_where_the_clock_that_it_was_made_by_is_slow(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(1)
    before = timestamp(datetime.now(UTC) - timedelta(hours=1))
    monkeypatch.setattr("audit.events.event.timestamp", lambda _: before)
    registry.decide("loans", 1, NO)

    with pytest.raises(NotAwaiting, match="it was rejected by root@host"):
        registry.decide("loans", 1, YES)
    assert read.awaiting_approval(open_store()) == []


def test_a_second_request_of_the_same_version_is_the_first_one(home: Path) -> None:
    asked(1)
    assert registry.request(facts(1)).id == steps(1)[-1].id
    assert types(1) == ["model.registered", "model.approval_requested"]


def test_a_candidate_whose_time_is_over_is_rejected_and_not_before(home: Path) -> None:
    asked(1)
    assert registry.reject_unanswered("loans", 1, LIMIT - timedelta(seconds=1)).step is None
    assert registry.reject_unanswered("loans", 1, LIMIT).champion is None
    assert steps(1)[-1].payload["reason"] == f"nobody decided by {LIMIT:%Y-%m-%d %H:%M} UTC"
    with pytest.raises(NotAwaiting, match=r"it was rejected on .* UTC: nobody decided by"):
        registry.decide("loans", 1, YES)


def test_an_answer_after_the_time_lets_nobody_in(home: Path) -> None:
    asked(1, by=datetime.now(UTC) - timedelta(hours=5))
    late = registry.decide("loans", 1, YES)
    assert not late.promoted
    assert types(1) == ["model.registered", "model.approval_requested", "model.rejected"]
    assert "approver" not in steps(1)[-1].payload


def test_a_candidate_may_go_on_waiting_after_its_time(home: Path) -> None:
    asked(1, unanswered="awaiting")
    registry.reject_all_unanswered("loans", LIMIT + timedelta(days=30))
    assert registry.decide("loans", 1, YES).promoted


def test_the_time_of_every_candidate_is_minded_though_its_run_is_gone(home: Path) -> None:
    for version in (1, 2):
        asked(version)
    registry.decide("loans", 1, NO)
    registry.reject_all_unanswered("mortgage", LIMIT)
    registry.reject_all_unanswered("loans", LIMIT)
    assert [types(version)[-1] for version in (1, 2)] == ["model.rejected", "model.rejected"]
    assert read.awaiting_approval(open_store()) == []


def test_a_name_is_one_line_and_a_note_holds_no_secret() -> None:
    said = registry.answer(
        "approve", JANE.model_copy(update={"name": " Jane\n\tDoe \ud800" + "x" * 300}), "see password=hunter2 \x00\n"
    )
    assert said.approver.name.startswith("Jane Doe \ufffdxxx")
    assert len(said.approver.name) == 100
    assert said.note == "see [redacted] \ufffd"


@pytest.mark.parametrize(("name", "note"), [("\u200b _ ", "good"), ("Jane", " -- \n")], ids=["name", "note"])
def test_a_name_or_note_that_says_nothing_is_refused(name: str, note: str) -> None:
    with pytest.raises(UserError, match="says nothing"):
        registry.answer("approve", JANE.model_copy(update={"name": name}), note)


@pytest.mark.parametrize(
    "decide",
    [
        lambda: registry.decide("loans", 1, YES),
        lambda: registry.promote(Candidate(model(1), None, "2 of 2 gates held")),
    ],
    ids=["by a person", "by the gates"],
)
def test_nothing_is_decided_while_somebody_else_may_be_deciding(
    home: Path, busy: sqlite3.Connection, decide: Callable[[], Outcome]
) -> None:
    with pytest.raises(StoreBusy):
        decide()
    busy.rollback()
    assert not settings().spool_path.exists()
    assert types(1)[-1] == "model.approval_requested"


@pytest.mark.parametrize(
    "decide",
    [
        lambda: registry.decide("loans", 1, YES),
        lambda: registry.reject_unanswered("loans", 1, LIMIT),
        lambda: registry.request(facts(2)),
    ],
    ids=["answer", "time limit", "question"],
)
def test_question_and_answer_never_wait_in_the_spool_where_nobody_would_know_of_them(
    home: Path, decide: Callable[[], object]
) -> None:
    asked(1)
    with sqlite3.connect(home / "audit.db") as full:
        full.execute("CREATE TRIGGER full BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(StoreUnavailable, match="disk is full"):
        decide()
    assert not settings().spool_path.exists()


@pytest.mark.parametrize("answers", [(YES, NO), (YES, YES), (NO, NO)], ids=["one each", "approvals", "rejections"])
def test_of_two_answers_at_once_to_one_question_one_counts(home: Path, answers: tuple[Answer, Answer]) -> None:
    asked(1)
    at_once = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        came = list(pool.map(lambda said: attempt(1, said, at_once), answers))

    assert sorted(came) == ["NotAwaiting", "decided"]
    decided = [type for type in types(1) if type in ("model.approved", "model.rejected")]
    assert decided == ["model.approved" if answers[came.index("decided")].approves else "model.rejected"]


def test_of_two_candidates_approved_at_once_in_two_processes_one_wins(home: Path) -> None:
    for version in (1, 2):
        asked(version)
    spawned = multiprocessing.get_context("spawn")
    with spawned.Manager() as manager, ProcessPoolExecutor(2, mp_context=spawned) as pool:
        approve = partial(attempt, said=YES, at_once=manager.Barrier(2))
        assert list(pool.map(approve, (1, 2))) == ["decided", "decided"]

    assert sorted(types(1)[-1:] + types(2)[-1:]) == ["model.deployed", "model.rejected"]
    assert [types(version)[2] for version in (1, 2)] == ["model.approved"] * 2


@pytest.fixture
def busy(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    """Somebody writes to the store for longer than we wait; v1 awaits approval in it."""
    asked(1)
    close_stores()
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.1)
    other = sqlite3.connect(home / "audit.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()
    close_stores()


def attempt(version: int, said: Answer, at_once: Barrier) -> str:
    """What came of deciding at the same moment as somebody else."""
    open_store()
    at_once.wait()
    try:
        registry.decide("loans", version, said)
    except AuditError as error:
        return type(error).__name__
    return "decided"


def model(version: int) -> ModelVersion:
    letter = "abcdef"[version]
    return ModelVersion(
        name="loans", version=version, address=f"artifact://sha256/{letter * 64}", digest=f"sha256:{letter * 64}"
    )


def registered(version: int) -> None:
    step = StageFacts(
        spec="loans", model=used("model", model(version)), version=version, environment="none", reason="trained"
    )
    record("model.registered", step, subject=f"model/loans/v{version}")


def asked(version: int, *, against: int | None = None, unanswered: str = "rejected", by: datetime = LIMIT) -> None:
    registered(version)
    registry.request(facts(version, against=against, unanswered=unanswered, by=by))


def facts(
    version: int, *, against: int | None = None, unanswered: str = "rejected", by: datetime = LIMIT
) -> ApprovalFacts:
    return ApprovalFacts(
        spec="loans", model=used("model", model(version)), version=version, champion=against,
        reason="2 of 2 gates held", answer_by=timestamp(by), unanswered=unanswered,
    )  # fmt: skip


def steps(version: int) -> list[read.Recorded]:
    subject = registry.subject_of("loans", version)
    return [event for event in read.events(open_store(), newest_first=False) if event.subject == subject]


def types(version: int) -> list[str]:
    return [step.type for step in steps(version)]
