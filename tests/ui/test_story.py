"""What the product is for, in a browser: drift in real months is told, retrained for, approved, and shown."""

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from playwright.sync_api import Page

from audit.settings import read_settings
from audit.store import read
from audit.store.engine import AuditStore, open_store
from deployments.where import CLONE
from tests.deployments.local_ui import Local, give_every_deployment, local_ui, until
from tests.receivers import Json, internet, slack
from tests.ui.prefect_pages import PrefectPages

pytestmark = pytest.mark.slow

SECONDS = 5  # from detection to the message
WHO, WHY = "Jane Doe", "The summer is not the spring"


@pytest.fixture
def arrived() -> list[tuple[float, Json]]:
    """When each message came to Slack, and what it said."""
    return []


@pytest.fixture
def local(tmp_path: Path, arrived: list[tuple[float, Json]]) -> Iterator[Local]:
    """A `make ui` whose deployments want a person's approval, and whose messages go to Slack."""

    def answer(path: str, body: Json) -> tuple[int, bytes]:
        arrived.append((time.time(), body))
        return slack(path, body)

    told = {"AUDIT_ALERT_URL": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"}
    with internet(tmp_path, {"hooks.slack.com": answer}) as there:
        proxied = {"HTTPS_PROXY": f"http://127.0.0.1:{there.port}", "REQUESTS_CA_BUNDLE": str(there.authority)}
        with local_ui(tmp_path / "var", **told, **proxied) as local:
            decide_by_hand(local.api, tmp_path / "flights.yaml")
            yield local


def decide_by_hand(api: str, spec: Path) -> None:
    """Give every deployment a spec that differs from the one that ships in one line."""
    shipped = (CLONE / "flows" / "specs" / "flights.yaml").read_text()
    spec.write_text(f"{shipped}\napproval: manual\n")
    give_every_deployment(api, spec)


def test_drift_is_told_retrained_for_approved_and_shown(local: Local, page: Page, arrived, screenshot) -> None:
    store = open_store(read_settings({"AUDIT_HOME": str(local.home)}, local.home))
    ui = PrefectPages(page, local.api.removesuffix("/api"))
    a_first_champion(ui, local)

    ui.open_deployment("scoring")
    scoring = ui.quick_run()
    assert ui.wait_for("Completed", "Failed", "Crashed", seconds=180) == "Completed"
    drift = waited_for(store, "drift.detected")
    message = told_of_drift(arrived)
    screenshot("scoring")

    assert drift.payload["window"] == "2013-07"
    assert message[0] - datetime.fromisoformat(drift.time).timestamp() < SECONDS
    assert f"/runs/flow-run/{drift.flow_run_id}" in str(message[1])
    assert scoring != drift.flow_run_id  # monitoring began by itself

    requested = waited_for(store, "retraining.requested")
    asked = waited_for(store, "model.approval_requested", beyond=1)
    assert requested.payload["cause"] == asked.payload["cause"] == drift.id
    ui.open_run(requested.flow_run_id)
    ui.wait_for("Paused", seconds=60)
    form = ui.open_resume_form()
    assert "v1" in form.inner_text()  # the champion that it is held against
    assert "because of drift.detected in 2013-07: 5 of 14 watched columns" in form.inner_text()  # why it was trained
    screenshot("approval")
    ui.answer(form, decision="approve", name=WHO, note=WHY)
    assert ui.wait_for("Completed", "Failed", "Crashed", seconds=60) == "Completed"

    promoted = ui.open_artifact("flights-promotion").inner_text()
    screenshot("promotion")
    assert f"{WHO} (asserted)" in promoted
    deployed = waited_for(store, "model.deployed", beyond=1)
    assert deployed.payload["cause"] == drift.id
    assert deployed.payload["approver"] == {"name": WHO, "identity": "asserted", "by": "form"}
    assert f"{WHO} (asserted)" in said(local, "audit", "models")
    kinds = [e.payload["kind"] for e in read.events(store, types=("alert.sent",), newest_first=False)]
    assert kinds.count("drift") == 1


def a_first_champion(ui: PrefectPages, local: Local) -> None:
    """The first model waits for a person too; this one gives the answer on the command line."""
    ui.open_deployment("training")
    ui.quick_run()
    ui.wait_for("Paused", seconds=240)
    said(local, "audit", "approve", "flights/v1", "--note", "the first one")
    assert ui.wait_for("Completed", "Failed", "Crashed", seconds=60) == "Completed"


def waited_for(store: AuditStore, type: str, beyond: int = 0) -> read.Recorded:
    """The event of that type after the first `beyond`, once it is on record."""
    until(lambda: len(list(read.events(store, types=(type,)))) > beyond, 240)
    return list(read.events(store, types=(type,), newest_first=False))[beyond]


def told_of_drift(arrived: list[tuple[float, Json]]) -> tuple[float, Json]:
    until(lambda: any("Drift in flights" in str(body) for _, body in arrived), 60)
    return next((at, body) for at, body in arrived if "Drift in flights" in str(body))


def said(local: Local, command: str, *words: str) -> str:
    """What a command says that is typed beside `make ui`."""
    tool = Path(sys.executable).parent / command
    wide = {**local.environment, "COLUMNS": "300"}
    return subprocess.run([tool, *words], env=wide, capture_output=True, text=True, timeout=60, check=True).stdout
