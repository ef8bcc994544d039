"""What will happen with a spec, in words."""

from pathlib import Path

import pytest
import yaml

from audit.spec.load import load_spec, parse_spec
from audit.spec.story import story
from tests.audit.spec.test_load import TRIPS

FLIGHTS = Path(__file__).parents[3] / "flows" / "specs" / "flights.yaml"


def told(**changes: object) -> dict[str, str]:
    """Each stage of the trips, with sections of the spec exchanged."""
    trips = yaml.safe_load(TRIPS.replace("  on:", "  'on':"))  # which PyYAML takes for a boolean, and a spec does not
    text = yaml.safe_dump(trips | changes, sort_keys=False)
    return {stage.name: "\n".join(stage.lines) for stage in story(parse_spec(text, "trips.yaml"))}


def test_every_stage_is_told_with_what_the_spec_says_of_it() -> None:
    said = told()

    assert list(said) == [
        "ingest", "validate", "features", "split", "train", "gates", "promote", "score", "drift", "performance",
        "alerts", "schedule", "retention",
    ]  # fmt: skip
    assert "replaced by a keyed hash: rider" in said["ingest"]
    assert "dropped before anything is written: phone" in said["ingest"]
    assert "0 ≤ miles" in said["validate"]
    assert "3 features: miles, zone, hour" in said["features"]
    assert "known only afterwards, never a feature: minutes" in said["features"]
    assert "the first 80% of the rows by started" in said["split"]
    assert "3 columns held against the training rows: miles, zone, the model's output" in said["drift"]
    assert said["schedule"] == "first training on 2024-01…2024-03, then month by month"


@pytest.mark.parametrize(
    ("changes", "stage", "expected"),
    [
        ({"schedule": None}, "schedule", "no months: all rows are one window"),
        ({"schedule": None}, "score", "every row it has not learnt from"),
        (
            {"schedule": None, "event_time": None},
            "split",
            "20% of the rows drawn for the test, with seed 0, rows of one",
        ),
        ({"sources": {"t": {"database": "bank", "table": "trips"}}}, "ingest", "t: table trips of the database bank"),
        ({"gates": {"min_auc": 0.7}}, "gates", "auc ≥ 0.7"),
        ({}, "gates", "nothing else is demanded of a first model"),
        ({"approval": "manual"}, "promote", "awaits a person for 72 h; unanswered it is rejected"),
        ({"threshold": 0.3}, "score", "a score of 0.3 or more is decided positive"),
        ({"target": {"column": "late", "kind": "multiclass"}}, "score", "the likeliest class is decided"),
        ({"performance": {"delay_days": 30}}, "performance", "30 days after the window's end"),
        ({"expectations": "gx/trips"}, "validate", "the suite trips of gx, beside these"),
        ({"slices": ["zone"]}, "gates", "figures are taken apart by zone"),
        ({"retention": {"runs": "1 year"}}, "retention", "of runs is kept for 1 year, then withdrawn"),
        ({}, "retention", "of decisions, runs, findings, lineage is kept for ever"),
    ],
)
def test_a_stage_says_what_the_spec_changes(changes: dict[str, object], stage: str, expected: str) -> None:
    assert expected in told(**changes)[stage]


def test_the_spec_that_ships_is_told_without_its_whole_length() -> None:
    for stage in story(load_spec(FLIGHTS)):
        assert stage.lines
        assert all(len(line) < 300 for line in stage.lines), stage.name
