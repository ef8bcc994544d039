"""Is the model still good? Do the data look like those it learned from, and were its decisions right?"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prefect import State
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict

from audit import flow
from audit.events.references import Window
from audit.spec.model import Spec
from flows import _known as known
from flows._findings import anomaly_finding, decay_finding
from flows._runs import SHIPPED, begin, run_name, tell_of_completion, tell_of_failure
from tasks import _frames as frames
from tasks.alert import get_ready, recover, send_alert, tell, tell_of_drift
from tasks.anomalies import check_anomalies
from tasks.drift import DriftVerdict, check_drift
from tasks.ingest import ingest
from tasks.outcomes import PerformanceVerdict, check_performance

# The same stage, on another errand: the window is read again, for what has become known since it was decided on.
read_outcomes = ingest.with_options(
    name="read_outcomes", task_run_name=frames.run_name("outcomes {spec.name} {window}")
)


class Monitored(BaseModel):
    """What was found about a window, and about earlier ones whose outcomes came in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drift: DriftVerdict | None = None
    performance: tuple[PerformanceVerdict, ...] = ()

    @property
    def cause(self) -> str | None:
        """The event that asks for a new model: drift first, else the latest decay."""
        if self.drift and self.drift.detected:
            return self.drift.event
        return next((each.event for each in reversed(self.performance) if each.asks_for_retraining), None)


@flow(
    flow_run_name=run_name,
    on_completion=[tell_of_completion],
    on_failure=[tell_of_failure],
    on_crashed=[tell_of_failure],
)
def monitoring(spec_file: str = SHIPPED, window: Window | None = None) -> Monitored | State[Any]:
    """Drift and unusual figures in one window, and how the model did wherever outcomes have come in; alerts for each.

    Args:
        spec_file: The use case, for example flows/specs/flights.yaml.
        window: Which decisions to look at; by default the next month that was decided on and not yet checked. A spec
            without a schedule has no months: the last decisions, if nobody has looked at them yet.
    """
    spec = begin(spec_file)
    get_ready(spec)
    window = window or known.next_to_monitor(spec)
    decided = known.decided_on(window, spec) if window else known.unchecked(spec)
    due = known.outcomes_due(spec, datetime.now(UTC).date())
    if decided is None and not due:
        return Completed(message="nothing new")
    drift = look_for_drift(spec, decided) if decided else None
    if decided:
        look_for_anomalies(spec, decided)
    return Monitored(drift=drift, performance=tuple(look_back(spec, due)))


def look_for_drift(spec: Spec, decided: known.Decided) -> DriftVerdict:
    """Drift between the champion's training rows and the rows decided on. Told at once: people wait for it."""
    champion = known.champion_of(spec)
    learnt, tested = known.reference_of(champion, spec), known.tested_on(champion, spec)
    verdict = check_drift(learnt, decided.features, spec, champion, decided.window, tested)
    tell_of_drift(verdict, spec, decided.window)
    return verdict


def look_for_anomalies(spec: Spec, decided: known.Decided) -> None:
    """The figures of these decisions against those of earlier ones."""
    verdict = check_anomalies(decided.decisions, spec, decided.window)
    if verdict.compared:  # else nothing is known to be over either
        tell(anomaly_finding(verdict, spec), "anomaly", spec, decided.window)


def look_back(spec: Spec, due: Sequence[known.Decided]) -> list[PerformanceVerdict]:
    """How the models did in every window whose outcomes are due.

    A window that the source no longer has stops no other: its failed task run is on record, and it stays due.
    """
    verdicts = []
    for window, _, decisions, model in due:
        source = read_outcomes(spec, window, return_state=True)
        if source.is_completed():
            verdict = check_performance(decisions, source.result(), model, spec, window)
            if verdict.asks_for_retraining:
                send_alert(decay_finding(verdict, spec), spec)
            elif verdict.verdict == "steady":
                recover("decay", spec, window)
            verdicts.append(verdict)
    return verdicts
