"""Every task run is on record once, wherever a task runner runs it: threads, a process pool, a Dask cluster."""

import json
import subprocess
import sys
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.settings import PREFECT_API_URL

from tests.audit.recording.apart import PATIENCE, on_record, plain_environment

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("on_runners.py")
FOLLOWS = {  # what a run's next event may be
    "running": {"attempt_failed", "completed"},
    "attempt_failed": {"retrying", "failed"},
    "retrying": {"attempt_failed", "completed"},
}


@pytest.fixture
def environment(tmp_path: Path, prefect_server: None) -> dict[str, str]:
    return plain_environment(tmp_path) | {"PREFECT_API_URL": PREFECT_API_URL.value() or ""}


def start(environment: dict[str, str], runner: str, counted: Path, n: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), runner, str(counted), str(n)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str], counted: Path) -> dict[str, Any]:
    """What the script counted."""
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said[-4000:]
    told: dict[str, Any] = json.loads(counted.read_text())
    return told


def assert_on_record_once_and_in_order(environment: dict[str, str], made: Counter[str]) -> None:
    events = on_record(environment, "type GLOB 'task_run.*'")
    assert Counter(event["type"].partition(".")[2] for event in events) == made
    assert len({event["id"] for event in events}) == len(events)
    states = [event["state_id"] for event in events if event["state_id"]]
    assert len(set(states)) == len(states), "a state is one event"
    by_run = sorted(events, key=lambda event: str(event["task_run_id"]))
    for _, run in groupby(by_run, key=lambda event: event["task_run_id"]):
        assert_in_order(list(run))


def assert_in_order(run: list[dict[str, Any]]) -> None:
    """In the order of the states' own ids and times, of the rows, and of what can follow what."""
    types = [event["type"].partition(".")[2] for event in run]
    assert types[0] in ("running", "not_ready")
    assert types[-1] in ("completed", "failed", "not_ready")
    assert all(later in FOLLOWS[earlier] for earlier, later in pairwise(types)), types
    assert [event["seq"] for event in run] == sorted(event["seq"] for event in run)
    states = [UUID(event["state_id"]).int >> 80 for event in run if event["state_id"]]
    assert states == sorted(states)
    assert [event["attempt"] for event in run] == sorted(event["attempt"] for event in run)


@pytest.mark.parametrize("runner", ["threads", "processes", "dask"])
def test_on_each_runner_every_task_run_is_on_record_once_and_in_the_order_of_its_states(
    environment: dict[str, str], tmp_path: Path, runner: str
) -> None:
    counted = tmp_path / "counted.json"
    told = ended(start(environment, runner, counted, 200), counted)
    if runner == "threads":
        assert told["pids"] == [told["own"]]
    else:
        assert len(told["pids"]) == 2 and told["own"] not in told["pids"]
    assert sum(told["made"].values()) > 600
    assert_on_record_once_and_in_order(environment, Counter(told["made"]))


def test_threads_and_processes_of_four_scripts_share_a_store(environment: dict[str, str], tmp_path: Path) -> None:
    runners = ["threads", "processes", "threads", "processes"]
    files = [tmp_path / f"{i}.json" for i in range(len(runners))]
    started = [start(environment, runner, file, 60) for runner, file in zip(runners, files, strict=True)]
    told = [ended(process, file) for process, file in zip(started, files, strict=True)]
    assert len({pid for one in told for pid in one["pids"]}) == 6
    assert_on_record_once_and_in_order(environment, sum((Counter(one["made"]) for one in told), Counter()))
