"""Who makes a spec's decisions: chosen and put on record in one transaction, so that of two at once one wins.

The audit store is the registry. Whoever judged a candidate says what speaks for and against it; here it counts against
it that the champion is another one by now. Where a person is asked, nothing moves before the answer, and one counts.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from audit.errors import NotAwaiting, NotFound, UserError
from audit.events.canonical import clean, timestamp
from audit.events.payloads import ApprovalFacts, Approver, StageFacts, Used, used
from audit.events.references import Environment, ModelVersion
from audit.privacy import redact
from audit.recording.recorder import Fact, record_decided
from audit.store import read
from audit.store.engine import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from audit.store.read import Recorded

MAX_NAME = 100  # characters
MAX_NOTE = 2_000
DECIDED = ("model.approved", "model.rejected", "model.deployed")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A registered model, and what its evaluation says for and against it."""

    model: ModelVersion
    against: int | None  # version of the champion that it was held against
    speaks_for: str
    objections: tuple[str, ...] = ()
    cause: str | None = None  # the event that made us train it


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person says of a candidate."""

    approves: bool
    approver: Approver
    note: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who is champion now, and the step that a candidate has just taken; none where it had taken it before."""

    champion: ModelVersion | None
    step: StageFacts | None = None

    @property
    def promoted(self) -> bool:
        return self.step is not None and self.step.environment == "production"

    def told(self) -> str:
        """`**loans v2 is in production**: 3 of 3 gates held; the first champion. Approved by Jane Doe (asserted).`"""
        if self.step is None:
            return self.in_a_line()
        by = "Approved" if self.promoted else "Decided"
        who = f" {by} by {self.step.approver}." if self.step.approver else ""
        return f"**{self.in_a_line()}**: {redact.unmarked(f'{self.step.reason}.{who}')}"

    def in_a_line(self) -> str:
        """`loans v2 is in production`."""
        if self.step is None:
            return "Nothing has changed."
        return f"{self.step.spec} v{self.step.version} {'is in production' if self.promoted else 'was rejected'}"


def answer(decision: Literal["approve", "reject"], approver: Approver, note: str) -> Answer:
    """An answer fit for the record: the name in one line, the note without what looks like a secret.

    Raises UserError where name or note says nothing.
    """
    name = " ".join(str(clean(approver.name)).split())[:MAX_NAME]
    reason = redact.text(str(clean(note)).strip())[:MAX_NOTE]
    for what, said in (("name", name), ("note", reason)):
        if not any(map(str.isalnum, said)):
            raise UserError(f"The {what} says nothing.", hint="Who decided goes on record, and why.")
    return Answer(decision == "approve", approver.model_copy(update={"name": name}), reason)


def choose_champion(candidate: Candidate, champion: ModelVersion | None) -> ModelVersion | None:
    """Who makes the decisions from now on: the candidate if nothing speaks against it, else who does so already.

    None if there is no champion yet and the candidate is not good enough to be the first.
    """
    return champion if objections(candidate, champion) else candidate.model


def objections(candidate: Candidate, champion: ModelVersion | None) -> list[str]:
    """Why the candidate must not be promoted: a gate that did not hold, or a champion that it was not held against."""
    now = champion.version if champion else None
    if candidate.against != now:
        return [f"it was held against {_named(candidate.against)}, but the champion is now {_named(now)}"]
    return list(candidate.objections)


def promote(candidate: Candidate) -> Outcome:
    """Let the candidate in, by way of staging, or turn it away; nobody is asked."""

    def decide(_: "Connection", champion: ModelVersion | None) -> list[Fact]:
        if champion == candidate.model:  # an earlier attempt came as far as the deployment
            return []
        return _promoted(candidate, champion, None)

    return _decided(candidate.model.name, decide)


def request(facts: ApprovalFacts) -> "Recorded":
    """Put a candidate before a person, once: where it was asked about before, or decided on, nothing is added.

    Returns the request. Raises NotAwaiting where the candidate was decided on without one.
    """
    subject = subject_of(facts.spec, facts.version)

    def decide(connection: "Connection") -> list[Fact]:
        known = any(step.type != "model.registered" for step in read.steps_now(connection, subject))
        return [] if known else [("model.approval_requested", facts, subject)]

    record_decided(decide, in_store_only=True)
    with open_store().reading() as connection:
        steps = read.steps_now(connection, subject)
    for step in steps:
        if step.type == "model.approval_requested":  # also where somebody has answered by now
            return step
    raise NotAwaiting(f"{facts.spec}/v{facts.version} awaits no approval: {_what_became_of(steps)}.")


def requested(spec: str, version: int) -> "Recorded":
    """The request that nobody has answered yet. Raises NotFound, or NotAwaiting, which says what became of it."""
    with open_store().reading() as connection:
        return _requested_now(connection, spec, version)


def decide(spec: str, version: int, said: Answer) -> Outcome:
    """What a person says goes on record and, where they approve, the candidate into production, at one stroke.

    An approval of one that was held against a former champion comes too late: both that and the approval are on record.
    So does an answer after a time limit that turns the candidate away: then the candidate is, and by no person.
    Raises NotFound, NotAwaiting or StoreUnavailable, in which case nothing has changed: of an answer in the spool the
    next who answers would not know.
    """

    def decided(connection: "Connection", champion: ModelVersion | None) -> list[Fact]:
        asked = _requested_now(connection, spec, version)
        return _late(asked, datetime.now(UTC)) or _answered(asked, said, champion)

    return _decided(spec, decided, in_store_only=True)


def reject_unanswered(spec: str, version: int, now: datetime) -> Outcome:
    """Turn the candidate away if its time is over and its request says so; else nothing. Raises as `decide` does."""

    def decided(connection: "Connection", _: ModelVersion | None) -> list[Fact]:
        return _late(_requested_now(connection, spec, version), now)

    return _decided(spec, decided, in_store_only=True)


def reject_all_unanswered(spec: str, now: datetime) -> None:
    """The same for every candidate of a spec: of a run that died while it was paused, nobody else minds the time."""
    for asked in read.awaiting_approval(open_store()):
        if asked.payload["spec"] == spec:
            with suppress(NotAwaiting):  # decided on meanwhile
                reject_unanswered(spec, asked.payload["version"], now)


def subject_of(spec: str, version: int) -> str:
    """How events name a registered model."""
    return f"model/{spec}/v{version}"


def _decided(
    spec: str,
    decide: "Callable[[Connection, ModelVersion | None], list[Fact]]",
    *,
    in_store_only: bool = False,
) -> Outcome:
    """Decide on what the champion is now; nobody else decides meanwhile."""
    champion: ModelVersion | None = None

    def decided(connection: "Connection") -> list[Fact]:
        nonlocal champion
        champion = read.champion_now(connection, spec)
        return decide(connection, champion)

    for type, facts, _ in record_decided(decided, in_store_only=in_store_only):
        if isinstance(facts, StageFacts) and type in ("model.deployed", "model.rejected"):
            return Outcome(_model(facts.model) if type == "model.deployed" else champion, facts)
    return Outcome(champion)


def _requested_now(connection: "Connection", spec: str, version: int) -> "Recorded":
    steps = read.steps_now(connection, subject_of(spec, version))
    if not steps:
        raise NotFound(f"{spec}/v{version} is not on record.", hint="See `audit models`.")
    asked = next((step for step in steps if step.type == "model.approval_requested"), None)
    if asked is None or any(step.type in DECIDED for step in steps):  # in whatever order: clocks differ
        raise NotAwaiting(f"{spec}/v{version} awaits no approval: {_what_became_of(steps)}.")
    if not asked.payload:
        raise NotAwaiting(f"What was asked about {spec}/v{version} was withdrawn.", hint="Train the model again.")
    return asked


def _what_became_of(steps: "Sequence[Recorded]") -> str:
    """In words, for whoever comes to decide on a model that is decided on."""
    for step in steps:
        told = step.payload
        by = f" by {Approver(**told['approver'])}" if told.get("approver") else ""
        when = f"on {step.time[:16].replace('T', ' ')} UTC"
        if step.type == "model.rejected":
            return f"it was rejected{by} {when}: {told.get('reason', 'the reason was withdrawn')}"
        if step.type in ("model.approved", "model.deployed"):
            return f"it was {step.type.removeprefix('model.')}{by} {when}"
    return "nobody was asked about it"


def _late(asked: "Recorded", now: datetime) -> list[Fact]:
    """The candidate turned away, if its time is over and its request says so."""
    limit = asked.payload.get("answer_by")
    if asked.payload.get("unanswered") != "rejected" or limit is None or timestamp(now) < limit:
        return []
    return [_turned_away(_candidate(asked), f"nobody decided by {limit[:16].replace('T', ' ')} UTC", None)]


def _answered(asked: "Recorded", said: Answer, champion: ModelVersion | None) -> list[Fact]:
    candidate = _candidate(asked)
    if not said.approves:
        return [_turned_away(candidate, said.note, said.approver)]
    approved = ApprovalFacts(**asked.payload).model_copy(update={"approver": said.approver, "note": said.note})
    subject = subject_of(candidate.model.name, candidate.model.version)
    return [("model.approved", approved, subject), *_promoted(candidate, champion, said.approver)]


def _candidate(asked: "Recorded") -> Candidate:
    facts = ApprovalFacts(**asked.payload)
    return Candidate(_model(facts.model), facts.champion, facts.reason, cause=facts.cause)


def _promoted(candidate: Candidate, champion: ModelVersion | None, approver: Approver | None) -> list[Fact]:
    if against := objections(candidate, champion):
        return [_turned_away(candidate, "; ".join(against), approver)]
    staged = _step(candidate, "staging", candidate.speaks_for, approver, previous="none", replaces=candidate.against)
    in_production = staged.model_copy(update={"environment": "production", "previous_environment": "staging"})
    subject = subject_of(candidate.model.name, candidate.model.version)
    facts: list[Fact] = [("model.promoted", staged, subject), ("model.promoted", in_production, subject)]
    facts.append(("model.deployed", in_production, subject))
    return [*facts, _retired(champion, candidate)] if champion else facts


def _turned_away(candidate: Candidate, why: str, approver: Approver | None) -> Fact:
    facts = _step(candidate, "none", why, approver, previous="none")
    return "model.rejected", facts, subject_of(candidate.model.name, candidate.model.version)


def _retired(former: ModelVersion, successor: Candidate) -> Fact:
    leaving = Candidate(former, None, "", cause=successor.cause)
    facts = _step(leaving, "none", f"replaced by v{successor.model.version}", None, previous="production")
    return "model.retired", facts, subject_of(former.name, former.version)


def _step(
    candidate: Candidate,
    environment: Environment,
    reason: str,
    approver: Approver | None,
    *,
    previous: Environment,
    replaces: int | None = None,
) -> StageFacts:
    return StageFacts(
        spec=candidate.model.name,
        model=used("model", candidate.model),
        version=candidate.model.version,
        environment=environment,
        previous_environment=previous,
        reason=reason,
        cause=candidate.cause,
        replaces=replaces,
        approver=approver,
    )


def _model(known: Used) -> ModelVersion:
    return ModelVersion(name=known.of, version=known.version or 0, address=known.address, digest=known.digest)


def _named(version: int | None) -> str:
    return f"v{version}" if version else "none"
