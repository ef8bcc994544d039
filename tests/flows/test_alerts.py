"""What our flows tell people of, each kind once, and how soon; the runs come to what they would have come to."""

import importlib
import multiprocessing
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from audit.errors import DatasetRejected
from audit.events.references import Window
from audit.spec.load import load_spec
from audit.store import read
from audit.store.engine import open_store
from audit.store.read import Recorded
from flows.monitoring import monitoring
from flows.scoring import scoring
from flows.training import training
from tests.flows.conftest import UseCase, loans

Received = list[dict[str, Any]]


@pytest.mark.slow
def test_a_life_is_told_kind_by_kind_and_that_it_is_well_again(
    home: Path, use_case: UseCase, receiver: Received
) -> None:
    with pytest.raises(DatasetRejected):
        training(use_case.write(broken(loans())).spec)
    first = training(use_case.write(loans()).spec)
    kept = training(use_case.write(loans(), gates={"min_auc": 0.999}).spec)
    training(use_case.write(loans()).spec)
    scoring(use_case.write(infinite(loans(), 5)).spec, Window.month(2024, 4))
    scoring(use_case.write(infinite(loans(), 1)).spec, Window.month(2024, 5))

    assert kept == first
    assert [(e.type, kind(e)) for e in told() if e.type != "alert.raised"] == [
        ("alert.sent", "rejected"),
        ("alert.sent", "recovered rejected"),
        ("alert.sent", "gate"),
        ("alert.sent", "recovered gate"),
        ("alert.sent", "scoring"),
        ("alert.sent", "recovered scoring"),
    ]
    assert [message["title"] for message in receiver][1:5] == [
        "✓ Recovered in loans: rejected training",
        "⚠ v2 of loans was not promoted: 1 gate failed",
        "✓ Recovered in loans: gate 2024-01…2024-03",
        "✗ 5 of 360 rows of loans, April 2024 could not be scored (1.4%)",
    ]


class Killed(BaseException):
    """What ends a process, and no run."""


@pytest.mark.parametrize("name", ["training", "scoring", "monitoring", "pipeline", "maintenance"])
def test_a_run_that_crashes_tells_of_itself(
    home: Path, use_case: UseCase, receiver: Received, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    module = importlib.import_module(f"flows.{name}")
    monkeypatch.setattr(module, "load_spec" if name == "maintenance" else "begin", killed)

    with pytest.raises(Killed):
        getattr(module, name)(use_case.spec)

    (message,) = receiver
    assert message["title"].startswith(f"✗ Failed in loans: {name} loans")
    assert [e.payload["about"] for e in told() if e.type == "alert.sent"] == [name]


@pytest.mark.slow
def test_the_message_arrives_within_five_seconds_of_the_finding_on_a_busy_machine(
    home: Path, use_case: UseCase, receiver: Received
) -> None:
    spec = use_case.write(loans(drifts_at=91)).spec
    training(spec)
    scoring(spec)
    busy = [multiprocessing.get_context("fork").Process(target=spin, daemon=True) for _ in range(2)]
    for each in busy:
        each.start()
    try:
        monitoring(spec)
    finally:
        for each in busy:
            each.kill()

    (found,) = read.events(open_store(), types=("drift.detected",), spec=load_spec(spec).name)
    sent = next(e for e in told() if e.type == "alert.sent")
    assert (moment(sent) - moment(found)).total_seconds() < 5, (moment(sent), moment(found))


def spin() -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        pass


def moment(event: Recorded) -> datetime:
    return datetime.fromisoformat(event.time)


def told() -> list[Recorded]:
    return list(read.events(open_store(), types=("alert.*",), newest_first=False))


def kind(event: Recorded) -> str:
    return " ".join(filter(None, (event.payload["kind"], event.payload.get("of"))))


def broken(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    rows[7]["debt"] = -1
    return rows


def infinite(rows: list[dict[str, object]], count: int) -> list[dict[str, object]]:
    """`count` rows a month from April on that no model can score."""
    for month in ("2024-04", "2024-05"):
        first = next(i for i, row in enumerate(rows) if str(row["applied"]).startswith(month))
        for row in rows[first : first + count]:
            row["income"] = "inf"
    return rows
