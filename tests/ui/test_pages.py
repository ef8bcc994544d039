"""What a person finds in the browser beside a real `make ui`: runs by name, what they did, why, and links that open."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from audit.settings import read_settings
from audit.store import read
from audit.store.engine import AuditStore, open_store
from tests.deployments.local_ui import Local, finished, give_every_deployment, local_ui, server, started, until
from tests.flows.conftest import UseCase, loans
from tests.ui.prefect_pages import ENDED, PrefectPages

pytestmark = pytest.mark.slow

A_RUN = 180  # seconds
Screenshot = Callable[[str], None]


@dataclass(frozen=True)
class Life:
    """A `make ui` with the runs of a model that decided on April, where drift was found; a second one was trained."""

    local: Local
    spec: str
    training: str
    scoring: str
    monitoring: str
    retraining: str


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("life")
    spec = UseCase(folder).write(loans(drifts_at=91), gates={"min_auc": 0.6, "min_gain": None}).spec
    with local_ui(folder / "var") as local:
        give_every_deployment(local.api, spec)
        training, scoring = (completed(local.api, name) for name in ("training", "scoring"))
        monitoring = found(local.api, "monitoring loans 2024-04")
        retraining = found(local.api, "training loans 2024-01…2024-04")
        yield Life(local, spec, training, scoring, monitoring, retraining)


@pytest.fixture
def ui(life: Life, page: Page) -> PrefectPages:
    return PrefectPages(page, life.local.api.removesuffix("/api"))


def completed(api: str, deployment: str) -> str:
    """A run's id, once it has completed."""
    run = finished(api, started(api, deployment, {}))
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    return str(run["id"])


def found(api: str, name: str) -> str:
    """The id of a run that something else started, once it has completed."""
    asked = {"flow_runs": {"name": {"like_": name}, "state": {"type": {"any_": ["COMPLETED"]}}}}

    def matching() -> list[dict[str, str]]:
        return server.post(f"{api}/flow_runs/filter", json=asked).raise_for_status().json()

    until(matching, A_RUN)
    return matching()[0]["id"]


def store_of(life: Life) -> AuditStore:
    return open_store(read_settings({"AUDIT_HOME": str(life.local.home)}, life.local.home))


def drift_on_record(life: Life) -> str:
    """The id of the one finding."""
    (found,) = read.events(store_of(life), types=("drift.detected",))
    return found.id


def test_a_run_is_started_from_the_form_which_explains_every_field(ui: PrefectPages, life: Life, screenshot) -> None:
    ui.open_deployment("monitoring")
    screenshot("deployment")
    assert all(ui.open_run_form().values())
    screenshot("run-form")

    ui.submit_run_form(spec_file=life.spec)

    assert ui.wait_for(*ENDED, seconds=A_RUN) == "Completed"
    assert ui.run().name.startswith("monitoring loans")
    assert {"loans", "drift"} <= set(ui.run().tags)


def test_a_run_of_the_deployments_own_parameters_needs_no_typing(ui: PrefectPages) -> None:
    ui.open_deployment("maintenance")
    ui.quick_run()
    assert ui.wait_for(*ENDED, seconds=A_RUN) == "Completed"


def test_no_other_ui_is_offered_for_the_newer_one_asks_an_analytics_host(ui: PrefectPages) -> None:
    ui.open_deployment("maintenance")
    assert server.get(f"{ui.url}/ui-settings").raise_for_status().json()["available_uis"] == ["v1"]
    assert ui.page.get_by_text("V2").count() == 0


def test_the_page_of_a_run_names_window_model_and_steps(ui: PrefectPages, life: Life, screenshot: Screenshot) -> None:
    ui.open_run(life.training)
    assert ui.run().name == "training loans 2024-01…2024-03"
    assert {"loans", "model"} <= set(ui.run().tags)
    steps = " ".join(reversed(ui.task_runs()))
    assert re.search(
        "ingest loans.*validate loans.*train loans.*evaluate loans.*register loans.*promote loans v1", steps
    )
    screenshot("run")

    ui.open_run(life.scoring)
    assert ui.run().name == "scoring loans 2024-04 v1"


def test_the_logs_of_a_run_name_events_that_are_on_record(ui: PrefectPages, life: Life) -> None:
    ui.open_run(life.training)
    named = set(re.findall(r"event ([0-9a-f-]{36})", "\n".join(ui.logs())))

    of_the_run = {e.id for e in read.events(store_of(life)) if e.flow_run_id == life.training}
    assert named
    assert named <= of_the_run


@pytest.mark.parametrize(
    ("of", "key", "says"),
    [
        ("training", "loans-validation", ["rule", "held", "rules held"]),
        ("training", "loans-ingested", ["sha256:", "…", "1 source"]),
        ("training", "loans-evaluation", ["Gates", "auc", "gates held"]),
        ("training", "loans-promotion", ["loans v1", "in production"]),
        ("scoring", "loans-decisions", ["360 decisions", "2024-04", "positive"]),
        ("monitoring", "loans-drift", ["income", "drifted", "█"]),
        ("monitoring", "loans-performance", ["AUC", "100% of 360", "v1"]),
    ],
)
def test_an_artifact_shows_what_was_found(ui: PrefectPages, life: Life, screenshot, of, key, says) -> None:
    ui.open_run(getattr(life, of))
    shown = ui.open_artifact(key).inner_text()
    screenshot(key)
    assert [word for word in says if word not in shown] == []


@pytest.mark.parametrize(
    ("of", "key", "link", "shows"),
    [
        ("training", "loans-validation", "Data Docs", "Expectation"),
        ("monitoring", "loans-drift-summary", "Evidently's report", "income"),
        ("monitoring", "loans-drift-summary", "month by month", "Share of drifted columns"),
    ],
    ids=["data docs", "drift report", "Evidently's own UI"],
)
def test_a_link_opens_its_page_on_this_machine(ui: PrefectPages, life: Life, of, key, link, shows) -> None:
    ui.open_run(getattr(life, of))
    ui.open_artifact(key)

    opened = ui.follow(link)

    expect(opened.get_by_text(shows).first).to_be_visible(timeout=30_000)
    assert ui.url not in opened.url


def test_the_event_feed_tells_of_drift_in_which_run(ui: PrefectPages, life: Life, screenshot: Screenshot) -> None:
    card = ui.feed("prefect-audit.drift.detected")[-1]
    screenshot("events")
    assert "monitoring loans 2024-04" in card
    assert "prefect-audit.model.loans.v1" in card


def test_drift_has_a_retraining_whose_reason_is_that_finding(ui: PrefectPages, life: Life, screenshot) -> None:
    assert any("starts training/training" in name for name in ui.automations())
    screenshot("automations")

    ui.open_run(life.retraining)
    assert drift_on_record(life) in ui.parameters()
    assert "loans v2 is in production" in ui.open_artifact("loans-promotion").inner_text()
