"""Judging a model: what is on record and on the page, which gates hold, and what the champion is worth beside it."""

import re

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as oracle

from audit.artifacts import datasets, models, reports
from audit.errors import BadData
from audit.events.payloads import Gate, Metric
from audit.events.references import ModelVersion
from audit.spec.model import Column, Gates, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks._frames import MAIN, Predicted
from tasks._judging import judge
from tasks._slices import Gap
from tasks.evaluate import CLASSES_SHOWN, TENTHS, evaluate, for_people, gates, in_a_line, judged_gaps
from tasks.register import promote, register
from tasks.train import fit
from tests.tasks.kinds import NAMES, foretold, loans_with, spec_of

FIGURES = {
    "auc": 0.7, "accuracy": 0.8, "calibration_error": 0.02, "r2": 0.4, "mae": 1_200.5, "rmse": 1_500.0,
}  # fmt: skip
MEASURED = [Metric(name=name, value=value, rows=100) for name, value in FIGURES.items()]


def gap(value: float) -> Gap:
    return Gap(Metric(name="x", value=0.5, slice="a=1"), Metric(name="x", value=0.5 + value, slice="a=2"))


GAPS = {"slice_gap": gap(0.125), "selection_gap": gap(0.25), "recall_gap": gap(0.375)}


@pytest.mark.parametrize(
    ("wanted", "gain", "held"),
    [
        ({"min_auc": 0.7}, None, {"auc": True, "gain": False}),
        ({"min_auc": 0.7001}, 0.0, {"auc": False, "gain": True}),
        ({"max_calibration_error": 0.02, "min_gain": None}, 0.0, {"calibration_error": True}),
        ({"max_calibration_error": 0.019}, -0.005, {"calibration_error": False, "gain": True}),
        ({"min_rows": 100}, 0.1, {"rows": True, "gain": True}),
        ({"min_rows": 101}, -0.006, {"rows": False, "gain": False}),
        ({"min_accuracy": 0.8, "min_gain": None}, None, {"accuracy": True}),
        ({"min_accuracy": 0.81, "min_gain": None}, None, {"accuracy": False}),
        ({"min_r2": 0.4, "max_mae": 1_200.5, "max_rmse": 1_500, "min_gain": None}, None,
         {"r2": True, "mae": True, "rmse": True}),
        ({"min_r2": 0.41, "max_mae": 1_200, "max_rmse": 1_499, "min_gain": None}, None,
         {"r2": False, "mae": False, "rmse": False}),
        ({"max_slice_gap": 0.125, "max_selection_gap": 0.25, "max_recall_gap": 0.375, "min_gain": None}, None,
         {"slice_gap": True, "selection_gap": True, "recall_gap": True}),
        ({"max_slice_gap": 0.12, "max_selection_gap": 0.24, "max_recall_gap": 0.37, "min_gain": None}, None,
         {"slice_gap": False, "selection_gap": False, "recall_gap": False}),
    ],
)  # fmt: skip
def test_a_gate_holds_at_its_limit(wanted, gain, held):
    judged = gates(Gates.model_validate(wanted), MEASURED, GAPS, gain, champion=True)
    assert {gate.name: gate.held for gate in judged} == held


@pytest.mark.parametrize("gate", sorted(Gates.model_fields.keys() - {"min_rows"}))
def test_a_gate_on_what_was_not_measured_has_not_held(gate):
    judged = gates(
        Gates.model_validate({"min_gain": None, gate: 1}), [Metric(name="x", value=1)], {}, None, champion=True
    )
    assert [(found.value, found.held) for found in judged] == [(None, False)]


def test_without_a_champion_no_gain_is_asked_for():
    assert gates(Gates(), MEASURED, {}, None, champion=False) == []


def test_a_limit_is_on_record_as_it_was_written():
    wanted = Gates(max_mae=1_234_567.5, min_rows=5_000_000, min_gain=None)
    assert [gate.limit for gate in gates(wanted, MEASURED, {}, None, champion=True)] == ["<= 1234567.5", ">= 5000000"]


def test_an_evaluation_is_on_record_with_its_report(home, loans, later_loans, loan_spec):
    model, test = models.put(fit(loans, loan_spec), "loans"), datasets.put(later_loans, "loans/test")
    found = evaluate.fn(model, test, loan_spec)

    (event,) = read.events(open_store(), types=("model.evaluated",))
    assert (event.id, event.severity, event.subject) == (found.event, "info", "model/loans/unregistered")
    assert event.payload["tested_on"]["digest"] == test.digest
    assert event.payload["held"] is found.held is True
    assert found.metric("auc").value == pytest.approx(
        oracle.roc_auc_score(later_loans["repaid"], frames.predicted(models.load(model), later_loans, loan_spec).score)
    )
    page = reports.read(found.report).decode()
    assert ">auc</td>" in page
    assert ">region=north</td>" in page
    assert ">0.9 to 1.0</td>" in page


@pytest.mark.parametrize(
    ("kind", "line", "sections"),
    [
        ("binary", r"AUC 0\.\d{3} \[", ["Calibration"]),
        ("multiclass", r"AUC 0\.\d{3} \[", ["Calibration", "Confusion"]),
        ("regression", r"R² 0\.\d{3} \[", ["Residuals"]),
    ],
)
def test_a_model_of_every_kind_is_judged_by_its_own_figures_and_told_of_in_their_words(home, kind, line, sections):
    spec = spec_of(kind)
    model = models.put(fit(loans_with(kind), spec), "loans")
    found = evaluate.fn(model, datasets.put(loans_with(kind, 400, seed=1), "loans/test"), spec)

    (event,) = read.events(open_store(), types=("model.evaluated",))
    assert event.payload["main"] == found.main == MAIN[kind]
    assert event.payload["metrics"][0]["name"] == MAIN[kind]
    assert re.match(line, in_a_line(found))
    page = reports.read(found.report).decode()
    named = re.findall("<h2>(.+?)</h2>", page)
    assert named == ["Gates", "Figures", *sections, "Slices"]


@pytest.mark.parametrize("kind", MAIN)
def test_a_gain_is_of_the_main_figure_on_the_same_rows(home, kind):
    spec, test = spec_of(kind), datasets.put(loans_with(kind, 400, seed=1), "loans/test")
    champion = in_production(models.put(fit(loans_with(kind, 60), spec), "loans"), test, spec)
    found = evaluate.fn(models.put(fit(loans_with(kind), spec), "loans"), test, spec)

    (gate,) = found.gates
    gain = frames.figure(MAIN[kind], found.difference)
    assert found.champion == champion
    assert gain and gate.value == gain.value > 0
    own = evaluate.fn(champion, test, spec).metric(MAIN[kind]).value
    assert found.metric(MAIN[kind]).value - own == pytest.approx(gain.value)


def test_an_address_in_the_title_is_not_in_the_report(home, loans, later_loans, loan_spec):
    asked = loan_spec.model_copy(update={"title": "Loans, ask ann@planted.org"})
    evaluate.fn(models.put(fit(loans, asked), "loans"), datasets.put(later_loans, "loans/test"), asked)
    assert not any(b"planted.org" in file.read_bytes() for file in home.rglob("*") if file.is_file())


def test_a_gate_that_does_not_hold_is_a_warning(home, loans, later_loans, loan_spec):
    strict = loan_spec.model_copy(update={"gates": Gates(min_auc=0.999)})
    found = evaluate.fn(models.put(fit(loans, strict), "loans"), datasets.put(later_loans, "loans/test"), strict)
    (event,) = read.events(open_store(), types=("model.evaluated",))
    assert (found.held, event.severity) == (False, "warning")
    assert found.failed() == [f"auc {found.metric('auc').value:.4f}, wanted >= 0.999"]


def test_the_champion_is_judged_on_the_same_rows(home, loans, later_loans, loan_spec):
    test = datasets.put(later_loans, "loans/test")
    champion = in_production(models.put(fit(loans.head(60), loan_spec), "loans"), test, loan_spec)
    found = evaluate.fn(models.put(fit(loans, loan_spec), "loans"), test, loan_spec)

    theirs = oracle.roc_auc_score(
        later_loans["repaid"], frames.predicted(models.load(champion), later_loans, loan_spec).score
    )
    gain = next(metric for metric in found.difference if metric.name == "auc")
    assert found.champion == champion
    assert gain.value == pytest.approx(found.metric("auc").value - theirs)
    assert found.against_champion() == f"AUC {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"


def test_a_champion_that_cannot_be_compared_is_not_beaten(home, loans, later_loans, loan_spec):
    test = datasets.put(later_loans, "loans/test")
    in_production(models.put(fit(loans, loan_spec), "loans"), test, loan_spec)
    without = loan_spec.model_copy(update={"columns": tuple(c for c in loan_spec.columns if c.name != "debt")})
    found = evaluate.fn(models.put(fit(loans, without), "loans"), test, without)
    assert "gain could not be measured, wanted >= -0.005" in found.failed()


def test_a_champion_that_knows_a_feature_by_another_type_is_not_comparable(home, loans, later_loans, loan_spec):
    in_production(models.put(fit(loans, loan_spec), "loans"), datasets.put(later_loans, "loans/test"), loan_spec)
    learn, judge_on = (
        rows.with_columns(pl.col("purpose").str.len_chars().cast(pl.Float64)) for rows in (loans, later_loans)
    )
    columns = (c.model_copy(update={"dtype": "float"}) if c.name == "purpose" else c for c in loan_spec.columns)
    spec = loan_spec.model_copy(update={"columns": tuple(columns)})
    found = evaluate.fn(models.put(fit(learn, spec), "loans"), datasets.put(judge_on, "loans/test"), spec)
    assert "gain could not be measured, wanted >= -0.005" in found.failed()


@pytest.mark.parametrize(
    ("before", "kind"), [("binary", "multiclass"), ("multiclass", "regression"), ("regression", "binary")]
)
def test_a_champion_for_another_kind_of_target_is_not_comparable(home, before, kind):
    former = spec_of(before)
    rows = datasets.put(loans_with(before, 400, seed=1), "loans/test")
    in_production(models.put(fit(loans_with(before), former), "loans"), rows, former)

    spec, test = spec_of(kind), datasets.put(loans_with(kind, 400, seed=1), "loans/test")
    found = evaluate.fn(models.put(fit(loans_with(kind), spec), "loans"), test, spec)

    assert found.failed() == ["gain could not be measured, wanted >= -0.005"]
    assert in_a_line(found).endswith("against v1: not comparable")


@pytest.mark.parametrize(
    ("renamed", "comparable"),
    [({"A": "first", "B": "second", "C": "third"}, False), ({"A": "first"}, True)],
    ids=["other classes", "one new class"],
)
def test_a_champion_for_other_classes_is_not_comparable_and_one_that_lacks_a_class_is(home, renamed, comparable):
    spec = spec_of("multiclass")
    known, new = (lambda rows: rows), (lambda rows: rows.with_columns(pl.col("grade").replace(renamed)))
    learn, judge_on = loans_with("multiclass"), loans_with("multiclass", 400, seed=1)
    in_production(models.put(fit(known(learn), spec), "loans"), datasets.put(known(judge_on), "loans/test"), spec)

    test = datasets.put(new(judge_on), "loans/test")
    found = evaluate.fn(models.put(fit(new(learn), spec), "loans"), test, spec)

    assert found.champion and bool(found.difference) is comparable
    if comparable:
        assert found.held and found.difference[0].low > 0


@pytest.mark.parametrize("kind", MAIN)
def test_test_rows_of_one_outcome_are_refused(home, kind):
    spec, rows = spec_of(kind), loans_with(kind, 400, seed=1)
    model = models.put(fit(loans_with(kind), spec), "loans")
    alike = rows.filter(pl.col(NAMES[kind]) == rows[NAMES[kind]][0])
    what = "value" if kind == "regression" else "class"
    with pytest.raises(BadData, match=rf"'{NAMES[kind]}' has only one {what} in [0-9]+ test rows"):
        evaluate.fn(model, datasets.put(alike, "loans/test"), spec)


def test_a_gap_that_is_too_wide_holds_a_model_back_and_the_page_says_between_whom(home, loans, later_loans, loan_spec):
    late = later_loans.with_columns(repaid=pl.col("repaid") & (pl.col("region") == "north"))
    wanted = Gates(max_slice_gap=0.5, max_selection_gap=0.5, max_recall_gap=1e-9)
    spec = loan_spec.model_copy(update={"gates": wanted})
    late = late.with_columns(
        repaid=pl.when(pl.int_range(pl.len()) % 9 == 0).then(~pl.col("repaid")).otherwise("repaid")
    )

    found = evaluate.fn(models.put(fit(loans, spec), "loans"), datasets.put(late, "loans/test"), spec)

    assert {gate.name: gate.held for gate in found.gates} == {
        "slice_gap": True,
        "selection_gap": True,
        "recall_gap": False,
    }
    for gate, name in (("slice_gap", "auc"), ("selection_gap", "selection_rate"), ("recall_gap", "recall")):
        values = [metric.value for metric in found.slices if metric.name == name]
        assert next(g.value for g in found.gates if g.name == gate) == max(values) - min(values) > 0
    page = reports.read(found.report).decode()
    told = r"Widest gap of recall: 0\.\d{3}, in region between (north|south) 0\.\d{3} \(\d+ rows\) and (south|north)"
    assert re.search(told, page)


def in_production(model: ModelVersion, test, spec: Spec) -> ModelVersion:
    found = evaluate.fn(model, test, spec)
    return promote.fn(register.fn(model, found, spec), found, spec)


def test_the_page_shows_each_figure_whole_and_names_the_champion(loan_spec):
    gate = Gate(name="rows", limit=">= 5000", value=32_407, held=True)
    metric = Metric(name="auc", value=0.75, low=0.74, high=0.76, rows=2)
    own = judge(np.array([0, 1], dtype=np.int8), Predicted(np.array([0.2, 0.8])), loan_spec)
    champion = ModelVersion(address="artifact://x", digest="sha256:y", name="loans", version=3)
    page = for_people(loan_spec, [metric], [metric], [gate], [], own, champion, small={"region": 2})
    assert "| gate | found | wanted | held |" in page and "| rows | 32,407 | >= 5000 | yes |" in page
    assert "against the champion v3" in page and "| figure | model | minus v3 |" in page
    assert "2 values have fewer than 30 rows in region and cannot be judged." in page


def test_the_page_has_every_row_of_many_classes_in_its_confusions_and_says_how_many_are_undecided():
    names = tuple(f"class {at:02}" for at in range(CLASSES_SHOWN + 5))
    came = np.repeat(np.arange(len(names)), np.arange(len(names)) + 1)
    probabilities = np.full((len(came), len(names)), 0.4 / (len(names) - 1))
    probabilities[np.arange(len(came)), (came + (np.arange(len(came)) % 7 == 0)) % len(names)] = 0.6
    spec = spec_of("multiclass", threshold=0.7)
    own = judge(np.array(names)[came], foretold(probabilities, names), spec)

    page = for_people(spec, [], [], [], [], own)

    rows = [line.strip("| ").split(" | ") for line in page.partition("### Confusion")[2].splitlines() if "|" in line]
    head, body = rows[0][1:], rows[2:]
    assert (len(head), head[-1], head[0]) == (CLASSES_SHOWN + 1, "all others", names[-1])
    assert sum(int(cell) for line in body for cell in line[1:]) == len(came)
    counted = {line[0]: dict(zip(head, map(int, line[1:]), strict=True)) for line in body}
    assert counted["class 23"]["class 24"] > 0 == counted["class 24"]["class 23"]  # each is taken for the next one
    assert "By the threshold of 0.7, 100.0% of the rows are left undecided." in page


def test_residuals_are_told_by_tenth_of_the_predicted_value_in_its_unit():
    said = np.arange(1_000.0) * 100
    came = said + np.where(said >= 90_000, 5_000, 0) + np.where(np.arange(1_000) % 2, 10, -10)
    spec = spec_of("regression")

    page = for_people(spec, [], [], [], [], judge(came, Predicted(said), spec))

    rows = [line for line in page.partition("### Residuals")[2].splitlines() if line.startswith("| 100 |")]
    assert len(rows) == TENTHS
    assert rows[0] == "| 100 | 4,950 | 4,950 | 0 |"
    assert rows[-1] == "| 100 | 94,950 | 99,950 | 5,000 |"


def test_a_gap_holds_by_no_attribute_while_another_protected_one_has_too_few_rows():
    def metric(slice: str, value: float) -> Metric:
        return Metric(name="selection_rate", value=value, slice=slice, rows=200)

    protected = tuple(Column(name=name, dtype="string", role="protected") for name in ("sex", "race"))
    spec = spec_of("binary")
    spec = spec.model_copy(update={"columns": (*spec.columns, *protected)})
    one_race = [metric("sex=f", 0.5), metric("sex=m", 0.6), metric("race=a", 0.5)]
    assert judged_gaps(one_race, spec) == {}
    assert judged_gaps([*one_race, metric("race=b", 0.5)], spec)["selection_gap"].column == "sex"
