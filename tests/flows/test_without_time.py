"""A table without a time: a part is learnt from, all else is decided on once, and nothing starts itself over again."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from audit.artifacts import datasets
from audit.events.references import DatasetVersion, ModelVersion
from audit.store import read
from audit.store.engine import open_store
from flows.monitoring import Monitored, monitoring
from flows.pipeline import pipeline
from flows.scoring import scoring
from flows.training import training

ROWS = 400
SPEC: dict[str, Any] = {
    "name": "patients",
    "title": "Patients who come back",
    "sources": {"patients": {"file": "patients.csv"}},
    "columns": [
        {"name": "patient", "dtype": "string", "role": "key"},
        {"name": "age", "dtype": "integer"},
        {"name": "pressure", "dtype": "float"},
        {"name": "ward", "dtype": "string"},
        {"name": "back", "dtype": "boolean", "role": "target", "known_at": "outcome"},
    ],
    "target": {"column": "back", "positive": True},
    "drift": {"watch": ["age", "pressure", "score"], "share": 0.5},
    "estimator": {"kind": "logistic_regression"},
    "gates": {"min_gain": None},
}
DATED = [{"name": "seen", "dtype": "date", "role": "time"}, *SPEC["columns"]]

Row = dict[str, object]


def patients(rows: int = ROWS, *, first: int = 0, older: int = 0) -> list[Row]:
    """Patients by number; those `older` by so many years are of another kind."""
    found: list[Row] = []
    for number in range(first, first + rows):
        drawn = random.Random(number)
        age, pressure = round(drawn.gauss(50, 10)) + older, drawn.gauss(130, 15) + 2 * older
        back = (age - older) / 10 + (pressure - 2 * older) / 15 + drawn.gauss(0, 1) > 14
        found.append(
            {
                "patient": f"n{number}",
                "seen": f"2024-01-{1 + number * 28 // ROWS:02}" if number < ROWS else "2024-01-28",
                "age": age,
                "pressure": f"{pressure:.1f}",
                "ward": drawn.choice(["north", "south"]),
                "back": str(back).lower(),
            }
        )
    return found


@dataclass
class Table:
    """A spec and its CSV in one folder; both can be changed before a run."""

    folder: Path

    @property
    def spec(self) -> str:
        return str(self.folder / "patients.yaml")

    def write(self, rows: list[Row], **changes: object) -> "Table":
        lines = [",".join(str(value) for value in row.values()) for row in rows]
        (self.folder / "patients.csv").write_text("\n".join([",".join(rows[0]), *lines]) + "\n")
        (self.folder / "patients.yaml").write_text(yaml.safe_dump({**SPEC, **changes}, sort_keys=False))
        return self


@pytest.fixture
def table(tmp_path: Path, home: Path, prefect_server: None) -> Table:
    """Four hundred patients."""
    (tmp_path / "case").mkdir()
    return Table(tmp_path / "case").write(patients())


def facts(type: str) -> list[dict[str, Any]]:
    return [event.payload for event in read.events(open_store(), types=(type,), newest_first=False)]


def ids(type: str) -> list[str]:
    return [event.id for event in read.events(open_store(), types=(type,), newest_first=False)]


def message(flow: Callable[..., Any], table: Table) -> str | None:
    """What a flow's state says: `nothing new`, or None where something was made."""
    return str(found) if (found := flow(table.spec, return_state=True).message) == "nothing new" else None


def decided(segment: object) -> pl.DataFrame:
    assert isinstance(segment, DatasetVersion)
    return datasets.read(segment)


def test_a_part_is_learnt_from_and_the_rest_decided_on_and_looked_at(table: Table) -> None:
    champion = pipeline(table.spec)

    (split,) = facts("dataset.split")
    (scored,) = facts("predictions.scored")
    (checked,) = facts("drift.checked")
    assert isinstance(champion, ModelVersion) and champion.version == 1
    assert (split["train"]["rows"], split["test"]["rows"], scored["rows"]) == (320, 80, 80)
    assert (checked["detected"], checked["tested"]["digest"]) == (False, split["test"]["digest"])
    assert "20 draws by chance" in checked["rule"]
    assert not any("window" in found for found in (scored, checked))


@pytest.mark.slow
def test_no_run_of_a_table_without_a_time_is_called_none(table: Table) -> None:
    pipeline(table.spec)

    runs = read.flow_runs(open_store())
    names = [run["name"] for run in runs]
    assert names[::-1] == ["pipeline patients", "training patients", "scoring patients v1", "monitoring patients v1"]
    tasks = [row["name"] for run in runs for row in read.task_runs(open_store(), run["id"])]
    assert len(tasks) > 10
    assert not [name for name in tasks if "None" in name]


@pytest.mark.slow
def test_what_was_decided_on_is_not_decided_on_again(table: Table) -> None:
    pipeline(table.spec)

    assert [message(scoring, table), message(monitoring, table)] == ["nothing new"] * 2
    assert [len(facts(type)) for type in ("predictions.scored", "drift.checked", "performance.checked")] == [1, 1, 1]


@pytest.mark.slow
def test_rows_that_are_added_are_decided_on_too(table: Table) -> None:
    pipeline(table.spec)
    table.write(patients() + patients(30, first=ROWS))

    decisions = decided(scoring(table.spec))
    found = monitoring(table.spec)

    assert decisions.height == 80 + 30
    assert {f"n{number}" for number in range(ROWS, ROWS + 30)} < set(decisions["patient"])
    assert isinstance(found, Monitored) and found.drift and not found.drift.detected
    assert [f["current_rows"] for f in facts("drift.checked")] == [80, 110]


@pytest.mark.slow
def test_a_champion_that_is_replaced_decides_anew(table: Table) -> None:
    pipeline(table.spec)
    table.write(patients(), estimator={"kind": "logistic_regression", "parameters": {"C": 0.01}})
    training(table.spec)

    decisions = decided(scoring(table.spec))
    found = monitoring(table.spec)

    assert decisions["model_version"].unique().to_list() == [2]
    assert [f["model"]["version"] for f in facts("predictions.scored")] == [1, 2]
    assert isinstance(found, Monitored) and found.drift is None  # the rows were looked at


@pytest.mark.slow
def test_rows_whose_outcome_is_not_known_are_decided_on_and_judged_when_it_is(table: Table) -> None:
    rows = patients()
    later = [{**row, "back": ""} if number % 8 == 0 else row for number, row in enumerate(rows)]
    table.write(later)
    pipeline(table.spec)
    table.write(rows)

    again = message(scoring, table)
    found = monitoring(table.spec)
    nothing = message(monitoring, table)

    (scored,) = facts("predictions.scored")
    assert scored["rows"] == 70 + 50  # of 350 whose outcome was known a fifth was for the test
    assert [(f["known"], f["verdict"]) for f in facts("performance.checked")] == [(70, "steady"), (120, "steady")]
    assert {f["decisions"]["digest"] for f in facts("performance.checked")} == {scored["segment"]["digest"]}
    assert isinstance(found, Monitored) and found.drift is None
    assert [each.verdict for each in found.performance] == ["steady"]
    assert (again, nothing) == ("nothing new", "nothing new")


@pytest.mark.slow
def test_without_keys_no_outcome_is_joined_and_nothing_fails_for_it(table: Table) -> None:
    nameless = [column for column in SPEC["columns"] if column["name"] != "patient"]
    table.write(patients(), columns=nameless)

    pipeline(table.spec)

    assert len(facts("predictions.scored")) == len(facts("drift.checked")) == 1
    assert facts("performance.checked") == []
    assert message(monitoring, table) == "nothing new"


@pytest.mark.slow
def test_a_handful_of_rows_runs_through_and_drift_says_that_it_cannot_tell(table: Table, told: StringIO) -> None:
    table.write(patients(25))

    champion = pipeline(table.spec)

    (checked,) = facts("drift.checked")
    assert isinstance(champion, ModelVersion)
    assert (checked["watched"], checked["detected"]) == (0, False)
    assert {column["value"].partition(":")[0] for column in checked["left_out"]} == {"too few rows to tell"}
    assert "✓ drift          too few rows to tell: 5 current ones, and drift needs 30" in told.getvalue()


@pytest.mark.slow
def test_drift_within_one_table_is_told_and_nothing_is_learnt_twice_from_it(table: Table, told: StringIO) -> None:
    """Parted by time, of which the last fifth is of another kind."""
    table.write(patients(320) + patients(80, first=320, older=40), columns=DATED, event_time="seen")

    champion = pipeline(table.spec)

    assert isinstance(champion, ModelVersion) and champion.version == 1
    assert len(ids("drift.detected")) == len(facts("model.trained")) == 1
    assert facts("retraining.requested") == []
    assert "! drift          2 of 3 watched columns" in told.getvalue()  # the scores are those that it was tested with
    assert "retraining" not in told.getvalue()


@pytest.mark.slow
def test_a_training_that_drift_started_on_the_same_rows_starts_no_other(table: Table) -> None:
    """As deployed: the automation starts a training for drift, scoring and monitoring run on their schedules."""
    table.write(patients(320) + patients(80, first=320, older=40), columns=DATED, event_time="seen")
    pipeline(table.spec)
    (cause,) = ids("drift.detected")

    again = training(table.spec, cause=cause)

    assert isinstance(again, ModelVersion) and again.version == 2
    assert [message(scoring, table), message(monitoring, table)] == ["nothing new"] * 2
    assert len(ids("drift.detected")) == 1


@pytest.mark.slow
def test_a_model_that_learnt_from_rows_of_another_kind_finds_them_usual(table: Table) -> None:
    pipeline(table.spec)
    table.write(patients() + patients(400, first=ROWS, older=40))
    scoring(table.spec)
    drifted = monitoring(table.spec)
    assert isinstance(drifted, Monitored) and drifted.drift and drifted.drift.detected

    training(table.spec, cause=drifted.cause)
    decisions = decided(scoring(table.spec))
    found = monitoring(table.spec)

    assert decisions.height == 160
    assert isinstance(found, Monitored) and found.drift and not found.drift.detected
    assert facts("retraining.completed")[0]["reason"] == "drift detected: 3 of 3 watched columns"


@pytest.mark.slow
def test_a_challenger_that_is_turned_away_leaves_nothing_to_decide_on_again(table: Table) -> None:
    pipeline(table.spec)
    table.write(patients() + patients(400, first=ROWS, older=40))
    scoring(table.spec)
    found = monitoring(table.spec)
    table.write(patients() + patients(400, first=ROWS, older=40), gates={"min_auc": 0.9999})
    assert isinstance(found, Monitored)

    training(table.spec, cause=found.cause)

    assert [message(scoring, table), message(monitoring, table)] == ["nothing new"] * 2
    assert [f["version"] for f in facts("model.rejected")] == [2]
    assert len(ids("drift.detected")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "estimator", "dtype"),
    [("multiclass", "logistic_regression", pl.String), ("regression", "linear_regression", pl.Float64)],
)
def test_other_kinds_of_target_run_through_to_decisions(
    kind: str, estimator: str, dtype: pl.DataType, table: Table
) -> None:
    rows = patients()
    for number, row in enumerate(rows):
        stay = float(str(row["pressure"])) / 10 + number % 3
        row["back"] = ["short", "middling", "long"][round(stay) % 3] if kind == "multiclass" else f"{stay:.2f}"
    target = {"name": "back", "dtype": "string" if kind == "multiclass" else "float", "role": "target"}
    columns = [*SPEC["columns"][:-1], target | {"known_at": "outcome"}]
    watched = {"watch": ["age", "score", "back"], "share": 0.5}
    table.write(
        rows, columns=columns, target={"column": "back", "kind": kind}, estimator={"kind": estimator}, drift=watched
    )

    pipeline(table.spec)

    (split,) = facts("dataset.split")
    (scored,) = facts("predictions.scored")
    (checked,) = facts("drift.checked")
    segment = {name: scored["segment"][name] for name in ("version", "rows", "address", "digest")}
    decisions = decided(DatasetVersion(name=scored["segment"]["of"], **segment))
    assert (scored["kind"], scored["rows"]) == (kind, split["test"]["rows"])
    assert decisions.schema["decision"] == dtype and decisions["decision"].null_count() == 0
    assert {column["name"] for column in checked["columns"]} == {"age", "score", "back"}
    assert checked["detected"] is False
