"""A flow file that never mentions us, on a real server and worker with the plugin on: every attempt is on record."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployments.test_deployed import end
from tests.deployments.test_server import until

pytestmark = pytest.mark.slow

PATIENCE = 300  # seconds; a busy machine takes its time
ARRIVED = 60  # seconds after a run until Prefect's database has all of its task runs
TASK_RUNS = 17  # of `whole`, with the flows that it calls
LIMIT = 0.5
THEIRS = '''
import os
import signal
import time

from prefect import flow, runtime, task
from prefect.cache_policies import INPUTS
from prefect.task_runners import ProcessPoolTaskRunner


@task(retries=2)
def third_time_lucky():
    if runtime.task_run.run_count < 3:
        raise ValueError(f"try {runtime.task_run.run_count}")


@task(retries=1)
async def never():
    raise ValueError("never")


@task(timeout_seconds=0.5, retries=1)
def too_slow():
    time.sleep(20)


@task(cache_policy=INPUTS, persist_result=True)
def cached(run):
    return run


@task
def add(x, y=1):
    """Add."""
    return x + y


@task
def in_child(x):
    assert os.getpid() != x
    return x


@task
def waits(seconds):
    time.sleep(seconds)


@task
def holds_on(run):
    os.kill(os.getpid(), signal.SIGKILL)


@flow
async def inner():
    return await never(return_state=True)


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def pool():
    return in_child.map([os.getpid()] * 4).result()[:1]


@flow(retries=1, log_prints=True)
def whole(numbers: list[int] = [1, 2, 3]) -> str:
    """All that a run can come to."""
    run = runtime.flow_run.id
    if runtime.flow_run.run_count < 2:
        add(-1)
        raise RuntimeError("the first attempt of the whole flow")
    third_time_lucky()
    too_slow(return_state=True)
    cached(run)
    cached(run)
    add.map(numbers).wait()
    add.submit(add.submit("no number")).wait()

    @task
    def defined_on_the_way():
        return add.with_options(name="renamed")(1)

    defined_on_the_way()
    import asyncio
    asyncio.run(inner(return_state=True))
    pool()
    return "done"


@flow
def sleeps():
    waits(600)


@flow
def killed():
    add(1)
    holds_on(1)


if __name__ == "__main__":
    whole.serve(name="served")
'''


class Machine:
    """A Prefect server with a process worker, both started in `folder`, where the flow file lies."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.children = folder, list[subprocess.Popen[bytes]]()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "AUDIT"))} | {
            "PREFECT_HOME": str(folder.parent / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "127.0.0.1",
        }
        self.with_plugin = self.environment | {
            "PREFECT_PLUGINS_ENABLED": "true",
            "AUDIT_HOME": str(folder.parent / "var"),
        }

    def start(self, environment: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
        with (self.folder.parent / f"{len(self.children)}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, *words], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.children.append(child)
        return child

    def prefect(self, environment: dict[str, str], *words: str) -> None:
        self.call(environment, "-m", "prefect", "--no-prompt", *words)

    def call(self, environment: dict[str, str], *words: str) -> None:
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, path: str, **what: Any) -> Any:
        """Again where the server is busy, as Prefect's own client does."""
        end = time.monotonic() + PATIENCE
        while True:
            answer = httpx.post(f"{self.api}/{path}", json=what, trust_env=False, timeout=30)
            if answer.status_code != 503 or time.monotonic() > end:
                return answer.raise_for_status().json()
            time.sleep(1)

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.api}/{path}", trust_env=False, timeout=30).raise_for_status().json()

    def answers(self, path: str) -> bool:
        with suppress(httpx.HTTPError):
            return bool(self.get(path) is not None)
        return False

    def begin(self, deployment: str) -> str:
        """A run of it; its id."""
        made = self.get(f"deployments/name/{deployment}")
        return str(self.ask(f"deployments/{made['id']}/create_flow_run")["id"])

    def run(self, deployment: str) -> str:
        """A run of it, to its end."""
        run = self.begin(deployment)
        ended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        until(lambda: self.get(f"flow_runs/{run}")["state_type"] in ended, PATIENCE)
        return run

    def runs_within(self, run: str) -> tuple[set[str], list[dict[str, Any]]]:
        """The ids of a flow run and those that it started, and Prefect's task runs, without those that stand for a
        flow run."""
        flows, found, new = {run}, list[dict[str, Any]](), {run}
        while new:
            page = self.ask("task_runs/filter", flow_runs={"id": {"any_": list(new)}}, limit=200)
            children = {one["state"]["state_details"]["child_flow_run_id"] for one in page} - {None}
            found += [one for one in page if not one["state"]["state_details"]["child_flow_run_id"]]
            new, flows = children - flows, flows | children
        return flows, found

    def on_record(self, flows: Collection[str | None]) -> list[dict[str, Any]]:
        """Events of runs in these flow runs, None for those in none; oldest first, with payloads."""
        if not (self.folder.parent / "var" / "audit.db").exists():
            return []
        store = sqlite3.connect(f"file:{self.folder.parent}/var/audit.db?mode=ro", uri=True)
        store.row_factory = sqlite3.Row
        rows = store.execute(
            "SELECT e.*, body FROM event e JOIN payload ON event_seq = seq WHERE type GLOB '*_run.*' ORDER BY seq"
        )
        return [dict(row) | {"payload": json.loads(row["body"])} for row in rows if row["flow_run_id"] in flows]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine") / "theirs"
    folder.mkdir()
    (folder / "theirs.py").write_text(THEIRS)
    made = Machine(folder)
    try:
        made.start(made.environment, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", made.port)
        until(lambda: made.answers("health"), PATIENCE)
        worker = ("-m", "prefect", "worker", "start", "--type", "process", "--name", "theirs", "--pool", "theirs")
        made.start(made.with_plugin, *worker)
        until(lambda: made.answers("work_pools/theirs"), PATIENCE)
        for name, environment in (("plain", made.environment), ("with-plugin", made.with_plugin)):
            for flow in ("whole", "killed", "sleeps"):
                made.prefect(environment, "deploy", f"theirs.py:{flow}", "--name", name, "--pool", "theirs")
        yield made
    finally:
        for child in reversed(made.children):
            end(child)


def test_it_deploys_as_without_the_plugin(machine: Machine) -> None:
    own = {"id", "name", "created", "updated", "version_id", "status", "last_polled"}
    plain, with_plugin = (
        {k: v for k, v in machine.get(f"deployments/name/whole/{name}").items() if k not in own}
        for name in ("plain", "with-plugin")
    )
    assert with_plugin == plain
    assert plain["entrypoint"] == "theirs.py:whole"
    assert plain["parameter_openapi_schema"]["properties"]["numbers"]["default"] == [1, 2, 3]


def test_every_task_run_that_prefect_knows_is_on_record_to_the_last_attempt(machine: Machine) -> None:
    run = machine.run("whole/with-plugin")
    assert machine.get(f"flow_runs/{run}")["state_type"] == "COMPLETED"
    assert_on_record(machine, run)
    (deployed,) = {event["payload"]["deployment"]["worker"] for event in machine.on_record({run}) if of_flow(event)}
    assert deployed == "theirs"


def test_a_flow_that_serves_itself_is_on_record_to_the_last_attempt(machine: Machine) -> None:
    serving = machine.start(machine.with_plugin, "theirs.py")
    until(lambda: machine.answers("deployments/name/whole/served"), PATIENCE)
    run = machine.run("whole/served")
    assert machine.get(f"flow_runs/{run}")["state_type"] == "COMPLETED"
    assert_on_record(machine, run)
    os.killpg(serving.pid, signal.SIGTERM)


def test_a_task_in_the_background_is_on_record_where_it_runs_whoever_asked_for_it(machine: Machine) -> None:
    machine.start(machine.with_plugin, "-c", "from theirs import add; add.serve()")
    machine.call(machine.environment, "-c", "from theirs import add; add.delay(20, 3)")

    def told() -> list[str]:
        return [event["type"] for event in machine.on_record({None})]

    until(lambda: "task_run.completed" in told(), PATIENCE)
    assert told() == ["task_run.running", "task_run.completed"]


def test_that_the_process_was_killed_is_put_on_record_by_the_worker(machine: Machine) -> None:
    run = machine.run("killed/with-plugin")

    def told() -> list[str]:
        return [event["type"] for event in machine.on_record({run})]

    until(lambda: "flow_run.crashed" in told(), 60)
    assert told()[:4] == ["flow_run.running", "task_run.running", "task_run.completed", "task_run.running"]


def test_that_a_run_was_cancelled_is_put_on_record(machine: Machine) -> None:
    run = machine.begin("sleeps/with-plugin")
    until(lambda: "task_run.running" in [event["type"] for event in machine.on_record({run})], PATIENCE)

    machine.ask(f"flow_runs/{run}/set_state", state={"type": "CANCELLING"})

    until(lambda: "flow_run.cancelled" in [event["type"] for event in machine.on_record({run})], PATIENCE)


def of_flow(event: dict[str, Any]) -> bool:
    return bool(event["type"] == "flow_run.running")


def assert_on_record(machine: Machine, run: str) -> None:
    """All that `whole` does, whoever runs it. Prefect learns of its task runs some seconds late, and may lose some."""
    with suppress(AssertionError):
        until(lambda: len(machine.runs_within(run)[1]) == TASK_RUNS, ARRIVED)
    flows, known = machine.runs_within(run)
    ours = machine.on_record(flows)
    of_tasks = [event for event in ours if event["task_run_id"]]
    begun = defaultdict[str, list[int]](list)
    for event in of_tasks:
        if event["type"] in ("task_run.running", "task_run.retrying"):
            begun[event["task_run_id"]].append(event["payload"]["attempt"])

    assert len(flows) == 3
    assert len({event["task_run_id"] for event in of_tasks}) == TASK_RUNS >= len(known) > 0
    for one in known:
        assert begun[one["id"]] == list(range(1, one["run_count"] + 1)), one["name"]
    assert Counter(event["type"] for event in of_tasks) == {
        "task_run.running": 16, "task_run.retrying": 4, "task_run.attempt_failed": 7, "task_run.completed": 12,
        "task_run.cached": 1, "task_run.failed": 2, "task_run.timed_out": 1, "task_run.not_ready": 1,
    }  # fmt: skip
    assert {one["id"] for one in known} <= {event["task_run_id"] for event in of_tasks}
    raised = Counter(e["payload"]["error"]["message"] for e in of_tasks if e["type"] == "task_run.attempt_failed")
    assert raised >= Counter(
        ["try 1", "try 2", "never", "never", *[f"Task run exceeded timeout of {LIMIT} second(s)"] * 2]
    )
    of_this = [(e["type"], e["payload"].get("error", {}).get("message")) for e in ours if e["flow_run_id"] == run]
    assert [one for one in of_this if one[0].startswith("flow_run.")] == [
        ("flow_run.running", None),
        ("flow_run.attempt_failed", "the first attempt of the whole flow"),
        ("flow_run.retrying", None),
        ("flow_run.completed", None),
    ]
