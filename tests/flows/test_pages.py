"""What a run is called and what it links to in Prefect's UI."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audit.artifacts import blobs
from audit.settings import settings
from audit.store import read
from audit.store.engine import open_store
from flows.monitoring import monitoring
from flows.scoring import scoring
from flows.training import training
from tests.flows.conftest import UseCase

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Artifact


SERVED = "http://127.0.0.1:4201"


def test_runs_say_window_and_model_also_where_they_choose_them(home: Path, use_case: UseCase) -> None:
    from prefect.client.orchestration import get_client

    training(use_case.spec)
    scoring(use_case.spec)

    with get_client(sync_client=True) as client:
        shown = {str(run.id): (run.name, set(run.tags)) for run in client.read_flow_runs()}
    on_record = {run["id"]: run["name"] for run in read.flow_runs(open_store())}
    assert [on_record[run] for run in reversed(on_record)] == [
        "training loans 2024-01…2024-03",
        "scoring loans 2024-04 v1",
    ]
    for run, name in on_record.items():
        assert shown[run] == (name, set(name.split()[1:]))
    names = {row["name"] for run in on_record for row in read.task_runs(open_store(), run)}
    assert {"validate loans/ingested 2", "score loans 2024-04 v1"} <= names


@pytest.mark.slow
def test_pages_in_the_ui_link_to_the_reports_that_are_on_record(
    home: Path, use_case: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDIT_REPORTS_URL", SERVED)
    settings.cache_clear()
    training(use_case.spec)
    scoring(use_case.spec)
    monitoring(use_case.spec)

    linked = {a.key: set(re.findall(rf"{SERVED}/(\w+)", f"{a.description} {a.data}")) for a in left_behind()}
    for type, keys in {
        "dataset.validated": ("loans-validation",),
        "drift.checked": ("loans-drift", "loans-drift-summary"),
        "model.evaluated": ("loans-evaluation",),
        "task_run.completed": ("loans-card",),
    }.items():
        reports = {report["address"].removeprefix(blobs.SCHEME) for report in read.reports(open_store(), (type,))}
        assert all(linked[key] and linked[key] <= reports for key in keys), type


def test_a_card_says_the_finding_in_a_line(home: Path, use_case: UseCase) -> None:
    training(use_case.spec)
    scoring(use_case.spec)
    monitoring(use_case.spec)

    said = {artifact.key: str(artifact.description) for artifact in left_behind()}
    assert {
        "loans-ingested": "360 rows of 2024-04 from 1 source",
        "loans-read-outcomes": "360 rows of 2024-04 from 1 source",
        "loans-features": "360 rows, 3 features",
        "loans-promotion": "loans v1 is in production",
    }.items() <= said.items()
    for key, line in {
        "loans-split": r"\d+ rows to train on, \d+ to test on",
        "loans-training": r"Trained \w+ on \d+ rows with 3 features; changed since the last training: nothing",
        "loans-card": r"loans v1 is in production · AUC 0.\d+ \[0.\d+, 0.\d+\] · \d of \d gates held",
        "loans-evaluation": r"AUC 0.\d+ \[0.\d+, 0.\d+\] · \d of \d gates held",
        "loans-validation": r"\d+ of \d+ rules held on loans/ingested version 2, 0 of 360 rows set aside.*",
        "loans-decisions": r"360 decisions, \d+% positive, 0 failed",
        "loans-drift": r"(Drift|No drift) in 2024-04: \d of 3 watched columns drifted\. The rule: at least .*",
        "loans-drift-summary": r"(Drift|No drift) in 2024-04: \d of 3 watched columns drifted",
        "loans-performance": r"(Steady|Decayed) in 2024-04, v1\. The rule: decayed where .*",
    }.items():
        assert re.fullmatch(line, said[key]), (key, said[key])


def left_behind() -> "list[Artifact]":
    """What the runs on record left in the UI, the latest of a key last."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    runs = [run["id"] for run in read.flow_runs(open_store())]
    ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=runs))
    with get_client(sync_client=True) as client:
        return sorted(client.read_artifacts(artifact_filter=ours, limit=200), key=lambda artifact: artifact.created)
