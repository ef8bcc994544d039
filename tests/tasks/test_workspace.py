"""Evidently's workspace: a run a month, whole or not at all, and never a reason for a check to fail."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from audit.artifacts import datasets, reports
from audit.events.payloads import DriftFacts
from audit.events.references import DatasetVersion, Window
from audit.settings import settings
from audit.spec.model import Drift, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _workspace as workspace
from tasks.drift import check_drift, compare

if TYPE_CHECKING:
    from evidently.ui.workspace import Workspace

JULY, AUGUST = Window.month(2024, 7), Window.month(2024, 8)


@pytest.fixture
def spec(loan_spec: Spec) -> Spec:
    return loan_spec.model_copy(update={"drift": Drift(watch=("income", "debt"), share=0.5)})


@pytest.fixture
def known(loans: pl.DataFrame) -> DatasetVersion:
    return datasets.put(loans, "loans/train")


@pytest.fixture
def later(later_loans: pl.DataFrame) -> DatasetVersion:
    return datasets.put(later_loans, "loans/features")


def opened() -> "Workspace":
    from evidently.ui.workspace import Workspace

    return Workspace.create(str(settings().evidently_path))


def runs() -> list[tuple[str | None, datetime]]:
    """Name and time of each run of the one project."""
    (project,) = opened().list_projects()
    found = [opened().get_run(project.id, run) for run in opened().list_runs(project.id)]
    return sorted((run.name, run.timestamp) for run in found if run)


def drawn() -> list[list[tuple[str | None, list[float | None]]]]:
    """Each panel's lines, month by month, as Evidently's own server gives them to its dashboard."""
    from evidently.ui.service.base import SeriesFilter
    from evidently.ui.service.storage.local.base import InMemoryDataStorage

    (project,) = opened().list_projects()
    served = InMemoryDataStorage(str(settings().evidently_path))
    panels = []
    for panel in project.dashboard.model().panels:
        wanted = [
            SeriesFilter(tags=v.tags, metadata=v.metadata, metric=v.metric, metric_labels=v.metric_labels)
            for v in panel.values
        ]
        found = asyncio.run(served.get_data_series(project.id, wanted, None, None)).series
        lines = [(panel.values[line.filter_index].legend, line.values) for line in found]
        panels.append(sorted(lines, key=lambda line: str(line[0])))
    return panels


@pytest.mark.slow
def test_two_months_stand_side_by_side_and_a_repeated_check_replaces_itself(
    home: Path, spec: Spec, known: DatasetVersion, later: DatasetVersion
) -> None:
    for window in (JULY, AUGUST, JULY):
        check_drift.fn(known, later, spec, None, window)

    assert runs() == [("loans 2024-07", datetime(2024, 7, 1)), ("loans 2024-08", datetime(2024, 8, 1))]
    (project,) = opened().list_projects()
    share, distances = project.dashboard.model().panels
    assert (project.name, share.values[0].metric_labels) == ("loans", {"value_type": "share"})
    assert [panel.metric_labels for panel in distances.values] == [{"column": "debt"}, {"column": "income"}]
    assert [entry.name for entry in home.iterdir() if entry.name.startswith("evidently")] == ["evidently"]


def test_a_column_is_one_line_over_the_months_also_where_a_new_model_brings_new_thresholds(
    home: Path, spec: Spec, known: DatasetVersion, later: DatasetVersion
) -> None:
    check_drift.fn(known, later, spec, None, JULY)
    stricter = Drift(watch=("income", "debt"), floor=0.01, share=0.1)
    check_drift.fn(known, later, spec.model_copy(update={"drift": stricter}), None, AUGUST)

    share, distances = drawn()
    assert [(legend, len(months)) for legend, months in share] == [("share", 2)]
    assert [(legend, len(months)) for legend, months in distances] == [("debt", 2), ("income", 2)]
    assert all(None not in months for _, months in share + distances)


def test_many_at_once_make_one_project_and_no_reader_meets_half_a_run(
    home: Path, spec: Spec, known: DatasetVersion, later: DatasetVersion, loans: pl.DataFrame
) -> None:
    check_drift.fn(known, later, spec, None, JULY)
    facts = DriftFacts.model_validate(next(read.events(open_store(), types=("drift.checked",))).payload)
    other = spec.model_copy(update={"name": "others"})
    snapshot = compare(loans, loans, other).snapshot
    months = [str(Window.month(2025, month)) for month in range(1, 13)]

    def add(month: str) -> None:
        workspace.add(snapshot, facts.model_copy(update={"spec": "others", "window": month}), other)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(add, month) for month in months] + [pool.submit(opened) for _ in range(12)]:
            done.result()

    (project,) = opened().search_project("others")
    assert len(opened().list_runs(project.id)) == len(months)


def test_a_workspace_that_cannot_be_written_costs_a_warning_and_no_check(
    home: Path, spec: Spec, known: DatasetVersion, later: DatasetVersion, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "evidently").write_text("a file is in the way")

    verdict = check_drift.fn(known, later, spec, None, JULY)

    assert reports.read(verdict.report)
    assert [record.levelname for record in caplog.records if record.name == "audit"] == ["WARNING"]
    assert [event.type for event in read.events(open_store(), types=("drift.checked",))] == ["drift.checked"]


def test_a_link_leads_to_the_months_once_they_are_shown(
    home: Path, spec: Spec, known: DatasetVersion, later: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_drift.fn(known, later, spec, None, JULY)
    facts = DriftFacts.model_validate(next(read.events(open_store(), types=("drift.checked",))).payload)
    assert workspace.link(facts) is None

    monkeypatch.setenv("AUDIT_EVIDENTLY_URL", "http://127.0.0.1:4202/")
    settings.cache_clear()

    (project,) = opened().list_projects()
    assert workspace.link(facts) == f"http://127.0.0.1:4202/projects/{project.id}"
    assert workspace.link(facts.model_copy(update={"window": str(AUGUST)})) is None
