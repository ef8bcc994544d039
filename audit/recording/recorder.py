"""Where an event becomes a row: the store, else the spool, else loudly counted as lost.

Mode `spool` never stops a pipeline; mode `strict` raises AuditUnavailable where neither takes the event.
"""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypedDict

from sqlalchemy import Connection

from audit.errors import (
    AuditError,
    AuditUnavailable,
    InconsistentTree,
    KeyUnavailable,
    NotPermitted,
    StoreBusy,
    StoreRefused,
    StoreUnavailable,
    UserError,
)
from audit.events.event import Event, make_event
from audit.events.payloads import Payload, StoreFacts
from audit.events.vocabulary import Severity
from audit.recording import abandoned, circumstances, spool
from audit.recording.initialise import initialise
from audit.recording.losses import Losses
from audit.recording.sealing import seal_all, signing_key
from audit.settings import Settings, settings
from audit.store.append import append as append_to_store
from audit.store.append import append_decided
from audit.store.engine import open_existing, open_store, store_path
from audit.store.ledger import not_sealed

SOURCE = "prefect-audit/recorder"
BUSY_TRIES = 6  # of a decision, each of which waits for the busy timeout
# Types of what the record says of itself, which no run may put into its mouth.
OURS = ("key.", "checkpoint.", "store.", "completeness.", "pipeline.", "retention.", "privacy.erased")
SEALING_SECONDS = 5.0  # that a run waits for at its end; what is left then is the next one's
UNSEALED_FOR = timedelta(hours=1)  # after which who cannot seal says that nobody does
RETRY_SECONDS = 15.0  # at most: a store that failed is left alone, for each try may block for its busy timeout
LEAST_REST_SECONDS = 1.0
REST_FACTOR = 3.0  # of the time that the failure took

log = logging.getLogger("audit")
Listener = Callable[[Event], None]
Fact = tuple[str, Payload, str]  # type, payload, subject
_listeners: list[Listener] = []


def record(
    type: str,
    payload: Payload,
    *,
    subject: str,
    severity: Severity | None = None,
    id: str | None = None,
) -> str:
    """Put a fact on record from inside a flow, a task or a plain script; returns the event's id.

    Run ids, deployment, actor and times are filled in. Raises AuditUnavailable in mode `strict` only, UserError for a
    type that is the record's own.
    """
    _demand_not_ours(type)
    return record_of_ours(type, payload, subject=subject, severity=severity, id=id)


def record_of_ours(
    type: str, payload: Payload, *, subject: str, severity: Severity | None = None, id: str | None = None
) -> str:
    """As `record`, for what the record says of itself: not for flows and tasks, and not for those who write them."""
    event = make_event(type, payload, source=SOURCE, subject=subject, severity=severity, id=id, **_around())
    append(event)
    return event.id


def record_many(facts: Iterable[Fact]) -> list[str]:
    """Put facts on record in one transaction: `(type, payload, subject)` each; returns the events' ids.

    Otherwise as `record`.
    """
    around = _around()
    events = []
    for type, payload, subject in facts:
        _demand_not_ours(type)
        events.append(make_event(type, payload, source=SOURCE, subject=subject, **around))
    append_all(events)
    return [event.id for event in events]


def record_decided(decide: Callable[[Connection], Sequence[Fact]], *, in_store_only: bool = False) -> Sequence[Fact]:
    """Put on record the facts that `decide` makes of what it reads; returns them.

    Reading and writing are one transaction, so of two that decide at once the second knows of the first. A store
    that can be read but not written decides all the same, and the events wait in the spool, unless `in_store_only`.
    Where others write for long it is asked again, for they may be deciding just then: who did not wait for them would
    decide as they do. Raises StoreUnavailable for one that cannot be read, StoreBusy after half a minute.
    """
    facts: Sequence[Fact] = ()
    around = _around()  # before the lock: what it imports takes seconds

    def events(connection: Connection) -> list[Event]:
        nonlocal facts
        facts = decide(connection)
        return [make_event(type, payload, source=SOURCE, subject=subject, **around) for type, payload, subject in facts]

    try:
        for event in _patiently(events):
            tell(event)
    except StoreUnavailable as away:
        if in_store_only or isinstance(away, StoreBusy):
            raise
        with open_store().reading() as connection:
            waiting = events(connection)
        append_all(waiting)
    return facts


def _patiently(decide: Callable[[Connection], Sequence[Event]]) -> Sequence[Event]:
    for _ in range(BUSY_TRIES - 1):
        try:
            return append_decided(open_store(), decide)
        except StoreBusy:
            continue  # it has waited for some seconds
    return append_decided(open_store(), decide)


def append(event: Event) -> None:
    """Put one event into the store, else into the spool. Raises AuditUnavailable in mode `strict` only."""
    append_all([event])


def append_all(events: Sequence[Event]) -> None:
    """As `append`, in one transaction."""
    if not events:
        return
    _recorder().append(events)
    tell_all(events)


def append_made(make: Callable[[Connection], Event]) -> bool:
    """Append the event that `make` makes of what it reads, in one transaction; whether the store was there for it.

    It never waits in the spool, for what was read may have changed by the time that it came home.
    """
    return _recorder().append_made(make)


def bring_home() -> None:
    """Replay what waits in the spool. A failure is told, and what waits goes on waiting."""
    _recorder().bring_home()


def flush() -> spool.Replayed:
    """Bring home what waits in the spool now, also what the store refused before. Raises StoreUnavailable."""
    open_existing()  # one that is not there is not made, for that would hide that it was lost
    return _recorder().replay(refused_too=True)


def flow_ended() -> None:
    """What is due when a flow run ends: bring home what was spooled, by this process or another, and seal it."""
    try:
        if spool.files(settings().spool_path):
            _recorder().bring_home()
    finally:
        _recorder().seal()


def listen(listener: Listener) -> None:
    """Have `listener(event)` called for every event that this process puts on record."""
    _listeners.append(listener)


def count_lost(what: str) -> None:
    """An event that failed on its way here, or could not even be made, as was told: counted with what was lost."""
    _recorder().lose(what, "The warning before this says why.")


def tell(event: Event) -> None:
    """Have everybody hear of an event that is on record: the log, this process's listeners, and of a run's Prefect."""
    tell_all([event])


def tell_all(events: Sequence[Event]) -> None:
    """As `tell`, for what was put on record together."""
    from audit.recording import logs
    from audit.recording.feed import feed

    logs.tell(events)
    for event in events:
        if event.of_a_run:
            feed(event)
        for listener in _listeners:
            listener(event)


def _demand_not_ours(type: str) -> None:
    if type.startswith(OURS):
        raise UserError(f"{type} is what the record says of itself.", hint="Record what happened under another type.")


def _around() -> "Around":
    """Who we are, and the ids of the flow and task run around us, empty outside of both."""
    from prefect.context import FlowRunContext, TaskRunContext

    task, flow = TaskRunContext.get(), FlowRunContext.get()
    flow_run_id = task.task_run.flow_run_id if task else flow.flow_run.id if flow and flow.flow_run else None
    deployment = flow.flow_run.deployment_id if flow and flow.flow_run else None
    return {
        "flow_run_id": str(flow_run_id) if flow_run_id else None,
        "task_run_id": str(task.task_run.id) if task else None,
        "deployment": str(deployment) if deployment else None,
        "actor": circumstances.actor(),
    }


class Around(TypedDict):
    """By whom and in which runs an event is recorded."""

    flow_run_id: str | None
    task_run_id: str | None
    deployment: str | None
    actor: str


@dataclass
class Recorder:
    """One process's way to the store: what it knows of the store's health and of what was lost."""

    where: Settings
    losses: Losses
    process: int = field(default_factory=os.getpid)
    began: bool = False  # whether what an earlier process left in the spool was brought home
    spooled: bool = False
    untold: bool = False  # whether something was lost and is not on record as lost
    rests_until: float = 0.0
    because: str = ""
    told_unsealed: bool = False
    may_not_seal: bool = False  # as was told
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def dropped(self) -> int:
        """How many events are lost and not on record as lost, as far as is known here."""
        return self.losses.count()

    def append(self, events: Sequence[Event]) -> None:
        if self._store_rests():
            self._spool(events, self.because)
            return
        started, first = time.monotonic(), not self.began
        try:
            if first:
                self._begin()
            elif self.spooled or self.untold:
                self.replay()
            append_to_store(open_store(self.where), events)
        except StoreRefused:
            self._append_each(events)
        except StoreUnavailable as gone:
            self._let_rest(gone, started)
            self._spool(events, gone.what)
        else:
            if first:
                self._give_up_runs()

    def append_made(self, make: Callable[[Connection], Event]) -> bool:
        if self._store_rests() or not self.began:
            return False
        started = time.monotonic()
        try:
            if self.spooled or self.untold:
                self.replay()
            made = append_decided(open_store(self.where), lambda connection: [make(connection)])
        except (NotPermitted, StoreRefused):
            return False
        except StoreUnavailable as gone:
            self._let_rest(gone, started)
            return False
        tell_all(made)
        return True

    def bring_home(self) -> None:
        """Replay the spool, and put on record what was replayed and what was lost. A failure only waits."""
        if self._store_rests():
            return
        started = time.monotonic()
        try:
            self.replay(refused_too=True)
        except StoreUnavailable as gone:
            self._let_rest(gone, started)
            log.warning("The audit spool waits. %s", gone)

    def replay(self, *, refused_too: bool = False) -> spool.Replayed:
        """Bring home what waits and account for it, and for what was lost. Raises StoreUnavailable."""
        with self.lock:
            store = open_store(self.where)
            replayed = spool.replay(self.where.spool_path, store, refused_too=refused_too)
            if replayed.moved:
                log.warning("The audit store is there: %d events came home from the spool.", replayed.moved)
            self._say_what_stays(replayed)
            with self.losses.telling() as lost:
                if told := _accounts(replayed.moved, lost):
                    append_to_store(store, told)
            self.spooled, self.untold = False, self.losses.unwritten > 0
        return replayed

    def seal(self) -> None:
        """Seal what waits, if the log's key is here. A failure only waits, for the run's outcome is the user's."""
        if self._store_rests() or self.may_not_seal:
            return
        until = time.monotonic() + SEALING_SECONDS
        try:
            if key := signing_key(self.where):
                for _ in seal_all(self.where, key, tell=tell):
                    if time.monotonic() > until:
                        break
            elif not self.told_unsealed:
                self._tell_unsealed()
        except InconsistentTree as changed:
            log.error("NOTHING OF THE RECORD IS SEALED ANY MORE. %s", changed)
        except NotPermitted as refused:
            self.may_not_seal = True
            log.warning(
                "This process does not seal: the log's key is here, but its login to the database may not. Have "
                "`audit seal --watch` run with a login that has audit_sealer, and the key there alone. %s",
                refused.what,
            )
        except (KeyUnavailable, StoreUnavailable) as failed:
            log.warning("The record waits to be sealed. %s", failed)

    def lose(self, what: str, because: str) -> None:
        """Count an event that is not on record, and say so."""
        self.losses.add()
        self.untold = True
        log.error("%s IS NOT ON RECORD (%d lost so far). %s", what, self.dropped, because)

    def end(self) -> None:
        """The last chance to put on record what was lost. In a fork that ends it is its parent's."""
        if not self.untold or self.process != os.getpid():
            return
        self.rests_until = 0.0
        self.bring_home()
        if self.untold:
            log.error("%d EVENTS ARE NOT ON RECORD. %s tells the next process of them.", self.dropped, self.losses.path)

    def _begin(self) -> None:
        """A new store gets its key and origin, where it is a file; what an earlier process spooled comes home."""
        with self.lock:
            if self.began:
                return
            if store_path(self.where) is not None:  # on PostgreSQL this takes an owner's rights: `audit init`
                try:
                    initialise(where=self.where)
                except KeyUnavailable as lost:
                    log.warning("%s", lost)
            self.untold = self.losses.prepare() > 0 or self.untold
            self.replay(refused_too=True)
            self.began = True

    def _give_up_runs(self) -> None:
        """Of processes of this host that are gone. After this one's first event, which may say better how one ended."""
        try:
            for event in abandoned.abandon_gone(open_store(self.where), datetime.now(UTC) - abandoned.AT_START):
                tell(event)
        except NotPermitted:
            pass  # who may only write cannot look
        except Exception as failed:  # the event is on record by now: it must not be told as lost for this
            told = str(failed) if isinstance(failed, AuditError) else type(failed).__qualname__  # no values in logs
            log.warning("Whether runs of this host were cut off is not known. %s", told)

    def _say_what_stays(self, replayed: spool.Replayed) -> None:
        for event, reason in replayed.refused:
            _say_refused(event, reason)
        for unusable in replayed.unusable:
            log.error("What waits in the audit spool cannot be brought home. %s", unusable)

    def _append_each(self, events: Sequence[Event]) -> None:
        """One of them is refused: it is kept apart, and the others go in."""
        for at, event in enumerate(events):
            started = time.monotonic()
            try:
                append_to_store(open_store(self.where), [event])
            except StoreRefused as refused:
                self._keep_refused(event, refused.what)
            except StoreUnavailable as gone:
                self._let_rest(gone, started)
                self._spool(events[at:], gone.what)
                return

    def _keep_refused(self, event: Event, reason: str) -> None:
        try:
            spool.put_refused(self.where.spool_path, event, reason)
        except StoreUnavailable as gone:
            self._give_up([event], gone)
        else:
            _say_refused(event, reason)

    def _spool(self, events: Sequence[Event], because: str) -> None:
        with self.lock:
            news = [] if self.spooled else [_about("store.spooled", StoreFacts(reason=because))]
            try:
                spool.put(self.where.spool_path, [*news, *events])
            except StoreUnavailable as also_gone:
                self._give_up(events, also_gone)
                return
            self.spooled = True
        if news:
            log.warning("The audit store is away (%s). Events wait in %s.", because, self.where.spool_path)

    def _give_up(self, events: Sequence[Event], gone: StoreUnavailable) -> None:
        if self.where.mode == "strict":
            raise AuditUnavailable(
                f"Neither the audit store nor its spool can be written: {gone.what}",
                hint="Nothing runs unrecorded in mode strict; mend the store or set AUDIT_MODE=spool.",
            ) from gone
        for event in events:
            self.lose(event.type, str(gone))

    def _store_rests(self) -> bool:
        return time.monotonic() < self.rests_until

    def _let_rest(self, gone: StoreUnavailable, started: float) -> None:
        """Each try may block as long as this one did, so the next one is not soon; one that failed at once may be."""
        now = time.monotonic()
        self.rests_until = now + min(RETRY_SECONDS, max(LEAST_REST_SECONDS, REST_FACTOR * (now - started)))
        self.because = gone.what

    def _tell_unsealed(self) -> None:
        """Once: a machine without the key need not seal, but somebody should."""
        try:
            count, oldest = not_sealed(open_store(self.where))
        except NotPermitted:  # who may only write cannot know
            self.told_unsealed = True
            return
        if oldest and datetime.now(UTC) - datetime.fromisoformat(oldest) > UNSEALED_FOR:
            self.told_unsealed = True
            log.warning(
                "This process does not seal, and nobody did for long: %d events wait since %s. See `audit status`.",
                count,
                oldest,
            )


def _say_refused(event: Event, reason: str) -> None:
    log.error("%s %s IS NOT ON RECORD, but kept in the spool: %s See `audit spool`.", event.type, event.id, reason)


def _accounts(moved: int, lost: int) -> list[Event]:
    told = [_about("store.replayed", StoreFacts(count=moved))] if moved else []
    return told + ([_about("store.dropped", StoreFacts(count=lost))] if lost else [])


def _about(type: str, facts: StoreFacts) -> Event:
    return make_event(type, facts, source=SOURCE, subject="store", actor=circumstances.actor())


def _recorder() -> Recorder:
    return _recorder_of(settings(), os.getpid())


@lru_cache(maxsize=8)
def _recorder_of(where: Settings, _process: int) -> Recorder:
    made = Recorder(where, Losses(where.lost_path))
    atexit.register(made.end)
    return made
