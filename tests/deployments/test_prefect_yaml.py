"""prefect.yaml and prefect.containers.yaml: what they name exists, they fit any machine, and nothing is left to ask."""

import json
import re
from datetime import UTC, datetime, time
from importlib import import_module
from pathlib import Path
from zoneinfo import ZoneInfo

import jsonschema
import prefect
import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint

from audit.spec.load import load_spec
from deployments.automations import SILENT
from deployments.local import POOL
from deployments.where import CLONE, the_image, this_clone
from flows._deployed import OURS

FILES = [CLONE / "prefect.yaml", CLONE / "prefect.containers.yaml"]
CONTENT = {file: yaml.safe_load(file.read_text()) for file in FILES}
HERE = {deployment["name"]: deployment for deployment in CONTENT[FILES[0]]["deployments"]}
CONTAINED = {deployment["name"]: deployment for deployment in CONTENT[FILES[1]]["deployments"]}
FLOWS = sorted(path.stem for path in (CLONE / "flows").glob("[!_]*.py"))
TEMPLATES = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"

here = pytest.mark.parametrize("deployment", HERE.values(), ids=list(HERE))
contained = pytest.mark.parametrize("deployment", CONTAINED.values(), ids=list(CONTAINED))
each = pytest.mark.parametrize("deployment", [*HERE.values(), *CONTAINED.values()], ids=[*HERE, *CONTAINED])
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def flow_of(deployment) -> Flow:
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


def runs_at(schedule) -> list[datetime]:
    """A daily schedule's runs on a day in winter and on one in summer, in UTC."""
    cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    minute, hour, *days = cron.cron.split()
    assert days == ["*"] * 3, "not daily"
    at, zone = time(int(hour), int(minute)), ZoneInfo(schedule["timezone"])
    return [datetime.combine(datetime(2026, month, 10), at, zone).astimezone(UTC) for month in (1, 7)]


@each_file
def test_prefect_reads_the_file_as_it_is_meant(file):
    read = PrefectYamlModel.model_validate(CONTENT[file])
    assert [d.name for d in read.deployments] == [d["name"] for d in CONTENT[file]["deployments"]]


def test_every_flow_has_a_deployment_of_its_name():
    assert sorted(HERE) == FLOWS
    assert {name: flow_of(d).name for name, d in HERE.items()} == {name: name for name in FLOWS}


@pytest.mark.parametrize("pool", ["docker", "kubernetes"])
def test_containers_run_the_same_flows_on_the_same_terms(pool):
    same = ("entrypoint", "parameters", "tags", "schedules", "concurrency_limit", "enforce_parameter_schema")
    for name, deployment in HERE.items():
        other = CONTAINED[f"{name}-{pool}"]
        assert {key: other[key] for key in same} == {key: deployment[key] for key in same}
        assert other["work_pool"]["name"] == pool
        assert ("triggers" in other) == ("triggers" in deployment)


@here
def test_the_entrypoint_gives_the_name_that_make_run_puts_on_record(deployment):
    module, name = deployment["entrypoint"].rsplit(".", 1)
    assert flow_of(deployment).fn is getattr(import_module(module), name).fn
    assert flow_of(deployment).fn.__module__ == module


@here
def test_the_parameters_are_the_flows_own_and_name_a_spec_that_loads(deployment):
    flow, given = flow_of(deployment), deployment["parameters"]
    assert flow.validate_parameters(given)["spec_file"] == given["spec_file"]
    assert deployment["enforce_parameter_schema"] is True
    assert {OURS, load_spec(CLONE / given["spec_file"]).name} <= set(deployment["tags"])


@here
def test_the_run_form_explains_every_field(deployment):
    fields = flow_of(deployment).parameters.properties
    assert {name for name, field in fields.items() if not field.get("description")} == set()


@here
def test_the_page_says_what_starts_it_and_what_it_leaves(deployment):
    assert re.findall(r"^- \*(\w+)\*", deployment["description"], re.MULTILINE) == ["Started", "Leaves"]


def test_scoring_and_monitoring_run_daily_in_a_named_time_zone_and_monitoring_later():
    (scoring,), (monitoring,) = (HERE[name]["schedules"] for name in ("scoring", "monitoring"))
    assert all(first < then for first, then in zip(runs_at(scoring), runs_at(monitoring), strict=True))
    assert {scoring["slug"], monitoring["slug"]} == {"daily"}


def test_an_interval_has_a_time_zone_and_begins_where_it_always_did():
    (hourly,) = HERE["maintenance"]["schedules"]
    assert IntervalSchedule(**{k: hourly[k] for k in ("interval", "anchor_date", "timezone")})
    assert hourly["interval"] == 3600


@pytest.mark.parametrize("name", ["monitoring", "monitoring-docker", "monitoring-kubernetes"])
def test_monitoring_is_triggered_by_the_scoring_deployment_of_its_pool(name):
    (trigger,) = ({**HERE, **CONTAINED}[name])["triggers"]
    read = DeploymentEventTrigger.model_validate(trigger)
    assert read.expect == {"prefect.flow-run.Completed"}
    assert read.match_related["prefect.resource.name"] == [name.replace("monitoring", "scoring")]


@each
def test_nothing_is_left_for_prefect_to_ask(deployment):
    assert "schedules" in deployment, "Prefect would ask for a schedule"
    assert deployment["work_pool"]["name"] in {POOL, "docker", "kubernetes"}
    assert deployment["description"].strip()


@each_file
def test_prefect_is_told_where_the_code_lies(file):
    assert CONTENT[file]["pull"]


@each
def test_of_two_runs_at_once_it_is_said_which_one_gives_way(deployment):
    if "training" in deployment["name"]:  # a run that pauses loses its place, and with it its process
        assert deployment["concurrency_limit"] is None
        return
    wanted = "CANCEL_NEW" if "maintenance" in deployment["name"] else "ENQUEUE"
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": wanted}


@each
def test_a_run_gives_signs_of_life_often_enough_for_the_automation_that_waits_for_them(deployment):
    seconds = int(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert 30 <= seconds < SILENT.total_seconds() / 2, "Prefect beats at most every 30 s"


@each
def test_the_pools_own_job_template_knows_every_job_variable(deployment):
    pool = deployment["work_pool"]
    kinds = {POOL: ("prefect", "process"), "docker": ("prefect-docker", "docker")}
    package, kind = kinds.get(pool["name"], ("prefect-kubernetes", "kubernetes"))
    schema = json.loads(TEMPLATES.read_text())[package][kind]["default_base_job_configuration"]["variables"]
    jsonschema.validate(pool["job_variables"], {**schema, "additionalProperties": False})


@contained
def test_no_secret_is_in_what_everybody_sees(deployment):
    shown = {"DO_NOT_TRACK", "GX_ANALYTICS_ENABLED", "PREFECT_SERVER_ANALYTICS_ENABLED"}
    assert set(deployment["work_pool"]["job_variables"]["env"]) - shown == {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY"}


def test_no_machines_path_stands_in_the_file():
    assert re.findall(r"""(?:^|[\s"'=:{\[])((?:/|~|[A-Za-z]:\\)[\w.]\S*)""", FILES[0].read_text(), re.MULTILINE) == []


def test_the_build_steps_name_this_clone_the_record_of_whoever_deploys_and_the_image(home: Path, monkeypatch):
    assert this_clone() == {"folder": str(CLONE), "audit_home": str(home)}
    assert FILES[0].parent == CLONE
    monkeypatch.setenv("IMAGE", "registry.example/audit:1")
    assert the_image()["image"] == "registry.example/audit:1"


def test_the_image_is_the_one_that_is_built_and_its_folder_has_the_code(compose, final_image, monkeypatch):
    monkeypatch.delenv("IMAGE", raising=False)
    assert {"image": compose["x-service"]["image"], "folder": "/app"} == {
        "image": f"${{IMAGE:-{the_image()['image']}}}",
        "folder": the_image()["folder"],
    }
    assert ("WORKDIR", [the_image()["folder"]]) in final_image
    volumes = {v for d in CONTAINED.values() for v in d["work_pool"]["job_variables"].get("volumes", [])}
    assert volumes == {f"prefect-audit:{folder}" for folder in dict(final_image)["VOLUME"][0].strip('[]"').split(",")}
