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
