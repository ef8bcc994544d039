"""What is wrong with a spec and can be told before a run: in itself, with its estimator, with its sources."""

import inspect
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.errors import BadData
from audit.settings import settings
from audit.spec.load import (
    ONLY_SOURCES,
    did_you_mean,
    first_line,
    folder_of,
    load_spec,
    reads_files,
    spec_errors,
    where,
)
from audit.spec.model import ESTIMATORS, Column, Spec
from audit.spec.sources import columns_of, converted, polars_type

if TYPE_CHECKING:
    import polars as pl

# Where an estimator of each kind is written, without the ending that says what it foretells.
_WRITTEN = {
    "hist_gradient_boosting": "sklearn.ensemble.HistGradientBoosting",
    "random_forest": "sklearn.ensemble.RandomForest",
    "explainable_boosting": "interpret.glassbox.ExplainableBoosting",
}
_LINES = {
    "logistic_regression": "sklearn.linear_model.LogisticRegression",
    "linear_regression": "sklearn.linear_model.LinearRegression",
}


def problems(path: str | Path) -> list[str]:
    """Every error of the spec at `path`, one line each with its line in the file; empty for one that can run.

    Where the spec itself is sound, its estimator's parameters and its sources' columns are looked at. Of a source that
    means header, schema or one row; what stands in the rows is found by a run.
    """
    if errors := spec_errors(path):
        return errors
    spec = load_spec(path)
    return sorted([*_sources(spec), *_parameters(spec)], key=_line_in)


def _line_in(problem: str) -> int:
    return int(found[1]) if (found := re.match(r"[^:]*:(\d+):", problem)) else 0


def _parameters(spec: Spec) -> Iterator[str]:
    """Parameters that the estimator does not have or does not take, and an estimator that is not there."""
    kind = spec.estimator.kind
    if kind not in ESTIMATORS:
        if kind not in settings().estimators:
            fix = "If you trust its code, add this path to AUDIT_ESTIMATORS."
            yield f"{where(spec, 'estimator', 'kind')}: estimator {kind} is not on the allow-list. {fix}"
        return
    try:
        made = _estimator(spec)()
    except ImportError:
        fix = "Run `pip install 'prefect-audit[ebm]'`."
        yield f"{where(spec, 'estimator', 'kind')}: {kind} needs a package that is not installed. {fix}"
        return
    known = sorted(inspect.signature(type(made)).parameters)
    unknown = [name for name in spec.estimator.parameters if name not in known or name == "random_state"]
    for name in unknown:
        line = where(spec, "estimator", "parameters", name)
        if name == "random_state":
            yield f"{line}: random_state is ours to set. Use estimator.seed."
        else:
            yield f"{line}: {kind} has no parameter {name!r}.{did_you_mean(name, known)}"
    if not unknown:
        yield from _refused(made, spec)


def _estimator(spec: Spec) -> Any:
    kind = spec.estimator.kind
    foretells = "Regressor" if spec.target.kind == "regression" else "Classifier"
    module, _, name = (_LINES.get(kind) or f"{_WRITTEN[kind]}{foretells}").rpartition(".")
    return getattr(import_module(module), name)


def _refused(made: Any, spec: Spec) -> Iterator[str]:
    """Values that scikit-learn's own check refuses, one by one, in its words."""
    if not hasattr(made, "_validate_params"):
        return
    for name, value in spec.estimator.parameters.items():
        try:
            type(made)(**{name: value})._validate_params()
        except ValueError as refused:
            told = " ".join(str(refused).split()).rstrip(".")
            yield f"{where(spec, 'estimator', 'parameters', name)}: {told[:1].lower()}{told[1:]}."


def _sources(spec: Spec) -> Iterator[str]:
    """Sources that are not what they should be, and columns that they do not have."""
    tables: dict[str, dict[str, pl.DataType]] = {}
    for name, table in spec.sources.items():
        said = where(spec, "sources", name)
        try:
            tables[name] = columns_of(name, table, folder_of(spec), said=said)
        except BadData as wrong:
            yield str(wrong)
    if len(tables) < len(spec.sources):
        return
    present = next(iter(tables.values())) if spec.query is None else _queried(spec, tables)
    if isinstance(present, str):
        yield present
        return
    for index, column in enumerate(spec.columns):
        if problem := _column(column, present, text=_is_text(spec)):
            yield f"{_line(spec, index, column, present)}: {problem}"


def _line(spec: Spec, index: int, column: Column, present: "Mapping[str, pl.DataType]") -> str:
    return where(spec, "columns", index, "name" if column.name not in present else "dtype")


def _is_text(spec: Spec) -> bool:
    """Whether types were guessed from the text of a few rows, so that they say little."""
    return any(table.file and not str(table.file).endswith(".parquet") for table in spec.sources.values())


def _column(column: Column, present: "Mapping[str, pl.DataType]", *, text: bool) -> str | None:
    import polars as pl

    if column.name not in present:
        return f"column {column.name!r} is not in the source.{did_you_mean(column.name, present)}"
    given, needed = present[column.name], polars_type(column.dtype)
    if text or given in (needed, pl.Null()):
        return None
    empty = pl.Series(column.name, [], dtype=given).to_frame()
    made = empty.select(converted(pl.col(column.name), given, column.dtype, column.date_format))
    if made.schema.dtypes()[0] == pl.Null and needed != pl.Null:
        return f"column {column.name!r} is of type {given.base_type().__name__}, which is never a {column.dtype}."
    return None


def _queried(spec: Spec, tables: "Mapping[str, Mapping[str, pl.DataType]]") -> "dict[str, pl.DataType] | str":
    """The columns that the query comes to, or what is wrong with it."""
    import polars as pl

    assert spec.query
    line = where(spec, "query")
    frames = {name: pl.LazyFrame(schema=dict(columns)) for name, columns in tables.items()}
    try:
        if reads_files(spec.query, tables):
            return f"{line}: query: {ONLY_SOURCES}"
        return dict(pl.SQLContext(frames).execute(spec.query, eager=False).collect_schema())
    except pl.exceptions.PolarsError as error:
        return f"{line}: query: {first_line(error)}."
