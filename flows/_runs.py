"""What every flow of ours begins and ends with: a readable name, the spec, what changed, word of a failure."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from httpx import HTTPError

from audit import record
from audit.errors import AuditError, NotFound
from audit.events.payloads import OutcomeFacts, RetrainingFacts, called, used
from audit.events.references import ModelVersion, Window
from audit.recording.changes import note_change
from audit.recording.circumstances import code_of, surroundings
from audit.spec.load import load_spec, spec_digest
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from flows import _known as known
from tasks._frames import ALL, figure

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State


log = logging.getLogger("audit")

T = TypeVar("T")

# The use case that ships: in the UI a flow that has no parameter without a default is started with two clicks.
SHIPPED = "flows/specs/flights.yaml"

NEXT = {"training": known.next_to_train, "scoring": known.next_to_score, "monitoring": known.next_to_monitor}
BY_THE_CHAMPION = ("scoring", "monitoring")


def run_name() -> str:
    """`scoring flights 2013-07 v1`: the window, also where the run chooses it, and the model that decides."""
    from prefect.runtime import flow_run

    name, given = str(flow_run.flow_name), flow_run.parameters
    window = given.get("window")
    window = Window.model_validate(window) if isinstance(window, dict) else window
    try:
        spec = load_spec(str(given["spec_file"]))
        window = window or (NEXT[name](spec) if name in NEXT else None)
        model = read.champion(open_store(), spec.name) if name in BY_THE_CHAMPION else None
    except AuditError:  # the run itself will say what is wrong
        return " ".join(filter(None, (name, Path(str(given["spec_file"])).stem, str(window or ""))))
    return " ".join(filter(None, (name, spec.name, str(window or ""), f"v{model.version}" if model else "")))


def begin(spec_file: str) -> Spec:
    """The spec; and whatever is not as it was at its last run goes on record."""
    spec = load_spec(spec_file)
    _tag_run()
    note_change(spec.name, "spec", spec_digest(spec), spec.model_dump(mode="json"))
    code = code_of(begin)
    if code.commit:
        note_change(spec.name, "code", f"{code.commit}{' (dirty)' if code.dirty else ''}", {})
    around = surroundings()
    note_change(
        spec.name, "environment", around.lock_digest or "", {"python": around.python, "prefect": around.prefect}
    )
    return spec


def _tag_run() -> None:
    """Let the UI find this run by the words of its name: use case, window, model."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.runtime import flow_run

    words = str(flow_run.name).split()[1:]
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run.id), tags=list(dict.fromkeys([*flow_run.tags, *words])))
    except (HTTPError, PrefectHTTPStatusError) as refused:  # no run fails for its tags
        log.warning("This run has no tags (%s).", type(refused).__qualname__)


def with_progress(key: str, items: Sequence[T]) -> Iterator[T]:
    """Each item in turn, and how far we are as a progress bar in Prefect's UI."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    bar = cast(UUID, create_progress_artifact(0.0, key=key.replace("_", "-")))  # no coroutine in a sync flow
    for done, item in enumerate(items, start=1):
        yield item
        update_progress_artifact(bar, 100.0 * done / len(items))


def note_retraining(
    spec: Spec,
    window: Window | None,
    cause: str | None,
    challenger: ModelVersion | None = None,
    promoted: bool | None = None,
) -> None:
    """That an event asked for a new model, and, once there is a challenger, what came of it.

    Raises NotFound if no such event is on record.
    """
    if cause is None:
        return
    found = read.event(open_store(), cause)
    if not found:
        raise NotFound("The cause of this training is no event on record.", hint="Take an id from `audit events`.")
    type = "retraining.completed" if challenger else "retraining.requested"
    facts = RetrainingFacts(
        spec=spec.name,
        cause=cause,
        reason=in_words(found[0]),
        window=str(window) if window else None,
        model=used("challenger", challenger) if challenger else None,
        promoted=promoted,
    )
    record(type, facts, subject=f"spec/{spec.name}")


def in_words(cause: read.Recorded) -> str:
    """What an event says that asked for a new model: drift, decay, or whatever a person named."""
    found = cause.payload
    if cause.type == "drift.detected" and found:
        where = f" in {found['window']}" if found.get("window") else ""
        return f"drift detected{where}: {found['drifted']} of {found['watched']} watched columns"
    if cause.type == "performance.decayed" and found:
        facts = OutcomeFacts.model_validate(found)
        then, now = (figure(facts.main, metrics) for metrics in (facts.baseline, facts.metrics))
        assert then and now, "who has decayed was judged, then and now"
        return f"{called(facts.main)} fell from {then.value:.3f} to {now.value:.3f} in {facts.window or ALL}"
    return f"event {cause.id} of type {cause.type} asked for a new model"


def tell_of_failure(flow: "Flow[Any, Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """on_failure and on_crashed of our flows: one message for the outermost run."""
    from tasks.alert import tell_failure

    if flow_run.parent_task_run_id is None:
        tell_failure(flow.name, flow_run.name, str(flow_run.id), _spec_file(flow_run), state)


def tell_of_completion(flow: "Flow[Any, Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """on_completion of our flows: word that it is over, where people were told that this flow had failed."""
    from tasks.alert import tell_completion

    tell_completion(flow.name, str(flow_run.id), _spec_file(flow_run))


def _spec_file(flow_run: "FlowRun") -> Path:
    return Path(str(flow_run.parameters.get("spec_file", SHIPPED)))
