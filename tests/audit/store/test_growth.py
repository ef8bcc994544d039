"""Stores of earlier releases, brought forward: every event as it was, readable, sealed, provable; and events of later
ones, which say more than this release knows."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from audit.answers import bundle
from audit.answers.prove import proof_of, verify_proof, write_proof
from audit.answers.verify import verify
from audit.cli.app import main
from audit.events.canonical import canonical
from audit.events.event import ENVELOPE_KEYS, Event, make_event, payload_hash
from audit.events.payloads import StoreFacts
from audit.ledger.note import parse_key
from audit.recording import recorder
from audit.recording.initialise import initialise
from audit.settings import read_settings, settings
from audit.store import migrations, read
from audit.store.append import append
from audit.store.engine import HEAD, close_stores, make_store, open_store, store_path, store_url
from tests.stores import in_a_file

pytestmark = in_a_file
STORES = Path(__file__).parents[2] / "vectors" / "stores"
FIRST, SEALING = "0001", "0002"
EVIDENCE = ("event", "payload", "withdrawal", "leaf", "node", "checkpoint", "anchor")
COMMANDS = (
    ("status",), ("events",), ("events", "--json"), ("runs",), ("models",), ("datasets",), ("alerts",), ("verify",),
    ("retention", "status"), ("hold", "list"),
)  # fmt: skip


@pytest.fixture(params=[FIRST, SEALING])
def old(request: pytest.FixtureRequest, home: Path) -> str:
    """The schema of a store that an earlier release left in this AUDIT_HOME."""
    brought(request.param, home)
    return str(request.param)


def brought(schema: str, home: Path) -> Path:
    home.mkdir(parents=True)
    close_stores()
    if (STORES / schema / "mask.key").exists():
        (home / "keys").mkdir(mode=0o700)
        shutil.copy(STORES / schema / "mask.key", home / "keys")
        (home / "keys" / "mask.key").chmod(0o600)
    return Path(shutil.copy(STORES / schema / "audit.db", home / "audit.db"))


def test_they_are_what_they_say() -> None:
    for schema in (FIRST, SEALING):
        with closing(sqlite3.connect(STORES / schema / "audit.db")) as database:
            assert database.execute("SELECT version_num FROM alembic_version").fetchone() == (schema,)


def test_a_migration_leaves_every_byte_of_evidence_where_it_was(old: str) -> None:
    """Rows, their numbers, and the very pages that they lie on: no table was made anew."""
    path = store_path(settings())
    assert path
    before, roots = rows(path), pages(path)

    open_store()

    assert version(path) == HEAD
    after = rows(path)
    assert {table: after[table] for table in before} == before
    assert {name: page for name, page in pages(path).items() if name in roots} == roots


def test_every_old_event_can_be_read(old: str) -> None:
    store = open_store()

    events = list(read.events(store, newest_first=False))

    assert len(events) in (16, 19)
    assert all(event.payload for event in events)
    (run,) = read.flow_runs(store)
    assert (run["flow"], run["state"], run["attempts"]) == ("training", "completed", 1)
    ingest, train = read.task_runs(store, run["id"])
    assert (ingest["task"], ingest["state"], ingest["attempts"]) == ("ingest", "completed", 2)
    assert (train["task"], train["state"]) == ("train", "completed")
    (model,) = read.models(store)
    assert (model.spec, model.version, model.champion) == ("loans", 1, True)
    (dataset,) = read.datasets(store)
    assert (dataset["name"], dataset["version"]) == ("loans/ingested", 1)


def test_an_upgraded_store_is_defined_as_a_new_one(old: str, tmp_path: Path) -> None:
    """Views and triggers too: verify holds a store to what this release would make."""
    upgraded = open_store()
    assert read.guards_in_place(upgraded)
    path = store_path(settings())
    new = read_settings({"AUDIT_HOME": str(tmp_path / "new")}, Path())
    open_store(new)
    assert path and definitions(path) == definitions(new.home / "audit.db")


def test_a_store_of_before_there_was_a_log_gets_a_key_and_is_sealed(home: Path) -> None:
    brought(FIRST, home)

    initialise()
    recorder.flow_ended()

    store = open_store()
    said = verify(store)
    assert (said.answer, said.size) == ("held", 17)
    first = next(read.events(store, newest_first=False))
    evidence = proof_of(store, first.id)
    write_proof(evidence, home / "evidence")
    assert verify_proof(home / "evidence").answer == "held"
    bundle.export(store, home / "all.zip", by="p:unknown", at=datetime.now(UTC))
    assert bundle.verify_bundle(home / "all.zip").answer == "held"


def test_a_sealed_store_holds_to_the_checkpoint_that_was_kept_then(home: Path) -> None:
    brought(SEALING, home)
    open_store()

    said = verify(
        open_store(),
        kept=[(STORES / SEALING / "checkpoint").read_text()],
        key=parse_key((STORES / SEALING / "log.vkey").read_text()),
    )

    assert (said.answer, said.size, said.unsealed) == ("held", 18, 1)
    assert len(said.held_to) == 2
    assert not [note for note in said.notes if "not as" in note or "changed" in note]


def test_the_commands_speak_of_an_old_store(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in COMMANDS:
        assert told(monkeypatch, *words) in (0, 2), words  # nothing is sealed in the first: could not tell
    run = read.flow_runs(open_store())[0]["id"]
    assert told(monkeypatch, "run", run) == 0


def test_old_events_take_new_ones_after_them(old: str) -> None:
    store = open_store()
    last = read.newest_seq(store)

    append(store, [make_event("store.opened", StoreFacts(), source="test", subject="store", actor="p:unknown")])

    assert read.newest_seq(store) == last + 1


@pytest.mark.parametrize(
    ("schema_version", "answer"), [(1, "held"), (2, "could not tell")], ids=["a type and fields", "the envelope too"]
)
def test_what_a_later_release_wrote_is_shown_sealed_and_verified(
    home: Path, monkeypatch: pytest.MonkeyPatch, schema_version: int, answer: str
) -> None:
    """A type that is not known here, in a run; with fields that are not known here."""
    brought(FIRST, home)
    initialise()
    store = open_store()
    run = read.flow_runs(store)[0]["id"]
    told_by = later_event("task_run.teleported", {"spec": "loans", "whither": ["Mars"], "speed": 1.5}, run)
    more = later_event("flow_run.running", {"run_name": "x", "of": "y", "tags": [], "colour": "red"}, None)
    append(store, [told_by, more])
    if schema_version > 1:
        with store.writing() as connection:
            put_later(connection, schema_version)
    recorder.flow_ended()

    assert verify(store).answer == answer
    assert next(read.events(store, types=("task_run.teleported",))).payload["whither"] == ["Mars"]
    for words in (("events",), ("events", "--json"), ("runs",), ("run", run), ("status",), ("models",)):
        assert told(monkeypatch, *words) == 0, words


def test_a_payload_may_lack_what_this_release_writes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields that came later, or that a later release no longer has."""
    brought(FIRST, home)
    initialise()
    run = read.flow_runs(open_store())[0]["id"]
    append(open_store(), [later_event("task_run.completed", {"run_name": "bare", "of": "bare"}, run)])

    for words in (("runs",), ("run", run), ("events", "--run", run)):
        assert told(monkeypatch, *words) == 0, words


def test_the_newest_migration_is_the_one_that_this_release_needs() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(migrations.config()).get_heads() == [HEAD]


def test_postgresql_is_brought_forward_with_what_is_in_it(
    empty_database_url: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first schema that PostgreSQL had, with the rows of the SQLite store of then."""
    from alembic import command

    monkeypatch.setenv("AUDIT_DATABASE_URL", empty_database_url)
    settings.cache_clear()
    engine = create_engine(store_url(settings()))
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA audit"))
        connection.execute(text("SET LOCAL search_path TO audit, pg_temp"))
        of_then = migrations.config()
        of_then.attributes["connection"] = connection
        command.upgrade(of_then, SEALING)
    with engine.connect() as connection:
        connection.execute(text("SET search_path TO audit, pg_temp"))
        copied(connection, rows(STORES / SEALING / "audit.db"))
        connection.commit()
        before = evidence_of(connection)
    engine.dispose()

    store = make_store(settings())

    with store.reading() as connection:
        assert evidence_of(connection) == before
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == HEAD
    (run,) = read.flow_runs(store)
    assert (run["flow"], run["state"]) == ("training", "completed")
    said = verify(
        store,
        kept=[(STORES / SEALING / "checkpoint").read_text()],
        key=parse_key((STORES / SEALING / "log.vkey").read_text()),
    )
    assert (said.answer, said.size) == ("held", 18), said


@pytest.fixture(autouse=True)
def closed(home: Path) -> Iterator[None]:
    yield
    close_stores()


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the tables of evidence that there are, with its number where it has one."""
    with closing(sqlite3.connect(path)) as database:
        found = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {
            table: database.execute(f"SELECT {'' if table == 'node' else 'rowid, '}* FROM {table}").fetchall()
            for table in EVIDENCE
            if table in found
        }


def pages(path: Path) -> dict[str, tuple[int, int]]:
    """Where the tables of evidence and their indexes begin in the file, and as which of all that was defined."""
    with closing(sqlite3.connect(path)) as database:
        found = database.execute(
            "SELECT name, tbl_name, rootpage, rowid FROM sqlite_master WHERE type IN ('table', 'index')"
        )
        return {name: (page, row) for name, table, page, row in found if table in EVIDENCE}


def definitions(path: Path) -> set[tuple[str, str, str]]:
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {(kind, name, " ".join(sql.split())) for kind, name, sql in found}


def version(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def told(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of a command."""
    monkeypatch.setattr("sys.argv", ["audit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def later_event(type: str, facts: dict[str, Any], run: str | None) -> Event:
    like = make_event("store.opened", StoreFacts(), source="later", subject=f"flow-run/{run}", actor="p:unknown")
    body = canonical(facts)
    columns: dict[str, Any] = {key: getattr(like, key) for key in ENVELOPE_KEYS}
    columns |= {"type": type, "flow_run_id": run or like.id, "payload_hash": payload_hash(like.salt, body)}
    columns |= {"task_run_id": like.id if type.startswith("task_run.") else None}
    return replace(like, **columns, envelope=canonical(columns).decode(), body=body.decode())


def put_later(connection: Any, schema_version: int) -> None:
    """An event whose envelope has a key more than ours."""
    like = later_event("quantum.entangled", {"with": "whom"}, None)
    columns: dict[str, Any] = {key: getattr(like, key) for key in ENVELOPE_KEYS} | {"schema_version": schema_version}
    columns["envelope"] = canonical(columns | {"spin": "up"}).decode()
    names = ", ".join(columns)
    marks = ", ".join(f":{name}" for name in columns)
    connection.execute(text(f"INSERT INTO event ({names}) VALUES ({marks})"), columns)
    connection.execute(
        text("INSERT INTO payload SELECT max(seq), :salt, :body FROM event"), {"salt": like.salt, "body": like.body}
    )


def copied(connection: Any, tables: dict[str, list[tuple[Any, ...]]]) -> None:
    """SQLite's rows, as this release's PostgreSQL would have had them: each event with its payload."""
    with closing(sqlite3.connect(STORES / SEALING / "audit.db")) as database:
        named = [row[1] for row in database.execute("PRAGMA table_info(event)")]
    payload = {seq: (salt, body) for _, seq, salt, body in tables["payload"]}
    for _, *row in tables["event"]:
        values = dict(zip(named, row, strict=True))
        columns, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO event ({columns}) OVERRIDING SYSTEM VALUE VALUES ({marks})"), values)
        salt, body = payload[values["seq"]]
        connection.execute(
            text("INSERT INTO payload VALUES (:seq, :salt, :body)"), {"seq": values["seq"], "salt": salt, "body": body}
        )
        connection.commit()
    for _, idx, seq, hash in tables["leaf"]:
        connection.execute(text("INSERT INTO leaf VALUES (:idx, :seq, :hash)"), {"idx": idx, "seq": seq, "hash": hash})
    for _, size, note in tables["checkpoint"]:
        connection.execute(text("INSERT INTO checkpoint VALUES (:size, :note)"), {"size": size, "note": note})


def evidence_of(connection: Any) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: [tuple(row) for row in connection.execute(text(f"SELECT ctid::text, * FROM {table} ORDER BY 1"))]
        for table in EVIDENCE
    }
