"""`python -m flows.pipeline` as people run it: in a process of its own, its output in a pipe, its HOME empty."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from audit.store import read
from audit.store.engine import open_store
from tests.flows.conftest import UseCase, loans

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path: Path, home: Path) -> "Command":
    (tmp_path / "prefect").mkdir()
    (tmp_path / "home").mkdir()
    return Command(tmp_path, home)


class Command:
    """The command in an environment that is all its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.user_home = folder / "home"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.user_home),
            "AUDIT_HOME": str(home),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        }

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flows.pipeline", *words],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.mark.slow
def test_a_run_is_told_line_by_line_and_leaves_nothing_in_the_home(command: Command, use_case: UseCase) -> None:
    use_case.write(loans(drifts_at=91), gates={"min_auc": 0.6, "min_gain": None})

    told = command.run(use_case.spec, "--until", "4")

    assert (told.returncode, told.stderr) == (0, "")
    assert "\x1b" not in told.stdout
    stages = re.findall(r"^[✓!] (\w+)", told.stdout, re.MULTILINE)
    first = ["ingest", "validate", "features", "train", "evaluate", "promote"]
    decided = ["ingest", "validate", "features", "score", "drift", "alert", "performance"]
    assert stages == [*first, *decided, *first]
    assert re.search(r"performance +2024-04 · AUC 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] against 0\.\d{3}", told.stdout)
    assert "v2 is champion in production, because event" in told.stdout
    runs, on_record = map(int, re.search(r"(\d+) task runs · (\d+) on record", told.stdout).groups())  # type: ignore[union-attr]
    assert runs == on_record == read.counts(open_store()).task_runs
    assert list(command.user_home.iterdir()) == []


def test_a_mistake_is_one_line_and_exit_code_1(command: Command, use_case: UseCase) -> None:
    told = command.run(use_case.spec, "--until", "13")

    assert (told.returncode, told.stderr) == (1, "")
    assert told.stdout.splitlines()[-1] == "✗ --until 13 is no month. Write 2013-12, or 12 for December."


def test_a_store_that_cannot_be_opened_is_refused_with_exit_code_2(
    command: Command, use_case: UseCase, home: Path
) -> None:
    home.mkdir()
    (home / "audit.db").write_bytes(b"somebody else's bytes, long enough for a header of a database" * 10)

    told = command.run(use_case.spec)

    assert told.returncode == 2
    assert len(told.stdout.splitlines()) == 1
    assert "audit.db cannot be used" in told.stdout
