"""What rows of a store must be to each other, so that they are what was sealed. Pure: rows in, words out.

An envelope counts, never a column: whoever can write the file can change a column, and leaves are over envelopes.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from audit.answers.verdict import Fault
from audit.errors import ProofRejected, UserError
from audit.events.canonical import canonical
from audit.events.event import ENVELOPE_KEYS, MAX_ENVELOPE, NULLABLE_KEYS, SALT_BYTES, SCHEMA_VERSION
from audit.ledger import tree
from audit.ledger.keys import PURPOSE
from audit.ledger.note import VerifierKey, consented, parse_key
from audit.ledger.tree import TILE_HEIGHT, TILE_WIDTH, Node, Span

LATE = timedelta(hours=1)  # after which an event that comes behind later ones is worth a word
ADDRESS = b"artifact://sha256/"
WITHDRAWING = ("privacy.erased", "retention.expired")  # events that permit payloads to go
_HEX = re.compile(rb"[0-9a-f]{64}")
MAX_DIGITS = 18  # of a size
MOST_SHOWN = 80  # characters of a value

Column = tuple[str, Any]  # storage class and value, TEXT as bytes
Envelope = Mapping[str, Any]


def read_envelope(written: bytes) -> Envelope:
    """What an envelope says. Raises ProofRejected unless it is a JSON object in canonical form: it has one reading."""
    try:
        said = orjson.loads(written)
    except orjson.JSONDecodeError as bad:
        raise ProofRejected(f"the envelope is no JSON ({bad})") from None
    if not isinstance(said, dict):
        raise ProofRejected("the envelope is no JSON object")
    try:
        same = canonical(said) == written
    except orjson.JSONEncodeError:  # nested deeper than it writes
        same = False
    if not same:
        raise ProofRejected("the envelope is not in canonical form")
    return said


def is_later(said: Envelope) -> bool:
    """Whether a later release wrote this envelope, of whose keys nothing is known here."""
    version = said.get("schema_version")
    return type(version) is int and version > SCHEMA_VERSION


def shape_faults(said: Envelope, size: int) -> list[str]:
    """What an envelope of `size` bytes has that it should not have, or lacks."""
    faults = [f"the envelope has {size} bytes, more than {MAX_ENVELOPE}"] if size > MAX_ENVELOPE else []
    if is_later(said):
        return faults
    if odd := sorted(said.keys() ^ set(ENVELOPE_KEYS)):
        faults.append(f"the envelope has surplus or missing keys: {', '.join(map(shown, odd))}")
    for key in (key for key in ENVELOPE_KEYS if key in said):
        value = said[key]
        if key == "schema_version":
            good = type(value) is int and value == SCHEMA_VERSION
        else:
            good = isinstance(value, str) or (value is None and key in NULLABLE_KEYS)
        if not good:
            faults.append(f"the envelope's {key} is {shown(value)}")
    return faults


def column_faults(columns: Mapping[str, Column], said: Envelope, source: str) -> list[str]:
    """Columns that say something else than the envelope; `source`: `the sealed bytes say`, `the envelope says`."""
    return [
        f"column {key} says {_shown_column(columns[key])}, {source} {shown(said[key])}"
        for key in ENVELOPE_KEYS
        if key in said and not _same(columns[key], said[key])
    ]


def payload_fault(salt: Any, body: Any, plain: bool, payload_hash: bytes) -> str | None:
    """What is wrong with a payload; `plain`: salt and body are kept as BLOB and TEXT."""
    if not plain:
        return "its payload is not kept as it was: salt as BLOB, body as TEXT"
    if len(salt) != SALT_BYTES:
        return f"its payload's salt has {len(salt)} bytes, not {SALT_BYTES}"
    if bound_as(salt, body) != payload_hash:
        return "its payload (body or salt) is not the one that the envelope binds by payload_hash"
    return None


def bound_as(salt: bytes, body: bytes) -> bytes:
    """What an envelope says of this payload."""
    return b"sha256:" + hashlib.sha256(salt + body).hexdigest().encode()


def addresses(body: bytes) -> set[bytes]:
    """The SHA-256 (hex) of every artifact that a payload refers to, wherever it does."""
    return {part for part in {part[:64] for part in body.split(ADDRESS)[1:]} if _HEX.fullmatch(part)}


class GrowingTree:
    """The tree as the leaves imply it; of each level that heads a tile only the last, unfinished tile is kept."""

    def __init__(self, size: int = 0, rows: Sequence[Sequence[bytes]] = ()) -> None:
        """`rows`: the unfinished tiles of a tree of `size`, level by level (0, 8, 16, …)."""
        self.size = size
        self._rows = [list(row) for row in rows]

    def add(self, leaves: Sequence[bytes]) -> list[tuple[Node, bytes]]:
        """Append leaf hashes; the nodes that this completes, of the levels that are kept."""
        made = tree.appended(self.size, leaves, self._read)
        self.size += len(leaves)
        self._extend(0, leaves)
        for node, hash in made:
            self._extend(node.level, [hash])
        return made

    def root(self) -> bytes:
        return tree.root(self.size, self._read)

    def _extend(self, level: int, hashes: Sequence[bytes]) -> None:
        nth = level // TILE_HEIGHT
        while len(self._rows) <= nth:
            self._rows.append([])
        unfinished = (self.size >> level) % TILE_WIDTH
        row = [*self._rows[nth], *hashes]
        self._rows[nth] = row[max(0, len(row) - unfinished) :]

    def _read(self, nodes: Sequence[Node]) -> Sequence[bytes]:
        return tree.through_tiles(self._spans)(nodes)

    def _spans(self, spans: Sequence[Span]) -> list[list[bytes]]:
        return [self._rows[level // TILE_HEIGHT][first % TILE_WIDTH :][: end - first] for level, first, end in spans]


@dataclass(frozen=True, slots=True)
class Told:
    """An event about the log itself, as the envelope and, if it is there and right, the payload say."""

    place: int  # one more than the leaf's index
    id: str
    type: str
    subject: str
    time: str
    facts: Mapping[str, Any] | None

    @property
    def about(self) -> str:
        return f"event {self.id} (leaf {self.place - 1})"

    @property
    def size(self) -> int | None:
        """Of the checkpoint that it tells of."""
        said = self.subject.removeprefix("checkpoint/")
        return int(said) if said.isascii() and said.isdecimal() and len(said) <= MAX_DIGITS else None


@dataclass(frozen=True, slots=True)
class Reign:
    """From the event at place `since` on, `key` was the log's."""

    since: int
    by: Told
    key: VerifierKey
    before: VerifierKey | None
    lost: bool = False  # the key before did not hand over


@dataclass(frozen=True, slots=True)
class Succession:
    """Which key was the log's when, and what was said of keys besides."""

    reigns: tuple[Reign, ...]
    faults: tuple[Fault, ...]
    remarks: tuple[str, ...]


def succession(told: Sequence[Told], signers: Callable[[int, Sequence[VerifierKey]], set[VerifierKey]]) -> Succession:
    """What these key.* events come to, by the rule of ledger.keys: whoever can write events can say that the key is
    another one; it is, if the checkpoint that first seals this is signed so, and the key before signed its consent.

    `signers(place, keys)`: those of `keys` that signed the first checkpoint that seals the event at `place`.
    """
    reigns: list[Reign] = []
    faults: list[Fault] = []
    remarks: list[str] = []
    lost = False
    for event in (event for event in told if event.facts and event.facts.get("purpose") == PURPOSE):
        before = reigns[-1].key if reigns else None
        key = _key_named(event)
        lost = lost or event.type == "key.lost"
        if key is None or key == before:
            continue
        by = signers(event.place, [one for one in (before, key) if one])
        if before is None and event.type == "key.created":
            reigns.append(Reign(event.place, event, key, None))
        elif before and event.type == "key.rotated" and by == {before, key} and _consented(event, before, key):
            reigns.append(Reign(event.place, event, key, before))
        elif before and event.type == "key.created" and by == {key}:
            reigns.append(Reign(event.place, event, key, before, lost=True))
            if lost:
                remarks.append(
                    f"{event.about}: the log's key {before.shown} was declared lost. No key that was the log's before "
                    "vouches for what was sealed since."
                )
            else:
                faults.append(
                    Fault(event.about, f"puts another key in the place of {before.shown}, which was not lost")
                )
            lost = False
        else:
            remarks.append(
                f"{event.about} says that the log's key is {key.shown}. It is not signed so, and not believed."
            )
    return Succession(tuple(reigns), tuple(faults), tuple(remarks))


def _consented(event: Told, before: VerifierKey, key: VerifierKey) -> bool:
    """Its signature under the checkpoint would not do: it signs for whatever events there are."""
    return consented(before, key, event.facts and event.facts.get("consent"))


def signers(known: Sequence[Reign], previous: int, size: int) -> list[VerifierKey]:
    """Who must have signed the checkpoint of `size`, the one before being of size `previous`: the key in force, and at
    a handing over the one before too. The first key also vouches for what was recorded before there was one."""
    within = [reign for reign in known if reign.since <= size] or list(known[:1])
    keys = [within[-1].key] if within else []
    keys += [reign.before for reign in within if reign.before and reign.since > previous and not reign.lost]
    return list(dict.fromkeys(keys))


def _key_named(event: Told) -> VerifierKey | None:
    try:
        return parse_key(str(event.facts and event.facts.get("vkey")))
    except UserError:
        return None


def moment(written: str | bytes) -> datetime | None:
    """A time on record; None if it is none, or one to which nothing can be added."""
    text = written.decode(errors="replace") if isinstance(written, bytes) else written
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo and 1970 <= found.year < 9999 else None


def shown(value: Any) -> str:
    """A value as a message has it."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _same(column: Column, said: Any) -> bool:
    kind, value = column
    if said is None:
        return kind == "null"
    if isinstance(said, str):
        return bool(kind == "text" and value == said.encode(errors="surrogatepass"))
    return bool(kind == "integer" and type(said) is int and value == said)


def _shown_column(column: Column) -> str:
    kind, value = column
    if kind == "text":
        return shown(value.decode(errors="backslashreplace"))
    return shown(value) if kind in ("integer", "null") else f"{shown(value)} ({kind})"
