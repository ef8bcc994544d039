"""Opening the audit store: SQLite in WAL mode, made or migrated on first open; or PostgreSQL, which only `audit init`
makes. Either way a commit is on disk when it returns."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from audit.errors import NotPermitted, StoreBusy, StoreDamaged, StoreRefused, StoreUnavailable
from audit.settings import Settings, settings
from audit.store.turns import Line, Place, turn

HEAD = "0003"  # the newest migration; a test holds it against the migrations folder
NO_STORE_HINT = "Set AUDIT_HOME to the folder that holds it; `audit init` makes a new one."
BUSY_SECONDS = 5  # how long a write waits for others before it goes to the spool
SCHEMA = "audit"  # of PostgreSQL, so that nothing of a neighbour in the same database is in the way
DECIDING = 0x6175646974  # "audit": the advisory lock of who decides by what is on record
BUSY_STATES = {"55P03", "40P01", "40001"}  # lock_not_available, deadlock_detected, serialization_failure
NOT_PERMITTED = "42501"  # insufficient_privilege
REFUSED = ("22", "23", "54", "P0001")  # data exception, constraint, program limit, a guard's RAISE
FILE_HINT = "Set AUDIT_HOME to a folder that can be written, or AUDIT_DATABASE_URL."
SERVER_HINT = "Is the server up, and does AUDIT_DATABASE_URL name the right host, database, user and password?"
REFUSED_HINT = "It is this that it does not take; what else is written goes in."
LOG_HINT = "The database's own log says more."
ROLE_HINT = "Log in with another role, or have it granted: see docs/postgres.md."


@dataclass(frozen=True)
class AuditStore:
    """An open store. Appends and queries take it; it holds no more than its engine."""

    engine: Engine = field(repr=False)  # whose address may hold a password
    path: Path | None  # the file; None on PostgreSQL
    line: Line = field(default_factory=Line, repr=False, compare=False)  # of this process's threads that append

    @property
    def name(self) -> str:
        """As people know it: the file, or the database without its password."""
        return str(self.path or shown(self.engine.url))

    @property
    def is_postgres(self) -> bool:
        return self.path is None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection on which all queries see one state of the store. Raises StoreUnavailable."""
        with self.naming(), self.engine.connect() as connection:
            if self.is_postgres:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that appends; on SQLite under the file's lock from its start. Raises StoreUnavailable."""
        with (
            self.naming(),
            closing(Place(self.path)) as place,
            self.turn(place),
            self.engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def deciding(self) -> Iterator[Connection]:
        """One transaction that writes what follows from what it reads. Of two at once the second waits and then reads
        what the first wrote. Who only appends does not wait for either. Raises StoreUnavailable, StoreBusy."""
        with self.writing() as connection:
            if self.is_postgres:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": DECIDING})
            yield connection

    def turn(self, place: Place) -> AbstractContextManager[None]:
        """This process's turn to write, where writers queue for a file."""
        return turn(place, BUSY_SECONDS)

    def naming(self) -> AbstractContextManager[None]:
        """What the driver raises within becomes a StoreUnavailable that names this store."""
        return _named(self.name, self.engine.dialect.loaded_dbapi.Error)

    def close(self) -> None:
        """Let go of every connection that nobody uses; who goes on with the store makes new ones."""
        kept, self.line.connection = self.line.connection, None
        if kept is not None:
            kept.connection.close()
        self.engine.dispose()


def open_store(where: Settings | None = None) -> AuditStore:
    """This process's store. A SQLite file is made or migrated if need be. Raises StoreUnavailable."""
    return _open(store_url(where or settings()), os.getpid())


def open_existing(where: Settings | None = None) -> AuditStore:
    """The store, for a command that only reads: one that is not there is not made."""
    where = where or settings()
    path = store_path(where)
    if path is not None and not path.exists():
        raise StoreUnavailable(f"There is no audit store at {path}.", hint=NO_STORE_HINT)
    return open_store(where)


def make_store(where: Settings | None = None) -> AuditStore:
    """The store, made or migrated, on PostgreSQL too, where that takes the rights of its owner."""
    where = where or settings()
    url = store_url(where)
    if store_path(where) is None:
        store = AuditStore(_postgres(url), None)
        with _named(store.name):
            _make_or_migrate(store.engine)
        store.engine.dispose()
    return open_store(where)


def close_stores() -> None:
    """Forget this process's stores, for example after a fork or when the settings changed."""
    _open.cache_clear()


def store_path(where: Settings) -> Path | None:
    """The store's file; None where it is in PostgreSQL. Raises StoreUnavailable as `store_url` does."""
    url = store_url(where)
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


@lru_cache(maxsize=8)  # each append asks
def store_url(where: Settings) -> URL:
    """Where the store is. Raises StoreUnavailable if AUDIT_DATABASE_URL names another kind of database."""
    if where.database_url is None:
        return URL.create("sqlite", database=str(where.home / "audit.db"))
    try:
        url = make_url(where.database_url)
    except ArgumentError:
        url = URL.create("none")
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or not url.database:
        raise StoreUnavailable(
            "AUDIT_DATABASE_URL names neither PostgreSQL nor a SQLite file.",
            hint="Use postgresql://USER:PASSWORD@HOST/DATABASE or sqlite:///PATH, or leave it unset.",
        )
    return url


def store_name(where: Settings) -> str:
    """The store as people know it, whether or not it is there. Raises StoreUnavailable as `store_url` does."""
    return str(store_path(where) or shown(store_url(where)))


def shown(url: URL) -> str:
    """A database as it may be told: a password may stand in its own place and among the options."""
    host = {"host": where} if (where := url.query.get("host")) else {}
    return URL.create(
        "postgresql", url.username, host=url.host, port=url.port, database=url.database, query=host
    ).render_as_string()


def opened(path: Path) -> AuditStore:
    """A SQLite file as it is, with durable commits and transactions that begin when we say so."""
    return AuditStore(_sqlite(URL.create("sqlite", database=str(path))), path)


def opened_as_it_is(url: URL) -> AuditStore:
    """The same for what `store_url` says, of whatever schema, for who looks at it and changes nothing."""
    return opened(Path(url.database or "")) if url.get_backend_name() == "sqlite" else AuditStore(_postgres(url), None)


def _sqlite(url: URL) -> Engine:
    engine = create_engine(
        url,
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


def _postgres(url: URL) -> Engine:
    try:
        engine = create_engine(
            url,
            connect_args={"connect_timeout": BUSY_SECONDS, "application_name": "prefect-audit"},
            pool_pre_ping=True,  # a database that was started again is met with a new connection, not with an error
            max_overflow=-1,
        )
    except ImportError:
        raise StoreUnavailable(
            "AUDIT_DATABASE_URL names PostgreSQL, whose driver is not installed.",
            hint="pip install 'prefect-audit[postgres]'",
        ) from None

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET search_path TO {SCHEMA}, pg_temp; SET synchronous_commit TO on; "
                f"SET lock_timeout TO '{BUSY_SECONDS}s'; SET timezone TO 'UTC'"
            )
        connection.commit()

    return engine


@lru_cache(maxsize=8)
def _open(url: URL, _process: int) -> AuditStore:
    if url.get_backend_name() == "sqlite":
        return _opened_file(url)
    store = AuditStore(_postgres(url), None)
    with _named(store.name):
        found = _version(store.engine)
    if found != HEAD:
        raise StoreUnavailable(
            f"{store.name} has no audit store yet."
            if found is None
            else f"{store.name} has schema {found}, this release needs {HEAD}.",
            hint="Run `audit init` as the owner of the database.",
        )
    return store


def _opened_file(url: URL) -> AuditStore:
    path = Path(url.database or "")
    with _named(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        store = opened(path)
        if _version(store.engine) != HEAD:
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                _make_or_migrate(store.engine)
    return store


def _make_or_migrate(engine: Engine) -> None:
    """Bring the store to HEAD; two processes at once: the second finds it done."""
    from audit.store.migrations import upgrade

    if _version(engine) != HEAD:
        upgrade(engine)


def _version(engine: Engine) -> str | None:
    """The store's migration, None for a new one. Raises StoreUnavailable for somebody else's database."""
    of = (
        f"SELECT tablename FROM pg_tables WHERE schemaname = '{SCHEMA}'"
        if engine.dialect.name == "postgresql"
        else "SELECT name FROM sqlite_master WHERE type = 'table'"
    )
    name = shown(engine.url) if engine.dialect.name == "postgresql" else engine.url.database
    with engine.connect() as connection:
        tables = set(connection.execute(text(of)).scalars())
        if not tables:
            return None
        if not {"alembic_version", "event"} <= tables:
            raise StoreUnavailable(f"{name} is a database of another application.", hint="Set AUDIT_HOME elsewhere.")
        ours = f"{SCHEMA}." if engine.dialect.name == "postgresql" else ""  # else who may not look finds nothing there
        version = connection.execute(text(f"SELECT version_num FROM {ours}alembic_version")).scalar()
    if version is not None and version > HEAD:
        raise StoreUnavailable(f"{name} was made by a newer release (schema {version}).", hint="Update prefect-audit.")
    return version


@contextmanager
def _named(name: str, driver: type[Exception] = sqlite3.Error) -> Iterator[None]:
    """Turn the driver's errors into one line that names the store and the way out."""
    try:
        yield
    except (DBAPIError, driver) as failed:  # the latter where a query has the driver's own cursor
        said = failed.orig if isinstance(failed, DBAPIError) else failed
        why = next(iter(str(said).splitlines()), type(said).__name__)  # of PostgreSQL's the first line says it
        state = getattr(said, "sqlstate", None)
        if state == NOT_PERMITTED:
            raise _cannot(name, why, NotPermitted, ROLE_HINT) from failed
        if isinstance(said, (sqlite3.IntegrityError, sqlite3.DataError)) or (state or "").startswith(REFUSED):
            raise StoreRefused(f"{name} does not take this ({why}).", hint=REFUSED_HINT) from failed
        code = getattr(said, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _cannot(name, why, StoreDamaged) from failed
        busy = code == sqlite3.SQLITE_BUSY or state in BUSY_STATES
        hint = FILE_HINT if isinstance(said, sqlite3.Error) else LOG_HINT if state else SERVER_HINT
        raise _cannot(name, why, StoreBusy if busy else StoreUnavailable, hint) from failed
    except SQLAlchemyError as failed:
        raise _cannot(name, type(failed).__name__) from failed
    except OSError as failed:
        raise _cannot(name, failed.strerror or str(failed)) from failed


def _cannot(
    name: str, why: str, kind: type[StoreUnavailable] = StoreUnavailable, hint: str = FILE_HINT
) -> StoreUnavailable:
    return kind(f"{name} cannot be used ({why}).", hint=hint)
