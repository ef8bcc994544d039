"""How many task runs a process began, counted where Prefect's engine begins them and not where we write.

What is counted is an id of 16 bytes a task run, kept until the flow run ends: a hundredth of what Prefect itself keeps
of one, and enough to name those that are missing. A flow run's own processes may be many: what this one hands to
others (a pool, a cluster) it knows by the futures that it gets for them; what they begin themselves only the store
knows.
"""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext
from prefect.futures import PrefectDistributedFuture
from prefect.task_runners import ThreadPoolTaskRunner
from sqlalchemy import Connection

from audit.errors import StoreUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import CompletenessFacts, Named
from audit.privacy import redact
from audit.recording import circumstances, recorder, spool
from audit.settings import settings
from audit.store import completeness as store_of
from audit.store.completeness import STATED
from audit.store.engine import AuditStore, open_store

SOURCE = "prefect-audit/completeness"
MOST_NAMED = 100  # ids of missing task runs, and names of tasks that nobody asked to record
MOST_FLOW_RUNS = 1_000  # in one flow run, that a statement can be about
ENGINE = "task_engine.emit_task_run_state_change_event"  # the private point where task runs are seen to begin
SENT = "PrefectTaskRunFuture.__init__"  # where those are seen that go to other processes
ID_BYTES = 16


@dataclass(slots=True)
class Tally:
    """What a process saw begin of a flow run and of those nested in it."""

    flow_runs: list[UUID]  # the outermost first
    began: bytearray = field(default_factory=bytearray)  # ids of task runs, one behind the other
    sent: bytearray = field(default_factory=bytearray)
    deferred: bytearray = field(default_factory=bytearray)
    plain: dict[str, bytearray] = field(default_factory=dict)  # ids of those that nobody asked to record, by task


_tallies: dict[UUID, Tally] = {}  # by each flow run that a tally is about


def flow_began(flow_run: FlowRun) -> None:
    """Count the task runs of `flow_run` from now on: with those of the flow run around it, or by themselves."""
    if flow_run.id not in _tallies:  # else it is a further attempt
        _add(_tally_around() or Tally([]), flow_run.id)


def task_run_began(task_run: TaskRun, not_recorded: str | None) -> None:
    """Prefect's engine has begun `task_run`. `not_recorded`: its task's name, if nobody asked that it be recorded."""
    if task_run.flow_run_id is None:
        return  # of no flow run, whose end could be waited for
    tally = _tally_of(task_run.flow_run_id)
    if tally is None:
        return
    tally.began += task_run.id.bytes
    if not_recorded is not None:
        tally.plain.setdefault(not_recorded, bytearray()).extend(task_run.id.bytes)


def task_run_sent(future: Any, task_run_id: UUID) -> None:
    """This process got a future for a task run. One that a thread of ours runs is seen to begin anyway."""
    around = FlowRunContext.get()
    if around is None or around.flow_run is None:
        return
    if isinstance(around.task_runner, ThreadPoolTaskRunner) and not isinstance(future, PrefectDistributedFuture):
        return
    tally = _tally_of(around.flow_run.id)
    if tally is None:
        return
    to = tally.deferred if isinstance(future, PrefectDistributedFuture) else tally.sent
    to += task_run_id.bytes


def flow_ended(flow_run: FlowRun) -> None:
    """Put on record how many task runs of `flow_run` were counted and how many are on record, if it is an outermost one
    of this process; of a nested one nothing yet. Raises AuditUnavailable in mode `strict`."""
    tally = _tallies.get(flow_run.id)
    if tally is None or tally.flow_runs[0] != flow_run.id:
        return
    for id in tally.flow_runs:
        _tallies.pop(id, None)
    counted = _count(tally)
    if not recorder.append_made(lambda connection: _statement(counted, connection)):
        recorder.append(_statement(counted))


def counting() -> int:
    """Of how many flow runs this process counts the task runs now."""
    return len(_tallies)


def digest(pairs: Iterable[tuple[str, str]]) -> str:
    """Digest over (flow run, task run), which are sorted."""
    over = sha256()
    for flow_run, task_run in pairs:
        over.update(f"{flow_run}/{task_run}\n".encode())
    return "sha256:" + over.hexdigest()


@dataclass(frozen=True, slots=True)
class _Counted:
    """What there is to say before the store is asked, which may be under its lock."""

    flow_runs: list[str]
    told: dict[str, Any]
    unknown: str | None
    counted: set[str]
    plain: set[str]  # of them: nobody asked that they be recorded
    deferred: set[str]
    waiting: set[str]  # in the spool


def _count(tally: Tally) -> _Counted:
    flow_runs = [str(id) for id in tally.flow_runs]
    began, sent = _ids(tally.began), _ids(tally.sent)
    unknown, waiting = _unseen(), set[str]()
    plain = sorted(tally.plain.items(), key=lambda known: -len(known[1]))[:MOST_NAMED]
    told: dict[str, Any] = {
        "counted_by": "process",
        "where": f"process {os.getpid()} on {socket.gethostname()}",
        "flow_runs": flow_runs[:MOST_FLOW_RUNS],
        "sent": len(sent - began),
        "deferred": len(tally.deferred) // ID_BYTES,
        "not_instrumented": [Named(name=redact.text(task), value=len(ids) // ID_BYTES) for task, ids in plain],
    }
    if not unknown:
        told["counted"] = len(began | sent)
        if len(flow_runs) > MOST_FLOW_RUNS:
            unknown = f"it has {len(flow_runs):,} nested flow runs, which are not looked for"
    if not unknown:
        try:
            waiting = _in_spool(flow_runs)  # before the store: what comes home meanwhile is there then
        except StoreUnavailable as away:
            unknown = f"what is on record: {away.what}"
    unasked = set[str]().union(*map(_ids, tally.plain.values()))
    return _Counted(flow_runs, told, unknown, began | sent, unasked, _ids(tally.deferred), waiting)


def _statement(counted: _Counted, connection: Connection | None = None) -> Event:
    """What there is to say. `connection`: the transaction that it is written in, if it is known by now."""
    facts = _facts(counted, connection)
    return make_event(
        STATED,
        facts,
        source=SOURCE,
        subject=f"flow-run/{counted.flow_runs[0]}",
        actor=circumstances.actor(),
        severity="error" if facts.missing else None,
    )


def _facts(counted: _Counted, connection: Connection | None) -> CompletenessFacts:
    if counted.unknown:
        return CompletenessFacts(**counted.told, unknown=counted.unknown)
    try:
        if connection is None:
            pairs = _on_record(open_store(), counted.flow_runs)
        else:
            pairs = store_of.task_runs_of(connection, counted.flow_runs)
    except StoreUnavailable as away:
        return CompletenessFacts(**counted.told, unknown=f"what is on record: {away.what}")
    known = {task_run for _, task_run in pairs}
    missing = counted.counted - known - counted.waiting - counted.plain
    return CompletenessFacts(
        **counted.told,
        on_record=len(pairs),
        digest=digest(pairs),
        exact=True if connection is not None and connection.dialect.name == "sqlite" else None,
        in_spool=len(counted.counted & counted.waiting - known),
        elsewhere=len(known - counted.counted - counted.deferred),
        missing=len(missing),
        missing_ids=sorted(missing)[:MOST_NAMED],
    )


def _unseen() -> str | None:
    """Why this process cannot tell how many task runs there were; None where it can."""
    from audit.recording import bindings  # which imports this module

    unbound = [point for point in (ENGINE, SENT) if point in bindings.UNBOUND]
    return f"how many there were, for this Prefect has another {' and '.join(unbound)}" if unbound else None


def _on_record(store: AuditStore, flow_runs: list[str]) -> list[tuple[str, str]]:
    with store.reading() as connection:
        return store_of.task_runs_of(connection, flow_runs)


def _in_spool(flow_runs: list[str]) -> set[str]:
    """Raises StoreUnavailable for a spool that cannot be read."""
    waiting = (_on_record(spool.spool(file), flow_runs) for file in spool.files(settings().spool_path))
    return {task_run for pairs in waiting for _, task_run in pairs}


def _ids(joined: bytearray) -> set[str]:
    return {str(UUID(bytes=bytes(joined[at : at + ID_BYTES]))) for at in range(0, len(joined), ID_BYTES)}


def _tally_of(flow_run_id: UUID) -> Tally | None:
    """The tally that a flow run's task runs belong to; a nested flow run that nobody asked to record has that of the
    nearest one around it that somebody did."""
    tally = _tallies.get(flow_run_id)
    if tally is None and (tally := _tally_around()):
        _add(tally, flow_run_id)
    return tally


def _tally_around() -> Tally | None:
    around = FlowRunContext.get()
    while around is not None:
        if around.flow_run is not None and (tally := _tallies.get(around.flow_run.id)):
            return tally
        around = _outside_of(around)
    return None


def _add(tally: Tally, flow_run_id: UUID) -> None:
    tally.flow_runs.append(flow_run_id)
    _tallies[flow_run_id] = tally


def _outside_of(around: FlowRunContext) -> FlowRunContext | None:
    """The context that was there before this one. Prefect keeps it to go back to; where it does not, there is none."""
    before = getattr(getattr(around, "_token", None), "old_value", None)
    return before if isinstance(before, FlowRunContext) else None
