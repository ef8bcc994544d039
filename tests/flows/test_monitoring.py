"""Is the model still good: outcomes that come in later, decay as a reason to retrain, word of it in time."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from audit.events.references import Window
from audit.store import read
from audit.store.engine import open_store
from flows.monitoring import Monitored, monitoring
from flows.pipeline import pipeline
from flows.scoring import scoring
from flows.training import training
from tests.flows.conftest import UseCase, loans, turned
from tests.tasks.conftest import record_decisions

APRIL, MAY = 91 * 12, 121 * 12  # their first rows
NO_GATES = {"min_auc": None, "min_gain": None}


def events(*types: str) -> list[read.Recorded]:
    return list(read.events(open_store(), types=types, newest_first=False))


def facts(type: str) -> list[dict[str, Any]]:
    return [event.payload for event in events(type)]


def unknown_from_april() -> list[dict[str, object]]:
    rows = loans()
    for row in rows[APRIL:]:
        row["repaid"] = ""
    return rows


@pytest.mark.slow
def test_decay_is_told_and_leads_to_a_new_model_for_that_reason(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]]
) -> None:
    use_case.write(turned(loans()), gates=NO_GATES)

    champion = pipeline(use_case.spec, date(2024, 4, 1))

    (decayed,) = events("performance.decayed")
    (requested,) = facts("retraining.requested")
    assert events("drift.detected") == []
    assert champion.version == 2
    assert requested["cause"] == facts("model.deployed")[-1]["cause"] == decayed.id
    assert re.fullmatch(r"AUC fell from 0\.8\d\d to 0\.1\d\d in 2024-04", requested["reason"])
    assert "has decayed in 2024-04" in receiver[0]["title"]
    assert facts("alert.sent")[0]["cause"] == decayed.id


def test_drift_is_told_before_anything_else_is_looked_at_and_comes_first_as_a_reason(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]]
) -> None:
    use_case.write(turned(loans(drifts_at=91)), gates=NO_GATES)

    pipeline(use_case.spec, date(2024, 4, 1))

    told = ("drift.detected", "alert.sent", "performance.checked", "performance.decayed")
    assert [event.type for event in events(*told)][:3] == ["drift.detected", "alert.sent", "performance.checked"]
    (requested,) = facts("retraining.requested")
    assert requested["cause"] == events("drift.detected")[0].id
    assert requested["reason"] == "drift detected in 2024-04: 3 of 3 watched columns"


@pytest.mark.slow
def test_that_a_model_does_well_again_is_told_where_its_decay_was(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]]
) -> None:
    spec = use_case.write(loans()).spec
    training(spec)
    scoring(spec)
    use_case.write(turned(loans()))
    monitoring(spec)
    use_case.write(loans())
    scoring(spec)

    monitoring(spec)

    assert [f["verdict"] for f in facts("performance.checked")] == ["decayed", "steady"]
    assert [told["title"].partition(":")[0] for told in receiver] == [
        "⚠ v1 of loans has decayed in 2024-04",
        "✓ Recovered in loans",
    ]
    assert facts("alert.sent")[1]["of"] == "decay"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "found", "over"),
    [(0.5, "⚠ Drift in loans, April 2024: 2 of 3 ", "drift"), (1.0, "⚠ Scores drift in loans, ", "prediction drift")],
)
def test_that_drift_is_over_is_told_in_the_month_in_which_it_is(
    share: float, found: str, over: str, home: Path, use_case: UseCase, receiver: list[dict[str, Any]]
) -> None:
    rows = loans()
    for row, rich in zip(rows[APRIL:MAY], loans(drifts_at=91)[APRIL:MAY], strict=True):
        row["income"] = rich["income"]
    watched = {"watch": ["income", "debt", "score"], "share": share, "floor": 0.2, "sample": 1000}
    spec = use_case.write(rows, drift=watched).spec
    training(spec)
    for _ in ("April", "May"):
        scoring(spec)
        monitoring(spec)

    assert [f.get("of") for f in facts("alert.sent")] == [None, over.replace(" ", "_")]
    assert receiver[0]["title"].startswith(found)
    assert receiver[1]["title"] == f"✓ Recovered in loans: {over} 2024-05"


def test_unusual_figures_are_told_and_that_it_is_over_but_not_where_nothing_was_compared(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_case.write(loans(), performance={"delay_days": 36_500})  # no outcomes: that is another matter
    training(use_case.spec)
    scoring(use_case.spec)
    (april,) = facts("predictions.scored")
    positive = april["decisions"][0]["value"] / april["rows"]

    def earlier(year: int, rows: int) -> None:
        for month in range(1, 9):
            as_now = {"mean": april["mean_score"], "positive": round(rows * positive)}
            record_decisions("loans", Window.month(year, month), rows=rows, **as_now)

    earlier(2022, rows=5_000)
    scoring(use_case.spec, Window.month(2024, 4))
    monitoring(use_case.spec, Window.month(2024, 4))
    assert [told["title"] for told in receiver] == ["⚠ Unusual figures in loans, 2024-04: rows 360"]
    assert "rows 360, usually 5,000 (2,500 to 7,500, by 8 earlier windows)" in receiver[0]["message"]
    assert "Look whether the source is whole" in receiver[0]["message"]

    earlier(2023, rows=360)
    scoring(use_case.spec, Window.month(2024, 5))
    with monkeypatch.context() as young:
        young.setattr("tasks.anomalies.ENOUGH", 100)
        monitoring(use_case.spec, Window.month(2024, 5))
    assert len(receiver) == 1

    earlier(2021, rows=360)
    scoring(use_case.spec, Window.month(2024, 5))
    monitoring(use_case.spec, Window.month(2024, 5))
    assert [told["title"] for told in receiver][1:] == ["✓ Recovered in loans: anomaly 2024-05"]


def test_outcomes_that_come_in_later_are_joined_to_the_decisions_of_then(home: Path, use_case: UseCase) -> None:
    use_case.write(unknown_from_april())
    training(use_case.spec)
    scoring(use_case.spec)
    early = monitoring(use_case.spec)
    again = monitoring(use_case.spec)
    use_case.write(loans())

    late = monitoring(use_case.spec)
    nothing = monitoring(use_case.spec, return_state=True)

    assert [each.performance[0].verdict for each in (early, again, late)] == ["not known yet"] * 2 + ["steady"]  # type: ignore[union-attr]
    assert isinstance(late, Monitored) and late.drift is None
    assert [f["known"] for f in facts("performance.checked")] == [0, 12 * 30]
    assert facts("performance.checked")[1]["decisions"]["digest"] == facts("predictions.scored")[0]["segment"]["digest"]
    assert nothing.message == "nothing new"


@pytest.mark.slow
def test_outcomes_are_not_looked_for_before_they_are_due(home: Path, use_case: UseCase) -> None:
    days = (date.today() - date(2024, 5, 1)).days
    use_case.write(loans(), performance={"delay_days": days + 30})
    training(use_case.spec)
    scoring(use_case.spec)

    found = monitoring(use_case.spec)

    assert isinstance(found, Monitored) and found.drift and found.performance == ()


@pytest.mark.slow
def test_a_window_that_the_source_forgot_stops_neither_drift_nor_another_window(home: Path, use_case: UseCase) -> None:
    training(use_case.spec)
    scoring(use_case.spec)
    scoring(use_case.spec)
    may = 12 * (31 + 29 + 31 + 30)
    use_case.write(loans()[may:])

    found = monitoring(use_case.spec, Window.month(2024, 4))

    assert isinstance(found, Monitored) and found.drift
    assert [str(each.window) for each in found.performance] == ["2024-05"]
    assert [f["of"] for f in facts("task_run.failed")] == ["read_outcomes"]


@pytest.mark.slow
def test_all_months_stand_in_one_table_in_the_ui(home: Path, use_case: UseCase) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    pipeline(use_case.spec)

    with get_client(sync_client=True) as client:
        ours = ArtifactFilter(key=ArtifactFilterKey(any_=["loans-performance"]))
        latest = client.read_artifacts(artifact_filter=ours, sort=ArtifactSort.UPDATED_DESC, limit=1)[0]
    assert isinstance(latest.data, str)
    assert all(f'"month": "{month}"' in latest.data for month in ("2024-04", "2024-05"))
    assert '"verdict": "steady"' in latest.data
