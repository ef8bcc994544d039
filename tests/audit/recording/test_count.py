"""Every task run is on record once, in its right state, after the process has ended."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audit.recording.apart import PATIENCE, plain_environment, serving

SCRIPT = Path(__file__).with_name("every_kind.py")


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    return plain_environment(tmp_path)


@pytest.fixture
def server(surroundings: dict[str, str]) -> Iterator[str]:
    with serving(surroundings) as address:
        yield address


def run_every_kind(surroundings: dict[str, str]) -> tuple[Counter[str], sqlite3.Connection]:
    """What the script counted, and the store it left behind."""
    counted = Path(surroundings["AUDIT_HOME"]).with_name("counted.json")
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(counted)], env=surroundings, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    store = sqlite3.connect(f"file:{surroundings['AUDIT_HOME']}/audit.db?mode=ro", uri=True)
    return Counter(json.loads(counted.read_text())), store


def states(store: sqlite3.Connection) -> Counter[str]:
    return Counter(dict(store.execute("SELECT state, count(*) FROM task_run GROUP BY state").fetchall()))


def number(store: sqlite3.Connection, question: str) -> int:
    return int(store.execute(question).fetchone()[0])


def attempts_failed(store: sqlite3.Connection, name: str) -> list[str]:
    rows = store.execute(
        """SELECT json_extract(body, '$.error.message') FROM event JOIN payload ON event_seq = seq
           WHERE type = 'task_run.attempt_failed' AND json_extract(body, '$.of') = ? ORDER BY seq""",
        (name,),
    )
    return [message for (message,) in rows]


def assert_all_is_on_record(counted: Counter[str], store: sqlite3.Connection) -> None:
    assert number(store, "SELECT count(*) FROM task_run") == counted.total()
    assert states(store) == counted
    assert number(store, "SELECT count(*) FROM event") == number(store, "SELECT count(DISTINCT id) FROM event")
    assert number(store, "SELECT count(*) FROM event WHERE type LIKE '%\\_run.running' ESCAPE '\\'") == number(
        store, "SELECT count(*) - (SELECT count(*) FROM task_run WHERE state = 'not_ready') FROM task_run"
    ) + number(store, "SELECT count(*) FROM flow_run")
    assert attempts_failed(store, "second_time_lucky") == ["not yet", "not yet"]
    assert attempts_failed(store, "waits_and_fails") == ["never", "never"]
    assert attempts_failed(store, "too_slow") == ["Task run exceeded timeout of 0.2 second(s)"]
    assert set(attempts_failed(store, "returns_failed")) == {"as agreed"}


def test_without_a_server_every_task_run_is_on_record(surroundings: dict[str, str]) -> None:
    counted, store = run_every_kind(surroundings)
    assert counted["completed"] > 100
    assert_all_is_on_record(counted, store)


@pytest.mark.slow
def test_with_a_server_and_a_process_pool_every_task_run_is_on_record(
    surroundings: dict[str, str], server: str
) -> None:
    counted, store = run_every_kind(surroundings | {"PREFECT_API_URL": server})
    assert number(store, "SELECT count(*) FROM task_run WHERE task = 'child-process'") == 6
    assert_all_is_on_record(counted, store)
