"""`audit reconcile` and `audit completeness` as people run them."""

import json
from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from audit.events.payloads import CompletenessFacts, Named
from audit.recording import circumstances
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, Day, a_flow_run, a_task_run, an_event

DEAD = 2**22 + 1  # a number that no process here has
LONG_AGO = "2026-11-01"


@pytest.fixture(autouse=True)
def no_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """Save for a test that asks for one: another's may be running."""
    if "prefect_server" in request.fixturenames:
        yield
        return
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def stated(day: Day, **facts: object) -> None:
    known = {"counted": 6, "on_record": 4, "flow_runs": [day.pipeline.id, day.training.id], "digest": "sha256:d"}
    said = CompletenessFacts.model_validate({"counted_by": "process", "where": "process 7 on w1", **known, **facts})
    append(read_store(), [an_event("completeness.stated", said, after=15, subject=f"flow-run/{day.pipeline.id}")])


def read_store() -> AuditStore:
    from audit.store.engine import open_store

    return open_store()


def test_without_a_server_nobody_can_tell_and_what_can_be_done_here_is_done(store: AuditStore, audit: Audit) -> None:
    lost = a_flow_run("lost")
    around = circumstances.surroundings().model_dump() | {"process_id": DEAD}
    append(store, [lost.state("running", 0, surroundings=around), a_task_run(lost, "inside").state("running", 1)])

    shown = audit("reconcile")

    assert shown.returncode == 2
    assert "appended  1 flow_run.abandoned, 1 task_run.abandoned" in shown.stdout
    assert "could not tell  No Prefect server is configured. Set PREFECT_API_URL." in shown.stdout
    (event,) = read.events(store, types=("task_run.abandoned",))
    assert event.payload["known_by"] == f"its process {DEAD} on {around['host']} is gone"
    assert "abandoned" in audit("runs").stdout


def test_a_second_one_finds_nothing_to_append(store: AuditStore, audit: Audit) -> None:
    audit("reconcile")
    assert "appended  nothing\n" in audit("reconcile").stdout


def test_what_was_stated_of_each_flow_run_is_listed(day: Day, audit: Audit) -> None:
    stated(day, not_instrumented=[Named(name="unseen", value=2)])
    shown = audit("completeness", "--since", LONG_AGO)
    row = next(line for line in shown.stdout.splitlines() if line.startswith(day.pipeline.id[-8:]))
    assert row.split()[1:] == ["pipeline", "completed", "2026-11-24", "21:04:15", "6", "4", "2", "0"]
    assert day.training.id[-8:] not in shown.stdout, "a nested flow run is part of the statement of the other"


def test_a_flow_run_that_ended_without_a_statement_is_listed_as_that(day: Day, audit: Audit) -> None:
    assert "nothing stated" in audit("completeness", "--since", LONG_AGO).stdout


def test_what_a_process_missed_and_is_still_missing_is_no_complete_record(day: Day, audit: Audit) -> None:
    """With no server to ask it is known all the same."""
    missing = a_task_run(day.pipeline, "lost").id
    stated(day, missing=2, missing_ids=[missing, day.train.id])  # the latter has come in since

    shown = audit("completeness", "--since", LONG_AGO)

    assert shown.returncode == 1
    assert f"task run {missing} of flow run {day.pipeline.id}: its process saw it begin" in shown.stdout
    assert day.train.id not in shown.stdout
    assert "not complete" in shown.stdout


def test_nothing_is_changed_by_looking(store: AuditStore, audit: Audit) -> None:
    before = read.newest_seq(store)
    audit("completeness")
    assert read.newest_seq(store) == before


def test_json_says_all_of_it(day: Day, audit: Audit) -> None:
    stated(day)
    told = json.loads(audit("completeness", "--since", LONG_AGO, "--json").stdout)
    assert told["answer"] == "could not tell"
    assert told["counted_by"] == "server"
    assert told["statements"][0]["stated"]["counted"] == 6
    assert json.loads(audit("reconcile", "--json").stdout)["appended"] == {}


def test_a_time_that_is_none_is_refused(store: AuditStore, audit: Audit) -> None:
    for command in ("reconcile", "completeness"):
        assert "is no time" in audit(command, "--since", "yesterday").stderr


def test_with_a_server_that_knows_no_other_runs_the_record_is_complete(
    store: AuditStore, audit: Audit, prefect_server: None
) -> None:
    shown = audit("reconcile", "--since", "1m")
    assert "known to Prefect" in shown.stdout
    assert "appended  nothing: both sides say the same" in shown.stdout
    assert shown.returncode == 0
    assert "complete  every task run that Prefect knows is on record or explained" in shown.stdout
