"""Processes that are made to be killed: forked from one that has imported everything, so that each costs milliseconds.

That one has a single thread and nothing open. pytest's own process has a Prefect server's threads and other tests'
databases, none of which survives a fork well.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

EVERYTHING = (
    "alembic.command", "concurrent_log_handler", "prefect.main", "prefect.runtime", "psycopg", "psutil",
    "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite",
    "audit.recording.bindings", "audit.recording.plugin", "audit.recording.reconcile", "audit.store.tables",
    "tests.faults.doubling", "tests.faults.roles",
)  # fmt: skip
SECONDS = 300  # after which a process that hangs is ended, which then fails its test; 0: never


class Mother:
    """Starts processes that do what a function of `roles` says."""

    def __init__(self, said: Path, seconds: int = SECONDS) -> None:
        self.said = said
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.processes", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said.open("wb"),
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def start(self, role: str, *, environ: dict[str, str] | None = None, **given: Any) -> "Child":
        """A process in this one's environment of now, as changed by `environ`."""
        asked = {"role": role, "given": given, "environ": {**os.environ, **(environ or {})}}
        return Child(self, self.ask(asked))

    def run(self, role: str, *, environ: dict[str, str] | None = None, **given: Any) -> None:
        """The same, to its end, which must be a good one."""
        assert self.start(role, environ=environ, **given).ended() == 0, self.words()

    def ask(self, question: dict[str, Any]) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(question, default=str) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def words(self) -> str:
        """What its children said."""
        return self.said.read_text(errors="replace")

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class Child:
    """One of them. Its number stays its own until `ended` was asked."""

    def __init__(self, mother: Mother, pid: int) -> None:
        self.mother, self.pid = mother, pid
        self._status: int | None = None

    def kill(self) -> None:
        """At once: SIGKILL leaves it no time for anything."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> int:
        """Its exit status, minus the signal's number if one ended it, when it has ended."""
        if self._status is None:
            self._status = self.mother.ask({"ended": self.pid})
        return self._status


@contextmanager
def ended_at_last(*children: Child) -> Iterator[None]:
    """Whatever is left of them afterwards is killed."""
    try:
        yield
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.ended()


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a child prints is no answer
    _import_everything()
    assert threading.active_count() == 1, threading.enumerate()
    for line in sys.stdin:
        asked = json.loads(line)
        if "ended" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["ended"], 0)[1])
        else:
            answer = os.fork() or _child(asked)
        answers.write(f"{answer}\n")
        answers.flush()


def _child(asked: dict[str, Any]) -> int:
    """Never returns."""
    from audit.settings import settings
    from tests.faults import roles

    signal.alarm(int(sys.argv[1]))
    os.environ.clear()
    os.environ.update(asked["environ"])
    settings.cache_clear()
    status = 1
    try:
        getattr(roles, asked["role"])(**asked["given"])
        atexit._run_exitfuncs()  # as where a program comes to its end
        status = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def _import_everything() -> None:
    """What is imported here costs its children nothing."""
    for module in EVERYTHING:
        import_module(module)


if __name__ == "__main__":
    _serve()
