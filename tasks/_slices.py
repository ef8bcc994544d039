"""A model's figures group by group: each value of a protected or slice column on its own, and how far they are apart.

The figures are fairlearn's MetricFrame: the main figure, and where rows are decided positive the share of them
(demographic parity) and the recall (equal opportunity).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from audit.errors import BadData
from audit.events.payloads import Metric
from audit.spec.model import Spec
from tasks._frames import MAIN
from tasks._judging import Judged

if TYPE_CHECKING:
    import polars as pl

    from tasks._judging import Floats, Integers

# Of 30 rows a share is known to within 9 points (its standard error at most); of fewer, a gap says nothing. Asking for
# more would leave out those that it is about: of 400 test rows about people, a minority is some 40.
SLICE_ROWS = 30
SLICE_VALUES = 20  # of one column, the most frequent first
MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Gap:
    """The two groups of one column that are furthest apart in a figure."""

    low: Metric
    high: Metric

    @property
    def value(self) -> float:
        return self.high.value - self.low.value

    @property
    def column(self) -> str:
        return column_of(self.low)

    def ends(self) -> list[tuple[str, Metric]]:
        """Both groups by their values, the lower figure first."""
        return [(str(end.slice).removeprefix(f"{self.column}="), end) for end in (self.low, self.high)]


def slices(frame: "pl.DataFrame", judged: Judged, spec: Spec) -> list[Metric]:
    """The figures of each value with at least SLICE_ROWS rows, the largest first; protected columns come first.

    What a group cannot tell, such as the AUC of one outcome, is left out. Raises BadData if a column is not there.
    """
    return [metric for column in spec.sliced_by() for metric in _slices_of(column, frame, judged, spec)]


def too_small(frame: "pl.DataFrame", spec: Spec) -> dict[str, int]:
    """How many values of each column have fewer than SLICE_ROWS rows, where there are any."""
    small = {
        name: sum(rows < SLICE_ROWS for rows in _sizes(_groups(name, frame, spec)).values())
        for name in spec.sliced_by()
    }
    return {name: count for name, count in small.items() if count}


def widest_gap(sliced: Sequence[Metric], figure: str) -> Gap | None:
    """The widest distance in `figure` between two values of one column, or None where no column has two."""
    columns: dict[str, list[Metric]] = {}
    for metric in sliced:
        if metric.name == figure:
            columns.setdefault(column_of(metric), []).append(metric)
    gaps = [
        Gap(min(group, key=lambda m: m.value), max(group, key=lambda m: m.value))
        for group in columns.values()
        if len(group) > 1
    ]
    return max(gaps, key=lambda gap: gap.value, default=None)


def groups_measured(sliced: Sequence[Metric], figure: str) -> Counter[str]:
    """Of how many values of each column `figure` is known."""
    return Counter(column_of(metric) for metric in sliced if metric.name == figure)


def column_of(metric: Metric) -> str:
    """`race` of the slice `race=black`."""
    return metric.by or str(metric.slice).partition("=")[0]


def _slices_of(column: str, frame: "pl.DataFrame", judged: Judged, spec: Spec) -> Iterator[Metric]:
    import numpy as np
    from fairlearn.metrics import MetricFrame

    groups = _groups(column, frame, spec)
    sizes = {value: rows for value, rows in _sizes(groups).items() if rows >= SLICE_ROWS}
    values = list(sizes)[:SLICE_VALUES]
    if not values:
        return
    main = MAIN[spec.target.kind]
    rows = np.flatnonzero(groups.is_in(values).to_numpy())
    outcome, decided = judged.parted or (judged.target, judged.target)  # the main figure looks at neither
    figures: dict[str, Callable[..., float]] = {main: partial(_main_figure, judged=judged, name=main)}
    if judged.parted:
        figures |= {"selection_rate": _selection_rate, "recall": _recall}
    found = MetricFrame(
        metrics=figures,
        y_true=outcome[rows],
        y_pred=decided[rows],
        sensitive_features=groups.to_numpy()[rows],
        sample_params={main: {"rows": rows}},
    ).by_group
    for value in values:
        for name in figures:
            if not math.isnan(measured := float(found.loc[value, name])):
                yield Metric(name=name, value=measured, slice=f"{column}={value}", by=column, rows=sizes[value])


def _groups(column: str, frame: "pl.DataFrame", spec: Spec) -> "pl.Series":
    import polars as pl

    if column not in frame.columns:
        raise BadData(f"{spec.name}: slice column {column!r} is not in the test rows.", hint="Mend slices.")
    return frame[column].cast(pl.String).fill_null(MISSING)


def _sizes(groups: "pl.Series") -> dict[str, int]:
    """Rows of each value, the most frequent first."""
    counted = groups.rename("value").value_counts(name="rows").sort(["rows", "value"], descending=[True, False])
    return dict(counted.iter_rows())


def _main_figure(outcome: "Floats", decided: "Floats", rows: "Integers", *, judged: Judged, name: str) -> float:
    """The figure of these rows: those stand once, all others never."""
    import numpy as np

    return judged.figures(np.bincount(rows, minlength=judged.rows).astype(np.float64))[name]


def _selection_rate(outcome: "Floats", decided: "Floats") -> float:
    """The share that is decided positive."""
    return float(decided.mean())


def _recall(outcome: "Floats", decided: "Floats") -> float:
    """The share that is decided positive of those that are; fairlearn says 0 where there is none, we cannot tell."""
    return float(decided[outcome == 1].mean()) if outcome.any() else math.nan
