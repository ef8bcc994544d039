"""A log on either engine, and processes that write to it."""

import os
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
import pytest

from audit.answers.verify import verify
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store.engine import SCHEMA, AuditStore, close_stores, make_store, open_store
from tests.faults import witness
from tests.faults.processes import Mother
from tests.postgres import empty_database_url, postgres_server  # noqa: F401

ORIGIN = "acme.example/faults"
GIVE_UP_SECONDS = 120


@pytest.fixture(scope="session")
def mother(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mother]:
    made = Mother(tmp_path_factory.mktemp("mother") / "said.txt")
    yield made
    made.close()


@dataclass(frozen=True)
class Log:
    """A log under test, and the folder of its witnesses."""

    home: Path
    witnesses: Path

    @property
    def store(self) -> AuditStore:
        return open_store()

    def witness(self) -> str:
        """A file for another writer."""
        return str(self.witnesses / f"{secrets.token_hex(8)}.told")

    def until_told(self, more: int) -> None:
        """Wait until writers were told of so many events more than now."""
        wanted = witness.count(self.witnesses) + more
        wait_until(lambda: witness.count(self.witnesses) >= wanted, f"{more} more events are written")

    def demand_whole(self) -> None:
        """Fails unless `audit verify` holds, every event that a writer was told of is on record, and none was lost."""
        self.demand_verified()
        witness.demand_on_record(self.store, witness.told(self.witnesses))
        assert witness.counted(self.store, "store.dropped") == 0

    def demand_verified(self) -> None:
        close_stores()
        said = verify(self.store)
        assert said.answer == "held", f"{said.faults} {said.unknown}"


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Look until it is `true`; fails where that takes far longer than it ever should."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"in {GIVE_UP_SECONDS} s it did not come to: {what}"
        time.sleep(0.002)


Nothing = Callable[[], Log]


def meant(log: Log, monkeypatch: pytest.MonkeyPatch, database_url: str | None = None) -> Log:
    """The log that is meant from here on, by this process and those that it starts.

    In mode `strict`, so that who was told that an event is on record was told the truth.
    """
    close_stores()
    log.witnesses.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("AUDIT_MODE", "strict")
    monkeypatch.setenv("AUDIT_HOME", str(log.home))
    if database_url:
        monkeypatch.setenv("AUDIT_DATABASE_URL", database_url)
    settings.cache_clear()
    return log


@pytest.fixture(params=["sqlite", "postgres"])
def nothing(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nothing]:
    """Homes without a log, on each engine; the one that was asked for last is the one that is meant."""
    numbers = count()

    def made() -> Log:
        nth = next(numbers)
        url = _emptied(request.getfixturevalue("empty_database_url")) if request.param == "postgres" else None
        return meant(Log(home / f"{nth}", home / "witnesses" / f"{nth}"), monkeypatch, url)

    yield made
    close_stores()


@pytest.fixture
def log(nothing: Nothing) -> Log:
    """An empty log."""
    log = nothing()
    make()
    return log


def make() -> None:
    """What `audit init` does."""
    make_store()
    initialise(ORIGIN)


def _emptied(url: str) -> str:
    close_stores()
    with psycopg.connect(url) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    return url


@pytest.fixture
def api(prefect_server: None) -> str:
    """Of the Prefect server of this test process, for flows in others."""
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value())


@pytest.fixture
def chance() -> random.Random:
    """Random points. A test that fails shows what they came from; PREFECT_AUDIT_SEED draws the same again."""
    seed = int(os.environ.get("PREFECT_AUDIT_SEED") or secrets.randbits(32))
    sys.stderr.write(f"PREFECT_AUDIT_SEED={seed}\n")
    return random.Random(seed)
