"""A use case that trains in a second, as a spec and a CSV of its own, for flows on a worker."""

import random
from datetime import datetime, timedelta
from pathlib import Path

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
"""
MONTHS = "schedule: {train_from: 2024-01-01, train_months: 3, until: 2024-05-01}\n"
FIRST, DAYS, A_DAY = datetime(2024, 1, 1), 150, 8


def write_visits(folder: Path) -> Path:
    """The spec's file. Whoever reads many pages buys."""
    drawn = random.Random(0)
    lines = ["came,pages,minutes,sold"]
    for hour in range(0, DAYS * 24, 24 // A_DAY):
        pages = drawn.randint(0, 20)
        sold = pages + drawn.gauss(0, 4) > 10
        lines.append(f"{FIRST + timedelta(hours=hour)},{pages},{drawn.uniform(0, 30):.1f},{str(sold).lower()}")
    (folder / "visits.csv").write_text("\n".join(lines) + "\n")
    (folder / "visits.yaml").write_text(SPEC + MONTHS)
    return folder / "visits.yaml"
