"""Train the spec's estimator on one dataset version.

The model is one scikit-learn pipeline, encoding included. Gradient boosting sees ordinal codes and not native
categoricals, on which shap's reasons are silently wrong; on codes they are exact.
"""

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import models
from audit.errors import BadData, SpecError, StoreUnavailable
from audit.events.canonical import Json, clean
from audit.events.payloads import Named, TrainingFacts, used
from audit.events.references import DatasetVersion, ModelVersion
from audit.spec.load import did_you_mean, where
from audit.spec.model import Spec
from tasks import _frames as frames

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl
    from sklearn.base import ClassifierMixin, TransformerMixin
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline


# Whose versions can change what a fit comes to.
LIBRARIES = ("scikit-learn", "numpy", "scipy", "polars", "pandas", "skops")
# Where we depart from scikit-learn's own defaults: 100 steps are too few for one-hot columns.
DEFAULTS: dict[str, dict[str, int]] = {"hist_gradient_boosting": {}, "logistic_regression": {"max_iter": 1_000}}
ABSENT = "not set"


def fit(frame: "pl.DataFrame", spec: Spec) -> "Pipeline":
    """Fitted pipeline. Same rows, spec and library versions: same model, whatever the number of threads.

    Raises SpecError for a hyperparameter that the estimator refuses, BadData for rows that nothing can be learnt from.
    """
    from sklearn.pipeline import Pipeline

    seen, target = frames.features(frame, spec), frames.target(frame, spec)
    _check_rows(seen, target, spec)
    pipeline = Pipeline([("encode", encoder(seen, spec)), ("estimate", estimator(spec))])
    try:
        pipeline.fit(seen, target)
    except ValueError as refused:  # rows were checked before, so what is left to refuse is a parameter
        raise SpecError(
            f"{where(spec, 'estimator')}: {spec.estimator.kind} cannot be fitted. {' '.join(str(refused).split())}",
            hint="Mend its parameters.",
        ) from refused
    if spec.estimator.kind == "hist_gradient_boosting":
        # scikit-learn keeps in the model how many threads it had here: no part of what was learnt, yet another
        # digest on another machine. Predicting counts its threads anew.
        pipeline["estimate"]._bin_mapper.n_threads = 1
    return pipeline


def estimator(spec: Spec) -> "ClassifierMixin":
    """The unfitted estimator with the spec's hyperparameters and seed. Raises SpecError for an unknown one."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    trees = spec.estimator.kind == "hist_gradient_boosting"
    made = HistGradientBoostingClassifier() if trees else LogisticRegression()
    _check_names(spec, sorted(made.get_params()))
    made.set_params(**(DEFAULTS[spec.estimator.kind] | spec.estimator.parameters), random_state=spec.estimator.seed)
    return made


def encoder(seen: "pd.DataFrame", spec: Spec) -> "ColumnTransformer":
    """What turns feature columns into numbers: each text one code for trees, one column a value for a line."""
    from sklearn.compose import ColumnTransformer

    text = list(seen.select_dtypes("object").columns)
    categories = [sorted(seen[name].dropna().unique()) for name in text]
    trees = spec.estimator.kind == "hist_gradient_boosting"
    return ColumnTransformer(
        [
            ("text", _codes(categories) if trees else _indicators(categories), text),
            ("numbers", "passthrough" if trees else _scaled(), [name for name in seen.columns if name not in text]),
        ],
        verbose_feature_names_out=False,
    )


@task(task_run_name="train {spec.name} on {rows.name} {rows.version}")
def train_model(rows: DatasetVersion, spec: Spec, cause: str | None = None) -> ModelVersion:
    """An unregistered model, trained on `rows`; `cause` is the event that asked for it."""
    frame = frames.read(rows)
    began = time.perf_counter()
    pipeline = fit(frame, spec)
    seconds = time.perf_counter() - began
    model = models.put(pipeline, spec.name)
    facts = TrainingFacts(
        spec=spec.name,
        model=used("model", model),
        trained_on=used("rows", rows),
        estimator=spec.estimator.kind,
        hyperparameters=hyperparameters(pipeline),
        features=spec.features(),
        target=spec.target.column,
        seeds=[Named(name="estimator.random_state", value=spec.estimator.seed)],
        libraries=libraries(),
        rows=frame.height,
        seconds=round(seconds, 3),
        cause=cause,
    )
    facts = facts.model_copy(update={"changed": changed_since_last(facts, spec)})
    record("model.trained", facts, subject=frames.subject(model))
    frames.leave_markdown(f"{spec.name}-training", for_people(facts), in_a_line(facts))
    return model


def hyperparameters(pipeline: "Pipeline") -> list[Named]:
    """Every parameter of the fitted estimator, defaults included, as it can be put on record."""
    parameters = pipeline.named_steps["estimate"].get_params()
    return [Named(name=name, value=clean(parameters[name])) for name in sorted(parameters)]


def libraries() -> list[Named]:
    """Versions of what a fit hangs on, the interpreter first."""
    from importlib.metadata import version
    from platform import python_version

    return [
        Named(name="python", value=python_version()),
        *(Named(name=name, value=version(name)) for name in LIBRARIES),
    ]


def changed_since_last(facts: TrainingFacts, spec: Spec) -> list[Named]:
    """What this training was told otherwise than the one before it; nothing if it is the first on record."""
    from audit.store import read
    from audit.store.engine import open_store

    try:
        last = next(read.events(open_store(), types=("model.trained",), spec=spec.name, limit=1), None)
    except StoreUnavailable:  # the training itself goes on, and its event to the spool
        return [Named(name="unknown", value="the store could not be asked for the training before")]
    if last is None or not last.payload:  # a payload may have been withdrawn
        return []
    return changes(told(TrainingFacts.model_validate(last.payload)), told(facts))


def told(facts: TrainingFacts) -> dict[str, Json]:
    """What the fit was told: kind, hyperparameters, target and features, by name."""
    hyper = {known.name: known.value for known in facts.hyperparameters}
    features = {f"feature {name}": "used" for name in facts.features}
    return {"estimator": facts.estimator, "target": facts.target} | hyper | features


def changes(before: Mapping[str, Json], now: Mapping[str, Json]) -> list[Named]:
    """What differs between two fits, by name, as `old -> new`."""
    names = sorted(before.keys() | now.keys())
    both = ((name, before.get(name, ABSENT), now.get(name, ABSENT)) for name in names)
    return [Named(name=name, value=f"{old} -> {new}") for name, old, new in both if old != new]


def in_a_line(facts: TrainingFacts) -> str:
    """`Trained hist_gradient_boosting on 21,000 rows with 12 features; changed since the last training: nothing`."""
    changed = ", ".join(change.name for change in facts.changed) or "nothing"
    return (
        f"Trained {facts.estimator} on {facts.rows:,} rows with {len(facts.features)} features; "
        f"changed since the last training: {changed}"
    )


def for_people(facts: TrainingFacts) -> str:
    """The training as a page of markdown."""
    changed = "\n".join(f"- {change.name}: {change.value}" for change in facts.changed) or "- nothing"
    return (
        f"**{facts.estimator}** on {facts.rows:,} rows of {facts.trained_on.of} version {facts.trained_on.version}, "
        f"{len(facts.features)} features, {facts.seconds:.1f} s\n\nChanged since the last training:\n{changed}\n"
    )


def _check_rows(seen: "pd.DataFrame", target: "np.ndarray[tuple[int], np.dtype[np.int8]]", spec: Spec) -> None:

    if not 0 < target.sum() < len(target):
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} has only one class in {len(target):,} training rows.",
            hint="Choose a longer window, or mend target.positive.",
        )
    for name in seen.columns:
        if seen[name].isna().all():
            raise BadData(
                f"{spec.name}: feature {name!r} has no value in {len(target):,} training rows.",
                hint="Choose a longer window, or take it out of the features.",
            )
    frames.refuse_infinite(seen, spec)


def _check_names(spec: Spec, known: list[str]) -> None:
    for name in spec.estimator.parameters:
        if name == "random_state":
            raise SpecError(f"{_parameter(spec, name)}: random_state is ours to set.", hint="Use estimator.seed.")
        if name not in known:
            raise SpecError(
                f"{_parameter(spec, name)}: {spec.estimator.kind} has no parameter {name!r}.",
                hint=did_you_mean(name, known).strip() or f"It has {', '.join(known)}.",
            )


def _parameter(spec: Spec, name: str) -> str:
    return where(spec, "estimator", "parameters", name)


def _codes(categories: list[list[str]]) -> "TransformerMixin":
    """Codes in alphabetical order. Missing stays missing, and so becomes what training never saw: a tree has a
    branch for missing values, while a code of their own would put them beside some real category.
    """
    from sklearn.preprocessing import OrdinalEncoder

    return OrdinalEncoder(
        categories=categories,
        handle_unknown="use_encoded_value",
        unknown_value=math.nan,  # None is in no list of categories, so that it is coded by this too
        encoded_missing_value=math.nan,
    )


def _indicators(categories: list[list[str]]) -> "TransformerMixin":
    """One column a value, all of them zero where it is missing or was never seen."""
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(categories=categories, handle_unknown="ignore")


def _scaled() -> "TransformerMixin":
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
