"""What was stated of how complete the record is, held against the events that it is about.

A process says at the end of a flow run how many of its task runs are on record, and which, by a digest. The statement
is sealed with them, so that task runs which were taken away before are missed. Nothing here shows that a process
counted right, and a statement that was taken away too is not missed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from audit.answers.checks import Told
from audit.answers.heads import Log
from audit.answers.verdict import many
from audit.answers.walk import Findings
from audit.store.evidence import Snapshot

STATED = "completeness.stated"


@dataclass(slots=True)
class Claim:
    """So many task runs of these flow runs, and these ones, were on record when it was made."""

    event: Told
    flow_runs: tuple[bytes, ...]  # the outermost first
    on_record: int
    in_spool: int  # that came in later, or still wait
    digest: str
    exact: bool  # nothing else could come in while it was made
    found: int = 0
    total: int = 0  # with those that stand behind it
    over: Any = field(default_factory=sha256)  # what was found of them

    def see(self, flow_run: bytes, task_run: bytes) -> None:
        self.found += 1
        self.over.update(flow_run + b"/" + task_run + b"\n")


def check_statements(snapshot: Snapshot, log: Log, found: Findings) -> None:
    """Every statement against the task runs that stand before it. One more is no fault where it may have begun while
    the statement was made."""
    claims = [claim for event in log.of_type(STATED) if (claim := claim_of(event))]
    if not claims:
        return
    about: dict[bytes, list[Claim]] = {}
    for claim in claims:
        for flow_run in claim.flow_runs:
            about.setdefault(flow_run, []).append(claim)
    for flow_run, task_run, place in snapshot.task_runs():
        for claim in about.get(flow_run, ()):
            claim.total += 1
            if place < claim.event.place:
                claim.see(flow_run, task_run)
    for claim in claims:
        if wrong := disagreement(claim):
            found.fault(claim.event.about, wrong)
        elif claim.found > claim.on_record + claim.in_spool:
            more = many(claim.found - claim.on_record - claim.in_spool, "task run")
            found.notes.append(f"{claim.event.about}: {more} of {_named(claim)} came in while it was made.")
        if claim.total < claim.on_record + claim.in_spool:
            away = many(claim.on_record + claim.in_spool - claim.total, "task run")
            found.notes.append(
                f"{claim.event.about}: {away} of {_named(claim)} that waited in a spool then did not come home: they "
                "wait still, or were removed."
            )


def claim_of(event: Told) -> Claim | None:
    """What a statement says that can be held against events; None for one that could not tell, or of a window."""
    facts: Mapping[str, Any] = event.facts or {}
    flow_runs, on_record, digest = facts.get("flow_runs"), facts.get("on_record"), facts.get("digest")
    in_spool = facts.get("in_spool") or 0
    if not (isinstance(flow_runs, list) and flow_runs and all(isinstance(id, str) for id in flow_runs)):
        return None
    if type(on_record) is not int or type(in_spool) is not int or not isinstance(digest, str):
        return None
    ids: Iterable[bytes] = dict.fromkeys(id.encode(errors="replace") for id in flow_runs)
    return Claim(event, tuple(ids), on_record, in_spool, digest, facts.get("exact") is True)


def disagreement(claim: Claim) -> str:
    """How the events differ from what is claimed of them; empty where they do not."""
    said = f"says that {many(claim.on_record, 'task run')} of {_named(claim)} stood before it"
    if claim.found < claim.on_record:
        removed = claim.on_record - claim.found
        return f"{said}: {claim.found:,} do, {removed:,} {'was' if removed == 1 else 'were'} removed"
    if claim.exact and claim.found > claim.on_record:
        return f"{said}: {claim.found:,} do, so that some are not those that it is about"
    if claim.found == claim.on_record and "sha256:" + claim.over.hexdigest() != claim.digest:
        return f"{said}: as many do, but not the same ones"
    return ""


def _named(claim: Claim) -> str:
    nested = len(claim.flow_runs) - 1
    first = claim.flow_runs[0].decode(errors="replace")
    return f"flow run {first}{f' and the {nested} nested in it' if nested else ''}"
