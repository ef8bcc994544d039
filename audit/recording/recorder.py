"""Where an event becomes a row: the store, else the spool, else loudly counted as lost.

Mode `spool` never stops a pipeline; mode `strict` raises AuditUnavailable where neither takes the event.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypedDict

from sqlalchemy import Connection

from audit.errors import AuditUnavailable, InconsistentTree, KeyUnavailable, StoreBusy, StoreUnavailable, UserError
from audit.events.event import Event, make_event
from audit.events.payloads import Payload, StoreFacts
from audit.events.vocabulary import Severity
from audit.recording import circumstances, spool
from audit.recording.initialise import initialise
from audit.recording.sealing import seal_all, signing_key
from audit.settings import Settings, settings
from audit.store.append import append as append_to_store
from audit.store.append import append_decided
from audit.store.engine import open_store
from audit.store.ledger import not_sealed

SOURCE = "prefect-audit/recorder"
BUSY_TRIES = 6  # of a decision, each of which waits for the busy timeout
OURS = ("key.", "checkpoint.", "store.")  # types of what the record says of itself, which no run may put into its mouth
SEALING_SECONDS = 5.0  # that a run waits for at its end; what is left then is the next one's
UNSEALED_FOR = timedelta(hours=1)  # after which who cannot seal says that nobody does
RETRY_SECONDS = 15.0  # a store that failed is left alone so long: each try may block for its busy timeout

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
    if type.startswith(OURS):
        raise UserError(f"{type} is what the record says of itself.", hint="Record what happened under another type.")
    event = make_event(type, payload, source=SOURCE, subject=subject, severity=severity, id=id, **_around())
    append(event)
    return event.id


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
        for event in waiting:
            append(event)
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
    _recorder().append(event)
    tell(event)


def flow_ended() -> None:
    """What is due when a flow run ends: bring home what was spooled, by this process or another, and seal it."""
    try:
        if spool.waiting(settings().spool_path):
            _recorder().bring_home()
    finally:
        _recorder().seal()


def listen(listener: Listener) -> None:
    """Have `listener(event)` called for every event that this process puts on record."""
    _listeners.append(listener)


def count_lost(what: str) -> None:
    """Something that could not even be made into an event: counted with what neither store nor spool took."""
    _recorder().lose(what, "it could not be put into words")


def tell(event: Event) -> None:
    """Have everybody hear of an event that is on record: the log, this process's listeners, and of a run's Prefect."""
    from audit.recording import logs
    from audit.recording.feed import feed

    logs.tell(event)
    if event.of_a_run:
        feed(event)
    for listener in _listeners:
        listener(event)


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
    looked: bool = False  # whether what an earlier process left in the spool was brought home
    spooled: bool = False
    dropped: int = 0
    failed_at: float | None = None
    told_unsealed: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def append(self, event: Event) -> None:
        if self._store_rests():
            self._spool(event, "the store failed a moment ago")
            return
        try:
            if not self.looked:
                self._begin()
            if self.spooled or self.dropped:
                self.bring_home()
            append_to_store(open_store(self.where), [event])
            self.failed_at = None
        except StoreUnavailable as gone:
            self.failed_at = time.monotonic()
            self._spool(event, gone.what)

    def bring_home(self) -> None:
        """Replay the spool, and put on record what was replayed and what was lost. A failure only waits."""
        if self._store_rests():
            return
        with self.lock:
            try:
                store = open_store(self.where)
                moved, lost = spool.replay(self.where.spool_path, store), self.dropped
                append_to_store(store, _accounts(moved, lost))
            except StoreUnavailable as gone:
                self.failed_at = time.monotonic()
                log.warning("The audit spool waits. %s", gone)
                return
            self.looked, self.spooled = True, False
            self.dropped -= lost

    def seal(self) -> None:
        """Seal what waits, if the log's key is here. A failure only waits, for the run's outcome is the user's."""
        if self._store_rests():
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
        except (KeyUnavailable, StoreUnavailable) as failed:
            log.warning("The record waits to be sealed. %s", failed)

    def _tell_unsealed(self) -> None:
        """Once: a machine without the key need not seal, but somebody should."""
        count, oldest = not_sealed(open_store(self.where))
        if oldest and datetime.now(UTC) - datetime.fromisoformat(oldest) > UNSEALED_FOR:
            self.told_unsealed = True
            log.warning(
                "This process does not seal, and nobody did for long: %d events wait since %s. See `audit status`.",
                count,
                oldest,
            )

    def _begin(self) -> None:
        """A new store gets its key and origin; what an earlier process spooled comes home."""
        try:
            initialise(where=self.where)
        except KeyUnavailable as lost:
            log.warning("%s", lost)
        self.bring_home()

    def _store_rests(self) -> bool:
        return self.failed_at is not None and time.monotonic() - self.failed_at < RETRY_SECONDS

    def _spool(self, event: Event, because: str) -> None:
        with self.lock:
            news = [] if self.spooled else [_about("store.spooled", StoreFacts(reason=because))]
            try:
                append_to_store(spool.spool(self.where.spool_path), [*news, event])
            except StoreUnavailable as also_gone:
                if self.where.mode == "strict":
                    raise AuditUnavailable(
                        f"Neither the audit store nor its spool can be written: {also_gone.what}",
                        hint="Nothing runs unrecorded in mode strict; mend the store or set AUDIT_MODE=spool.",
                    ) from also_gone
                self.lose(event.type, str(also_gone))
                return
            self.spooled = True
        if news:
            log.warning("The audit store is away (%s). Events wait in %s.", because, self.where.spool_path)

    def lose(self, what: str, because: str) -> None:
        with self.lock:
            self.dropped += 1
        log.error("%s IS NOT ON RECORD (%d lost so far). %s", what, self.dropped, because)


def _accounts(moved: int, lost: int) -> list[Event]:
    told = [_about("store.replayed", StoreFacts(count=moved))] if moved else []
    return told + ([_about("store.dropped", StoreFacts(count=lost))] if lost else [])


def _about(type: str, facts: StoreFacts) -> Event:
    return make_event(type, facts, source=SOURCE, subject="store", actor=circumstances.actor())


def _recorder() -> Recorder:
    return _recorder_of(settings(), os.getpid())


@lru_cache(maxsize=8)
def _recorder_of(where: Settings, _process: int) -> Recorder:
    return Recorder(where)
