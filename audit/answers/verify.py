"""`audit verify`: the store held against what was sealed, and against what somebody kept outside of it.

One snapshot, read once from the first event to the last; memory grows with checkpoints and tiles alone. Nothing here
shows that what was recorded was true, or that everything was recorded.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.answers import checks, heads
from audit.answers.checks import WITHDRAWING, GrowingTree, Told
from audit.answers.expiries import RESTED_ON, Rule, Rules
from audit.answers.heads import ANCHORED, OPENED, SIGNED, Held, Log
from audit.answers.statements import STATED, check_statements
from audit.answers.verdict import Verdict
from audit.answers.walk import Ahead, Findings, Walk, named, told
from audit.errors import CouldNotTell, ProofRejected, UserError
from audit.ledger import tree
from audit.ledger.note import Checkpoint, Note, VerifierKey, parse_checkpoint, parse_note, verified
from audit.ledger.tiles import Progress
from audit.store.engine import AuditStore
from audit.store.evidence import Row, Snapshot, snapshot
from audit.store.ledger import KEY_TYPES

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

BEFORE = (*KEY_TYPES, OPENED, *RESTED_ON)  # types of the events that a resumed reading needs of what it does not read
MEANINGS = ("operator", "cast", "function", "type", "collation", "relation")  # by which a query says something else
MOST_SAID = 3  # lines about damage, which has no end
LISTED = 50_000  # ids of withdrawn payloads that are looked for at once
LEVELS = range(0, 64, tree.TILE_HEIGHT)
Start = tuple[int, bytes]  # size and root of the tree that is gone on from
OTHER_ROOT = "the store's tree of this size has another root: the log was rewritten, or this is one of two"
UNDER_IT = "it is the store's own too, but the tree under it is another: sealed events were changed"
TOLD = frozenset(type.encode() for type in (*BEFORE, SIGNED, ANCHORED, STATED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the store is held against, and how much of it is read."""

    kept: Sequence[tuple[str, str]] = ()  # where, and the checkpoint
    key: VerifierKey | None = None
    since: int | None = None
    artifacts: bool = False
    tsa_roots: Path | None = None
    witnesses: Sequence[VerifierKey] = ()
    progress: Progress | None = None


def verify(
    store: AuditStore,
    *,
    kept: Sequence[str] = (),
    elsewhere: Sequence[tuple[str, str]] = (),
    key: VerifierKey | None = None,
    since: int | None = None,
    artifacts: bool = False,
    tsa_roots: Path | None = None,
    witnesses: Sequence[VerifierKey] = (),
    progress: Progress | None = None,
) -> Verdict:
    """Whether the store holds what was sealed.

    `kept`: checkpoints that somebody kept; `elsewhere`: likewise, with where each stands; `key`: the log's, as it is
    known from elsewhere; `since`: size of a checkpoint below which nothing is read again; `artifacts`: hash again what
    payloads refer to; `tsa_roots`, `witnesses`: whose time stamps and cosignatures are demanded.
    """
    found = Findings()
    asked = Asked(
        kept=[*(("that you kept", note) for note in kept), *elsewhere],
        key=key,
        since=since,
        artifacts=artifacts,
        tsa_roots=tsa_roots,
        witnesses=witnesses,
        progress=progress,
    )
    try:
        with snapshot(store) as taken:
            return _verdict(taken, asked, found)
    except CouldNotTell as lacking:
        found.unknown.append(str(lacking))
        return found.verdict()


def _verdict(snapshot: Snapshot, asked: Asked, found: Findings) -> Verdict:
    if not _as_defined(snapshot, found):
        return found.verdict()
    kept, roots = _readable(asked.kept, found), _roots(asked.tsa_roots)
    rows = list(snapshot.checkpoints())
    start = _start(snapshot, asked.since or 0, kept, rows, found)
    if start is None:
        return found.verdict()
    since, root = start_of = start.size, start.root()
    if not since:
        _check_files(snapshot, found)
    stops = [*(row[0] for row in rows), *(one.head.size for one in kept)]
    walk = Walk(snapshot, found, told=TOLD, stops=stops, tree=start, progress=asked.progress)
    walk.run()
    log = heads.log_of(
        [*_told_before(snapshot, since, root, found), *walk.told], rows, found,
        size=walk.size, since=since, roots=walk.roots | {since: root}, hole=walk.hole, latest=walk.latest,
    )  # fmt: skip
    notes = heads.check_checkpoints(log, rows, found)
    anchors = heads.check_anchors(log, snapshot.anchors(), notes, roots, asked.witnesses, found)
    heads.check_times(log, anchors, found)
    _check_nodes(snapshot, walk, since, found)
    withdrawals = _withdrawals(snapshot, walk.size, start_of, Rules.on_record(log), found)
    check_statements(snapshot, log, found)
    _look_at_artifacts(walk.addresses, asked.artifacts, found)
    _remark(walk, asked, anchors, found)
    return found.verdict(
        events=walk.read,
        since=since,
        size=walk.size,
        unsealed=walk.unsealed,
        unsealed_types=tuple(sorted(walk.unsealed_types)),
        checkpoints=len(notes),
        anchors=len(anchors),
        artifacts=len(walk.addresses),
        held_to=(
            *_held_to_checkpoints(snapshot, kept, asked.key, log, rows, found),
            *_held_to_key(asked.key, log, found),
            *_held_to_anchors(anchors),
        ),
        withdrawals=tuple(sorted(withdrawals.items())),
    )


def _as_defined(snapshot: Snapshot, found: Findings) -> bool:
    """Whether the tables are those that were made; nothing can be read off others."""
    odd = snapshot.oddities()
    if guards := [one.name for one in odd if one.kind == "trigger"]:
        found.notes.append(
            f"The triggers that refuse changes are not as they were made ({len(guards)}, such as {min(guards)}). "
            "Changes were possible; what is read here would show them."
        )
    for one in (one for one in odd if one.kind != "trigger"):
        if one.how == "changed" or (one.how == "missing" and one.kind != "index") or one.kind in MEANINGS:
            found.fault_of_whole(f"{one.kind} {one.name}", f"is {one.how}: people and this reading may see other rows")
        else:
            found.notes.append(f"The {one.kind} {one.name} is {one.how} here. No row is another one for that.")
    encoding = snapshot.encoding()
    if encoding != "UTF-8":
        found.fault_of_whole("store", f"keeps its text as {encoding}, which it was not made with")
    if not snapshot.readable() or encoding != "UTF-8":
        found.unknown.append("Events were not read, for the store is not as it was made.")
        return False
    return True


def _check_files(snapshot: Snapshot, found: Findings) -> None:
    """Rows that indexes pass over are hidden from who reads by them."""
    damage = snapshot.damage()
    for what in damage.pages[:MOST_SAID]:
        found.unknown.append(f"The store is damaged. {snapshot.engine} says: {what}")
    for what in damage.indexes:
        found.fault_of_whole("store", f"{snapshot.engine} says: {what}")
    if damage.unasked:
        found.notes.append(damage.unasked)


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint from outside of the store."""

    note: Note
    head: Checkpoint
    where: str  # `that you kept`

    @property
    def about(self) -> str:
        return f"checkpoint of size {self.head.size} {self.where}"


def _readable(kept: Sequence[tuple[str, str]], found: Findings) -> list[Kept]:
    readable: list[Kept] = []
    for where, written in kept:
        try:
            note = parse_note(written)
            readable.append(Kept(note, parse_checkpoint(note.text), where))
        except ProofRejected as bad:
            found.unknown.append(f"The checkpoint {where} cannot be read: {bad.what}")
    return readable


def _start(
    snapshot: Snapshot,
    since: int,
    kept: Sequence[Kept],
    rows: Sequence[Row],
    found: Findings,
) -> GrowingTree | None:
    """The tree over what is not read again, from its stored hashes; None, with the fault, where they do not fit.

    Raises CouldNotTell if there is no such checkpoint.
    """
    if not since:
        return GrowingTree()
    outside = [one for one in kept if one.head.size == since]
    expected = [one.head.root for one in outside] or _roots_on_record(rows, since)
    if not expected:
        raise CouldNotTell(
            f"There is no checkpoint of size {since} to go on from.", hint="Run it without --since-checkpoint."
        )
    about = f"checkpoint of size {since}"
    size = snapshot.tree_size()
    if since > size:
        found.fault_of_whole(about, f"the log was cut back: the store has {size} leaves")
        return None
    unfinished = [(level, (since >> level) // tree.TILE_WIDTH * tree.TILE_WIDTH, since >> level) for level in LEVELS]
    stored = [snapshot.hashes(*span) for span in unfinished]
    whole = all(len(found) == end - first for found, (_, first, end) in zip(stored, unfinished, strict=True))
    start = GrowingTree(since, stored)
    if not whole or start.root() != expected[0]:
        found.fault_of_whole(
            about,
            "the stored tree does not lead to its root. Run it without --since-checkpoint to see what was changed",
        )
        return None
    of = outside[0].where if outside else "in the store, which nobody kept outside of it"
    found.notes.append(f"Leaves before {since} were not read again: that rests on the checkpoint of this size {of}.")
    return start


def _roots_on_record(rows: Sequence[Row], since: int) -> list[bytes]:
    for size, written, plain in rows:
        if size == since and plain:
            try:
                return [parse_checkpoint(parse_note(written.decode(errors="replace")).text).root]
            except ProofRejected as bad:
                raise CouldNotTell(f"The checkpoint of size {since} cannot be read: {bad.what}") from None
    return []


def _told_before(snapshot: Snapshot, since: int, root: bytes, found: Findings) -> list[Told]:
    """What is needed of what is not read again, each proven to be in the tree of that size."""
    events: list[Told] = []
    for place, envelope, salt, body, plain in snapshot.of_types(BEFORE, since) if since else ():
        try:
            said = _proven(snapshot, place, envelope, (since, root))
        except ProofRejected as bad:
            found.fault(named(place, envelope, snapshot, since), bad.what)
            continue
        bound = not checks.payload_fault(salt, body, plain, str(said.get("payload_hash")).encode())
        if event := told(place, envelope, body if bound else None):
            events.append(event)
    return events


def _proven(snapshot: Snapshot, place: int, envelope: bytes, start: Start) -> checks.Envelope:
    """What an envelope says, which is in the tree that was gone on from if it was not read. Raises ProofRejected."""
    said = checks.read_envelope(envelope)
    since, root = start
    if place <= since:
        proof = tree.inclusion_proof(place - 1, since, _stored(snapshot))
        tree.verify_inclusion(tree.leaf_hash(envelope), place - 1, since, proof, root)
    return said


def _stored(snapshot: Snapshot) -> tree.Read:
    """Reads nodes of the stored tree. Raises ProofRejected where some are missing."""

    def spans(wanted: Sequence[tree.Span]) -> list[list[bytes]]:
        found = [snapshot.hashes(*span) for span in wanted]
        if any(len(row) != span.end - span.first for row, span in zip(found, wanted, strict=True)):
            raise ProofRejected("the stored hashes of the tree are not all there")
        return found

    return tree.through_tiles(spans)


def _roots(file: Path | None) -> "list[Certificate]":
    """Raises CouldNotTell if the file holds none."""
    if file is None:
        return []
    from audit.ledger.timestamps import read_roots

    try:
        return read_roots(file)
    except UserError as bad:
        raise CouldNotTell(bad.what, hint=bad.hint) from None


def _check_nodes(snapshot: Snapshot, walk: Walk, since: int, found: Findings) -> None:
    """The stored hashes above the leaves are those that the leaves imply, no more and no less."""
    if walk.hole:
        return
    implied = dict(walk.nodes)
    for level, index, hash, blob in snapshot.nodes():
        about = f"node {index!r} of level {level!r}"
        known = level in LEVELS[1:] and isinstance(index, int)
        if known and index >= 0 and index + 1 << level <= since:
            continue
        expected = implied.pop(tree.Node(level, index), None) if known else None
        if expected is None:
            found.fault(about, "is none that the leaves imply: it was put in")
        elif not blob or hash != expected:
            found.fault(about, "its hash is not the one that the leaves imply")
    for node in implied:
        found.fault(f"node {node.nth} of level {node.level}", "is missing")


def _withdrawals(snapshot: Snapshot, size: int, start: Start, rules: Rules, found: Findings) -> "Counter[str]":
    """Withdrawn payloads by the actor who withdrew them; what was not permitted is a fault."""
    by_actor: Counter[str] = Counter()
    waiting, listed = Ahead(snapshot.withdrawals()), dict[str, str]()
    for permit in snapshot.permits(WITHDRAWING):
        permission = _permission(snapshot, permit, size, start, rules)
        while (row := waiting.next) and _is_due(row[1], permission.place):
            waiting.take()
            _judge(row, permission if row[1] == permission.place else None, snapshot, size, by_actor, found)
        listed |= dict.fromkeys(permission.ids, permission.who)
        if len(listed) >= LISTED:
            _demand_gone(snapshot, listed, size, found)
            listed.clear()
    while row := waiting.next:
        waiting.take()
        _judge(row, None, snapshot, size, by_actor, found)
    _demand_gone(snapshot, listed, size, found)
    return by_actor


def _is_due(by: object, place: int) -> bool:
    """Whether a withdrawal comes before those that are permitted by what is behind `place`; what is no number is last,
    as it is read."""
    return by is None or (isinstance(by, int | float) and by <= place)


def _judge(
    row: Row,
    permission: "Permission | None",
    snapshot: Snapshot,
    size: int,
    by_actor: "Counter[str]",
    found: Findings,
) -> None:
    """One withdrawal, by the event that it names as its permission, if there is one."""
    place, _, envelope, there, seq, by_seq = row
    permission = permission or Permission(0, wrong=f"there is no event at seq {checks.shown(by_seq)}")
    about = f"event at seq {seq} (withdrawn)" if envelope is None else named(place, envelope, snapshot, size)
    if wrong := permission.refusal(place, envelope):
        found.fault(about, f"the withdrawal of its payload is not permitted: {wrong}")
    elif there:
        found.fault(about, "its payload was withdrawn and is there: it was brought back")
    else:
        by_actor[permission.actor] += 1


def _demand_gone(snapshot: Snapshot, listed: Mapping[str, str], size: int, found: Findings) -> None:
    """`listed`: ids of events whose payload is withdrawn, each with the event that says so."""
    for place, envelope, id in snapshot.unwithdrawn(listed) if listed else ():
        found.fault(
            named(place, envelope, snapshot, size),
            f"its payload is there, though {listed[id.decode(errors='replace')]} withdraws it: brought back, or never "
            "taken away",
        )


@dataclass(frozen=True, slots=True)
class Permission:
    """What an event permits to withdraw; `wrong`: why it permits nothing."""

    place: int
    who: str = ""
    wrong: str = ""
    actor: str = ""
    ids: frozenset[str] = frozenset()
    rule: Rule | None = None  # what else each of them is held to

    def refusal(self, place: int, envelope: bytes | None) -> str:
        """Why the payload of the event at `place` may not be withdrawn; empty if it may."""
        if self.wrong:
            return self.wrong
        if envelope is None:
            return "there is no such event"
        try:
            said = checks.read_envelope(envelope)
        except ProofRejected as bad:
            return bad.what
        if said.get("type") in WITHDRAWING:
            return "it withdraws others itself"
        if place >= self.place:
            return f"{self.who} is not later"
        if said.get("id") not in self.ids:
            return f"{self.who} does not list it"
        return self.rule(said) if self.rule else ""


def _permission(snapshot: Snapshot, row: Row, size: int, start: Start, rules: Rules) -> Permission:
    place, envelope, salt, body, plain = row
    who = named(place, envelope, snapshot, size)
    try:
        said = _proven(snapshot, place, envelope, start)
    except ProofRejected as bad:
        return Permission(place, who, bad.what)
    if place > size:
        return Permission(place, who, f"{who} waits to be sealed")
    if said.get("type") not in WITHDRAWING:
        return Permission(place, who, f"{who} is of type {checks.shown(said.get('type'))}")
    if checks.payload_fault(salt, body, plain, str(said.get("payload_hash")).encode()):
        return Permission(place, who, f"{who} has no payload that lists anything")
    event = told(place, envelope, body)
    listed = event.facts.get("events") if event and event.facts else None
    ids = frozenset(id for id in listed if isinstance(id, str)) if isinstance(listed, list) else frozenset()
    if event is None:
        return Permission(place, who, f"{who} cannot be read")
    return Permission(place, who, rules.refusal(event), str(said.get("actor")), ids, rules.rule(event))


def _look_at_artifacts(addresses: set[bytes], again: bool, found: Findings) -> None:
    """Files that payloads refer to: one that differs is a fault; one that is missing keeps an answer from being given
    if it was asked for, else it is worth a word."""
    from audit.artifacts import blobs
    from audit.roots import folder_of, shown
    from audit.settings import settings

    if not addresses:
        return
    try:
        url = settings().artifacts_url
    except UserError:
        url = ""
    folder = folder_of(url)
    if not url or (folder is not None and not folder.is_dir()):
        where = f"there is no folder {folder}" if url else "AUDIT_HOME is not set"
        (found.unknown if again else found.notes).append(f"Artifacts ({len(addresses)}) were not looked at: {where}.")
        return
    missing, differing = [], 0
    for digest in sorted(addresses):
        address = f"{blobs.SCHEME}{digest.decode()}"
        if again:
            stored = blobs.stored_digest(address)
            if stored is not None and stored != digest.decode():
                found.fault(address, f"differs: its bytes have SHA-256 {stored}")
                differing += 1
            missing += [address] if stored is None else []
        elif folder is not None and blobs.local_path(address) is None:
            missing.append(address)
    if again:
        whole = len(addresses) - len(missing) - differing
        found.notes.append(f"{whole} of {len(addresses)} artifacts were hashed again and are what was recorded.")
    if missing:
        (found.unknown if again else found.notes).append(
            f"Missing under {shown(url)}: {len(missing)} of {len(addresses)} artifacts, the first {missing[0]}."
        )


def _remark(walk: Walk, asked: Asked, anchors: Sequence[Held], found: Findings) -> None:
    """What keeps an answer from being given, and what is worth a word."""
    if not walk.size:
        waiting = f"{walk.unsealed} events wait. Run `audit seal` where the log's key is" if walk.unsealed else ""
        found.unknown.append(f"Nothing is sealed yet: {waiting or 'nothing was recorded'}.")
    if walk.later:
        found.unknown.append(
            f"{walk.later} events were written by a later release, whose envelopes this one does not know. "
            "Update prefect-audit."
        )
    if walk.late:
        found.notes.append(
            f"{walk.late} {'event was' if walk.late == 1 else 'events were'} sealed more than an hour after later "
            "ones: spooled meanwhile, or dated back."
        )
    if asked.tsa_roots and not any(one.by is None for one in anchors):
        found.unknown.append("No time stamp by an authority that you named is on record. `audit anchor` asks for one.")
    for key in asked.witnesses:
        if not any(one.by == key for one in anchors):
            found.unknown.append(f"No cosignature by {key.shown} is on record. `audit anchor` asks for one.")


def _held_to_checkpoints(
    snapshot: Snapshot,
    kept: Sequence[Kept],
    key: VerifierKey | None,
    log: Log,
    rows: Sequence[Row],
    found: Findings,
) -> list[str]:
    held: list[str] = []
    stored = {size: written for size, written, _ in rows}
    for one in kept:
        size = one.head.size
        try:
            by = verified(one.note, [*log.keys, *([key] if key else [])])
        except ProofRejected as bad:
            found.unknown.append(f"The {one.about} is not as it was signed: {bad.what}")
            continue
        if wrong := _departs(snapshot, one.head, log, by):
            if wrong == OTHER_ROOT and stored.get(size) == str(one.note).encode():
                wrong = UNDER_IT  # whoever did this had no need of the key
            found.fault_of_whole(one.about, wrong)
        elif size in log.roots or size < log.since:
            at = log.signed_at(size)
            held.append(f"{one.about}{f', signed {at:%Y-%m-%d %H:%M:%S}' if at else ''}")
    return held


def _departs(snapshot: Snapshot, head: Checkpoint, log: Log, by: Sequence[VerifierKey]) -> str:
    """How the log departs from a head that somebody kept; empty if it continues it."""
    origin = log.origin or (log.keys[0].name if log.keys else None)
    if head.origin != origin:
        return f"it is of the log {head.origin}, the store is of {origin}"
    if head.size > log.size:
        return f"the log was cut back: the store has {log.size} leaves"
    if head.size < log.since:
        try:
            proof = tree.consistency_proof(head.size, log.since, _stored(snapshot))
            tree.verify_consistency(head.size, head.root, log.since, log.roots[log.since], proof)
        except ProofRejected as bad:
            return bad.what
    elif log.roots.get(head.size, head.root) != head.root:
        return OTHER_ROOT
    return "" if by else "it is signed by no key of this log: the log was written anew with another key"


def _held_to_key(key: VerifierKey | None, log: Log, found: Findings) -> list[str]:
    """From the reign of the key that somebody holds, each later one must have been handed over by the one before."""
    if key is None:
        return []
    reigns = list(log.reigns)
    while reigns and reigns[0].key != key:
        reigns.pop(0)
    if not reigns:
        now = f"{log.keys[-1].shown}, which it did not hand over to" if log.keys else "no key at all"
        found.fault_of_whole("log key", f"you hold {key.shown}, the log is signed by {now}")
        return []
    for reign in reigns[1:]:
        if reign.lost:
            found.notes[:] = [note for note in found.notes if not note.startswith(f"{reign.by.about}: ")]  # told here
            found.unknown.append(
                f"The key before that of {reign.by.about} was lost. Nothing that you hold speaks for what was sealed "
                "since: get the new key in another way and name it with --key."
            )
            return []
    turns = len(reigns) - 1
    since = f", handed over {'once' if turns == 1 else f'{turns} times'} since" if turns else ""
    return [f"key {key.shown} that you kept{since}"]


def _held_to_anchors(anchors: Sequence[Held]) -> list[str]:
    """The latest of each authority and witness."""
    latest = {one.by: one for one in sorted(anchors, key=lambda one: one.size)}
    return [
        f"{'time stamp' if one.by is None else f'cosignature by {one.by.shown}'} of {one.at:%Y-%m-%d %H:%M:%S} on the "
        f"checkpoint of size {one.size}"
        for one in latest.values()
    ]
