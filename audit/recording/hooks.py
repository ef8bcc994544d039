"""Where a state becomes an event: Prefect's own state hooks, and what the wrapper and the engine add.

Event ids follow from run, state and type, so the same state seen by hook and engine is one event. A hook
never fails a run: what it cannot put on record it warns of. Signals and time-outs pass through it untouched.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ParamSpec
from uuid import UUID

from prefect import Flow, Task
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.context import FlowRunContext, TaskRunContext

from audit.errors import AuditError
from audit.events.event import make_event, uuid8
from audit.events.payloads import RunError, RunState, Used
from audit.privacy import redact
from audit.recording import abandoned, circumstances, completeness, recorder, runs
from audit.store import read
from audit.store.engine import open_store

HOOK = "prefect-audit/hook"  # sources: who saw it
WRAPPER = "prefect-audit/wrapper"
ENGINE = "prefect-audit/engine"

AnyTask = Task[Any, Any]
AnyFlow = Flow[Any, Any]
P = ParamSpec("P")

log = logging.getLogger("audit")

_PLAIN = {StateType.CRASHED: "crashed", StateType.CANCELLED: "cancelled", StateType.CANCELLING: "cancelled"}


def record_task_running(task: AnyTask, task_run: TaskRun, state: State[Any]) -> None:
    """Hook of sync tasks for on_running."""
    warn_if_lost(record_task_state, task, task_run, state, HOOK)


def record_task_end(task: AnyTask, task_run: TaskRun, state: State[Any]) -> None:
    """Hook of sync tasks for on_completion and on_failure."""
    warn_if_lost(record_task_state, task, task_run, state, HOOK)


async def record_async_task_running(task: AnyTask, task_run: TaskRun, state: State[Any]) -> None:
    """Hook of async tasks for on_running; the write must not hold up the event loop."""
    await asyncio.to_thread(record_task_running, task, task_run, state)


async def record_async_task_end(task: AnyTask, task_run: TaskRun, state: State[Any]) -> None:
    """Hook of async tasks for on_completion and on_failure."""
    await asyncio.to_thread(record_task_end, task, task_run, state)


def record_flow_running(flow: AnyFlow, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of sync flows for on_running: the first attempt, every further one, and what goes on after a suspension."""
    resumed = bool(flow_run.empirical_policy.resuming)
    known = runs.of_flow_run(flow_run)
    known.attempts = _flow_attempt(flow_run) + (not resumed)
    done(completeness.flow_began, flow_run)
    known.unrecorded = not warn_if_lost(record_flow_state, flow, flow_run, state, HOOK, resumed=resumed)


def record_flow_end(flow: AnyFlow, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of flows for everything else. Also called by a worker's process, which saw no earlier state."""
    elsewhere = not runs.of_flow_run(flow_run).attempts
    warn_if_lost(record_flow_state, flow, flow_run, state, HOOK)
    if elsewhere and state.is_cancelling():  # the worker ended the run's process before it called this
        done(record_cancelled_task_runs, flow_run)
    if elsewhere and state.is_crashed():  # likewise, when it saw the process gone
        done(record_abandoned_task_runs, flow_run)
    _leave(flow_run)


def record_flow_left(flow: AnyFlow, flow_run: FlowRun, state: State[Any]) -> None:
    """A flow run that was suspended leaves its process; whoever did it, no hook is called."""
    warn_if_lost(record_flow_state, flow, flow_run, state, ENGINE)
    _leave(flow_run)


def _leave(flow_run: FlowRun) -> None:
    """What is due when a flow run is over for this process."""
    runs.forget_flow_run(flow_run)
    done(completeness.flow_ended, flow_run)
    if flow_run.parent_task_run_id is None:
        done(recorder.flow_ended)


async def record_async_flow_running(flow: AnyFlow, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of async flows for on_running."""
    await asyncio.to_thread(record_flow_running, flow, flow_run, state)


async def record_async_flow_end(flow: AnyFlow, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of async flows for on_completion and on_failure."""
    await asyncio.to_thread(record_flow_end, flow, flow_run, state)


def warn_if_lost(write: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> bool:
    """Call `write`; a failure of ours becomes a warning, for a run's outcome is the user's, not ours. Whether it went
    well.

    SystemExit is ours too, since none of the user's code runs in here. KeyboardInterrupt, SIGTERM and the
    CancelledError of a time-out that strikes meanwhile belong to the run, so they pass.
    """
    written = done(write, *args, **kwargs)
    if not written:
        done(recorder.count_lost, _name(write))
    return written


def done(step: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> bool:
    """Whether `step` succeeded. As `warn_if_lost`, where what fails is not an event."""
    try:
        step(*args, **kwargs)
    except (Exception, SystemExit) as failed:
        told = str(failed) if isinstance(failed, AuditError) else type(failed).__qualname__  # no values in logs
        log.warning("%s: not on record. %s", _name(step), told, exc_info=log.isEnabledFor(logging.DEBUG))
        return False
    return True


def task_event_type(task_run: TaskRun, state: State[Any]) -> str | None:
    """The type of event that a task run's state is; None for states that are none, such as Pending."""
    match state.type:
        case StateType.RUNNING:
            return "task_run.retrying" if task_run.run_count > 1 else "task_run.running"
        case StateType.COMPLETED:
            return "task_run." + {"Cached": "cached", "RolledBack": "rolled_back"}.get(state.name or "", "completed")
        case StateType.FAILED:
            return "task_run.timed_out" if state.name == "TimedOut" else "task_run.failed"
        case StateType.PENDING if state.name == "NotReady":
            return "task_run.not_ready"
        case StateType.SCHEDULED if state.state_details.deferred:
            return "task_run.scheduled"
        case StateType.CRASHED | StateType.CANCELLED:
            return f"task_run.{_PLAIN[state.type]}"
        case _:
            return None


def task_event_id(task_run: TaskRun, state: State[Any], type: str) -> str:
    """One id for one state, whoever saw it. A crash goes by its attempt: the wrapper knows no state yet."""
    if type == "task_run.crashed":
        return _attempt_id(task_run, type)
    return uuid8(str(state.id), str(task_run.id), str(state.id), type)


def record_task_state(task: AnyTask, task_run: TaskRun, state: State[Any], source: str) -> None:
    """Put the state that a task run entered on record, once. Raises AuditUnavailable in mode `strict`."""
    type = task_event_type(task_run, state)
    if type is None:
        return
    settle_attempt(task, task_run, state, source)
    _append_task_event(
        type,
        task,
        task_run,
        id=task_event_id(task_run, state, type),
        time=state.timestamp,
        source=source,
        state=state,
        error=error_of(state),
    )


def record_crash(task: AnyTask, task_run: TaskRun, raised: BaseException, source: str) -> None:
    """Put on record what ends a task run's process, while there is still time: no hook follows."""
    _record_end_without_state("task_run.crashed", task, task_run, raised, source)


def record_stop(task: AnyTask, task_run: TaskRun, raised: BaseException, source: str) -> None:
    """Put on record that Prefect ended a body, its flow run being suspended or aborted: no state and no hook follow."""
    _record_end_without_state("task_run.cancelled", task, task_run, raised, source)


def record_scheduled(task: AnyTask, task_run: TaskRun, parameters: Mapping[str, object]) -> None:
    """Put on record that a task run was handed over to whoever serves its task."""
    runs.of_task_run(task_run).parameters = redact.parameters(runs.without_owner(task.fn, parameters))
    if task_run.state is not None:
        record_task_state(task, task_run, task_run.state, ENGINE)


def record_cancelled_task_runs(flow_run: FlowRun) -> None:
    """Put on record that the task runs of a cancelled flow run, which were under way, ended with its process.

    Those that were handed over run elsewhere. Raises StoreUnavailable where the record cannot be read.
    """
    for run in read.task_runs(open_store(), str(flow_run.id)):
        over = run["ended_at"] is not None and run["state"] != "abandoned"
        if not over and '"scheduled"' not in run["states"]:
            _append_cancelled_task_run(run)


def record_abandoned_task_runs(flow_run: FlowRun) -> None:
    """Put on record that nobody will see the ends of a crashed flow run's task runs. Raises StoreUnavailable."""
    for event in abandoned.abandon_task_runs(open_store(), str(flow_run.id)):
        recorder.tell(event)


def settle_attempt(task: AnyTask, task_run: TaskRun, state: State[Any], source: str) -> None:
    """Put on record that an attempt failed, now that its body and its time-out are over; retries hide it from hooks.

    One that was told to stop failed if another attempt or a failure follows: it was the time-out.
    """
    known = runs.of_task_run(task_run)
    ended = known.ended
    if ended is None:
        return
    if ended.error is None and state.timestamp < ended.at:
        return  # a crash calls the hooks of the old Running state once more
    known.ended = None
    if ended.error is None and not (state.is_failed() or state.is_running() or state.is_scheduled()):
        return
    out_of_time = f"Task run exceeded timeout of {task.timeout_seconds} second(s)"
    _append_task_event(
        "task_run.attempt_failed",
        task,
        task_run,
        id=_attempt_id(task_run, "task_run.attempt_failed", ended.attempt),
        time=ended.at,
        source=source,
        error=ended.error or RunError(kind="TimeoutError", message=out_of_time),
        attempt=ended.attempt,
    )


def record_flow_state(
    flow: AnyFlow, flow_run: FlowRun, state: State[Any], source: str, *, resumed: bool = False
) -> None:
    """Put the state that a flow run entered on record, once. Raises AuditUnavailable in mode `strict`.

    `resumed`: it runs, for somebody resumed it, and not because an attempt begins.
    """
    known = runs.of_flow_run(flow_run)
    type = "flow_run.resumed" if resumed else _flow_event_type(_flow_attempt(flow_run), state)
    if type is None:
        return
    starts = state.is_running() and source == HOOK
    known.paused_at = state.timestamp if type == "flow_run.paused" else None
    _append_flow_event(
        type,
        flow,
        flow_run,
        id=_flow_event_id(flow_run, state, type),
        time=state.timestamp,
        source=source,
        payload={
            "state_id": str(state.id),
            "state": redact.text(state.name) if state.name else None,
            "message": redact.text(state.message) if state.message else None,
            "error": error_of(state),
            "outputs": _outputs(state),
            "code": circumstances.code_of(flow.fn) if starts else None,
            "surroundings": circumstances.surroundings() if starts else None,
            "recording": circumstances.recording() if starts else None,
        },
    )


def record_failed_flow_attempt(flow: AnyFlow, flow_run: FlowRun, raised: Exception) -> None:
    """Put on record what an attempt of a flow run raised; a flow that never began to run made none."""
    attempt = _flow_attempt(flow_run)
    if not attempt:
        return
    type = "flow_run.attempt_failed"
    id = uuid8(str(flow_run.id), str(flow_run.id), str(attempt), type)
    _append_flow_event(type, flow, flow_run, id=id, time=None, source=ENGINE, payload={"error": redact.error(raised)})


def error_of(state: State[Any]) -> RunError | None:
    """The error that a state stands for, also where user code returned a failed one without an exception."""
    raised = _result_of(state)
    if isinstance(raised, BaseException):
        return redact.error(raised)
    if state.is_failed():
        return RunError(kind=redact.text(f"prefect.states.{state.name}"), message=redact.text(state.message or ""))
    return None


def _record_end_without_state(type: str, task: AnyTask, task_run: TaskRun, raised: BaseException, source: str) -> None:
    id = _attempt_id(task_run, type)
    _append_task_event(type, task, task_run, id=id, time=None, source=source, error=redact.error(raised))


def _append_cancelled_task_run(run: Mapping[str, Any]) -> None:
    id, type = str(run["id"]), "task_run.cancelled"
    payload = RunState(
        run_name=run["name"],
        of=run["task"],
        flow_name=run["flow"],
        message="Its flow run was cancelled, and the process has ended.",
        attempt=run["attempts"],
    )
    recorder.append(
        make_event(
            type,
            payload,
            id=uuid8(id, id, str(run["attempts"]), type),
            source=HOOK,
            subject=f"task-run/{id}",
            actor=circumstances.actor(),
            flow_run_id=run["flow_run_id"],
            task_run_id=id,
            deployment=run["deployment"],
        )
    )


def _append_task_event(
    type: str,
    task: AnyTask,
    task_run: TaskRun,
    *,
    id: str,
    time: datetime | None,
    source: str,
    error: RunError | None,
    state: State[Any] | None = None,
    attempt: int | None = None,
) -> None:
    known = runs.of_task_run(task_run)
    if id in known.recorded:
        return
    flow = _flow_around(task_run)
    _see_unresolved(task, task_run)
    payload = RunState(
        run_name=redact.text(task_run.name),
        of=redact.text(task.name),
        state_id=str(state.id) if state else None,
        state=redact.text(state.name) if state and state.name else None,
        message=redact.text(state.message) if state and state.message else None,
        attempt=attempt or task_run.run_count,
        flow_name=redact.text(flow.flow.name) if flow and flow.flow else None,
        tags=sorted(map(redact.text, task_run.tags)),
        parameters=known.parameters,
        inputs=known.inputs,
        outputs=_outputs(state) if state else None,
        error=error,
    )
    recorder.append(
        make_event(
            type,
            payload,
            id=id,
            source=source,
            subject=f"task-run/{task_run.id}",
            actor=circumstances.actor(),
            time=time,
            flow_run_id=_text(task_run.flow_run_id),
            task_run_id=str(task_run.id),
            deployment=_text(flow.flow_run.deployment_id) if flow and flow.flow_run else None,
            trace_id=circumstances.trace_id(task_run),
        )
    )
    known.recorded.add(id)


def _append_flow_event(
    type: str,
    flow: AnyFlow,
    flow_run: FlowRun,
    *,
    id: str,
    time: datetime | None,
    source: str,
    payload: dict[str, object],
) -> None:
    known = runs.of_flow_run(flow_run)
    if id in known.recorded:
        return
    around = FlowRunContext.get()
    inside = around is not None and around.flow_run is not None and around.flow_run.id == flow_run.id
    if inside and around and around.parameters is not None:
        known.parameters = redact.parameters(runs.without_owner(flow.fn, around.parameters))
        known.inputs = runs.references(around.parameters)
    elif known.parameters is None:
        known.parameters = redact.parameters(flow_run.parameters)
    if known.parent is None and flow_run.parent_task_run_id is not None:
        caller = around.flow_run if around and not inside else None
        known.parent = caller.id if caller else circumstances.caller_of(flow_run)
    recorder.append(
        make_event(
            type,
            RunState.model_validate(
                {
                    "run_name": redact.text(flow_run.name),
                    "of": redact.text(flow.name),
                    "attempt": known.attempts or flow_run.run_count,
                    "parent_flow_run_id": _text(known.parent),
                    "tags": sorted(map(redact.text, flow_run.tags)),
                    "parameters": known.parameters,
                    "inputs": known.inputs,
                    "deployment": circumstances.deployment_of(flow_run),
                    **payload,
                }
            ),
            id=id,
            source=source,
            subject=f"flow-run/{flow_run.id}",
            actor=circumstances.actor(),
            time=time,
            flow_run_id=str(flow_run.id),
            deployment=_text(flow_run.deployment_id),
            trace_id=circumstances.trace_id(flow_run),
        )
    )
    known.recorded.add(id)


def _flow_event_type(attempt: int, state: State[Any]) -> str | None:
    match state.type:
        case StateType.RUNNING:
            return "flow_run.retrying" if attempt > 1 else "flow_run.running"
        case StateType.COMPLETED:
            return "flow_run.completed"
        case StateType.FAILED:
            return "flow_run.timed_out" if state.name == "TimedOut" else "flow_run.failed"
        case StateType.CRASHED | StateType.CANCELLED | StateType.CANCELLING:
            return f"flow_run.{_PLAIN[state.type]}"
        case StateType.PAUSED:
            return "flow_run.suspended" if state.name == "Suspended" else "flow_run.paused"
        case _:
            return None


def _flow_event_id(flow_run: FlowRun, state: State[Any], type: str) -> str:
    """One id for one state. The state that a worker cancels with is unknown to the server: the run and its attempt
    stand for it, for what was cancelled may be begun anew and be cancelled again."""
    run_id, state_id, attempt = str(flow_run.id), str(state.id), _flow_attempt(flow_run)
    if type == "flow_run.cancelled":
        return uuid8(run_id, run_id, *([str(attempt)] if attempt > 1 else []), type)
    return uuid8(state_id, run_id, state_id, type)


def _flow_attempt(flow_run: FlowRun) -> int:
    """How often this flow run began to run; `run_count` is what the server knew before this process."""
    return runs.of_flow_run(flow_run).attempts or flow_run.run_count


def _attempt_id(task_run: TaskRun, type: str, attempt: int | None = None) -> str:
    return uuid8(str(task_run.id), str(task_run.id), str(attempt or task_run.run_count), type)


def _flow_around(task_run: TaskRun) -> FlowRunContext | None:
    around = FlowRunContext.get()
    if around is None or around.flow_run is None or around.flow_run.id != task_run.flow_run_id:
        return None
    return around


def _see_unresolved(task: AnyTask, task_run: TaskRun) -> None:
    """Before the body runs, the arguments are known as they were passed, futures and all."""
    known, around = runs.of_task_run(task_run), TaskRunContext.get()
    if known.parameters is None and around is not None and around.task_run.id == task_run.id:
        known.parameters = redact.parameters(runs.without_owner(task.fn, around.parameters))


def _result_of(state: State[Any]) -> object:
    """The value behind a state. Never `state.result()`: it reads storage and may be a coroutine."""
    return getattr(state.data, "result", state.data)


def _outputs(state: State[Any]) -> list[Used] | None:
    if not state.is_completed() or state.name == "RolledBack":
        return None
    return runs.references({"return": _result_of(state)})


def _name(step: Callable[..., object]) -> str:
    return str(getattr(getattr(step, "func", step), "__name__", type(step).__name__))


def _text(id: UUID | None) -> str | None:
    return None if id is None else str(id)


def _is_not_about_us(line: logging.LogRecord) -> bool:
    """Whether Prefect says it of another hook than ours. Of each it says twice a state that it ran: half of a run's
    log, which the event's own line says better. A hook that fails is no such line."""
    said = line.getMessage()
    return not (said.startswith(("Running hook '", "Hook '")) and said.split("'")[1] in _HOOKS)


_HOOKS = {
    hook.__name__
    for hook in (
        record_task_running, record_task_end, record_async_task_running, record_async_task_end,
        record_flow_running, record_flow_end, record_async_flow_running, record_async_flow_end,
    )
}  # fmt: skip
for _name_of_logger in ("task_runs", "flow_runs", "engine", "task_engine", "flow_engine"):
    logging.getLogger(f"prefect.{_name_of_logger}").addFilter(_is_not_about_us)
