"""Register a trained model and let it into production only when every gate held. The champion is chosen here.

The audit store is the registry. Where it cannot be read there is no telling who the champion is, and no choice is made.
"""

from audit import record, task
from audit.errors import BadData
from audit.events.payloads import StageFacts, used
from audit.events.references import ModelVersion
from audit.spec.model import Spec
from tasks import _frames as frames
from tasks._frames import Evaluation


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
    from audit.recording.recorder import record_numbered
    from audit.store import read

    held = sum(gate.held for gate in evaluation.gates)

    def facts(version: int) -> tuple[StageFacts, str]:
        numbered = model.model_copy(update={"version": version})
        found = StageFacts(
            spec=spec.name,
            model=used("model", numbered),
            version=version,
            environment="none",
            reason=f"trained and evaluated, {held} of {len(evaluation.gates)} gates held",
            cause=cause,
        )
        return found, frames.subject(numbered)

    version = record_numbered("model.registered", lambda connection: read.model_number(connection, spec.name), facts)
    return model.model_copy(update={"version": version})


@task(task_run_name="promote {spec.name} v{model.version}")
def promote(model: ModelVersion, evaluation: Evaluation, spec: Spec, cause: str | None = None) -> ModelVersion:
    """The champion afterwards: `model`, by way of staging, if every gate held; else the one that there was.

    Raises BadData if `model` was never registered, or is rejected while there is no champion to keep.
    """
    from audit.store import read
    from audit.store.engine import open_store

    if not model.version:
        raise BadData(f"{spec.name}: a model without a version number cannot be promoted.", hint="Register it first.")
    champion = read.champion(open_store(), spec.name)
    if champion == model:  # an earlier attempt of this task run came as far as the deployment
        return champion
    chosen = choose_champion(model, champion, evaluation)
    against = "; ".join(objections(model, champion, evaluation))
    if chosen == model:
        outcome = _put_into_production(model, champion, evaluation, spec, cause)
    else:
        outcome = _turn_away(model, against, spec, cause)
    frames.leave_markdown(f"{spec.name}-promotion", outcome)
    if chosen is None:
        raise BadData(
            f"{spec.name}: v{model.version} was rejected and there is no champion to keep: {against}.",
            hint="Mend the model, or the gates in the spec.",
        )
    return chosen


def _put_into_production(
    model: ModelVersion, champion: ModelVersion | None, evaluation: Evaluation, spec: Spec, cause: str | None
) -> str:
    compared = f"against v{champion.version}: {evaluation.against_champion()}" if champion else "the first champion"
    reason = f"{_gates_held(evaluation)}; {compared}"
    staged = StageFacts(
        spec=spec.name,
        model=used("model", model),
        version=model.version,
        environment="staging",
        previous_environment="none",
        reason=reason,
        cause=cause,
        replaces=champion.version if champion else None,
    )
    in_production = staged.model_copy(update={"environment": "production", "previous_environment": "staging"})
    record("model.promoted", staged, subject=frames.subject(model))
    record("model.promoted", in_production, subject=frames.subject(model))
    record("model.deployed", in_production, subject=frames.subject(model))
    if champion:
        _retire(champion, model, spec, cause)
    return f"**{spec.name} v{model.version}** is in production: {reason}.\n"


def _retire(former: ModelVersion, successor: ModelVersion, spec: Spec, cause: str | None) -> None:
    facts = StageFacts(
        spec=spec.name,
        model=used("model", former),
        version=former.version,
        environment="none",
        previous_environment="production",
        reason=f"replaced by v{successor.version}",
        cause=cause,
    )
    record("model.retired", facts, subject=frames.subject(former))


def _turn_away(model: ModelVersion, against: str, spec: Spec, cause: str | None) -> str:
    facts = StageFacts(
        spec=spec.name,
        model=used("model", model),
        version=model.version,
        environment="none",
        previous_environment="none",
        reason=against,
        cause=cause,
    )
    record("model.rejected", facts, subject=frames.subject(model))
    return f"**{spec.name} v{model.version}** was rejected: {against}.\n"


def _gates_held(evaluation: Evaluation) -> str:
    return f"{sum(gate.held for gate in evaluation.gates)} of {len(evaluation.gates)} gates held"


def _named(model: ModelVersion | None) -> str:
    return f"v{model.version}" if model else "none"
