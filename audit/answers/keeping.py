"""The rules of retention: of which class an event is, whose it is, whether its time is up, whether a hold names it.

Pure, and by envelopes alone, which are there for ever: whoever checks a withdrawal later has no payload to go by.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import orjson

from audit.events.canonical import canonical, digest_of
from audit.spec.model import FLOORS, KEPT_BY, TIME, months_kept

OF_NO_SPEC = "*"  # no spec can be called so
NAMING = ("spec", "dataset", "segment", "model")  # kinds of subjects, after which the name of a spec stands
FOR_EVER = "forever"
_CLASS_OF = {
    "predictions": "decisions", "decision": "decisions",
    "flow_run": "runs", "task_run": "runs",
    "drift": "findings", "performance": "findings", "anomaly": "findings", "alert": "findings",
    "dataset": "lineage", "model": "lineage", "retraining": "lineage",
}  # fmt: skip


class Enveloped(Protocol):
    """An event, as far as its envelope says."""

    @property
    def id(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def time(self) -> str: ...
    @property
    def flow_run_id(self) -> str | None: ...
    @property
    def task_run_id(self) -> str | None: ...


def class_of(type: str) -> str | None:
    """Which of a policy's times an event of this type has; None for what is never withdrawn: what is said of the record
    itself (its store, keys, checkpoints, completeness, of who read it), of withdrawals and holds, and of policies."""
    return "lineage" if type == "privacy.masked" else _CLASS_OF.get(type.partition(".")[0])


def spec_in(subject: str) -> str | None:
    """The spec that a subject names: `mortgage` of `dataset/mortgage/ingested/1`."""
    kind, _, rest = subject.partition("/")
    return rest.partition("/")[0] or None if kind in NAMING else None


def specs_of(event: Enveloped, of_runs: Mapping[str, Collection[str]]) -> Collection[str]:
    """The spec that the event's subject names, else those that the events of its flow run name; none if it is nobody's.

    `of_runs`: specs by flow run.
    """
    own = spec_in(event.subject)
    return {own} if own else of_runs.get(event.flow_run_id or "", ())


def month_of(time: str) -> int:
    """Months since the year 0, of a time on record or of a period (`2026-01`)."""
    return int(time[:4]) * 12 + int(time[5:7]) - 1


def time_is_up(recorded_at: str, kept: str, now: str) -> bool:
    """Whether what was recorded then has been kept long enough, from the end of its month."""
    months = months_kept(kept)
    return months is not None and month_of(now) > month_of(recorded_at) + months


@dataclass(frozen=True, slots=True)
class Policy:
    """How long the payloads of one spec are kept, by class, and the event that says so."""

    spec: str
    event: str
    kept: Mapping[str, str]
    wrong: str = ""  # how it falls short of a law that it names itself; then nothing goes by it

    @classmethod
    def stated(cls, event: str, facts: Mapping[str, Any]) -> Self | None:
        """The policy in the payload of a `pipeline.changed`; None where it says nothing of one."""
        if facts.get("what") not in ("spec", "retention"):
            return None
        details = facts.get("details")
        leaves = (leaf for leaf in details if isinstance(leaf, dict)) if isinstance(details, list) else ()
        said = {str(leaf.get("name")): str(leaf.get("value")) for leaf in leaves}
        kept = {of: said.get(f"retention.{of}", FOR_EVER) for of in KEPT_BY}
        kept = {of: time if re.fullmatch(TIME, time) else FOR_EVER for of, time in kept.items()}
        return cls(str(facts.get("spec")), event, kept, _below_the_law(said, kept))


def _below_the_law(said: Mapping[str, str], kept: Mapping[str, str]) -> str:
    """Where a policy falls short of the laws and the life of the records that it names; empty where it does not. Our
    own reading of a spec refuses such a one: somebody else put it on record."""
    laws = [law for name, law in said.items() if name.startswith("retention.regimes[")]
    floors = [(float(least), clause) for law, (least, clause) in FLOORS.items() if law in laws]
    if re.fullmatch(TIME, records := said.get("retention.records", "")):
        floors.append((_months(records), "`records`"))
    short = ((of, least, clause) for of in KEPT_BY for least, clause in floors if _months(kept[of]) < least)
    said_short = (f"{of} kept {kept[of]}, and {clause} has them kept {least:g} months" for of, least, clause in short)
    return next(said_short, "")


def _months(kept: str) -> float:
    months = months_kept(kept)
    return float("inf") if months is None else months


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What must be kept, by whom it was said, and from which event on to which."""

    event: str  # id
    name: str
    reason: str
    actor: str
    since_place: int  # of the event that put it in force
    until_place: int | None = None  # of the one that released it
    spec: str | None = None
    model: str | None = None
    runs: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()
    since: str | None = None
    until: str | None = None

    def in_force(self, place: int) -> bool:
        """Whether it was, when the event at `place` was recorded."""
        return self.since_place < place and (self.until_place is None or place < self.until_place)

    def names(self, event: Enveloped, specs: Collection[str]) -> bool:
        """Whether each condition of it names the event; one on a spec also what belongs to none: nobody could tell."""
        return (
            (not self.spec or not specs or self.spec in specs)
            and (not self.runs or not self.runs.isdisjoint({event.flow_run_id, event.task_run_id}))
            and (not (self.events or self.model) or event.id in self.events or event.subject == f"model/{self.model}")
            and (self.since is None or event.time >= self.since)
            and (self.until is None or event.time < self.until)
        )


@dataclass(frozen=True, slots=True)
class Said:
    """An event about a hold, by its place among the events."""

    place: int
    id: str
    type: str
    facts: Mapping[str, Any]
    actor: str = ""


def holds(said: Sequence[Said]) -> list[Hold]:
    """Every hold there was, of these events about holds in their order."""
    released = {str(one.facts.get("held")): one.place for one in reversed(said) if one.type == "retention.released"}
    return [
        Hold(
            event=one.id,
            name=str(one.facts.get("name")),
            reason=str(one.facts.get("reason")),
            actor=one.actor,
            since_place=one.place,
            until_place=released.get(one.id),
            spec=_text(one.facts.get("spec")),
            model=_text(one.facts.get("model")),
            runs=frozenset(_texts(one.facts.get("runs"))),
            events=frozenset(_texts(one.facts.get("events"))),
            since=_text(one.facts.get("since")),
            until=_text(one.facts.get("until")),
        )
        for one in said
        if one.type == "retention.held"
    ]


def facts_digest(facts: Mapping[str, Any]) -> str | None:
    """Of what an expiry says, its `leave` apart, which is signed over this; None of what no release of ours says."""
    try:
        return digest_of(canonical({name: value for name, value in facts.items() if name != "leave"}))
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return None


def _texts(value: object) -> list[str]:
    """Of a list, what of it is text; a payload may be by whoever."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
