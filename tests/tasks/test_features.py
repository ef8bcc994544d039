"""Features that know nothing of what comes after, and a split that lets no later row speak."""

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
from tasks.features import build_features, derive_features, split, parted

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
