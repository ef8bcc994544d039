"""Register a trained model and let it into production only when every gate held.

Who becomes champion is decided in the registry, which is the audit store. Where that cannot be read there is no telling
who the champion is, and no choice is made.
"""

from typing import TYPE_CHECKING

from audit import task
from audit.errors import BadData
from audit.events.payloads import StageFacts, used
from audit.events.references import ModelVersion
from audit.recording import registry
from audit.spec.model import Spec
from tasks import _frames as frames
from tasks._frames import Evaluation

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from audit.recording.recorder import Fact


@task(task_run_name="register {spec.name}")
def register(model: ModelVersion, evaluation: Evaluation, spec: Spec, cause: str | None = None) -> ModelVersion:
    """The model under the spec's next version number; it is in no environment yet."""
    from audit.recording.recorder import record_decided
    from audit.store import read

    def numbered(connection: "Connection") -> "list[Fact]":
        version = read.model_number(connection, spec.name)
        as_registered = model.model_copy(update={"version": version})
        facts = StageFacts(
            spec=spec.name,
            model=used("model", as_registered),
            version=version,
            environment="none",
            reason=f"trained and evaluated, {evaluation.gates_held()}",
            cause=cause,
        )
        return [("model.registered", facts, frames.subject(as_registered))]

    ((_, registered, _),) = record_decided(numbered)
    assert isinstance(registered, StageFacts)
    return model.model_copy(update={"version": registered.version})


@task(task_run_name="promote {spec.name} v{model.version}")
def promote(model: ModelVersion, evaluation: Evaluation, spec: Spec, cause: str | None = None) -> ModelVersion:
    """The champion afterwards: `model`, by way of staging, if every gate held; else the one that there was.

    The champion is read and replaced in one transaction, so that two promotions at once cannot both win.
    Raises BadData if `model` was never registered, or is rejected while there is no champion to keep.
    """
    if not model.version:
        raise BadData(f"{spec.name}: a model without a version number cannot be promoted.", hint="Register it first.")
    outcome = registry.promote(frames.candidate(model, evaluation, cause))
    if step := outcome.step:
        frames.leave_markdown(f"{spec.name}-promotion", outcome.told(), outcome.in_a_line())
        if outcome.champion is None:
            raise BadData(
                f"{spec.name}: v{model.version} was rejected and there is no champion to keep: {step.reason}.",
                hint="Mend the model, or the gates in the spec.",
            )
    assert outcome.champion, "who is champion already, or becomes it, is one"
    return outcome.champion
