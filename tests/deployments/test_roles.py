"""What each role can do in the store, and, attempt by attempt, what it cannot."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL

from audit.errors import NotPermitted
from audit.events import payloads as p
from audit.events.event import Event, make_event, uuid7
from audit.ledger.sealer import seal
from audit.recording import recorder
from audit.recording.initialise import initialise
from audit.recording.sealing import rotate, seal_all, signing_key
from audit.settings import settings
from audit.store import read
from audit.store.append import append, insert_event
from audit.store.engine import close_stores, open_store
from audit.store.ledger import latest_anchors, not_sealed
from audit.store.withdrawing import withdraw
from tests.deployments.roles import ROLES, Production, columns, production
from tests.postgres import postgres_server  # noqa: F401  # fixture

PLANTED = "planted-4711"
RUN = uuid7()


@dataclass(frozen=True)
class Held:
    """A store with something in it, and a login for each role."""

    production: Production
    logins: dict[str, str]  # addresses
    connections: dict[str, "psycopg.Connection[Any]"]


@pytest.fixture(scope="module")
def held(postgres_server: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:  # noqa: F811
    """Made once, for every attempt on it is refused."""
    with production(postgres_server) as made, pytest.MonkeyPatch.context() as patched:
        patched.setenv("AUDIT_HOME", str(tmp_path_factory.mktemp("roles") / "var"))
        patched.setenv("AUDIT_DATABASE_URL", made.owner)
        settings.cache_clear()
        initialise("acme.example/fraud")
        append(open_store(), [*a_run(), an_expiry("x")])
        key = signing_key(settings())
        assert key is not None
        seal(open_store(), key, actor="p:owner")
        made.apply_roles()  # again
        close_stores()
        given = {role: (role,) for role in ROLES} | {"nobody": (), "pipeline": ("writer", "auditor")}
        logins = {name: made.login(*roles) for name, roles in given.items()}
        with ExitStack() as open_for_all:
            connections = {
                name: open_for_all.enter_context(psycopg.connect(url, autocommit=True)) for name, url in logins.items()
            }
            yield Held(made, logins, connections)
    close_stores()
    settings.cache_clear()


def a_run() -> list[Event]:
    facts = {
        "run_name": f"score {PLANTED}",
        "of": "score",
        "parameters": [p.Named(name="customer", value=PLANTED)],
        "error": p.RunError(kind="ValueError", message=PLANTED, traceback=PLANTED),
        "surroundings": p.Surroundings(
            python="3", platform="x", prefect="3", lock_digest="x", host=PLANTED, process_id=1, principal=PLANTED
        ),
    }
    about: dict[str, Any] = {
        "source": "test",
        "subject": f"flow-run/{RUN}",
        "actor": f"p:{PLANTED}",
        "flow_run_id": RUN,
    }
    return [make_event(f"flow_run.{state}", p.RunState(**facts), **about) for state in ("running", "failed")]


def an_expiry(of: str) -> Event:
    facts = p.ExpiryFacts(
        spec="*", of="runs", kept="6 months", policy="x", period="2026-01", bundle="sha256:x", place="x", events=[of]
    )
    return make_event("retention.expired", facts, source="test", subject="store", actor="p:test")


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AUDIT_DATABASE_URL", url)
    settings.cache_clear()
    close_stores()


# What nobody but the owner can do, whatever the role

NAMES = """id, source, type, subject, time, severity, actor, flow_run_id, task_run_id, deployment, trace_id,
           schema_version, recorded_at, payload_hash, envelope"""


BY_NOBODY = (
    *(f"UPDATE audit.{table} SET {column} = {column}" for table, column in (
        ("event", "severity"), ("payload", "body"), ("withdrawal", "by_event_seq"), ("leaf", "hash"), ("node", "hash"),
        ("checkpoint", "note"), ("anchor", "evidence"), ("alembic_version", "version_num"),
    )),
    *(f"DELETE FROM audit.{table}" for table in (
        "event", "payload", "withdrawal", "leaf", "checkpoint", "anchor", "alembic_version",
    )),
    *(f"TRUNCATE audit.{table} CASCADE" for table in ("event", "payload", "withdrawal", "leaf", "checkpoint")),
    "DROP TABLE audit.event CASCADE",
    "DROP SCHEMA audit CASCADE",
    "DROP VIEW audit.task_run",
    "DROP FUNCTION audit.refuse_change() CASCADE",
    "DROP TRIGGER event_insert_only ON audit.event",
    "ALTER TABLE audit.event DISABLE TRIGGER ALL",
    "ALTER TABLE audit.payload DISABLE TRIGGER payload_no_delete",
    "ALTER TABLE audit.event ADD COLUMN more text",
    "ALTER TABLE audit.event OWNER TO CURRENT_USER",
    "ALTER TABLE audit.event ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE audit.event ALTER COLUMN seq DROP IDENTITY",
    "ALTER SEQUENCE audit.event_seq_seq RESTART",
    "ALTER FUNCTION audit.refuse_change() SECURITY INVOKER",
    "CREATE OR REPLACE FUNCTION audit.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE TRIGGER a BEFORE INSERT ON audit.event FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE quiet AS ON INSERT TO audit.event DO INSTEAD NOTHING",
    "CREATE TABLE audit.mine (x int)",
    "CREATE VIEW audit.mine AS SELECT 1",
    "CREATE FUNCTION audit.jsonb_build_object() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TABLE audit_masked.mine (x int)",
    "CREATE TABLE public.event (x int)",
    "CREATE SCHEMA mine",
    "CREATE INDEX ON audit.event (type)",
    "CREATE EVENT TRIGGER a ON ddl_command_start EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "SELECT setval('audit.event_seq_seq', 1)",
    "SELECT nextval('audit.event_seq_seq')",
    "MERGE INTO audit.event e USING (VALUES (1)) AS of (seq) ON e.seq = of.seq WHEN MATCHED THEN DELETE",
    "SELECT seq FROM audit.event FOR UPDATE",
    "DO $$ BEGIN LOCK TABLE audit.event IN ACCESS EXCLUSIVE MODE; END $$",
    "DO $$ BEGIN LOCK TABLE audit.leaf IN SHARE MODE; END $$",
    "SET session_replication_role TO replica",
    "SET SESSION AUTHORIZATION postgres",
    "ALTER SYSTEM SET fsync = off",
    "UPDATE pg_catalog.pg_trigger SET tgenabled = 'D'",
    "COPY audit.event TO PROGRAM 'cat'",
    "COPY audit.event FROM '/etc/passwd'",
    "SELECT pg_read_file('/etc/passwd')",
    "GRANT audit_custodian TO CURRENT_USER",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "COMMENT ON TABLE audit.event IS ''",
    "REINDEX TABLE audit.event",
)  # fmt: skip
WRITES = {
    "writer": ("event", "payload"),
    "sealer": ("event", "payload", "leaf", "node", "checkpoint", "anchor"),
    "custodian": ("event", "payload", "withdrawal"),
}
INTO = {
    "event": f"INSERT INTO audit.event ({NAMES}) VALUES ({', '.join(['NULL'] * 15)})",
    "payload": "INSERT INTO audit.payload VALUES (1, '', '{}')",
    "withdrawal": "INSERT INTO audit.withdrawal VALUES (1, 1)",
    "leaf": "INSERT INTO audit.leaf VALUES (99, 1, '')",
    "node": "INSERT INTO audit.node VALUES (8, 99, '')",
    "checkpoint": "INSERT INTO audit.checkpoint VALUES (99, '')",
    "anchor": "INSERT INTO audit.anchor VALUES (1, 6, '', '')",
}
READS = {
    "writer": ("alembic_version",),
    "custodian": ("alembic_version", "withdrawal"),
    "sealer": ("event", "leaf", "node", "checkpoint", "anchor", "alembic_version", "ledger_payload"),
    "reader": (),
    "nobody": (),
}
READABLE = (
    "event", "payload", "withdrawal", "leaf", "node", "checkpoint", "anchor", "alembic_version", "task_run", "flow_run",
    "dataset_version", "ledger_payload",
)  # fmt: skip
ATTEMPTS = [
    *((role, attempt) for role in (*ROLES, "nobody", "pipeline") for attempt in BY_NOBODY),
    *((role, into) for role in (*ROLES, "nobody") for table, into in INTO.items() if table not in WRITES.get(role, ())),
    *((role, f"SELECT * FROM audit.{of}") for role, reads in READS.items() for of in READABLE if of not in reads),
    *((role, f"SELECT {column} FROM audit.{table}") for role in ("writer", "custodian") for table, column in (
        ("event", "type"), ("event", "envelope"), ("event", "actor"), ("payload", "body"), ("payload", "salt"),
    )),
    *((role, "SELECT * FROM audit_masked.event") for role in ("writer", "sealer", "custodian", "nobody")),
    *((role, "SELECT audit.json_extract('{}', '$.x')") for role in ("writer", "custodian", "nobody")),
    ("writer", "SELECT count(*) FROM audit.payload"),
    ("reader", "SELECT * FROM audit.task_runs_on_record(ARRAY['x'])"),
    # the guards of what a role may do
    ("writer", "INSERT INTO audit.payload (event_seq, salt, body) VALUES (1, '', '{}')"),
    ("writer", "INSERT INTO audit.payload (event_seq, salt, body) VALUES (99, '', '{}')"),
    ("custodian", "DELETE FROM audit.payload WHERE event_seq = 1"),
    ("custodian", "INSERT INTO audit.withdrawal VALUES (1, 2)"),
    ("sealer", "INSERT INTO audit.leaf SELECT 99, max(seq), '' FROM audit.event"),
    ("sealer", "INSERT INTO audit.checkpoint VALUES (1, '')"),
]  # fmt: skip


@pytest.mark.parametrize(("role", "attempt"), ATTEMPTS, ids=[f"{role}: {attempt[:60]}" for role, attempt in ATTEMPTS])
def test_what_a_role_may_not_do_is_refused(held: Held, role: str, attempt: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        held.connections[role].execute(attempt)

    assert refused.value.sqlstate in REFUSALS, refused.value


# insufficient_privilege, a guard's own words, a column that only its sequence fills
REFUSALS = ("42501", "P0001", "428C9")


APPEND = "({names}) VALUES ({values})"
NUMBERED = "(seq, {names}) OVERRIDING {kind} VALUE VALUES (1000000, {values})"


@pytest.mark.parametrize(
    ("role", "insert", "refused"),
    [
        *((role, APPEND, False) for role in ("writer", "sealer", "custodian")),
        *((role, NUMBERED.replace("{kind}", "SYSTEM"), True) for role in ("writer", "sealer", "custodian")),
        *((role, NUMBERED.replace("{kind}", "USER"), True) for role in ("writer", "sealer", "custodian")),
        ("writer", f"{APPEND} ON CONFLICT (id) DO UPDATE SET severity = excluded.severity", True),
        ("writer", f"{APPEND} RETURNING envelope", True),
    ],
)
def test_who_appends_chooses_no_number_and_changes_nothing_on_the_way(
    held: Held, role: str, insert: str, refused: bool
) -> None:
    names = [name.strip() for name in NAMES.split(",")]
    event = asdict(a_run()[0])
    into = insert.format(names=NAMES, values=", ".join(["%s"] * len(names)))
    expected = pytest.raises(psycopg.errors.InsufficientPrivilege) if refused else nullcontext()
    with psycopg.connect(held.logins[role]) as connection:
        with expected:
            connection.execute(f"INSERT INTO audit.event {into}", [event[name] for name in names])  # type: ignore[arg-type]
        connection.rollback()


SHADOWS = """
CREATE TEMP TABLE event (seq bigint, type text); INSERT INTO event VALUES (1, 'x'), (99, 'retention.expired');
CREATE TEMP TABLE withdrawal (event_seq bigint, by_event_seq bigint); INSERT INTO withdrawal VALUES (1, 99);
CREATE TEMP TABLE leaf (idx bigint); CREATE TEMP TABLE payload (event_seq bigint);
CREATE FUNCTION pg_temp.jsonb_typeof(jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'object' $$;
SET search_path TO pg_temp, audit, pg_catalog"""


@pytest.mark.parametrize(
    ("role", "attempt"),
    [
        ("custodian", "DELETE FROM audit.payload WHERE event_seq = 1"),
        ("custodian", "INSERT INTO audit.withdrawal VALUES (1, 99)"),
        ("custodian", "INSERT INTO audit.withdrawal VALUES (1, 2)"),
        ("writer", "INSERT INTO audit.payload (event_seq, salt, body) VALUES (99, '', '1')"),
        ("sealer", "INSERT INTO audit.leaf SELECT 99, max(seq), '' FROM audit.event"),
    ],
)
def test_no_table_of_ones_own_takes_the_place_of_what_a_guard_looks_at(held: Held, role: str, attempt: str) -> None:
    with psycopg.connect(held.logins[role]) as connection:
        connection.execute(SHADOWS)
        with pytest.raises(psycopg.errors.RaiseException):
            connection.execute(attempt)  # type: ignore[arg-type]
        connection.rollback()


def test_a_sealer_cannot_look_past_the_view_by_a_function_of_its_own(held: Held) -> None:
    """A view that only filters would let a cheap function see every row before it is filtered out."""
    said: list[str] = []
    with psycopg.connect(held.logins["sealer"]) as connection:
        connection.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        connection.execute(
            """CREATE FUNCTION pg_temp.told(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
               AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"""
        )
        connection.execute("SELECT event_seq FROM audit.ledger_payload WHERE pg_temp.told(body)")
        connection.rollback()

    assert said and not [body for body in said if PLANTED in body]


def test_a_reader_sees_no_parameter_error_name_or_person(held: Held) -> None:
    seen = columns(held.logins["reader"], "audit_masked")
    shown = "".join(
        str(held.connections["reader"].execute(f"SELECT * FROM audit_masked.{view}").fetchall())  # type: ignore[arg-type]
        for view in {view for view, _ in seen}
    )

    assert {view for view, _ in seen} == {"event", "flow_run", "task_run", "dataset_version"}
    assert RUN in shown
    assert PLANTED not in shown
    assert not {column for _, column in seen} & {
        "actor", "principal", "parameters", "inputs", "outputs", "error", "run_name", "digest", "address", "envelope",
    }  # fmt: skip
    assert columns(held.logins["reader"], "audit") == []


def test_public_has_nothing_and_what_a_later_migration_makes_is_closed(held: Held) -> None:
    with psycopg.connect(held.production.owner, autocommit=True) as owner:
        owner.execute("CREATE TABLE audit.later (x int); CREATE FUNCTION audit.later() RETURNS int RETURN 1")
        owner.execute("CREATE VIEW audit.later_view AS SELECT * FROM audit.payload")
    try:
        for role in (*ROLES, "nobody", "pipeline"):
            for attempt in ("SELECT * FROM audit.later", "SELECT audit.later()", "SELECT * FROM audit.later_view"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    held.connections[role].execute(attempt)  # type: ignore[arg-type]
    finally:
        with psycopg.connect(held.production.owner, autocommit=True) as owner:
            owner.execute("DROP VIEW audit.later_view; DROP TABLE audit.later; DROP FUNCTION audit.later")


def test_roles_applied_again_take_back_what_was_given_since(held: Held) -> None:
    with psycopg.connect(held.production.owner, autocommit=True) as owner:
        owner.execute("GRANT SELECT, DELETE ON audit.payload TO audit_writer, PUBLIC")
        owner.execute("GRANT UPDATE (severity) ON audit.event TO audit_auditor; GRANT CREATE ON SCHEMA audit TO PUBLIC")

    held.production.apply_roles()

    for role, attempt in (
        ("writer", "SELECT * FROM audit.payload"),
        ("nobody", "SELECT * FROM audit.payload"),
        ("auditor", "UPDATE audit.event SET severity = severity"),
        ("writer", "CREATE TABLE audit.mine (x int)"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            held.connections[role].execute(attempt)  # type: ignore[arg-type]


def test_where_public_may_not_connect_those_with_a_role_do(held: Held) -> None:
    with psycopg.connect(held.production.owner, autocommit=True) as owner:
        database = owner.info.dbname
        owner.execute(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")  # type: ignore[arg-type]
    try:
        for role in ROLES:
            psycopg.connect(held.logins[role]).close()
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(held.logins["nobody"])
    finally:
        with psycopg.connect(held.production.owner, autocommit=True) as owner:
            owner.execute(f"GRANT CONNECT ON DATABASE {database} TO PUBLIC")  # type: ignore[arg-type]


# What each can do, by the product's own hands


@pytest.fixture
def made(postgres_server: URL, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Production]:  # noqa: F811
    """A log that its owner initialised, for one test to change."""
    with production(postgres_server) as made:
        use(monkeypatch, made.owner)
        initialise("acme.example/fraud")
        yield made
        close_stores()


def test_who_only_writes_records_and_is_told_of_nothing_else(
    made: Production, monkeypatch: pytest.MonkeyPatch, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "keys" / "log.key").rename(home.parent / "log.key")  # it lies with who seals
    use(monkeypatch, made.login("writer"))

    recorder.record("dataset.rejected", p.ValidationFacts(**REJECTED), subject="dataset/x/1")
    recorder.flow_ended()

    assert [(told.name, told.message) for told in caplog.records if told.levelno >= logging.WARNING] == []
    with pytest.raises(NotPermitted, match="permission denied"):
        read.counts(open_store())
    use(monkeypatch, made.login("auditor"))
    assert len(list(read.events(open_store(), types=("dataset.rejected",)))) == 1
    assert not (home / "spool.db").exists()


REJECTED: dict[str, Any] = {
    "spec": "x",
    "checked": p.Used(
        name="rows", kind="dataset", of="x", version=1, rows=1, address="artifact://x", digest="sha256:x"
    ),
    "rows": 1,
    "rejected_rows": 1,
    "held": False,
    "expectations": [],
}


@pytest.mark.parametrize("roles", [("writer",), ("writer", "auditor")], ids=str)
def test_who_may_not_seal_though_the_key_is_here_is_told_once_what_to_do(
    made: Production, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, roles: tuple[str, ...]
) -> None:
    use(monkeypatch, made.login(*roles))

    for nth in range(3):
        recorder.record("dataset.rejected", p.ValidationFacts(**REJECTED), subject=f"dataset/x/{nth}")
        recorder.flow_ended()

    (told,) = (told.message for told in caplog.records if told.levelno >= logging.WARNING)
    assert "`audit seal --watch`" in told
    assert "audit_sealer" in told


def test_a_sealer_seals_what_a_writer_wrote(made: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, made.login("writer"))
    append(open_store(), a_run())

    use(monkeypatch, made.login("sealer"))
    key = signing_key(settings())
    assert key is not None
    (done,) = seal_all(settings(), key, tell=lambda event: None)

    assert done.events == 5  # three that `audit init` left
    assert not_sealed(open_store(), whole=True) == (0, None)
    rotate(settings(), tell=lambda event: None)
    with open_store().reading() as connection:
        assert list(latest_anchors(connection, "timestamp")) == []


def test_a_custodian_takes_away_what_a_later_event_permits(made: Production, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, made.login("writer"))
    append(open_store(), run := a_run())

    use(monkeypatch, made.login("custodian"))
    expiry = an_expiry(run[0].id)
    with open_store().writing() as connection:
        seq = connection.exec_driver_sql("SELECT seq FROM event WHERE id = %s", (run[0].id,)).scalar_one()
        insert_event(connection, expiry)
        withdraw(connection, expiry.id, [seq])

    use(monkeypatch, made.login("auditor"))
    found = list(read.events(open_store(), run=RUN, newest_first=False))
    assert [bool(event.payload) for event in found] == [False, True]


@pytest.mark.parametrize("command", ["verify", "status", "events", "runs"])
def test_an_auditor_asks_everything(made: Production, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    append(open_store(), a_run())
    recorder.flow_ended()
    url = made.login("auditor")

    done = subprocess.run(
        [sys.executable, "-m", "audit", command],
        env=os.environ | {"AUDIT_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    if command == "status":
        assert "· auditor" in done.stdout


def test_an_auditor_has_indexes_looked_at_where_the_page_about_postgresql_was_followed(
    made: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    from audit.answers.verify import verify

    page = (Path(__file__).parents[2] / "docs" / "postgres.md").read_text()
    _, _, told = page.partition("```sql\n")
    append(open_store(), a_run())
    use(monkeypatch, made.login("auditor"))
    before = verify(open_store()).notes
    with psycopg.connect(made.superuser, autocommit=True) as connection:
        connection.execute(told.partition("```")[0])  # type: ignore[arg-type]

    assert any("amcheck" in note for note in before)
    assert not any("amcheck" in note for note in verify(open_store()).notes)
