"""How scores did against outcomes: figures with intervals, the same for a test and for what came of decisions.

Intervals are the 2.5th and 97.5th percentile of a bootstrap over rows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.events.payloads import Metric

if TYPE_CHECKING:
    import numpy as np

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
    Flags = np.ndarray[tuple[int], np.dtype[np.int8]]
    Integers = np.ndarray[tuple[int], np.dtype[np.int64]]

RESAMPLES = 200
SEED = 0
BINS = 10  # of equal width, for the calibration error
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
