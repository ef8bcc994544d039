"""Put a candidate before a person, and do as the person says. The page shows what the decision can rest on."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from audit import task
from audit.artifacts import reports
from audit.errors import NotAwaiting
from audit.events.canonical import timestamp
from audit.events.payloads import ApprovalFacts, Metric, used
from audit.events.references import ModelVersion, Report
from audit.privacy import redact
from audit.recording import registry
from audit.recording.registry import Answer
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_store
from tasks import _frames as frames
from tasks._frames import Evaluation, with_interval

TOP = 5  # drifted columns that the page names


class Request(BaseModel):
    """What a person is asked, and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str
    version: int
    event: str  # the model.approval_requested
    answer_by: datetime
    page: str

    @property
    def model(self) -> str:
        """How `audit approve` calls it."""
        return f"{self.spec}/v{self.version}"


@task(task_run_name="ask about {spec.name} v{model.version}")
def request_approval(model: ModelVersion, evaluation: Evaluation, spec: Spec, cause: str | None = None) -> Request:
    """The question on record, and the page for whoever decides, beside the run."""
    candidate = frames.candidate(model, evaluation, cause)
    limit = datetime.now(UTC) + timedelta(hours=spec.approval_time.hours)
    facts = ApprovalFacts(
        spec=spec.name,
        model=used("model", model),
        version=model.version,
        champion=candidate.against,
        reason=candidate.speaks_for,
        cause=cause,
        answer_by=timestamp(limit),
        unanswered=spec.approval_time.unanswered,
    )
    asked = registry.request(facts)
    page = for_people(facts, evaluation)
    frames.leave_markdown(f"{spec.name}-approval", page)
    return Request(spec=spec.name, version=facts.version, event=asked.id, answer_by=limit, page=page)


@task(task_run_name="decide on {request.spec} v{request.version}")
def decide(request: Request, answer: Answer | None) -> ModelVersion | None:
    """The champion after the answer; where there was none in time, after what the request says of that case.

    An answer that came in another way meanwhile stands: then this one changes nothing.
    """
    try:
        if answer:
            outcome = registry.decide(request.spec, request.version, answer)
        else:
            outcome = registry.reject_unanswered(request.spec, request.version, datetime.now(UTC))
    except NotAwaiting as decided:
        frames.leave_markdown(f"{request.spec}-promotion", redact.unmarked(str(decided)))
        return read.champion(open_store(), request.spec)
    if outcome.step:
        frames.leave_markdown(f"{request.spec}-promotion", outcome.told())
    return outcome.champion


def for_people(facts: ApprovalFacts, evaluation: Evaluation) -> str:
    """What the decision can rest on, as a page of markdown. The form shows its first lines, and scrolls."""
    cause = next(iter(read.event(open_store(), facts.cause)), None) if facts.cause else None
    replaces = f"replace v{facts.champion}" if facts.champion else "become champion"
    after = "it is rejected" if facts.unanswered == "rejected" else "it goes on waiting, for `audit approve`"
    parts = (
        f"**{facts.spec} v{facts.version}** is to {replaces}: {facts.reason}. {_why(cause)}",
        frames.as_markdown(list(_figures(facts, evaluation))),
        frames.as_markdown([{"gate": g.name, "wanted": g.limit, "found": frames.found(g)} for g in evaluation.gates]),
        frames.as_markdown(frames.by_slice(evaluation.slices)),
        _drift(cause),
        frames.links({"The evaluation": reports.link(evaluation.report)}),
        f"Decide by {(facts.answer_by or '')[:16].replace('T', ' ')} UTC; after that {after}.",
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(facts: ApprovalFacts, evaluation: Evaluation) -> Iterator[dict[str, object]]:
    """Each metric of the candidate; beside it the champion's on the same rows, and the difference."""
    gains = {metric.name: metric for metric in evaluation.difference}
    for metric in evaluation.metrics:
        gain = gains.get(metric.name)
        row: dict[str, object] = {"metric": metric.name.replace("_", " ")}
        if gain:  # the form is narrow
            champion = metric.model_copy(update={"value": metric.value - gain.value})
            row |= {f"v{version}": _bare(of) for version, of in ((facts.version, metric), (facts.champion, champion))}
            row |= {"difference": with_interval(gain, signed=True)}
        else:
            row |= {f"v{facts.version}": with_interval(metric)}
        yield row


def _why(cause: read.Recorded | None) -> str:
    """What made us train the candidate."""
    if cause is None:
        return ""
    known = cause.payload
    found = f": {known['drifted']} of {known['watched']} watched columns" if known.get("watched") else ""
    where = f" in {known['window']}" if known.get("window") else ""
    return f"It was trained because of {cause.type}{where}{found} (event {cause.id})."


def _drift(cause: read.Recorded | None) -> str:
    """The columns that drifted most, where drift was the reason."""
    if cause is None or cause.type != "drift.detected" or not cause.payload:
        return ""
    drifted = [column for column in cause.payload["columns"] if column["drifted"]]
    drifted.sort(key=lambda column: -column["score"] / (column["threshold"] or 1))
    rows = [{"drifted": c["name"], "distance": f"{c['score']:.3f}", "limit": f"{c['threshold']:.3f}"} for c in drifted]
    told = cause.payload.get("report")
    report = Report(name=told["of"], address=told["address"], digest=told["digest"]) if told else None
    link = frames.links({"The drift report": reports.link(report) if report else None})
    return "\n\n".join(part for part in (frames.as_markdown(rows[:TOP]), link) if part)


def _bare(metric: Metric) -> str:
    return with_interval(metric.model_copy(update={"low": None, "high": None}))
