"""One real Prefect server and worker: what is deployed runs when it should, and reacts to what it should, once."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow_engine
from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running
from rich.console import Console

from audit import flow, record
from audit.events.payloads import DriftFacts, OutcomeFacts, Used
from audit.settings import settings
from audit.store import read
from audit.store.engine import open_store
from deployments.automations import bring_in_line, retrainings
from deployments.where import CLONE
from flows import _deployed as deployed
from flows._read_back import note_messages
from flows.maintenance import maintenance
from tests.deployments.test_prefect_yaml import CONTAINED, HERE
from tests.deployments.test_server import until
from tests.deployments.visits import SPEC, write_visits
from tests.receivers import webhook

pytestmark = pytest.mark.slow

FILES = ("prefect.yaml", "prefect.containers.yaml")
FLIGHTS = {"spec_file": "flows/specs/flights.yaml"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server whose services look often, with three work pools and a worker for the first; its environment."""
    folder = tmp_path_factory.mktemp("deployed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "AUDIT_"))} | {
        "AUDIT_HOME": str(folder / "var"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",  # by default it takes a run ten seconds ahead, and a pause is too late
        "NO_PROXY": "127.0.0.1",
        "NO_COLOR": "1",
    }
    children: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        log = (folder / f"{words[0]}.log").open("wb")
        how = {"cwd": CLONE, "env": environment, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        command = [sys.executable, "-m", "prefect", *words]
        children.append(subprocess.Popen(command, start_new_session=True, **how))

    try:
        start("server", "start", "--host", "127.0.0.1", "--port", port)
        until(lambda: _answers(environment, "health"), 300)
        for pool in ("docker", "kubernetes"):
            prefect(environment, "work-pool", "create", pool, "--type", pool)
        start("worker", "start", "--pool", "local", "--type", "process", "--name", "local")
        until(lambda: _answers(environment, "work_pools/local"), 120)
        for file in FILES:
            deploy(environment, file)
        yield environment
    finally:
        for child in reversed(children):
            end(child)


@pytest.fixture
def client(machine: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    """The server's client, in a process that has its record too."""
    monkeypatch.setenv("AUDIT_HOME", machine["AUDIT_HOME"])
    settings.cache_clear()
    with temporary_settings({PREFECT_API_URL: machine["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
        yield client
    settings.cache_clear()


@pytest.fixture(scope="module")
def users(machine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two specs of a user's outside this folder, deployed; the second one has no months, and a model."""
    folder = tmp_path_factory.mktemp("users")
    visits, returns = write_visits(folder), folder / "returns.yaml"
    returns.write_text(SPEC.replace("name: visits", "name: returns"))
    deploy_for(machine, visits, returns)
    with temporary_settings({PREFECT_API_URL: machine["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
        ran("training/returns-training", client)
    return [visits, returns]


@pytest.fixture
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address for messages, and what arrived there."""
    with webhook() as receiver:
        yield receiver.url(), receiver.received


def test_deploying_again_asks_nothing_and_changes_nothing(machine: dict[str, str], client: SyncPrefectClient) -> None:
    ours = {**HERE, **CONTAINED}.items()
    noted = set(deployed.note_deployed("flights"))
    assert noted >= {f"deployment {d['entrypoint'].rpartition('.')[2]}/{name}" for name, d in ours}

    for file in FILES:
        deploy(machine, file)

    assert deployed.note_deployed("flights") == []
    assert len([a for a in deployed.automations(client) if not deployed.is_ours(a)]) == 3  # a trigger a pool


def test_two_specs_of_the_users_stand_beside_ours_and_deploying_them_again_changes_nothing(
    machine: dict[str, str], client: SyncPrefectClient, users: list[Path]
) -> None:
    for name in ("visits", "returns", "flights"):
        noted = deployed.note_deployed(name)
        assert name == "flights" or {f"deployment {flow}/{name}-{flow}" for flow in HERE} <= set(noted)
    ids = {name: one.id for name, one in deployed.deployments(client).items()}

    deploy_for(machine, *reversed(users))
    assert {name: one.id for name, one in deployed.deployments(client).items()} == ids
    assert [deployed.note_deployed(name) for name in ("visits", "returns", "flights")] == [[], [], []]

    retrained = [a.name for a in retrainings(deployed.deployments(client)) if "docker" not in a.name]
    assert (
        "prefect-audit: drift or decay in monitoring/returns-monitoring starts training/returns-training" in retrained
    )
    assert len([name for name in retrained if "visits-training" in name]) == 1


def test_a_users_spec_is_decided_on_daily_in_utc(client: SyncPrefectClient, users: list[Path]) -> None:
    name = "scoring/returns-scoring"
    until(lambda: by_schedule(client, name), 60)
    due = by_schedule(client, name)
    assert {datetime.fromisoformat(run["expected_start_time"]).strftime("%H:%M %Z") for run in due} == {"05:00 UTC"}
    assert {run["parameters"]["spec_file"] for run in due} == {str(users[1])}

    soon = datetime.now(UTC) + timedelta(seconds=8)
    once = IntervalSchedule(interval=timedelta(days=1), anchor_date=soon)
    client.create_deployment_schedules(deployed.deployments(client)[name].id, [(once, True)])
    until(lambda: completed(client, name), 120)
    assert on_record(completed(client, name)[0]) == ["flow_run.running", "flow_run.completed"]


def test_only_its_own_monitoring_follows_a_users_scoring(client: SyncPrefectClient, users: list[Path]) -> None:
    ran("scoring/returns-scoring", client)
    until(lambda: completed(client, "monitoring/returns-monitoring"), 120)
    assert not runs(client, "monitoring/visits-monitoring")
    assert not [run for run in runs(client, "monitoring/monitoring") if run["parameters"] == FLIGHTS]


def test_a_spec_that_is_gone_is_told_and_stops_no_other(client: SyncPrefectClient, users: list[Path]) -> None:
    text = users[0].read_text()
    users[0].unlink()
    try:
        assert f"{users[0]} does not exist." in brought(client, only_plan=True)
    finally:
        users[0].write_text(text)


def test_a_schedule_fires_and_none_does_once_it_is_paused_which_is_on_record(
    client: SyncPrefectClient, visits: Path
) -> None:
    name, monitoring = "monitoring/monitoring", deployed.deployments(client)["monitoring/monitoring"]
    (made,) = client.create_deployment_schedules(
        monitoring.id, [(IntervalSchedule(interval=timedelta(seconds=8)), True)]
    )
    schedule = f"/deployments/{monitoring.id}/schedules/{made.id}"
    client.request("PATCH", schedule, json={"slug": "often", "parameters": {"spec_file": str(visits)}})

    until(lambda: completed(client, name), 120)
    assert on_record(completed(client, name)[0]) == ["flow_run.running", "flow_run.completed"]

    deployed.note_deployed("flights")
    client.request("PATCH", schedule, json={"active": False})  # as the UI does
    paused = datetime.now(UTC)
    assert deployed.note_deployed("flights") == [f"deployment {name}"]
    # Among others: Prefect 3.9 also drops a schedule's own parameters when it is paused.
    assert {"name": "schedules.often.active", "value": "True → False"} in latest_change()["differences"]

    until(seconds_pass(20), 30)
    due = [datetime.fromisoformat(run["expected_start_time"]) for run in runs(client, name, also_waiting=True)]
    assert [at for at in due if paused + timedelta(seconds=4) < at < paused + timedelta(seconds=20)] == []


def test_a_changed_secret_is_noticed_and_not_shown(client: SyncPrefectClient) -> None:
    name = "pipeline/pipeline-kubernetes"
    deployment = deployed.deployments(client)[name]
    for secret in ("hunter2", "hunter3"):
        given = {"job_variables": {"env": {"WEATHER_PASS": secret}}}
        client.request("PATCH", f"/deployments/{deployment.id}", json=given)
        assert f"deployment {name}" in deployed.note_deployed("flights")

    assert [one["name"] for one in latest_change()["differences"]] == ["environment.WEATHER_PASS"]
    assert "hunter" not in json.dumps(latest_change())


def test_a_cancelled_run_is_on_record_as_cancelled(client: SyncPrefectClient, visits: Path) -> None:
    training = deployed.deployments(client)["training/training"]
    run = client.create_flow_run_from_deployment(training.id, parameters={"spec_file": str(visits)})
    until(lambda: on_record(run.model_dump(mode="json")), 120)

    client.request("POST", f"/flow_runs/{run.id}/set_state", json={"state": {"type": "CANCELLING"}})

    until(lambda: client.read_flow_run(run.id).state_type.value == "CANCELLED", 120)
    assert on_record(run.model_dump(mode="json"))[-1] == "flow_run.cancelled"


def test_monitoring_follows_a_scoring_run_of_its_pool(client: SyncPrefectClient) -> None:
    scoring = deployed.deployments(client)["scoring/scoring-docker"]
    run = client.create_flow_run_from_deployment(scoring.id)
    client.set_flow_run_state(run.id, Running(), force=True)
    client.set_flow_run_state(run.id, Completed(), force=True)

    until(lambda: runs(client, "monitoring/monitoring-docker"), 30)
    assert not runs(client, "monitoring/monitoring-kubernetes")


def test_automations_are_brought_in_line_once_and_what_differs_is_named(client: SyncPrefectClient) -> None:
    first, again = brought(client), brought(client)
    assert "create" in first and "create" not in again and "change" not in again.replace("unchanged", "")
    assert "notification block 'prefect-audit'" in again, "nobody is told yet"

    (one,) = [a for a in deployed.automations(client) if "monitoring/monitoring-docker" in a.name]
    core = AutomationCore(**one.model_dump(exclude={"id", "owner_resource"}))
    client.update_automation(one.id, core.model_copy(update={"description": "By hand."}))
    client.create_automation(core.model_copy(update={"name": "prefect-audit: of an earlier version"}))
    client.create_automation(core.model_copy(update={"name": "somebody's own", "enabled": False}))
    plan = brought(client, only_plan=True)
    assert "description: By hand. → On the spec" in plan
    assert "delete    prefect-audit: of an earlier version" in plan
    assert "Nothing of this was done" in plan
    assert brought(client, only_plan=True) == plan, "a plan changes nothing"

    deployed.note_deployed("flights")
    client.pause_automation(one.id)
    assert deployed.note_deployed("flights") == [f"automation {one.name}"], "it is on record that somebody did"
    assert "switched off, and left so" in brought(client)
    names = {a.name: a.enabled for a in deployed.automations(client)}
    assert "prefect-audit: of an earlier version" not in names and "somebody's own" in names
    assert names[one.name] is False
    assert "automation prefect-audit: of an earlier version" not in deployed._known("flights")
    client.resume_automation(one.id)


def test_a_finding_of_a_deployed_monitoring_run_starts_one_training_for_it(client: SyncPrefectClient) -> None:
    def trained(times: int) -> bool:
        return len(runs(client, "training/training-docker")) >= times

    brought(client)
    causes = run_as("monitoring/monitoring-docker", finds, client)
    until(lambda: trained(1), 30)
    by_itself = run_as("pipeline/pipeline-docker", composed, client)
    causes += run_as("monitoring/monitoring-docker", finds_decay, client)
    until(lambda: trained(2), 30)
    until(seconds_pass(3), 10)

    given = [run["parameters"] for run in runs(client, "training/training-docker")]
    assert [one["spec_file"] for one in given] == ["another.yaml"] * 2, "one for each monitoring run"
    assert {one["cause"] for one in given} <= set(causes)
    assert by_itself and not {one["cause"] for one in given} & set(by_itself)


def test_people_are_told_of_late_stuck_and_crashed_runs(
    client: SyncPrefectClient, told: tuple[str, list[dict[str, Any]]]
) -> None:
    address, got = told
    SlackWebhook(url=address).save("prefect-audit", overwrite=True)
    brought(client, stuck=timedelta(seconds=12))
    kubernetes = deployed.deployments(client)
    late = client.create_flow_run_from_deployment(kubernetes["pipeline/pipeline-kubernetes"].id)
    stuck = client.create_flow_run_from_deployment(kubernetes["training/training-kubernetes"].id)
    client.set_flow_run_state(stuck.id, Running(), force=True)

    wanted = {f"⚠ Late: {late.name}", f"⚠ Stuck: {stuck.name}"}
    until(lambda: wanted <= {one["title"] for one in got}, 60)
    lost = {"type": "CRASHED", "name": "Crashed", "message": "Alice owes 300"}
    client.request("POST", f"/flow_runs/{stuck.id}/set_state", json={"state": lost, "force": True})

    until(lambda: got[-1]["title"] == f"✗ Crashed: {stuck.name}", 30)
    assert f"/flow-run/{stuck.id}" in got[-1]["message"]
    assert "Alice" not in json.dumps(got)

    told_by_itself = {(f"Late: {late.name}", "late"), (f"Stuck: {stuck.name}", "stuck")}
    told_by_itself.add((f"Crashed: {stuck.name}", "crashed"))
    until(lambda: noted_by_then() >= told_by_itself, 60)
    assert note_messages("flights") == [], "each is on record once"
    assert note_messages("another") == []
    (crash,) = (e for e in read.events(open_store(), types=("alert.sent",)) if e.payload["kind"] == "crashed")
    assert (crash.subject, crash.payload["to"]) == (f"flow-run/{stuck.id}", "slack-webhook/prefect-audit")


def test_a_message_of_the_servers_that_did_not_arrive_is_on_record_and_called_out(client: SyncPrefectClient) -> None:
    with webhook(404) as receiver:
        SlackWebhook(url=receiver.url()).save("prefect-audit", overwrite=True)
        brought(client)
        late = client.create_flow_run_from_deployment(deployed.deployments(client)["scoring/scoring-kubernetes"].id)
        until(lambda: bool(receiver.received), 60)

        until(lambda: "alerts" in str(maintenance(**FLIGHTS, min_free_gb=0.0, return_state=True).message), 60)

    (failed,) = (e for e in read.events(open_store(), types=("alert.failed",)) if late.name in e.payload["title"])
    assert (failed.severity, failed.payload["kind"]) == ("error", "late")
    assert failed.payload["to"] == "slack-webhook/prefect-audit"
    assert failed.payload["error"] == "Prefect's server could not send it"


def noted_by_then() -> set[tuple[str, str]]:
    note_messages("flights")
    return {(e.payload["title"], e.payload["kind"]) for e in read.events(open_store(), types=("alert.sent",))}


@flow(name="monitoring")
def finds(spec_file: str) -> list[str]:
    """As monitoring does that finds two things."""
    data = Used(name="d", kind="dataset", of="flights/features", version=1, address="a", digest="d")
    facts = DriftFacts(
        spec="flights", reference=data, current=data, sample_rows=1, seed=0, columns=[], watched=1, drifted=1,
        share=1.0, rule="any", detected=True,
    )  # fmt: skip
    return [record("drift.detected", facts, subject=f"dataset/flights/features/{number}") for number in (1, 2)]


@flow(name="monitoring")
def finds_decay(spec_file: str) -> list[str]:
    """As monitoring does whose model does worse."""
    data = Used(name="d", kind="dataset", of="flights/decisions", version=1, address="a", digest="d")
    facts = OutcomeFacts(
        spec="flights", model=data, decisions=data, outcomes=data, rows=1, known=1, metrics=[], baseline=[], rule="any",
        verdict="decayed", seed=0,
    )  # fmt: skip
    return [record("performance.decayed", facts, subject="segment/flights/decisions/1")]


@flow(name="pipeline")
def composed(spec_file: str) -> list[str]:
    return finds(spec_file)


def run_as(name: str, does: Any, client: SyncPrefectClient) -> list[str]:
    """Run `does` here as a run of the deployment `name`, whose pool has no worker."""
    deployment = deployed.deployments(client)[name]
    given = {"spec_file": "another.yaml"}
    run = client.create_flow_run_from_deployment(deployment.id, parameters=given)
    came = flow_engine.run_flow(does, flow_run=run, parameters=given)
    assert isinstance(came, list)
    return came


def brought(client: SyncPrefectClient, **how: Any) -> str:
    said = io.StringIO()
    bring_in_line(client, Console(file=said, width=400, color_system=None), **how)
    return said.getvalue()


def prefect(environment: dict[str, str], *words: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    done = subprocess.run(
        command, cwd=CLONE, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def deploy(environment: dict[str, str], file: str) -> None:
    prefect(environment, "deploy", "--all", "--prefect-file", file)


def deploy_for(environment: dict[str, str], *specs: Path) -> None:
    """As `make deploy SPEC=…` does."""
    command = [sys.executable, "-m", "deployments.deploy", *map(str, specs)]
    done = subprocess.run(command, cwd=CLONE, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def ran(name: str, client: SyncPrefectClient) -> None:
    """A run of the deployment on the worker, to its good end."""
    run = client.create_flow_run_from_deployment(deployed.deployments(client)[name].id)
    until(lambda: client.read_flow_run(run.id).end_time, 240)
    assert client.read_flow_run(run.id).state_type.value == "COMPLETED"


def runs(client: SyncPrefectClient, name: str, *, also_waiting: bool = False) -> list[dict[str, Any]]:
    """Runs of a deployment, without those that are merely scheduled for later."""
    asked = {"deployments": {"id": {"any_": [str(deployed.deployments(client)[name].id)]}}}
    found: list[dict[str, Any]] = client.request("POST", "/flow_runs/filter", json=asked).json()
    return [run for run in found if also_waiting or run["state_name"] != "Scheduled" or not run["auto_scheduled"]]


def by_schedule(client: SyncPrefectClient, name: str) -> list[dict[str, Any]]:
    return [run for run in runs(client, name, also_waiting=True) if run["auto_scheduled"]]


def completed(client: SyncPrefectClient, name: str) -> list[dict[str, Any]]:
    return [run for run in runs(client, name) if run["state_type"] == "COMPLETED"]


def on_record(run: dict[str, Any]) -> list[str]:
    """Types of the flow run's own events, oldest first."""
    found = read.events(open_store(), types=("flow_run.*",), newest_first=False)
    return [event.type for event in found if event.flow_run_id == run["id"]]


def latest_change() -> dict[str, Any]:
    return next(iter(read.events(open_store(), types=("pipeline.changed",)))).payload


def seconds_pass(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def end(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.pid, number)
            child.wait(30)


def _answers(environment: dict[str, str], path: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{environment['PREFECT_API_URL']}/{path}", trust_env=False).is_success
    return False
