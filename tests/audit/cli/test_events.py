"""`audit events` and `audit tail`."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from audit.cli.events import moment
from audit.errors import UserError
from audit.events.payloads import StoreFacts
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, Day, Shown, an_event

NOW = datetime(2026, 11, 24, 22, 0, 0, tzinfo=UTC)


def types(shown: Shown) -> list[str]:
    assert shown.returncode == 0, shown.stderr
    return [json.loads(line)["type"] for line in shown.stdout.splitlines()]


def test_events_come_in_the_order_of_the_record(audit: Audit, day: Day) -> None:
    seqs = [json.loads(line)["seq"] for line in audit("events", "--json").stdout.splitlines()]

    assert seqs == list(range(1, 25))


def test_a_line_for_people_has_time_severity_type_subject_id_and_run(audit: Audit, day: Day) -> None:
    head, *lines = audit("events", "--type", "task_run.attempt_failed").stdout.splitlines()
    event = json.loads(audit("events", "--type", "task_run.attempt_failed", "--json").stdout)

    run = day.validate.id[-8:]
    assert head.split() == ["time", "(UTC)", "severity", "type", "subject", "event", "run"]
    assert lines == [
        f"2026-11-24 21:04:03  warning   task_run.attempt_failed  task-run/{run:<19}  {event['id'][-8:]}  {run}"
    ]


def test_events_are_chosen_by_type_run_and_severity(audit: Audit, day: Day) -> None:
    assert types(audit("events", "--json", "--type", "model.*", "--type", "dataset.ingested")) == [
        "dataset.ingested", "model.trained", "model.evaluated", "model.registered", "model.promoted", "model.deployed",
    ]  # fmt: skip
    assert types(audit("events", "--json", "--type", "*.in*ed", "--type", "flow_run.[c]*")) == [
        "flow_run.completed", "flow_run.completed", "dataset.ingested",
    ]  # fmt: skip
    assert types(audit("events", "--json", "--run", day.ingest.id[-8:])) == [
        "task_run.running", "dataset.ingested", "task_run.completed",
    ]  # fmt: skip
    assert types(audit("events", "--json", "--severity", "warning")) == ["task_run.attempt_failed", "task_run.retrying"]


def test_limit_keeps_the_latest(audit: Audit, day: Day) -> None:
    assert types(audit("events", "--json", "--limit", "2")) == ["model.deployed", "task_run.completed"]
    assert len(audit("events", "--limit", "2").stdout.splitlines()) == 3


def test_a_table_that_was_cut_says_so_on_stderr(audit: Audit, store: AuditStore) -> None:
    append(store, [an_event("store.replayed", StoreFacts(count=1)) for _ in range(60)])

    cut, whole = audit("events"), audit("events", "--limit", "0")

    assert len(cut.stdout.splitlines()) == 51
    assert "--limit 0" in cut.stderr
    assert (len(whole.stdout.splitlines()), whole.stderr) == (64, "")  # a head, three of the new store
    assert len(types(audit("events", "--json"))) == 63


def test_since_leaves_out_what_was_before(audit: Audit, day: Day) -> None:
    assert types(audit("events", "--json", "--since", "2026-11-24T21:04:14", "--type", "flow_run.*")) == [
        "flow_run.completed", "flow_run.completed",
    ]  # fmt: skip
    assert "flow_run.running" not in types(audit("events", "--json", "--since", "2100-01-01"))


@pytest.mark.parametrize(
    ("since", "means"),
    [
        ("2026-11-24", "2026-11-24T00:00:00.000000Z"),
        ("2026-11-24T10:00", "2026-11-24T10:00:00.000000Z"),
        ("2026-11-24 10:00:30", "2026-11-24T10:00:30.000000Z"),
        ("2026-11-24T10:00+02:00", "2026-11-24T08:00:00.000000Z"),
        ("2026-11-24T10:00:00Z", "2026-11-24T10:00:00.000000Z"),
        ("90s", "2026-11-24T21:58:30.000000Z"),
        ("30m", "2026-11-24T21:30:00.000000Z"),
        ("1h", "2026-11-24T21:00:00.000000Z"),
        ("2d", "2026-11-22T22:00:00.000000Z"),
        ("1w", "2026-11-17T22:00:00.000000Z"),
    ],
)
def test_since_takes_days_times_and_spans(since: str, means: str) -> None:
    assert moment(since, NOW) == means


@pytest.mark.parametrize("since", ["yesterday", "1y", "-1h", "", "2026-13-01", "999999w", "1h30m"])
def test_what_is_no_time_is_refused(since: str) -> None:
    with pytest.raises(UserError, match="is no time"):
        moment(since, NOW)


@pytest.mark.usefixtures("day")
def test_a_misspelt_type_is_told_from_one_that_did_not_happen(audit: Audit) -> None:
    misspelt, absent = audit("events", "--type", "task_run.complete"), audit("events", "--type", "drift.*")

    assert misspelt.returncode == 1
    assert "Did you mean 'task_run.completed'?" in misspelt.stderr
    assert (absent.returncode, absent.stdout) == (0, "No event on record is so.\n")


def test_one_event_is_shown_with_its_payload(audit: Audit, day: Day) -> None:
    event = json.loads(audit("events", "--type", "model.deployed", "--json").stdout)

    shown = audit("events", "--id", event["id"][-8:]).stdout

    assert f"id           {event['id']}" in shown
    assert '"reason": "all 1 gates held"' in shown
    assert json.loads(audit("events", "--id", event["id"], "--json").stdout) == event
    assert audit("events", "--id", "ffffffff").returncode == 1


def test_tail_follows_and_ends_quietly_on_ctrl_c(store: AuditStore, day: Day) -> None:
    command = [sys.executable, "-m", "audit", "tail", "--type", "store.*", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stdout and tail.stderr
        first = json.loads(tail.stdout.readline())
        append(store, [an_event("store.replayed", StoreFacts(count=5))])
        second = json.loads(tail.stdout.readline())
        append(store, [day.ingest.state("completed", 20), an_event("store.dropped", StoreFacts(count=6))])
        third = json.loads(tail.stdout.readline())
        tail.send_signal(signal.SIGINT)
        rest = (tail.stdout.read(), tail.stderr.read())

    assert (first["type"], second["payload"]["count"], third["payload"]["count"]) == ("store.opened", 5, 6)
    assert rest == ("", "")
    assert tail.returncode == 130
