"""Every event of the store once, place by place, with its payload and its leaf, and the tree that they imply.

The three tables are read side by side by that one number (see store.evidence), so that nothing is passed over. What
later checks need is kept, the rest is let go.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from audit.answers import checks
from audit.answers.checks import GrowingTree, Told
from audit.answers.verdict import MOST_FAULTS, Fault, Verdict
from audit.errors import ProofRejected
from audit.events.canonical import timestamp
from audit.events.event import MAX_ENVELOPE, SALT_BYTES
from audit.ledger.tiles import Progress
from audit.ledger.tree import HASH_BYTES, TILE_WIDTH, Node
from audit.store.evidence import Row, Rows, Snapshot

NEVER = b""  # before every time on record


@dataclass
class Findings:
    """What was found so far: faults of the whole before those of single rows, and of either no more than are listed."""

    whole: list[Fault] = field(default_factory=list)
    rows: list[Fault] = field(default_factory=list)
    more: int = 0
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, about: str, what: str) -> None:
        """Of a single row."""
        self._add(self.rows, about, what)

    def fault_of_whole(self, about: str, what: str) -> None:
        self._add(self.whole, about, what)

    def verdict(self, **counted: Any) -> Verdict:
        faults = [*self.whole, *self.rows]
        return Verdict(
            **counted,
            faults=tuple(faults[:MOST_FAULTS]),
            more_faults=self.more + max(0, len(faults) - MOST_FAULTS),
            unknown=tuple(self.unknown),
            notes=tuple(self.notes),
        )

    def _add(self, faults: list[Fault], about: str, what: str) -> None:
        if len(faults) < MOST_FAULTS:
            faults.append(Fault(about, what))
        else:
            self.more += 1


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest time of recording among the events that one checkpoint added."""

    size: int  # of the checkpoint
    recorded_at: str
    place: int


class Ahead:
    """Rows of which the next ones can be looked at before they are taken."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._ahead: list[Row] = []

    def ahead(self, count: int) -> list[Row]:
        """The next `count`, fewer at the end."""
        if len(self._ahead) < count:
            self._ahead += self._rows.fetchmany(count - len(self._ahead))
        return self._ahead[:count]

    @property
    def next(self) -> Row | None:
        ahead = self.ahead(1)
        return ahead[0] if ahead else None

    def take(self, count: int = 1) -> None:
        del self._ahead[:count]


class Walk:
    """One reading of all events behind those that `tree` is over, beside payloads and leaves."""

    def __init__(
        self,
        snapshot: Snapshot,
        found: Findings,
        *,
        told: frozenset[bytes],
        stops: Sequence[int],
        tree: GrowingTree,
        progress: Progress | None,
    ) -> None:
        """`told`: types of events to keep; `stops`: sizes whose roots are wanted; `tree`: over what is not read."""
        after = tree.size
        self.snapshot, self.found, self.tree = snapshot, found, tree
        self.size = snapshot.tree_size()
        self.read = self.unsealed = self.late = self.later = self.withdrawn = 0
        self.unsealed_types: Counter[str] = Counter()
        self.told: list[Told] = []
        self.roots: dict[int, bytes] = {}
        self.nodes: dict[Node, bytes] = {}
        self.latest: list[Latest] = []
        self.addresses: set[bytes] = set()
        self.hole = False  # a leaf whose hash nobody knows any more: no root after it can be computed
        self._wanted_types = told
        self._progress = progress
        self._total = snapshot.last_place() - after if progress else 0
        self._stops = sorted({stop for stop in stops if after < stop <= self.size}, reverse=True)
        self._leaves = Ahead(snapshot.leaves(after))
        self._payloads = Ahead(snapshot.payloads(after))
        self._withdrawn = Ahead(snapshot.withdrawn(after))
        self._next = after + 1
        self._pending: list[bytes] = []
        self._room = self._until_grown()
        self._newest, self._newest_at, self._newest_before = NEVER, 0, NEVER
        self._late_before = NEVER

    def run(self) -> None:
        """Read them all."""
        events = self.snapshot.events(self._next - 1)
        while rows := events.fetchmany(self._room - len(self._pending)):
            if not self._all_plain(rows):
                for row in rows:
                    self._event(row)
        self._gap(None)
        self._grow()
        self._orphans(None)
        for about, what in self.snapshot.strays():
            self.found.fault(about, what)

    def _all_plain(self, rows: Sequence[Row]) -> bool:
        """Whether all of these are sealed events without a fault, as nearly all are: then they are done, at a third of
        the cost. What is not plain is looked at row by row, which finds out whether something is wrong."""
        places, envelopes, agree, types, times, bound, *_ = zip(*rows, strict=True)
        count = len(rows)
        leaves, payloads = self._leaves.ahead(count), self._payloads.ahead(count)
        if not all(agree) or places != tuple(range(self._next, self._next + count)) or len(payloads) != count:
            return False
        text = b"".join(envelopes)
        if not text.isascii() or b"\\" in text or max(map(len, envelopes)) > MAX_ENVELOPE:
            return False
        hashes = [sha256(b"\x00" + envelope).digest() for envelope in envelopes]
        if leaves != [(place - 1, place, hash, 1) for place, hash in zip(places, hashes, strict=True)]:
            return False
        keys, salts, bodies, plain, _ = zip(*payloads, strict=True)
        if keys != places or not all(plain) or set(map(len, salts)) != {SALT_BYTES}:
            return False
        if list(bound) != [checks.bound_as(salt, body) for salt, body in zip(salts, bodies, strict=True)]:
            return False
        self._leaves.take(count)
        self._payloads.take(count)
        self._next += count
        self.read += count
        self._note_times(places, times)
        if not self._wanted_types.isdisjoint(types):
            for place, envelope, type, body in zip(places, envelopes, types, bodies, strict=True):
                if type in self._wanted_types:
                    self._tell(place, envelope, body)
        self.addresses |= checks.addresses(b"\n".join(bodies))
        self._append(hashes)
        return True

    def _event(self, row: Row) -> None:
        place, envelope, agrees, type, recorded_at, payload_hash, *_ = row
        if place != self._next and not self._gap(place):
            return
        self._next = place + 1
        self.read += 1
        if not agrees or len(envelope) > MAX_ENVELOPE or b"\\" in envelope or not envelope.isascii():
            envelope, type, recorded_at, payload_hash = self._inspected(row)
        if hash := self._sealed(place, envelope, sha256(b"\x00" + envelope).digest()):
            self._note_times([place], [recorded_at])
            self._append([hash])
        else:
            self.unsealed += 1
            self.unsealed_types[type.decode(errors="replace")] += 1
        body = self._bound(place, envelope, payload_hash)
        if type in self._wanted_types:
            self._tell(place, envelope, body)
        if body is not None:
            self.addresses |= checks.addresses(body)

    def _note_times(self, places: Sequence[int], recorded_at: Sequence[bytes]) -> None:
        newest = max(recorded_at)
        if newest > self._newest:
            self._newest, self._newest_at = newest, places[recorded_at.index(newest)]
        if min(recorded_at) < self._late_before:
            self.late += sum(at < self._late_before for at in recorded_at)

    def _inspected(self, row: Row) -> tuple[bytes, bytes, bytes, bytes]:
        """Envelope, type, recorded_at and payload_hash by the envelope, where the database does not find the columns to
        say the same; at times they do."""
        columns = self.snapshot.columns(row)
        kind, written = columns["envelope"]
        envelope = written if kind in ("text", "blob") else str(written).encode()
        about = self._named(row[0], envelope)
        if kind != "text":
            self.found.fault(about, f"the envelope is kept as {kind}, not as text")
        try:
            said = checks.read_envelope(envelope)
        except ProofRejected as bad:
            self.found.fault(about, bad.what)
            return envelope, b"", NEVER, b""
        self.later += checks.is_later(said)
        leaf = self._leaves.next
        sealed = leaf is not None and leaf[2] == sha256(b"\x00" + envelope).digest()
        source = "the sealed bytes say" if sealed else "the envelope says"
        for what in (*checks.shape_faults(said, len(envelope)), *checks.column_faults(columns, said, source)):
            self.found.fault(about, what)
        kept = (str(said.get(key) or "").encode(errors="replace") for key in ("type", "recorded_at", "payload_hash"))
        return envelope, *kept  # type: ignore[return-value]

    def _sealed(self, place: int, envelope: bytes, hash: bytes) -> bytes:
        """What the tree has for the event at `place`, whose leaf hash is `hash`; empty where it has no leaf."""
        self._surplus(place - 1)
        leaf = self._leaves.next
        if leaf is None or leaf[0] != place - 1:
            if place > self.size:
                return b""
            self.found.fault(
                self._named(place, envelope), "has no leaf: it was put into the past, or its leaf was removed"
            )
            return hash
        self._leaves.take()
        index, its_place, stored, blob = leaf
        if its_place != place:
            self.found.fault(f"leaf {index}", f"event_seq is {its_place}, not {place}: the order is not the sealed one")
        if not blob or len(stored) != HASH_BYTES:
            self.found.fault(f"leaf {index}", f"its hash is not kept as {HASH_BYTES} bytes")
            return hash
        if stored != hash:
            self.found.fault(
                self._named(place, envelope),
                f"the envelope is not the one that was sealed: its hash is {hash.hex()}, the leaf's {stored.hex()}",
            )
        return bytes(stored)

    def _surplus(self, index: int) -> None:
        """Leaves that come before one that has been read: two of one index, or out of order."""
        while (leaf := self._leaves.next) and leaf[0] < index:
            self.found.fault(f"leaf {leaf[0]}", "stands where it does not belong")
            self._leaves.take()

    def _gap(self, place: int | None) -> bool:
        """The events before `place` that are not there, at the end all that leaves still speak of. False where the one
        at `place` itself is out of order."""
        if place is not None and place < self._next:
            self.found.fault(self._at(place), "stands where it does not belong")
            return False
        while (leaf := self._leaves.next) and (place is None or leaf[0] < place - 1):
            index, _, hash, blob = leaf
            self._leaves.take()
            if index + 1 < self._next:
                self.found.fault(f"leaf {index}", "stands where it does not belong")
                continue
            self._lost(index + 1)
            self.found.fault(f"leaf {index}", "its event is missing: it was removed")
            self._append([hash if blob and len(hash) == HASH_BYTES else bytes(HASH_BYTES)])
            self._next = index + 2
        if place is not None:
            self._lost(place)
        return True

    def _lost(self, end: int) -> None:
        """Neither events nor leaves are there from the next one to below `end`."""
        if self._next < end:
            which = f"{self._next}" + (f" to {end - 1}" if end > self._next + 1 else "")
            self.found.fault(self._at(which), "is missing, and so is its leaf")
            self.hole = True

    def _append(self, hashes: Sequence[bytes]) -> None:
        """No more than there is room for."""
        self._pending += hashes
        if len(self._pending) == self._room:
            self._grow()

    def _grow(self) -> None:
        if not self.hole:
            self.nodes.update(self.tree.add(self._pending))
            if self._stops and self._stops[-1] == self.tree.size:
                self._stop(self._stops.pop())
        self._pending.clear()
        self._room = self._until_grown()
        if self._progress:
            self._progress(self.read, self._total)

    def _stop(self, size: int) -> None:
        self.roots[size] = self.tree.root()
        newest = self._newest.decode(errors="replace")
        self.latest.append(Latest(size, newest, self._newest_at))
        self._newest_before = max(self._newest_before, self._newest)
        at = checks.moment(self._newest_before)
        self._late_before = timestamp(at - checks.LATE).encode() if at else NEVER
        self._newest = NEVER

    def _until_grown(self) -> int:
        to_tile = TILE_WIDTH - self.tree.size % TILE_WIDTH
        return min(to_tile, self._stops[-1] - self.tree.size) if self._stops else to_tile

    def _bound(self, place: int, envelope: bytes, payload_hash: bytes) -> bytes | None:
        """The payload that the envelope binds; None where it is not there or another one."""
        self._orphans(place)
        payload = self._payloads.next
        if payload is None or payload[0] != place:
            if self._was_withdrawn(place):
                self.withdrawn += 1
            else:
                self.found.fault(self._named(place, envelope), "its payload is missing, and no event withdrew it")
            return None
        self._payloads.take()
        _, salt, body, plain, _ = payload
        if wrong := checks.payload_fault(salt, body, plain, payload_hash):
            if payload_hash:
                self.found.fault(self._named(place, envelope), wrong)
            return None
        return bytes(body)

    def _orphans(self, place: int | None) -> None:
        while (payload := self._payloads.next) and (place is None or payload[0] < place):
            self.found.fault(f"payload at event_seq {payload[4]}", "belongs to no event")
            self._payloads.take()

    def _was_withdrawn(self, place: int) -> bool:
        while (row := self._withdrawn.next) and row[0] < place:
            self._withdrawn.take()
        return row is not None and row[0] == place

    def _tell(self, place: int, envelope: bytes, body: bytes | None) -> None:
        if event := told(place, envelope, body):
            self.told.append(event)

    def _named(self, place: int, envelope: bytes) -> str:
        return named(place, envelope, self.snapshot, self.size)

    def _at(self, place: int | str) -> str:
        return f"event at {self.snapshot.numbers} {place}"


def grown(snapshot: Snapshot, size: int) -> GrowingTree:
    """The tree over the first `size` events by their envelopes alone; nothing else of them is read."""
    tree, events = GrowingTree(), snapshot.envelopes(size)
    while rows := events.fetchmany(TILE_WIDTH):
        tree.add([sha256(b"\x00" + envelope).digest() for (envelope,) in rows])
    return tree


def told(place: int, envelope: bytes, body: bytes | None) -> Told | None:
    """An event about the log itself; None where its envelope cannot be read, which is a fault of its own."""
    try:
        said = checks.read_envelope(envelope)
        id, type, subject, time = (str(said[name]) for name in ("id", "type", "subject", "time"))
    except (ProofRejected, KeyError):
        return None
    return Told(place, id, type, subject, time, _facts(body))


def named(place: int, envelope: bytes | None, snapshot: Snapshot, size: int) -> str:
    """`event 0199… (leaf 41)`; by its number where the envelope names none."""
    try:
        name = str(checks.read_envelope(envelope or b"")["id"])
    except (ProofRejected, KeyError):
        name = f"at {snapshot.numbers} {place}"
    return f"event {name} ({f'leaf {place - 1}' if place <= size else 'not sealed'})"


def _facts(body: bytes | None) -> dict[str, Any] | None:
    try:
        facts = orjson.loads(body or b"null")
    except orjson.JSONDecodeError:
        return None
    return facts if isinstance(facts, dict) else None
