"""What `audit status` says of the plugin is what Prefect would do, and is told without Prefect."""

import json
import os
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from prefect.settings.models.plugins import PluginsSettings
from typer.testing import CliRunner

from audit.cli.app import app
from audit.recording import activation as activating
from audit.recording.activation import activation
from audit.recording.initialise import initialise

SET = "PREFECT_PLUGINS_ENABLED"
FORMER = "PREFECT_EXPERIMENTS_PLUGINS_ENABLED"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Prefect finds no setting yet."""
    for name in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH", SET, FORMER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def profile(value: str) -> dict[str, str]:
    return {"prefect/profiles.toml": f'active = "mine"\n[profiles.mine]\n{SET} = "{value}"\n[profiles.other]\n'}


CASES: dict[str, tuple[dict[str, str], dict[str, str], str | None]] = {
    "nothing": ({}, {}, None),
    "environment": ({SET: "true"}, {}, "the environment"),
    "environment, another word": ({SET: "Yes"}, {}, "the environment"),
    "its former name": ({FORMER: "1"}, {}, "the environment"),
    "both names": ({FORMER: "1", SET: "0"}, {}, "the environment"),
    "environment before all files": ({SET: "false"}, {".env": f"{SET}=true", **profile("true")}, "the environment"),
    ".env": ({}, {".env": f"{SET}=true\n"}, ".env"),
    "prefect.toml": ({}, {"prefect.toml": "[plugins]\nenabled = true\n"}, "prefect.toml"),
    "pyproject.toml": ({}, {"pyproject.toml": "[tool.prefect.plugins]\nenabled = true\n"}, "pyproject.toml"),
    "prefect.toml before pyproject.toml": (
        {},
        {"pyproject.toml": "[tool.prefect.plugins]\nenabled = true\n", "prefect.toml": "[plugins]\nenabled = false\n"},
        "prefect.toml",
    ),
    "its former table": ({}, {"prefect.toml": "[experiments.plugins]\nenabled = true\n"}, "prefect.toml"),
    "profile": ({}, profile("true"), "Prefect's profile mine"),
    "another profile": ({"PREFECT_PROFILE": "other"}, profile("true"), None),
    "a profile elsewhere": (
        {"PREFECT_PROFILES_PATH": "mine.toml"},
        {"mine.toml": f'active = "a"\n[profiles.a]\n{SET} = "true"\n'},
        "Prefect's profile a",
    ),
}


@pytest.mark.parametrize(("environment", "files", "by"), CASES.values(), ids=CASES)
def test_it_is_on_where_prefect_has_it_on(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    files: dict[str, str],
    by: str | None,
) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    found = activation(os.environ, folder)

    assert (found.enabled, found.by, found.problem) == (PluginsSettings().enabled, by, None)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"PREFECT_PLUGINS_ALLOW": "other, prefect-audit"}, None),
        ({"PREFECT_PLUGINS_ALLOW": "other"}, "PREFECT_PLUGINS_ALLOW in the environment does not name prefect-audit"),
        ({"PREFECT_PLUGINS_DENY": "a,prefect-audit"}, "PREFECT_PLUGINS_DENY in the environment names prefect-audit"),
        ({"PREFECT_PLUGINS_DENY": "other"}, None),
        ({"PREFECT_PLUGINS_SAFE_MODE": "1"}, "PREFECT_PLUGINS_SAFE_MODE in the environment keeps plugins from being"),
    ],
    ids=["allowed", "not allowed", "denied", "another one denied", "safe mode"],
)
def test_what_keeps_it_from_being_loaded_is_named(folder: Path, more: dict[str, str], problem: str | None) -> None:
    found = activation({SET: "true", "PREFECT_HOME": str(folder / "prefect"), **more}, folder)
    assert found.enabled
    assert found.problem is None if problem is None else (found.problem or "").startswith(problem)


def test_that_no_package_offers_it_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activating, "entry_points", lambda **_: EntryPoints())
    assert "install prefect-audit with pip" in (activation({SET: "1"}, folder).problem or "")


def test_that_another_one_has_its_name_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = EntryPoint(activating.NAME, "not_ours", activating.GROUP)
    monkeypatch.setattr(activating, "entry_points", lambda **_: EntryPoints([other]))
    monkeypatch.syspath_prepend(folder)
    (folder / "not_ours.py").touch()
    assert f"leads to {folder}/not_ours.py, which is not ours" in (activation({SET: "1"}, folder).problem or "")


@pytest.mark.parametrize("name", ["audit/__init__.py", "audit.py"])
def test_a_folder_that_would_hide_ours_is_told(folder: Path, name: str) -> None:
    (folder / "audit").mkdir()
    (folder / name).touch()
    assert f"{folder / name} hides ours" in (activation({SET: "1"}, folder).problem or "")


def test_settings_that_cannot_be_read_are_told(folder: Path) -> None:
    (folder / "prefect.toml").write_text("plugins")
    found = activation({SET: "1"}, folder)
    assert not found.enabled
    assert "Prefect's settings cannot be read" in (found.problem or "")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({SET: "true"}, "plugin     on, by the environment; not in notebooks"),
        ({SET: "false"}, "plugin     off: what does not use audit's flow and task is not recorded"),
        ({SET: "true", "PREFECT_PLUGINS_DENY": "prefect-audit"}, "plugin     records nothing: PREFECT_PLUGINS_DENY"),
    ],
    ids=["on", "off", "denied"],
)
def test_status_says_it(home: Path, folder: Path, environment: dict[str, str], said: str) -> None:
    initialise()
    assert said in CliRunner().invoke(app, ["status"], env=environment).stdout
    found = json.loads(CliRunner().invoke(app, ["status", "--json"], env=environment).stdout)
    assert found["plugin"]["enabled"] == (environment[SET] == "true")
    assert found["last_run"] is None
