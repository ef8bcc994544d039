"""Decide on every row of a features dataset, and keep each decision beside the inputs it was made from.

A row that cannot be scored is no reason to leave the others undecided. It stays among the decisions, with null for
score and decision and the reason under `error`, so that rows in and rows out are equal; `predictions.failed` tells
of the first of them. A row fails if no feature has a value, if a feature is infinite, or if the model raises on it
or gives it no finite score. A missing value or an unseen category is not a failure: the model was trained for those.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import datasets, models
from audit.errors import BadData, SpecError
from audit.events.canonical import clean
from audit.events.event import uuid7, uuid8
from audit.events.payloads import Named, RowFailure, ScoringFacts, used
from audit.events.references import DatasetVersion, ModelVersion, Window
from audit.spec.load import where
from audit.spec.model import Spec
from tasks import _frames as frames

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from sklearn.pipeline import Pipeline

    Rows = np.ndarray[tuple[int], np.dtype[np.int64]]
    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

FAILURES_TOLD = 100  # in the event; all of them stand in the decisions
EMPTY = "no feature has a value"
INFINITE = "a feature is infinite"
MOST_BLAMED = 100  # rows that the model raises on; more is a fault of the batch, and looking for each takes too long
NO_SCORE = "the model gives no finite score"

# What a decision has beside the inputs; no feature may have such a name.
DECISION = ("decision_id", "row", "score", "decision", "error", "model", "model_version", "model_digest")


def decide(
    frame: "pl.DataFrame", pipeline: "Pipeline", model: ModelVersion, spec: Spec, run: str | None = None
) -> "pl.DataFrame":
    """One decision a row, in the rows' order. `run` is the task run that the decision ids hang on.

    Raises SpecError if a feature has the name of one of our own columns.
    """
    import polars as pl

    _check_names(spec)
    score, errors = scored(frame, pipeline, spec)
    kept = [name for name in dict.fromkeys([*spec.row_keys(), spec.event_time]) if name in frame.columns]
    inputs = [name for name in spec.features() if name not in kept]
    return frame.select(
        pl.Series("decision_id", decision_ids(run or uuid7(), frame.height), pl.String),
        pl.int_range(frame.height, dtype=pl.Int64).alias("row"),
        *kept,
        *inputs,
        pl.Series("score", score, nan_to_null=True),
        pl.Series("decision", score, nan_to_null=True) >= spec.deciding_threshold(),
        pl.Series("error", errors, pl.String),
        pl.lit(model.name).alias("model"),
        pl.lit(model.version, pl.Int64).alias("model_version"),
        pl.lit(model.digest).alias("model_digest"),
    )


def decision_ids(run: str, rows: int) -> list[str]:
    """Ids of a scoring task run's decisions: the same run and row number, the same id."""
    return [uuid8(run, run, str(row)) for row in range(rows)]


def scored(frame: "pl.DataFrame", pipeline: "Pipeline", spec: Spec) -> "tuple[Floats, list[str | None]]":
    """A score for each row, NaN where it failed, and beside it what is wrong with the row, or None.

    Raises BadData where the batch as a whole is at fault: a feature is missing, or the model raises on many rows.
    """
    import numpy as np

    score = np.full(frame.height, np.nan)
    errors = _unfit(frame, spec)
    fit_rows = np.flatnonzero([error is None for error in errors])
    for rows, result in _by_halves(frame, fit_rows, pipeline, spec):
        if isinstance(result, str):
            errors[rows[0]] = result
            continue
        finite = np.isfinite(result)
        score[rows[finite]] = result[finite]
        for row in rows[~finite]:
            errors[row] = NO_SCORE
    return score, errors


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
    """`28,293 decisions, 24% positive, 12 failed`."""
    (positive,) = (int(count.value) for count in facts.decisions if count.name == "positive")
    return f"{facts.rows:,} decisions, {positive / facts.rows:.0%} positive, {facts.failed:,} failed"


def for_people(facts: ScoringFacts, run: str) -> str:
    """The batch as a page of markdown; `run` is the task run that made it."""
    counts = [*((str(count.name), int(count.value)) for count in facts.decisions), ("failed", facts.failed)]
    rows = [(name, f"{count:,}", f"{count / facts.rows:.1%}") for name, count in counts]
    return (
        f"**{facts.rows:,} decisions** by {facts.spec} v{facts.model.version}"
        f"{f' for {facts.window}' if facts.window else ''}, threshold {facts.threshold:g}\n\n"
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
    positive, failed = int(decisions["decision"].sum()), decisions["decision"].null_count()
    mean = decisions["score"].mean()
    return ScoringFacts(
        spec=spec.name,
        window=str(window) if window else None,
        model=used("model", model),
        segment=used("segment", segment),
        inputs=used("rows", rows),
        rows=decisions.height,
        failed=failed,
        decisions=[
            Named(name="positive", value=positive),
            Named(name="negative", value=decisions.height - failed - positive),
        ],
        mean_score=round(mean, 6) if isinstance(mean, float) else None,
        threshold=spec.deciding_threshold(),
    )


def _check_names(spec: Spec) -> None:
    taken = [name for name in (*spec.features(), spec.event_time, *spec.row_keys()) if name in DECISION]
    if taken:
        raise SpecError(
            f"{where(spec)}: {taken[0]!r} is a column of ours in the decisions.", hint="Give yours another name."
        )


def _unfit(frame: "pl.DataFrame", spec: Spec) -> list[str | None]:
    """What is wrong with each row even before the model has seen it."""
    import numpy as np

    seen = frames.features(frame, spec)
    empty = seen.isna().all(axis=1).to_numpy()
    infinite = np.isinf(seen.select_dtypes("number").to_numpy()).any(axis=1)
    return [EMPTY if e else INFINITE if i else None for e, i in zip(empty, infinite, strict=True)]


def _by_halves(
    frame: "pl.DataFrame", rows: "Rows", pipeline: "Pipeline", spec: Spec
) -> "Iterator[tuple[Rows, Floats | str]]":
    """Rows with their scores: all at once if that works, else by halves down to each row that the model raises on."""
    import numpy as np

    waiting = [rows] if len(rows) else []
    blamed = 0
    while waiting:
        part = waiting.pop()
        try:
            yield part, frames.predicted(pipeline, frame[part], spec).score
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
