"""Processes that Prefect loads the plugin in: what they leave on record, and that they do what they did without it."""

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

import prefect_audit_plugin
from tests.audit.recording.apart import QUIET
from tests.audit.recording.test_count import SCRIPT, assert_all_is_on_record

THEIRS = Path(__file__).with_name("never_mentions_us.py")
ON = {"PREFECT_PLUGINS_ENABLED": "true"}
IN_A_LOOP = """
import asyncio

async def main():
    from prefect import flow, task

    def add(x):
        return x + 1

    before = task(add)
    {answer}

    @flow
    async def whole():
        return before(1) + task(add)(1)

    assert await whole() == 4

asyncio.run(main())
"""


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "AUDIT"))}
    return plain | QUIET | {"PREFECT_HOME": str(tmp_path / "prefect"), "AUDIT_HOME": str(tmp_path / "var")}


@pytest.fixture
def with_server(surroundings: dict[str, str], prefect_server: None) -> dict[str, str]:
    return surroundings | {"PREFECT_API_URL": PREFECT_API_URL.value()}


def run(environment: dict[str, str], *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`python WORDS` in the home's folder, which is none of ours."""
    folder = Path(environment["AUDIT_HOME"]).parent
    ended = subprocess.run(
        [sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == code, ended.stderr[-4000:]
    return ended


def last_line(ended: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(ended.stdout.splitlines()[-1])


def on_record(environment: dict[str, str]) -> Counter[str]:
    path = Path(environment["AUDIT_HOME"]) / "audit.db"
    if not path.exists():
        return Counter()
    store = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    return Counter(dict(store.execute("SELECT type, count(*) FROM event WHERE type GLOB '*_run.*' GROUP BY type")))


def test_definitions_look_to_the_user_as_without_it(surroundings: dict[str, str]) -> None:
    without, with_it = (last_line(run(surroundings | on, str(THEIRS))) for on in ({}, ON))
    assert with_it == without
    assert len(without["looks"]) == 13


@pytest.mark.slow
def test_results_are_the_same_and_what_was_cached_without_it_is_found_with_it(
    with_server: dict[str, str], tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    without = last_line(run(with_server, str(THEIRS), str(calls)))
    assert not on_record(with_server)
    assert Counter(calls.read_text().split()) == {"cached": 2, "cached_async": 1}

    with_it = last_line(run(with_server | ON, str(THEIRS), str(calls)))

    assert with_it == without
    assert Counter(calls.read_text().split()) == {"cached": 2, "cached_async": 1}
    found = on_record(with_server)
    assert (found["task_run.cached"], found["task_run.completed"], found["flow_run.completed"]) == (3, 7, 2)


@pytest.mark.slow
def test_a_file_with_task_runs_of_every_kind_is_on_record_in_a_process_pool_too(
    with_server: dict[str, str], tmp_path: Path
) -> None:
    ours = SCRIPT.read_text()
    theirs = tmp_path / "theirs.py"
    theirs.write_text(ours.replace("from audit import flow, task", "from prefect import flow, task"))
    assert "audit" not in theirs.read_text()

    run(with_server | ON, str(theirs), str(tmp_path / "counted.json"))

    store = sqlite3.connect(f"file:{tmp_path}/var/audit.db?mode=ro", uri=True)
    counted = Counter(json.loads((tmp_path / "counted.json").read_text()))
    assert counted["completed"] > 100
    assert_all_is_on_record(counted, store)
    pool = "SELECT count(*), count(DISTINCT task_run_id) FROM event JOIN payload ON event_seq = seq WHERE {}"
    of_pool = "json_extract(body, '$.of') = 'child-process' AND type = 'task_run.completed'"
    assert store.execute(pool.format(of_pool)).fetchone() == (6, 6)


def test_a_process_that_defines_nothing_loads_nothing_of_the_store(surroundings: dict[str, str]) -> None:
    asked = (
        "import prefect, sys; print(sorted(n for n in sys.modules if n.partition('.')[0] in ('audit', 'sqlalchemy')))"
    )
    loaded = run(surroundings | ON, "-c", asked).stdout.strip().replace("'", '"')
    assert json.loads(loaded) == [
        "audit",
        "audit.errors",
        "audit.recording",
        "audit.recording.plugin",
        "audit.settings",
    ]


def test_a_folder_of_the_users_called_audit_is_told_and_his_flow_runs(
    with_server: dict[str, str], tmp_path: Path
) -> None:
    theirs = folder_called_audit(tmp_path)
    ended = run(with_server | ON, str(theirs))
    assert ended.stdout.splitlines()[-1] == "his own, 2"
    assert f"RECORDS NOTHING IN THIS PROCESS. Python finds {tmp_path}/audit/__init__.py as `audit`" in ended.stderr
    assert str(prefect_audit_plugin.OURS) in ended.stderr
    assert not on_record(with_server)


def test_in_mode_strict_nothing_runs_beside_a_folder_called_audit(surroundings: dict[str, str], tmp_path: Path) -> None:
    theirs = folder_called_audit(tmp_path)
    ended = run(surroundings | ON | {"AUDIT_MODE": "strict"}, str(theirs), code=1)
    assert "In AUDIT_MODE=strict nothing runs so." in ended.stderr
    assert ended.stdout == ""


def folder_called_audit(folder: Path) -> Path:
    (folder / "audit").mkdir()
    (folder / "audit" / "__init__.py").write_text("own = 'his own'\n")
    theirs = folder / "theirs.py"
    theirs.write_text("import prefect, audit\n\n@prefect.flow\ndef f(): return 2\n\nprint(f'{audit.own}, {f()}')\n")
    return theirs


def test_inside_a_running_loop_prefect_leaves_the_plugin_out_and_says_so(with_server: dict[str, str]) -> None:
    """As in a notebook. A hole of Prefect's own: where it closes, this fails, and instrument() has lost its use."""
    ended = run(with_server | ON, "-c", IN_A_LOOP.format(answer=""))
    assert "Failed to initialize plugins: Already running asyncio in this thread" in ended.stderr
    assert not on_record(with_server)


def test_inside_a_running_loop_instrument_puts_all_of_it_on_record(with_server: dict[str, str]) -> None:
    run(with_server | ON, "-c", IN_A_LOOP.format(answer="import audit; audit.instrument()"))
    assert on_record(with_server) == {
        "flow_run.running": 1, "flow_run.completed": 1, "task_run.running": 2, "task_run.completed": 2,
    }  # fmt: skip
