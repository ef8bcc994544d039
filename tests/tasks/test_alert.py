"""One message to people: delivered or not, it is on record, and the address's secrets are nowhere."""

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Crashed, Failed

from audit.errors import BadData, DatasetRejected
from audit.events.payloads import ColumnDrift
from audit.events.references import Report, Window
from audit.settings import settings
from audit.spec.load import load_spec
from audit.spec.model import Alerts, Spec
from audit.store import read
from audit.store.engine import open_store
from audit.store.read import Recorded
from tasks import alert
from tasks.alert import Message, drift_message, send_alert, target_shown, tell, tell_failure

FLIGHTS = Path(__file__).parents[2] / "flows/specs/flights.yaml"
SECRET = "s3cr3t-t0ken"
RUN_ID = "3f2a0000-0000-4000-8000-000000000000"


@dataclass
class Target:
    """A real HTTP server that people are told through; it gives `answers` one after the other, the last for good."""

    answers: list[int]
    received: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"json://user:{SECRET}@127.0.0.1:{self.port}/hook/{SECRET}"


@pytest.fixture
def target(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    target = Target(list(getattr(request, "param", [200])))

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            target.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(target.answers.pop(0) if len(target.answers) > 1 else target.answers[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    target.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    point_at(target.url, monkeypatch)
    yield target
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def spec() -> Spec:
    return load_spec(FLIGHTS)


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_ALERT_URL", url)
    monkeypatch.setattr(alert, "RETRY_DELAYS_SECONDS", (0.0, 0.0))
    settings.cache_clear()


def on_record() -> list[Recorded]:
    return list(read.events(open_store(), types=("alert.sent", "alert.failed")))


def all_that_was_written(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_a_message_reaches_its_target_and_is_on_record(target: Target, spec: Spec) -> None:
    assert send_alert.fn("drift", "⚠ Drift", "wind_gust 0.37 (0.19)", spec, "the-event")
    assert [(m["title"], m["message"]) for m in target.received] == [("⚠ Drift", "wind_gust 0.37 (0.19)")]
    (sent,) = on_record()
    assert (sent.type, sent.severity, sent.subject) == ("alert.sent", "info", "spec/flights")
    assert sent.payload["target"] == "json://127.0.0.1"
    assert (sent.payload["cause"], sent.payload["attempts"]) == ("the-event", 1)


@pytest.mark.parametrize("target", [[500, 503, 200]], indirect=True)
def test_a_target_that_comes_back_is_tried_again(target: Target, spec: Spec) -> None:
    assert tell("drift", Message("title", "body"), spec, "spec/flights")
    assert len(target.received) == 3
    assert on_record()[0].payload["attempts"] == 3


@pytest.mark.parametrize("target", [[500]], indirect=True)
def test_a_target_that_refuses_changes_nothing_but_the_record(target: Target, spec: Spec) -> None:
    assert not send_alert.fn("drift", "title", "body", spec)
    (failed,) = on_record()
    assert (failed.type, failed.severity) == ("alert.failed", "error")
    assert (failed.payload["error"], failed.payload["attempts"]) == ("it answered 500", 3)


def test_a_target_that_is_not_there_changes_nothing_but_the_record(
    target: Target, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(f"json://127.0.0.1:1/{SECRET}", monkeypatch)
    assert not send_alert.fn("drift", "title", "body", spec)
    assert on_record()[0].payload["error"] == "no answer"


@pytest.mark.parametrize("url", [f"nonsense://{SECRET}", f"slack://{SECRET}", f"http//{SECRET}", SECRET])
def test_an_address_that_is_none_is_a_failure_to_deliver(
    url: str,
    home: Path,
    spec: Spec,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    point_at(url, monkeypatch)
    assert not send_alert.fn("drift", "title", "body", spec)
    assert on_record()[0].payload["error"] == "apprise does not know this address"
    assert SECRET not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("target", [[200], [500]], indirect=True, ids=["delivered", "refused"])
def test_the_secrets_of_an_address_are_in_nothing_that_is_written(
    target: Target, spec: Spec, home: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO):
        send_alert.fn("drift", "title", "body", spec)
    assert target.received and on_record()
    assert SECRET not in caplog.text + "".join(capfd.readouterr())
    assert SECRET.encode() not in all_that_was_written(home)


def test_an_undelivered_message_warns_and_names_the_target(
    target: Target, spec: Spec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    point_at(f"json://127.0.0.1:1/{SECRET}", monkeypatch)
    send_alert.fn("drift", "title", "body", spec)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "audit"]
    assert any("json://127.0.0.1" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"jsons://{SECRET}@example.org:8443/{SECRET}?token={SECRET}", "jsons://example.org"),
        (f"mailto://user:{SECRET}@example.org", "mailto://example.org"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#alerts", "slack://…"),
        ("tgram://123456789:abcdefg_hijklmnop/12315544/", "tgram://…"),
        (f"gotify://example.org/{SECRET}", "gotify://example.org"),
        (f"kodi://user:{SECRET}@example.org", "kodi://example.org"),
        (f"xbmcs://user:{SECRET}@example.org", "kodis://example.org"),
    ],
    ids=["webhook", "mail", "slack", "telegram", "gotify", "kodi", "xbmc"],
)
def test_a_target_is_named_by_scheme_and_by_host_only_where_that_is_a_host(url: str, shown: str) -> None:
    assert target_shown(url) == shown


def test_a_secret_in_a_title_leaves_the_house_in_no_form(target: Target, home: Path, spec: Spec) -> None:
    send_alert.fn("failed", "✗ Failed: training ann.planted@example.org", "body", spec)

    assert "ann.planted" not in json.dumps(target.received)
    assert not any(b"ann.planted" in file.read_bytes() for file in home.rglob("*") if file.is_file())


def test_an_alert_that_breaks_breaks_no_pipeline(monkeypatch: pytest.MonkeyPatch, home: Path, spec: Spec) -> None:
    monkeypatch.setenv("AUDIT_MODE", "no such mode")
    settings.cache_clear()
    assert not send_alert.fn("drift", "title", "body", spec)


def test_without_an_address_nothing_is_sent_and_nothing_recorded(home: Path, spec: Spec) -> None:
    assert not send_alert.fn("drift", "title", "body", spec)
    assert on_record() == []


def test_a_kind_that_the_spec_does_not_name_is_not_sent(target: Target, spec: Spec) -> None:
    quiet = spec.model_copy(update={"alerts": Alerts(on=("failed",))})
    assert not send_alert.fn("drift", "title", "body", quiet)
    assert target.received == [] and on_record() == []


def test_a_drift_message_names_the_month_the_worst_columns_and_the_event(spec: Spec) -> None:
    columns = [("wind_gust", 0.372, 0.189), ("dewp", 0.72, 0.565), ("temp", 0.73, 0.66), ("late", 0.06, 0.05)]
    found = [ColumnDrift(name=n, method="jensenshannon", score=s, threshold=t, drifted=True) for n, s, t in columns]
    steady = ColumnDrift(name="origin", method="jensenshannon", score=0.01, threshold=0.05, drifted=False)
    report = Report(address="artifact://sha256/" + "0" * 64, digest="sha256:" + "0" * 64, name="report")
    verdict = SimpleNamespace(columns=(*found, steady), event="0199a4", report=report)
    title, body = drift_message(verdict, spec, Window.month(2013, 8))
    assert title == "⚠ Drift in flights, August 2013: 4 of 5 watched columns"
    assert body.startswith("wind_gust 0.37 (0.19) · dewp 0.72 (0.56) · temp 0.73 (0.66) …\n")
    assert report.address in body and "event 0199a4" in body


def test_a_rejected_dataset_is_told_as_such(target: Target) -> None:
    state: State[Any] = Failed(
        data=DatasetRejected("flights/ingested version 3 breaks critical rules: rows.", hint="Mend it.")
    )
    assert tell_failure("training flights", RUN_ID, FLIGHTS, state)
    (told,) = target.received
    assert told["title"] == "✗ Data rejected in flights: training flights"
    assert "breaks critical rules: rows. Mend it." in told["message"] and "audit run 00000000" in told["message"]
    (sent,) = on_record()
    assert (sent.payload["kind"], sent.subject) == ("rejected", f"flow-run/{RUN_ID}")


def test_a_failure_of_ours_is_told_in_its_own_words(target: Target) -> None:
    assert tell_failure("scoring flights", RUN_ID, FLIGHTS, Failed(data=BadData("No rows.", hint="Mend the window.")))
    assert target.received[0]["message"].startswith("No rows. Mend the window.\n")


@pytest.mark.parametrize("state", [Failed(data=ValueError("jane@example.org is 47"), message="jane"), Crashed()])
def test_the_text_of_a_foreign_error_does_not_leave_the_house(target: Target, state: State[Any]) -> None:
    assert tell_failure("scoring flights", RUN_ID, FLIGHTS, state)
    assert "jane" not in json.dumps(target.received)


def test_a_spec_that_cannot_be_read_is_told_too(target: Target, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    assert tell_failure("training broken", RUN_ID, broken, Failed())
    assert target.received[0]["title"] == "✗ Failed: training broken"
