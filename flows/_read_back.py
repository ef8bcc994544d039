"""What Prefect's server told people by itself, of runs that crashed, are late or stuck: put on record afterwards.

The server keeps an event of each message for seven days; under an id that follows from that event's, a message is on
record once, whoever looks, and however often. Of the message there is its kind and its run, nothing of its text.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from audit import record
from audit.errors import StoreUnavailable
from audit.events.canonical import timestamp
from audit.events.event import uuid8
from audit.events.payloads import AlertFacts
from audit.privacy import redact
from audit.store import read
from audit.store.engine import open_store
from flows._deployed import TELLS, automations

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.filters import EventFilter
    from prefect.events.schemas.events import ReceivedEvent, RelatedResource

log = logging.getLogger("audit")

KEPT = timedelta(days=7)  # how long Prefect keeps events
AT_ONCE = 50  # events in one question, and no more in an answer
SENT, FAILED = "prefect.automation.action.executed", "prefect.automation.action.failed"
ON_RECORD: dict[str, Literal["alert.sent", "alert.failed"]] = {SENT: "alert.sent", FAILED: "alert.failed"}


def note_messages(spec: str) -> list[str]:
    """Put on record what the server told people of runs of `spec`, and has an event of; the ids of what is new.

    None where no server is configured. One that does not answer, and a store that does not, is a warning: a later look
    finds the same.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return []
    try:
        known = _on_record()
        with get_client(sync_client=True) as client:
            return [_note(told, run, spec) for told, run in _told(client, spec) if _id(told) not in known]
    except (httpx.HTTPError, PrefectHTTPStatusError, StoreUnavailable) as away:
        log.warning("What the server told people by itself could not be read back (%s).", type(away).__qualname__)
        return []


def _told(client: "SyncPrefectClient", spec: str) -> "Iterator[tuple[ReceivedEvent, ReceivedEvent]]":
    """What became of each message, and the event of the run that it was about."""
    from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

    ours = [f"prefect.automation.{one.id}" for one in automations(client) if one.name.startswith(TELLS)]
    if not ours:
        return
    filter = EventFilter(event=EventNameFilter(name=[SENT, FAILED]), resource=EventResourceFilter(id=ours))
    filter.occurred.since = datetime.now(UTC) - KEPT  # type: ignore[assignment]  # pydantic's own kind of datetime
    outcomes = [one for one in _events(client, filter) if one.payload.get("action_type") == "send-notification"]
    runs = _by_id(client, [id for one in outcomes if (id := _related(one.related, "triggering-event"))])
    for outcome in sorted(outcomes, key=lambda one: one.occurred):
        run = runs.get(_related(outcome.related, "triggering-event") or "")
        if run and any(each.id == f"prefect.tag.{spec}" for each in run.related):
            yield outcome, run


def _note(outcome: "ReceivedEvent", run: "ReceivedEvent", spec: str) -> str:
    kind = str(outcome.resource.name).removeprefix(TELLS).split()[0]
    run_id = run.resource.id.rpartition(".")[2]
    block, form = (_named(outcome.related, role) for role in ("block", "block-type"))
    facts = AlertFacts(
        spec=spec,
        alert=f"{spec}/{kind}/{run_id}",
        kind=kind,
        severity="error" if kind == "crashed" else "warning",
        title=redact.text(f"{kind.capitalize()}: {run.resource.get('prefect.resource.name', run_id)}"),
        body=f"Told by Prefect's server at {timestamp(outcome.occurred)}, as its event {outcome.id} has it.",
        to=redact.text(f"{form}/{block}") if block else None,
        target=redact.text(f"block {form}/{block}") if block else None,
        error="Prefect's server could not send it" if outcome.event == FAILED else None,
    )
    return record(ON_RECORD[outcome.event], facts, subject=f"flow-run/{run_id}", id=_id(outcome))


def _id(outcome: "ReceivedEvent") -> str:
    return uuid8(str(outcome.id), "told by Prefect's server")


def _on_record() -> set[str]:
    since = timestamp(datetime.now(UTC) - KEPT)
    return {event.id for event in read.events(open_store(), types=tuple(ON_RECORD.values()), since=since)}


def _events(client: "SyncPrefectClient", filter: "EventFilter") -> "Iterator[ReceivedEvent]":
    page = client.read_events(filter, limit=AT_ONCE)
    yield from page.events
    while page.next_page:
        page = client.read_events_page(str(page.next_page))
        yield from page.events


def _by_id(client: "SyncPrefectClient", ids: Sequence[str]) -> "dict[str, ReceivedEvent]":
    from prefect.events.filters import EventFilter, EventIDFilter

    found: dict[str, ReceivedEvent] = {}
    for first in range(0, len(ids), AT_ONCE):
        some = EventFilter(id=EventIDFilter.model_validate({"id": ids[first : first + AT_ONCE]}))
        some.occurred.since = datetime.now(UTC) - 2 * KEPT  # type: ignore[assignment]  # as above
        found |= {str(event.id): event for event in _events(client, some)}
    return found


def _related(related: "Iterable[RelatedResource]", role: str) -> str | None:
    """The id of the resource in that role, without what says of which kind it is."""
    return next((one.id.rpartition(".")[2] for one in related if one.role == role), None)


def _named(related: "Iterable[RelatedResource]", role: str) -> str | None:
    return next((one.name or one.id.rpartition(".")[2] for one in related if one.role == role), None)
