"""The log, or a part of it, as one zip file for somebody who does not trust us; and the check of such a file.

A bundle needs no store. Of the whole log the tree is built anew from its entries; in a part each comes with its proof.
Nothing is ever extracted from a bundle, and what has two readings, unpacks to too much or does not belong is refused.
"""

import base64
import io
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import IO, Any

import orjson
from sqlalchemy import Connection

from audit.answers import checks, outside
from audit.answers.checks import WITHDRAWING, Envelope, GrowingTree, Told, is_later
from audit.answers.keeping import facts_digest
from audit.answers.verdict import Fault, Verdict
from audit.errors import CouldNotTell, InconsistentTree, NotFound, ProofRejected, UserError
from audit.events.canonical import canonical, timestamp
from audit.ledger import tree
from audit.ledger.keys import keys_on_record
from audit.ledger.note import (
    Checkpoint,
    Note,
    VerifierKey,
    decoded,
    gave_leave,
    parse_checkpoint,
    parse_note,
    verified,
)  # fmt: skip
from audit.ledger.proof import believed_head
from audit.ledger.sealer import reader
from audit.ledger.tiles import Progress, silent
from audit.store import ledger
from audit.store.engine import AuditStore
from audit.store.ledger import KEY_TYPES, Part

FORMAT = "prefect-audit/bundle@1"
README, VERIFIER, MANIFEST = "README.txt", "verify.py", "manifest.json"
CHECKPOINT, CHECKPOINTS, EVENTS, KEYS = "checkpoint", "checkpoints.jsonl", "events.jsonl", "log.vkey"
NEEDED = {MANIFEST, CHECKPOINT, CHECKPOINTS, EVENTS, KEYS}
MEMBERS = NEEDED | {README, VERIFIER}
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
STAMP = re.compile(r"anchors/([1-9][0-9]{0,18})-[1-9][0-9]{0,2}\.tsr")
MOST_MEMBERS = 200_000
RATIO = 200  # that a list of events packs to at most: salts and hashes do not pack
WHOLE: outside.Fields = {  # what a manifest has
    "format": str, "origin": str, "size": int, "complete": bool, "payloads": bool, "events": int, "checkpoints": int,
    "made_at": str, "made_by": str,
}  # fmt: skip
PART: outside.Fields = WHOLE | {"part": str}
BROKEN = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError,
    ValueError, OverflowError, OSError,
)  # fmt: skip  # what zipfile raises over a file by whoever

TOLD_EVERY = 1_000  # events


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What went into a bundle."""

    origin: str
    size: int  # leaves of the checkpoint
    events: int
    payloads: int
    withdrawn: int  # payloads that are not there any more
    complete: bool  # False: a part
    checkpoints: int
    anchors: int  # time stamps and cosignatures


def export(
    store: AuditStore,
    path: Path,
    *,
    part: Part | None = None,
    payloads: bool = True,
    by: str,
    at: datetime,
    force: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write the log up to its newest checkpoint, or a part of it, whole or not at all, and read it back before it gets
    its name.

    Raises CouldNotTell if nothing is sealed yet, InconsistentTree if the store is not what was sealed, NotFound if
    nothing is in that part, UserError if `path` exists or cannot be written. With `force` a former bundle gives way,
    nothing else.
    """
    path = path.absolute()
    if path.exists() or path.is_symlink():
        _demand_replaceable(path, force)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with _telling(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _for_its_owner(draft) as file, store.reading() as connection, _telling(path):
                made = _written(connection, file, part or Part(), payloads, by, timestamp(at), progress)
            _demand_held(draft)
            draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()
    return made


def verify_bundle(
    path: Path,
    *,
    key: VerifierKey | None = None,
    kept: Sequence[str] = (),
    witnesses: Sequence[VerifierKey] = (),
    tsa_roots: Path | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Check a file that `audit export` wrote, without a store.

    `key`: the log's, as it is known from elsewhere; `kept`: checkpoints of the log that somebody kept; `witnesses`:
    keys whose cosignatures are demanded; `tsa_roots`: PEM file of the time stamp authorities that are believed.
    """
    try:
        with outside.plain_file(path) as file:
            return _judged(file, outside.Trust(key, kept, witnesses, tsa_roots), progress)
    except CouldNotTell as lacking:
        return Verdict(unknown=(str(lacking),))
    except ProofRejected as bad:
        return Verdict(faults=(Fault("bundle", bad.what),))


@dataclass(frozen=True, slots=True)
class _Entry:
    """An event of a bundle, its payload held against its envelope."""

    about: str
    leaf: int
    hash: bytes
    said: Envelope
    told: Mapping[str, Any]  # of its payload, where that bears on other events
    withdrawn_by: int | None  # leaf of the event that permitted it
    proof: tuple[bytes, ...]  # none in a whole log


@dataclass(slots=True)
class _Seen:
    """What is counted while a bundle is read."""

    withdrawals: Counter[str] = field(default_factory=Counter)  # payloads that are gone, by who permitted it
    permits: list[_Entry] = field(default_factory=list)  # events that permitted it
    later: int = 0  # events that a later release wrote


def _written(
    connection: Connection, file: IO[bytes], part: Part, payloads: bool, by: str, at: str, progress: Progress
) -> Exported:
    newest = ledger.last_checkpoint(connection)
    if newest is None:
        raise CouldNotTell("Nothing is sealed yet.", hint="Run `audit seal`, then this again.")
    size, note, cosignatures = next(ledger.cosigned_checkpoints(connection, newest[0]))
    checkpoint = outside.cosigned(size, note, cosignatures)
    head = parse_checkpoint(checkpoint.text)
    if ledger.size(connection) != size:
        raise InconsistentTree("The last checkpoint is not of as many events as are sealed.", hint=outside.CHANGED)
    complete = part == Part()
    counted = Counter[str](checkpoint=1, anchor=len(cosignatures))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        _put(archive, README, [_readme(head, complete).encode()])
        _put(archive, VERIFIER, [outside.standalone()])
        _put(archive, KEYS, [outside.key_lines(keys_on_record(ledger.key_events(connection)))])
        _put(archive, CHECKPOINT, [str(checkpoint).encode()])
        _put(archive, CHECKPOINTS, _older_lines(connection, size, counted) if complete else ())
        for name, stamp in _stamps(connection, 0 if complete else size, counted):
            _put(archive, name, [stamp])
        _put(archive, EVENTS, _event_lines(connection, part, size, payloads, counted, progress))
        manifest = {
            "format": FORMAT,
            "origin": head.origin,
            "size": size,
            "complete": complete,
            "payloads": payloads,
            "events": counted["event"],
            "checkpoints": counted["checkpoint"],
            "made_at": at,
            "made_by": by,
        }
        if not complete:
            manifest["part"] = _in_words(part)
        _put(archive, MANIFEST, [canonical(manifest) + b"\n"])
    if not counted["event"]:
        raise NotFound("No sealed event is so.", hint="See `audit events`; `audit seal` seals what waits.")
    return Exported(
        origin=head.origin,
        size=size,
        events=counted["event"],
        payloads=counted["payload"],
        withdrawn=counted["withdrawn_by"],
        complete=complete,
        checkpoints=counted["checkpoint"],
        anchors=counted["anchor"],
    )


def _in_words(part: Part) -> str:
    """`run 0199…; types drift.*, model.*`"""
    if part.called:
        return part.called
    chosen = (
        (name, value if isinstance(value, str) else ", ".join(value)) for name, value in asdict(part).items() if value
    )
    return "; ".join(f"{name} {value}" for name, value in chosen)


def _put(archive: zipfile.ZipFile, name: str, parts: Iterable[bytes]) -> None:
    """Write a member. Nothing of it depends on the clock: the same log makes the same bytes."""
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.compress_type, member.create_system = zipfile.ZIP_DEFLATED, 3
    member.external_attr = (stat.S_IFREG | 0o600) << 16
    with archive.open(member, "w", force_zip64=name in (EVENTS, CHECKPOINTS)) as written:
        for part in parts:
            written.write(part)


def _older_lines(connection: Connection, newest: int, counted: Counter[str]) -> Iterator[bytes]:
    for size, note, cosignatures in ledger.cosigned_checkpoints(connection):
        if size < newest:
            counted.update(checkpoint=1, anchor=len(cosignatures))
            yield canonical({"note": str(outside.cosigned(size, note, cosignatures))}) + b"\n"


def _stamps(connection: Connection, since: int, counted: Counter[str]) -> Iterator[tuple[str, bytes]]:
    for size, stamps in groupby(ledger.timestamps(connection, since), key=attrgetter("size")):
        for nth, row in enumerate(stamps, 1):
            if not isinstance(row.evidence, bytes):
                raise ProofRejected(f"A time stamp of the checkpoint of size {size} is not kept as it was.")
            counted["anchor"] += 1
            yield f"anchors/{size}-{nth}.tsr", row.evidence


def _event_lines(
    connection: Connection, part: Part, size: int, payloads: bool, counted: Counter[str], progress: Progress
) -> Iterator[bytes]:
    read = reader(connection)
    for row in ledger.sealed_events(connection, part, permitting=payloads):
        outside.demand_sealed(row)
        line: dict[str, Any] = {"index": row.idx, "envelope": row.envelope}
        if payloads and row.withdrawal is not None:
            line["withdrawn_by"] = row.withdrawn_by
        elif payloads and row.salt is not None:
            line |= {"payload": row.body, "salt": row.salt.hex()}
        if part != Part():
            proof = tree.inclusion_proof(row.idx, size, read)
            line["proof"] = [base64.b64encode(hash).decode() for hash in proof]
        counted.update(("event", *(name for name in ("payload", "withdrawn_by") if name in line)))
        if not counted["event"] % TOLD_EVERY:
            progress(row.idx, size)
        yield canonical(line) + b"\n"


def _demand_replaceable(path: Path, force: bool) -> None:
    """Raises UserError unless there is a former bundle that may give way."""
    if not force:
        raise UserError(f"{path} exists.", hint="Name another file with -o, or give --force to replace it.")
    if path.is_symlink() or not _is_bundle(path):
        raise UserError(f"{path} is no bundle: it stays as it is.", hint="Name another file with -o.")


def _is_bundle(path: Path) -> bool:
    """Whether some release of ours wrote it, by what it says of itself."""
    try:
        with outside.plain_file(path) as file, zipfile.ZipFile(file) as archive, archive.open(MANIFEST) as manifest:
            said = orjson.loads(manifest.read(outside.SMALL_BYTES))
            return str(said["format"]).startswith(FORMAT.rpartition("@")[0])
    except (CouldNotTell, KeyError, TypeError, *BROKEN):  # a JSON that is none is a ValueError
        return False


def _demand_held(bundle: Path) -> None:
    """Raises InconsistentTree unless what was written is what was sealed: nobody is handed what does not hold."""
    found = verify_bundle(bundle)
    for fault in found.faults:
        raise InconsistentTree(f"{fault.about}: {fault.what}", hint=outside.CHANGED)
    for lacking in found.unknown:
        raise CouldNotTell(lacking)


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn what writing comes upon into a line; around the store's own reading and inside it, where the store would
    take a full disk for its own."""
    try:
        yield
    except ProofRejected as bad:
        raise InconsistentTree(bad.what, hint=outside.CHANGED) from None
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).", hint="Name another file with -o.") from None


def _for_its_owner(path: Path) -> IO[bytes]:
    """A new file; payloads may be about people."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _readme(head: Checkpoint, complete: bool) -> str:
    what = f"all {head.size} sealed events" if complete else f"some of the {head.size} sealed events"
    return f"""This file holds {what} of the log {head.origin}, as `audit export` of prefect-audit wrote them.

To check it, on a machine of your own with Python 3.9 or newer and without our software:

    python -m pip install cryptography
    unzip -p THIS.zip verify.py > verify.py
    python verify.py THIS.zip --key KEY --checkpoint FILE

KEY is the log's verifier key as you had it from elsewhere, FILE a checkpoint of this log that you kept. Without the
first it is only shown that all of this belongs together; without the second you may be shown another log than others.
verify.py came with what it is to check: read it first, it is one file, or take it from the published package.

events.jsonl        an event a line: leaf index, envelope (the log's entry), payload and its salt{
        "" if complete else ", inclusion proof"
    }
checkpoint          the tree's head that the log's key signed, with the cosignatures of witnesses
checkpoints.jsonl   older ones{"" if complete else " (none in a part)"}
log.vkey            the log's keys, the oldest first
anchors/            time stamps (RFC 3161) of checkpoints, by size
manifest.json       what this is: of whom, how much, when made

What this does not show: that what was recorded was true; that all that happened was recorded; what came after the
checkpoint{"" if complete else "; that no other events belong to this part"}.
"""


def _judged(file: IO[bytes], trust: outside.Trust, progress: Progress) -> Verdict:
    """Raises ProofRejected where the bundle, or what is in it, does not hold."""
    try:
        with zipfile.ZipFile(file) as archive:
            _demand_members(archive, file)
            return _members_judged(archive, trust, progress)
    except BROKEN as broken:
        raise ProofRejected(f"The zip is broken ({broken}).") from None


def _demand_members(archive: zipfile.ZipFile, file: IO[bytes]) -> None:
    """Raises ProofRejected unless a bundle's members are there, each once, and nothing else."""
    file.seek(0)
    begin = file.read(4)
    file.seek(-22, os.SEEK_END)  # the record that ends a zip without a comment
    members = archive.infolist()
    if begin != b"PK\x03\x04" or file.read(4) != b"PK\x05\x06" or archive.comment or len(members) > MOST_MEMBERS:
        raise ProofRejected("This is no bundle: something stands around the zip, or it has too many members.")
    names = [member.filename for member in members]
    for member in members:
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        most = outside.SMALL_BYTES
        if name in (EVENTS, CHECKPOINTS):
            most = outside.PAYLOAD_BYTES + RATIO * member.compress_size
        if name != member.orig_filename or not (name in MEMBERS or STAMP.fullmatch(name)):
            raise ProofRejected(f"The zip has a member that belongs into no bundle: {member.orig_filename[:80]!r}.")
        if member.flag_bits & 1 or member.compress_type not in PACKED or kind not in (0, stat.S_IFREG):
            raise ProofRejected(f"{name} in the zip is encrypted, packed in another way, or no plain file.")
        if member.file_size > most:
            raise ProofRejected(f"{name} in the zip would unpack to {member.file_size:,} bytes: it looks like a bomb.")
    if len(set(names)) < len(names):
        raise ProofRejected("The zip has a member twice.")
    if missing := NEEDED - set(names):
        raise ProofRejected(f"The bundle is not whole: {', '.join(sorted(missing))} is missing.")


def _members_judged(archive: zipfile.ZipFile, trust: outside.Trust, progress: Progress) -> Verdict:
    manifest = outside.strict_object(_text(archive, MANIFEST).removesuffix("\n"), MANIFEST, WHOLE, PART)
    if manifest["format"] != FORMAT or manifest["complete"] == ("part" in manifest):
        raise ProofRejected(f"{MANIFEST} is not of the format {FORMAT}.")
    named = outside.keys_of(_text(archive, KEYS))
    note = parse_note(_text(archive, CHECKPOINT))
    head = parse_checkpoint(note.text)
    if (head.origin, head.size) != (manifest["origin"], manifest["size"]):
        raise ProofRejected(f"{MANIFEST} speaks of another checkpoint than the one in the bundle.")
    older = _older(archive, head, named)
    if len(older) + 1 != manifest["checkpoints"]:
        raise ProofRejected(f"The bundle has {len(older) + 1} checkpoints, {MANIFEST} says {manifest['checkpoints']}.")
    seen = _Seen()
    entries = _entries(archive, manifest, seen, progress)
    notes = {**older, head.size: note}
    told: list[Told] = []
    if manifest["complete"]:
        roots = _grown(entries, notes, told, outside.kept_sizes(trust))
    else:
        roots = _included(entries, head)
    keys_in_turn = checks.succession(told, partial(_first_signers, notes))
    for fault in keys_in_turn.faults:
        raise ProofRejected(f"{fault.about} {fault.what}.")
    for entry in seen.permits:
        _demand_leave(entry, keys_in_turn.reigns, named)
    keys = outside.keys_that_count(trust, named, note, keys_in_turn.reigns)
    believed_head(note, [*keys.believed, *trust.witnesses])
    stamps = _stamps_of(archive, notes, named)
    part = [] if manifest["complete"] else [f"This is a part ({manifest['part']}): others may belong to it."]
    return outside.verdict(
        trust,
        note,
        roots,
        keys,
        stamps,
        events=manifest["events"],
        checkpoints=manifest["checkpoints"],
        later=seen.later,
        notes=[*part, *keys_in_turn.remarks],
        withdrawals=tuple(sorted(seen.withdrawals.items())),
    )


def _older(archive: zipfile.ZipFile, newest: Checkpoint, keys: Sequence[VerifierKey]) -> dict[int, Note]:
    """The older checkpoints by size, each signed by a key of this log; their roots are looked at as the tree grows."""
    found: dict[int, Note] = {}
    last = 0
    for what, line in _lines(archive, CHECKPOINTS, {"note": str}):
        note = parse_note(line["note"])
        head = believed_head(note, keys)
        if head.origin != newest.origin or not last < head.size < newest.size:
            raise ProofRejected(f"{what} is of another log, or not in order of size.")
        found[head.size] = note
        last = head.size
    return found


def _grown(
    entries: Iterable[_Entry], notes: Mapping[int, Note], told: list[Told], wanted: Collection[int]
) -> dict[int, bytes]:
    """The tree's roots at the sizes of `notes` and at those `wanted`, from all events. Raises ProofRejected.

    `told` gains what is said of keys.
    """
    growing = GrowingTree()
    roots: dict[int, bytes] = {}
    waiting: list[bytes] = []
    for entry in entries:
        waiting.append(entry.hash)
        if entry.said["type"] in KEY_TYPES and entry.told:
            id, type, subject, time = (str(entry.said.get(name)) for name in ("id", "type", "subject", "time"))
            told.append(Told(entry.leaf + 1, id, type, subject, time, entry.told))
        size = entry.leaf + 1
        if size in notes or size in wanted or len(waiting) == TOLD_EVERY:
            growing.add(waiting)
            waiting.clear()
        if size in notes or size in wanted:
            roots[size] = growing.root()
        if size in notes and parse_checkpoint(notes[size].text).root != roots[size]:
            raise ProofRejected(f"The events to leaf {entry.leaf} do not lead to the root of their checkpoint.")
    return roots


def _first_signers(notes: Mapping[int, Note], place: int, keys: Sequence[VerifierKey]) -> set[VerifierKey]:
    """Those of `keys` that signed the first checkpoint that seals the event at `place`."""
    try:
        return set(verified(notes[min(size for size in notes if size >= place)], keys))
    except ProofRejected:
        return set()


def _included(entries: Iterable[_Entry], head: Checkpoint) -> dict[int, bytes]:
    """The one root of a part, to which each entry's proof must lead. Raises ProofRejected."""
    for entry in entries:
        try:
            tree.verify_inclusion(entry.hash, entry.leaf, head.size, entry.proof, head.root)
        except ProofRejected as bad:
            raise ProofRejected(f"{entry.about}: {bad.what}") from None
    return {head.size: head.root}


def _entries(
    archive: zipfile.ZipFile, manifest: Mapping[str, Any], seen: _Seen, progress: Progress
) -> Iterator[_Entry]:
    """Every event of the bundle, with its payload or the event that permitted that it is gone. Raises ProofRejected."""
    fields: outside.Fields = {"index": int, "envelope": str} | ({} if manifest["complete"] else {"proof": list})
    allowed = [fields | {"payload": str, "salt": str}, fields | {"withdrawn_by": int}]
    last, count = -1, 0
    awaited: dict[int, set[str]] = defaultdict(set)  # by the leaf that permits it: ids of events without their payload
    for what, line in _lines(archive, EVENTS, *(allowed if manifest["payloads"] else [fields])):
        entry = _entry(what, line)
        if not last < entry.leaf < manifest["size"] or (manifest["complete"] and entry.leaf != last + 1):
            raise ProofRejected(f"{what}: leaf {entry.leaf} comes after leaf {last}.")
        if entry.withdrawn_by is not None:
            awaited[entry.withdrawn_by].add(entry.said["id"])
        if ids := awaited.pop(entry.leaf, None):
            _demand_permitted(entry, ids)
            seen.withdrawals[entry.said["actor"]] += len(ids)
            seen.permits.append(entry)
        seen.later += is_later(entry.said)
        yield entry
        last, count = entry.leaf, count + 1
        if not count % TOLD_EVERY:
            progress(count, manifest["events"])
    if awaited:
        raise ProofRejected(f"Leaf {min(awaited)}, which is to permit that payloads are gone, is not in the bundle.")
    if not count or count != manifest["events"] or (manifest["complete"] and count != manifest["size"]):
        raise ProofRejected(
            f"The bundle has {count} events, {MANIFEST} says {manifest['events']} of {manifest['size']}."
        )


def _entry(what: str, line: Mapping[str, Any]) -> _Entry:
    """Raises ProofRejected unless what the line has of payload and withdrawal can be its event's."""
    content = line["envelope"].encode()
    try:
        said = outside.envelope_of(content)
    except ProofRejected as bad:
        raise ProofRejected(f"{what}: {bad.what}.") from None
    leaf, by = line["index"], line.get("withdrawn_by")
    about = f"event {said['id']} (leaf {leaf})"
    if "payload" in line:
        outside.demand_payload(said, line["salt"], line["payload"], about)
    if by is not None and (said["type"] in WITHDRAWING or by <= leaf):
        raise ProofRejected(f"{about}: its payload cannot have been withdrawn by leaf {by}.")
    proof = (decoded(str(step), f"{about}: a hash of its proof", tree.HASH_BYTES) for step in line.get("proof", ()))
    return _Entry(about, leaf, tree.leaf_hash(content), said, _told(said, line, about), by, tuple(proof))


def _told(said: Envelope, line: Mapping[str, Any], about: str) -> Mapping[str, Any]:
    """What an event says that bears on others; empty for all others, and where it is not there."""
    if "payload" not in line or said["type"] not in (*WITHDRAWING, *KEY_TYPES):
        return {}
    try:
        found = orjson.loads(line["payload"])
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ProofRejected(f"{about}: its payload is no JSON object.")
    return found


def _demand_permitted(entry: _Entry, ids: Collection[str]) -> None:
    """Raises ProofRejected unless this event permits the payloads of those with `ids` to be gone."""
    listed = entry.told.get("events")
    if entry.said["type"] not in WITHDRAWING or not isinstance(listed, list) or set(ids) - set(map(str, listed)):
        raise ProofRejected(f"{entry.about} does not permit that the payload of {min(ids)} is gone.")


def _demand_leave(entry: _Entry, reigns: Sequence[checks.Reign], named: Sequence[VerifierKey]) -> None:
    """Raises ProofRejected unless the key that was the log's then gave its leave; in a part, any that it names."""
    keys = [reign.key for reign in reigns if reign.since <= entry.leaf + 1][-1:] or named
    digest = facts_digest(entry.told)
    if digest is None or not any(gave_leave(key, digest, entry.told.get("leave")) for key in keys):
        raise ProofRejected(f"{entry.about}: the log's key did not give its leave, so it permits no payload to go.")


def _stamps_of(
    archive: zipfile.ZipFile, notes: Mapping[int, Note], keys: Sequence[VerifierKey]
) -> Iterator[tuple[str, bytes, str]]:
    """(name, content, note that it is over) of each time stamp. Raises ProofRejected for one over nothing here."""
    for name in archive.namelist():
        if found := STAMP.fullmatch(name):
            if int(found[1]) not in notes:
                raise ProofRejected(f"{name} is over a checkpoint that is not in the bundle.")
            yield name, archive.read(name), outside.stamped_note(notes[int(found[1])], keys)


def _text(archive: zipfile.ZipFile, name: str) -> str:
    return outside.utf8(archive.read(name), name)


def _lines(archive: zipfile.ZipFile, name: str, *allowed: outside.Fields) -> Iterator[tuple[str, dict[str, Any]]]:
    """What to call each line of a member, and its fields. Raises ProofRejected."""
    with archive.open(name) as packed, io.BufferedReader(packed) as stream:  # type: ignore[type-var]  # it reads into
        for nth, line in enumerate(iter(lambda: stream.readline(outside.PAYLOAD_BYTES), b""), 1):
            what = f"{name}, line {nth}"
            if not line.endswith(b"\n"):
                raise ProofRejected(f"{what} is cut short, or has more than {outside.PAYLOAD_BYTES:,} bytes.")
            yield what, outside.strict_object(outside.utf8(line[:-1], what), what, *allowed)
