#!/usr/bin/env python3
"""Check what `audit export` or `audit prove` wrote, on any machine, without trusting who wrote it or their software.

    python verify.py bundle.zip [--key KEY] [--checkpoint FILE] [--witness KEY]
    python verify.py evidence/  [--key KEY] [--checkpoint FILE] [--witness KEY]

It needs Python 3.9 or newer and the package `cryptography` (for Ed25519). It reads one line after the other, writes no
file and uses no network. Exit code 0: held, 1: did not hold, 2: could not tell.

What is checked. A log is a list of events. Each has an envelope (the entry), which binds its payload by SHA-256 over a
random salt of 32 bytes and the payload. The entries are the leaves of a Merkle tree (RFC 6962); its root stands in a
checkpoint that the log's key signed (c2sp.org/signed-note, c2sp.org/tlog-checkpoint). From a bundle of the whole log
the tree is built anew, and must have the root of each checkpoint at that one's size. In a part of it, and in the folder
of one event, an inclusion proof leads from each entry to the root.

What is not checked. Time stamps (*.tsr, RFC 3161): the command that checks them is shown. And nothing shows that what
was recorded was true, or that nothing was left out when it was recorded, or from the part that you were given.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import re
import stat
import struct
import sys
import zipfile
import zlib
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
STAMP = re.compile(r"anchors/[1-9][0-9]{0,18}-[1-9][0-9]{0,2}\.tsr")
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


class Event(NamedTuple):
    """An event whose payload, where it is there, fits its envelope."""

    what: str  # what to call it
    leaf: int  # its index
    hash: bytes
    envelope: dict[str, Any]
    told: dict[str, Any]  # of its payload, where that bears on other events
    proof: list[Any]


class Given(NamedTuple):
    """What the reader brought along."""

    key: Key | None
    kept: list[str]
    witnesses: list[Key]


# --- Keys, notes and signatures


def parse_key(text: str) -> Key:
    """`name+id+base64(kind, public key)`, as c2sp.org/signed-note has it."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    content = unbase64(encoded, "A verifier key", 33)
    key = Key(name, content[0], content[1:])
    if not NAME.fullmatch(name) or key.kind not in (ED25519, COSIGNATURE) or key.named()[1].hex() != key_id:
        raise DoesNotHold(f"{text[:80]!r} is no verifier key of Ed25519.")
    return key


def parse_keys(text: str) -> list[Key]:
    *lines, rest = text.split("\n")
    if not 0 < len(lines) <= MAX_KEYS or rest or any(line != line.strip() for line in lines):
        raise DoesNotHold("log.vkey does not name keys, a line each.")
    return [parse_key(line) for line in lines]


def parse_note(written: str) -> Note:
    """Origin, tree size and root, a line each (lines after them are ignored), an empty line, signature lines."""
    text, found, lines = written.rpartition("\n\n")
    head = text.split("\n")
    if len(written) > MAX_NOTE or NO_TEXT.search(written) or not found or not lines.endswith("\n"):
        raise DoesNotHold("What should be a checkpoint is no signed note.")
    if len(head) < 3 or not all(head):
        raise DoesNotHold("The checkpoint has not the lines origin, tree size and root.")
    signatures: dict[tuple[str, bytes], bytes] = {}
    for line in lines[:-1].split("\n"):
        name, _, encoded = line[2:].partition(" ")
        value = unbase64(encoded, "A signature")
        if not line.startswith("— ") or not NAME.fullmatch(name) or len(value) <= 4:
            raise DoesNotHold(f"{line[:60]!r} is no signature line.")
        if (name, value[:4]) in signatures or len(signatures) == MAX_SIGNATURES:
            raise DoesNotHold(f"The checkpoint has two signatures by one key, {name}, or too many.")
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
    if not any(key.kind == ED25519 and key.name == note.origin for key in signers):
        raise DoesNotHold(f"The checkpoint of {note.origin} is signed by no key of that log which is believed.")


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
    if (size == 1) != (not proof) or not 0 <= index < size:
        raise DoesNotHold(f"The inclusion proof is not one for leaf {index} of {size}.")
    if size == 1:
        return leaf
    half = 1 << (size - 1).bit_length() - 1
    if index < half:
        return node_hash(root_from(leaf, index, half, proof[:-1]), proof[-1])
    return node_hash(proof[-1], root_from(leaf, index - half, size - half, proof[:-1]))


# --- Text, numbers and JSON that can be read in one way only


def unbase64(text: str, what: str, length: int | None = None) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except ValueError:
        found = b""
    if base64.b64encode(found).decode() != text or length not in (None, len(found)):
        raise DoesNotHold(f"{what} is not in base64, or of another length.")
    return found


def decimal(text: str, what: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", text) or int(text) >= 1 << 63:
        raise DoesNotHold(f"{what} is no decimal number.")
    return int(text)


def utf8(content: bytes, what: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise DoesNotHold(f"{what} is not UTF-8.") from None


def parse_json(text: str, what: str, *allowed: dict[str, type]) -> dict[str, Any]:
    """An object in canonical form (sorted keys, each once, no spaces), with the fields of one of `allowed`."""
    try:
        found = json.loads(text)
        same = text == json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        same = False
    if not same or not isinstance(found, dict):
        raise DoesNotHold(f"{what} is no JSON object in canonical form.")
    if allowed and {name: type(value) for name, value in found.items()} not in allowed:
        raise DoesNotHold(f"{what} has not the fields {' or '.join(', '.join(fields) for fields in allowed)}.")
    return found


def parse_envelope(text: str, what: str) -> dict[str, Any]:
    """Of a later release's only what is needed here: of what else it may consist is not known."""
    found = parse_json(text, what)
    version = found.get("schema_version")
    if type(version) is not int or not 0 < version < 1 << 64:
        raise DoesNotHold(f"{what} is no event's envelope.")
    strings = [found.get(name) for name in (NAMED if version == 1 else ("id", "type", "actor", "payload_hash"))]
    strings += [found.get(name) or "" for name in MAY_LACK if version == 1]
    if not all(isinstance(value, str) for value in strings) or len(text.encode()) > MAX_ENTRY:
        raise DoesNotHold(f"{what} is no event's envelope, or larger than one may be.")
    if version == 1 and found.keys() != {*NAMED, *MAY_LACK, "schema_version"}:
        raise DoesNotHold(f"{what} is no event's envelope: it has other fields.")
    return found


def demand_payload(envelope: dict[str, Any], salt: str, payload: str, what: str) -> None:
    """The salt has 32 bytes: were it of any length, the payload's beginning could be passed off as the salt's end."""
    if not re.fullmatch("[0-9a-f]{64}", salt):
        raise DoesNotHold(f"{what}: the salt is none.")
    if envelope["payload_hash"] != "sha256:" + hashlib.sha256(bytes.fromhex(salt) + payload.encode()).hexdigest():
        raise DoesNotHold(f"{what}: payload or salt is not the one that the envelope binds.")


# --- The folder of one event


def check_folder(folder: Path, given: Given) -> list[str]:
    """What it shows, in lines. Raises DoesNotHold and CannotTell."""
    limits = {"entry.json": MAX_ENTRY, "entry.tlog-proof": MAX_FILE, "log.vkey": MAX_FILE, "payload.json": MAX_LINE}
    files = {name: read_file(folder / name, limit) for name, limit in limits.items() if (folder / name).exists()}
    if missing := limits.keys() - files.keys() - {"payload.json"}:
        raise CannotTell(f"{folder} is no whole proof: {', '.join(sorted(missing))} is missing.")
    keys = parse_keys(files["log.vkey"])
    index, hashes, note = parse_proof(files["entry.tlog-proof"])
    believed = [given.key] if given.key else keys
    demand_believed(note, believed + given.witnesses)
    entry = files["entry.json"]
    if root_from(leaf_hash(entry.encode()), index, note.size, hashes) != note.root:
        raise DoesNotHold(f"entry.json is not leaf {index} of the log: the proof leads to another root.")
    envelope = parse_envelope(entry, "entry.json")
    lines = [f"event {envelope['id']} ({envelope['type']}) is leaf {index} of {note.size} of {note.origin}"]
    if "payload.json" in files:
        bound = parse_json(files["payload.json"].removesuffix("\n"), "payload.json", {"payload": str, "salt": str})
        demand_payload(envelope, bound["salt"], bound["payload"], "payload.json")
    else:
        lines.append("its payload is not here: it was withdrawn, or left out")
    stamps = sorted(stamp.name for stamp in folder.glob("checkpoint*.tsr"))
    lines += how_to_check([(name, note) for name in stamps], keys)
    lines += held_to(given, note, {note.size: note.root}, believed + keys)
    if envelope["schema_version"] > 1:
        raise CannotTell(f"1 {LATER}")
    return lines


def read_file(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DoesNotHold(f"{path.name} has more than {limit} bytes.")
    return utf8(content, path.name)


def parse_proof(text: str) -> tuple[int, list[bytes], Note]:
    """Leaf index, inclusion proof and checkpoint of a c2sp.org/tlog-proof@v1."""
    head, _, checkpoint = text.partition("\n\n")
    first, *lines = head.split("\n")
    if lines and lines[0].startswith("extra ") and unbase64(lines[0][6:], "The proof's extra data"):
        del lines[0]
    if len(text) > MAX_NOTE or first != "c2sp.org/tlog-proof@v1" or not lines or not lines[0].startswith("index "):
        raise DoesNotHold("entry.tlog-proof is no proof of a log entry.")
    hashes = [unbase64(line, "A hash of the proof", 32) for line in lines[1:]]
    return decimal(lines[0][6:], "The index"), hashes, parse_note(checkpoint)


# --- A bundle


def check_bundle(path: Path, given: Given) -> list[str]:
    """What it shows, in lines. Raises DoesNotHold and CannotTell."""
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
    if begin != b"PK\x03\x04" or file.read(4) != b"PK\x05\x06" or archive.comment or len(names) > MAX_MEMBERS:
        raise DoesNotHold("This is no bundle: something stands around the zip, or it has too many members.")
    for member in archive.infolist():
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        if name != member.orig_filename or not (name in NEEDED | {"README.txt", "verify.py"} or STAMP.fullmatch(name)):
            raise DoesNotHold(f"The zip has a member that belongs into no bundle: {member.orig_filename[:80]!r}.")
        if member.flag_bits & 1 or member.compress_type not in (0, 8) or kind not in (0, stat.S_IFREG):
            raise DoesNotHold(f"{name} in the zip is encrypted, packed in another way, or no plain file.")
        most = MAX_LINE + MAX_RATIO * member.compress_size if name.endswith(".jsonl") else MAX_FILE
        if member.file_size > most:
            raise DoesNotHold(f"{name} in the zip would unpack to {member.file_size} bytes: it looks like a bomb.")
    if len(set(names)) < len(names) or NEEDED - set(names):
        raise DoesNotHold("The zip has a member twice, or lacks one.")


def check_members(archive: zipfile.ZipFile, given: Given) -> list[str]:
    manifest = parse_json(member(archive, "manifest.json").removesuffix("\n"), "manifest.json", WHOLE, PART)
    keys = parse_keys(member(archive, "log.vkey"))
    note = parse_note(member(archive, "checkpoint"))
    if (FORMAT, note.origin, note.size) != (manifest["format"], manifest["origin"], manifest["size"]):
        raise DoesNotHold("manifest.json is of another format, or of another checkpoint than the one in the bundle.")
    if manifest["complete"] == ("part" in manifest):
        raise DoesNotHold("manifest.json says neither that this is the whole log nor which part.")
    believed = [given.key] if given.key else list(keys)
    notes = older_checkpoints(archive, note, believed + keys)
    notes[note.size] = note
    if len(notes) != manifest["checkpoints"]:
        raise DoesNotHold(f"The bundle has {len(notes)} checkpoints, not {manifest['checkpoints']}.")
    counted: dict[str, int] = {}
    events = events_of(archive, manifest, counted)
    if manifest["complete"]:
        roots = check_whole(events, notes, believed, set(sizes_of(given.kept)))
        lines = [f"whole log of {note.origin}: {note.size} events, {len(notes)} checkpoints"]
    else:
        roots = check_part(events, note)
        lines = [f"part of {note.origin}: {manifest['events']} of {note.size} events; that these are all is not shown"]
    lines += [f"{count} {what}" for what, count in sorted(counted.items())]
    demand_believed(note, believed + given.witnesses)
    stamps = []
    for name in filter(STAMP.fullmatch, archive.namelist()):
        size = int(name.split("/")[1].split("-")[0])
        if size not in notes:
            raise DoesNotHold(f"{name} is over a checkpoint that is not in the bundle.")
        stamps.append((name, notes[size]))
    lines += how_to_check(stamps, keys)
    lines += held_to(given, note, roots, believed + keys)
    if LATER in counted:
        raise CannotTell(f"{counted[LATER]} {LATER}")
    return lines


def member(archive: zipfile.ZipFile, name: str) -> str:
    return utf8(archive.read(name), name)


def lines_of(archive: zipfile.ZipFile, name: str, *allowed: dict[str, type]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What to call each line of a member, and its fields."""
    with archive.open(name) as packed, io.BufferedReader(packed) as stream:  # type: ignore[type-var]
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), 1):
            what = f"{name}, line {number}"
            if not line.endswith(b"\n"):
                raise DoesNotHold(f"{what} is cut short, or has more than {MAX_LINE} bytes.")
            yield what, parse_json(utf8(line[:-1], what), what, *allowed)


def older_checkpoints(archive: zipfile.ZipFile, newest: Note, keys: list[Key]) -> dict[int, Note]:
    """By size. Each is signed by a key of this log; whether its root is right is seen when the tree is built."""
    found: dict[int, Note] = {}
    last = 0
    for what, line in lines_of(archive, "checkpoints.jsonl", {"note": str}):
        note = parse_note(line["note"])
        demand_believed(note, keys)
        if note.origin != newest.origin or not last < note.size < newest.size:
            raise DoesNotHold(f"{what} is of another log, or not in order of size.")
        found[note.size] = note
        last = note.size
    return found


def events_of(archive: zipfile.ZipFile, manifest: dict[str, Any], counted: dict[str, int]) -> Iterator[Event]:
    """Every event of the bundle: a line has the payload, or says which later event permitted that it is gone.

    `counted` gains how many payloads are gone, by who permitted it, and how many events a later release wrote.
    """
    fields = {"index": int, "envelope": str, **({} if manifest["complete"] else {"proof": list})}
    allowed = [{**fields, "payload": str, "salt": str}, {**fields, "withdrawn_by": int}]
    last, count = -1, 0
    awaited: dict[int, set[str]] = {}  # leaf of the event that permits it: ids of those whose payload is gone
    for place, line in lines_of(archive, "events.jsonl", *(allowed if manifest["payloads"] else [fields])):
        leaf, envelope = line["index"], parse_envelope(line["envelope"], place)
        what = f"event {envelope['id']} (leaf {leaf})"
        if not last < leaf < manifest["size"] or (manifest["complete"] and leaf != last + 1):
            raise DoesNotHold(f"{place}: leaf {leaf} comes after leaf {last}.")
        if "payload" in line:
            demand_payload(envelope, line["salt"], line["payload"], what)
        told = payload_of(envelope, line, what)
        if "withdrawn_by" in line:
            if envelope["type"] in WITHDRAWING or line["withdrawn_by"] <= leaf:
                raise DoesNotHold(f"{what}: its payload cannot have been withdrawn by leaf {line['withdrawn_by']}.")
            awaited.setdefault(line["withdrawn_by"], set()).add(envelope["id"])
        if ids := awaited.pop(leaf, None):
            listed = told.get("events")
            if envelope["type"] not in WITHDRAWING or not isinstance(listed, list) or ids - set(map(str, listed)):
                raise DoesNotHold(f"{what} does not permit that the payload of {min(ids)} is gone.")
            gone = f"payloads withdrawn by {envelope['actor']}"
            counted[gone] = counted.get(gone, 0) + len(ids)
        if envelope["schema_version"] > 1:
            counted[LATER] = counted.get(LATER, 0) + 1
        yield Event(what, leaf, leaf_hash(line["envelope"].encode()), envelope, told, line.get("proof", []))
        last, count = leaf, count + 1
    if awaited:
        raise DoesNotHold(f"Leaf {min(awaited)}, which is to permit that payloads are gone, is not in the bundle.")
    if not count or count != manifest["events"] or (manifest["complete"] and count != manifest["size"]):
        raise DoesNotHold(f"The bundle has {count} events, not {manifest['events']} of {manifest['size']}.")


def payload_of(envelope: dict[str, Any], line: dict[str, Any], what: str) -> dict[str, Any]:
    """What an event says that bears on others; empty for all others, and where it is not there."""
    if "payload" not in line or envelope["type"] not in (*WITHDRAWING, "key.rotated"):
        return {}
    try:
        found = json.loads(line["payload"])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DoesNotHold(f"{what}: its payload is no JSON object.")
    return found


def check_whole(
    events: Iterator[Event], notes: dict[int, Note], believed: list[Key], kept: set[int]
) -> dict[int, bytes]:
    """Build the tree from all events. Returns its roots at the sizes of `notes` and `kept`.

    `believed` gains the key that a believed one hands over to: the event that names the new key must be under the next
    checkpoint, and that one signed by both.
    """
    tree: list[tuple[int, bytes]] = []
    roots: dict[int, bytes] = {}
    handed: list[tuple[Key, Key]] = []
    for event in events:
        add_leaf(tree, event.hash)
        if event.envelope["type"] == "key.rotated" and event.told.get("purpose") == "log":
            handed.append((parse_key(str(event.told.get("was"))), parse_key(str(event.told.get("vkey")))))
        size = event.leaf + 1
        if size in kept or size in notes:
            roots[size] = root_of(tree)
        if size in notes:
            if notes[size].root != roots[size]:
                raise DoesNotHold(f"The events to leaf {event.leaf} do not lead to the root of their checkpoint.")
            both = [(was, new) for was, new in handed if signed_by(was, notes[size]) and signed_by(new, notes[size])]
            believed += [new for was, new in both if was in believed]
            handed.clear()
    return roots


def check_part(events: Iterator[Event], note: Note) -> dict[int, bytes]:
    for event in events:
        proof = [unbase64(str(step), f"{event.what}: its proof", 32) for step in event.proof]
        if root_from(event.hash, event.leaf, note.size, proof) != note.root:
            raise DoesNotHold(f"{event.what} is not in the log: its proof leads to another root.")
    return {note.size: note.root}


# --- What the reader brought along, and what is shown


def sizes_of(kept: list[str]) -> Iterator[int]:
    for text in kept:
        with suppress(DoesNotHold):  # `held_to` tells of it
            yield parse_note(text).size


def held_to(given: Given, note: Note, roots: dict[int, bytes], keys: list[Key]) -> list[str]:
    """Raises DoesNotHold if what was kept is another log's, CannotTell if it cannot be compared."""
    lines, unknown = [], []
    for text in given.kept:
        try:
            kept = parse_note(text)
            signers = [key for key in keys if signed_by(key, kept)]
        except DoesNotHold as bad:
            unknown.append(f"the checkpoint that you kept cannot be relied on: {bad}")
            continue
        about = f"the checkpoint of size {kept.size} that you kept"
        if kept.origin != note.origin:
            raise DoesNotHold(f"{about} is of the log {kept.origin}, this one is {note.origin}")
        if kept.size not in roots:
            unknown.append(f"{about} cannot be compared: this is of size {note.size}, and not the whole log or older")
        elif roots[kept.size] != kept.root or not signers:
            raise DoesNotHold(f"{about} has another root, or is signed by another key: these are two logs")
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
    return [f"{len(stamps)} time stamps, not checked here; the last one, with its authority's roots: {command}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a bundle, or the folder of one event's proof")
    parser.add_argument("--key", help="the log's verifier key, or a file with it, as you had it from elsewhere")
    parser.add_argument(
        "--checkpoint", action="append", default=[], help="file of a checkpoint that you kept; repeatable"
    )
    parser.add_argument("--witness", action="append", default=[], help="key of a witness that you rely on; repeatable")
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
        if "\n" in text.strip():
            raise CannotTell(f"{asked} names several keys: give the one that you know the log by.")
        key = parse_key(text)
    except (DoesNotHold, ValueError) as bad:
        raise CannotTell(f"{asked}: {bad}") from None
    if key.kind != kind:
        raise CannotTell(f"{asked}: a key of kind {key.kind}, where one of kind {kind} is needed.")
    return key


def say(answer: str, lines: list[str], code: int) -> int:
    """What stands in a bundle is shown, never obeyed by the terminal."""
    for number, line in enumerate(lines):
        shown = "".join(c if c.isprintable() else "?" for c in line)[:2_000]
        sys.stdout.write(f"{'' if number else answer:<16}{shown}\n")
    return code


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
