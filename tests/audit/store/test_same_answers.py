"""Every named query says the same of the same events, in a file and in PostgreSQL."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit.events.event import Event
from audit.events.payloads import AlertFacts, StoreFacts, Used
from audit.settings import read_settings
from audit.store import ledger, read
from audit.store.append import append
from audit.store.engine import AuditStore, make_store
from tests.audit.cli.conftest import (
    Day,
    a_flow_run,
    a_task_run,
    an_event,
    flows,
    ingesting,
    judging,
    validating,
)
from tests.postgres import database, template

SINCE = "2026-11-24"
REPORT = Used(
    name="return", kind="report", of="flights/drift", address=f"artifact://sha256/{'c' * 64}", digest="sha256:c"
)


@dataclass(frozen=True)
class Both:
    """One record, kept twice."""

    file: AuditStore
    server: AuditStore
    day: Day
    events: list[Event]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, postgres_server: Any) -> Iterator[Both]:
    with database(postgres_server, template(postgres_server)) as url:
        home = tmp_path_factory.mktemp("file")
        file = make_store(read_settings({"AUDIT_HOME": str(home)}, Path()))
        server = make_store(read_settings({"AUDIT_HOME": str(home), "AUDIT_DATABASE_URL": url}, Path()))
        pipeline, training = a_flow_run("pipeline flights", "pipeline"), a_flow_run("training flights")
        steps = (a_task_run(training, name, name) for name in ("ingest", "validate", "train_model", "promote"))
        day = Day(pipeline, training, *steps)
        events = [*flows(day), *ingesting(day), *validating(day), *judging(day), *told(day)]
        for store in (file, server):
            append(store, events)
        yield Both(file, server, day, events)


def told(day: Day) -> list[Event]:
    alert = {"spec": "flights", "alert": "a", "kind": "drift", "severity": "warning", "title": "t", "body": "b"}
    without_spec = alert | {"spec": None, "about": "pipeline", "kind": "crashed"}
    return [
        an_event("alert.raised", AlertFacts.model_validate(alert), after=1),
        an_event("alert.held", AlertFacts.model_validate(alert), after=2),
        an_event("alert.raised", AlertFacts.model_validate(without_spec), after=3),
        an_event("store.dropped", StoreFacts(count=3), after=4),
        day.train.state("completed", 30, outputs=[REPORT]),
    ]


QUERIES: dict[str, Callable[[AuditStore, Both], Any]] = {
    "counts": lambda store, both: read.counts(store),
    "newest": lambda store, both: read.newest_seq(store),
    "lost": lambda store, both: read.lost(store),
    "events": lambda store, both: list(read.events(store)),
    "events, the oldest first": lambda store, both: list(read.events(store, newest_first=False, after=3, limit=9)),
    "events of types": lambda store, both: list(read.events(store, types=("model.*", "store.dropped"))),
    "events of a run": lambda store, both: list(read.events(store, run=both.day.train.id)),
    "events of a spec": lambda store, both: list(read.events(store, spec="flights", since="2026-11-24T21:04:03")),
    "events so grave": lambda store, both: list(read.events(store, severities=("warning", "error"))),
    "an event by its beginning": lambda store, both: read.event(store, both.events[3].id[:20]),
    "an event by its ending": lambda store, both: read.event(store, both.events[3].id[-8:]),
    "no event": lambda store, both: read.event(store, "%_"),
    "flow runs": lambda store, both: read.flow_runs(store),
    "the latest flow run": lambda store, both: read.flow_runs(store, limit=1),
    "flow runs by prefix": lambda store, both: read.flow_runs_by_prefix(store, both.day.training.id),
    "task runs": lambda store, both: read.task_runs(store, both.day.training.id),
    "task runs by prefix": lambda store, both: read.task_runs_by_prefix(store, both.day.train.id[:20]),
    "runs by their beginning": lambda store, both: read.run_ids(store, both.day.training.id[:30]),
    "runs by their ending": lambda store, both: read.run_ids(store, both.day.validate.id[-8:]),
    "how many task runs": lambda store, both: read.task_run_counts(store, [both.day.training.id, "x"]),
    "how many of none": lambda store, both: read.task_run_counts(store, []),
    "seconds": lambda store, both: read.flow_run_seconds(store, {both.day.training.id, both.day.pipeline.id}),
    "on record": lambda store, both: read.task_runs_on_record(store, [both.day.train.id, "x"] * 9_000),
    "nested": lambda store, both: read.subflow_runs(store, both.day.pipeline.id, SINCE),
    "dataset number": lambda store, both: read.dataset_number(store, "flights/ingested", "sha256:new"),
    "datasets": lambda store, both: read.datasets(store),
    "models": lambda store, both: read.models(store),
    "champion": lambda store, both: read.champion(store, "flights"),
    "awaiting": lambda store, both: read.awaiting_approval(store),
    "alert topics": lambda store, both: read.alert_topics(store, "flights", SINCE),
    "alert topics of none": lambda store, both: read.alert_topics(store, None, SINCE),
    "reports": lambda store, both: read.reports(store, ("drift.checked",)),
    "a report": lambda store, both: read.reports(store, ("drift.checked",), address=REPORT.address, limit=3),
    "no report": lambda store, both: read.reports(store, (), address="artifact://sha256/none"),
    "sealing": lambda store, both: ledger.sealing(store),
    "not sealed": lambda store, both: ledger.not_sealed(store),
    "not sealed at all": lambda store, both: ledger.not_sealed(store, whole=True),
}
MAY_BE_EMPTY = {"no event", "how many of none", "awaiting", "no report", "events so grave"}


@pytest.mark.parametrize("query", QUERIES)
def test_both_say_the_same(both: Both, query: str) -> None:
    of_file, of_server = (plain(QUERIES[query](store, both)) for store in (both.file, both.server))

    assert of_server == of_file
    assert of_file or query in MAY_BE_EMPTY


@pytest.mark.parametrize(("spec", "about", "kind"), [("flights", None, "drift"), (None, "pipeline", "crashed")])
def test_both_say_the_same_under_a_lock(both: Both, spec: str | None, about: str | None, kind: str) -> None:
    found = []
    for store in (both.file, both.server):
        with store.deciding() as connection:
            alerts = read.alerts_now(connection, spec, kind, about, since=SINCE, held_since=SINCE)
            steps = read.steps_now(connection, "model/flights/v1")
            found.append((alerts, steps, read.model_number(connection, "flights"), ledger.size(connection)))

    assert found[0] == found[1]
    assert found[0][0] and found[0][1] and found[0][2] == 2


def plain(value: Any) -> Any:
    """States are a list in JSON, whose spaces are each database's own."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: _parsed(one) if isinstance(one, str) else one for name, one in value.items()}
    return value


def _parsed(text: str) -> Any:
    return json.loads(text) if text[:1] in ("[", "{") else text
