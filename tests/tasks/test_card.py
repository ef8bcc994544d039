"""The model card: what is on record and in the spec, all of it and nothing else, for those who answer for a model."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from audit.artifacts import datasets, reports
from audit.errors import BadData
from audit.events.payloads import Approver
from audit.events.references import Report
from audit.recording.registry import Answer
from audit.settings import settings
from audit.spec.model import Card as Words
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from flows.training import training
from tasks.approval import decide, request_approval
from tasks.card import SILENT, Card, write_card
from tasks.evaluate import evaluate
from tasks.register import promote, register
from tasks.train import train_model
from tests.flows.conftest import EMAIL, SPEC, UseCase, loans
from tests.tasks.kinds import loans_with, spec_of
from tests.tasks.read_pages import Page
from tests.tasks.test_pages import HOSTILE

if TYPE_CHECKING:
    from tasks._frames import Evaluation


JANE = Answer(True, Approver(name="Jane Doe", identity="asserted", by="command"), "better in both regions")
SECTIONS = [
    "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data", "Quantitative analyses",
    "Ethical considerations", "Caveats and recommendations",
]  # fmt: skip
WORDS = {
    "intended_use": "To rank loans.\n\nFor clerks.",
    "out_of_scope": "Loans to firms.",
    "limits": "Six months of one bank.",
    "ethics": "Region may stand for origin.",
    "owner": "Risk team <risk@bank.example>",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[UseCase]:
    """One training of a spec with all that a card can say, and its record; a row of it was set aside."""
    folder = tmp_path_factory.mktemp("card")
    rows = loans()
    rows[3]["income"] = "-1"
    columns = [
        column | ({"role": "protected"} if column["name"] == "region" else {})
        for column in SPEC["columns"]  # type: ignore[attr-defined]
    ]
    (folder / "case").mkdir()
    case = UseCase(folder / "case").write(rows, columns=columns, slices=[], card=WORDS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AUDIT_HOME", str(folder / "var"))
        settings.cache_clear()
        training(case.spec)
        yield case
    settings.cache_clear()


@pytest.fixture
def card(trained: UseCase) -> str:
    """Its card in markdown."""
    return text_of(named("loans/card v1 (markdown)"))


def named(name: str) -> Report:
    """The report of this name that a task run came to."""
    runs = read.events(open_store(), types=("task_run.completed",))
    outputs = (used for run in runs for used in run.payload.get("outputs") or ())
    return next(
        Report(name=used["of"], address=used["address"], digest=used["digest"])
        for used in outputs
        if used["of"] == name
    )


def text_of(report: Report) -> str:
    return reports.read(report).decode()


def section(card: str, name: str) -> str:
    """What stands below this heading."""
    return card.split(f"\n## {name}\n")[1].split("\n## ", maxsplit=1)[0]


def candidate(home: Path, kind: str = "binary", **changes: object) -> "tuple[Evaluation, Spec]":
    """A model of this kind, judged, its training on record."""
    spec = spec_of(kind, **changes)
    train, test = (
        datasets.put(loans_with(kind, 400, seed), f"loans/{part}") for seed, part in enumerate(("train", "test"))
    )
    return evaluate.fn(train_model.fn(train, spec), test, spec), spec


def carded(judged: "Evaluation", spec: Spec) -> str:
    """The card of a model that is registered and promoted, in markdown."""
    registered = register.fn(judged.model, judged, spec)
    promote.fn(registered, judged, spec)
    return text_of(write_card.fn(registered, judged, spec).markdown)


def test_a_card_has_the_sections_of_mitchell_et_al_in_their_order(card: str) -> None:
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == SECTIONS


def test_the_card_is_what_a_task_run_came_to_and_rests_on_what_it_was_given(trained: UseCase) -> None:
    (run,) = [e for e in read.events(open_store(), types=("task_run.completed",)) if e.payload["of"] == "write_card"]
    assert [(used["kind"], used["of"]) for used in run.payload["outputs"]] == [
        ("report", "loans/card v1"),
        ("report", "loans/card v1 (markdown)"),
    ]
    assert {used["of"] for used in run.payload["inputs"]} == {"loans", "loans/test", "loans/evaluation"}


def test_what_the_spec_says_stands_in_the_card_word_for_word(card: str) -> None:
    assert "To rank loans.\n\nFor clerks." in section(card, "Intended use")
    assert "Loans to firms." in section(card, "Intended use")
    assert "Region may stand for origin." in section(card, "Ethical considerations")
    assert "Six months of one bank." in section(card, "Caveats and recommendations")
    assert "**owner**: Risk team \\<risk@bank.example>" in section(card, "Model details")


def test_the_training_data_are_those_on_record_with_what_was_masked_and_set_aside(card: str) -> None:
    told = section(card, "Training data")
    (ingested,) = read.events(open_store(), types=("dataset.ingested",))
    (split,) = read.events(open_store(), types=("dataset.split",))
    (source,) = ingested.payload["sources"]
    assert "**window**: 2024-01…2024-03" in told
    assert ingested.payload["digest"] in told and source["digest"] in told
    assert split.payload["train"]["digest"] in told and f"{split.payload['train']['rows']:,} rows" in told
    assert "**dropped before anything was written**: email\n" in told
    assert "**dropped, for the spec does not know them**: note\n" in told
    assert "**kept as a keyed hash**: applicant" in told
    assert "**set aside**: 1 of 1,092 rows, kept as loans/rejected version 1" in told
    assert "**rules that did not hold**: range of income" in told


def test_the_test_rows_and_how_they_were_parted_are_named(card: str) -> None:
    (split,) = read.events(open_store(), types=("dataset.split",))
    told = section(card, "Evaluation data")
    assert split.payload["test"]["digest"] in told and split.payload["by"] in told


def test_the_model_s_digest_versions_seeds_and_code_are_those_on_record(card: str) -> None:
    (trained,) = read.events(open_store(), types=("model.trained",))
    told = section(card, "Model details")
    assert trained.payload["model"]["digest"] in told and trained.id in told
    for library in trained.payload["libraries"]:
        assert f"{library['name']} {library['value']}" in told
    assert "estimator.random_state 0" in told
    runs = read.events(open_store(), types=("flow_run.running",), run=trained.flow_run_id)
    assert f"commit {next(iter(runs)).payload['code']['commit']}" in told


def test_figures_have_intervals_and_protected_groups_their_gaps(card: str) -> None:
    (judged,) = read.events(open_store(), types=("model.evaluated",))
    auc = next(metric for metric in judged.payload["metrics"] if metric["name"] == "auc")
    told = section(card, "Quantitative analyses")
    assert f"| AUC | {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}] |" in told
    assert "| region=north |" in told and "| region=south |" in told
    assert re.search(r"\| region \| yes \| AUC \| 0\.\d{3} \| region=\w+ 0\.\d{3}", told)
    assert "**protected**: region. No model sees them." in section(card, "Factors")


def test_the_page_has_the_pictures_and_is_fit_to_be_handed_over(trained: UseCase) -> None:
    html = text_of(named("loans/card v1"))
    read_ = Page(html)
    assert read_.faults == []
    assert re.findall(r"<figcaption>", html) == ["<figcaption>"] * 3, "calibration, ranking, groups"
    assert read_.words.startswith("Loans that are repaid: model card of loans v1")
    assert len(read_.ids) == len(set(read_.ids))


def test_no_person_is_in_the_card(card: str) -> None:
    for written in (card, text_of(named("loans/card v1"))):
        assert EMAIL not in written and "person-" not in written


def test_what_nobody_stated_is_said_to_be_not_stated(home: Path) -> None:
    told = carded(*candidate(home, slices=[]))
    assert told.count(SILENT) == 7, "owner, both uses, groups, gates, ethics, limits"
    assert "Where they come from is not on record." in section(told, "Training data")


@pytest.mark.parametrize(
    ("kind", "heading"), [("binary", "Calibration"), ("multiclass", "Calibration"), ("regression", "Residuals")]
)
def test_a_card_of_each_kind_shows_how_its_predictions_came_out(home: Path, kind: str, heading: str) -> None:
    judged, spec = candidate(home, kind)
    registered = register.fn(judged.model, judged, spec)
    promote.fn(registered, judged, spec)
    made = write_card.fn(registered, judged, spec)
    html = text_of(made.page)
    assert re.search(rf"<h3>{heading}</h3>\s*<figure>", html)
    assert Page(html).faults == []
    for metric in judged.metrics:
        assert f"{metric.value:.3f}" in text_of(made.markdown) or metric.name in (
            "mae",
            "rmse",
            "bias",
            "median_absolute_error",
        )


def test_a_card_says_where_the_model_stands(home: Path) -> None:
    judged, spec = candidate(home, approval="manual")
    registered = register.fn(judged.model, judged, spec)

    def standing() -> str:
        told = text_of(write_card.fn(registered, judged, spec).markdown)
        return re.findall(r"\*\*loans v1 (.*)\*\*", told)[0]

    assert standing() == "is registered and in no environment"
    request = request_approval.fn(registered, judged, spec)
    assert standing() == "awaits approval"
    decide.fn(request, JANE)
    assert standing() == "is in production"
    told = text_of(write_card.fn(registered, judged, spec).markdown)
    assert re.search(r"\| approved \| better in both regions \| Jane Doe \(asserted\) \|", told)


def test_a_challenger_s_card_compares_it_with_the_champion_that_it_did_not_replace(home: Path) -> None:
    carded(*candidate(home))
    judged, spec = candidate(home, estimator={"parameters": {"max_iter": 1}}, gates={"min_gain": 0.5})
    told = carded(judged, spec)
    assert "**loans v2 was turned away**" in told
    assert f"Against the champion v1 on the same rows: {judged.against_champion()}." in told
    assert "| gain |" in section(told, "Metrics") and "**no**" in section(told, "Metrics")
    assert re.search(r"\| rejected \| gain -0\.\d+, wanted >= 0\.5", told)


def test_a_first_model_that_is_turned_away_has_a_card_before_its_run_ends(
    home: Path, tmp_path: Path, prefect_server: None
) -> None:
    (tmp_path / "case").mkdir()
    use_case = UseCase(tmp_path / "case")
    with pytest.raises(BadData, match="there is no champion to keep"):
        training(use_case.write(loans(), gates={"min_auc": 0.999}).spec)
    assert "**loans v1 was turned away**" in text_of(named("loans/card v1 (markdown)"))


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_words_of_a_spec_stay_words(home: Path, words: str) -> None:
    judged, spec = candidate(home)
    hostile = spec.model_copy(update={"title": words, "card": Words(**dict.fromkeys(WORDS, words))})
    registered = register.fn(judged.model, judged, spec)
    made: Card = write_card.fn(registered, judged, hostile)
    read_ = Page(text_of(made.page))
    assert read_.faults == []
    assert read_.words.count(" ".join(words.split())) >= 5
