"""`audit alerts`: what people were told, what did not reach them, and what was held back."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli import output

if TYPE_CHECKING:
    from audit.store.read import Recorded

SHOWN = 50  # lines in a table where no limit is given
STATES = {"sent": "green", "failed": "red", "held": "yellow", "raised": "blue"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A message at one target, or the findings of one topic that were held back one after the other."""

    time: str
    spec: str | None
    kind: str
    state: str  # sent, failed, held; raised while no outcome is known
    count: int  # findings that were held back; 1 for a message
    severity: str
    title: str
    to: str | None
    target: str | None
    said: str  # why it failed, or how long it was held back
    window: str | None
    event: str


def alerts(
    spec: Annotated[str, typer.Option(metavar="NAME", help="Only this use case's alerts.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only messages that did not reach a target.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help=f"At most so many; 0 for all. Default {SHOWN}, with --json all."),
    ] = None,
    as_json: output.AsJson = False,
) -> None:
    """List what people were told, the latest first. What was held back in one go is one line with a count.

    Example: audit alerts --spec flights --failed
    """
    from audit.store import read
    from audit.store.engine import open_existing

    types = ("alert.raised", "alert.sent", "alert.failed", "alert.held")
    found = told(read.events(open_existing(), types=types, spec=spec or None))
    chosen = [alert for alert in found if alert.state == "failed" or not failed]
    most = limit if limit is not None else 0 if as_json else SHOWN
    if as_json:
        output.write_json([asdict(alert) for alert in chosen[: most or None]])
        return
    head = ("time (UTC)", "spec", "kind", "state", "count", "to", "title", "event")
    rows = output.table(head, map(_line, chosen[: most or None]), numbers=("count",), wrapping=("title",))
    output.show(rows if chosen else output.styled("No alert on record is so."))
    if limit is None and len(chosen) > SHOWN:
        typer.echo(f"The latest {SHOWN} of {len(chosen)}; --limit 0 shows all.", err=True)


def told(events: "Iterable[Recorded]") -> list[Alert]:
    """The alerts that these events, the latest first, tell of. A message whose outcome is known shows as that alone."""
    settled: set[str] = set()
    shown: list[Recorded] = []
    for event in events:
        if not event.payload:  # withdrawn
            continue
        id = event.payload["alert"]
        if event.type == "alert.raised" and id in settled:
            settled.discard(id)
            continue
        if event.type in ("alert.sent", "alert.failed"):
            settled.add(id)
        shown.append(event)
    return [_alert(list(group)) for _, group in groupby(shown, key=_held_together)]


def _held_together(event: "Recorded") -> tuple[Any, ...]:
    if event.type != "alert.held":
        return (event.seq,)
    return tuple(event.payload.get(name) for name in ("spec", "kind", "about"))


def _alert(group: "list[Recorded]") -> Alert:
    latest = group[0]
    facts = latest.payload
    until = f"until {output.day_and_time(facts['until'])}" if "until" in facts else ""
    return Alert(
        time=latest.time,
        spec=facts.get("spec"),
        kind=_kind(facts),
        state=latest.type.removeprefix("alert."),
        count=len(group),
        severity=facts["severity"],
        title=facts["title"],
        to=facts.get("to"),
        target=facts.get("target"),
        said=facts.get("error") or until,
        window=facts.get("window"),
        event=latest.id,
    )


def _kind(facts: dict[str, Any]) -> str:
    """`drift`; of a summary or a recovery also what it is of: `summary drift`."""
    return " ".join(filter(None, (facts["kind"], facts.get("of"))))


def _line(alert: Alert) -> tuple[Any, ...]:
    target = f"{alert.to} ({alert.target})" if alert.to and alert.target not in (None, alert.to) else alert.to
    state = output.styled(alert.state, STATES[alert.state])
    if alert.said:
        state.append_text(output.styled(f" ({alert.said})"))
    return (
        output.day_and_time(alert.time),
        alert.spec or output.NOTHING,
        alert.kind,
        state,
        output.number(alert.count) if alert.state == "held" else "",
        target or output.NOTHING,
        alert.title,
        output.short_id(alert.event),
    )
