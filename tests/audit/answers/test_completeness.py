"""What was stated of completeness is held against what stands before it, on either engine."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit.answers.verdict import Verdict
from audit.answers.verify import verify
from audit.events.event import Event, make_event, uuid7
from audit.events.payloads import CompletenessFacts, RunState
from audit.ledger.keys import read_log_key
from audit.ledger.sealer import KEPT, seal
from audit.recording.completeness import digest
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store.append import append
from audit.store.completeness import task_runs_of
from audit.store.engine import AuditStore, close_stores, open_store
from tests.postgres import postgres_server, postgres_url  # noqa: F401

FLOW, NESTED, OTHER = (uuid7() for _ in range(3))


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def store(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AuditStore]:
    if request.param == "PostgreSQL":
        monkeypatch.setenv("AUDIT_DATABASE_URL", request.getfixturevalue("postgres_url"))
        settings.cache_clear()
    close_stores()
    initialise("acme.example/complete")
    yield open_store()
    close_stores()


def task_run(flow_run: str, id: str | None = None) -> list[Event]:
    id = id or uuid7()
    return [
        make_event(
            f"task_run.{state}", RunState(run_name="a", of="b"), source="test", subject=f"task-run/{id}",
            actor="p:test", flow_run_id=flow_run, task_run_id=id,
        )
        for state in ("running", "completed")
    ]  # fmt: skip


def stated(store: AuditStore, **changed: Any) -> Event:
    """What a process would say of FLOW and NESTED."""
    with store.reading() as connection:
        pairs = task_runs_of(connection, [FLOW, NESTED])
    facts = CompletenessFacts(
        counted_by="process", where="here", flow_runs=[FLOW, NESTED], counted=len(pairs), on_record=len(pairs),
        digest=digest(pairs), in_spool=0,
    )  # fmt: skip
    return make_event(
        "completeness.stated", facts.model_copy(update=changed), source="test", subject="store", actor="p:test"
    )


def sealed(store: AuditStore) -> Verdict:
    where = settings()
    seal(store, read_log_key(where.keys_path), actor="p:test", kept=where.keys_path / KEPT)
    store.close()
    return verify(store)


def work(store: AuditStore) -> list[Event]:
    done = [event for flow_run in (FLOW, NESTED, FLOW, OTHER, NESTED) for event in task_run(flow_run)]
    append(store, done)
    return done


def remove(store: AuditStore, task_run: str) -> None:
    """Before it was sealed, and so that no number is missing; as the database's owner can."""
    mine = "SELECT seq FROM event WHERE task_run_id = "
    if store.path is None:
        url = store.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        store.close()
        with psycopg.connect(url) as database:
            database.execute("SET search_path TO audit; SET session_replication_role TO replica")
            database.execute(f"DELETE FROM payload WHERE event_seq IN ({mine} %s)", (task_run,))
            database.execute("DELETE FROM event WHERE task_run_id = %s", (task_run,))
        return
    store.close()
    with sqlite3.connect(store.path) as file:
        guards = file.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            file.execute(f"DROP TRIGGER {name}")
        file.execute(f"DELETE FROM payload WHERE event_seq IN ({mine} ?)", (task_run,))
        file.execute("DELETE FROM event WHERE task_run_id = ?", (task_run,))
        for table, column in (("payload", "event_seq"), ("event", "seq")):
            left = file.execute(f"SELECT {column} FROM {table} ORDER BY 1").fetchall()
            for number, (was,) in enumerate(left, start=1):
                file.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (number, was))
        for _, sql in guards:
            file.execute(sql)
    file.close()


def test_a_statement_that_fits_holds(store: AuditStore) -> None:
    work(store)
    append(store, [stated(store)])
    append(store, task_run(FLOW))  # what comes after it is not what it is about
    found = sealed(store)
    assert (found.answer, [note for note in found.notes if "came in while" in note]) == ("held", [])


def test_a_task_run_that_was_taken_away_before_it_was_sealed_is_missed(store: AuditStore) -> None:
    done = work(store)
    append(store, [said := stated(store)])
    remove(store, str(done[0].task_run_id))

    found = sealed(store)

    assert found.answer == "did not hold"
    (fault,) = found.faults
    assert fault.about.startswith(f"event {said.id} (leaf ")
    assert fault.what == (
        f"says that 4 task runs of flow run {FLOW} and the 1 nested in it stood before it: 3 do, 1 was removed"
    )


def test_one_in_the_place_of_another_is_missed(store: AuditStore) -> None:
    done = work(store)
    said = stated(store)
    append(store, task_run(NESTED))
    append(store, [said])
    remove(store, str(done[0].task_run_id))

    (fault,) = sealed(store).faults
    assert fault.what.endswith("stood before it: as many do, but not the same ones")


def test_of_a_statement_that_was_made_under_the_lock_more_before_it_is_a_fault(store: AuditStore) -> None:
    """Else whoever adds one could take one away."""
    done = work(store)
    said = stated(store, exact=True)
    append(store, [*task_run(NESTED), *task_run(NESTED)])
    append(store, [said])
    remove(store, str(done[0].task_run_id))

    (fault,) = sealed(store).faults
    assert fault.what == (
        f"says that 4 task runs of flow run {FLOW} and the 1 nested in it stood before it: "
        "5 do, so that some are not those that it is about"
    )


def test_what_waited_in_a_spool_and_did_not_come_home_is_worth_a_word(store: AuditStore) -> None:
    work(store)
    append(store, [said := stated(store, in_spool=3, exact=True)])
    append(store, task_run(FLOW))
    found = sealed(store)
    assert found.answer == "held"
    (note,) = (note for note in found.notes if "spool" in note)
    assert note.startswith(f"event {said.id} (leaf ")
    assert f": 2 task runs of flow run {FLOW} and the 1 nested in it that waited in a spool then" in note
    append(store, task_run(FLOW) + task_run(NESTED))
    found = sealed(store)
    assert (found.answer, [note for note in found.notes if "spool" in note]) == ("held", [])


def test_a_statement_that_waits_is_held_against_what_waits(store: AuditStore) -> None:
    work(store)
    sealed(store)
    append(store, task_run(FLOW))
    append(store, [stated(store, on_record=9)])
    store.close()
    assert verify(store).faults[0].what.endswith("stood before it: 5 do, 4 were removed")


def test_one_that_came_in_while_it_was_made_is_worth_a_word(store: AuditStore) -> None:
    work(store)
    said = stated(store)
    append(store, task_run(FLOW))
    append(store, [said])
    found = sealed(store)
    assert found.answer == "held"
    assert any(
        note.endswith("1 task run of flow run " + FLOW + " and the 1 nested in it came in while it was made.")
        for note in found.notes
    )


def test_what_it_says_was_in_the_spool_may_have_come_before_it(store: AuditStore) -> None:
    work(store)
    said = stated(store, in_spool=1)
    append(store, task_run(FLOW))
    append(store, [said])
    found = sealed(store)
    assert (found.answer, [note for note in found.notes if "came in while" in note]) == ("held", [])


@pytest.mark.parametrize(
    "changed", [{"on_record": None, "digest": None, "unknown": "no store"}, {"flow_runs": [], "since": "2026"}],
    ids=["it could not tell", "of a window"],
)  # fmt: skip
def test_what_claims_nothing_of_events_is_held_against_none(store: AuditStore, changed: dict[str, Any]) -> None:
    append(store, [stated(store, **changed)])
    assert sealed(store).answer == "held"


def test_who_may_only_write_can_count_what_is_on_record(postgres_url: str) -> None:  # noqa: F811
    """The function runs with its owner's rights, and tells ids alone."""
    with psycopg.connect(postgres_url, autocommit=True) as database:
        (name,) = database.execute("SELECT 'w' || pg_backend_pid()").fetchone() or ("",)
        database.execute(f"CREATE ROLE {name}; GRANT USAGE ON SCHEMA audit TO {name}")
        try:
            database.execute(f"SET ROLE {name}")
            asked = database.execute("SELECT * FROM audit.task_runs_on_record(ARRAY['x'])")
            assert [column.name for column in asked.description or ()] == ["flow_run", "task_run"]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.execute("SELECT task_run_id FROM audit.event")
        finally:
            database.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")
