"""Derive and select what a model may see, free of what is known only afterwards; part rows by time."""

from datetime import date, datetime
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import datasets
from audit.errors import BadData, SpecError
from audit.events.payloads import SplitFacts, used
from audit.events.references import DatasetVersion
from audit.privacy import redact
from audit.spec.load import leaks, where
from audit.spec.model import Derived, Spec
from tasks import _frames as frames

if TYPE_CHECKING:
    import polars as pl

PROBES = 5  # rows that are derived alone, to see whether an expression looks at others


def derive_features(frame: "pl.DataFrame", spec: Spec) -> "pl.DataFrame":
    """Features, target, event time, keys and slices of every row, in that order.

    Raises SpecError if a feature is known only at the outcome, or depends on other rows than its own.
    """
    refuse_leaks(spec)
    whole = frames.derived(frame, spec)
    _refuse_neighbours(frame, whole, spec)
    return whole.select(kept_columns(spec, whole.columns))


def refuse_leaks(spec: Spec) -> None:
    """Raise SpecError at the first feature that is known only at the outcome, or may be without our seeing it."""
    for leak in leaks(spec):
        raise SpecError(f"{where(spec, *leak.keys)}: {leak.what}")


def kept_columns(spec: Spec, present: list[str]) -> list[str]:
    """The columns of a features dataset. A row keeps what it is known by, so that its outcome is found later."""
    keys = [name for name in spec.row_keys() if name in present]
    return list(dict.fromkeys([*spec.features(), spec.target.column, spec.event_time, *keys, *spec.slices]))


def split_by_time(frame: "pl.DataFrame", spec: Spec) -> tuple["pl.DataFrame", "pl.DataFrame"]:
    """The earlier and the last `test_share` of the rows that can be learnt from; rows of one moment stay together.

    Those are the rows whose target is known and whose features are not infinite.

    Raises BadData if either part is empty or its target has one class only.
    """
    import polars as pl

    target, time = spec.target.column, spec.event_time
    known = frame.filter(~frames.infinite(frame, spec)).drop_nulls(target).sort(time, maintain_order=True)
    if known.is_empty():
        raise BadData(f"{spec.name}: target {target!r} is missing in every row.", hint="Choose an earlier window.")
    first_of_test = known[time][min(int(known.height * (1 - spec.split.test_share)), known.height - 1)]
    train, test = known.filter(pl.col(time) < first_of_test), known.filter(pl.col(time) >= first_of_test)
    for part, rows in (("training", train), ("test", test)):
        _refuse_one_class(rows, part, spec)
    return train, test


def _refuse_neighbours(frame: "pl.DataFrame", whole: "pl.DataFrame", spec: Spec) -> None:
    """A sum, a lag or a rank over rows would let the test rows, or tomorrow's, speak in training."""
    seen = [(index, column) for index, column in enumerate(spec.derive) if column.role in ("feature", "target")]
    for place in range(0, frame.height, max(1, frame.height // PROBES)):
        alone = frames.derived(frame[place : place + 1], spec)
        for index, column in seen:
            if not alone[column.name].equals(whole[column.name][place : place + 1], null_equal=True):
                line = where(spec, "derive", index, "sql")
                raise SpecError(
                    f"{line}: sql of {column.name!r} looks at other rows, later ones too.",
                    hint="Use a row's own columns only.",
                )


def _refuse_one_class(rows: "pl.DataFrame", part: str, spec: Spec) -> None:
    if rows[spec.target.column].n_unique() < 2:
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} has only one class in {rows.height:,} {part} rows.",
            hint="Choose a longer window, or look at how the target is derived.",
        )


@task(task_run_name="build features of {rows.name} {rows.version}")
def build_features(rows: DatasetVersion, spec: Spec) -> DatasetVersion:
    """A validated dataset version to its features."""
    frame = derive_features(frames.read(rows), spec)
    built = datasets.put(frame, f"{spec.name}/features")
    steps = tuple(_step(column) for column in spec.derive if column.name in frame.columns)
    facts = frames.facts(built, frame, spec, made_from=(used("rows", rows),), transformations=steps)
    record("dataset.transformed", facts, subject=frames.subject(built))
    frames.leave_markdown(f"{spec.name}-features", _page(built, spec, steps), _in_a_line(built, spec))
    return built


@task(task_run_name="split {rows.name} {rows.version}")
def split(rows: DatasetVersion, spec: Spec) -> tuple[DatasetVersion, DatasetVersion]:
    """A features dataset to training rows and the later test rows."""
    frame = frames.read(rows)
    earlier, later = split_by_time(frame, spec)
    train, test = datasets.put(earlier, f"{spec.name}/train"), datasets.put(later, f"{spec.name}/test")
    infinite = int(frames.infinite(frame, spec).sum())
    unknown = frame.height - train.rows - test.rows - infinite
    left_out = {f"without {spec.target.column}": unknown, "with an infinite feature": infinite}
    facts = SplitFacts(
        spec=spec.name,
        made_from=used("rows", rows),
        train=used("train", train),
        test=used("test", test),
        by=f"time: first {1 - spec.split.test_share:.0%} by {spec.event_time}, the test from {_moment(later, spec)} on",
        transformations=[f"{count:,} rows {which} left out" for which, count in left_out.items() if count],
    )
    record("dataset.split", facts, subject=frames.subject(train))
    lines = [f"- training: {train.rows:,} rows", f"- test: {test.rows:,} rows", f"- by {facts.by}"]
    page = "\n".join([*lines, *(f"- {step}" for step in facts.transformations)])
    frames.leave_markdown(f"{spec.name}-split", page, f"{train.rows:,} rows to train on, {test.rows:,} to test on")
    return train, test


def _step(column: Derived) -> str:
    note = f" ({column.assumption})" if column.assumption else ""
    return redact.text(f"{column.name} = {column.sql}{note}")


def _moment(later: "pl.DataFrame", spec: Spec) -> str:
    first = later[spec.event_time].min()
    assert isinstance(first, date | datetime), "an event time is a date or a datetime"
    return first.isoformat()


def _in_a_line(built: DatasetVersion, spec: Spec) -> str:
    return f"{built.rows:,} rows, {len(spec.features())} features"


def _page(built: DatasetVersion, spec: Spec, steps: tuple[str, ...]) -> str:
    lines = [f"**{_in_a_line(built, spec)}**, `{built.digest}`", ""]
    return "\n".join([*lines, ", ".join(spec.features()), "", *(f"- {step}" for step in steps)])
