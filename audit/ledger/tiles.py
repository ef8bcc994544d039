"""A log as it is published: a folder, bucket or web address in the layout of c2sp.org/tlog-tiles, and its reading.

    checkpoint                       the newest, with the witnesses' cosignatures
    tile/<L>/<N>[.p/<W>]             hashes of a level, 256 a file; `.p/<W>`: the first W of them
    tile/entries/<N>[.p/<W>]         the entries: events' envelopes, never their payloads
    checkpoints/<size>               beyond the standard: each checkpoint that was published, as the log signed it
    log.vkey                         beyond the standard: the log's verifier keys, the newest first

`checkpoint` and `log.vkey` change, all others stay as they are. A key from the same place as the log proves nothing
by itself: take it from somewhere else, or keep it from before.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from audit import roots
from audit.errors import InconsistentTree, ProofRejected, PublicationUnavailable
from audit.ledger import tree
from audit.ledger.asking import client_for, demand_address
from audit.ledger.note import MAX_NOTE, Note, VerifierKey, parse_note
from audit.ledger.proof import believed_head
from audit.ledger.tree import TILE_HEIGHT, TILE_WIDTH

if TYPE_CHECKING:
    from httpx import AsyncClient
    from obstore.store import ObjectStore

CHECKPOINT = "checkpoint"
KEYS = "log.vkey"
ENTRIES = "entries"
LENGTH_BYTES = 2  # before each entry, big-endian
MAX_ENTRY = (1 << 8 * LENGTH_BYTES) - 1
TILE_BYTES = TILE_WIDTH * tree.HASH_BYTES
MAX_BUNDLE = TILE_WIDTH * (LENGTH_BYTES + MAX_ENTRY)
WEB = ("http", "https")
GONE = (404, 410)
AT_ONCE = 16  # files on their way: a bucket answers in tens of milliseconds, and this bounds memory
ANSWER_SECONDS = 30.0  # for one file, all of it

Progress = Callable[[int, int], None]  # events that were seen to, of how many
Get = Callable[[str, int], bytes | None]  # path, most bytes: see `get`
Demanded = Callable[[str, int], bytes]


def read_published(url: str) -> str:
    """The note of the checkpoint published at a folder, a bucket or a web address; nothing of it is verified.

    Raises PublicationUnavailable if there is none or it cannot be read, ProofRejected if it is too long or no text.
    """
    with _reading(url) as get:
        return _published_note(get, url)


def recompute(url: str, keys: Sequence[VerifierKey], *, progress: Progress | None = None) -> Note:
    """The checkpoint of the log published at `url`, if everything that is published under it leads to it.

    All entries are read and hashed, every tile is compared with what follows from them, in constant memory. One of
    `keys` must be the log's and have signed the checkpoint. Raises ProofRejected if none has, InconsistentTree naming
    the file that is missing or has other bytes, PublicationUnavailable.
    """
    with _reading(url) as get:
        note = parse_note(_published_note(get, url))
        head = believed_head(note, keys)
        found = _root_of_entries(partial(_demanded, get, roots.shown(url)), head.size, progress or silent)
    if found != head.root:
        raise InconsistentTree(
            f"The entries at {roots.shown(url)} lead to another root than the checkpoint of size {head.size} says.",
            hint="Keep both as they are.",
        )
    return note


def tile_path(level: int | str, nth: int, width: int = TILE_WIDTH) -> str:
    """`tile/0/x001/x234/067.p/12`. The level of the standard: 1 is what is 8 levels above the leaves."""
    parts = [f"{nth % 1000:03}"]
    while nth := nth // 1000:
        parts.insert(0, f"x{nth % 1000:03}")
    return f"tile/{level}/{'/'.join(parts)}" + ("" if width == TILE_WIDTH else f".p/{width}")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or bucket that a log is published to."""

    root: "ObjectStore"
    folder: Path | None
    shown: str  # without its secrets


def place_at(url: str) -> Place:
    """The place that `url` means, a folder made if need be. Raises PublicationUnavailable."""
    from obstore.exceptions import BaseError

    try:
        return Place(roots.opened(url), roots.folder_of(url), roots.shown(url))
    except (BaseError, OSError) as broken:
        raise _unavailable(roots.shown(url), "opened", broken) from None


def get(place: Place, path: str, most: int) -> bytes | None:
    """What is at `path`, and no more than `most` bytes and one of it, which tells that there are more; None: no file.

    Raises PublicationUnavailable.
    """
    import obstore

    with named(place, "read"):
        try:
            found = obstore.get(place.root, path)
            if found.meta["size"] > most:
                return bytes(obstore.get_range(place.root, path, start=0, end=most + 1))
            return bytes(found.bytes())
        except FileNotFoundError:
            return None


@contextmanager
def named(place: Place, what_failed: str) -> Iterator[None]:
    """Turn obstore's errors into one line that names the place; not those that answer a condition of ours."""
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except (BaseError, OSError) as broken:
        raise _unavailable(place.shown, what_failed, broken) from None


def _unavailable(place: str, what_failed: str, broken: Exception) -> PublicationUnavailable:
    if roots.folder_of(place):
        hint = "See to its room and rights."
    elif roots.scheme_of(place) in WEB:
        hint = "Is its address right?"
    else:
        hint = "See to its address and rights; credentials come from the environment, such as AWS_ACCESS_KEY_ID."
    return PublicationUnavailable(f"{place} cannot be {what_failed} ({roots.reason(broken)}).", hint=hint)


def head_of(hashes: Sequence[bytes]) -> bytes:
    """The root over a full tile's hashes."""
    ((_, head),) = tree.appended(0, hashes, lambda nodes: [])
    return head


def silent(done: int, of: int) -> None:
    """A progress that nobody follows."""


@contextmanager
def _reading(url: str) -> Iterator[Get]:
    """A function that reads what is published at `url`."""
    if roots.scheme_of(url) in WEB:
        with _web(url) as fetch:
            yield fetch
        return
    folder = roots.folder_of(url)
    if folder is not None and not folder.is_dir():  # which opening it would make
        raise PublicationUnavailable(f"{folder} is no folder, so no log is published there.")
    yield partial(get, place_at(url))


@contextmanager
def _web(url: str) -> Iterator[Get]:
    from anyio.from_thread import start_blocking_portal

    demand_address(url, f"The address {roots.shown(url)}")
    opening = client_for(url)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opening) as client:
        yield partial(portal.call, _fetched, client, url)


async def _fetched(client: "AsyncClient", url: str, path: str, most: int) -> bytes | None:
    from httpx import URL, HTTPError, InvalidURL

    found = bytearray()
    try:
        root = URL(url)
        address = root.copy_with(userinfo=b"", path=f"{root.path.rstrip('/')}/{path}")
        async with (
            asyncio.timeout(ANSWER_SECONDS),
            client.stream("GET", address, follow_redirects=True) as answer,
        ):
            if answer.status_code in GONE:
                return None
            answer.raise_for_status()
            async for chunk in answer.aiter_bytes():
                found += chunk
                if len(found) > most:
                    break
    except TimeoutError:
        raise PublicationUnavailable(f"{roots.shown(url)} took longer than {ANSWER_SECONDS:g} s for {path}.") from None
    except (HTTPError, InvalidURL, UnicodeError, ExceptionGroup) as broken:  # the latter by where we are sent to
        raise _unavailable(roots.shown(url), "read", broken) from None
    return bytes(found[: most + 1])


def _published_note(get: Get, url: str) -> str:
    found = get(CHECKPOINT, MAX_NOTE)
    if found is None:
        raise PublicationUnavailable(f"There is no checkpoint at {roots.shown(url)}.", hint="Is its address right?")
    if len(found) > MAX_NOTE:
        raise ProofRejected(f"The checkpoint at {roots.shown(url)} is longer than {MAX_NOTE:,} bytes.")
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise ProofRejected(f"The checkpoint at {roots.shown(url)} is no text.") from None


def _demanded(get: Get, place: str, path: str, most: int) -> bytes:
    found = get(path, most)
    if found is None:
        raise InconsistentTree(f"{place}/{path} is missing.", hint="The checkpoint there demands it.")
    return found


def _root_of_entries(demanded: Demanded, size: int, progress: Progress) -> bytes:
    """The root over all published entries, every tile on the way compared."""
    rows: list[list[bytes]] = [[] for _ in range(0, size.bit_length(), TILE_HEIGHT)]  # of tiles that are not full
    for nth, bundle, tile in _lowest(demanded, size):
        first, end = nth * TILE_WIDTH, min((nth + 1) * TILE_WIDTH, size)
        path = tile_path(ENTRIES, nth, end - first)
        rows[0] = [tree.leaf_hash(entry) for entry in _entries(bundle, path, end - first)]
        _demand_same(tile, rows[0], tile_path(0, nth, end - first))
        for level, row in enumerate(rows):
            if not row or (len(row) < TILE_WIDTH and end < size):
                continue
            if level:
                above = tile_path(level, (end - 1 >> level * TILE_HEIGHT) // TILE_WIDTH, len(row))
                _demand_same(demanded(above, TILE_BYTES), row, above)
            if len(row) == TILE_WIDTH:
                rows[level + 1].append(head_of(row))
                rows[level] = []
        progress(end, size)
    return tree.root(size, tree.through_tiles(lambda spans: [_row_of(rows, size, span) for span in spans]))


def _lowest(demanded: Demanded, size: int) -> Iterator[tuple[int, bytes, bytes]]:
    """(index, bundle, tile) of level 0, one after the other; the next ones are on their way meanwhile."""

    def pair(nth: int) -> tuple[int, bytes, bytes]:
        width = min(TILE_WIDTH, size - nth * TILE_WIDTH)
        return (
            nth,
            demanded(tile_path(ENTRIES, nth, width), MAX_BUNDLE),
            demanded(tile_path(0, nth, width), TILE_BYTES),
        )

    indexes = iter(range((size + TILE_WIDTH - 1) // TILE_WIDTH))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        while batch := list(islice(indexes, AT_ONCE)):
            yield from pool.map(pair, batch)


def _entries(bundle: bytes, path: str, width: int) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at < len(bundle) and len(found) < width:
        begin = at + LENGTH_BYTES
        at = begin + int.from_bytes(bundle[at:begin], "big")
        found.append(bundle[begin:at])
    if at != len(bundle) or len(found) != width:
        raise InconsistentTree(f"{path} does not consist of {width} entries.")
    return found


def _demand_same(tile: bytes, hashes: Sequence[bytes], path: str) -> None:
    if tile != b"".join(hashes):
        raise InconsistentTree(f"{path} does not hold the hashes of what is under it.", hint="Keep it as it is.")


def _row_of(rows: Sequence[Sequence[bytes]], size: int, span: tree.Span) -> Sequence[bytes]:
    row, begin = rows[span.level // TILE_HEIGHT], (size >> span.level) // TILE_WIDTH * TILE_WIDTH
    return row[span.first - begin : span.end - begin]
