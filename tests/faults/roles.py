"""What the processes of these tests do: write what a task run writes, by the recorder, without Prefect's engine."""

import os
import random
import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

from audit.errors import AuditUnavailable, StoreUnavailable
from audit.events.event import Event, make_event, uuid7, uuid8
from audit.events.payloads import RunState
from audit.recording import recorder
from audit.recording.initialise import initialise
from audit.recording.sealing import rotate, seal_all, signing_key
from audit.settings import settings
from audit.store.append import append
from audit.store.engine import SCHEMA, AuditStore, make_store, open_store, store_path, store_url
from tests.faults.dying import die_before
from tests.faults.witness import Witness

ACTOR = "p:7c1e0f" + "0" * 58
FOR_EVER = 1_000_000
LARGE = 2_000_000  # bytes: more than the appending of a large event takes
SIZES = (65_536, 8_192, 1_024, 480, 64)  # bytes: of what memory is filled with


def task_run(nth: int, tags: Sequence[str] = ("x",)) -> Sequence[Event]:
    """The two events of a task run that ends well, under the ids that hooks give them."""
    run = uuid7()
    return [_state(run, nth, state, tags) for state in ("running", "completed")]


def _state(run: str, nth: int, state: str, tags: Sequence[str]) -> Event:
    type, state_id = f"task_run.{state}", uuid7()
    facts = RunState(
        run_name=f"double-{nth}", of="double", state_id=state_id, state=state.title(), attempt=1, tags=list(tags)
    )
    return make_event(
        type,
        facts,
        id=uuid8(state_id, run, state_id, type),
        source="prefect-audit/hook",
        subject=f"task-run/{run}",
        actor=ACTOR,
        task_run_id=run,
    )


def write(witness: str, shares: Sequence[int] = (FOR_EVER,), retry_seconds: float = recorder.RETRY_SECONDS) -> None:
    """A thread for each share, which is how many task runs it makes."""
    recorder.RETRY_SECONDS = retry_seconds
    own = Witness(Path(witness))
    failed: list[BaseException] = []

    def work(runs: int) -> None:
        try:
            for nth in range(runs):
                for event in task_run(nth):
                    recorder.append(event)
                    own.was_told(event)
        except BaseException as error:
            failed.append(error)
            raise

    workers = [threading.Thread(target=work, args=(share,)) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed


def seal(until: str | None = None, patient: bool = False) -> None:
    """In a loop, until a file of that name is there; `patient` as `audit seal --watch` is, where the store is away."""
    while not (until and Path(until).exists()):
        with suppress(StoreUnavailable) if patient else nullcontext():
            seal_the_rest()


def seal_the_rest() -> None:
    """All that waits now."""
    key = signing_key(settings())
    assert key is not None
    for _ in seal_all(settings(), key, tell=recorder.tell):
        pass


def write_and_seal(witness: str) -> None:
    """For ever: a flow run after the other, as far as the record is concerned."""
    own = Witness(Path(witness))
    for nth in count():
        for event in task_run(nth):
            recorder.append(event)
            own.was_told(event)
        if nth % 10 == 9:
            recorder.flow_ended()


def start_up(witness: str) -> None:
    """What the next process does: its first run brings home what waits, and seals it."""
    write(witness, shares=[1])
    recorder.flow_ended()


def make_and_start_up(witness: str) -> None:
    """The same after `audit init`, which on PostgreSQL alone makes a store."""
    make_the_log()
    start_up(witness)


def make_older(revision: str, witness: str) -> None:
    """A store with two runs in it, as an older release left it."""
    from alembic import command
    from sqlalchemy import create_engine, text

    from audit.store.migrations import config

    url, path = store_url(settings()), store_path(settings())
    options = {} if path else {"options": f"-c search_path={SCHEMA}"}
    engine = create_engine(url, connect_args=options)
    settings().home.mkdir()
    with engine.begin() as connection:
        if path is None:
            connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        older = config()
        older.attributes["connection"] = connection
        command.upgrade(older, revision)
    append_many(Witness(Path(witness)), AuditStore(engine, path))


def die(nth: int, deed: str, witness: str) -> None:
    """Do a deed of these, and die before its nth step."""
    die_before(nth)
    DEEDS[deed](Witness(Path(witness)))


def record_runs(own: Witness) -> None:
    """Two task runs, one event after the other."""
    for event in (event for nth in range(2) for event in task_run(nth)):
        recorder.append(event)
        own.was_told(event)


def append_many(own: Witness, store: AuditStore | None = None) -> None:
    """One transaction."""
    events = [event for nth in range(3) for event in task_run(nth)]
    append(store or open_store(), events)
    for event in events:
        own.was_told(event)


def seal_all_that_waits(_own: Witness) -> None:
    seal_the_rest()


def bring_home(_own: Witness) -> None:
    recorder.flow_ended()


def hand_over_the_key(_own: Witness) -> None:
    rotate(settings(), tell=recorder.tell)


def make_the_log(_own: Witness | None = None) -> None:
    """Or bring what is there to this release's schema."""
    make_store()
    initialise("acme.example/faults")


DEEDS = {
    deed.__name__: deed
    for deed in (record_runs, append_many, seal_all_that_waits, bring_home, hand_over_the_key, make_the_log)
}


def stand_still_then_write_and_seal(witness: str, runs: int) -> None:
    """Once somebody who wants to watch has come: so many task runs, sealed every ten."""
    os.kill(os.getpid(), signal.SIGSTOP)
    own = Witness(Path(witness))
    for nth in range(runs):
        for event in task_run(nth):
            recorder.append(event)
            own.was_told(event)
        if nth % 10 == 9:
            recorder.flow_ended()


def write_without_memory(witness: str, seed: int, runs: int) -> None:
    """Task runs of a large payload, each event given up to ten times with less memory than it may take, then with."""
    recorder.RETRY_SECONDS = 0
    own, chance, failed = Witness(Path(witness)), random.Random(seed), 0
    for event in (event for nth in range(runs) for event in task_run(nth, tags=[f"{n:0300}" for n in range(1_000)])):
        for left in range(10, -1, -1):
            limit = chance.randrange(LARGE) if left else None
            lacking = (MemoryError, AuditUnavailable) if left else ()
            with suppress(*lacking), at_most(limit):
                recorder.append(event)
                own.was_told(event)
                break
            failed += 1
    assert failed > runs, f"memory was lacking {failed} times only"


@contextmanager
def at_most(more: int | None) -> Iterator[None]:
    """So many bytes, in the rooms that this process has: what is free in them is taken first. None: no limit."""
    if more is None:
        yield
        return
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
    ballast: list[bytearray] = []
    try:
        for size in SIZES:
            with suppress(MemoryError):
                while True:
                    ballast.append(bytearray(size))
        while more > 0:
            more -= len(ballast.pop(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def hold_the_lock(path: str, ready: str) -> None:
    """Of a SQLite file, until somebody kills us."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    Path(ready).touch()
    signal.pause()


def run_a_flow(api: str, retry_seconds: float = recorder.RETRY_SECONDS, **given: Any) -> None:
    """On the Prefect server at `api`."""
    recorder.RETRY_SECONDS = retry_seconds
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    with temporary_settings({PREFECT_API_URL: api, PREFECT_LOGGING_TO_API_ENABLED: False}):
        from tests.faults import doubling

        doubling.run(**given)


def flush() -> None:
    """`audit spool flush`."""
    recorder.flush()
