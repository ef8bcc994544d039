"""Kills its own process before the nth thing that it does to anything that lasts: a statement, a commit, a file.

Between two of them nothing happens that another process could see, so all n together are every point at which the
power can fail a process. What a statement itself does half is the engine's, and `test_power` looks at it.
"""

import os
import signal
import sqlite3
import sys
from typing import Any

READS = ("SELECT", "SHOW", "BEGIN", "--")  # the last: what SQLite says of a trigger's own
LASTING = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.truncate", "os.chmod"}


class Steps:
    """Counts them, and dies before the nth."""

    def __init__(self, last: int) -> None:
        self.left = last

    def step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def statement(self, text: str) -> None:
        """Reading changes nothing: to die before it is to die before the next that does."""
        if not text.lstrip().startswith(READS):
            self.step()


def die_before(nth: int) -> None:
    """Of what this process does from now on."""
    steps = Steps(nth)
    _before_statements_of_sqlite(steps)
    _before_statements_of_postgres(steps)
    sys.addaudithook(lambda event, given: steps.step() if _lasts(event, given) else None)


def _lasts(event: str, given: tuple[Any, ...]) -> bool:
    if event == "open":
        return isinstance(given[2], int) and bool(given[2] & (os.O_WRONLY | os.O_RDWR))
    return event in LASTING


def _before_statements_of_sqlite(steps: Steps) -> None:
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def _trace(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(steps.statement)


def _before_statements_of_postgres(steps: Steps) -> None:
    import psycopg

    execute, commit = psycopg.Cursor.execute, psycopg.Connection.commit

    def counted_execute(self: Any, query: Any, *given: Any, **named: Any) -> Any:
        steps.statement(str(query))
        return execute(self, query, *given, **named)

    def counted_commit(self: Any) -> None:
        steps.step()
        commit(self)

    psycopg.Cursor.execute = counted_execute  # type: ignore[method-assign,assignment]
    psycopg.Connection.commit = counted_commit  # type: ignore[method-assign]
