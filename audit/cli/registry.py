"""`audit models` and `audit datasets`: what there is by name and version."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.cli import output

if TYPE_CHECKING:
    from rich.text import Text

    from audit.store.read import RegisteredModel


def models(
    spec: Annotated[str, typer.Option(metavar="NAME", help="Only this use case's models.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """List registered models, the latest first. Where each stands, how it was judged, what it learned from.

    Example: audit models --spec flights
    """
    from audit.store import read
    from audit.store.engine import open_existing

    found = [model for model in read.models(open_existing()) if spec in ("", model.spec)]
    if as_json:
        output.write_json([asdict(model) for model in found])
        return
    head = ("model", "version", "environment", "figure", "gates", "trained on", "registered (UTC)", "reason")
    rows = output.table(head, map(_model, found), wrapping=("reason",))
    output.show(rows if found else output.styled(f"No model{f' of {spec}' if spec else ''} is on record."))


def datasets(
    name: Annotated[str, typer.Option(metavar="NAME", help="Only names that begin so, for example flights/.")] = "",
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most so many; 0 for all.")] = 0,
    as_json: output.AsJson = False,
) -> None:
    """List dataset versions, the latest first. The same rows made again are the same version.

    Example: audit datasets --name flights/train
    """
    from audit.store import read
    from audit.store.engine import open_existing

    found = [version for version in read.datasets(open_existing()) if version["name"].startswith(name)]
    found = found[: limit or None]
    if as_json:
        output.write_json(found)
        return
    head = ("dataset", "version", "rows", "digest", "window", "first made (UTC)", "times made")
    rows = output.table(head, map(_dataset, found), numbers=("rows", "times made"), wrapping=("dataset",))
    output.show(rows if found else output.styled(f"No dataset{f' called {name}…' if name else ''} is on record."))


def main_figure(evaluation: dict[str, Any]) -> str:
    """`AUC 0.751 [0.744, 0.758]` from the payload of a model.evaluated."""
    from audit.events.payloads import EvaluationFacts, called

    facts = EvaluationFacts.model_validate(evaluation)
    metric = next((metric for metric in facts.metrics if metric.name == facts.main), None)
    if metric is None:
        return output.NOTHING
    interval = "" if metric.low is None else f" [{metric.low:.3f}, {metric.high:.3f}]"
    return f"{called(facts.main)} {metric.value:.3f}{interval}"


def gates(evaluation: dict[str, Any]) -> str:
    """`4 of 4`"""
    return f"{sum(gate['held'] for gate in evaluation['gates'])} of {len(evaluation['gates'])}"


def by(approver: dict[str, Any] | None) -> str:
    """` by Jane Doe (asserted)`; empty where no person decided."""
    from audit.events.payloads import Approver

    return f" by {Approver(**approver)}" if approver else ""


def _model(model: "RegisteredModel") -> tuple[Any, ...]:
    trained = model.trained_on
    return (
        model.spec,
        f"v{model.version}",
        _stands(model),
        main_figure(model.evaluation) if model.evaluation else output.NOTHING,
        gates(model.evaluation) if model.evaluation else output.NOTHING,
        f"{trained['of']} v{trained['version']}" if trained else output.NOTHING,
        output.day_and_time(model.registered_at),
        model.reason + _decided(model),
    )


def _decided(model: "RegisteredModel") -> str:
    return f" · {'approved' if model.approved else 'decided'}{by(model.approver)}" if model.approver else ""


def _stands(model: "RegisteredModel") -> "Text":
    if model.awaiting_approval:
        return output.styled("awaiting approval", "yellow")
    return output.styled("production, champion", "bold green") if model.champion else output.styled(model.environment)


def _dataset(version: dict[str, Any]) -> tuple[str, ...]:
    return (
        version["name"],
        f"v{version['version']}",
        output.number(version["rows"]),
        output.short_digest(version["digest"]),
        version["window"] or output.NOTHING,
        output.day_and_time(version["first_made_at"]),
        output.number(version["times"]),
    )
