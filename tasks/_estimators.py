"""The estimators that a spec may name, and how each of them wants its columns.

Trees see text as alphabetical codes and not as native categories, on which shap's reasons are silently wrong; on codes
they are exact. Lines see one column a value, and numbers of mean 0 and deviation 1. The explainable boosting machine
sees the columns as they are. An estimator of the user's own is given what trees are given.
"""

import inspect
import math
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from audit.errors import SpecError
from audit.settings import settings
from audit.spec.load import did_you_mean, where
from audit.spec.model import ESTIMATORS, Spec

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.compose import ColumnTransformer

# Where we depart from the libraries' own defaults:
DEFAULTS: dict[str, dict[str, int]] = {
    # 100 steps are too few for one-hot columns.
    "logistic_regression": {"max_iter": 1_000},
    # Grown to the last row, a hundred trees are a hundred times as large as the data, and remember single people.
    "random_forest": {"min_samples_leaf": 5},
    # Without interactions each column has one share in the score, so that the reasons are exact.
    "explainable_boosting": {"interactions": 0, "n_jobs": 1},
}
LINES = ("logistic_regression", "linear_regression")
OURS = {"random_state": "Use estimator.seed.", "feature_types": "It follows from the dtypes of the columns."}
# What a pipeline and the record ask of an estimator, whoever wrote it.
NEEDED = ("fit", "predict", "get_params", "set_params", "__sklearn_tags__")


def estimator(spec: Spec) -> "BaseEstimator":
    """The unfitted estimator with the spec's hyperparameters and its seed, if it draws at all.

    Raises SpecError for a hyperparameter that it does not have, for one that is not installed, and for a class of the
    user's that is not allowed or is no estimator.
    """
    kind = spec.estimator.kind
    made = _shipped(spec) if kind in ESTIMATORS else _made(_own_class(spec), spec)
    known = sorted(made.get_params())
    _check_names(spec, known)
    seed = {"random_state": spec.estimator.seed} if "random_state" in known else {}
    made.set_params(**(DEFAULTS.get(kind, {}) | spec.estimator.parameters | seed))
    return made


def encoder(seen: "pd.DataFrame", spec: Spec) -> "ColumnTransformer":
    """What turns feature columns into what the estimator learns from."""
    from sklearn.compose import ColumnTransformer

    text = list(seen.select_dtypes("object").columns)
    numbers = [name for name in seen.columns if name not in text]
    if spec.estimator.kind == "explainable_boosting":
        columns = [("text", "passthrough", text), ("numbers", "passthrough", numbers)]
        return ColumnTransformer(columns, verbose_feature_names_out=False).set_output(transform="pandas")
    categories = [sorted(seen[name].dropna().unique()) for name in text]
    line = spec.estimator.kind in LINES
    return ColumnTransformer(
        [
            ("text", _indicators(categories) if line else _codes(categories), text),
            ("numbers", _scaled() if line else "passthrough", numbers),
        ],
        verbose_feature_names_out=False,
    )


def feature_types(seen: "pd.DataFrame") -> list[str]:
    """What the explainable boosting machine is to take each column for, in the encoder's order. By itself it would
    take a number with few values for names, and names that are digits for numbers.
    """
    text = len(seen.select_dtypes("object").columns)
    return ["nominal"] * text + ["continuous"] * (seen.shape[1] - text)


def _shipped(spec: Spec) -> "BaseEstimator":
    """Of a line of numbers the plain one: a ridge's penalty would be a hyperparameter that nobody chose, and where
    one-hot columns add up to the intercept, least squares takes the shortest of the equal solutions.
    """
    from sklearn import ensemble, linear_model

    number = spec.target.kind == "regression"
    match spec.estimator.kind:
        case "hist_gradient_boosting":
            return ensemble.HistGradientBoostingRegressor() if number else ensemble.HistGradientBoostingClassifier()
        case "random_forest":
            return ensemble.RandomForestRegressor() if number else ensemble.RandomForestClassifier()
        case "linear_regression":
            return linear_model.LinearRegression()
        case "logistic_regression":
            return linear_model.LogisticRegression()
    return _explainable(spec)


def _explainable(spec: Spec) -> "BaseEstimator":
    try:
        from interpret import glassbox
    except ImportError:
        raise SpecError(
            f"{where(spec, 'estimator', 'kind')}: explainable_boosting needs interpret-core.",
            hint="Run `pip install 'prefect-audit[ebm]'`.",
        ) from None
    number = spec.target.kind == "regression"
    return glassbox.ExplainableBoostingRegressor() if number else glassbox.ExplainableBoostingClassifier()


def _own_class(spec: Spec) -> "type[BaseEstimator]":
    """The class of the user's that the spec names. Nothing is imported that AUDIT_ESTIMATORS does not list."""
    path, line = spec.estimator.kind, where(spec, "estimator", "kind")
    if path not in settings().estimators:
        raise SpecError(
            f"{line}: estimator {path} is not on the allow-list.",
            hint="If you trust its code, add this path to AUDIT_ESTIMATORS.",
        )
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except Exception as failed:  # whatever a module of the user's raises while it is imported
        raise SpecError(
            f"{line}: {module} cannot be imported ({type(failed).__name__}).",
            hint="Install it where the flow runs, or mend it.",
        ) from failed
    if not isinstance(found, type):
        raise SpecError(
            f"{line}: {module} has no class {name!r}.", hint=did_you_mean(name, dir(import_module(module))).strip()
        )
    needed = NEEDED if spec.target.kind == "regression" else (*NEEDED, "predict_proba")
    if missing := [method for method in needed if not hasattr(found, method)]:
        raise SpecError(
            f"{line}: {path} has no {', '.join(missing)}.",
            hint="A pipeline needs them. Derive it from sklearn.base.BaseEstimator and write what is left.",
        )
    # A stored model names its classes by where they are written; the allow-list is compared with that at loading.
    if (written := f"{found.__module__}.{found.__qualname__}") != path:
        raise SpecError(f"{line}: {path} is written as {written}.", hint="Use that name, here and in AUDIT_ESTIMATORS.")
    return found


def _made(found: "type[BaseEstimator]", spec: Spec) -> "BaseEstimator":
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    asked = [parameter for parameter in inspect.signature(found).parameters.values() if parameter.kind in named]
    if required := [parameter.name for parameter in asked if parameter.default is parameter.empty]:
        raise SpecError(
            f"{where(spec, 'estimator', 'kind')}: {spec.estimator.kind} cannot be made without {', '.join(required)}.",
            hint="Give its parameters defaults, as scikit-learn's estimators have.",
        )
    return found()


def _check_names(spec: Spec, known: Sequence[str]) -> None:
    for name in spec.estimator.parameters:
        line = where(spec, "estimator", "parameters", name)
        if name in known and (name == "random_state" or (name in OURS and spec.estimator.kind in ESTIMATORS)):
            raise SpecError(f"{line}: {name} is ours to set.", hint=OURS[name])
        if name not in known:
            raise SpecError(
                f"{line}: {spec.estimator.kind} has no parameter {name!r}.",
                hint=did_you_mean(name, known).strip() or f"It has {', '.join(known)}.",
            )


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
