"""prefect.yaml: what it names exists, it fits any machine, and `prefect deploy --all` has nothing left to ask."""

import re
from datetime import UTC, datetime, time
from importlib import import_module
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint

from audit.spec.load import load_spec
from deployments.local import POOL
from deployments.where import CLONE, this_clone

FILE = Path(__file__).parents[2] / "prefect.yaml"
CONTENT = yaml.safe_load(FILE.read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in CONTENT["deployments"]}
FLOWS = sorted(path.stem for path in (CLONE / "flows").glob("[!_]*.py"))

each = pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=list(DEPLOYMENTS))


def flow_of(deployment) -> Flow:
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


def runs_at(schedule) -> list[datetime]:
    """The schedule's next runs, in UTC."""
    zone = ZoneInfo(schedule["timezone"])
    cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    minute, hour, *days = cron.cron.split()
    assert days == ["*"] * 3, "not daily"
    return [
        datetime.combine(datetime(2026, month, 10), time(int(hour), int(minute)), zone).astimezone(UTC)
        for month in (1, 7)  # winter and summer time
    ]


def test_prefect_reads_the_file_as_it_is_meant():
    assert [d.name for d in PrefectYamlModel.model_validate(CONTENT).deployments] == list(DEPLOYMENTS)


def test_every_flow_has_a_deployment_of_its_name():
    assert sorted(DEPLOYMENTS) == FLOWS
    assert {name: flow_of(d).name for name, d in DEPLOYMENTS.items()} == {name: name for name in FLOWS}


@each
def test_the_entrypoint_gives_the_name_that_make_run_puts_on_record(deployment):
    module, name = deployment["entrypoint"].rsplit(".", 1)
    assert flow_of(deployment).fn is getattr(import_module(module), name).fn
    assert flow_of(deployment).fn.__module__ == module


@each
def test_the_parameters_are_the_flows_own_and_name_a_spec_that_loads(deployment):
    flow, given = flow_of(deployment), deployment["parameters"]
    assert flow.validate_parameters(given)["spec_file"] == given["spec_file"]
    assert load_spec(CLONE / given["spec_file"]).name in deployment["tags"]


@each
def test_the_run_form_explains_every_field(deployment):
    fields = flow_of(deployment).parameters.properties
    assert {name for name, field in fields.items() if not field.get("description")} == set()


def test_scoring_and_monitoring_run_daily_in_a_named_time_zone_and_monitoring_later():
    (scoring,), (monitoring,) = (DEPLOYMENTS[name]["schedules"] for name in ("scoring", "monitoring"))
    assert all(first < then for first, then in zip(runs_at(scoring), runs_at(monitoring), strict=True))
    assert {scoring["slug"], monitoring["slug"]} == {"daily"}


@each
def test_nothing_is_left_for_prefect_to_ask(deployment):
    assert CONTENT["pull"], "Prefect would ask where the code lies"
    assert "schedules" in deployment, "Prefect would ask for a schedule"
    assert deployment["work_pool"]["name"] == POOL, "the pool that `make ui` has a worker for"
    assert deployment["description"].strip()


@each
def test_a_second_run_waits_for_the_first(deployment):
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_no_machines_path_stands_in_the_file():
    assert re.findall(r"""(?:^|[\s"'=:{\[])((?:/|~|[A-Za-z]:\\)[\w.]\S*)""", FILE.read_text(), re.MULTILINE) == []


def test_the_build_step_names_this_clone_and_the_record_of_whoever_deploys(home: Path):
    assert this_clone() == {"folder": str(CLONE), "audit_home": str(home)}
    assert FILE.parent == CLONE
