"""What only Prefect knows comes on record as that, and what nobody will see end is given up, once."""

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import prefect
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_RETRY_JITTER_FACTOR,
    temporary_settings,
)

from audit import flow, task
from audit.events.canonical import timestamp
from audit.events.event import Event, make_event, uuid7
from audit.events.payloads import CompletenessFacts, Payload, RunState
from audit.recording import abandoned, circumstances, prefect_api, processes, recorder
from audit.recording.abandoned import abandon_gone, abandon_task_runs
from audit.recording.reconcile import SETTLED, Compared, compare, reconcile
from audit.settings import settings
from audit.store import completeness as store_of
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store
from tests.audit.recording.conftest import Events
from tests.audit.recording.test_completeness import forget

PATIENCE = 60  # seconds, until Prefect has it in its database
A_WEEK = timedelta(days=7)
DEAD = 2**22 + 1  # a number that no process here has


@prefect.task
def unseen(x: int) -> int:
    if x == 13:
        raise ValueError("refused for jane.doe@example.org")
    return x


@prefect.flow
def nobodys_flow(numbers: list[int], password: str = "") -> None:
    for number in numbers:
        unseen(number, return_state=True)


@task
def add(x: int) -> int:
    return x + 1


@flow
def adds(n: int) -> None:
    for i in range(n):
        add(i)


def later() -> datetime:
    """When all that has ended by now is judged."""
    return datetime.now(UTC) + timedelta(seconds=61)


def until_settled(flow_run: UUID | str, task_runs: int) -> None:
    """Prefect's own count comes late."""
    ended = {"flow_run_id": {"any_": [str(flow_run)]}, "end_time": {"is_null_": False}}
    with get_client(sync_client=True) as client:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if client.request("POST", "/task_runs/count", json={"task_runs": ended}).json() == task_runs:
                return
            time.sleep(0.1)
    raise TimeoutError(f"{task_runs} task runs of {flow_run}")


def run(which: Any, *args: Any, task_runs: int, **kwargs: Any) -> str:
    """The id of a flow run that has ended, and that Prefect knows all about."""
    state = which(*args, **kwargs, return_state=True)
    until_settled(state.state_details.flow_run_id, task_runs)
    return str(state.state_details.flow_run_id)


def of(flow_run: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in found if event["flow_run_id"] == flow_run]


@pytest.fixture
def since(events: Events) -> datetime:
    """Of the server's runs only those of this test are looked at."""
    return datetime.now(UTC) - timedelta(milliseconds=1)


def test_runs_that_only_prefect_knows_come_on_record(events: Events, since: datetime) -> None:
    id = run(nobodys_flow, [1, 13], password="hunter2-hunter2", task_runs=2)

    found = reconcile(open_store(), since, now=later())

    assert found.appended == {"flow_run.reconciled": 1, "task_run.reconciled": 2}
    (of_flow,) = of(id, events("flow_run.reconciled"))
    assert (of_flow["payload"]["of"], of_flow["payload"]["became"]) == ("nobodys-flow", "completed")
    good, bad = sorted(of(id, events("task_run.reconciled")), key=lambda event: event["payload"]["started_at"])
    assert (good["payload"]["of"], good["payload"]["became"], bad["payload"]["became"]) == (
        "unseen",
        "completed",
        "failed",
    )
    assert good["payload"]["started_at"] < good["payload"]["ended_at"] < bad["payload"]["ended_at"]
    assert "Prefect's API at http://" in bad["payload"]["known_by"]
    assert {"name": "numbers", "value": [1, 13]} in of_flow["payload"]["parameters"]
    everything = str(events())
    assert "hunter2" not in everything
    assert "jane.doe" not in everything


def test_a_second_reconcile_appends_nothing_but_its_count(events: Events, since: datetime) -> None:
    run(nobodys_flow, [1, 2, 3], task_runs=3)
    reconcile(open_store(), since, now=later())
    before = Counter(event["type"] for event in events())

    assert reconcile(open_store(), since, now=later()).appended == {}
    after = Counter(event["type"] for event in events()) - before
    assert after == {"completeness.stated": 1, "checkpoint.signed": 1}


def test_the_count_of_both_sides_is_stated_and_sealed(events: Events, since: datetime) -> None:
    run(adds, 3, task_runs=3)
    run(nobodys_flow, [1], task_runs=1)
    before = compare(open_store(), since, now=later())
    assert before.task_runs == {"observed": 3, "not_instrumented": 1}
    assert before.not_instrumented == {"unseen": 1}

    reconcile(open_store(), since, now=later())

    said = events("completeness.stated")[-1]["payload"]
    assert said["counted_by"] == "server"
    assert (said["counted"], said["on_record"], said["observed"], said["reconciled"]) == (4, 4, 3, 1)
    assert (said["missing"], said["nested"], said["not_in_prefect"]) == (0, 0, 0)


def test_task_runs_that_stand_for_nested_flow_runs_are_not_counted(events: Events, since: datetime) -> None:
    @flow
    def outer() -> None:
        adds(2)
        add(1)

    outer()
    until_settled(events("flow_run.running")[1]["flow_run_id"], 2)
    until_settled(events("flow_run.running")[0]["flow_run_id"], 2)
    found = compare(open_store(), since, now=later())
    assert (found.task_runs, found.nested) == ({"observed": 3}, 1)


def test_an_end_that_only_prefect_saw_comes_on_record(events: Events, home: Path, since: datetime) -> None:
    id = run(adds, 2, task_runs=2)
    forget_ends(home)
    assert states(open_store(), id) == ("running", {"running"})

    found = reconcile(open_store(), since, now=later())

    assert found.appended == {"flow_run.reconciled": 1, "task_run.reconciled": 2}
    assert states(open_store(), id) == ("completed", {"completed"})


def test_what_ended_a_moment_ago_is_not_judged(events: Events, since: datetime) -> None:
    id = run(nobodys_flow, [1, 2, 3], task_runs=3)
    with get_client(sync_client=True) as client:
        ended = client.read_flow_run(UUID(id)).end_time
    assert ended

    found = reconcile(open_store(), since, now=ended + SETTLED - timedelta(milliseconds=1))

    assert found.flow_runs == {"too_recent": 1}
    assert "flow_run.reconciled" not in found.appended


def test_a_task_run_that_is_missing_in_a_recorded_flow_run_is_named(
    events: Events, home: Path, since: datetime
) -> None:
    id = run(adds, 2, task_runs=2)
    lost = events("task_run.running")[0]["task_run_id"]
    forget(home, lost)

    found = compare(open_store(), since, now=later())

    assert found.task_runs == {"observed": 1, "missing": 1}
    assert [(one.id, one.flow_run_id, one.state) for one in found.missing] == [(lost, id, "completed")]


def test_what_a_process_said_nobody_asked_for_is_explained(events: Events, since: datetime) -> None:
    @flow
    def mixed() -> None:
        add(1)
        unseen(1)

    run(mixed, task_runs=2)
    found = compare(open_store(), since, now=later())
    assert found.task_runs == {"observed": 1, "not_instrumented": 1}
    assert found.not_instrumented == {"unseen": 1}


def test_a_run_that_is_missing_of_a_flow_that_is_recorded_is_not_explained(
    events: Events, home: Path, since: datetime
) -> None:
    """Whoever records a flow wants each of its runs; what nobody ever recorded is no loss."""
    kept, lost = run(adds, 1, task_runs=1), run(adds, 2, task_runs=2)
    run(nobodys_flow, [1], task_runs=1)
    forget(home, lost, column="flow_run_id")

    found = compare(open_store(), since, now=later())

    assert found.flow_runs == {"observed": 1, "missing": 1, "not_instrumented": 1}
    assert found.task_runs == {"observed": 1, "missing": 2, "not_instrumented": 1}
    assert {one.flow_run_id or one.id for one in found.missing} == {lost}
    assert kept != lost


def test_what_prefect_lost_is_listed_and_no_error(events: Events, since: datetime) -> None:
    strange = task_run_of(uuid7(), datetime.now(UTC))
    append_states(strange, "running", "completed")

    found = compare(open_store(), since - timedelta(minutes=2), now=later())

    assert strange["task_run_id"] in found.some_not_in_prefect
    assert strange["task_run_id"] not in {one.id for one in found.missing}


@pytest.mark.slow
def test_all_pages_are_read(events: Events, since: datetime) -> None:
    id = run(nobodys_flow, list(range(20, 450)), task_runs=430)

    found = compare(open_store(), since, now=later())

    assert found.task_runs == {"not_instrumented": 430}
    reconcile(open_store(), since, now=later())
    assert len({event["task_run_id"] for event in of(id, events("task_run.reconciled"))}) == 430


def test_a_window_goes_on_where_the_last_one_ended(events: Events, since: datetime) -> None:
    first = reconcile(open_store(), since - timedelta(hours=1))
    assert reconcile(open_store()).since == timestamp(datetime.fromisoformat(first.until) - timedelta(minutes=15))


def test_a_window_that_ends_in_the_time_to_come_is_none_to_go_on_from(events: Events) -> None:
    """As a clock that was ahead leaves it, or anybody who can write."""
    first = reconcile(open_store())
    reconcile(open_store(), now=datetime.now(UTC) + timedelta(days=1_000))
    for until in ("2099-01-01T00:00:00.000000Z", "soon", "0001-01-01T00:00:00Z", "2026-01-01"):
        state_that({"counted_by": "server", "where": "x", "until": until, "counted": 1})
    state_that(
        {"counted_by": "server", "where": "x", "until": 7, "counted": "all", "flow_runs": 3, "missing_ids": [{}]}
    )

    found = reconcile(open_store())

    assert found.since == timestamp(datetime.fromisoformat(first.until) - timedelta(minutes=15))
    assert found.unknown is None


def test_an_empty_window_could_not_be_compared(events: Events) -> None:
    found = reconcile(open_store(), datetime.now(UTC) + timedelta(days=1))
    assert "nothing to compare" in (found.unknown or "")
    assert "counted" not in events("completeness.stated")[-1]["payload"]


def test_the_first_window_is_a_week(events: Events) -> None:
    now = datetime.now(UTC)
    assert compare(open_store(), now - A_WEEK, now=now).since == timestamp(now - A_WEEK)
    assert reconcile(open_store(), now=now).since == timestamp(now - A_WEEK)


@pytest.mark.parametrize("after", [timedelta(days=6), timedelta(days=8)], ids=["lately", "long ago"])
def test_a_run_that_prefect_forgot_is_given_up_when_it_is_old(events: Events, after: timedelta) -> None:
    ran = task_run_of(uuid7(), datetime.now(UTC) - after)
    append_states(ran, "running")

    found = reconcile(open_store())

    gave_up = found.appended.get("task_run.abandoned", 0)
    assert gave_up == (after > A_WEEK)
    if gave_up:
        assert "Prefect does not know it any more" in events("task_run.abandoned")[0]["payload"]["known_by"]
    else:
        assert ran["task_run_id"] in {left.id for left in found.still_open}


def test_the_end_that_was_spooled_counts_more_than_what_was_found_without_it(events: Events) -> None:
    ran = task_run_of(uuid7(), datetime.now(UTC) - timedelta(days=8))
    append_states(ran, "running")
    reconcile(open_store())
    append_states(ran, "completed")
    with open_store().reading() as connection:
        assert store_of.standing(connection, "task_run", [ran["task_run_id"]])[ran["task_run_id"]].state == "completed"


# Processes that are gone


def test_at_the_start_of_a_process_the_runs_of_one_that_is_gone_are_given_up(events: Events) -> None:
    flow_run, inside = lost_flow_run(), []
    for _ in range(3):
        ran = task_run_of(flow_run, datetime.now(UTC))
        append_states(ran, "running")
        inside.append(ran["task_run_id"])
    handed = task_run_of(flow_run, datetime.now(UTC))
    append_states(handed, "scheduled")

    something_happens()

    assert [event["flow_run_id"] for event in events("flow_run.abandoned")] == [flow_run]
    assert {event["task_run_id"] for event in events("task_run.abandoned")} == set(inside)
    assert {event["payload"]["known_by"] for event in events("*.abandoned")} == {
        f"its process {DEAD} on {circumstances.surroundings().host} is gone"
    }


def test_what_lives_or_cannot_be_told_is_left_alone(events: Events) -> None:
    lost_flow_run(process_id=os.getpid())
    lost_flow_run(host="another")
    lost_flow_run(namespace=4026539999)
    something_happens()
    assert events("*.abandoned") == []


class AnyRunState(RunState):
    """What somebody else's program may write."""

    of: Any
    surroundings: Any = None


NUMBER = {
    "process_id": DEAD,
    "host": circumstances.surroundings().host,
    "process": processes.this_process().model_dump(),
}


@pytest.mark.parametrize(
    "surroundings",
    [
        NUMBER | {"process_id": 2**62},
        NUMBER | {"process_id": 2**31},
        NUMBER | {"process_id": 0},
        NUMBER | {"process_id": str(DEAD)},
        {"process_id": DEAD},
        {"host": NUMBER["host"]},
        NUMBER | {"process": "this one"},
        "these",
    ],
    ids=["too large", "larger than any", "all", "text", "no host", "no number", "no process", "text alone"],
)
def test_what_cannot_be_a_process_is_left_alone(events: Events, surroundings: object) -> None:
    flow_run = uuid7()
    odd = AnyRunState(run_name="a run", of=["a", "list"], surroundings=surroundings)
    append_states({"flow_run_id": flow_run, "at": datetime.now(UTC)}, "running", said=odd)
    append_states(task_run_of(flow_run, datetime.now(UTC)), "running", said=odd)
    something_happens()
    assert events("*.abandoned") == []
    assert flow_run in {left.id for left in reconcile(open_store()).still_open}


def test_a_look_that_fails_costs_nobody_an_event(events: Events, home: Path) -> None:
    lost_flow_run()
    with sqlite3.connect(home / "audit.db") as database:
        for (guard,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {guard}")
        database.execute(
            "UPDATE payload SET body = '[]' WHERE event_seq IN (SELECT seq FROM event WHERE type = 'flow_run.running')"
        )
    something_happens()
    assert len(events("task_run.completed")) == 1


def test_many_runs_are_given_up_while_others_write(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    flow_run = lost_flow_run()
    for _ in range(5):
        append_states(task_run_of(flow_run, datetime.now(UTC)), "running")
    monkeypatch.setattr(abandoned, "AT_ONCE", 2)
    decided = []
    whole = abandoned.append_decided
    monkeypatch.setattr(abandoned, "append_decided", lambda *given: decided.append(whole(*given)) or decided[-1])

    assert len(abandon_gone(open_store(), datetime.now(UTC) - A_WEEK)) == 6

    assert [len(some) for some in decided] == [2, 2, 2]


def test_of_two_processes_that_find_the_same_one_gives_it_up(events: Events) -> None:
    flow_run = lost_flow_run()
    append_states(task_run_of(flow_run, datetime.now(UTC)), "running")
    begin, told = threading.Barrier(4), []

    def look() -> None:
        begin.wait()
        told.append(len(abandon_gone(open_store(), datetime.now(UTC) - A_WEEK)))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [0, 0, 0, 2]
    assert Counter(event["type"] for event in events("*.abandoned")) == {
        "flow_run.abandoned": 1,
        "task_run.abandoned": 1,
    }


def test_a_flow_run_that_is_begun_again_and_lost_again_is_given_up_again(events: Events) -> None:
    flow_run = lost_flow_run()
    abandon_gone(open_store(), datetime.now(UTC) - A_WEEK)
    lost_flow_run(id=flow_run, state="retrying")
    abandon_gone(open_store(), datetime.now(UTC) - A_WEEK)
    assert len(events("flow_run.abandoned")) == 2
    assert abandon_gone(open_store(), datetime.now(UTC) - A_WEEK) == []


def test_task_runs_of_a_flow_run_whose_worker_saw_it_crash_are_given_up(events: Events) -> None:
    flow_run = lost_flow_run(process_id=os.getpid())
    append_states(task_run_of(flow_run, datetime.now(UTC)), "running")
    abandon_task_runs(open_store(), flow_run)
    assert (
        events("task_run.abandoned")[0]["payload"]["known_by"] == "its flow run crashed: its worker saw the process end"
    )


def test_task_runs_that_a_crashed_flow_run_left_elsewhere_are_given_up_after_an_hour(events: Events) -> None:
    for ago in (timedelta(minutes=30), timedelta(minutes=90)):
        at = datetime.now(UTC) - ago
        flow_run = lost_flow_run(host="another", at=at)
        append_states(task_run_of(flow_run, at), "running")
        append_states({"flow_run_id": flow_run, "at": at}, "crashed")

    reconcile(open_store(), datetime.now(UTC))

    (only,) = events("task_run.abandoned")
    assert only["payload"]["known_by"].startswith("its flow run crashed at ")


@pytest.mark.slow
def test_a_killed_process_leaves_no_run_without_an_end(events: Events, home: Path, tmp_path: Path) -> None:
    script, begun = tmp_path / "hangs.py", tmp_path / "begun"
    script.write_text(
        textwrap.dedent(f"""
        import pathlib, signal
        from audit import flow, task

        @task
        def hangs():
            pathlib.Path({str(begun)!r}).touch()
            signal.pause()

        @flow
        def dies():
            hangs()

        dies()
        """)
    )
    environ = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, str(script)], env=environ)
    while not begun.exists():
        assert process.poll() is None, "it ended"
        time.sleep(0.05)
    process.kill()
    process.wait()

    something_happens()

    (flow_run,) = events("flow_run.abandoned")
    assert flow_run["payload"]["known_by"].startswith(f"its process {process.pid} on ")
    assert states(open_store(), flow_run["flow_run_id"]) == ("abandoned", {"abandoned"})


# Servers that do not answer as they should


class Refuses(BaseHTTPRequestHandler):
    """A server that answers each request with 500, or holds it until it is let go."""

    let_go: threading.Event | None = None

    def answer(self) -> None:
        if self.let_go is not None:
            self.let_go.wait(PATIENCE)
        self.send_response(500)
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def refusing() -> Iterator[Callable[[threading.Event | None], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(let_go: threading.Event | None) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Refuses,), {"let_go": let_go}))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/api"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def asked(url: str | None) -> Compared:
    with temporary_settings(
        {PREFECT_API_URL: url, PREFECT_API_REQUEST_TIMEOUT: 0.5, PREFECT_CLIENT_MAX_RETRIES: 0} if url else {},
        restore_defaults=set() if url else {PREFECT_API_URL},
    ):
        return reconcile(open_store())


def test_a_server_that_refuses_could_not_be_asked(events: Events, refusing: Callable[..., str]) -> None:
    assert "500" in (asked(refusing(None)).unknown or "")
    said = events("completeness.stated")[-1]
    assert "counted" not in said["payload"]
    assert said["severity"] == "warning"


def test_a_server_that_is_too_slow_could_not_be_asked(events: Events, refusing: Callable[..., str]) -> None:
    let_go = threading.Event()
    found = asked(refusing(let_go))
    let_go.set()
    assert "does not answer" in (found.unknown or "")


def test_a_server_that_never_answers_is_not_waited_for_as_prefect_would(
    events: Events, refusing: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_api, "PATIENCE_SECONDS", 0.2)
    let_go, began = threading.Event(), time.monotonic()
    with temporary_settings({PREFECT_API_URL: refusing(let_go), PREFECT_CLIENT_RETRY_JITTER_FACTOR: 0}):
        found = reconcile(open_store())
    let_go.set()
    assert "does not answer" in (found.unknown or "")
    assert time.monotonic() - began < 15, "Prefect asks six times, a minute each"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", None], ids=["nobody listens", "none configured"])
def test_without_a_server_what_can_be_told_here_is_done(events: Events, url: str | None) -> None:
    lost_flow_run()
    found = asked(url)
    assert found.unknown
    assert found.appended == {"flow_run.abandoned": 1}


# Runs on record, and what happens to the record


def something_happens() -> None:
    """In a process that has just begun."""
    recorder._recorder_of.cache_clear()
    close_stores()
    append_states(task_run_of(None, datetime.now(UTC)), "completed", through=recorder.append_all)


def lost_flow_run(
    *, id: str | None = None, state: str = "running", at: datetime | None = None, **around: object
) -> str:
    """A flow run on record, whose process is gone unless `around` says otherwise; its id."""
    told = circumstances.surroundings().model_dump()
    known = {"host", "process_id"}
    told |= {"process_id": DEAD} | {name: value for name, value in around.items() if name in known}
    told["process"] |= {name: value for name, value in around.items() if name not in known}
    id = id or uuid7()
    append_states({"flow_run_id": id, "at": at or datetime.now(UTC)}, state, surroundings=told)
    return id


def task_run_of(flow_run: str | None, at: datetime) -> dict[str, Any]:
    return {"flow_run_id": flow_run, "task_run_id": uuid7(int(at.timestamp() * 1000)), "at": at}


def append_states(
    run: dict[str, Any],
    *states: str,
    through: Callable[[list[Event]], object] | None = None,
    said: Payload | None = None,
    **facts: object,
) -> None:
    settings()  # of this test
    kind = "task_run" if "task_run_id" in run else "flow_run"
    events = [
        make_event(
            f"{kind}.{state}",
            said or RunState.model_validate({"run_name": "a run", "of": "stage", **facts}),
            source="test",
            subject=f"run/{nth}",
            actor="p:test",
            time=run["at"] + timedelta(milliseconds=nth),
            flow_run_id=run["flow_run_id"],
            task_run_id=run.get("task_run_id"),
        )
        for nth, state in enumerate(states)
    ]
    through(events) if through else append(open_store(), events)


class AnyStatement(CompletenessFacts):
    """What somebody else's program may write."""

    until: Any = None
    counted: Any = None
    flow_runs: Any = None
    missing_ids: Any = None


def state_that(said: dict[str, object]) -> None:
    facts = AnyStatement.model_validate(said)
    append(open_store(), [make_event("completeness.stated", facts, source="test", subject="store", actor="p:test")])


def states(store: AuditStore, flow_run: str) -> tuple[str, set[str]]:
    """Of a flow run, and of its task runs."""
    with store.reading() as connection:
        pairs = store_of.task_runs_of(connection, [flow_run])
        inside = store_of.standing(connection, "task_run", [task_run for _, task_run in pairs])
        return store_of.standing(connection, "flow_run", [flow_run])[flow_run].state, {s.state for s in inside.values()}


def forget_ends(home: Path) -> None:
    """As the owner of the file can."""
    with sqlite3.connect(home / "audit.db") as database:
        for guard in ("payload_no_delete", "event_no_delete"):
            database.execute(f"DROP TRIGGER {guard}")
        ends = "SELECT seq FROM event WHERE type GLOB '*_run.completed'"
        database.execute(f"DELETE FROM payload WHERE event_seq IN ({ends})")
        database.execute("DELETE FROM event WHERE type GLOB '*_run.completed'")
