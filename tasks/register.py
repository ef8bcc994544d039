"""Register a trained model and let it into production only when every gate held. The champion is chosen here.

The audit store is the registry. Where it cannot be read there is no telling who the champion is, and no choice is made.
"""

from typing import TYPE_CHECKING

from audit import task
from audit.errors import BadData
from audit.events.payloads import StageFacts, used
from audit.events.references import Environment, ModelVersion
from audit.spec.model import Spec
from tasks import _frames as frames
from tasks._frames import Evaluation

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from audit.recording.recorder import Fact


OUTCOMES = {"model.deployed": "is in production", "model.rejected": "was rejected"}


def choose_champion(
    challenger: ModelVersion, champion: ModelVersion | None, evaluation: Evaluation
) -> ModelVersion | None:
    """Who makes the decisions from now on: the challenger if nothing speaks against it, else who does so already.

    None if there is no champion yet and the challenger is not good enough to be the first.
    """
    return champion if objections(challenger, champion, evaluation) else challenger


def objections(challenger: ModelVersion, champion: ModelVersion | None, evaluation: Evaluation) -> list[str]:
    """Why the challenger must not be promoted: a gate that did not hold, or an evaluation of something else."""
    if evaluation.model.address != challenger.address:
        return [f"the evaluation is of another model than {_named(challenger)}"]
    if evaluation.champion != champion:
        return [f"it was held against {_named(evaluation.champion)}, but the champion is now {_named(champion)}"]
    return evaluation.failed()


@task(task_run_name="register {spec.name}")
def register(model: ModelVersion, evaluation: Evaluation, spec: Spec, cause: str | None = None) -> ModelVersion:
    """The model under the spec's next version number; it is in no environment yet."""
    from audit.recording.recorder import record_decided
    from audit.store import read

    def numbered(connection: "Connection") -> "list[Fact]":
        version = read.model_number(connection, spec.name)
        as_registered = model.model_copy(update={"version": version})
        facts = _stage(as_registered, "none", f"trained and evaluated, {_gates_held(evaluation)}", cause)
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
    from audit.recording.recorder import record_decided
    from audit.store import read

    if not model.version:
        raise BadData(f"{spec.name}: a model without a version number cannot be promoted.", hint="Register it first.")
    chosen: ModelVersion | None = None
    against: list[str] = []

    def decided(connection: "Connection") -> "list[Fact]":
        nonlocal chosen, against
        champion = read.champion_now(connection, spec.name)
        if champion == model:  # an earlier attempt of this task run came as far as the deployment
            chosen = champion
            return []
        chosen, against = choose_champion(model, champion, evaluation), objections(model, champion, evaluation)
        if chosen == model:
            return _into_production(model, champion, evaluation, cause)
        return [_turned_away(model, "; ".join(against), cause)]

    for type, facts, _ in record_decided(decided):
        if type in OUTCOMES and isinstance(facts, StageFacts):
            told = f"**{spec.name} v{model.version}** {OUTCOMES[type]}: {facts.reason}.\n"
            frames.leave_markdown(f"{spec.name}-promotion", told)
    if chosen is None:
        raise BadData(
            f"{spec.name}: v{model.version} was rejected and there is no champion to keep: {'; '.join(against)}.",
            hint="Mend the model, or the gates in the spec.",
        )
    return chosen


def _into_production(
    model: ModelVersion, champion: ModelVersion | None, evaluation: Evaluation, cause: str | None
) -> "list[Fact]":
    compared = f"against v{champion.version}: {evaluation.against_champion()}" if champion else "the first champion"
    reason = f"{_gates_held(evaluation)}; {compared}"
    replaces = champion.version if champion else None
    staged = _stage(model, "staging", reason, cause, previous="none", replaces=replaces)
    in_production = staged.model_copy(update={"environment": "production", "previous_environment": "staging"})
    subject = frames.subject(model)
    facts: list[Fact] = [("model.promoted", staged, subject), ("model.promoted", in_production, subject)]
    facts.append(("model.deployed", in_production, subject))
    return [*facts, _retired(champion, model, cause)] if champion else facts


def _retired(former: ModelVersion, successor: ModelVersion, cause: str | None) -> "Fact":
    facts = _stage(former, "none", f"replaced by v{successor.version}", cause, previous="production")
    return "model.retired", facts, frames.subject(former)


def _turned_away(model: ModelVersion, against: str, cause: str | None) -> "Fact":
    return "model.rejected", _stage(model, "none", against, cause, previous="none"), frames.subject(model)


def _stage(
    model: ModelVersion,
    environment: Environment,
    reason: str,
    cause: str | None,
    *,
    previous: Environment | None = None,
    replaces: int | None = None,
) -> StageFacts:
    return StageFacts(
        spec=model.name,
        model=used("model", model),
        version=model.version,
        environment=environment,
        previous_environment=previous,
        reason=reason,
        cause=cause,
        replaces=replaces,
    )


def _gates_held(evaluation: Evaluation) -> str:
    return f"{sum(gate.held for gate in evaluation.gates)} of {len(evaluation.gates)} gates held"


def _named(model: ModelVersion | None) -> str:
    return f"v{model.version}" if model else "none"
