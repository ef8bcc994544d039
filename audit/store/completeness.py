"""Named queries about what is on record of runs: which are open, which were counted, what was said of both.

What is on record is whatever a writer wrote: a statement that is none is left out, and a name that is no text is none.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson
from pydantic import ValidationError
from sqlalchemy import Connection, text

from audit.errors import InconsistentTree
from audit.events.payloads import CompletenessFacts
from audit.store.ddl import ENDED
from audit.store.read import EVENT_COLUMNS, bound, recorded

Kind = Literal["flow_run", "task_run"]
STATED = "completeness.stated"
MOST = 1_000  # ids at once
_CLOSED = f"({ENDED[1:-1]},'reconciled','abandoned')"
_BEGUN = "('running','retrying','resumed','paused')"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run whose last event on record is no end."""

    kind: Kind
    id: str
    flow_run_id: str | None
    deployment: str | None
    seen: str  # id of that event
    seen_at: str
    state: str
    run_name: str | None  # None where the payload was withdrawn
    of: str | None
    handed_over: bool  # to a task worker, which begins it whatever became of its flow run


def moment(said: str | None) -> datetime | None:
    """The time that is on record as `said`; None for what is no time, or of no zone."""
    try:
        found = datetime.fromisoformat(said or "")
    except ValueError:
        return None
    return found if found.tzinfo else None


def task_runs_of(connection: Connection, flow_runs: Collection[str]) -> list[tuple[str, str]]:
    """(flow run, task run) of what is on record of these flow runs, sorted. On PostgreSQL a writer may ask this too."""
    pairs: list[tuple[str, str]] = []
    for some in _some(flow_runs):
        if connection.dialect.name == "postgresql":
            asked = text("SELECT flow_run, task_run FROM task_runs_on_record(:ids)"), {"ids": list(some)}
        else:
            asked = bound(
                """SELECT DISTINCT flow_run_id, task_run_id FROM event
                    WHERE flow_run_id IN :ids AND task_run_id IS NOT NULL
                      AND type >= 'task_run.' AND type < 'task_run/'""",
                {"ids": some},
            )
        pairs += [(row[0], row[1]) for row in connection.execute(*asked)]
    return sorted(pairs)


def open_flow_runs(connection: Connection, since: str) -> list[OpenRun]:
    """Flow runs that began or went on since `since` and whose last state is no end: over the index by type and time, as
    long as the window has flow runs, however many events there are."""
    rows = connection.execute(
        text(
            f"""SELECT flow_run_id, max(CASE WHEN substr(type, 10) IN {_BEGUN} THEN time END) AS began
                  FROM event WHERE type >= 'flow_run.' AND type < 'flow_run/' AND time >= :since
                   AND substr(type, 10) <> 'attempt_failed'
                 GROUP BY flow_run_id
                HAVING max(CASE WHEN substr(type, 10) IN {_BEGUN} THEN time END) >
                       coalesce(max(CASE WHEN substr(type, 10) NOT IN {_BEGUN} THEN time END), '')"""
        ),
        {"since": since},
    )
    return list(_last_of(connection, "flow_run", [row.flow_run_id for row in rows]))


def open_task_runs(connection: Connection, flow_runs: Collection[str]) -> list[OpenRun]:
    """The task runs of these flow runs that have not ended."""
    ids = [task_run for _, task_run in task_runs_of(connection, flow_runs)]
    return list(_last_of(connection, "task_run", ids))


def open_task_runs_since(connection: Connection, first_id: str) -> list[OpenRun]:
    """Task runs that have not ended, from the id `first_id` on: Prefect's ids are in the order of time, and the index
    holds all that the question needs."""
    rows = connection.execute(
        text(
            f"""SELECT task_run_id FROM event
                 WHERE task_run_id >= :first AND type >= 'task_run.' AND type < 'task_run/'
                 GROUP BY task_run_id HAVING max(CASE WHEN substr(type, 10) IN {_CLOSED} THEN 1 ELSE 0 END) = 0"""
        ),
        {"first": first_id},
    )
    return list(_last_of(connection, "task_run", [row.task_run_id for row in rows]))


@dataclass(frozen=True, slots=True)
class Stands:
    """How a run stands on record."""

    state: str
    last: str  # time of its last event
    closed: bool  # ended, reconciled or abandoned
    observed: bool  # by what was seen of it, not by what was found out without


def standing(connection: Connection, kind: Kind, ids: Collection[str]) -> dict[str, Stands]:
    """How these runs stand; those that are not on record are left out."""
    found: dict[str, Stands] = {}
    for some in _some(ids):
        rows = connection.execute(
            *bound(
                f"""SELECT r.id, r.state, l.type, l.time, substr(l.type, 10) IN {_CLOSED} AS closed
                      FROM {kind} r JOIN event l ON l.seq = r.last_seq WHERE r.id IN :ids""",
                {"ids": some},
            )
        )
        for row in rows:
            observed = row.type.partition(".")[2] not in ("reconciled", "abandoned")
            found[row.id] = Stands(row.state, row.time, bool(row.closed), observed)
    return found


def begun_since(connection: Connection, kind: Kind, since: str, until: str) -> Iterator[str]:
    """Ids of the runs that began, as the record has it, from `since` to before `until`; one that began anew again."""
    rows = connection.execution_options(stream_results=True).execute(
        text(
            f"""SELECT DISTINCT {kind}_id FROM event
                 WHERE type IN ('{kind}.running', '{kind}.retrying') AND time >= :since AND time < :until"""
        ),
        {"since": since, "until": until},
    )
    return (row[0] for row in rows)


def recorded_by(connection: Connection, kind: Kind, ids: Collection[str], sources: Collection[str]) -> set[str]:
    """Those of these runs of which one of `sources` put anything on record."""
    found: set[str] = set()
    for some in _some(ids):
        asked = bound(
            f"""SELECT DISTINCT {kind}_id FROM event
                 WHERE {kind}_id IN :ids AND source IN :sources AND type >= '{kind}.' AND type < '{kind}/'""",
            {"ids": some, "sources": sources},
        )
        found |= set(connection.execute(*asked).scalars())
    return found


@dataclass(frozen=True, slots=True)
class Statement:
    """What was stated of completeness, and by which event."""

    event: str  # its id
    facts: CompletenessFacts


def statements(connection: Connection, since: str) -> list[Statement]:
    """Every statement of completeness since `since` that can be read as one, the oldest first."""
    rows = connection.execute(
        text(
            f"""SELECT {EVENT_COLUMNS}, p.body FROM event e LEFT JOIN payload p ON p.event_seq = e.seq
                 WHERE e.type = '{STATED}' AND e.time >= :since ORDER BY e.time, e.seq"""
        ),
        {"since": since},
    )
    return [Statement(event.id, facts) for row in rows if (facts := _stated((event := recorded(row)).payload))]


def _stated(payload: dict[str, Any]) -> CompletenessFacts | None:
    try:
        return CompletenessFacts.model_validate(payload, strict=True)
    except ValidationError:
        return None


def knows_flow(connection: Connection, name: str) -> bool:
    """Whether a run of the flow `name` was ever recorded while it ran."""
    found = connection.execute(
        text(
            """SELECT 1 FROM event e JOIN payload p ON p.event_seq = e.seq
                WHERE e.type = 'flow_run.running' AND json_extract(p.body, '$.of') = :name LIMIT 1"""
        ),
        {"name": name},
    )
    return found.scalar() is not None


def ended_outermost(connection: Connection, since: str) -> list[dict[str, Any]]:
    """Flow runs that no other flow run on record started and that ended since `since`, with the event that says so."""
    rows = connection.execute(
        text(
            f"""SELECT r.id, r.name, r.flow, r.state, r.started_at, r.ended_at, l.type
                  FROM (SELECT DISTINCT flow_run_id AS id FROM event
                         WHERE type >= 'flow_run.' AND type < 'flow_run/' AND time >= :since) recent
                  JOIN flow_run r ON r.id = recent.id JOIN event l ON l.seq = r.last_seq
                 WHERE r.parent_flow_run_id IS NULL AND substr(l.type, 10) IN {_CLOSED} AND r.attempts > 0
                 ORDER BY r.first_seq"""
        ),
        {"since": since},
    )
    return [dict(row._mapping) for row in rows]


def surroundings(connection: Connection, flow_runs: Collection[str]) -> dict[str, object]:
    """What is on record of the process that began each of these flow runs last, as it stands there."""
    found: dict[str, object] = {}
    for some in _some(flow_runs):
        rows = connection.execute(
            *bound(
                """SELECT e.flow_run_id, p.body FROM event e JOIN payload p ON p.event_seq = e.seq
                    WHERE e.flow_run_id IN :ids
                      AND e.type IN ('flow_run.running', 'flow_run.retrying', 'flow_run.resumed')
                    ORDER BY e.time, e.seq""",
                {"ids": some},
            )
        )
        found |= {row.flow_run_id: around for row in rows if (around := _payload(row.body).get("surroundings"))}
    return found


def _last_of(connection: Connection, kind: Kind, ids: Sequence[str]) -> Iterator[OpenRun]:
    """These runs with what was last seen of each; those that were closed meanwhile are left out."""
    for some in _some(ids):
        rows = connection.execute(
            *bound(
                f"""SELECT r.id AS run, l.id, l.time, substr(l.type, 10) AS state, l.flow_run_id, l.deployment,
                           r.name, r.states, p.body
                      FROM {kind} r JOIN event l ON l.seq = r.last_seq LEFT JOIN payload p ON p.event_seq = l.seq
                     WHERE r.id IN :ids AND substr(l.type, 10) NOT IN {_CLOSED}""",
                {"ids": some},
            )
        )
        for row in rows:
            yield OpenRun(
                kind=kind,
                id=row.run,
                flow_run_id=row.flow_run_id,
                deployment=row.deployment,
                seen=row.id,
                seen_at=row.time,
                state=row.state,
                run_name=_name(row.name),
                of=_name(_payload(row.body).get("of")),
                handed_over=any(was["state"] == "scheduled" for was in orjson.loads(row.states)),
            )


def _name(said: object) -> str | None:
    return said if isinstance(said, str) else None


def _payload(body: str | None) -> dict[str, Any]:
    said = orjson.loads(body) if body else {}
    if not isinstance(said, dict):
        raise InconsistentTree("A run's payload is not what was recorded.", hint="Run `audit verify`.")
    return said


def _some(ids: Collection[str]) -> Iterator[list[str]]:
    listed = list(ids)
    return (listed[first : first + MOST] for first in range(0, len(listed), MOST))
