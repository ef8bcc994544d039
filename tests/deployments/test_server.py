"""`make ui` on a real server: it deploys everything, its worker's runs are on record, and nothing outlives it."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from audit.settings import read_settings
from audit.store import read
from audit.store.engine import open_store
from audit.store.ledger import not_sealed
from deployments.where import CLONE
from flows import _beside as beside
from tests.deployments.local_ui import Local, finished, local_ui, server, start, started, until

pytestmark = pytest.mark.slow

DEPLOY = [sys.executable, "-m", "prefect", "deploy", "--all"]
DEPLOYED = {"pipeline": 0, "training": 0, "scoring": 1, "monitoring": 1, "maintenance": 1}  # and its schedules


@pytest.fixture
def make_ui(tmp_path: Path) -> Iterator[Callable[[], Local]]:
    """Start one; whatever is left of it afterwards is killed."""
    with ExitStack() as made:
        yield lambda: made.enter_context(local_ui(tmp_path / "var"))


def test_a_day_with_make_ui(make_ui, visits):
    local = make_ui()
    api = local.api
    assert deployed(api) == DEPLOYED

    for deploy in (deploy_with_stdin_closed, deploy_on_a_terminal):
        deploy({**local.environment, "PREFECT_API_URL": api, "NO_PROXY": "127.0.0.1"})
        assert deployed(api) == DEPLOYED, "schedules doubled"

    second = start(local.home)
    assert "already runs here" in second.process.communicate(timeout=60)[0]
    assert second.process.returncode == 1

    run = finished(api, started(api, "training", {"spec_file": str(visits)}))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert_on_record(local.home, run)
    until(lambda: not_sealed(open_store(read_settings({"AUDIT_HOME": str(local.home)}, local.home)))[0] == 0, 60)
    assert any("seal\0--watch" in _command(pid) for pid in local.processes())

    beside_it(local, visits)
    at = beside.noted(local.home)
    assert server.get(f"{at[beside.EVIDENTLY]}/api/projects").json()[0]["name"] == "visits"
    docs, months = linked(api, "visits-validation", "Data Docs"), linked(api, "visits-drift", "month by month")
    assert "Validation of Visits that end in a sale" in server.get(docs).raise_for_status().text
    assert server.get(months).is_success and months.startswith(at[beside.EVIDENTLY])
    assert docs.removeprefix(at[beside.REPORTS]) in server.get(at[beside.REPORTS]).text

    going_on = started(api, "pipeline", {"spec_file": str(visits)})
    until(lambda: recorded(local.home, going_on), 120)
    last_words = local.end(signal.SIGINT)

    assert local.process.returncode == 0
    assert "Traceback" not in last_words
    assert local.processes() == []
    assert beside.noted(local.home) == {}
    assert [e.type for e in recorded(local.home, going_on)] == ["flow_run.running", "flow_run.crashed"]


@pytest.mark.parametrize("dies", ["server", "worker"])
def test_when_a_child_dies_it_is_named_and_the_other_one_is_ended(make_ui, dies):
    local = make_ui()
    os.kill(next(pid for pid in local.processes() if f"prefect\0{dies}\0start" in _command(pid)), signal.SIGKILL)
    last_words = local.process.communicate(timeout=90)[0]
    assert f"The {dies} ended" in last_words
    assert local.process.returncode == 1
    assert local.processes() == []
    assert beside.noted(local.home) == {}


def test_what_is_only_looked_at_ends_alone_and_is_named(make_ui):
    local = make_ui()
    os.kill(next(pid for pid in local.processes() if "evidently.cli\0ui" in _command(pid)), signal.SIGKILL)
    time.sleep(3)
    assert server.get(f"{local.api}/health").is_success
    last_words = local.end()
    assert "The evidently ended" in last_words
    assert local.process.returncode == 0
    assert local.processes() == []


def deploy_with_stdin_closed(environment):
    subprocess.run(DEPLOY, cwd=CLONE, env=environment, stdin=subprocess.DEVNULL, timeout=180, check=True)


def deploy_on_a_terminal(environment):
    """A person types it; a question would wait for ever."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(DEPLOY, cwd=CLONE, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    with suppress(OSError):  # the terminal hangs up when the command ends
        while os.read(ours, 4096):
            pass
    os.close(ours)
    assert process.wait(180) == 0


def beside_it(local, spec_file):
    """`make run` in another terminal: it takes the server and the pages of the `make ui` that runs."""
    command = [sys.executable, "-m", "flows.pipeline", str(spec_file), "--until", "4"]
    done = subprocess.run(command, cwd=CLONE, env=local.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


def linked(api, key, text) -> str:
    """Where the link of that text leads, in the latest artifact of that key."""
    asked = {"artifacts": {"key": {"any_": [key]}}}
    (artifact,) = server.post(f"{api}/artifacts/latest/filter", json=asked).raise_for_status().json()
    return re.search(rf"\[{text}\]\((http://[^)]+)\)", artifact["description"])[1]


def deployed(api) -> dict[str, int]:
    """Number of schedules by deployment."""
    found = server.post(f"{api}/deployments/filter", json={}).raise_for_status().json()
    return {deployment["name"]: len(deployment["schedules"]) for deployment in found}


def recorded(home, run_id):
    store = open_store(read_settings({"AUDIT_HOME": str(home)}, home))
    types = ("flow_run.running", "flow_run.completed", "flow_run.failed", "flow_run.crashed", "task_run.completed")
    return [e for e in read.events(store, types=types, newest_first=False) if e.flow_run_id == run_id]


def assert_on_record(home, run):
    """Begun and ended on the worker, under the deployment's id and the entrypoint's name, with every task run."""
    events = recorded(home, run["id"])
    began, ended = (next(e for e in events if e.type == type) for type in ("flow_run.running", "flow_run.completed"))
    assert began.payload["code"]["source"] == "flows.training.training"
    for event in (began, ended):
        assert event.deployment == run["deployment_id"]
        assert event.payload["deployment"]["worker"] == event.payload["deployment"]["work_pool"] == "local"
    names = [e.payload["of"] for e in events if e.type == "task_run.completed"]
    prepared, judged = ["ingest", "validate", "build_features", "split"], ["train_model", "evaluate", "register"]
    assert names == [*prepared, *judged, "promote", "write_card"]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
