"""At its end a flow run says how many task runs it began and how many are on record, by a count that is not our own."""

import asyncio
import hashlib
import json
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import prefect
import pytest

from audit import flow, task
from audit.answers.verify import verify
from audit.errors import UserError
from audit.events.event import make_event
from audit.events.payloads import CompletenessFacts, RunState
from audit.recording import bindings, completeness, recorder
from audit.recording.completeness import ENGINE
from audit.store.append import append
from audit.store.engine import open_store
from audit.store.ledger import not_sealed
from tests.audit.recording.apart import PATIENCE
from tests.audit.recording.conftest import Events, break_store, mend_store
from tests.audit.recording.test_count import server, surroundings  # noqa: F401


@task
def add(x: int, y: int = 1) -> int:
    return x + y


@task(retries=2)
def third_time_lucky() -> str:
    if prefect.runtime.task_run.run_count < 3:
        raise ValueError("not yet")
    return "well"


@task
async def add_async(x: int) -> int:
    return x + 1


@prefect.task(name="nobody's")
def unseen(x: int) -> int:
    return x


@task
def calls_another(x: int) -> int:
    return add(x)


def statements(events: Events) -> list[dict[str, Any]]:
    return [event["payload"] for event in events("completeness.stated")]


def task_runs(home: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(home / "audit.db") as store:
        found = store.execute(
            """SELECT DISTINCT flow_run_id, task_run_id FROM event
                WHERE type GLOB 'task_run.*' AND flow_run_id IS NOT NULL"""
        )
        return sorted(found.fetchall())


def test_every_kind_of_task_run_is_counted_once(events: Events, home: Path) -> None:
    @flow
    def inner(n: int) -> list[int]:
        return [add(i) for i in range(n)]

    @flow
    async def inner_async() -> list[int]:
        return list(await asyncio.gather(*(add_async(i) for i in range(5))))

    @flow
    def outer() -> None:
        add(1)
        third_time_lucky()
        inner(3)
        inner(2)
        add.map(range(20)).wait()
        calls_another(1)
        asyncio.run(inner_async())

    outer()
    (said,) = statements(events)
    assert said["counted"] == 1 + 1 + 3 + 2 + 20 + 2 + 5
    assert said["on_record"] == said["counted"] == len(task_runs(home))
    assert len(said["flow_runs"]) == 4
    assert said["flow_runs"][0] == events("flow_run.running")[0]["flow_run_id"]
    assert (said["missing"], said["elsewhere"], said["in_spool"], said["sent"]) == (0, 0, 0, 0)
    assert completeness.counting() == 0


def test_the_digest_is_over_what_is_on_record(events: Events, home: Path) -> None:
    @flow
    def two() -> None:
        add(1)
        add(2)

    two()
    lines = "".join(f"{flow_run}/{task_run}\n" for flow_run, task_run in task_runs(home))
    assert statements(events)[0]["digest"] == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def test_a_statement_is_made_under_the_lock_that_it_is_written_under(events: Events) -> None:
    """What others append meanwhile stands behind it."""

    @flow
    def one() -> None:
        add(1)

    one()
    assert statements(events)[0]["exact"] is True


def test_ids_that_are_none_of_prefects_are_counted_too(events: Events) -> None:
    @flow
    def odd() -> None:
        add(1)
        state = RunState(run_name="a", of="b")
        append(
            open_store(),
            [
                make_event(
                    "task_run.running",
                    state,
                    source="test",
                    subject="task-run/x",
                    actor="p:test",
                    flow_run_id=str(prefect.runtime.flow_run.id),
                    task_run_id="no uuid",
                )
            ],
        )

    odd()
    (said,) = statements(events)
    assert (said["counted"], said["on_record"], said["elsewhere"], said["missing"]) == (1, 2, 1, 0)
    assert verify(open_store()).answer == "held"


def test_a_statement_is_sealed_with_what_it_is_about(events: Events) -> None:
    @flow
    def one() -> None:
        add(1)

    one()
    assert not_sealed(open_store())[0] == 0
    types = [event["type"] for event in events()]
    assert types.index("flow_run.completed") < types.index("completeness.stated") < types.index("checkpoint.signed")
    assert verify(open_store()).answer == "held"


def test_what_nobody_asked_to_record_is_named_and_not_missing(events: Events) -> None:
    @prefect.flow
    def nobodys_flow() -> int:
        return unseen(1) + add(5)  # type: ignore[return-value]

    @flow
    def outer() -> None:
        unseen(1)
        unseen(2)
        nobodys_flow()

    outer()
    (said,) = statements(events)
    assert (said["counted"], said["on_record"], said["missing"]) == (4, 1, 0)
    assert said["not_instrumented"] == [{"name": "nobody's", "value": 3}]
    assert len(said["flow_runs"]) == 2


@pytest.mark.parametrize("ends", [ValueError("on purpose"), SystemExit(3)], ids=["failed", "crashed"])
def test_a_flow_run_that_does_not_end_well_says_it_too(events: Events, ends: BaseException) -> None:
    @flow
    def broken() -> None:
        add(1)
        raise ends

    with pytest.raises(type(ends)):
        broken()
    (said,) = statements(events)
    assert (said["counted"], said["on_record"]) == (1, 1)


def test_a_retried_flow_run_says_it_once_of_all_attempts(events: Events) -> None:
    @flow(retries=1)
    def second_time_lucky() -> None:
        add(1)
        if len(events("flow_run.attempt_failed")) == 0:
            raise ValueError("not yet")

    second_time_lucky()
    (said,) = statements(events)
    assert (said["counted"], said["on_record"]) == (2, 2)


def test_a_task_run_that_is_not_on_record_is_missed_by_its_id(events: Events, home: Path) -> None:
    @flow
    def robbed() -> None:
        add(1)
        add(2)
        forget(home, events("task_run.running")[-1]["task_run_id"])

    robbed()
    (said,) = events("completeness.stated")
    assert (said["payload"]["counted"], said["payload"]["on_record"], said["payload"]["missing"]) == (2, 1, 1)
    (missing,) = said["payload"]["missing_ids"]
    assert missing not in {task_run for _, task_run in task_runs(home)}
    assert said["severity"] == "error"


def test_what_waits_in_the_spool_is_not_missing(events: Events, home: Path) -> None:
    @flow
    def spooled() -> None:
        add(1)
        break_store(home)
        add(2)

    spooled()
    mend_store(home)
    while not statements(events):  # a store that failed is left alone for a moment
        recorder.bring_home()
    (said,) = statements(events)
    assert (said["counted"], said["on_record"], said["in_spool"], said["missing"]) == (2, 1, 1, 0)
    assert "exact" not in said, "it waited too, and others may have come in before it"
    recorder.flow_ended()
    assert [fault for fault in verify(open_store()).faults if fault.about.startswith("event ")] == []


def test_without_the_private_point_it_says_that_it_could_not_tell(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bindings, "UNBOUND", (ENGINE,))

    @flow
    def blind() -> None:
        add(1)

    blind()
    (said,) = statements(events)
    assert ENGINE in said["unknown"]
    assert "counted" not in said
    assert "on_record" not in said


def test_what_runs_after_the_end_is_not_part_of_it(events: Events) -> None:
    add(1)  # in no flow
    assert statements(events) == []
    assert completeness.counting() == 0


def test_nobody_states_completeness_for_us() -> None:
    with pytest.raises(UserError, match="what the record says of itself"):
        recorder.record("completeness.stated", CompletenessFacts(counted_by="process", where="here"), subject="store")


@pytest.mark.slow
def test_what_was_sent_to_a_pool_is_counted_by_who_sent_it(surroundings: dict[str, str], server: str) -> None:  # noqa: F811
    script = Path(surroundings["AUDIT_HOME"]).parent / "pooled.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        textwrap.dedent("""
        from prefect.task_runners import ProcessPoolTaskRunner
        from audit import flow, task

        @task
        def inner(x): return x

        @task
        def outer(x): return inner(x)

        @flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
        def pooled():
            inner(1)
            outer.map(range(3)).wait()

        if __name__ == "__main__":
            pooled()
        """)
    )
    environ = surroundings | {"PREFECT_API_URL": server, "PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, str(script)], env=environ, check=True, timeout=PATIENCE, capture_output=True)

    with sqlite3.connect(f"{surroundings['AUDIT_HOME']}/audit.db") as store:
        ((body,),) = store.execute(
            "SELECT body FROM payload JOIN event ON seq = event_seq WHERE type = 'completeness.stated'"
        ).fetchall()
    said = json.loads(body)
    assert (said["counted"], said["sent"]) == (4, 3)
    assert (said["on_record"], said["elsewhere"], said["missing"]) == (7, 3, 0), "nested ones began in the pool"


def forget(home: Path, run: str, column: str = "task_run_id") -> None:
    """As the owner of the file can."""
    with sqlite3.connect(home / "audit.db") as database:
        for guard in ("payload_no_delete", "event_no_delete"):
            database.execute(f"DROP TRIGGER IF EXISTS {guard}")
        events = f"SELECT seq FROM event WHERE {column} = ?"
        database.execute(f"DELETE FROM payload WHERE event_seq IN ({events})", (run,))
        database.execute(f"DELETE FROM event WHERE {column} = ?", (run,))
