"""What an event says of a run, and that recording never changes what the run does."""

import asyncio
import gc
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import prefect
import pytest
from prefect import tags, task_engine
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.exceptions import ParameterTypeError
from prefect.states import Completed, Failed, Running

from audit import flow, instrument, task
from audit.errors import AuditUnavailable
from audit.events.references import DatasetVersion, ModelVersion
from audit.events.vocabulary import VOCABULARY
from audit.recording import bindings, hooks, recorder, runs
from audit.settings import settings


def dataset(name: str, version: int = 1) -> DatasetVersion:
    hexed = f"{hash(name) % 2**32:064x}"
    return DatasetVersion(
        address=f"artifact://sha256/{hexed}", digest=f"sha256:{hexed}", name=name, version=version, rows=3
    )


MODEL = ModelVersion(address="artifact://sha256/aa", digest="sha256:bb", name="flights", version=2)


def types(found: list[dict[str, object]]) -> list[object]:
    return [event["type"] for event in found]


def test_lineage_is_read_off_arguments_and_results(events):
    @task
    def ingest():
        return dataset("flights/ingested")

    @task
    def join(rows, others, named):
        return [dataset("flights/train"), {"model": MODEL}]

    @flow
    def joins():
        join(ingest.submit(), (dataset("a"), [dataset("b")]), {"m": MODEL, "n": 3})

    joins()
    done = next(event["payload"] for event in events("task_run.completed") if event["payload"]["of"] == "join")
    assert [(used["name"], used["of"]) for used in done["inputs"]] == [
        ("rows", "flights/ingested"), ("others", "a"), ("others", "b"), ("named", "flights"),
    ]  # fmt: skip
    assert [(used["name"], used["kind"], used["version"]) for used in done["outputs"]] == [
        ("return", "dataset", 1), ("return", "model", 2),
    ]  # fmt: skip
    assert done["flow_name"] == "joins"


def test_inputs_of_a_cached_run_are_on_record_though_its_body_never_ran(events):
    @task(cache_key_fn=lambda context, parameters: "the same", persist_result=True)
    def once(rows):
        return rows

    once(dataset("a"))
    once(dataset("a"))
    cached = events("task_run.cached")[0]["payload"]
    assert cached["inputs"][0]["of"] == cached["outputs"][0]["of"] == "a"


def test_parameters_are_on_record_without_what_is_secret(events):
    @task
    def connect(password, rows):
        raise ValueError("refused for jane.doe@example.org")

    with pytest.raises(ValueError, match=r"jane\.doe"):
        connect("hunter2-hunter2", rows=5)
    everything = str(events())
    assert "hunter2" not in everything
    assert "jane.doe" not in everything
    assert {"name": "rows", "value": 5} in events("task_run.failed")[0]["payload"]["parameters"]


def fails(x):
    raise ValueError(f"with {x}")


async def fails_async(x):
    raise ValueError(f"with {x}")


def fails_yielding(x):
    yield x
    raise ValueError(f"with {x}")


async def fails_yielding_async(x):
    yield x
    raise ValueError(f"with {x}")


async def drain(readable):
    return [item async for item in readable]


@pytest.mark.parametrize("fn", [fails, fails_async, fails_yielding, fails_yielding_async], ids=lambda fn: fn.__name__)
def test_every_attempt_of_a_task_is_told_with_its_error(events, fn):
    failing = task(fn, retries=1)
    with pytest.raises(ValueError, match="with 7"):
        if failing.isasync:
            asyncio.run(drain(failing(7)) if failing.isgenerator else failing(7))
        else:
            list(failing(7))
    found = events("task_run.*")
    assert types(found) == [
        "task_run.running", "task_run.attempt_failed", "task_run.retrying", "task_run.attempt_failed",
        "task_run.failed",
    ]  # fmt: skip
    assert [event["payload"]["attempt"] for event in found] == [1, 1, 2, 2, 2]
    assert {event["payload"]["error"]["message"] for event in found if "fail" in event["type"]} == {"with 7"}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_every_attempt_of_a_flow_is_told_with_its_error(events, asynchronous):
    tries = []

    def fails_twice():
        tries.append(1)
        if len(tries) < 3:
            raise ValueError(f"try {len(tries)}")
        return MODEL

    if asynchronous:

        @flow(retries=2)
        async def trying():
            return fails_twice()

        asyncio.run(trying())
    else:
        instrument(prefect.flow(fails_twice, retries=2))()
    found = events("flow_run.*")
    assert types(found) == [
        "flow_run.running", "flow_run.attempt_failed", "flow_run.retrying", "flow_run.attempt_failed",
        "flow_run.retrying", "flow_run.completed",
    ]  # fmt: skip
    assert [event["payload"]["attempt"] for event in found] == [1, 1, 2, 2, 3, 3]
    assert [found[i]["payload"]["error"]["message"] for i in (1, 3)] == ["try 1", "try 2"]
    assert found[-1]["payload"]["outputs"][0]["of"] == "flights"
    assert found[0]["payload"]["surroundings"]["python"]
    assert found[0]["payload"]["code"]["source_digest"]


def test_the_ways_in_which_a_flow_ends_badly_are_told_apart(events):
    @flow(timeout_seconds=0.2)
    def slow():
        time.sleep(5)

    @flow
    def takes(n: int):
        return n

    @flow
    def leaves():
        raise SystemExit(4)

    slow(return_state=True)
    with pytest.raises(ParameterTypeError):
        takes("no number")
    with pytest.raises(SystemExit):
        leaves()
    assert types(events("flow_run.*")) == [
        "flow_run.running", "flow_run.attempt_failed", "flow_run.timed_out",
        "flow_run.failed",
        "flow_run.running", "flow_run.crashed",
    ]  # fmt: skip


def test_a_subflow_names_its_parent(events):
    @flow
    def child(n: int):
        return n

    @flow
    def parent():
        return child(1) + child.with_options(name="again")(2)

    assert parent() == 3
    running = events("flow_run.running")
    assert [event["payload"].get("parent_flow_run_id") for event in running] == [
        None, running[0]["flow_run_id"], running[0]["flow_run_id"],
    ]  # fmt: skip
    assert not events("task_run.*")


@pytest.mark.parametrize("last", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_what_ends_the_process_is_told_before_it_does(events, last, asynchronous):
    def ends():
        raise last

    async def ends_async():
        raise last

    with pytest.raises(type(last)):
        asyncio.run(task(ends_async)()) if asynchronous else task(ends)()
    assert types(events("task_run.*")) == ["task_run.running", "task_run.crashed"]
    assert events("task_run.crashed")[0]["payload"]["error"]["kind"] == type(last).__name__


def test_a_cancelled_task_with_a_time_out_is_crashed_and_not_timed_out(events):
    began = asyncio.Event()

    @task(timeout_seconds=30)
    async def waits():
        began.set()
        await asyncio.sleep(30)

    async def cancel() -> None:
        running = asyncio.ensure_future(waits())
        await began.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(cancel())
    assert types(events("task_run.*")) == ["task_run.running", "task_run.crashed"]


def test_a_time_out_is_a_failed_attempt_each_time(events):
    @task(timeout_seconds=0.1, retries=1)
    def slow():
        time.sleep(5)

    slow(return_state=True)
    found = events("task_run.*")
    assert types(found) == [
        "task_run.running", "task_run.attempt_failed", "task_run.retrying", "task_run.attempt_failed",
        "task_run.timed_out",
    ]  # fmt: skip
    assert [event["payload"]["attempt"] for event in found] == [1, 1, 2, 2, 2]


@pytest.fixture
def no_store(home: Path, prefect_server: None) -> Path:
    """AUDIT_HOME is a file: neither store, nor spool, nor log can be written."""
    home.write_text("not a folder")
    return home


def test_an_audit_that_cannot_write_changes_neither_result_nor_exception(no_store, caplog):
    @task(retries=1)
    def divides(x):
        return 1 / x

    @flow
    def dividing(x):
        return divides(x)

    assert dividing(4) == 0.25
    with pytest.raises(ZeroDivisionError):
        dividing(0)
    assert "NOT ON RECORD" in caplog.text or "not on record" in caplog.text


def test_in_mode_strict_no_body_starts_unrecorded(no_store, monkeypatch):
    monkeypatch.setenv("AUDIT_MODE", "strict")
    settings.cache_clear()
    ran = []

    @task
    def body():
        ran.append(1)

    @task
    async def async_body():
        ran.append(1)

    with pytest.raises(AuditUnavailable, match="not begun"):
        body()
    with pytest.raises(AuditUnavailable, match="not begun"):
        asyncio.run(async_body())
    assert not ran


@pytest.mark.parametrize("raised", [KeyboardInterrupt, asyncio.CancelledError], ids=lambda raised: raised.__name__)
def test_signals_and_time_outs_pass_through_a_hook(raised):
    def strikes() -> None:
        raise raised

    with pytest.raises(raised):
        hooks.warn_if_lost(strikes)


@pytest.mark.parametrize("raised", [ValueError("of jane"), SystemExit(1)], ids=lambda raised: type(raised).__name__)
def test_an_error_of_ours_becomes_a_warning_without_values(raised, caplog):
    def breaks() -> None:
        raise raised

    hooks.warn_if_lost(breaks)
    assert type(raised).__name__ in caplog.text
    assert "jane" not in caplog.text


def test_every_state_of_a_task_run_is_an_event_of_the_vocabulary_or_none():
    run = TaskRun(task_key="t", dynamic_key="0")
    found = {hooks.task_event_type(run, State(type=kind)) for kind in StateType} - {None}
    assert found <= VOCABULARY.keys()
    assert len(found) == 5


def test_one_state_has_one_id_in_the_order_of_time():
    run, state = TaskRun(task_key="t", dynamic_key="0"), Running()
    id = hooks.task_event_id(run, state, "task_run.running")
    assert id == hooks.task_event_id(run, state, "task_run.running")
    assert id != hooks.task_event_id(TaskRun(task_key="t", dynamic_key="0"), state, "task_run.running")
    assert UUID(id).version == 8
    assert UUID(id).int >> 80 == UUID(str(state.id)).int >> 80


def test_nothing_is_kept_of_runs_that_ended(events):
    @task
    def adds(x):
        return x + 1

    @flow
    def adding():
        return adds.map(range(5)).result()

    gc.collect()
    before = runs.known_here()
    adding()
    gc.collect()
    assert runs.known_here() <= before


def test_canary_prefects_private_points_are_where_they_were():
    assert bindings.UNBOUND == ()
    assert hasattr(task_engine.emit_task_run_state_change_event, "__audit_original__")


def test_an_unknown_prefect_is_left_alone_and_that_is_told(monkeypatch):
    monkeypatch.setattr(prefect, "__version__", "4.0.0")
    assert "task_engine.emit_task_run_state_change_event" in bindings.bind_engines()


def test_a_point_that_takes_other_parameters_is_left_alone(monkeypatch):
    def moved(task_run_id: UUID) -> None: ...

    monkeypatch.setattr(task_engine, "emit_task_run_state_change_event", moved)
    assert bindings.bind_engines() == ("task_engine.emit_task_run_state_change_event",)
    assert task_engine.emit_task_run_state_change_event is moved


def test_without_the_private_points_hooks_and_wrapper_go_on(events, monkeypatch):
    original = task_engine.emit_task_run_state_change_event.__audit_original__
    monkeypatch.setattr(task_engine, "emit_task_run_state_change_event", original)
    copy = prefect.Task.with_options.__audit_original__
    monkeypatch.setattr(prefect.Task, "with_options", copy)

    @task(retries=1)
    def fails():
        return Failed(message="as agreed")

    @task
    def leaves():
        raise SystemExit(2)

    fails(return_state=True)
    with pytest.raises(SystemExit):
        leaves()
    fails.with_options(retries=0, on_running=[print], on_failure=[print])(return_state=True)
    assert types(events("task_run.*")) == [
        "task_run.running", "task_run.attempt_failed", "task_run.retrying", "task_run.attempt_failed",
        "task_run.failed",
        "task_run.running", "task_run.crashed",
        "task_run.running", "task_run.attempt_failed", "task_run.failed",
    ]  # fmt: skip


class Proxy:
    """A lazy proxy outside of its context."""

    def __getattr__(self, name):
        raise RuntimeError("outside of context")


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("mode", ["spool", "strict"])
def test_a_run_is_on_record_though_its_parameters_or_error_cannot_be_shown(events, monkeypatch, mode):
    monkeypatch.setenv("AUDIT_MODE", mode)
    settings.cache_clear()

    @task(cache_policy=NO_CACHE)
    def takes(x):
        raise ValueError

    for odd in (Proxy(), 10**5000):
        takes(odd, return_state=True)
    assert types(events("task_run.*")) == ["task_run.running", "task_run.attempt_failed", "task_run.failed"] * 2
    assert "could not be shown" in str(events("task_run.failed")[0]["payload"]["parameters"])


def test_an_error_that_cannot_be_shown_is_on_record_though_prefect_trips_over_it(events):
    @task
    def mute():
        raise Mute

    with pytest.raises(RuntimeError, match="no"):
        mute()
    assert types(events("task_run.*")) == ["task_run.running", "task_run.attempt_failed"]
    assert "could not be shown" in events("task_run.attempt_failed")[0]["payload"]["error"]["message"]


def test_what_a_hook_could_not_put_on_record_is_counted_as_lost(events):
    def breaks() -> None:
        raise ValueError

    before = recorder._recorder().dropped
    hooks.warn_if_lost(breaks)
    assert recorder._recorder().dropped == before + 1


def test_what_users_name_is_redacted_too(events):
    someone = "ann.planted@example.org"

    @task(name=f"task of {someone}", task_run_name=f"run of {someone}")
    def named(**given):
        return Completed(name=f"for {someone}")

    @flow(name=f"flow of {someone}")
    def naming():
        with tags(someone):
            return named(**{someone: dataset("a")})

    naming()
    assert "ann.planted" not in str([event["payload"] for event in events()])
    assert events("task_run.completed")[0]["payload"]["inputs"][0]["of"] == "a"


@pytest.fixture
def locked(events, home) -> Iterator[sqlite3.Connection]:
    """A way to lock the store of this test, as another process would."""

    @flow
    def first():
        return 1

    first()
    with closing(sqlite3.connect(home / "audit.db", isolation_level=None, check_same_thread=False)) as other:
        yield other


def test_a_locked_store_does_not_turn_a_failure_into_a_time_out(locked, events):
    @task(timeout_seconds=0.9)
    def fails():
        locked.execute("BEGIN IMMEDIATE")
        raise ValueError("mine")

    state = fails(return_state=True)
    locked.execute("ROLLBACK")
    assert state.name == "Failed"


def test_a_locked_store_does_not_hold_up_the_event_loop(locked, events):
    gaps = []

    async def beats() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - began)

    @task(retries=1, retry_delay_seconds=0.2)
    async def fails():
        if not locked.in_transaction:
            locked.execute("BEGIN IMMEDIATE")
        raise ValueError("mine")

    @flow
    async def failing():
        beating = asyncio.create_task(beats())
        state = await fails(return_state=True)
        beating.cancel()
        return state.name

    assert asyncio.run(failing()) == "Failed"
    locked.execute("ROLLBACK")
    assert max(gaps) < 0.9


def test_a_failed_attempt_is_told_with_the_time_at_which_it_failed(events):
    @task(retries=1, retry_delay_seconds=0.5)
    def fails():
        raise ValueError("mine")

    fails(return_state=True)
    first, second = events("task_run.attempt_failed")
    (retrying,) = events("task_run.retrying")
    assert first["time"] < retrying["time"] < second["time"]
    assert first["seq"] < retrying["seq"] < second["seq"]


def test_a_runs_log_is_not_filled_with_words_about_our_hooks(events):
    """Prefect says of every hook and state that it runs, and that it ran."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    def mine(task, task_run, state):
        raise RuntimeError("on purpose")

    @task(on_completion=[mine])
    def step(): ...

    @flow
    def steps():
        prefect.get_run_logger().info("Hook of the crane, 400 kg")
        step()

    loggers, keep = [logging.getLogger(f"prefect.{name}") for name in ("task_runs", "flow_runs")], Keep()
    for logger in loggers:
        logger.addHandler(keep)
    steps()
    for logger in loggers:
        logger.removeHandler(keep)
    assert [line for line in said if "hook" in line.lower()] == [
        "Hook of the crane, 400 kg",
        "Running hook 'mine' in response to entering state 'Completed'",
        "An error was encountered while running hook 'mine'",
    ]
    assert any("task_run.completed" in line for line in said)
