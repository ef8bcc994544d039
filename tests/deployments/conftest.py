"""A use case that trains in a second, as a spec and a CSV of its own, for flows on a worker; the containers' files."""

import random
import shlex
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

from deployments.where import CLONE

SPEC = """
name: visits
title: Visits that end in a sale
sources: {visits: {file: visits.csv}}
event_time: came
columns:
  - {name: came, dtype: datetime, role: time, nulls: 0, severity: critical}
  - {name: pages, dtype: integer, min: 0}
  - {name: minutes, dtype: float, min: 0}
  - {name: sold, dtype: boolean, role: target, known_at: outcome}
target: {column: sold, positive: true}
rows: {min: 50}
drift: {watch: [pages, minutes], share: 1.0, floor: 0.9, sample: 1000}
estimator: {kind: logistic_regression}
gates: {min_auc: 0.6}
schedule: {train_from: 2024-01-01, train_months: 3, until: 2024-05-01}
"""
FIRST, DAYS, A_DAY = datetime(2024, 1, 1), 150, 8


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """The spec's file. Whoever reads many pages buys."""
    drawn = random.Random(0)
    lines = ["came,pages,minutes,sold"]
    for hour in range(0, DAYS * 24, 24 // A_DAY):
        pages = drawn.randint(0, 20)
        sold = pages + drawn.gauss(0, 4) > 10
        lines.append(f"{FIRST + timedelta(hours=hour)},{pages},{drawn.uniform(0, 30):.1f},{str(sold).lower()}")
    (tmp_path / "visits.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "visits.yaml").write_text(SPEC)
    return tmp_path / "visits.yaml"


@pytest.fixture(scope="session")
def compose() -> dict:
    """compose.yaml, its `<<` merged."""
    return yaml.safe_load((CLONE / "deployments/containers/compose.yaml").read_text())


@pytest.fixture(scope="session")
def final_image() -> list[tuple[str, list[str]]]:
    """The Dockerfile's last stage: each instruction with its words."""
    text = (CLONE / "deployments/containers/Dockerfile").read_text().replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.rpartition("\nFROM ")[2].splitlines()[1:]]
    return [(line[0], line[1:]) for line in lines if line]


@pytest.fixture(scope="session")
def image_environment(final_image: list[tuple[str, list[str]]]) -> dict[str, str]:
    return dict(pair.split("=", 1) for name, pairs in final_image if name == "ENV" for pair in pairs)


@pytest.fixture
def image_folder(tmp_path: Path, final_image: list[tuple[str, list[str]]]) -> Path:
    """/app as the image has it, made of what the Dockerfile copies from the clone."""
    folder = tmp_path / "app"
    for name, words in final_image:
        if name == "COPY" and not words[0].startswith("--"):
            for source in words[:-1]:
                place = CLONE / source
                copied = folder / words[-1] / ("" if place.is_dir() else place.name)
                copied.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if place.is_dir() else shutil.copy2)(place, copied)
    return folder
