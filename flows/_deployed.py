"""What runs when, and what reacts to what, as the Prefect server has it: put on record when it has changed.

Somebody may pause a schedule or edit an automation in the UI at any time, so this is read from the server, never
from the files that were deployed. Values of environment variables, and what is named like a secret, are keyed hashes.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from audit.errors import KeyUnavailable, StoreUnavailable
from audit.events.canonical import canonical, clean, digest_of
from audit.privacy import redact
from audit.privacy.mask_key import keyed, read_mask_key
from audit.recording.changes import note_change
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store import read
from audit.store.engine import open_store

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.events.schemas.automations import Automation, AutomationCore

log = logging.getLogger("audit")

OURS = "prefect-audit"  # tag of every deployment of ours; automations of ours have it before their name
TELLS = f"{OURS}: tell of a "  # how automations that tell people are called
GONE = "gone"
_SHOWN_OF_DEPLOYMENT = (
    "entrypoint", "description", "paused", "tags", "version", "concurrency_options", "work_pool_name",
    "work_queue_name", "pull_steps", "enforce_parameter_schema",
)  # fmt: skip
_SHOWN_OF_SCHEDULE = ("schedule", "active", "parameters", "max_scheduled_runs")
_SHOWN_OF_AUTOMATION = ("description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")


def note_deployed(spec: str) -> list[str]:
    """Put on record which deployments and automations of `spec` are not as they were; their names.

    None where no server is configured, for Prefect's own temporary one has no deployments; none where store or key
    is away: a later look finds the same.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return []
    try:
        initialise()  # deploying may be the first thing that happens
        with get_client(sync_client=True) as client:
            now = dict(_of_spec(spec, client))
        now |= {name: {} for name in _known(spec) if name not in now}
        return [name for name, details in now.items() if note_change(spec, name, _digest(details), details)]
    except (StoreUnavailable, KeyUnavailable) as away:
        log.warning("Changes of deployments and automations wait to be noted. %s", away)
        return []


def deployments(client: "SyncPrefectClient") -> "dict[str, DeploymentResponse]":
    """Deployments of ours on the server, by `flow/name`."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[OURS]))
    found = client.read_deployments(deployment_filter=ours)
    return {f"{client.read_flow(one.flow_id).name}/{one.name}": one for one in found}


def automations(client: "SyncPrefectClient") -> "list[Automation]":
    """Every automation on the server, those that deployments own among them."""
    return client.read_automations()


def is_ours(automation: "Automation") -> bool:
    """Made by `make automations`."""
    return automation.name.startswith(f"{OURS}: ")


def as_defined(automation: "AutomationCore") -> dict[str, Any]:
    """What somebody decided about an automation, in a form that can be compared: no ids of its own, sets in order."""
    told = automation.model_dump(mode="json", include=set(_SHOWN_OF_AUTOMATION))
    told["trigger"] = {name: value for name, value in told["trigger"].items() if name != "id"}
    ordered = _in_order(told)
    assert isinstance(ordered, dict)
    return ordered


def hidden(told: dict[str, Any]) -> dict[str, Any]:
    """`told` with keyed hashes for what is below any `env` and for what is named like a secret."""
    return {
        name: _hashed(value) if name == "env" or redact.is_secret(name) else _hidden_below(value)
        for name, value in told.items()
    }


def _of_spec(spec: str, client: "SyncPrefectClient") -> Iterator[tuple[str, dict[str, Any]]]:
    """`deployment training/training`, `automation …`, each with what it consists of."""
    every = deployments(client)
    ids = {deployment.id: name for name, deployment in every.items()}
    for name, deployment in every.items():
        if spec in deployment.tags:
            yield f"deployment {name}", _deployment(deployment)
    for automation in automations(client):
        meant = [every[ids[id]] for id in _deployments_of(automation) if id in ids]
        if any(spec in deployment.tags for deployment in meant) or (is_ours(automation) and not meant):
            yield f"automation {automation.name}", hidden(as_defined(automation))


def _deployments_of(automation: "Automation") -> list[UUID]:
    """Deployments that an automation runs."""
    return [id for action in automation.actions if (id := getattr(action, "deployment_id", None))]


def _deployment(deployment: "DeploymentResponse") -> dict[str, Any]:
    told = hidden(deployment.model_dump(mode="json"))
    job = dict(told["job_variables"])
    environment = job.pop("env", None) or {}
    limit = deployment.global_concurrency_limit
    return {
        **{name: told.get(name) for name in _SHOWN_OF_DEPLOYMENT},
        "parameters": _named(told["parameters"]),
        "concurrency_limit": limit.limit if limit else None,
        "job_variables": _named(job),
        "environment": environment,
        "schedules": {
            schedule["slug"] or f"without a slug {number}": {name: schedule[name] for name in _SHOWN_OF_SCHEDULE}
            for number, schedule in enumerate(told["schedules"])
        },
    }


def _named(values: dict[str, Any]) -> dict[str, Any]:
    return {one.name: one.model_dump(mode="json")["value"] for one in redact.parameters(values)}


def _hidden_below(value: object) -> object:
    match value:
        case dict():
            return hidden(value)
        case list():
            return [_hidden_below(one) for one in value]
        case _:
            return value


def _hashed(value: object) -> object:
    """Each value in `value`, with the names that lead to it; Kubernetes has lists of `name` and `value`."""
    match value:
        case None:
            return None
        case dict():
            return _hashes(value)
        case list():
            return [{**_hashes(one), "name": one["name"]} if _is_named(one) else _hashed(one) for one in value]
        case _:
            return f"keyed:{keyed(read_mask_key(settings().keys_path), 'environment', str(value))[:16]}"


def _hashes(values: dict[str, Any]) -> dict[str, object]:
    return {name: _hashed(one) for name, one in values.items()}


def _is_named(one: object) -> bool:
    return isinstance(one, dict) and "name" in one


def _known(spec: str) -> Sequence[str]:
    """Deployments and automations that were there when we last looked."""
    seen: dict[str, str] = {}
    for event in read.events(open_store(), types=("pipeline.changed",), spec=spec):
        if event.payload["what"].startswith(("deployment ", "automation ")):
            seen.setdefault(event.payload["what"], event.payload["is_now"])
    return [what for what, is_now in seen.items() if is_now != GONE]


def _digest(details: dict[str, Any]) -> str:
    return digest_of(canonical(clean(details))) if details else GONE


def _in_order(value: object) -> object:
    """`value` with lists of names sorted: Prefect keeps them as sets."""
    match value:
        case dict():
            return {name: _in_order(one) for name, one in value.items()}
        case [str(), *_]:
            return sorted(map(str, value))
        case list():
            return [_in_order(one) for one in value]
        case _:
            return value
