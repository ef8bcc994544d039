"""What Prefect's server tells of runs comes on record, save of those that hooks record, though it goes meanwhile."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from prefect.events import Event as PrefectEvent

from audit.events.event import make_event, uuid7
from audit.events.payloads import RunState
from audit.recording.follow import append_seen, seen
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store
from tests.audit.recording.apart import PATIENCE, QUIET, wait_for

PLAIN = """
import sys
from prefect import flow, task

@task
def plain(x): return x

@flow
def followed(n):
    for i in range(n): plain(i)

followed(int(sys.argv[1]))
"""


@pytest.fixture
def store(home: Path) -> AuditStore:
    close_stores()
    return open_store()


def told(kind: str, run: str, type: str, name: str = "", *, count: int = 1, message: str = "") -> PrefectEvent:
    """As Prefect's server tells of a state."""
    related = [
        {"prefect.resource.id": f"prefect.flow-run.{uuid7()}", "prefect.resource.role": "flow-run"},
        {"prefect.resource.id": "prefect.flow.f", "prefect.resource.role": "flow", "prefect.resource.name": "training"},
        {"prefect.resource.id": "prefect.tag.monthly", "prefect.resource.role": "tag"},
    ]
    return PrefectEvent.model_validate(
        {
            "occurred": datetime.now(UTC),
            "event": f"prefect.{kind}.{name or type.title()}",
            "id": UUID(uuid7()),
            "resource": {
                "prefect.resource.id": f"prefect.{kind}.{run}",
                "prefect.resource.name": "a run",
                "prefect.run-count": str(count),
                "prefect.state-type": type,
                "prefect.state-name": name or type.title(),
                "prefect.state-message": message,
            },
            "related": related,
            "payload": {"task_run": {"task_key": "fit-abcd1234"}} if kind == "task-run" else {},
        }
    )


@pytest.mark.parametrize(
    ("kind", "state", "expected"),
    [
        ("flow-run", ("RUNNING", ""), "flow_run.running"),
        ("flow-run", ("CANCELLED", ""), "flow_run.cancelled"),
        ("flow-run", ("SCHEDULED", "Late"), None),
        ("task-run", ("COMPLETED", "Cached"), "task_run.cached"),
        ("task-run", ("FAILED", "TimedOut"), "task_run.timed_out"),
        ("task-run", ("PENDING", "NotReady"), "task_run.not_ready"),
        ("task-run", ("PENDING", "Pending"), None),
    ],
)
def test_a_state_becomes_the_event_that_a_hook_would_make_of_it(
    home: Path, kind: str, state: tuple[str, str], expected: str | None
) -> None:
    found = seen(told(kind, uuid7(), *state))
    assert (found.event.type if found else None) == expected


def test_an_event_that_is_no_state_is_passed_over(home: Path) -> None:
    beat = told("flow-run", uuid7(), "RUNNING")
    beat.resource.root.pop("prefect.state-type")
    assert seen(beat) is None


def test_names_tags_and_messages_come_on_record_without_what_is_secret(store: AuditStore) -> None:
    run = uuid7()
    append_seen(store, [s for s in [seen(told("task-run", run, "FAILED", message="asked jane.doe@example.org"))] if s])
    (event,) = read.events(store)
    said = event.payload
    assert (said["of"], said["flow_name"], said["tags"]) == ("fit", "training", ["monthly"])
    assert "jane.doe" not in said["message"]
    assert (event.source, event.task_run_id) == ("prefect-audit/follow", run)


def test_a_run_that_a_hook_records_is_left_to_the_hooks(store: AuditStore) -> None:
    hooked, plain = uuid7(), uuid7()
    ours = make_event(
        "task_run.running", RunState(run_name="a", of="b"), source="prefect-audit/hook", subject="task-run",
        actor="p:test", task_run_id=hooked,
    )  # fmt: skip
    append(store, [ours])
    states = [seen(told("task-run", run, "COMPLETED")) for run in (hooked, plain)]
    assert [event.task_run_id for event in append_seen(store, [s for s in states if s])] == [plain]


def test_what_is_heard_twice_is_on_record_once(store: AuditStore) -> None:
    state = seen(told("flow-run", uuid7(), "COMPLETED"))
    assert state
    append_seen(store, [state])
    append_seen(store, [state])
    assert len(list(read.events(store))) == 1


# A real server, which goes and comes back


class Server:
    """Prefect's, on one port however often it is started."""

    def __init__(self, environ: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environ = environ
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=self.environ, **quiet)  # type: ignore[call-overload]
        wait_for(f"{self.address}/health", self.process)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "AUDIT"))}
    homes = {"PREFECT_HOME": str(tmp_path / "prefect"), "AUDIT_HOME": str(tmp_path / "var")}
    return plain | QUIET | homes | {"PYTHONPATH": str(Path.cwd()), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def server(surroundings: dict[str, str]) -> Iterator[Server]:
    running = Server(surroundings)
    yield running
    running.stop()


@pytest.mark.slow
def test_runs_that_nobody_instrumented_are_followed_through_a_restart_of_the_server(
    surroundings: dict[str, str], server: Server, tmp_path: Path
) -> None:
    environ = surroundings | {"PREFECT_API_URL": server.address}
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    audit = [sys.executable, "-m", "audit"]
    subprocess.run([*audit, "init"], env=environ, check=True, capture_output=True, timeout=PATIENCE)
    said = (tmp_path / "said").open("w+")
    follower = subprocess.Popen([*audit, "reconcile", "--follow"], env=environ, stdout=said, stderr=subprocess.STDOUT)

    def run(task_runs: int) -> None:
        command = [sys.executable, str(script), str(task_runs)]
        subprocess.run(command, env=environ, check=True, capture_output=True, timeout=PATIENCE)

    def completed() -> tuple[int, int]:
        with sqlite3.connect(f"file:{environ['AUDIT_HOME']}/audit.db?mode=ro", uri=True) as record:
            rows = record.execute(
                "SELECT type, count(DISTINCT coalesce(task_run_id, flow_run_id)) FROM event GROUP BY type"
            )
            counts = dict(rows.fetchall())
        return counts.get("flow_run.completed", 0), counts.get("task_run.completed", 0)

    try:
        until(lambda: "Listening" in Path(said.name).read_text(), follower)
        run(3)
        until(lambda: completed() == (1, 3), follower)
        server.stop()
        server.start()
        until(lambda: "is back" in Path(said.name).read_text(), follower)
        run(2)
        until(lambda: completed() == (2, 5), follower)
        until(lambda: "Read from the server" in Path(said.name).read_text(), follower)
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(30) == 0
    finally:
        follower.kill()
        follower.wait()
        said.close()
    assert subprocess.run([*audit, "verify"], env=environ, capture_output=True, timeout=PATIENCE).returncode == 0


def until(true: Callable[[], bool], running: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + PATIENCE
    while not true():
        assert running.poll() is None, "it ended"
        assert time.monotonic() < give_up
        time.sleep(0.1)
