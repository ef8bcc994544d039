"""Whether payloads were withdrawn as their policy on record and the holds on record let them be.

A database owner can write an event that permits a withdrawal, and wait for it to be sealed. What he cannot make is the
log's key's leave, which `audit retention run` signs. Whoever has that key as well, and keeps to policies and holds, can
withdraw what is due without a bundle: nothing in the store shows whether the file that is named was ever there.

What counts is said by envelopes: the payloads are gone. An event whose subject names no spec is taken to be of the one
that its expiry names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audit.answers import keeping
from audit.answers.checks import Envelope, Told
from audit.answers.heads import Log
from audit.answers.keeping import OF_NO_SPEC, Hold, Policy, Said
from audit.ledger.note import gave_leave
from audit.spec.model import months_kept

EXPIRED, CHANGED = "retention.expired", "pipeline.changed"
OF_HOLDS = ("retention.held", "retention.released")
RESTED_ON = (CHANGED, *OF_HOLDS)  # types of what an expiry is judged by

Rule = Callable[[Envelope], str]  # why the payload of an event may not go; empty if it may


@dataclass(frozen=True, slots=True)
class Enveloped:
    """An event, as far as its envelope says."""

    id: str
    subject: str
    time: str
    flow_run_id: str | None
    task_run_id: str | None


@dataclass(frozen=True, slots=True)
class Stated:
    """A policy and where it stands."""

    policy: Policy
    place: int


@dataclass(frozen=True, slots=True)
class Rules:
    """Policies, holds and keys on record."""

    stated: Mapping[str, Stated]  # by the event that says so
    holds: Sequence[Hold]
    log: Log

    @classmethod
    def on_record(cls, log: Log) -> "Rules":
        stated = {
            event.id: Stated(policy, event.place)
            for event in log.of_type(CHANGED)
            if event.place <= log.size and (policy := Policy.stated(event.id, event.facts or {}))
        }
        said = [
            Said(event.place, event.id, event.type, event.facts or {}) for event in log.told if event.type in OF_HOLDS
        ]
        return cls(stated, keeping.holds(said), log)

    def refusal(self, expiry: Told) -> str:
        """Why an event that lists payloads permits nothing; empty if it may. Whatever its type, it needs leave."""
        facts = expiry.facts or {}
        if not self._has_leave(expiry):
            return f"the log's key did not give its leave to {expiry.about}: who wrote it had no key"
        if expiry.type != EXPIRED:  # no policy stands behind it: somebody had asked for it
            return ""
        by = self.stated.get(str(facts.get("policy")))
        if by is None or by.place >= expiry.place or by.policy.spec != facts.get("spec"):
            return f"{expiry.about} names no policy that was on record before it"
        if by.policy.wrong:
            return f"{expiry.about} goes by a policy that is below the law it names: {by.policy.wrong}"
        of, kept = str(facts.get("of")), str(facts.get("kept"))
        if by.policy.kept.get(of) != kept:
            return f"{expiry.about} says {kept}, its policy {by.policy.kept.get(of)}"
        if later := self._longer(by, expiry, of):
            return f"{expiry.about} goes by a policy that was no longer in force: {of} were kept {later} by then"
        return ""

    def rule(self, expiry: Told) -> Rule:
        """What each event that is listed is held to: policy and holds, and holds alone where no policy is behind it."""
        facts = expiry.facts or {}
        held = [hold for hold in self.holds if hold.in_force(expiry.place)]

        def broken(said: Envelope) -> str:
            by_policy = expiry.type == EXPIRED and (_out_of_class(said, facts) or _too_early(said, facts, expiry))
            return by_policy or _held(said, facts, held)

        return broken

    def _has_leave(self, expiry: Told) -> bool:
        """Whether the key that was the log's then signed what an expiry says."""
        keys = [reign.key for reign in self.log.reigns if reign.since <= expiry.place]
        facts = expiry.facts or {}
        digest = keeping.facts_digest(facts)
        return bool(keys) and digest is not None and gave_leave(keys[-1], digest, facts.get("leave"))

    def _longer(self, by: Stated, expiry: Told, of: str) -> str:
        """How long a policy that was stated in between had payloads kept, if longer. The leaves' order counts and no
        clock: who dates an expiry back does not get behind a policy."""
        for one in self.stated.values():
            between = by.place < one.place < expiry.place and one.policy.spec == by.policy.spec
            if between and _length(one, of) > _length(by, of):
                return one.policy.kept[of]
        return ""


def _length(stated: Stated, of: str) -> float:
    months = months_kept(stated.policy.kept[of])
    return float("inf") if months is None else months


def _out_of_class(said: Envelope, facts: Mapping[str, Any]) -> str:
    type, spec = str(said.get("type")), keeping.spec_in(str(said.get("subject")))
    if keeping.class_of(type) != facts.get("of"):
        return f"what is of type {type} is not kept by the policy for {facts.get('of')}"
    if spec is not None and spec != facts.get("spec"):
        return f"it is of the spec {spec}, not of {facts.get('spec')}"
    return ""


def _too_early(said: Envelope, facts: Mapping[str, Any], expiry: Told) -> str:
    recorded_at, kept = str(said.get("recorded_at")), str(facts.get("kept"))
    try:
        up = keeping.time_is_up(recorded_at, kept, expiry.time)
    except ValueError:
        up = False
    return "" if up else f"its time was not up: recorded at {recorded_at}, kept {kept}"


def _held(said: Envelope, facts: Mapping[str, Any], holds: Sequence[Hold]) -> str:
    own = keeping.spec_in(str(said.get("subject")))
    spec = own or str(facts.get("spec", OF_NO_SPEC))
    event = Enveloped(
        str(said.get("id")), str(said.get("subject")), str(said.get("time")), said.get("flow_run_id"),
        said.get("task_run_id"),
    )  # fmt: skip
    named = next((hold.name for hold in holds if hold.names(event, () if spec == OF_NO_SPEC else (spec,))), None)
    return f"the hold {named} named it" if named else ""
