"""How complete the record is: what was stated of it, and what Prefect's server knows now. Nothing here writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from audit.events.canonical import timestamp
from audit.store import completeness as store_of
from audit.store.engine import AuditStore

if TYPE_CHECKING:
    from audit.events.payloads import CompletenessFacts
    from audit.recording.reconcile import Compared, Missing


@dataclass(frozen=True, slots=True)
class Statement:
    """What a process said at the end of a flow run of the task runs that it began; None where it said nothing."""

    flow_run: dict[str, Any]  # of the view
    event: str | None  # its id
    facts: dict[str, Any] | None
    still_missing: tuple[str, ...] = ()  # of those that it missed, what is not on record today either


@dataclass(frozen=True, slots=True)
class Completeness:
    """Both counts: the processes' own, flow run by flow run, and the server's."""

    compared: "Compared"
    statements: tuple[Statement, ...]

    @property
    def facts(self) -> "CompletenessFacts":
        return self.compared.facts

    @property
    def missing(self) -> "Sequence[Missing]":
        return self.compared.missing

    @property
    def exit_code(self) -> int:
        """0: all is on record or explained, 1: it is not, 2: nobody could tell."""
        unexplained = self.compared.task_runs["missing"] + self.compared.flow_runs["missing"]
        if unexplained or any(one.still_missing for one in self.statements):
            return 1
        return 2 if self.compared.unknown else 0


def completeness(store: AuditStore, since: datetime) -> Completeness:
    """How complete the record is since `since`. Raises StoreUnavailable."""
    from audit.recording.reconcile import compare  # imports Prefect

    return Completeness(compare(store, since), statements(store, since))


def statements(store: AuditStore, since: datetime) -> tuple[Statement, ...]:
    """Of each flow run that ended since `since` and that none other started, what was stated last."""
    from_ = timestamp(since)
    with store.reading() as connection:
        said = {run: one for one in store_of.statements(connection, from_) for run in one.facts.flow_runs[:1]}
        ended = store_of.ended_outermost(connection, from_)
        missed = [id for run in ended if run["id"] in said for id in said[run["id"]].facts.missing_ids]
        found = store_of.standing(connection, "task_run", missed)
    return tuple(
        Statement(
            run,
            one.event if (one := said.get(run["id"])) else None,
            one.facts.model_dump(exclude_none=True) if one else None,
            tuple(id for id in (one.facts.missing_ids if one else ()) if id not in found),
        )
        for run in ended
    )
