"""What every flow of ours begins and ends with: a readable name, the spec, what changed, word of a failure."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from audit import record
from audit.errors import NotFound
from audit.events.payloads import RetrainingFacts, used
from audit.events.references import ModelVersion, Window
from audit.recording.changes import note_change
from audit.recording.circumstances import code_of, surroundings
from audit.spec.load import load_spec, spec_digest
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State


T = TypeVar("T")


def run_name() -> str:
    """`training flights 2013-01…2013-06`, as the UI and `audit runs` show it."""
    from prefect.runtime import flow_run

    given = flow_run.parameters
    window = given.get("window")
    shown = str(Window.model_validate(window)) if isinstance(window, dict) else str(window or "")
    return " ".join(filter(None, (flow_run.flow_name, Path(str(given["spec_file"])).stem, shown)))


def begin(spec_file: str) -> Spec:
    """The spec; and whatever is not as it was at its last run goes on record."""
    spec = load_spec(spec_file)
    note_change(spec.name, "spec", spec_digest(spec), spec.model_dump(mode="json"))
    code = code_of(begin)
    if code.commit:
        note_change(spec.name, "code", f"{code.commit}{' (dirty)' if code.dirty else ''}", {})
    around = surroundings()
    note_change(
        spec.name, "environment", around.lock_digest or "", {"python": around.python, "prefect": around.prefect}
    )
    return spec


def with_progress(key: str, items: Sequence[T]) -> Iterator[T]:
    """Each item in turn, and how far we are as a progress bar in Prefect's UI."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    bar = cast(UUID, create_progress_artifact(0.0, key=key.replace("_", "-")))  # no coroutine in a sync flow
    for done, item in enumerate(items, start=1):
        yield item
        update_progress_artifact(bar, 100.0 * done / len(items))


def note_retraining(
    spec: Spec, window: Window, cause: str | None, challenger: ModelVersion | None = None, promoted: bool | None = None
) -> None:
    """That an event asked for a new model, and, once there is a challenger, what came of it.

    Raises NotFound if no such event is on record.
    """
    if cause is None:
        return
    if not read.event(open_store(), cause):
        raise NotFound("The cause of this training is no event on record.", hint="Take an id from `audit events`.")
    type = "retraining.completed" if challenger else "retraining.requested"
    facts = RetrainingFacts(
        spec=spec.name,
        cause=cause,
        reason=f"event {cause} asked for a new model",
        window=str(window),
        model=used("challenger", challenger) if challenger else None,
        promoted=promoted,
    )
    record(type, facts, subject=f"spec/{spec.name}")


def tell_of_failure(flow: "Flow[Any, Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """on_failure and on_crashed of our flows: one message for the outermost run."""
    from tasks.alert import tell_failure

    if flow_run.parent_task_run_id is None:
        tell_failure(flow_run.name, str(flow_run.id), Path(str(flow_run.parameters["spec_file"])), state)
