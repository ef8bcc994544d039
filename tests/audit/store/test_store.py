"""The store keeps what it was given, whoever asks it to change."""

import sqlite3
import threading
from contextlib import closing
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect

from audit.errors import StoreUnavailable
from audit.events.event import Event, make_event, uuid7
from audit.events.payloads import ExpiryFacts, RunState, StageFacts, StoreFacts, Used
from audit.settings import settings
from audit.store import read
from audit.store.append import append, append_decided
from audit.store.engine import HEAD, AuditStore, close_stores, make_store, open_existing, open_store
from audit.store.migrations import config
from audit.store.tables import SQLModel
from tests.stores import REFUSED, in_a_file, rows, tried


@pytest.fixture
def store(home: Path) -> AuditStore:
    return make_store()


def an_event(**given: str) -> Event:
    return make_event(
        "store.opened", StoreFacts(origin="here"), source="test", subject="store", actor="p:test", **given
    )


def a_state(run: str, type: str, *, time: str | None = None, **facts: object) -> Event:
    return make_event(
        type,
        RunState(run_name="a run", of="a task", **facts),
        source="test",
        subject=f"task-run/{run}",
        actor="p:test",
        task_run_id=run,
        time=datetime.fromisoformat(time) if time else None,
    )


def test_what_was_appended_is_read_back_to_the_byte(store: AuditStore) -> None:
    event = an_event()

    assert append(store, [event]) == 1

    (row,) = rows("SELECT envelope, salt, body FROM event JOIN payload ON event_seq = seq")
    assert row == (event.envelope, event.salt, event.body)


def test_the_first_envelope_of_an_id_wins_and_keeps_its_salt(store: AuditStore) -> None:
    first = an_event()
    append(store, [first])

    assert append(store, [an_event(id=first.id)]) == 0

    assert rows("SELECT salt FROM payload") == [(first.salt,)]


def copied(seq: int, id: str) -> str:
    """The first event once more, under another number and id."""
    columns = (
        "source, type, subject, time, severity, actor, flow_run_id, task_run_id, deployment, trace_id, schema_version, "
        "recorded_at, payload_hash, envelope"
    )
    return f"INSERT INTO event (seq, id, {columns}) SELECT {seq}, '{id}', {columns} FROM event WHERE seq = 1"


ON_BOTH = (
    "UPDATE event SET severity = 'info'",
    "DELETE FROM event",
    "UPDATE payload SET body = '{}'",
    "DELETE FROM payload",
    copied(3, "x"),  # the columns say x, the envelope says otherwise
    "INSERT INTO withdrawal VALUES (1, 1)",
    "INSERT INTO withdrawal VALUES (1, 2)",
    "INSERT INTO leaf VALUES (1, 1, '')",
    "INSERT INTO checkpoint VALUES (0, '')",
)
OF_SQLITE = (
    "UPDATE OR REPLACE event SET id = 'x'",
    "INSERT OR REPLACE INTO payload SELECT event_seq, salt, '{}' FROM payload",
    "INSERT INTO payload SELECT max(seq) + 1, x'00', '{}' FROM event",
    "INSERT INTO payload VALUES (1, x'00', '{}')",
    *(copied(seq, "x") for seq in (-1, 0, 4, 9223372036854775807)),
)
OF_POSTGRES = (
    *(f"TRUNCATE {table} CASCADE" for table in ("event", "payload", "withdrawal", "leaf", "node", "checkpoint")),
    "TRUNCATE anchor",
    "INSERT INTO payload SELECT 7, '\\x00', '{}'",
    "INSERT INTO payload VALUES (1, '\\x00', '{}')",
    "INSERT INTO payload VALUES (1, '\\x00', '{}') ON CONFLICT (event_seq) DO UPDATE SET body = '{}'",
    f"{copied(4, 'x')}",  # a number of one's own
    "UPDATE event SET seq = DEFAULT",
    "MERGE INTO event USING (VALUES (1)) AS of (seq) ON event.seq = of.seq WHEN MATCHED THEN DELETE",
)


@pytest.mark.parametrize(
    ("home", "change"),
    [
        *(("sqlite", change) for change in (*ON_BOTH, *OF_SQLITE)),
        *(("postgresql", change) for change in (*ON_BOTH, *OF_POSTGRES)),
    ],
    indirect=["home"],
)
def test_the_database_refuses(store: AuditStore, change: str) -> None:
    append(store, [an_event(), an_event()])

    with pytest.raises(REFUSED):
        tried(change)

    assert append(store, [an_event()]) == 1  # and nobody is kept from writing


@in_a_file  # PostgreSQL has no OR REPLACE
def test_replacing_an_event_leaves_the_first(store: AuditStore) -> None:
    append(store, [first := an_event()])
    before = rows("SELECT * FROM event")
    forged = an_event(id=first.id, severity="critical")

    names = [field.name for field in fields(Event) if field.name not in ("salt", "body")]
    marks = ", ".join(f":{name}" for name in names)
    with closing(sqlite3.connect(store.path or "", isolation_level=None)) as database:
        database.execute(f"INSERT OR REPLACE INTO event ({', '.join(names)}) VALUES ({marks})", asdict(forged))

    assert rows("SELECT * FROM event") == before


def test_a_payload_can_go_once_its_withdrawal_is_there(store: AuditStore) -> None:
    erased, kept = an_event(), an_event()
    policy = {"spec": "f", "of": "runs", "kept": "6 months", "policy": "x", "period": "2026-01"}
    facts = ExpiryFacts(**policy, bundle="sha256:x", place="elsewhere", events=[erased.id])
    expiry = make_event("retention.expired", facts, source="t", subject="store", actor="p:t")
    append(store, [erased, kept, expiry])
    tried("INSERT INTO withdrawal SELECT min(seq), max(seq) FROM event")

    tried("DELETE FROM payload WHERE event_seq = 1")

    assert rows("SELECT event_seq FROM payload ORDER BY event_seq") == [(2,), (3,)]
    assert append(store, [erased]) == 0  # and a replay does not bring it back
    assert rows("SELECT event_seq FROM payload ORDER BY event_seq") == [(2,), (3,)]


def test_migrations_and_tables_describe_the_same_database(store: AuditStore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.reading() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), SQLModel.metadata)

    assert differences == []


def test_head_is_the_newest_migration() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD


def test_every_envelope_key_has_its_column(store: AuditStore) -> None:
    import json

    columns = {column["name"] for column in inspect(store.engine).get_columns("event")}

    assert columns == {*json.loads(an_event().envelope), "seq", "envelope"}


@in_a_file  # PostgreSQL's has a schema of its own
def test_another_applications_database_is_left_alone(home: Path) -> None:
    home.mkdir()
    tried("CREATE TABLE orders (id INTEGER)")

    with pytest.raises(StoreUnavailable, match="another application"):
        open_store()

    assert rows("SELECT name FROM sqlite_master") == [("orders",)]


@pytest.mark.usefixtures("store")
def test_a_newer_schema_is_refused() -> None:
    tried("UPDATE alembic_version SET version_num = '9999'")

    close_stores()
    with pytest.raises(StoreUnavailable, match="newer release"):
        open_store()


@in_a_file
def test_a_file_that_is_no_database_is_named(home: Path) -> None:
    home.mkdir()
    (home / "audit.db").write_bytes(b"no database at all, but long enough to have a header" * 20)

    with pytest.raises(StoreUnavailable, match=r"audit\.db cannot be used \(file is not a database\)"):
        open_store()


@in_a_file
def test_a_store_that_is_not_there_is_not_made_by_reading(home: Path) -> None:
    with pytest.raises(StoreUnavailable, match="no audit store"):
        open_existing()

    assert not home.exists()


def test_two_that_number_at_once_get_different_numbers(store: AuditStore) -> None:
    drawn: list[int] = []

    def draw() -> None:
        model = Used(name="model", kind="model", of="flights", address="artifact://x", digest="sha256:x")

        def numbered(connection: Connection) -> list[Event]:
            version = read.model_number(connection, "flights")
            drawn.append(version)
            facts = StageFacts(spec="flights", model=model, version=version, environment="none", reason="test")
            return [make_event("model.registered", facts, source="test", subject="model/flights", actor="p:test")]

        append_decided(store, numbered)

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(drawn) == list(range(1, 9))


def test_a_run_is_one_row_from_its_first_event_to_its_last(store: AuditStore) -> None:
    run = uuid7()
    append(
        store,
        [
            a_state(run, "task_run.completed", time="2026-01-01T10:00:03.500000Z", attempt=2),
            a_state(run, "task_run.running", time="2026-01-01T10:00:00Z"),
            a_state(run, "task_run.attempt_failed", time="2026-01-01T10:00:01Z"),
            a_state(run, "task_run.retrying", time="2026-01-01T10:00:02Z"),
        ],
    )

    (row,) = read.task_runs_by_prefix(store, run[:8])

    assert (row["state"], row["attempts"], row["duration_seconds"]) == ("completed", 2, 3.5)
    assert [s["state"] for s in __import__("json").loads(row["states"])] == [
        "running", "attempt_failed", "retrying", "completed",
    ]  # fmt: skip


def test_a_run_that_never_ended_has_no_end(store: AuditStore) -> None:
    run = uuid7()
    append(store, [a_state(run, "task_run.running")])

    (row,) = read.task_runs_by_prefix(store, run)

    assert (row["state"], row["ended_at"], row["duration_seconds"]) == ("running", None, None)


def test_events_come_page_by_page_in_either_order(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "PAGE", 3)
    append(store, [an_event() for _ in range(10)])

    newest = [e.seq for e in read.events(store)]
    oldest = [e.seq for e in read.events(store, newest_first=False, after=4)]

    assert newest == list(range(10, 0, -1))
    assert oldest == [5, 6, 7, 8, 9, 10]
    assert [e.seq for e in read.events(store, limit=4)] == [10, 9, 8, 7]


def test_a_home_with_odd_letters_is_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a?b=c%20d#e"
    monkeypatch.setenv("AUDIT_HOME", str(odd))
    settings.cache_clear()

    open_store()

    assert (odd / "audit.db").exists()
    settings.cache_clear()


@in_a_file
@pytest.mark.parametrize("url", ["mysql://db/audit", "sqlite://", "no address", "postgresql+psycopg2://db/audit"])
def test_another_kind_of_database_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AUDIT_DATABASE_URL", url)
    settings.cache_clear()

    with pytest.raises(StoreUnavailable, match="AUDIT_DATABASE_URL"):
        open_store()


QUIET = {
    "sqlite": "CREATE TRIGGER quiet BEFORE INSERT ON event BEGIN SELECT RAISE(IGNORE); END",
    "a trigger": """CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
                    CREATE TRIGGER a BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION quiet()""",
    "another in its place": """CREATE OR REPLACE FUNCTION event_is_its_envelope() RETURNS trigger LANGUAGE plpgsql
                               SECURITY DEFINER SET search_path = audit, pg_temp AS $$ BEGIN RETURN NULL; END $$""",
}


@pytest.mark.parametrize(
    ("home", "change"),
    [("sqlite" if name == "sqlite" else "postgresql", change) for name, change in QUIET.items()],
    ids=QUIET,
    indirect=["home"],
)
def test_an_append_that_the_database_drops_in_silence_is_told(store: AuditStore, change: str) -> None:
    tried(change)

    with pytest.raises(StoreUnavailable, match="does not say why"):
        append(store, [an_event()])
    assert not read.guards_in_place(store)


LIFTED = (
    "DROP TRIGGER event_insert_only ON event",
    "ALTER TABLE payload DISABLE TRIGGER payload_no_delete",
    "ALTER TABLE event DISABLE TRIGGER USER",
    "ALTER TABLE leaf ENABLE ALWAYS TRIGGER leaf_insert_only",
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    "ALTER FUNCTION payload_no_delete() RESET ALL",
    "ALTER FUNCTION checkpoint_grows() SECURITY INVOKER",
    "CREATE RULE quiet AS ON INSERT TO event DO INSTEAD NOTHING",
    "ALTER TABLE payload ENABLE ROW LEVEL SECURITY",
)


@pytest.mark.parametrize(
    ("home", "change"),
    [("sqlite", "DROP TRIGGER event_no_update"), *(("postgresql", change) for change in LIFTED)],
    indirect=["home"],
)
def test_the_guards_are_those_that_were_made(store: AuditStore, change: str) -> None:
    assert read.guards_in_place(store)

    tried(change)

    assert not read.guards_in_place(store)


def test_the_champion_is_the_last_deployed_by_time_not_by_arrival(store: AuditStore) -> None:
    def deployed(version: int, hour: int) -> Event:
        model = Used(name="model", kind="model", of="f", address=f"artifact://{version}", digest=f"sha256:{version}")
        facts = StageFacts(spec="f", model=model, version=version, environment="production", reason="test")
        at = datetime(2026, 1, 1, hour, tzinfo=UTC)
        return make_event("model.deployed", facts, source="t", subject="model/f", actor="p:t", time=at)

    append(store, [deployed(2, hour=11), deployed(1, hour=10)])  # the first one was spooled and came late

    champion = read.champion(store, "f")
    assert champion is not None
    assert champion.version == 2
