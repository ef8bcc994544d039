"""Train the spec's estimator on one dataset version.

The model is one scikit-learn pipeline, encoding included. Gradient boosting sees ordinal codes, not native
categoricals: shap's reasons are silently wrong on those, and exact on codes.
"""

import difflib
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import datasets, models
from audit.errors import BadData, SpecError
from audit.events.canonical import Json, clean
from audit.events.payloads import Named, TrainingFacts, used
from audit.events.references import DatasetVersion, ModelVersion
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames

if TYPE_CHECKING:
    import polars as pl
    from sklearn.base import ClassifierMixin
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

# Whose versions can change what a fit comes to.
LIBRARIES = ("scikit-learn", "numpy", "scipy", "polars", "skops", "joblib", "threadpoolctl")
# Where we depart from scikit-learn's own defaults: 100 steps are too few for one-hot columns.
DEFAULTS: dict[str, dict[str, int]] = {"hist_gradient_boosting": {}, "logistic_regression": {"max_iter": 1_000}}
ABSENT = "not set"


def fit(frame: "pl.DataFrame", spec: Spec) -> "Pipeline":
    """Fitted pipeline. Same rows, spec and library versions: same model, whatever the number of threads.

    Raises SpecError for a hyperparameter that the estimator refuses, BadData if there is only one class.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.utils._param_validation import InvalidParameterError  # there is no public name for it

    inputs, target = frames.inputs(frame, spec), frames.target(frame, spec)
    if target.all() or not target.any():
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} has only one class in {frame.height:,} training rows.",
            hint="Choose a longer window, or check target.positive.",
        )
    pipeline = Pipeline([("encode", encoder(inputs, spec)), ("estimate", estimator(spec))])
    try:
        return pipeline.fit(inputs, target)
    except InvalidParameterError as refused:
        raise SpecError(f"{spec.name}: estimator.parameters: {' '.join(str(refused).split())}") from refused


def estimator(spec: Spec) -> "ClassifierMixin":
    """The unfitted estimator with the spec's hyperparameters and seed. Raises SpecError for an unknown one."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    kind = spec.estimator.kind
    made = HistGradientBoostingClassifier() if kind == "hist_gradient_boosting" else LogisticRegression()
    _check_names(spec, made.get_params())
    return made.set_params(**DEFAULTS[kind] | spec.estimator.parameters, random_state=spec.estimator.seed)


def encoder(inputs: "pl.DataFrame", spec: Spec) -> "ColumnTransformer":
    """What turns feature columns into numbers, one column to one number for trees, one-hot for a linear model."""
    from sklearn.compose import ColumnTransformer

    text = [name for name, dtype in frames.feature_dtypes(spec).items() if dtype == "string"]
    numbers = [name for name in inputs.columns if name not in text]
    as_text, as_number = _for_trees if spec.estimator.kind == "hist_gradient_boosting" else _for_lines
    categories = [inputs[name].drop_nulls().unique().sort().to_list() for name in text]
    return ColumnTransformer(
        [("text", as_text(categories), text), ("numbers", as_number(), numbers)],
        verbose_feature_names_out=False,
    )
