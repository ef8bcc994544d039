"""Training: the same rows make the same model, and what it was told is on record."""

import math
import sys
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from audit.artifacts import datasets, models
from audit.errors import ArtifactUnavailable, BadData, SpecError
from audit.settings import settings
from audit.spec.model import ESTIMATORS, Column, Drift, Estimator, SourceTable, Spec, Target, TargetKind
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks.evaluate import evaluate
from tasks.train import changes, fit, train_model

KINDS = [(kind, target) for kind, targets in ESTIMATORS.items() for target in targets]
SMALL = {
    "hist_gradient_boosting": {"max_iter": 20}, "random_forest": {"n_estimators": 10},
    "explainable_boosting": {"outer_bags": 2, "max_rounds": 200},
}  # fmt: skip
NAMED_VALUES = st.dictionaries(st.sampled_from("abcd"), st.none() | st.integers(0, 3) | st.text(max_size=3))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine OpenMP's threads wait for each other longer than they work."""
    with threadpool_limits(1):
        yield


def with_estimator(spec: Spec, kind: str = "hist_gradient_boosting", **parameters: object) -> Spec:
    return spec.model_copy(update={"estimator": Estimator.model_validate({"kind": kind, "parameters": parameters})})


@dataclass
class Case:
    """Loans whose outcome is of one kind, and the spec of an estimator for it."""

    rows: pl.DataFrame
    spec: Spec


def case_of(loans: pl.DataFrame, spec: Spec, kind: str, target: TargetKind, **parameters: object) -> Case:
    """Repaid or not; which of three grades; how much is left over."""
    left = (pl.col("income").fill_null(50) - pl.col("debt")).alias("left")
    grade = pl.when(left > 40).then(pl.lit("a")).when(left > 10).then(pl.lit("b")).otherwise(pl.lit("c")).alias("grade")
    name = {"binary": "repaid", "multiclass": "grade", "regression": "left"}[target]
    columns = [column for column in spec.columns if column.name != "repaid"]
    dtype = {"binary": "boolean", "multiclass": "string", "regression": "float"}[target]
    columns.append(Column.model_validate({"name": name, "dtype": dtype, "role": "target", "known_at": "outcome"}))
    told = {"columns": tuple(columns), "target": Target(column=name, kind=target)}
    rows = loans.with_columns(left, grade)
    return Case(rows, with_estimator(spec.model_copy(update=told), kind, **(SMALL.get(kind, {}) | parameters)))


@pytest.fixture(params=KINDS, ids=" ".join)
def case(request: pytest.FixtureRequest, loans: pl.DataFrame, loan_spec: Spec) -> Case:
    """Each estimator with each kind of target that it is for."""
    return case_of(loans, loan_spec, *request.param)


def test_the_same_rows_and_spec_make_the_same_model_on_one_thread_and_on_two(case):
    with threadpool_limits(1):
        alone = models.digest(fit(case.rows, case.spec))
    with threadpool_limits(2):
        assert models.digest(fit(case.rows, case.spec)) == alone


@pytest.mark.parametrize(("kind", "target"), [("logistic_regression", "binary"), ("linear_regression", "regression")])
def test_a_line_through_many_rows_is_the_same_to_the_last_bit_on_one_thread_and_on_two(kind, target):
    """Of few rows BLAS makes one part anyway."""
    drawn = np.random.default_rng(0)
    rows = pl.DataFrame({f"c{i}": drawn.normal(size=20_000) for i in range(30)})
    noisy = rows["c0"] + drawn.normal(size=20_000)
    rows = rows.with_columns(y=noisy > 0 if target == "binary" else noisy)
    spec = Spec(
        name="wide",
        title="Wide",
        sources={"wide": SourceTable(file="wide.csv")},
        columns=(
            *(Column(name=f"c{i}", dtype="float") for i in range(30)),
            Column(name="y", dtype="float", role="target", known_at="outcome"),
        ),
        target=Target(column="y", kind=target),
        drift=Drift(watch=("c0",), share=0.5),
        estimator=Estimator(kind=kind),
    )
    with threadpool_limits(1):
        alone = models.digest(fit(rows, spec))
    with threadpool_limits(2):
        assert models.digest(fit(rows, spec)) == alone


def test_how_many_threads_a_forest_grew_on_is_no_part_of_it(loans, loan_spec):
    digests = {models.digest(fit(loans, with_estimator(loan_spec, "random_forest", n_jobs=n))) for n in (1, 2)}
    assert len(digests) == 1


def test_a_stored_model_says_the_same_of_every_row(home, case):
    model = fit(case.rows, case.spec)
    again = models.load(models.put(model, "loans"))
    said, repeated = (frames.predicted(one, case.rows, case.spec) for one in (model, again))
    assert np.array_equal(said.score, repeated.score)
    assert models.digest(again) == models.digest(model)


def test_every_estimator_finds_the_pattern(case, later_loans):
    later = case_of(later_loans, case.spec, case.spec.estimator.kind, case.spec.target.kind).rows
    said, truth = frames.predicted(fit(case.rows, case.spec), later, case.spec), frames.target(later, case.spec)
    match case.spec.target.kind:
        case "binary":
            assert ((said.score > 0.5) == truth).mean() > 0.6
        case "multiclass":
            assert said.classes == ("a", "b", "c")
            assert (said.label == truth).mean() > 0.8
        case "regression":
            assert np.corrcoef(said.score, truth)[0, 1] > 0.8


def test_another_row_makes_another_model(loans, loan_spec):
    assert models.digest(fit(loans, loan_spec)) != models.digest(fit(loans.tail(-1), loan_spec))


def test_missing_values_and_unseen_categories_get_a_score(case):
    odd = case.rows.head(3).with_columns(
        purpose=pl.Series([None, "boat", "car"]),
        income=pl.Series([None, 40.0, None]),
        debt=pl.Series([None, 1_000_000, 3]),
        employed=pl.Series([None, True, None]),
    )
    assert np.isfinite(frames.predicted(fit(case.rows, case.spec), odd, case.spec).score).all()


def test_text_reaches_the_trees_as_alphabetical_codes_and_never_as_native_categories(loans, loan_spec):
    pipeline = fit(loans, loan_spec)
    encoder, trees = pipeline["encode"], pipeline["estimate"]
    odd = loans.head(5).with_columns(purpose=pl.Series(["car", "house", "study", None, "boat"]))
    codes = encoder.transform(frames.features(odd, loan_spec))[
        :, list(encoder.get_feature_names_out()).index("purpose")
    ]
    assert codes[:3].tolist() == [0, 1, 2]
    assert all(math.isnan(code) for code in codes[3:])
    assert isinstance(trees, HistGradientBoostingClassifier)  # imported above: limits reach only what is loaded
    assert trees.is_categorical_ is None


def test_the_explainable_machine_gives_each_column_a_share_and_they_add_up_to_the_score(loans, loan_spec):
    digits = loans.with_columns(region=(pl.col("debt") % 2).cast(pl.String))
    case = case_of(digits, loan_spec, "explainable_boosting", "binary")
    odd = case.rows.head(50).with_columns(region=pl.lit("north"))  # names that are digits, and one that is none
    model = fit(case.rows, case.spec)
    machine, seen = model["estimate"], model["encode"].transform(frames.features(odd, case.spec))
    score = frames.predicted(model, odd, case.spec).score
    assert machine.eval_terms(seen).sum(axis=1) + machine.intercept_ == pytest.approx(np.log(score / (1 - score)))
    assert dict(zip(machine.term_names_, machine.feature_types_in_, strict=True)) == {
        "purpose": "nominal", "region": "nominal",
        "income": "continuous", "debt": "continuous", "employed": "continuous",
    }  # fmt: skip


def test_an_explainable_machine_does_not_warn_of_missing_values(loans, loan_spec):
    case = case_of(loans, loan_spec, "explainable_boosting", "binary")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(case.rows, case.spec)


def test_an_estimator_whose_extra_is_not_installed_says_how_to_get_it(loans, loan_spec, monkeypatch):
    monkeypatch.setitem(sys.modules, "interpret", None)
    with pytest.raises(SpecError, match=r"loans: explainable_boosting needs interpret-core. .*'prefect-audit\[ebm\]'"):
        fit(loans, with_estimator(loan_spec, "explainable_boosting"))


def test_a_boolean_target_may_be_declared_as_one(loans, loan_spec):
    numbered = loan_spec.model_copy(update={"target": loan_spec.target.model_copy(update={"positive": 1})})
    assert models.digest(fit(loans, numbered)) == models.digest(fit(loans, loan_spec))


def test_a_number_as_target_that_never_changes_is_refused(loans, loan_spec):
    case = case_of(loans, loan_spec, "linear_regression", "regression")
    with pytest.raises(BadData, match="'left' has only one value in 600 training rows"):
        fit(case.rows.with_columns(left=pl.lit(1.0)), case.spec)


def test_a_class_with_a_single_row_is_stated(home, loans, loan_spec):
    case = case_of(loans, loan_spec, "hist_gradient_boosting", "multiclass")
    rows = case.rows.with_columns(grade=pl.Series(["d", *case.rows["grade"][1:]]))
    train_model.fn(datasets.put(rows, "loans/train"), case.spec)
    facts = only(read.events(open_store(), types=("model.trained",))).payload
    assert facts["stated"] == ["one class has a single row: nearly nothing was learnt of it"]
    assert (facts["kind"], facts["classes"]) == ("multiclass", ["a", "b", "c", "d"])


def test_a_class_with_a_single_row_that_an_estimator_cannot_part_is_no_fault_of_its_parameters(loans, loan_spec):
    case = case_of(loans, loan_spec, "hist_gradient_boosting", "multiclass", early_stopping=True)
    rows = case.rows.with_columns(grade=pl.Series(["d", *case.rows["grade"][1:]]))
    with pytest.raises(BadData, match="cannot learn from these 600 training rows, where one class has a single row"):
        fit(rows, case.spec)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"max_itr": 5}, r"loans: hist_gradient_boosting has no parameter 'max_itr'. Did you mean 'max_iter'\?"),
        ({"zzz": 5}, r"no parameter 'zzz'. It has categorical_features, "),
        ({"random_state": 5}, r"random_state is ours to set. Use estimator.seed."),
        ({"learning_rate": -1}, r"cannot be fitted. The 'learning_rate' parameter .* Got -1 instead."),
        ({"max_iter": "many"}, r"cannot be fitted. The 'max_iter' parameter .* Got 'many' instead."),
    ],
    ids=["misspelt", "unknown", "seed", "out of range", "wrong type"],
)
def test_a_wrong_hyperparameter_is_named_on_one_line(loans, loan_spec, parameters, says):
    with pytest.raises(SpecError, match=says) as refused:
        fit(loans, with_estimator(loan_spec, **parameters))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"max_rounds": -4}, r"cannot be fitted. max_rounds cannot be negative Mend"),
        ({"max_bins": "many"}, r"cannot be fitted. '<' not supported"),
        ({"objective": "guess"}, r"cannot be fitted. Unrecognized objective type"),
        ({"feature_types": "nominal"}, r"feature_types is ours to set. It follows from the dtypes"),
    ],
    ids=["out of range", "wrong type", "a bare exception", "feature types"],
)
def test_what_the_explainable_machine_refuses_is_named_on_one_line(loans, loan_spec, parameters, says):
    with pytest.raises(SpecError, match=says) as refused:
        fit(loans, with_estimator(loan_spec, "explainable_boosting", **parameters))
    assert "\n" not in str(refused.value)


def test_what_does_not_draw_has_no_seed_on_record(home, loans, loan_spec):
    case = case_of(loans, loan_spec, "linear_regression", "regression")
    train_model.fn(datasets.put(case.rows, "loans/train"), case.spec)
    assert only(read.events(open_store(), types=("model.trained",))).payload["seeds"] == []


def test_the_version_of_the_explainable_machine_is_on_record(home, loans, loan_spec):
    case = case_of(loans, loan_spec, "explainable_boosting", "binary")
    train_model.fn(datasets.put(case.rows, "loans/train"), case.spec)
    facts = only(read.events(open_store(), types=("model.trained",))).payload
    assert "interpret-core" in {library["name"] for library in facts["libraries"]}
    told = {known["name"]: known.get("value") for known in facts["hyperparameters"]}
    assert (told["interactions"], told["n_jobs"], told["random_state"]) == (0, 1, 0)


def test_a_target_with_one_class_is_refused(loans, loan_spec):
    with pytest.raises(BadData, match=r"'repaid' has only one class in [0-9]+ training rows"):
        fit(loans.filter("repaid"), loan_spec)


def test_no_rows_are_refused(loans, loan_spec):
    with pytest.raises(BadData, match="only one class in 0 training rows"):
        fit(loans.clear(), loan_spec)


def test_an_infinite_feature_is_refused_by_name(loans, loan_spec):
    with pytest.raises(BadData, match="feature 'income' has infinite values"):
        fit(loans.with_columns(income=pl.lit(math.inf)), loan_spec)


@pytest.mark.parametrize("name", ["purpose", "income"])
def test_a_feature_without_any_value_is_refused_by_name(loans, loan_spec, name):
    with pytest.raises(BadData, match=f"feature '{name}' has no value in 600 training rows"):
        fit(loans.with_columns(pl.lit(None, loans.schema[name]).alias(name)), loan_spec)


def test_a_training_is_on_record_with_all_that_it_was_told(home, loans, loan_spec):
    rows = datasets.put(loans, "loans/train")
    model = train_model.fn(rows, loan_spec, cause="event-1")

    facts = only(read.events(open_store(), types=("model.trained",)))
    told = {known["name"]: known.get("value") for known in facts.payload["hyperparameters"]}
    assert facts.subject == "model/loans/unregistered"
    assert facts.payload["model"]["digest"] == model.digest == models.digest(models.load(model))
    assert facts.payload["trained_on"]["digest"] == rows.digest
    assert told.keys() == models.load(model)["estimate"].get_params().keys()
    assert (told["max_iter"], told["random_state"]) == (20, 0)
    assert facts.payload["seeds"] == [{"name": "estimator.random_state", "value": 0}]
    assert {"python", "scikit-learn", "numpy"} <= {library["name"] for library in facts.payload["libraries"]}
    assert (facts.payload["cause"], facts.payload["changed"], facts.payload["rows"]) == ("event-1", [], 600)


def test_a_second_training_says_what_changed_since_the_first(home, loans, loan_spec):
    rows = datasets.put(loans, "loans/train")
    train_model.fn(rows, loan_spec)
    train_model.fn(rows, with_estimator(loan_spec, max_iter=30, learning_rate=0.2))

    latest = next(read.events(open_store(), types=("model.trained",)))
    assert latest.payload["changed"] == [
        {"name": "learning_rate", "value": "0.1 -> 0.2"},
        {"name": "max_iter", "value": "20 -> 30"},
    ]


@given(NAMED_VALUES, NAMED_VALUES)
def test_what_changed_is_exactly_what_differs(before, now):
    named = {change.name for change in changes(before, now)}
    same = {name for name in before.keys() & now.keys() if before[name] == now[name]}
    assert named == (before.keys() | now.keys()) - same


OWN = """
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

class Mean(RegressorMixin, BaseEstimator):
    def __init__(self, times=1.0, random_state=None):
        self.times, self.random_state = times, random_state

    def fit(self, X, y):
        self.mean_ = float(np.mean(y)) * self.times + np.random.RandomState(self.random_state).normal() * 1e-9
        self.columns_ = X.shape[1]
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)

class Share(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.shares_ = counts / len(y)
        return self

    def predict_proba(self, X):
        return np.tile(self.shares_, (len(X), 1))

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

class Asks(Share):
    def __init__(self, api_key=None, weights=pd.Series(["anna"])):
        self.api_key, self.weights = api_key, weights

class Above(Share):
    def predict_proba(self, X):
        return np.tile([-0.5, 1.5], (len(X), 1))

class Keeps(Mean):
    def fit(self, X, y):
        self.kept_ = (row for row in y)
        return super().fit(X, y)

class Wants(Mean):
    def __init__(self, depth, random_state=None):
        super().__init__(random_state=random_state)
        self.depth = depth

class Fails(Mean):
    def fit(self, X, y):
        raise ValueError("the author's own words")

class Plain:
    def fit(self, X, y):
        return self

ten = 10
"""


@pytest.fixture
def own(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A package of the user's called `scoring`; importing `scoring.broken` leaves a mark and fails."""
    package = tmp_path / "site" / "scoring"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from scoring.means import Mean\n")
    (package / "means.py").write_text(textwrap.dedent(OWN))
    mark = tmp_path / "imported"
    (package / "broken.py").write_text(f"open({str(mark)!r}, 'w').close()\nraise RuntimeError('planted')\n")
    monkeypatch.syspath_prepend(package.parent)
    yield monkeypatch
    forget("scoring")


def forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def allow(monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    monkeypatch.setenv("AUDIT_ESTIMATORS", ",".join(paths))
    settings.cache_clear()


@pytest.mark.parametrize(("path", "target"), [("scoring.means.Mean", "regression"), ("scoring.means.Share", "binary")])
def test_an_allowed_estimator_of_ones_own_is_trained_stored_and_loaded(own, loans, loan_spec, path, target):
    allow(own, "another.One", path)
    case = case_of(loans, loan_spec, path, target)
    model = models.load(train_model.fn(datasets.put(case.rows, "loans/train"), case.spec))
    assert len(set(frames.predicted(model, case.rows, case.spec).score)) == 1
    facts = only(read.events(open_store(), types=("model.trained",))).payload
    (code,) = [library["value"] for library in facts["libraries"] if library["name"] == "scoring.means"]
    assert facts["estimator"] == path and code.startswith("sha256:")


def test_a_secret_or_an_object_among_the_hyperparameters_is_not_on_record(own, loans, loan_spec):
    allow(own, "scoring.means.Asks")
    case = case_of(loans, loan_spec, "scoring.means.Asks", "binary", api_key="hunter2")
    train_model.fn(datasets.put(case.rows, "loans/train"), case.spec)

    facts = only(read.events(open_store(), types=("model.trained",)))
    told = {known["name"]: known["value"] for known in facts.payload["hyperparameters"]}
    assert told == {"api_key": "[redacted]", "weights": "<pandas.core.series.Series of shape (1,)>"}


def test_an_estimator_of_ones_own_gets_its_seed_its_parameters_and_the_codes_of_trees(own, loans, loan_spec):
    allow(own, "scoring.means.Mean")
    case = case_of(loans, loan_spec, "scoring.means.Mean", "regression", times=2.0)
    one, other = (fit(case.rows, case.spec) for _ in range(2))
    mean = one["estimate"]
    assert (mean.random_state, mean.times, mean.columns_) == (0, 2.0, 5)
    assert models.digest(one) == models.digest(other)


def test_an_estimator_that_is_no_longer_allowed_is_not_loaded(own, loans, loan_spec):
    allow(own, "scoring.means.Mean")
    case = case_of(loans, loan_spec, "scoring.means.Mean", "regression")
    reference = models.put(fit(case.rows, case.spec), "loans")
    allow(own)
    with pytest.raises(
        ArtifactUnavailable, match=r"not trusted: scoring\.means\.Mean\. Put .* AUDIT_ESTIMATORS"
    ) as refused:
        models.load(reference)
    assert "\n" not in str(refused.value)


def test_a_model_whose_estimator_is_not_installed_is_not_loaded(own, loans, loan_spec):
    allow(own, "scoring.means.Mean")
    case = case_of(loans, loan_spec, "scoring.means.Mean", "regression")
    reference = models.put(fit(case.rows, case.spec), "loans")
    own.setattr(sys, "path", [folder for folder in sys.path if not folder.endswith("/site")])
    forget("scoring")
    with pytest.raises(ArtifactUnavailable, match="needs what is not installed here: No module named 'scoring'"):
        models.load(reference)


@pytest.mark.parametrize(
    ("path", "allowed", "says"),
    [
        (
            "scoring.broken.Model",
            "",
            r"estimator scoring.broken.Model is not on the allow-list. .* to AUDIT_ESTIMATORS",
        ),
        ("scoring.broken.Model", "scoring.broken.Model", r"scoring.broken cannot be imported \(RuntimeError\)"),
        (
            "scoring.gone.Model",
            "scoring.gone.Model",
            r"scoring.gone cannot be imported \(ModuleNotFoundError\). Install",
        ),
        ("scoring.means.Maen", "scoring.means.Maen", r"scoring.means has no class 'Maen'. Did you mean 'Mean'\?"),
        ("scoring.means.ten", "scoring.means.ten", r"scoring.means has no class 'ten'"),
        (
            "scoring.means.Plain",
            "scoring.means.Plain",
            r"Plain has no predict, get_params, .* sklearn.base.BaseEstimator",
        ),
        ("scoring.Mean", "scoring.Mean", r"scoring.Mean is written as scoring.means.Mean. Use that name"),
        ("scoring.means.Wants", "scoring.means.Wants", r"Wants cannot be made without depth. Give its parameters def"),
    ],
    ids=["not allowed", "raises", "not there", "misspelt", "no class", "no estimator", "another name", "no defaults"],
)
def test_an_estimator_that_cannot_be_used_is_told_on_one_line(own, tmp_path, loans, loan_spec, path, allowed, says):
    allow(own, allowed)
    spec_file = tmp_path / "loans.yaml"
    case = case_of(loans, loan_spec, path, "regression")
    with pytest.raises(SpecError, match=r"^loans\.yaml:2: .*" + says) as refused:
        fit(case.rows, case.spec.loaded_from(written(spec_file, path)))
    assert "\n" not in str(refused.value)


def test_nothing_is_imported_that_is_not_allowed(own, tmp_path, loans, loan_spec):
    allow(own, "scoring.means.Mean")
    case = case_of(loans, loan_spec, "scoring.broken.Model", "regression")
    with pytest.raises(SpecError, match="not on the allow-list"):
        fit(case.rows, case.spec)
    assert not (tmp_path / "imported").exists() and "scoring" not in sys.modules


def test_a_decision_between_classes_needs_probabilities(own, loans, loan_spec):
    allow(own, "scoring.means.Mean")
    with pytest.raises(SpecError, match=r"scoring\.means\.Mean has no predict_proba"):
        fit(loans, with_estimator(loan_spec, "scoring.means.Mean"))


def test_scores_that_are_no_probabilities_are_not_judged(own, loans, loan_spec):
    allow(own, "scoring.means.Above")
    case = case_of(loans, loan_spec, "scoring.means.Above", "binary")
    rows = datasets.put(case.rows, "loans/train")
    with pytest.raises(BadData, match="scores are no probabilities: some are below 0 or above 1"):
        evaluate.fn(train_model.fn(rows, case.spec), rows, case.spec)


def test_what_an_author_raises_in_fit_is_left_to_its_author(own, loans, loan_spec):
    allow(own, "scoring.means.Fails")
    case = case_of(loans, loan_spec, "scoring.means.Fails", "regression")
    with pytest.raises(ValueError, match=r"^the author's own words$"):
        fit(case.rows, case.spec)


def test_an_estimator_that_keeps_what_no_file_can_hold_is_not_stored(own, loans, loan_spec):
    allow(own, "scoring.means.Keeps")
    case = case_of(loans, loan_spec, "scoring.means.Keeps", "regression")
    with pytest.raises(BadData, match=r"Model loans cannot be stored: .* Let the estimator keep numbers") as refused:
        models.put(fit(case.rows, case.spec), "loans")
    assert "\n" not in str(refused.value)


def written(spec_file: Path, path: str) -> str:
    """A file in which the estimator stands on line 2."""
    spec_file.write_text(f"estimator:\n  kind: {path}\n")
    return str(spec_file)


def only(events):
    (event,) = events
    return event
