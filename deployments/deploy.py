"""`make deploy`: the deployments of prefect.yaml for your spec, or for several, on the server that is named.

prefect.yaml stays the one model. Each of its deployments is taken once a spec, with that spec's file, tags and names
(`cancer-scoring`), into a file in AUDIT_HOME that `prefect deploy` is given. The spec that the model is about keeps
the model's names. Deploying again changes nothing.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from audit.errors import AuditError, UserError
from audit.settings import settings
from deployments.automations import server
from deployments.where import CLONE
from flows._runs import SHIPPED

MODEL = CLONE / "prefect.yaml"
OF_THE_MODEL = "flights"  # the spec that the model is about
UTC = "UTC"  # of a schedule where nothing else is said

Yaml = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A use case by its spec's name, its file as runs are given it, and the time zone that somebody asked for."""

    name: str
    file: str
    timezone: str = ""

    @property
    def zone(self) -> str | None:
        """Of its schedules by the clock; None for the model's own."""
        return self.timezone or (None if self.name == OF_THE_MODEL else UTC)

    def named(self, of_the_model: str) -> str:
        """What is called `scoring` in the model. A name ends as the model's does, so that no two are the same."""
        return of_the_model if self.name == OF_THE_MODEL else f"{self.name}-{of_the_model}"


class NotDeployed(AuditError):
    """Prefect's own command refused."""


def main() -> None:
    """Entry of `python -m deployments.deploy`."""
    typer.run(deploy)


def deploy(
    specs: Annotated[list[Path] | None, typer.Argument(metavar="SPEC...", help="Use cases' YAML files.")] = None,
    timezone: Annotated[str, typer.Option(help="Of the daily schedules; by default the model's own, or UTC.")] = "",
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Or prefect.containers.yaml.")] = MODEL,
) -> None:
    """Deploy every flow for each SPEC.  Example: python -m deployments.deploy cancer.yaml --timezone Europe/Vienna"""
    console = Console(highlight=False)
    try:
        wanted = rendered(read(model), checked(specs, timezone))
        with server():
            hand_over(written(wanted, model.name))
        for line in lines(wanted):
            console.print(f"[green]✓[/green] {escape(line)}", soft_wrap=True)
    except AuditError as failed:
        console.print(f"[red]✗[/red] {escape(str(failed))}", soft_wrap=True)
        raise SystemExit(failed.exit_code) from None


def read(model: Path) -> Yaml:
    """What stands in prefect.yaml."""
    content: Yaml = yaml.safe_load(model.read_text())
    return content


def checked(specs: Sequence[Path] | None, timezone: str) -> list[Case]:
    """The use cases of these files, by default the one that ships: all that can be said before anything is done.

    Raises SpecError for one that does not hold, UserError where a name is taken or there is no such time zone.
    """
    from audit.spec.load import load_spec

    known_zone(timezone)
    labels = {tag for deployment in read(MODEL)["deployments"] for tag in deployment["tags"]} - {OF_THE_MODEL}
    found: dict[str, Path] = {}
    for path in specs or [CLONE / SHIPPED]:
        name = load_spec(path).name
        if name in labels:
            raise UserError(f"{path}: {name!r} is a tag of other deployments.", hint="Give the spec another name.")
        if other := found.get(name):
            raise UserError(f"{other} and {path} are both called {name!r}.", hint="Give one of them another name.")
        found[name] = path
    return [Case(name, as_runs_name_it(path), timezone) for name, path in found.items()]


def as_runs_name_it(spec: Path) -> str:
    """Relative to this folder, which runs begin in, where the spec is in it: a container has that elsewhere."""
    place = spec.parent.resolve() / spec.name  # a link stays one: sources are sought beside it
    if "{{" in str(place):
        raise UserError(f"{spec}: Prefect takes {{{{ in a path for a variable.", hint="Move or rename the spec.")
    return str(place.relative_to(CLONE) if place.is_relative_to(CLONE) else place)


def known_zone(timezone: str) -> None:
    """Raise UserError if there is none of that name; an empty one is none that somebody asked for."""
    try:
        ZoneInfo(timezone or UTC)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UserError(f"{timezone!r} is no time zone.", hint="Write it like Europe/Vienna.") from None


def rendered(model: Yaml, cases: Sequence[Case]) -> Yaml:
    """The model with its deployments for each case."""
    made = [for_case(deployment, case) for case in cases for deployment in model["deployments"]]
    return {**{key: model[key] for key in ("name", "build", "pull")}, "deployments": made}


def for_case(deployment: Yaml, case: Case) -> Yaml:
    """One of the model's deployments as that of `case`."""
    changed = {
        "name": case.named(deployment["name"]),
        "tags": [case.name if tag == OF_THE_MODEL else tag for tag in deployment["tags"]],
        "parameters": {**deployment["parameters"], "spec_file": case.file},
    }
    if deployment["schedules"]:
        changed["schedules"] = [in_zone(schedule, case.zone) for schedule in deployment["schedules"]]
    if "triggers" in deployment:
        changed["triggers"] = [of_its_own(trigger, case) for trigger in deployment["triggers"]]
    return deployment | changed


def in_zone(schedule: Yaml, zone: str | None) -> Yaml:
    """A schedule by the clock, in that zone; one by intervals as it is."""
    return schedule | {"timezone": zone} if zone and "cron" in schedule else schedule


def of_its_own(trigger: Yaml, case: Case) -> Yaml:
    """The trigger that waits for the deployment of `case`."""
    asked = trigger["match_related"]
    waits_for = {"prefect.resource.name": case.named(asked["prefect.resource.name"])}
    return trigger | {"name": case.named(trigger["name"]), "match_related": asked | waits_for}


def written(wanted: Yaml, name: str) -> Path:
    """Where `prefect deploy` finds it, and whoever wants to look."""
    file = settings().home / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("# Written by `make deploy` from the file of this name; do not edit.\n" + _yaml(wanted))
    return file


def hand_over(file: Path) -> None:
    """Have Prefect deploy all of it. Raises NotDeployed with its last words."""
    log = settings().home / "logs" / "prefect-deploy.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file))
    with log.open("wb") as words:
        ended = subprocess.run(
            command,
            cwd=CLONE,  # for prefect.toml and entrypoints
            env=os.environ | {"AUDIT_HOME": str(settings().home), "COLUMNS": "1000", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode:
        _, _, said = log.read_text(errors="replace").removesuffix("An exception occurred.\n").strip().rpartition("\n")
        raise NotDeployed(f"Prefect did not deploy: {said}", hint=f"See {log}.")


def lines(wanted: Yaml) -> Iterator[str]:
    """A line a deployment: its name as `prefect deployment run` wants it, and what starts it."""
    names = [f"{one['entrypoint'].rpartition('.')[2]}/{one['name']}" for one in wanted["deployments"]]
    width = max(map(len, names))
    for name, deployment in zip(names, wanted["deployments"], strict=True):
        yield f"{name:<{width}}  {started_by(deployment)}"


def started_by(deployment: Yaml) -> str:
    """`daily (0 5 * * *, UTC)`, or that nothing starts it by itself."""
    when = [
        f"{schedule['slug']} ({schedule['cron']}, {schedule['timezone']})" if "cron" in schedule else schedule["slug"]
        for schedule in deployment["schedules"] or []
    ]
    follows = [f"after {t['match_related']['prefect.resource.name']}" for t in deployment.get("triggers", [])]
    return ", ".join(follows + when) or "by hand"


def _yaml(wanted: Yaml) -> str:
    """Written out: an alias would save nobody anything."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump(wanted, Dumper=Plain, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    main()
