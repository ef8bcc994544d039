"""Every event of the store once, in the order of seq, with its payload and its leaf, and the tree that they imply.

The three tables are read side by side by one number, which is an event's seq, its payload's key and one more than its
leaf's index: nothing is joined, so nothing is passed over. What later checks need is kept, the rest is let go.
"""

import sqlite3
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
from audit.store import evidence

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
    seq: int


class Rows:
    """Rows of a cursor, of which the next ones can be looked at before they are taken."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor
        self._ahead: list[evidence.Row] = []

    def ahead(self, count: int) -> list[evidence.Row]:
        """The next `count`, fewer at the end."""
        if len(self._ahead) < count:
            self._ahead += self._cursor.fetchmany(count - len(self._ahead))
        return self._ahead[:count]

    @property
    def next(self) -> evidence.Row | None:
        ahead = self.ahead(1)
        return ahead[0] if ahead else None

    def take(self, count: int = 1) -> None:
        del self._ahead[:count]


class Walk:
    """One reading of all events after seq `after`, beside payloads and leaves."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        found: Findings,
        *,
        told: frozenset[bytes],
        stops: Sequence[int],
        tree: GrowingTree,
        progress: Progress | None,
    ) -> None:
        """`told`: types of events to keep; `stops`: sizes whose roots are wanted; `tree`: over what is not read."""
        after = tree.size
        self.connection, self.found, self.tree = connection, found, tree
        self.size = evidence.tree_size(connection)
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
        self._total = evidence.last_seq(connection) - after if progress else 0
        self._stops = sorted({stop for stop in stops if after < stop <= self.size}, reverse=True)
        self._leaves = Rows(evidence.leaves(connection, after))
        self._payloads = Rows(evidence.payloads(connection, after))
        self._next = after + 1
        self._pending: list[bytes] = []
        self._room = self._until_grown()
        self._newest, self._newest_seq, self._newest_before = NEVER, 0, NEVER
        self._late_before = NEVER

    def run(self) -> None:
        """Read them all."""
        try:
            self._read(compared=True)
        except sqlite3.OperationalError as error:
            if not evidence.is_no_json(error):
                raise
            self._read(compared=False)
        self._gap(None)
        self._grow()
        self._orphans(None)

    def _read(self, *, compared: bool) -> None:
        events = evidence.events(self.connection, self._next - 1, compared=compared)
        while rows := events.fetchmany(self._room - len(self._pending)):
            if not self._all_plain(rows):
                for row in rows:
                    self._event(*row)

    def _all_plain(self, rows: Sequence[evidence.Row]) -> bool:
        """Whether all of these are sealed events without a fault, as nearly all are: then they are done, at a third of
        the cost. What is not plain is looked at row by row, which finds out whether something is wrong."""
        seqs, envelopes, agree, types, times, bound = zip(*rows, strict=True)
        count = len(rows)
        leaves, payloads = self._leaves.ahead(count), self._payloads.ahead(count)
        if not all(agree) or seqs != tuple(range(self._next, self._next + count)) or len(payloads) != count:
            return False
        text = b"".join(envelopes)
        if not text.isascii() or b"\\" in text or max(map(len, envelopes)) > MAX_ENVELOPE:
            return False
        hashes = [sha256(b"\x00" + envelope).digest() for envelope in envelopes]
        if leaves != [(seq - 1, seq, hash, 1) for seq, hash in zip(seqs, hashes, strict=True)]:
            return False
        keys, salts, bodies, plain = zip(*payloads, strict=True)
        if keys != seqs or not all(plain) or set(map(len, salts)) != {SALT_BYTES}:
            return False
        if list(bound) != [checks.bound_as(salt, body) for salt, body in zip(salts, bodies, strict=True)]:
            return False
        self._leaves.take(count)
        self._payloads.take(count)
        self._next += count
        self.read += count
        self._note_times(seqs, times)
        if not self._wanted_types.isdisjoint(types):
            for seq, envelope, type, body in zip(seqs, envelopes, types, bodies, strict=True):
                if type in self._wanted_types:
                    self._tell(seq, envelope, body)
        self.addresses |= checks.addresses(b"\n".join(bodies))
        self._append(hashes)
        return True

    def _event(
        self, seq: int, envelope: bytes, agrees: int, type: bytes, recorded_at: bytes, payload_hash: bytes
    ) -> None:
        if seq != self._next and not self._gap(seq):
            return
        self._next = seq + 1
        self.read += 1
        if not agrees or len(envelope) > MAX_ENVELOPE or b"\\" in envelope or not envelope.isascii():
            envelope, type, recorded_at, payload_hash = self._inspected(seq)
        if hash := self._sealed(seq, envelope, sha256(b"\x00" + envelope).digest()):
            self._note_times([seq], [recorded_at])
            self._append([hash])
        else:
            self.unsealed += 1
            self.unsealed_types[type.decode(errors="replace")] += 1
        body = self._bound(seq, envelope, payload_hash)
        if type in self._wanted_types:
            self._tell(seq, envelope, body)
        if body is not None:
            self.addresses |= checks.addresses(body)

    def _note_times(self, seqs: Sequence[int], recorded_at: Sequence[bytes]) -> None:
        newest = max(recorded_at)
        if newest > self._newest:
            self._newest, self._newest_seq = newest, seqs[recorded_at.index(newest)]
        if min(recorded_at) < self._late_before:
            self.late += sum(at < self._late_before for at in recorded_at)

    def _inspected(self, seq: int) -> tuple[bytes, bytes, bytes, bytes]:
        """Envelope, type, recorded_at and payload_hash by the envelope, where SQLite does not find the columns to say
        the same; at times they do."""
        columns = evidence.columns(self.connection, seq)
        kind, written = columns["envelope"]
        envelope = written if kind in ("text", "blob") else str(written).encode()
        about = self._named(seq, envelope)
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

    def _sealed(self, seq: int, envelope: bytes, hash: bytes) -> bytes:
        """What the tree has for the event at `seq`, whose leaf hash is `hash`; empty where it has no leaf."""
        self._surplus(seq - 1)
        leaf = self._leaves.next
        if leaf is None or leaf[0] != seq - 1:
            if seq > self.size:
                return b""
            self.found.fault(
                self._named(seq, envelope), "has no leaf: it was put into the past, or its leaf was removed"
            )
            return hash
        self._leaves.take()
        index, event_seq, stored, blob = leaf
        if event_seq != seq:
            self.found.fault(f"leaf {index}", f"event_seq is {event_seq}, not {seq}: the order is not the sealed one")
        if not blob or len(stored) != HASH_BYTES:
            self.found.fault(f"leaf {index}", f"its hash is not kept as {HASH_BYTES} bytes")
            return hash
        if stored != hash:
            self.found.fault(
                self._named(seq, envelope),
                f"the envelope is not the one that was sealed: its hash is {hash.hex()}, the leaf's {stored.hex()}",
            )
        return bytes(stored)

    def _surplus(self, index: int) -> None:
        """Leaves that come before one that has been read: two of one index, or out of order."""
        while (leaf := self._leaves.next) and leaf[0] < index:
            self.found.fault(f"leaf {leaf[0]}", "stands where it does not belong")
            self._leaves.take()

    def _gap(self, seq: int | None) -> bool:
        """The events before `seq` that are not there, at the end all that leaves still speak of. False where the one at
        `seq` itself is out of order."""
        if seq is not None and seq < self._next:
            self.found.fault(f"event at seq {seq}", "stands where it does not belong")
            return False
        while (leaf := self._leaves.next) and (seq is None or leaf[0] < seq - 1):
            index, _, hash, blob = leaf
            self._leaves.take()
            if index + 1 < self._next:
                self.found.fault(f"leaf {index}", "stands where it does not belong")
                continue
            self._lost(index + 1)
            self.found.fault(f"leaf {index}", "its event is missing: it was removed")
            self._append([hash if blob and len(hash) == HASH_BYTES else bytes(HASH_BYTES)])
            self._next = index + 2
        if seq is not None:
            self._lost(seq)
        return True

    def _lost(self, end: int) -> None:
        """Neither events nor leaves are there from the next one to below `end`."""
        if self._next < end:
            which = f"seq {self._next}" + (f" to {end - 1}" if end > self._next + 1 else "")
            self.found.fault(f"event at {which}", "is missing, and so is its leaf")
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
        self.latest.append(Latest(size, newest, self._newest_seq))
        self._newest_before = max(self._newest_before, self._newest)
        at = checks.moment(self._newest_before)
        self._late_before = timestamp(at - checks.LATE).encode() if at else NEVER
        self._newest = NEVER

    def _until_grown(self) -> int:
        to_tile = TILE_WIDTH - self.tree.size % TILE_WIDTH
        return min(to_tile, self._stops[-1] - self.tree.size) if self._stops else to_tile

    def _bound(self, seq: int, envelope: bytes, payload_hash: bytes) -> bytes | None:
        """The payload that the envelope binds; None where it is not there or another one."""
        self._orphans(seq)
        payload = self._payloads.next
        if payload is None or payload[0] != seq:
            if evidence.withdrawn(self.connection, seq):
                self.withdrawn += 1
            else:
                self.found.fault(self._named(seq, envelope), "its payload is missing, and no event withdrew it")
            return None
        self._payloads.take()
        _, salt, body, plain = payload
        if wrong := checks.payload_fault(salt, body, plain, payload_hash):
            if payload_hash:
                self.found.fault(self._named(seq, envelope), wrong)
            return None
        return bytes(body)

    def _orphans(self, seq: int | None) -> None:
        while (payload := self._payloads.next) and (seq is None or payload[0] < seq):
            self.found.fault(f"payload at event_seq {payload[0]}", "belongs to no event")
            self._payloads.take()

    def _tell(self, seq: int, envelope: bytes, body: bytes | None) -> None:
        if event := told(seq, envelope, body):
            self.told.append(event)

    def _named(self, seq: int, envelope: bytes) -> str:
        return named(seq, envelope, self.size)


def grown(connection: sqlite3.Connection, size: int) -> GrowingTree:
    """The tree over the first `size` events by their envelopes alone; nothing else of them is read."""
    tree, events = GrowingTree(), evidence.envelopes(connection, size)
    while rows := events.fetchmany(TILE_WIDTH):
        tree.add([sha256(b"\x00" + envelope).digest() for (envelope,) in rows])
    return tree


def told(seq: int, envelope: bytes, body: bytes | None) -> Told | None:
    """An event about the log itself; None where its envelope cannot be read, which is a fault of its own."""
    try:
        said = checks.read_envelope(envelope)
        id, type, subject, time = (str(said[name]) for name in ("id", "type", "subject", "time"))
    except (ProofRejected, KeyError):
        return None
    return Told(seq, id, type, subject, time, _facts(body))


def named(seq: int, envelope: bytes | None, size: int) -> str:
    """`event 0199… (leaf 41)`; by its number where the envelope names none."""
    try:
        name = str(checks.read_envelope(envelope or b"")["id"])
    except (ProofRejected, KeyError):
        name = f"at seq {seq}"
    return f"event {name} ({f'leaf {seq - 1}' if seq <= size else 'not sealed'})"


def _facts(body: bytes | None) -> dict[str, Any] | None:
    try:
        facts = orjson.loads(body or b"null")
    except orjson.JSONDecodeError:
        return None
    return facts if isinstance(facts, dict) else None
