"""A window of rows to decisions, or where there are no windows whatever the champion has not learnt from."""

from typing import Any

from prefect import State
from prefect.states import Completed

from audit import DatasetVersion, flow
from audit.errors import NoRows, NotYet
from audit.events.references import Window
from audit.spec.model import Spec
from flows import _known as known
from flows._runs import SHIPPED, begin, run_name, tell_of_completion, tell_of_failure
from tasks.alert import tell_of_scoring
from tasks.features import build_features, leave_out_learnt
from tasks.ingest import ingest
from tasks.score import score
from tasks.validate import validate


@flow(
    flow_run_name=run_name,
    on_completion=[tell_of_completion],
    on_failure=[tell_of_failure],
    on_crashed=[tell_of_failure],
)
def scoring(spec_file: str = SHIPPED, window: Window | None = None) -> DatasetVersion | State[Any]:
    """The champion's decisions on one window.

    Args:
        spec_file: The use case, for example flows/specs/flights.yaml.
        window: Which rows to decide on; by default the next month without decisions. A spec without a schedule has
            no months: every row is decided on that the champion has not learnt from.
    """
    spec = begin(spec_file)
    if window is None and spec.schedule:
        found = next_rows(spec)
        if found is None:
            return Completed(message="nothing new")
        window, ingested = found
    else:
        ingested = ingest(spec, window)
    rows = build_features(validate(ingested, spec), spec)
    champion = known.champion_of(spec)
    if spec.schedule is None:
        rows = leave_out_learnt(rows, known.reference_of(champion, spec), spec)
        if known.was_decided_by(champion, rows, spec):
            return Completed(message="nothing new")
    decisions = score(rows, champion, spec, window)
    tell_of_scoring(decisions, spec, window)
    return decisions


def next_rows(spec: Spec) -> tuple[Window, DatasetVersion] | None:
    """The next month without decisions, and its rows; None where none is left, or none has come in yet.

    A month that the source has left out stops none that came after it: its failed task run is on record.
    """
    for month in known.months_to_score(spec):
        try:
            return month, ingest(spec, month)
        except NotYet:
            return None
        except NoRows:
            continue
    return None
