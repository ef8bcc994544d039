"""Runs that wait, go on, begin anew, nest, are put off or undone: each has its events, in the order in which it was.

Against a real Prefect server, inside this process; what takes a worker of its own is in test_states_deployed.
"""

import asyncio
import gc
import threading
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from prefect import allow_failure, runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import FlowPauseTimeout, Pause
from prefect.flow_runs import apause_flow_run, pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.states import Cancelling, Running, Scheduled, Suspended
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.task_worker import TaskWorker
from prefect.transactions import atransaction, transaction

from audit import flow, task
from audit.events.event import uuid8
from audit.recording import bindings, hooks, runs
from tests.audit.recording import waiting
from tests.audit.recording.waiting import deployed, executed, pauses, resume, somebody_resumes


class Answer(RunInput):
    well: bool


@task(persist_result=True)
def step(x=0):
    return x


@task
async def async_step(x=0):
    return x


def types(found):
    return [event["type"].partition(".")[2] for event in found]


def of(found, name):
    return [event for event in found if event["payload"]["of"] == name]


def attempts(found):
    return [event["payload"]["attempt"] for event in found]


def server_states(run_id):
    """Ids of the states that the server has of a flow run, by name."""
    with get_client(sync_client=True) as client:
        told = client._client.get("/flow_run_states/", params={"flow_run_id": str(run_id)}).json()
    return [(state["name"], state["id"]) for state in told]


@flow
async def pauses_async():
    somebody_resumes()
    await apause_flow_run(timeout=60, poll_interval=1)


@flow
def asks():
    somebody_resumes(well=True)
    assert pause_flow_run(Answer, timeout=60, poll_interval=1).well


@flow
def pauses_in_a_task():
    somebody_resumes()
    waits.submit().result()


@task
def waits():
    pause_flow_run(timeout=60, poll_interval=1)


@pytest.mark.parametrize("waiting", [pauses, pauses_async, asks, pauses_in_a_task], ids=lambda flow: flow.name)
def test_a_pause_and_its_end_are_told_with_the_servers_own_states(events, waiting):
    asyncio.run(waiting()) if waiting.isasync else waiting()
    found = events("flow_run.*")
    assert types(found) == ["running", "paused", "resumed", "completed"]
    assert attempts(found) == [1, 1, 1, 1]
    run_id = found[0]["flow_run_id"]
    told = [(event["payload"]["state"], event["payload"]["state_id"]) for event in found]
    assert told == server_states(run_id)[1:]  # the first is Pending
    assert [event["id"] for event in found] == [
        uuid8(state, run_id, state, event["type"]) for event, (_, state) in zip(found, told, strict=True)
    ]
    assert all(earlier["time"] < later["time"] for earlier, later in pairwise(found))


def test_what_a_run_was_before_its_pause_does_not_end_it():
    run = FlowRun(flow_id=uuid4())
    before, pause, after = (Running(timestamp=datetime(2026, 1, 1, 12, minute, tzinfo=UTC)) for minute in range(3))
    assert not runs.goes_on(run.id, after), "it does not wait"
    runs.of_flow_run(run).paused_at = pause.timestamp
    assert not runs.goes_on(run.id, before), "somebody asked while it was about to pause"
    assert runs.goes_on(run.id, after)
    runs.forget_flow_run(run)


def test_a_pause_that_nobody_ends_is_a_failure(events):
    @flow
    def waits():
        pause_flow_run(timeout=1, poll_interval=1)

    with pytest.raises(FlowPauseTimeout):
        waits()
    assert types(events("flow_run.*")) == ["running", "paused", "attempt_failed", "failed"]


def test_a_subflow_pauses_for_itself(events):
    @flow
    def around():
        return pauses()

    around()
    found = events("flow_run.*")
    assert types(of(found, "pauses")) == ["running", "paused", "resumed", "completed"]
    assert types(of(found, "around")) == ["running", "completed"]


def test_a_suspended_run_goes_on_in_the_same_attempt_and_takes_its_results_from_the_cache(events):
    @flow(persist_result=True)
    def suspends():
        step(1)
        suspend_flow_run(timeout=60)
        return step(2)

    run_id = deployed(suspends)
    with pytest.raises(Pause):
        executed(suspends, run_id)
    resume(run_id)
    executed(suspends, run_id)

    found = events("flow_run.*")
    assert types(found) == ["running", "suspended", "resumed", "completed"]
    assert attempts(found) == [1, 1, 1, 1]
    assert found[2]["payload"]["surroundings"]["process_id"], "it may be another process, on another machine"
    assert [state for state in server_states(run_id) if state[0] in ("Suspended", "Running")] == [
        (event["payload"]["state"], event["payload"]["state_id"]) for event in found[:3]
    ]
    assert types(events("task_run.*")) == ["running", "completed", "running", "cached", "running", "completed"]


def test_nothing_is_kept_of_a_run_that_has_left(events):
    gc.collect()
    before = runs.known_here()
    with pytest.raises(Pause):
        executed(waiting.suspends, deployed(waiting.suspends))
    gc.collect()
    assert types(events("flow_run.*")) == ["running", "suspended"]
    assert runs.known_here() <= before


def test_a_run_that_is_suspended_from_outside_leaves_at_its_next_task_and_what_that_interrupts_has_an_end(events):
    @task
    def goes_on_and_on():
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(runtime.flow_run.id), Suspended(timeout_seconds=60))
        while True:
            step(0)

    @flow(persist_result=True)
    def is_suspended():
        goes_on_and_on()

    with pytest.raises(Pause):
        executed(is_suspended, deployed(is_suspended))
    assert types(events("flow_run.*")) == ["running", "suspended"]
    assert types(of(events("task_run.*"), "goes_on_and_on")) == ["running", "cancelled"]
    assert {event["payload"]["error"]["kind"] for event in events("task_run.cancelled")} == {"prefect.exceptions.Pause"}


def test_what_is_cancelled_once_more_is_told_once_more(events):
    @flow
    def cancelled():
        return None

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(deployed(cancelled))
    for run_count in (1, 1, 2):  # twice for one cancellation, as a worker that polls and listens may call
        hooks.record_flow_end(cancelled, run.model_copy(update={"run_count": run_count}), Cancelling())
    assert attempts(events("flow_run.cancelled")) == [1, 2]


def test_a_subflow_that_somebody_cancels_alone_goes_on_until_its_end(events):
    @flow
    def inner():
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(runtime.flow_run.id), Cancelling())
        return step(1)

    @flow
    def outer():
        inner(return_state=True)

    outer()
    found = events("flow_run.*")
    assert types(of(found, "inner")) == ["running", "cancelled"]
    assert types(of(found, "outer")) == ["running", "completed"]
    assert types(events("task_run.*")) == ["running", "completed"]
    assert server_states(of(found, "inner")[0]["flow_run_id"])[-1][0] == "Cancelling", "and there it stays for ever"


def test_a_failed_run_that_somebody_retries_is_a_further_attempt(events):
    healed = []

    @flow(persist_result=True)
    def fails_once():
        step(1)
        if not healed:
            raise ValueError("not yet")
        return step(2)

    run_id = deployed(fails_once)
    assert executed(fails_once, run_id).is_failed()
    healed.append(True)
    with get_client(sync_client=True) as client:  # what the button Retry does
        client.set_flow_run_state(run_id, Scheduled(name="AwaitingRetry"))
    assert executed(fails_once, run_id).is_completed()

    found = events("flow_run.*")
    assert types(found) == ["running", "attempt_failed", "failed", "retrying", "completed"]
    assert attempts(found) == [1, 1, 1, 2, 2]
    assert types(events("task_run.*")) == ["running", "completed", "running", "cached", "running", "completed"]


def test_flows_nest_in_flows_and_tasks_and_name_the_run_around_them(events):
    @flow
    def innermost():
        return step()

    @task
    def calls():
        return innermost()

    @flow
    async def inner(n):
        return await async_step(n)

    @flow
    async def outer():
        await asyncio.gather(inner(1), inner(2))
        return calls()

    asyncio.run(outer())
    found = events("flow_run.running")
    assert [event["payload"]["of"] for event in found].count("inner") == 2
    top = of(found, "outer")[0]["flow_run_id"]
    assert {event["payload"].get("parent_flow_run_id") for event in found} == {None, top}
    assert {event["payload"]["of"] for event in events("task_run.*")} == {"async_step", "step", "calls"}
    assert len(events("task_run.completed")) == 4, "Prefect's own row for a nested flow is no task run"
    ended = of(events("flow_run.completed"), "innermost")[0]
    assert ended["payload"]["parent_flow_run_id"] == top
    assert of(events("task_run.running"), "step")[0]["flow_run_id"] == ended["flow_run_id"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_what_a_transaction_undoes_is_told_once_for_each_task_run_and_users_hooks_are_called(events, asynchronous):
    called = []

    def first():
        return 1

    def second():
        raise ValueError("undo it")

    async def first_async():
        return first()

    async def second_async():
        return second()

    doing, failing = (task(first_async), task(second_async)) if asynchronous else (task(first), task(second))
    doing.on_rollback(lambda txn: called.append("undone"))
    doing.on_commit(lambda txn: called.append("kept"))

    async def all_async():
        async with atransaction():
            await doing()
            await failing()

    def all_sync():
        with transaction():
            doing()
            failing()

    flow(all_async if asynchronous else all_sync)(return_state=True) if not asynchronous else asyncio.run(
        flow(all_async)(return_state=True)
    )
    found = events("task_run.*")
    assert types(of(found, doing.name)) == ["running", "completed", "rolled_back"]
    assert types(of(found, failing.name)) == ["running", "attempt_failed", "failed"]
    assert called == ["undone"]

    asyncio.run(doing()) if asynchronous else doing()
    assert called == ["undone", "kept"]
    assert types(of(events("task_run.*"), doing.name))[3:] == ["running", "completed"]


def test_futures_that_nobody_waited_for_have_an_end_or_never_began(events):
    began, first = [], threading.Event()

    @task
    def begins(n):
        began.append(n)
        first.set()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def leaves():
        for n in range(200):
            begins.submit(n)
        first.wait(60)

    leaves()
    found = events("task_run.*")
    told = {
        run: types([event for event in found if event["task_run_id"] == run])
        for run in {e["task_run_id"] for e in found}
    }
    assert 0 < len(began) < 200
    assert sum("completed" in states for states in told.values()) == len(began)
    assert {tuple(states) for states in told.values()} <= {("running", "completed"), ("running", "crashed")}


def test_failures_that_a_flow_allows_are_failures_all_the_same(events):
    @task
    def fails(x):
        raise ValueError("allowed")

    @task
    def after(x):
        return isinstance(x, ValueError)

    @flow
    def allows():
        failed = fails.submit(1)
        assert after(allow_failure(failed))
        assert after.submit(failed, return_state=True).name == "NotReady"
        assert isinstance(failed.result(raise_on_failure=False), ValueError)
        return fails(2, return_state=True).is_failed()

    assert allows()
    found = events("task_run.*")
    assert types(of(found, "fails")) == ["running", "attempt_failed", "failed"] * 2
    assert sorted(types(of(found, "after"))) == ["completed", "not_ready", "running"]


def test_a_flow_that_is_out_of_time_leaves_no_task_run_without_an_end(events):
    @task
    async def sleeps():
        await asyncio.sleep(30)

    @flow(timeout_seconds=1)
    async def slow():
        await asyncio.gather(sleeps(), sleeps())

    asyncio.run(slow(return_state=True))
    assert types(events("flow_run.*")) == ["running", "attempt_failed", "timed_out"]
    assert sorted(types(events("task_run.*"))) == ["crashed", "crashed", "running", "running"]


def test_a_task_run_that_is_put_off_is_on_record_before_anybody_runs_it(events):
    @task
    def later(x):
        return x + 1

    @flow
    def puts_off():
        return later.delay(3).task_run_id

    put_off = puts_off()
    (scheduled,) = events("task_run.*")
    assert scheduled["type"] == "task_run.scheduled"
    assert scheduled["task_run_id"] == str(put_off)
    assert scheduled["flow_run_id"] == events("flow_run.running")[0]["flow_run_id"]
    assert scheduled["payload"]["parameters"] == [{"name": "x", "value": 3}]

    with get_client(sync_client=True) as client:
        task_run = client.read_task_run(put_off)

    async def serve() -> None:
        await TaskWorker(later).execute_task_run(task_run)

    asyncio.run(serve())
    found = events("task_run.*")
    assert types(found) == ["scheduled", "running", "completed"]
    assert {event["task_run_id"] for event in found} == {str(put_off)}
    assert {event["flow_run_id"] for event in found} == {scheduled["flow_run_id"]}


def test_what_is_put_off_outside_of_a_flow_is_on_record_too(events):
    @task
    async def later(x, y=2):
        return x + y

    put_off = later.map([1, 2], deferred=True)
    assert {event["task_run_id"] for event in events("task_run.scheduled")} == {
        str(future.task_run_id) for future in put_off
    }


@pytest.mark.parametrize("point", [point.name for point in bindings._POINTS])
def test_canary_each_private_point_takes_what_it_took(point):
    assert point not in bindings.UNBOUND
