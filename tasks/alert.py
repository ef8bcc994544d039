"""Tell people: one message to AUDIT_ALERT_URL, any address that apprise knows, its delivery or failure on record.

Nothing here changes what a pipeline comes to. The address holds secrets: it is named by scheme, and by host where the
service's addresses have one, in no other form, in no log, event or exception.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from audit import record, task
from audit.errors import AuditError, AuditUnavailable, DatasetRejected, SpecError
from audit.events.payloads import AlertFacts, ColumnDrift
from audit.events.references import Reference, Window
from audit.privacy import redact
from audit.settings import settings
from audit.spec.load import load_spec
from audit.spec.model import Spec
from tasks import _frames as frames

if TYPE_CHECKING:
    from apprise import NotifyBase, NotifyType
    from prefect.client.schemas.objects import State

RETRY_DELAYS_SECONDS = (1.0, 4.0)  # in all, what a run waits for a target that is away
TOP = 3  # drifted columns that the message names

log = logging.getLogger("audit")


class Verdict(Protocol):
    """What a drift message needs of a verdict; stages do not import each other."""

    @property
    def event(self) -> str: ...
    @property
    def columns(self) -> tuple[ColumnDrift, ...]: ...
    @property
    def report(self) -> Reference: ...


class Message(NamedTuple):
    """A title of one line, and what it rests on."""

    title: str
    body: str


def drift_message(verdict: Verdict, spec: Spec, window: Window | None) -> Message:
    """What drifted, by how much, and what happens now."""
    drifted = [column for column in verdict.columns if column.drifted]
    return Message(
        f"⚠ Drift in {spec.name}{_of(window)}: {len(drifted)} of {len(verdict.columns)} watched columns",
        _lines(
            _scores(drifted),
            "The pipeline retrains for it; nothing to do unless the new model fails its gates.",
            f"Where only monitoring runs: start the training flow with cause {verdict.event}.",
            f"Report: {verdict.report.address}",
            f"event {verdict.event} · audit events --type drift.detected --json",
        ),
    )


def rejected_message(run: str, run_id: str, spec: Spec | None, error: BaseException | None) -> Message:
    """Which run's data were refused, why, and what to do."""
    return Message(
        f"✗ Data rejected{_in(spec)}: {run}",
        _lines(
            _reason(error),
            "The run has stopped; the model in production is as it was.",
            f"Look at it with: audit run {run_id[-8:]} · audit events --type dataset.rejected --json",
        ),
    )


def failed_message(run: str, run_id: str, spec: Spec | None, error: BaseException | None) -> Message:
    """Which run failed, why, and where to look."""
    return Message(f"✗ Failed{_in(spec)}: {run}", _lines(_reason(error), f"Look at it with: audit run {run_id[-8:]}"))


@task(task_run_name="alert {kind}")
def send_alert(kind: str, title: str, body: str, spec: Spec | None = None, cause: str | None = None) -> bool:
    """Whether the message was delivered; `cause` is the event that it tells of.

    False, and nothing on record, where no address is set or the spec does not want this kind.
    """
    title = redact.text(title)
    delivered = tell(kind, Message(title, body), spec, f"spec/{spec.name}" if spec else "store", cause=cause)
    try:
        frames.leave_markdown(f"{spec.name if spec else 'pipeline'}-alert", f"**{title}**\n\n{body}\n")
    except Exception as error:  # whatever Prefect's API answers, the message has gone its way
        log.warning("The alert left no page beside its run (%s).", type(error).__qualname__)
    return delivered


def tell_failure(run: str, run_id: str, spec_file: Path, state: "State[Any]") -> bool:
    """Tell of a flow run that failed or crashed; for hooks, which run outside of any task."""
    raised = getattr(state.data, "result", state.data)
    error = raised if isinstance(raised, BaseException) else None
    try:
        spec = load_spec(spec_file)
    except SpecError:  # then that is what failed, and its own rule on alerts cannot be read
        spec = None
    rejected = isinstance(error, DatasetRejected)
    message = (rejected_message if rejected else failed_message)(run, run_id, spec, error)
    return tell("rejected" if rejected else "failed", message, spec, f"flow-run/{run_id}")


def tell(kind: str, message: Message, spec: Spec | None, subject: str, *, cause: str | None = None) -> bool:
    """Deliver `message` and put on record whether it was; False without a record where nobody is to be told.

    Raises AuditUnavailable, in mode strict alone; whatever else goes wrong is a warning and False.
    """
    try:
        return _told(kind, message._replace(title=redact.text(message.title)), spec, subject, cause)
    except AuditUnavailable:
        raise
    except Exception as error:  # of the settings, of a plugin of apprise: no reason to fail a pipeline
        log.warning("An alert of kind %s could not be told (%s).", kind, type(error).__qualname__)
        return False


def _told(kind: str, message: Message, spec: Spec | None, subject: str, cause: str | None) -> bool:
    url = settings().alert_url
    if url is None or (spec and kind not in spec.alerts.on):
        return False
    attempts, failure = deliver(url, message)
    facts = AlertFacts(
        spec=spec.name if spec else None,
        alert=f"{spec.name if spec else 'store'} {kind}",
        kind=kind,
        title=message.title,
        body=message.body,
        target=target_shown(url),
        cause=cause,
        attempts=attempts,
        error=failure,
    )
    record("alert.failed" if failure else "alert.sent", facts, subject=subject)
    if failure:
        log.warning("%r did not reach %s: %s. Check AUDIT_ALERT_URL.", message.title, facts.target, failure)
    return not failure


def deliver(url: str, message: Message) -> tuple[int, str | None]:
    """How often it was tried to send `message`, and why it did not arrive; None if it did."""
    target = _target(url)
    if target is None:
        return 0, "apprise does not know this address"
    attempts, failure = 1, _attempt(target, message)
    for delay in RETRY_DELAYS_SECONDS:
        if failure is None:
            break
        time.sleep(delay)
        attempts, failure = attempts + 1, _attempt(target, message)
    return attempts, failure


def target_shown(url: str) -> str:
    """The address without its secrets: `json://example.org`, or `slack://…` where the host would be a token."""
    target = _target(url)
    if target is None:
        return "an unknown address"
    has_host = all("{host}" in template for template in target.templates)
    return f"{_scheme(target)}://{target.host if has_host else '…'}"


def _in(spec: Spec | None) -> str:
    return f" in {spec.name}" if spec else ""


def _of(window: Window | None) -> str:
    if window is None:
        return ""
    month = window == Window.month(window.start.year, window.start.month)
    return f", {window.start:%B %Y}" if month else f", {window}"


def _scores(drifted: Sequence[ColumnDrift]) -> str:
    """`dep_time 0.31 (0.12) · …`: score, and in parentheses the threshold."""
    shown = " · ".join(f"{column.name} {column.score:.2f} ({column.threshold:.2f})" for column in drifted[:TOP])
    return f"{shown} …" if len(drifted) > TOP else shown


def _reason(error: BaseException | None) -> str:
    """Our own errors hold no values and are shown; of any other only the class leaves the house."""
    if isinstance(error, AuditError):
        return redact.text(str(error))
    return f"{type(error).__qualname__}, whose text is in the audit store." if error else "Its process ended."


def _gravity(message: Message) -> "NotifyType":
    """apprise's word for it: colours and pictures hang on it."""
    from apprise import NotifyType

    return NotifyType.WARNING if message.title.startswith("⚠") else NotifyType.FAILURE


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)


def _attempt(target: "NotifyBase", message: Message) -> str | None:
    """Why the message did not arrive this time, or None if it did."""
    with _unheard() as said:
        if target.notify(body=message.body, title=message.title, notify_type=_gravity(message)):
            return None
    status = re.search(r"error=(\d{3})\b", "\n".join(said))
    return f"it answered {status[1]}" if status else "no answer"


def _target(url: str) -> "NotifyBase | None":
    import apprise

    with _unheard():
        target = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    return target if isinstance(target, apprise.NotifyBase) else None


@contextmanager
def _unheard() -> Iterator[list[str]]:
    """What apprise says meanwhile. It may quote the address, so that no log gets it, whatever handlers there are."""
    said: list[str] = []

    def keep(line: logging.LogRecord) -> bool:
        said.append(line.getMessage())
        return False

    logger = logging.getLogger("apprise")
    logger.addFilter(keep)
    try:
        yield said
    finally:
        logger.removeFilter(keep)


def _scheme(target: "NotifyBase") -> str:
    """Its first name, as the plugin's class has it: one plugin puts a number in its place."""
    kinds: tuple[object, ...] = (type(target).protocol, type(target).secure_protocol)
    for named in reversed(kinds) if target.secure else kinds:
        if isinstance(named, str) and named:
            return named
        if isinstance(named, Sequence) and named:
            return str(named[0])
    return type(target).__name__.removeprefix("Notify").lower()
