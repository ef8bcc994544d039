"""What `audit.flow`, `audit.task` and `audit.instrument` leave as Prefect has it, and what they add."""

import contextlib
import inspect
from typing import Any

import cloudpickle
import prefect
import pytest
from prefect import Flow, Task
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.tasks import task_input_hash

import audit
from audit.errors import UserError
from audit.recording import bindings


def plain(x):
    return x + 1


async def asynchronous(x):
    return x + 1


def generator(x):
    yield x
    return x + 1


async def async_generator(x):
    yield x


class Adder:
    def __call__(self, x):
        return x + 1


KINDS = [plain, asynchronous, generator, async_generator, Adder()]
NAMED = pytest.mark.parametrize("fn", KINDS, ids=lambda fn: getattr(fn, "__name__", "callable object"))


class Seen:
    """Stands where Prefect's run context does when it asks for a cache key."""

    def __init__(self, task: Task[Any, Any]) -> None:
        self.task = task


@pytest.mark.parametrize(("ours", "prefects"), [(audit.task, prefect.task), (audit.flow, prefect.flow)])
def test_the_decorators_take_what_prefects_take(ours, prefects):
    assert inspect.signature(ours) == inspect.signature(prefects)


def test_what_comes_back_is_prefects_own():
    assert type(audit.task(plain)) is Task
    assert type(audit.task(retries=2)(plain)) is Task
    assert type(audit.flow(plain)) is Flow
    assert type(audit.flow(name="named")(plain)) is Flow
    assert audit.flow.from_source == Flow.from_source


@NAMED
def test_task_and_cache_keys_are_those_of_the_plain_task(fn):
    ours, theirs = audit.task(fn), prefect.task(fn)
    assert (ours.task_key, ours.isasync, ours.isgenerator) == (theirs.task_key, theirs.isasync, theirs.isgenerator)
    for copy in (ours, ours.with_options(retries=1), audit.instrument(prefect.task(fn))):
        assert copy.task_key == theirs.task_key
        assert TASK_SOURCE.compute_key(Seen(copy), {}, {}) == TASK_SOURCE.compute_key(Seen(theirs), {}, {})
    if hasattr(fn, "__code__"):
        assert task_input_hash(Seen(ours), {"x": 1}) == task_input_hash(Seen(theirs), {"x": 1})


def test_tasks_without_a_source_file_do_not_share_cached_results():
    made: dict[str, Any] = {}
    exec("def one(x): return x + 1\ndef two(x): return x + 2", made)
    keys = [TASK_SOURCE.compute_key(Seen(audit.task(made[name])), {}, {}) for name in ("one", "two")]
    assert keys[0] != keys[1]


@NAMED
def test_the_function_keeps_its_kind_name_and_signature(fn):
    wrapped = audit.task(fn).fn
    assert inspect.signature(wrapped) == inspect.signature(fn)
    for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert kind(wrapped) == kind(fn)
    assert getattr(wrapped, "__qualname__", None) == getattr(fn, "__qualname__", wrapped.__qualname__)


@pytest.mark.parametrize("made", [audit.task(plain), audit.flow(plain)], ids=["task", "flow"])
def test_instrumenting_twice_does_no_harm(made):
    before = (made.fn, made.on_running_hooks, made.on_completion_hooks, made.on_failure_hooks)
    assert audit.instrument(audit.instrument(made)) is made
    assert (made.fn, made.on_running_hooks, made.on_completion_hooks, made.on_failure_hooks) == before
    assert [len(hooks) for hooks in before[1:]] == [1, 1, 1]


def test_anything_else_is_refused():
    with pytest.raises(UserError, match="not function"):
        audit.instrument(plain)


def test_a_list_of_hooks_that_is_shared_stays_as_it_was():
    shared = [print]
    audited, other = audit.task(plain, on_completion=shared), prefect.task(plain, on_completion=shared)
    assert shared == [print]
    assert not bindings.is_bound(other)
    assert audited.on_completion_hooks[0] is print


@pytest.mark.parametrize("made", [audit.task(plain), audit.task(asynchronous), audit.flow(plain)])
def test_a_copy_with_hooks_of_its_own_stays_recorded(made):
    copy = made.with_options(on_completion=[print], on_running=[print], on_failure=[print])
    assert bindings.is_bound(copy)
    for name in ("on_completion_hooks", "on_running_hooks", "on_failure_hooks"):
        assert getattr(copy, name) == [print, *getattr(made, name)]


@NAMED
def test_a_task_travels_by_pickle(fn):
    arrived = cloudpickle.loads(cloudpickle.dumps(audit.task(fn)))
    assert bindings.is_bound(arrived)
    assert arrived.task_key == audit.task(fn).task_key
    assert len(arrived.on_running_hooks) == 1


def test_hooks_of_the_user_run(events):
    ran = []
    noted = audit.task(plain, on_completion=[lambda task, run, state: ran.append(state.name)])
    assert noted(1) == 2
    assert ran == ["Completed"]
    assert [event["type"] for event in events("task_run.*")] == ["task_run.running", "task_run.completed"]


def test_a_plain_task_is_not_recorded_and_one_instrumented_later_is(events):
    late = prefect.task(plain)
    late(1)
    assert not events("task_run.*")
    audit.instrument(late)
    late(1)
    assert len(events("task_run.*")) == 2


def test_the_bare_function_is_a_bare_function(events):
    @audit.task
    def calls_itself(n):
        if n == 0:
            raise ValueError("the body of no task run")
        with contextlib.suppress(ValueError):
            calls_itself.fn(n - 1)
        return audit.task(plain).fn(n)

    assert audit.task(plain).fn(1) == 2
    assert not events("task_run.*")
    assert calls_itself(1) == 2
    assert [event["type"] for event in events("task_run.*")] == ["task_run.running", "task_run.completed"]


def test_methods_are_recorded_without_their_instance(events):
    class Model:
        @audit.task
        def fit(self, rows):
            return rows

        @audit.task
        @classmethod
        def of(cls, rows):
            return rows

        @audit.task
        @staticmethod
        def free(rows):
            return rows

    assert Model().fit(3) == Model.of(3) == Model.free(3) == 3
    completed = events("task_run.completed")
    assert [event["payload"]["parameters"] for event in completed] == [[{"name": "rows", "value": 3}]] * 3


def test_a_cached_result_is_recorded_for_copies_too(events):
    once = audit.task(plain, cache_policy=INPUTS, persist_result=True)
    once(41)
    once.with_options(on_completion=[lambda task, run, state: None])(41)
    kinds = [event["type"] for event in events("task_run.*")]
    assert kinds == ["task_run.running", "task_run.completed", "task_run.running", "task_run.cached"]
