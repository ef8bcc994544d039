"""From the few characters that people type to the one run or event they mean."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audit.errors import NotFound, UserError

if TYPE_CHECKING:
    from audit.store.engine import AuditStore
    from audit.store.read import Recorded

MIN_CHARACTERS = 4
_PART = re.compile(r"[0-9a-f-]+")


@dataclass(frozen=True, slots=True)
class NamedRun:
    """A flow or task run by its whole id."""

    kind: Literal["flow_run", "task_run"]
    id: str


def run_called(store: "AuditStore", part: str) -> NamedRun:
    """The run whose id begins or ends with `part`. Raises UserError if it is ambiguous, NotFound if there is none."""
    from audit.store import read

    part = _part(part, "run", "audit runs")
    found = read.run_ids(store, part)
    if not found:
        raise NotFound(f"No run on record is called {part}.", hint="See `audit runs`.")
    _refuse_several(part, [f"{kind.replace('_', ' ')} {id}" for kind, id in found])
    kind, id = found[0]
    return NamedRun("flow_run" if kind == "flow_run" else "task_run", id)


def event_called(store: "AuditStore", part: str) -> "Recorded":
    """The event whose id begins or ends with `part`. Raises UserError if it is ambiguous, NotFound if there is none."""
    from audit.store import read

    part = _part(part, "event", "audit events")
    found = read.event(store, part)
    if not found:
        raise NotFound(f"No event on record is called {part}.", hint="See `audit events`.")
    _refuse_several(part, [f"{event.type} {event.id}" for event in found])
    return found[0]


def _part(given: str, what: str, command: str) -> str:
    part = given.strip().strip("…").lower()
    if not _PART.fullmatch(part):
        raise NotFound(f"{given!r} is no {what}'s id: those are hexadecimal digits.", hint=f"See `{command}`.")
    if len(part) < MIN_CHARACTERS:
        raise UserError(f"{part!r} is too short for an id.", hint=f"Give at least {MIN_CHARACTERS} characters.")
    return part


def _refuse_several(part: str, found: list[str]) -> None:
    if len(found) > 1:
        raise UserError(f"{part} is ambiguous: {', '.join(found)}.", hint="Give more characters, or the id's ending.")
