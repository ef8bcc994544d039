"""Tables of markdown show what is in their cells, and let nothing of it act. Figures are told in their own unit."""

import pytest
from markdown_it import MarkdownIt

from audit.errors import BadData
from audit.events.payloads import Gate, Metric
from tasks import _frames as frames
from tasks.train import fit
from tests.tasks.kinds import loans_with, spec_of

RENDER = MarkdownIt("commonmark", {"html": True}).enable("table").render


@pytest.mark.parametrize(
    "value",
    ["a | b", "a\\|b", "![x](http://tracker/x.png)", "\\![x\\](http://tracker)", "<img src=http://tracker>",
     "<http://tracker>", "[x](http://tracker)", "[[a](b)](http://tracker)", "<!-- x", "0.75 [0.74, 0.76]", "<= 0.05"],
)  # fmt: skip
def test_a_cell_shows_its_value_and_nothing_else(value: str) -> None:
    html = RENDER(frames.as_markdown([{"slice": value, "rows": 1}]))
    shown = value.replace("<", "&lt;").replace(">", "&gt;")
    assert f"<td>{shown}</td>\n<td>1</td>" in html


def test_a_line_in_a_cell_does_not_end_the_table() -> None:
    assert frames.as_markdown([{"slice": "north\n\n# hello"}]).count("\n") == 2


def test_intervals_and_limits_stay_readable_as_text() -> None:
    assert "| 0.75 [0.74, 0.76] | <= 0.05 |" in frames.as_markdown([{"auc": "0.75 [0.74, 0.76]", "limit": "<= 0.05"}])


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "told"),
    [
        ("auc", 0.7512, 0.7441, 0.7583, "0.751 [0.744, 0.758]"),
        ("log_loss", 12.3456, 12.0, 12.9, "12.346 [12.000, 12.900]"),
        ("mae", 45_231.4, 44_000.0, 46_500.0, "45,231 [44,000, 46,500]"),
        ("rmse", 0.000212, 0.0002, 0.00023, "0.0002120 [0.0002000, 0.0002300]"),
        ("bias", -1.25, -2.0, 0.5, "-1.250 [-2.000, 0.500]"),
        ("mae", 0.0, 0.0, 0.0, "0.000 [0.000, 0.000]"),
        ("auc", 0.7512, None, None, "0.751"),
    ],
)
def test_a_figure_in_the_target_s_unit_has_four_digits_and_any_other_three_decimals(name, value, low, high, told):
    assert frames.with_interval(Metric(name=name, value=value, low=low, high=high)) == told


def test_a_gate_s_finding_is_told_likewise():
    gates = [
        Gate(name=n, limit="x", value=v, held=True) for n, v in (("mae", 0.00021), ("mae", 2_400_000.0), ("auc", 0.7))
    ]
    assert [frames.found(gate) for gate in gates] == ["0.0002100", "2,400,000", "0.7000"]


def test_slices_stand_in_one_line_each_and_what_was_not_measured_is_empty():
    sliced = [
        Metric(name="auc", value=0.7, slice="a=1", rows=1_000),
        Metric(name="recall", value=0.5, slice="a=1", rows=1_000),
        Metric(name="recall", value=0.25, slice="a=2", rows=40),
    ]
    assert frames.by_slice(sliced) == [
        {"slice": "a=1", "rows": "1,000", "AUC": "0.700", "recall": "0.500"},
        {"slice": "a=2", "rows": "40", "AUC": "", "recall": "0.250"},
    ]


@pytest.mark.parametrize("before", ["binary", "multiclass", "regression"])
def test_a_model_for_another_kind_of_target_says_nothing_of_this_one(before):
    rows = loans_with(before, 80)
    model = fit(rows, spec_of(before))
    assert frames.kind_of(model) == before
    for kind in {"binary", "multiclass", "regression"} - {before}:
        with pytest.raises(BadData, match=f"the model is for a {before} target, the spec's is {kind}"):
            frames.predicted(model, rows, spec_of(kind))
