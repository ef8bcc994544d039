"""Prefect's notification blocks as targets, by type and name, from a real Prefect server."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.blocks.system import Secret

from audit import flow
from audit.spec.load import load_spec
from audit.spec.model import Alerts, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _delivery as delivery
from tasks._delivery import Message, deliver
from tasks.alert import Finding, send_alert
from tests import receivers
from tests.receivers import Internet, Receiver, internet, webhook

pytestmark = pytest.mark.slow
FLIGHTS = Path(__file__).parents[2] / "flows/specs/flights.yaml"
SECRET = "pl4nted-t0ken"
MESSAGE = Message("⚠ Drift in flights", "dep_time 0.31 (0.12)", "warning")


@pytest.fixture(autouse=True)
def server(prefect_server: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "RETRY_DELAYS_SECONDS", (0.0,))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook() as receiver:
        yield receiver


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    with internet(tmp_path, {"hooks.slack.com": receivers.slack}) as there:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{there.port}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(there.authority))
        yield there


def a_webhook(receiver: Receiver, name: str, **changes: object) -> None:
    given = {
        "name": name,
        "url": f"http://127.0.0.1:{receiver.port}/{SECRET}",
        "json_data": {"text": "{{subject}} {{body}}", "token": "{{token}}"},
        "secrets": {"token": SECRET},
    }
    CustomWebhookNotificationBlock.model_validate({**given, **changes}).save(name, overwrite=True)


def test_slack_is_told_through_its_block_by_name_from_inside_a_flow(outside: Internet) -> None:
    SlackWebhook(url=f"https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/{'T' * 24}").save("oncall", overwrite=True)
    spec = load_spec(FLIGHTS).model_copy(update={"alerts": Alerts(to=("slack-webhook/oncall",))})

    assert tells(spec)

    (posted,) = outside.posted
    assert "Drift in flights" in str(posted.body)
    (sent,) = read.events(open_store(), types=("alert.sent",))
    assert sent.payload["target"] == "block slack-webhook/oncall"


def test_slacks_block_takes_a_local_address(receiver: Receiver) -> None:
    SlackWebhook(url=receiver.url()).save("local", overwrite=True)

    (came,) = deliver(MESSAGE, ["slack-webhook/local"])

    assert came.error is None
    assert (receiver.received[0]["title"], receiver.received[0]["type"]) == (MESSAGE.title, "warning")


@pytest.mark.parametrize(
    ("name", "answer", "error", "attempts"),
    [
        ("custom-webhook/good", 200, None, 1),
        ("custom-webhook/good", 500, "it answered 500", 2),
        ("slack-webhook/refusing", 503, "it answered 503", 2),
        ("custom-webhook/nobody-made-it", 200, "there is no such block", 0),
        ("no-such-type/x", 200, "there is no such block", 0),
        ("secret/not-a-notifier", 200, "it is no notification block", 0),
        ("custom-webhook/template", 200, "its template cannot be used", 0),
    ],
)
def test_a_blocks_failure_is_known_by_its_kind_alone(
    name: str,
    answer: int,
    error: str | None,
    attempts: int,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver.answers = [answer]
    a_webhook(receiver, "good")
    SlackWebhook(url=f"json://127.0.0.1:{receiver.port}/{SECRET}").save("refusing", overwrite=True)
    Secret(value=SECRET).save("not-a-notifier", overwrite=True)  # type: ignore[call-arg]
    with monkeypatch.context() as unchecked:  # a template that names a secret which the block no longer has
        unchecked.setattr(CustomWebhookNotificationBlock, "block_initialization", lambda self: None)
        a_webhook(receiver, "template", json_data={"text": "{{" + SECRET + "}}"})

    with caplog.at_level(logging.INFO):
        (came,) = deliver(MESSAGE, [name])

    assert (came.error, came.attempts) == (error, attempts)
    assert SECRET not in str(came) + caplog.text + "".join(capfd.readouterr())


@flow
def tells(spec: Spec) -> bool:
    return send_alert(Finding(kind="drift", title="Drift in flights", body="dep_time", severity="warning"), spec)
