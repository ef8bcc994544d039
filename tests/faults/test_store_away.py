"""The store fails in the middle of a flow run, in every way that a store can: the run comes to the same result, and all
of it is on record afterwards, once. Where not even the spool can be written, mode `strict` begins no task."""

import gc
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from audit.recording.recorder import RETRY_SECONDS
from audit.store.engine import HEAD, close_stores
from tests.faults import databases, witness
from tests.faults.conftest import Log, make, meant, wait_until
from tests.faults.databases import Server
from tests.faults.flowing import FlowProcess, states_of_runs
from tests.faults.processes import Mother, ended_at_last

pytestmark = pytest.mark.slow

N = 8  # task runs of a flow
FROM, TO = 2, 5  # those that are under way when the fault comes, and when it goes
FaultOfFile = Callable[[Log, Mother], AbstractContextManager[None]]
FaultOfDisk = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def locked(log: Log, mother: Mother) -> Iterator[None]:
    """By another process, for longer than anybody waits."""
    ready = log.witnesses / "locked"
    holder = mother.start("hold_the_lock", path=str(log.home / "audit.db"), ready=str(ready))
    with ended_at_last(holder):
        wait_until(ready.exists, "somebody holds the lock")
        yield


@contextmanager
def refusing(log: Log, mother: Mother) -> Iterator[None]:
    """Every event, in the middle of its work."""
    with sqlite3.connect(log.home / "audit.db") as database:
        database.execute("CREATE TRIGGER refuse BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'no'); END")
    yield
    with sqlite3.connect(log.home / "audit.db") as database:
        database.execute("DROP TRIGGER refuse")


@contextmanager
def of_a_newer_release(log: Log, mother: Mother) -> Iterator[None]:
    """Which this one does not open."""
    with sqlite3.connect(log.home / "audit.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    yield
    with sqlite3.connect(log.home / "audit.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (HEAD,))


@contextmanager
def full(disk: Path) -> Iterator[None]:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    yield
    ballast.unlink()


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Four MiB on a file system of their own."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def demand_nothing_lost(flow: FlowProcess, log: Log, mother: Mother) -> None:
    """Its result is what it would have been, and every state of its task runs is on record, once."""
    assert flow.result == N * (N - 1), mother.words()
    mother.run("flush")
    mother.run("start_up", witness=log.witness())
    expected = {run: ["running", "completed"] for run in flow.ended}
    assert len(expected) == N
    states = states_of_runs(log.store)
    assert {run: states[run] for run in expected} == expected
    assert witness.counted(log.store, "store.dropped") == 0
    log.demand_verified()


def run_during(fault: AbstractContextManager[None], flow: FlowProcess, *, from_the_start: bool) -> int:
    """Exit status of a flow's process in the middle of whose run the store failed, or which began without it."""
    process = flow.start() if not from_the_start else None
    if process:
        flow.until_it_waits(FROM)
    with fault:
        process = process or flow.start()
        flow.go(FROM)
        flow.until_it_waits(TO)
    flow.go(TO)
    return process.ended()


@pytest.mark.parametrize("nothing", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "from_the_start", "retry_seconds"),
    [
        (locked, False, RETRY_SECONDS),
        (locked, True, RETRY_SECONDS),
        (refusing, False, 0),
        (of_a_newer_release, True, 0),
    ],
    ids=["locked", "locked from the start", "refusing", "of a newer release"],
)
def test_a_file_that_takes_nothing_for_a_while(
    log: Log, mother: Mother, api: str, tmp_path: Path, fault: FaultOfFile, from_the_start: bool, retry_seconds: float
) -> None:
    flow = FlowProcess(mother, api, tmp_path, N, (FROM, TO), retry_seconds=retry_seconds)

    assert run_during(fault(log, mother), flow, from_the_start=from_the_start) == 0, mother.words()

    demand_nothing_lost(flow, log, mother)


@pytest.mark.parametrize(
    ("fault", "from_the_start"),
    [(full, False), (full, True), (read_only, True)],
    ids=["full", "full from the start", "read-only"],
)
def test_a_disk_that_takes_nothing_for_a_while(
    mother: Mother,
    api: str,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: FaultOfDisk,
    from_the_start: bool,
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        log = meant(Log(home, tmp_path / "told"), monkeypatch, f"sqlite:///{disk}/audit.db")
        make()
        let_go()
        flow = FlowProcess(mother, api, tmp_path, N, (FROM, TO))

        assert run_during(fault(disk), flow, from_the_start=from_the_start) == 0, mother.words()

        demand_nothing_lost(flow, log, mother)


def test_postgres_that_crashes_and_comes_back_in_the_middle_of_a_run(
    mother: Mother, api: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with databases.folder() as folder, databases.server(folder) as server:
        log = meant(Log(home, tmp_path / "told"), monkeypatch, server.make_database("audit"))
        make()
        flow = FlowProcess(mother, api, tmp_path, N, (FROM, TO))

        assert run_during(crashed(server), flow, from_the_start=False) == 0, mother.words()

        demand_nothing_lost(flow, log, mother)


@contextmanager
def crashed(server: Server) -> Iterator[None]:
    server.crash()
    yield
    server.start()


@pytest.fixture
def log_on_a_small_disk(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Log, Path]]:
    """Store and spool on one disk."""
    with small_disk(tmp_path / "disk") as disk:
        log = meant(Log(disk / "var", tmp_path / "told"), monkeypatch)
        make()
        let_go()
        yield log, disk
        let_go()


def test_in_mode_strict_no_task_begins_whose_beginning_nothing_can_take(
    log_on_a_small_disk: tuple[Log, Path], mother: Mother, api: str, tmp_path: Path
) -> None:
    log, disk = log_on_a_small_disk
    flow = FlowProcess(mother, api, tmp_path, N, (FROM,))
    process = flow.start()
    flow.until_it_waits(FROM)

    with full(disk):
        flow.go(FROM)
        assert process.ended() == 1

    assert "AuditUnavailable: Task run double-" in mother.words()
    assert len(flow.began) == FROM + 1  # the body of the next one never ran
    mother.run("start_up", witness=log.witness())
    states = states_of_runs(log.store)
    assert sorted(states[run] for run in flow.began) == [["running", "abandoned"], *[["running", "completed"]] * FROM]
    assert witness.counted(log.store, "store.dropped") > 0
    log.demand_verified()


def test_in_mode_spool_what_nothing_can_take_is_counted_and_the_count_goes_on_record(
    log_on_a_small_disk: tuple[Log, Path], mother: Mother, api: str, tmp_path: Path
) -> None:
    log, disk = log_on_a_small_disk
    flow = FlowProcess(mother, api, tmp_path, N, (FROM, TO), environ={"AUDIT_MODE": "spool"})

    assert run_during(full(disk), flow, from_the_start=False) == 0, mother.words()

    assert flow.result == N * (N - 1)
    assert "IS NOT ON RECORD" in mother.words()
    states = states_of_runs(log.store)
    missing = sum(2 - len(states.get(run, [])) for run in flow.ended)
    assert missing > 0
    assert witness.counted(log.store, "store.dropped") == missing
    log.demand_verified()


def let_go() -> None:
    """A file system with open files is not made read-only, nor taken away."""
    close_stores()
    gc.collect()
