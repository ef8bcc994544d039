"""Training: the same rows make the same model, and what it was told is on record."""

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from audit.artifacts import datasets, models
from audit.errors import BadData, SpecError
from audit.spec.model import Estimator, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks.train import changes, fit, train_model

KINDS = ["hist_gradient_boosting", "logistic_regression"]
NAMED_VALUES = st.dictionaries(st.sampled_from("abcd"), st.none() | st.integers(0, 3) | st.text(max_size=3))


def with_estimator(spec: Spec, kind: str = "hist_gradient_boosting", **parameters: object) -> Spec:
    return spec.model_copy(update={"estimator": Estimator.model_validate({"kind": kind, "parameters": parameters})})


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_and_spec_make_the_same_model_on_one_thread_and_on_two(loans, loan_spec, kind):
    spec = with_estimator(loan_spec, kind)
    with threadpool_limits(1):
        alone = models.digest(fit(loans, spec))
    with threadpool_limits(2):
        assert models.digest(fit(loans, spec)) == alone


def test_another_row_makes_another_model(loans, loan_spec):
    assert models.digest(fit(loans, loan_spec)) != models.digest(fit(loans.tail(-1), loan_spec))


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_and_unseen_categories_get_a_score(loans, loan_spec, kind):
    odd = loans.head(3).with_columns(
        purpose=pl.Series([None, "boat", "car"]),
        income=pl.Series([None, 40.0, None]),
        employed=pl.Series([None, True, None]),
    )
    scores = frames.predicted(fit(loans, with_estimator(loan_spec, kind)), odd, loan_spec).score
    assert all(0 < score < 1 for score in scores)


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


def test_a_boolean_target_may_be_declared_as_one(loans, loan_spec):
    numbered = loan_spec.model_copy(update={"target": loan_spec.target.model_copy(update={"positive": 1})})
    assert models.digest(fit(loans, numbered)) == models.digest(fit(loans, loan_spec))


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
@settings(deadline=None)
def test_what_changed_is_exactly_what_differs(before, now):
    named = {change.name for change in changes(before, now)}
    same = {name for name in before.keys() & now.keys() if before[name] == now[name]}
    assert named == (before.keys() | now.keys()) - same


def only(events):
    (event,) = events
    return event
