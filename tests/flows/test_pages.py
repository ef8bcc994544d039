"""What a run is called and what it links to in Prefect's UI."""

import re
from pathlib import Path

import pytest

from audit.artifacts import blobs
from audit.settings import settings
from audit.store import read
from audit.store.engine import open_store
from flows.monitoring import monitoring
from flows.scoring import scoring
from flows.training import training
from tests.flows.conftest import UseCase

pytestmark = pytest.mark.xdist_group("prefect")

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


def test_pages_in_the_ui_link_to_the_reports_that_are_on_record(
    home: Path, use_case: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    monkeypatch.setenv("AUDIT_REPORTS_URL", SERVED)
    settings.cache_clear()
    training(use_case.spec)
    scoring(use_case.spec)
    monitoring(use_case.spec)

    with get_client(sync_client=True) as client:
        ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[r["id"] for r in read.flow_runs(open_store())]))
        left = {a.key: f"{a.description} {a.data}" for a in client.read_artifacts(artifact_filter=ours, limit=200)}
    linked = {key: set(re.findall(rf"{SERVED}/(\w+)", text)) for key, text in left.items()}
    for type, keys in {
        "dataset.validated": ("loans-validation", "loans-data-docs"),
        "model.evaluated": ("loans-evaluation-page",),
        "drift.checked": ("loans-drift-summary", "loans-drift-report"),
    }.items():
        reports = {report["address"].removeprefix(blobs.SCHEME) for report in read.reports(open_store(), (type,))}
        assert all(linked[key] and linked[key] <= reports for key in keys), type
