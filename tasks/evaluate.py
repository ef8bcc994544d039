"""Judge a model on held-out rows: figures with intervals, calibration, slices, gates, and against the champion.

Every model is judged on the same rows and the same resamples, so that the difference has an interval of its own. The
champion may have been trained on some of the test rows if they are older than its own training data; that favours it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import models, reports
from audit.errors import BadData
from audit.events.payloads import EvaluationFacts, Gate, Metric, called, used
from audit.events.references import DatasetVersion, ModelVersion
from audit.privacy import redact
from audit.spec.model import Gates, Spec
from tasks import _frames as frames
from tasks import _pages as pages
from tasks import _pictures as pictures
from tasks._frames import MAIN, Evaluation, Predicted, figure, with_interval
from tasks._judging import (
    BINS,
    RESAMPLES,
    SEED,
    Binary,
    Calibration,
    Classes,
    Judged,
    Numbers,
    judge,
    varied,
    with_intervals,
)
from tasks._slices import SLICE_ROWS, SLICE_VALUES, Gap, groups_measured, slices, too_small, widest_gap

if TYPE_CHECKING:
    import polars as pl

    from tasks._frames import Outcomes
    from tasks._judging import Integers

CLASSES_SHOWN = 20  # in the table of confusions, the most frequent first
TENTHS = 10  # of the rows by rising predicted value, for the residuals


def gates(
    wanted: Gates, metrics: Sequence[Metric], gaps: Mapping[str, Gap], gain: float | None, *, champion: bool
) -> list[Gate]:
    """Each gate that the spec sets and whether it held. What could not be measured has not held.

    `gaps` are the widest by gate; `gain` is the main figure over the champion's, asked for only where there is one.
    """
    found = {metric.name: metric.value for metric in metrics}
    gap = {name: widest.value for name, widest in gaps.items()}
    held_to = [
        _at_least("auc", wanted.min_auc, found.get("auc")),
        _at_least("accuracy", wanted.min_accuracy, found.get("accuracy")),
        _at_most("calibration_error", wanted.max_calibration_error, found.get("calibration_error")),
        _at_least("r2", wanted.min_r2, found.get("r2")),
        _at_most("mae", wanted.max_mae, found.get("mae")),
        _at_most("rmse", wanted.max_rmse, found.get("rmse")),
        _at_least("rows", wanted.min_rows, metrics[0].rows),
        _at_least("gain", wanted.min_gain, gain) if champion else None,
        _at_most("slice_gap", wanted.max_slice_gap, gap.get("slice_gap")),
        _at_most("selection_gap", wanted.max_selection_gap, gap.get("selection_gap")),
        _at_most("recall_gap", wanted.max_recall_gap, gap.get("recall_gap")),
    ]
    return [gate for gate in held_to if gate]


def widest_gaps(sliced: Sequence[Metric], spec: Spec) -> dict[str, Gap]:
    """By the name of its gate, the widest gap of each figure that has one."""
    gaps = {gate: widest_gap(sliced, name) for gate, name in _about(spec).items()}
    return {gate: gap for gate, gap in gaps.items() if gap}


def judged_gaps(sliced: Sequence[Metric], spec: Spec) -> dict[str, Gap]:
    """Those of the widest gaps that a gate may hold by: two groups of every protected column were measured.

    Else a model would pass on one protected attribute for want of rows on another.
    """
    told = {
        gate: {name for name, count in groups_measured(sliced, figure).items() if count > 1}
        for gate, figure in _about(spec).items()
    }
    return {gate: gap for gate, gap in widest_gaps(sliced, spec).items() if told[gate].issuperset(spec.protected())}


def _about(spec: Spec) -> dict[str, str]:
    """The figure that each gate on a gap is about."""
    return {"slice_gap": MAIN[spec.target.kind], "selection_gap": "selection_rate", "recall_gap": "recall"}


@task(task_run_name="evaluate {spec.name} on {test.name} {test.version}")
def evaluate(model: ModelVersion, test: DatasetVersion, spec: Spec) -> Evaluation:
    """The model's figures on `test`, its gates, and how it does against the champion on the same rows."""
    from audit.store import read
    from audit.store.engine import open_store

    frame = frames.read(test)
    target = _varied(frames.target(frame, spec), spec)
    own = judge(target, _predicted(model, frame, spec), spec)
    champion = read.champion(open_store(), spec.name)
    rival = _rival(champion, frame, target, spec) if champion else None
    metrics, *others = with_intervals([own, rival] if rival else [own])
    champion_metrics, difference = others or ([], [])
    main = MAIN[spec.target.kind]
    gain = figure(main, difference)
    sliced = slices(frame, own, spec)
    gaps = judged_gaps(sliced, spec)
    judged = gates(spec.gates, metrics, gaps, gain.value if gain else None, champion=champion is not None)
    told = for_people(spec, metrics, difference, judged, sliced, own, champion, too_small(frame, spec))
    report = reports.put(with_pictures(told, metrics, sliced, own, spec).encode(), f"{spec.name}/evaluation")
    held = all(gate.held for gate in judged)
    facts = EvaluationFacts(
        spec=spec.name,
        model=used("model", model),
        tested_on=used("test", test),
        champion=used("champion", champion) if champion else None,
        metrics=metrics,
        champion_metrics=champion_metrics,
        main=main,
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
        main=main,
        report=report,
        event=event,
    )
    links = frames.links({"with pictures": reports.link(report)})
    frames.leave_markdown(f"{spec.name}-evaluation", f"{told}\n{links}\n", in_a_line(evaluation))
    return evaluation


def in_a_line(evaluation: Evaluation) -> str:
    """`AUC 0.750 [0.744, 0.758] · 4 of 4 gates held · against v1: AUC +0.011 [+0.004, +0.018]`."""
    main = evaluation.main
    said = [f"{called(main)} {with_interval(evaluation.metric(main))}", evaluation.gates_held()]
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
    small: Mapping[str, int] | None = None,
) -> str:
    """The evaluation as a page of markdown; `small` is how many values of a column had too few rows to be judged."""
    rival = f", against the champion v{champion.version}" if champion else ""
    against = {metric.name: with_interval(metric, signed=True) for metric in difference}
    parts = [
        f"## {redact.text(spec.title)}: evaluation on {own.rows:,} rows{rival}",
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
        *_in_detail(own, spec),
        *_slices_in_words(spec),
        frames.as_markdown(frames.by_slice(sliced)),
        *(_gap_in_words(gap) for gap in widest_gaps(sliced, spec).values()),
        *(_left_out(column, values) for column, values in (small or {}).items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def with_pictures(told: str, metrics: Sequence[Metric], sliced: Sequence[Metric], own: Judged, spec: Spec) -> str:
    """The same as a whole page; its first heading becomes the title."""
    title, _, body = told.removeprefix("## ").partition("\n")
    overall = figure(MAIN[spec.target.kind], metrics)
    assert overall, "every evaluation has its main figure"
    beneath = {**pictures.of_judged(own), "Slices": pictures.of_slices(sliced, overall)}
    return pages.page(title, body.replace("\n### ", "\n## "), beneath)


def _in_detail(own: Judged, spec: Spec) -> Iterator[str]:
    """Where the figures come from: probabilities beside what came, classes taken for others, residuals."""
    match own:
        case Binary():
            yield "### Calibration"
            yield frames.markdown_table(
                ("score", "rows", "mean score", "observed share"), _calibration(own.calibration)
            )
        case Classes():
            yield "### Calibration"
            yield "Of the likeliest class: how probable it was said to be, and how often it came."
            yield frames.markdown_table(
                ("score", "rows", "mean score", "observed share"), _calibration(own.calibration)
            )
            yield "### Confusion"
            yield _confusion_in_words(own, spec)
            head, *rows = _confusion(own)
            yield frames.markdown_table(head, rows)
        case Numbers():
            yield "### Residuals"
            yield "By tenth of the predicted value. A residual is the outcome minus the predicted value."
            means = ("rows", "mean predicted", "mean outcome", "mean residual")
            yield frames.markdown_table(means, _residuals(own))


def _slices_in_words(spec: Spec) -> Iterator[str]:
    if spec.sliced_by():
        yield "### Slices"
        yield f"Up to {SLICE_VALUES} values of a column, each with at least {SLICE_ROWS} rows."


def _gap_in_words(gap: Gap) -> str:
    """`Widest gap of recall: 0.123, in race between black 0.700 (41 rows) and white 0.823 (350 rows).`"""
    groups = (f"{value} {with_interval(end)} ({end.rows:,} rows)" for value, end in gap.ends())
    between = " and ".join(map(redact.unmarked, groups))
    return f"Widest gap of {called(gap.low.name)}: {gap.value:.3f}, in {redact.unmarked(gap.column)} between {between}."


def _left_out(column: str, values: int) -> str:
    what = "1 value has" if values == 1 else f"{values:,} values have"
    return f"{what} fewer than {SLICE_ROWS} rows in {redact.unmarked(column)} and cannot be judged."


def _varied(target: "Outcomes", spec: Spec) -> "Outcomes":
    if not varied(target):
        what = "value" if spec.target.kind == "regression" else "class"
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} has only one {what} in {len(target):,} test rows.",
            hint="Choose a longer window or a larger split.test_share.",
        )
    return target


def _predicted(model: ModelVersion, frame: "pl.DataFrame", spec: Spec) -> Predicted:
    import numpy as np

    frames.refuse_infinite(frames.features(frame, spec), spec)
    predicted = frames.predicted(models.load(model), frame, spec)
    if unscored := int((~np.isfinite(predicted.score)).sum()):
        rows = f"{unscored:,} of {frame.height:,} test rows"
        raise BadData(f"{spec.name}: the model gives {rows} no finite score.")
    if spec.target.kind != "regression" and ((predicted.score < 0) | (predicted.score > 1)).any():
        raise BadData(f"{spec.name}: the model's scores are no probabilities: some are below 0 or above 1.")
    return predicted


def _rival(champion: ModelVersion, frame: "pl.DataFrame", target: "Outcomes", spec: Spec) -> Judged | None:
    """The champion on the same rows, or None where it wants features that the spec no longer has or has of another
    type, or was made for another kind of target, or for other classes.
    """
    try:
        predicted = _predicted(champion, frame, spec)
    except (BadData, TypeError, ValueError):  # not comparable: the gate on the gain says so by not holding
        return None
    if spec.target.kind == "multiclass" and not _tells_apart(predicted, target):
        return None
    return judge(target, predicted, spec)


def _tells_apart(predicted: Predicted, target: "Outcomes") -> bool:
    """Whether the model knows two of the classes that came. A class that is new in the data alone leaves the champion
    comparable, which is then wrong in its rows: else nothing could ever take its place."""
    return len(set(predicted.classes) & {str(name) for name in target}) > 1


def _calibration(of: Calibration) -> list[tuple[str, ...]]:
    import numpy as np

    rows = np.bincount(of.bins, minlength=BINS)
    stated = np.bincount(of.bins, of.stated, minlength=BINS)
    came = np.bincount(of.bins, of.came, minlength=BINS)
    return [
        (
            f"{b / BINS:.1f} to {(b + 1) / BINS:.1f}",
            f"{rows[b]:,}",
            f"{stated[b] / rows[b]:.3f}",
            f"{came[b] / rows[b]:.3f}",
        )
        for b in range(BINS)
        if rows[b]
    ]


def _confusion(own: Classes) -> list[list[str]]:
    """How often each class was taken for each other one, the head first; the rarest classes together."""
    import numpy as np

    rows = np.bincount(own.outcome, minlength=len(own.classes)) + np.bincount(own.label, minlength=len(own.classes))
    common = np.argsort(-rows, kind="stable")[:CLASSES_SHOWN]
    place = np.full(len(own.classes), len(common))
    place[common] = np.arange(len(common))
    names = [own.classes[at] for at in common] + ["all others"] * (len(own.classes) > len(common))
    pairs = np.bincount(place[own.outcome] * len(names) + place[own.label], minlength=len(names) ** 2)
    counted = pairs.reshape(len(names), len(names))
    return [
        ["outcome", *names],
        *([name, *(f"{n:,}" for n in line)] for name, line in zip(names, counted, strict=True)),
    ]


def _confusion_in_words(own: Classes, spec: Spec) -> str:
    told = "A line is what came, a column what was likeliest."
    if spec.threshold is None:
        return told
    undecided = (own.score < spec.threshold).mean()
    return f"{told} By the threshold of {spec.threshold:g}, {undecided:.1%} of the rows are left undecided."


def _residuals(own: Numbers) -> list[tuple[str, ...]]:
    import numpy as np

    tenths = np.array_split(np.argsort(own.score, kind="stable"), TENTHS)
    return [(f"{len(rows):,}", *frames.in_units(*_means(own, rows))) for rows in tenths if len(rows)]


def _means(own: Numbers, rows: "Integers") -> tuple[float, float, float]:
    predicted, outcome = float(own.score[rows].mean()), float(own.target[rows].mean())
    return predicted, outcome, outcome - predicted


def _yes(held: bool) -> str:
    return "yes" if held else "**no**"


def _at_least(name: str, limit: float | None, value: float | None) -> Gate | None:
    if limit is None:
        return None
    return Gate(name=name, limit=f">= {limit:.12g}", value=value, held=value is not None and value >= limit)


def _at_most(name: str, limit: float | None, value: float | None) -> Gate | None:
    if limit is None:
        return None
    return Gate(name=name, limit=f"<= {limit:.12g}", value=value, held=value is not None and value <= limit)
