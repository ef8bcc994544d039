"""A use case about people, small enough to run whole: months of loans, with an e-mail address and a token in it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from audit.events.payloads import Gate, Metric
from audit.events.references import DatasetVersion, ModelVersion, Report
from audit.recording import recorder
from audit.settings import settings
from flows._told import Story
from tasks._frames import Evaluation
from tests.receivers import webhook

EMAIL = "ann.planted@example.org"
TOKEN = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
FIRST = datetime(2024, 1, 1)
A_DAY = 12

SPEC = {
    "name": "loans",
    "title": "Loans that are repaid",
    "sources": {"loans": {"file": "loans.csv"}},
    "event_time": "applied",
    "entity_key": "applicant",
    "columns": [
        {"name": "applied", "dtype": "datetime", "role": "time", "nulls": 0, "severity": "critical"},
        {"name": "applicant", "dtype": "string", "role": "key", "pii": "quasi"},
        {"name": "email", "dtype": "string", "role": "info", "pii": "direct"},
        {"name": "region", "dtype": "string", "values": ["north", "south"]},
        {"name": "income", "dtype": "float", "min": 0},
        {"name": "debt", "dtype": "integer", "min": 0, "severity": "critical"},
        {"name": "repaid", "dtype": "boolean", "role": "target", "known_at": "outcome"},
    ],
    "target": {"column": "repaid", "positive": True},
    "rows": {"min": 100},
    "drift": {"watch": ["income", "debt", "score"], "share": 0.5, "floor": 0.2, "sample": 1000},
    "estimator": {"kind": "logistic_regression"},
    "gates": {"min_auc": 0.6, "min_gain": -0.1},
    "slices": ["region"],
    "schedule": {"train_from": "2024-01-01", "train_months": 3, "until": "2024-06-01"},
}


@dataclass
class UseCase:
    """A spec and its CSV in one folder; both can be changed before a run."""

    folder: Path

    @property
    def spec(self) -> str:
        return str(self.folder / "loans.yaml")

    def write(self, rows: list[dict[str, object]], **changes: object) -> "UseCase":
        names = list(rows[0])
        lines = [",".join(str(row[name]) for name in names) for row in rows]
        (self.folder / "loans.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
        (self.folder / "loans.yaml").write_text(yaml.safe_dump({**SPEC, **changes}, sort_keys=False))
        return self


def loans(days: int = 182, drifts_at: int | None = None) -> list[dict[str, object]]:
    """`A_DAY` loans a day; from day `drifts_at` on, people earn and owe three times as much."""
    drawn = random.Random(0)
    rows: list[dict[str, object]] = []
    for hour in range(0, days * 24, 24 // A_DAY):
        times = 3 if drifts_at is not None and hour >= drifts_at * 24 else 1
        income, debt = drawn.gauss(60, 10) * times, drawn.randint(0, 60) * times
        rows.append(
            {
                "applied": FIRST + timedelta(hours=hour),
                "applicant": f"person-{drawn.randint(1, 400)}",
                "email": EMAIL,
                "region": drawn.choice(["north", "south"]),
                "income": f"{max(income, 0):.2f}",
                "debt": debt,
                "repaid": str(income / times - debt / times + drawn.gauss(0, 15) > 25).lower(),
                "note": TOKEN,  # nobody declared this column
            }
        )
    return rows


def turned(rows: list[dict[str, object]], day: int = 91) -> list[dict[str, object]]:
    """From that day on those repay who did not before: rows that look as ever, of which the model is wrong."""
    for row in rows[day * A_DAY :]:
        row["repaid"] = "false" if row["repaid"] == "true" else "true"
    return rows


def an_evaluation(champion: ModelVersion | None = None, letter: str = "a") -> Evaluation:
    """A model of loans whose gates held, as `evaluate` would have it."""
    model = ModelVersion(name="loans", address=f"artifact://sha256/{letter * 64}", digest=f"sha256:{letter * 64}")
    return Evaluation(
        model=model,
        tested_on=DatasetVersion(name="loans/test", version=1, rows=400, address="artifact://t", digest="sha256:t"),
        champion=champion,
        held=True,
        metrics=(Metric(name="auc", value=0.71, low=0.69, high=0.73),),
        difference=(Metric(name="auc", value=0.011, low=0.004, high=0.018),) if champion else (),
        gates=(Gate(name="auc", limit=">= 0.6", value=0.71, held=True),),
        report=Report(name="loans/evaluation", address=f"artifact://sha256/{'e' * 64}", digest="sha256:r"),
        event="event-1",
    )


@pytest.fixture
def use_case(tmp_path: Path, prefect_server: None) -> UseCase:
    """Six quiet months."""
    (tmp_path / "case").mkdir()
    return UseCase(tmp_path / "case").write(loans())


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What arrived at AUDIT_ALERT_URL."""
    with webhook() as receiver:
        monkeypatch.setenv("AUDIT_ALERT_URL", receiver.url())
        settings.cache_clear()
        yield receiver.received


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What the terminal says of the runs of this test, and of no later one."""
    monkeypatch.setattr(recorder, "_listeners", [])
    recorder.listen(Story(Console(file=(said := StringIO()), width=200)).hear)
    return said
