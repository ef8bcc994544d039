"""Train the spec's estimator on one dataset version.

The model is one scikit-learn pipeline, encoding included; tasks._estimators says which estimators there are.
"""

import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING

from audit import record, task
from audit.artifacts import models
from audit.errors import BadData, SpecError, StoreUnavailable
from audit.events.canonical import Json, clean, digest_of
from audit.events.payloads import Named, TrainingFacts, used
from audit.events.references import DatasetVersion, ModelVersion
from audit.privacy import redact
from audit.spec.load import where
from audit.spec.model import ESTIMATORS, Spec
from tasks import _frames as frames
from tasks._estimators import DEFAULTS, encoder, estimator, feature_types
from tasks._judging import varied

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

    from tasks._frames import Outcomes


# Whose versions can change what a fit comes to.
LIBRARIES = ("scikit-learn", "numpy", "scipy", "polars", "pandas", "skops")
LIBRARIES_OF = {"explainable_boosting": ("interpret-core",)}
ABSENT = "not set"


def fit(frame: "pl.DataFrame", spec: Spec) -> "Pipeline":
    """Fitted pipeline. Same rows, spec and library versions: same model, whatever the number of threads. (An estimator
    of the user's own is as repeatable as its author made it.)

    Raises SpecError for a hyperparameter that the estimator refuses, BadData for rows that nothing can be learnt from.
    """
    from sklearn.pipeline import Pipeline
    from threadpoolctl import threadpool_limits

    seen, target = frames.features(frame, spec), frames.target(frame, spec)
    _check_rows(seen, target, spec)
    pipeline = Pipeline([("encode", encoder(seen, spec)), ("estimate", estimator(spec))])
    if spec.estimator.kind == "explainable_boosting":
        pipeline["estimate"].set_params(feature_types=feature_types(seen))
    # BLAS adds up in another order on two threads than on one: the last bits of a line would differ. And interpret
    # warns of missing values, for its pictures, which nobody draws here, do not show them.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Missing values detected")
        _fit(pipeline, seen, target, spec)
    return _without_threads(pipeline, spec)


def _fit(pipeline: "Pipeline", seen: "pd.DataFrame", target: "Outcomes", spec: Spec) -> None:
    kind = spec.estimator.kind
    try:
        pipeline.fit(seen, target)
    except Exception as refused:
        # Rows were checked before, so what is left to refuse is a parameter; interpret says so by a bare Exception
        # too. What a class of the user's raises is for its author, traceback and all.
        if kind not in ESTIMATORS or not (isinstance(refused, ValueError | TypeError) or type(refused) is Exception):
            raise
        if spec.target.kind == "multiclass" and (alone := _alone(target)):
            raise BadData(
                f"{spec.name}: {kind} cannot learn from these {len(target):,} training rows, where {_in_words(alone)}.",
                hint="Derive a target that puts rare classes together, or leave their rows out.",
            ) from refused
        raise SpecError(
            f"{where(spec, 'estimator')}: {kind} cannot be fitted. {' '.join(str(refused).split())}",
            hint="Mend its parameters.",
        ) from refused


def _without_threads(pipeline: "Pipeline", spec: Spec) -> "Pipeline":
    """How many threads it had here is no part of what was learnt, yet would be another digest on another machine; and
    a forest on several adds up its trees in the order in which they end.
    """
    kind, fitted = spec.estimator.kind, pipeline["estimate"]
    if kind == "hist_gradient_boosting":
        fitted._bin_mapper.n_threads = 1  # predicting counts its threads anew
    elif kind in ESTIMATORS and "n_jobs" in fitted.get_params():
        fitted.set_params(n_jobs=DEFAULTS.get(kind, {}).get("n_jobs"))
    return pipeline


@task(task_run_name="train {spec.name} on {rows.name} {rows.version}")
def train_model(rows: DatasetVersion, spec: Spec, cause: str | None = None) -> ModelVersion:
    """An unregistered model, trained on `rows`; `cause` is the event that asked for it."""
    frame = frames.read(rows)
    began = time.perf_counter()
    pipeline = fit(frame, spec)
    seconds = time.perf_counter() - began
    model = models.put(pipeline, spec.name)
    fitted, several = pipeline["estimate"], spec.target.kind == "multiclass"
    facts = TrainingFacts(
        spec=spec.name,
        model=used("model", model),
        trained_on=used("rows", rows),
        estimator=spec.estimator.kind,
        hyperparameters=hyperparameters(pipeline),
        features=spec.features(),
        target=spec.target.column,
        kind=spec.target.kind,
        classes=[str(name) for name in fitted.classes_] if several else [],
        stated=stated(frames.target(frame, spec)) if several else [],
        seeds=[Named(name="estimator.random_state", value=spec.estimator.seed)] if _draws(fitted) else [],
        libraries=libraries(spec),
        rows=frame.height,
        seconds=round(seconds, 3),
        cause=cause,
    )
    facts = facts.model_copy(update={"changed": changed_since_last(facts, spec)})
    record("model.trained", facts, subject=frames.subject(model))
    frames.leave_markdown(f"{spec.name}-training", for_people(facts), in_a_line(facts))
    return model


def hyperparameters(pipeline: "Pipeline") -> list[Named]:
    """Every parameter of the fitted estimator, defaults included, as it can be put on record: no secret, and of an
    object that an estimator of the user's own has for one its type, for what it looks like may be rows."""
    shown = redact.parameters(dict(sorted(pipeline.named_steps["estimate"].get_params().items())))
    return [Named(name=known.name, value=clean(known.value)) for known in shown]


def libraries(spec: Spec) -> list[Named]:
    """Versions of what a fit hangs on, the interpreter first; an estimator of the user's own last."""
    shipped = spec.estimator.kind in ESTIMATORS
    return [
        Named(name="python", value=python_version()),
        *(Named(name=name, value=version(name)) for name in (*LIBRARIES, *LIBRARIES_OF.get(spec.estimator.kind, ()))),
        *([] if shipped else [_own_code(spec.estimator.kind.rpartition(".")[0])]),
    ]


def _own_code(module: str) -> Named:
    """The version of the distribution that `module` came with, else the digest of its file."""
    distributions = packages_distributions().get(module.partition(".")[0], [])
    try:
        return Named(name=distributions[0], value=version(distributions[0]))
    except (IndexError, PackageNotFoundError):
        written = Path(sys.modules[module].__file__ or "").read_bytes()
        return Named(name=module, value=digest_of(written))


def stated(target: "Outcomes") -> list[str]:
    """What hampers learning several classes, and does not end it."""
    alone = _alone(target)
    return [f"{_in_words(alone)}: nearly nothing was learnt of it"] if alone else []


def _alone(target: "Outcomes") -> int:
    """How many classes have a single row."""
    return sum(rows == 1 for rows in Counter(target.tolist()).values())


def _in_words(alone: int) -> str:
    return "one class has a single row" if alone == 1 else f"{alone:,} classes have a single row each"


def _draws(estimator: "BaseEstimator") -> bool:
    return "random_state" in estimator.get_params()


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
    return {"estimator": facts.estimator, "target": facts.target, "kind of target": facts.kind} | hyper | features


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
    noted = "".join(f"{note[:1].upper()}{note[1:]}.\n\n" for note in facts.stated)
    return (
        f"**{facts.estimator}** on {facts.rows:,} rows of {facts.trained_on.of} version {facts.trained_on.version}, "
        f"{len(facts.features)} features, {facts.seconds:.1f} s\n\n{noted}Changed since the last training:\n{changed}\n"
    )


def _check_rows(seen: "pd.DataFrame", target: "Outcomes", spec: Spec) -> None:
    binary = spec.target.kind == "binary"
    if not varied(target):
        only = "one value" if spec.target.kind == "regression" else "one class"
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} has only {only} in {len(target):,} training rows.",
            hint=f"Choose a longer window, or {'mend target.positive' if binary else 'look at the target'}.",
        )
    for name in seen.columns:
        if seen[name].isna().all():
            raise BadData(
                f"{spec.name}: feature {name!r} has no value in {len(target):,} training rows.",
                hint="Choose a longer window, or take it out of the features.",
            )
    frames.refuse_infinite(seen, spec)
