"""The whole life of a model: train, promote, decide month by month, find drift or decay, retrain for that reason.

python -m flows.pipeline flows/specs/flights.yaml --until 12
"""

from datetime import date
from typing import Any

from prefect import State

from audit import ModelVersion, flow
from audit.spec.model import Schedule, Spec
from flows import _known as known
from flows._approval import without_champion
from flows._runs import SHIPPED, begin, run_name, tell_of_completion, tell_of_failure, with_progress
from flows.monitoring import Monitored, monitoring
from flows.scoring import scoring
from flows.training import training


@flow(
    flow_run_name=run_name,
    on_completion=[tell_of_completion],
    on_failure=[tell_of_failure],
    on_crashed=[tell_of_failure],
)
def pipeline(spec_file: str = SHIPPED, until: date | None = None) -> ModelVersion | State[Any]:
    """Train on the first months, then decide on each following month; drift or decay leads to a new model.

    Without months: train on a part of the rows, decide on the others, look at what was decided.

    Args:
        spec_file: The use case, for example flows/specs/flights.yaml.
        until: First day of the last month to decide on; by default two months after training.
    """
    spec = begin(spec_file)
    training(spec_file, spec.schedule.training_window() if spec.schedule else None)
    if not known.has_champion(spec):  # a person has not let the first one in
        return without_champion(spec)
    if spec.schedule:
        month_by_month(spec_file, spec, spec.schedule, until)
    else:
        scoring(spec_file)
        monitoring(spec_file)
    return known.champion_of(spec)


def month_by_month(spec_file: str, spec: Spec, schedule: Schedule, until: date | None) -> None:
    """Decide on each month after training, look at it, and train anew for what is found."""
    for month in with_progress(f"{spec.name}-months", schedule.months_to_decide(until)):
        scoring(spec_file, month)
        found = monitoring(spec_file, month)
        if isinstance(found, Monitored) and found.cause:
            training(spec_file, schedule.everything_before(month.end), found.cause)


if __name__ == "__main__":
    from flows._told import main

    main()
