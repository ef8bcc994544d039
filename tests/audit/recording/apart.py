"""A Prefect server and what talks to it, each in a process of its own."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_UI_ENABLED": "false",
}
PROMPT = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    "PREFECT_CLI_PROMPT": "false",
    "NO_COLOR": "1",
}
PATIENCE = 300  # seconds; a script takes 30 on an idle machine
POOL = "apart"


def plain_environment(folder: Path) -> dict[str, str]:
    """Of a process whose Prefect and audit have their homes in `folder`, and nothing of ours in them."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "AUDIT"))}
    return plain | QUIET | {"PREFECT_HOME": str(folder / "prefect"), "AUDIT_HOME": str(folder / "var")}


@contextmanager
def serving(environment: dict[str, str], log: Path | None = None) -> Iterator[str]:
    """A real Prefect server on a free port, ended by its own handle; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(
        environment, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), log=log
    ) as it:
        address = f"http://127.0.0.1:{port}/api"
        wait_for(f"{address}/health", it)
        yield address


@contextmanager
def running(environment: dict[str, str], *words: str, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """`python WORDS`, ended by its own handle."""
    said = log.open("wb") if log else subprocess.DEVNULL
    process = subprocess.Popen(
        [sys.executable, *words], env=environment, stdout=said, stderr=said, stdin=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_for(address: str, of: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers; it must not have ended meanwhile."""
    until(lambda: _answers(address, of), address)


def until(holds: Callable[[], object], what: str) -> Any:
    """What `holds` returns, once that is something. Raises TimeoutError after five minutes."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.2)
    raise TimeoutError(what)


def _answers(address: str, of: subprocess.Popen[bytes]) -> bool:
    assert of.poll() is None, "the server has ended"
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@dataclass
class Machine:
    """A server and a worker, and the record that their runs leave."""

    environment: dict[str, str]
    client: SyncPrefectClient
    deployed: dict[str, UUID] = field(default_factory=dict)

    def deploy(self, file: Path, *names: str) -> None:
        """Make a deployment of each flow in `file`, named as its function."""
        for name in names:
            flow = self.client.create_flow_from_name(name.replace("_", "-"))
            self.deployed[name] = self.client.create_deployment(
                flow, name="apart", work_pool_name=POOL, path=str(file.parent), entrypoint=f"{file.name}:{name}"
            )

    def run(self, name: str, **parameters: object) -> UUID:
        """Have the worker run it; the flow run's id."""
        return self.client.create_flow_run_from_deployment(self.deployed[name], parameters=parameters).id

    def reaches(self, run: UUID, *states: str) -> None:
        """Wait until a flow run is in one of these states."""
        until(lambda: self.client.read_flow_run(run).state.name in states, f"{run}: {states}")

    def events(self, run: UUID | str, type: str = "*") -> list[dict[str, Any]]:
        """What is on record of a flow run and its task runs, in order of time."""
        return on_record(self.environment, "flow_run_id = ? AND type GLOB ?", str(run), type)


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """A server and a process worker with their homes in `folder`."""
    environment = plain_environment(folder) | PROMPT
    with serving(environment, folder / "server.log") as address:
        environment |= {"PREFECT_API_URL": address}
        start = ("-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process")
        with (
            temporary_settings({PREFECT_API_URL: address}),
            get_client(sync_client=True) as client,
            running(environment, *start, log=folder / "worker.log"),
        ):
            until(lambda: _has_pool(address), "the worker's pool")
            yield Machine(environment, client)


def _has_pool(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/work_pools/{POOL}", timeout=5):
            return True
    except OSError:
        return False


def on_record(environment: dict[str, str], condition: str, *values: str) -> list[dict[str, Any]]:
    """Events of a store, with their payloads' fields that these tests ask about."""
    path = Path(environment["AUDIT_HOME"]) / "audit.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        store.row_factory = sqlite3.Row
        rows = store.execute(
            f"""SELECT event.*, json_extract(body, '$.of') AS of, json_extract(body, '$.attempt') AS attempt,
                       json_extract(body, '$.parent_flow_run_id') AS parent,
                       json_extract(body, '$.state_id') AS state_id,
                       json_extract(body, '$.surroundings.process_id') AS process_id
                  FROM event JOIN payload ON event_seq = seq WHERE {condition} ORDER BY time, seq""",
            values,
        )
        return [dict(row) for row in rows]
