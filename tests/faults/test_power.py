"""The machine's power fails. Whatever its disk then holds of what was not synced: the log opens, and lacks nothing that
was acknowledged."""

import os
import random
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from audit.answers.verify import verify
from audit.store.engine import opened
from tests.faults import witness
from tests.faults.conftest import Log, wait_until
from tests.faults.disk import Disk, calls, watched
from tests.faults.processes import Mother, ended_at_last

WHOLE = 25  # every so many of the disks are verified from the first event to the last; all are opened and read


@pytest.mark.parametrize("nothing", ["sqlite"], indirect=True)
@pytest.mark.parametrize("runs", [30, pytest.param(120, marks=pytest.mark.slow)])
def test_what_was_acknowledged_is_on_every_disk_that_a_power_cut_can_leave(
    log: Log, mother: Mother, chance: random.Random, tmp_path: Path, runs: int
) -> None:
    demand_strace()
    mother.run("start_up", witness=log.witness())  # so that there is something sealed
    database, told = log.home / "audit.db", Path(log.witness())
    log.store.engine.dispose()
    before = {str(path): path.read_bytes() for path in log.home.glob("audit.db*") if path.suffix != ".db-shm"}
    child = mother.start("stand_still_then_write_and_seal", witness=str(told), runs=runs)
    with ended_at_last(child):
        wait_until(lambda: state(child.pid) == "T", "the writer stands still")
        tracer = watched(child.pid, [database, Path(f"{database}-wal"), told], tmp_path / "trace")
        os.kill(child.pid, signal.SIGCONT)
        assert child.ended() == 0, mother.words()
        tracer.wait()

    disk, acknowledged, disks = Disk(before), 0, 0
    lines = told.read_text().splitlines()
    for call in calls(tmp_path / "trace"):
        if call.path == str(told):
            acknowledged += 1
            continue
        if call.name in ("fdatasync", "fsync"):  # until now nothing new was certain
            for survived in ([], disk.pending, disk.chance(chance)):
                disks += 1
                home = tmp_path / "disk"
                lay_out(home, disk.image(survived))
                demand_on_disk(home / "audit.db", lines[:acknowledged], whole=disks % WHOLE == 0)
        disk.apply(call)
    lay_out(tmp_path / "last", disk.image([]))
    demand_on_disk(tmp_path / "last" / "audit.db", lines, whole=True)
    assert acknowledged == len(lines) == 2 * runs
    assert disks > 6 * runs  # for each commit was synced


def demand_strace() -> None:
    """The test is skipped where there is none, unless it must not be."""
    if shutil.which("strace") is None:
        assert os.environ.get("PREFECT_AUDIT_STRACE") != "required", "strace is missing"
        pytest.skip("strace shows what reached the disk")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def lay_out(home: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for path, content in files.items():
        (home / Path(path).name).write_bytes(content)


def demand_on_disk(database: Path, acknowledged: list[str], *, whole: bool) -> None:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT id, envelope, salt, body FROM event JOIN payload ON event_seq = seq")
        there = {id: witness.digest(*given) for id, *given in rows}
    told = dict(line.split() for line in acknowledged)
    assert told.items() <= there.items(), f"{len(told.items() - there.items())} acknowledged events are gone"
    if whole:
        store = opened(database)
        said = verify(store)
        assert said.answer == "held", f"{said.faults} {said.unknown}"
        store.engine.dispose()
