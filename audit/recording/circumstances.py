"""Who runs what, where: actor, code version, environment, deployment. Read once a process where it can be."""

import inspect
import os
import platform
import pwd
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import KeyUnavailable, StoreUnavailable
from audit.events.canonical import digest_of
from audit.events.payloads import Approver, Code, DeploymentOfRun, Recording, Surroundings
from audit.privacy.mask_key import create_mask_key, keyed, read_mask_key
from audit.recording import processes
from audit.settings import Settings, settings
from audit.store.engine import store_path

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.schemas.objects import FlowRun

UNKNOWN_ACTOR = "p:unknown"  # no mask key here, so no keyed hash; the payload still names the principal
GIT_SECONDS = 5
TESTED_PREFECT = ((3, 9, 1), (4,))  # from and below: elsewhere its private points are left alone


def principal() -> str:
    """`user@host`: the person or service account behind this process. Goes into payloads only."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name  # not from the environment, where anybody can write another name
    except KeyError:  # a container's user without an entry in passwd
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def approver(asserted: str = "") -> Approver:
    """Who decides at a command line: the account, or the name that was typed, with the account that typed it."""
    if not asserted:
        return Approver(name=principal(), identity="operating system", by="command")
    return Approver(name=asserted, identity="asserted", by="command", account=principal())


def actor() -> str:
    """`p:` and a keyed hash of the principal: the same person is recognisable, not named.

    UNKNOWN_ACTOR where the key is gone; a home that has no store yet gets its key here, for the event that
    makes the store has an actor too.
    """
    try:
        return _actor(settings())
    except (KeyUnavailable, StoreUnavailable):
        return UNKNOWN_ACTOR


@cache
def _actor(where: Settings) -> str:
    path = store_path(where)
    if path is not None and not path.exists():
        create_mask_key(where.keys_path)
    return "p:" + keyed(read_mask_key(where.keys_path), "actor", principal())


def knows_prefect(release: str) -> bool:
    """Whether all states can be seen with this release of Prefect; with another one only hooks and wrapper see."""
    low, high = TESTED_PREFECT
    return low <= tuple(int(part) for part in release.split(".")[:3] if part.isdigit()) < high


def surroundings() -> Surroundings:
    """Interpreter, platform, installed versions and host of this process."""
    return _surroundings(os.getpid())


@cache
def _surroundings(process_id: int) -> Surroundings:  # by its number, for a fork is another process
    return Surroundings(
        python=platform.python_version(),
        platform=platform.platform(),
        prefect=version("prefect"),
        lock_digest=_installed_digest(),
        host=socket.gethostname(),
        process_id=process_id,
        process=processes.this_process(),
        principal=principal(),
    )


def recording() -> Recording:
    """How this process records, and which of Prefect's private points it could not bind."""
    from audit.recording import bindings, plugin  # which import this module

    return Recording(plugin=plugin.is_on(), unbound=list(bindings.UNBOUND))


def code_of(fn: Callable[..., object]) -> Code:
    """The code behind a flow or task: its file's digest and the commit that its folder is at."""
    plain = inspect.unwrap(fn)
    entrypoint = f"{plain.__module__}.{plain.__qualname__}"
    try:
        path = Path(inspect.getsourcefile(plain) or "")
        source = path.read_bytes()
    except (TypeError, OSError):  # defined at a prompt, or the file is gone
        return Code(source=entrypoint)
    commit, dirty = _git(path)
    return Code(commit=commit, dirty=dirty, source=entrypoint, source_digest=digest_of(source))


def deployment_of(flow_run: "FlowRun") -> DeploymentOfRun | None:
    """Deployment, pool and worker of a deployed flow run; None for one started by hand."""
    if flow_run.deployment_id is None:
        return None
    return DeploymentOfRun(
        id=str(flow_run.deployment_id),
        name=os.environ.get("PREFECT__DEPLOYMENT_NAME") or _label(flow_run, "prefect.deployment.name"),
        version=flow_run.deployment_version,
        work_pool=flow_run.work_pool_name,
        worker=os.environ.get("PREFECT__WORKER_NAME") or _label(flow_run, "prefect.worker.name"),
    )


def caller_of(flow_run: "FlowRun") -> "UUID | None":
    """The flow run that had this one run as a deployment, which only the server knows; None where it does not say."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    if flow_run.parent_task_run_id is None:
        return None
    try:
        with get_client(sync_client=True) as client:
            return client.read_task_run(flow_run.parent_task_run_id).flow_run_id
    except (httpx.HTTPError, ObjectNotFound):
        return None


def trace_id(run: Any) -> str | None:
    """The W3C trace id that Prefect keeps with a run, where OpenTelemetry is on."""
    traceparent = _label(run, "__OTEL_TRACEPARENT")
    return traceparent.split("-")[1] if traceparent and traceparent.count("-") == 3 else None


def _label(run: Any, name: str) -> str | None:
    value = (getattr(run, "labels", None) or {}).get(name)
    return None if value is None else str(value)


def _installed_digest() -> str:
    """SHA-256 over `name==version` of every installed distribution and the interpreter, sorted."""
    found = sorted({f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions() if d.metadata["Name"]})
    return digest_of("\n".join([sys.version, *found]).encode())


@cache
def _git(path: Path) -> tuple[str | None, bool | None]:
    """Commit, and whether a tracked file differs from it or `path` is in no commit; (None, None) without git."""
    folder = str(path.parent)
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    known = _ask_git(folder, "ls-files", "--error-unmatch", path.name) is not None
    return commit, not known or bool(_ask_git(folder, "status", "--porcelain", "--untracked-files=no"))


def _ask_git(folder: str, *words: str) -> str | None:
    try:
        asked = subprocess.run(
            ["git", "-C", folder, *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip()
