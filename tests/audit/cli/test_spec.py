"""`audit spec check`."""

import json
from pathlib import Path

from tests.audit.cli.conftest import Audit

FLIGHTS = Path(__file__).parents[3] / "flows" / "specs" / "flights.yaml"


def test_a_good_spec_holds(audit: Audit) -> None:
    shown = audit("spec", "check", str(FLIGHTS))

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("flights.yaml holds: flights, ")
    assert json.loads(audit("spec", "check", str(FLIGHTS), "--json").stdout)["held"] is True


def test_every_error_is_a_line_with_file_and_line(audit: Audit, tmp_path: Path) -> None:
    bent = tmp_path / "bent.yaml"
    bent.write_text(FLIGHTS.read_text().replace("target:", "targe:", 1).replace("margin:", "margn:", 1))

    shown = audit("spec", "check", str(bent))
    found = json.loads(audit("spec", "check", str(bent), "--json").stdout)

    assert shown.returncode == 1
    assert shown.stdout.splitlines() == found["errors"]
    assert len(found["errors"]) >= 2
    assert all(line.startswith("bent.yaml:") for line in found["errors"])


def test_a_missing_file_is_named(audit: Audit, tmp_path: Path) -> None:
    shown = audit("spec", "check", str(tmp_path / "none.yaml"))

    assert shown.returncode == 1
    assert "none.yaml does not exist" in shown.stdout


def a_table(folder: Path) -> Path:
    lines = [f"{i % 40},{'ab'[i % 2]},p{i}@example.org,{int(i % 40 + i % 7 > 20)}" for i in range(300)]
    path = folder / "loans.csv"
    path.write_text("\n".join(["amount,zone,email,bad", *lines]) + "\n")
    return path


def test_a_spec_is_drafted_holds_and_is_told(audit: Audit, tmp_path: Path) -> None:
    out = tmp_path / "loans.yaml"

    shown = audit("spec", "init", str(a_table(tmp_path)), "--target", "bad", "-o", str(out))

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[0] == f"{out}: loans, 300 rows, 2 features"
    assert audit("spec", "check", str(out)).returncode == 0
    assert "@" not in out.read_text()


def test_a_draft_is_told_as_json(audit: Audit, tmp_path: Path) -> None:
    out = tmp_path / "loans.yaml"

    told = json.loads(audit("spec", "init", str(a_table(tmp_path)), "--target", "bad", "-o", str(out), "--json").stdout)

    assert (told["rows"], told["kind"], told["features"]) == (300, "binary", ["amount", "zone"])


def test_without_a_target_the_columns_are_listed(audit: Audit, tmp_path: Path) -> None:
    data, out = a_table(tmp_path), tmp_path / "loans.yaml"

    shown = audit("spec", "init", str(data), "-o", str(out))
    told = json.loads(audit("spec", "init", str(data), "-o", str(out), "--json").stdout)

    assert shown.returncode == 2
    assert "binary: two values" in next(line for line in shown.stdout.splitlines() if line.startswith("bad "))
    assert {column["name"]: column["target"] for column in told["columns"]}["email"] == ""
    assert not out.exists()


def test_a_spec_that_is_there_is_replaced_only_by_force(audit: Audit, tmp_path: Path) -> None:
    out = tmp_path / "loans.yaml"
    out.write_text("mine")
    words = ("spec", "init", str(a_table(tmp_path)), "--target", "bad", "-o", str(out))

    refused = audit(*words)

    assert (refused.returncode, out.read_text()) == (2, "mine")
    assert refused.stderr == f"{out} is there already. Name another with -o, or replace it with --force.\n"
    assert audit(*words, "--force").returncode == 0


def test_what_no_spec_can_be_drafted_from_leaves_one_line_and_no_file(audit: Audit, tmp_path: Path) -> None:
    data = a_table(tmp_path)
    data.write_text(data.read_text() + "1,2\n")

    shown = audit("spec", "init", str(data), "--target", "bad", "-o", str(tmp_path / "loans.yaml"))

    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        "DATA: loans.csv, line 302 has 2 fields, the header has 4. Mend the line, or the `separator`.\n"
    )
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["loans.csv"]


def test_a_name_that_hides_its_letters_is_shown_with_them(audit: Audit, tmp_path: Path) -> None:
    shown = audit("spec", "init", str(a_table(tmp_path)), "--target", "b\u202ead", "-o", str(tmp_path / "x.yaml"))

    assert "--target b\\u202ead: there is no such column" in shown.stderr


def test_what_will_happen_is_told_stage_by_stage(audit: Audit) -> None:
    shown = audit("spec", "show", str(FLIGHTS))
    told = json.loads(audit("spec", "show", str(FLIGHTS), "--json").stdout)

    assert shown.returncode == 0
    stages = [line.split()[0] for line in shown.stdout.splitlines()[1:] if not line.startswith(" ")]
    assert stages == [stage["stage"] for stage in told["stages"]]
    assert "replaced by a keyed hash: tailnum" in shown.stdout


def test_a_spec_that_does_not_hold_is_not_told(audit: Audit, tmp_path: Path) -> None:
    bent = tmp_path / "bent.yaml"
    bent.write_text(FLIGHTS.read_text().replace("target:", "targe:", 1))

    shown = audit("spec", "show", str(bent))

    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("bent.yaml:")
