"""Compare current data with what the model was trained on: data, prediction and target drift, by Evidently.

A fixed threshold finds drift in every month of data that has seasons, and in every small table, where distances are
mostly chance. So the threshold of a column comes from the reference: `margin` times the largest distance that any part
of it keeps from the rest, in the same measure on no more rows than the current data have, never under `floor`. The
parts are its calendar months, else sixths in order of time. Rows without a time, and few rows, are drawn by chance as
often as it takes to see how far that goes, the rows of one entity together as a split keeps them. Of the scores the
rows that the model was tested on are a part as well, for a model is surer of what it has learnt from.

The drift rule fires when at least `share` of the compared columns reach their threshold. It does not see columns that
change only together, nor a share of missing values that grows. With fewer than MIN_ROWS rows on either side it says
that it cannot tell, and does not fire: even a shift by two standard deviations could stay unseen.
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
from audit.privacy import redact
from audit.spec.load import SCORE
from audit.spec.model import Spec
from tasks import _frames as frames
from tasks import _pages as pages
from tasks import _pictures as pictures
from tasks import _workspace as workspace
from tasks._frames import bar
from tasks._pages import Markup
from tasks._pictures import Bar, Distribution

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from evidently.core.report import Snapshot
    from sklearn.pipeline import Pipeline

    from tasks._frames import Floats, Texts

    Output = Floats | Texts
    Rows = np.ndarray[tuple[int], np.dtype[np.int64]]

MIN_ROWS = 30  # on either side, and of a part in time: with 20, one shift by two standard deviations in three is missed
MIN_VALUES = 5  # of a column on either side
MIN_MONTHS = 3  # of the reference; with fewer, it is cut into EQUAL_PARTS of as many rows, in order of time
EQUAL_PARTS = 6
DRAWS = 20
SMALL = 2_000  # current rows; with fewer, chance alone exceeds the default floor, and few months do not show how far
DIGITS = 6  # of scores and thresholds: what lies beyond hangs on the order in which categories are added up
SHOWN = 8  # drifted columns whose distributions are shown, the farthest beyond their thresholds
COLUMNS = 30  # bars of scores
PARTS = 20  # bins of a number
GROUPS, FEW = 10, 10  # categories that are named, each of so many rows at least
BAR, SCORES, SPREAD = "half full at the threshold", "Scores and thresholds", "The columns that drifted"
EMPTY = 1.0  # score of a column that has values on one side only

Kind = Literal["data", "prediction", "target"]


@dataclass(frozen=True, slots=True)
class Threshold:
    """From which distance on a column counts as drifted, and what that was taken from."""

    method: str
    value: float
    within: float | None  # the largest distance of one part of the reference from the others


@dataclass(frozen=True, slots=True)
class Parts:
    """What the reference is taken apart into, to see how far it is from itself."""

    in_time: "pl.Series | None"  # each row's month, or sixth
    draws: int
    rows: int  # at most so many of a part
    told: str  # for example `its 6 months`


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found between two datasets, with Evidently's own record of it; without a column there is none."""

    columns: tuple[ColumnDrift, ...]
    left_out: tuple[Named, ...]
    reference_rows: int  # of the samples
    current_rows: int
    reference: "pl.DataFrame"  # the samples themselves
    current: "pl.DataFrame"
    rule: str  # the spec's rule in words, with what the thresholds are from
    snapshot: "Snapshot | None"

    @property
    def drifted(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.drifted)

    @property
    def share(self) -> float:
        return len(self.drifted) / len(self.columns) if self.columns else 0.0


class DriftVerdict(BaseModel):
    """Whether the drift rule fired, why, and the event that says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detected: bool
    event: str  # drift.detected where it fired, else drift.checked
    drifted: tuple[str, ...]
    columns: tuple[ColumnDrift, ...]  # the farthest beyond its threshold first
    left_out: tuple[Named, ...] = ()
    report: Report | None = None  # Evidently's, where anything could be compared
    page: Report  # ours: the verdict, and the columns that drifted


def thresholds(
    reference: "pl.DataFrame",
    spec: Spec,
    scores: "Output | None" = None,
    *,
    rows: int | None = None,
    tested: "Output | None" = None,
) -> dict[str, Threshold]:
    """Threshold of each watched column that `reference` has, for current data of `rows` rows, or more than the sample.

    `scores` are the model's of the reference, row by row, `tested` those of the rows that it was tested on. Same rows
    and spec: same thresholds. Of the current data nothing goes into them but how many they are.
    """
    values = watched(reference, spec, scores)
    largest: dict[str, float] = {}
    for one, rest in _apart(values, reference, parts_of(reference, spec, rows), spec, tested):
        for name in one.columns:
            if not (_empty(one, name) or _empty(rest, name)):
                largest[name] = max(largest.get(name, 0.0), _distance(rest, one, name, spec))
    return {name: _threshold(values, name, largest.get(name), spec) for name in values.columns}


def compare(
    reference: "pl.DataFrame",
    current: "pl.DataFrame",
    spec: Spec,
    *,
    reference_scores: "Output | None" = None,
    current_scores: "Output | None" = None,
    tested_scores: "Output | None" = None,
    model: ModelVersion | None = None,
    window: Window | None = None,
) -> Comparison:
    """Every watched column of `current` against `reference`, measured by one Evidently report.

    `model` and `window` are what the report says it is about. Where nothing can be compared there is none, and each
    column is left out for its reason.

    Raises BadData if a column is not there or cannot be compared by its type.
    """
    before = _sample(watched(reference, spec, reference_scores), spec)
    now = _sample(watched(current, spec, current_scores), spec)
    reasons = dict(_reasons_to_leave_out(before, now, spec))
    compared = [name for name in spec.drift.watch if name not in reasons]
    found, snapshot = [], None
    if compared:
        limits = thresholds(reference, spec, reference_scores, rows=current.height, tested=tested_scores)
        one_sided = [name for name in compared if _empty(before, name) != _empty(now, name)]
        measured = {name: limits[name] for name in compared if name not in one_sided}
        snapshot = _report(before, now, measured, spec, _about(spec, model, window)) if measured else None
        scores = (_scores_of(snapshot) if snapshot else {}) | dict.fromkeys(one_sided, EMPTY)
        found = [_verdict(name, scores[name], limits[name], spec, one_sided=name in one_sided) for name in scores]
    return Comparison(
        columns=tuple(sorted(found, key=lambda c: c.score / c.threshold, reverse=True)),
        left_out=tuple(Named(name=name, value=reason) for name, reason in reasons.items()),
        reference_rows=before.height,
        current_rows=now.height,
        reference=before,
        current=now,
        rule=rule(spec, reference, current.height, tested=tested_scores is not None),
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
    if spec.target.column in rows.columns and spec.target.kind != "regression":  # classes, also where they are numbers
        rows = rows.with_columns(pl.col(spec.target.column).cast(pl.String))
    for name, dtype in rows.schema.items():
        if not (dtype.is_numeric() or dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null)):
            raise BadData(
                f"{spec.name}: watched column {name!r} is of dtype {dtype}, which has no distance.",
                hint="Derive a number or a category from it and watch that.",
            )
    return _finite(rows).with_columns(
        (cs.boolean() | cs.categorical() | cs.enum()).cast(pl.String),
        cs.decimal().cast(pl.Float64),
    )


def _finite(rows: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl
    from polars import selectors as cs

    return rows.with_columns(pl.when(cs.float().is_finite()).then(cs.float()))


def rule(spec: Spec, reference: "pl.DataFrame", rows: int, *, tested: bool = False) -> str:
    """The spec's drift rule in words, and that it does not apply where there are too few rows."""
    drift = spec.drift
    if few := _too_few_rows(reference.height, rows):
        return f"not applied, {few}; else at least {drift.share:.0%} of the compared columns reach their threshold"
    scores = "; of the scores also the rows that the model was tested on" if tested and SCORE in drift.watch else ""
    return (
        f"at least {drift.share:.0%} of the compared columns reach their threshold: {drift.margin:g} times the largest "
        f"distance of a part of the reference from its rest, never under {drift.floor:g}; parts are "
        f"{parts_of(reference, spec, rows).told}, with no more rows than the current data{scores}"
    )


def parts_of(reference: "pl.DataFrame", spec: Spec, rows: int | None = None) -> Parts:
    """The parts for current data of `rows` rows, or more than the sample."""
    sample = spec.drift.sample
    size = min(sample if rows is None else rows, sample, reference.height // 2)
    part, told = _in_time(reference, spec)
    if part is not None and size >= SMALL:
        return Parts(part, 0, size, told)
    by_chance = f"{DRAWS} draws by chance"
    return Parts(part, DRAWS, size, f"{told} and {by_chance}" if told else by_chance)


def table(columns: tuple[ColumnDrift, ...]) -> list[dict[str, str]]:
    """The comparison as rows for people, with a bar that is half full at the threshold."""
    return [
        {
            "column": column.name,
            "score": f"{column.score:.3f}",
            "threshold": f"{column.threshold:.3f}",
            "verdict": "drifted" if column.drifted else "steady",
            BAR: bar(column.score / column.threshold),
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
    tested: DatasetVersion | None = None,
) -> DriftVerdict:
    """Whether `current` has drifted from `reference`, the rows that `model` was fitted on; `tested` are those that it
    was tested on."""
    before, now = frames.read(reference), frames.read(current)
    pipeline = models.load(model) if model else None
    foretold = [_foretold(pipeline, rows, spec) for rows in (before, now)]
    held_out = _foretold(pipeline, frames.read(tested), spec) if tested else None
    found = compare(
        before,
        now,
        spec,
        reference_scores=foretold[0],
        current_scores=foretold[1],
        tested_scores=held_out,
        model=model,
        window=window,
    )
    name = f"{spec.name} drift {window or current.version}"
    report, snapshot = _kept(found.snapshot, name) if found.snapshot else (None, None)
    facts = DriftFacts(
        spec=spec.name,
        window=str(window) if window else None,
        reference=used("reference", reference),
        current=used("current", current),
        model=used("model", model) if model else None,
        tested=used("tested", tested) if tested else None,
        report=used("report", report) if report else None,
        snapshot=used("snapshot", snapshot) if snapshot else None,
        sample_rows=spec.drift.sample,
        reference_rows=found.reference_rows,
        current_rows=found.current_rows,
        seed=spec.drift.seed,
        columns=list(found.columns),
        left_out=list(found.left_out),
        watched=len(found.columns),
        drifted=len(found.drifted),
        share=round(found.share, DIGITS),
        rule=found.rule,
        detected=bool(found.columns) and found.share >= spec.drift.share,
    )
    page = reports.put(whole_page(facts, found, spec).encode(), f"{name} in short")
    facts = facts.model_copy(update={"page": used("page", page)})
    if found.snapshot:
        workspace.add(found.snapshot, facts, spec)  # before anybody is told, for then people wait for a message
    event = record("drift.checked", facts, subject=frames.subject(current))
    if facts.detected:
        event = record("drift.detected", facts, subject=frames.subject(current))
    _leave_for_people(facts, report, page)
    return DriftVerdict(
        detected=facts.detected,
        event=event,
        drifted=found.drifted,
        columns=found.columns,
        left_out=found.left_out,
        report=report,
        page=page,
    )


def _kept(snapshot: "Snapshot", name: str) -> tuple[Report, Report]:
    """Evidently's page, and what it can be made from again."""
    page = reports.put(snapshot.get_html_str(as_iframe=False).encode(), name)
    return page, reports.put(snapshot.dumps().encode(), name, "application/json")


def _foretold(model: "Pipeline | None", rows: "pl.DataFrame", spec: Spec) -> "Output | None":
    """What the model says of each row, infinite values taken for missing ones; None without a model, or a row."""
    if model is None or rows.is_empty():
        return None
    return frames.predicted(model, frames.without_infinity(rows), spec).output()


def in_a_line(facts: DriftFacts) -> str:
    """`Drift in 2013-07: 5 of 14 watched columns drifted`."""
    where = facts.window or facts.current.of
    if not facts.watched:
        return f"Drift in {where} cannot be told: {_why_not(facts)}"
    verdict = "Drift" if facts.detected else "No drift"
    return f"{verdict} in {where}: {facts.drifted} of {facts.watched} watched columns drifted"


def _why_not(facts: DriftFacts) -> str:
    """The one reason for which nothing was compared, else that there are several."""
    reasons = {str(column.value) for column in facts.left_out}
    return reasons.pop() if len(reasons) == 1 else "no watched column can be compared"


def page(facts: DriftFacts, links: str = "") -> str:
    """The verdict as a page of markdown."""
    parts = (verdict(facts), frames.as_markdown(table(tuple(facts.columns))), f"The rule: {facts.rule}.")
    return "\n\n".join(filter(None, (*parts, _left_out(facts), links))) + "\n"


def verdict(facts: DriftFacts) -> str:
    """`**Drift**: 5 of 14 watched columns, 2013-07 against flights/train version 1, by the model v1`."""
    by = f", by the model v{facts.model.version}" if facts.model else ""
    if not facts.watched:
        return f"**{in_a_line(facts)}**"
    return (
        f"**{'Drift' if facts.detected else 'No drift'}**: {facts.drifted} of {facts.watched} watched columns, "
        f"{facts.window or facts.current.of} against {facts.reference.of} version {facts.reference.version}{by}"
    )


def whole_page(facts: DriftFacts, found: Comparison, spec: Spec) -> str:
    """The verdict as a page of its own, with the drifted columns' distributions."""
    drifted = found.drifted[:SHOWN]
    scored = [{name: told for name, told in row.items() if name != BAR} for row in table(found.columns)]
    parts = (
        f"{verdict(facts)}.",
        f"The rule: {facts.rule}.",
        f"## {SCORES}" if scored else "",
        frames.as_markdown(scored),
        _left_out(facts),
        f"## {SPREAD}" if drifted else "",
        "## What was compared",
        frames.as_markdown(
            [
                {"rows": side, "dataset": rows.of, "version": rows.version, "all": f"{rows.rows:,}", "sample": f"{n:,}"}
                for side, rows, n in (
                    ("reference", facts.reference, found.reference_rows),
                    ("current", facts.current, found.current_rows),
                )
            ]
        ),
    )
    beneath = {SCORES: [_against_thresholds(found.columns)]} if scored else {}
    if drifted:
        spread = [distribution(name, found.reference, found.current, spec) for name in drifted]
        beneath[SPREAD] = [pictures.distributions(spread)]
    where = facts.window or facts.current.of
    return pages.page(f"{redact.text(spec.title)}: drift in {where}", "\n\n".join(filter(None, parts)) + "\n", beneath)


def distribution(name: str, reference: "pl.DataFrame", current: "pl.DataFrame", spec: Spec) -> Distribution:
    """How both sides are spread over the same bins: no value but of groups of rows, and none of a hashed column."""
    before, now = reference[name].drop_nulls(), current[name].drop_nulls()
    if reference.schema[name].is_numeric():
        return _over_bins(name, before, now)
    return _over_groups(name, before, now, named=not _is_private(name, spec))


def _over_bins(name: str, before: "pl.Series", now: "pl.Series") -> Distribution:
    """Bins of equal width over the middle 98 % of all rows; what lies beyond is in the outermost ones."""
    import numpy as np
    import polars as pl

    both = pl.concat([before.cast(pl.Float64), now.cast(pl.Float64)])
    low, high = (float(both.quantile(at) or 0.0) for at in (0.01, 0.99))
    whole = before.dtype.is_integer() and now.dtype.is_integer()
    if low == high or not high - low > abs(high) * 1e-9:  # apart by less than such bins could tell
        edges = np.array([low - max(0.5, abs(low) * 1e-9), high + max(0.5, abs(high) * 1e-9)])
    elif whole and high - low < PARTS:
        edges = np.arange(np.floor(low), np.floor(high) + 2) - 0.5
    else:
        edges = np.linspace(low, high, PARTS + 1)
    counts = (np.histogram(np.clip(side.to_numpy(), edges[0], edges[-1]), edges)[0] for side in (before, now))
    shares = [count / max(count.sum(), 1) for count in counts]
    return Distribution(name, shares[0].tolist(), shares[1].tolist(), edges=edges.tolist())


def _over_groups(name: str, before: "pl.Series", now: "pl.Series", *, named: bool) -> Distribution:
    """The most frequent categories of at least FEW rows, and all others together."""
    import polars as pl

    counted = pl.concat([before.cast(pl.String), now.cast(pl.String)]).alias("value").value_counts(name="rows")
    common = counted.filter(pl.col("rows") >= FEW).sort(["rows", "value"], descending=[True, False])["value"][:GROUPS]
    sides = []
    for side in (before.cast(pl.String), now.cast(pl.String)):
        rows = [int((side == value).sum()) for value in common]
        sides.append([count / max(len(side), 1) for count in (*rows, len(side) - sum(rows))])
    names = common.to_list() if named else [str(number) for number in range(1, len(common) + 1)]
    end = None if sides[0][-1] or sides[1][-1] else -1  # of others, if there are any
    return Distribution(name, sides[0][:end], sides[1][:end], groups=(*names, "others")[:end])


def _is_private(name: str, spec: Spec) -> bool:
    """Whether not even a group's value may be shown: a keyed hash, or what points to a person."""
    return any(
        column.name == name and (spec.handling(column) == "hash" or column.pii in ("direct", "secret"))
        for column in spec.columns
    )


def _against_thresholds(columns: tuple[ColumnDrift, ...]) -> Markup:
    shown = [Bar(column.name, column.score, column.threshold, column.drifted) for column in columns[:COLUMNS]]
    more = f", of {len(columns)} the {COLUMNS} farthest beyond it" if len(columns) > COLUMNS else ""
    told = f"Each column's distance between reference and current data; a stroke stands at its threshold{more}."
    return pictures.bars(shown, SCORES, "distance", told)


def _left_out(facts: DriftFacts) -> str:
    left_out = ((pages.plain(column.name), pages.plain(str(column.value))) for column in facts.left_out)
    return "\n".join(f"- {name} left out: {why}" for name, why in left_out)


def _leave_for_people(facts: DriftFacts, report: Report | None, page_of_ours: Report) -> None:
    key = f"{facts.spec}-drift"
    links = frames.links(
        {
            "with pictures": reports.link(page_of_ours),
            "Evidently's report": reports.link(report) if report else None,
            "month by month": workspace.link(facts),
        }
    )
    frames.leave_table(key, table(tuple(facts.columns)), f"{in_a_line(facts)}. The rule: {facts.rule}. {links}")
    frames.leave_markdown(f"{key}-summary", page(facts, links), in_a_line(facts))


def _too_few_rows(reference: int, current: int) -> str | None:
    """`too few rows to tell: 5 current ones, and drift needs 30`; None where there are enough."""
    for side, rows in (("current", current), ("reference", reference)):
        if rows < MIN_ROWS:
            return f"too few rows to tell: {rows} {side} ones, and drift needs {MIN_ROWS}"
    return None


def _apart(
    values: "pl.DataFrame", reference: "pl.DataFrame", parts: Parts, spec: Spec, tested: "Output | None"
) -> "Iterator[tuple[pl.DataFrame, pl.DataFrame]]":
    """Each part of the reference and its rest, as samples; the scores of rows that the model was tested on likewise."""
    import polars as pl

    for part in _masks(reference, parts, spec):
        yield _sample(values.filter(part), spec, parts.rows), _sample(values.filter(~part), spec)
    if tested is not None and SCORE in values.columns:
        held_out = _finite(pl.DataFrame({SCORE: tested}))
        yield _sample(held_out, spec, parts.rows), _sample(values.select(SCORE), spec)


def _masks(reference: "pl.DataFrame", parts: Parts, spec: Spec) -> "Iterator[pl.Series]":
    if parts.in_time is not None:
        for label in _whole(parts.in_time):
            yield parts.in_time == label
    if parts.draws:
        yield from _draws(reference, parts, spec)


def _draws(reference: "pl.DataFrame", parts: Parts, spec: Spec) -> "Iterator[pl.Series]":
    """So many draws of so many rows; where the entity key repeats, of whole entities with about as many."""
    import numpy as np
    import polars as pl

    drawn = np.random.default_rng(spec.drift.seed)
    owner = _owners(reference, spec)
    for _ in range(parts.draws):
        place = drawn.permutation(owner.max() + 1)[owner]
        last = np.partition(place, parts.rows - 1)[parts.rows - 1]
        yield pl.Series(place <= last)


def _owners(reference: "pl.DataFrame", spec: Spec) -> "Rows":
    """Each row's entity as a number; a row is its own where no key tells of more, or one entity has all."""
    import numpy as np

    key = spec.entity_key
    if key and key in reference.columns and reference[key].n_unique() > 1:
        return reference[key].fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    return np.arange(reference.height)


def _in_time(reference: "pl.DataFrame", spec: Spec) -> "tuple[pl.Series | None, str]":
    """Each row's part in time, and what parts those are; None where there is no time, or parts would be too small.

    A month of which less than half is there is no part: four days differ from the rest more than any month does.
    """
    if spec.event_time not in reference.columns:
        return None, ""
    part = _months(reference, spec)
    if (months := len(_whole(part))) >= MIN_MONTHS:
        return part, f"its {months} months"
    part = _equal_parts(reference, spec)
    return (part, f"{EQUAL_PARTS} parts in order of time") if len(_whole(part)) == EQUAL_PARTS else (None, "")


def _months(reference: "pl.DataFrame", spec: Spec) -> "pl.Series":
    """Each row's calendar month as a number; one for all rows where the time has none."""
    import polars as pl

    name = spec.event_time
    assert name, "only in time there are months"
    if reference.schema[name] not in (pl.Date, pl.Datetime):
        return pl.zeros(reference.height, pl.Int32, eager=True)
    time = reference[name].dt
    return (time.year() * 12 + time.month()).fill_null(0)


def _equal_parts(reference: "pl.DataFrame", spec: Spec) -> "pl.Series":
    """EQUAL_PARTS labels in order of time."""
    assert spec.event_time, "only in time there is an order"
    place = reference[spec.event_time].rank("ordinal").fill_null(1) - 1
    return place * EQUAL_PARTS // reference.height


def _whole(part: "pl.Series") -> list[int]:
    """Labels of the parts with enough rows to stand for their kind, in order."""
    rows: dict[int, int] = dict(part.value_counts().iter_rows())
    enough = max(MIN_ROWS, statistics.median(rows.values()) / 2)
    return sorted(label for label, count in rows.items() if count >= enough)


def _sample(rows: "pl.DataFrame", spec: Spec, size: int | None = None) -> "pl.DataFrame":
    """At most `size` rows in their order, by default the spec's sample."""
    import numpy as np

    size = spec.drift.sample if size is None else size
    if rows.height <= size:
        return rows
    chosen = np.random.default_rng(spec.drift.seed).choice(rows.height, size, replace=False)
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
    few = _too_few_rows(reference.height, current.height)
    for name in spec.drift.watch:
        if few:
            yield name, few
        elif name not in reference.columns or name not in current.columns:
            yield name, "no model was given" if name == SCORE else "not known on both sides"
        elif name == spec.target.column and _empty(current, name):
            yield name, "not known yet"
        elif _empty(reference, name) and _empty(current, name):
            yield name, "no values on either side"
        elif _fewest_values(reference, current, name) < MIN_VALUES:
            yield name, "too few values to tell"


def _fewest_values(reference: "pl.DataFrame", current: "pl.DataFrame", name: str) -> float:
    """Values on the side with fewer of them; where it has none, as many as it would have if it were like the other."""
    had, has = (1 - rows[name].null_count() / rows.height for rows in (reference, current))
    least = min(had * reference.height, has * current.height)
    return least or max(had * current.height, has * reference.height)


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
