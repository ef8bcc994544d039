"""`audit events` and `audit tail`: the record as it stands, event by event."""

import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli import output
from audit.cli.naming import event_called, run_called
from audit.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from audit.store.engine import AuditStore
    from audit.store.read import Recorded

SHOWN = 50  # events in a table where no limit is given
BEFORE = 10  # events that `tail` shows first
POLL_SECONDS = 0.5
LOOK_BACK = 1_000  # events on PostgreSQL, behind which one may come in that took its number long before
TYPE_WIDTH = 23  # task_run.attempt_failed
SUBJECT_WIDTH = 28
_AGO = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Severity(StrEnum):
    """From the least grave to the gravest."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"
    critical = "critical"


Types = Annotated[
    list[str] | None,
    typer.Option("--type", metavar="TYPE", help="Only these types; `drift.*` for all of a kind. Can be repeated."),
]
Run = Annotated[
    str, typer.Option("--run", metavar="ID", help="Only this flow or task run: its id's beginning or ending.")
]
AtLeast = Annotated[
    Severity | None,
    typer.Option("--severity", metavar="LEVEL", help=f"Only events at least so grave: {', '.join(Severity)}."),
]


def events(
    type: Types = None,
    run: Run = "",
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Only from then on (UTC): 2026-11-24, 2026-11-24T10:00, 30m, 1h, 2d.")
    ] = "",
    severity: AtLeast = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help=f"Only the latest so many; 0 for all. Default {SHOWN}, with --json all."),
    ] = None,
    id: Annotated[
        str, typer.Option(metavar="ID", help="One event with its payload: its id's beginning or ending.")
    ] = "",
    as_json: output.AsJson = False,
) -> None:
    """Show events on record, the latest last. With --json one event a line.

    Example: audit events --type 'drift.*' --since 2d
    """
    from audit.store.engine import open_existing

    store = open_existing()
    if id:
        _show_one(event_called(store, id), as_json)
        return
    most = limit if limit is not None else 0 if as_json else SHOWN
    wanted = _wanted(store, type, run, severity) | {"since": moment(since) if since else None}
    shown = 0
    for event in _latest(store, wanted, most):
        _show_line(event, as_json, first=not shown)
        shown += 1
    if not shown and not as_json:
        output.show(output.styled("No event on record is so."))
    if limit is None and shown == SHOWN and not as_json:
        typer.echo(f"The latest {SHOWN}; --limit 0 shows all.", err=True)


def tail(type: Types = None, run: Run = "", severity: AtLeast = None, as_json: output.AsJson = False) -> None:
    """Follow events as they are recorded, until Ctrl-C. Begins with the latest ones.

    Example: audit tail --severity warning
    """
    from audit.store.engine import open_existing

    store = open_existing()
    first = True
    try:
        for event in _following(store, _wanted(store, type, run, severity)):
            _show_line(event, as_json, first=first)
            first = False
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def moment(since: str, now: datetime | None = None) -> str:
    """`since` as the store writes times. A date or time without a zone is UTC; `1h` is an hour before `now`."""
    now = now or datetime.now(UTC)
    try:
        if ago := _AGO.fullmatch(since.strip()):
            then = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            then = datetime.fromisoformat(since.strip())
            then = then if then.tzinfo else then.replace(tzinfo=UTC)
        return _timestamp(then)
    except (ValueError, OverflowError):
        raise UserError(
            f"--since {since!r} is no time.", hint="Write 2026-11-24, 2026-11-24T10:00, 30m, 1h or 2d."
        ) from None


def _timestamp(moment: datetime) -> str:
    from audit.events.canonical import timestamp

    return timestamp(moment)


def _wanted(store: "AuditStore", types: list[str] | None, run: str, severity: Severity | None) -> dict[str, Any]:
    """The conditions of a query, by the names that `read.events` gives them."""
    _check_types(types or [])
    levels = [level.value for level in Severity]
    return {
        "types": [asked for wanted in types or () for asked in _spelled_out(wanted)],
        "run": run_called(store, run).id if run else None,
        "severities": levels[levels.index(severity) :] if severity else (),
    }


def _check_types(types: list[str]) -> None:
    """A type that no event can have would silently find nothing."""
    from difflib import get_close_matches
    from fnmatch import fnmatchcase

    from audit.events.vocabulary import VOCABULARY

    for wanted in types:
        if not any(fnmatchcase(known, wanted) for known in VOCABULARY):
            near = get_close_matches(wanted, VOCABULARY, n=1)
            raise UserError(
                f"There is no event type {wanted!r}.",
                hint=f"Did you mean {near[0]!r}?" if near else "`drift.*` is all of a kind.",
            )


def _spelled_out(wanted: str) -> list[str]:
    """A type, or one that ends in `*`, is what the store takes; any other pattern is the types that it matches."""
    from fnmatch import fnmatchcase

    from audit.events.vocabulary import VOCABULARY

    if not set("*?[").intersection(wanted.removesuffix("*")):
        return [wanted]
    return [known for known in VOCABULARY if fnmatchcase(known, wanted)]


def _latest(store: "AuditStore", wanted: dict[str, Any], most: int) -> Iterator["Recorded"]:
    """Matching events, the oldest first; the latest `most`, or all where that is 0."""
    from audit.store import read

    if most:
        return reversed(list(read.events(store, **wanted, limit=most)))
    return read.events(store, **wanted, newest_first=False)


def _following(store: "AuditStore", wanted: dict[str, Any]) -> Iterator["Recorded"]:
    """The latest events, then new ones. SQLite has one writer, so seq order is commit order; PostgreSQL's commit when
    they do, so there the latest numbers are looked at again."""
    from audit.store import read

    behind = LOOK_BACK if store.is_postgres else 0
    seen = read.newest_seq(store)
    known = {event.seq for event in read.events(store, after=seen - behind)}
    for event in _latest(store, wanted, BEFORE):
        known.add(event.seq)
        yield event
    while True:
        time.sleep(POLL_SECONDS)
        newest = read.newest_seq(store)
        if newest == seen and not behind:
            continue
        for event in read.events(store, **wanted, after=seen - behind, newest_first=False):
            if event.seq not in known:
                known.add(event.seq)
                yield event
        seen = newest
        known = {seq for seq in known if seq > seen - behind}


def _show_line(event: "Recorded", as_json: bool, *, first: bool) -> None:
    if as_json:
        output.write_json_line(asdict(event))
        return
    if first:
        output.show(_columns("time (UTC)", "severity", "type", "subject", "event", "run", style="bold"))
    run = event.task_run_id or event.flow_run_id
    output.show(
        _columns(
            output.day_and_time(event.time),
            event.severity,
            event.type,
            _subject(event.subject),
            output.short_id(event.id),
            output.short_id(run) if run else output.NOTHING,
        )
    )


def _columns(time: str, severity: str, type: str, subject: str, id: str, run: str, style: str = "") -> "Text":
    """One line; widths are fixed, for later lines are not known yet."""
    return output.styled("", style).append_text(
        output.styled(f"{time:<19}  ")
        .append_text(output.styled(f"{severity:<8}  ", output.SEVERITIES.get(severity, "")))
        .append_text(output.styled(f"{type:<{TYPE_WIDTH}}  {subject:<{SUBJECT_WIDTH}}  {id:<{output.SHORT_ID}}  {run}"))
    )


def _subject(subject: str) -> str:
    """A run's subject by its short id."""
    kind, _, id = subject.partition("/")
    return f"{kind}/{output.short_id(id)}" if kind in ("flow-run", "task-run") else subject


def _show_one(event: "Recorded", as_json: bool) -> None:
    import json

    known = asdict(event)
    if as_json:
        output.write_json(known)
        return
    payload = known.pop("payload")
    envelope = [(name, str(value)) for name, value in known.items() if value is not None]
    lines = (
        json.dumps(payload, indent=2, ensure_ascii=False).splitlines()
        if payload
        else ["withdrawn: its envelope alone remains"]
    )
    output.show(output.facts(*envelope), output.styled("payload", "bold"), *map(output.styled, lines))
