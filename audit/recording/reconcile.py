"""The record held against what Prefect's server knows, and what is missing of it put on record as such.

A run that only Prefect knows, or whose end only Prefect saw, becomes `reconciled`; one whose end nobody will see any
more `abandoned`. Both say how it is known, and views prefer what was observed. Prefect has no arguments, results or
attempts to give, and it deletes its own events after seven days. Its counts come some 20 seconds late, so what ended
a moment ago is not judged.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from sqlalchemy import Connection

from audit.events.canonical import timestamp
from audit.events.event import Event, make_event, uuid7, uuid8
from audit.events.payloads import CompletenessFacts, DeploymentOfRun, Named, RunState
from audit.privacy import redact
from audit.recording import abandoned, circumstances, recorder
from audit.recording.prefect_api import Api, Kind, PrefectUnreachable, Run, ended_as, prefect_api
from audit.store import completeness as store_of
from audit.store.append import append_decided
from audit.store.completeness import STATED, OpenRun, Stands
from audit.store.engine import AuditStore

SOURCE = "prefect-audit/reconcile"
SETTLED = timedelta(seconds=60)  # after its end a run has come to Prefect's database
MARGIN = timedelta(minutes=15)  # that a window overlaps the one before
LONGEST = timedelta(days=7)  # of a window, unless it is asked for: so long Prefect keeps its own events
FORGOTTEN = timedelta(days=7)  # without a sign of a run that Prefect does not know
MOST_NAMED = 100


@dataclass(frozen=True, slots=True)
class Missing:
    """A run that Prefect knows and the record does not."""

    kind: Kind
    id: str
    name: str
    flow_run_id: str | None
    state: str


@dataclass
class Compared:
    """What a comparison of both sides came to."""

    since: str
    until: str
    where: str = ""
    task_runs: Counter[str] = field(default_factory=Counter)  # how they stand: observed, reconciled, abandoned, …
    flow_runs: Counter[str] = field(default_factory=Counter)
    not_instrumented: Counter[str] = field(default_factory=Counter)  # by task: nobody asked that they be recorded
    missing: list[Missing] = field(default_factory=list)  # some of them
    nested: int = 0
    not_in_prefect: int = 0
    some_not_in_prefect: list[str] = field(default_factory=list)
    appended: Counter[str] = field(default_factory=Counter)  # by type
    still_open: list[OpenRun] = field(default_factory=list)  # which may be running
    unknown: str | None = None  # what could not be told, and why

    @property
    def facts(self) -> CompletenessFacts:
        """As it goes on record."""
        told = {"counted_by": "server", "where": self.where, "since": self.since, "until": self.until}
        if self.unknown:
            return CompletenessFacts.model_validate({**told, "unknown": self.unknown})
        stand = self.task_runs
        return CompletenessFacts.model_validate(
            {
                **told,
                "counted": stand.total(),
                "on_record": stand["observed"] + stand["reconciled"] + stand["abandoned"],
                "observed": stand["observed"],
                "reconciled": stand["reconciled"],
                "abandoned": stand["abandoned"],
                "too_recent": stand["too_recent"],
                "nested": self.nested,
                "not_in_prefect": self.not_in_prefect,
                "not_instrumented": [
                    Named(name=redact.text(task), value=count)
                    for task, count in self.not_instrumented.most_common(MOST_NAMED)
                ],
                "missing": stand["missing"],
                "missing_ids": [run.id for run in self.missing if run.kind == "task_run"][:MOST_NAMED],
            }
        )


def reconcile(store: AuditStore, since: datetime | None = None, *, now: datetime | None = None) -> Compared:
    """Compare a window with Prefect's server and put on record what was missing; then how complete it is.

    `since`: default where the last one ended, at most LONGEST ago. A second call appends nothing but its count. Where
    the server does not answer, that is what `unknown` says, and what can be told without it is done. Raises
    StoreUnavailable.
    """
    now = now or datetime.now(UTC)
    recorder.bring_home()  # what waits in the spool is on record too
    local = [*abandoned.abandon_gone(store, now - LONGEST)]
    compared = _compared(store, since, now, record=True)
    local += abandoned.abandon_left(store, now - LONGEST)
    _tell(compared, local)
    said = make_event(
        STATED,
        compared.facts,
        source=SOURCE,
        subject="store",
        actor=circumstances.actor(),
        severity="error" if compared.task_runs["missing"] else "warning" if compared.unknown else None,
    )
    recorder.append(said)
    recorder.flow_ended()  # which seals
    return compared


def compare(store: AuditStore, since: datetime, *, now: datetime | None = None) -> Compared:
    """The same without a change to the record."""
    return _compared(store, since, now or datetime.now(UTC), record=False)


def _compared(store: AuditStore, since: datetime | None, now: datetime, *, record: bool) -> Compared:
    until, since = now - SETTLED, since or _since(store, now)
    found = Compared(timestamp(since), timestamp(until))
    if since >= until:
        found.unknown = (
            f"There is nothing to compare: what ended after {found.until[:19]} UTC may not be in Prefect yet."
        )
        return found
    comparison = _Comparison(store, found, until, record=record)
    try:
        with prefect_api() as api:
            found.where = api.address
            comparison.run(api)
    except PrefectUnreachable as away:
        found.unknown = str(away)
    return found


def _since(store: AuditStore, now: datetime) -> datetime:
    """Where the last window ended that Prefect's server counted. One that ends in the time to come, by a clock that was
    ahead, does not count."""
    longest = now - LONGEST
    with store.reading() as connection:
        said = [one.facts for one in store_of.statements(connection, timestamp(longest))]
    ends = [ended for facts in said if facts.counted is not None and (ended := store_of.moment(facts.until))]
    return max([longest, *(ended - MARGIN for ended in ends if longest < ended <= now)])


@dataclass
class _Comparison:
    """One reading of both sides, page by page."""

    store: AuditStore
    found: Compared
    until: datetime
    record: bool
    api: Api = field(init=False)
    seen: set[bytes] = field(default_factory=set)  # ids of the window's runs in Prefect, 16 bytes each
    flows: dict[UUID, str] = field(default_factory=dict)  # names, by id
    recorded: dict[str, bool] = field(default_factory=dict)  # flow run not on record: whether its flow is otherwise
    stated: dict[str, CompletenessFacts] = field(default_factory=dict)  # by flow run: what its process counted

    def run(self, api: Api) -> None:
        """Raises PrefectUnreachable, StoreUnavailable."""
        self.api = api
        since = datetime.fromisoformat(self.found.since)
        with self.store.reading() as connection:
            said = store_of.statements(connection, self.found.since)
        self.stated = {id: one.facts for one in said for id in one.facts.flow_runs}
        for flow_runs in api.flow_runs(since, self.until):
            self._page("flow_run", flow_runs)
        for task_runs in api.task_runs(since, self.until):
            self._page("task_run", task_runs)
        self.found.nested = api.nested(since, self.until)
        self._not_in_prefect()
        self._settle_open(since)

    def _page(self, kind: Kind, runs: Sequence[Run]) -> None:
        """Some of the runs that Prefect knows: how each stands on record, now that what was missing is on it."""
        runs = [run for run in runs if run.id.bytes not in self.seen and not _is_scheduled(run)]
        self.seen |= {run.id.bytes for run in runs}
        stands = self._stands(kind, runs)
        due = [run for run in runs if self._is_due(run, stands.get(str(run.id)))]
        if self.record and due:
            self._append(kind, due)
            stands |= self._stands(kind, due)
        counts = self.found.task_runs if kind == "task_run" else self.found.flow_runs
        for run in runs:
            how = self._how(run, stands.get(str(run.id)))
            counts[how] += 1
            if how == "not_instrumented" and kind == "task_run":
                self.found.not_instrumented[_task_name(run)] += 1
            elif how == "missing" and len(self.found.missing) < MOST_NAMED:
                self.found.missing.append(_missing(kind, run))

    def _how(self, run: Run, stands: Stands | None) -> str:
        if stands is not None:
            return "observed" if stands.observed else "abandoned" if stands.state == "abandoned" else "reconciled"
        if not self._is_settled(run):
            return "too_recent"
        return "not_instrumented" if self._nobody_asked(run) else "missing"

    def _nobody_asked(self, run: Run) -> bool:
        """Whether it is known that nobody asked to have a run recorded that is not: its process said so, or the record
        has no run of its flow at all."""
        if isinstance(run, FlowRun):
            return not self._is_recorded_flow(run)
        if run.flow_run_id is None:
            return False
        around = str(run.flow_run_id)
        if said := self.stated.get(around):
            missed = said.missing > len(said.missing_ids) or str(run.id) in said.missing_ids
            return bool(said.not_instrumented) and not missed
        if around not in self.recorded:
            with self.store.reading() as connection:
                known = around in store_of.standing(connection, "flow_run", [around])
            flow_run = None if known else self.api.flow_runs_by_id([around]).get(around)
            self.recorded[around] = flow_run is None or self._is_recorded_flow(flow_run)
        return not self.recorded[around]

    def _is_recorded_flow(self, flow_run: FlowRun) -> bool:
        id = str(flow_run.id)
        if id not in self.recorded:
            name = redact.text(self._flow_name(flow_run) or "")
            with self.store.reading() as connection:
                self.recorded[id] = store_of.knows_flow(connection, name)
        return self.recorded[id]

    def _is_due(self, run: Run, stands: Stands | None) -> bool:
        """Whether only Prefect knows the run or its end. An end that it knows is more than that we gave the run up."""
        if ended_as(run.state) is None or not self._is_settled(run):
            return False
        return stands is None or not stands.closed or stands.state == "abandoned"

    def _is_settled(self, run: Run) -> bool:
        ended = run.end_time or (run.state.timestamp if run.state else None)
        return ended_as(run.state) is not None and ended is not None and ended <= self.until

    def _append(self, kind: Kind, due: Sequence[Run]) -> None:
        payloads = {str(run.id): self._payload(run) for run in due}  # before the lock: it asks the server

        def decide(connection: Connection) -> list[Event]:
            now = store_of.standing(connection, kind, payloads)
            still = (run for run in due if self._is_due(run, now.get(str(run.id))))
            return [_reconciled(kind, run, payloads[str(run.id)], now.get(str(run.id))) for run in still]

        _tell(self.found, append_decided(self.store, decide))

    def _payload(self, run: Run) -> RunState:
        return reconciled_payload(run, self._flow_name(run), f"Prefect's API at {self.api.address}, asked {_now()} UTC")

    def _flow_name(self, run: Run) -> str | None:
        if not isinstance(run, FlowRun):
            return None
        if run.flow_id not in self.flows:
            self.flows[run.flow_id] = self.api.flow_name(run.flow_id)
        return self.flows[run.flow_id]

    def _stands(self, kind: Kind, runs: Iterable[Run]) -> dict[str, Stands]:
        with self.store.reading() as connection:
            return store_of.standing(connection, kind, [str(run.id) for run in runs])

    def _not_in_prefect(self) -> None:
        """Task runs of the window that are on record and not, or no more, in Prefect; it has them a moment earlier."""
        begun = timestamp(datetime.fromisoformat(self.found.since) + SETTLED)
        with self.store.reading() as connection:
            for id in store_of.begun_since(connection, "task_run", begun, self.found.until):
                if _bytes(id) not in self.seen:
                    self.found.not_in_prefect += 1
                    if len(self.found.some_not_in_prefect) < MOST_NAMED:
                        self.found.some_not_in_prefect.append(id)

    def _settle_open(self, since: datetime) -> None:
        """What is open on record, also from before the window: as Prefect has it, or given up where it has no more."""
        with self.store.reading() as connection:
            before = min(since, self.until - FORGOTTEN - timedelta(days=1))
            flow_runs = store_of.open_flow_runs(connection, timestamp(before))
            task_runs = store_of.open_task_runs_since(connection, uuid7(int(before.timestamp() * 1000)))
        self._settle("flow_run", flow_runs, self.api.flow_runs_by_id([run.id for run in flow_runs]))
        self._settle("task_run", task_runs, self.api.task_runs_by_id([run.id for run in task_runs]))

    def _settle(self, kind: Kind, open_runs: Sequence[OpenRun], in_prefect: Mapping[str, Run]) -> None:
        due = [run for run in in_prefect.values() if ended_as(run.state) and self._is_settled(run)]
        if self.record and due:
            self._append(kind, due)
        settled = {str(run.id) for run in due}
        given_up = [
            run for run in open_runs if run.id not in in_prefect and run.seen_at < timestamp(self.until - FORGOTTEN)
        ]
        if self.record:
            _tell(self.found, abandoned.abandon(self.store, [(run, _forgotten(run)) for run in given_up]))
            settled |= {run.id for run in given_up}
        self.found.still_open += [run for run in open_runs if run.id not in settled]


def reconciled_payload(run: Run, flow_name: str | None, known_by: str) -> RunState:
    """A run as Prefect has it."""
    state = run.state
    assert state is not None, "an end is a state"
    of_flow = isinstance(run, FlowRun)
    return RunState(
        run_name=redact.text(run.name),
        of=redact.text(flow_name or "" if of_flow else _task_name(run)),
        state_id=str(state.id),
        state=redact.text(state.name) if state.name else None,
        message=redact.text(state.message) if state.message else None,
        attempt=run.run_count,
        tags=sorted(map(redact.text, run.tags)),
        parameters=redact.parameters(run.parameters) if isinstance(run, FlowRun) else None,
        deployment=_deployment(run) if isinstance(run, FlowRun) and run.deployment_id else None,
        became=ended_as(state),
        known_by=known_by,
        started_at=timestamp(run.start_time) if run.start_time else None,
        ended_at=timestamp(run.end_time or state.timestamp),
    )


def _reconciled(kind: Kind, run: Run, payload: RunState, stands: Stands | None) -> Event:
    """The event that says it. Its time is not before what is on record of the run, whatever the clocks say."""
    assert run.state is not None, "an end is a state"
    type = f"{kind}.reconciled"
    last = store_of.moment(stands.last) if stands else None
    flow_run_id = run.id if isinstance(run, FlowRun) else run.flow_run_id
    return make_event(
        type,
        payload,
        id=uuid8(str(run.state.id), str(run.id), str(run.state.id), type),
        source=SOURCE,
        subject=f"{kind.replace('_', '-')}/{run.id}",
        actor=circumstances.actor(),
        time=max(run.state.timestamp, last or run.state.timestamp),
        flow_run_id=str(flow_run_id) if flow_run_id else None,
        task_run_id=None if isinstance(run, FlowRun) else str(run.id),
        deployment=str(run.deployment_id) if isinstance(run, FlowRun) and run.deployment_id else None,
    )


def _deployment(run: FlowRun) -> DeploymentOfRun:
    """By the run alone: this process may be of a deployment itself."""
    return DeploymentOfRun(
        id=str(run.deployment_id),
        name=_label(run, "prefect.deployment.name"),
        version=run.deployment_version,
        work_pool=run.work_pool_name,
        worker=_label(run, "prefect.worker.name"),
    )


def _label(run: FlowRun, name: str) -> str | None:
    value = run.labels.get(name)
    return None if value is None else str(value)


def _task_name(run: Run) -> str:
    """Prefect keeps no task's name with its runs, but a key that begins with that of its function."""
    assert not isinstance(run, FlowRun), "a flow run is of no task"
    return run.task_key.rpartition("-")[0] or run.task_key


def _missing(kind: Kind, run: Run) -> Missing:
    around = None if isinstance(run, FlowRun) or run.flow_run_id is None else str(run.flow_run_id)
    return Missing(kind, str(run.id), redact.text(run.name), around, ended_as(run.state) or "running")


def _bytes(id: str) -> bytes:
    """Of an id on record, which may be none of Prefect's."""
    try:
        return UUID(id).bytes
    except ValueError:
        return id.encode()


def _is_scheduled(run: Run) -> bool:
    """Due, and not begun."""
    return run.state is not None and run.state.is_scheduled() and run.start_time is None


def _forgotten(run: OpenRun) -> str:
    return (
        f"Prefect does not know it any more, and nothing was heard of it since {run.seen_at[:19].replace('T', ' ')} UTC"
    )


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


def _tell(found: Compared, events: Iterable[Event]) -> None:
    for event in events:
        found.appended[event.type] += 1
        recorder.tell(event)
