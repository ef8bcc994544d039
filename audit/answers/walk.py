"""Every event of the store once, in the order of seq, with its payload and its leaf, and the tree that they imply.

The three tables are read side by side by one number, which is an event's seq, its payload's key and one more than its
leaf's index: nothing is joined, so nothing is passed over. What later checks need is kept, the rest is let go.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from audit.answers import checks
from audit.answers.checks import GrowingTree, Told
from audit.answers.verdict import MOST_FAULTS, Fault, Verdict
from audit.errors import ProofRejected
from audit.events.canonical import timestamp
from audit.events.event import MAX_ENVELOPE
from audit.ledger.tree import HASH_BYTES, TILE_WIDTH, Node
from audit.store import evidence

Progress = Callable[[int, int], None]  # events read, of so many
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
        self._total = evidence.last_seq(connection) if progress else 0
        self._stops = sorted({stop for stop in stops if after < stop <= self.size}, reverse=True)
        self._leaves: Iterator[evidence.Row] = iter(evidence.leaves(connection, after))
        self._payloads: Iterator[evidence.Row] = iter(evidence.payloads(connection, after))
        self._leaf, self._payload = next(self._leaves, None), next(self._payloads, None)
        self._next = after + 1
        self._pending: list[bytes] = []
        self._room = self._until_grown()
        self._newest, self._newest_seq, self._newest_before = NEVER, 0, NEVER
        self._late_before = NEVER

    def run(self) -> None:
        """Read them all."""
        after = self._next - 1
        try:
            for row in evidence.events(self.connection, after):
                self._event(*row)
                after = row[0]
        except sqlite3.OperationalError as error:
            if not evidence.is_no_json(error):
                raise
            for row in evidence.events(self.connection, after, compared=False):
                self._event(*row)
        self._gap(None)
        self._grow()
        self._orphans(None)

    def _event(
        self, seq: int, envelope: bytes, agrees: int, type: bytes, recorded_at: bytes, payload_hash: bytes
    ) -> None:
        if seq != self._next and not self._gap(seq):
            return
        self._next = seq + 1
        self.read += 1
        if not agrees or len(envelope) > MAX_ENVELOPE or b"\\" in envelope or not envelope.isascii():
            envelope, type, recorded_at, payload_hash = self._inspected(seq)
        hash = sha256(b"\x00" + envelope).digest()
        leaf = self._leaf
        if leaf is not None and leaf[0] == seq - 1 and leaf[1] == seq and leaf[2] == hash and leaf[3]:
            self._leaf = next(self._leaves, None)
        else:
            hash = self._sealed(seq, envelope, hash)
        if hash:
            if recorded_at > self._newest:
                self._newest, self._newest_seq = recorded_at, seq
            if recorded_at < self._late_before:
                self.late += 1
            self._append(hash)
        else:
            self.unsealed += 1
            self.unsealed_types[type.decode(errors="replace")] += 1
        body = self._bound(seq, envelope, payload_hash)
        if type in self._wanted_types:
            self._tell(seq, envelope, body)
        if body is not None and checks.ADDRESS in body:
            self.addresses.update(checks.addresses(body))

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
        sealed = self._leaf is not None and self._leaf[2] == sha256(b"\x00" + envelope).digest()
        source = "the sealed bytes say" if sealed else "the envelope says"
        for what in (*checks.shape_faults(said, len(envelope)), *checks.column_faults(columns, said, source)):
            self.found.fault(about, what)
        kept = (str(said.get(key) or "").encode(errors="replace") for key in ("type", "recorded_at", "payload_hash"))
        return envelope, *kept  # type: ignore[return-value]

    def _sealed(self, seq: int, envelope: bytes, hash: bytes) -> bytes:
        """The leaf hash of the event at `seq` where it is not simply what it should be; empty where it has no leaf."""
        self._surplus(seq - 1)
        leaf = self._leaf
        if leaf is None or leaf[0] != seq - 1:
            if seq > self.size:
                return b""
            self.found.fault(
                self._named(seq, envelope), "has no leaf: it was put into the past, or its leaf was removed"
            )
            return hash
        self._leaf = next(self._leaves, None)
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
        while self._leaf is not None and self._leaf[0] < index:
            self.found.fault(f"leaf {self._leaf[0]}", "stands where it does not belong")
            self._leaf = next(self._leaves, None)

    def _gap(self, seq: int | None) -> bool:
        """The events before `seq` that are not there, at the end all that leaves still speak of. False where the one at
        `seq` itself is out of order."""
        if seq is not None and seq < self._next:
            self.found.fault(f"event at seq {seq}", "stands where it does not belong")
            return False
        while self._leaf is not None and (seq is None or self._leaf[0] < seq - 1):
            index, _, hash, blob = self._leaf
            self._leaf = next(self._leaves, None)
            if index + 1 < self._next:
                self.found.fault(f"leaf {index}", "stands where it does not belong")
                continue
            self._lost(index + 1)
            self.found.fault(f"leaf {index}", "its event is missing: it was removed")
            self._append(hash if blob and len(hash) == HASH_BYTES else bytes(HASH_BYTES))
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

    def _append(self, hash: bytes) -> None:
        self._pending.append(hash)
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
        payload = self._payload
        if payload is not None and payload[0] < seq:
            self._orphans(seq)
            payload = self._payload
        if payload is None or payload[0] != seq:
            if evidence.withdrawn(self.connection, seq):
                self.withdrawn += 1
            else:
                self.found.fault(self._named(seq, envelope), "its payload is missing, and no event withdrew it")
            return None
        self._payload = next(self._payloads, None)
        _, salt, body, plain = payload
        if wrong := checks.payload_fault(salt, body, plain, payload_hash):
            if payload_hash:
                self.found.fault(self._named(seq, envelope), wrong)
            return None
        return bytes(body)

    def _orphans(self, seq: int | None) -> None:
        while self._payload is not None and (seq is None or self._payload[0] < seq):
            self.found.fault(f"payload at event_seq {self._payload[0]}", "belongs to no event")
            self._payload = next(self._payloads, None)

    def _tell(self, seq: int, envelope: bytes, body: bytes | None) -> None:
        if event := told(seq, envelope, body):
            self.told.append(event)

    def _named(self, seq: int, envelope: bytes) -> str:
        return named(seq, envelope, self.size)


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
