"""A `make ui` of a test's own, on a free port, and what to ask its server. Nothing of it is left afterwards."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deployments.where import CLONE
from flows import _beside as beside

NOBODY = "http://127.0.0.1:9"  # a company's proxy, which knows nothing of a server on this machine
START_SECONDS = 300
TRIES = 10


class Patient(httpx.Client):
    """Asks again where Prefect's server is too busy to answer: its SQLite refuses under load."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        for _ in range(TRIES):
            answer = super().send(request, **options)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1)
        return answer


server = Patient(timeout=60, trust_env=False)


@dataclass(frozen=True)
class Local:
    """A `make ui` of its own: process, record, and addresses once it is up."""

    process: subprocess.Popen[str]
    home: Path
    environment: dict[str, str]

    @property
    def api(self) -> str:
        return beside.noted(self.home)[beside.API]

    def end(self, number: int = signal.SIGINT) -> str:
        """What it says after the signal, up to its end."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=90)[0]

    def processes(self) -> list[int]:
        """Every process of this machine that was started with this home, save our own."""
        mark = f"AUDIT_HOME={self.home}".encode()
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if mark in _environ(entry)]


@contextmanager
def local_ui(home: Path, **environment: str) -> Iterator[Local]:
    """One that is up; whatever is left of it afterwards is killed."""
    local = start(home, **environment)
    try:
        until(lambda: beside.noted(home) or local.process.poll() is not None, START_SECONDS)
        assert local.process.poll() is None, local.process.communicate()[0]
        yield local
    finally:
        for pid in local.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        local.process.communicate()


def start(home: Path, **more: str) -> Local:
    """`make ui` with this record, not up yet."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "AUDIT_"))}
    environment |= {"AUDIT_HOME": str(home), "NO_COLOR": "1", "HTTP_PROXY": NOBODY, "HTTPS_PROXY": NOBODY, **more}
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


def started(api: str, name: str, parameters: dict[str, object]) -> str:
    """A run of the deployment; its id."""
    deployment = server.get(f"{api}/deployments/name/{name}/{name}").raise_for_status().json()
    url = f"{api}/deployments/{deployment['id']}/create_flow_run"
    return server.post(url, json={"parameters": parameters}).raise_for_status().json()["id"]


def finished(api: str, run_id: str) -> dict[str, Any]:
    """The run, once it is over."""
    until(lambda: _run(api, run_id)["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}, 240)
    return _run(api, run_id)


def _run(api: str, run_id: str) -> dict[str, Any]:
    return server.get(f"{api}/flow_runs/{run_id}").raise_for_status().json()


def _environ(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def give_every_deployment(api: str, spec: Path | str) -> None:
    """This use case to all of them, also those that automations start."""
    for deployment in server.post(f"{api}/deployments/filter", json={}).raise_for_status().json():
        given = {**deployment["parameters"], "spec_file": str(spec)}
        server.patch(f"{api}/deployments/{deployment['id']}", json={"parameters": given}).raise_for_status()
