"""Publication in the layout of c2sp.org/tlog-tiles: what an outsider finds there, and what is refused.

What is published is held against the standard's own sentences by the plainest code (`demanded_by_the_standard`), not
by that which wrote it.
"""

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from sqlalchemy import text
from werkzeug.serving import make_server

from audit.errors import InconsistentTree, NotFound, ProofRejected, PublicationUnavailable, UserError
from audit.events.canonical import digest_of
from audit.events.event import Event, make_event
from audit.events.payloads import AnchorFacts, KeyFacts, StoreFacts
from audit.ledger import tiles
from audit.ledger.note import (
    COSIGNATURE,
    Checkpoint,
    SigningKey,
    VerifierKey,
    cosignature,
    parse_checkpoint,
    parse_note,
    verified,
)
from audit.ledger.publisher import Published, publish
from audit.ledger.sealer import seal
from audit.ledger.tiles import read_published, tile_path
from audit.store import ledger, read
from audit.store.append import append, insert_event
from audit.store.engine import AuditStore, open_store, opened
from tests.stores import in_a_file, rewrite

ORIGIN = "acme.example/flights"
ACTOR = "p:7c1e0f" + "0" * 58
KEY = SigningKey(ORIGIN, bytes(32))


@pytest.fixture
def store(home: Path) -> AuditStore:
    """A log whose key is on record: one event, nothing sealed."""
    return founded(open_store(), KEY)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder, not there yet, that the log is published to."""
    return tmp_path / "log"


def recompute(url: str, keys: list[VerifierKey]) -> Checkpoint:
    """The head that everything published there leads to."""
    return parse_checkpoint(tiles.recompute(url, keys).text)


def founded(store: AuditStore, key: SigningKey) -> AuditStore:
    append(store, [key_event(key)])
    return store


def key_event(key: SigningKey, type: str = "key.created", was: SigningKey | None = None) -> Event:
    handed = {"was": str(was.verifier), "consent": was.consent(key.verifier)} if was else {}
    facts = KeyFacts(purpose="log", fingerprint=key.verifier.shown, vkey=str(key.verifier), **handed)
    return make_event(type, facts, source="test", subject="key/log", actor=ACTOR)


def another_log(folder: Path, key: SigningKey) -> AuditStore:
    from audit.store.migrations import upgrade

    folder.mkdir()
    store = opened(folder / "audit.db")
    upgrade(store.engine)
    return founded(store, key)


def an_event(reason: str = "a day's work") -> Event:
    return make_event("store.opened", StoreFacts(reason=reason), source="test", subject="store", actor=ACTOR)


def grow_to(store: AuditStore, size: int, key: SigningKey = KEY) -> None:
    """Events are recorded and sealed until the tree has `size` leaves; each sealing leaves one event more."""
    while True:
        with store.reading() as connection:
            sealed = ledger.size(connection)
        if sealed == size:
            return
        missing = min(size - sealed, 10_000) - ledger.sealing(store).unsealed
        assert missing >= 0, "sizes that are too near to each other"
        append(store, [an_event() for _ in range(missing)])
        assert seal(store, key, actor=ACTOR)


def put(store: AuditStore, place: Path | str) -> Published:
    return publish(store, str(place), actor=ACTOR)


def files_at(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def demanded_by_the_standard(entries: list[bytes]) -> dict[str, bytes]:
    """Tiles and bundles of a log of these entries, each hash as tlog-tiles defines it:
    MTH(D[(n * 256 + i) * 256**l : (n * 256 + i + 1) * 256**l]) of RFC 6962, 2.1."""
    found = {}
    for first in range(0, len(entries), 256):
        bundle = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries[first : first + 256])
        found["tile/entries/" + spelled(first // 256, min(256, len(entries) - first))] = bundle
    hashes, level = [hashlib.sha256(b"\0" + entry).digest() for entry in entries], 0
    while hashes:
        for first in range(0, len(hashes), 256):
            row = hashes[first : first + 256]
            found[f"tile/{level}/" + spelled(first // 256, len(row))] = b"".join(row)
        full = range(0, len(hashes) - len(hashes) % 256, 256)
        hashes, level = [folded(hashes[first : first + 256]) for first in full], level + 1
    return found


def spelled(n: int, width: int) -> str:
    """Zero-padded elements of three digits, all but the last with an x; the width where it is not 256."""
    digits = str(n)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    elements = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([f"x{element}" for element in elements[:-1]] + elements[-1:]) + (
        f".p/{width}" if width < 256 else ""
    )


def folded(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 over leaf hashes, as it is written there."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + folded(hashes[:k]) + folded(hashes[k:])).digest()


def entries_of(store: AuditStore, size: int) -> list[bytes]:
    with store.reading() as connection:
        rows = connection.execute(text("SELECT envelope FROM event ORDER BY seq LIMIT :size"), {"size": size})
        return [envelope.encode() for envelope in rows.scalars()]


@pytest.mark.parametrize(
    ("n", "width", "path"),
    [
        (0, 256, "tile/0/000"),
        (999, 256, "tile/0/999"),
        (1000, 256, "tile/0/x001/000"),
        (1234067, 256, "tile/0/x001/x234/067"),  # the standard's own example
        (1234067, 12, "tile/0/x001/x234/067.p/12"),
    ],
)
def test_a_tiles_path_is_as_the_standard_spells_it(n: int, width: int, path: str) -> None:
    assert tile_path(0, n, width) == path == "tile/0/" + spelled(n, width)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 513])
def test_exactly_the_files_of_the_standard_are_published(store: AuditStore, place: Path, size: int) -> None:
    grow_to(store, size)
    done = put(store, place)
    found = files_at(place)
    note = parse_note(found.pop("checkpoint").decode())
    assert found.pop(f"checkpoints/{size}").decode() == str(note)
    assert found.pop("log.vkey").decode() == f"{KEY.verifier}\n"
    entries = entries_of(store, size)
    assert found == demanded_by_the_standard(entries)
    head = parse_checkpoint(note.text)
    assert verified(note, [KEY.verifier]) == [KEY.verifier]
    assert (head.origin, head.size) == (ORIGIN, size)
    assert head.root == folded([hashlib.sha256(b"\0" + entry).digest() for entry in entries])
    assert (done.size, done.was, done.files) == (size, 0, len(found) + 3)
    assert recompute(str(place), [KEY.verifier]) == head


@in_a_file
@pytest.mark.slow  # recording 66,000 events takes its time
def test_a_log_of_three_levels_is_published_as_the_standard_says(store: AuditStore, place: Path) -> None:
    for size in (65_535, 65_540, 65_800):
        grow_to(store, size)
        put(store, place)
        found = files_at(place)
        demanded = demanded_by_the_standard(entries_of(store, size))
        assert {path: found[path] for path in demanded} == demanded
        assert recompute(str(place), [KEY.verifier]).size == size
    assert "tile/2/000.p/1" in found


def test_an_empty_log_is_not_published(store: AuditStore, place: Path) -> None:
    with pytest.raises(NotFound, match="Nothing is sealed yet") as refused:
        put(store, place)
    assert "audit seal" in refused.value.hint and files_at(place) == {}


def test_growth_in_steps_leaves_what_publishing_at_once_does(store: AuditStore, tmp_path: Path) -> None:
    sizes = (5, 250, 256, 259, 512, 600)
    in_steps, at_once = tmp_path / "in steps", tmp_path / "at once"
    before: dict[str, bytes] = {}
    for size in sizes:
        grow_to(store, size)
        done = put(store, in_steps)
        found = files_at(in_steps)
        changed = {path for path, content in before.items() if found[path] != content}
        assert changed <= {"checkpoint"}  # all else stays as it was written
        assert done.files == len(found) - len(before) + len(changed)
        before = found
    put(store, at_once)
    whole = files_at(at_once)
    assert {path: found[path] for path in whole} == whole
    assert {path for path in found if path not in whole} == {
        *(f"checkpoints/{size}" for size in sizes[:-1]),
        *(f"tile/{kind}/000.p/{width}" for kind in ("0", "entries") for width in (5, 250)),
        *(f"tile/{kind}/001.p/3" for kind in ("0", "entries")),
    }


def test_partial_tiles_of_every_checkpoint_are_there_until_they_are_full(store: AuditStore, place: Path) -> None:
    """Whoever holds a checkpoint that was signed between two publications may ask for the tiles of its size."""
    for size in (100, 256, 300, 400):
        grow_to(store, size)
    put(store, place)
    found = files_at(place)
    for size in (256, 300, 400):
        demanded = demanded_by_the_standard(entries_of(store, size))
        assert {path: found[path] for path in demanded} == demanded
    assert "tile/0/000.p/100" not in found  # the full tile has its hashes


def test_publishing_goes_on_record_without_asking_for_another_seal(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    done = put(store, place)
    (told,) = read.events(store, types=("checkpoint.published",))
    assert told.payload == {"size": 5, "to": str(place), "files": done.files}
    assert done.event and told.id == done.event.id and told.actor == ACTOR
    assert done.unsealed == 0
    assert seal(store, KEY, actor=ACTOR) is None


def test_where_nothing_is_new_nothing_is_written_or_recorded(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    put(store, place)
    stamps = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    again = put(store, place)
    assert (again.size, again.was, again.files, again.event) == (5, 5, 0, None)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == stamps
    assert len(list(read.events(store, types=("checkpoint.published",)))) == 1


def test_only_what_is_sealed_is_published(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    append(store, [late := an_event("not sealed")])
    assert put(store, place).unsealed == 1
    assert not any(late.id.encode() in content for content in files_at(place).values())


def test_no_payload_is_published(store: AuditStore, place: Path) -> None:
    append(store, [an_event("Ann Example")])
    assert seal(store, KEY, actor=ACTOR)
    put(store, place)
    assert not any(b"Ann Example" in content for content in files_at(place).values())


def test_cosignatures_of_the_newest_size_stand_in_the_checkpoint(store: AuditStore, place: Path) -> None:
    """They often come after the first publication: then the checkpoint alone is written again."""
    witness = SigningKey("witness.example/w1", b"\1" * 32)
    known = VerifierKey(witness.name, COSIGNATURE, witness.verifier.public)
    grow_to(store, 5)
    put(store, place)
    alone = (place / "checkpoint").read_text()
    cosign(store, witness, 5, alone)
    assert put(store, place).files == 1
    note = parse_note(read_published(str(place)))
    assert verified(note, [KEY.verifier, known]) == [KEY.verifier, known]
    assert (place / "checkpoints" / "5").read_text() == alone
    grow_to(store, 20)
    put(store, place)
    assert verified(parse_note(read_published(str(place))), [KEY.verifier, known]) == [KEY.verifier]


def test_a_witness_that_cosigned_twice_stands_there_once(store: AuditStore, place: Path) -> None:
    """Two signatures by one key would make the note none."""
    witness = SigningKey("witness.example/w1", b"\1" * 32)
    grow_to(store, 5)
    put(store, place)
    for at in (1_795_000_000, 1_795_000_100):
        cosign(store, witness, 5, (place / "checkpoints" / "5").read_text(), at)
    put(store, place)
    assert [signature.name for signature in parse_note(read_published(str(place))).signatures] == [
        ORIGIN,
        witness.name,
    ]


def test_a_witness_alone_does_not_make_a_published_log_believed(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    put(store, place)
    witness = SigningKey("witness.example/w1", b"\3" * 32)
    cosign(store, witness, 5, (place / "checkpoints" / "5").read_text())
    put(store, place)

    with pytest.raises(ProofRejected, match="No key of the log"):
        recompute(str(place), [VerifierKey(witness.name, COSIGNATURE, witness.verifier.public)])


def cosign(store: AuditStore, witness: SigningKey, size: int, written: str, at: int = 1_795_000_000) -> None:
    file_anchor(store, size, str(cosignature(witness, parse_note(written).text, at)).encode())


def file_anchor(store: AuditStore, size: int, evidence: bytes) -> None:
    facts = AnchorFacts(size=size, kind="cosignature", by="w1", at="2026-11-18T00:00:00Z", digest=digest_of(evidence))
    event = make_event("checkpoint.anchored", facts, source="test", subject=f"checkpoint/{size}", actor=ACTOR)
    with store.writing() as connection:
        seq = insert_event(connection, event)
        assert seq
        ledger.add_anchor(connection, seq, size, "cosignature", evidence)


def test_keys_of_before_and_after_a_rotation_are_shown_the_newest_first(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    put(store, place)
    newer = SigningKey(ORIGIN, b"\7" * 32)
    append(store, [key_event(newer, "key.rotated", was=KEY)])
    assert seal(store, newer, actor=ACTOR, takes_over_from=KEY)
    put(store, place)
    assert (place / "log.vkey").read_text() == f"{newer.verifier}\n{KEY.verifier}\n"
    assert verified(parse_note(read_published(str(place))), [newer.verifier]) == [newer.verifier]


# What must not be published over, and what must not be published.


def refused(store: AuditStore, place: Path, match: str) -> InconsistentTree:
    """Publishing is refused in a line, and nothing at the place is touched; nor is it on record."""
    before = files_at(place)
    told = len(list(read.events(store, types=("checkpoint.published",))))
    with pytest.raises(InconsistentTree, match=match) as why:
        put(store, place)
    assert files_at(place) == before
    assert len(list(read.events(store, types=("checkpoint.published",)))) == told
    assert "\n" not in str(why.value) and why.value.hint
    return why.value


@in_a_file  # which is copied
def test_an_older_copy_of_the_store_does_not_publish_over_the_newer_log(
    store: AuditStore, tmp_path: Path, place: Path
) -> None:
    grow_to(store, 5)
    with store.writing():  # so that no log of writes lies beside the file
        shutil.copy(store.path, tmp_path / "older.db")
        shutil.copy(f"{store.path}-wal", tmp_path / "older.db-wal")
    grow_to(store, 9)
    put(store, place)
    refused(opened(tmp_path / "older.db"), place, "size 9, the store 5 sealed events: this is an older copy")


def test_another_log_is_not_published_over(store: AuditStore, tmp_path: Path, place: Path) -> None:
    grow_to(store, 5)
    put(store, place)
    key = SigningKey("acme.example/mortgage", bytes(32))
    other = another_log(tmp_path / "other", key)
    grow_to(other, 9, key)
    refused(other, place, "is of another log, acme.example/flights; this one is acme.example/mortgage")


def test_a_log_of_the_same_name_by_a_strange_key_is_not_published_over(
    store: AuditStore, tmp_path: Path, place: Path
) -> None:
    grow_to(store, 5)
    put(store, place)
    key = SigningKey(ORIGIN, b"\2" * 32)
    other = another_log(tmp_path / "other", key)
    grow_to(other, 9, key)
    refused(other, place, "signed by no key of this log")


def test_a_rewritten_past_is_not_published(store: AuditStore, tmp_path: Path, place: Path) -> None:
    """Name and key are the same; only what was published says that the log was another one."""
    grow_to(store, 5)
    put(store, place)
    other = another_log(tmp_path / "other", KEY)
    grow_to(other, 9)
    refused(other, place, "does not lead to the checkpoint of size 5")


@pytest.mark.parametrize(
    "there",
    [b"", b"hello\n", b"\xff\xfe", b"x" * 1_000_001, b"a\n1\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 a AAAAAAAA\n"],
    ids=["empty", "text", "bytes", "too long", "not ours"],
)
def test_what_is_no_checkpoint_of_ours_is_left_alone(store: AuditStore, place: Path, there: bytes) -> None:
    grow_to(store, 5)
    (place).mkdir()
    (place / "checkpoint").write_bytes(there)
    refused(store, place, "checkpoint at .*(cannot be believed|another log)")


def test_a_bent_signature_on_what_is_published_is_told(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    put(store, place)
    file = place / "checkpoint"
    file.write_text(file.read_text().replace("\n5\n", "\n4\n"))
    refused(store, place, "does not fit the note")


@pytest.mark.parametrize("path", ["tile/0/000.p/9", "tile/entries/000.p/9", "checkpoints/9"])
@pytest.mark.parametrize("content", [b"", b"other bytes"])
def test_other_bytes_where_nothing_changes_are_named_and_left(
    store: AuditStore, place: Path, path: str, content: bytes
) -> None:
    grow_to(store, 5)
    put(store, place)
    checkpoint = (place / "checkpoint").read_bytes()
    (place / path).write_bytes(content)
    grow_to(store, 9)
    with pytest.raises(InconsistentTree, match=f"{path} has other bytes"):
        put(store, place)
    assert (place / path).read_bytes() == content
    assert (place / "checkpoint").read_bytes() == checkpoint
    assert recompute(str(place), [KEY.verifier]).size == 5


TAMPERED = {
    "a leaf's hash": ("UPDATE leaf SET hash = ? WHERE idx = 3", "does not lead to the hash above it"),
    "the last leaf's hash": ("UPDATE leaf SET hash = ? WHERE idx = 299", "does not lead to the checkpoint"),
    "a node": ("UPDATE node SET hash = ? WHERE idx = 0", "does not lead to the checkpoint"),
    "an envelope": ("UPDATE event SET envelope = '{}' WHERE seq = 4", r"\(leaf 3\): its envelope has another hash"),
    "an event is gone": ("DELETE FROM event WHERE seq = 4", "entries 0 to 255 are not all there"),
    "a leaf is gone": ("DELETE FROM leaf WHERE idx = 3", "not all there"),
    "the checkpoint": ("UPDATE checkpoint SET note = replace(note, '300', '299')", "cannot be believed"),
    "the checkpoint's signature": (
        "UPDATE checkpoint SET note = replace(note, '— acme', '— evil')",
        "signed by no key of this log",
    ),
}


@pytest.mark.parametrize(("change", "told"), TAMPERED.values(), ids=TAMPERED)
def test_a_store_that_was_changed_is_not_published(store: AuditStore, place: Path, change: str, told: str) -> None:
    grow_to(store, 300)
    rewrite(change, *[bytes(32)] * change.count("?"))
    with pytest.raises(InconsistentTree, match=told):
        put(store, place)
    assert "checkpoint" not in files_at(place)


@pytest.mark.parametrize("evidence", [b"\xff\xfe", b"", b"hello", "two\n— lines\n".encode()])
def test_a_changed_cosignature_is_not_published(store: AuditStore, place: Path, evidence: bytes) -> None:
    grow_to(store, 5)
    file_anchor(store, 5, evidence)
    with pytest.raises(InconsistentTree, match="A cosignature in the store is none"):
        put(store, place)
    assert files_at(place) == {}


# What dies in the middle, and who comes at the same time.


def test_a_publication_that_fails_half_way_goes_on_where_it_was(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    put(store, place)
    grow_to(store, 600)
    (place / "tile" / "1").write_bytes(b"")  # a file where a folder has to be
    with pytest.raises(PublicationUnavailable, match=r"tile/1/000.*Not a directory") as failed:
        put(store, place)
    assert "\n" not in str(failed.value)
    assert recompute(str(place), [KEY.verifier]).size == 5
    (place / "tile" / "1").unlink()
    resumed = put(store, place)
    assert resumed.was == 5 and resumed.files == 3  # a tile of level 1 and two checkpoints: all else was there
    assert recompute(str(place), [KEY.verifier]).size == 600


def test_a_publisher_that_dies_leaves_the_old_checkpoint(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    put(store, place)
    grow_to(store, 600)
    program = f"""
import os
from audit.ledger.publisher import publish
from audit.store.engine import open_store
publish(open_store(), {str(place)!r}, actor="p:x", progress=lambda done, of: os._exit(9))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert recompute(str(place), [KEY.verifier]).size == 5
    assert put(store, place).was == 5
    assert recompute(str(place), [KEY.verifier]).size == 600


def test_of_many_publishers_to_one_folder_one_writes(store: AuditStore, place: Path) -> None:
    grow_to(store, 600)
    at_once = threading.Barrier(4)

    def one(_: int) -> Published:
        at_once.wait()
        return put(store, place)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(one, range(4)))
    assert sorted(one.files > 0 for one in done) == [False, False, False, True]
    assert recompute(str(place), [KEY.verifier]).size == 600


def test_progress_is_told_up_to_the_end(store: AuditStore, place: Path) -> None:
    grow_to(store, 600)
    told: list[tuple[int, int]] = []
    publish(store, str(place), actor=ACTOR, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (600, 600) and told == sorted(told)


# Reading what is published.


@in_a_file
def test_a_published_log_is_read_from_any_place(store: AuditStore, tmp_path: Path) -> None:
    grow_to(store, 300)
    folder = tmp_path / "the log ü"
    put(store, folder)
    with served(partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as web:
        for place in (str(folder), folder.as_uri(), f"{web}/the log ü", f"{web}/the%20log%20%C3%BC/"):
            assert read_published(place) == (folder / "checkpoint").read_text()
            assert recompute(place, [KEY.verifier]).size == 300


@in_a_file
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("tile/entries/000", "tile/0/000 does not hold the hashes"),
        ("tile/entries/001.p/44", "tile/0/001.p/44 does not hold the hashes"),
        ("tile/0/000", "tile/0/000 does not hold the hashes"),
        ("tile/1/000.p/1", "tile/1/000.p/1 does not hold the hashes"),
        ("checkpoint", "does not fit the note"),
    ],
)
def test_a_bit_that_flips_where_a_log_is_published_is_found(
    store: AuditStore, place: Path, path: str, told: str
) -> None:
    grow_to(store, 300)
    put(store, place)
    content = bytearray((place / path).read_bytes())
    content[22] ^= 1
    (place / path).write_bytes(content)
    with pytest.raises((InconsistentTree, ProofRejected), match=told):
        recompute(str(place), [KEY.verifier])


@in_a_file
@pytest.mark.parametrize("path", ["tile/entries/000", "tile/entries/001.p/44", "tile/0/000", "tile/1/000.p/1"])
def test_a_published_file_that_is_gone_cut_or_longer_is_named(store: AuditStore, place: Path, path: str) -> None:
    grow_to(store, 300)
    put(store, place)
    content = (place / path).read_bytes()
    for bent in (content[:-1], content[:10], b"", content + b"\0", content + content, content + b"\0\0"):
        (place / path).write_bytes(bent)
        with pytest.raises(InconsistentTree, match=path):
            recompute(str(place), [KEY.verifier])
    (place / path).unlink()
    with pytest.raises(InconsistentTree, match=f"{path} is missing"):
        recompute(str(place), [KEY.verifier])


@in_a_file
def test_tiles_of_another_past_under_our_checkpoint_are_found(store: AuditStore, tmp_path: Path, place: Path) -> None:
    """They agree with each other, and not with what was signed."""
    grow_to(store, 300)
    put(store, place)
    other = another_log(tmp_path / "other", KEY)
    grow_to(other, 300)
    put(other, tmp_path / "other log")
    shutil.copytree(tmp_path / "other log" / "tile", place / "tile", dirs_exist_ok=True)
    with pytest.raises(InconsistentTree, match="lead to another root than the checkpoint of size 300"):
        recompute(str(place), [KEY.verifier])


@in_a_file
def test_a_log_that_was_published_whole_by_somebody_else_is_not_believed(store: AuditStore, place: Path) -> None:
    grow_to(store, 5)
    put(store, place)
    with pytest.raises(ProofRejected, match=r"No key of the log 'acme.* has signed the checkpoint"):
        recompute(str(place), [SigningKey(ORIGIN, b"\2" * 32).verifier])


@pytest.mark.parametrize(
    "address",
    ["nowhere", "", "http://127.0.0.1:1/log", "nothing://x", "s3://a b/c", "s3://"],
)
def test_where_no_log_is_published_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PublicationUnavailable) as told:
        read_published(address)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())  # a folder that is not there is not made


@pytest.mark.parametrize("address", ["http://127.0.0.1:99999/log", "http://xn--/", "http://[::1", "https://"])
def test_what_is_no_web_address_is_said_to_be_none(address: str) -> None:
    with pytest.raises(UserError, match="is none"):
        read_published(address)


@pytest.mark.parametrize("where", ["http://127.0.0.1:99999/", "http://xn--/", "file:///etc/passwd", "http://[::1", ""])
def test_who_is_sent_to_what_is_no_address_says_so_in_a_line(where: str) -> None:
    class Elsewhere(_Endless):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", where)
            self.end_headers()

    with served(Elsewhere) as url, pytest.raises(PublicationUnavailable) as told:
        read_published(url)
    assert "\n" not in str(told.value)


class _Endless(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"acme.example/flights\n" * 1000)
        except OSError:
            pass  # the client has had enough

    def log_message(self, *_: Any) -> None:
        pass


def test_a_checkpoint_without_an_end_is_not_read_to_it() -> None:
    with served(_Endless) as url, pytest.raises(ProofRejected, match="is longer than 1,000,000 bytes"):
        read_published(url)


def test_no_password_in_an_address_is_shown() -> None:
    with pytest.raises(PublicationUnavailable, match=r"http://127\.0\.0\.1:1/log cannot be read") as told:
        read_published("http://ann:secret@127.0.0.1:1/log?sig=secret")
    assert "secret" not in str(told.value)


@in_a_file
def test_a_web_address_is_no_place_to_publish_to(store: AuditStore) -> None:
    grow_to(store, 5)
    with pytest.raises(UserError, match=r"https://log\.example/x can be read, not written"):
        put(store, "https://ann:secret@log.example/x?sig=secret")


@contextmanager
def served(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# Buckets.


class Amazon:
    """moto's S3 over HTTP, which can go away and come back with what it holds."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.port = 0
        self.appear()

    def appear(self) -> None:
        self.server = make_server("127.0.0.1", self.port, self, threaded=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def vanish(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        """S3 takes a locked object with any `x-amz-checksum-…`; moto looks for the header of Amazon's own libraries."""
        if "HTTP_X_AMZ_CHECKSUM_SHA256" in environ:
            environ.setdefault("HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM", "SHA256")
        return self.moto(environ, start)

    @property
    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")

    def objects(self, bucket: str) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {one["Key"]: self.client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in listed}


_buckets = (f"log-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[Amazon]:
    amazon = Amazon()
    yield amazon
    amazon.vanish()


@pytest.fixture
def amazon(server: Amazon, monkeypatch: pytest.MonkeyPatch) -> Amazon:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "ann",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def bucket(amazon: Amazon) -> str:
    name = next(_buckets)
    amazon.client.create_bucket(Bucket=name)
    return name


@in_a_file
def test_a_bucket_holds_what_a_folder_does(store: AuditStore, amazon: Amazon, bucket: str, place: Path) -> None:
    for size in (5, 300):
        grow_to(store, size)
        put(store, f"s3://{bucket}/the log")
    grow_to(store, 600)
    done = put(store, f"s3://{bucket}/the log")
    assert (done.was, done.to) == (300, f"s3://{bucket}/the log")
    put(store, place)
    there = amazon.objects(bucket)
    assert {f"the log/{path}" for path in files_at(place)} <= set(there)
    assert all(there[f"the log/{path}"] == content for path, content in files_at(place).items())
    assert read_published(f"s3://{bucket}/the log") == (place / "checkpoint").read_text()
    assert recompute(f"s3://{bucket}/the log", [KEY.verifier]).size == 600
    assert put(store, f"s3://{bucket}/the log").event is None


@in_a_file
def test_objects_say_what_they_are_and_how_long_they_may_be_kept(
    store: AuditStore, amazon: Amazon, bucket: str
) -> None:
    grow_to(store, 300)
    put(store, f"s3://{bucket}")
    for key in amazon.objects(bucket):
        head = amazon.client.head_object(Bucket=bucket, Key=key)
        told = (head["ContentType"], head["CacheControl"])
        if key.startswith("tile/"):
            assert told == ("application/octet-stream", "public, max-age=31536000, immutable")
        elif key.startswith("checkpoints/"):
            assert told == ("text/plain; charset=utf-8", "public, max-age=31536000, immutable")
        else:
            assert told == ("text/plain; charset=utf-8", "no-cache")


@in_a_file
def test_a_bucket_with_object_lock_keeps_every_version(store: AuditStore, amazon: Amazon) -> None:
    """Each object is locked by the bucket's default retention, and a checkpoint that was replaced stays as a version.

    That nobody can shorten the time or delete a version cannot be shown here: moto lets a COMPLIANCE retention be
    shortened, Amazon does not.
    """
    name = next(_buckets)
    amazon.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Years": 10}}
    amazon.client.put_object_lock_configuration(
        Bucket=name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    grow_to(store, 300)
    put(store, f"s3://{name}/log")
    first = amazon.objects(name)
    grow_to(store, 600)
    put(store, f"s3://{name}/log")
    versions = amazon.client.list_object_versions(Bucket=name)["Versions"]
    for one in versions:
        head = amazon.client.head_object(Bucket=name, Key=one["Key"], VersionId=one["VersionId"])
        assert head["ObjectLockMode"] == "COMPLIANCE"
        assert (head["ObjectLockRetainUntilDate"] - head["LastModified"]).days >= 3650
    of_checkpoint = [one for one in versions if one["Key"] == "log/checkpoint"]
    assert len(of_checkpoint) == 2 and len(versions) == len(amazon.objects(name)) + 1  # nothing else was replaced
    (older,) = (one["VersionId"] for one in of_checkpoint if not one["IsLatest"])
    kept = amazon.client.get_object(Bucket=name, Key="log/checkpoint", VersionId=older)["Body"].read()
    assert kept == first["log/checkpoint"]


@in_a_file
def test_other_bytes_in_a_bucket_are_named_and_left(store: AuditStore, amazon: Amazon, bucket: str) -> None:
    grow_to(store, 5)
    amazon.client.put_object(Bucket=bucket, Key="log/tile/0/000.p/5", Body=b"other bytes")
    with pytest.raises(InconsistentTree, match=r"tile/0/000\.p/5 has other bytes"):
        put(store, f"s3://{bucket}/log")
    there = amazon.objects(bucket)
    assert there["log/tile/0/000.p/5"] == b"other bytes" and "log/checkpoint" not in there


@in_a_file
def test_the_slower_publisher_does_not_take_back_what_the_quicker_published(
    store: AuditStore, amazon: Amazon, bucket: str
) -> None:
    """The second one begins and ends while the first writes its tiles."""
    grow_to(store, 5)
    put(store, f"s3://{bucket}/log")
    grow_to(store, 300)
    overtaken: list[Published] = []

    def overtake(done: int, of: int) -> None:
        if not overtaken:
            grow_to(store, 600)
            overtaken.append(put(store, f"s3://{bucket}/log"))

    slower = publish(store, f"s3://{bucket}/log", actor=ACTOR, progress=overtake)
    assert overtaken[0].size == 600
    assert (slower.size, slower.event) == (600, None)
    assert recompute(f"s3://{bucket}/log", [KEY.verifier]).size == 600


@in_a_file
def test_two_that_publish_first_leave_one_checkpoint(store: AuditStore, amazon: Amazon, bucket: str) -> None:
    grow_to(store, 300)
    overtaken: list[Published] = []

    def overtake(done: int, of: int) -> None:
        if not overtaken:
            grow_to(store, 600)
            overtaken.append(put(store, f"s3://{bucket}/log"))

    assert publish(store, f"s3://{bucket}/log", actor=ACTOR, progress=overtake).size == 600
    assert recompute(f"s3://{bucket}/log", [KEY.verifier]).size == 600


@in_a_file
@pytest.mark.slow  # each of the requests on their way is tried for some seconds
def test_a_bucket_that_vanishes_half_way_keeps_its_old_checkpoint(
    store: AuditStore, amazon: Amazon, bucket: str
) -> None:
    grow_to(store, 5)
    put(store, f"s3://{bucket}/log")
    grow_to(store, 3_000)
    try:
        with pytest.raises(PublicationUnavailable, match=f"s3://{bucket}/log cannot be written") as gone:
            publish(store, f"s3://{bucket}/log", actor=ACTOR, progress=lambda done, of: amazon.vanish())
    finally:
        amazon.appear()
    assert "\n" not in str(gone.value) and "secret" not in str(gone.value)
    there = amazon.objects(bucket)
    assert parse_checkpoint(parse_note(there["log/checkpoint"].decode()).text).size == 5
    done = put(store, f"s3://{bucket}/log")
    assert 0 < done.files < len(amazon.objects(bucket)) - 5
    assert recompute(f"s3://{bucket}/log", [KEY.verifier]).size == 3_000


@in_a_file
def test_a_bucket_that_is_not_there_is_named_in_one_line(store: AuditStore, amazon: Amazon) -> None:
    grow_to(store, 5)
    with pytest.raises(PublicationUnavailable, match="s3://no-such-bucket/log cannot be written") as told:
        put(store, "s3://ann:secret@no-such-bucket/log?sig=secret")
    assert "NoSuchBucket" in str(told.value)
    assert "\n" not in str(told.value) and "secret" not in str(told.value)


@in_a_file
def test_missing_credentials_are_told_in_one_line(
    store: AuditStore, amazon: Amazon, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    grow_to(store, 5)
    with served(_NoRole) as url, monkeypatch.context() as changed:
        changed.setenv("AWS_METADATA_ENDPOINT", url)  # where a machine of Amazon's asks for its role
        with pytest.raises(PublicationUnavailable, match=f"s3://{bucket}/log cannot be read") as told:
            put(store, f"s3://{bucket}/log")
    assert "AWS_ACCESS_KEY_ID" in str(told.value) and "\n" not in str(told.value)


class _NoRole(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self.send_error(403)

    def log_message(self, *_: Any) -> None:
        pass
