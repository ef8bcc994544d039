"""What Prefect's API knows of runs, read page by page. Nothing here writes, and no server is started for it."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.settings.legacy import Setting
from pydantic import TypeAdapter, ValidationError

from audit.errors import CouldNotTell
from audit.events.canonical import timestamp
from audit.roots import shown

HINT = "Is PREFECT_API_URL right, and does the server run?"
MOST_IDS = 200  # in one question
PATIENCE_SECONDS = 15.0  # at most, for an answer
MOST_RETRIES = 1  # of a question
Kind = Literal["flow_run", "task_run"]
Run = FlowRun | TaskRun
_Run = TypeVar("_Run", FlowRun, TaskRun)
_PATHS = {"flow_run": "/flow_runs/filter", "task_run": "/task_runs/filter"}
_FLOW_RUNS, _TASK_RUNS = TypeAdapter(list[FlowRun]), TypeAdapter(list[TaskRun])


class PrefectUnreachable(CouldNotTell):
    """Prefect's API is not there, refuses, or answers with what cannot be read."""


@dataclass(frozen=True, slots=True)
class Api:
    """An open way to the server."""

    client: SyncPrefectClient

    @property
    def address(self) -> str:
        """Without what may be secret in it."""
        return shown(str(self.client.api_url)).rstrip("/")

    def flow_runs(self, since: datetime, until: datetime) -> Iterator[Sequence[FlowRun]]:
        """Flow runs that were due in the window, or before it and ended in it."""
        for filter in _windows(since, until):
            yield from self._pages("flow_run", _FLOW_RUNS, filter)

    def task_runs(self, since: datetime, until: datetime) -> Iterator[Sequence[TaskRun]]:
        """Task runs that were made in the window, or before it and ended in it; without those that only stand for a
        nested flow run."""
        for filter in _windows(since, until):
            yield from self._pages("task_run", _TASK_RUNS, filter | {"subflow_runs": {"exists_": False}})

    def nested(self, since: datetime, until: datetime) -> int:
        """How many of the window's task runs only stand for a nested flow run."""
        made = {"expected_start_time": {"after_": timestamp(since), "before_": timestamp(until)}}
        return int(self._ask("/task_runs/count", {"task_runs": made | {"subflow_runs": {"exists_": True}}}))

    def flow_runs_by_id(self, ids: Collection[str]) -> dict[str, FlowRun]:
        """Those of these flow runs that Prefect knows."""
        return self._by_id("flow_run", _FLOW_RUNS, ids)

    def task_runs_by_id(self, ids: Collection[str]) -> dict[str, TaskRun]:
        """Those of these task runs that Prefect knows."""
        return self._by_id("task_run", _TASK_RUNS, ids)

    def flow_name(self, flow_id: UUID) -> str:
        with _explained():
            return self.client.read_flow(flow_id).name

    def _by_id(self, kind: Kind, read: TypeAdapter[list[_Run]], ids: Collection[str]) -> dict[str, _Run]:
        found: dict[str, _Run] = {}
        listed = list(ids)
        for first in range(0, len(listed), MOST_IDS):
            some = listed[first : first + MOST_IDS]
            for page in self._pages(kind, read, {"id": {"any_": some}}):
                found |= {str(run.id): run for run in page}
        return found

    def _pages(self, kind: Kind, read: TypeAdapter[list[_Run]], filter: dict[str, Any]) -> Iterator[list[_Run]]:
        """As many a page as the server gives; each goes on from the time of the last, for what comes in meanwhile
        would shift what is counted off. The end is a page with nothing new."""
        seen: set[UUID] = set()
        offset, edge, lower = 0, None, dict(filter.get("expected_start_time", {}))
        while True:
            if edge is not None:
                filter = filter | {"expected_start_time": lower | {"after_": timestamp(edge)}}
            asked = {f"{kind}s": filter, "sort": "EXPECTED_START_TIME_ASC", "offset": offset}
            with _explained():
                page = read.validate_python(self._ask(_PATHS[kind], asked))
            fresh = [run for run in page if run.id not in seen]
            if not fresh:
                return
            yield fresh
            last = page[-1].expected_start_time
            offset = offset + len(page) if last is None or last == edge else 0
            edge, seen = last, {run.id for run in page} | (seen if offset else set())

    def _ask(self, path: Any, asked: dict[str, Any]) -> Any:
        with _explained():
            return self.client.request("POST", path, json=asked).json()


def demand_server() -> None:
    """Raises PrefectUnreachable where no server is configured: Prefect would start one of its own."""
    if not PREFECT_API_URL.value():
        raise PrefectUnreachable("No Prefect server is configured.", hint="Set PREFECT_API_URL.")


@contextmanager
def prefect_api() -> Iterator[Api]:
    """The API that PREFECT_API_URL names. Raises PrefectUnreachable, here or when it is asked."""
    demand_server()
    with temporary_settings(_patience()), _explained(), get_client(sync_client=True) as client:
        yield Api(client)


def _patience() -> dict[Setting, float]:
    """Prefect's own waits for minutes for a server that takes each question and never answers."""
    return {
        PREFECT_API_REQUEST_TIMEOUT: min(PATIENCE_SECONDS, PREFECT_API_REQUEST_TIMEOUT.value()),
        PREFECT_CLIENT_MAX_RETRIES: min(MOST_RETRIES, PREFECT_CLIENT_MAX_RETRIES.value()),
    }


def ended_as(state: State[Any] | None) -> str | None:
    """The word for an end, as event types have it; None for a state that is none."""
    if state is None:
        return None
    match state.type:
        case StateType.COMPLETED:
            return {"Cached": "cached", "RolledBack": "rolled_back"}.get(state.name or "", "completed")
        case StateType.FAILED:
            return "timed_out" if state.name == "TimedOut" else "failed"
        case StateType.PENDING if state.name == "NotReady":
            return "not_ready"
        case StateType.CRASHED | StateType.CANCELLED:
            return str(state.type.value).lower()
        case _:
            return None


def _windows(since: datetime, until: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two filters that share no run."""
    low, high = timestamp(since), timestamp(until)
    return (
        {"expected_start_time": {"after_": low, "before_": high}},
        {"expected_start_time": {"before_": timestamp(since)}, "end_time": {"after_": low}},
    )


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except PrefectHTTPStatusError as refused:
        raise PrefectUnreachable(
            f"Prefect's API answers {refused.response.status_code} to {refused.request.url.path}.", hint=HINT
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as away:
        raise PrefectUnreachable(f"Prefect's API does not answer ({type(away).__name__}).", hint=HINT) from None
    except (ValidationError, ValueError) as odd:
        raise PrefectUnreachable(
            f"Prefect's API answers with what this release does not know ({type(odd).__name__}).",
            hint="Is it an API of Prefect 3.9?",
        ) from None
    except RuntimeError as failed:
        if "Failed to reach API" not in str(failed):
            raise
        raise PrefectUnreachable("Prefect's API does not answer.", hint=HINT) from None


assert get_args(Kind) == tuple(_PATHS), "a path for each kind"
