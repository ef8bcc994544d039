"""One phrase that says what a stage's event found, for the line of the task run that recorded it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from audit.cli.registry import auc, gates

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
    return f"{'drift' if facts['detected'] else 'quiet'}: {facts['drifted']} of {facts['watched']} watched columns"


def _evaluation(facts: Facts) -> str:
    return f"AUC {auc(facts)}, gates {gates(facts)}"


def _decisions(facts: Facts) -> str:
    failed = f", {facts['failed']:,} rows failed" if facts["failed"] else ""
    return f"{facts['rows'] - facts['failed']:,} decisions{failed}"


FINDINGS: dict[str, Callable[[Facts], str]] = {
    "dataset.validated": _validation,
    "drift.checked": _comparison,
    "model.evaluated": _evaluation,
    "model.registered": lambda facts: f"registered as v{facts['version']}",
    "model.deployed": lambda facts: f"v{facts['version']} → {facts['environment']}",
    "model.rejected": lambda facts: f"v{facts['version']} turned away: {facts['reason']}",
    "predictions.scored": _decisions,
    "alert.sent": lambda facts: f"alert sent to {facts.get('target', 'its target')}",
    "alert.failed": lambda facts: "alert not delivered",
}
