"""Figures by group: fairlearn's, of groups large enough, and how far two groups of one column are apart."""

import numpy as np
import polars as pl
import pytest
from fairlearn.metrics import MetricFrame, demographic_parity_difference, equal_opportunity_difference
from sklearn import metrics as oracle

from audit.errors import BadData
from audit.events.payloads import Metric
from audit.spec.model import Spec
from tasks._frames import Predicted
from tasks._judging import judge
from tasks._slices import SLICE_ROWS, SLICE_VALUES, slices, too_small, widest_gap
from tests.tasks.kinds import spec_of
from tests.tasks.test_judging import drawn

BY_REGION = spec_of("binary", slices=["region"])


def groups(rows: int, shares: tuple[float, ...] = (0.6, 0.3, 0.1)) -> pl.DataFrame:
    return pl.DataFrame({"region": np.random.default_rng(7).choice(list("abc"), rows, p=shares)})


def figures_of(found: list[Metric], name: str) -> dict[str, float]:
    return {str(metric.slice): metric.value for metric in found if metric.name == name}


def test_the_gaps_are_those_of_fairlearn():
    frame, (target, predicted) = groups(1_000), drawn("binary", 1_000)
    decided, by = predicted.score >= 0.5, {"sensitive_features": frame["region"].to_numpy()}

    found = slices(frame, judge(target, predicted, BY_REGION), BY_REGION)

    auc = MetricFrame(metrics=oracle.roc_auc_score, y_true=target, y_pred=predicted.score, **by)
    assert figures_of(found, "auc") == pytest.approx({f"region={k}": v for k, v in auc.by_group.items()})
    expected = {
        "auc": auc.difference(),
        "selection_rate": demographic_parity_difference(target, decided, **by),
        "recall": equal_opportunity_difference(target, decided, **by),
    }
    assert {name: widest_gap(found, name).value for name in expected} == pytest.approx(expected)


def test_a_number_is_compared_by_r2_and_by_who_is_above_the_threshold():
    frame, (target, predicted) = groups(500), drawn("regression", 500)
    with_threshold = spec_of("regression", slices=["region"], threshold=55.0)
    plain = spec_of("regression", slices=["region"])

    found = slices(frame, judge(target, predicted, with_threshold), with_threshold)

    inside = (frame["region"] == "b").to_numpy()
    positive, decided = target[inside] >= 55, predicted.score[inside] >= 55
    of_b = {metric.name: metric.value for metric in found if metric.slice == "region=b"}
    expected = {
        "r2": oracle.r2_score(target[inside], predicted.score[inside]),
        "selection_rate": decided.mean(),
        "recall": oracle.recall_score(positive, decided),
    }
    assert of_b == pytest.approx(expected)
    assert {m.name for m in slices(frame, judge(target, predicted, plain), plain)} == {"r2"}


def test_several_classes_are_compared_by_their_auc_alone():
    spec = spec_of("multiclass", slices=["region"])
    found = slices(groups(900), judge(*drawn("multiclass", 900), spec), spec)
    assert [(m.name, m.slice) for m in found] == [("auc", f"region={value}") for value in "abc"]


def test_slices_are_the_largest_values_with_enough_rows():
    many = [f"v{i:02}" for i in range(SLICE_VALUES + 5)]
    region = ["sure"] * 500 + [v for v in many for _ in range(SLICE_ROWS)] + ["few"] * (SLICE_ROWS - 1)
    frame, (target, predicted) = pl.DataFrame({"region": region}), drawn("binary", len(region))

    found = slices(frame, judge(target, predicted, BY_REGION), BY_REGION)

    assert list(figures_of(found, "selection_rate")) == [f"region={v}" for v in ["sure", *many][:SLICE_VALUES]]
    assert (found[0].rows, found[-1].rows) == (500, SLICE_ROWS)
    assert too_small(frame, BY_REGION) == {"region": 1}


def test_what_a_group_of_one_outcome_cannot_tell_is_left_out_and_the_rest_is_told():
    frame, (target, predicted) = groups(300), drawn("binary", 300)
    target[(frame["region"] == "b").to_numpy()] = 0

    found = slices(frame, judge(target, predicted, BY_REGION), BY_REGION)

    assert {m.name for m in found if m.slice == "region=b"} == {"selection_rate"}
    assert {m.name for m in found if m.slice == "region=a"} == {"auc", "selection_rate", "recall"}


def test_protected_columns_come_first_and_missing_values_are_a_group():
    group = {"name": "group", "dtype": "string", "role": "protected", "pii": "quasi"}
    columns = [*(c.model_dump(exclude_none=True) for c in BY_REGION.columns), group]
    spec = Spec.model_validate(BY_REGION.model_dump(exclude_none=True) | {"columns": columns})
    frame = groups(300).with_columns(group=pl.when(pl.int_range(pl.len()) < 40).then(pl.lit("x")))

    found = slices(frame, judge(*drawn("binary", 300), spec), spec)

    assert list(figures_of(found, "auc"))[:3] == ["group=missing", "group=x", "region=a"]


def test_a_slice_column_that_is_not_there_is_named():
    with pytest.raises(BadData, match="slice column 'region' is not in the test rows"):
        slices(pl.DataFrame({"other": [1] * 50}), judge(*drawn("binary", 50), BY_REGION), BY_REGION)


def test_the_gap_is_between_values_of_one_column_in_one_figure():
    def metric(name: str, slice: str, value: float) -> Metric:
        return Metric(name=name, value=value, slice=slice, rows=200)

    sliced = [metric("auc", "a=1", 0.9), metric("auc", "a=2", 0.8), metric("auc", "b=1", 0.5), metric("r2", "a=3", 0)]
    gap = widest_gap(sliced, "auc")
    assert gap and (gap.column, gap.ends()) == ("a", [("2", sliced[1]), ("1", sliced[0])])
    assert gap.value == pytest.approx(0.1)
    assert widest_gap(sliced[1:], "auc") is None


def test_where_no_group_has_enough_rows_there_is_no_slice():
    empty = pl.DataFrame({"region": ["a"] * 5})
    assert slices(empty, judge(np.array([0, 1, 0, 1, 0]), Predicted(np.full(5, 0.5)), BY_REGION), BY_REGION) == []


def test_a_column_and_a_value_may_have_the_sign_of_equality_in_them():
    frame = pl.DataFrame({"pay=low": ["<=50", ">50"] * 100, "pay=high": ["<=50"] * 200})
    spec = BY_REGION.model_copy(update={"slices": ("pay=low", "pay=high")})
    found = slices(frame, judge(*drawn("binary", 200), spec), spec)
    gap = widest_gap(found, "selection_rate")
    assert gap and gap.column == "pay=low" and {value for value, _ in gap.ends()} == {"<=50", ">50"}
