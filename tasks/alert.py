"""Tell people what was found: once, where they already are, with what to do next; and that it is over.

What is told is decided in the store, in one transaction, so that of many runs that find the same one sends and a bad
night is one message. Then it is delivered, and each target's delivery or failure is put on record. Nothing here changes
what a pipeline comes to, and the targets' secrets are in no log, event or exception.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from audit import record, task
from audit.artifacts import reports
from audit.errors import AuditError, AuditUnavailable, DatasetRejected, SpecError, StoreBusy, StoreUnavailable
from audit.events.canonical import timestamp
from audit.events.payloads import AlertFacts, ColumnDrift
from audit.events.references import DatasetVersion, ModelVersion, Report, Window
from audit.events.vocabulary import Severity
from audit.privacy import redact
from audit.settings import settings
from audit.spec.load import load_spec
from audit.spec.model import AlertKind, Alerts, Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _delivery as delivery
from tasks import _frames as frames
from tasks import _outbox as outbox

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State
    from sqlalchemy import Connection

    from audit.recording.recorder import Fact

ROOM = 1_000  # characters of a message: PagerDuty refuses more than 1,024; the whole of it is on record
TOP = 3  # drifted columns that a message names, findings that a summary does
REMEMBERED = timedelta(days=40)  # a problem of a monthly run is still known as one when the next run is well
SUMMED_UP = timedelta(days=7)  # what was held back longer ago is for `audit alerts`
SIGNS: dict[str, str] = {"debug": "·", "info": "·", "warning": "⚠", "error": "✗", "critical": "✗"}
GRAVITY: dict[str, delivery.Gravity] = {"warning": "warning", "error": "failure", "critical": "failure"}
OVER: dict[str, str] = {
    "drift": "The drift rule does not fire any more.",
    "prediction_drift": "The model's scores do not drift any more.",
    "decay": "The model does as well as when it was promoted.",
    "rejected": "The data hold their critical rules.",
    "gate": "A new model was not turned away by its gates.",
    "scoring": "Nearly every row could be scored.",
    "anomaly": "The figures are within this use case's own history.",
    "maintenance": "Store, disk and runs are in order.",
    "failed": "The flow completed.",
}

# What is done about drift: within a table, the pipeline would learn from the same rows again.
RETRAINS = (
    "The pipeline or the automation retrains for it; nothing to do unless the new model fails its gates.",
    "Where neither runs, start the training flow with this event as its cause.",
)
RETRAINS_ON_THE_TABLE = (
    "The automation trains on the table as it is by now; the pipeline does not, for it has just learnt from it.",
    "Look whether the rows that the model has not learnt from are of another kind, or of another time.",
)

log = logging.getLogger("audit")


class Finding(BaseModel):
    """Something that people are to hear of. Sign, severity, link and event are added to it when it is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: AlertKind | Literal["summary", "recovered"]
    title: str  # one line: what, in which use case and window
    body: str  # what it rests on, and what to do next
    severity: Severity
    window: str | None = None
    cause: str | None = None  # the event that it tells of
    about: str | None = None  # flow or model version, where each is to have a quiet time of its own
    of: AlertKind | None = None  # the kind that a summary or a recovery is of
    report: str | None = None  # address of the page that shows it

    @property
    def topic(self) -> tuple[str, str | None]:
        """What shares a quiet time. Every request for approval is one of its own: each waits for an answer."""
        return self.of or self.kind, self.about or (self.cause if self.kind == "approval" else None)

    def alert(self, spec: Spec | None) -> str:
        """Id of spec, kind and window: the same finding, the same id, whichever run it is that makes it."""
        parts = (spec.name if spec else "store", self.kind, self.of, self.topic[1], self.window)
        return " ".join(part for part in parts if part)


class Verdict(Protocol):
    """What a drift message needs of a verdict; stages do not import each other."""

    @property
    def detected(self) -> bool: ...
    @property
    def event(self) -> str: ...
    @property
    def columns(self) -> tuple[ColumnDrift, ...]: ...
    @property
    def report(self) -> Report | None: ...


def drift_finding(verdict: Verdict, spec: Spec, window: Window | None) -> Finding | None:
    """`drift` where the spec's rule fired; `prediction_drift` where it did not, but the model's scores drifted."""
    drifted = [column for column in verdict.columns if column.drifted]
    scores = [column for column in drifted if column.of == "prediction"]
    if verdict.detected:
        return Finding(
            kind="drift",
            title=f"Drift in {spec.name}{_of(window)}: {len(drifted)} of {len(verdict.columns)} watched columns",
            body=_lines(_scores(drifted), *(RETRAINS if window else RETRAINS_ON_THE_TABLE)),
            severity="warning",
            window=str(window) if window else None,
            cause=verdict.event,
            report=_address(verdict.report),
        )
    if not scores:
        return None
    return Finding(
        kind="prediction_drift",
        title=f"Scores drift in {spec.name}{_of(window)}; the drift rule did not fire",
        body=_lines(
            _scores(scores + [column for column in drifted if column.of != "prediction"]),
            "Nothing retrains for it. Look at the report; if the scores are wrong, start the training flow with this "
            "event as its cause.",
        ),
        severity="warning",
        window=str(window) if window else None,
        cause=verdict.event,
        report=_address(verdict.report),
    )


def gate_finding(
    registered: ModelVersion, champion: ModelVersion, judged: frames.Evaluation, spec: Spec, window: Window | None
) -> Finding | None:
    """The new model was turned away by its gates; None where it was let in, or something else spoke against it."""
    if champion == registered or judged.held:
        return None
    return Finding(
        kind="gate",
        title=f"v{registered.version} of {spec.name} was not promoted: {_count(len(judged.failed()), 'gate')} failed",
        body=_lines(
            *judged.failed(),
            f"v{champion.version} goes on deciding. Look at both with: audit models --spec {spec.name}",
            "Then mend the data or the estimator and train again, or change the gates in the spec.",
        ),
        severity="warning",
        window=str(window) if window else None,
        cause=judged.event,
    )


def scoring_finding(
    rows: int, failed: int, reasons: Sequence[str], event: str, spec: Spec, window: Window | None
) -> Finding | None:
    """More rows could not be scored than the spec's alerts.failed_share allows."""
    if failed <= spec.alerts.failed_share * rows:
        return None
    return Finding(
        kind="scoring",
        title=f"{failed:,} of {rows:,} rows of {spec.name}{_of(window)} could not be scored ({failed / rows:.1%})",
        body=_lines(
            "Why: " + " · ".join(reasons[:TOP]) if reasons else "",
            f"The others are decided on. Allowed are {spec.alerts.failed_share:.1%}.",
            f"See the first of them with: audit events --id {event[-8:]}. Mend the source and score the window again.",
        ),
        severity="error",
        window=str(window) if window else None,
        cause=event,
    )


def failed_finding(flow: str, run: str, run_id: str, spec: Spec | None, error: BaseException | None) -> Finding:
    """A flow run failed, or its data were refused: which, why, and where to look."""
    rejected = isinstance(error, DatasetRejected)
    what = "Data rejected" if rejected else "Failed"
    look = " · audit events --type dataset.rejected --json" if rejected else ""
    return Finding(
        kind="rejected" if rejected else "failed",
        title=f"{what}{f' in {spec.name}' if spec else ''}: {run}",
        body=_lines(
            _reason(error),
            "The run has stopped; the model in production is as it was." if rejected else "",
            f"Look at it with: audit run {run_id[-8:]}{look}, and run it again when it is mended.",
        ),
        severity="error",
        about=flow,
    )


def _run_name() -> str:
    """`alert drift flights 2013-07`."""
    from prefect.runtime import task_run

    finding, spec = task_run.parameters["finding"], task_run.parameters["spec"]
    return " ".join(part for part in ("alert", finding.kind, spec and spec.name, finding.window) if part)


@task(task_run_name=_run_name)
def send_alert(finding: Finding, spec: Spec | None = None) -> bool:
    """Whether the message reached a target; False also where it was held back or nobody is to be told.

    Nothing is on record where no address is set, or the spec does not want this kind.
    """
    sent = tell_of(finding, spec, f"spec/{spec.name}" if spec else "store")
    with _harmless(finding, "left no page beside its run"):
        page = redact.text(f"**{finding.title}**\n\n{finding.body}\n") + frames.links({"The report": finding.report})
        frames.leave_markdown(f"{spec.name if spec else 'pipeline'}-alert", page)
    return sent


def tell(finding: Finding | None, kind: AlertKind, spec: Spec, window: Window | str | None = None) -> None:
    """For flows: send what was found of a kind; where nothing was, say that it is over, if people wait for that."""
    if finding:
        send_alert(finding, spec)
    else:
        recover(kind, spec, window)


def recover(kind: AlertKind, spec: Spec, window: Window | str | None = None) -> None:
    """Tell that a kind of finding is over, if people were told of one and not that it is; else do nothing at all."""
    if finding := _recovery(kind, spec, str(window) if window else None, None):
        send_alert(finding, spec)


def get_ready(spec: Spec) -> None:
    """Import meanwhile what sending takes: half a second, and some on a busy machine, that people would wait for."""
    with _harmless("any", "could not be got ready for"):
        if delivery.known(spec.alerts.to):
            Thread(target=delivery.import_ahead, daemon=True).start()


def tell_of_drift(verdict: Verdict, spec: Spec, window: Window | None) -> None:
    """For the monitoring flow: tell of drift, or that it is over; of the scores nothing while the rule fires.

    Where nothing could be compared, nothing is over.
    """
    if not verdict.columns:
        return
    if finding := drift_finding(verdict, spec, window):
        send_alert(finding, spec)
    if not verdict.detected:
        recover("drift", spec, window)
    if not finding:
        recover("prediction_drift", spec, window)


def tell_of_scoring(decisions: DatasetVersion, spec: Spec, window: Window | None) -> None:
    """For the scoring flow: tell if too many of the rows could not be scored, as the record has it."""
    finding = None
    with _harmless("scoring", "could not be looked for"):
        finding = _scoring(decisions, spec, window)
    tell(finding, "scoring", spec, window)


def send_summary(spec: Spec | None) -> None:
    """For the maintenance flow: one message for each kind of which there is something that nobody was told.

    That is what was held back, once its quiet time is over, and what was raised and did not arrive.
    """
    findings: list[Finding] = []
    with _harmless("summary", "could not be made"):
        findings = list(_summaries(spec, datetime.now(UTC)))
    for finding in findings:
        send_alert(finding, spec)


def tell_failure(flow: str, run: str, run_id: str, spec_file: Path, state: "State[Any]") -> bool:
    """Tell of a flow run that failed or crashed; for hooks, which run outside of any task."""
    raised = getattr(state.data, "result", state.data)
    try:
        spec = load_spec(spec_file)
    except SpecError:  # then that is what failed, and its own rule on alerts cannot be read
        spec = None
    finding = failed_finding(flow, run, run_id, spec, raised if isinstance(raised, BaseException) else None)
    return tell_of(finding, spec, f"flow-run/{run_id}", run_id)


def tell_completion(flow: str, run_id: str, spec_file: Path) -> None:
    """Tell that a flow whose failure people heard of has completed; for hooks."""
    try:
        spec = load_spec(spec_file)
    except SpecError:  # mended or broken since the run began: there is nobody to tell by
        return
    kinds: tuple[AlertKind, ...] = ("failed", "rejected")
    for kind in kinds:
        if finding := _recovery(kind, spec, None, flow):
            tell_of(finding, spec, f"flow-run/{run_id}", run_id)


def tell_of(finding: Finding, spec: Spec | None, subject: str, run_id: str | None = None) -> bool:
    """Decide whether `finding` becomes a message and deliver it; True if it reached a target.

    Raises AuditUnavailable, in mode strict alone; whatever else goes wrong is a warning and False.
    """
    with _harmless(finding, "could not be told"):
        return _told(finding, spec, subject, run_id)
    return False


def _told(finding: Finding, spec: Spec | None, subject: str, run_id: str | None) -> bool:
    alerts = spec.alerts if spec else Alerts()
    to = delivery.known(alerts.to)
    if not to or finding.topic[0] not in alerts.on:
        return False
    raised = _raised(finding, spec, subject, run_id, timedelta(minutes=alerts.quiet_minutes))
    if raised is None:
        return False
    arrived = [_delivered(raised, each, subject) for each in _deliver(raised, finding, to)]
    return any(arrived)


def _raised(
    finding: Finding, spec: Spec | None, subject: str, run_id: str | None, quiet: timedelta
) -> AlertFacts | None:
    """The message that `finding` becomes; None if it is held back, or is word of something that is settled by now.

    Decided and put on record under the store's lock: of two that find the same at once, the second knows of the first.
    """
    facts = _facts(finding, spec, run_id)

    def decided(connection: "Connection") -> "Sequence[Fact]":
        now = datetime.now(UTC)  # here, for the lock may have been waited for
        known = outbox.told(_events_now(connection, spec, finding.topic, now))
        if finding.kind == "recovered" and not known.may_recover(finding.window, quiet, now):
            return []
        if finding.kind == "summary" and not known.untold:
            return []
        silence = known.quiet_until(facts.alert, facts.severity, quiet, now) if finding.kind != "recovered" else None
        if silence is None:
            return [("alert.raised", facts.model_copy(update={"held": len(known.untold)}), subject)]
        if finding.kind == "summary":
            return []
        until, reason = silence
        return [("alert.held", facts.model_copy(update={"reason": reason, "until": timestamp(until)}), subject)]

    try:
        told = [made for type, made, _ in _decided(decided, facts) if type == "alert.raised"]
    except StoreUnavailable as away:  # better told twice than not at all
        log.warning("Whether %r was told before cannot be known; it is sent. %s", facts.title, away)
        told = [facts]
    return next((made for made in told if isinstance(made, AlertFacts)), None)


def _decided(decide: "Callable[[Connection], Sequence[Fact]]", facts: AlertFacts) -> "Sequence[Fact]":
    """What `decide` makes of the record, which it is put on; a store that stays busy can still be read, and is."""
    from audit.recording.recorder import record_decided

    try:
        return record_decided(decide)
    except StoreBusy as busy:
        log.warning("Whether %r is told is decided, and not on record. %s", facts.title, busy)
        with open_store().reading() as connection:
            return decide(connection)


def _facts(finding: Finding, spec: Spec | None, run_id: str | None) -> AlertFacts:
    kind, about = finding.topic
    return AlertFacts(
        spec=spec.name if spec else None,
        alert=redact.text(finding.alert(spec)),
        kind=finding.kind,
        of=kind if kind != finding.kind else None,
        about=about,
        severity=finding.severity,
        title=redact.text(f"{_sign(finding)} {finding.title}"),
        body=redact.text(finding.body),
        link=_link(run_id),
        report=finding.report,
        window=finding.window,
        cause=finding.cause,
    )


def _deliver(raised: AlertFacts, finding: Finding, to: Sequence[str]) -> list[delivery.Delivery]:
    gravity = "success" if finding.kind == "recovered" else GRAVITY.get(raised.severity, "info")
    return delivery.deliver(delivery.Message(raised.title, _for_people(raised), gravity), to)


def _delivered(raised: AlertFacts, came: delivery.Delivery, subject: str) -> bool:
    """Put on record what came of a message at one target; True if it arrived."""
    facts = raised.model_copy(
        update={"to": came.to, "target": came.target, "attempts": came.attempts, "error": came.error}
    )
    record("alert.failed" if came.error else "alert.sent", facts, subject=subject)
    if came.error:
        log.warning("%r did not reach %s (%s): %s.", raised.title, came.to, came.target, came.error)
    return came.error is None


def _for_people(raised: AlertFacts) -> str:
    """The body with what every message ends with: the run, severity, event, and what else it stands for."""
    untold = raised.held if raised.kind != "summary" else 0  # a summary says it in its title
    also = f"stands for {_count(untold, 'finding')} of before as well: audit alerts" if untold else ""
    event = f"event {raised.cause}" if raised.cause else ""
    end = _lines(
        f"Report: {raised.report}" if raised.report else "",
        f"Run: {raised.link}" if raised.link else "",
        " · ".join(part for part in (raised.severity, event, also) if part),
    )
    room = ROOM - len(raised.title) - len(end)
    return _lines(raised.body if len(raised.body) <= room else f"{raised.body[:room]}…", end)


def _recovery(kind: AlertKind, spec: Spec, window: str | None, about: str | None) -> Finding | None:
    """Word that it is over, or None where nobody waits for that."""
    now = datetime.now(UTC)
    with _harmless("recovered", "could not be looked for"):
        with open_store().reading() as connection:
            known = outbox.told(_events_now(connection, spec, (kind, about), now))
        if known.may_recover(window, timedelta(minutes=spec.alerts.quiet_minutes), now):
            return Finding(
                kind="recovered",
                of=kind,
                about=about,
                title=f"Recovered in {spec.name}: {' '.join(filter(None, (_in_words(kind), about, window)))}",
                body=_lines(OVER[kind], f"It had been told of as: {known.title}" if known.title else ""),
                severity="info",
                window=window,
            )
    return None


def _summaries(spec: Spec | None, now: datetime) -> Iterator[Finding]:
    """One for each topic with findings that nobody was told of and that may be told now.

    Of a request for approval that was decided on meanwhile there is nothing left to tell.
    """
    waiting = {request.id for request in read.awaiting_approval(open_store())}
    quiet = timedelta(minutes=(spec.alerts if spec else Alerts()).quiet_minutes)
    for topic in read.alert_topics(open_store(), spec.name if spec else None, timestamp(now - SUMMED_UP)):
        if topic[0] == "approval" and topic[1] not in waiting:
            continue
        with open_store().reading() as connection:
            known = outbox.told(_events_now(connection, spec, topic, now))
        finding = _summary(known, topic, spec) if known.untold else None
        if finding and not known.quiet_until(finding.alert(spec), finding.severity, quiet, now):
            yield finding


def _summary(known: outbox.Told, topic: tuple[str, str | None], spec: Spec | None) -> Finding:
    last = known.untold[-1].payload
    what = " ".join(filter(None, (_in_words(topic[0]), topic[1], f"in {spec.name}" if spec else "")))
    count = len(known.untold)
    return Finding.model_validate(
        {
            "kind": "summary",
            "of": topic[0],
            "about": topic[1],
            "title": f"{_count(count, 'finding')} since {_clock(known.untold[0].time)} not told before: {what}",
            "body": _lines(
                *(f"{_clock(each.time)} {each.payload['title']}" for each in known.untold[-TOP:-1]),
                f"{_clock(known.untold[-1].time)} {last['title']}",
                last["body"],
                f"All of them: audit alerts{f' --spec {spec.name}' if spec else ''}",
            ),
            "severity": max((each.payload["severity"] for each in known.untold), key=outbox.GRAVITY.index),
        }
    )


def _events_now(
    connection: "Connection", spec: Spec | None, topic: tuple[str, str | None], now: datetime
) -> list[read.Recorded]:
    since, held_since = timestamp(now - REMEMBERED), timestamp(now - SUMMED_UP)
    return read.alerts_now(connection, spec.name if spec else None, *topic, since=since, held_since=held_since)


def _scoring(decisions: DatasetVersion, spec: Spec, window: Window | None) -> Finding | None:
    for failed in read.events(open_store(), types=("predictions.failed",), spec=spec.name):
        facts = failed.payload
        if facts["segment"]["address"] == decisions.address:
            reasons = list(dict.fromkeys(row["error"] for row in facts["failures"]))
            return scoring_finding(facts["rows"], facts["failed"], reasons, failed.id, spec, window)
    return None


def _link(run_id: str | None) -> str | None:
    """The flow run's page in Prefect's UI; None without a run, or where its server has no address for a browser."""
    from prefect.runtime import flow_run
    from prefect.utilities.urls import url_for

    run_id = run_id or flow_run.id
    address = url_for("flow-run", obj_id=run_id) if run_id else None
    return redact.text(address.removesuffix(run_id)) + run_id if address and run_id else None


@contextmanager
def _harmless(what: Finding | str, failed: str) -> Iterator[None]:
    """No pipeline fails for a message: of the settings, the store or Prefect's API, what goes wrong is a warning.

    Mode strict alone is told, by AuditUnavailable, that something is not on record.
    """
    try:
        yield
    except AuditUnavailable:
        raise
    except Exception as error:
        kind = what if isinstance(what, str) else what.kind
        log.warning("An alert of kind %s %s (%s).", kind, failed, type(error).__qualname__)


def _sign(finding: Finding) -> str:
    return "✓" if finding.kind == "recovered" else SIGNS[finding.severity]


def _in_words(kind: str) -> str:
    return kind.replace("_", " ")


def _of(window: Window | None) -> str:
    if window is None:
        return ""
    month = window == Window.month(window.start.year, window.start.month)
    return f", {window.start:%B %Y}" if month else f", {window}"


def _scores(drifted: Sequence[ColumnDrift]) -> str:
    """`dep_time 0.31 (0.12) · …`: score, and in parentheses the threshold."""
    shown = " · ".join(f"{column.name} {column.score:.2f} ({column.threshold:.2f})" for column in drifted[:TOP])
    return f"{shown} …" if len(drifted) > TOP else shown


def _address(report: Report | None) -> str | None:
    """Where a reader elsewhere can open it; a path on this machine would tell them nothing."""
    if report is None:
        return None
    return (reports.link(report) if settings().reports_url else None) or report.address


def _reason(error: BaseException | None) -> str:
    """Our own errors hold no values and are shown; of any other only the class leaves the house."""
    if isinstance(error, AuditError):
        return redact.text(str(error))
    return f"{type(error).__qualname__}, whose text is in the audit store." if error else "Its process ended."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _clock(recorded: str) -> str:
    """`01:14 UTC` of a time as the store has it."""
    return f"{recorded[11:16]} UTC"


def _lines(*lines: str) -> str:
    return "\n".join(line for line in lines if line)
