"""Ask a person about a candidate, in the form of Prefect's UI; where there is none, the run ends and the record waits.

The run pauses in its own process, which keeps its place at the worker. The record is looked at meanwhile, so that an
answer by `audit approve`, or the time limit, ends the pause as the form does. Prefect's own time-out fails a run.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

import httpx
from prefect import State
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Running
from pydantic import Field, ValidationError

from audit.errors import NotAwaiting, StoreUnavailable, UserError
from audit.events.payloads import Approver
from audit.events.references import ModelVersion
from audit.recording import registry
from audit.recording.registry import MAX_NAME, MAX_NOTE, Answer
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks._frames import Evaluation
from tasks.alert import Finding, send_alert
from tasks.approval import Request, decide, request_approval

POLL_SECONDS = 2
GRACE = timedelta(minutes=5)  # how much later than ours Prefect's time-out is, which nothing but failure can follow

log = logging.getLogger("audit")


class Decision(RunInput):
    """The form. What does not fit it Prefect's server refuses, and the UI asks again."""

    # No list to choose from: in this form of Prefect's UI one cannot be opened with the mouse.
    decision: str = Field(pattern="^(approve|reject)$", description="Write **approve** or **reject**")
    name: str = Field(
        max_length=MAX_NAME, pattern=r"\w", description="Who decides. Nobody checks it: it is put on record as asserted"
    )
    note: str = Field(max_length=MAX_NOTE, pattern=r"\w", description="Why. It is put on record beside the name")

    def answer(self) -> Answer:
        """What was sent, for the record."""
        decision: Literal["approve", "reject"] = "approve" if self.decision == "approve" else "reject"
        return registry.answer(decision, Approver(name=self.name, identity="asserted", by="form"), self.note)


def ask_a_person(
    registered: ModelVersion, judged: Evaluation, spec: Spec, cause: str | None
) -> ModelVersion | State[Any]:
    """The champion after a person's decision; where there is no decision or no champion, a state that says so."""
    request = request_approval(registered, judged, spec, cause)
    send_alert(_finding(request, registered, judged), spec)
    if not has_a_form():
        return awaiting_approval(request.model)
    answer = _answer(request)
    champion = decide(request, answer)
    if answer is None and _is_open(request):
        return awaiting_approval(request.model)
    return champion or without_champion(spec)


def awaiting_approval(model: str) -> State[Any]:
    """How a run ends that has done its part while nobody has decided."""
    return Completed(name="Awaiting approval", message=f"awaiting approval: audit approve {model} --note …")


def without_champion(spec: Spec) -> State[Any]:
    """How a run ends that needs a champion, where a person has not let the first one in."""
    for asked in read.awaiting_approval(open_store()):
        if asked.payload.get("spec") == spec.name:
            return awaiting_approval(f"{spec.name}/v{asked.payload['version']}")
    return Completed(name="Turned away", message=f"no champion: a person turned the last candidate of {spec.name} away")


def _finding(request: Request, registered: ModelVersion, judged: Evaluation) -> Finding:
    candidate = frames.candidate(registered, judged)
    return Finding(
        kind="approval",
        title=f"v{request.version} of {request.spec} awaits approval",
        body=f"{candidate.speaks_for}.\n"
        f"Decide by {request.answer_by:%Y-%m-%d %H:%M} UTC: on the run's page (Resume), where it is paused, or with "
        f"audit approve {request.model} --note …",
        severity="info",
        cause=request.event,
    )


def has_a_form() -> bool:
    """Whether there is a server with a UI that outlives this run; a temporary one ends with it."""
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() is not None


def _answer(request: Request) -> Answer | None:
    """What comes through the form; None where the record has the answer by now, or time is up."""
    said = ""
    with _resumed_when_settled(request):
        while _is_open(request) and datetime.now(UTC) < request.answer_by:
            left = request.answer_by - datetime.now(UTC) + GRACE
            form = Decision.with_initial_data(description=f"{said}{request.page}")
            try:
                return pause_flow_run(
                    form,
                    timeout=int(left.total_seconds()),
                    poll_interval=POLL_SECONDS,
                    key=uuid4().hex,  # of two attempts of one run, neither takes the answer to the other's form
                ).answer()
            except ValidationError:  # resumed past the form
                continue
            except UserError as nothing:
                said = f"**{nothing}**\n\n"
            except FlowPauseTimeout:
                break
            except httpx.HTTPError as away:  # the server is restarted, say: ask again when it is back
                log.warning("Prefect's server does not answer (%s); the question stands.", type(away).__qualname__)
                time.sleep(POLL_SECONDS)
                _resume(UUID(str(flow_run.id)))
    return None


@contextmanager
def _resumed_when_settled(request: Request) -> Iterator[None]:
    """End the pause as soon as the record has an answer or time is up, whoever gave it and wherever."""
    over = threading.Event()
    run_id = UUID(str(flow_run.id))

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if datetime.now(UTC) >= request.answer_by or not _is_open(request):
                _resume(run_id)

    watcher = threading.Thread(target=copy_context().run, args=(watch,), name="approval", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _resume(run_id: UUID) -> None:
    """Let a paused run go on. A server that does not answer is asked again the next time."""
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
            if state and state.is_paused():
                client.set_flow_run_state(run_id, Running())
    except httpx.HTTPError as away:
        log.warning("The paused run cannot be resumed yet (%s).", type(away).__qualname__)


def _is_open(request: Request) -> bool:
    """Whether nobody has decided yet, as far as the store can be read."""
    try:
        registry.requested(request.spec, request.version)
    except NotAwaiting:
        return False
    except StoreUnavailable as away:
        log.warning("Whether %s was decided on cannot be known: %s", request.model, away)
    return True
