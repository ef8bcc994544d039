"""Bring one message to its targets: any address that apprise knows, or a Prefect notification block by name.

An address holds secrets: it is named by scheme, and by host where the service's addresses have one, in no other form,
in no log, event or exception. What a target, a plugin or a block says of a failure is read for its status, no more.
"""

import asyncio
import inspect
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Literal, NamedTuple

from audit.settings import settings

if TYPE_CHECKING:
    from apprise import NotifyBase
    from prefect.blocks.abstract import NotificationBlock

Gravity = Literal["info", "success", "warning", "failure"]  # apprise's words: colours and pictures hang on them

RETRY_DELAYS_SECONDS = (1.0, 4.0)  # in all, what a run waits for a target that is away
BUSY_SECONDS = 10.0  # and for one that has too much to do: apprise does not hand on what its Retry-After asks for
PATIENCE_SECONDS = 40.0  # for all of it; below the two minutes after which a message without an outcome has died
TOO_MANY = 429
TALKATIVE = ("apprise", "urllib3.connectionpool", "httpx")  # loggers that quote addresses, the latter whole
DEFAULT = "default"

SOCKET = "Socket Exception:"  # how apprise begins what a mail server said
LOGIN = rf"{SOCKET} (\(53\d, |SMTP AUTH .*not supported|No suitable authentication method)"
ENCRYPTION = rf"{SOCKET} (STARTTLS .*not supported|\[SSL: (WRONG_VERSION_NUMBER|CERTIFICATE_VERIFY_FAILED))"

_level_lock = threading.Lock()
_level: dict[str, int] = {}  # `before`, while apprise says more than it did
_said: dict[int, list[str]] = {}  # by thread, what apprise says while it sends


class Message(NamedTuple):
    """What people read, and how grave it is."""

    title: str
    body: str
    gravity: Gravity


class Failure(NamedTuple):
    """Why a message did not arrive, and whether it may if it is tried again."""

    why: str
    again: bool = False
    wait_seconds: float = 0.0


class Delivery(NamedTuple):
    """What came of a message at one target."""

    to: str  # the target's name in the spec
    target: str  # what may be shown of its address
    attempts: int
    error: str | None


class Target(NamedTuple):
    """Where a message goes. `send` says why it did not arrive; None if it did."""

    to: str
    shown: str
    send: Callable[[Message], Failure | None]


def known(to: Sequence[str]) -> list[str]:
    """The targets that a message has to reach: all of `to`, but for the default where no address is set for it."""
    return [name for name in dict.fromkeys(to) if name != DEFAULT or settings().alert_url]


def import_ahead() -> None:
    """apprise and its plugins, which it looks through for the first address that it is given."""
    _plugin("json://localhost")


def deliver(message: Message, to: Sequence[str]) -> list[Delivery]:
    """Try every target, all at once, so that a mail server that is away does not hold up the pager.

    A target that has not answered in time is given up, its thread left to itself: the timeouts of what sends are for
    each byte, and one that drips would hold a run for ever.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    tried = [(name, _begun(message, name, until)) for name in to]
    return [_awaited(name, outcome, until) for name, outcome in tried]


def _begun(message: Message, to: str, until: float) -> "Future[Delivery]":
    outcome: Future[Delivery] = Future()
    run = copy_context().run

    def tell() -> None:
        outcome.set_result(run(_deliver, message, to, until))

    threading.Thread(target=tell, name=f"alert {to}", daemon=True).start()  # a pool's threads hold up the exit
    return outcome


def _awaited(to: str, outcome: "Future[Delivery]", until: float) -> Delivery:
    try:
        return outcome.result(max(until - time.monotonic(), 0))
    except TimeoutError:
        return Delivery(to, to, 1, "no answer")


def _deliver(message: Message, to: str, until: float) -> Delivery:
    shown, attempts = to, 0
    try:
        target = _target(to)
        shown, failure = target.shown, target.send(message)
        attempts = 1
        for delay in RETRY_DELAYS_SECONDS:
            wait = max(delay, failure.wait_seconds) if failure else 0
            if failure is None or not failure.again or time.monotonic() + wait > until:
                break
            time.sleep(wait)
            attempts, failure = attempts + 1, target.send(message)
    except _NoTarget as none:
        failure = Failure(str(none))
    except Exception as error:  # of a plugin or a block, which may be anybody's: its text may hold the address
        failure = Failure(f"it raised {type(error).__qualname__}")
    return Delivery(to, shown, attempts, failure.why if failure else None)


class _NoTarget(Exception):
    """A name that stands for nothing that a message could be sent to."""


def _target(to: str) -> Target:
    """The target that a spec calls `to`. Raises _NoTarget."""
    if "/" in to:
        block = _block(to)
        return Target(to, f"block {to}", lambda message: _through_block(block, message))
    variable = "AUDIT_ALERT_URL" if to == DEFAULT else f"AUDIT_ALERT_URL_{to.upper().replace('-', '_')}"
    url = settings().alert_url if to == DEFAULT else dict(settings().alert_urls).get(to.lower().replace("-", "_"))
    if url is None:
        raise _NoTarget(f"{variable} is not set")
    plugin = _plugin(url)
    if plugin is None:
        raise _NoTarget(f"apprise does not know the address in {variable}")
    return Target(to, _shown(plugin), lambda message: _through_apprise(plugin, message))


def _plugin(url: str) -> "NotifyBase | None":
    import apprise

    with _unheard():
        plugin = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    return plugin if isinstance(plugin, apprise.NotifyBase) else None


def _through_apprise(plugin: "NotifyBase", message: Message) -> Failure | None:
    from apprise import Apprise, NotifyFormat, NotifyType

    to = Apprise(servers=[plugin])  # which also turns plain text into what the plugin writes: mail is HTML
    kind, form = NotifyType(message.gravity), NotifyFormat.TEXT
    with _unheard() as said:
        if to.notify(body=message.body, title=message.title, notify_type=kind, body_format=form):
            return None
    return _failure("\n".join(said))


def _block(slug: str) -> "NotificationBlock":
    """The block that Prefect's server keeps under `type/name`. Raises _NoTarget."""
    import httpx
    import prefect.blocks.notifications  # noqa: F401  # a block's type is known once its module is
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block

    try:
        with _unheard():
            block = Block.load(slug, _sync=True)  # type: ignore[call-arg]  # async_dispatch takes it away
    except ValueError as missing:  # also pydantic's: neither text is shown, they may quote what the block holds
        raise _NoTarget(_why_not_loaded(missing)) from None
    except KeyError:  # of a webhook whose template asks for what neither it nor its secrets have
        raise _NoTarget("its template cannot be used") from None
    except httpx.HTTPError:
        raise _NoTarget("Prefect's server did not hand it out") from None
    if not isinstance(block, NotificationBlock):
        raise _NoTarget("it is no notification block")
    return block


def _why_not_loaded(error: ValueError) -> str:
    return "there is no such block" if "Unable to find" in str(error) else "the block cannot be used"


def _through_block(block: "NotificationBlock", message: Message) -> Failure | None:
    import httpx
    from prefect.blocks.abstract import NotificationError
    from prefect.blocks.notifications import AbstractAppriseNotificationBlock

    if isinstance(block, AbstractAppriseNotificationBlock):
        block.notify_type = message.gravity  # else every message of ours would go by the block's one colour
    try:
        with _unheard() as said, block.raise_on_failure():
            sending = block.notify(message.body, message.title)
            if inspect.iscoroutine(sending):  # inside an async flow: this is a thread of its own, without a loop
                asyncio.run(sending)
    except NotificationError as refused:
        return _failure("\n".join([*said, refused.log]))
    except httpx.HTTPStatusError as refused:
        return _answered(refused.response.status_code)
    except httpx.TransportError:
        return Failure("no answer", again=True)
    return None


def _failure(said: str) -> Failure:
    """What apprise said of a failure, in our words: a status, silence, or a message that it could not make."""
    if status := re.search(r"error=(\d{3})\b", said):
        return _answered(int(status[1]))
    if (mail := _mail_failure(said)) is not None:
        return mail
    if re.search(r"(?i)connection error|timed? ?out", said):
        return Failure("no answer", again=True)
    if re.search(r"(?i)template", said):
        return Failure("its template cannot be used")
    return Failure("apprise could not send it", again=True)


def _mail_failure(said: str) -> Failure | None:
    """The same of a mail server. What it said, for good where it begins with a 5 (RFC 5321, 4.2.1), apprise calls a
    connection error, unless it was said of the mail itself."""
    if re.search(r"(?i)sending email", said):
        return Failure("the mail server refused it", again=set(re.findall(r"\((\d)\d\d, ", said)) != {"5"})
    if re.search(LOGIN, said):
        return Failure("the mail server refused the login")
    if re.search(ENCRYPTION, said):
        return Failure("no encrypted connection to the mail server could be made")
    if status := re.search(rf"{SOCKET} \((\d)\d\d, ", said):
        return Failure("the mail server refused it", again=status[1] != "5")
    return None


def _answered(status: int) -> Failure:
    wait = BUSY_SECONDS if status == TOO_MANY else 0.0
    return Failure(f"it answered {status}", again=status >= 500 or status in (408, TOO_MANY), wait_seconds=wait)


@contextmanager
def _unheard() -> Iterator[list[str]]:
    """What apprise says meanwhile in this thread. It and what it sends through may quote the address: no log gets it,
    whatever its level and handlers."""
    for name in TALKATIVE:
        logging.getLogger(name).addFilter(_kept)
    here = threading.get_ident()
    with _level_lock:
        said = _said[here] = []
        _hear_all()
    try:
        yield said
    finally:
        with _level_lock:
            del _said[here]
            _hear_all()


def _hear_all() -> None:
    """Why a login failed apprise says for debugging only; so it says all as long as somebody here listens."""
    log = logging.getLogger("apprise")
    if _said and "before" not in _level:
        _level["before"] = log.level
        log.setLevel(logging.DEBUG)
    elif not _said:
        log.setLevel(_level.pop("before"))


def _kept(line: logging.LogRecord) -> bool:
    """One filter for all threads: the first of several that says no keeps the line from the others."""
    if line.name == "apprise" and line.thread in _said:
        told = line.getMessage()
        if line.levelno >= logging.WARNING or told.startswith(SOCKET):  # what else is for debugging quotes the message
            _said[line.thread].append(told)
    return line.thread not in _said and not (_said and line.name == "apprise")


def _shown(plugin: "NotifyBase") -> str:
    has_host = all("{host}" in template for template in plugin.templates)
    return f"{_scheme(plugin)}://{plugin.host if has_host else '…'}"


def _scheme(plugin: "NotifyBase") -> str:
    """Its first name, as the plugin's class has it: one plugin puts a number in its place."""
    kinds: tuple[object, ...] = (type(plugin).protocol, type(plugin).secure_protocol)
    for named in reversed(kinds) if plugin.secure else kinds:
        if isinstance(named, str) and named:
            return named
        if isinstance(named, Sequence) and named:
            return str(named[0])
    return type(plugin).__name__.removeprefix("Notify").lower()
