"""PostgreSQL that crashes while many write: what was acknowledged is there, what came meanwhile follows, all once."""

import os
import random
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from audit.store.engine import close_stores
from tests.faults import databases
from tests.faults.conftest import Log, make, meant, wait_until
from tests.faults.databases import Server
from tests.faults.processes import Mother, ended_at_last
from tests.faults.roles import FOR_EVER

pytestmark = pytest.mark.slow
CRASHES = 5


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with databases.folder() as folder, databases.server(folder) as made:
        yield made


@pytest.fixture
def log(server: Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    url = server.make_database(f"audit_{secrets.token_hex(4)}")
    log = meant(Log(home, tmp_path / "witnesses"), monkeypatch, url)
    make()
    yield log
    close_stores()


def three_writers(log: Log, mother: Mother) -> AbstractContextManager[None]:
    """Of two threads each, who try again at once."""
    return ended_at_last(
        *(mother.start("write", witness=log.witness(), shares=[FOR_EVER] * 2, retry_seconds=0) for _ in range(3))
    )


def test_a_server_that_crashes_while_many_write_loses_nothing(
    log: Log, server: Server, mother: Mother, chance: random.Random
) -> None:
    with three_writers(log, mother):
        for _ in range(CRASHES):
            log.until_told(chance.randint(50, 200))
            server.crash()
            log.until_told(50)  # which wait in the spool
            server.start()
        log.until_told(100)
    mother.run("start_up", witness=log.witness())

    log.demand_whole()


def test_a_connection_that_is_killed_while_it_writes_loses_nothing(
    log: Log, server: Server, mother: Mother, chance: random.Random
) -> None:
    with three_writers(log, mother):
        for _ in range(CRASHES):
            log.until_told(chance.randint(50, 200))
            wait_until(lambda: bool(server.serving()), "a writer is connected")
            os.kill(chance.choice(server.serving()), signal.SIGKILL)  # on which the server starts all others anew
        log.until_told(100)
    server.until_recovered()
    mother.run("start_up", witness=log.witness())

    log.demand_whole()


def test_a_machine_that_stops_has_all_that_was_acknowledged_on_its_disk(
    log: Log, server: Server, mother: Mother, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = [mother.start("write", witness=log.witness(), shares=[FOR_EVER] * 2) for _ in range(3)]
    then = Log(tmp_path / "then", tmp_path / "told-then")
    with ended_at_last(*writers, mother.start("seal")), databases.folder() as folder:
        log.until_told(300)
        with server.standing_still():
            shutil.copytree(log.home, then.home)
            shutil.copytree(log.witnesses, then.witnesses)
            server.copy(folder)
        with databases.server(folder) as other:
            database = make_url(os.environ["AUDIT_DATABASE_URL"]).database
            meant(then, monkeypatch, other.address(str(database)))
            mother.run("start_up", witness=then.witness())
            then.demand_whole()
