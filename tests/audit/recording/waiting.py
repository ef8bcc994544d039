"""Runs that wait in this process, and the people and workers that have them go on."""

import threading
from contextvars import copy_context
from typing import Any
from uuid import UUID

from prefect import Flow, State, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import SetStateStatus
from prefect.flow_engine import run_flow
from prefect.flow_runs import pause_flow_run, suspend_flow_run

from audit import flow, task


@task
def handed_over(x: int) -> int:
    return x


@flow
def pauses() -> None:
    somebody_resumes()
    pause_flow_run(timeout=60, poll_interval=1)
    handed_over(1)


@flow
def suspends() -> None:
    suspend_flow_run(timeout=60)


def somebody_resumes(**answer: object) -> None:
    """Somebody resumes the run around this call as soon as it is paused and its form is there, as the UI does it."""

    def go_on(run_id: UUID) -> None:
        with get_client(sync_client=True) as client:
            while client.resume_flow_run(run_id, run_input=answer or None).status != SetStateStatus.ACCEPT:
                pass

    here = copy_context()
    threading.Thread(target=here.run, args=(go_on, UUID(runtime.flow_run.id)), daemon=True).start()


def deployed(made: Flow[Any, Any]) -> UUID:
    """A flow run of `made` as a worker gets it: a deployment's."""
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(made), name="test")
        return client.create_flow_run_from_deployment(deployment).id


def executed(made: Flow[Any, Any], run_id: UUID) -> State[Any]:
    """What a process does that a worker starts for a run."""
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(run_id)
    state = run_flow(made, flow_run=flow_run, return_type="state")
    assert isinstance(state, State)
    return state


def resume(run_id: UUID) -> None:
    with get_client(sync_client=True) as client:
        client.resume_flow_run(run_id)
