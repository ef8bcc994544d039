"""The soak itself, in small: what a million events are written by, works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_short_soak_loses_nothing(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = ["--events", "4000", "--stops", "2", "--json", str(figures)]

    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "soak.py", *words],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(figures.read_text())
    assert (told["held"], told["events"], told["stops"]) == (True, 4_002, 2)
    assert told["from_the_spool"] > 0
