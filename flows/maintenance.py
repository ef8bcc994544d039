"""Hourly: is everything in order that the pipelines rest on? The place where housekeeping goes."""

from typing import Any

from prefect import State
from prefect.states import Completed

from audit import flow
from audit.spec.load import load_spec
from flows._deployed import note_deployed
from flows._findings import maintenance_finding
from flows._read_back import note_messages
from flows._runs import SHIPPED, run_name, tell_of_completion, tell_of_failure
from tasks.alert import send_summary, tell
from tasks.upkeep import look_after


@flow(
    flow_run_name=run_name,
    on_completion=[tell_of_completion],
    on_failure=[tell_of_failure],
    on_crashed=[tell_of_failure],
)
def maintenance(spec_file: str = SHIPPED, min_free_gb: float = 1.0) -> State[Any]:
    """Store, spool, ledger, disk, late runs, open questions, lost messages; one message where any is not in order.

    What it finds wrong is no failure of its own: the run completes and says so, with a damaged store as well.

    Args:
        spec_file: The use case, for example flows/specs/flights.yaml: whose runs, and who is told.
        min_free_gb: How much room there must be where store and artifacts live.
    """
    spec = load_spec(spec_file)  # not `begin`, which reads the store: that may be what is wrong
    send_summary(spec)
    note_deployed(spec.name)
    note_messages(spec.name)
    checks = look_after(spec, min_free_gb)
    tell(maintenance_finding(checks, spec), "maintenance", spec)
    wrong = [check.name for check in checks if check.calls]
    return Completed(message=f"not in order: {', '.join(wrong)}" if wrong else "all in order")
