"""How a run stands whose end nobody saw, on either engine: what was observed counts more, whenever it comes in."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from audit.events.canonical import timestamp
from audit.events.event import Event, make_event, uuid7
from audit.events.payloads import RunState
from audit.store import completeness as store_of
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store
from tests.postgres import postgres_server, postgres_url  # noqa: F401

BEGAN = datetime(2026, 11, 24, 21, 4, 1, tzinfo=UTC)
ALL = timestamp(BEGAN - timedelta(days=1))


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def store(request: pytest.FixtureRequest, home: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditStore]:
    if request.param == "PostgreSQL":
        monkeypatch.setenv("AUDIT_DATABASE_URL", request.getfixturevalue("postgres_url"))
    close_stores()
    yield open_store()
    close_stores()


class Run:
    """A flow run, or a task run in one, whose states become events."""

    def __init__(self, kind: str = "task_run", within: str | None = None) -> None:
        self.kind, self.id = kind, uuid7(int(BEGAN.timestamp() * 1000))
        self.flow_run = self.id if kind == "flow_run" else within or uuid7()

    def state(self, state: str, after: float, **facts: object) -> Event:
        return make_event(
            f"{self.kind}.{state}",
            RunState.model_validate({"run_name": "a run", "of": "stage", **facts}),
            source="test",
            subject=f"run/{self.id}",
            actor="p:test",
            time=BEGAN + timedelta(seconds=after),
            flow_run_id=self.flow_run,
            task_run_id=self.id if self.kind == "task_run" else None,
        )


@pytest.mark.parametrize("kind", ["flow_run", "task_run"])
@pytest.mark.parametrize(
    ("states", "expected"),
    {
        "reconciled": ([("running", 0), ("reconciled", 3)], ("failed", 2.5, "asked at nine")),
        "abandoned": ([("running", 0), ("abandoned", 9)], ("abandoned", None, "asked at nine")),
        "only Prefect knew it": ([("reconciled", 3)], ("failed", 2.5, "asked at nine")),
        "its end was spooled": ([("running", 0), ("abandoned", 9), ("completed", 5)], ("completed", 5, None)),
        "its end was spooled, and Prefect's came first": (
            [("running", 0), ("reconciled", 9), ("cancelled", 5)],
            ("cancelled", 5, None),
        ),
        "begun again": ([("running", 0), ("abandoned", 3), ("retrying", 4)], ("retrying", None, None)),
        "failed, begun again, lost": (
            [("running", 0), ("failed", 1), ("retrying", 2), ("abandoned", 3)],
            ("abandoned", None, "asked at nine"),
        ),
        "given up before Prefect told": (
            [("running", 0), ("abandoned", 3), ("reconciled", 3)],
            ("failed", 2.5, "asked at nine"),
        ),
    }.values(),
    ids=lambda case: None,
)
def test_how_a_run_stands(store: AuditStore, kind: str, states: list, expected: tuple) -> None:
    run = Run(kind)
    recovered = {"known_by": "asked at nine"}
    became = recovered | {"became": "failed", "ended_at": timestamp(BEGAN + timedelta(seconds=2.5))}
    facts = {"abandoned": recovered, "reconciled": became}
    append(store, [run.state(state, after, **facts.get(state, {})) for state, after in states])

    with store.reading() as connection:
        row = connection.execute(text(f"SELECT state, ended_at, known_by, duration_seconds FROM {kind}")).one()

    state, ended, known_by = expected
    ended_at = None if ended is None else timestamp(BEGAN + timedelta(seconds=ended))
    seen_to_begin = states[0][0] == "running"
    assert tuple(row) == (state, ended_at, known_by, ended if seen_to_begin else None)


def test_a_run_that_only_prefect_knew_has_its_times(store: AuditStore) -> None:
    run = Run()
    times = {"started_at": timestamp(BEGAN), "ended_at": timestamp(BEGAN + timedelta(seconds=2.5))}
    append(store, [run.state("reconciled", 3, became="completed", **times)])

    with store.reading() as connection:
        row = connection.execute(text("SELECT started_at, duration_seconds FROM task_run")).one()
    assert tuple(row) == (times["started_at"], 2.5)


def test_a_withdrawn_payload_leaves_a_reconciled_run_closed(store: AuditStore) -> None:
    """What it became is in the payload, that it is over in the envelope."""
    append(store, [(run := Run()).state("running", 0), run.state("reconciled", 1)])  # as if there were no payload
    with store.reading() as connection:
        assert store_of.standing(connection, "task_run", [run.id])[run.id].state == "reconciled"
        assert store_of.open_task_runs_since(connection, "0") == []


def test_open_are_runs_that_began_and_did_not_end(store: AuditStore) -> None:
    open_, ended, suspended, again, waits = (Run("flow_run") for _ in range(5))
    inside, over, handed, gone = (Run("task_run", within=open_.id) for _ in range(4))
    append(
        store,
        [
            open_.state("running", 0),
            open_.state("attempt_failed", 1),
            *(ended.state(state, 1) for state in ("running", "completed")),
            *(suspended.state(state, at) for at, state in enumerate(("running", "suspended"))),
            *(again.state(state, at) for at, state in enumerate(("running", "failed", "retrying"))),
            *(waits.state(state, at) for at, state in enumerate(("running", "paused"))),
            inside.state("running", 1),
            *(over.state(state, 2) for state in ("running", "completed")),
            handed.state("scheduled", 1),
            *(gone.state(state, 2) for state in ("running", "abandoned")),
        ],
    )

    with store.reading() as connection:
        found = store_of.open_flow_runs(connection, ALL)
        assert {run.id: run.state for run in found} == {
            open_.id: "attempt_failed", again.id: "retrying", waits.id: "paused",
        }  # fmt: skip
        tasks = {run.id: run.handed_over for run in store_of.open_task_runs(connection, [open_.id])}
        assert tasks == {inside.id: False, handed.id: True}
        assert {run.id for run in store_of.open_task_runs_since(connection, "0")} == tasks.keys()
        assert store_of.task_runs_of(connection, [open_.id]) == sorted(
            (open_.id, run.id) for run in (inside, over, handed, gone)
        )


def test_what_began_before_is_not_looked_at(store: AuditStore) -> None:
    append(store, [Run("flow_run").state("running", 0)])
    with store.reading() as connection:
        assert store_of.open_flow_runs(connection, timestamp(BEGAN + timedelta(seconds=1))) == []
