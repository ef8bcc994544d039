"""Looking after what pipelines rest on: each check finds what it is for, and none is silenced by another's trouble."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from audit import record
from audit.events.canonical import timestamp
from audit.events.event import make_event, uuid7
from audit.events.payloads import AlertFacts, ApprovalFacts, CompletenessFacts, StoreFacts, Used
from audit.ledger.keys import read_log_key
from audit.ledger.note import Checkpoint, SigningKey, signed
from audit.recording import recorder
from audit.recording.initialise import initialise
from audit.retention import Scope, hold
from audit.settings import settings
from audit.spec.model import Spec
from audit.store import ledger, read
from audit.store.append import append
from audit.store.engine import close_stores, open_store
from tasks.upkeep import (
    CHECKS,
    Subject,
    checkpoint_is_anchored,
    disk_has_room,
    log_is_published,
    look_after,
    messages_arrive,
    nothing_is_overdue,
    questions_have_time,
    record_is_complete,
    record_is_sealed,
    runs_start_in_time,
    spool_is_empty,
    store_holds,
)
from tests.aging import policy, scoring
from tests.anchoring import TimestampAuthority, Witness, replies
from tests.audit.recording.conftest import break_store, mend_store
from tests.audit.recording.test_reconcile import append_states, lost_flow_run

MODEL = Used(name="model", kind="model", of="loans", version=2, address="artifact://sha256/m", digest="sha256:m")


@pytest.fixture
def about(home: Path, loan_spec: Spec) -> Iterator[Subject]:
    initialise()
    with temporary_settings(restore_defaults={PREFECT_API_URL}):  # another test's server may be running
        yield Subject(loan_spec, 0.0, datetime.now(UTC))


def something_happens() -> None:
    recorder.append(make_event("store.spooled", StoreFacts(), source="test", subject="store", actor="p:test"))


def test_a_healthy_store_with_an_empty_spool_and_room_is_in_order(about: Subject) -> None:
    checks = [check(about) for check in CHECKS.values()]
    assert {check.name: check.verdict for check in checks} == dict.fromkeys(CHECKS, "in order") | dict.fromkeys(
        ("runs", "anchors", "publication", "completeness"), "skipped"
    )


def test_task_runs_that_a_process_missed_are_called_and_runs_that_are_gone_given_up(about: Subject) -> None:
    gone = lost_flow_run()
    append_states(flow := {"flow_run_id": uuid7(), "at": about.now}, "running", "completed")
    said = CompletenessFacts(
        counted_by="process", where="here", flow_runs=[flow["flow_run_id"]], missing=1, missing_ids=[uuid7()]
    )
    append(open_store(), [make_event("completeness.stated", said, source="test", subject="store", actor="p:test")])

    found = record_is_complete(about)

    assert found.verdict == "not in order"
    assert "1 of a run" in found.detail
    (event,) = read.events(open_store(), types=("flow_run.abandoned",))
    assert event.flow_run_id == gone


def test_a_server_that_does_not_answer_is_no_complete_record(about: Subject) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert record_is_complete(about).verdict == "could not tell"


def test_missing_guards_are_found(home: Path, about: Subject) -> None:
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("DROP TRIGGER event_no_delete")
    assert "has not the triggers" in store_holds(about).detail


def test_a_damaged_page_is_found(home: Path, about: Subject) -> None:
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    close_stores()
    damaged = bytearray((home / "audit.db").read_bytes())
    damaged[3 * 4096 + 8 : 8 * 4096] = b"\xff" * (5 * 4096 - 8)
    (home / "audit.db").write_bytes(damaged)
    assert look_after.fn(about.spec, 0.0)[0].verdict in ("not in order", "could not tell")


def test_a_store_that_is_away_stops_no_other_check(home: Path, about: Subject) -> None:
    break_store(home)
    verdicts = {check.name: check.verdict for check in look_after.fn(about.spec, 0.0)}
    assert (verdicts["store"], verdicts["alerts"]) == ("not in order", "could not tell")
    assert (verdicts["disk"], verdicts["spool"]) == ("in order", "in order")


def test_what_waits_in_the_spool_is_brought_home(home: Path, about: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.recording.recorder.RETRY_SECONDS", 0)
    break_store(home)
    something_happens()
    assert spool_is_empty(about).verdict == "not in order"
    mend_store(home)
    assert spool_is_empty(about).detail == "2 events brought home"  # store.spooled with it


def test_what_waits_is_sealed_where_the_key_is(about: Subject) -> None:
    assert record_is_sealed(about).detail == "all is sealed"
    assert ledger.sealing(open_store()).checkpoints == 1


def test_what_nobody_seals_is_found_after_an_hour(home: Path, about: Subject) -> None:
    (home / "keys" / "log.key").rename(home / "log.key")
    assert record_is_sealed(about).detail == "3 events wait, none for long"
    later = record_is_sealed(Subject(about.spec, 0.0, about.now + timedelta(hours=2)))
    assert later.verdict == "not in order"
    assert "3 events are not sealed, the oldest since" in later.detail
    assert "Run `audit seal --watch` where the log's key is." in later.detail


def test_a_log_that_cannot_be_sealed_says_why(home: Path, about: Subject) -> None:
    record_is_sealed(about)
    something_happens()
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("DROP TRIGGER leaf_no_update")
        database.execute("UPDATE leaf SET hash = zeroblob(32) WHERE idx = 1")
    (found,) = (check for check in look_after.fn(about.spec, 0.0) if check.name == "sealing")
    assert found.verdict == "not in order"
    assert "sealed events were changed" in found.detail


def test_who_is_named_vouches_for_the_newest_checkpoint(
    about: Subject, authority: TimestampAuthority, witness: Witness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "witnesses").write_text(witness.line)
    given = {
        "AUDIT_TSA_URL": authority.url_with("acme", "hunter2"),
        "AUDIT_TSA_ROOTS": str(authority.roots),
        "AUDIT_WITNESSES": str(tmp_path / "witnesses"),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    assert checkpoint_is_anchored(about).detail == "nothing is sealed yet"
    record_is_sealed(about)
    refused = checkpoint_is_anchored(about)
    assert refused.verdict == "not in order"
    assert refused.detail.startswith(f"{witness.vkey.shown} does not know this log")
    witness.knows(read_log_key(settings().keys_path).verifier)
    assert checkpoint_is_anchored(about).detail == "2 of 2 vouch for the checkpoint of size 3"
    authority.instead = replies(503)
    assert checkpoint_is_anchored(about).verdict == "in order"  # the stamp is on record
    something_happens()
    record_is_sealed(about)
    away = checkpoint_is_anchored(about)
    assert (away.verdict, away.calls) == ("not in order", True)
    assert away.detail.startswith(f"{authority.url.removesuffix('/tsr')} answered 503")
    assert "hunter2" not in str(look_after.fn(about.spec, 0.0))


def test_an_authority_without_roots_is_not_in_order(about: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_TSA_URL", "https://tsa.example/tsr")
    settings.cache_clear()
    (found,) = (check for check in look_after.fn(about.spec, 0.0) if check.name == "anchors")
    assert (found.verdict, "Set AUDIT_TSA_ROOTS" in found.detail) == ("not in order", True)


def test_the_log_is_published_and_a_place_of_another_log_is_found(
    about: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_PUBLISH_URL", str(tmp_path / "public"))
    settings.cache_clear()
    assert log_is_published(about).detail == "nothing is sealed yet"
    record_is_sealed(about)
    assert log_is_published(about).detail == f"the checkpoint of size 3 is at {tmp_path / 'public'}"
    other = signed(Checkpoint("another.example/log", 3, bytes(32)).text, [SigningKey("another.example/log", bytes(32))])
    (tmp_path / "public" / "checkpoint").write_text(str(other))
    (found,) = (check for check in look_after.fn(about.spec, 0.0) if check.name == "publication")
    assert found.verdict == "not in order"


def test_too_little_room_is_found_wherever_store_and_artifacts_live(about: Subject) -> None:
    assert disk_has_room(about).verdict == "in order"
    assert disk_has_room(Subject(about.spec, 1e9, about.now)).verdict == "not in order"


@pytest.mark.parametrize(("hours", "verdict"), [(60, "in order"), (2, "not in order")], ids=["time", "nearly up"])
def test_a_candidate_whose_time_is_nearly_up_is_found(about: Subject, hours: float, verdict: str) -> None:
    facts = ApprovalFacts(
        spec="loans", model=MODEL, version=2, reason="", answer_by=timestamp(about.now + timedelta(hours=hours))
    )
    record("model.approval_requested", facts, subject="model/loans/v2")
    assert questions_have_time(about).verdict == verdict


def test_a_target_that_the_last_message_did_not_reach_is_found(about: Subject) -> None:
    for type, error in (("alert.failed", "it answered 500"), ("alert.sent", None), ("alert.failed", "no answer")):
        facts = AlertFacts(
            spec="loans", alert="loans drift", kind="drift", severity="warning", title="t", body="b",
            to="default", target="json://127.0.0.1", error=error,
        )  # fmt: skip
        record(type, facts, subject="spec/loans")
        assert messages_arrive(about).verdict == ("not in order" if error else "in order")


def test_without_a_server_late_runs_are_skipped_and_that_is_said(about: Subject) -> None:
    assert runs_start_in_time(about).detail == "no Prefect server is configured"
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert runs_start_in_time(about).detail.startswith("Prefect does not answer")


def test_a_run_that_should_have_started_long_ago_is_found(home: Path, loan_spec: Spec, prefect_server: None) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    @flow
    def never_started() -> None: ...

    about = Subject(loan_spec, 0.0, datetime.now(UTC))
    assert runs_start_in_time(about).verdict == "in order"
    with get_client(sync_client=True) as client:
        an_hour_ago = Scheduled(scheduled_time=about.now - timedelta(hours=1))
        late = [client.create_flow_run(never_started, tags=[tag], state=an_hour_ago) for tag in ("loans", "another")]
        found = runs_start_in_time(about).detail
        for run in late:
            client.delete_flow_run(run.id)
    assert found.startswith("1 of its runs wait, since")


def test_payloads_that_nobody_withdraws_call(about: Subject) -> None:
    """After a month in which somebody should have; a hold excuses it."""
    began = about.now - timedelta(days=366)
    append(open_store(), [policy(began), *scoring(began, 1).events])
    recorder.flow_ended()
    assert nothing_is_overdue(about).verdict == "not in order"

    hold(settings(), "case-1", "complaint", Scope())
    found = nothing_is_overdue(about)
    assert (found.verdict, found.detail) == ("in order", "nothing is due; 1 hold is in force")


def test_no_check_shows_a_secret_of_the_settings(about: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_ARTIFACTS_URL", "s3://key:hunter2@bucket")
    settings.cache_clear()
    assert "hunter2" not in str(look_after.fn(about.spec, 0.0))
