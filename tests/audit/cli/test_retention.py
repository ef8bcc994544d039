"""`audit retention` and `audit hold`: what is due, what goes, what stays, in words and in JSON."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audit import retention
from audit.answers.verify import verify
from audit.ledger.keys import FILE
from audit.recording import recorder
from audit.settings import settings
from audit.store import read
from audit.store.engine import AuditStore
from tests import aging
from tests.aging import SPEC, months, policy, scoring, training
from tests.audit.cli.conftest import Audit

FIRST, SECOND = months(2024, 1, 2)
JANUARY, FEBRUARY = scoring(FIRST, 1), scoring(SECOND, 2)


@pytest.fixture
def store(home: Path) -> AuditStore:
    recent = scoring(datetime.now(UTC) - timedelta(hours=2), 3)
    store = aging.opened([policy(FIRST)], training(FIRST, 1), JANUARY.events, FEBRUARY.events, recent.events)
    recorder.flow_ended()
    return store


def test_it_says_what_it_would_do_and_does_nothing(audit: Audit, store: AuditStore) -> None:
    shown = audit("retention", "run", "--dry-run")

    assert shown.returncode == 0, shown.stderr
    assert "2024-01      mortgage  runs       6 months          4" in shown.stdout
    assert "12 payloads due: audit retention run" in shown.stdout
    assert not list(read.events(store, types=("retention.expired",)))


def test_it_withdraws_and_says_where_it_went(audit: Audit, store: AuditStore, tmp_path: Path) -> None:
    shown = audit("retention", "run", "--to", str(tmp_path / "archive"))

    assert shown.returncode == 0, shown.stderr
    assert "2024-02-mortgage-runs.zip · runs of mortgage, recorded in 2024-02 · 4 payloads withdrawn" in shown.stdout
    assert "12 payloads withdrawn; envelopes stay" in shown.stdout
    assert len(list((tmp_path / "archive").glob("*.zip"))) == 6
    assert verify(store).answer == "held"
    assert audit("retention", "run").stdout == "Nothing is due.\n"


def test_it_says_so_in_json(audit: Audit, store: AuditStore) -> None:
    planned = json.loads(audit("retention", "run", "--dry-run", "--json").stdout)
    assert planned["due"][0] == {
        "period": "2024-01", "spec": SPEC, "of": "decisions", "kept": "25 months", "payloads": 1,
    }  # fmt: skip

    done = json.loads(audit("retention", "run", "--json").stdout)

    assert [one["withdrawn"] for one in done["expired"]] == [1, 1, 4, 1, 1, 4]
    assert done["written_over"] is True
    status = json.loads(audit("retention", "status", "--json").stdout)
    assert [one["there"] for one in status["bundles"]] == [True] * 6
    assert status["policies"][0]["runs"] == "6 months"


def test_a_spec_that_was_not_run_since_it_changed_can_be_named(audit: Audit, store: AuditStore, tmp_path: Path) -> None:
    text = Path("flows/specs/mortgage.yaml").read_text().replace("26 months", "forever")
    (tmp_path / "mortgage.yaml").write_text(text)

    assert audit("retention", "run", str(tmp_path / "mortgage.yaml"), "--dry-run").stdout == "Nothing is due.\n"
    assert audit("retention", "run", str(tmp_path / "mortgage.yaml")).stdout == "Nothing is due.\n"
    changed = next(read.events(store, types=("pipeline.changed",)))
    assert {"name": "retention.decisions", "value": "25 months → forever"} in changed.payload["differences"]


def test_status_names_policies_bundles_and_whether_they_are_there(audit: Audit, store: AuditStore) -> None:
    audit("retention", "run")
    (settings().home / retention.FOLDER / "2024-01-mortgage-runs.zip").unlink()

    shown = audit("retention", "status").stdout

    assert "mortgage  25 months  6 months  25 months  forever" in shown
    assert "expired/2024-01-mortgage-runs.zip       elsewhere" in shown
    assert "expired/2024-02-mortgage-runs.zip       there" in shown


def test_without_the_key_it_is_refused_in_a_line(audit: Audit, store: AuditStore) -> None:
    (settings().keys_path / FILE).unlink()

    shown = audit("retention", "run")

    assert (shown.returncode, shown.stdout) == (2, "")
    assert "is not here" in shown.stderr


def test_a_day_that_is_none_is_refused(audit: Audit, store: AuditStore) -> None:
    assert "is no date" in audit("retention", "run", "--until", "soon").stderr


def test_a_hold_is_placed_listed_and_released(audit: Audit, store: AuditStore) -> None:
    placed = audit("hold", "add", "case-17", "--reason", "complaint 17", "--run", JANUARY.flow[-8:])
    assert placed.stdout == "case-17 is in force and keeps 1 run until it is released.\n", placed.stderr

    listed = audit("hold", "list").stdout
    assert "case-17" in listed and "complaint 17" in listed
    assert json.loads(audit("hold", "list", "--json").stdout)[0]["runs"] == [JANUARY.flow]
    planned = audit("retention", "run", "--dry-run").stdout
    assert "6 payloads due" in planned
    assert "6 payloads kept by the hold case-17" in planned

    assert audit("hold", "release", "case-17", "--reason", "closed").returncode == 0
    assert audit("hold", "list").stdout == "No hold is in force.\n"
    assert "12 payloads due" in audit("retention", "run", "--dry-run").stdout


def test_a_hold_is_sealed_at_once_where_the_key_is(audit: Audit, store: AuditStore) -> None:
    assert audit("hold", "add", "case-17", "--reason", "complaint").stderr == ""
    assert verify(store).unsealed_types == ("checkpoint.signed",)
    assert audit("hold", "release", "case-17", "--reason", "closed").stderr == ""
    assert verify(store).unsealed_types == ("checkpoint.signed",)

    (settings().keys_path / FILE).rename(settings().home / "elsewhere")
    placed = audit("hold", "add", "case-18", "--reason", "complaint")
    assert placed.returncode == 0
    assert "It is not sealed yet" in placed.stderr


def test_who_places_a_hold_is_on_record(audit: Audit, store: AuditStore) -> None:
    audit("hold", "add", "case-17", "--reason", "complaint", "--spec", SPEC, "--since", "2024-02-01", "--json")
    audit("hold", "release", "case-17", "--reason", "closed")

    held, released = read.events(store, types=("retention.held", "retention.released"), newest_first=False)
    assert held.actor == released.actor and held.actor.startswith("p:")
    assert (held.payload["spec"], held.payload["since"][:10]) == (SPEC, "2024-02-01")
    assert released.payload["held"] == held.id


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "a b", "--reason", "x"), "is no name for a hold"),
        (("add", "x", "--reason", "x", "--model", "mortgage/v9"), "No model on record is called mortgage/v9"),
        (("add", "x", "--reason", "x", "--run", "ffffffff"), "No run on record is called ffffffff"),
        (("release", "x", "--reason", "x"), "There is no hold x"),
        (("add", "x", "--reason", "x", "--spec", "mortgag"), "No spec on record is called mortgag"),
        (("add", "x", "--reason", " "), "A hold is placed and released for a reason"),
        (("release", "x", "--reason", ""), "A hold is placed and released for a reason"),
    ],
    ids=[
        "a name that is none",
        "a model that is not there",
        "a run that is not there",
        "a hold that is not there",
        "a spec that is not there",
        "no reason",
        "no reason to release",
    ],
)
def test_a_hold_on_what_is_not_there_is_refused(
    audit: Audit, store: AuditStore, words: tuple[str, ...], said: str
) -> None:
    shown = audit("hold", *words)

    assert shown.returncode == 1
    assert said in shown.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("status",), ("events", "--limit", "0"), ("events", "--json"), ("runs",), ("models",), ("datasets",),
        ("alerts",), ("verify",), ("run", "{flow}"), ("run", "{task}"), ("runs", "--json"),
        ("prove", "{event}", "-o", "{tmp}/evidence"), ("export", "-o", "{tmp}/all.zip"),
        ("export", "-o", "{tmp}/run.zip", "--run", "{flow}"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_commands_speak_of_what_is_left(
    audit: Audit, store: AuditStore, tmp_path: Path, words: tuple[str, ...]
) -> None:
    list(retention.run(settings()))

    named = {"tmp": tmp_path, "flow": JANUARY.flow, "task": JANUARY.task, "event": JANUARY.events[0].id}
    shown = audit(*(word.format(**named) for word in words))

    assert shown.returncode == 0, shown.stderr


def test_status_says_whether_something_is_due(audit: Audit, store: AuditStore) -> None:
    assert "some is due: audit retention run" in audit("status").stdout

    audit("hold", "add", "all", "--reason", "x")

    assert json.loads(audit("status", "--json").stdout)["retention_due"] is False
    assert "1 hold is in force" in audit("status").stdout
