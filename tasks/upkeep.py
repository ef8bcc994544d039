"""Look after what every pipeline rests on: store, spool, ledger, disk, schedule, open questions, undelivered messages.

A check is a function of `Subject` that returns a `Check`; one more line in `CHECKS` and it is made every hour. A check
whose question cannot be answered says so and stops no other: with a damaged store there is still a disk to look at.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from audit import task
from audit.errors import AuditError, CouldNotTell, NotFound
from audit.events.canonical import timestamp
from audit.recording import registry
from audit.roots import folder_of
from audit.settings import settings
from audit.spec.model import Spec
from audit.store import read
from audit.store.engine import open_existing, store_path
from tasks import _frames as frames

LATE = timedelta(minutes=15)  # so long after its time a run has not started because nothing starts it
LAST_PART = 0.25  # of the time for an answer, in which people are reminded
SEALED_WITHIN = timedelta(hours=1)  # a run that ends seals, and `audit seal --watch` every few seconds
OVERDUE = timedelta(days=31)  # after a payload's time is up, in which somebody should have withdrawn it
RECENT = timedelta(days=7)  # messages that are looked at
LOOKED_BACK = timedelta(hours=2)  # for flow runs that ended with task runs missing: the check is made every hour
GIB = 1 << 30

Verdict = Literal["in order", "not in order", "could not tell", "skipped"]


class Check(BaseModel):
    """What was looked at, how it is, and where it is not in order, what to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    verdict: Verdict
    detail: str

    @property
    def calls(self) -> bool:
        """Whether somebody should hear of it. Not being able to tell is bad news as well."""
        return self.verdict in ("not in order", "could not tell")


@dataclass(frozen=True, slots=True)
class Subject:
    """What the checks are about."""

    spec: Spec
    min_free_gb: float
    now: datetime


@task(task_run_name="look after {spec.name}")
def look_after(spec: Spec, min_free_gb: float) -> tuple[Check, ...]:
    """Every check there is, in a table beside the run."""
    about = Subject(spec, min_free_gb, datetime.now(UTC))
    checks = tuple(_made(name, check, about) for name, check in CHECKS.items())
    calling = sum(check.calls for check in checks)
    described = f"{len(checks)} checks, {calling or 'nothing'} to look at"
    frames.leave_table(f"{spec.name}-maintenance", [check.model_dump() for check in checks], described)
    return checks


def store_holds(about: Subject) -> Check:
    """The store opens, its pages are whole, and the triggers that guard it are those that it was made with."""
    store = open_existing()
    if damage := read.damage(store):
        return _wrong("store", f"{store.name} is damaged ({damage}). Keep it as it is and bring back a copy.")
    if not read.guards_in_place(store):
        return _wrong("store", f"{store.name} has not the triggers that it was made with. See `audit status`; keep it.")
    if unsafe := read.not_durable(store):
        return _wrong(
            "store", f"{store.name} runs with {' and '.join(unsafe)} off: a power cut loses what was recorded."
        )
    return _fine("store", f"{store.name}, guards in place")


def spool_is_empty(about: Subject) -> Check:
    """Nothing waits in the spool; what does is brought home first."""
    from audit.recording import recorder, spool

    waited = spool.waiting(settings().spool_path)
    recorder.flow_ended()
    waiting = spool.waiting(settings().spool_path)
    if waiting:
        return _wrong("spool", f"{waiting:,} events wait in {settings().spool_path}: the store does not take them.")
    return _fine("spool", f"{waited:,} events brought home" if waited else "empty")


def record_is_sealed(about: Subject) -> Check:
    """What was recorded an hour ago is sealed, for until then it can be changed unseen. Where the key is, we seal."""
    from audit.recording.recorder import tell
    from audit.recording.sealing import seal_all, signing_key
    from audit.store import ledger

    if key := signing_key(settings()):
        for _ in seal_all(settings(), key, tell=tell, whole=True):
            pass
    count, oldest = ledger.not_sealed(open_existing(), whole=True)
    if oldest and oldest < timestamp(about.now - SEALED_WITHIN):
        since = f"{count:,} events are not sealed, the oldest since {oldest[:16].replace('T', ' ')} UTC"
        return _wrong("sealing", f"{since}. Run `audit seal --watch` where the log's key is.")
    return _fine("sealing", f"{count:,} events wait, none for long" if count else "all is sealed")


def checkpoint_is_anchored(about: Subject) -> Check:
    """Those outside whom the settings name vouch for the newest checkpoint; who does not yet is asked."""
    from audit.ledger.anchors import Anchored, NotAnchored, anchor_by_each, targets
    from audit.recording import circumstances, recorder

    asked = targets(settings())
    if not asked:
        return _skipped("anchors", "neither AUDIT_TSA_URL nor AUDIT_WITNESSES is set")
    try:
        found = anchor_by_each(open_existing(), asked, actor=circumstances.actor(), tell=recorder.tell)
    except NotFound:
        return _skipped("anchors", "nothing is sealed yet")
    if failed := [str(one.why) for one in found if isinstance(one, NotAnchored)]:
        return _wrong("anchors", " ".join(failed))
    size = max(one.size for one in found if isinstance(one, Anchored))
    return _fine("anchors", f"{len(found)} of {len(found)} vouch for the checkpoint of size {size:,}")


def log_is_published(about: Subject) -> Check:
    """The newest checkpoint stands where others can read it, with all that is under it."""
    from audit.ledger.publisher import publish
    from audit.recording import circumstances, recorder

    url = settings().publish_url
    if not url:
        return _skipped("publication", "AUDIT_PUBLISH_URL is not set")
    try:
        done = publish(open_existing(), url, actor=circumstances.actor())
    except NotFound:
        return _skipped("publication", "nothing is sealed yet")
    if done.event:
        recorder.tell(done.event)
    return _fine("publication", f"the checkpoint of size {done.size:,} is at {done.to}")


def record_is_complete(about: Subject) -> Check:
    """What only Prefect knows is put on record, runs whose process is gone are given up, and no process of the last
    hours saw task runs begin that are not on record."""
    from prefect.settings import PREFECT_API_URL

    from audit.answers.completeness import statements
    from audit.recording.reconcile import reconcile

    found = reconcile(open_existing())
    lost = [one for one in statements(open_existing(), about.now - LOOKED_BACK) if one.still_missing]
    if lost:
        named = ", ".join(f"{len(one.still_missing):,} of {one.flow_run['name']}" for one in lost)
        return _wrong("completeness", f"task runs that began are not on record: {named}. See `audit completeness`.")
    if found.unknown and not PREFECT_API_URL.value():
        return _skipped("completeness", "no Prefect server is configured")
    if found.unknown:
        return Check(name="completeness", verdict="could not tell", detail=found.unknown)
    added = "".join(f", {count:,} {type}" for type, count in sorted(found.appended.items()))
    return _fine("completeness", f"{found.task_runs.total():,} task runs that Prefect knows are on record{added}")


def disk_has_room(about: Subject) -> Check:
    """Where store and artifacts live there is room for more. A database on a server has its disk there, not here."""
    store = store_path(settings())
    folders = [settings().home, store and store.parent, folder_of(settings().artifacts_url)]
    free = {root: shutil.disk_usage(_existing(root)).free / GIB for root in dict.fromkeys(folders) if root}
    root, least = min(free.items(), key=lambda known: known[1])
    if least < about.min_free_gb:
        return _wrong("disk", f"{least:.1f} GB free at {root}, wanted {about.min_free_gb:g}. Make room.")
    return _fine("disk", f"{least:.1f} GB free at {root}")


def runs_start_in_time(about: Subject) -> Check:
    """No run of this spec should have started long ago and has not."""
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        return _skipped("runs", "no Prefect server is configured")
    waiting = FlowRunFilter.model_validate(
        {
            "tags": {"all_": [about.spec.name]},
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "next_scheduled_start_time": {"before_": about.now - LATE},
        }
    )
    try:
        with get_client(sync_client=True) as client:
            late = client.read_flow_runs(flow_run_filter=waiting, limit=200)
    except HTTPError as error:
        return _skipped("runs", f"Prefect does not answer ({type(error).__name__})")
    if late:
        first = min(run.next_scheduled_start_time for run in late if run.next_scheduled_start_time)
        return _wrong("runs", f"{len(late):,} of its runs wait, since {first:%Y-%m-%d %H:%M} UTC. Is a worker running?")
    return _fine("runs", "none is late")


def questions_have_time(about: Subject) -> Check:
    """No candidate waits for a person so long that its time is nearly up; one whose time is up is turned away."""
    registry.reject_all_unanswered(about.spec.name, about.now)
    waiting = [e.payload for e in read.awaiting_approval(open_existing()) if e.payload.get("spec") == about.spec.name]
    soon = timestamp(about.now + LAST_PART * timedelta(hours=about.spec.approval_time.hours))
    near = [asked for asked in waiting if asked["answer_by"] < soon]
    if near:
        named = ", ".join(f"v{asked['version']} until {asked['answer_by'][:16]} UTC" for asked in near)
        return _wrong("approval", f"{named}. Answer with: audit approve {about.spec.name}/v{near[0]['version']}")
    return _fine("approval", f"{len(waiting)} waiting, with time" if waiting else "nobody is asked anything")


def messages_arrive(about: Subject) -> Check:
    """The last message to each target arrived."""
    last: dict[str, read.Recorded] = {}
    sent = read.events(
        open_existing(),
        types=("alert.sent", "alert.failed"),
        spec=about.spec.name,
        since=timestamp(about.now - RECENT),
        newest_first=False,
    )
    for message in sent:
        last[message.payload.get("to", "")] = message
    lost = [message for message in last.values() if message.type == "alert.failed"]
    if lost:
        named = ", ".join(f"{message.payload['to']} ({message.payload['error']})" for message in lost)
        return _wrong("alerts", f"the last message did not arrive at {named}. See them with: audit alerts")
    return _fine("alerts", f"{len(last)} targets reached" if last else "none was sent in seven days")


def nothing_is_overdue(about: Subject) -> Check:
    """No payload is kept for a month longer than the specs say, unless a hold names it."""
    from audit.retention import holds_in_force, is_due

    with open_existing().reading() as connection:
        overdue, held = is_due(connection, about.now - OVERDUE), len(holds_in_force(connection))
        due = is_due(connection, about.now)
    if overdue:
        return _wrong("retention", "payloads are kept longer than a spec says. Run `audit retention run`.")
    holds = f"; {held} {'hold is' if held == 1 else 'holds are'} in force" if held else ""
    return _fine("retention", f"{'some is due: audit retention run' if due else 'nothing is due'}{holds}")


CHECKS: dict[str, Callable[[Subject], Check]] = {
    "store": store_holds,
    "spool": spool_is_empty,
    "completeness": record_is_complete,
    "sealing": record_is_sealed,
    "anchors": checkpoint_is_anchored,
    "publication": log_is_published,
    "disk": disk_has_room,
    "runs": runs_start_in_time,
    "approval": questions_have_time,
    "alerts": messages_arrive,
    "retention": nothing_is_overdue,
}


def _made(name: str, check: Callable[[Subject], Check], about: Subject) -> Check:
    try:
        return check(about)
    except CouldNotTell as unknown:
        return Check(name=name, verdict="could not tell", detail=str(unknown))
    except AuditError as error:
        return _wrong(name, str(error))


def _fine(name: str, detail: str) -> Check:
    return Check(name=name, verdict="in order", detail=detail)


def _wrong(name: str, detail: str) -> Check:
    return Check(name=name, verdict="not in order", detail=detail)


def _skipped(name: str, detail: str) -> Check:
    return Check(name=name, verdict="skipped", detail=detail)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
