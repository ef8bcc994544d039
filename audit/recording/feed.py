"""What went on record inside a run, as events of Prefect's: its UI shows them, its automations react to them.

Prefect adds the runs around an event by itself (flow run, task run, flow, deployment, work pool, tags), in its own
thread, which also sends it. Here go ids, numbers and names: no text that somebody wrote, no value of a row.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from audit.events.event import Event

PREFIX = "prefect-audit"
_PREFECTS_OWN = ("flow_run.", "task_run.")  # it has an event for each state
_TOLD = (
    "spec", "window", "version", "environment", "rows", "failed", "rejected_rows", "known", "held", "watched",
    "drifted", "share", "detected", "verdict", "promoted", "cause", "kind", "what",
)  # fmt: skip


def feed(event: Event) -> None:
    """Hand `event` to Prefect, under the same id, if a run of Prefect's is around us: then there is a server.

    Outside of one, Prefect would start a server of its own for it.
    """
    if event.type.startswith(_PREFECTS_OWN) or not _inside_a_run():
        return
    from prefect.events import emit_event
    from prefect.exceptions import EventTooLarge

    payload = orjson.loads(event.body)
    with suppress(EventTooLarge):  # a server may allow less than a kilobyte
        emit_event(
            f"{PREFIX}.{event.type}",
            resource=_resource(event.subject),
            related=list(_related(event.subject, payload)),
            payload=_told(event, payload),
            id=UUID(event.id),
            occurred=datetime.fromisoformat(event.time),
        )


def resource_id(subject: str) -> str:
    """How the feed calls a subject: `spec/flights` is `prefect-audit.spec.flights`."""
    return f"{PREFIX}.{subject.replace('/', '.')}"


def _inside_a_run() -> bool:
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _resource(subject: str) -> dict[str, str]:
    kind, _, name = subject.partition("/")
    return {"prefect.resource.id": resource_id(subject), "prefect.resource.name": name or kind}


def _related(subject: str, payload: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The spec, and the model by its version where it has one, save what the event is about anyway."""
    spec, model = payload.get("spec"), payload.get("model")
    named = [("spec", f"spec/{spec}")] if spec else []
    if isinstance(model, dict) and model.get("version"):
        named.append(("model", f"model/{model['of']}/v{model['version']}"))
    for role, about in named:
        if about != subject:
            yield {**_resource(about), "prefect.resource.role": role}


def _told(event: Event, payload: dict[str, Any]) -> dict[str, Any]:
    about = {"id": event.id, "type": event.type, "subject": event.subject, "severity": event.severity}
    return about | {name: payload[name] for name in _TOLD if isinstance(payload.get(name), str | int | float)}
