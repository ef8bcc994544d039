"""The maintenance flow: what is wrong is told once and said to be over, and nothing of it fails the run."""

from pathlib import Path
from typing import Any

import pytest

from audit.settings import settings
from audit.spec.load import load_spec
from audit.store import read
from audit.store.engine import open_store
from flows.maintenance import maintenance
from tasks.alert import Finding, send_alert
from tests.audit.recording.conftest import break_store, mend_store
from tests.flows.conftest import UseCase, loans
from tests.flows.test_pipeline import everything_written
from tests.receivers import SILENCE, mail_server, webhook

SECRET = "s3cr3t-t0ken"


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


BLOCK = "slack-webhook/nobody-made-it"
TARGETS = {
    "it answers 500": ("json://user:{secret}@127.0.0.1:{web}/hook", "default", 500),
    "it answers 429": ("json://user:{secret}@127.0.0.1:{web}/hook", "default", 429),
    "silence": ("json://user:{secret}@127.0.0.1:{web}/hook?rto=0.5", "default", SILENCE),
    "nothing there": ("json://user:{secret}@127.0.0.1:9/hook", "default", 200),
    "mail refused": ("mailto://127.0.0.1:{mail}?from=a@example.org&to={secret}@example.org", "default", 200),
    "no such scheme": ("nonsense://{secret}", "default", 200),
    "unknown target": ("json://user:{secret}@127.0.0.1:{web}/hook", "oncall", 200),
    "no such block": ("json://user:{secret}@127.0.0.1:{web}/hook", BLOCK, 200),
}


@pytest.mark.parametrize(("url", "to", "answer"), TARGETS.values(), ids=TARGETS)
def test_a_message_that_cannot_be_delivered_changes_nothing_but_the_record(
    home: Path, use_case: UseCase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str], url: str, to: str, answer: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("tasks._delivery.RETRY_DELAYS_SECONDS", (0.0,))
    monkeypatch.setattr("tasks._delivery.BUSY_SECONDS", 0.0)
    with webhook(answer) as web, mail_server("550 no such person") as (_, mail):
        monkeypatch.setenv("AUDIT_ALERT_URL", url.format(secret=SECRET, web=web.port, mail=mail))
        settings.cache_clear()
        use_case.write(loans(), alerts={"to": [to]})

        state = maintenance(use_case.spec, 1e9, return_state=True)

    assert state.is_completed() and (state.message or "").startswith("not in order: disk")
    (failed,) = read.events(open_store(), types=("alert.failed",))
    assert failed.payload["to"] == to and failed.payload["error"]
    (warned,) = (line.getMessage() for line in caplog.records if "did not reach" in line.getMessage())
    assert f"did not reach {to} (" in warned and failed.payload["error"] in warned
    assert SECRET not in everything_written(home) + caplog.text + "".join(capfd.readouterr())


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
