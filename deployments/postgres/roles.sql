-- Who may do what in the audit store's schema. Run it as the store's owner after every `audit init` that made or
-- migrated something; twice does no harm. It takes the right to create roles, or somebody who made these before:
-- audit_writer, audit_sealer, audit_custodian, audit_reader, audit_auditor. They are groups: grant them to logins.
--
--   psql "$AUDIT_DATABASE_URL" -v ON_ERROR_STOP=1 -f deployments/postgres/roles.sql
--
-- What each is for: docs/postgres.md. None of them owns anything, so none can lift a guard.

BEGIN;

DO $$
DECLARE role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['audit_writer', 'audit_sealer', 'audit_custodian', 'audit_reader', 'audit_auditor'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', role);
    END IF;
  END LOOP;
END $$;

CREATE SCHEMA IF NOT EXISTS audit_masked;

-- Nothing that is not said below, neither from before nor by default, nor of what a later migration makes. Functions
-- are open to everybody unless this is said of their maker in the whole database.
REVOKE ALL ON SCHEMA audit, audit_masked
  FROM PUBLIC, audit_writer, audit_sealer, audit_custodian, audit_reader, audit_auditor;
REVOKE ALL ON ALL TABLES IN SCHEMA audit, audit_masked
  FROM PUBLIC, audit_writer, audit_sealer, audit_custodian, audit_reader, audit_auditor;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA audit
  FROM PUBLIC, audit_writer, audit_sealer, audit_custodian, audit_reader, audit_auditor;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit
  FROM PUBLIC, audit_writer, audit_sealer, audit_custodian, audit_reader, audit_auditor;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC;

-- Where the database is the owner's own: so that others can be kept out, REVOKE CONNECT ON DATABASE … FROM PUBLIC.
DO $$
BEGIN
  IF (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()) THEN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO audit_writer, audit_sealer, audit_custodian, audit_reader, '
                   'audit_auditor', current_database());
  END IF;
END $$;

-- To find the store and know its schema. Not the reader, who has a schema of its own.
GRANT USAGE ON SCHEMA audit TO audit_writer, audit_sealer, audit_custodian, audit_auditor;
GRANT SELECT ON audit.alembic_version TO audit_writer, audit_sealer, audit_custodian, audit_auditor;

-- The writer appends. Its events' numbers are the database's: without the right to name `seq`, OVERRIDING SYSTEM VALUE
-- is refused. It sees ids and numbers, which ON CONFLICT (id) DO NOTHING RETURNING seq takes, and no more.
GRANT INSERT (id, source, type, subject, time, severity, actor, flow_run_id, task_run_id, deployment, trace_id,
              schema_version, recorded_at, payload_hash, envelope),
      SELECT (seq, id)
   ON audit.event TO audit_writer, audit_sealer, audit_custodian;
GRANT INSERT (event_seq, salt, body) ON audit.payload TO audit_writer, audit_sealer, audit_custodian;
GRANT EXECUTE ON FUNCTION audit.task_runs_on_record(text[]) TO audit_writer, audit_sealer, audit_custodian;

-- The sealer reads envelopes, which name nobody, and of payloads those about keys and anchors.
GRANT SELECT ON audit.event, audit.leaf, audit.node, audit.checkpoint, audit.anchor, audit.ledger_payload
   TO audit_sealer;
GRANT INSERT ON audit.leaf, audit.node, audit.checkpoint, audit.anchor TO audit_sealer;
GRANT EXECUTE ON FUNCTION audit.json_extract(text, text) TO audit_sealer;

-- The custodian takes away payloads whose withdrawal a later event permits; the guards look whether it does. What may
-- go is found by reading: a login that runs `audit retention` is an auditor, too.
GRANT INSERT ON audit.withdrawal TO audit_custodian;
GRANT SELECT ON audit.withdrawal TO audit_custodian;
GRANT SELECT (event_seq), DELETE ON audit.payload TO audit_custodian;

-- The auditor reads everything and changes nothing.
GRANT SELECT ON audit.event, audit.payload, audit.withdrawal, audit.leaf, audit.node, audit.checkpoint, audit.anchor,
                audit.task_run, audit.flow_run, audit.dataset_version, audit.ledger_payload
   TO audit_auditor;
GRANT EXECUTE ON FUNCTION audit.json_extract(text, text), audit.json_each(text), audit.task_runs_on_record(text[])
   TO audit_auditor;

-- The reader sees what ran when and how it ended: no parameters, inputs, outputs or errors, nobody's name or keyed
-- hash, no digest that content could be guessed by, and no run's name, which is often made of parameters.
DROP VIEW IF EXISTS audit_masked.event, audit_masked.flow_run, audit_masked.task_run, audit_masked.dataset_version;
CREATE VIEW audit_masked.event AS
  SELECT e.seq, e.id, e.source, e.type, e.subject, e.time, e.severity, e.flow_run_id, e.task_run_id, e.deployment,
         e.trace_id, e.recorded_at, l.idx AS leaf
    FROM audit.event e LEFT JOIN audit.leaf l ON l.event_seq = e.seq;
CREATE VIEW audit_masked.flow_run AS
  SELECT id, flow, deployment, deployment_name, parent_flow_run_id, code_commit, code_dirty, attempts, state, states,
         started_at, ended_at, duration_seconds
    FROM audit.flow_run;
CREATE VIEW audit_masked.task_run AS
  SELECT id, flow_run_id, task, flow, deployment, attempts, state, states, started_at, ended_at, duration_seconds
    FROM audit.task_run;
CREATE VIEW audit_masked.dataset_version AS
  SELECT name, version, rows, "window", made_at, flow_run_id, task_run_id, event_id FROM audit.dataset_version;
GRANT USAGE ON SCHEMA audit_masked TO audit_reader, audit_auditor;
GRANT SELECT ON ALL TABLES IN SCHEMA audit_masked TO audit_reader, audit_auditor;
GRANT EXECUTE ON FUNCTION audit.json_extract(text, text) TO audit_reader;

COMMIT;
