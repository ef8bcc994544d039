"""What goes on record inside a run is in Prefect's event feed too, under the same id and without anybody's words."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker

from audit import flow, record, task
from audit.events.payloads import AlertFacts, RetrainingFacts, StageFacts, Used
from audit.recording import feed

SECRET = "Alice owes 300"
MODEL = Used(name="model", kind="model", of="flights", version=2, address="artifact://sha256/00", digest="sha256:00")


def retraining() -> str:
    facts = RetrainingFacts(spec="flights", cause="0199", reason=SECRET, window="2013-07", model=MODEL)
    return record("retraining.requested", facts, subject="spec/flights")


@task
def promotes() -> str:
    facts = StageFacts(spec="flights", model=MODEL, version=2, environment="production", reason=SECRET)
    return record("model.promoted", facts, subject="model/flights/v2")


@task
def tells() -> str:
    facts = AlertFacts(spec="flights", alert="a", kind="drift", severity="warning", title=SECRET, body=SECRET)
    return record("alert.sent", facts, subject="spec/flights")


@flow
def story() -> list[str]:
    return [retraining(), promotes.submit().result(), tells()]


def fed(*ids: str) -> dict[str, dict[str, Any]]:
    """Events of ours that Prefect's server has, by id, once it has these."""
    asked = {"filter": {"event": {"prefix": [f"{feed.PREFIX}."]}}, "limit": 50}
    until = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while time.monotonic() < until:
            found = {e["id"]: e for e in client.request("POST", "/events/filter", json=asked).json()["events"]}
            if set(ids) <= set(found):
                return found
            time.sleep(0.2)
    raise AssertionError(f"of {ids} the feed has {sorted(found)}")


def related(event: dict[str, Any]) -> dict[str, str]:
    return {one["prefect.resource.role"]: one["prefect.resource.id"].rpartition(".")[0] for one in event["related"]}


def test_a_fact_inside_a_run_is_in_the_feed_under_its_own_id_and_beside_its_runs(
    events: Callable[..., list[dict[str, Any]]],
) -> None:
    requested, promoted, told = story()
    found = fed(requested, promoted, told)

    assert found[requested]["event"] == "prefect-audit.retraining.requested"
    assert found[requested]["resource"]["prefect.resource.id"] == "prefect-audit.spec.flights"
    assert found[requested]["resource"]["prefect.resource.name"] == "flights"
    assert {"model": "prefect-audit.model.flights", "flow-run": "prefect.flow-run", "flow": "prefect.flow"}.items() <= (
        related(found[requested]).items()
    )
    assert found[promoted]["resource"]["prefect.resource.id"] == "prefect-audit.model.flights.v2"
    assert set(related(found[promoted])) == {"spec", "flow-run", "task-run", "flow"}, "a task's thread"
    payload = found[requested]["payload"]
    assert (payload["id"], payload["window"], payload["cause"]) == (requested, "2013-07", "0199")
    assert SECRET not in json.dumps(found)
    run = next(one for one in found[requested]["related"] if one["prefect.resource.role"] == "flow-run")
    kinds = {event["event"].split(".")[1] for event in found.values() if run in event["related"]}
    assert kinds == {"retraining", "model", "alert"}, "of states Prefect has events of its own"


def test_outside_of_a_run_nothing_is_fed_and_no_server_is_started_for_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(EventsWorker, "instance", lambda *_: asked.append(1))
    retraining()
    assert asked == []
