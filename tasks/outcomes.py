"""Hold decisions against what came of them: outcomes that came in later, joined to the decisions of a window.

A decision and its outcome are one row if the event time, where there is one, and every key column agree, and no other
row on either side agrees with them. What cannot be told apart is not joined but counted. The outcome is derived as it
was for training, from a version of the window that was ingested again, and the figures are those of an evaluation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from audit import record, task
from audit.events.payloads import Metric, Named, OutcomeFacts, called, used
from audit.events.references import DatasetVersion, ModelVersion, Window
from audit.spec.load import PROBABILITY
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks._frames import ALL, MAIN, Predicted, figure, with_interval
from tasks._judging import SEED, judge, varied, with_intervals

if TYPE_CHECKING:
    import polars as pl

Checked = tuple[read.Recorded, OutcomeFacts]
Verdict = Literal["steady", "decayed", "not known yet", "cannot be told"]

UNSCORED = "the row was not scored"
NAMELESS = "a key is missing"
AMBIGUOUS = "other rows have the same keys"
ABSENT = "no row of the source has its keys"
UNKNOWN = "the outcome is not known yet"

# No column of a user's is called so.
_ROW, _SCORE, _ALIKE, _ROWS, _OUTCOME = "\x00row", "\x00score", "\x00alike", "\x00rows", "\x00outcome"
_NO_KEY = "\x00key"


@dataclass(frozen=True, slots=True)
class Joined:
    """The decisions of a window with their outcomes where those are known, and why the others have none."""

    decided: "pl.DataFrame"  # the decisions whose outcome is known
    outcomes: "pl.DataFrame"  # row for row, the target alone
    decisions: int
    left_out: dict[str, int]

    @property
    def known(self) -> int:
        return self.outcomes.height

    @property
    def share(self) -> float:
        return self.known / self.decisions


class PerformanceVerdict(BaseModel):
    """How a model did in one window, and the event that says so: performance.decayed where it asks for a new model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Window | None
    model: ModelVersion
    verdict: Verdict
    asks_for_retraining: bool  # decayed, and the model still decides
    event: str
    decisions: int
    known: int
    figure: Metric | None = None  # the main one
    baseline: Metric | None = None  # likewise, when the model was promoted
    rule: str


def join(decisions: "pl.DataFrame", source: "pl.DataFrame", spec: Spec) -> Joined:
    """The decisions whose outcome is known, with that; `source` is what ingest makes of the same window, later."""
    import polars as pl

    keys = _keys(decisions, source, spec) or [_NO_KEY]
    if keys == [_NO_KEY]:  # decided on before the spec had any
        nameless = pl.lit(None, pl.String).alias(_NO_KEY)
        decisions, source = decisions.with_columns(nameless), source.with_columns(nameless)
    outcomes = (
        frames.derived(source, spec)
        .select(*keys, pl.col(spec.target.column).alias(_OUTCOME))
        .with_columns(pl.len().over(keys).alias(_ROWS))
        .unique(keys)
    )
    pairs = decisions.select(
        *keys,
        pl.int_range(pl.len()).alias(_ROW),
        pl.col("score").alias(_SCORE),
        pl.len().over(keys).alias(_ALIKE),
    ).join(outcomes, on=keys, how="left", maintain_order="left")
    reasons = pairs.select(_reason(keys))["reason"]
    known = pairs.filter(reasons.is_null())
    counted = reasons.drop_nulls().value_counts(name="rows").sort(["rows", "reason"], descending=[True, False])
    return Joined(
        decided=decisions[known[_ROW]],
        outcomes=known.select(pl.col(_OUTCOME).alias(spec.target.column)),
        decisions=decisions.height,
        left_out=dict(counted.iter_rows()),
    )


def verdict_of(now: Metric | None, baseline: Metric | None, spec: Spec) -> Verdict:
    """By the spec's rule; `now` is None where there are no figures, `baseline` where the model was never judged."""
    if now is None or now.high is None or baseline is None:
        return "cannot be told"
    return "decayed" if now.high < baseline.value - spec.performance.max_loss else "steady"


def rule(spec: Spec) -> str:
    """The spec's rule on decay in words."""
    wanted, main = spec.performance, called(MAIN[spec.target.kind])
    return (
        f"decayed where even the upper end of the {main}'s 95 % interval is more than {wanted.max_loss:g} below "
        f"the {main} that the model was promoted on; not before {wanted.min_known:.0%} of the outcomes are known"
    )


@task(task_run_name=frames.run_name("performance {spec.name} {window}"))
def check_performance(
    decisions: DatasetVersion, source: DatasetVersion, model: ModelVersion, spec: Spec, window: Window | None
) -> PerformanceVerdict:
    """How `model`'s decisions of the window did, by the outcomes in `source`, against its evaluation at promotion."""
    joined = join(frames.read(decisions), frames.read(source), spec)
    metrics = _metrics(joined, spec)
    baseline = _promoted_on(model, spec)
    main = MAIN[spec.target.kind]
    now, then = figure(main, metrics), figure(main, baseline)
    complete = joined.share >= spec.performance.min_known
    facts = OutcomeFacts(
        spec=spec.name,
        window=str(window) if window else None,
        model=used("model", model),
        decisions=used("decisions", decisions),
        outcomes=used("source", source),
        rows=joined.decisions,
        known=joined.known,
        left_out=[Named(name=reason, value=count) for reason, count in joined.left_out.items()],
        metrics=metrics,
        main=main,
        baseline=baseline,
        rule=rule(spec),
        verdict=verdict_of(now, then, spec) if complete else "not known yet",
        seed=SEED,
    )
    subject = f"segment/{decisions.name}/{decisions.version}"
    asks = facts.verdict == "decayed" and read.champion(open_store(), spec.name) == model
    before = list(_checked(spec))
    event = _found_before(facts, before) or record("performance.checked", facts, subject=subject)
    if asks:
        event = record("performance.decayed", facts, subject=subject)
    _leave_for_people(facts, before, spec)
    return PerformanceVerdict(
        window=window,
        model=model,
        verdict=facts.verdict,
        asks_for_retraining=asks,
        event=event,
        decisions=facts.rows,
        known=facts.known,
        figure=now,
        baseline=then,
        rule=facts.rule,
    )


def _reason(keys: list[str]) -> "pl.Expr":
    """Why a decision has no outcome; null where it has one."""
    import polars as pl

    cases = {
        UNSCORED: pl.col(_SCORE).is_null(),
        NAMELESS: pl.any_horizontal(pl.col(keys).is_null()),
        AMBIGUOUS: (pl.col(_ALIKE) > 1) | (pl.col(_ROWS) > 1),
        ABSENT: pl.col(_ROWS).is_null(),
        UNKNOWN: pl.col(_OUTCOME).is_null(),
    }
    return pl.coalesce(pl.when(case).then(pl.lit(reason)) for reason, case in cases.items()).alias("reason")


def _keys(decisions: "pl.DataFrame", source: "pl.DataFrame", spec: Spec) -> list[str]:
    """What rows are told apart by; a spec that has gained a key since has decisions without it."""
    wanted = dict.fromkeys([*([spec.event_time] if spec.event_time else []), *spec.row_keys()])
    return [name for name in wanted if name in decisions.columns and name in source.columns]


def _metrics(joined: Joined, spec: Spec) -> list[Metric]:
    """The figures, or none where too few outcomes are known, all are alike, or the decisions lack what is judged."""
    if joined.share < spec.performance.min_known:
        return []
    target = frames.target(joined.outcomes, spec)
    predicted = _predicted(joined.decided, spec)
    if not varied(target) or not predicted:
        return []
    (metrics,) = with_intervals([judge(target, predicted, spec)])
    return metrics


def _predicted(decided: "pl.DataFrame", spec: Spec) -> Predicted | None:
    """What the model said then; None where the decisions are from before the target had several classes."""
    import numpy as np

    score = decided["score"].to_numpy().astype(np.float64)
    if spec.target.kind != "multiclass":
        return Predicted(score)
    columns = [name for name in decided.columns if name.startswith(PROBABILITY)]
    if not columns:
        return None
    classes, probabilities = [name.removeprefix(PROBABILITY) for name in columns], decided.select(columns).to_numpy()
    return Predicted(score, np.array(classes)[probabilities.argmax(axis=1)], probabilities, tuple(classes))


def _promoted_on(model: ModelVersion, spec: Spec) -> list[Metric]:
    """The figures of the evaluation that let the model in; none where that is not on record."""
    known = (m for m in read.models(open_store()) if (m.spec, m.version) == (spec.name, model.version))
    evaluation = next((m.evaluation for m in known), None)
    return [Metric.model_validate(metric) for metric in evaluation["metrics"]] if evaluation else []


def _found_before(facts: OutcomeFacts, before: Sequence[Checked]) -> str | None:
    """The event that says the same already: outcomes that do not come in would fill the record day by day."""
    return next((event.id for event, known in before if known == facts), None)


def _checked(spec: Spec) -> Iterator[Checked]:
    """What was found so far, the oldest first."""
    for event in read.events(open_store(), types=("performance.checked",), spec=spec.name, newest_first=False):
        if event.payload:
            yield event, OutcomeFacts.model_validate(event.payload)


def _leave_for_people(facts: OutcomeFacts, before: Sequence[Checked], spec: Spec) -> None:
    """The table of all months, of which this is one."""
    alike = [known for _, known in before if known.main == facts.main]
    latest = {known.window or ALL: known for known in [*alike, facts]}
    rows = [_row(latest[window], spec) for window in sorted(latest)]
    found = f"{facts.verdict.capitalize()} in {facts.window or ALL}, v{facts.model.version}"
    told = f"{found}. The rule: {facts.rule}. The bar of what was lost is half full there."
    frames.leave_table(f"{spec.name}-performance", rows, told)


def _row(facts: OutcomeFacts, spec: Spec) -> dict[str, str]:
    now, then = figure(facts.main, facts.metrics), figure(facts.main, facts.baseline)
    loss = max(0.0, then.value - (now.value if now.high is None else now.high)) if now and then else 0.0
    return {
        "month": facts.window or ALL,
        "model": f"v{facts.model.version}",
        "verdict": facts.verdict,
        "lost": frames.bar(loss / spec.performance.max_loss, width=8),
        called(facts.main): with_interval(now) if now else "",
        "was": f"{then.value:.3f}" if then else "",
        "known": f"{facts.known / facts.rows:.0%} of {facts.rows:,}",
    }
