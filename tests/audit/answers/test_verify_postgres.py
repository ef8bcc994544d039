"""What verification has to be told otherwise in PostgreSQL: numbers with gaps, commits that come late, addresses."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, make_url

from audit.answers.verify import verify
from audit.cli.app import main
from audit.events import payloads as p
from audit.settings import Settings
from audit.store.append import insert_event
from audit.store.engine import opened_as_it_is, store_url
from tests.attacks.superuser import reading
from tests.attacks.victim import told, work
from tests.postgres import empty_database_url, postgres_server, postgres_url, said  # noqa: F401
from tests.sealed_log import Log, a_log, faults, verified

Commit = Callable[[], None]


@pytest.fixture
def log(tmp_path: Path, postgres_url: str) -> Log:  # noqa: F811
    return a_log(tmp_path / "var", postgres_url)


def pending(log: Log, subject: str) -> Iterator[str]:
    """An event that has its number and is not committed before the next step; first its id."""
    event = told("store.opened", p.StoreFacts(), subject)
    with closing(log.store) as store, store.writing() as connection:
        insert_event(connection, event)
        yield event.id
    yield event.id


def never_committed(log: Log) -> None:
    """A number is drawn that no event has."""
    with closing(log.store) as store, store.engine.connect() as connection:
        insert_event(connection, told("store.opened", p.StoreFacts(), "gone"))
        connection.rollback()


@pytest.fixture
def late(log: Log) -> str:
    """The id of an event that was sealed behind others of higher numbers; its leaf is 8, its number 5."""
    never_committed(log)
    one = pending(log, "late")
    next(one)
    log.append(*work(1))
    never_committed(log)
    log.seal()
    id = next(one)
    log.append(*work(1))
    log.seal()
    return id


def test_numbers_have_gaps_and_a_commit_may_come_late(log: Log, late: str) -> None:
    never_committed(log)
    log.append(*work(1))
    with reading(log.url or "") as db:
        numbers = [seq for (seq,) in db.execute("SELECT event_seq FROM leaf ORDER BY idx")]

    said = verified(log)
    assert numbers != sorted(numbers) and max(numbers) > len(numbers), "there are both"
    assert (said.answer, said.faults, said.events, said.unsealed) == ("held", (), 18, 5)


@pytest.mark.parametrize("since", [None, 7])
def test_a_fault_names_the_leaf_of_an_event_that_came_late(log: Log, late: str, since: int | None) -> None:
    log.change("UPDATE event SET severity = 'debug' WHERE id = ?", late)

    with reading(log.url or "") as db:
        ((idx,),) = db.execute("SELECT idx FROM leaf JOIN event ON seq = event_seq WHERE id = ?", (late,)).fetchall()
    assert list(faults(verified(log, since=since))) == [f"event {late} (leaf {idx})"]


def test_a_payload_of_an_event_that_came_late_is_found(log: Log, late: str) -> None:
    log.change("DELETE FROM payload WHERE event_seq = (SELECT seq FROM event WHERE id = ?)", late)

    ((about, what),) = faults(verified(log)).items()
    assert late in about and "payload is missing" in what


def test_what_is_sealed_again_in_a_go_is_in_the_order_of_numbers(log: Log) -> None:
    """The next go begins anew: what came late is behind what was sealed before it."""
    one, two = pending(log, "one"), pending(log, "two")
    next(one), next(two)
    log.append(*work(2))
    log.seal()
    next(two)
    log.seal()
    next(one)
    log.seal()

    assert verified(log).answer == "held"


@pytest.mark.parametrize(
    ("statement", "values", "about", "what"),
    [
        ("DELETE FROM leaf WHERE idx = 4", [], "event at place 5", "is missing, and so is its leaf"),
        ("UPDATE leaf SET hash = ? WHERE idx = 4", [bytes(32)], "leaf 4", "not the one that was sealed"),
        ("UPDATE leaf SET hash = ? WHERE idx = 4", [b"short"], "leaf 4", "not kept as 32 bytes"),
        ("UPDATE leaf SET event_seq = 1000 WHERE idx = 4", [], "leaf 4", "its event is missing"),
        ("DELETE FROM event WHERE seq = 5", [], "leaf 4", "its event is missing"),
        ("UPDATE payload SET event_seq = 1000 WHERE event_seq = 5", [], "payload at event_seq 1000", "no event"),
        ("UPDATE payload SET salt = ? WHERE event_seq = 5", [b"x"], "leaf 4", "salt has 1 bytes"),
        ("UPDATE payload SET salt = NULL WHERE event_seq = 5", [], "leaf 4", "not kept as it was"),
        ("UPDATE checkpoint SET note = NULL", [], "checkpoint of size 7", "not kept as TEXT"),
        ("INSERT INTO anchor VALUES (5, 7, 'timestamp', ?)", [b"x"], "anchor at event_seq 5", "put in"),
        ("INSERT INTO anchor VALUES (1000, 7, 'timestamp', ?)", [b"x"], "anchor at event_seq 1000", "put in"),
        ("INSERT INTO withdrawal VALUES (5, 6)", [], "leaf 4", "not permitted"),
        ("INSERT INTO withdrawal VALUES (5, 1000)", [], "leaf 4", "there is no event at seq 1000"),
        ("INSERT INTO withdrawal VALUES (1000, 6)", [], "event at seq 1000", "not permitted"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_each_row_of_a_database_that_is_not_as_it_was_is_named(
    log: Log, statement: str, values: list[bytes], about: str, what: str
) -> None:
    log.append(*work(1))
    log.seal()
    log.change(statement, *values)

    assert any(about in fault.about and what in fault.what for fault in verified(log).faults), verified(log).faults


# Whatever lies there


def spoilt(log: Log, *statements: str) -> None:
    with psycopg.connect(log.url or "", autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("statements", "what"),
    [
        (["DROP SCHEMA audit CASCADE"], "has no audit store"),
        (["DROP TABLE audit.alembic_version", "CREATE TABLE audit.accounts (id int)"], "of another application"),
        (["UPDATE audit.alembic_version SET version_num = '0001'"], "audit init"),
        (["UPDATE audit.alembic_version SET version_num = '9999'"], "Update prefect-audit"),
    ],
    ids=["none", "another application", "older", "newer"],
)
def test_a_database_that_is_no_store_gets_no_verdict(log: Log, statements: list[str], what: str) -> None:
    spoilt(log, *statements)

    verdict = verified(log)
    assert (verdict.answer, verdict.faults) == ("could not tell", ())
    assert what in verdict.unknown[0] and "\n" not in verdict.unknown[0]


def test_a_database_that_is_not_there_gets_no_verdict(postgres_server: URL) -> None:  # noqa: F811
    nowhere = said(postgres_server.set(database="nowhere"))

    verdict = verify(opened_as_it_is(store_url(Settings(Path(), nowhere, ""))))
    assert verdict.answer == "could not tell"
    assert '"nowhere" does not exist' in verdict.unknown[0]


def test_a_table_that_is_locked(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.store.evidence_postgres.BUSY_SECONDS", 1)
    with psycopg.connect(log.url or "") as other:
        other.execute("LOCK TABLE audit.event IN ACCESS EXCLUSIVE MODE")

        verdict = verified(log)
    assert verdict.answer == "could not tell" and "locked" in verdict.unknown[0]


def test_the_schema_that_is_expected_is_the_one_that_is_made(log: Log) -> None:
    """What is written down of tables, indexes, views and guards, against a new store."""
    log.seal()

    verdict = verified(log)
    assert verdict.faults == ()
    assert not [note for note in verdict.notes if "trigger" in note or "strange" in note]


# The command


def test_the_command_verifies_another_database_by_its_address_and_shows_no_password(log: Log, tmp_path: Path) -> None:
    log.seal()
    url = make_url(log.url or "").set(password="s3cret")
    for store, answer in ((said(url), "held"), (said(url.set(database="nowhere")), "could not tell")):
        done = subprocess.run(
            [sys.executable, "-m", "audit", "verify", "--store", store],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env={"PATH": "", "PYTHONPATH": str(Path.cwd())},
        )
        assert any(line.startswith(answer) for line in done.stdout.splitlines()), done.stdout + done.stderr
        assert done.returncode == (0 if answer == "held" else 2)
        assert "s3cret" not in done.stdout + done.stderr


def test_the_command_takes_no_other_database(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["audit", "verify", "--store", "mysql://me:s3cret@there/audit"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capfd.readouterr()
    assert ended.value.code == 2
    assert "neither a file nor PostgreSQL" in shown.err and "s3cret" not in shown.err
