"""Do the data decided on still look like those the model learned from?"""

from typing import Any

from prefect import State
from prefect.states import Completed

from audit import flow
from audit.events.references import Window
from flows import _known as known
from flows._runs import begin, run_name, tell_of_failure
from tasks.alert import drift_message, send_alert
from tasks.drift import DriftVerdict, check_drift


@flow(flow_run_name=run_name, on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def monitoring(spec_file: str, window: Window | None = None) -> DriftVerdict | State[Any]:
    """Drift between the champion's training rows and the rows decided on in one window; an alert if it fires.

    Args:
        spec_file: The use case, for example flows/specs/flights.yaml.
        window: Which decisions to look at; by default the next month that was decided on and not yet checked.
    """
    spec = begin(spec_file)
    window = window or known.next_to_monitor(spec)
    if window is None:
        return Completed(message="nothing new")
    champion = known.champion_of(spec)
    verdict = check_drift(known.reference_of(champion, spec), known.decided_on(window, spec), spec, champion, window)
    if verdict.detected:
        send_alert("drift", *drift_message(verdict, spec, window), spec, verdict.event)
    return verdict
