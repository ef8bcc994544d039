"""How predictions did against outcomes: figures with intervals, the same for a test and for what came of decisions.

Intervals are the 2.5th and 97.5th percentile of a bootstrap over rows. Whatever needs sorting is sorted once, so that
each resample costs a few passes over the rows, and one a class.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from audit.events.payloads import Metric
from audit.spec.model import Spec
from tasks._frames import Predicted

if TYPE_CHECKING:
    import numpy as np

    from tasks._frames import Outcomes

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
    Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]
    Integers = np.ndarray[tuple[int], np.dtype[np.int64]]
    Texts = np.ndarray[tuple[int], np.dtype[np.str_]]

RESAMPLES = 200
SEED = 0
BINS = 10  # of equal width, for the calibration error
TINY = 1e-15  # a certain and wrong score costs 34.5 nats, not infinitely many


class Judged(ABC):
    """What a model said of rows beside what came of them, made ready to be counted again and again."""

    target: "Floats | Texts"
    score: "Floats"  # as in Predicted

    @abstractmethod
    def figures(self, counts: "Floats") -> dict[str, float]:
        """Every figure where row i stands `counts[i]` times; with ones, the figures of the rows as they are.

        The figures are scikit-learn's of the rows written out so many times. Without two outcomes there is no main
        figure: NaN.
        """

    @property
    def rows(self) -> int:
        return len(self.target)

    @property
    def parted(self) -> "tuple[Floats, Floats] | None":
        """Of each row whether it is positive and whether it was decided so; None where nothing is decided so."""
        return None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Stated probabilities beside what came, in bins of equal width."""

    stated: "Floats"
    came: "Floats"
    bins: "Integers"

    @classmethod
    def of(cls, stated: "Floats", came: "Floats") -> Self:
        import numpy as np

        return cls(stated, came, np.minimum((stated * BINS).astype(np.int64), BINS - 1))

    def error(self, counts: "Floats") -> float:
        """The mean distance between what was stated and what came, bin by bin, weighted by rows."""
        import numpy as np

        gaps = np.bincount(self.bins, counts * (self.came - self.stated), minlength=BINS)
        return float(np.abs(gaps).sum() / counts.sum())


@dataclass(frozen=True, slots=True)
class Binary(Judged):
    """1 or 0 beside the probability of 1."""

    target: "Floats"
    score: "Floats"
    calibration: Calibration
    order: "Integers"  # rows by falling score
    ends: "Integers"  # in that order, the last row of each run of equal scores
    measures: "Table"  # what is summed over rows, one measure a line
    decided: "Floats"

    @property
    def parted(self) -> "tuple[Floats, Floats]":
        return self.target, self.decided

    def figures(self, counts: "Floats") -> dict[str, float]:
        """auc and average precision treat equal scores as scikit-learn does; precision is 0 where nothing was decided
        positive.
        """
        import numpy as np

        ordered = counts[self.order]
        hits = np.zeros(len(self.ends) + 1)
        drawn = np.zeros(len(self.ends) + 1)
        hits[1:] = np.cumsum(ordered * self.target[self.order])[self.ends]
        drawn[1:] = np.cumsum(ordered)[self.ends]
        misses = drawn - hits
        rows, positives, negatives = drawn[-1], hits[-1], misses[-1]
        steps = hits[1:] - hits[:-1]
        area = ((misses[1:] - misses[:-1]) * (hits[1:] + hits[:-1])).sum() / 2
        log_loss, brier, right, caught, decided = _summed(self.measures, counts)
        return {
            "auc": float(area / (positives * negatives)) if positives and negatives else math.nan,
            "average_precision": float((steps * hits[1:] / np.maximum(drawn[1:], 1)).sum() / max(positives, 1)),
            "log_loss": float(log_loss / rows),
            "brier": float(brier / rows),
            "accuracy": float(right / rows),
            "precision": float(caught / decided) if decided else 0.0,
            "recall": float(caught / positives) if positives else 0.0,
            "calibration_error": self.calibration.error(counts),
        }


@dataclass(frozen=True, slots=True)
class Ranked:
    """One class against all others: where its own rows stand among all rows by rising probability of the class."""

    order: "Integers"
    own: "Integers"  # rows of the class
    first: "Integers"  # of each of them, how many rows of `order` are less probable
    last: "Integers"  # and how many are not more probable

    @classmethod
    def of(cls, probability: "Floats", inside: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> Self:
        import numpy as np

        order = np.argsort(probability, kind="stable")
        rising, own = probability[order], np.flatnonzero(inside)
        first, last = (np.searchsorted(rising, probability[own], side=side) for side in ("left", "right"))
        return cls(order, own, first, last)

    def auc(self, counts: "Floats") -> float:
        """NaN where the class, or every other one, was not drawn."""
        import numpy as np

        below = np.zeros(len(counts) + 1)
        np.cumsum(counts[self.order], out=below[1:])
        weight = counts[self.own]
        positives = weight.sum()
        negatives = below[-1] - positives
        if not positives or not negatives:
            return math.nan
        # Each row of the class beats what is less probable and half of what is as probable, rows of its own class
        # among them: of those pairs there are positives² / 2.
        beaten = (weight * (below[self.first] + below[self.last])).sum() / 2 - positives**2 / 2
        return float(beaten / (positives * negatives))


@dataclass(frozen=True, slots=True)
class Classes(Judged):
    """One of several classes beside the likeliest one, whether a threshold leaves that undecided or not.

    A class that the model does not know has probability 0 in every row.
    """

    target: "Texts"
    score: "Floats"
    classes: tuple[str, ...]  # those of the target and those that the model knows
    outcome: "Integers"  # the target as a number of `classes`
    label: "Integers"  # the likeliest class likewise
    calibration: Calibration  # of the likeliest class's probability
    ranked: tuple[Ranked, ...]  # one for each class of the target
    measures: "Table"

    def figures(self, counts: "Floats") -> dict[str, float]:
        """auc is the mean over classes of each against all others, balanced accuracy that of their recalls, both over
        classes that were drawn; macro F1 is the mean over classes that were drawn or foretold.
        """
        import numpy as np

        rows = counts.sum()
        log_loss, right = _summed(self.measures, counts)
        drawn, foretold, caught = (
            np.bincount(rows_of, weight, minlength=len(self.classes))
            for rows_of, weight in (
                (self.outcome, counts),
                (self.label, counts),
                (self.outcome, counts * self.calibration.came),
            )
        )
        either = drawn + foretold
        areas = [area for one in self.ranked if not math.isnan(area := one.auc(counts))]
        return {
            "auc": sum(areas) / len(areas) if areas else math.nan,
            "log_loss": float(log_loss / rows),
            "accuracy": float(right / rows),
            "balanced_accuracy": float((caught[drawn > 0] / drawn[drawn > 0]).mean()),
            "macro_f1": float((2 * caught[either > 0] / either[either > 0]).mean()),
            "calibration_error": self.calibration.error(counts),
        }


@dataclass(frozen=True, slots=True)
class Numbers(Judged):
    """A number beside the one that was foretold."""

    target: "Floats"
    score: "Floats"
    order: "Integers"  # rows by rising distance between the two
    distance: "Floats"  # in that order
    measures: "Table"
    threshold: float | None

    @property
    def parted(self) -> "tuple[Floats, Floats] | None":
        if self.threshold is None:
            return None
        return (self.target >= self.threshold).astype(float), (self.score >= self.threshold).astype(float)

    def figures(self, counts: "Floats") -> dict[str, float]:
        """bias is the mean of foretold minus outcome. Where all outcomes are alike there is no r2: NaN."""
        import numpy as np

        below = np.cumsum(counts[self.order])
        rows = below[-1]
        total, squares, distances, over = _summed(self.measures, counts)
        spread = np.einsum("i,i->", counts, (self.target - total / rows) ** 2)
        # The middle row, or the two of them; scikit-learn's weighted median takes no mean of two.
        middle = [np.searchsorted(below, rows / 2, side=side) for side in ("left", "right")]
        return {
            "r2": float(1 - squares / spread) if varied(self.target[counts > 0]) else math.nan,
            "mae": float(distances / rows),
            "rmse": math.sqrt(squares / rows),
            "median_absolute_error": float(self.distance[middle].mean()),
            "bias": float(over / rows),
        }


def judge(target: "Outcomes", predicted: Predicted, spec: Spec) -> Judged:
    """Predictions beside outcomes, which are as `frames.target` has them, made ready for figures."""
    import numpy as np

    match spec.target.kind:
        case "multiclass":
            return _classes(target.astype(np.str_), predicted)
        case "regression":
            return _numbers(target.astype(np.float64), predicted.score, spec.threshold)
        case "binary":
            threshold = spec.deciding_threshold()
            assert threshold is not None, "of a binary target there always is one"
            return _binary(target.astype(np.float64), predicted.score, threshold)


def varied(target: "Outcomes | Floats | Texts") -> bool:
    """Whether there are two different outcomes, without which nothing can be judged."""
    return len(target) > 0 and bool((target != target[0]).any())


def resamples(rows: int, number: int = RESAMPLES, seed: int = SEED) -> "Iterator[Floats]":
    """How often each row was drawn, `number` times over; the same seed, the same draws."""
    import numpy as np

    drawn = np.random.default_rng(seed)
    for _ in range(number):
        yield np.bincount(drawn.integers(0, rows, rows), minlength=rows).astype(np.float64)


def with_intervals(judged: Sequence[Judged]) -> list[list[Metric]]:
    """Figures of each model; where there are two, a third list has the first minus the second, row for row."""
    import numpy as np

    rows = judged[0].rows
    point = [one.figures(np.ones(rows)) for one in judged]
    drawn = [[one.figures(counts) for one in judged] for counts in resamples(rows)]
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


def _binary(truth: "Floats", score: "Floats", threshold: float) -> Binary:
    import numpy as np

    decided = (score >= threshold).astype(np.float64)
    safe = np.clip(score, TINY, 1 - TINY)
    log_loss = -np.where(truth == 1, np.log(safe), np.log1p(-safe))
    order = np.argsort(-score, kind="stable")
    return Binary(
        target=truth,
        score=score,
        calibration=Calibration.of(score, truth),
        order=order,
        ends=np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1),
        measures=np.stack([log_loss, (score - truth) ** 2, decided == truth, decided * truth, decided]),
        decided=decided,
    )


def _classes(target: "Texts", predicted: Predicted) -> Classes:
    import numpy as np

    assert predicted.probabilities is not None and predicted.label is not None, "several classes have each their own"
    present = np.unique(target)
    classes = np.union1d(present, np.array(predicted.classes))
    outcome, label = np.searchsorted(classes, target), np.searchsorted(classes, predicted.label)
    known = {name: predicted.probabilities[:, at] for at, name in enumerate(predicted.classes)}
    nothing = np.zeros(len(target))
    stated = nothing.copy()  # of the class that came
    for name in present:
        stated[target == name] = known.get(str(name), nothing)[target == name]
    right = (outcome == label).astype(np.float64)
    return Classes(
        target=target,
        score=predicted.score,
        classes=tuple(map(str, classes)),
        outcome=outcome,
        label=label,
        calibration=Calibration.of(predicted.score, right),
        ranked=tuple(Ranked.of(known.get(str(name), nothing), target == name) for name in present),
        measures=np.stack([-np.log(np.maximum(stated, TINY)), right]),
    )


def _numbers(target: "Floats", score: "Floats", threshold: float | None) -> Numbers:
    import numpy as np

    over = score - target
    order = np.argsort(np.abs(over), kind="stable")
    return Numbers(
        target=target,
        score=score,
        order=order,
        distance=np.abs(over)[order],
        measures=np.stack([target, over**2, np.abs(over), over]),
        threshold=threshold,
    )


def _summed(measures: "Table", counts: "Floats") -> "Floats":
    """Each line of `measures` summed over the rows as often as they were drawn."""
    import numpy as np

    # einsum, for BLAS would start threads for these short sums, which costs a hundred times the work.
    summed: Floats = np.einsum("mi,i->m", measures, counts)
    return summed
