"""A message reaches people where they are, in the shape that the service documents; or it is known why it did not."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, get_args

import pytest
from apprise.plugins.email import NotifyEmail
from prefect.settings import PREFECT_API_URL, temporary_settings

from audit.settings import settings
from tasks import _delivery as delivery
from tasks._delivery import Message, deliver, known
from tests import receivers
from tests.receivers import DRIPS, SILENCE, Internet, Refuses, internet, mail_server, webhook

SECRET = "s3cr3t-t0ken"
MESSAGE = Message("⚠ Drift in flights, August 2013", "dep_time 0.31 (0.12)\nwarning · event 0199", "warning")
HOSTS = {
    "hooks.slack.com": receivers.slack,
    "prod-01.westus.logic.azure.com": receivers.teams,
    "events.pagerduty.com": receivers.pagerduty,
}
URLS = {
    "slack": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
    "teams": f"workflows://prod-01.westus.logic.azure.com:443/{'a' * 32}/{SECRET}",
    "pagerduty": f"pagerduty://{'k' * 32}@{SECRET}",
}
CARD = (
    '{"type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": '
    '{"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "Drift"}]}}]}'
)


@pytest.fixture(autouse=True)
def at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "RETRY_DELAYS_SECONDS", (0.0, 0.0))


@pytest.fixture
def point(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets AUDIT_ALERT_URL and others like it."""

    def at(default: str | None = None, **others: str) -> None:
        if default:
            monkeypatch.setenv("AUDIT_ALERT_URL", default)
        for name, url in others.items():
            monkeypatch.setenv(f"AUDIT_ALERT_URL_{name}", url)
        settings.cache_clear()

    return at


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    with internet(tmp_path, HOSTS) as there:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{there.port}")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(there.authority))
        for name in ("NO_PROXY", "no_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield there


@pytest.mark.parametrize("service", URLS)
def test_a_message_has_the_shape_that_the_service_documents(
    service: str, outside: Internet, point: Callable[..., None]
) -> None:
    point(URLS[service])

    (came,) = deliver(MESSAGE, ["default"])

    assert (came.error, came.attempts) == (None, 1)
    (posted,) = outside.posted
    assert "Drift in flights, August 2013" in str(posted.body) and "dep_time 0.31" in str(posted.body)


def test_pagerduty_is_told_how_grave_it_is(outside: Internet, point: Callable[..., None]) -> None:
    point(URLS["pagerduty"])

    for gravity in ("warning", "failure"):
        deliver(MESSAGE._replace(gravity=gravity), ["default"])

    assert [posted.body["payload"]["severity"] for posted in outside.posted] == ["warning", "critical"]


@pytest.mark.parametrize(
    ("service", "template"),
    [
        ("pagerduty", None),
        ("slack", '{"blocks": [{"type": "section"}]}'),
        ("teams", CARD.replace('"version": "1.4", ', "")),
    ],
    ids=["too long", "no text", "no version"],
)
def test_a_service_that_refuses_the_shape_is_no_delivery(
    service: str, template: str | None, outside: Internet, point: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "card.json").write_text(template or "")
    point(f"{URLS[service]}?template={tmp_path / 'card.json'}" if template else URLS[service])

    (came,) = deliver(MESSAGE._replace(body="x" * 2_000), ["default"])

    assert (came.error, came.attempts) == ("it answered 400", 1)


@pytest.mark.parametrize(
    ("service", "wrong"),
    [
        ("slack", {"message": "no such part"}),
        ("slack", {"text": ""}),
        ("slack", {"text": ["a list"]}),
        ("slack", {"attachments": "Drift"}),
        ("slack", {"attachments": [{"title": "nothing else"}]}),
        ("slack", {"attachments": [{"text": "Drift", "ts": "now"}]}),
        ("slack", {"attachments": [{"text": "Drift", "colour": "red"}]}),
        ("slack", {"attachments": [{"text": "Drift"}] * 101}),
        ("slack", {"blocks": [{"type": "section"}]}),
        ("slack", {"blocks": [{"type": "header", "text": {"type": "mrkdwn", "text": "*Drift*"}}]}),
        ("slack", {"blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3_001}}]}),
        ("slack", {"text": "Drift", "blocks": [{"type": "no such"}]}),
        ("teams", {"@type": "MessageCard", "text": "Drift"}),
        ("teams", {"type": "message", "text": "Drift"}),
        ("teams", {"type": "message", "attachments": [{"contentType": "text/plain", "content": "Drift"}]}),
        ("teams", json.loads(CARD.replace("1.4", "four"))),
        ("teams", json.loads(CARD.replace('"text": "Drift"', '"title": "Drift"'))),
        ("teams", json.loads(CARD.replace("Drift", "x" * 30_000))),
        ("pagerduty", {"routing_key": "k" * 32, "event_action": "trigger", "payload": {"summary": "Drift"}}),
    ],
)
def test_our_services_refuse_what_is_not_as_documented(
    service: str, wrong: dict[str, Any], outside: Internet, point: Callable[..., None]
) -> None:
    point(URLS[service])
    deliver(MESSAGE, ["default"])
    (posted,) = outside.posted
    answer = HOSTS[posted.host]

    assert answer(posted.path, posted.body)[0] in (200, 202)
    assert answer(posted.path, wrong)[0] == 400
    assert answer("/elsewhere", posted.body)[0] == 400


def test_slack_is_told_in_blocks_where_its_address_asks_for_them(outside: Internet, point: Callable[..., None]) -> None:
    point(f"{URLS['slack']}?blocks=yes")

    (came,) = deliver(MESSAGE, ["default"])

    assert came.error is None
    assert outside.posted[0].body["attachments"][0]["blocks"][0]["type"] == "header"


@pytest.mark.parametrize(
    ("wanted", "error"),
    [("right", None), ("another", "the mail server refused the login"), (None, "the mail server refused the login")],
    ids=["taken", "rejected", "not offered"],
)
def test_a_login_that_a_mail_server_refuses_is_no_silence(
    point: Callable[..., None], wanted: str | None, error: str | None
) -> None:
    with mail_server(password=wanted) as (server, port):
        point(f"mailto://user:right@127.0.0.1:{port}?from=audit@example.org&to=oncall@example.org")

        (came,) = deliver(MESSAGE, ["default"])

    assert (came.error, came.attempts) == (error, 1)
    assert len(server.received) == (0 if error else 1)
    assert logging.getLogger("apprise").level == logging.NOTSET, "apprise goes on as talkative as it was"


def test_mail_arrives_with_the_title_as_its_subject(point: Callable[..., None]) -> None:
    with mail_server() as (server, port):
        point(f"mailto://127.0.0.1:{port}?from=audit@example.org&to=oncall@example.org")

        (came,) = deliver(MESSAGE, ["default"])

    assert (came.error, came.target) == (None, "mailto://127.0.0.1")
    (mail,) = server.received
    assert mail.rcpt_tos == ["oncall@example.org"]
    read = message_from_bytes(mail.original_content, policy=policy.default)  # type: ignore[arg-type]
    assert read["Subject"] == MESSAGE.title
    as_html, as_text = (read.get_body((kind,)).get_content() for kind in ("html", "plain"))  # type: ignore[union-attr]
    assert as_text.splitlines()[:2] == MESSAGE.body.splitlines()
    assert "<br/>warning" in as_html


@pytest.mark.parametrize("mode", ["starttls", "ssl"])
def test_a_mail_server_without_the_encryption_that_is_asked_for_is_no_silence(
    mode: str, point: Callable[..., None]
) -> None:
    with mail_server() as (_, port):
        point(f"mailtos://127.0.0.1:{port}?from=audit@example.org&to=oncall@example.org&mode={mode}")

        (came,) = deliver(MESSAGE, ["default"])

    assert (came.error, came.attempts) == ("no encrypted connection to the mail server could be made", 1)


@pytest.mark.parametrize("at", get_args(Refuses))
@pytest.mark.parametrize(("refusal", "attempts"), [("550 no such person", 1), ("451 try again later", 2)])
def test_a_mail_server_that_refuses_is_a_failure_to_deliver_for_good_or_for_now(
    refusal: str, attempts: int, at: Refuses, point: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "RETRY_DELAYS_SECONDS", (0.0,))
    monkeypatch.setattr(NotifyEmail, "request_rate_per_sec", 0.0)  # else 5 s pass between two mails
    with mail_server(refusal, at=at) as (server, port):
        point(f"mailto://127.0.0.1:{port}?from=audit@example.org&to=oncall@example.org")

        (came,) = deliver(MESSAGE, ["default"])

    assert (came.error, came.attempts, server.asked) == ("the mail server refused it", attempts, attempts)


@pytest.mark.parametrize(
    ("answers", "attempts", "error"),
    [
        ([200], 1, None),
        ([500, 503, 200], 3, None),
        ([500], 3, "it answered 500"),
        ([429, 200], 2, None),
        ([404], 1, "it answered 404"),
    ],
    ids=["taken", "back again", "broken", "busy", "gone"],
)
def test_it_is_tried_again_where_that_may_help(
    answers: list[int],
    attempts: int,
    error: str | None,
    point: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "BUSY_SECONDS", 0.0)
    with webhook(*answers) as receiver:
        point(receiver.url())

        (came,) = deliver(MESSAGE, ["default"])

    assert (came.attempts, came.error, len(receiver.received)) == (attempts, error, attempts)


def test_a_receiver_that_is_busy_is_given_time(point: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BUSY_SECONDS", 0.5)
    with webhook(429, 200, headers={"Retry-After": "1"}) as receiver:
        point(receiver.url())
        deliver(MESSAGE, ["default"])

    first, second = receiver.arrived_at
    assert second - first >= 0.5


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "not there"])
def test_a_receiver_without_an_answer_is_given_up(silent: bool, point: Callable[..., None]) -> None:
    with webhook(SILENCE) as receiver:
        point(f"json://127.0.0.1:{receiver.port if silent else 1}/?rto=0.2&cto=0.2")

        (came,) = deliver(MESSAGE, ["default"])

    assert (came.error, came.attempts) == ("no answer", 3)


def test_an_answer_without_an_end_holds_up_nobody(point: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 1.0)
    with webhook(DRIPS) as drips, webhook(404) as gone:
        point(drips.url(), ONCALL=gone.url())

        began = time.monotonic()
        came = deliver(MESSAGE, ["default", "oncall"])

    assert [(each.to, each.error) for each in came] == [("default", "no answer"), ("oncall", "it answered 404")]
    assert time.monotonic() - began < 3


def test_every_target_has_its_own_outcome_and_none_waits_for_another(
    point: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "RETRY_DELAYS_SECONDS", (1.0,))
    with webhook() as good, webhook(500) as broken:
        point(broken.url(), ONCALL=good.url())

        began = time.monotonic()
        came = deliver(MESSAGE, ["default", "oncall", "nobody"])

    assert [(each.to, each.error) for each in came] == [
        ("default", "it answered 500"), ("oncall", None), ("nobody", "AUDIT_ALERT_URL_NOBODY is not set"),
    ]  # fmt: skip
    assert good.arrived_at[0] - began < 1.0


def test_a_default_that_is_not_set_is_nobody_to_be_told(point: Callable[..., None]) -> None:
    point()
    assert known(["default", "oncall"]) == ["oncall"]


def test_a_template_that_cannot_be_used_is_a_failure_to_deliver(
    outside: Internet, point: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "card.json").write_text(f'{{"broken": "{SECRET}"')
    point(f"{URLS['teams']}?template={tmp_path / 'card.json'}")

    (came,) = deliver(MESSAGE, ["default"])

    assert (came.error, outside.posted) == ("its template cannot be used", [])
    assert SECRET not in caplog.text


def test_a_block_without_a_prefect_server_is_a_failure_to_deliver(point: Callable[..., None]) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        (came,) = deliver(MESSAGE, ["slack-webhook/oncall"])

    assert came.error == "Prefect's server did not hand it out"


@pytest.mark.parametrize("url", [f"nonsense://{SECRET}", f"slack://{SECRET}", f"http//{SECRET}", SECRET])
def test_an_address_that_is_none_is_a_failure_to_deliver(
    url: str, point: Callable[..., None], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    point(url)
    with caplog.at_level(logging.DEBUG):
        (came,) = deliver(MESSAGE, ["default"])

    assert came.error == "apprise does not know the address in AUDIT_ALERT_URL"
    assert SECRET not in str(came) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"jsons://{SECRET}@example.org:8443/{SECRET}?token={SECRET}", "jsons://example.org"),
        (f"mailto://user:{SECRET}@127.0.0.1:1?from=audit@example.org&to=oncall@example.org", "mailto://127.0.0.1"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#alerts", "slack://…"),
        ("tgram://123456789:abcdefg_hijklmnop/12315544/", "tgram://…"),
        (f"gotify://example.org/{SECRET}", "gotify://example.org"),
        (f"kodi://user:{SECRET}@example.org", "kodi://example.org"),
        (f"xbmcs://user:{SECRET}@example.org", "kodis://example.org"),
        (URLS["pagerduty"], "pagerduty://…"),
    ],
    ids=["webhook", "mail", "slack", "telegram", "gotify", "kodi", "xbmc", "pagerduty"],
)
def test_a_target_is_named_by_scheme_and_by_host_only_where_that_is_a_host(
    url: str, shown: str, outside: Internet, point: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{outside.port}")
    monkeypatch.setattr(delivery, "RETRY_DELAYS_SECONDS", ())
    point(url)

    (came,) = deliver(MESSAGE, ["default"])

    assert came.target == shown
