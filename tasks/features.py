"""Derive and select what a model may see, free of what is known only afterwards; part rows by time, else by chance."""

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
    import numpy as np
    import polars as pl

    Groups = np.ndarray[tuple[int], np.dtype[np.generic]]
    Flags = np.ndarray[tuple[int], np.dtype[np.bool_]]

_NTH = "\x00nth"  # no column of a user's
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
    time = [spec.event_time] if spec.event_time else []
    return list(dict.fromkeys([*spec.features(), spec.target.column, *time, *keys, *spec.sliced_by()]))


def parted(frame: "pl.DataFrame", spec: Spec) -> tuple["pl.DataFrame", "pl.DataFrame"]:
    """Training and test rows of those that can be learnt from: the target is known, no feature is infinite.

    Raises BadData if either part is empty or its target has one class only.
    """
    known = frame.filter(~frames.infinite(frame, spec)).drop_nulls(spec.target.column)
    if known.is_empty():
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} is missing in every row.", hint="Choose an earlier window."
        )
    train, test = split_by_time(known, spec) if spec.event_time else split_by_chance(known, spec)
    for part, rows in (("training", train), ("test", test)):
        _refuse_one_class(rows, part, spec)
    return train, test


def split_by_chance(known: "pl.DataFrame", spec: Spec) -> tuple["pl.DataFrame", "pl.DataFrame"]:
    """A seeded draw of `test_share`: where the entity key repeats of whole entities, else of each class.

    Raises BadData if there are too few rows.
    """
    import polars as pl

    if spec.entity_key and _repeats(spec.entity_key, known):
        held = _draw(spec, known.height, known[spec.entity_key].fill_null("").rank("dense").to_numpy())
    elif spec.target.kind == "regression":
        held = _draw(spec, known.height)
    else:
        held = _draw_of_each_class(known, spec)
    return known.filter(~pl.Series(held)), known.filter(pl.Series(held))


def split_by_time(known: "pl.DataFrame", spec: Spec) -> tuple["pl.DataFrame", "pl.DataFrame"]:
    """The earlier and the last `test_share` of the rows; rows of one moment stay together."""
    import polars as pl

    time = spec.event_time
    assert time, "without an event time rows are drawn"
    known = known.sort(time, maintain_order=True)
    first_of_test = known[time][min(int(known.height * (1 - spec.split.test_share)), known.height - 1)]
    return known.filter(pl.col(time) < first_of_test), known.filter(pl.col(time) >= first_of_test)


def not_learnt(frame: "pl.DataFrame", train: "pl.DataFrame") -> "pl.DataFrame":
    """The rows of `frame` that are not among those a model was trained on; of equal rows as many as are more.

    Rows are equal if all columns agree that both have.
    """
    import polars as pl

    both = [name for name in frame.columns if name in train.columns]
    nth = pl.int_range(pl.len()).over(both).alias(_NTH)
    # A column whose dtype the spec has changed since is compared by its values.
    learnt = train.select(pl.col(name).cast(frame.schema[name], strict=False) for name in both).with_columns(nth)
    left = frame.with_columns(nth)
    return left.join(learnt, on=[*both, _NTH], how="anti", nulls_equal=True, maintain_order="left").drop(_NTH)


def decided_alike(one: DatasetVersion, other: DatasetVersion, spec: Spec) -> bool:
    """Whether a model has the same to decide on in both features datasets: they differ in outcomes at most."""
    if one.digest == other.digest:
        return True
    if one.rows != other.rows:
        return False
    known = (frames.read(rows).drop(spec.target.column, strict=False) for rows in (one, other))
    return len({datasets.digest(frame) for frame in known}) == 1


def _draw(spec: Spec, rows: int, groups: "Groups | None" = None) -> "Flags":
    """Which rows are for the test; rows of one group stay together."""
    import numpy as np
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit

    splitter = ShuffleSplit if groups is None else GroupShuffleSplit
    draw = splitter(n_splits=1, test_size=spec.split.test_share, random_state=spec.split.seed)
    held = np.zeros(rows, dtype=np.bool_)
    try:
        ((_, drawn),) = draw.split(held, groups=groups)
    except ValueError:
        few = f"{rows:,} rows" if groups is None else f"rows of {len(np.unique(groups)):,} different {spec.entity_key}"
        raise BadData(
            f"{spec.name}: {few} are too few to be parted.", hint="Add rows, or change split.test_share."
        ) from None
    held[drawn] = True
    return held


def _draw_of_each_class(known: "pl.DataFrame", spec: Spec) -> "Flags":
    """Which rows are for the test: the share of each class, and of two rows one, so that both parts know the class."""
    import numpy as np

    _, owner, counts = np.unique(frames.target(known, spec), return_inverse=True, return_counts=True)
    order = np.lexsort((np.random.default_rng(spec.split.seed).random(known.height), owner))
    place = np.arange(known.height) - (np.cumsum(counts) - counts)[owner[order]]  # within its class
    wanted = np.minimum(np.maximum(np.rint(spec.split.test_share * counts), 1), counts - 1)
    held = np.zeros(known.height, dtype=np.bool_)
    held[order] = place < wanted[owner[order]]
    return held


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
    if rows.is_empty():
        raise BadData(f"{spec.name}: there are no {part} rows.", hint="Choose a longer window, or add rows.")
    if rows[spec.target.column].n_unique() < 2:
        only = "one value" if spec.target.kind == "regression" else "one class"
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} has only {only} in {rows.height:,} {part} rows.",
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
    earlier, later = parted(frame, spec)
    train, test = datasets.put(earlier, f"{spec.name}/train"), datasets.put(later, f"{spec.name}/test")
    infinite = int(frames.infinite(frame, spec).sum())
    unknown = frame.height - train.rows - test.rows - infinite
    left_out = {f"without {spec.target.column}": unknown, "with an infinite feature": infinite}
    facts = SplitFacts(
        spec=spec.name,
        made_from=used("rows", rows),
        train=used("train", train),
        test=used("test", test),
        by=_by(earlier, later, spec),
        seed=None if spec.event_time else spec.split.seed,
        transformations=[f"{count:,} rows {which} left out" for which, count in left_out.items() if count],
    )
    record("dataset.split", facts, subject=frames.subject(train))
    lines = [f"- training: {train.rows:,} rows", f"- test: {test.rows:,} rows", f"- by {facts.by}"]
    page = "\n".join([*lines, *(f"- {step}" for step in facts.transformations)])
    frames.leave_markdown(f"{spec.name}-split", page, f"{train.rows:,} rows to train on, {test.rows:,} to test on")
    return train, test


@task(task_run_name="undecided rows of {rows.name} {rows.version}")
def leave_out_learnt(rows: DatasetVersion, learnt: DatasetVersion, spec: Spec) -> DatasetVersion:
    """What is left of a features dataset once the rows are gone that the champion was trained on.

    Raises BadData where none is left.
    """
    frame = not_learnt(frames.read(rows), frames.read(learnt))
    if frame.is_empty():
        raise BadData(
            f"{spec.name}: the model has learnt from every row.", hint="Add rows, or a larger split.test_share."
        )
    left = datasets.put(frame, f"{spec.name}/undecided")
    steps = (f"{rows.rows - left.rows:,} rows left out that the model was trained on",)
    origin = (used("rows", rows), used("learnt", learnt))
    record(
        "dataset.transformed",
        frames.facts(left, frame, spec, made_from=origin, transformations=steps),
        subject=frames.subject(left),
    )
    page = f"**{left.rows:,} rows** to decide on, `{left.digest}`\n\n- {steps[0]}"
    frames.leave_markdown(f"{spec.name}-undecided", page, f"{left.rows:,} rows that the model has not learnt from")
    return left


def _by(earlier: "pl.DataFrame", later: "pl.DataFrame", spec: Spec) -> str:
    """How rows were parted, in words."""
    if spec.event_time:
        first = f"{1 - spec.split.test_share:.0%} by {spec.event_time}"
        return f"time: first {first}, the test from {_moment(later, spec)} on"
    drawn = f"chance: {spec.split.test_share:.0%} drawn for the test with seed {spec.split.seed}"
    if any(_repeats(spec.entity_key, part) for part in (earlier, later)):
        return f"{drawn}, rows of one {spec.entity_key} together"
    return drawn if spec.target.kind == "regression" else f"{drawn}, of each class of {spec.target.column}"


def _repeats(key: str | None, rows: "pl.DataFrame") -> bool:
    return key is not None and key in rows.columns and bool(rows[key].is_duplicated().any())


def _step(column: Derived) -> str:
    note = f" ({column.assumption})" if column.assumption else ""
    return redact.text(f"{column.name} = {column.sql}{note}")


def _moment(later: "pl.DataFrame", spec: Spec) -> str:
    assert spec.event_time, "only a split by time has a moment"
    first = later[spec.event_time].min()
    assert isinstance(first, date | datetime), "an event time is a date or a datetime"
    return first.isoformat()


def _in_a_line(built: DatasetVersion, spec: Spec) -> str:
    return f"{built.rows:,} rows, {len(spec.features())} features"


def _page(built: DatasetVersion, spec: Spec, steps: tuple[str, ...]) -> str:
    lines = [f"**{_in_a_line(built, spec)}**, `{built.digest}`", ""]
    return "\n".join([*lines, ", ".join(spec.features()), "", *(f"- {step}" for step in steps)])
