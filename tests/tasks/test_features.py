"""Features that know nothing of what comes after, and a split that lets no later row speak."""

from collections import Counter
from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.artifacts import datasets
from audit.errors import BadData, SpecError
from audit.recording.initialise import initialise
from audit.spec.model import Derived, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks.features import (
    build_features,
    decided_alike,
    derive_features,
    leave_out_learnt,
    not_learnt,
    parted,
    split,
    split_by_chance,
)

TRIPS = Spec.model_validate(
    {
        "name": "trips",
        "title": "Trips that take too long",
        "sources": {"trips": {"file": "trips.csv"}},
        "event_time": "started",
        "entity_key": "rider",
        "columns": [
            {"name": "started", "dtype": "datetime", "role": "time"},
            {"name": "rider", "dtype": "string", "role": "key"},
            {"name": "miles", "dtype": "float"},
            {"name": "zone", "dtype": "string", "role": "info"},
            {"name": "minutes", "dtype": "float", "role": "info", "known_at": "outcome"},
        ],
        "derive": [
            {"name": "late", "sql": "minutes > 30", "dtype": "boolean", "role": "target", "known_at": "outcome"},
            {"name": "km", "sql": "miles * 1.609", "dtype": "float", "role": "info"},
            {"name": "metres", "sql": "km * 1000", "dtype": "integer"},
            {"name": "moves", "sql": "miles > 0", "dtype": "boolean", "role": "rule"},
        ],
        "target": {"column": "late"},
        "drift": {"watch": ["miles"], "share": 0.5},
        "slices": ["zone"],
        "schedule": {"train_from": "2024-01-01", "train_months": 1},
    }
)


def trips(minutes: list[float | None], hours: list[int] | None = None) -> pl.DataFrame:
    places = hours or list(range(len(minutes)))
    return pl.DataFrame(
        {
            "started": [datetime(2024, 1, 1) + timedelta(hours=hour) for hour in places],
            "rider": [f"hash {hour}" for hour in places],
            "miles": [hour + 0.5 for hour in places],
            "zone": ["north" if hour % 2 else "south" for hour in places],
            "minutes": minutes,
        },
        schema_overrides={"minutes": pl.Float64, "started": pl.Datetime("us")},
    )


def with_derived(sql: str, **more: str) -> Spec:
    extra = Derived.model_validate({"name": "extra", "sql": sql, "dtype": "float", **more})
    return TRIPS.model_copy(update={"derive": (*TRIPS.derive, extra)})


def test_features_stand_with_target_time_key_and_slices_and_nothing_else() -> None:
    built = derive_features(trips([10, 40, None]), TRIPS)

    assert built.columns == ["miles", "metres", "late", "started", "rider", "zone"]
    assert built["metres"].to_list() == [804, 2413, 4022]
    assert built["late"].to_list() == [False, True, None]


@pytest.mark.parametrize("sql", ["minutes / 2", "CASE WHEN late THEN 1 ELSE 0 END", "miles + minutes * 0"])
def test_a_feature_from_the_outcome_is_refused(sql: str) -> None:
    with pytest.raises(SpecError, match=r"'extra' uses '(minutes|late)', which is known only at the outcome"):
        derive_features(trips([10, 40]), with_derived(sql))


def test_the_outcome_may_stand_in_a_column_that_is_no_feature() -> None:
    built = derive_features(trips([10, 40]), with_derived("minutes / 2", role="info"))

    assert "extra" not in built.columns


@pytest.mark.parametrize(
    "sql",
    [
        "AVG(miles)",
        "miles - MAX(miles)",
        "CASE WHEN miles = 17.5 THEN AVG(miles) OVER () ELSE 0 END",
        "CORR(miles, miles)",
        "LAG(miles) OVER (ORDER BY started)",
        "RANK() OVER (ORDER BY miles)",
    ],
)
def test_an_expression_that_looks_at_other_rows_is_refused(sql: str) -> None:
    with pytest.raises(SpecError, match="sql of 'extra' looks at other rows"):
        derive_features(trips([10.0, 40.0] * 20), with_derived(sql))


@pytest.mark.parametrize("sql", ["COLUMNS('^minutes$')", '"^minutes$"'])
def test_columns_picked_by_a_pattern_are_refused(sql: str) -> None:
    with pytest.raises(SpecError, match="sql of 'extra' picks columns by a pattern"):
        derive_features(trips([10, 40]), with_derived(sql))


def test_a_feature_from_a_column_that_looks_at_other_rows_is_refused() -> None:
    wide = Derived(name="mean", sql="AVG(miles)", dtype="float", role="info")
    spec = with_derived("CASE WHEN miles = 17.5 THEN mean ELSE 0 END")
    spec = spec.model_copy(update={"derive": (wide, *spec.derive)})

    with pytest.raises(SpecError, match="sql of 'extra' looks at other rows"):
        derive_features(trips([10.0, 40.0] * 20), spec)


def test_an_expression_that_does_not_work_on_the_rows_is_told_without_a_value() -> None:
    with pytest.raises(SpecError, match="sql of 'extra' does not work on these rows") as raised:
        derive_features(trips([10, 40]), with_derived("CAST(rider AS INT)"))

    assert "hash" not in str(raised.value)


def test_the_last_share_is_for_the_test_and_unknown_outcomes_are_for_neither() -> None:
    train, test = parted(derive_features(trips([10, 40, None] * 10), TRIPS), TRIPS)

    assert (train.height, test.height) == (16, 4)
    assert train["late"].null_count() + test["late"].null_count() == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([10.0, 40.0, None])), min_size=1, max_size=60))
def test_no_training_row_is_as_late_as_a_test_row_and_none_is_lost(rows: list[tuple[int, float | None]]) -> None:
    frame = derive_features(trips([minutes for _, minutes in rows], [hour for hour, _ in rows]), TRIPS)
    try:
        train, test = parted(frame, TRIPS)
    except BadData:
        return
    assert train["started"].max() < test["started"].min()  # type: ignore[operator]
    assert pl.concat([train, test]).sort(pl.all()).equals(frame.drop_nulls("late").sort(pl.all()))


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        ([None, None], "target 'late' is missing in every row"),
        ([10.0] * 10, "target 'late' has only one class in 8 training rows"),
        ([10.0, 40.0] * 4 + [10.0] * 2, "target 'late' has only one class in 2 test rows"),
        ([10.0], "there are no training rows"),
    ],
    ids=["unknown", "training", "test", "one row"],
)
def test_a_target_without_two_classes_is_refused(minutes: list[float | None], expected: str) -> None:
    with pytest.raises(BadData, match=expected):
        parted(derive_features(trips(minutes), TRIPS), TRIPS)


def test_features_and_split_are_stored_and_on_record(home: object) -> None:
    initialise()
    validated = datasets.put(trips([10, 40, None] * 10), "trips/validated")

    built = build_features.fn(validated, TRIPS)
    train, test = split.fn(built, TRIPS)

    assert [part.name for part in (built, train, test)] == ["trips/features", "trips/train", "trips/test"]
    transformed, parted = (
        next(read.events(open_store(), types=(type,))).payload for type in ("dataset.transformed", "dataset.split")
    )
    assert transformed["made_from"][0]["digest"] == validated.digest
    assert "metres = km * 1000" in transformed["transformations"]
    assert parted["by"] == "time: first 80% by started, the test from 2024-01-02T00:00:00 on"
    assert parted["transformations"] == ["10 rows without late left out"]
    assert (parted["train"]["digest"], parted["test"]["digest"]) == (train.digest, test.digest)


# Tables without a time: parted by chance.


def visits(spec: str, rows: list[tuple[str | None, str | float]]) -> tuple[pl.DataFrame, Spec]:
    """Patients and what became of them, as a features dataset, with a spec for that kind of target."""
    kind = {"multiclass": "string", "binary": "string", "regression": "float"}
    given = {
        "name": "visits",
        "title": "Visits",
        "sources": {"visits": {"file": "visits.csv"}},
        "entity_key": "patient",
        "columns": [
            {"name": "patient", "dtype": "string", "role": "key"},
            {"name": "number", "dtype": "integer"},
            {"name": "outcome", "dtype": kind[spec], "role": "target", "known_at": "outcome"},
        ],
        "target": {"column": "outcome", "kind": spec, "positive": "a"},
        "drift": {"watch": ["number"], "share": 0.5},
    }
    frame = pl.DataFrame(
        {
            "number": range(len(rows)),
            "outcome": pl.Series([outcome for _, outcome in rows], dtype=pl.Float64 if spec == "regression" else None),
            "patient": pl.Series([patient for patient, _ in rows], dtype=pl.String),
        }
    )
    return frame, Spec.model_validate(given)


@given(
    st.lists(st.tuples(st.sampled_from(["p", "q", "r", "s", None]), st.sampled_from("abc")), min_size=5, max_size=60),
    st.sampled_from(["binary", "multiclass"]),
)
def test_no_entity_is_on_both_sides_and_no_row_is_lost(rows: list[tuple[str | None, str | float]], kind: str) -> None:
    frame, spec = visits(kind, rows)
    if not frame["patient"].is_duplicated().any():
        return
    try:
        train, test = split_by_chance(frame, spec)
    except BadData:
        assert frame["patient"].fill_null("").n_unique() == 1
        return
    assert not set(train["patient"]) & set(test["patient"])
    assert sorted([*train["number"], *test["number"]]) == list(range(len(rows)))
    assert train["number"].is_sorted() and test["number"].is_sorted()


@given(st.lists(st.sampled_from("aaaaaaaabbbc"), min_size=2, max_size=120), st.sampled_from(["binary", "multiclass"]))
def test_a_class_of_two_rows_or_more_is_on_both_sides(classes: list[str], kind: str) -> None:
    frame, spec = visits(kind, [(f"p{number}", name) for number, name in enumerate(classes)])
    train, test = split_by_chance(frame, spec)
    whole = frame["outcome"] == "a" if kind == "binary" else frame["outcome"]
    for name, count in whole.value_counts().iter_rows():
        held = sum((test["outcome"] == "a" if kind == "binary" else test["outcome"]) == name)
        assert held == min(max(round(0.2 * count), 1), count - 1)
    assert pl.concat([train, test]).sort("number").equals(frame)


def test_the_same_seed_parts_alike_and_another_does_not() -> None:
    for kind in ("binary", "multiclass", "regression"):
        frame, spec = visits(kind, [(f"p{n}", float(n) if kind == "regression" else "abc"[n % 3]) for n in range(60)])
        other = spec.model_copy(update={"split": spec.split.model_copy(update={"seed": 1})})
        assert split_by_chance(frame, spec)[1].equals(split_by_chance(frame, spec)[1])
        assert not split_by_chance(frame, spec)[1].equals(split_by_chance(frame, other)[1])
        assert split_by_chance(frame, spec)[1].height == 12


@pytest.mark.parametrize(
    ("kind", "rows", "said"),
    [
        ("regression", [("p", 1.0)], "1 rows are too few to be parted"),
        ("binary", [("p", "a"), ("p", "b")], "rows of 1 different patient are too few to be parted"),
        ("binary", [("p", "a"), ("q", "b")], "there are no test rows"),
    ],
    ids=["one row", "one entity", "one of each class"],
)
def test_what_cannot_be_parted_is_one_line(kind: str, rows: list[tuple[str | None, str | float]], said: str) -> None:
    frame, spec = visits(kind, rows)
    with pytest.raises(BadData, match=said) as refused:
        parted(frame, spec)
    assert "\n" not in str(refused.value)


# What the champion has not learnt from.

CELLS = st.tuples(st.sampled_from([1, 2, None]), st.sampled_from(["x", "y", None]), st.sampled_from([0.5, None]))


def table(rows: list[tuple[int | None, str | None, float | None]]) -> pl.DataFrame:
    schema = {"number": pl.Int64, "text": pl.String, "share": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


@given(st.lists(CELLS, max_size=40), st.lists(CELLS, max_size=40))
def test_what_is_left_is_the_difference_of_multisets_in_the_rows_order(
    rows: list[tuple[int | None, str | None, float | None]], learnt: list[tuple[int | None, str | None, float | None]]
) -> None:
    left = not_learnt(table(rows), table(learnt)).rows()
    assert Counter(left) == Counter(rows) - Counter(learnt)
    places = iter(rows)
    assert all(row in places for row in left)  # a subsequence


@given(st.lists(CELLS, min_size=1, max_size=40), st.integers(0, 40))
def test_after_a_part_was_learnt_the_other_is_left(
    rows: list[tuple[int | None, str | None, float | None]], cut: int
) -> None:
    whole = table(rows).with_columns(row=pl.int_range(pl.len()))
    learnt = whole.filter(pl.col("row") * 7 % 40 < cut)
    assert not_learnt(whole, learnt).equals(whole.filter(pl.col("row") * 7 % 40 >= cut))
    assert not_learnt(whole, learnt.drop("text")).equals(not_learnt(whole, learnt))  # the spec has gained a column
    wider = learnt.with_columns(pl.col("number").cast(pl.Float64))
    assert not_learnt(whole, wider).equals(not_learnt(whole, learnt))  # or reads one as another dtype


def test_rows_without_a_known_target_are_left_to_decide_on_and_that_is_on_record(home: object) -> None:
    initialise()
    frame, spec = visits("binary", [(f"p{n}", "ab"[n % 2]) for n in range(40)])
    frame = frame.with_columns(pl.when(pl.col("number") >= 5).then("outcome").alias("outcome"))
    built = datasets.put(frame, "visits/features")
    train, test = split.fn(built, spec)

    left = leave_out_learnt.fn(built, train, spec)

    assert (train.rows, test.rows, left.rows) == (28, 7, 12)
    assert datasets.read(left)["outcome"].null_count() == 5
    parted, transformed = (
        next(read.events(open_store(), types=(type,))).payload for type in ("dataset.split", "dataset.transformed")
    )
    assert parted["by"] == "chance: 20% drawn for the test with seed 0, of each class of outcome"
    assert parted["seed"] == 0
    assert transformed["transformations"] == ["28 rows left out that the model was trained on"]
    assert [used["digest"] for used in transformed["made_from"]] == [built.digest, train.digest]


def test_where_every_row_was_learnt_from_there_is_nothing_to_decide_on(home: object) -> None:
    initialise()
    frame, spec = visits("regression", [("p", 1.0), ("q", 2.0)])
    rows = datasets.put(frame, "visits/features")
    with pytest.raises(BadData, match="visits: the model has learnt from every row"):
        leave_out_learnt.fn(rows, rows, spec)


def test_rows_are_decided_alike_where_only_an_outcome_differs(home: object) -> None:
    initialise()
    frame, spec = visits("regression", [("p", 1.0), ("q", 2.0)])
    rows, known, moved, fewer = (
        datasets.put(each, "visits/undecided")
        for each in (
            frame.with_columns(pl.lit(None, pl.Float64).alias("outcome")),
            frame,
            frame.with_columns(number=pl.col("number") + 1),
            frame.head(1),
        )
    )
    assert [decided_alike(rows, other, spec) for other in (rows, known, moved, fewer)] == [True, True, False, False]
