"""Compare current data with what the model was trained on: data, prediction and target drift, by Evidently.

A fixed threshold finds drift in every month of data that has seasons. So the threshold of a column comes from the
reference: `margin` times the largest distance that any of its months keeps from its other months, in the same measure
on samples of the same size, never under `floor`. The drift rule fires when at least `share` of the compared columns
reach theirs. It does not see columns that change only together, nor a share of missing values that grows.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from audit import record, task
from audit.artifacts import models, reports
from audit.errors import BadData
from audit.events.payloads import ColumnDrift, DriftFacts, Named, used
from audit.events.references import DatasetVersion, ModelVersion, Report, Window
from audit.spec.load import SCORE
from audit.spec.model import Spec
from tasks import _frames as frames
from tasks import _workspace as workspace
from tasks._frames import bar

if TYPE_CHECKING:
    import polars as pl
    from evidently.core.report import Snapshot
    from sklearn.pipeline import Pipeline

    from tasks._frames import Floats, Texts

    Output = Floats | Texts

MIN_ROWS = 100  # on either side, and of each part to calibrate on: below it distances are mostly chance
MIN_MONTHS = 3  # of the reference; with fewer, it is cut into EQUAL_PARTS of as many rows, in order of time
EQUAL_PARTS = 6
DIGITS = 6  # of scores and thresholds: what lies beyond hangs on the order in which categories are added up
EMPTY = 1.0  # score of a column that has values on one side only

Kind = Literal["data", "prediction", "target"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """From which distance on a column counts as drifted, and what that was taken from."""

    method: str
    value: float
    within: float | None  # the largest distance of one part of the reference from the others


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found between two datasets, with Evidently's own record of it."""

    columns: tuple[ColumnDrift, ...]
    left_out: tuple[Named, ...]
    reference_rows: int  # of the samples
    current_rows: int
    snapshot: "Snapshot"

    @property
    def drifted(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.drifted)

    @property
    def share(self) -> float:
        return len(self.drifted) / len(self.columns)


class DriftVerdict(BaseModel):
    """Whether the drift rule fired, why, and the event that says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detected: bool
    event: str  # drift.detected where it fired, else drift.checked
    drifted: tuple[str, ...]
    columns: tuple[ColumnDrift, ...]  # the farthest beyond its threshold first
    left_out: tuple[Named, ...] = ()
    report: Report


def thresholds(reference: "pl.DataFrame", spec: Spec, scores: "Output | None" = None) -> dict[str, Threshold]:
    """Threshold of each watched column that `reference` has; `scores` are the model's, row by row.

    Same rows and spec: same thresholds. Nothing but the reference goes into them.
    """
    rows = watched(reference, spec, scores)
    largest: dict[str, float] = {}
    for part, others in _parts(reference, spec):
        one, rest = _sample(rows.filter(part), spec), _sample(rows.filter(others), spec)
        for name in rows.columns:
            if not (_empty(one, name) or _empty(rest, name)):
                largest[name] = max(largest.get(name, 0.0), _distance(rest, one, name, spec))
    return {name: _threshold(rows, name, largest.get(name), spec) for name in rows.columns}


def compare(
    reference: "pl.DataFrame",
    current: "pl.DataFrame",
    spec: Spec,
    *,
    reference_scores: "Output | None" = None,
    current_scores: "Output | None" = None,
    model: ModelVersion | None = None,
    window: Window | None = None,
) -> Comparison:
    """Every watched column of `current` against `reference`, measured by one Evidently report.

    `model` and `window` are what the report says it is about.

    Raises BadData if either side has too few rows or a column cannot be compared by its type.
    """
    _check_rows(reference, current, spec)
    limits = thresholds(reference, spec, reference_scores)
    before = _sample(watched(reference, spec, reference_scores), spec)
    now = _sample(watched(current, spec, current_scores), spec)
    reasons = dict(_reasons_to_leave_out(before, now, spec))
    one_sided = [n for n in limits if n not in reasons and _empty(before, n) != _empty(now, n)]
    measured = {n: limits[n] for n in limits if n not in reasons and n not in one_sided}
    if not measured:
        raise BadData(f"{spec.name}: no watched column can be compared.", hint="Add columns to drift.watch.")
    snapshot = _report(before, now, measured, spec, _about(spec, model, window))
    scores = _scores_of(snapshot) | dict.fromkeys(one_sided, EMPTY)
    found = [_verdict(name, scores[name], limits[name], spec, one_sided=name in one_sided) for name in scores]
    return Comparison(
        columns=tuple(sorted(found, key=lambda c: c.score / c.threshold, reverse=True)),
        left_out=tuple(Named(name=name, value=reason) for name, reason in reasons.items()),
        reference_rows=before.height,
        current_rows=now.height,
        snapshot=snapshot,
    )


def watched(frame: "pl.DataFrame", spec: Spec, scores: "Output | None" = None) -> "pl.DataFrame":
    """The watched columns of `frame` as numbers and text, the scores among them; what is not finite is missing.

    Raises BadData if one is not there or is neither number, text nor boolean.
    """
    import polars as pl
    from polars import selectors as cs

    if scores is not None:
        frame = frame.with_columns(pl.Series(SCORE, scores))
    elif SCORE in frame.columns:
        frame = frame.drop(SCORE)
    may_be_absent = {SCORE, spec.target.column}
    for name in spec.drift.watch:
        if name not in frame.columns and name not in may_be_absent:
            raise BadData(
                f"{spec.name}: watched column {name!r} is not in the features.",
                hint="Take it out of drift.watch, or make it a feature.",
            )
    rows = frame.select(name for name in spec.drift.watch if name in frame.columns)
    for name, dtype in rows.schema.items():
        if not (dtype.is_numeric() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)):
            raise BadData(
                f"{spec.name}: watched column {name!r} is of dtype {dtype}, which has no distance.",
                hint="Derive a number or a category from it and watch that.",
            )
    return rows.with_columns(
        pl.when(cs.float().is_finite()).then(cs.float()),
        (cs.boolean() | cs.categorical() | cs.enum()).cast(pl.String),
        cs.decimal().cast(pl.Float64),
    )


def rule(spec: Spec) -> str:
    """The spec's drift rule in words."""
    drift = spec.drift
    return (
        f"at least {drift.share:.0%} of the compared columns reach their threshold: {drift.margin:g} times the largest "
        f"distance of one month of the reference from its others, never under {drift.floor:g}"
    )


def table(columns: tuple[ColumnDrift, ...]) -> list[dict[str, str]]:
    """The comparison as rows for people, with a bar that is half full at the threshold."""
    return [
        {
            "column": column.name,
            "score": f"{column.score:.3f}",
            "threshold": f"{column.threshold:.3f}",
            "verdict": "drifted" if column.drifted else "steady",
            "half full at the threshold": bar(column.score / column.threshold),
        }
        for column in columns
    ]


@task(task_run_name=frames.run_name("check drift {spec.name} {window}"))
def check_drift(
    reference: DatasetVersion,
    current: DatasetVersion,
    spec: Spec,
    model: ModelVersion | None = None,
    window: Window | None = None,
) -> DriftVerdict:
    """Whether `current` has drifted from `reference`, the rows that `model` was fitted on."""
    before, now = frames.read(reference), frames.read(current)
    pipeline = models.load(model) if model else None
    foretold = [_foretold(pipeline, rows, spec) for rows in (before, now)]
    found = compare(
        before,
        now,
        spec,
        reference_scores=foretold[0],
        current_scores=foretold[1],
        model=model,
        window=window,
    )
    name = f"{spec.name} drift {window or current.version}"
    report = reports.put(found.snapshot.get_html_str(as_iframe=False).encode(), name)
    snapshot = reports.put(found.snapshot.dumps().encode(), name, "application/json")
    facts = DriftFacts(
        spec=spec.name,
        window=str(window) if window else None,
        reference=used("reference", reference),
        current=used("current", current),
        model=used("model", model) if model else None,
        report=used("report", report),
        snapshot=used("snapshot", snapshot),
        sample_rows=spec.drift.sample,
        reference_rows=found.reference_rows,
        current_rows=found.current_rows,
        seed=spec.drift.seed,
        columns=list(found.columns),
        left_out=list(found.left_out),
        watched=len(found.columns),
        drifted=len(found.drifted),
        share=round(found.share, DIGITS),
        rule=rule(spec),
        detected=found.share >= spec.drift.share,
    )
    workspace.add(found.snapshot, facts, spec)  # before anybody is told, for then people wait for a message
    event = record("drift.checked", facts, subject=frames.subject(current))
    if facts.detected:
        event = record("drift.detected", facts, subject=frames.subject(current))
    _leave_for_people(facts, report)
    return DriftVerdict(
        detected=facts.detected,
        event=event,
        drifted=found.drifted,
        columns=found.columns,
        left_out=found.left_out,
        report=report,
    )


def _foretold(model: "Pipeline | None", rows: "pl.DataFrame", spec: Spec) -> "Output | None":
    """What the model says of each row, infinite values taken for missing ones; None without a model, or a row."""
    if model is None or rows.is_empty():
        return None
    return frames.predicted(model, frames.without_infinity(rows), spec).output()


def in_a_line(facts: DriftFacts) -> str:
    """`Drift in 2013-07: 5 of 14 watched columns drifted`."""
    verdict = "Drift" if facts.detected else "No drift"
    where = facts.window or facts.current.of
    return f"{verdict} in {where}: {facts.drifted} of {facts.watched} watched columns drifted"


def page(facts: DriftFacts, links: str = "") -> str:
    """The verdict as a page of markdown."""
    left_out = "".join(f"\n- {column.name} left out: {column.value}" for column in facts.left_out)
    by = f", by the model v{facts.model.version}" if facts.model else ""
    return (
        f"**{'Drift' if facts.detected else 'No drift'}**: {facts.drifted} of {facts.watched} watched columns, "
        f"{facts.window or facts.current.of} against {facts.reference.of} version {facts.reference.version}{by}\n\n"
        f"{frames.as_markdown(table(tuple(facts.columns)))}\n\n"
        f"The rule: {facts.rule}.\n{left_out}\n\n{links}\n"
    )


def _leave_for_people(facts: DriftFacts, report: Report) -> None:
    key = f"{facts.spec}-drift"
    links = frames.links({"Evidently's report": reports.link(report), "month by month": workspace.link(facts)})
    frames.leave_table(key, table(tuple(facts.columns)), f"{in_a_line(facts)}. The rule: {facts.rule}. {links}")
    frames.leave_markdown(f"{key}-summary", page(facts, links), in_a_line(facts))


def _check_rows(reference: "pl.DataFrame", current: "pl.DataFrame", spec: Spec) -> None:
    for side, rows in (("reference", reference.height), ("current", current.height)):
        if rows < MIN_ROWS:
            raise BadData(
                f"{spec.name}: the {side} data have {rows:,} rows, and drift needs {MIN_ROWS:,}.",
                hint="Choose a longer window.",
            )


def _parts(reference: "pl.DataFrame", spec: Spec) -> "Iterator[tuple[pl.Series, pl.Series]]":
    """Row masks of each part of the reference and of the rest: its calendar months, else equal parts.

    A month of which less than half is there is no part: four days differ from the rest more than any month does.
    """
    part = _months(reference, spec)
    if len(_whole(part)) < MIN_MONTHS:
        part = _equal_parts(reference, spec)
    for label in _whole(part):
        yield part == label, part != label


def _months(reference: "pl.DataFrame", spec: Spec) -> "pl.Series":
    """Each row's calendar month as a number; one for all rows where there is no time."""
    import polars as pl

    name = spec.event_time
    if name is None or name not in reference.columns or reference.schema[name] not in (pl.Date, pl.Datetime):
        return pl.zeros(reference.height, pl.Int32, eager=True)
    time = reference[name].dt
    return (time.year() * 12 + time.month()).fill_null(0)


def _equal_parts(reference: "pl.DataFrame", spec: Spec) -> "pl.Series":
    """EQUAL_PARTS labels in order of time, drawn with the spec's seed where there is no time."""
    import polars as pl

    if spec.event_time in reference.columns:
        place = reference[spec.event_time].rank("ordinal").fill_null(1) - 1
    else:  # rows without a time stand in an order of their own: by chance, or parts would differ as that does
        place = pl.int_range(reference.height, eager=True).shuffle(seed=spec.drift.seed)
    return place * EQUAL_PARTS // reference.height


def _whole(part: "pl.Series") -> list[int]:
    """Labels of the parts with enough rows to stand for their kind, in order."""
    rows: dict[int, int] = dict(part.value_counts().iter_rows())
    enough = max(MIN_ROWS, statistics.median(rows.values()) / 2)
    return sorted(label for label, count in rows.items() if count >= enough)


def _sample(rows: "pl.DataFrame", spec: Spec) -> "pl.DataFrame":
    """At most the spec's sample of rows, in their order."""
    import numpy as np

    if rows.height <= spec.drift.sample:
        return rows
    chosen = np.random.default_rng(spec.drift.seed).choice(rows.height, spec.drift.sample, replace=False)
    return rows[np.sort(chosen)]


def _distance(reference: "pl.DataFrame", current: "pl.DataFrame", name: str, spec: Spec) -> float:
    """What Evidently's report would say of one column, without the report."""
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    kind = ColumnType.Numerical if reference.schema[name].is_numeric() else ColumnType.Categorical
    one, other = (rows[name].drop_nulls().to_pandas() for rows in (reference, current))
    measure = get_stattest(one, other, kind, _method(reference, name, spec))
    return _number(measure(one, other, kind, None).drift_score)


def _threshold(rows: "pl.DataFrame", name: str, within: float | None, spec: Spec) -> Threshold:
    value = max(spec.drift.floor, spec.drift.margin * (within or 0.0))
    return Threshold(
        method=_method(rows, name, spec),
        value=round(value, DIGITS) or 10.0**-DIGITS,  # a constant column must not drift at distance zero
        within=None if within is None else round(within, DIGITS),
    )


def _method(rows: "pl.DataFrame", name: str, spec: Spec) -> str:
    """The spec's method; categories have no Wasserstein distance and get Jensen-Shannon's."""
    text = not rows.schema[name].is_numeric()
    return "jensenshannon" if text and spec.drift.method == "wasserstein" else spec.drift.method


def _reasons_to_leave_out(reference: "pl.DataFrame", current: "pl.DataFrame", spec: Spec) -> Iterator[tuple[str, str]]:
    for name in spec.drift.watch:
        if name not in reference.columns or name not in current.columns:
            yield name, "no model was given" if name == SCORE else "not known on both sides"
        elif name == spec.target.column and _empty(current, name):
            yield name, "not known yet"
        elif _empty(reference, name) and _empty(current, name):
            yield name, "no values on either side"


def _empty(rows: "pl.DataFrame", name: str) -> bool:
    return rows[name].null_count() == rows.height


def _about(spec: Spec, model: ModelVersion | None, window: Window | None) -> dict[str, Any]:
    """How Evidently's UI lists the report, and where it stands in its charts."""
    said = {"window": str(window) if window else None, "model": f"v{model.version}" if model else None}
    known = {name: value for name, value in said.items() if value}
    return {
        "name": " ".join((spec.name, *known.values())),
        "timestamp": workspace.at(window),
        "metadata": known,
        "tags": [spec.name, *known.values()],
    }


def _report(
    reference: "pl.DataFrame", current: "pl.DataFrame", limits: dict[str, Threshold], spec: Spec, about: dict[str, Any]
) -> "Snapshot":
    import numpy as np
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name in limits if reference.schema[name].is_numeric()]
    for name in limits:
        if current.schema[name].is_numeric() != (name in numbers):
            raise BadData(
                f"{spec.name}: watched column {name!r} is a number on one side only.",
                hint="Build both sides' features with the same spec.",
            )
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in limits if name not in numbers]
    )
    preset = DataDriftPreset(
        columns=list(limits),
        per_column_method={name: limit.method for name, limit in limits.items()},
        per_column_threshold={name: limit.value for name, limit in limits.items()},
        drift_share=spec.drift.share,
    )
    now, before = (
        Dataset.from_pandas(rows.select(list(limits)).to_pandas(), data_definition=definition)
        for rows in (current, reference)
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # its pictures correlate constant columns too
        return Report([preset], include_tests=True).run(now, before, **about)


def _scores_of(snapshot: "Snapshot") -> dict[str, float]:
    """Evidently's score of each column, from its own record."""
    metrics = snapshot.dict()["metrics"]
    return {m["config"]["column"]: _number(m["value"]) for m in metrics if m["config"]["type"].endswith(":ValueDrift")}


def _verdict(name: str, score: float, limit: Threshold, spec: Spec, *, one_sided: bool) -> ColumnDrift:
    kind: Kind = "prediction" if name == SCORE else "target" if name == spec.target.column else "data"
    return ColumnDrift(
        name=name,
        of=kind,
        method="values on one side only" if one_sided else limit.method,
        score=round(score, DIGITS),
        threshold=limit.value,
        within=limit.within,
        drifted=one_sided or score >= limit.value,
    )


def _number(score: float) -> float:
    """NaN is what scipy makes of a Jensen-Shannon divergence that rounding took below zero."""
    return 0.0 if score != score else float(score)
