"""Retention: payloads whose time is up are exported to bundles that anybody can check, then withdrawn; envelopes stay.

How long is what the spec on record says (the last `pipeline.changed`), for events of no spec AUDIT_RETENTION. Nothing
goes that is not sealed, that a hold names, that a model in use rests on, or whose bundle was not verified twice.
"""

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from sqlalchemy import Connection

from audit.answers import keeping
from audit.answers.keeping import OF_NO_SPEC, Hold, Policy, Said
from audit.errors import CouldNotTell, InconsistentTree, KeyUnavailable, NotFound, NotPermitted, UserError
from audit.events.canonical import clean, timestamp
from audit.events.event import Event, make_event
from audit.events.payloads import ExpiryFacts, HoldFacts, ReleaseFacts
from audit.ledger.note import SigningKey
from audit.ledger.sealer import Withdrawal
from audit.ledger.tiles import Progress, silent
from audit.privacy import redact
from audit.recording import circumstances
from audit.recording.changes import note_change
from audit.recording.recorder import record_decided, tell
from audit.recording.sealing import continued_store, demanded_key, seal_all, seal_withdrawing, signing_key
from audit.settings import Settings
from audit.spec.load import spec_digest
from audit.spec.model import KEPT_BY, Spec, months_kept
from audit.store import read, withdrawing
from audit.store.engine import AuditStore, open_existing
from audit.store.ledger import Part
from audit.store.read import Recorded
from audit.store.withdrawing import Kept

SOURCE = "prefect-audit/retention"
FOLDER = "expired"  # under AUDIT_HOME, where bundles go that nobody named another place for
AT_ONCE = 1_000  # payloads that one event has withdrawn, in one transaction that others wait for
IN_A_BUNDLE = 10_000  # events
TOO_YOUNG = 1_000  # events in the order in which they came in; of a few the order says nothing
SILENT = timedelta(days=40)  # a month's run and some days: a clock that is further ahead of all is asked about
CHECKED_WITHIN = 600.0  # seconds, by the verifier that a bundle brings along
LINEAGE = (
    "dataset.ingested", "dataset.validated", "dataset.transformed", "dataset.split", "model.trained", "model.evaluated",
)  # fmt: skip
STEPS = (
    "model.registered", "model.approval_requested", "model.approved", "model.promoted", "model.rejected",
    "model.deployed", "model.retired",
)  # fmt: skip
OUT_OF_USE = ("model.rejected", "model.retired")
NAMES = re.compile(r"[a-z][a-z0-9_-]{0,39}")  # of specs; they become names of files
HOLD_NAMES = re.compile(r"[A-Za-z0-9][\w.-]{0,79}")
VERSION = re.compile(r"model/(.+)/v([0-9]{1,9})")
Specs = Mapping[str, Collection[str]]  # of flow runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Payloads of one spec, one class and one month, whose time is up."""

    period: str  # `2026-01`
    spec: str
    of: str
    kept: str  # how long, by the policy
    events: tuple[str, ...]  # ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `audit retention run` would withdraw, and what stays though its time is up."""

    due: tuple[Due, ...]
    held: Mapping[str, int]  # payloads that a hold names, each counted with one
    needed: int  # payloads that what is in use rests on


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """Payloads that were withdrawn."""

    due: Due
    withdrawn: int  # fewer than were due where a hold came between
    bundle: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a hold names: all that each of these names; nothing said is everything."""

    spec: str | None = None
    model: str | None = None  # `mortgage/v2`
    run: str | None = None  # flow or task run; a flow run with those nested in it
    events: tuple[str, ...] = ()  # ids
    since: str | None = None  # time of the events, inclusive
    until: str | None = None  # exclusive


def state_policies(where: Settings, specs: Sequence[Spec]) -> None:
    """Put on record what these specs say, and AUDIT_RETENTION, where that is not what is on record."""
    for spec in specs:
        note_change(spec.name, "spec", spec_digest(spec), spec.model_dump(mode="json"))
    with open_existing(where).reading() as connection:
        known = policies(connection).get(OF_NO_SPEC)
    if where.retention != (known.kept["runs"] if known else keeping.FOR_EVER):
        kept = dict.fromkeys(KEPT_BY, where.retention)
        note_change(OF_NO_SPEC, "retention", where.retention, {"retention": kept})


def policies(connection: Connection) -> dict[str, Policy]:
    """The policy of each spec that was ever on record, as it was said last."""
    stated = (Policy.stated(one.id, one.payload) for one in read.recorded_of_types(connection, ("pipeline.changed",)))
    return {one.spec: one for one in stated if one and (one.spec == OF_NO_SPEC or NAMES.fullmatch(one.spec))}


def policies_said(where: Settings, specs: Sequence[Spec]) -> dict[str, Policy]:
    """The policies that `state_policies` would put on record."""
    said = {spec.name: {of: getattr(spec.retention, of) for of in KEPT_BY} for spec in specs}
    said[OF_NO_SPEC] = dict.fromkeys(KEPT_BY, where.retention)
    return {spec: Policy(spec, "", kept) for spec, kept in said.items()}


def holds_in_force(connection: Connection) -> list[Hold]:
    """With the events that tell of a model by now, where they name one."""
    said = (Said(one.seq, one.id, one.type, one.payload, one.actor) for one in withdrawing.holding(connection))
    found = (hold for hold in keeping.holds(list(said)) if hold.until_place is None)
    return [replace(one, events=one.events | _of_model(connection, one.model)) if one.model else one for one in found]


def is_due(connection: Connection, now: datetime) -> bool:
    """Whether something is to be withdrawn. It ends at the first that is, or once many were too young for it."""
    known = policies(connection)
    months = [months for one in known.values() for kept in one.kept.values() if (months := months_kept(kept))]
    if not months:
        return False
    of_runs, held = _specs_of_runs(connection), holds_in_force(connection)
    needed, ages = _needed(connection), withdrawing.last_told(connection)
    oldest, young = _months_before(now, min(months)), 0
    for event in withdrawing.kept(connection):
        young += event.recorded_at >= oldest
        if young > TOO_YOUNG:
            return False
        specs = keeping.specs_of(event, of_runs)
        up = _time_is_up(event, specs, known, max(event.recorded_at, ages.get(event.subject, "")), now)
        if up and event.seq not in needed and not any(one.names(event, specs) for one in held):
            return True
    return False


def plan(connection: Connection, known: Mapping[str, Policy], now: datetime, until: date | None = None) -> Plan:
    """What is due by these policies, the oldest months first; of months that end by `until`, if it is given."""
    if not any(months_kept(kept) for policy in known.values() for kept in policy.kept.values()):
        return Plan(due=(), held={}, needed=0)
    holds, of_runs = holds_in_force(connection), _specs_of_runs(connection)
    needed, ages = _needed(connection), withdrawing.last_told(connection)
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    held: Counter[str] = Counter()
    resting = 0
    for event in withdrawing.kept(connection, before=_month_begins(until or now.date())):
        specs = keeping.specs_of(event, of_runs)
        recorded_at = max(event.recorded_at, ages.get(event.subject, ""))
        policy = _time_is_up(event, specs, known, recorded_at, now)
        if policy is None or (until and recorded_at >= _month_begins(until)):
            continue
        if hold := next((hold for hold in holds if hold.names(event, specs)), None):
            held[hold.name] += 1
        elif event.seq in needed:
            resting += 1
        else:
            found[recorded_at[:7], policy.spec, keeping.class_of(event.type) or ""].append(event.id)
    due = [
        Due(period=period, spec=spec, of=of, kept=known[spec].kept[of], events=tuple(found[period, spec, of]))
        for period, spec, of in sorted(found)
    ]
    return Plan(due=tuple(due), held=held, needed=resting)


def run(
    where: Settings,
    *,
    folder: Path | None = None,
    until: date | None = None,
    specs: Sequence[Spec] = (),
    progress: Progress = silent,
) -> Iterator[Expired]:
    """Export what is due to bundles in `folder`, have each checked twice, and withdraw it; one by one, as it is done.

    What is asked for again after a crash finds what was done, and goes on. Raises KeyUnavailable without the log's key,
    InconsistentTree if the store is not what was sealed, CouldNotTell if nobody knows, StoreUnavailable; UserError if
    `folder` cannot be written, another one is at it, a policy is below its law, or the clock is not to be believed.
    """
    key, store = demanded_key(where), continued_store(where)
    if until is None:
        _demand_likely(store, datetime.now(UTC))
    state_policies(where, specs)
    with _alone(where, store):
        for _ in seal_all(where, key, tell=tell):
            pass
        with store.reading() as connection:
            known, of_runs = policies(connection), _specs_of_runs(connection)
            _demand_lawful(known.values())
            planned = plan(connection, known, datetime.now(UTC), until)
        if not planned.due:
            return
        _demand_verified(store, key, progress)
        place = _folder(folder or where.home / FOLDER)
        for due in planned.due:
            yield from _expire(_Work(where, store, key, place, of_runs, progress), due)


def written_over(where: Settings) -> bool:
    """Whether nothing of what was withdrawn is left in SQLite's file or its log. Somebody who reads at the time keeps
    the log as it is; then it is left to the next call, or to whoever writes the log back."""
    return withdrawing.written_back(open_existing(where))


def expired(connection: Connection) -> list[Recorded]:
    """What was withdrawn, by whom and to which bundle, the oldest first."""
    return read.recorded_of_types(connection, ("retention.expired",))


def hold(where: Settings, name: str, reason: str, scope: Scope) -> HoldFacts:
    """Keep what `scope` names until it is released. Raises UserError if there is such a hold, NotFound if what it names
    is not on record, StoreUnavailable."""
    if not HOLD_NAMES.fullmatch(name):
        raise UserError(f"{name!r} is no name for a hold.", hint="Use letters, digits, dots, - and _.")

    _demand_reason(reason)

    def decide(connection: Connection) -> list[tuple[str, HoldFacts, str]]:
        if any(one.name == name for one in holds_in_force(connection)):
            raise UserError(f"There is a hold {name} already.", hint="Give it another name; see `audit hold list`.")
        return [("retention.held", _facts(connection, name, reason, scope), f"hold/{name}")]

    ((_, facts, _),) = record_decided(decide, in_store_only=True)
    assert isinstance(facts, HoldFacts)
    return facts


def release(where: Settings, name: str, reason: str) -> ReleaseFacts:
    """Let the policy have its way again. Raises NotFound if there is no such hold, UserError, StoreUnavailable."""
    _demand_reason(reason)

    def decide(connection: Connection) -> list[tuple[str, ReleaseFacts, str]]:
        held = next((one.event for one in holds_in_force(connection) if one.name == name), None)
        if held is None:
            raise NotFound(f"There is no hold {name}.", hint="See `audit hold list`.")
        return [("retention.released", ReleaseFacts(name=name, reason=redact.text(reason), held=held), f"hold/{name}")]

    ((_, facts, _),) = record_decided(decide, in_store_only=True)
    assert isinstance(facts, ReleaseFacts)
    return facts


def seal_said(where: Settings) -> bool:
    """Seal what was said of holds, where the log's key is here: until then whoever owns the database can take it out
    unseen. False where it waits. Raises InconsistentTree, StoreUnavailable."""
    try:
        key = signing_key(where)
        for _ in seal_all(where, key, tell=tell) if key else ():
            pass
    except (KeyUnavailable, NotPermitted):
        return False
    return key is not None


def _demand_reason(reason: str) -> None:
    if not reason.strip():
        raise UserError("A hold is placed and released for a reason.", hint="Say it: --reason 'complaint 17'.")


def _demand_likely(store: AuditStore, now: datetime) -> None:
    """Raises UserError where this machine's clock is far ahead of all that was recorded: by it everything is due."""
    with store.reading() as connection:
        newest = withdrawing.newest_recorded(connection)
    if newest and now - datetime.fromisoformat(newest) > SILENT:
        raise UserError(
            f"By this machine's clock nothing was recorded for {(now - datetime.fromisoformat(newest)).days} days.",
            hint=f"If {now:%Y-%m-%d} is right, name the day up to which months may go: --until {now:%Y-%m-01}.",
        )


def _demand_lawful(known: Collection[Policy]) -> None:
    for policy in known:
        if policy.wrong:
            raise UserError(
                f"The policy of {policy.spec} (event {policy.event}) is below the law that it names: {policy.wrong}.",
                hint=f"Nothing was withdrawn. Put a right one on record: audit retention run {policy.spec}.yaml",
            )


def _demand_verified(store: AuditStore, key: SigningKey, progress: Progress) -> None:
    """What goes is decided by columns and payloads. Before that these must be what was sealed: whoever owns the
    database can move them. Raises InconsistentTree, CouldNotTell."""
    from audit.answers.verify import verify

    found = verify(store, key=key.verifier, progress=progress)
    for fault in found.faults:
        raise InconsistentTree(f"{fault.about}: {fault.what}", hint="Nothing was withdrawn. See `audit verify`.")
    if found.answer != "held":
        raise CouldNotTell("; ".join(found.unknown), hint="Nothing was withdrawn. See `audit verify`.")


@dataclass(frozen=True, slots=True)
class _Work:
    """What it takes to withdraw something."""

    where: Settings
    store: AuditStore
    key: SigningKey
    folder: Path
    of_runs: Specs
    progress: Progress


def _expire(work: _Work, due: Due) -> Iterator[Expired]:
    """What an earlier call exported is not exported again; the rest goes to new bundles. What went meanwhile, by
    another machine, is nobody's any more."""
    with work.store.reading() as connection:
        there = {event.id for event in withdrawing.kept_by_ids(connection, due.events)}
    left = tuple(id for id in due.events if id in there)
    stem = f"{due.period}-{'no-spec' if due.spec == OF_NO_SPEC else due.spec}-{due.of}"
    for path in sorted(work.folder.glob(f"{stem}*.zip")):
        inside = _payloads_in(path)
        if not inside.isdisjoint(left) and _is_whole(path, work.key):
            yield _withdrawn(work, due, [id for id in left if id in inside], path)
            left = tuple(id for id in left if id not in inside)
    for ids in _parts(left, IN_A_BUNDLE):
        yield _withdrawn(work, due, ids, _exported(work, due, ids, _free(work.folder, stem)))


def _exported(work: _Work, due: Due, ids: Sequence[str], path: Path) -> Path:
    """A bundle of these events on disk, held to the log's key by both verifiers. Raises InconsistentTree, UserError."""
    from audit.answers import bundle

    bundle.export(
        work.store,
        path,
        part=Part(events=tuple(ids), called=f"{due.of} of {due.spec}, recorded in {due.period}, kept {due.kept}"),
        by=circumstances.actor(),
        at=datetime.now(UTC),
        progress=work.progress,
    )
    if not (set(ids) <= _payloads_in(path) and _is_whole(path, work.key)):
        raise InconsistentTree(f"{path} does not hold what was exported.", hint="Nothing was withdrawn.")
    for made in (path, path.parent):
        with _opened(made) as descriptor:
            os.fsync(descriptor)
    return path


def _withdrawn(work: _Work, due: Due, ids: Sequence[str], path: Path) -> Expired:
    """Withdraw the payloads of these events, all of which are in the bundle; those apart that a hold names by now."""
    with path.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    place = path.relative_to(work.where.home) if path.is_relative_to(work.where.home) else path
    gone = 0
    for part in _parts(ids, AT_ONCE):

        def withdraw(connection: Connection, part: Sequence[str] = part) -> Withdrawal | None:
            nonlocal gone
            policy, going = policies(connection).get(due.spec), _may_go(connection, work.of_runs, part)
            if policy is None or policy.wrong or policy.kept[due.of] != due.kept or not going:
                return None
            gone += len(going)
            facts = ExpiryFacts(
                spec=due.spec, of=due.of, kept=due.kept, policy=policy.event, period=due.period,
                bundle=digest, place=str(place), events=[event.id for event in going],
            )  # fmt: skip
            return Withdrawal(_permission(facts, work.key), [event.seq for event in going])

        seal_withdrawing(work.where, work.key, withdraw, tell=tell)
    return Expired(due=due, withdrawn=gone, bundle=path, digest=digest)


def _may_go(connection: Connection, of_runs: Specs, ids: Sequence[str]) -> list[Kept]:
    """Those of these events that no hold names by now, under the lock that who places one waits for."""
    holds = holds_in_force(connection)
    return [
        event
        for event in withdrawing.kept_by_ids(connection, ids)
        if not any(hold.names(event, keeping.specs_of(event, of_runs)) for hold in holds)
    ]


def _permission(facts: ExpiryFacts, key: SigningKey) -> Event:
    said = clean(facts.model_dump(mode="json", exclude_none=True))
    digest = keeping.facts_digest(said) if isinstance(said, dict) else None
    assert digest, "what we say can be written"
    return make_event(
        "retention.expired",
        facts.model_copy(update={"leave": key.leave(digest)}),
        source=SOURCE,
        subject=f"expired/{facts.spec}/{facts.of}/{facts.period}",
        actor=circumstances.actor(),
    )


def _payloads_in(path: Path) -> set[str]:
    """Ids of the events whose payload is in a bundle; none where it is no bundle."""
    from audit.answers import bundle

    found = set()
    try:
        with zipfile.ZipFile(path) as archive, archive.open(bundle.EVENTS) as lines:
            for line in lines:
                said = orjson.loads(line)
                if "payload" in said:
                    found.add(str(orjson.loads(said["envelope"])["id"]))
    except (KeyError, TypeError, *bundle.BROKEN):
        return set()
    return found


def _is_whole(path: Path, key: SigningKey) -> bool:
    """Whether a bundle holds for our own verifier, and for the one that it brings along, by itself as an outsider has
    it. Raises CouldNotTell where one of them gives no answer."""
    from audit.answers import bundle, outside

    found = bundle.verify_bundle(path, key=key.verifier)
    if found.answer != "held":
        return False
    with zipfile.ZipFile(path) as archive:
        brought = archive.read(bundle.VERIFIER)
    if brought != outside.standalone():  # of another release, or of whoever put the file there: it is not run
        return False
    with TemporaryDirectory() as folder:
        verifier = Path(folder, bundle.VERIFIER)
        verifier.write_bytes(brought)
        command = [sys.executable, "-I", str(verifier), str(path), "--key", str(key.verifier)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=CHECKED_WITHIN, check=False)
        except subprocess.TimeoutExpired:
            raise CouldNotTell(f"The verifier in {path} did not come to an end.") from None
    if ended.returncode == CouldNotTell.exit_code:
        raise CouldNotTell(f"The verifier in {path}: {ended.stdout.strip() or ended.stderr.strip()}")
    return ended.returncode == 0


def _time_is_up(
    event: Kept, specs: Collection[str], known: Mapping[str, Policy], recorded_at: str, now: datetime
) -> Policy | None:
    """The policy that lets the event go by now. Of those of several specs the one that keeps it longest counts."""
    of = keeping.class_of(event.type)
    if of is None:
        return None
    found = [known.get(spec) for spec in specs or (OF_NO_SPEC,)]
    asked = [policy for policy in found if policy and not policy.wrong]
    if len(asked) < len(found) or not all(
        keeping.time_is_up(recorded_at, policy.kept[of], timestamp(now)) for policy in asked
    ):
        return None
    return max(asked, key=lambda policy: months_kept(policy.kept[of]) or 0)


def _specs_of_runs(connection: Connection) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for flow_run, subject in withdrawing.subjects_of_runs(connection):
        if spec := keeping.spec_in(subject):
            found[flow_run].add(spec)
    return dict(found)


def _needed(connection: Connection) -> set[int]:
    """Seqs of what is rested on: models in use, with what they came of; the last of each kind that the next run goes on
    from; and the highest numbers, for the next one goes by them."""
    steps: dict[str, list[Recorded]] = defaultdict(list)
    for step in sorted(read.recorded_of_types(connection, STEPS), key=lambda step: (step.time, step.seq)):
        steps[step.subject].append(step)
    newest: dict[str, int] = {}
    for subject in steps:
        if version := VERSION.fullmatch(subject):
            newest[version[1]] = max(newest.get(version[1], 0), int(version[2]))
    last = {f"model/{spec}/v{version}" for spec, version in newest.items()}
    in_use = (taken for subject, taken in steps.items() if subject in last or taken[-1].type not in OUT_OF_USE)
    used = [step for taken in in_use for step in taken]
    digests = {step.payload["model"]["digest"] for step in used if step.payload}
    return {
        *(step.seq for step in used),
        *(event.seq for event in _came_of(connection, digests)),
        *withdrawing.highest_numbers(connection),
        *withdrawing.gone_on_from(connection),
    }


def _came_of(connection: Connection, digests: Collection[str]) -> list[Recorded]:
    """The events that tell how what has these digests came about, back to what was ingested."""
    told = [event for event in read.recorded_of_types(connection, LINEAGE) if event.payload]
    wanted, found = set(digests), dict[int, Recorded]()
    while new := [event for event in told if event.seq not in found and not wanted.isdisjoint(_made(event.payload))]:
        found |= {event.seq: event for event in new}
        wanted.update(*(_used(event.payload) for event in new))
    return list(found.values())


def _made(facts: Mapping[str, Any]) -> list[str]:
    named = (facts.get(name) for name in ("model", "valid", "rejected", "train", "test"))
    return [facts["digest"]] if "digest" in facts else [used["digest"] for used in named if used]


def _used(facts: Mapping[str, Any]) -> list[str]:
    made_from = facts.get("made_from", [])
    named = [*(made_from if isinstance(made_from, list) else [made_from])]
    named += [facts[name] for name in ("checked", "trained_on", "tested_on") if name in facts]
    return [used["digest"] for used in named]


def _of_model(connection: Connection, model: str) -> frozenset[str]:
    """Ids of the events that tell of a model version, or how it came about."""
    registered = read.steps_now(connection, f"model/{model}")
    digests = {step.payload["model"]["digest"] for step in registered if step.payload}
    if not digests:
        return frozenset(step.id for step in registered)
    told = withdrawing.naming_digests(connection, sorted(digests))
    return frozenset([*told, *(event.id for event in _came_of(connection, digests))])


def _facts(connection: Connection, name: str, reason: str, scope: Scope) -> HoldFacts:
    if scope.spec and not withdrawing.is_spec(connection, scope.spec):
        raise NotFound(f"No spec on record is called {scope.spec}.", hint="See `audit retention status`.")
    model = _of_model(connection, scope.model) if scope.model else frozenset()
    if scope.model and not model:
        raise NotFound(f"No model on record is called {scope.model}.", hint="See `audit models`: mortgage/v2.")
    return HoldFacts(
        name=name,
        reason=redact.text(reason),
        spec=scope.spec,
        model=scope.model,
        runs=withdrawing.nested_runs(connection, scope.run) if scope.run else [],
        events=sorted({*scope.events, *model}),
        since=scope.since,
        until=scope.until,
    )


def _month_begins(day: date) -> str:
    return f"{day.year:04}-{day.month:02}-01"  # strftime leaves the year 999 at three digits


def _months_before(now: datetime, months: int) -> str:
    """The begin of the month of which all that was recorded earlier was kept so long."""
    year, month = divmod(keeping.month_of(timestamp(now)) - months, 12)
    return f"{year:04}-{month + 1:02}-01"


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[first : first + size] for first in range(0, len(ids), size))


def _free(folder: Path, stem: str) -> Path:
    """A name that no bundle has yet: `2026-01-mortgage-decisions.zip`, then `-2`."""
    nth = 1
    while (path := folder / f"{stem}{'' if nth == 1 else f'-{nth}'}.zip").exists():
        nth += 1
    return path


def _folder(path: Path) -> Path:
    """Where bundles go, made if need be. Raises UserError if it cannot be."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as refused:
        raise UserError(f"{path} cannot be made ({refused.strerror}).", hint="Name another with --to.") from None
    return path.absolute()


@contextmanager
def _alone(where: Settings, store: AuditStore) -> Iterator[None]:
    """Of two on this machine that withdraw from one store the second is refused, wherever their bundles go. Raises
    UserError."""
    folder = store.path.parent if store.path else where.home
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _opened(folder) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                "Somebody withdraws payloads of this store just now.", hint="Wait for him to end, and run it again."
            ) from None
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
