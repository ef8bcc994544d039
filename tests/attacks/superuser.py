"""`forging.owner` of a PostgreSQL database: a superuser, whom no trigger, constraint or catalog binds.

A driver's cursor that takes SQLite's `?`, so that an attack is written once.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url

from tests.postgres import said

TABLES = "(SELECT oid FROM pg_class WHERE relnamespace = 'audit'::regnamespace AND relkind = 'r')"


class Hands:
    """What a sqlite3 connection does, as far as attacks need it."""

    same = "IS NOT DISTINCT FROM"
    refusals = (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError)

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self.connection = connection

    def execute(self, statement: str, values: Any = ()) -> "psycopg.Cursor[Any]":
        with self.connection.transaction():  # so that what is refused ends nothing else
            return self.connection.execute(*_written(statement, values))

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(_written(statement, (None,))[0], list(rows))


@contextmanager
def superuser(url: str) -> Iterator[Hands]:
    """The database without triggers, NOT NULL, identity and foreign keys; afterwards the schema reads as it did."""
    with psycopg.connect(url, autocommit=True, client_encoding="UTF8") as connection:
        for setting in ("session_replication_role TO replica", "search_path TO audit", "synchronous_commit TO off"):
            connection.execute(f"SET {setting}")
        with _unbound(connection), connection.transaction():
            yield Hands(connection)
        connection.execute("SELECT setval('event_seq_seq', greatest(max(seq), 1)) FROM event WHERE seq < 2 ^ 40")


@contextmanager
def reading(url: str) -> Iterator[Hands]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path TO audit")
        yield Hands(connection)


@contextmanager
def switched_off(hands: Hands, index: str) -> Iterator[None]:
    """Meanwhile the index misses what is put in, and refuses no double."""
    switch = "UPDATE pg_index SET indisready = {0}, indisvalid = {0}, indislive = {0} WHERE indexrelid = ?::regclass"
    hands.execute(switch.format("false"), (f"audit.{index}",))
    yield
    hands.execute(switch.format("true"), (f"audit.{index}",))


def copied(url: str) -> str:
    """The address of a copy. Nobody may be connected to the original."""
    of, name = make_url(url), f"audit_{secrets.token_hex(6)}"
    assert of.database
    _run(url, SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(of.database)))
    return said(of.set(database=name))


def dropped(url: str) -> None:
    _run(url, SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(make_url(url).database or "")))


def _run(url: str, statement: Any) -> None:
    with psycopg.connect(said(make_url(url).set(database="postgres")), autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def _unbound(connection: "psycopg.Connection[Any]") -> Iterator[None]:
    """What columns demand is written where PostgreSQL keeps it: what is in the tables is not looked at."""
    attributes = f"pg_attribute WHERE attrelid IN {TABLES} AND attnum > 0"
    was = connection.execute(f"SELECT attnotnull, attidentity, attrelid, attnum FROM {attributes}").fetchall()
    connection.execute(
        f"UPDATE pg_attribute SET attnotnull = false, attidentity = '' WHERE attrelid IN {TABLES} AND attnum > 0"
    )
    yield
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE pg_attribute SET attnotnull = %s, attidentity = %s WHERE attrelid = %s AND attnum = %s", was
        )


def _written(statement: str, values: Any) -> tuple[Any, Any]:
    """With PostgreSQL's marks, where there are values."""
    if not values:
        return statement, None
    if isinstance(values, dict):
        return _named(statement, values), values
    return statement.replace("%", "%%").replace("?", "%s"), values


def _named(statement: str, values: dict[str, Any]) -> str:
    for name in sorted(values, key=len, reverse=True):
        statement = statement.replace(f":{name}", f"%({name})s")
    return statement
