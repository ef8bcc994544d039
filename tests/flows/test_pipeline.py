"""From a CSV to decisions on record: what happened, why, and nothing about anybody that should not be there."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit import flow, task
from audit.artifacts import blobs
from audit.errors import BadData, DatasetRejected, NotFound, SpecError, UserError
from audit.events.references import Window
from audit.store import read
from audit.store.engine import open_store
from flows.monitoring import monitoring
from flows.pipeline import pipeline
from flows.scoring import scoring
from flows.training import training
from tests.flows.conftest import EMAIL, SPEC, TOKEN, UseCase, loans
from tests.written import everything_written

A_MONTH = 12 * 30  # rows
TYPO = yaml.safe_dump({("titel" if key == "title" else key): value for key, value in SPEC.items()}, sort_keys=False)


def facts(type: str) -> list[dict[str, Any]]:
    """Payloads of one type, oldest first."""
    return [event.payload for event in read.events(open_store(), types=(type,), newest_first=False)]


def ids(type: str) -> list[str]:
    return [event.id for event in read.events(open_store(), types=(type,), newest_first=False)]


@pytest.mark.slow
def test_quiet_months_keep_their_model(home: Path, use_case: UseCase) -> None:
    champion = pipeline(use_case.spec)

    assert champion.version == 1
    assert [f["window"] for f in facts("predictions.scored")] == ["2024-04", "2024-05"]
    assert [f["detected"] for f in facts("drift.checked")] == [False, False]
    assert facts("retraining.requested") == []


def test_drift_is_told_and_leads_to_a_new_model_for_that_reason(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]]
) -> None:
    use_case.write(loans(drifts_at=91), gates={"min_auc": 0.6, "min_gain": None})

    champion = pipeline(use_case.spec, date(2024, 4, 1))

    (cause,) = ids("drift.detected")
    assert champion.version == 2
    assert [f["cause"] for f in facts("retraining.requested") + facts("retraining.completed")] == [cause, cause]
    assert facts("model.deployed")[-1]["cause"] == cause
    assert [f["version"] for f in facts("model.retired")] == [1]
    assert "Drift in loans, April 2024" in receiver[0]["title"]
    assert facts("alert.sent")[0]["cause"] == cause


@pytest.mark.slow
def test_a_challenger_that_fails_its_gates_leaves_the_champion(home: Path, use_case: UseCase) -> None:
    first = training(use_case.spec)
    use_case.write(loans(), gates={"min_auc": 0.999})

    kept = training(use_case.spec)

    assert kept == first
    assert facts("model.rejected")[0]["version"] == 2


@pytest.mark.slow
def test_scoring_and_monitoring_take_the_next_month_until_there_is_nothing_new(home: Path, use_case: UseCase) -> None:
    training(use_case.spec)
    for _ in range(3):
        scoring(use_case.spec)
        monitoring(use_case.spec)

    states = [scoring(use_case.spec, return_state=True), monitoring(use_case.spec, return_state=True)]

    assert [f["window"] for f in facts("predictions.scored")] == ["2024-04", "2024-05", "2024-06"]
    assert [f["window"] for f in facts("drift.checked")] == ["2024-04", "2024-05", "2024-06"]
    assert [(state.name, state.message) for state in states] == [("Completed", "nothing new")] * 2


@pytest.mark.slow
def test_months_go_on_with_the_source_where_no_last_one_is_named(home: Path, use_case: UseCase) -> None:
    schedule = {"train_from": "2024-01-01", "train_months": 5}
    use_case.write(loans(), schedule=schedule)
    training(use_case.spec)
    scoring(use_case.spec)
    waiting = scoring(use_case.spec, return_state=True)
    assert (waiting.name, waiting.message) == ("Completed", "nothing new")
    with pytest.raises(BadData, match="July 2024 has no rows"):
        scoring(use_case.spec, Window.month(2024, 7))

    use_case.write([row for row in loans(days=230) if row["applied"].month != 7], schedule=schedule)
    scoring(use_case.spec)
    assert [f["window"] for f in facts("predictions.scored")] == ["2024-06", "2024-08"], "July was left out"


def test_a_critical_finding_stops_the_run_and_is_told(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]]
) -> None:
    rows = loans()
    rows[7]["debt"] = -1
    use_case.write(rows)

    with pytest.raises(DatasetRejected, match="debt"):
        training(use_case.spec)

    assert len(facts("dataset.rejected")) == 1
    assert facts("flow_run.failed")[0]["error"]["kind"].endswith("DatasetRejected")
    assert [f["kind"] for f in facts("alert.sent")] == ["rejected"]
    assert facts("model.trained") == []


def test_a_row_that_cannot_be_scored_is_on_record_and_stops_nobody(home: Path, use_case: UseCase) -> None:
    rows = loans()
    july = next(i for i, row in enumerate(rows) if str(row["applied"]).startswith("2024-04"))
    rows[july] |= {"income": "inf"}
    use_case.write(rows)
    training(use_case.spec)

    decisions = scoring(use_case.spec)

    assert facts("predictions.failed")[0]["failed"] == 1
    assert decisions.rows == A_MONTH  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("file", "text", "kind", "said"),
    [
        ("loans.yaml", TYPO, SpecError, r"loans\.yaml:\d+: .*Did you mean 'title'\?"),
        ("loans.csv", "", BadData, "empty"),
        ("loans.csv", "applied,income\n2024-01-01,1\n", UserError, "applicant"),
    ],
    ids=["typo", "empty file", "column missing"],
)
def test_what_a_person_can_mend_is_one_line_and_a_failed_run(
    home: Path, use_case: UseCase, file: str, text: str, kind: type[Exception], said: str
) -> None:
    (use_case.folder / file).write_text(text)

    with pytest.raises(kind, match=said) as failed:
        training(use_case.spec)

    assert "\n" not in str(failed.value)
    assert len(facts("flow_run.failed")) == 1
    assert not list(home.glob("artifacts/**/*.parquet"))


@pytest.mark.slow
def test_an_infinite_value_that_no_rule_forbids_stops_neither_monitoring_nor_retraining(
    home: Path, use_case: UseCase
) -> None:
    rows = loans(drifts_at=91)
    rows[91 * 12 + 5] |= {"income": "inf"}
    use_case.write(rows, gates={"min_auc": 0.6, "min_gain": None})

    champion = pipeline(use_case.spec, date(2024, 4, 1))

    assert champion.version == 2
    assert [f["failed"] for f in facts("predictions.failed")] == [1]
    assert facts("dataset.split")[-1]["transformations"] == ["1 rows with an infinite feature left out"]


def test_a_window_without_rows_names_those_that_have_some(home: Path, use_case: UseCase) -> None:
    with pytest.raises(BadData, match=r"August 2026 has no rows in loans.*2024-01-01 … 2024-06-30"):
        scoring(use_case.spec, Window.month(2026, 8))


def test_nothing_is_decided_before_there_is_a_model(home: Path, use_case: UseCase) -> None:
    with pytest.raises(NotFound, match="Run the training flow first"):
        scoring(use_case.spec)


@pytest.mark.slow
def test_a_changed_spec_is_on_record_with_what_it_was(home: Path, use_case: UseCase) -> None:
    training(use_case.spec)
    training(use_case.spec)
    before = [f for f in facts("pipeline.changed") if f["what"] == "spec"]
    use_case.write(loans(), threshold=0.7)

    training(use_case.spec)

    after = [f for f in facts("pipeline.changed") if f["what"] == "spec"]
    assert (len(before), len(after)) == (1, 2)
    assert after[1]["differences"] == [{"name": "threshold", "value": "None → 0.7"}]
    assert after[1]["was"] == before[0]["is_now"]


def test_the_same_rows_and_spec_make_the_same_datasets_and_the_same_model(home: Path, use_case: UseCase) -> None:
    first, second = training(use_case.spec), training(use_case.spec)

    assert first.digest == second.digest
    assert len({f["digest"] for f in facts("dataset.ingested")}) == 1
    assert {f["version"] for f in facts("dataset.ingested")} == {1}


def test_every_row_of_task_run_tells_its_inputs_and_outputs(home: Path, use_case: UseCase) -> None:
    training(use_case.spec)

    rows = {row["task"]: row for run in read.flow_runs(open_store()) for row in read.task_runs(open_store(), run["id"])}

    made = [json.loads(rows[stage]["outputs"])[0]["of"] for stage in ("ingest", "validate", "build_features")]
    read_by = [json.loads(rows[stage]["inputs"])[0]["of"] for stage in ("validate", "build_features", "split")]
    assert made == read_by == ["loans/ingested", "loans/validated", "loans/features"]
    assert json.loads(rows["train_model"]["inputs"])[0]["of"] == "loans/train"
    assert all(row["state"] == "completed" and row["duration_seconds"] is not None for row in rows.values())


def test_personal_columns_and_secrets_are_in_nothing_that_we_write(home: Path, use_case: UseCase) -> None:
    training(use_case.spec)
    with pytest.raises(NotFound):
        training(use_case.spec, cause=f"told by {EMAIL} with {TOKEN}")
    rows = loans()
    rows[3]["debt"] = -1  # so that a rejected dataset, a message and an exception are written too
    use_case.write(rows)
    with pytest.raises(DatasetRejected):
        training(use_case.spec)
    with pytest.raises(ValueError, match="told by"):
        a_users_flow(EMAIL, {"password": "hunter2", "of": [TOKEN]})

    written = everything_written(home)

    assert "loans/rejected" in written
    assert EMAIL not in written
    assert TOKEN not in written
    assert "hunter2" not in written
    assert "a_users_task" in written
    assert "person-" not in written  # the entity key stands as its keyed hash


@task
def a_users_task(who: str, how: dict[str, object]) -> None:
    raise ValueError(f"told by {who} with {how}")


@flow
def a_users_flow(who: str, how: dict[str, object]) -> None:
    a_users_task(who, how)


def test_every_artifact_that_an_event_names_is_there(home: Path, use_case: UseCase) -> None:
    training(use_case.spec)

    bodies = [json.dumps(event.payload) for event in read.events(open_store())]
    addresses = {word for body in bodies for word in body.split('"') if word.startswith("artifact://")}

    assert len(addresses) > 5
    assert all(blobs.get(address) for address in addresses)


def test_stages_leave_pages_tables_and_progress_in_the_ui(home: Path, use_case: UseCase) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    pipeline(use_case.spec, date(2024, 4, 1))

    with get_client(sync_client=True) as client:
        ours = ArtifactFilter(key=ArtifactFilterKey(like_="loans-"))
        left = {(artifact.key, artifact.type) for artifact in client.read_artifacts(artifact_filter=ours, limit=200)}
    assert {
        ("loans-ingested", "markdown"),
        ("loans-validation", "table"),
        ("loans-drift", "table"),
        ("loans-drift-summary", "markdown"),
        ("loans-months", "progress"),
        ("loans-evaluation", "markdown"),
        ("loans-decisions", "markdown"),
    } <= left
