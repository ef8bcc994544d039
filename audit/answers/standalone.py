#!/usr/bin/env python3
"""Check what `audit export` or `audit prove` wrote, on any machine, without trusting who wrote it or their software.

    python verify.py bundle.zip [--key KEY] [--checkpoint FILE] [--witness KEY]
    python verify.py evidence/  [--key KEY] [--checkpoint FILE] [--witness KEY]

It needs Python 3.9 or newer and the package `cryptography` (for Ed25519). It reads one line after the other, writes no
file and uses no network. Exit code 0: held, 1: did not hold, 2: could not tell.

What is checked. A log is a list of events. Each has an envelope (the entry), which binds its payload by SHA-256 over a
random salt of 32 bytes and the payload. The entries are the leaves of a Merkle tree (RFC 6962); its root stands in a
checkpoint that the log's key signed (c2sp.org/signed-note, c2sp.org/tlog-checkpoint). From a bundle of the whole log
the tree is built anew, and must have the root of each checkpoint at that one's size; a key that is not the first one
must have been handed over to by the one before. In a part of the log, and in the folder of one event, an inclusion
proof leads from each entry to the root.

What is not checked. Time stamps (*.tsr, RFC 3161): the command that checks them is shown. And nothing shows that what
was recorded was true, or that nothing was left out when it was recorded, or from the part that you were given.
"""

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # the folder of this file may be anybody's: what is imported must not come from it

import argparse
import base64
import hashlib
import io
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    sys.stdout.write("could not tell  The package cryptography is missing: python -m pip install cryptography\n")
    sys.exit(2)

FORMAT = "prefect-audit/bundle@1"
NEEDED = {"manifest.json", "checkpoint", "checkpoints.jsonl", "events.jsonl", "log.vkey"}
STAMP = re.compile(r"anchors/([1-9][0-9]{0,18})-[1-9][0-9]{0,2}\.tsr")
WHOLE = {
    "format": str, "origin": str, "size": int, "complete": bool, "payloads": bool, "events": int, "checkpoints": int,
    "made_at": str, "made_by": str,
}  # fmt: skip
PART = {**WHOLE, "part": str}
NAMED = (  # in an envelope
    "id", "source", "type", "subject", "time", "severity", "actor", "recorded_at", "payload_hash",
)  # fmt: skip
MAY_LACK = ("flow_run_id", "task_run_id", "deployment", "trace_id")
WITHDRAWING = ("privacy.erased", "retention.expired")  # events that permit a payload to go
LATER = "written by a later release than this verifier, of whose envelopes it does not know all"
OF_KEYS = ("key.created", "key.rotated", "key.lost")  # events that say which key is the log's
ED25519, COSIGNATURE = 1, 4  # kinds of keys (c2sp.org/signed-note)
MAX_ENTRY, MAX_LINE, MAX_FILE = 8_192, 64 << 20, 4 << 20  # bytes
MAX_NOTE, MAX_SIGNATURES, MAX_KEYS, MAX_MEMBERS, MAX_RATIO = 1_000_000, 100, 1_000, 200_000, 200
NAME = re.compile(r"[^\s+\x00-\x1f\ud800-\udfff]+")
NO_TEXT = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")
BROKEN_ZIP = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError,
    OverflowError, OSError,
)  # fmt: skip


class DoesNotHold(Exception):
    """Something is not as it was signed, or has more than one reading."""


class CannotTell(Exception):
    """What it takes to tell is not there."""


def demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise DoesNotHold(otherwise)


# --- Text, numbers and JSON that can be read in one way only


def unbase64(text: str, what: str, length: "int | None" = None) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        found = b""
    same = base64.b64encode(found).decode() == text and length in (None, len(found))
    demand(same, f"{what} is not in base64, or of another length.")
    return found


def decimal(text: str, what: str) -> int:
    demand(re.fullmatch(r"0|[1-9][0-9]{0,18}", text) and int(text) < 1 << 63, f"{what} is no decimal number.")
    return int(text)


def utf8(content: bytes, what: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise DoesNotHold(f"{what} is not UTF-8.") from None


def parse_json(text: str, what: str, *allowed: dict[str, type], canonical: bool = True) -> dict[str, Any]:
    """An object in canonical form (sorted keys, each once, no spaces), with the fields of one of `allowed`."""
    found: Any = None
    written = ""
    try:
        found = json.loads(text)
        written = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        pass
    good = isinstance(found, dict) and written and (written == text or not canonical)
    demand(good, f"{what} is no JSON object{' in canonical form' if canonical else ''}.")
    fields: dict[str, Any] = found
    same = not allowed or {name: type(value) for name, value in fields.items()} in allowed
    demand(same, f"{what} has not the fields {' or '.join(', '.join(fields) for fields in allowed)}.")
    return fields


# --- Keys, checkpoints and signatures


class Key(NamedTuple):
    """A verifier key of Ed25519."""

    name: str
    kind: int
    public: bytes

    def named(self) -> tuple[str, bytes]:
        """How signatures name it: its name and four bytes."""
        return self.name, hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]


class Note(NamedTuple):
    """A checkpoint as it was read, not yet believed."""

    text: str
    signatures: dict[tuple[str, bytes], bytes]  # by name and id of the key
    origin: str
    size: int
    root: bytes


class Given(NamedTuple):
    """What the reader brought along."""

    key: "Key | None"
    kept: list[str]
    witnesses: list[Key]


def parse_key(text: str) -> Key:
    """`name+id+base64(kind, public key)`, as c2sp.org/signed-note has it."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    content = unbase64(encoded, "A verifier key", 33)
    key = Key(name, content[0], content[1:])
    good = NAME.fullmatch(name) and key.kind in (ED25519, COSIGNATURE) and key.named()[1].hex() == key_id
    demand(good, f"{text[:80]!r} is no verifier key of Ed25519.")
    return key


def parse_keys(text: str) -> list[Key]:
    *lines, rest = text.split("\n")
    plain = 0 < len(lines) <= MAX_KEYS and not rest and all(line == line.strip() for line in lines)
    demand(plain, "log.vkey does not name keys, a line each.")
    return [parse_key(line) for line in lines]


def parse_note(written: str) -> Note:
    """Origin, tree size and root, a line each (lines after them are ignored), an empty line, signature lines."""
    text, found, lines = written.rpartition("\n\n")
    plain = len(written) <= MAX_NOTE and not NO_TEXT.search(written) and found and lines.endswith("\n")
    demand(plain, "What should be a checkpoint is no signed note.")
    head = text.split("\n")
    demand(len(head) >= 3 and all(head), "The checkpoint has not the lines origin, tree size and root.")
    signatures: dict[tuple[str, bytes], bytes] = {}
    for line in lines[:-1].split("\n"):
        name, _, encoded = line[2:].partition(" ")
        value = unbase64(encoded, "A signature")
        good = line.startswith("— ") and NAME.fullmatch(name) and len(value) > 4
        demand(good, f"{line[:60]!r} is no signature line.")
        new = (name, value[:4]) not in signatures and len(signatures) < MAX_SIGNATURES
        demand(new, f"The checkpoint has two signatures by one key, {name}, or too many.")
        signatures[name, value[:4]] = value[4:]
    return Note(text + "\n", signatures, head[0], decimal(head[1], "The tree size"), unbase64(head[2], "The root", 32))


def signed_by(key: Key, note: Note) -> bool:
    """A signature that names the key and is not its own spoils the note."""
    value, message = note.signatures.get(key.named()), note.text.encode()
    if value is None:
        return False
    if key.kind == COSIGNATURE:  # c2sp.org/tlog-cosignature: eight bytes of time, then the signature
        message = f"cosignature/v1\ntime {int.from_bytes(value[:8], 'big')}\n".encode() + message
        value = value[8:]
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(value, message)
    except (InvalidSignature, ValueError):
        raise DoesNotHold(f"The signature of {key.name} does not fit the checkpoint of size {note.size}.") from None
    return True


def demand_believed(note: Note, keys: list[Key]) -> None:
    """A key of the log that the note names must have signed it."""
    signers = [key for key in dict.fromkeys(keys) if signed_by(key, note)]
    own = any(key.kind == ED25519 and key.name == note.origin for key in signers)
    demand(own, f"The checkpoint of {note.origin} is signed by no key of that log which is believed.")


# --- The Merkle tree


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def add_leaf(tree: list[tuple[int, bytes]], leaf: bytes) -> None:
    """`tree` is the tree so far as its complete subtrees, the largest first: (height, root) each."""
    height = 0
    while tree and tree[-1][0] == height:
        leaf = node_hash(tree.pop()[1], leaf)
        height += 1
    tree.append((height, leaf))


def root_of(tree: list[tuple[int, bytes]]) -> bytes:
    root = tree[-1][1]
    for _, left in reversed(tree[:-1]):
        root = node_hash(left, root)
    return root


def root_from(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 6962, 2.1.1): its last hash is the other half of the tree."""
    fits = (size == 1) == (not proof) and 0 <= index < size
    demand(fits, f"The inclusion proof is not one for leaf {index} of {size}.")
    if size == 1:
        return leaf
    half = 1 << (size - 1).bit_length() - 1
    if index < half:
        return node_hash(root_from(leaf, index, half, proof[:-1]), proof[-1])
    return node_hash(proof[-1], root_from(leaf, index - half, size - half, proof[:-1]))


# --- Events


class Event(NamedTuple):
    """An event whose payload, where it is there, fits its envelope."""

    what: str  # what to call it
    leaf: int  # its index
    hash: bytes
    envelope: dict[str, Any]
    told: dict[str, Any]  # of its payload, where that bears on other events
    proof: list[Any]


def parse_envelope(text: str, what: str) -> dict[str, Any]:
    """Of a later release's only what is needed here: of what else it may consist is not known."""
    found = parse_json(text, what)
    version: Any = found.get("schema_version")
    demand(type(version) is int and 0 < version < 1 << 64, f"{what} is no event's envelope.")
    strings = [found.get(name) for name in (NAMED if version == 1 else ("id", "type", "actor", "payload_hash"))]
    strings += [found.get(name) or "" for name in MAY_LACK if version == 1]
    fits = all(isinstance(value, str) for value in strings) and len(text.encode()) <= MAX_ENTRY
    demand(fits, f"{what} is no event's envelope, or larger than one may be.")
    same = version > 1 or found.keys() == {*NAMED, *MAY_LACK, "schema_version"}
    demand(same, f"{what} is no event's envelope: it has other fields.")
    return found


def demand_payload(envelope: dict[str, Any], salt: str, payload: str, what: str) -> None:
    """The salt has 32 bytes: were it of any length, the payload's beginning could be passed off as the salt's end."""
    demand(re.fullmatch("[0-9a-f]{64}", salt), f"{what}: the salt is none.")
    bound = "sha256:" + hashlib.sha256(bytes.fromhex(salt) + payload.encode()).hexdigest()
    demand(envelope["payload_hash"] == bound, f"{what}: payload or salt is not the one that the envelope binds.")


def parse_event(line: dict[str, Any], place: str) -> Event:
    """What a line says of an event; `told` is empty where it bears on no other one, or is not there."""
    envelope = parse_envelope(line["envelope"], place)
    what, told = f"event {envelope['id']} (leaf {line['index']})", {}
    if "payload" in line:
        demand_payload(envelope, line["salt"], line["payload"], what)
        if envelope["type"] in (*WITHDRAWING, *OF_KEYS):
            told = parse_json(line["payload"], f"{what}: its payload", canonical=False)
    return Event(what, line["index"], leaf_hash(line["envelope"].encode()), envelope, told, line.get("proof", []))


# --- The folder of one event


def check_folder(folder: Path, given: Given) -> list[str]:
    """What it shows, in lines. Raises DoesNotHold and CannotTell."""
    limits = {"entry.json": MAX_ENTRY, "entry.tlog-proof": MAX_FILE, "log.vkey": MAX_FILE, "payload.json": MAX_LINE}
    files = {name: read_file(folder / name, limit) for name, limit in limits.items() if (folder / name).exists()}
    if missing := limits.keys() - files.keys() - {"payload.json"}:
        raise CannotTell(f"{folder} is no whole proof: {', '.join(sorted(missing))} is missing.")
    keys = parse_keys(files["log.vkey"])
    index, hashes, note = parse_proof(files["entry.tlog-proof"])
    entry = files["entry.json"]
    leads = root_from(leaf_hash(entry.encode()), index, note.size, hashes) == note.root
    demand(leads, f"entry.json is not leaf {index} of the log: the proof leads to another root.")
    unknown: list[str] = []
    demand_believed(note, [*believed_of(given, keys, note, [], unknown), *given.witnesses])
    envelope = parse_envelope(entry, "entry.json")
    lines = [f"event {envelope['id']} ({envelope['type']}) is leaf {index} of {note.size} of {note.origin}"]
    if "payload.json" in files:
        bound = parse_json(files["payload.json"].removesuffix("\n"), "payload.json", {"payload": str, "salt": str})
        demand_payload(envelope, bound["salt"], bound["payload"], "payload.json")
    else:
        lines.append("its payload is not here: it was withdrawn, or left out")
    stamps = [f"checkpoint{nth}.tsr" for nth in ("", *(f"-{nth}" for nth in range(2, 10)))]
    lines += how_to_check([(name, note) for name in stamps if (folder / name).exists()], keys)
    unknown += [f"1 {LATER}"] if envelope["schema_version"] > 1 else []
    return lines + held_to(given, note, {note.size: note.root}, keys, False, unknown)


def read_file(path: Path, limit: int) -> str:
    if not path.is_file():  # a pipe would never end
        raise CannotTell(f"{path} is no plain file.")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    demand(len(content) <= limit, f"{path.name} has more than {limit} bytes.")
    return utf8(content, path.name)


def parse_proof(text: str) -> tuple[int, list[bytes], Note]:
    """Leaf index, inclusion proof and checkpoint of a c2sp.org/tlog-proof@v1."""
    head, _, checkpoint = text.partition("\n\n")
    first, *lines = head.split("\n")
    if lines and lines[0].startswith("extra ") and unbase64(lines[0][6:], "The proof's extra data"):
        del lines[0]
    good = len(text) <= MAX_NOTE and first == "c2sp.org/tlog-proof@v1" and lines and lines[0].startswith("index ")
    demand(good, "entry.tlog-proof is no proof of a log entry.")
    hashes = [unbase64(line, "A hash of the proof", 32) for line in lines[1:]]
    return decimal(lines[0][6:], "The index"), hashes, parse_note(checkpoint)


# --- A bundle


def check_bundle(path: Path, given: Given) -> list[str]:
    """What it shows, in lines. Raises DoesNotHold and CannotTell."""
    if path.exists() and not path.is_file():
        raise CannotTell(f"{path} is no plain file.")
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                demand_members(archive, file)
                return check_members(archive, given)
        except BROKEN_ZIP as broken:
            raise DoesNotHold(f"The zip is broken: {broken}.") from None


def demand_members(archive: zipfile.ZipFile, file: BinaryIO) -> None:
    """Nothing but what belongs into a bundle, each once. Nothing is ever extracted, whatever its name."""
    file.seek(0)
    begin = file.read(4)
    file.seek(-22, os.SEEK_END)  # the record that ends a zip without a comment
    names = archive.namelist()
    alone = begin == b"PK\x03\x04" and file.read(4) == b"PK\x05\x06" and not archive.comment
    demand(alone and len(names) <= MAX_MEMBERS, "Something stands around the zip, or it has too many members.")
    for member in archive.infolist():
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        belongs = name in NEEDED | {"README.txt", "verify.py"} or STAMP.fullmatch(name)
        demand(name == member.orig_filename and belongs, f"{member.orig_filename[:80]!r} belongs into no bundle.")
        plain = not member.flag_bits & 1 and member.compress_type in (0, 8) and kind in (0, stat.S_IFREG)
        demand(plain, f"{name} in the zip is encrypted, packed in another way, or no plain file.")
        most = MAX_LINE + MAX_RATIO * member.compress_size if name.endswith(".jsonl") else MAX_FILE
        demand(member.file_size <= most, f"{name} in the zip would unpack to {member.file_size} bytes: it is a bomb.")
    demand(len(set(names)) == len(names) and not NEEDED - set(names), "The zip has a member twice, or lacks one.")


def check_members(archive: zipfile.ZipFile, given: Given) -> list[str]:
    manifest = parse_json(member(archive, "manifest.json").removesuffix("\n"), "manifest.json", WHOLE, PART)
    keys = parse_keys(member(archive, "log.vkey"))
    note = parse_note(member(archive, "checkpoint"))
    same = (FORMAT, note.origin, note.size) == (manifest["format"], manifest["origin"], manifest["size"])
    demand(same, "manifest.json is of another format, or of another checkpoint than the one in the bundle.")
    whole = manifest["complete"]
    demand(whole != ("part" in manifest), "manifest.json says neither that this is the whole log nor which part.")
    notes = {**older_checkpoints(archive, note, keys), note.size: note}
    known = manifest["checkpoints"]
    demand(len(notes) == known, f"The bundle has {many(len(notes), 'checkpoint')}, not {known}.")
    counted: Counter[str] = Counter()
    permissions: list[Event] = []
    events = events_of(archive, manifest, counted, permissions)
    reigns: list[Reign] = []
    if whole:
        roots, said = check_whole(events, notes, {kept.size for kept in kept_notes(given)})
        reigns = succession(said, notes)
        lines = [f"whole log of {note.origin}: {many(note.size, 'event')}, {many(len(notes), 'checkpoint')}"]
    else:
        roots = check_part(events, note)
        lines = [f"part of {note.origin}: {manifest['events']} of {many(note.size, 'event')}; others may belong to it"]
    for event in permissions:
        own = [reign.key for reign in reigns if reign.leaf <= event.leaf][-1:] or keys
        given_leave = any(gave_leave(key, event.told) for key in own)
        demand(given_leave, f"{event.what}: the log's key did not give its leave, so it permits no payload to go.")
    lines += [f"{many(count, 'payload')} withdrawn by {actor}" for actor, count in sorted(counted.items()) if actor]
    unknown = [f"{counted['']} {LATER}"] if counted[""] else []
    demand_believed(note, [*believed_of(given, keys, note, reigns, unknown), *given.witnesses])
    stamps = {found[0]: int(found[1]) for found in map(STAMP.fullmatch, archive.namelist()) if found}
    demand(set(stamps.values()) <= set(notes), "A time stamp is over a checkpoint that is not in the bundle.")
    lines += how_to_check([(name, notes[size]) for name, size in stamps.items()], keys)
    lines += [f"{reign.what}: the key before was declared lost" for reign in reigns if reign.lost]
    return lines + held_to(given, note, roots, [reign.key for reign in reigns] or keys, bool(reigns), unknown)


def member(archive: zipfile.ZipFile, name: str) -> str:
    return utf8(archive.read(name), name)


def lines_of(archive: zipfile.ZipFile, name: str, *allowed: dict[str, type]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What to call each line of a member, and its fields."""
    with archive.open(name) as packed, io.BufferedReader(packed) as stream:  # type: ignore[type-var]
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), 1):
            what = f"{name}, line {number}"
            demand(line.endswith(b"\n"), f"{what} is cut short, or has more than {MAX_LINE} bytes.")
            yield what, parse_json(utf8(line[:-1], what), what, *allowed)


def older_checkpoints(archive: zipfile.ZipFile, newest: Note, keys: list[Key]) -> dict[int, Note]:
    """By size. Each is signed by a key of this log; whether its root is right is seen when the tree is built."""
    found: dict[int, Note] = {}
    last = 0
    for what, line in lines_of(archive, "checkpoints.jsonl", {"note": str}):
        note = parse_note(line["note"])
        demand_believed(note, keys)
        follows = note.origin == newest.origin and last < note.size < newest.size
        demand(follows, f"{what} is of another log, or not in order of size.")
        found[note.size], last = note, note.size
    return found


def events_of(
    archive: zipfile.ZipFile, manifest: dict[str, Any], counted: Counter[str], permissions: list[Event]
) -> Iterator[Event]:
    """Every event of the bundle: a line has the payload, or says which later event permitted that it is gone.

    `counted` gains how many payloads are gone, by who permitted it; under "" how many events a later release wrote.
    `permissions` gains the events that permitted it.
    """
    fields = {"index": int, "envelope": str, **({} if manifest["complete"] else {"proof": list})}
    allowed = [{**fields, "payload": str, "salt": str}, {**fields, "withdrawn_by": int}]
    last, count = -1, 0
    awaited: dict[int, set[str]] = {}  # leaf of the event that permits it: ids of those whose payload is gone
    for place, line in lines_of(archive, "events.jsonl", *(allowed if manifest["payloads"] else [fields])):
        event = parse_event(line, place)
        leaf, kind = event.leaf, event.envelope["type"]
        follows = last < leaf < manifest["size"] and (leaf == last + 1 or not manifest["complete"])
        demand(follows, f"{place}: leaf {leaf} comes after leaf {last}.")
        by = line.get("withdrawn_by")
        if by is not None:
            permitted = kind not in WITHDRAWING and by > leaf
            demand(permitted, f"{event.what}: its payload cannot have been withdrawn by leaf {by}.")
            awaited.setdefault(by, set()).add(event.envelope["id"])
        if ids := awaited.pop(leaf, None):
            listed = event.told.get("events")
            permits = kind in WITHDRAWING and isinstance(listed, list) and ids <= set(map(str, listed))
            demand(permits, f"{event.what} does not permit that the payload of {min(ids)} is gone.")
            counted[event.envelope["actor"]] += len(ids)
            permissions.append(event)
        counted[""] += event.envelope["schema_version"] > 1
        yield event
        last, count = leaf, count + 1
    demand(not awaited, "An event that is to permit that payloads are gone is not in the bundle.")
    enough = 0 < count == manifest["events"] and (count == manifest["size"] or not manifest["complete"])
    demand(enough, f"The bundle has {many(count, 'event')}, not {manifest['events']} of {manifest['size']}.")


def check_whole(
    events: Iterator[Event], notes: dict[int, Note], kept: set[int]
) -> tuple[dict[int, bytes], list[Event]]:
    """Build the tree from all events. Its roots at the sizes of `notes` and `kept`, and what is said of keys."""
    tree: list[tuple[int, bytes]] = []
    roots: dict[int, bytes] = {}
    said = []
    for event in events:
        add_leaf(tree, event.hash)
        if event.envelope["type"] in OF_KEYS and event.told.get("purpose") == "log":
            said.append(event)
        size = event.leaf + 1
        if size in kept or size in notes:
            roots[size] = root_of(tree)
            same = size not in notes or notes[size].root == roots[size]
            demand(same, f"The events to leaf {event.leaf} do not lead to the root of their checkpoint.")
    return roots, said


def check_part(events: Iterator[Event], note: Note) -> dict[int, bytes]:
    for event in events:
        proof = [unbase64(str(step), f"{event.what}: its proof", 32) for step in event.proof]
        leads = root_from(event.hash, event.leaf, note.size, proof) == note.root
        demand(leads, f"{event.what} is not in the log: its proof leads to another root.")
    return {note.size: note.root}


# --- Which keys are believed, what the reader brought along, and what is shown


class Reign(NamedTuple):
    """From this event on the key was the log's; `lost`: the one before it did not hand over."""

    what: str
    leaf: int
    key: Key
    lost: bool


def succession(said: list[Event], notes: dict[int, Note]) -> list[Reign]:
    """Whoever can write events can say that the log's key is another one. It is, if the one before signed its consent
    and the checkpoint that first seals this is signed by both; or, where the one before was declared lost, by the new
    one alone."""
    reigns: list[Reign] = []
    sizes, lost = sorted(notes), False
    for event in said:
        kind, before = event.envelope["type"], reigns[-1].key if reigns else None
        lost = lost or kind == "key.lost"
        by: set[Key] = set()
        key = None
        with suppress(DoesNotHold):
            key = parse_key(str(event.told.get("vkey")))
            first = notes[sizes[bisect_left(sizes, event.leaf + 1)]]
            by = {one for one in (before, key) if one and signed_by(one, first)}
        if key is None or key == before:
            continue
        handed = kind == "key.rotated" and before and by == {before, key} and consented(before, key, event.told)
        if handed or (kind == "key.created" and before is None):
            reigns.append(Reign(event.what, event.leaf, key, False))
        elif before and kind == "key.created" and by == {key}:
            demand(lost, f"{event.what} puts another key in the place of the log's, which was not lost.")
            reigns.append(Reign(event.what, event.leaf, key, True))
            lost = False
    return reigns


def consented(old: Key, new: Key, told: dict[str, Any]) -> bool:
    """The old key signs every checkpoint, whatever events say of keys: this it signs only to hand over."""
    vkey = base64.b64encode(bytes([new.kind]) + new.public).decode()
    message = f"prefect-audit/handover@1\n{new.name}+{new.named()[1].hex()}+{vkey}\n"
    try:
        signature = unbase64(str(told.get("consent")), "The consent", 64)
        Ed25519PublicKey.from_public_bytes(old.public).verify(signature, message.encode())
    except (DoesNotHold, InvalidSignature, ValueError):
        return False
    return old.kind == ED25519


def gave_leave(key: Key, told: dict[str, Any]) -> bool:
    """Whoever can write events has the key sign for them: this it signs only to have payloads withdrawn."""
    facts = {name: value for name, value in told.items() if name != "leave"}
    written = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        signature = unbase64(str(told.get("leave")), "The leave", 64)
        message = f"prefect-audit/expiry@1\nsha256:{hashlib.sha256(written.encode()).hexdigest()}\n"
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message.encode())
    except (DoesNotHold, InvalidSignature, ValueError):
        return False
    return key.kind == ED25519


def believed_of(given: Given, keys: list[Key], note: Note, reigns: list[Reign], unknown: list[str]) -> list[Key]:
    """Who may have signed the newest checkpoint: without a key of the reader's, any of the log's; else that one, and
    those to which it is shown to have handed over. `unknown` gains a line where it is the log's, and that is not shown.
    """
    own = [reign.key for reign in reigns] or keys
    if given.key is None or given.key not in own:
        return own if given.key is None else [given.key]
    after = reigns[own.index(given.key) + 1 :]
    if any(reign.lost for reign in after) if reigns else not signed_by(given.key, note):
        unknown.append(
            "your key is not the one that signed this, and did not hand over to it as far as is shown here (it was "
            "lost, or this is not the whole log): get the new key in another way and name it with --key"
        )
        return own
    return [given.key, *(reign.key for reign in after)]


def kept_notes(given: Given) -> Iterator[Note]:
    for text in given.kept:
        with suppress(DoesNotHold):  # `held_to` tells of it
            yield parse_note(text)


def held_to(
    given: Given, note: Note, roots: dict[int, bytes], keys: list[Key], in_turn: bool, unknown: list[str]
) -> list[str]:
    """Raises DoesNotHold if what was kept is another log's, CannotTell if anything is unknown. `in_turn`: that each of
    `keys` is the log's was shown."""
    lines = []
    for text in given.kept:
        try:
            kept = parse_note(text)
            signers = [key for key in (keys if given.key is None else [*keys, given.key]) if signed_by(key, kept)]
        except DoesNotHold as bad:
            unknown.append(f"the checkpoint that you kept cannot be relied on: {bad}")
            continue
        about = f"the checkpoint of size {kept.size} that you kept"
        demand(kept.origin == note.origin, f"{about} is of the log {kept.origin}, this one is {note.origin}")
        if kept.size not in roots:
            unknown.append(f"{about} cannot be compared: this is of size {note.size}, and not the whole log or older")
            continue
        same = signers and roots[kept.size] == kept.root
        demand(same, f"{about} has another root, or is signed by another key: these are two logs")
        if given.key is None and not in_turn and not any(signed_by(key, note) for key in signers):
            unknown.append(f"{about} is signed by another key than this, and no handing over is shown here (see --key)")
        else:
            lines.append(f"agrees with {about}")
    for witness in given.witnesses:
        if signed_by(witness, note):
            lines.append(f"cosigned by {witness.name}")
        else:
            unknown.append(f"the checkpoint has no cosignature by {witness.name}")
    if unknown:
        raise CannotTell("; ".join(unknown))
    if given.key is None:
        lines.append("the key came with it: this shows that all of it belongs together, not whose it is (see --key)")
    return lines


def how_to_check(stamps: list[tuple[str, Note]], keys: list[Key]) -> list[str]:
    """Time stamps are over the note as the log signed it, without what witnesses added."""
    if not stamps:
        return []
    name, note = stamps[-1]
    own = {key.named() for key in keys}
    signed = [(who, id, value) for (who, id), value in note.signatures.items() if (who, id) in own]
    lines = [f"— {who} {base64.b64encode(id + value).decode()}\n" for who, id, value in signed]
    digest = hashlib.sha256("".join([note.text, "\n", *lines]).encode()).hexdigest()
    command = f"openssl ts -verify -digest {digest} -in {name} -CAfile ROOTS.pem"
    return [f"{many(len(stamps), 'time stamp')}, not checked here; the last, with its authority's roots: {command}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a bundle, or the folder of one event's proof")
    parser.add_argument("--key", help="the log's verifier key, or a file with it, as you had it from elsewhere")
    for option, what in (("--checkpoint", "file of a checkpoint that you kept"), ("--witness", "a witness's key")):
        parser.add_argument(option, action="append", default=[], help=f"{what}; repeatable")
    asked = parser.parse_args()
    try:
        given = Given(
            key_given(asked.key, ED25519) if asked.key else None,
            [Path(file).read_bytes().decode(errors="replace") for file in asked.checkpoint],
            [key_given(witness, COSIGNATURE) for witness in asked.witness],
        )
        lines = check_folder(asked.path, given) if asked.path.is_dir() else check_bundle(asked.path, given)
    except DoesNotHold as bad:
        return say("did not hold", [str(bad)], 1)
    except (CannotTell, OSError) as lacking:
        return say("could not tell", [str(lacking)], 2)
    return say("held", [*lines, "not shown: that what was recorded was true, or that others are shown the same log"], 0)


def key_given(asked: str, kind: int) -> Key:
    """From a file, or as it was typed."""
    try:
        text = Path(asked).read_text("utf-8") if Path(asked).is_file() else asked
        demand("\n" not in text.strip(), "this names several keys: give the one that you know the log by.")
        key = parse_key(text)
        demand(key.kind == kind, f"a key of kind {key.kind}, where one of kind {kind} is needed.")
    except (DoesNotHold, ValueError) as bad:
        raise CannotTell(f"{asked}: {bad}") from None
    return key


def many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def say(answer: str, lines: list[str], code: int) -> int:
    """What stands in a bundle is shown, never obeyed by the terminal."""
    for number, line in enumerate(lines):
        shown = "".join(c if c.isprintable() else "?" for c in line)[:2_000]
        sys.stdout.write(f"{'' if number else answer:<16}{shown}\n")
    return code


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
