"""A window of rows to decisions, or where there are no windows whatever the champion has not learnt from."""

from typing import Any

from prefect import State
from prefect.states import Completed

from audit import DatasetVersion, flow
from audit.errors import NoRows
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
    asked = window is not None
    window = window or known.next_to_score(spec)
    if window is None and spec.schedule:
        return Completed(message="nothing new")
    ingested = come_in(spec, window, asked=asked)
    if ingested is None:
        return Completed(message=f"nothing new: {window} has not come in yet")
    rows = build_features(validate(ingested, spec), spec)
    champion = known.champion_of(spec)
    if spec.schedule is None:
        rows = leave_out_learnt(rows, known.reference_of(champion, spec), spec)
        if known.was_decided_by(champion, rows, spec):
            return Completed(message="nothing new")
    decisions = score(rows, champion, spec, window)
    tell_of_scoring(decisions, spec, window)
    return decisions


def come_in(spec: Spec, window: Window | None, *, asked: bool) -> DatasetVersion | None:
    """The window's rows; None where nobody asked for it, and months go on as the source grows, and it has none yet."""
    try:
        return ingest(spec, window)
    except NoRows:
        if asked or spec.schedule is None or spec.schedule.until:
            raise
        return None
