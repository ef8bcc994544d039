"""What messages to people are sent to: real servers on this machine, which refuse what the real ones would refuse.

Slack, Teams and PagerDuty have fixed hosts, so a proxy stands in for the network: it ends the TLS of whatever host is
asked for with a certificate of its own authority, which only the test trusts.
"""

import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

Json = dict[str, Any]
SILENCE = 0  # instead of a status: no answer at all
DRIPS = -1  # and one without an end, byte by byte


@dataclass
class Receiver:
    """It gives `answers` one after the other, the last for good."""

    answers: list[int]
    received: list[Json] = field(default_factory=list)
    arrived_at: list[float] = field(default_factory=list)
    port: int = 0

    def url(self, scheme: str = "json", secret: str = "") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/hook/{secret}"

    def answer(self) -> int:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def webhook(*answers: int, headers: dict[str, str] | None = None) -> Iterator[Receiver]:
    """A web server that takes JSON."""
    receiver = Receiver(list(answers or (200,)))

    class Answer(Quiet):
        def do_POST(self) -> None:
            receiver.received.append(json.loads(self.body()))
            receiver.arrived_at.append(time.monotonic())
            status = receiver.answer()
            if status == SILENCE:
                closed.wait(30)
                return
            while status == DRIPS and not closed.wait(0.1):
                self.wfile.write(b"H")
            if status == DRIPS:
                return
            self.reply(status, b"ok", headers or {})

    closed = threading.Event()
    with serving(Answer) as receiver.port:
        yield receiver
        closed.set()


@dataclass
class Posted:
    """One request that came through the proxy."""

    host: str
    path: str
    body: Json


@dataclass
class Internet:
    """All hosts there are, and what was posted to them."""

    port: int
    authority: Path
    posted: list[Posted] = field(default_factory=list)


@contextmanager
def internet(folder: Path, hosts: "dict[str, Callable[[str, Json], tuple[int, bytes]]]") -> Iterator[Internet]:
    """A proxy behind which each of `hosts` answers by its function of path and body."""
    authority = trustme.CA()
    bundle = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    there = Internet(0, bundle)

    class Tunnel(Quiet):
        host = ""

        def do_CONNECT(self) -> None:
            self.host = self.path.partition(":")[0]
            if self.host not in hosts:
                self.send_error(502)
                return
            self.send_response(200)
            self.end_headers()
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert(self.host).configure_cert(context)
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False

        def do_POST(self) -> None:
            body = json.loads(self.body())
            there.posted.append(Posted(self.host, self.path, body))
            self.reply(*hosts[self.host](self.path, body))
            self.close_connection = True

    with serving(Tunnel) as there.port:
        yield there


def slack(path: str, body: Json) -> tuple[int, bytes]:
    """An incoming webhook: a text, blocks, or attachments of which each has a text, a fallback or blocks; else 400.

    docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, and its references of blocks and attachments
    """
    attached = body.get("attachments", [])
    ok = (
        re.fullmatch(r"/services/\w+/\w+/\w+", path)
        and body.keys() <= SLACK_MESSAGE
        and _all_texts(body, "text")
        and _all_of(attached, 100, _is_attachment)
        and _all_of(body.get("blocks", []), 50, _is_block)
        and (body.get("text") or body.get("blocks") or attached)
    )
    return (200, b"ok") if ok else (400, b"invalid_payload")


SLACK_MESSAGE = {
    "text", "blocks", "attachments", "thread_ts", "mrkdwn", "unfurl_links", "unfurl_media",
    "channel", "username", "icon_url", "icon_emoji",
}  # fmt: skip
ATTACHMENT_TEXTS = {
    "author_icon", "author_link", "author_name", "color", "fallback", "footer", "footer_icon", "image_url",
    "pretext", "text", "thumb_url", "title", "title_link",
}  # fmt: skip
BLOCKS = ("actions", "context", "divider", "file", "header", "image", "input", "markdown", "rich_text", "section")


def _is_attachment(attachment: Json) -> bool:
    return (
        attachment.keys() <= ATTACHMENT_TEXTS | {"blocks", "fields", "mrkdwn_in", "ts"}
        and _all_texts(attachment, *ATTACHMENT_TEXTS)
        and isinstance(attachment.get("ts", 0), int | float)
        and len(attachment.get("footer", "")) <= 300
        and _all_of(attachment.get("fields", []), 100, lambda field: _all_texts(field, "title", "value"))
        and _all_of(attachment.get("blocks", []), 50, _is_block)
        and any(attachment.get(part) for part in ("text", "fallback", "blocks"))
    )


def _is_block(block: Json) -> bool:
    text, fields = block.get("text"), block.get("fields", [])
    match block.get("type"):
        case "header":
            return _is_text(text, 150, "plain_text")
        case "section":
            is_text = text is None or _is_text(text, 3_000, "plain_text", "mrkdwn")
            return bool(text or fields) and is_text and _all_of(fields, 10, lambda f: _is_text(f, 2_000, f["type"]))
        case "context":
            return bool(block.get("elements")) and _all_of(block["elements"], 10, lambda element: "type" in element)
        case "image":
            return bool(block.get("alt_text")) and bool(block.get("image_url") or block.get("slack_file"))
        case other:
            return other in BLOCKS


def _is_text(text: Any, most: int, *types: str) -> bool:
    is_one = isinstance(text, dict) and text.get("type") in types and isinstance(text.get("text"), str)
    return is_one and 0 < len(text["text"]) <= most


def _all_texts(found: Json, *names: str) -> bool:
    return all(isinstance(found.get(name, ""), str) for name in names)


def _all_of(found: Any, most: int, right: Callable[[Json], bool]) -> bool:
    """Whether it is a list of no more than so many objects, each as it should be."""
    return isinstance(found, list) and len(found) <= most and all(isinstance(one, dict) and right(one) for one in found)


def teams(path: str, body: Json) -> tuple[int, bytes]:
    """A workflow "when a Teams webhook request is received": a message of at most 28 KB with adaptive cards, else 400.

    learn.microsoft.com/connectors/teams, adaptivecards.io/explorer; Microsoft has retired the connectors of before,
    which took MessageCards.
    """
    ok = (
        re.match(r"/workflows/\w+/triggers/\w+/paths/invoke\?.*\bsig=", path)
        and body.get("type") == "message"
        and len(json.dumps(body)) <= 28 * 1_024
        and body.get("attachments")
        and _all_of(body["attachments"], 10, _holds_a_card)
    )
    return (202, b"") if ok else (400, b"")


def _holds_a_card(attachment: Json) -> bool:
    card = attachment.get("content")
    return (
        attachment.get("contentType") == "application/vnd.microsoft.card.adaptive"
        and isinstance(card, dict)
        and card.get("type") == "AdaptiveCard"
        and bool(re.fullmatch(r"1\.\d", str(card.get("version"))))
        and bool(card.get("body"))
        and _all_of(card["body"], 100, _is_element)
    )


def _is_element(element: Json) -> bool:
    needs = {"TextBlock": "text", "Image": "url"}.get(str(element.get("type")), "type")
    return isinstance(element.get(needs), str) and bool(element[needs])


def pagerduty(path: str, body: Json) -> tuple[int, bytes]:
    """Events API v2, else 400. developer.pagerduty.com/docs/events-api-v2/trigger-events"""
    told = body.get("payload", {})
    ok = (
        path == "/v2/enqueue"
        and len(body.get("routing_key", "")) == 32
        and body.get("event_action") in ("trigger", "acknowledge", "resolve")
        and 0 < len(told.get("summary", "")) <= 1_024
        and told.get("source")
        and told.get("severity") in ("critical", "error", "warning", "info")
    )
    return (202, b'{"status": "success", "message": "Event processed", "dedup_key": "x"}') if ok else (400, b"{}")


Refuses = Literal["RCPT", "DATA"]


@dataclass
class MailServer:
    """It takes mail, or refuses every message with `refusal`, when it hears whom or what it is for."""

    refusal: str | None = None
    at: Refuses = "DATA"
    asked: int = 0
    received: list[Envelope] = field(default_factory=list)

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, to: str, options: list[str]) -> str:
        self.asked += 1
        if self.refusal and self.at == "RCPT":
            return self.refusal
        envelope.rcpt_tos.append(to)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refusal:
            return self.refusal
        self.received.append(envelope)
        return "250 OK"


@contextmanager
def mail_server(
    refusal: str | None = None, *, at: Refuses = "DATA", password: str | None = None
) -> Iterator[tuple[MailServer, int]]:
    """An SMTP server and its port. With a `password` it offers a login, and takes that one only."""
    taking = MailServer(refusal, at)
    login = {} if password is None else {"authenticator": _asks_for(password), "auth_require_tls": False}
    controller = Controller(taking, hostname="127.0.0.1", port=_free_port(), **login)
    controller.start()
    try:
        yield taking, controller.port
    finally:
        controller.stop()


def _asks_for(password: str) -> Callable[..., AuthResult]:
    def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _how: str, given: Any) -> AuthResult:
        right = isinstance(given, LoginPassword) and given.password == password.encode()
        return AuthResult(success=right, handled=False)  # the server answers, not this

    return authenticate


class Quiet(BaseHTTPRequestHandler):
    """A server's one request, with nothing on the test's output."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port of a server that runs meanwhile."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
