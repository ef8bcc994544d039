"""Every event type that the vocabulary names is really emitted by something."""

import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from prefect.exceptions import Pause
from prefect.states import Cancelled, Cancelling

from audit import flow, retention, task
from audit.errors import DatasetRejected
from audit.events.event import make_event
from audit.events.payloads import Approver, KeyFacts
from audit.events.references import Window
from audit.events.vocabulary import VOCABULARY
from audit.ledger.anchors import Witness, anchor
from audit.ledger.keys import read_log_key
from audit.ledger.publisher import publish
from audit.recording import hooks, recorder
from audit.recording.reconcile import reconcile
from audit.recording.registry import Answer
from audit.recording.sealing import replace_lost, rotate
from audit.retention import Scope, hold, release
from audit.settings import settings
from audit.spec.load import load_spec
from audit.store import engine, read
from audit.store.append import append
from audit.store.engine import open_store
from flows.pipeline import pipeline
from flows.training import training
from tasks.alert import Finding, send_alert
from tasks.anomalies import ENOUGH, check_anomalies
from tasks.approval import decide, request_approval
from tasks.register import register
from tests.aging import policy, scoring
from tests.anchoring import witnessing
from tests.audit.recording import waiting
from tests.audit.recording.conftest import break_store, mend_store
from tests.audit.recording.every_kind import everything
from tests.audit.recording.test_reconcile import append_states, later, lost_flow_run, nobodys_flow, run, task_run_of
from tests.flows.conftest import UseCase, an_evaluation, loans, turned
from tests.tasks.conftest import record_decisions


@task
def calls_it_off() -> object:
    return Cancelled()


@flow(retries=1)
def fails() -> None:
    raise ValueError("on purpose")


@flow(timeout_seconds=0.2)
def takes_too_long() -> None:
    time.sleep(5)


@flow
def exits() -> None:
    sys.exit(1)


@flow(on_completion=[lambda flow, flow_run, state: hooks.record_flow_end(flow, flow_run, Cancelling())])
def is_cancelled() -> None:  # as a worker's process calls our hook when somebody cancels a run in the UI
    calls_it_off(return_state=True)


@pytest.mark.slow
def test_every_type_there_is_is_emitted(
    home: Path, use_case: UseCase, receiver: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks._delivery.RETRY_DELAYS_SECONDS", ())
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0)
    monkeypatch.setattr(engine, "BUSY_SECONDS", 60)  # a busy machine must not fill the spool before its turn

    everything()
    fails(return_state=True)
    takes_too_long(return_state=True)
    is_cancelled()
    with pytest.raises(SystemExit):
        exits()
    runs_that_wait()
    runs_whose_end_nobody_saw()
    a_life_with_drift_decay_a_bad_row_and_a_rejected_model(use_case)
    a_second_finding_of_the_night(use_case)
    a_month_far_from_the_usual(use_case)
    a_candidate_that_a_person_lets_in(use_case)
    rejected_rows_that_nobody_can_be_told_of(use_case, monkeypatch)
    a_year_that_is_over()
    a_store_that_goes_and_comes_back(home)
    a_log_key_that_is_handed_over_and_then_lost(home)
    a_log_that_others_see(home.parent)

    assert {event.type for event in read.events(open_store())} == set(VOCABULARY)


def runs_that_wait() -> None:
    waiting.pauses()
    with pytest.raises(Pause):
        waiting.executed(waiting.suspends, waiting.deployed(waiting.suspends))
    waiting.handed_over.delay(1)


def runs_whose_end_nobody_saw() -> None:
    since = datetime.now(UTC)
    gone = lost_flow_run()
    append_states(task_run_of(gone, since), "running")
    run(nobodys_flow, [1], task_runs=1)
    reconcile(open_store(), since, now=later())


def a_life_with_drift_decay_a_bad_row_and_a_rejected_model(use_case: UseCase) -> None:
    rows = turned(loans(drifts_at=91))
    rows[91 * 12 + 5] |= {"income": "inf"}
    pipeline(use_case.write(rows, gates={"min_auc": None, "min_gain": None}).spec, date(2024, 4, 1))
    training(use_case.write(loans(), gates={"min_auc": 0.999}).spec)


def a_second_finding_of_the_night(use_case: UseCase) -> None:
    found = Finding(kind="drift", title="Drift in loans, May 2024", body="income", severity="warning")
    send_alert.fn(found, load_spec(use_case.spec))


def a_month_far_from_the_usual(use_case: UseCase) -> None:
    *usual, now = (Window.month(2023, month) for month in range(1, ENOUGH + 2))
    for month in usual:
        record_decisions("loans", month)
    check_anomalies.fn(record_decisions("loans", now, rows=10, positive=2), load_spec(use_case.spec), now)


def a_candidate_that_a_person_lets_in(use_case: UseCase) -> None:
    spec = load_spec(use_case.spec)
    judged = an_evaluation(read.champion(open_store(), spec.name))
    request = request_approval.fn(register.fn(judged.model, judged, spec), judged, spec)
    jane = Approver(name="Jane Doe", identity="asserted", by="form")
    assert decide.fn(request, Answer(True, jane, "better in both regions"))


def rejected_rows_that_nobody_can_be_told_of(use_case: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_ALERT_URL", "json://127.0.0.1:9")
    settings.cache_clear()
    rows = loans()
    rows[3]["debt"] = -1
    with pytest.raises(DatasetRejected):
        training(use_case.write(rows).spec)


def a_store_that_goes_and_comes_back(home: Path) -> None:
    break_store(home)
    settings().spool_path.mkdir()
    something_happens()  # neither takes it
    settings().spool_path.rmdir()
    something_happens()  # the spool takes it
    mend_store(home)
    something_happens()


def a_log_key_that_is_handed_over_and_then_lost(home: Path) -> None:
    rotate(settings(), tell=recorder.tell)
    (home / "keys" / "log.key").unlink()
    replace_lost(settings(), "on purpose", tell=recorder.tell)


def a_log_that_others_see(folder: Path) -> None:
    with witnessing(folder / "witness.json") as witness:
        witness.knows(read_log_key(settings().keys_path).verifier)
        anchor(open_store(), Witness(witness.vkey, witness.url), actor="p:unknown")
    publish(open_store(), str(folder / "public"), actor="p:unknown")


def a_year_that_is_over() -> None:
    """What was recorded in it goes; not what somebody holds for a while."""
    scored = scoring(datetime(2020, 1, 3, tzinfo=UTC), 1)
    append(open_store(), [policy(datetime(2020, 1, 1, tzinfo=UTC)), *scored.events])
    hold(settings(), "case-1", "on purpose", Scope(spec=scored.events[2].subject.split("/")[1]))
    release(settings(), "case-1", "on purpose")
    assert list(retention.run(settings()))


def something_happens() -> None:
    facts = KeyFacts(purpose="test", fingerprint="f")
    recorder.append(make_event("key.created", facts, source="test", subject="key/test", actor="p:unknown"))
