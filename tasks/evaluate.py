"""Judge a model on held-out rows: figures with intervals, calibration, slices, gates, and against the champion.

Intervals are the 2.5th and 97.5th percentile of a bootstrap over rows. Every model is judged on the same rows and the
same resamples, so that the difference has an interval of its own. The champion may have been trained on
some of the test rows if they are older than its own training data; that favours it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import models, reports
from audit.errors import BadData
from audit.events.payloads import EvaluationFacts, Gate, Metric, used
from audit.events.references import DatasetVersion, ModelVersion
from audit.privacy import redact
from audit.spec.model import Gates, Spec
from tasks import _frames as frames
from tasks._frames import Evaluation, in_words, with_interval

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int], np.dtype[np.int8]]
    Integers = np.ndarray[tuple[int], np.dtype[np.int64]]

RESAMPLES = 200
SEED = 0
BINS = 10  # of equal width, for the calibration error
SLICE_ROWS = 100  # a slice with fewer rows, or with one class only, has no AUC worth a gate
SLICE_VALUES = 20  # of one column, the most frequent first
TINY = 1e-15  # a certain and wrong score costs 34.5 nats, not infinitely many


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores beside outcomes, sorted once, so that each resample costs a few passes over the rows."""

    target: "Floats"
    score: "Floats"
    order: "Integers"  # rows by falling score
    ends: "Integers"  # in that order, the last row of each run of equal scores
    bins: "Integers"
    measures: "np.ndarray[tuple[int, int], np.dtype[np.float64]]"  # what is summed over rows, one measure a line


def judge(target: "Flags", score: "Floats", threshold: float) -> Judged:
    """Scores made ready for `figures`."""
    import numpy as np

    truth = target.astype(np.float64)
    decided = (score >= threshold).astype(np.float64)
    safe = np.clip(score, TINY, 1 - TINY)
    log_loss = -np.where(target == 1, np.log(safe), np.log1p(-safe))
    order = np.argsort(-score, kind="stable")
    return Judged(
        target=truth,
        score=score,
        order=order,
        ends=np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1),
        bins=np.minimum((score * BINS).astype(np.int64), BINS - 1),
        measures=np.stack([log_loss, (score - truth) ** 2, decided == truth, decided * truth, decided]),
    )


def figures(judged: Judged, counts: "Floats") -> dict[str, float]:
    """Every figure where row i stands `counts[i]` times; with ones, the figures of the rows as they are.

    auc and average precision treat equal scores as scikit-learn does; precision is 0 where nothing was decided
    positive. Without one of the classes there is no auc: NaN.
    """
    import numpy as np

    ordered = counts[judged.order]
    hits = np.zeros(len(judged.ends) + 1)
    drawn = np.zeros(len(judged.ends) + 1)
    hits[1:] = np.cumsum(ordered * judged.target[judged.order])[judged.ends]
    drawn[1:] = np.cumsum(ordered)[judged.ends]
    misses = drawn - hits
    rows, positives, negatives = drawn[-1], hits[-1], misses[-1]
    steps = hits[1:] - hits[:-1]
    area = ((misses[1:] - misses[:-1]) * (hits[1:] + hits[:-1])).sum() / 2
    # einsum, for BLAS would start threads for these short sums, which costs a hundred times the work.
    log_loss, brier, right, caught, decided = np.einsum("mi,i->m", judged.measures, counts)
    gaps = np.bincount(judged.bins, counts * (judged.target - judged.score), minlength=BINS)
    return {
        "auc": float(area / (positives * negatives)) if positives and negatives else math.nan,
        "average_precision": float((steps * hits[1:] / np.maximum(drawn[1:], 1)).sum() / max(positives, 1)),
        "log_loss": float(log_loss / rows),
        "brier": float(brier / rows),
        "accuracy": float(right / rows),
        "precision": float(caught / decided) if decided else 0.0,
        "recall": float(caught / positives) if positives else 0.0,
        "calibration_error": float(np.abs(gaps).sum() / rows),
    }


def resamples(rows: int, number: int = RESAMPLES, seed: int = SEED) -> "Iterator[Floats]":
    """How often each row was drawn, `number` times over; the same seed, the same draws."""
    import numpy as np

    drawn = np.random.default_rng(seed)
    for _ in range(number):
        yield np.bincount(drawn.integers(0, rows, rows), minlength=rows).astype(np.float64)


def with_intervals(judged: Sequence[Judged]) -> list[list[Metric]]:
    """Figures of each model; where there are two, a third list has the first minus the second, row for row."""
    import numpy as np

    rows = len(judged[0].target)
    point = [figures(one, np.ones(rows)) for one in judged]
    drawn = [[figures(one, counts) for one in judged] for counts in resamples(rows)]
    names = list(point[0])
    values = np.array([[[row[name] for name in names] for row in draw] for draw in [point, *drawn]])
    if len(judged) == 2:
        values = np.concatenate([values, values[:, :1] - values[:, 1:]], axis=1)
    low, high = np.nanpercentile(values[1:], [2.5, 97.5], axis=0)
    return [
        [
            Metric(name=name, value=values[0, m, n], low=low[m, n], high=high[m, n], rows=rows)
            for n, name in enumerate(names)
        ]
        for m in range(values.shape[1])
    ]


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
        auc = figures(judge(target[inside], score[inside], spec.threshold), np.ones(rows))["auc"]
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
        _at_least("auc_gain", wanted.min_auc_gain, gain) if champion else None,
        _at_most("slice_auc_gap", wanted.max_slice_auc_gap, widest_gap(sliced)),
    ]
    return [gate for gate in judged if gate]


@task(task_run_name="evaluate {spec.name}")
def evaluate(model: ModelVersion, test: DatasetVersion, spec: Spec) -> Evaluation:
    """The model's figures on `test`, its gates, and how it does against the champion on the same rows."""
    from audit.store import read
    from audit.store.engine import open_store

    frame = frames.read(test)
    target = _both_classes(frames.target(frame, spec), spec)
    score = _scores(model, frame, spec)
    own = judge(target, score, spec.threshold)
    champion = read.champion(open_store(), spec.name)
    rival = _rival(champion, frame, target, spec) if champion else None
    metrics, *others = with_intervals([own, rival] if rival else [own])
    champion_metrics, difference = others or ([], [])
    sliced = slices(frame, target, score, spec)
    judged = gates(
        spec.gates, metrics, sliced, difference[0].value if difference else None, champion=champion is not None
    )
    page = for_people(spec, metrics, difference, judged, sliced, own)
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
    frames.leave_markdown(f"{spec.name}-evaluation", page)
    return Evaluation(
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


def for_people(
    spec: Spec,
    metrics: Sequence[Metric],
    difference: Sequence[Metric],
    judged: Sequence[Gate],
    sliced: Sequence[Metric],
    own: Judged,
) -> str:
    """The evaluation as a page of markdown."""
    against = {metric.name: with_interval(metric, signed=True) for metric in difference}
    parts = [
        f"# {redact.text(spec.title)}: evaluation on {len(own.target):,} rows",
        "## Gates",
        _table(("gate", "wanted", "held"), [(in_words(g).partition(",")[0], g.limit, _yes(g.held)) for g in judged]),
        "## Figures",
        f"95 % intervals from {RESAMPLES} resamples of the rows, seed {SEED}.",
        _table(
            ("figure", "model", "minus champion"),
            [(metric.name, with_interval(metric), against.get(metric.name, "")) for metric in metrics],
        ),
        "## Calibration",
        _table(("score", "rows", "mean score", "observed share"), _calibration(own)),
        "## Slices",
        f"Up to {SLICE_VALUES} values of a column, each with at least {SLICE_ROWS} rows and both outcomes.",
        _table(("slice", "rows", "auc"), [(m.slice or "", f"{m.rows:,}", f"{m.value:.3f}") for m in sliced]),
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
    score = frames.scores(models.load(model), frame, spec)
    if unscored := int((~np.isfinite(score)).sum()):
        raise BadData(f"{spec.name}: the model gives {unscored:,} of {len(score):,} test rows no finite score.")
    return score


def _rival(champion: ModelVersion, frame: "pl.DataFrame", target: "Flags", spec: Spec) -> Judged | None:
    """The champion on the same rows, or None where it wants features that the spec no longer has."""
    try:
        return judge(target, _scores(champion, frame, spec), spec.threshold)
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


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


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
