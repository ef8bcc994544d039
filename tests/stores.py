"""A store in a file and in PostgreSQL, one after the other, and what whoever owns it can do to its rows.

Where a conftest imports `home`, its tests run on both; `in_a_file` and `on_a_server` keep one to the engine that it is
about.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit.settings import settings
from audit.store.engine import SCHEMA, close_stores, store_path

in_a_file = pytest.mark.parametrize("home", ["sqlite"], indirect=True)
on_a_server = pytest.mark.parametrize("home", ["postgresql"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def home(home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh AUDIT_HOME whose store is in it, or in a fresh database."""
    if request.param == "postgresql":
        monkeypatch.setenv("AUDIT_DATABASE_URL", request.getfixturevalue("postgres_url"))
        settings.cache_clear()
    close_stores()
    yield home
    close_stores()


def as_superuser() -> "psycopg.Connection[Any]":
    """A connection past every role and this product's code; guards are on."""
    url = settings().database_url
    assert url is not None
    return psycopg.connect(url, autocommit=True, options=f"-c search_path={SCHEMA}")


def rows(sql: str, *values: object) -> list[tuple[Any, ...]]:
    """What is in the store's tables. `?` is a value, on both."""
    if path := store_path(settings()):
        with closing(sqlite3.connect(path)) as database:
            return database.execute(sql, values).fetchall()
    with as_superuser() as database:
        return database.execute(sql.replace("?", "%s"), values or None).fetchall()  # type: ignore[arg-type]


def tried(sql: str) -> None:
    """What somebody with every right tries while the guards are there. Raises what the driver raises."""
    if path := store_path(settings()):
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(sql)
    else:
        with as_superuser() as database:
            database.execute(sql)  # type: ignore[arg-type]


def rewrite(sql: str, *values: object) -> None:
    """Change one row as the owner of the file, or of the database, can: without guards."""
    if path := store_path(settings()):
        with closing(sqlite3.connect(path)) as file, file:
            for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                file.execute(f"DROP TRIGGER {name}")
            assert file.execute(sql, values).rowcount == 1
        return
    with as_superuser() as database:
        database.execute("SET session_replication_role TO replica")
        assert database.execute(sql.replace("?", "%s"), values or None).rowcount == 1  # type: ignore[arg-type]


REFUSED = (sqlite3.IntegrityError, psycopg.IntegrityError, psycopg.errors.RaiseException, psycopg.ProgrammingError)
