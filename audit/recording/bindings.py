"""How recording is bound to Prefect's own objects, in place and without a subclass.

Three bindings, each seeing what the others cannot: hooks on a task or flow, a wrapper on the task's
function, and points inside Prefect's engines. The last are private, so they are bound only where they look
as they did when this was written; `UNBOUND` names those that do not, and hooks and wrapper go on without.
"""

import asyncio
import inspect
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial, update_wrapper, wraps
from types import CodeType, FunctionType, ModuleType, TracebackType
from typing import Any, NamedTuple, Self, TypeVar, cast
from uuid import UUID

import prefect
from prefect import Flow, Task, flow_engine, flow_runs, futures, task_engine
from prefect.client.orchestration import PrefectClient, SyncPrefectClient
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectSignal

from audit.errors import AuditUnavailable
from audit.events.payloads import RunError
from audit.privacy import redact
from audit.recording import circumstances, completeness, hooks, runs
from audit.recording.hooks import ENGINE, WRAPPER, AnyFlow, AnyTask, done, warn_if_lost
from audit.settings import strict

STRICT_HINT = "Mend the audit store and its spool, or set AUDIT_MODE=spool."

Bindable = TypeVar("Bindable", bound=AnyFlow | AnyTask)
Body = Callable[..., Any]


class Point(NamedTuple):
    """A function of Prefect's that we put ours around: `name` in `owner`, which `takes` these parameters first."""

    name: str
    owner: ModuleType | type
    around: Callable[[Body], Body]
    takes: tuple[str, ...]


def bind(of: AnyFlow | AnyTask) -> None:
    """Have every run of a task or flow recorded."""
    if isinstance(of, Task):
        bind_task(of)
    else:
        bind_flow(of)


def bind_task(task: AnyTask) -> None:
    """Have every run of `task` recorded. Twice does no harm; a copy shares the wrapper but not the hooks."""
    _keep_source(task)
    if not is_bound(task):
        task.fn = recorded(task.fn, isasync=task.isasync, isgenerator=task.isgenerator)
    running, end = (
        (hooks.record_async_task_running, hooks.record_async_task_end)
        if task.isasync
        else (hooks.record_task_running, hooks.record_task_end)
    )
    _hook_up(task, {"on_running_hooks": running, "on_completion_hooks": end, "on_failure_hooks": end})


def bind_flow(flow: AnyFlow) -> None:
    """Have every run of `flow` recorded. Its function stays as it is: pydantic reads it for the parameters.

    Crash and cancellation hooks stay synchronous: they run while the event loop is being torn down.
    """
    running, end = (
        (hooks.record_async_flow_running, hooks.record_async_flow_end)
        if flow.isasync
        else (hooks.record_flow_running, hooks.record_flow_end)
    )
    last = hooks.record_flow_end
    _hook_up(
        flow,
        {
            "on_running_hooks": running,
            "on_completion_hooks": end,
            "on_failure_hooks": end,
            "on_crashed_hooks": last,
            "on_cancellation_hooks": last,
        },
    )


def is_bound(of: AnyFlow | AnyTask) -> bool:
    """Whether runs of this task or flow are recorded."""
    if isinstance(of, Task):
        return _source_of(of.fn) is not None
    return any(hook in of.on_running_hooks for hook in (hooks.record_flow_running, hooks.record_async_flow_running))


def recorded(fn: Body, *, isasync: bool, isgenerator: bool) -> Body:
    """`fn` with each call seen by an `Attempt`, of the same kind and with the same cache keys.

    It runs on the globals of `fn`, where Prefect and pydantic look names up, so all that it uses is in closure
    cells; `Attempt` among them, which pickles by reference. Prefect takes task and cache keys from `fn`,
    because `__prefect_task_source__` is also `__wrapped__`.
    """
    shape = cast(FunctionType, _SHAPES[isasync, isgenerator](fn, Attempt))
    made = FunctionType(
        _code_naming(fn, shape.__code__),
        getattr(fn, "__globals__", shape.__globals__),
        getattr(fn, "__name__", type(fn).__name__),
        None,
        shape.__closure__,
    )
    update_wrapper(made, fn)
    made.__dict__.update(__prefect_task_source__=fn, __audit_source__=fn)
    return made


class Attempt:
    """One call of a task's body: resolved arguments before it, and what it raised or returned after it.

    Everything here runs inside the task's own time-out, so only plain exceptions are ever held back, and what a
    body raised is only kept: the next hook or state puts it on record, when the time-out is over.
    """

    returned: object = None

    def __init__(self, fn: Body) -> None:
        self.fn = fn
        self.of: tuple[AnyTask, TaskRun] | None = None

    def __enter__(self) -> Self:
        """Raises AuditUnavailable in mode `strict` where the start of this attempt is not on record."""
        around = TaskRunContext.get()
        if around is None or _source_of(around.task.fn) is not self.fn:
            return self  # called as a plain function
        known = runs.of_task_run(around.task_run)
        if known.entered == around.task_run.run_count:
            return self  # the body calls itself
        known.entered = around.task_run.run_count
        self.of = around.task, around.task_run
        done(known.see, runs.without_owner(around.task.fn, around.parameters))
        done(bind_task, around.task)  # a copy's hooks may have been replaced
        self._be_on_record(around.task, around.task_run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.of is None:
            return
        task, task_run = self.of
        match raised:
            case None:
                if isinstance(self.returned, State) and self.returned.is_failed():
                    warn_if_lost(_keep_returned_failure, task_run, self.returned)
            case GeneratorExit():
                pass  # closed by its reader
            case PrefectSignal():
                warn_if_lost(hooks.record_stop, task, task_run, raised, WRAPPER)
            case CancelledError() if task.timeout_seconds is not None:
                _keep(task_run, None)  # the next state says what it was
            case Exception():
                warn_if_lost(_keep_raised, task_run, raised)
            case _ if not _sees_every_state():  # no hook follows a crash
                warn_if_lost(hooks.record_crash, task, task_run, raised, WRAPPER)

    def _be_on_record(self, task: AnyTask, task_run: TaskRun) -> None:
        """Hook or engine have recorded `running` already; if neither did, it is done here or not at all."""
        state, known = task_run.state, runs.of_task_run(task_run)
        if state is None or not state.is_running():
            return
        id = hooks.task_event_id(task_run, state, hooks.task_event_type(task_run, state) or "")
        if id not in known.recorded:
            done(hooks.record_task_state, task, task_run, state, WRAPPER)  # if lost, the hook's loss was counted
        if id not in known.recorded and strict():
            raise AuditUnavailable(
                f"Task run {task_run.name} was not begun, for it could not be put on record.",
                hint=STRICT_HINT,
            )


def record_entered_state(task_run: TaskRun, state: State[Any]) -> None:
    """What the engine's private point adds: every state that no hook is called for.

    Cached runs, failures and completions are left to the hooks, which do not hold up an event loop.
    """
    around = TaskRunContext.get()
    inside = around is not None and around.task_run.id == task_run.id
    if inside and around and not is_bound(around.task):
        return
    if inside and around:
        runs.of_task_run(task_run).task = around.task
        bind_task(around.task)
        if state.is_final() and runs.of_task_run(task_run).inputs is None:
            runs.of_task_run(task_run).see(runs.without_owner(around.task.fn, around.parameters))
    task = runs.of_task_run(task_run).task if runs.executes(task_run) else None
    if task is None:
        return
    if state.name != "RolledBack" and (state.is_running() or state.is_completed() or state.is_failed()):
        return
    if state.is_crashed() or state.is_cancelled():  # what comes after is not known
        _record_unhooked_state(task, task_run, state)
    else:
        _off_loop(partial(_record_unhooked_state, task, task_run, state))


def record_waiting_flow(flow_run_id: UUID, state: State[Any]) -> None:
    """What happens in a flow's own body: it pauses, and goes on when somebody has resumed it."""
    around = FlowRunContext.get()
    if around is None or around.flow is None or around.flow_run is None or around.flow_run.id != flow_run_id:
        return
    if not is_bound(around.flow):
        return
    hooks.record_flow_state(around.flow, around.flow_run, state, ENGINE, resumed=state.is_running())


def count_task_run(task_run: TaskRun) -> None:
    """Prefect's engine has made a task run: counted whether or not it is recorded."""
    around = TaskRunContext.get()
    plain = around is not None and around.task_run.id == task_run.id and not is_bound(around.task)
    completeness.task_run_began(task_run, around.task.name if plain and around else None)


def bind_engines() -> tuple[str, ...]:
    """Bind Prefect's private points and `with_options`; returns the names of those that could not be."""
    if not circumstances.knows_prefect(prefect.__version__):
        return tuple(point.name for point in _POINTS)
    return tuple(point.name for point in _POINTS if not _patch(point))


def _hook_up(to: AnyFlow | AnyTask, wanted: dict[str, Callable[..., object]]) -> None:
    """Append each hook once, to a list of its own: the user's may be shared with what is not recorded."""
    for name, hook in wanted.items():
        present = getattr(to, name)
        if hook not in present:
            setattr(to, name, [*present, hook])


def _source_of(fn: Body) -> Body | None:
    """The user's function inside our wrapper. A decorator that copied our attributes is not our wrapper."""
    source: Body | None = getattr(fn, "__audit_source__", None)
    return source if source is not None and source is getattr(fn, "__wrapped__", None) else None


def _keep_source(task: AnyTask) -> None:
    """A callable object's source is found by its class, which the wrapper hides: cache keys need it."""
    source = _source_of(task.fn) or task.fn
    if task.source_code is None and not hasattr(source, "__code__"):
        with suppress(TypeError, OSError):  # defined at a prompt: no cache key, as in Prefect
            task.source_code = inspect.getsource(type(source))


def _code_naming(fn: Body, code: CodeType) -> CodeType:
    """`code` with that of `fn` among its constants. Where no source file is at hand, Prefect makes the cache
    key from the code of `task.fn`, and all tasks of one shape would share their results."""
    return code.replace(co_consts=(*code.co_consts, *filter(None, [getattr(fn, "__code__", None)])))


def _plain(fn: Body, attempt: type[Attempt]) -> Body:
    def call(*args: object, **kwargs: object) -> object:
        with attempt(fn) as seen:
            seen.returned = fn(*args, **kwargs)
            return seen.returned

    return call


def _async(fn: Callable[..., Coroutine[Any, Any, object]], attempt: type[Attempt]) -> Body:
    async def call(*args: object, **kwargs: object) -> object:
        with attempt(fn) as seen:
            seen.returned = await fn(*args, **kwargs)
            return seen.returned

    return call


def _generator(fn: Callable[..., Generator[Any, Any, object]], attempt: type[Attempt]) -> Body:
    def call(*args: object, **kwargs: object) -> Generator[Any, Any, object]:
        with attempt(fn) as seen:
            seen.returned = yield from fn(*args, **kwargs)
            return seen.returned

    return call


def _async_generator(
    fn: Callable[..., AsyncGenerator[object, None]], attempt: type[Attempt], closing: Any = aclosing
) -> Body:
    async def call(*args: object, **kwargs: object) -> AsyncGenerator[object, None]:
        with attempt(fn):
            async with closing(fn(*args, **kwargs)) as items:
                async for item in items:
                    yield item

    return call


_SHAPES: dict[tuple[bool, bool], Callable[[Body, type[Attempt]], Body]] = {
    (False, False): _plain,
    (True, False): _async,
    (False, True): _generator,
    (True, True): _async_generator,
}


def _keep(task_run: TaskRun, error: RunError | None, at: datetime | None = None) -> None:
    ended = runs.EndedAttempt(task_run.run_count, at or datetime.now(UTC), error)
    runs.of_task_run(task_run).ended = ended


def _keep_raised(task_run: TaskRun, raised: Exception) -> None:
    _keep(task_run, redact.error(raised))


def _keep_returned_failure(task_run: TaskRun, returned: State[Any]) -> None:
    error = hooks.error_of(returned)
    assert error is not None, "a failed state stands for an error"
    _keep(task_run, error, at=returned.timestamp)


def _sees_every_state() -> bool:
    return hasattr(getattr(task_engine, "emit_task_run_state_change_event", None), "__audit_original__")


def _record_unhooked_state(task: AnyTask, task_run: TaskRun, state: State[Any]) -> None:
    hooks.settle_attempt(task, task_run, state, ENGINE)
    hooks.record_task_state(task, task_run, state, ENGINE)


def _off_loop(write: Callable[[], None]) -> None:
    """Call `write`, in a thread if an event loop runs in this one: a store may keep it waiting."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # no loop
        write()
    else:
        loop.run_in_executor(None, copy_context().run, partial(warn_if_lost, write))


def _emitting(original: Body) -> Body:
    def emit(
        task_run: TaskRun, initial_state: State[Any] | None, validated_state: State[Any], follows: Any = None
    ) -> Any:
        emitted = original(
            task_run=task_run, initial_state=initial_state, validated_state=validated_state, follows=follows
        )
        if initial_state is None:
            done(count_task_run, task_run)
        warn_if_lost(record_entered_state, task_run, validated_state)
        return emitted

    return emit


def _sending(original: Body) -> Body:
    def init(self: Any, task_run_id: UUID, *args: Any, **kwargs: Any) -> None:
        original(self, task_run_id, *args, **kwargs)
        done(completeness.task_run_sent, self, task_run_id)

    return init


def _calling(original: Body) -> Body:
    """The last thing before a flow's body: what is raised here fails the run. What a hook raises is only logged."""

    def call(*args: Any, **kwargs: Any) -> Any:
        _demand_begun_on_record()
        return original(*args, **kwargs)

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        _demand_begun_on_record()
        return await original(*args, **kwargs)

    return call_async if inspect.iscoroutinefunction(original) else call


def _demand_begun_on_record() -> None:
    around = FlowRunContext.get()
    flow_run = around.flow_run if around else None
    if flow_run is not None and runs.of_flow_run(flow_run).unrecorded and strict():
        raise AuditUnavailable(
            f"Flow run {flow_run.name} was not begun, for it could not be put on record.", hint=STRICT_HINT
        )


def _failing(original: Body) -> Body:
    def fail(engine: Any, exc: Exception, *args: Any, **kwargs: Any) -> Any:
        if is_bound(engine.flow):
            warn_if_lost(hooks.record_failed_flow_attempt, engine.flow, engine.flow_run, exc)
        return original(engine, exc, *args, **kwargs)

    async def fail_async(engine: Any, exc: Exception, *args: Any, **kwargs: Any) -> Any:
        if is_bound(engine.flow):
            write = hooks.record_failed_flow_attempt
            await asyncio.to_thread(warn_if_lost, write, engine.flow, engine.flow_run, exc)
        return await original(engine, exc, *args, **kwargs)

    return fail_async if inspect.iscoroutinefunction(original) else fail


def _proposing(original: Body) -> Body:
    def propose(client: Any, state: State[Any], flow_run_id: UUID, **kwargs: Any) -> Any:
        entered = original(client=client, state=state, flow_run_id=flow_run_id, **kwargs)
        if entered.is_paused():
            warn_if_lost(record_waiting_flow, flow_run_id, entered)
        return entered

    async def propose_async(client: Any, state: State[Any], flow_run_id: UUID, **kwargs: Any) -> Any:
        entered = await original(client=client, state=state, flow_run_id=flow_run_id, **kwargs)
        if entered.is_paused():
            await asyncio.to_thread(warn_if_lost, record_waiting_flow, flow_run_id, entered)
        return entered

    return propose_async if inspect.iscoroutinefunction(original) else propose


def _reading(original: Body) -> Body:
    def read(client: Any, flow_run_id: UUID) -> Any:
        found = original(client, flow_run_id)
        if found.state is not None and runs.goes_on(flow_run_id, found.state):
            warn_if_lost(record_waiting_flow, flow_run_id, found.state)
        return found

    async def read_async(client: Any, flow_run_id: UUID) -> Any:
        found = await original(client, flow_run_id)
        if found.state is not None and runs.goes_on(flow_run_id, found.state):
            await asyncio.to_thread(warn_if_lost, record_waiting_flow, flow_run_id, found.state)
        return found

    return read_async if inspect.iscoroutinefunction(original) else read


def _leaving(original: Body) -> Body:
    def capture(engine: Any, state: State[Any]) -> None:
        original(engine, state)
        if state.is_paused() and is_bound(engine.flow):  # what comes after is not known, so not off the loop
            hooks.record_flow_left(engine.flow, engine.flow_run, state)

    return capture


def _creating(original: Body) -> Body:
    async def create(self: AnyTask, *args: Any, **kwargs: Any) -> TaskRun:
        made: TaskRun = await original(self, *args, **kwargs)
        if kwargs.get("deferred") and is_bound(self):
            await asyncio.to_thread(warn_if_lost, hooks.record_scheduled, self, made, kwargs.get("parameters") or {})
        return made

    return create


def _copying(original: Body) -> Body:
    def with_options(self: Bindable, *args: Any, **kwargs: Any) -> Bindable:
        made: Bindable = original(self, *args, **kwargs)
        if is_bound(self):
            bind(made)
        return made

    return with_options


def _patch(point: Point) -> bool:
    """Put ours in the place of what is there, once, if that still takes the same parameters first."""
    name = point.name.rpartition(".")[2]
    original = getattr(point.owner, name, None)
    if original is None or tuple(inspect.signature(original).parameters)[: len(point.takes)] != point.takes:
        return False
    if not hasattr(original, "__audit_original__"):
        bound = wraps(original)(point.around(original))
        bound.__dict__["__audit_original__"] = original
        setattr(point.owner, name, bound)
    return True


_EMITTED = ("task_run", "initial_state", "validated_state", "follows")
_POINTS = (
    Point("PrefectTaskRunFuture.__init__", futures.PrefectTaskRunFuture, _sending, ("self", "task_run_id")),
    Point("task_engine.emit_task_run_state_change_event", task_engine, _emitting, _EMITTED),
    Point("FlowRunEngine.call_flow_fn", flow_engine.FlowRunEngine, _calling, ("self",)),
    Point("AsyncFlowRunEngine.call_flow_fn", flow_engine.AsyncFlowRunEngine, _calling, ("self",)),
    Point("flow_engine.parameters_to_args_kwargs", flow_engine, _calling, ("fn", "parameters")),  # before a generator
    Point("FlowRunEngine.handle_exception", flow_engine.FlowRunEngine, _failing, ("self", "exc")),
    Point("FlowRunEngine.handle_timeout", flow_engine.FlowRunEngine, _failing, ("self", "exc")),
    Point("AsyncFlowRunEngine.handle_exception", flow_engine.AsyncFlowRunEngine, _failing, ("self", "exc")),
    Point("AsyncFlowRunEngine.handle_timeout", flow_engine.AsyncFlowRunEngine, _failing, ("self", "exc")),
    Point("BaseFlowRunEngine._capture_state_report", flow_engine.BaseFlowRunEngine, _leaving, ("self", "state")),
    Point("flow_runs.propose_state", flow_runs, _proposing, ("client", "state", "flow_run_id")),
    Point("flow_runs.propose_state_sync", flow_runs, _proposing, ("client", "state", "flow_run_id")),
    Point("PrefectClient.read_flow_run", PrefectClient, _reading, ("self", "flow_run_id")),
    Point("SyncPrefectClient.read_flow_run", SyncPrefectClient, _reading, ("self", "flow_run_id")),
    Point("Task.create_run", Task, _creating, ("self", "client", "id", "parameters")),
    Point("Task.with_options", Task, _copying, ("self",)),
    Point("Flow.with_options", Flow, _copying, ("self",)),
)

# On import, and not by the decorators alone: a process pool's child unpickles a task and reads this module only.
UNBOUND: tuple[str, ...] = bind_engines()
