"""Raw data to a judged model."""

from typing import Any

from prefect import State

from audit import ModelVersion, flow
from audit.events.references import Window
from flows import _known as known
from flows._approval import ask_a_person
from flows._runs import SHIPPED, begin, note_retraining, run_name, tell_of_completion, tell_of_failure
from tasks.alert import gate_finding, recover, tell
from tasks.card import write_card
from tasks.evaluate import evaluate
from tasks.features import build_features, split
from tasks.ingest import ingest
from tasks.register import promote, register
from tasks.train import train_model
from tasks.validate import validate


@flow(
    flow_run_name=run_name,
    on_completion=[tell_of_completion],
    on_failure=[tell_of_failure],
    on_crashed=[tell_of_failure],
)
def training(
    spec_file: str = SHIPPED, window: Window | None = None, cause: str | None = None
) -> ModelVersion | State[Any]:
    """Raw data to a judged model; promoted only when every gate holds and, where the spec wants one, a person approves.

    Args:
        spec_file: The use case, for example flows/specs/flights.yaml.
        window: Which rows to learn from; by default all months that were decided on so far.
        cause: Id of the event that asked for a new model, for example a drift.detected.
    """
    spec = begin(spec_file)
    window = window or known.next_to_train(spec)
    note_retraining(spec, window, cause)
    valid = validate(ingest(spec, window), spec)
    train, test = split(build_features(valid, spec), spec)
    challenger = train_model(train, spec, cause)
    judged = evaluate(challenger, test, spec)
    registered = register(challenger, judged, spec, cause)
    if spec.approval == "manual" and judged.held:
        recover("gate", spec, window)
        decided = ask_a_person(registered, judged, spec, cause)
        write_card(registered, judged, spec)
    else:
        outcome = promote(registered, judged, spec, cause, return_state=True)
        write_card(registered, judged, spec)  # also of a first model that is turned away, which ends the run
        decided = outcome.result()
        tell(gate_finding(registered, decided, judged, spec, window), "gate", spec, window)
    note_retraining(spec, window, cause, registered, promoted=known.promoted(registered))
    return decided
