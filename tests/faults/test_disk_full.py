"""A disk that fills up during a run: the run ends as it would have, and what was lost is said, then recorded."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit import flow, task
from audit.recording import recorder
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store import read
from audit.store.engine import close_stores, open_store

RUNS = 20


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An AUDIT_HOME with one MiB of room, on a file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    monkeypatch.setenv("AUDIT_HOME", str(disk))
    settings.cache_clear()
    yield disk
    settings.cache_clear()
    close_stores()
    subprocess.run(["umount", "--lazy", disk], check=True)


@task
def doubled(x: int) -> int:
    return 2 * x


@flow
def many(n: int) -> int:
    return sum(doubled(x) for x in range(n))


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


@pytest.mark.slow
def test_a_full_disk_changes_no_result_and_is_told(
    prefect_server: None, small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0)
    initialise()
    ballast = fill(small_disk)

    assert many(RUNS) == RUNS * (RUNS - 1)
    assert "IS NOT ON RECORD" in caplog.text

    ballast.unlink()
    assert many(1) == 0
    (dropped,) = read.events(open_store(), types=("store.dropped",))
    assert dropped.severity == "critical"
    assert dropped.payload["count"] >= 2 * RUNS
    assert read.counts(open_store()).task_runs >= 1
