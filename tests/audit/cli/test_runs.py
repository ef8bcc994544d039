"""`audit runs` and `audit run`."""

import json

import pytest

from audit.cli.naming import run_called
from audit.cli.runs import flow_run
from audit.errors import NotFound, UserError
from audit.events import payloads as p
from audit.events.event import uuid7
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, Day, a_dataset, a_flow_run, a_task_run, an_event


def test_runs_lists_the_latest_first_with_their_task_runs(audit: Audit, day: Day) -> None:
    found = json.loads(audit("runs", "--json").stdout)

    assert [(row["id"], row["task_runs"]) for row in found] == [(day.training.id, 4), (day.pipeline.id, 0)]
    head, training, _ = audit("runs").stdout.splitlines()
    assert head.split("  ")[0] == "run"
    assert head.endswith("duration  task runs")
    assert training.startswith(day.training.id[-8:])
    assert "2026-11-24 21:04:02    12.4 s" in training
    assert len(audit("runs", "--limit", "1").stdout.splitlines()) == 2


def test_run_shows_a_flow_run_as_a_tree(audit: Audit, day: Day) -> None:
    lines = audit("run", day.pipeline.id[-8:]).stdout.splitlines()

    assert lines[0] == "pipeline flights    completed · 14.0 s · by p:7c1e… · commit 81c2e0f (clean)"
    assert [line.partition("  ")[0] for line in lines[2:]] == ["└─ training flights 2013-01…06", "", "", "", ""]
    ingest, validate, train, promote = (line.strip() for line in lines[3:])
    assert ingest.startswith("├─ ingest")
    assert ingest.endswith("→ flights/ingested v1 (336,776 rows)")
    assert (
        "flights/ingested v1 → flights/validated v1 (327,346 rows) · 2 of 3 rules held, 9,430 rows set aside"
        in validate
    )
    assert "1 retry: MemoryError: no room at 21:04:03" in validate
    assert "flights/train v1 → model flights" in train
    assert promote.startswith("└─ promote")
    assert "AUC 0.751 [0.744, 0.758], gates 1 of 1 · registered as v1 · v1 → production" in promote


def test_the_hint_at_a_retry_can_be_typed_as_it_stands(audit: Audit, day: Day) -> None:
    shown = audit("run", day.training.id).stdout
    hint = shown.partition("(audit ")[2].partition(")")[0]

    (line,) = audit(*hint.split(), "--json").stdout.splitlines()

    assert json.loads(line)["payload"]["error"]["kind"] == "MemoryError"


def test_json_of_a_flow_run_nests_what_it_started(audit: Audit, day: Day) -> None:
    found = json.loads(audit("run", day.pipeline.id, "--json").stdout)

    (training,) = found["flow_runs"]
    assert [task["name"] for task in training["task_runs"]] == ["ingest", "validate", "train_model", "promote"]
    assert training["task_runs"][0]["outputs"][0]["rows"] == 336_776
    assert training["task_runs"][1]["failed_attempts"][0]["error"]["kind"] == "MemoryError"


def test_run_shows_a_task_run_in_full(audit: Audit, day: Day) -> None:
    shown = audit("run", day.ingest.id).stdout
    retried = audit("run", day.validate.id).stdout

    assert f"flow run    {day.training.id}" in shown
    assert "  window  2013-01…2013-06" in shown
    assert "  2026-11-24 21:04:02.600000  completed" in shown
    assert a_dataset("flights/ingested", 1).digest in shown
    assert "2026-11-24 21:04:03.500000  MemoryError: no room" in retried


def test_a_failed_run_says_why(audit: Audit, store: AuditStore) -> None:
    flow = a_flow_run("training mortgage")
    error = p.RunError(
        kind="audit.errors.BadData", message="loanapp has no rows.\nsecond line", traceback="frame 1\nframe 2"
    )
    task = a_task_run(flow, "ingest")
    append(
        store,
        [
            flow.state("running", 0),
            task.state("running", 1),
            task.state("failed", 2, error=error),
            flow.state("failed", 3, error=error),
        ],
    )

    tree = audit("run", flow.id).stdout
    full = audit("run", task.id).stdout

    assert tree.count("audit.errors.BadData: loanapp has no rows.") == 2
    assert "second line" not in tree
    assert "frame 2" in full
    assert "commit" in tree


def test_a_run_is_found_by_its_beginning_or_its_ending(store: AuditStore, day: Day) -> None:
    for part in (
        day.ingest.id,
        day.ingest.id[:-1],
        day.ingest.id[-8:],
        day.ingest.id[-12:].upper(),
        f"…{day.ingest.id[-8:]}",
    ):
        named = run_called(store, part)
        assert (named.kind, named.id) == ("task_run", day.ingest.id)


def test_an_ambiguous_beginning_says_which_runs_it_could_be(store: AuditStore) -> None:
    first = a_flow_run("one", id="0193aaaa-0000-7000-8000-000000000001")
    second = a_task_run(first, "two", id="0193aaaa-0000-7000-8000-000000000002")
    append(store, [first.state("running", 0), second.state("running", 1)])

    with pytest.raises(UserError, match=f"ambiguous: flow run {first.id}, task run {second.id}"):
        run_called(store, "0193aaaa")


def test_an_ambiguous_beginning_is_one_line_and_exit_code_1(audit: Audit, day: Day) -> None:
    refused = audit("run", day.training.id[:8])

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "is ambiguous" in refused.stderr


@pytest.mark.parametrize(
    ("part", "kind", "says"),
    [
        ("abc", UserError, "too short"),
        ("ffffffff", NotFound, "audit runs"),
        ("%%%%", NotFound, "no run's id"),
        ("", NotFound, "no run's id"),
    ],
)
def test_what_names_no_run_is_told_so(part: str, kind: type[Exception], says: str, store: AuditStore, day: Day) -> None:
    with pytest.raises(kind, match=says):
        run_called(store, part)


def test_nested_runs_are_told_from_their_neighbours(store: AuditStore) -> None:
    parent, child, stranger = (a_flow_run(name) for name in ("parent", "child", "stranger"))
    refused = a_flow_run("a child whose parameters were refused")
    append(
        store,
        [
            parent.state("running", 0),
            child.state("running", 1, parent_flow_run_id=parent.id),
            stranger.state("running", 1, parent_flow_run_id=uuid7()),
            refused.state("failed", 2, parent_flow_run_id=parent.id),
        ],
    )

    tree = flow_run(store, parent.id)

    assert [run["id"] for run in tree["flow_runs"]] == [child.id, refused.id]


def test_names_on_record_cannot_steer_the_terminal(audit: Audit, store: AuditStore) -> None:
    hostile = a_flow_run("\x1b[2J\x1b]0;gone\x07 [red]x[/red] :smile: \u202egnp")
    append(store, [hostile.state("running", 0)])

    for words in (["runs"], ["run", hostile.id]):
        shown = audit(*words, FORCE_COLOR="1", COLUMNS="200").stdout
        assert "\\x1b[2J\\x1b]0;gone\\x07 [red]x[/red] :smile: \\u202egnp" in shown


def test_a_withdrawn_payload_leaves_a_run_that_can_still_be_shown(audit: Audit, store: AuditStore, day: Day) -> None:
    with store.writing() as connection:
        connection.exec_driver_sql("DROP TRIGGER payload_no_delete")
        connection.exec_driver_sql("DELETE FROM payload")

    for words in (["runs"], ["run", day.pipeline.id], ["run", day.validate.id], ["status"], ["events"], ["models"]):
        shown = audit(*words)
        assert (shown.returncode, shown.stderr) == (0, "")
    assert "withdrawn" in audit("events", "--id", next(read.events(store)).id).stdout


def test_a_flow_run_without_states_of_its_own_points_at_its_events(audit: Audit, store: AuditStore) -> None:
    flow = uuid7()
    append(store, [an_event("store.replayed", p.StoreFacts(count=1), flow_run_id=flow)])

    refused = audit("run", flow)

    assert refused.returncode == 1
    assert f"audit events --run {flow}" in refused.stderr


def test_deployments_are_listed_where_a_run_has_one(audit: Audit, store: AuditStore, day: Day) -> None:
    deployed = a_flow_run("scoring flights", "scoring")
    append(store, [deployed.state("running", 0, deployment=p.DeploymentOfRun(name="scoring-daily"))])

    head, latest, earlier, *_ = audit("runs").stdout.splitlines()

    assert head.endswith("deployment")
    assert latest.endswith("scoring-daily")
    assert earlier.endswith("–")


def test_how_it_is_known_is_told_of_runs_whose_end_nobody_saw(audit: Audit, store: AuditStore, day: Day) -> None:
    lost = a_flow_run("scoring flights", "scoring")
    task = a_task_run(lost, "score")
    why = "its process 4711 on worker-3 is gone"
    append(
        store,
        [
            *(run.state("running", 20) for run in (lost, task)),
            *(run.state("abandoned", 7_200, known_by=why) for run in (lost, task)),
        ],
    )

    head, latest, earlier, *_ = audit("runs").stdout.splitlines()

    assert (head.split("  ")[-1], latest.split("  ")[-1], earlier.split("  ")[-1]) == ("known by", why, "itself")
    assert "2 h" not in latest
    assert f"known by: {why}\n" in audit("run", lost.id).stdout
    assert f"known by    {why}\n" in audit("run", task.id).stdout
