"""`audit runs` and `audit run`: what ran, as a list and as a tree."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli import output
from audit.cli.findings import FINDINGS, finding
from audit.cli.naming import run_called
from audit.cli.tree import header, in_full, tree
from audit.errors import NotFound

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from audit.store.engine import AuditStore
    from audit.store.read import Recorded

Row = dict[str, Any]  # of a view
ATTEMPTS = ("task_run.attempt_failed", "flow_run.attempt_failed")
TOLD = (*FINDINGS, *ATTEMPTS)
_JSON_COLUMNS = ("parameters", "states", "inputs", "outputs", "error")
_CLOCK_SKEW = timedelta(minutes=1)  # between the machines of a flow run and of one that it started


def runs(
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most so many; 0 for all.")] = 20,
    as_json: output.AsJson = False,
) -> None:
    """List flow runs, the latest first. `audit run` with the id that stands there shows one.

    Example: audit runs --limit 5
    """
    from audit.store import read
    from audit.store.engine import open_existing

    store = open_existing()
    found = [output.decoded(row, *_JSON_COLUMNS) for row in read.flow_runs(store, limit=limit or None)]
    counts = read.task_run_counts(store, [row["id"] for row in found])
    for row in found:
        row["task_runs"] = counts.get(row["id"], 0)
    if as_json:
        output.write_json(found)
        return
    output.show(_list(found) if found else output.styled("No flow run is on record yet. `make run` makes one."))


def run(
    id: Annotated[
        str,
        typer.Argument(metavar="ID", help="A flow or task run: its id's beginning or ending, 4 characters or more."),
    ],
    as_json: output.AsJson = False,
) -> None:
    """Show a flow run as a tree, or a task run in full. What went in, what came out, what failed.

    Example: audit run 3f2a
    """
    from audit.store.engine import open_existing

    store = open_existing()
    named = run_called(store, id)
    found = flow_run(store, named.id) if named.kind == "flow_run" else task_run(store, named.id)
    if as_json:
        output.write_json(found)
    elif named.kind == "flow_run":
        output.show(*header(found), tree(found))
    else:
        output.show(*in_full(found))


def flow_run(store: "AuditStore", id: str) -> Row:
    """A flow run with its `task_runs` and `flow_runs`, the latter likewise. Raises NotFound."""
    from audit.store import read

    rows = read.flow_runs_by_prefix(store, id)
    if not rows:
        raise NotFound(f"Flow run {id} has put no state of its own on record.", hint=f"See `audit events --run {id}`.")
    return _with_children(store, rows[0])


def task_run(store: "AuditStore", id: str) -> Row:
    """A task run with its `failed_attempts` and `findings`. Raises NotFound."""
    from audit.store import read

    rows = read.task_runs_by_prefix(store, id)
    if not rows:
        raise NotFound(f"Task run {id} has put no state on record.", hint=f"See `audit events --run {id}`.")
    return _with_events(rows[0], "task_run", list(read.events(store, types=TOLD, run=id, newest_first=False)))


def _with_children(store: "AuditStore", row: Row) -> Row:
    from audit.events.canonical import timestamp
    from audit.store import read

    told: dict[str | None, list[Recorded]] = {}
    for event in read.events(store, types=TOLD, run=row["id"], newest_first=False):
        told.setdefault(event.task_run_id, []).append(event)
    since = timestamp(datetime.fromisoformat(row["started_at"]) - _CLOCK_SKEW)
    tasks = [_with_events(task, "task_run", told.get(task["id"], [])) for task in read.task_runs(store, row["id"])]
    flows = [_with_children(store, child) for child in read.subflow_runs(store, row["id"], since)]
    return _with_events(row, "flow_run", told.get(None, [])) | {"task_runs": tasks, "flow_runs": flows}


def _with_events(row: Row, kind: str, told: Sequence["Recorded"]) -> Row:
    failed = [{"at": event.time, **event.payload} for event in told if event.type in ATTEMPTS]
    found = [phrase for event in told if event.type in FINDINGS and (phrase := finding(event))]
    return {"kind": kind, **output.decoded(row, *_JSON_COLUMNS), "failed_attempts": failed, "findings": found}


def _list(found: Sequence[Row]) -> "Table":
    head = ["run", "name", "flow", "state", "started (UTC)", "duration", "task runs"]
    more = {
        "deployment": [_deployment(row) or output.NOTHING for row in found],
        "known by": [row["known_by"] or "itself" for row in found],  # which a run is that was seen to its end
    }
    told = [name for name, said in more.items() if set(said) - {output.NOTHING, "itself"}]
    rows = ([*_listed(row), *(more[name][nth] for name in told)] for nth, row in enumerate(found))
    return output.table(
        [*head, *told],
        rows,
        numbers=("duration", "task runs"),
        wrapping=("name", "task runs", "deployment", "known by"),
    )


def _listed(row: Row) -> list["str | Text"]:
    return [
        output.short_id(row["id"]),
        row["name"] or output.NOTHING,
        row["flow"] or output.NOTHING,
        output.state(row["state"]),
        output.day_and_time(row["started_at"]),
        output.duration(row["duration_seconds"]),
        output.number(row["task_runs"]),
    ]


def _deployment(row: Row) -> str | None:
    name: str | None = row["deployment_name"] or row["deployment"]
    return name
