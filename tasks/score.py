"""Decide on every row of a features dataset, and keep each decision beside the inputs it was made from.

What is decided hangs on the target. Of a binary one the score is the probability of its positive value, and from the
threshold on the decision is true. Of several classes the score is the probability of the likeliest one, and that is
the decision, unless it stays under a threshold of the spec's; beside them stands a column `p:<class>` for each class.
Of a number the score is the number, and so is the decision, unless the spec has a threshold: then it is true or false.

A row that cannot be scored is no reason to leave the others undecided. It stays among the decisions, with null for
score and decision and the reason under `error`, so that rows in and rows out are equal; `predictions.failed` tells
of the first of them. A row fails if no feature has a value, if a feature is infinite, or if the model raises on it
or gives it no finite score. A missing value or an unseen category is not a failure: the model was trained for those.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import datasets, models
from audit.errors import BadData, SpecError
from audit.events.canonical import clean
from audit.events.event import uuid7, uuid8
from audit.events.payloads import Named, RowFailure, ScoringFacts, used
from audit.events.references import DatasetVersion, ModelVersion, Window
from audit.spec.load import PROBABILITY, is_of_decisions, where
from audit.spec.model import Spec
from tasks import _frames as frames
from tasks._frames import Predicted

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from sklearn.pipeline import Pipeline

    Rows = np.ndarray[tuple[int], np.dtype[np.int64]]
    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
    Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
DIGITS = 9  # of a mean; what lies beyond hangs on the order in which scores are added up
CLASSES_TOLD = 50  # in the event, the most frequent; the others are counted as one
FAILURES_TOLD = 100  # in the event; all of them stand in the decisions
EMPTY = "no feature has a value"
INFINITE = "a feature is infinite"
MOST_BLAMED = 100  # rows that the model raises on; more is a fault of the batch, and looking for each takes too long
NO_SCORE = "the model gives no finite score"


@dataclass(frozen=True, slots=True)
class Scored:
    """What the model says of each row, NaN where it failed, and what is wrong with the row, or None."""

    score: "Floats"
    errors: list[str | None]
    probabilities: "Table | None" = None  # of several classes, a column each
    classes: tuple[str, ...] = ()


def decide(
    frame: "pl.DataFrame", pipeline: "Pipeline", model: ModelVersion, spec: Spec, run: str | None = None
) -> "pl.DataFrame":
    """One decision a row, in the rows' order. `run` is the task run that the decision ids hang on.

    Raises SpecError if a feature has the name of one of our own columns.
    """
    import polars as pl

    _check_names(spec)
    found = scored(frame, pipeline, spec)
    kept = [name for name in dict.fromkeys([*spec.row_keys(), spec.event_time]) if name in frame.columns]
    inputs = [name for name in spec.features() if name not in kept]
    return frame.select(
        pl.Series("decision_id", decision_ids(run or uuid7(), frame.height), pl.String),
        pl.int_range(frame.height, dtype=pl.Int64).alias("row"),
        *kept,
        *inputs,
        pl.Series("score", found.score, nan_to_null=True),
        decision(found, spec),
        *_probabilities(found),
        pl.Series("error", found.errors, pl.String),
        pl.lit(model.name).alias("model"),
        pl.lit(model.version, pl.Int64).alias("model_version"),
        pl.lit(model.digest).alias("model_digest"),
    )


def decision_ids(run: str, rows: int) -> list[str]:
    """Ids of a scoring task run's decisions: the same run and row number, the same id."""
    return [uuid8(run, run, str(row)) for row in range(rows)]


def decision(found: Scored, spec: Spec) -> "pl.Series":
    """What is decided on each row: true or false, a class, or a number; null where the row failed or is undecided."""
    import polars as pl

    threshold = spec.deciding_threshold()
    score = pl.Series("decision", found.score, nan_to_null=True)
    if spec.target.kind != "multiclass":
        return score if threshold is None else score >= threshold
    if found.probabilities is None:  # not one row could be scored
        return pl.Series("decision", [None] * len(score), pl.String)
    likeliest = found.probabilities.argmax(axis=1)  # of rows that failed, whose score is null, any
    names = pl.Series("decision", [found.classes[place] for place in likeliest], pl.String)
    enough = score.is_not_null() if threshold is None else score >= threshold
    return pl.select(pl.when(enough).then(names).alias("decision")).to_series()


def scored(frame: "pl.DataFrame", pipeline: "Pipeline", spec: Spec) -> Scored:
    """What the model says of each row, one by one.

    Raises BadData where the batch as a whole is at fault: a feature is missing, or the model raises on many rows.
    """
    import numpy as np

    found = Scored(np.full(frame.height, np.nan), _unfit(frame, spec))
    fit_rows = np.flatnonzero([error is None for error in found.errors])
    for rows, result in _by_halves(frame, fit_rows, pipeline, spec):
        if isinstance(result, str):
            found.errors[rows[0]] = result
        else:
            found = _with(found, rows, result)
    return found


@task(task_run_name=frames.run_name("score {spec.name} {window} v{model.version}"))
def score(rows: DatasetVersion, model: ModelVersion, spec: Spec, window: Window | None = None) -> DatasetVersion:
    """The model's decisions on `rows`, which are features.

    Raises BadData if there is no row, or not one of them could be scored; then that is on record before.
    """
    from prefect.runtime import task_run

    frame = frames.read(rows)
    if frame.is_empty():
        raise BadData(
            f"{spec.name}: there are no rows to decide on in {window or rows.name}.", hint="Choose a window with rows."
        )
    decisions = decide(frame, models.load(model), model, spec, run=task_run.id)
    segment = datasets.put(decisions, f"{spec.name}/decisions")
    facts = _facts(decisions, segment, rows, model, spec, window)
    if facts.failed:
        told = facts.model_copy(update={"failures": failures(decisions, spec)})
        record("predictions.failed", told, subject=f"segment/{segment.name}/{segment.version}")
    if facts.failed == facts.rows:
        raise BadData(
            f"{spec.name}: not one of {facts.rows:,} rows could be scored ({decisions['error'][0]}).",
            hint="Look at the features.",
        )
    record("predictions.scored", facts, subject=f"segment/{segment.name}/{segment.version}")
    frames.leave_markdown(f"{spec.name}-decisions", for_people(facts, str(task_run.id or "")), in_a_line(facts))
    return segment


def failures(decisions: "pl.DataFrame", spec: Spec) -> list[RowFailure]:
    """The first failed rows with their inputs, which are handled ones as all that is stored."""
    failed = decisions.filter(decisions["error"].is_not_null()).head(FAILURES_TOLD)
    return [
        RowFailure(
            row=row["row"],
            decision_id=row["decision_id"],
            error=row["error"],
            inputs=[Named(name=name, value=clean(row[name])) for name in spec.features()],
        )
        for row in failed.iter_rows(named=True)
    ]


def in_a_line(facts: ScoringFacts) -> str:
    """`28,293 decisions, 24% positive, 12 failed`; of classes how many are undecided, of numbers their mean."""
    told = [f"{facts.rows:,} decisions"]
    if facts.kind == "multiclass":
        told += [f"{facts.undecided:,} undecided"] if facts.threshold is not None else []
    elif facts.decisions:
        told += [f"{count.value / facts.rows:.0%} positive" for count in facts.decisions if count.name == "positive"]
    elif facts.mean_score is not None:
        told += [f"mean {facts.mean_score:,.4g}"]
    return ", ".join([*told, f"{facts.failed:,} failed"])


def for_people(facts: ScoringFacts, run: str) -> str:
    """The batch as a page of markdown; `run` is the task run that made it."""
    others = [("all other classes", facts.others)] if facts.others else []
    undecided = [("undecided", facts.undecided)] if facts.undecided else []
    counts = [(count.name, int(count.value)) for count in facts.decisions] + others + undecided
    rows = [(name, f"{n:,}", f"{n / facts.rows:.1%}") for name, n in [*counts, ("failed", facts.failed)]]
    window = f" for {facts.window}" if facts.window else ""
    threshold = f", threshold {facts.threshold:g}" if facts.threshold is not None else ""
    mean = f", mean score {facts.mean_score:,.4g}" if facts.mean_score is not None else ""
    return (
        f"**{facts.rows:,} decisions** by {facts.spec} v{facts.model.version}"
        f"{window}{threshold}{mean}\n\n"
        f"{frames.markdown_table(('decision', 'rows', 'share'), rows)}\n\n"
        f"Kept as {facts.segment.of} version {facts.segment.version}. On record: `audit run {run}`\n"
    )


def _facts(
    decisions: "pl.DataFrame",
    segment: DatasetVersion,
    rows: DatasetVersion,
    model: ModelVersion,
    spec: Spec,
    window: Window | None,
) -> ScoringFacts:
    failed = decisions["error"].count()
    counts = _counts(decisions, spec)
    mean = decisions["score"].mean()
    return ScoringFacts(
        spec=spec.name,
        kind=spec.target.kind,
        window=str(window) if window else None,
        model=used("model", model),
        segment=used("segment", segment),
        inputs=used("rows", rows),
        rows=decisions.height,
        failed=failed,
        decisions=[Named(name=name, value=count) for name, count in counts[:CLASSES_TOLD]],
        others=sum(count for _, count in counts[CLASSES_TOLD:]),
        undecided=decisions["decision"].null_count() - failed,
        mean_score=_rounded(mean) if isinstance(mean, float) else None,
        scores=_shape(decisions["score"]),
        threshold=spec.deciding_threshold(),
    )


def _shape(scores: "pl.Series") -> list[Named]:
    """What a mean does not show: scores that all became the same, or fell apart into two heaps."""
    found = ((name, scores.quantile(share, "nearest")) for name, share in QUANTILES.items())
    return [Named(name=name, value=_rounded(value)) for name, value in found if value is not None]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _counts(decisions: "pl.DataFrame", spec: Spec) -> list[tuple[str, int]]:
    """How often what was decided, classes by falling frequency; nothing where the decision is a number."""
    import polars as pl

    made = decisions["decision"].drop_nulls()
    if made.dtype == pl.Boolean:
        positive = int(made.sum())
        return [("positive", positive), ("negative", len(made) - positive)]
    if spec.target.kind == "regression":
        return []
    counted = made.alias("class").value_counts(name="rows").sort(["rows", "class"], descending=[True, False])
    return list(counted.iter_rows())


def _probabilities(found: Scored) -> "Iterator[pl.Series]":
    import polars as pl

    if found.probabilities is not None:
        for name, column in zip(found.classes, found.probabilities.T, strict=True):
            yield pl.Series(f"{PROBABILITY}{name}", column, nan_to_null=True)


def _check_names(spec: Spec) -> None:
    given = [name for name in (*spec.features(), spec.event_time, *spec.row_keys()) if name]
    taken = [name for name in given if is_of_decisions(name, spec.target.kind)]
    if taken:
        raise SpecError(
            f"{where(spec)}: {taken[0]!r} is a column of ours in the decisions.", hint="Give yours another name."
        )


def _with(found: Scored, rows: "Rows", said: Predicted) -> Scored:
    """`found`, and what the model said of some more rows."""
    import numpy as np

    finite = np.isfinite(said.score)
    if said.probabilities is not None:
        if found.probabilities is None:
            blank = np.full((len(found.score), len(said.classes)), np.nan)
            found = replace(found, probabilities=blank, classes=said.classes)
        assert found.probabilities is not None, "made just now"
        finite &= np.isfinite(said.probabilities).all(axis=1)
        found.probabilities[rows[finite]] = said.probabilities[finite]
    found.score[rows[finite]] = said.score[finite]
    for row in rows[~finite]:
        found.errors[row] = NO_SCORE
    return found


def _unfit(frame: "pl.DataFrame", spec: Spec) -> list[str | None]:
    """What is wrong with each row even before the model has seen it."""
    import numpy as np

    seen = frames.features(frame, spec)
    empty = seen.isna().all(axis=1).to_numpy()
    infinite = np.isinf(seen.select_dtypes("number").to_numpy()).any(axis=1)
    return [EMPTY if e else INFINITE if i else None for e, i in zip(empty, infinite, strict=True)]


def _by_halves(
    frame: "pl.DataFrame", rows: "Rows", pipeline: "Pipeline", spec: Spec
) -> "Iterator[tuple[Rows, Predicted | str]]":
    """What the model says of rows: of all at once if that works, else by halves down to each row that it raises on."""
    import numpy as np

    waiting = [rows] if len(rows) else []
    blamed = 0
    while waiting:
        part = waiting.pop()
        try:
            yield part, frames.predicted(pipeline, frame[part], spec)
        except (ValueError, TypeError, ArithmeticError, LookupError) as refused:
            if len(part) > 1:
                waiting += reversed(np.array_split(part, 2))
                continue
            blamed += 1
            if blamed > MOST_BLAMED:
                raise BadData(
                    f"{spec.name}: the model raised {type(refused).__name__} on more than {MOST_BLAMED} rows.",
                    hint="Check that the features are those that it was trained on.",
                ) from None
            yield part, f"the model raised {type(refused).__name__}"  # its message may quote a value
