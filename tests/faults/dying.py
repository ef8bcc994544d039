"""Kills its own process before the nth thing that it does to anything that lasts: a statement, a commit, a file.

Between two of them nothing happens that another process could see, so all n together are every point at which the
power can fail a process. What a statement itself does half is the engine's, and `test_power` looks at it.
"""

import os
import signal
import sqlite3
import sys
from typing import Any

LASTING = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.truncate", "os.chmod"}


class Steps:
    """Counts them, and dies before the nth."""

    def __init__(self, last: int) -> None:
        self.left = last

    def step(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def die_before(nth: int) -> None:
    """Of what this process does from now on."""
    steps = Steps(nth)
    _before_statements_of_sqlite(steps)
    _before_words_to_postgres(steps)
    sys.addaudithook(lambda event, given: steps.step() if _lasts(event, given) else None)


def _lasts(event: str, given: tuple[Any, ...]) -> bool:
    if event == "open":
        return isinstance(given[2], int) and bool(given[2] & (os.O_WRONLY | os.O_RDWR))
    return event in LASTING


def _before_statements_of_sqlite(steps: Steps) -> None:
    """COMMIT among them. Reading changes nothing: to die before it is to die before the next that does."""
    from sqlalchemy import Engine, event

    def changes(statement: str) -> None:
        if not statement.lstrip().startswith(("SELECT", "WITH", "BEGIN", "--")):  # the last: a trigger's own
            steps.step()

    @event.listens_for(Engine, "connect")
    def _trace(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(changes)


def _before_words_to_postgres(steps: Steps) -> None:
    """Each exchange with the server: a statement, with the BEGIN before it; a COMMIT; a COPY's parts."""
    import psycopg

    plain = psycopg.Connection.wait

    def wait(self: Any, *given: Any, **named: Any) -> Any:
        steps.step()
        return plain(self, *given, **named)

    psycopg.Connection.wait = wait  # type: ignore[method-assign]
