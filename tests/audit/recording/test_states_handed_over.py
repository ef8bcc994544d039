"""Task runs that one process hands over and another one executes: both say their part of one run."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.audit.recording.apart import PATIENCE, on_record, plain_environment, running, until

pytestmark = pytest.mark.slow

SCRIPT = str(Path(__file__).with_name("served_tasks.py"))
ALL = {
    "completed": ["scheduled", "running", "completed"],
    "failed": ["scheduled", "running", "attempt_failed", "retrying", "attempt_failed", "failed"],
    "scheduled": ["scheduled"],
}


@pytest.fixture
def environment(tmp_path: Path, prefect_server: None) -> dict[str, str]:
    return plain_environment(tmp_path) | {"PREFECT_API_URL": PREFECT_API_URL.value() or ""}


@pytest.fixture
def handed(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, list[str]]]:
    """Ids of what was handed over, by how it should end, while somebody serves."""
    told = tmp_path / "handed.json"
    with running(environment, SCRIPT, "serve", log=tmp_path / "served.log"):
        command = [sys.executable, SCRIPT, "hand-over", str(told)]
        subprocess.run(command, env=environment, check=True, timeout=PATIENCE, capture_output=True)
        yield json.loads(told.read_text())


def test_what_is_handed_over_is_one_run_from_its_hand_over_to_its_end(
    environment: dict[str, str], handed: dict[str, list[str]]
) -> None:
    def types(run: str) -> list[str]:
        return [str(event["type"]).partition(".")[2] for event in on_record(environment, "task_run_id = ?", run)]

    for end, runs in handed.items():
        for run in runs:
            until(lambda run=run, end=end: types(run)[-1:] == [end], f"{run}: {end}")
            assert types(run) == ALL[end]
    assert len(on_record(environment, "type = ?", "task_run.scheduled")) == sum(map(len, handed.values()))
    with sqlite3.connect(f"file:{environment['AUDIT_HOME']}/audit.db?mode=ro", uri=True) as store:
        states = Counter(dict(store.execute("SELECT state, count(*) FROM task_run GROUP BY state")))
    assert states == {end: len(runs) for end, runs in handed.items()}
    of_the_flow = on_record(environment, "type = ?", "flow_run.running")[0]["flow_run_id"]
    within = on_record(environment, "flow_run_id = ? AND type = 'task_run.completed'", of_the_flow)
    assert {event["task_run_id"] for event in within} == set(handed["completed"][:5])
