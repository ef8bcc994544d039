"""`make automations`: what the Prefect server does by itself, as code. Shows its plan before it changes anything.

Drift or decay that a deployed monitoring run finds starts the training deployment of the same spec, with the finding
as its cause; the composed pipeline retrains by itself, and its findings belong to no deployment. What no run can
notice about itself (crashed, late, stuck, silent) is told through a notification block on the server.
Monitoring after scoring is a trigger in prefect.yaml.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from audit.errors import AuditError, SpecError, UserError
from audit.recording.feed import PREFIX as EVENT
from flows import _deployed as deployed
from flows._deployed import OURS, TELLS

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.automations import Automation, AutomationCore

FINDINGS = {f"{EVENT}.drift.detected", f"{EVENT}.performance.decayed"}
ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "TimedOut", "Crashed", "Cancelled")}
WAITING = {f"prefect.flow-run.{state}" for state in ("Paused", "Suspended", "AwaitingConcurrencySlot")}
SILENT = timedelta(minutes=3)  # six heartbeats of prefect.yaml; a server that restarts hears none meanwhile
LOST = "No sign of life: its process is gone."
TAKEN_UP = 2  # times; a run that takes its machine down with it must not go on doing so
QUIET = timedelta(minutes=30)  # after a message about one deployment, further ones are held back so long
RETRAINED = timedelta(hours=1)  # drift and decay of one monitoring run are one reason

Verb = Literal["create", "change", "delete", "keep"]


@dataclass(frozen=True, slots=True)
class Step:
    """One automation: what is to be done about it, and in which leaves it differs."""

    verb: Verb
    name: str
    wanted: "AutomationCore | None" = None
    present: "Automation | None" = None
    differences: tuple[str, ...] = ()


def main() -> None:
    """Entry of `python -m deployments.automations`."""
    typer.run(automate)


def automate(
    block: Annotated[str, typer.Option(help="Name of the notification block to tell people through.")] = OURS,
    stuck_hours: Annotated[float, typer.Option(help="A run that goes on for longer is called stuck.")] = 6,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Bring the server's automations in line with this file.  Example: python -m deployments.automations --plan"""
    console = Console(highlight=False)
    try:
        with server() as client:
            bring_in_line(client, console, block, timedelta(hours=stuck_hours), only_plan=plan, unasked=yes)
    except AuditError as failed:
        console.print(f"[red]✗[/red] {escape(str(failed))}", soft_wrap=True)
        raise SystemExit(failed.exit_code) from None


def bring_in_line(
    client: "SyncPrefectClient",
    console: Console,
    block: str = OURS,
    stuck: timedelta = timedelta(hours=6),
    *,
    only_plan: bool = False,
    unasked: bool = True,
) -> None:
    """Show the plan; carry it out if that is wanted; put on record what the server has by now. Raises UserError."""
    every = deployed.deployments(client)
    if not every:
        raise UserError(f"No deployment with the tag {OURS} is on the server.", hint="Run `make deploy` first.")
    notify = notification(client, block)
    steps = planned(wanted(every, notify, stuck), present(client))
    show(steps, console, missing_block=None if notify else block)
    if any(step.verb != "keep" for step in steps):
        if only_plan:
            console.print("Nothing of this was done: `make automations` does it.")
        else:
            change(steps, client, console, unasked=unasked)
    for spec in specs(every, console):
        deployed.note_deployed(spec)


def change(steps: Sequence[Step], client: "SyncPrefectClient", console: Console, *, unasked: bool) -> None:
    """Carry out the plan, once somebody has agreed to it."""
    if not unasked and not (sys.stdin.isatty() and typer.confirm("Do it?")):
        console.print("Nothing was changed. Say --yes to do it without being asked.")
        return
    for step in steps:
        carry_out(step, client)
    console.print("[green]✓[/green] done")


def wanted(
    every: "dict[str, DeploymentResponse]", notify: "SendNotification | None", stuck: timedelta
) -> "list[AutomationCore]":
    """All automations of ours for these deployments; those that tell people only where there is a way to."""
    told = [crashed(notify), late(notify), stuck_for(notify, stuck)] if notify else []
    return [*retrainings(every), silence(), taken_up_again(), *told]


def retrainings(every: "dict[str, DeploymentResponse]") -> "Iterator[AutomationCore]":
    """For each monitoring deployment the training that answers to it: same spec, same work pool."""
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    for name, monitoring in every.items():
        for answer, training in every.items():
            if _is_flow(name, "monitoring") and _is_flow(answer, "training") and _same_case(monitoring, training):
                yield AutomationCore(
                    name=f"{OURS}: drift or decay in {name} starts {answer}",
                    description="On the spec that was monitored; the new model's cause is the finding's event id.",
                    trigger=EventTrigger(
                        expect=FINDINGS,
                        match_related={
                            "prefect.resource.role": "deployment",
                            "prefect.resource.id": f"prefect.deployment.{monitoring.id}",
                        },
                        for_each={"related:flow-run:prefect.resource.id"},
                        within=RETRAINED,
                    ),
                    actions=[
                        RunDeployment(
                            deployment_id=training.id,
                            parameters={
                                "spec_file": _template("{{ flow_run.parameters.spec_file }}"),
                                "cause": _template("{{ event.payload.id }}"),
                            },
                        )
                    ],
                )


def silence() -> "AutomationCore":
    """A run whose process or machine is gone stays Running for ever, and holds its deployment's slot."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    beat = "prefect.flow-run.heartbeat"
    return AutomationCore(
        name=f"{OURS}: a run that fell silent has crashed",
        description=f"No heartbeat for {_minutes(SILENT)}.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={beat},
            expect={beat, *ENDED, *WAITING},
            match_related=_a_run_of_ours(),
            for_each={"prefect.resource.id"},
            within=SILENT,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=LOST)],
    )


def taken_up_again() -> "AutomationCore":
    """A run that fell silent begins again on another worker, under its own id; other crashes are left to people."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    return AutomationCore(
        name=f"{OURS}: a run that fell silent is taken up again",
        description=f"From its beginning, {TAKEN_UP} times at most.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            match={
                "prefect.state-message": LOST,
                "prefect.run-count": [str(attempt) for attempt in range(1, TAKEN_UP + 1)],
            },
            match_related=_a_run_of_ours(),
            for_each={"prefect.resource.id"},
        ),
        actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="Taken up again.")],
    )


def crashed(notify: "SendNotification") -> "AutomationCore":
    """A process that was killed tells nobody."""
    return _told_at_once(
        "Crashed",
        f"{TELLS}crashed run",
        notify,
        "✗ Crashed: {{ flow_run.name }}",
        "Its process ended before the run did. One that fell silent is taken up again by itself; start any other again "
        "once you know why.",
    )


def late(notify: "SendNotification") -> "AutomationCore":
    """A run that no worker took has no process at all."""
    return _told_at_once(
        "Late",
        f"{TELLS}late run",
        notify,
        "⚠ Late: {{ flow_run.name }}",
        "No worker has taken it. Is a worker running for its work pool, and is the pool not paused?",
    )


def stuck_for(notify: "SendNotification", stuck: timedelta) -> "AutomationCore":
    """A run that began and has neither ended nor said that it waits."""
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    return AutomationCore(
        name=f"{TELLS}stuck run",
        description=f"Running or cancelling for {_hours(stuck)}.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={"prefect.flow-run.Running", "prefect.flow-run.Cancelling"},
            expect=ENDED | WAITING,
            match_related=_a_run_of_ours(),
            for_each={"prefect.resource.id"},
            within=stuck,
        ),
        actions=[
            _message(notify, "⚠ Stuck: {{ flow_run.name }}", f"It has been going on for {_hours(stuck)}. Cancel it.")
        ],
    )


def notification(client: "SyncPrefectClient", block: str) -> "SendNotification | None":
    """How the server tells people: through the notification block of that name, if there is one."""
    from prefect.events.actions import SendNotification

    for document in client.read_block_documents():
        schema = document.block_schema
        if document.name == block and schema and "notify" in schema.capabilities:
            return SendNotification(block_document_id=document.id, subject="", body="")
    return None


def present(client: "SyncPrefectClient") -> "dict[str, Automation]":
    """Automations of ours that the server has."""
    return {one.name: one for one in deployed.automations(client) if deployed.is_ours(one)}


def planned(wanted: "Sequence[AutomationCore]", present: "dict[str, Automation]") -> list[Step]:
    """What is to be done, automation by automation. One that somebody switched off stays off."""
    steps = [_step(one, present.get(one.name)) for one in wanted]
    kept = {one.name for one in wanted}
    return steps + [Step("delete", name, present=one) for name, one in present.items() if name not in kept]


def show(steps: Sequence[Step], console: Console, missing_block: str | None) -> None:
    """The plan, a line an automation, and below it each leaf that differs."""
    signs = {"create": "[green]+[/green]", "change": "[yellow]~[/yellow]", "delete": "[red]-[/red]", "keep": " "}
    for step in steps:
        off = " · switched off, and left so" if step.present and not step.present.enabled and step.wanted else ""
        verb = "unchanged" if step.verb == "keep" else step.verb
        console.print(f"{signs[step.verb]} {verb:<9} {escape(step.name)}{off}", soft_wrap=True)
        for difference in step.differences:
            console.print(f"              {escape(difference)}", soft_wrap=True)
    if missing_block:
        console.print(
            f"\nNobody is told of crashed, late and stuck runs: there is no notification block {missing_block!r}. "
            "Make one in the UI under Blocks, or name yours with --block.",
            soft_wrap=True,
        )


def carry_out(step: Step, client: "SyncPrefectClient") -> None:
    """Do one step on the server."""
    match step:
        case Step(verb="create", wanted=wanted) if wanted:
            client.create_automation(wanted)
        case Step(verb="change", wanted=wanted, present=present) if wanted and present:
            client.update_automation(present.id, _whole(wanted))
        case Step(verb="delete", present=present) if present:
            client.delete_automation(present.id)


def specs(every: "dict[str, DeploymentResponse]", console: Console) -> list[str]:
    """Names of the specs that these deployments are about; one that cannot be read is told, and stops no other."""
    from audit.spec.load import load_spec

    names = set()
    for file in sorted({str(file) for one in every.values() if (file := one.parameters.get("spec_file"))}):
        try:
            names.add(load_spec(file).name)
        except SpecError as unreadable:
            console.print(f"[yellow]![/yellow] {escape(str(unreadable))}", soft_wrap=True)
    return sorted(names)


@contextmanager
def server() -> "Iterator[SyncPrefectClient]":
    """A client of the configured server. Raises UserError where there is none, or none that answers."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    if not address:
        raise UserError("No Prefect server is configured.", hint="Set PREFECT_API_URL, or run `make ui`.")
    with get_client(sync_client=True) as client:
        if refused := client.api_healthcheck():
            raise UserError(
                f"Prefect's server at {address} does not answer ({type(refused).__name__}).",
                hint="Start `make ui`, or set PREFECT_API_URL to a server that runs.",
            )
        yield client


def _whole(wanted: "AutomationCore") -> "AutomationCore":
    """With every field set: the client leaves defaults out of a change, and the server wants to be told them."""
    return type(wanted).model_validate(wanted.model_dump(mode="json", exclude={"owner_resource"}))


def _step(wanted: "AutomationCore", present: "Automation | None") -> Step:
    if present is None:
        return Step("create", wanted.name, wanted)
    wanted = wanted.model_copy(update={"enabled": present.enabled})
    differences = _differences(deployed.as_defined(present), deployed.as_defined(wanted))
    return Step("change" if differences else "keep", wanted.name, wanted, present, differences)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, ...]:
    was, is_now = dict(_leaves(before)), dict(_leaves(now))
    names = dict.fromkeys(chain(was, is_now))
    return tuple(
        f"{name}: {was.get(name, '(not there)')} → {is_now.get(name, '(gone)')}"
        for name in names
        if was.get(name) != is_now.get(name)
    )


def _leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    match tree:
        case dict():
            for key, value in tree.items():
                yield from _leaves(value, f"{path}.{key}" if path else key)
        case [dict(), *_]:
            for number, value in enumerate(tree):
                yield from _leaves(value, f"{path}[{number}]")
        case _:
            yield path, tree


def _told_at_once(state: str, name: str, notify: "SendNotification", subject: str, body: str) -> "AutomationCore":
    """One message a deployment and half hour, for in a bad night all runs of a pool are late."""
    from prefect.events.schemas.automations import AutomationCore, EventTrigger

    return AutomationCore(
        name=name,
        description=f"At most one message for each deployment in {_minutes(QUIET)}.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}"},
            match_related=_a_run_of_ours(),
            for_each={"related:deployment:prefect.resource.id"},
            within=QUIET,
        ),
        actions=[_message(notify, subject, body)],
    )


def _message(notify: "SendNotification", subject: str, body: str) -> "SendNotification":
    """With the run's address in the UI. Never its state's message, which may quote a value of a row."""
    return notify.model_copy(update={"subject": subject, "body": f"{body}\n{{{{ flow_run|ui_url }}}}"})


def _a_run_of_ours() -> dict[str, str | list[str]]:
    return {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{OURS}"}


def _template(text: str) -> dict[str, str]:
    """As the server keeps it: a bare text would come back wrapped, and look changed."""
    return {"__prefect_kind": "jinja", "template": text}


def _is_flow(name: str, flow: str) -> bool:
    return name.partition("/")[0] == flow


def _same_case(one: "DeploymentResponse", other: "DeploymentResponse") -> bool:
    return (
        one.parameters.get("spec_file") == other.parameters.get("spec_file")
        and one.work_pool_name == other.work_pool_name
    )


def _minutes(time: timedelta) -> str:
    return f"{time.total_seconds() / 60:g} minutes"


def _hours(time: timedelta) -> str:
    return f"{time.total_seconds() / 3600:g} hours"


if __name__ == "__main__":
    main()
