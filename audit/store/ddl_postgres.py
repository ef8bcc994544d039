"""What `ddl` is for SQLite, in PostgreSQL's dialect: triggers that make the tables insert-only, functions, views.

Functions that a trigger calls run with their owner's rights, for a writer may insert and read nothing. Numbers of
events are an identity column: they say in which order events came in, with gaps, and a late commit may have a lower
one. The order that is sealed is that of the leaves.
"""

from audit.events.event import ENVELOPE_KEYS
from audit.store.ddl import MADE, Dialect, run_view

_COLUMNS = ", ".join(f"'{key}', NEW.{key}" for key in ENVELOPE_KEYS)


def _guard(name: str, body: str, declare: str = "") -> str:
    """A trigger's function. It finds tables in our schema alone, whatever the caller's search_path."""
    return f"""CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = audit, pg_temp AS $$ {declare} BEGIN {body} RETURN NEW; END $$"""


# SQLite's names for what both can do, so that a query is written once.
FUNCTIONS = (
    """CREATE FUNCTION json_extract(body text, path text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT body::jsonb #>> string_to_array(substr(path, 3), '.') $$""",
    """CREATE FUNCTION json_each(body text) RETURNS TABLE (key text, value text, type text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT key, CASE jsonb_typeof(value) WHEN 'string' THEN value #>> '{}' ELSE value::text END, jsonb_typeof(value)
    FROM jsonb_each(CASE jsonb_typeof(body::jsonb) WHEN 'object' THEN body::jsonb ELSE '{}' END)
  UNION ALL
  SELECT (nth - 1)::text, CASE jsonb_typeof(value) WHEN 'string' THEN value #>> '{}' ELSE value::text END,
         jsonb_typeof(value)
    FROM jsonb_array_elements(CASE jsonb_typeof(body::jsonb) WHEN 'array' THEN body::jsonb ELSE '[]' END)
         WITH ORDINALITY AS items (value, nth) $$""",
    # With its owner's rights: who may only write still has to know whether it is on record. It tells ids of runs alone.
    """CREATE FUNCTION task_runs_on_record(flow_runs text[]) RETURNS TABLE (flow_run text, task_run text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = audit, pg_temp AS $$
  SELECT DISTINCT flow_run_id, task_run_id FROM event
   WHERE flow_run_id = ANY (flow_runs) AND task_run_id IS NOT NULL AND type >= 'task_run.' AND type < 'task_run/' $$""",
)

_REFUSED = _guard("refuse_change", "RAISE EXCEPTION USING MESSAGE = TG_TABLE_NAME || ' is insert-only';")


def _no_change(table: str, verbs: str = "DELETE OR UPDATE OR TRUNCATE") -> str:
    return f"""CREATE TRIGGER {table}_insert_only BEFORE {verbs} ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"""


GUARDS = (
    _REFUSED,
    _no_change("event"),
    _guard(
        "event_is_its_envelope",
        f"""IF NEW.envelope::jsonb IS DISTINCT FROM jsonb_build_object({_COLUMNS})
  THEN RAISE EXCEPTION 'columns and envelope differ'; END IF;""",
    ),
    """CREATE TRIGGER event_is_its_envelope BEFORE INSERT ON event
FOR EACH ROW EXECUTE FUNCTION event_is_its_envelope()""",
    _no_change("payload", "UPDATE OR TRUNCATE"),
    # xmin: the transaction that inserted the event is this one.
    _guard(
        "payload_with_its_event",
        """IF NOT EXISTS (SELECT 1 FROM event WHERE seq = NEW.event_seq AND xmin = pg_current_xact_id()::xid)
  OR jsonb_typeof(NEW.body::jsonb) IS DISTINCT FROM 'object'
  THEN RAISE EXCEPTION 'payload goes in with its event'; END IF;""",
    ),
    """CREATE TRIGGER payload_with_its_event BEFORE INSERT ON payload
FOR EACH ROW EXECUTE FUNCTION payload_with_its_event()""",
    """CREATE FUNCTION payload_no_delete() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = audit, pg_temp AS $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM withdrawal WHERE event_seq = OLD.event_seq)
  THEN RAISE EXCEPTION 'payload has no withdrawal'; END IF;
  RETURN OLD; END $$""",
    """CREATE TRIGGER payload_no_delete BEFORE DELETE ON payload
FOR EACH ROW EXECUTE FUNCTION payload_no_delete()""",
    _no_change("withdrawal"),
    _guard(
        "withdrawal_permitted",
        """IF NOT EXISTS (SELECT 1 FROM event WHERE seq = NEW.by_event_seq AND seq > NEW.event_seq
                     AND type IN ('privacy.erased', 'retention.expired'))
  OR EXISTS (SELECT 1 FROM event WHERE seq = NEW.event_seq AND type IN ('privacy.erased', 'retention.expired'))
  THEN RAISE EXCEPTION 'withdrawal needs a later event that permits it'; END IF;""",
    ),
    """CREATE TRIGGER withdrawal_permitted BEFORE INSERT ON withdrawal
FOR EACH ROW EXECUTE FUNCTION withdrawal_permitted()""",
)

LEDGER_GUARDS = (
    *(_no_change(table) for table in ("leaf", "node", "checkpoint", "anchor")),
    # Once a statement, for this guards a bulk.
    _guard(
        "leaf_takes_the_next_idx",
        """SELECT count(*), min(idx), max(idx) INTO added, low, high FROM inserted;
  IF added > 0 AND (high - low + 1 <> added OR low <> 1 + coalesce((SELECT max(idx) FROM leaf WHERE idx < low), -1)
                    OR EXISTS (SELECT 1 FROM leaf WHERE idx > high))
  THEN RAISE EXCEPTION 'leaf takes the next idx'; END IF;""",
        "DECLARE added bigint; low bigint; high bigint;",
    ),
    """CREATE TRIGGER leaf_takes_the_next_idx AFTER INSERT ON leaf REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION leaf_takes_the_next_idx()""",
    _guard(
        "checkpoint_grows",
        """IF NEW.size <= coalesce((SELECT max(size) FROM checkpoint), 0)
  THEN RAISE EXCEPTION 'checkpoint is insert-only'; END IF;""",
    ),
    """CREATE TRIGGER checkpoint_grows BEFORE INSERT ON checkpoint
FOR EACH ROW EXECUTE FUNCTION checkpoint_grows()""",
)


# That no event is earlier tells the planner how many runs there are: of an equal number in a subquery it expects few,
# and would sort them all to find the latest.
_POSTGRES = Dialect(
    of_kind=lambda event, kind: f"{event}.type >= '{kind}.' AND {event}.type < '{kind}/'",
    states=lambda events, state: (
        f"""(SELECT json_agg(json_build_object('state', {state}, 'at', r.time) ORDER BY r.time, r.seq)::text
              FROM event r WHERE {events})"""
    ),
    seconds=lambda began, ended: (
        f"round(extract(epoch FROM ({ended})::timestamptz - ({began})::timestamptz), 4)::float8"
    ),
    is_first=lambda events: f"NOT EXISTS (SELECT 1 FROM event r WHERE {events} AND (r.time, r.seq) < (f.time, f.seq))",
)

TASK_RUN = run_view(
    _POSTGRES,
    "task_run",
    "f.flow_run_id AS flow_run_id, json_extract(lp.body, '$.flow_name') AS flow,",
)
FLOW_RUN = run_view(
    _POSTGRES,
    "flow_run",
    """json_extract(fp.body, '$.deployment.name') AS deployment_name,
       json_extract(fp.body, '$.parent_flow_run_id') AS parent_flow_run_id,
       json_extract(fp.body, '$.code.commit') AS code_commit,
       CASE json_extract(fp.body, '$.code.dirty') WHEN 'true' THEN 1 WHEN 'false' THEN 0 END AS code_dirty,
       json_extract(fp.body, '$.surroundings.principal') AS principal,""",
)

DATASET_VERSION = "CREATE VIEW dataset_version AS " + " UNION ALL ".join(
    f"""SELECT json_extract(p.body, '{at}.{"name" if at == "$" else "of"}') AS name,
               json_extract(p.body, '{at}.version')::bigint AS version,
               json_extract(p.body, '{at}.digest') AS digest,
               json_extract(p.body, '{at}.address') AS address,
               json_extract(p.body, '{at}.rows')::bigint AS rows,
               json_extract(p.body, '$.window') AS "window",
               e.time AS made_at, e.flow_run_id, e.task_run_id, e.seq AS event_seq, e.id AS event_id
          FROM event e JOIN payload p ON p.event_seq = e.seq
         WHERE e.type = '{type}' AND json_extract(p.body, '{at}.digest') IS NOT NULL"""
    for type, at in MADE
)

# What sealing has to know of payloads, for who may read no other.
LEDGER_PAYLOAD = """CREATE VIEW ledger_payload WITH (security_barrier) AS SELECT event_seq, salt, body FROM payload
  WHERE event_seq IN (SELECT seq FROM event
    WHERE type IN ('key.created', 'key.rotated', 'key.lost', 'checkpoint.anchored'))"""

VIEWS = (TASK_RUN, FLOW_RUN, DATASET_VERSION, LEDGER_PAYLOAD)
