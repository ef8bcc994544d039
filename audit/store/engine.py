"""Opening the audit store: SQLite in WAL mode, every commit on disk, made or migrated on first open."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from audit.errors import StoreBusy, StoreUnavailable
from audit.settings import Settings, settings

HEAD = "0002"  # the newest migration; a test holds it against the migrations folder
NO_STORE_HINT = "Set AUDIT_HOME to the folder that holds it; `audit init` makes a new one."
BUSY_SECONDS = 5  # how long a write waits for others before it goes to the spool


@dataclass(frozen=True)
class AuditStore:
    """An open store. Appends and queries take it; it holds no more than its engine."""

    path: Path
    engine: Engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for queries. Raises StoreUnavailable if the database does not answer."""
        with _named(self.path), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One write transaction, the lock taken at its start. Raises StoreUnavailable."""
        with _named(self.path), self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection


def open_store(where: Settings | None = None) -> AuditStore:
    """This process's store, made or migrated if need be. Raises StoreUnavailable."""
    where = where or settings()
    return _open(store_path(where), os.getpid())


def open_existing(where: Settings | None = None) -> AuditStore:
    """The store, for a command that only reads: one that is not there is not made."""
    where = where or settings()
    path = store_path(where)
    if not path.exists():
        raise StoreUnavailable(f"There is no audit store at {path}.", hint=NO_STORE_HINT)
    return open_store(where)


def close_stores() -> None:
    """Forget this process's stores, for example after a fork or when the settings changed."""
    _open.cache_clear()


def store_path(where: Settings) -> Path:
    """The store's file. Raises StoreUnavailable if AUDIT_DATABASE_URL names another kind of database."""
    if where.database_url is None:
        return where.home / "audit.db"
    try:
        parsed = make_url(where.database_url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise StoreUnavailable(
            "AUDIT_DATABASE_URL does not name a SQLite file, which the store is.",
            hint="Use sqlite:///PATH or leave it unset.",
        )
    return Path(parsed.database)


def opened(path: Path) -> AuditStore:
    """A SQLite file as it is, with durable commits and transactions that begin when we say so."""
    return AuditStore(path, _engine(path))


def _engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        max_overflow=-1,  # threads wait for the file's lock, which is told; waiting for a connection would not be
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # else sqlite3 begins transactions behind our back
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@lru_cache(maxsize=8)
def _open(path: Path, _process: int) -> AuditStore:
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        store = opened(path)
        if _version(store.engine, path) != HEAD:
            _make_or_migrate(store.engine, path)
    return store


def _version(engine: Engine, path: Path) -> str | None:
    """The store's migration, None for a new file. Raises StoreUnavailable for somebody else's database."""
    with engine.connect() as connection:
        tables = set(connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars())
        if not tables:
            return None
        if not {"alembic_version", "event"} <= tables:
            raise StoreUnavailable(f"{path} is a database of another application.", hint="Set AUDIT_HOME elsewhere.")
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if version is not None and version > HEAD:
        raise StoreUnavailable(f"{path} was made by a newer release (schema {version}).", hint="Update prefect-audit.")
    return version


def _make_or_migrate(engine: Engine, path: Path) -> None:
    """Bring the file to HEAD; two processes at once: the second finds it done."""
    from audit.store.migrations import upgrade

    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _version(engine, path) != HEAD:
            upgrade(engine)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the driver's errors into one line that names the store and the way out."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as failed:  # the latter where a query has the driver's own cursor
        said = failed.orig if isinstance(failed, DBAPIError) else failed
        busy = getattr(said, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        raise _cannot(path, str(said), StoreBusy if busy else StoreUnavailable) from failed
    except SQLAlchemyError as failed:
        raise _cannot(path, type(failed).__name__) from failed
    except OSError as failed:
        raise _cannot(path, failed.strerror or str(failed)) from failed


def _cannot(path: Path, why: str, kind: type[StoreUnavailable] = StoreUnavailable) -> StoreUnavailable:
    return kind(
        f"{path} cannot be used ({why}).",
        hint="Set AUDIT_HOME to a folder that can be written, or AUDIT_DATABASE_URL.",
    )
