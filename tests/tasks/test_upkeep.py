"""Looking after what pipelines rest on: each check finds what it is for, and none is silenced by another's trouble."""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from audit import record
from audit.events.canonical import timestamp
from audit.events.payloads import AlertFacts, ApprovalFacts, KeyFacts, Used
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.spec.model import Spec
from audit.store.engine import close_stores
from tasks.upkeep import (
    CHECKS,
    Subject,
    disk_has_room,
    look_after,
    messages_arrive,
    questions_have_time,
    runs_start_in_time,
    spool_is_empty,
    store_holds,
)
from tests.audit.recording.conftest import break_store, mend_store

MODEL = Used(name="model", kind="model", of="loans", version=2, address="artifact://sha256/m", digest="sha256:m")


@pytest.fixture
def about(home: Path, loan_spec: Spec) -> Iterator[Subject]:
    initialise()
    with temporary_settings(restore_defaults={PREFECT_API_URL}):  # another test's server may be running
        yield Subject(loan_spec, 0.0, datetime.now(UTC))


def test_a_healthy_store_with_an_empty_spool_and_room_is_in_order(about: Subject) -> None:
    checks = [check(about) for check in CHECKS.values()]
    assert {check.name: check.verdict for check in checks} == dict.fromkeys(CHECKS, "in order") | {"runs": "skipped"}


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
    record("key.created", KeyFacts(purpose="test", fingerprint="f"), subject="key/test")
    assert spool_is_empty(about).verdict == "not in order"
    mend_store(home)
    assert spool_is_empty(about).detail == "2 events brought home"  # store.spooled with it


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


@pytest.mark.xdist_group("prefect")
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


def test_no_check_shows_a_secret_of_the_settings(about: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_ARTIFACTS_URL", "s3://key:hunter2@bucket")
    settings.cache_clear()
    assert "hunter2" not in str(look_after.fn(about.spec, 0.0))
