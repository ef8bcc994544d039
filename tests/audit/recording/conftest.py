"""Fixtures of recording: a Prefect server for the module's runs, and what they leave on record."""

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Events = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def events(home: Path, prefect_server: None) -> Events:
    """Asks the store of this test: events of a type, in order, with their payloads under `payload`."""

    def ask(type: str = "*") -> list[dict[str, Any]]:
        if not (home / "audit.db").exists():
            return []
        store = sqlite3.connect(f"file:{home}/audit.db?mode=ro", uri=True)
        store.row_factory = sqlite3.Row
        rows = store.execute(
            "SELECT event.*, body FROM event JOIN payload ON event_seq = seq WHERE type GLOB ? ORDER BY seq", (type,)
        )
        return [dict(row) | {"payload": json.loads(row["body"])} for row in rows]

    os.environ.pop("AUDIT_MODE", None)
    return ask


def break_store(home: Path) -> None:
    """The table is gone: the store opens and refuses every event, as a wrong schema would."""
    with sqlite3.connect(home / "audit.db") as database:
        database.executescript("DROP VIEW task_run; DROP VIEW flow_run; DROP VIEW dataset_version;")
        database.execute("ALTER TABLE payload RENAME TO elsewhere")


def mend_store(home: Path) -> None:
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("ALTER TABLE elsewhere RENAME TO payload")
