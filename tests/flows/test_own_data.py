"""Tables that nobody has seen before: `audit spec init` alone, then from the file to decisions on record."""

import csv
import random
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sklearn import datasets
from statsmodels.datasets import copper, randhie
from typer.testing import CliRunner

from audit.cli.app import app
from audit.spec.check import problems
from audit.spec.load import load_spec
from audit.store import read
from audit.store.engine import open_store
from flows.pipeline import pipeline

Table = Callable[[Path], Path]


def cancer(folder: Path) -> Path:
    datasets.load_breast_cancer(as_frame=True).frame.to_csv(folder / "cancer.csv", index=False)
    return folder / "cancer.csv"


def diabetes(folder: Path) -> Path:
    datasets.load_diabetes(as_frame=True).frame.to_csv(folder / "diabetes.csv", index=False)
    return folder / "diabetes.csv"


def digits(folder: Path) -> Path:
    datasets.load_digits(as_frame=True).frame.to_parquet(folder / "digits.parquet", index=False)
    return folder / "digits.parquet"


def visits(folder: Path) -> Path:
    randhie.load_pandas().data.to_csv(folder / "randhie.csv", index=False)
    return folder / "randhie.csv"


def metal(folder: Path) -> Path:
    connection = sqlite3.connect(folder / "copper.db")
    copper.load_pandas().data.to_sql("copper", connection, index=False)
    connection.close()
    return folder / "copper.db"


def facts(type: str) -> list[dict[str, Any]]:
    """Payloads of one type, oldest first."""
    return [event.payload for event in read.events(open_store(), types=(type,), newest_first=False)]


def drafted(data: Path, target: str, *more: str) -> str:
    """The spec that the command writes for a table, whose own check finds nothing."""
    out = data.with_suffix(".yaml")
    shown = CliRunner().invoke(app, ["spec", "init", str(data), "--target", target, "-o", str(out), *more])
    assert shown.exit_code == 0, shown.output
    assert problems(out) == []
    return str(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "target", "kind", "rows", "figure", "least"),
    [
        (metal, "WORLDCONSUMPTION", "regression", 25, "r2", 0.5),
        (cancer, "target", "binary", 569, "auc", 0.95),
        pytest.param(diabetes, "target", "regression", 442, "r2", 0.2, marks=pytest.mark.slow),
        pytest.param(digits, "target", "multiclass", 1_797, "auc", 0.98, marks=pytest.mark.slow),
        pytest.param(visits, "mdvis", "regression", 20_190, "r2", 0.05, marks=pytest.mark.slow),
    ],
    ids=["copper in SQLite", "breast cancer", "diabetes", "digits in Parquet", "randhie"],
)
def test_a_table_never_seen_before_comes_to_decisions_by_its_draft_alone(
    home: Path, tmp_path: Path, prefect_server: None, table: Table, target: str, kind: str, rows: int,
    figure: str, least: float,
) -> None:  # fmt: skip
    spec = drafted(table(tmp_path), target)

    champion = pipeline(spec)

    assert champion.version == 1
    assert load_spec(spec).target.kind == kind
    (scored,), (trained,) = facts("predictions.scored"), facts("model.trained")
    assert (scored["rows"], scored["failed"]) == (rows - trained["rows"], 0), "whatever was not learnt from"
    assert next(m["value"] for m in facts("model.evaluated")[0]["metrics"] if m["name"] == figure) >= least
    assert facts("dataset.validated")[0]["rejected_rows"] == 0, "limits hold on what they were drafted from"


NAMES = ('say "yes"', "two\nlines", "שלום", "evil\u202etxt", "yes", "a: b", "x" * 200, "{y}")


def applications(folder: Path) -> Path:
    """A year of cases with everything that a table about people has, and columns under odd names."""
    drawn, rows = random.Random(0), []
    for i in range(4_000):
        income = max(0, drawn.gauss(60, 15))
        bad = int(income + drawn.gauss(0, 15) < 50)
        when = datetime(2023, 1, 1) + timedelta(hours=i * 2.2)
        row: dict[str, object] = {
            "applied_at": when.isoformat(), "customer id": f"C{drawn.randint(1, 900):05d}",
            "e-mail": f"planted{i}@example.org", "birth_date": f"{1 + i % 28:02d}.0{1 + i % 9}.{1950 + i % 50}",
            "zip": f"{drawn.randint(1000, 99999):05d}", "sex": drawn.choice("mf"), "age": drawn.randint(18, 90),
            "notes": f"planted {i}: the customer said that she would pay back later", "nothing": "",
            "opened": when.strftime(("%Y-%m-%d", "%d/%m/%Y", "%d.%m.%Y", "%b %d, %Y", "%Y%m%d")[i % 5]),
            "duration": 999 if drawn.random() < 0.01 else drawn.randint(6, 72),
            "income": f"{income:.2f}" if drawn.random() > 0.03 else "NA", "status": ["fine", "defaulted"][bad],
            "branch": f"{drawn.randint(1, 30):03d}", "defaulted": bad if drawn.random() > 0.02 else "",
        }  # fmt: skip
        rows.append(row | {name: drawn.randint(0, 30) for name in NAMES})
    with (folder / "applications.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "applications.csv"


@pytest.mark.slow
def test_a_table_about_people_is_decided_on_month_by_month_and_nothing_personal_is_kept(
    home: Path, tmp_path: Path, prefect_server: None
) -> None:
    spec = drafted(applications(tmp_path), "defaulted")

    pipeline(spec)

    drafted_spec = load_spec(spec)
    assert set(NAMES) <= set(drafted_spec.features())
    assert not {"sex", "age", "status", "zip", "customer id"}.intersection(drafted_spec.features())
    assert [f["window"] for f in facts("predictions.scored")] == ["2023-08", "2023-09"]
    assert [f["verdict"] for f in facts("performance.checked")] == ["steady", "steady"]
    assert 0 < facts("dataset.validated")[0]["rejected_rows"] < 60, "the rows of 999"
    assert not [path for path in home.rglob("*") if path.is_file() and b"planted" in path.read_bytes()]
