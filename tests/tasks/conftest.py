"""A small use case for stages that learn: loans, with text, numbers, missing values and a real pattern."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from audit import record
from audit.events.event import uuid7
from audit.events.payloads import Named, ScoringFacts, used
from audit.events.references import DatasetVersion, ModelVersion, Window
from audit.spec.model import Spec, TargetKind
from tests.anchoring import authority, witness  # noqa: F401  # fixtures

LOANS = {
    "name": "loans",
    "title": "Loans that are repaid",
    "sources": {"loans": {"file": "loans.csv"}},
    "event_time": "applied",
    "entity_key": "applicant",
    "columns": [
        {"name": "applied", "dtype": "datetime", "role": "time"},
        {"name": "applicant", "dtype": "string", "role": "key", "pii": "quasi"},
        {"name": "purpose", "dtype": "string"},
        {"name": "region", "dtype": "string"},
        {"name": "income", "dtype": "float"},
        {"name": "debt", "dtype": "integer"},
        {"name": "employed", "dtype": "boolean"},
        {"name": "repaid", "dtype": "boolean", "role": "target", "known_at": "outcome"},
    ],
    "target": {"column": "repaid", "positive": True},
    "drift": {"watch": ["income"], "share": 0.5},
    "estimator": {"parameters": {"max_iter": 20}},
    "gates": {"min_auc": 0.6},
    "slices": ["region"],
    "schedule": {"train_from": "2024-01-01", "train_months": 1},
}


@pytest.fixture
def loan_spec() -> Spec:
    """The loans' spec: gradient boosting with 20 trees, one gate."""
    return Spec.model_validate(LOANS)


@pytest.fixture
def loans() -> pl.DataFrame:
    """600 loans as a features dataset has them: most are repaid where income is high and debt is low."""
    return loans_of(600, seed=0)


@pytest.fixture
def later_loans() -> pl.DataFrame:
    """400 others."""
    return loans_of(400, seed=1)


def loans_of(rows: int, seed: int) -> pl.DataFrame:
    """The same seed, the same loans."""
    drawn = np.random.default_rng(seed)
    income, debt = drawn.normal(50, 15, rows), drawn.integers(0, 60, rows)
    repaid = income - debt + drawn.normal(0, 20, rows) > 15
    first = datetime(2024, 1, 1)
    return pl.DataFrame(
        {
            "applied": [first + timedelta(hours=i) for i in range(rows)],
            "applicant": [f"{drawn.bytes(8).hex()}" for _ in range(rows)],
            "purpose": [("car", "house", "study", None)[i] for i in drawn.integers(0, 4, rows)],
            "region": drawn.choice(["north", "south"], rows),
            "income": np.where(drawn.random(rows) < 0.1, np.nan, income),
            "debt": debt,
            "employed": drawn.random(rows) < 0.7,
            "repaid": repaid,
        },
        nan_to_null=True,
    )


def record_decisions(
    spec: str,
    window: Window | None,
    *,
    rows: int = 1000,
    failed: int = 0,
    mean: float = 0.3,
    positive: int = 200,
    kind: TargetKind = "binary",
    decisions: dict[str, int] | None = None,
    scores: Mapping[str, float] | None = None,
) -> DatasetVersion:
    """Put decisions on a window on record, as scoring does; so many `positive`, or what `decisions` counts."""
    segment = DatasetVersion(
        name=f"{spec}/decisions", version=1, address=f"artifact://sha256/{uuid7()}", digest="sha256:0", rows=rows
    )
    counts = {"positive": positive, "negative": rows - failed - positive} if decisions is None else decisions
    facts = ScoringFacts(
        spec=spec,
        kind=kind,
        window=str(window) if window else None,
        model=used("model", ModelVersion(name=spec, version=1, address="artifact://sha256/m", digest="sha256:m")),
        segment=used("segment", segment),
        inputs=used("rows", segment),
        rows=rows,
        failed=failed,
        decisions=[Named(name=name, value=count) for name, count in counts.items()],
        mean_score=mean,
        scores=[Named(name=name, value=value) for name, value in (scores or {}).items()],
        threshold=0.5,
    )
    record("predictions.scored", facts, subject=f"segment/{segment.name}/1")
    return segment
