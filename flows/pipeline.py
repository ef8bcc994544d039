"""The whole life of a model: train, promote, decide month by month, find drift, retrain for that reason.

python -m flows.pipeline flows/specs/flights.yaml --until 12
"""

from datetime import date

from audit import ModelVersion, flow
from flows._runs import begin, run_name, tell_of_failure, with_progress
from flows.monitoring import monitoring
from flows.scoring import scoring
from flows.training import training
from tasks.drift import DriftVerdict


@flow(flow_run_name=run_name, on_failure=[tell_of_failure], on_crashed=[tell_of_failure])
def pipeline(spec_file: str, until: date | None = None) -> ModelVersion:
    """Train on the first months, then decide on each following month; drift leads to a new model.

    Args:
        spec_file: The use case, for example flows/specs/flights.yaml.
        until: First day of the last month to decide on; by default two months after training.
    """
    spec = begin(spec_file)
    champion = training(spec_file, spec.schedule.training_window())
    for month in with_progress(f"{spec.name}-months", spec.schedule.months_to_decide(until)):
        scoring(spec_file, month)
        verdict = monitoring(spec_file, month)
        if isinstance(verdict, DriftVerdict) and verdict.detected:
            champion = training(spec_file, spec.schedule.everything_before(month.end), verdict.event)
    return champion


if __name__ == "__main__":
    from flows._told import main

    main()
