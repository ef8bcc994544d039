"""Whether Prefect would load the plugin in a process started here; told without importing Prefect: it takes a second.

Prefect's settings come from the environment, `.env`, prefect.toml, pyproject.toml and its profile, the first that says
anything winning. What a worker or a flow run is started with elsewhere cannot be told from here: it is on record with
each flow run, as `recording` of flow_run.running.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OURS = Path(__file__).parents[1]
NAME = "prefect-audit"  # of our entry point, by which PREFECT_PLUGINS_ALLOW and _DENY name it
GROUP = "prefect.plugins"
PREFIXES = ("prefect_plugins_", "prefect_experiments_plugins_")
TRUE = ("true", "1", "yes", "on", "t", "y")  # as pydantic reads a boolean

Table = Mapping[str, Any]
Place = tuple[str, Table]  # where, and what it says of plugins


@dataclass(frozen=True, slots=True)
class Activation:
    """`enabled` is what Prefect's setting says, `by` where it is set; `problem` is why nothing is recorded so."""

    enabled: bool
    by: str | None = None
    problem: str | None = None


def activation(environ: Mapping[str, str], folder: Path) -> Activation:
    """For a process with `environ` that is started in `folder`."""
    try:
        places = list(_places({name.lower(): value for name, value in environ.items()}, folder))
    except (OSError, ValueError) as unreadable:  # TOMLDecodeError among them
        return Activation(False, problem=f"Prefect's settings cannot be read: {unreadable}")
    by, enabled = _setting("enabled", places)
    if not _is_true(enabled):
        return Activation(False, by)
    return Activation(True, by, _forbidden(places) or _not_found() or _hidden_in(folder))


def _places(environ: Mapping[str, str], folder: Path) -> Iterator[Place]:
    """In the order in which Prefect asks them. Raises OSError or ValueError for a file that cannot be read."""
    dotenv = _dotenv(folder / ".env")
    prefect, pyproject = _toml(folder / "prefect.toml"), _at(_toml(folder / "pyproject.toml"), "tool", "prefect")
    tomls = {"prefect.toml": prefect, "pyproject.toml": pyproject}
    yield "the environment", _of_plugins(environ)
    yield ".env", _of_plugins(dotenv)
    yield from ((file, _at(table, "plugins")) for file, table in tomls.items())
    yield _profile(
        environ, [environ, dotenv, *({"prefect_profiles_path": t.get("profiles_path")} for t in tomls.values())]
    )
    yield from ((file, _at(table, "experiments", "plugins")) for file, table in tomls.items())


def _profile(environ: Mapping[str, str], pointing: list[Table]) -> Place:
    home = Path(environ.get("prefect_home") or "~/.prefect").expanduser()
    named = (path for table in pointing if (path := table.get("prefect_profiles_path")))
    profiles = _toml(Path(next(named, home / "profiles.toml")))
    active = environ.get("prefect_profile") or profiles.get("active")
    settings = _at(profiles, "profiles", str(active))
    return f"Prefect's profile {active}", _of_plugins({name.lower(): value for name, value in settings.items()})


def _of_plugins(settings: Table) -> Table:
    found: dict[str, Any] = {}
    for prefix in reversed(PREFIXES):
        found |= {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
    return found


def _setting(name: str, places: list[Place]) -> tuple[str | None, Any]:
    return next(((place, said[name]) for place, said in places if name in said), (None, None))


def _is_true(value: Any) -> bool:
    return str(value).lower() in TRUE


def _forbidden(places: list[Place]) -> str | None:
    (allowing, allow), (denying, deny) = _setting("allow", places), _setting("deny", places)
    safe, safe_mode = _setting("safe_mode", places)
    if allow and NAME not in _names(allow):
        return f"PREFECT_PLUGINS_ALLOW in {allowing} does not name {NAME}"
    if deny and NAME in _names(deny):
        return f"PREFECT_PLUGINS_DENY in {denying} names {NAME}"
    if _is_true(safe_mode):
        return f"PREFECT_PLUGINS_SAFE_MODE in {safe} keeps plugins from being called"
    return None


def _names(value: Any) -> set[str]:
    return {name.strip() for name in (value.split(",") if isinstance(value, str) else value)}


def _not_found() -> str | None:
    points = list(entry_points(group=GROUP, name=NAME))
    if not points:
        return f"no package offers the entry point {NAME}: install prefect-audit with pip, for a folder offers none"
    plugin = find_spec(points[0].module)
    place = Path(plugin.origin) if plugin and plugin.origin else None
    if place is None or place.resolve().parent != OURS.resolve().parent:
        return f"the entry point {NAME} leads to {place}, which is not ours: ours lies beside {OURS}"
    return None


def _hidden_in(folder: Path) -> str | None:
    for other in (folder / "audit" / "__init__.py", folder / "audit.py"):
        if other.exists() and other.resolve().parent != OURS.resolve():
            return f"{other} hides ours from scripts in this folder: rename it"
    return None


def _dotenv(file: Path) -> dict[str, str | None]:
    if not file.is_file():
        return {}
    from dotenv import dotenv_values

    return {name.lower(): value for name, value in dotenv_values(file).items()}


def _toml(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text()) if file.is_file() else {}


def _at(table: Table, *keys: str) -> Table:
    for key in keys:
        table = table.get(key) or {}
    return table
