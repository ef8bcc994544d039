"""`audit init` and `audit status`: the store itself."""

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from audit.cli import output
from audit.errors import CouldNotTell, InconsistentTree, KeyUnavailable, StoreUnavailable, UserError
from audit.settings import Settings, settings

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from audit.recording.activation import Activation
    from audit.store.engine import AuditStore
    from audit.store.read import Login

T = TypeVar("T")
ORIGIN = re.compile(r"[^\s+\x00-\x1f]{1,200}")  # a name as C2SP signed-note has it: no spaces, no plus


def init(
    origin: Annotated[
        str, typer.Option(metavar="NAME", help="Name of this log for ever, for example acme.example/fraud.")
    ] = "",
    as_json: output.AsJson = False,
) -> None:
    """Make the store, its keys and its origin, and seal that. Harmless where they exist.

    Example: audit init --origin acme.example/fraud
    """
    from audit.recording import recorder
    from audit.recording.initialise import initialise
    from audit.store.engine import open_existing

    if origin and not (ORIGIN.fullmatch(origin) and origin.isprintable()):
        raise UserError(f"--origin {origin!r} is no name.", hint="Write one without spaces and plus signs.")
    made = initialise(origin or None)
    recorder.flow_ended()
    if origin and made.origin != origin:
        raise UserError(
            f"This store's origin is {made.origin} and stays so.", hint="Set AUDIT_HOME to a new folder for another."
        )
    store = open_existing()
    if as_json:
        keys = {"mask_key": made.mask_key, "log_key": made.log_key}
        output.write_json({"store": store.name, "origin": made.origin, **keys, "made": made.made})
        return
    output.show(
        output.facts(
            ("store", f"{store.name} ({'made' if made.made else 'was there; nothing changed'})"),
            ("origin", made.origin),
            ("mask key", f"{made.mask_key} in {settings().keys_path / 'mask.key'}: keep a copy"),
            ("log key", _said_of(log_key_state(settings(), store))),
        )
    )


def status(as_json: output.AsJson = False) -> None:
    """Say where the record lives and how much is in it. Also whether anything waits or was lost.

    Where the store cannot be read it says what is known here, and why; exit code 2.

    Example: audit status --json
    """
    try:
        found = status_of(settings())
    except StoreUnavailable as unread:
        known = known_here(settings(), unread)
        if as_json:
            output.write_json(asdict(known))
        else:
            output.show(_for_people_unread(known))
        raise typer.Exit(unread.exit_code) from None
    if as_json:
        output.write_json(asdict(found))
    else:
        output.show(_for_people(found))


LogKeyState = Literal["here", "not here", "another one", "unusable", "in a block", "none"]


@dataclass(frozen=True, slots=True)
class LogKey:
    """Which key is the log's, and whether this process has it."""

    recorded: str | None  # name and id
    state: LogKeyState
    place: str  # where it is, or was sought
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the process of the newest flow run recorded."""

    began_at: str
    plugin: bool
    unbound: list[str]  # private points of Prefect's that it could not bind


@dataclass(frozen=True, slots=True)
class Status:
    """What `audit status` says."""

    store: str
    schema: str
    origin: str | None
    mask_key: str | None  # fingerprint
    mask_key_problem: str | None
    log_key: LogKey
    events_sealed: int  # leaves of the log's tree
    events_not_sealed: int
    events_due: int  # of them those that are no word about the last checkpoint itself
    tree_problem: str | None  # why what is sealed does not continue what this machine signed
    checkpoints: int
    last_checkpoint_at: str | None
    anchors: int
    mode: str
    prefect: str
    guards_in_place: bool  # False: triggers are not as they were made
    not_durable: list[str]  # settings of the server with which a power cut loses what was recorded
    login: "Login | None"  # to the server; None on SQLite
    all_states_seen: bool  # False: Prefect moved, so hooks and wrapper alone record
    plugin: "Activation"  # of a process that is started here
    last_run: LastRun | None
    events: int
    flow_runs: int
    task_runs: int
    newest_event_at: str | None
    waiting_in_spool: int
    lost: int
    awaiting_approval: int  # models
    alert_target_set: bool
    retention_due: bool  # payloads are kept longer than a spec says
    holds: int  # in force
    artifacts: str
    artifact_files: int | None  # None: the root is not on this machine
    artifact_bytes: int | None


def status_of(where: Settings) -> Status:
    """Raises StoreUnavailable where there is no store: one made on the spot would hide that it was lost."""
    from audit.recording.activation import activation
    from audit.recording.circumstances import knows_prefect
    from audit.store import read
    from audit.store.engine import HEAD, open_existing
    from audit.store.ledger import not_sealed, sealing

    store = open_existing(where)
    prefect = version("prefect")
    counts = read.counts(store)
    opened = next(read.events(store, types=("store.opened",), newest_first=False, limit=1), None)
    key, problem = _mask_key(where, store)
    last = _last_run(store)
    log = sealing(store)
    due, _ = not_sealed(store, whole=True)
    overdue, holds = _kept_too_long(store)
    root, files, size = _artifacts(where.artifacts_url)
    return Status(
        store=store.name,
        schema=HEAD,
        origin=opened.payload.get("origin") if opened else None,
        mask_key=key,
        mask_key_problem=problem,
        log_key=log_key_state(where, store),
        events_sealed=log.size,
        events_not_sealed=log.unsealed,
        events_due=due,
        tree_problem=_tree_problem(where),
        checkpoints=log.checkpoints,
        last_checkpoint_at=log.newest,
        anchors=log.anchors,
        mode=where.mode,
        prefect=prefect,
        guards_in_place=read.guards_in_place(store),
        not_durable=read.not_durable(store),
        login=read.login(store),
        all_states_seen=knows_prefect(prefect) and not (last and last.unbound),
        plugin=activation(os.environ, Path.cwd()),
        last_run=last,
        events=counts.events,
        flow_runs=counts.flow_runs,
        task_runs=counts.task_runs,
        newest_event_at=counts.newest,
        waiting_in_spool=_waiting(where.spool_path),
        lost=read.lost(store),
        awaiting_approval=len(read.awaiting_approval(store)),
        alert_target_set=where.alert_url is not None or bool(where.alert_urls),
        retention_due=overdue,
        holds=holds,
        artifacts=root,
        artifact_files=files,
        artifact_bytes=size,
    )


@dataclass(frozen=True, slots=True)
class KnownHere:
    """What `audit status` says where the store cannot be read: what this machine knows without it."""

    store: str
    problem: str  # why it cannot be read, and what to do
    mask_key: str | None  # fingerprint
    mask_key_problem: str | None
    log_key: str  # where it is, or was sought
    log_key_here: bool | None  # whether it is the log's own key stands in the store; None: it is in a block
    log_key_problem: str | None
    mode: str
    prefect: str
    all_states_seen: bool  # as far as Prefect's release tells
    plugin: "Activation"
    waiting_in_spool: int | None  # None: it cannot be read either
    spool_problem: str | None
    lost: int  # and not yet on record as lost


def known_here(where: Settings, unread: StoreUnavailable) -> KnownHere:
    """Raises StoreUnavailable if AUDIT_DATABASE_URL names no store at all."""
    from audit.recording import spool
    from audit.recording.activation import activation
    from audit.recording.circumstances import knows_prefect
    from audit.recording.losses import Losses
    from audit.store.engine import store_name

    prefect = version("prefect")
    key, problem = _mask_key_here(where)
    place, here, unusable = _log_key_here(where)
    waiting, spool_problem = _told(lambda: spool.waiting(where.spool_path))
    return KnownHere(
        store=store_name(where),
        problem=str(unread),
        mask_key=key,
        mask_key_problem=problem,
        log_key=place,
        log_key_here=here,
        log_key_problem=unusable,
        mode=where.mode,
        prefect=prefect,
        all_states_seen=knows_prefect(prefect),
        plugin=activation(os.environ, Path.cwd()),
        waiting_in_spool=waiting,
        spool_problem=spool_problem,
        lost=Losses(where.lost_path).count(),
    )


def _told(ask: Callable[[], T]) -> tuple[T | None, str | None]:
    """The answer, else why there is none."""
    try:
        return ask(), None
    except CouldNotTell as problem:
        return None, str(problem)


def _log_key_here(where: Settings) -> tuple[str, bool | None, str | None]:
    """Its place, whether a key is there, and what is wrong with it."""
    from audit.keyfile import read_if_there
    from audit.ledger.keys import FILE, claimed

    if where.log_key:
        return "AUDIT_LOG_KEY", claimed(where.log_key) is not None, None
    if where.log_key_block:
        return where.log_key_block, None, None
    path = where.keys_path / FILE
    found, unusable = _told(lambda: read_if_there(path))
    return str(path), found is not None, unusable


def _last_run(store: "AuditStore") -> LastRun | None:
    """None before the first, and where the newest was recorded before this was put on record."""
    from audit.store import read

    newest = next(read.events(store, types=("flow_run.running",), limit=1), None)
    recorded = newest.payload.get("recording") if newest else None
    return LastRun(newest.time, **recorded) if newest and recorded else None


def _kept_too_long(store: "AuditStore") -> tuple[bool, int]:
    """Whether some payload's time is up, and how many holds are in force."""
    from datetime import UTC, datetime

    from audit.retention import holds_in_force, is_due

    with store.reading() as connection:
        return is_due(connection, datetime.now(UTC)), len(holds_in_force(connection))


def _tree_problem(where: Settings) -> str | None:
    from audit.recording.sealing import continued_store

    try:
        continued_store(where)
    except (InconsistentTree, KeyUnavailable) as problem:
        return str(problem)
    return None


def _mask_key(where: Settings, store: "AuditStore") -> tuple[str | None, str | None]:
    """The key's fingerprint, and what is wrong with it."""
    from audit.store import read

    found, problem = _mask_key_here(where)
    if found is None:
        return None, problem
    made = next(read.events(store, types=("key.created",), newest_first=False, limit=1), None)
    recorded = made.payload.get("fingerprint") if made else None
    if recorded not in (None, found):
        return found, f"{found} is another key than the recorded {recorded}; put the right one back"
    return found, None


def _mask_key_here(where: Settings) -> tuple[str | None, str | None]:
    """The key's fingerprint, else why there is none."""
    from audit.privacy.mask_key import fingerprint, read_mask_key

    return _told(lambda: fingerprint(read_mask_key(where.keys_path)))


def log_key_state(where: Settings, store: "AuditStore") -> LogKey:
    """The log's key by what is on record and what lies here. Read off its text alone: no key is loaded for this."""
    from audit.keyfile import read_if_there
    from audit.ledger.keys import FILE, NEXT, claimed, current_key
    from audit.store.ledger import key_events

    with store.reading() as connection:
        current = current_key(key_events(connection))
    place = "AUDIT_LOG_KEY" if where.log_key else str(where.keys_path / FILE)
    if current is None:
        return LogKey(None, "none", place)
    recorded = current.shown
    if where.log_key_block and not where.log_key:
        return LogKey(recorded, "in a block", where.log_key_block)
    try:
        files = () if where.log_key else (read_if_there(where.keys_path / name) for name in (FILE, NEXT))
        found = [where.log_key] if where.log_key else [file and file.decode(errors="replace") for file in files]
    except KeyUnavailable as unusable:
        return LogKey(recorded, "unusable", place, str(unusable))
    claims = [claimed(text or "") for text in found]
    if recorded in claims:  # one that waits takes its place when it is next used
        return LogKey(recorded, "here", place)
    if found[0] is None:
        return LogKey(recorded, "not here", place)
    if claims[0] is None:
        return LogKey(recorded, "unusable", place, f"{place} holds no signing key; bring the right one back")
    return LogKey(recorded, "another one", place)


def _waiting(spool: Path) -> int:
    from audit.store import read
    from audit.store.engine import opened

    return read.waiting(opened(spool)) if spool.exists() else 0


def _artifacts(url: str) -> tuple[str, int | None, int | None]:
    """The artifacts' root without any password; files and bytes in it where it is a folder."""
    from audit.roots import folder_of, shown

    folder = folder_of(url)
    if folder is None:
        return shown(url), None, None
    sizes = [_size(Path(at, name)) for at, _, names in os.walk(folder) for name in names]
    return str(folder), len(sizes), sum(sizes)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # it had a temporary name and was renamed meanwhile
        return 0


def _for_people(found: Status) -> "Table":
    held = f"{found.events:,} events · {found.flow_runs:,} flow runs · {found.task_runs:,} task runs"
    newest = f" · newest {output.day_and_time(found.newest_event_at)} UTC" if found.newest_event_at else ""
    key = output.styled(found.mask_key_problem, "red") if found.mask_key_problem else f"{found.mask_key} (mode 0600)"
    size = (
        ""
        if found.artifact_bytes is None
        else f" · {found.artifact_files:,} files · {_megabytes(found.artifact_bytes)}"
    )
    return output.facts(
        ("store", f"{found.store} · schema {found.schema}"),
        ("guards", _guards(found)),
        *([("login", _login(found.login))] if found.login else []),
        *([("disk", _not_durable(found.not_durable))] if found.not_durable else []),
        ("origin", found.origin or "not set: run `audit init`"),
        ("mask key", key),
        ("log key", _said_of(found.log_key)),
        ("mode", found.mode),
        ("recording", _seen(found.all_states_seen, found.prefect, found.last_run)),
        ("plugin", _plugin(found.plugin, found.last_run)),
        ("on record", held + newest),
        ("sealed", _sealed(found)),
        *([("tree", output.styled(found.tree_problem, "bold red"))] if found.tree_problem else []),
        ("spool", _bad(found.waiting_in_spool, "events wait; the next run or `audit init` brings them home", "yellow")),
        ("lost", _bad(found.lost, "events are not on record: store and spool had both failed", "bold red")),
        ("approval", _waits(found.awaiting_approval)),
        ("retention", _kept_for(found)),
        ("alerts", "a target is set" if found.alert_target_set else "no target: set AUDIT_ALERT_URL to be told"),
        ("artifacts", found.artifacts + size),
    )


def _for_people_unread(known: KnownHere) -> "Table":
    key = known.mask_key_problem or f"{known.mask_key} (mode 0600)"
    waiting = known.waiting_in_spool
    return output.facts(
        ("store", known.store),
        ("problem", output.styled(known.problem, "bold red")),
        ("mask key", output.styled(key, "red" if known.mask_key_problem else "")),
        ("log key", _key_here(known)),
        ("mode", known.mode),
        ("recording", _seen(known.all_states_seen, known.prefect, None)),
        ("plugin", _plugin(known.plugin, None)),
        ("spool", _waits_here(waiting) if waiting is not None else output.styled(known.spool_problem or "", "red")),
        ("lost", _bad(known.lost, "events are not on record, as far as is known here", "bold red")),
    )


def _waits_here(waiting: int) -> "Text":
    return _bad(waiting, "events wait; the next run that reaches the store brings them home", "yellow")


def _key_here(known: KnownHere) -> "Text":
    if known.log_key_problem:
        return output.styled(known.log_key_problem, "red")
    if known.log_key_here is None:
        return output.styled(f"from the Prefect block {known.log_key}")
    if known.log_key_here:
        return output.styled(f"{known.log_key} (whether it is the log's own stands in the store)")
    return output.styled(f"none in {known.log_key}: this process does not seal")


def _guards(found: Status) -> "Text":
    if found.guards_in_place:
        return output.styled("the database refuses changes")
    return output.styled("triggers are not as they were made; compare with a copy from before", "bold red")


def _login(login: "Login") -> "Text":
    """`pipeline · auditor, writer`"""
    above = {"superuser", "owner"}.intersection(login.roles)
    more = ": it can lift the guards, so let pipelines have another" if above else ""
    roles = ", ".join(login.roles) or "none of the roles of deployments/postgres"
    return output.styled(f"{login.name} · {roles}{more}", "yellow" if above else "")


def _not_durable(off: list[str]) -> "Text":
    return output.styled(f"{' and '.join(off)} off: a power cut loses what was recorded", "bold red")


def _said_of(key: LogKey) -> "Text":
    lost = "audit log-key --lost --reason TEXT"
    match key.state:
        case "here":
            return output.styled(f"{key.recorded} in {key.place}: keep a copy")
        case "in a block":
            return output.styled(f"{key.recorded}, from the Prefect block {key.place}")
        case "not here":
            return output.styled(
                f"{key.recorded} is not in {key.place}: this process does not seal. If it is gone for good: {lost}",
                "yellow",
            )
        case "another one":
            return output.styled(
                f"{key.place} holds another one than the recorded {key.recorded}; bring it back", "red"
            )
        case "unusable":
            return output.styled(key.problem or "", "red")
        case "none":
            return output.styled("this log has none yet: run `audit init`", "yellow")


def _sealed(found: Status) -> "Text":
    """`187 of 188 events · last checkpoint 2026-11-24 21:04:11 UTC · 2 anchors`"""
    last = (
        f"last checkpoint {output.day_and_time(found.last_checkpoint_at)} UTC · {found.anchors:,} anchors"
        if found.checkpoints
        else "no checkpoint"
    )
    due = f" · {found.events_due:,} not sealed yet" if found.events_due else ""
    due += ": audit seal" if due and not found.tree_problem else ""
    own = found.events_not_sealed - found.events_due
    due += f" · {own:,} of the log's own, sealed with them" if due and own else ""
    said = f"{found.events_sealed:,} of {found.events:,} events · {last}{due}"
    return output.styled(said, "yellow" if found.events_due else "")


def _seen(all_states: bool, prefect: str, last_run: LastRun | None) -> "Text":
    if all_states:
        return output.styled(f"every state (Prefect {prefect})")
    if last_run and last_run.unbound:
        unbound = ", ".join(last_run.unbound)
        return output.styled(f"may be incomplete: the newest flow run could not bind {unbound}", "bold red")
    return output.styled(
        f"may be incomplete: Prefect {prefect} was not tried; not ready and rolled back are not seen", "bold red"
    )


def _plugin(plugin: "Activation", last_run: LastRun | None) -> "Text":
    """`on, by the environment; not in notebooks · newest flow run with it`"""
    last = f" · newest flow run {'with' if last_run.plugin else 'without'} it" if last_run else ""
    if plugin.problem:
        return output.styled(f"records nothing: {plugin.problem}{last}", "bold red")
    if plugin.enabled:
        return output.styled(f"on, by {plugin.by}; not in notebooks{last}")
    return output.styled(f"off: what does not use audit's flow and task is not recorded{last}")


def _bad(count: int, what: str, style: str) -> "Text":
    return output.styled(f"{count:,} {what}", style) if count else output.styled("nothing")


def _waits(models: int) -> "Text":
    if not models:
        return output.styled("no model awaits any")
    return output.styled(
        f"{models} {'model awaits' if models == 1 else 'models await'} approval: audit models", "yellow"
    )


def _kept_for(found: Status) -> "Text":
    holds = f"{found.holds} {'hold is' if found.holds == 1 else 'holds are'} in force" if found.holds else ""
    if found.retention_due:
        return output.styled("; ".join(filter(None, ["some is due: audit retention run", holds])), "yellow")
    return output.styled(holds or "nothing is due")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
