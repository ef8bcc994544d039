"""Judge a model on held-out rows: figures with intervals, calibration, slices, gates, and against the champion.

Every model is judged on the same rows and the same resamples, so that the difference has an interval of its own. The
champion may have been trained on some of the test rows if they are older than its own training data; that favours it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import models, reports
from audit.errors import BadData
from audit.events.payloads import EvaluationFacts, Gate, Metric, used
from audit.events.references import DatasetVersion, ModelVersion
from audit.privacy import redact
from audit.spec.model import Gates, Spec
from tasks import _frames as frames
from tasks._frames import Evaluation, with_interval
from tasks._judging import BINS, RESAMPLES, SEED, Judged, figures, judge, with_intervals

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int], np.dtype[np.int8]]

SLICE_ROWS = 100  # a slice with fewer rows, or with one class only, has no AUC worth a gate
SLICE_VALUES = 20  # of one column, the most frequent first


def slices(frame: "pl.DataFrame", target: "Flags", score: "Floats", spec: Spec) -> list[Metric]:
    """AUC of each value of the spec's slice columns with enough rows of both classes, the largest first.

    Raises BadData if a slice column is not in the rows.
    """
    return [metric for column in spec.slices for metric in _slices_of(column, frame, target, score, spec)]


def _slices_of(column: str, frame: "pl.DataFrame", target: "Flags", score: "Floats", spec: Spec) -> list[Metric]:
    import numpy as np
    import polars as pl

    if column not in frame.columns:
        raise BadData(f"{spec.name}: slice column {column!r} is not in the test rows.", hint="Mend slices.")
    values = frame[column].cast(pl.String).fill_null("missing")
    common = values.value_counts(sort=True, name="rows").filter(pl.col("rows") >= SLICE_ROWS)
    common = common.sort(["rows", column], descending=[True, False]).head(SLICE_VALUES)
    found = []
    for value in common[column]:
        inside = (values == value).to_numpy()
        rows = int(inside.sum())
        auc = figures(judge(target[inside], score[inside], spec.deciding_threshold()), np.ones(rows))["auc"]
        if not math.isnan(auc):
            found.append(Metric(name="auc", value=auc, slice=f"{column}={value}", rows=rows))
    return found


def widest_gap(sliced: Sequence[Metric]) -> float | None:
    """The widest distance between two slices of one column, or None where no column has two slices."""
    columns: dict[str, list[float]] = {}
    for metric in sliced:
        columns.setdefault(str(metric.slice).partition("=")[0], []).append(metric.value)
    return max((max(values) - min(values) for values in columns.values() if len(values) > 1), default=None)


def gates(
    wanted: Gates, metrics: Sequence[Metric], sliced: Sequence[Metric], gain: float | None, *, champion: bool
) -> list[Gate]:
    """Each gate that the spec sets and whether it held. What could not be measured has not held.

    `gain` is the AUC over the champion, asked for only where there is one.
    """
    found = {metric.name: metric.value for metric in metrics}
    judged = [
        _at_least("auc", wanted.min_auc, found["auc"]),
        _at_most("calibration_error", wanted.max_calibration_error, found["calibration_error"]),
        _at_least("rows", wanted.min_rows, metrics[0].rows),
        _at_least("gain", wanted.min_gain, gain) if champion else None,
        _at_most("slice_gap", wanted.max_slice_gap, widest_gap(sliced)),
    ]
    return [gate for gate in judged if gate]


@task(task_run_name="evaluate {spec.name} on {test.name} {test.version}")
def evaluate(model: ModelVersion, test: DatasetVersion, spec: Spec) -> Evaluation:
    """The model's figures on `test`, its gates, and how it does against the champion on the same rows."""
    from audit.store import read
    from audit.store.engine import open_store

    frame = frames.read(test)
    target = _both_classes(frames.target(frame, spec), spec)
    score = _scores(model, frame, spec)
    own = judge(target, score, spec.deciding_threshold())
    champion = read.champion(open_store(), spec.name)
    rival = _rival(champion, frame, target, spec) if champion else None
    metrics, *others = with_intervals([own, rival] if rival else [own])
    champion_metrics, difference = others or ([], [])
    sliced = slices(frame, target, score, spec)
    judged = gates(
        spec.gates, metrics, sliced, difference[0].value if difference else None, champion=champion is not None
    )
    page = for_people(spec, metrics, difference, judged, sliced, own, champion)
    report = reports.put(page.encode(), f"{spec.name}/evaluation", media_type="text/markdown")
    held = all(gate.held for gate in judged)
    facts = EvaluationFacts(
        spec=spec.name,
        model=used("model", model),
        tested_on=used("test", test),
        champion=used("champion", champion) if champion else None,
        metrics=metrics,
        champion_metrics=champion_metrics,
        difference=difference,
        slices=sliced,
        gates=judged,
        held=held,
        report=used("report", report),
        seed=SEED,
    )
    event = record("model.evaluated", facts, subject=frames.subject(model), severity="info" if held else "warning")
    evaluation = Evaluation(
        model=model,
        tested_on=test,
        champion=champion,
        held=held,
        metrics=tuple(metrics),
        difference=tuple(difference),
        slices=tuple(sliced),
        gates=tuple(judged),
        report=report,
        event=event,
    )
    frames.leave_markdown(f"{spec.name}-evaluation", page, in_a_line(evaluation))
    return evaluation


def in_a_line(evaluation: Evaluation) -> str:
    """`AUC 0.750 [0.744, 0.758] · 4 of 4 gates held · against v1: AUC +0.011 [+0.004, +0.018]`."""
    said = [f"AUC {with_interval(evaluation.metric('auc'))}", evaluation.gates_held()]
    if evaluation.champion:
        compared = evaluation.against_champion() or "not comparable"
        said.append(f"against v{evaluation.champion.version}: {compared}")
    return " · ".join(said)


def for_people(
    spec: Spec,
    metrics: Sequence[Metric],
    difference: Sequence[Metric],
    judged: Sequence[Gate],
    sliced: Sequence[Metric],
    own: Judged,
    champion: ModelVersion | None = None,
) -> str:
    """The evaluation as a page of markdown."""
    rival = f", against the champion v{champion.version}" if champion else ""
    against = {metric.name: with_interval(metric, signed=True) for metric in difference}
    parts = [
        f"## {redact.text(spec.title)}: evaluation on {len(own.target):,} rows{rival}",
        "### Gates",
        frames.markdown_table(
            ("gate", "found", "wanted", "held"),
            [(gate.name, frames.found(gate), gate.limit, _yes(gate.held)) for gate in judged],
        ),
        "### Figures",
        f"95 % intervals from {RESAMPLES} resamples of the rows, seed {SEED}.",
        frames.markdown_table(
            ("figure", "model", f"minus v{champion.version}" if champion else "no champion yet"),
            [(metric.name, with_interval(metric), against.get(metric.name, "")) for metric in metrics],
        ),
        "### Calibration",
        frames.markdown_table(("score", "rows", "mean score", "observed share"), _calibration(own)),
        "### Slices",
        f"Up to {SLICE_VALUES} values of a column, each with at least {SLICE_ROWS} rows and both outcomes.",
        frames.markdown_table(
            ("slice", "rows", "auc"), [(m.slice or "", f"{m.rows:,}", f"{m.value:.3f}") for m in sliced]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _both_classes(target: "Flags", spec: Spec) -> "Flags":
    if not 0 < target.sum() < len(target):
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} has only one class in {len(target):,} test rows.",
            hint="Choose a longer window or a larger split.test_share.",
        )
    return target


def _scores(model: ModelVersion, frame: "pl.DataFrame", spec: Spec) -> "Floats":
    import numpy as np

    frames.refuse_infinite(frames.features(frame, spec), spec)
    score = frames.predicted(models.load(model), frame, spec).score
    if unscored := int((~np.isfinite(score)).sum()):
        raise BadData(f"{spec.name}: the model gives {unscored:,} of {len(score):,} test rows no finite score.")
    return score


def _rival(champion: ModelVersion, frame: "pl.DataFrame", target: "Flags", spec: Spec) -> Judged | None:
    """The champion on the same rows, or None where it wants features that the spec no longer has."""
    try:
        return judge(target, _scores(champion, frame, spec), spec.deciding_threshold())
    except BadData:  # not comparable: the gate on the gain says so by not holding
        return None


def _calibration(own: Judged) -> list[tuple[str, ...]]:
    import numpy as np

    rows = np.bincount(own.bins, minlength=BINS)
    scored = np.bincount(own.bins, own.score, minlength=BINS)
    observed = np.bincount(own.bins, own.target, minlength=BINS)
    return [
        (
            f"{b / BINS:.1f} to {(b + 1) / BINS:.1f}",
            f"{rows[b]:,}",
            f"{scored[b] / rows[b]:.3f}",
            f"{observed[b] / rows[b]:.3f}",
        )
        for b in range(BINS)
        if rows[b]
    ]


def _yes(held: bool) -> str:
    return "yes" if held else "**no**"


def _at_least(name: str, limit: float | None, value: float | None) -> Gate | None:
    if limit is None:
        return None
    return Gate(name=name, limit=f">= {limit:g}", value=value, held=value is not None and value >= limit)


def _at_most(name: str, limit: float | None, value: float | None) -> Gate | None:
    if limit is None:
        return None
    return Gate(name=name, limit=f"<= {limit:g}", value=value, held=value is not None and value <= limit)
