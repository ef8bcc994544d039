"""`make ui` on a real server: it deploys everything, its worker's runs are on record, and nothing outlives it."""

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from audit.settings import read_settings
from audit.store import read
from audit.store.engine import open_store
from deployments.where import CLONE

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect server")]

DEPLOY = [sys.executable, "-m", "prefect", "deploy", "--all"]
NOBODY = "http://127.0.0.1:9"  # a company's proxy, which knows nothing of a server on this machine
START_SECONDS = 300
server = httpx.Client(timeout=60, trust_env=False)


@dataclass(frozen=True)
class Local:
    """A `make ui` of its own: process, record, and API once it is up."""

    process: subprocess.Popen[str]
    home: Path
    environment: dict[str, str]

    @property
    def api(self) -> str:
        return (self.home / "ui.url").read_text().strip()

    def end(self, number: int = signal.SIGINT) -> str:
        """What it says after the signal, up to its end."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=90)[0]

    def processes(self) -> list[int]:
        """Every process of this machine that was started with this home, save our own."""
        mark = f"AUDIT_HOME={self.home}".encode()
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if mark in _environ(entry)]


@pytest.fixture
def make_ui(tmp_path: Path) -> Iterator[Callable[[], Local]]:
    """Start one; whatever is left of it afterwards is killed."""
    made: list[Local] = []

    def make() -> Local:
        made.append(start(tmp_path / "var"))
        until(lambda: (made[-1].home / "ui.url").exists() or made[-1].process.poll() is not None, START_SECONDS)
        assert made[-1].process.poll() is None, made[-1].process.communicate()[0]
        return made[-1]

    yield make
    for local in made:
        for pid in local.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        local.process.communicate()


def start(home: Path) -> Local:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "AUDIT_"))}
    environment |= {"AUDIT_HOME": str(home), "NO_COLOR": "1", "HTTP_PROXY": NOBODY, "HTTPS_PROXY": NOBODY}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        # A shell without job control has `make ui &` ignore SIGINT, and so does this one.
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "deployments.local", "--port", str(port)],
        cwd=CLONE, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return Local(process, home, environment)


def until(reached: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.3)


def test_a_day_with_make_ui(make_ui, visits):
    local = make_ui()
    api = local.api
    assert deployed(api) == {"pipeline": 0, "training": 0, "scoring": 1, "monitoring": 1}

    for deploy in (deploy_with_stdin_closed, deploy_on_a_terminal):
        deploy({**local.environment, "PREFECT_API_URL": api, "NO_PROXY": "127.0.0.1"})
        assert deployed(api) == {"pipeline": 0, "training": 0, "scoring": 1, "monitoring": 1}, "schedules doubled"

    second = start(local.home)
    assert "already runs here" in second.process.communicate(timeout=60)[0]
    assert second.process.returncode == 1

    run = finished(api, started(api, "training", {"spec_file": str(visits)}))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert_on_record(local.home, run)

    going_on = started(api, "pipeline", {"spec_file": str(visits)})
    until(lambda: recorded(local.home, going_on), 120)
    last_words = local.end(signal.SIGINT)

    assert local.process.returncode == 0
    assert "Traceback" not in last_words
    assert local.processes() == []
    assert not (local.home / "ui.url").exists()
    assert [e.type for e in recorded(local.home, going_on)] == ["flow_run.running", "flow_run.crashed"]


@pytest.mark.parametrize("dies", ["server", "worker"])
def test_when_a_child_dies_it_is_named_and_the_other_one_is_ended(make_ui, dies):
    local = make_ui()
    os.kill(next(pid for pid in local.processes() if f"prefect\0{dies}\0start" in _command(pid)), signal.SIGKILL)
    last_words = local.process.communicate(timeout=90)[0]
    assert f"The {dies} ended" in last_words
    assert local.process.returncode == 1
    assert local.processes() == []
    assert not (local.home / "ui.url").exists()


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


def deployed(api) -> dict[str, int]:
    """Number of schedules by deployment."""
    found = server.post(f"{api}/deployments/filter", json={}).raise_for_status().json()
    return {deployment["name"]: len(deployment["schedules"]) for deployment in found}


def started(api, name, parameters) -> str:
    deployment = server.get(f"{api}/deployments/name/{name}/{name}").raise_for_status().json()
    url = f"{api}/deployments/{deployment['id']}/create_flow_run"
    return server.post(url, json={"parameters": parameters}).raise_for_status().json()["id"]


def state(api, run_id):
    return server.get(f"{api}/flow_runs/{run_id}").raise_for_status().json()


def finished(api, run_id):
    until(lambda: state(api, run_id)["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}, 240)
    return state(api, run_id)


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
    assert names == ["ingest", "validate", "build_features", "split", "train_model", "evaluate", "register", "promote"]


def _environ(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()
