"""What will happen with a spec, stage by stage, in words: the spec read out, with every default filled in."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from audit.spec.load import SCORE
from audit.spec.model import KEPT_BY, Column, Spec

NAMED = 12  # names of columns in a line

Lines = Iterator[str]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the pipeline and what it will do."""

    name: str
    lines: tuple[str, ...]


def story(spec: Spec) -> list[Stage]:
    """The stages in the order in which they run."""
    told = {
        "ingest": _ingest, "validate": _validate, "features": _features, "split": _split, "train": _train,
        "gates": _gates, "promote": _promote, "score": _score, "drift": _drift, "performance": _performance,
        "alerts": _alerts, "schedule": _schedule, "retention": _retention,
    }  # fmt: skip
    return [Stage(name, tuple(tell(spec))) for name, tell in told.items()]


def _ingest(spec: Spec) -> Lines:
    for name, table in spec.sources.items():
        if table.database:
            asked = f"table {table.table}" if table.table else "a query"
            yield f"{name}: {asked} of the database {table.database}"
        else:
            inside = f" of the package {table.package}" if table.package else ""
            missing = f"; missing where it says {', '.join(table.null_values)}" if table.null_values else ""
            yield f"{name}: {table.file}{inside}{missing}"
    if spec.query:
        yield "joined by the spec's query" if len(spec.sources) > 1 else "selected by the spec's query"
    handled = {column.name: spec.handling(column) for column in spec.columns}
    words = {
        "hash": "replaced by a keyed hash", "generalise": "made coarser", "drop": "dropped before anything is written"
    }  # fmt: skip
    for handling, what in words.items():
        if names := [name for name, chosen in handled.items() if chosen == handling]:
            yield f"{what}: {_named(names)}"
    yield "columns that are not declared are dropped"


def _validate(spec: Spec) -> Lines:
    rows = spec.rows
    most = f" and at most {rows.max:,}" if rows.max is not None else ""
    yield f"critical: at least {rows.min:,}{most} rows{' a window' if spec.schedule else ''}; each column of its dtype"
    checked = [(column, rule) for column in spec.columns for rule in _rules(column, spec)]
    for severity, meaning in (
        ("critical", "a critical rule stops the run"),
        ("warning", "a row that breaks one is set aside"),
    ):
        of_it = [rule for column, rule in checked if column.severity == severity]
        of_it += [
            f"{derived.name}" for derived in spec.derive if derived.role == "rule" and derived.severity == severity
        ]
        if of_it:
            yield f"{severity}: {_counted(len(of_it), 'rule')} ({_named(of_it, 6)}); {meaning}"
    if spec.expectations:
        beside = "beside these" if spec.expectations.beside else "in their place"
        yield f"the suite {spec.expectations.suite} of {spec.expectations.project}, {beside}"


def _rules(column: Column, spec: Spec) -> Lines:
    if spec.handling(column) == "drop":
        return
    if column.nulls < 1:
        yield f"{column.name} missing in at most {column.nulls:.0%}"
    if column.unique:
        yield f"{column.name} unique"
    if spec.handling(column) == "hash":
        return
    if column.min is not None or column.max is not None:
        low = "" if column.min is None else f"{column.min:g} ≤ "
        high = "" if column.max is None else f" ≤ {column.max:g}"
        yield f"{low}{column.name}{high}"
    if column.values is not None:
        yield f"{column.name} one of {_counted(len(column.values), 'value')}"


def _features(spec: Spec) -> Lines:
    yield f"{_counted(len(spec.features()), 'feature')}: {_named(spec.features())}"
    if made := [derived.name for derived in spec.derive if derived.role != "rule"]:
        yield f"derived: {_named(made)}"
    if later := [c.name for c in spec.columns if c.known_at == "outcome" and c.name != spec.target.column]:
        yield f"known only afterwards, never a feature: {_named(later)}"
    if hidden := spec.protected():
        yield f"protected, which no model sees: {_named(hidden)}"


def _split(spec: Spec) -> Lines:
    if spec.event_time:
        first = f"the first {1 - spec.split.test_share:.0%} of the rows by {spec.event_time}"
        yield f"{first} to train on, the later ones to test on"
    else:
        together = f", rows of one {spec.entity_key} together" if spec.entity_key else ""
        yield f"{spec.split.test_share:.0%} of the rows drawn for the test, with seed {spec.split.seed}{together}"
    yield f"rows without {spec.target.column} are neither trained nor tested on"


def _train(spec: Spec) -> Lines:
    target, kind = spec.target, spec.target.kind
    what = {
        "binary": f"how likely {target.column} is {target.positive}", "multiclass": f"which {target.column} it is",
        "regression": f"how much {target.column} is",
    }[kind]  # fmt: skip
    yield f"{spec.estimator.kind} learns {what} ({kind})"
    if spec.estimator.parameters:
        yield ", ".join(f"{name} {value}" for name, value in spec.estimator.parameters.items())
    yield f"seed {spec.estimator.seed}: the same rows make the same model"


def _gates(spec: Spec) -> Lines:
    wanted = {name: limit for name, limit in spec.gates.model_dump().items() if limit is not None}
    for name, limit in wanted.items():
        sign, figure = ("≥", name[4:]) if name.startswith("min_") else ("≤", name[4:])
        over = " over the champion, where there is one" if name == "min_gain" else ""
        yield f"{figure.replace('_', ' ')} {sign} {limit:g}{over}"
    if not set(wanted) - {"min_gain"}:
        yield "nothing else is demanded of a first model"
    if spec.sliced_by():
        yield f"figures are taken apart by {_named(spec.sliced_by())}"


def _promote(spec: Spec) -> Lines:
    if spec.approval == "automatic":
        yield "a model whose gates all hold is the champion at once"
        return
    hours, unanswered = spec.approval_time.hours, spec.approval_time.unanswered
    yield f"a model whose gates all hold awaits a person for {hours:g} h; unanswered it is {unanswered}"


def _score(spec: Spec) -> Lines:
    decided = "each month after training" if spec.schedule else "every row it has not learnt from"
    yield f"the champion decides on {decided}"
    threshold = spec.deciding_threshold()
    match spec.target.kind:
        case "binary":
            yield f"a score of {threshold:g} or more is decided positive"
        case "multiclass":
            doubt = f"; less likely than {threshold:g}, none" if threshold is not None else ""
            yield f"the likeliest class is decided{doubt}"
        case _:
            yield (
                f"{threshold:g} or more is decided positive" if threshold is not None else "the decision is the number"
            )


def _drift(spec: Spec) -> Lines:
    drift = spec.drift
    watched = ["the model's output" if name == SCORE else name for name in drift.watch]
    yield f"{_counted(len(watched), 'column')} held against the training rows: {_named(watched)}"
    parts = "months" if spec.event_time else "parts"
    yield (
        f"drift where {drift.share:.0%} of them differ by more than {drift.margin:g} times what {parts} of the "
        f"training rows differ ({drift.method}, never under {drift.floor:g})"
    )
    if spec.schedule:
        yield "drift asks for a new model, trained on all months up to then"


def _performance(spec: Spec) -> Lines:
    wanted = spec.performance
    if not (spec.event_time or spec.row_keys()):
        yield "never: by no key and no time could an outcome that comes later be joined to its decision"
        return
    due = "at once" if not wanted.delay_days else f"{_counted(wanted.delay_days, 'day')} after the window's end"
    yield f"{due}, where {wanted.min_known:.0%} of the outcomes are known"
    yield f"decayed where the main figure is more than {wanted.max_loss:g} below that at promotion"


def _alerts(spec: Spec) -> Lines:
    alerts = spec.alerts
    yield f"{', '.join(alerts.on) or 'nothing'} to {', '.join(alerts.to) or 'nobody'}"
    yield f"a kind that was told is held back for {alerts.quiet_minutes:g} minutes"


def _schedule(spec: Spec) -> Lines:
    if spec.schedule is None:
        yield "no months: all rows are one window"
        return
    window, until = spec.schedule.training_window(), spec.schedule.until
    yield f"first training on {window}, then month by month{f' to {until:%Y-%m}' if until else ''}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _named(names: Sequence[str] | Iterable[str], most: int = NAMED) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _retention(spec: Spec) -> Lines:
    kept: dict[str, list[str]] = {}
    for what in KEPT_BY:
        kept.setdefault(getattr(spec.retention, what), []).append(what)
    for time, whats in kept.items():
        how_long = "for ever" if time == "forever" else f"for {time}, then withdrawn by `audit retention run`"
        yield f"what is recorded of {', '.join(whats)} is kept {how_long}"
