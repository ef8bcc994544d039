"""Runs whose end nobody saw, and nobody will: their process is gone, or the flow run that they were part of.

Each is put on record once, under an id that follows from the run and from what was last seen of it: a flow run that
is begun again under its old id, as Prefect can, and is lost once more is abandoned once more. What is looked for takes
no lock; what is found is looked at again under it, so that of two processes one writes.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import get_args

from sqlalchemy import Connection

from audit.events.canonical import timestamp
from audit.events.event import Event, make_event, uuid7, uuid8
from audit.events.payloads import RunState
from audit.recording import circumstances
from audit.recording.processes import gone
from audit.store import completeness as store_of
from audit.store.append import append_decided
from audit.store.completeness import Kind, OpenRun, Stands
from audit.store.engine import AuditStore

SOURCE = "prefect-audit/abandoned"
AT_START = timedelta(
    days=1
)  # for runs that began so long ago a process looks when it begins; `reconcile` looks further
BY_FORCE = ("crashed", "cancelled", "abandoned")  # how a flow run ends whose task runs end with it
LEFT_BY_FORCE = timedelta(hours=1)  # after such an end a task run of which nothing was heard is given up
LEFT = timedelta(days=1)  # likewise after any other, behind which a flow run may still wait for its threads
AT_ONCE = 500  # runs that are given up in one transaction, for others wait to write meanwhile
WORKER_SAW = "its flow run crashed: its worker saw the process end"

Lost = tuple[OpenRun, str]  # and how that is known


def abandon_gone(store: AuditStore, since: datetime) -> Sequence[Event]:
    """Put on record that the flow runs of this host that began since `since` and whose process is gone were abandoned,
    with their open task runs. Raises StoreUnavailable."""
    with store.reading() as connection:
        flow_runs = _gone(connection, timestamp(since))
        because = {run.id: why for run, why in flow_runs}
        inside = store_of.open_task_runs(connection, because.keys())
    return abandon(store, [*flow_runs, *((run, because[str(run.flow_run_id)]) for run in _begun(inside))])


def abandon_task_runs(store: AuditStore, flow_run_id: str) -> Sequence[Event]:
    """Put on record that the open task runs of a flow run were abandoned, whose process its worker has seen to crash.

    Raises StoreUnavailable.
    """
    with store.reading() as connection:
        inside = store_of.open_task_runs(connection, [flow_run_id])
    return abandon(store, [(run, WORKER_SAW) for run in _begun(inside)])


def abandon_left(store: AuditStore, since: datetime) -> Sequence[Event]:
    """Put on record that task runs since `since` were abandoned by flow runs that are over. Raises StoreUnavailable."""
    with store.reading() as connection:
        left = _left(connection, since, datetime.now(UTC))
    return abandon(store, left)


def abandon(store: AuditStore, lost: Sequence[Lost]) -> Sequence[Event]:
    """Put on record that these runs were abandoned, save those of which something was seen meanwhile."""
    told: list[Event] = []
    for first in range(0, len(lost), AT_ONCE):
        told += append_decided(store, partial(_decide, lost[first : first + AT_ONCE]))
    return told


def _decide(lost: Sequence[Lost], connection: Connection) -> list[Event]:
    events: list[Event] = []
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        ours = [(run, because) for run, because in lost if run.kind == kind]
        stands = store_of.standing(connection, kind, [run.id for run, _ in ours])
        events += [_abandoned(run, because) for run, because in ours if _as_it_was(run, stands.get(run.id))]
    return events


def _as_it_was(run: OpenRun, stands: Stands | None) -> bool:
    return stands is not None and not stands.closed and stands.last == run.seen_at


def _abandoned(run: OpenRun, because: str) -> Event:
    """The event that says it. Its time is not before what was last seen, whatever the clocks say."""
    type, now = f"{run.kind}.abandoned", datetime.now(UTC)
    return make_event(
        type,
        RunState(run_name=run.run_name or "", of=run.of or "", known_by=because),
        id=uuid8(run.id, run.id, run.seen, type),
        source=SOURCE,
        subject=f"{run.kind.replace('_', '-')}/{run.id}",
        actor=circumstances.actor(),
        time=max(now, store_of.moment(run.seen_at) or now),
        flow_run_id=run.flow_run_id,
        task_run_id=run.id if run.kind == "task_run" else None,
        deployment=run.deployment,
    )


def _gone(connection: Connection, since: str) -> list[Lost]:
    runs = store_of.open_flow_runs(connection, since)
    around = store_of.surroundings(connection, [run.id for run in runs])
    return [(run, because) for run in runs if run.id in around and (because := gone(around[run.id]))]


def _begun(task_runs: Sequence[OpenRun]) -> list[OpenRun]:
    """Without those that were handed to a task worker, which begins them whatever became of their flow run."""
    return [run for run in task_runs if not run.handed_over]


def _left(connection: Connection, since: datetime, now: datetime) -> list[Lost]:
    """Open task runs of flow runs that are over, and how it is known that they do not go on without them: their
    process is gone, or it was long ago."""
    first = uuid7(int(since.timestamp() * 1000))
    ours = [run for run in _begun(store_of.open_task_runs_since(connection, first)) if run.flow_run_id]
    within = {str(run.flow_run_id) for run in ours}
    flows, around = store_of.standing(connection, "flow_run", within), store_of.surroundings(connection, within)
    found: list[Lost] = []
    for run in ours:
        flow = flows.get(str(run.flow_run_id))
        if flow is None or not flow.closed:
            continue
        because = gone(around[str(run.flow_run_id)]) if run.flow_run_id in around else None
        if because or flow.last < timestamp(now - (LEFT_BY_FORCE if flow.state in BY_FORCE else LEFT)):
            found.append((run, because or _words(flow)))
    return found


def _words(flow: Stands) -> str:
    how = f"was {flow.state}" if flow.state in ("abandoned", "cancelled") else flow.state.replace("_", " ")
    return f"its flow run {how} at {flow.last[:19].replace('T', ' ')} UTC"
