"""The store keeps what it was given, whoever asks it to change."""

import sqlite3
import threading
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, inspect

from audit.errors import StoreUnavailable
from audit.events.event import Event, make_event, uuid7
from audit.events.payloads import RunState, StageFacts, StoreFacts, Used
from audit.settings import settings
from audit.store import read
from audit.store.append import append, append_decided
from audit.store.engine import HEAD, AuditStore, open_existing, open_store
from audit.store.migrations import config
from audit.store.tables import SQLModel


@pytest.fixture
def store(home: Path) -> AuditStore:
    return open_store()


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


def raw(home: Path) -> sqlite3.Connection:
    return sqlite3.connect(home / "audit.db", isolation_level=None)


def test_what_was_appended_is_read_back_to_the_byte(store: AuditStore, home: Path) -> None:
    event = an_event()

    assert append(store, [event]) == 1

    row = raw(home).execute("SELECT envelope, salt, body FROM event JOIN payload ON event_seq = seq").fetchone()
    assert row == (event.envelope, event.salt, event.body)


def test_the_first_envelope_of_an_id_wins_and_keeps_its_salt(store: AuditStore, home: Path) -> None:
    first = an_event()
    append(store, [first])

    assert append(store, [an_event(id=first.id)]) == 0

    assert raw(home).execute("SELECT salt FROM payload").fetchall() == [(first.salt,)]


def copied(seq: int, id: str) -> str:
    """The first event once more, under another number and id."""
    columns = (
        "source, type, subject, time, severity, actor, flow_run_id, task_run_id, deployment, trace_id, schema_version, "
        "recorded_at, payload_hash, envelope"
    )
    return f"INSERT INTO event (seq, id, {columns}) SELECT {seq}, '{id}', {columns} FROM event WHERE seq = 1"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE event SET severity = 'info'",
        "UPDATE OR REPLACE event SET id = 'x'",
        "DELETE FROM event",
        "UPDATE payload SET body = '{}'",
        "DELETE FROM payload",
        "INSERT OR REPLACE INTO payload SELECT event_seq, salt, '{}' FROM payload",
        "INSERT INTO payload SELECT max(seq) + 1, x'00', '{}' FROM event",
        "INSERT INTO payload VALUES (1, x'00', '{}')",
        copied(-1, "x"),
        copied(0, "x"),
        copied(4, "x"),
        copied(9223372036854775807, "x"),
        copied(3, "x"),  # the columns say x, the envelope says otherwise
        "INSERT INTO withdrawal VALUES (1, 1)",
        "INSERT INTO withdrawal VALUES (1, 2)",
    ],
)
def test_the_database_refuses(store: AuditStore, home: Path, change: str) -> None:
    append(store, [an_event(), an_event()])

    with pytest.raises(sqlite3.IntegrityError):
        raw(home).execute(change)

    assert append(store, [an_event()]) == 1  # and nobody is kept from writing


def test_replacing_an_event_leaves_the_first(store: AuditStore, home: Path) -> None:
    append(store, [first := an_event()])
    before = raw(home).execute("SELECT * FROM event").fetchall()
    forged = an_event(id=first.id, severity="critical")

    names = [field.name for field in fields(Event) if field.name not in ("salt", "body")]
    marks = ", ".join(f":{name}" for name in names)
    raw(home).execute(f"INSERT OR REPLACE INTO event ({', '.join(names)}) VALUES ({marks})", asdict(forged))

    assert raw(home).execute("SELECT * FROM event").fetchall() == before


def test_a_payload_can_go_once_its_withdrawal_is_there(store: AuditStore, home: Path) -> None:
    erased = an_event()
    append(store, [erased, an_event()])
    database = raw(home)
    database.execute("DROP TRIGGER withdrawal_permitted")  # no event type that permits it exists yet
    database.execute("INSERT INTO withdrawal VALUES (1, 2)")

    database.execute("DELETE FROM payload WHERE event_seq = 1")

    assert database.execute("SELECT event_seq FROM payload").fetchall() == [(2,)]
    assert append(store, [erased]) == 0  # and a replay does not bring it back
    assert database.execute("SELECT event_seq FROM payload").fetchall() == [(2,)]


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


def test_another_applications_database_is_left_alone(home: Path) -> None:
    home.mkdir()
    raw(home).execute("CREATE TABLE orders (id INTEGER)")

    with pytest.raises(StoreUnavailable, match="another application"):
        open_store()

    assert raw(home).execute("SELECT name FROM sqlite_master").fetchall() == [("orders",)]


def test_a_newer_schema_is_refused(store: AuditStore, home: Path) -> None:
    raw(home).execute("UPDATE alembic_version SET version_num = '9999'")
    from audit.store.engine import close_stores

    close_stores()
    with pytest.raises(StoreUnavailable, match="newer release"):
        open_store()


def test_a_file_that_is_no_database_is_named(home: Path) -> None:
    home.mkdir()
    (home / "audit.db").write_bytes(b"no database at all, but long enough to have a header" * 20)

    with pytest.raises(StoreUnavailable, match=r"audit\.db cannot be used \(file is not a database\)"):
        open_store()


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


@pytest.mark.parametrize("url", ["postgresql://db/audit", "sqlite://", "no address"])
def test_another_kind_of_database_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AUDIT_DATABASE_URL", url)
    settings.cache_clear()

    with pytest.raises(StoreUnavailable, match="AUDIT_DATABASE_URL"):
        open_store()


def test_an_append_that_the_database_drops_in_silence_is_told(store: AuditStore, home: Path) -> None:
    raw(home).execute("CREATE TRIGGER quiet BEFORE INSERT ON event BEGIN SELECT RAISE(IGNORE); END")

    with pytest.raises(StoreUnavailable, match="does not say why"):
        append(store, [an_event()])
    assert not read.guards_in_place(store)


def test_the_guards_are_those_that_were_made(store: AuditStore, home: Path) -> None:
    assert read.guards_in_place(store)

    raw(home).execute("DROP TRIGGER event_no_update")

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
