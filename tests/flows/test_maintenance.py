"""The maintenance flow: what is wrong is told once and said to be over, and nothing of it fails the run."""

from pathlib import Path
from typing import Any

import pytest

from audit.spec.load import load_spec
from audit.store import read
from audit.store.engine import open_store
from flows.maintenance import maintenance
from tasks.alert import Finding, send_alert
from tests.audit.recording.conftest import break_store, mend_store
from tests.flows.conftest import UseCase, loans


def test_what_is_wrong_is_told_once_and_that_it_is_over(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]]
) -> None:
    for room in (1e9, 1e9, 0.0, 0.0):
        state = maintenance(use_case.spec, room, return_state=True)

    assert [told["title"] for told in receiver] == [
        "✗ Maintenance of loans: disk not in order",
        "✓ Recovered in loans: maintenance",
    ]
    assert (state.type.value, state.message) == ("COMPLETED", "all in order")


def test_what_was_held_back_in_a_bad_night_is_told_by_the_next_maintenance(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]]
) -> None:
    for quiet, window in ((360, "2024-04"), (360, "2024-05"), (0, None)):
        spec = load_spec(use_case.write(loans(), alerts={"to": ["default"], "quiet_minutes": quiet}).spec)
        if window:
            title = f"rows of {window} could not be scored"
            send_alert(Finding(kind="scoring", title=title, body="", severity="error", window=window), spec)
    assert [told["title"] for told in receiver] == ["✗ rows of 2024-04 could not be scored"]

    maintenance(use_case.spec, 0.0)
    maintenance(use_case.spec, 0.0)

    assert len(receiver) == 2
    assert receiver[1]["title"].startswith("✗ 1 finding since ")
    assert receiver[1]["title"].endswith(" not told before: scoring in loans")
    assert "rows of 2024-05 could not be scored" in receiver[1]["message"]
    assert "2024-04" not in receiver[1]["message"]


def test_with_the_store_away_the_run_completes_says_so_and_still_calls(
    home: Path, use_case: UseCase, receiver: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.recording.recorder.RETRY_SECONDS", 0)
    maintenance(use_case.spec, 0.0)
    break_store(home)

    state = maintenance(use_case.spec, 0.0, return_state=True)

    assert state.is_completed()
    assert (state.message or "").startswith("not in order: store")
    assert "store not in order" in receiver[0]["title"]
    mend_store(home)
    maintenance(use_case.spec, 0.0)
    assert [f["count"] > 0 for f in (e.payload for e in read.events(open_store(), types=("store.replayed",)))] == [True]
