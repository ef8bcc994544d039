"""Flows and tasks that never mention us are on record once everything is that is defined."""

import asyncio
import gc
import inspect
import json
import sys
from typing import Any

import prefect
import pytest
from prefect import Flow, Task, task_engine
from prefect.assets import materialize
from prefect.cache_policies import INPUTS
from prefect.runner import _workspace_hook_runner, _workspace_supervisor
from prefect.tasks import MaterializingTask
from prefect.utilities import processutils
from typer.testing import CliRunner

import audit
from audit.cli.app import app
from audit.errors import AuditError, AuditUnavailable
from audit.recording import bindings, plugin
from audit.settings import settings

ALL_STATES = "task_engine.emit_task_run_state_change_event"


@pytest.fixture
def init_given_back(monkeypatch):
    """Prefect's classes as they are without us, and again after the test; what others have defined is left to them."""
    for made in plugin.MADE:
        monkeypatch.setattr(made, "__init__", made.__init__)
    gc.freeze()  # what is there by now is not found by who looks for flows and tasks
    yield
    gc.unfreeze()


@pytest.fixture
def everything_recorded(init_given_back):
    plugin.record_what_is_defined()


def types(found: list[dict[str, Any]]) -> list[str]:
    return [event["type"].partition(".")[2] for event in found]


def plain(x):
    return x + 1


async def asynchronous(x):
    return x + 1


def generator(x):
    yield x + 1


async def async_generator(x):
    yield x + 1


def outcome(of: Task[Any, Any] | Flow[Any, Any], x: int) -> Any:
    """What a run of any kind comes to."""

    async def drained() -> list[Any]:
        return [item async for item in of(x)]

    if of.isgenerator:
        (last,) = asyncio.run(drained()) if of.isasync else list(of(x))
        return last
    return asyncio.run(of(x)) if of.isasync else of(x)


class OfTheirs(Task):
    def __init__(self, fn, **options):
        super().__init__(fn, **options, name="theirs")


class FlowOfTheirs(Flow):
    pass


@pytest.mark.parametrize("fn", [plain, asynchronous, generator, async_generator], ids=lambda fn: fn.__name__)
def test_tasks_and_flows_of_every_kind_are_on_record(everything_recorded, events, fn):
    for made, kind in ((prefect.task(fn), "task_run"), (prefect.flow(fn), "flow_run"), (OfTheirs(fn), "task_run")):
        before = len(events(f"{kind}.*"))
        assert outcome(made, 1) == 2
        assert types(events(f"{kind}.*")[before:]) == ["running", "completed"]


def test_copies_methods_and_what_is_defined_on_the_way_are_on_record(everything_recorded, events):
    class Model:
        @prefect.task
        def fit(self, x):
            return x

        @prefect.task
        @classmethod
        def of(cls, x):
            return x

        @prefect.task
        @staticmethod
        def free(x):
            return x

        @prefect.flow
        def whole(self, x):
            return self.fit(x)

    @FlowOfTheirs
    def outer():
        @prefect.task
        def inside():
            return 1

        renamed = inside.with_options(name="renamed", on_completion=[lambda task, run, state: None])
        return inside() + renamed() + Model.of(1) + Model.free(1) + Model().whole(1)

    assert outer() == 5
    names = [event["payload"]["of"] for event in events("task_run.completed")]
    assert names == ["inside", "renamed", "of", "free", "fit"]
    assert [event["payload"]["of"] for event in events("flow_run.completed")] == ["whole", "outer"]


def test_a_materializing_task_and_its_copies_stay_what_they_are_and_are_on_record(everything_recorded, events):
    @materialize("s3://bucket/table")
    def table():
        return 1

    for made in (table, table.with_options(name="renamed")):
        assert type(made) is MaterializingTask
        assert [asset.key for asset in made.assets] == ["s3://bucket/table"]
        assert made() == 1
    assert types(events("task_run.*")) == ["running", "completed"] * 2


def test_every_attempt_is_on_record_with_its_error_and_so_is_what_was_cached_or_never_ready(
    everything_recorded, events
):
    tries: list[int] = []

    @prefect.task(retries=2)
    def third_time_lucky():
        tries.append(1)
        if len(tries) < 3:
            raise ValueError(f"try {len(tries)}")

    @prefect.task(cache_policy=INPUTS, persist_result=True)
    def once(x):
        return x

    @prefect.task
    def fails():
        raise ValueError("always")

    @prefect.task
    def waits(x): ...

    @prefect.flow
    def all_of_them():
        third_time_lucky()
        once(id(tries))
        once(id(tries))
        failing = fails.submit()
        waits.submit(failing).wait()
        return 1

    all_of_them()
    found = events("task_run.*")
    said = {name: types([e for e in found if e["payload"]["of"] == name]) for name in ("third_time_lucky", "once")}
    assert said["third_time_lucky"] == [
        "running", "attempt_failed", "retrying", "attempt_failed", "retrying", "completed",
    ]  # fmt: skip
    assert said["once"] == ["running", "completed", "running", "cached"]
    errors = [e["payload"]["error"]["message"] for e in events("task_run.attempt_failed")]
    assert errors == ["try 1", "try 2", "always"]
    assert [e["payload"]["of"] for e in events("task_run.not_ready")] == ["waits"]


def test_what_says_itself_that_it_is_recorded_is_not_recorded_twice(everything_recorded, events):
    twice = audit.task(plain)
    assert audit.instrument(twice).fn.__wrapped__ is plain
    assert [len(hooks) for hooks in (twice.on_running_hooks, twice.on_completion_hooks, twice.on_failure_hooks)] == [
        1
    ] * 3
    assert audit.flow(plain)(1) == twice(1) == 2
    assert types(events("*_run.*")) == ["running", "completed"] * 2


def test_twice_does_no_harm(everything_recorded):
    before = [made.__init__ for made in plugin.MADE]
    plugin.record_what_is_defined()
    assert [made.__init__ for made in plugin.MADE] == before


@pytest.mark.parametrize("made", plugin.MADE, ids=lambda made: made.__name__)
def test_canary_flows_and_tasks_are_made_of_a_function(made):
    assert tuple(inspect.signature(made.__init__).parameters)[:2] == plugin.TAKES


def test_prefects_classes_look_as_before(init_given_back):
    before = [
        (inspect.signature(made), inspect.signature(made.__init__), made.__init__.__doc__) for made in plugin.MADE
    ]
    plugin.record_what_is_defined()
    assert before == [
        (inspect.signature(made), inspect.signature(made.__init__), made.__init__.__doc__) for made in plugin.MADE
    ]


def test_where_flows_are_made_otherwise_nothing_is_changed_and_that_is_told(init_given_back, monkeypatch):
    def moved(self, definition): ...

    monkeypatch.setattr(Flow, "__init__", moved)
    before = Task.__init__
    with pytest.raises(AuditError, match=r"prefect\.Flow is made of self, definition"):
        plugin.record_what_is_defined()
    assert (Task.__init__, Flow.__init__, plugin.is_on()) == (before, moved, False)


def test_without_a_private_point_hooks_go_on_and_record_and_status_say_so(everything_recorded, events, monkeypatch):
    """What no hook is called for is missing then: a task that was never ready, and what the transaction took back."""
    monkeypatch.setattr(
        task_engine, "emit_task_run_state_change_event", task_engine.emit_task_run_state_change_event.__audit_original__
    )
    monkeypatch.setattr(bindings, "UNBOUND", (ALL_STATES,))

    @prefect.task(retries=1)
    def fails():
        raise ValueError("always")

    @prefect.task
    def waits(x): ...

    @prefect.flow
    def without():
        waits.submit(fails.submit()).wait()
        return prefect.task(plain)(1)

    assert without() == 2
    assert types(events("task_run.*")) == [
        "running", "attempt_failed", "retrying", "attempt_failed", "failed", "running", "completed",
    ]  # fmt: skip
    assert events("flow_run.running")[0]["payload"]["recording"] == {"plugin": True, "unbound": [ALL_STATES]}

    found = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
    assert found["all_states_seen"] is False
    said = " ".join(CliRunner().invoke(app, ["status"]).stdout.split())
    assert f"may be incomplete: the newest flow run could not bind {ALL_STATES}" in said


def test_canary_prefect_calls_the_hooks_of_a_workers_runs_by_its_own_script():
    """In a process that imports Prefect inside a running loop; plugins are left out there unless it comes first."""
    assert _workspace_hook_runner.run_process is processutils.run_process
    engine = [sys.executable, "-m", "prefect.engine"]
    python, script, operation = _workspace_supervisor._hook_command(engine)
    assert plugin.prefect_first([python, script, operation, "crashed", "run.json"]) == [
        python, "-P", "-c", plugin.PREFECT_FIRST, script, operation, "crashed", "run.json",
    ]  # fmt: skip
    assert plugin.prefect_first(engine) == engine


def test_an_error_in_a_definition_is_the_users(everything_recorded):
    with pytest.raises(TypeError, match="'fn' must be callable"):
        Task("no function")


class Closed(Task):
    """A task that nobody may change once it is made."""

    def __setattr__(self, name, value):
        if name == "fn" and "fn" in vars(self):
            raise AttributeError("closed")
        super().__setattr__(name, value)


def test_what_cannot_be_recorded_runs_all_the_same_and_is_told(everything_recorded, events, caplog):
    assert Closed(plain)(1) == 2
    assert "Closed 'plain' cannot be recorded (AttributeError: closed). NOTHING OF IT" in caplog.text


def test_in_mode_strict_what_cannot_be_recorded_is_not_even_defined(everything_recorded, home, monkeypatch):
    monkeypatch.setenv("AUDIT_MODE", "strict")
    settings.cache_clear()
    with pytest.raises(AuditUnavailable, match="Closed 'plain' cannot be recorded"):
        Closed(plain)


def test_instrument_of_nothing_takes_what_is_there_and_what_comes(init_given_back, events):
    there, flow_there = prefect.task(plain), prefect.flow(plain)
    assert audit.instrument() is None
    comes = prefect.task(plain)
    assert there(1) == flow_there(1) == comes(1) == 2
    assert types(events("task_run.*")) == ["running", "completed"] * 2
    assert types(events("flow_run.*")) == ["running", "completed"]
    assert events("flow_run.running")[0]["payload"]["recording"]["plugin"] is True


class Proxy:
    """Stands for an object outside of whose context it is asked nothing."""

    @property
    def __class__(self):
        raise RuntimeError("outside of context")


def test_instrument_asks_nothing_of_what_else_there_is(init_given_back):
    proxy = Proxy()
    assert any(one is proxy for one in gc.get_objects())
    audit.instrument()


def test_a_run_says_whether_everything_was_recorded_around_it(init_given_back, events):
    audit.flow(plain)(1)
    assert events("flow_run.running")[0]["payload"]["recording"] == {"plugin": False, "unbound": []}
