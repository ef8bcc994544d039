"""What stages share: from references to frames, from frames to what scikit-learn takes, and on to the record."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from audit.artifacts import datasets
from audit.errors import BadData, SpecError
from audit.events.payloads import DatasetFacts, Gate, Metric, Named, Source, Used, called
from audit.events.references import DatasetVersion, ModelVersion, Report, Window
from audit.privacy import redact
from audit.recording.registry import Candidate
from audit.spec.load import where
from audit.spec.model import Spec, TargetKind
from audit.spec.sources import polars_type

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl
    from sklearn.pipeline import Pipeline

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
    Texts = np.ndarray[tuple[int], np.dtype[np.str_]]
    Outcomes = np.ndarray[tuple[int], np.dtype[np.int8]] | Floats | Texts  # of a binary target, a number, classes

# The figure that a model of each kind is judged by first, greater being better.
MAIN: dict[TargetKind, str] = {"binary": "auc", "multiclass": "auc", "regression": "r2"}
IN_UNITS = ("mae", "rmse", "median_absolute_error", "bias")  # of the target, which may be millions or thousandths


ALL = "all rows"  # the window of a spec without months


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a model says, row by row."""

    score: "Floats"  # the probability of the positive class, or of the likeliest one; else the number itself
    label: "Texts | None" = None  # the likeliest of several classes
    probabilities: "np.ndarray[tuple[int, int], np.dtype[np.float64]] | None" = None  # a column a class
    classes: tuple[str, ...] = ()  # in the columns' order

    def output(self) -> "Floats | Texts":
        """What is watched for drift: the class that is foretold where there are several, else the score."""
        return self.score if self.label is None else self.label


class Evaluation(BaseModel):
    """What was found about a model on held-out rows, and the event that says so. `evaluate` makes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelVersion
    tested_on: DatasetVersion
    champion: ModelVersion | None = None  # the one it was held against
    held: bool
    metrics: tuple[Metric, ...]
    difference: tuple[Metric, ...] = ()  # model minus champion, same rows
    slices: tuple[Metric, ...] = ()
    gates: tuple[Gate, ...]
    main: str = "auc"  # the name of the figure that comes first
    report: Report
    event: str

    def metric(self, name: str) -> Metric:
        """The figure called `name`, for example `auc`."""
        found = figure(name, self.metrics)
        assert found, f"every evaluation of its kind has {name}"
        return found

    def failed(self) -> list[str]:
        """The gates that did not hold, each in words."""
        return [in_words(gate) for gate in self.gates if not gate.held]

    def gates_held(self) -> str:
        """`3 of 4 gates held`."""
        return f"{sum(gate.held for gate in self.gates)} of {len(self.gates)} gates held"

    def against_champion(self) -> str:
        """`AUC +0.011 [+0.004, +0.018]`, or empty where there was nothing to compare."""
        gain = figure(self.main, self.difference)
        return f"{called(self.main)} {with_interval(gain, signed=True)}" if gain else ""


def candidate(model: ModelVersion, evaluation: Evaluation, cause: str | None = None) -> Candidate:
    """What an evaluation says for and against a registered model: its gates, or that it is of something else."""
    against = evaluation.champion.version if evaluation.champion else None
    compared = f"against v{against}: {evaluation.against_champion()}" if against else "the first champion"
    failed = evaluation.failed()
    if evaluation.model.address != model.address:
        failed = [f"the evaluation is of another model than v{model.version}"]
    return Candidate(model, against, f"{evaluation.gates_held()}; {compared}", tuple(failed), cause)


def in_words(gate: Gate) -> str:
    """`auc 0.6120, wanted >= 0.7`."""
    return f"{gate.name} {found(gate)}, wanted {gate.limit}"


def found(gate: Gate) -> str:
    """What a gate found: `0.6120`, and `32,407` where it counts."""
    if gate.value is None:
        return "could not be measured"
    if gate.name in IN_UNITS:
        return f"{gate.value:,.{decimals(gate.name, gate.value)}f}"
    return f"{gate.value:,.0f}" if gate.value.is_integer() else f"{gate.value:.4f}"


def figure(name: str, metrics: Iterable[Metric]) -> Metric | None:
    """The figure called `name`, of all rows and not of a slice."""
    return next((metric for metric in metrics if metric.name == name and metric.slice is None), None)


def with_interval(metric: Metric, *, signed: bool = False) -> str:
    """`0.751 [0.744, 0.758]`; what has no interval stands alone."""
    known = [value for value in (metric.value, metric.low, metric.high) if value is not None]
    form = f"{'+' if signed else ''},.{decimals(metric.name, *known)}f"
    interval = "" if metric.low is None else f" [{metric.low:{form}}, {metric.high:{form}}]"
    return f"{metric.value:{form}}{interval}"


def decimals(name: str, *values: float) -> int:
    """How many decimals such a figure is shown with: three, and of what is in the target's unit four digits."""
    largest = max(map(abs, values))
    if name not in IN_UNITS or not largest:
        return 3
    return max(0, 3 - math.floor(math.log10(largest)))


def in_units(*values: float) -> list[str]:
    """Numbers in the target's unit side by side: `["45,231", "45,102", "-129"]`, four digits of the largest."""
    return [f"{value:,.{decimals(IN_UNITS[0], *values)}f}" for value in values]


def by_slice(sliced: Sequence[Metric]) -> list[dict[str, str]]:
    """The figures of slices as a table, one row a slice; empty where a figure could not be measured."""
    names = list(dict.fromkeys(metric.name for metric in sliced))
    rows: dict[str, dict[str, str]] = {}
    for metric in sliced:
        row = {"slice": str(metric.slice), "rows": f"{metric.rows:,}"} | {called(name): "" for name in names}
        rows.setdefault(str(metric.slice), row)[called(metric.name)] = with_interval(metric)
    return list(rows.values())


def run_name(pattern: str) -> Callable[[], str]:
    """A task run's name by what it was given; what was not given is left out."""

    def name() -> str:
        from prefect.runtime import task_run

        return " ".join(pattern.format(**task_run.parameters).replace(" None", "").split())

    return name


def read(reference: DatasetVersion) -> "pl.DataFrame":
    """The rows that `reference` names. Raises ArtifactUnavailable if their bytes are missing or differ."""
    return datasets.read(reference)


def derived(frame: "pl.DataFrame", spec: Spec) -> "pl.DataFrame":
    """`frame` with every derived column of the spec, rules included, in the spec's order.

    Raises SpecError, without a value, for an expression that does not work on these rows.
    """
    import polars as pl

    for index, column in enumerate(spec.derive):
        try:
            expression = pl.sql_expr(column.sql).cast(polars_type(column.dtype))
            frame = frame.with_columns(expression.alias(column.name))
        except pl.exceptions.PolarsError as error:
            raise SpecError(
                f"{where(spec, 'derive', index, 'sql')}: sql of {column.name!r} does not work on these rows "
                f"as {column.dtype} ({type(error).__name__}).",
                hint="Look at the types of the columns that it uses.",
            ) from None
    return frame


def features(frame: "pl.DataFrame", spec: Spec) -> "pd.DataFrame":
    """The spec's features for scikit-learn: text as objects with None, all else as float64 with NaN.

    Raises BadData if a feature is not in the frame.
    """
    import pandas as pd

    missing = [name for name in spec.features() if name not in frame.columns]
    if missing:
        raise BadData(
            f"{spec.name}: the rows have no feature {', '.join(missing)}.",
            hint="Build the features with the spec that the model is for.",
        )
    return pd.DataFrame({name: _plain(frame[name]) for name in spec.features()})


def target(frame: "pl.DataFrame", spec: Spec) -> "Outcomes":
    """Of a binary target 1 where it has the spec's positive value, else 0; of several classes their names; numbers as
    they are. Raises BadData if a row has no target, or a number that is not finite.
    """
    import numpy as np
    import polars as pl

    if spec.target.column not in frame.columns:
        raise BadData(f"{spec.name}: the rows have no target {spec.target.column!r}.", hint="Build the features again.")
    known = frame[spec.target.column]
    if known.null_count():
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} is missing in {known.null_count()} rows.",
            hint="Only rows whose outcome is known can be learnt from or judged on.",
        )
    if spec.target.kind == "multiclass":
        return known.cast(pl.String).to_numpy().astype(np.str_)
    if spec.target.kind == "regression":
        numbers = known.cast(pl.Float64).to_numpy()
        if not np.isfinite(numbers).all():
            raise BadData(f"{spec.name}: target {spec.target.column!r} is infinite in a row.", hint="Give it a max.")
        return numbers
    comparable = known.cast(pl.Int8) if known.dtype == pl.Boolean else known  # a boolean knows no `== 1`
    return (comparable == spec.target.positive).to_numpy().astype(np.int8)


def infinite(frame: "pl.DataFrame", spec: Spec) -> "pl.Series":
    """Which rows have an infinite feature, of which no model can learn."""
    import polars as pl

    floats = [name for name in spec.features() if frame[name].dtype.is_float()]
    return frame.select(pl.any_horizontal(pl.lit(False), *(pl.col(n).is_infinite().fill_null(False) for n in floats)))[
        :, 0
    ]


def without_infinity(frame: "pl.DataFrame") -> "pl.DataFrame":
    """The same rows with missing values in the place of infinite ones."""
    import polars as pl
    from polars import selectors as cs

    return frame.with_columns(pl.when(cs.float().is_finite() | cs.float().is_nan()).then(cs.float()))


def refuse_infinite(seen: "pd.DataFrame", spec: Spec) -> None:
    """Raises BadData if a feature has infinite values, which scikit-learn takes for a fault of the caller's."""
    import numpy as np

    for name in seen.columns:
        if seen[name].dtype != object and np.isinf(seen[name]).any():
            raise BadData(
                f"{spec.name}: feature {name!r} has infinite values.",
                hint="Give it a max in the spec, so that validation sets such rows aside, or derive it anew.",
            )


def predicted(model: "Pipeline", frame: "pl.DataFrame", spec: Spec) -> Predicted:
    """What the model says of each row. Raises BadData if it wants another feature, or is for another kind of target."""
    import numpy as np

    seen = features(frame, spec)
    missing = [name for name in model.feature_names_in_ if name not in seen.columns]
    if missing:
        raise BadData(
            f"{spec.name}: the model wants {', '.join(missing)}, which the spec no longer has as a feature.",
            hint="Train a model with the spec as it is.",
        )
    if (kind := kind_of(model)) != spec.target.kind:
        raise BadData(
            f"{spec.name}: the model is for a {kind} target, the spec's is {spec.target.kind}.",
            hint="Train a model with the spec as it is.",
        )
    rows = seen[list(model.feature_names_in_)]
    if spec.target.kind == "regression":
        return Predicted(np.asarray(model.predict(rows), dtype=np.float64))
    probabilities = np.asarray(model.predict_proba(rows), dtype=np.float64)
    if spec.target.kind == "binary":
        return Predicted(probabilities[:, 1])
    classes = tuple(str(name) for name in model.classes_)
    best = probabilities.argmax(axis=1) if len(rows) else np.zeros(0, dtype=np.int64)
    return Predicted(probabilities.max(axis=1), np.array(classes)[best], probabilities, classes)


def kind_of(model: "Pipeline") -> TargetKind:
    """What kind of target a fitted model is for, by what `target` gave it to learn: numbers, names or 0 and 1."""
    classes = getattr(model, "classes_", None)
    if classes is None:
        return "regression"
    return "multiclass" if classes.dtype.kind in "OU" else "binary"


def leave_markdown(key: str, markdown: str, description: str | None = None) -> None:
    """Leave a page beside the task run in Prefect's UI; outside of a run there is nobody to leave it to.

    `description` is the finding in a line: all that the UI shows before the page is opened.
    """
    from prefect.artifacts import create_markdown_artifact
    from prefect.context import TaskRunContext

    if TaskRunContext.get():
        create_markdown_artifact(markdown, key=key.replace("_", "-"), description=description)


def leave_table(
    key: str, rows: "Sequence[Mapping[str, str | int | float | None]]", description: str | None = None
) -> None:
    """Leave a table beside the task run in Prefect's UI; likewise."""
    from prefect.artifacts import create_table_artifact
    from prefect.context import TaskRunContext

    if TaskRunContext.get():
        create_table_artifact([dict(row) for row in rows], key=key.replace("_", "-"), description=description)


def links(pages: Mapping[str, str | None]) -> str:
    """`[text](address) · [text](address)`, of those pages that can be opened."""
    return " · ".join(f"[{text}]({address})" for text, address in pages.items() if address)


def as_markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same names as a table of markdown; nothing where there is no row."""
    cells = ([str("" if value is None else value) for value in row.values()] for row in rows)
    return markdown_table(list(rows[0]), cells) if rows else ""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of markdown; what a cell holds cannot end it, and is shown as it is."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(redact.unmarked, line)) + " |" for line in lines)


def bar(ratio: float, width: int = 20) -> str:
    """`ratio` as a text bar of `width` cells, half of it up to 1; a ratio of 2 or more fills it."""
    filled = min(width, max(0, round(ratio * width / 2)))
    return "█" * filled + "░" * (width - filled)


def short(digest: str | None) -> str:
    """`sha256:1234abcd…`: enough to tell two apart, and fit for a table; empty where there is none."""
    algorithm, _, value = (digest or "").partition(":")
    return f"{algorithm}:{value[:8]}…" if value else ""


def subject(reference: DatasetVersion | ModelVersion) -> str:
    """How an event names what it is about: by number, never by digest."""
    if isinstance(reference, DatasetVersion):
        return f"dataset/{reference.name}/{reference.version}"
    return f"model/{reference.name}/{f'v{reference.version}' if reference.version else 'unregistered'}"


def facts(
    reference: DatasetVersion,
    frame: "pl.DataFrame",
    spec: Spec,
    *,
    window: Window | None = None,
    sources: list[Source] | None = None,
    made_from: tuple[Used, ...] = (),
    transformations: tuple[str, ...] = (),
    assumptions: tuple[Named, ...] = (),
) -> DatasetFacts:
    """What goes on record of a dataset version that a stage has made."""
    return DatasetFacts(
        spec=spec.name,
        name=reference.name,
        version=reference.version,
        digest=reference.digest,
        address=reference.address,
        rows=reference.rows,
        columns=datasets.columns(frame),
        window=str(window) if window else None,
        sources=sources,
        made_from=list(made_from),
        transformations=list(transformations),
        assumptions=list(assumptions),
    )


def _plain(series: "pl.Series") -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
    import polars as pl

    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        return series.cast(pl.String).to_numpy()
    return series.cast(pl.Float64).to_numpy()
