"""What messages to people are sent to: real servers on this machine, which refuse what the real ones would refuse.

Slack, Teams and PagerDuty have fixed hosts, so a proxy stands in for the network: it ends the TLS of whatever host is
asked for with a certificate of its own authority, which only the test trusts.
"""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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
    """An incoming webhook: text, blocks or attachments, else 400.

    docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
    """
    parts = [body.get("text"), *body.get("blocks", []), *body.get("attachments", [])]
    ok = path.startswith("/services/") and any(parts) and all("text" in a for a in body.get("attachments", []))
    return (200, b"ok") if ok else (400, b"invalid_payload")


def teams(path: str, body: Json) -> tuple[int, bytes]:
    """A workflow "when a Teams webhook request is received": a message with adaptive cards, else 400.

    learn.microsoft.com/connectors/teams; Microsoft has retired the connectors of before, which took MessageCards.
    """
    attached = body.get("attachments", [])
    cards = [a["content"] for a in attached if a["contentType"] == "application/vnd.microsoft.card.adaptive"]
    ok = body.get("type") == "message" and cards and all(c["type"] == "AdaptiveCard" and c["body"] for c in cards)
    return (202, b"") if ok else (400, b"")


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


@dataclass
class MailServer:
    """It takes mail, or refuses every message with `refusal`."""

    refusal: str | None = None
    received: list[Envelope] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refusal:
            return self.refusal
        self.received.append(envelope)
        return "250 OK"


@contextmanager
def mail_server(refusal: str | None = None, password: str | None = None) -> Iterator[tuple[MailServer, int]]:
    """An SMTP server and its port. With a `password` it offers a login, and takes that one only."""
    taking = MailServer(refusal)
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
