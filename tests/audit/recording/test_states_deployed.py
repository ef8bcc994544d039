"""What a worker's runs leave on record when somebody suspends, cancels or retries them: each process says its part."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.states import Cancelling, Scheduled

from tests.audit.recording.apart import Machine, machine, until

pytestmark = pytest.mark.slow

FLOWS = Path(__file__).with_name("waiting_flows.py")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("machine")) as made:
        made.deploy(FLOWS, "suspends", "fails_until", "long", "calls")
        yield made


def types(found: list[dict[str, object]]) -> list[str]:
    """What was seen; that a process which begins meanwhile gives up what is gone is no matter."""
    told = [str(event["type"]).partition(".")[2] for event in found]
    return [type for type in told if type != "abandoned"]


def test_a_suspended_run_goes_on_in_another_process_as_the_same_attempt(here: Machine) -> None:
    run = here.run("suspends")
    here.reaches(run, "Suspended")
    here.client.resume_flow_run(run)
    here.reaches(run, "Completed")
    found = until(lambda: types(here.events(run, "flow_run.*"))[3:] and here.events(run, "flow_run.*"), "its end")
    assert types(found) == ["running", "suspended", "resumed", "completed"]
    assert [event["attempt"] for event in found] == [1, 1, 1, 1] == [here.client.read_flow_run(run).run_count] * 4
    began, went_on = found[0]["process_id"], found[2]["process_id"]
    assert began != went_on
    assert sorted(types(here.events(run, "task_run.*"))) == ["cached", "completed", "completed", *["running"] * 3]


def test_a_run_that_somebody_retries_is_a_further_attempt_in_another_process(here: Machine, tmp_path: Path) -> None:
    there = tmp_path / "there"
    run = here.run("fails_until", there=str(there))
    here.reaches(run, "Failed")
    there.touch()
    here.client.set_flow_run_state(run, Scheduled(name="AwaitingRetry"))  # what the button Retry does
    here.reaches(run, "Completed")
    found = until(lambda: types(here.events(run, "flow_run.*"))[4:] and here.events(run, "flow_run.*"), "its end")
    assert types(found) == ["running", "attempt_failed", "failed", "retrying", "completed"]
    assert [event["attempt"] for event in found] == [1, 1, 1, 2, 2]
    assert found[0]["process_id"] != found[3]["process_id"]
    assert "cached" in types(here.events(run, "task_run.*"))


def test_a_deployment_that_a_flow_calls_names_the_run_that_called_it(here: Machine, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    run = here.run("calls", there=str(tmp_path / "there"))
    here.reaches(run, "Completed")
    called = here.client.read_flow_runs(sort="EXPECTED_START_TIME_DESC", limit=1)[0]
    assert called.parent_task_run_id
    assert {event["parent"] for event in here.events(called.id, "flow_run.*")} == {str(run)}
    assert not here.events(run, "task_run.*"), "Prefect's own row for the call is no task run"


def test_a_cancelled_run_and_every_task_run_in_it_have_an_end_on_record(here: Machine) -> None:
    runs = {how: here.run("long", how=how) for how in ("directly", "nested", "threads")}
    for how, run in runs.items():
        until(lambda run=run, how=how: _naps(here, str(_inside(here, run, how))), f"{how}: under way")
    cancel_by_command(here, str(runs["directly"]))
    for how in ("nested", "threads"):
        here.client.set_flow_run_state(runs[how], Cancelling())
    for run in runs.values():
        here.reaches(run, "Cancelled")

    for run in runs.values():
        assert types(here.events(run, "flow_run.*")) == ["running", "cancelled"]
    assert types(here.events(runs["directly"], "task_run.*")) == ["running", "crashed"]
    assert types(here.events(_inside(here, runs["nested"], "nested"))) == ["running", "running", "crashed", "cancelled"]
    assert types(here.events(runs["threads"], "task_run.*")) == ["running", "running", "cancelled", "cancelled"]


def _naps(here: Machine, run: str) -> bool:
    return "running" in types(here.events(run, "task_run.*"))


def _inside(here: Machine, run: object, how: str) -> object:
    """The run that the naps are of."""
    if how != "nested":
        return run
    found = [
        inner.id for inner in here.client.read_flow_runs() if inner.parent_task_run_id and _caller(here, inner) == run
    ]
    return found[0] if found else run


def _caller(here: Machine, inner: object) -> object:
    return here.client.read_task_run(inner.parent_task_run_id).flow_run_id


def cancel_by_command(here: Machine, run: str) -> None:
    command = [sys.executable, "-m", "prefect", "flow-run", "cancel", run]
    subprocess.run(command, env=here.environment, check=True, capture_output=True, timeout=120)


def test_of_a_run_that_is_cancelled_before_it_began_nothing_is_on_record_for_no_process_of_ours_was_asked(
    here: Machine,
) -> None:
    later = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=1))
    run = here.client.create_flow_run_from_deployment(here.deployed["long"], state=later).id
    here.client.set_flow_run_state(run, Cancelling())
    here.reaches(run, "Cancelled")
    assert not here.events(run)


def test_a_killed_run_is_told_by_its_worker(here: Machine) -> None:
    run = here.run("long")
    until(lambda: _naps(here, str(run)), "under way")
    os.kill(here.events(run, "flow_run.running")[0]["process_id"], signal.SIGKILL)
    here.reaches(run, "Crashed")
    found = until(lambda: types(here.events(run, "flow_run.*"))[1:] and here.events(run, "flow_run.*"), "its end")
    assert types(found) == ["running", "crashed"]
