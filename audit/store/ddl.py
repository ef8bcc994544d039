"""Triggers that make the tables insert-only, and the views that people read. SQLite's dialect.

SQLite's INSERT OR REPLACE deletes rows without firing DELETE triggers, so inserts are guarded too: a row
whose key is taken is skipped (event, where a replay meets its own first copy) or refused (the others). Events
take the next number and no other: a row at -1 would match every automatic number in a BEFORE trigger, one at
the end of the range would have SQLite draw numbers at random. A payload goes in right after its event.
"""

from collections.abc import Callable
from dataclasses import dataclass

from audit.events.event import ENVELOPE_KEYS

_DIFFERS = " OR ".join(f"json_extract(NEW.envelope, '$.{key}') IS NOT NEW.{key}" for key in ENVELOPE_KEYS)

GUARDS = (
    """CREATE TRIGGER event_keeps_first BEFORE INSERT ON event
       WHEN EXISTS (SELECT 1 FROM event WHERE id = NEW.id OR seq = NEW.seq)
       BEGIN SELECT RAISE(IGNORE); END""",
    """CREATE TRIGGER event_no_update BEFORE UPDATE ON event
       BEGIN SELECT RAISE(ABORT, 'event is insert-only'); END""",
    """CREATE TRIGGER event_no_delete BEFORE DELETE ON event
       BEGIN SELECT RAISE(ABORT, 'event is insert-only'); END""",
    """CREATE TRIGGER event_in_order AFTER INSERT ON event
       WHEN NEW.seq <> 1 + coalesce((SELECT seq FROM event WHERE seq < NEW.seq ORDER BY seq DESC LIMIT 1), 0)
         OR EXISTS (SELECT 1 FROM event WHERE seq > NEW.seq)
       BEGIN SELECT RAISE(ABORT, 'event takes the next seq'); END""",
    f"""CREATE TRIGGER event_is_its_envelope BEFORE INSERT ON event
       WHEN NOT json_valid(NEW.envelope) OR {_DIFFERS}
       BEGIN SELECT RAISE(ABORT, 'columns and envelope differ'); END""",
    """CREATE TRIGGER payload_with_its_event BEFORE INSERT ON payload
       WHEN NEW.event_seq IS NOT (SELECT max(seq) FROM event) OR NOT json_valid(NEW.body)
       BEGIN SELECT RAISE(ABORT, 'payload goes in with its event'); END""",
    """CREATE TRIGGER payload_no_replace BEFORE INSERT ON payload
       WHEN EXISTS (SELECT 1 FROM payload WHERE event_seq = NEW.event_seq)
         OR EXISTS (SELECT 1 FROM withdrawal WHERE event_seq = NEW.event_seq)
       BEGIN SELECT RAISE(ABORT, 'payload is insert-only'); END""",
    """CREATE TRIGGER payload_no_update BEFORE UPDATE ON payload
       BEGIN SELECT RAISE(ABORT, 'payload is insert-only'); END""",
    """CREATE TRIGGER payload_no_delete BEFORE DELETE ON payload
       WHEN NOT EXISTS (SELECT 1 FROM withdrawal WHERE event_seq = OLD.event_seq)
       BEGIN SELECT RAISE(ABORT, 'payload has no withdrawal'); END""",
    """CREATE TRIGGER withdrawal_no_replace BEFORE INSERT ON withdrawal
       WHEN EXISTS (SELECT 1 FROM withdrawal WHERE event_seq = NEW.event_seq)
       BEGIN SELECT RAISE(ABORT, 'withdrawal is insert-only'); END""",
    """CREATE TRIGGER withdrawal_permitted BEFORE INSERT ON withdrawal
       WHEN NOT EXISTS (SELECT 1 FROM event WHERE seq = NEW.by_event_seq AND seq > NEW.event_seq
                        AND type IN ('privacy.erased', 'retention.expired'))
         OR EXISTS (SELECT 1 FROM event WHERE seq = NEW.event_seq
                    AND type IN ('privacy.erased', 'retention.expired'))
       BEGIN SELECT RAISE(ABORT, 'withdrawal needs a later event that permits it'); END""",
    """CREATE TRIGGER withdrawal_no_update BEFORE UPDATE ON withdrawal
       BEGIN SELECT RAISE(ABORT, 'withdrawal is insert-only'); END""",
    """CREATE TRIGGER withdrawal_no_delete BEFORE DELETE ON withdrawal
       BEGIN SELECT RAISE(ABORT, 'withdrawal is insert-only'); END""",
)


def _only_inserted(table: str, taken: str) -> tuple[str, ...]:
    """A row goes in once and stays. `taken`: when its place is."""
    return (
        f"""CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {taken}
       BEGIN SELECT RAISE(ABORT, '{table} is insert-only'); END""",
        f"""CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
       BEGIN SELECT RAISE(ABORT, '{table} is insert-only'); END""",
        f"""CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
       BEGIN SELECT RAISE(ABORT, '{table} is insert-only'); END""",
    )


LEDGER_GUARDS = (
    *_only_inserted(
        "leaf",
        # One look at the last leaf, for this guards a bulk: the next index, of a later event.
        "coalesce((SELECT NEW.idx = idx + 1 AND NEW.event_seq > event_seq FROM leaf ORDER BY idx DESC LIMIT 1), "
        "NEW.idx = 0) IS NOT 1",
    ),
    *_only_inserted("node", "EXISTS (SELECT 1 FROM node WHERE level = NEW.level AND idx = NEW.idx)"),
    *_only_inserted("checkpoint", "NEW.size <= coalesce((SELECT max(size) FROM checkpoint), 0)"),
    *_only_inserted("anchor", "EXISTS (SELECT 1 FROM anchor WHERE event_seq = NEW.event_seq)"),
)

ENDED = "('completed','cached','failed','timed_out','crashed','cancelled','not_ready','rolled_back')"
RECOVERED = "('reconciled','abandoned')"  # how a run stands whose end nobody saw


def _last_event(of_this: str, state: str) -> str:
    """The seq of the event that says how a run stands: its last one, save that an end which was seen, though it was
    spooled and came in late, counts more than what was found out without it."""
    return f"""coalesce(
             (SELECT o.seq FROM (SELECT r.seq AS seq, {state} AS state FROM event r
                WHERE {of_this} AND {state} NOT IN {RECOVERED} ORDER BY r.time DESC, r.seq DESC LIMIT 1) o
               WHERE o.state IN {ENDED}),
             (SELECT r.seq FROM event r WHERE {of_this} ORDER BY r.time DESC, r.seq DESC LIMIT 1))"""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an engine says in its own words, of events `f`, a run's first, and `r`, any of it."""

    of_kind: Callable[[str, str], str]  # that an event's type begins with a kind
    states: Callable[[str, str], str]  # of a run's events all states, as JSON; the second says a state
    seconds: Callable[[str, str], str]  # from one time to another
    is_first: Callable[[str], str]  # that no event of the run is before `f`


def run_view(says: Dialect, kind: str, columns: str) -> str:
    """A run is its first event joined with its last; a plain view, for the index makes it quick."""
    of_this = f"r.{kind}_id = f.{kind}_id AND {says.of_kind('r', kind)}"
    state = f"substr(r.type, {len(kind) + 2})"
    stands = f"substr(l.type, {len(kind) + 2})"
    started = "coalesce(json_extract(fp.body, '$.started_at'), f.time)"
    began = f"""coalesce(json_extract(fp.body, '$.started_at'),
                 CASE WHEN substr(f.type, {len(kind) + 2}) NOT IN {RECOVERED} THEN f.time END)"""
    ended = "coalesce(json_extract(lp.body, '$.ended_at'), l.time)"
    over = f"({stands} IN {ENDED} OR {stands} = 'reconciled')"  # when an abandoned one ended nobody knows
    return f"""CREATE VIEW {kind} AS
    SELECT f.{kind}_id AS id,
           coalesce(json_extract(fp.body, '$.run_name'), json_extract(lp.body, '$.run_name')) AS name,
           json_extract(lp.body, '$.of') AS {kind.removesuffix("_run")},
           {columns}
           f.deployment AS deployment,
           coalesce(json_extract(lp.body, '$.parameters'), json_extract(fp.body, '$.parameters')) AS parameters,
           (SELECT count(*) FROM event r WHERE {of_this}
             AND {state} IN ('running', 'retrying')) AS attempts,
           CASE {stands} WHEN 'reconciled' THEN coalesce(json_extract(lp.body, '$.became'), 'reconciled')
             ELSE {stands} END AS state,
           {says.states(of_this, state)} AS states,
           {started} AS started_at,
           CASE WHEN {over} THEN {ended} END AS ended_at,
           CASE WHEN {over} THEN {says.seconds(began, ended)} END AS duration_seconds,
           json_extract(lp.body, '$.known_by') AS known_by,
           json_extract(lp.body, '$.inputs') AS inputs,
           json_extract(lp.body, '$.outputs') AS outputs,
           json_extract(lp.body, '$.error') AS error,
           f.actor AS actor,
           f.seq AS first_seq,
           l.seq AS last_seq
      FROM event f
      JOIN event l ON l.seq = {_last_event(of_this, state)}
      LEFT JOIN payload fp ON fp.event_seq = f.seq
      LEFT JOIN payload lp ON lp.event_seq = l.seq
     WHERE {says.of_kind("f", kind)}
       AND {says.is_first(of_this)}"""


_SQLITE = Dialect(
    of_kind=lambda event, kind: f"{event}.type GLOB '{kind}.*'",
    states=lambda events, state: (
        f"""(SELECT json_group_array(json_object('state', state, 'at', time)) FROM
             (SELECT {state} AS state, r.time AS time FROM event r WHERE {events} ORDER BY r.time, r.seq))"""
    ),
    seconds=lambda began, ended: f"round((julianday({ended}) - julianday({began})) * 86400, 4)",
    is_first=lambda events: f"f.seq = (SELECT r.seq FROM event r WHERE {events} ORDER BY r.time, r.seq LIMIT 1)",
)
TASK_RUN = run_view(
    _SQLITE,
    "task_run",
    "f.flow_run_id AS flow_run_id, json_extract(lp.body, '$.flow_name') AS flow,",
)
FLOW_RUN = run_view(
    _SQLITE,
    "flow_run",
    """json_extract(fp.body, '$.deployment.name') AS deployment_name,
       json_extract(fp.body, '$.parent_flow_run_id') AS parent_flow_run_id,
       json_extract(fp.body, '$.code.commit') AS code_commit,
       json_extract(fp.body, '$.code.dirty') AS code_dirty,
       json_extract(fp.body, '$.surroundings.principal') AS principal,""",
)

# Every place where an event names a dataset version that its stage made.
MADE = (
    ("dataset.ingested", "$"),
    ("dataset.transformed", "$"),
    ("dataset.validated", "$.valid"),
    ("dataset.validated", "$.rejected"),
    ("dataset.split", "$.train"),
    ("dataset.split", "$.test"),
    ("predictions.scored", "$.segment"),
)
DATASET_VERSION = "CREATE VIEW dataset_version AS " + " UNION ALL ".join(
    f"""SELECT json_extract(p.body, '{at}.{"name" if at == "$" else "of"}') AS name,
               json_extract(p.body, '{at}.version') AS version,
               json_extract(p.body, '{at}.digest') AS digest,
               json_extract(p.body, '{at}.address') AS address,
               json_extract(p.body, '{at}.rows') AS rows,
               json_extract(p.body, '$.window') AS "window",
               e.time AS made_at, e.flow_run_id, e.task_run_id, e.seq AS event_seq, e.id AS event_id
          FROM event e JOIN payload p ON p.event_seq = e.seq
         WHERE e.type = '{type}' AND json_extract(p.body, '{at}.digest') IS NOT NULL"""
    for type, at in MADE
)

# What sealing has to know of payloads, for who may read no other.
LEDGER_PAYLOAD = """CREATE VIEW ledger_payload AS SELECT event_seq, salt, body FROM payload
  WHERE event_seq IN (SELECT seq FROM event
    WHERE type IN ('key.created', 'key.rotated', 'key.lost', 'checkpoint.anchored'))"""

VIEWS = (TASK_RUN, FLOW_RUN, DATASET_VERSION, LEDGER_PAYLOAD)
