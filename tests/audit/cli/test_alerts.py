"""`audit alerts`."""

import json

import pytest

from audit.events.payloads import AlertFacts
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, an_event


def alert(type: str, after: float, window: str = "2013-08", **changes: object) -> object:
    given = {
        "spec": "flights", "kind": "drift", "alert": f"flights drift {window}", "window": window,
        "severity": "warning", "title": f"⚠ Drift in flights, {window}", "body": "dep_time 0.31 (0.12)",
    }  # fmt: skip
    return an_event(type, AlertFacts.model_validate({**given, **changes}), after=after, subject="spec/flights")


@pytest.fixture
def night(store: AuditStore) -> None:
    """One message to two targets, one of which was away; three hundred and ninety-nine held back; one run that died."""
    held = {"reason": "one of its kind went out at 21:04 UTC", "until": "2026-11-25T09:04:03.000000Z"}
    append(
        store,
        [
            alert("alert.raised", 1),
            alert("alert.sent", 2, to="default", target="json://127.0.0.1", attempts=1),
            alert("alert.failed", 3, to="oncall", target="slack://…", attempts=3, error="it answered 500"),
            *(alert("alert.held", 4 + n / 100, window="2013-09", **held) for n in range(399)),
            alert("alert.raised", 9, spec="loans", alert="loans decay", kind="decay", title="⚠ Decay in loans"),
        ],  # type: ignore[list-item]
    )


def test_a_night_is_four_lines_the_latest_first(audit: Audit, night: None) -> None:
    lines = audit("alerts").stdout.splitlines()

    assert [line.split()[:7] for line in lines[1:]] == [
        ["2026-11-24", "21:04:10", "loans", "decay", "raised", "–", "⚠"],
        ["2026-11-24", "21:04:08", "flights", "drift", "held", "(until", "2026-11-25"],
        ["2026-11-24", "21:04:04", "flights", "drift", "failed", "(it", "answered"],
        ["2026-11-24", "21:04:03", "flights", "drift", "sent", "default", "(json://127.0.0.1)"],
    ]
    assert "held (until 2026-11-25 09:04:03)    399" in lines[2]


def test_json_says_the_same(audit: Audit, night: None) -> None:
    found = json.loads(audit("alerts", "--json").stdout)

    assert [(a["state"], a["count"]) for a in found] == [("raised", 1), ("held", 399), ("failed", 1), ("sent", 1)]
    assert (found[2]["to"], found[2]["target"], found[2]["said"]) == ("oncall", "slack://…", "it answered 500")


def test_only_what_is_asked_for_is_shown(audit: Audit, night: None) -> None:
    failed = json.loads(audit("alerts", "--failed", "--json").stdout)
    loans = json.loads(audit("alerts", "--spec", "loans", "--json").stdout)

    assert [a["state"] for a in failed] == ["failed"]
    assert [a["kind"] for a in loans] == ["decay"]
    assert audit("alerts", "--limit", "1").stdout.count("\n") == 2


def test_a_store_without_alerts_says_so(audit: Audit, store: AuditStore) -> None:
    assert audit("alerts").stdout == "No alert on record is so.\n"
