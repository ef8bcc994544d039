"""`audit approve`: a person's decision on a candidate, where no form asks for it."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli import output
from audit.errors import NotFound, UserError

if TYPE_CHECKING:
    from audit.recording.registry import Outcome

_MODEL = re.compile(r"(?:(?P<spec>[a-z][a-z0-9_-]{0,39})/)?v?(?P<version>[1-9]\d{0,8})")


def approve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="flights/v2, or v2 where one use case has models.")],
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why; goes on record.")],
    reject: Annotated[bool, typer.Option("--reject", help="Turn it away; the champion stays.")] = False,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Another name than the account's; on record as asserted.")
    ] = "",
    spec: Annotated[str, typer.Option(metavar="NAME", help="The use case, where MODEL is a version alone.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """Let a model in that awaits approval, or turn it away. A run that is paused for it goes on by itself.

    Example: audit approve flights/v2 --note "better in every slice"
    """
    from datetime import UTC, datetime

    from audit.recording import registry
    from audit.recording.circumstances import approver
    from audit.store.engine import open_existing

    open_existing()  # else a store would be made on the spot
    named, version = _version(model, spec)
    registry.reject_unanswered(named, version, datetime.now(UTC))
    said = registry.answer("reject" if reject else "approve", approver(name), note)
    outcome = registry.decide(named, version, said)
    _show(outcome, as_json=as_json)
    if outcome.promoted is reject:
        raise typer.Exit(1)


def _version(model: str, spec: str) -> tuple[str, int]:
    """Use case and version that are meant. Raises UserError, or NotFound where nothing awaits a decision."""
    given = _MODEL.fullmatch(model.strip())
    if not given:
        raise UserError(f"{model!r} is no model.", hint="Write flights/v2. See `audit models`.")
    if spec and given["spec"] not in (None, spec):
        raise UserError(f"{model} is no model of {spec}.", hint="Leave --spec out.")
    return given["spec"] or spec or _only_spec(), int(given["version"])


def _only_spec() -> str:
    from audit.store import read
    from audit.store.engine import open_existing

    specs = sorted({model.spec for model in read.models(open_existing())})
    if not specs:
        raise NotFound("No model is on record.", hint="Run the training flow first.")
    if len(specs) > 1:
        raise UserError(f"There are models of {', '.join(specs)}.", hint="Say which: flights/v2.")
    return specs[0]


def _show(outcome: "Outcome", *, as_json: bool) -> None:
    step = outcome.step
    assert step, "what was decided just now is a step"
    champion = outcome.champion.version if outcome.champion else None
    if as_json:
        said = {"promoted": outcome.promoted, "champion": champion}
        output.write_json({**step.model_dump(mode="json", exclude_none=True), **said})
        return
    by = output.styled(f"{'approved' if outcome.promoted else 'decided'} by {step.approver}")
    what = "production, champion" if outcome.promoted else "rejected"
    output.show(
        output.facts(
            ("model", f"{step.spec} v{step.version}"),
            ("now", output.styled(what, "bold green" if outcome.promoted else "yellow")),
            ("because", step.reason),
            ("decision", by),
            ("champion", f"v{champion}" if champion else "none"),
        )
    )
