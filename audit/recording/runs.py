"""What this process knows of the runs that it executes, from their first state to their last.

A hook sees unresolved futures, the wrapper resolved arguments, the engine's private point every state:
each leaves here what the others need. Nothing of the user's own objects is kept, only what goes on record.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

from prefect import Task
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from pydantic import BaseModel

from audit.events.payloads import Named, RunError, Used, used
from audit.events.references import DatasetVersion, ModelVersion, Report
from audit.privacy import redact

MAX_VISITED = 10_000  # values of one parameter that are searched for references
MAX_DEPTH = 8

_OWNERS = ("__prefect_self__", "__prefect_cls__")  # where Prefect keeps what a method is bound to

KnownReference = DatasetVersion | ModelVersion | Report


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that did not come to a result, and what it raised; None where it was told to stop."""

    attempt: int
    at: datetime
    error: RunError | None = None


@dataclass(slots=True)
class KnownTaskRun:
    """One task run. `entered` is the attempt whose body was begun, `ended` one that is to go on record as failed."""

    task: Task[Any, Any] | None = None  # whose run it is; where a run crashes, Prefect's context has gone
    parameters: list[Named] | None = None
    inputs: list[Used] | None = None  # None until the arguments were seen resolved
    entered: int = 0
    ended: EndedAttempt | None = None
    recorded: set[str] = field(default_factory=set)  # ids of the events that are on record

    def see(self, parameters: Mapping[str, object]) -> None:
        """Keep what goes on record of resolved arguments."""
        self.parameters = redact.parameters(parameters)
        self.inputs = references(parameters)


@dataclass(slots=True)
class KnownFlowRun:
    """One flow run; `attempts` counts how often it began to run, `paused_at` is when it began to wait."""

    attempts: int = 0
    unrecorded: bool = False  # whether the beginning of its last attempt could not be put on record
    paused_at: datetime | None = None
    parent: UUID | None = None
    parameters: list[Named] | None = None
    inputs: list[Used] | None = None
    recorded: set[str] = field(default_factory=set)  # ids of the events that are on record


_task_runs: dict[str, KnownTaskRun] = {}
_flow_runs: dict[str, KnownFlowRun] = {}


def of_task_run(run: TaskRun) -> KnownTaskRun:
    """What is known of `run`, for as long as Prefect's engine holds it."""
    known = _task_runs.get(str(run.id))
    if known is None:
        known = _task_runs[str(run.id)] = KnownTaskRun()
        weakref.finalize(run, _task_runs.pop, str(run.id), None)
    return known


def executes(run: TaskRun) -> bool:
    """Whether something is known of `run` here."""
    return str(run.id) in _task_runs


def of_flow_run(run: FlowRun) -> KnownFlowRun:
    """What is known of `run`, until `forget_flow_run`: the engine reads its run anew before each attempt."""
    return _flow_runs.setdefault(str(run.id), KnownFlowRun())


def forget_flow_run(run: FlowRun) -> None:
    """A flow run has come to its end."""
    _flow_runs.pop(str(run.id), None)


def goes_on(id: UUID, state: State[Any]) -> bool:
    """Whether `state` ends a pause in this process. Who reads a run while it pauses may be told what it was before."""
    known = _flow_runs.get(str(id))
    if known is None or known.paused_at is None:
        return False
    return state.is_running() and state.timestamp > known.paused_at


def known_here() -> int:
    """How many runs this process keeps something of."""
    return len(_task_runs) + len(_flow_runs)


def without_owner(fn: Callable[..., object], parameters: Mapping[str, object]) -> dict[str, object]:
    """Arguments without the instance or class that a method is bound to."""
    owners = [owner for name in _OWNERS if (owner := getattr(fn, name, None)) is not None]
    return {name: value for name, value in parameters.items() if all(value is not owner for owner in owners)}


def references(parameters: Mapping[str, object]) -> list[Used]:
    """The references in each parameter, also inside lists, mappings and models."""
    found = ((name, reference) for name, value in parameters.items() for reference in _references_in(value))
    return list({(name, of.address): used(redact.text(name), of) for name, of in found}.values())


def _references_in(value: object) -> Iterator[KnownReference]:
    waiting, visited = [(value, 0)], 0
    while waiting and visited < MAX_VISITED:
        (item, depth), visited = waiting.pop(), visited + 1
        parts = _parts(item)
        if isinstance(parts, KnownReference):
            yield parts
        elif depth < MAX_DEPTH:
            waiting += [(part, depth + 1) for part in parts]


def _parts(value: object) -> list[object] | KnownReference:
    """A reference itself, what is inside another value. It is the user's object, and may raise what it likes."""
    try:
        return _parts_of(value)
    except Exception:  # a lazy proxy without what it stands for: no reference can be read off it
        return []


def _parts_of(value: object) -> list[object] | KnownReference:
    match value:
        case DatasetVersion() | ModelVersion() | Report():
            return value
        case list() | tuple() | set() | frozenset():
            return list(islice(value, MAX_VISITED))[::-1]
        case dict():
            return list(islice(value.values(), MAX_VISITED))[::-1]
        case BaseModel():
            return list(vars(value).values())[::-1]
        case _:
            return []
