"""Runs put on record by what Prefect's server tells of them, for images that nobody can add anything to.

The server's event stream has every state of flow runs and task runs. From here come states, names, times and messages;
never arguments, results, lineage or the errors of single attempts, which no event holds. A run of which a hook has put
anything on record is left to the hooks, for theirs is the richer event of the same id; each event waits some seconds,
so that they come first.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Literal

import httpx
from prefect.client.schemas.objects import StateType
from prefect.events import Event as PrefectEvent
from prefect.events import RelatedResource
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from sqlalchemy import Connection
from websockets.exceptions import WebSocketException

from audit.errors import StoreUnavailable
from audit.events.event import Event, make_event, uuid8
from audit.events.payloads import RunState
from audit.privacy import redact
from audit.recording import circumstances, recorder
from audit.recording.prefect_api import demand_server
from audit.recording.reconcile import SETTLED, reconcile
from audit.store import completeness as store_of
from audit.store.append import append_decided
from audit.store.engine import AuditStore

SOURCE = "prefect-audit/follow"
HOOKED = ("prefect-audit/hook", "prefect-audit/wrapper", "prefect-audit/engine")
HELD = timedelta(seconds=10)  # that an event waits for a hook's to come first
SEALED = timedelta(seconds=60)
EACH_SECONDS = 1.0
AGAIN_SECONDS = (1.0, 2.0, 5.0, 15.0)  # between attempts to reach a server that has gone; the last one for ever
PREFIXES = ("prefect.flow-run.", "prefect.task-run.")

Say = Callable[[str], None]
Kind = Literal["flow_run", "task_run"]


def follow(store: AuditStore, say: Say) -> None:
    """Record what the server tells until SIGINT or SIGTERM; `say` hears what happens to the connection.

    A server that goes is waited for, and what it did not tell meanwhile is read from it (see `reconcile`). Raises
    PrefectUnreachable where none is configured.
    """
    demand_server()
    asyncio.run(_Follower(store, say).run())


@dataclass(frozen=True, slots=True)
class Seen:
    """A state that the server told of, as an event of ours would be."""

    kind: Kind
    run: str
    event: Event


def seen(told: PrefectEvent) -> Seen | None:
    """What goes on record of an event of Prefect's; None for one that is no state of ours."""
    resource = told.resource
    prefix = next((prefix for prefix in PREFIXES if resource.id.startswith(prefix)), None)
    state_type, name = resource.get("prefect.state-type"), resource.get("prefect.state-name") or ""
    if prefix is None or state_type is None:
        return None  # a heartbeat, or what is no run
    kind: Kind = "flow_run" if prefix == PREFIXES[0] else "task_run"
    run, attempt = resource.id.removeprefix(prefix), int(resource.get("prefect.run-count") or 0)
    word = _word(StateType(state_type), name, attempt)
    if word is None or (kind == "flow_run" and word == "not_ready"):
        return None
    type, message = f"{kind}.{word}", resource.get("prefect.state-message")
    related = {of.role: of for of in told.related}
    flow_run = run if kind == "flow_run" else _id(related.get("flow-run"))
    flow = related["flow"].name if "flow" in related else None
    payload = RunState(
        run_name=redact.text(resource.name or ""),
        of=redact.text((flow or "") if kind == "flow_run" else _task_of(told, resource.name or "")),
        state_id=str(told.id),
        state=redact.text(name),
        message=redact.text(message) if message else None,
        attempt=attempt or None,
        flow_name=redact.text(flow) if flow and kind == "task_run" else None,
        tags=sorted(redact.text(of.id.removeprefix("prefect.tag.")) for of in told.related if of.role == "tag"),
    )
    event = make_event(
        type,
        payload,
        id=_event_id(type, run, str(told.id), attempt),
        source=SOURCE,
        subject=f"{kind.replace('_', '-')}/{run}",
        actor=circumstances.actor(),
        time=told.occurred,
        flow_run_id=flow_run,
        task_run_id=run if kind == "task_run" else None,
        deployment=_id(related.get("deployment")),
    )
    return Seen(kind, run, event)


def append_seen(store: AuditStore, states: Sequence[Seen]) -> Sequence[Event]:
    """Put on record those of these states whose runs no hook records. Raises StoreUnavailable."""

    def decide(connection: Connection) -> list[Event]:
        hooked = {
            (kind, run)
            for kind in ("flow_run", "task_run")
            for run in store_of.recorded_by(connection, kind, {s.run for s in states if s.kind == kind}, HOOKED)
        }
        return [state.event for state in states if (state.kind, state.run) not in hooked]

    return append_decided(store, decide)


@dataclass
class _Follower:
    """What was heard and is not on record yet, and since when something may have been missed."""

    store: AuditStore
    say: Say
    held: list[tuple[datetime, Seen]] = field(default_factory=list)  # when it was heard
    missed_since: datetime | None = None
    back_at: datetime | None = None
    sealed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self.stopped.set)
        listening = asyncio.create_task(self._listen())
        try:
            while not self.stopped.is_set() and not listening.done():
                await self._wait(EACH_SECONDS)
                await asyncio.to_thread(self._write, datetime.now(UTC) - HELD)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await asyncio.to_thread(self._write, datetime.now(UTC))
            await asyncio.to_thread(recorder.flow_ended)
        if not self.stopped.is_set():
            listening.result()  # what ended it

    async def _listen(self) -> None:
        """Hear the server, over and over. What it said while nobody listened is read from it later."""
        again = chain(AGAIN_SECONDS[:-1], repeat(AGAIN_SECONDS[-1]))
        while True:
            try:
                async with get_events_subscriber(_wanted(), reconnection_attempts=0) as stream:
                    self._heard_again()
                    again = chain(AGAIN_SECONDS[:-1], repeat(AGAIN_SECONDS[-1]))
                    async for told in stream:
                        if state := seen(told):
                            self.held.append((datetime.now(UTC), state))
                self._gone("it closed the connection")
            except (WebSocketException, OSError, TimeoutError, httpx.HTTPError) as away:
                self._gone(type(away).__name__)
            await self._wait(next(again))

    def _heard_again(self) -> None:
        self.back_at = datetime.now(UTC)
        self.say("Listening to Prefect's events." if self.missed_since is None else "Prefect's server is back.")

    def _gone(self, why: str) -> None:
        if self.missed_since is None or self.back_at is not None:
            self.say(f"Prefect's server is gone ({why}). It is tried again until it is back.")
        self.missed_since, self.back_at = self.missed_since or datetime.now(UTC) - SETTLED, None

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.stopped.wait(), seconds)
        except TimeoutError:
            return

    def _write(self, before: datetime) -> None:
        """Put on record what was heard before then; read what was missed, once it is settled; seal now and then."""
        due = [state for heard, state in self.held if heard <= before]
        try:
            if due:
                for event in append_seen(self.store, due):
                    recorder.tell(event)
                del self.held[: len(due)]
            self._catch_up()
        except StoreUnavailable as away:
            self.say(f"{away} What was heard waits.")
        if datetime.now(UTC) - self.sealed_at > SEALED:
            recorder.flow_ended()
            self.sealed_at = datetime.now(UTC)

    def _catch_up(self) -> None:
        now = datetime.now(UTC)
        if self.missed_since is None or self.back_at is None or now - self.back_at < SETTLED:
            return
        found = reconcile(self.store, self.missed_since)
        if found.unknown is None:
            self.missed_since = None
            self.say(f"Read from the server what it told nobody: {found.appended.total()} events.")


def _wanted() -> EventFilter:
    return EventFilter(event=EventNameFilter(prefix=list(PREFIXES)))


def _word(type: StateType, name: str, attempt: int) -> str | None:
    """As `hooks` has it."""
    match type:
        case StateType.RUNNING:
            return "retrying" if attempt > 1 else "running"
        case StateType.COMPLETED:
            return {"Cached": "cached", "RolledBack": "rolled_back"}.get(name, "completed")
        case StateType.FAILED:
            return "timed_out" if name == "TimedOut" else "failed"
        case StateType.PENDING if name == "NotReady":
            return "not_ready"
        case StateType.CRASHED | StateType.CANCELLED:
            return str(type.value).lower()
        case _:
            return None


def _event_id(type: str, run: str, state: str, attempt: int) -> str:
    """The id that a hook would give it: of a crash that of its attempt, of a cancelled flow run that of the run."""
    if type == "flow_run.cancelled":
        return uuid8(run, run, type)
    if type == "task_run.crashed":
        return uuid8(run, run, str(attempt), type)
    return uuid8(state, run, state, type)


def _task_of(told: PrefectEvent, run_name: str) -> str:
    key = str(told.payload.get("task_run", {}).get("task_key", ""))
    return key.rpartition("-")[0] or key or run_name


def _id(of: RelatedResource | None) -> str | None:
    return of.id.rpartition(".")[2] if of else None
