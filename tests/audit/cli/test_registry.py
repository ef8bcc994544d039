"""`audit models` and `audit datasets`."""

import json

from audit.cli.registry import main_figure
from audit.events import payloads as p
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, Day, a_model, an_event


def a_step(type: str, version: int, environment: str, reason: str, after: float) -> object:
    facts = p.StageFacts(
        spec="flights", model=a_model(version, digest="cd" if version == 2 else "ab"), version=version,
        environment=environment, reason=reason,
    )  # fmt: skip
    return an_event(type, facts, after=after, subject=f"model/flights/v{version}")


def test_models_say_where_each_version_stands_and_how_it_was_judged(audit: Audit, day: Day) -> None:
    (model,) = json.loads(audit("models", "--json").stdout)

    assert (model["version"], model["environment"], model["champion"]) == (1, "production", True)
    assert model["trained_on"]["of"] == "flights/train"
    assert (
        "AUC 0.751 [0.744, 0.758]  1 of 1  flights/train v1  2026-11-24 21:04:08  all 1 gates held"
        in audit("models").stdout
    )


def test_a_champion_that_was_replaced_is_one_no_more(audit: Audit, store: AuditStore, day: Day) -> None:
    append(
        store,
        [
            a_step("model.registered", 2, "none", "evaluated", 30),
            a_step("model.deployed", 2, "production", "AUC +0.011", 31),
            a_step("model.retired", 1, "none", "replaced by v2", 32),
        ],
    )

    found = json.loads(audit("models", "--json").stdout)

    assert [(m["version"], m["environment"], m["champion"], m["reason"]) for m in found] == [
        (2, "production", True, "AUC +0.011"),
        (1, "none", False, "replaced by v2"),
    ]
    assert "v2       production, champion" in audit("models").stdout


def test_a_model_of_numbers_is_shown_by_its_own_figure() -> None:
    r2, mae = p.Metric(name="r2", value=0.412, low=0.38, high=0.44), p.Metric(name="mae", value=45_231.0)
    judged = p.EvaluationFacts(
        spec="prices", model=a_model(0), tested_on=a_model(0), metrics=[mae, r2], main="r2", gates=[], held=True,
        seed=0,
    )  # fmt: skip
    assert main_figure(judged.model_dump(mode="json", exclude_none=True)) == "R² 0.412 [0.380, 0.440]"


def test_models_of_one_spec_only(audit: Audit, day: Day) -> None:
    assert json.loads(audit("models", "--spec", "mortgage", "--json").stdout) == []
    assert audit("models", "--spec", "mortgage").stdout == "No model of mortgage is on record.\n"


def test_datasets_count_their_own_rows(audit: Audit, day: Day) -> None:
    found = json.loads(audit("datasets", "--json").stdout)

    assert {version["name"]: version["rows"] for version in found} == {
        "flights/ingested": 336_776, "flights/validated": 327_346, "flights/rejected": 9_430,
    }  # fmt: skip


def test_the_same_rows_made_again_are_one_version_made_twice(audit: Audit, store: AuditStore, day: Day) -> None:
    from tests.audit.cli.conftest import ingesting

    append(store, ingesting(day))

    (version,) = json.loads(audit("datasets", "--name", "flights/ingested", "--json").stdout)

    assert (version["version"], version["times"], version["first_made_at"]) == (1, 2, "2026-11-24T21:04:02.500000Z")
    assert "2013-01…2013-06" in audit("datasets", "--limit", "1").stdout
