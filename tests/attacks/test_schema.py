"""The rows stay as they are; tables, views, triggers and indexes of the file are others than they were."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.attacks.forging import file_owner, pass_over, rows
from tests.attacks.victim import IN_A_FILE, SIZES, Victim, faults, verdict

pytestmark = IN_A_FILE


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE event ADD COLUMN remark TEXT"],
        ["ALTER TABLE event ADD COLUMN grave TEXT AS (upper(severity))"],
        ["ALTER TABLE leaf RENAME COLUMN hash TO hashed"],
        ["ALTER TABLE leaf RENAME TO true_leaf", "CREATE VIEW leaf AS SELECT * FROM true_leaf"],
        ["DROP TABLE node"],
        ["DROP VIEW task_run", "CREATE VIEW task_run AS SELECT 'all is well' AS state"],
        ["DROP VIEW task_run", "CREATE TABLE task_run (id TEXT, state TEXT)"],
        ["DROP INDEX event_type_time", "CREATE INDEX event_type_time ON event (type, time) WHERE type <> 'key.lost'"],
    ],
    ids=lambda statements: statements[-1][:40],
)
def test_a_table_or_view_is_another_one(victim: Victim, statements: list[str]) -> None:
    defined(victim, statements)

    assert verdict(victim).answer == "did not hold"


@pytest.mark.parametrize("statement", ["CREATE VIEW event AS SELECT * FROM true_event", "SELECT 1"])
def test_a_store_without_its_table_of_events_is_none(victim: Victim, statement: str) -> None:
    defined(victim, ["ALTER TABLE event RENAME TO true_event", statement])

    assert verdict(victim).answer != "held"


@pytest.mark.parametrize("version", ["'0001'", "'9999'", "'0002 '", "NULL", "x'30303032'", "''"])
def test_a_store_that_claims_another_schema_is_not_read(victim: Victim, version: str) -> None:
    with file_owner(file(victim)) as db:
        db.execute(f"UPDATE alembic_version SET version_num = {version}")

    assert verdict(victim).answer == "could not tell"


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER event_no_update",
        "CREATE TRIGGER quiet BEFORE INSERT ON event WHEN NEW.type = 'key.lost' BEGIN SELECT RAISE(IGNORE); END",
    ],
)
def test_triggers_that_are_others_are_told_of(victim: Victim, statement: str) -> None:
    """They guard what is to come; the rows are what they were."""
    defined(victim, [statement])

    said = verdict(victim)
    assert said.answer == "held"
    assert any("triggers" in note for note in said.notes)


@pytest.mark.parametrize("column", ["severity", "envelope"])
def test_a_column_that_compares_without_case_hides_no_change(victim: Victim, column: str) -> None:
    """SQLite compares as the column is declared, also where columns are held against the envelope."""
    with file_owner(file(victim)) as db:
        db.execute("UPDATE event SET severity = 'INFO' WHERE seq = 100")
    rewritten(victim, f"{column} TEXT NOT NULL", f"{column} TEXT COLLATE NOCASE NOT NULL")

    assert verdict(victim).answer == "did not hold"


def test_the_text_is_kept_in_another_encoding(victim: Victim, tmp_path: Path) -> None:
    """The same words in other bytes: what is hashed is what is read, so nothing is read."""
    with closing(sqlite3.connect(file(victim))) as db, closing(sqlite3.connect(tmp_path / "other")) as other:
        other.executescript("PRAGMA encoding = 'UTF-16le';" + "\n".join(db.iterdump()))
    (tmp_path / "other").replace(file(victim))

    assert "keeps its text as UTF-16le" in faults(victim)


def test_an_index_that_passes_over_an_event_hides_nothing(victim: Victim) -> None:
    """The event is there, but not for who asks by its type: then the checkpoint that it tells of can go."""
    with file_owner(file(victim)) as db:
        told = ("checkpoint.signed", f"checkpoint/{SIZES[1]}")
        (event,) = [row for row in rows(db, "event") if (row["type"], row["subject"]) == told]
        pass_over(db, "event_type_time", "event", event)
        db.execute("DELETE FROM checkpoint WHERE size = ?", (SIZES[1],))
        by_type = "SELECT count(*) FROM event INDEXED BY event_type_time WHERE type = 'checkpoint.signed'"
        assert db.execute(by_type).fetchone() == (len(SIZES) - 1,)

    faults = {fault.about: fault.what for fault in verdict(victim).faults}
    assert "it was removed" in faults[f"checkpoint of size {SIZES[1]}"]
    assert "index event_type_time" in faults["store"]


def file(victim: Victim) -> Path:
    assert isinstance(victim.database, Path)
    return victim.database


def defined(victim: Victim, statements: list[str]) -> None:
    with closing(sqlite3.connect(file(victim))) as db:
        for statement in statements:
            db.execute(statement)


def rewritten(victim: Victim, old: str, new: str) -> None:
    """A table's definition, where SQLite keeps it: its rows are not looked at."""
    with closing(sqlite3.connect(file(victim))) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE type = 'table'", (old, new))
        db.commit()
