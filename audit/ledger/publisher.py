"""Publication: the newest checkpoint and all that is under it, put where others can read it (see `ledger.tiles`).

A reader never meets a checkpoint whose tiles are not there: it is written last. Before anything is written, what is
published already must be this log's past; what stands at a place that never changes is compared, not overwritten.

Against whoever owns the place, object lock: on a bucket of S3 with versions the operator sets a default retention, and
the bucket itself keeps each version of each object for so long.

    aws s3api create-bucket --bucket NAME --object-lock-enabled-for-bucket
    aws s3api put-object-lock-configuration --bucket NAME --object-lock-configuration \
      '{"ObjectLockEnabled":"Enabled","Rule":{"DefaultRetention":{"Mode":"COMPLIANCE","Years":10}}}'

That `checkpoint` is written again does no harm there: its earlier versions stay, locked like everything else.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection

from audit import roots
from audit.errors import InconsistentTree, NotFound, ProofRejected, PublicationUnavailable, UserError
from audit.events.event import Event, make_event
from audit.events.payloads import PublishFacts
from audit.ledger import tree
from audit.ledger.keys import keys_on_record
from audit.ledger.note import (
    MAX_NOTE,
    Checkpoint,
    VerifierKey,
    parse_checkpoint,
    parse_note,
    verified,
    with_cosignatures,
)
from audit.ledger.sealer import reader
from audit.ledger.tiles import (
    AT_ONCE,
    CHECKPOINT,
    ENTRIES,
    KEYS,
    LENGTH_BYTES,
    MAX_ENTRY,
    WEB,
    Place,
    Progress,
    get,
    head_of,
    named,
    place_at,
    silent,
    tile_path,
)
from audit.ledger.tree import TILE_HEIGHT, TILE_WIDTH, Node
from audit.store import ledger
from audit.store.append import insert_event
from audit.store.engine import AuditStore

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion

SOURCE = "prefect-audit/publisher"
TRIES = 5  # where others publish at the same time
CHANGING = (CHECKPOINT, KEYS)
FOR_EVER = "public, max-age=31536000, immutable"
NO_HEAD_HINT = (
    "The file `checkpoint` of a published log holds its signed head, and this one does not. Nothing is written: "
    "publish to a place of its own, or find out who wrote it."
)
NOTHING_WRITTEN = "Nothing is published. Keep everything as it is and run `audit verify`."


@dataclass(frozen=True, slots=True)
class Published:
    """What stands at the place now, and what that took."""

    size: int  # leaves
    was: int  # leaves of the checkpoint that was there before
    files: int  # that were written
    to: str  # the place, without its secrets
    unsealed: int  # events that are under no checkpoint and so not published; those of sealing itself do not count
    event: Event | None  # checkpoint.published; None where nothing was new


def publish(store: AuditStore, url: str, *, actor: str, progress: Progress | None = None) -> Published:
    """Put the newest checkpoint at `url`, and before it every entry and tile under it that is not there yet.

    Raises NotFound where nothing is sealed yet, InconsistentTree if what is there is not this log's past or what the
    store holds does not lead to its own checkpoint, PublicationUnavailable, StoreUnavailable. What was written until
    then is right, stays, and the next call goes on from there.
    """
    if roots.scheme_of(url) in WEB:
        raise UserError(
            f"{roots.shown(url)} can be read, not written.", hint="Name the folder or bucket that it serves."
        )
    place = place_at(url)
    with _alone(place):
        for _ in range(TRIES):
            if done := _brought_up_to_date(store, place, actor, progress):
                return done
    raise PublicationUnavailable(f"Others publish to {place.shown} at the same time.", hint="Try again later.")


class _File(NamedTuple):
    """A file that goes in once and stays."""

    path: str
    content: bytes
    upto: int  # events that are seen to once it is there


class _Found(NamedTuple):
    """The checkpoint that is there, and what names just this version of it to the bucket."""

    note: str
    version: "UpdateVersion"


class _Ours(NamedTuple):
    """What is to be there, and from what size on it is new."""

    head: Checkpoint
    signed: str  # the note as the log signed it
    note: str  # with cosignatures
    keys: list[VerifierKey]
    was: int


def _brought_up_to_date(store: AuditStore, place: Place, actor: str, progress: Progress | None) -> Published | None:
    """None if somebody else published meanwhile: what is there then must be looked at again."""
    found = _found(place)
    ours = _ours(store, found, place.shown)
    unsealed, _ = ledger.not_sealed(store)
    if found and found.note == ours.note:
        return Published(ours.head.size, ours.was, 0, place.shown, unsealed, None)
    files = _kept(place, _new_files(store, ours.was, ours.head.size), progress or silent, ours.head.size)
    files += _keep(place, _File(f"checkpoints/{ours.head.size}", ours.signed.encode(), ours.head.size))
    files += _keys_shown(place, ours.keys)
    if not _head_replaced(place, ours.note, found):
        return None
    event = _told(ours.head.size, place.shown, files + 1, actor)
    with store.deciding() as connection:
        insert_event(connection, event)
    return Published(ours.head.size, ours.was, files + 1, place.shown, unsealed, event)


def _found(place: Place) -> _Found | None:
    import obstore

    with named(place, "read"):
        try:
            found = obstore.get(place.root, CHECKPOINT)
            note = bytes(found.bytes()) if found.meta["size"] <= MAX_NOTE else b""
        except FileNotFoundError:
            return None
    version: UpdateVersion = {}
    for name in ("e_tag", "version"):
        if (value := found.meta[name]) is not None:
            version[name] = value
    return _Found(note.decode(errors="replace"), version)


def _ours(store: AuditStore, found: _Found | None, place: str) -> _Ours:
    """Raises NotFound, and InconsistentTree unless the tree leads to both checkpoints, ours and the one found there."""
    with store.reading() as connection:
        newest = ledger.last_checkpoint(connection)
        if newest is None:
            raise NotFound("Nothing is sealed yet, so there is nothing to publish.", hint="Run `audit seal`.")
        size, signed = newest
        keys = keys_on_record(ledger.key_events(connection))
        head = _demand_ours(connection, signed, "The newest checkpoint of the store", keys)
        was = 0
        if found:
            was = _demand_ours(connection, found.note, f"The checkpoint at {place}", keys, head).size
        ((_, _, cosignatures),) = ledger.cosigned_checkpoints(connection, size)
    try:
        note = str(with_cosignatures(signed, cosignatures))
    except ProofRejected as bad:
        raise InconsistentTree(f"A cosignature in the store is none: {bad.what}", hint=NOTHING_WRITTEN) from None
    return _Ours(head, signed, note, keys, was)


def _demand_ours(
    connection: Connection, written: str, what: str, keys: Sequence[VerifierKey], newest: Checkpoint | None = None
) -> Checkpoint:
    """The head in a note. Raises InconsistentTree unless this log signed it and its tree leads to it."""
    try:
        note = parse_note(written)
        head = parse_checkpoint(note.text)
        signers = verified(note, keys)
    except ProofRejected as bad:
        hint = NO_HEAD_HINT if newest else NOTHING_WRITTEN
        raise InconsistentTree(f"{what} cannot be believed: {bad.what}", hint=hint) from None
    if newest and head.origin != newest.origin:
        raise InconsistentTree(
            f"{what} is of another log, {head.origin}; this one is {newest.origin}.",
            hint="Publish to a place of its own.",
        )
    if not signers:
        raise InconsistentTree(f"{what} is signed by no key of this log.", hint=NOTHING_WRITTEN)
    if newest and head.size > newest.size:
        raise InconsistentTree(
            f"{what} has size {head.size}, the store {newest.size} sealed events: this is an older copy.",
            hint="Bring the newer one back. A log that was cut cannot be continued under its name.",
        )
    if tree.root(head.size, reader(connection)) != head.root:
        raise InconsistentTree(
            f"The tree does not lead to the checkpoint of size {head.size} ({what[0].lower()}{what[1:]}): "
            "sealed events were changed.",
            hint=NOTHING_WRITTEN,
        )
    return head


def _new_files(store: AuditStore, was: int, size: int) -> Iterator[_File]:
    """Entries and tiles of the tree of `size` that one of `was` did not have.

    Partial tiles are those of every checkpoint since, not of the newest alone, as long as the full one is not there:
    whoever holds such a checkpoint may ask for them. Raises InconsistentTree where hashes do not lead to their head.
    """
    for level in range(0, size.bit_length(), TILE_HEIGHT):
        for nth, width in _new_tiles(store, level, was, size):
            first, upto = nth * TILE_WIDTH, size if level else nth * TILE_WIDTH + width
            with store.reading() as connection:
                entries = [] if level else ledger.entries(connection, first, first + width)
                ((*hashes,),) = ledger.hashes(connection, [(level, first, first + width)])
                if width == TILE_WIDTH and reader(connection)([Node(level + TILE_HEIGHT, nth)]) != [head_of(hashes)]:
                    raise InconsistentTree(
                        f"Tile {nth} of level {level} does not lead to the hash above it.", hint="Run `audit verify`."
                    )
            if not level:
                yield _File(tile_path(ENTRIES, nth, width), _bundle(entries, first), upto)
            yield _File(tile_path(level // TILE_HEIGHT, nth, width), b"".join(hashes), upto)


def _new_tiles(store: AuditStore, level: int, was: int, size: int) -> list[tuple[int, int]]:
    """(index, width) of a level's tiles."""
    before, rows = was >> level, size >> level
    last = rows // TILE_WIDTH  # the one that is not full
    with store.reading() as connection:
        at_checkpoints = ledger.rows_at_checkpoints(connection, level, max(was + 1, last * TILE_WIDTH << level), size)
    full = [(nth, TILE_WIDTH) for nth in range(before // TILE_WIDTH, last)]
    return full + [(last, n % TILE_WIDTH) for n in at_checkpoints if n % TILE_WIDTH]


def _bundle(entries: Iterable[tuple[bytes, bytes, str]], first: int) -> bytes:
    found = bytearray()
    for index, (entry, hash, event) in enumerate(entries, first):
        if tree.leaf_hash(entry) != hash or len(entry) > MAX_ENTRY:
            raise InconsistentTree(
                f"event {event} (leaf {index}): its envelope has another hash than was sealed.",
                hint="Nothing more is published. Keep the store as it is and run `audit verify`.",
            )
        found += len(entry).to_bytes(LENGTH_BYTES, "big") + entry
    return bytes(found)


def _kept(place: Place, files: Iterator[_File], progress: Progress, size: int) -> int:
    """How many of the files were new."""
    new = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while batch := list(islice(files, AT_ONCE)):
            new += sum(pool.map(partial(_keep, place), batch))
            progress(batch[-1].upto, size)
    return new


def _keep(place: Place, file: _File) -> bool:
    """Whether it was new. Raises InconsistentTree if other bytes stand in its place."""
    from obstore.exceptions import AlreadyExistsError

    with named(place, "written"):
        if place.folder is None:
            try:
                _put(place, file.path, file.content, "create")
                return True
            except AlreadyExistsError:
                pass
        there = get(place, file.path, len(file.content))
        if there is None:  # in a folder nobody else publishes meanwhile
            _put(place, file.path, file.content, "overwrite")
            return True
    if there != file.content:
        raise InconsistentTree(
            f"{place.shown}/{file.path} has other bytes than this log's.",
            hint="It is left as it is, and the checkpoint there too. Find out who wrote it, or publish elsewhere.",
        )
    return False


def _keys_shown(place: Place, keys: Sequence[VerifierKey]) -> bool:
    """Whether the file of keys was another one before."""
    content = "".join(f"{key}\n" for key in reversed(dict.fromkeys(keys))).encode()
    with named(place, "written"):
        if get(place, KEYS, len(content)) == content:
            return False
        _put(place, KEYS, content, "overwrite")
    return True


def _head_replaced(place: Place, note: str, found: _Found | None) -> bool:
    """False if the checkpoint there is not the one that was found before."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    with named(place, "written"):
        try:
            if place.folder is not None:
                os.sync()  # the system may write files to disk in another order than it was given them
                _put(place, CHECKPOINT, note.encode(), "overwrite")
            else:
                _put(place, CHECKPOINT, note.encode(), found.version if found else "create")
        except (AlreadyExistsError, PreconditionError):
            return False
    return True


def _told(size: int, to: str, files: int, actor: str) -> Event:
    return make_event(
        "checkpoint.published",
        PublishFacts(size=size, to=to, files=files),
        source=SOURCE,
        subject=f"checkpoint/{size}",
        actor=actor,
    )


@contextmanager
def _alone(place: Place) -> Iterator[None]:
    """One publisher at a time in a folder; a bucket refuses by itself to replace what is not there any more."""
    if place.folder is None:
        yield
        return
    with named(place, "locked"):
        descriptor = os.open(place.folder, os.O_RDONLY)
    try:
        with named(place, "locked"):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _put(place: Place, path: str, content: bytes, mode: "PutMode") -> None:
    import obstore

    if place.folder is not None:  # files have no headers
        obstore.put(place.root, path, content, mode=mode, use_multipart=False)
        return
    text = not path.startswith("tile/")
    headers = {
        "Content-Type": "text/plain; charset=utf-8" if text else "application/octet-stream",
        "Cache-Control": "no-cache" if path in CHANGING else FOR_EVER,
    }
    obstore.put(place.root, path, content, mode=mode, use_multipart=False, attributes=headers)
