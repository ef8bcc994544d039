"""What monitoring and maintenance found, in the words of a message."""

from collections.abc import Iterator, Sequence

from audit.events.payloads import AnomalyFacts, called
from audit.spec.model import Spec
from tasks._frames import ALL
from tasks.alert import Finding
from tasks.anomalies import AnomalyVerdict, shown
from tasks.outcomes import PerformanceVerdict
from tasks.upkeep import Check


def decay_finding(verdict: PerformanceVerdict, spec: Spec) -> Finding:
    """A model that still decides does worse than when it was promoted."""
    assert verdict.figure and verdict.baseline, "who has decayed was judged, then and now"
    return Finding(
        kind="decay",
        title=f"v{verdict.model.version} of {spec.name} has decayed in {verdict.window or ALL}: "
        f"{called(verdict.figure.name)} {verdict.figure.value:.3f}, {verdict.baseline.value:.3f} when it was promoted",
        body="\n".join(
            [
                f"{verdict.known:,} of {verdict.decisions:,} outcomes are known. The rule: {verdict.rule}.",
                "The pipeline or the automation retrains for it; nothing to do unless the new model fails its gates.",
                f"Where neither runs, start the training flow with cause {verdict.event}.",
            ]
        ),
        severity="warning",
        window=str(verdict.window) if verdict.window else None,
        cause=verdict.event,
    )


def anomaly_finding(verdict: AnomalyVerdict, spec: Spec) -> Finding | None:
    """Figures of a window that are far from this spec's own history; one message for all of them."""
    if not verdict.found:
        return None
    window = verdict.found[0].window
    return Finding(
        kind="anomaly",
        title=f"Unusual figures in {spec.name}{f', {window}' if window else ''}: {_named(verdict.found)}",
        body="\n".join(
            [
                *(
                    f"{one.what} {shown(one.value)}, usually {shown(one.usual)} "
                    f"({shown(one.low)} to {shown(one.high)}, by {one.history} earlier windows)"
                    for one in verdict.found
                ),
                *_what_to_do(verdict.found),
            ]
        ),
        severity="warning",
        window=window,
        cause=verdict.events[0],
    )


def maintenance_finding(checks: Sequence[Check], spec: Spec) -> Finding | None:
    """What is not in order, in one message; None where all is."""
    wrong = [check for check in checks if check.calls]
    if not wrong:
        return None
    return Finding(
        kind="maintenance",
        title=f"Maintenance of {spec.name}: {', '.join(f'{check.name} {check.verdict}' for check in wrong)}",
        body="\n".join(f"{check.name}: {check.detail}" for check in wrong),
        severity="error",
    )


def _what_to_do(found: Sequence[AnomalyFacts]) -> Iterator[str]:
    if any(one.what != "seconds" for one in found):
        yield "Nothing retrains for it. Look whether the source is whole; if it was not, mend it and score again."
    if any(one.what == "seconds" for one in found):
        yield "The run took so long, not the decisions: look at its log, and what else its machine had to do."


def _named(found: Sequence[AnomalyFacts]) -> str:
    return ", ".join(f"{one.what} {shown(one.value)}" for one in found)
