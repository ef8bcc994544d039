"""One phrase that says what a stage's event found, for the line of the task run that recorded it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from audit.cli.registry import by, gates, main_figure

if TYPE_CHECKING:
    from audit.store.read import Recorded

Facts = dict[str, Any]


def finding(event: "Recorded") -> str:
    """For example `drift in 5 of 14 columns`; empty where the payload was withdrawn."""
    return FINDINGS[event.type](event.payload) if event.payload else ""


def _validation(facts: Facts) -> str:
    held = sum(rule["held"] for rule in facts["expectations"])
    aside = f", {facts['rejected_rows']:,} rows set aside" if facts["rejected_rows"] else ""
    return f"{held} of {len(facts['expectations'])} rules held{aside}"


def _comparison(facts: Facts) -> str:
    if not facts["watched"]:
        return "drift cannot be told"
    return f"{'drift' if facts['detected'] else 'quiet'}: {facts['drifted']} of {facts['watched']} watched columns"


def _evaluation(facts: Facts) -> str:
    return f"{main_figure(facts)}, gates {gates(facts)}"


def _decisions(facts: Facts) -> str:
    failed = f", {facts['failed']:,} rows failed" if facts["failed"] else ""
    return f"{facts['rows'] - facts['failed']:,} decisions{failed}"


FINDINGS: dict[str, Callable[[Facts], str]] = {
    "dataset.validated": _validation,
    "drift.checked": _comparison,
    "model.evaluated": _evaluation,
    "model.registered": lambda facts: f"registered as v{facts['version']}",
    "model.approval_requested": lambda facts: f"v{facts['version']} put before a person",
    "model.approved": lambda facts: f"v{facts['version']} approved{by(facts.get('approver'))}: {facts['note']}",
    "model.deployed": lambda facts: f"v{facts['version']} → {facts['environment']}",
    "model.rejected": lambda facts: f"v{facts['version']} turned away{by(facts.get('approver'))}: {facts['reason']}",
    "predictions.scored": _decisions,
    "alert.sent": lambda facts: f"alert sent to {facts.get('target', 'its target')}",
    "alert.failed": lambda facts: f"alert not delivered to {facts.get('target', 'its target')}: {facts['error']}",
    "alert.held": lambda facts: f"alert held back: {facts['reason']}",
}
