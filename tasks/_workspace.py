"""Evidently's own workspace, AUDIT_HOME/evidently: the checks of a spec month by month, as `evidently ui` shows them.

A view of what is on record, never the record itself. Evidently writes its files in place, and whoever opens a workspace
reads every one of them: two writers at once, or a file that was cut short, and its server starts no more. So a run is
written into a workspace of its own, beside the one that is shown, and moved over file by file when it is whole.
"""

import json
import logging
from datetime import datetime, time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from audit.events.payloads import DriftFacts
from audit.events.references import Window
from audit.privacy import redact
from audit.settings import settings
from audit.spec.model import Spec

if TYPE_CHECKING:
    from evidently.core.report import Snapshot
    from evidently.sdk.models import DashboardPanelPlot

log = logging.getLogger("audit")

A_LINE = ("type", "column", "method")  # distances in another measure are another line
NAMESPACE = uuid5(NAMESPACE_URL, "prefect-audit/evidently")


def project_of(spec_name: str) -> UUID:
    """The spec's project: from its name alone, so that two first runs at once make one."""
    return uuid5(NAMESPACE, spec_name)


def run_of(facts: DriftFacts) -> UUID:
    """The check's run: one for a window and a model, so that a check that is repeated replaces itself."""
    what = facts.window or facts.current.digest
    return uuid5(project_of(facts.spec), f"{what} {facts.model.digest if facts.model else ''}")


def link(facts: DriftFacts) -> str | None:
    """Evidently's page of all months, where its UI runs and this check is in the workspace."""
    served, project = settings().evidently_url, project_of(facts.spec)
    shown = served and _place(project, run_of(facts)).is_file()
    return f"{served.rstrip('/')}/projects/{project}" if served and shown else None


def at(window: Window | None) -> datetime | None:
    """When a check of `window` stands in the charts: its first day, so that months follow each other as they do."""
    return datetime.combine(window.start, time()) if window else None


def add(snapshot: "Snapshot", facts: DriftFacts, spec: Spec) -> None:
    """Show the check in the workspace. A workspace that cannot be written costs a warning, and the check goes on."""
    try:
        settings().evidently_path.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="evidently-", dir=settings().home) as beside:
            _write(Path(beside), snapshot, facts, spec)
            _move(Path(beside), str(project_of(spec.name)))
    except OSError as refused:
        log.warning(
            "Evidently's workspace %s does not show this check (%s).", settings().evidently_path, refused.strerror
        )


def _write(beside: Path, snapshot: "Snapshot", facts: DriftFacts, spec: Spec) -> None:
    """A workspace with the spec's project, its dashboard and this one run."""
    from evidently.sdk.models import ProjectModel
    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(beside))
    of = "by month" if spec.schedule else "check by check"
    project = workspace.add_project(
        ProjectModel(id=project_of(spec.name), name=spec.name, description=f"{redact.text(spec.title)}: drift {of}")
    )
    for panel in _panels(facts):
        project.dashboard.add_panel(panel)
    written = Path(workspace.add_run(project.id, _comparable(snapshot), include_data=False).url)
    written.rename(written.with_name(f"{run_of(facts)}.json"))


def _comparable(snapshot: "Snapshot") -> "Snapshot":
    """The run without the settings of its metrics, thresholds first: Evidently's charts take figures that were measured
    under other settings for another line, and every model has thresholds of its own."""
    from evidently.core.report import Snapshot

    return Snapshot.load_dict(json.loads(snapshot.dumps(), object_hook=_without_settings))


def _without_settings(found: dict[str, Any]) -> dict[str, Any]:
    """A metric's configuration with nothing but what its line is; any other part of a run as it is."""
    if found.keys() != {"metric_id", "params"}:
        return found
    return found | {"params": {name: value for name, value in found["params"].items() if name in A_LINE}}


def _panels(facts: DriftFacts) -> "list[DashboardPanelPlot]":
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel

    share = PanelMetric(metric="DriftedColumnsCount", metric_labels={"value_type": "share"}, legend="share")
    names = sorted(column.name for column in facts.columns)
    distances = [PanelMetric(metric="ValueDrift", metric_labels={"column": name}, legend=name) for name in names]
    return [
        line_plot_panel("Share of drifted columns", [share], description=f"The rule: {facts.rule}."),
        line_plot_panel("Distance of each column from the reference", distances),
    ]


def _place(project: UUID, run: UUID) -> Path:
    return settings().evidently_path / str(project) / "snapshots" / f"{run}.json"


def _move(beside: Path, project: str) -> None:
    """Whole files from the one workspace into the other; a new project as one folder, as its server expects it."""
    place = settings().evidently_path / project
    if not place.exists():
        try:
            (beside / project).rename(place)
            return
        except OSError:  # another process was first, and its folder is not empty
            if not place.exists():
                raise
    for file in (beside / project).rglob("*.json"):
        file.replace(place / file.relative_to(beside / project))
