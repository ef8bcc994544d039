"""Hold one window's decisions against this spec's own history: how many, how many failed, what scores, how long.

The usual range is the median of earlier windows about as long, without windows of all earlier decisions, plus and minus
`FACTOR` spreads. A spread is the median absolute deviation, scaled to a standard deviation, and never less than a
floor: figures that have not moved so far would else make an anomaly of the first that does. With fewer than `ENOUGH`
earlier windows nothing is said. It finds what is broken, half the rows or a doubled score, not what drifts.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from audit import record, task
from audit.events.payloads import AnomalyFacts
from audit.events.references import DatasetVersion, Window
from audit.spec.model import Spec, TargetKind
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames

ENOUGH = 5  # earlier windows
FACTOR = 5.0
TO_DEVIATION = 1.4826  # of a normal distribution: from median absolute to standard deviation
AS_LONG = 0.8  # a window this much shorter or longer than another is not compared with it


@dataclass(frozen=True, slots=True)
class Floor:
    """The least spread of a figure: a share of its median, or an absolute value where that is more; and what it cannot
    be less or more than."""

    relative: float = 0.0
    absolute: float = 0.0
    least: float = 0.0
    most: float = math.inf


FIGURES = {
    "rows": Floor(relative=0.1),
    "failed_share": Floor(absolute=0.002, most=1.0),
    "mean_score": Floor(relative=0.1, absolute=0.01, most=1.0),
    "score_p10": Floor(relative=0.08, absolute=0.04, most=1.0),
    "score_p50": Floor(relative=0.08, absolute=0.04, most=1.0),
    "score_p90": Floor(relative=0.08, absolute=0.04, most=1.0),
    "positive_share": Floor(relative=0.2, absolute=0.03, most=1.0),  # the scores' tail moves most with the seasons
    "seconds": Floor(relative=1.0, absolute=1.0),  # machines are shared
}
SCORES = ("mean_score", "_p10", "_p50", "_p90")
NUMBER = Floor(relative=0.1, least=-math.inf)  # of a score that is no probability: it may be of any size


@dataclass(frozen=True, slots=True)
class Usual:
    """What a figure's history makes likely."""

    median: float
    low: float
    high: float
    history: int

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


class AnomalyVerdict(BaseModel):
    """What was far from usual, and the event of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    found: tuple[AnomalyFacts, ...]
    events: tuple[str, ...]
    history: int  # earlier windows

    @property
    def compared(self) -> bool:
        """Whether there were enough of them to say anything."""
        return self.history >= ENOUGH


def usual(history: Sequence[float], floor: Floor) -> Usual | None:
    """The range that `history` makes likely, or None where it is too short to say."""
    if len(history) < ENOUGH:
        return None
    median = statistics.median(history)
    deviation = TO_DEVIATION * statistics.median(abs(value - median) for value in history)
    width = FACTOR * max(deviation, floor.relative * abs(median), floor.absolute)
    return Usual(median, max(median - width, floor.least), min(median + width, floor.most), len(history))


def figures(scored: Mapping[str, Any], seconds: float | None) -> dict[str, float]:
    """The figures of one predictions.scored payload, and how long its run took; what is not known is left out."""
    rows, failed = scored["rows"], scored["failed"]
    found = {
        "rows": float(rows),
        "failed_share": failed / rows,
        "mean_score": scored.get("mean_score"),
        **{f"score_{one['name']}": one["value"] for one in scored.get("scores", ())},
        "positive_share": _positive_share(scored),
        "seconds": seconds,
    }
    return {name: value for name, value in found.items() if value is not None}


def floor_of(figure: str, kind: TargetKind) -> Floor:
    """The least spread of a figure, for scores of a target of this kind."""
    return NUMBER if kind == "regression" and figure.endswith(SCORES) else FIGURES[figure]


@task(task_run_name=frames.run_name("anomalies {spec.name} {window}"))
def check_anomalies(decisions: DatasetVersion, spec: Spec, window: Window | None = None) -> AnomalyVerdict:
    """Which figures of the window's decisions are far from those of earlier windows."""
    history, now = _history(decisions, spec, window)
    judged = {
        name: usual([e[name] for e in history if name in e], floor_of(name, spec.target.kind)) for name in FIGURES
    }
    found = tuple(
        AnomalyFacts(
            spec=spec.name,
            what=name,
            window=str(window) if window else None,
            value=now[name],
            usual=range.median,
            low=range.low,
            high=range.high,
            history=range.history,
        )
        for name, range in judged.items()
        if range and name in now and not range.holds(now[name])
    )
    subject = f"segment/{decisions.name}/{decisions.version}"
    events = tuple(record("anomaly.detected", facts, subject=subject) for facts in found)
    frames.leave_table(f"{spec.name}-anomalies", table(now, judged), description=RULE)
    return AnomalyVerdict(found=found, events=events, history=len(history))


RULE = (
    f"The usual range is the median of at least {ENOUGH} earlier windows, plus and minus {FACTOR:g} times their scaled "
    "median absolute deviation"
)


def table(now: Mapping[str, float], judged: "Mapping[str, Usual | None]") -> list[dict[str, str]]:
    """The comparison as rows for people."""
    return [
        {
            "figure": name,
            "value": shown(now[name]),
            "usual": shown(range.median) if range else "",
            "from": shown(range.low) if range else "",
            "to": shown(range.high) if range else "",
            "verdict": "not enough history" if range is None else "usual" if range.holds(now[name]) else "anomaly",
        }
        for name, range in judged.items()
        if name in now
    ]


def shown(value: float) -> str:
    """`28,293` or `0.0312`."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _positive_share(scored: Mapping[str, Any]) -> float | None:
    """Of all decisions; None where nothing was decided true or false."""
    decided: int = scored["rows"] - scored["failed"]
    if scored.get("kind") == "multiclass" or not scored["decisions"] or not decided:
        return None
    positive: int = next(count["value"] for count in scored["decisions"] if count["name"] == "positive")
    return positive / decided


def _history(
    decisions: DatasetVersion, spec: Spec, window: Window | None
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The figures of earlier windows about as long, each window's last ones, and those of this one."""
    earlier: dict[str, read.Recorded] = {}
    for scored in read.events(open_store(), types=("predictions.scored",), spec=spec.name, newest_first=False):
        if not scored.payload:
            continue
        if scored.payload["segment"]["address"] == decisions.address:
            now = scored
            break
        alike = scored.payload.get("kind", "binary") == spec.target.kind
        if alike and comparable(scored.payload.get("window"), window):
            earlier[scored.payload.get("window") or scored.id] = scored
    runs = [scored.flow_run_id for scored in [*earlier.values(), now] if scored.flow_run_id]
    seconds = read.flow_run_seconds(open_store(), runs)
    *past, present = (figures(e.payload, seconds.get(e.flow_run_id or "")) for e in [*earlier.values(), now])
    return past, present


def comparable(text: str | None, window: Window | None) -> bool:
    """Whether what was decided on under this name is an earlier window about as long; no window is like no other."""
    if text is None or window is None:
        return text is None and window is None
    other = Window.parse(text)
    ratio = (other.end - other.start) / (window.end - window.start)
    return other.end <= window.start and AS_LONG <= ratio <= 1 / AS_LONG
