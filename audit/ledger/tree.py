"""Merkle trees of RFC 6962 (2.1) and RFC 9162 (2.1) as plain functions, in the manner of Go's tlog.

Functions that need stored hashes take `read`: they work out which nodes they need, ask once, and fold. Kept are only
the levels that head a tile of c2sp.org/tlog-tiles (0, 8, 16, …), about one row a leaf; `through_tiles` makes of a
function that reads such rows one that reads any node.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from audit.errors import ProofRejected

HASH_BYTES = 32
TILE_HEIGHT = 8  # levels in a tile
TILE_WIDTH = 1 << TILE_HEIGHT  # hashes in a full tile's lowest level
EMPTY_ROOT = hashlib.sha256(b"").digest()  # RFC 6962, 2.1: MTH({})


class Node(NamedTuple):
    """The root of the complete subtree over leaves `nth << level` to below `(nth + 1) << level`."""

    level: int
    nth: int


class Span(NamedTuple):
    """Neighbouring nodes of a level that heads a tile, `first` to below `end`."""

    level: int
    first: int
    end: int


Read = Callable[[Sequence[Node]], Sequence[bytes]]
ReadSpans = Callable[[Sequence[Span]], Sequence[Sequence[bytes]]]
Range = tuple[int, int]  # leaves from the first to below the second


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Of many at once: a call each costs a fifth of hashing them."""
    sha256 = hashlib.sha256
    return [sha256(b"\x00" + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(size: int, read: Read) -> bytes:
    """Root of the tree over the first `size` leaves."""
    return _roots([(0, size)], read)[0] if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read: Read) -> list[bytes]:
    """Audit path of the leaf at `index` in the tree of `size`, from the leaf's sibling up to the root's child
    (RFC 6962, 2.1.1). Raises ProofRejected if there is no such leaf."""
    _within(index, size)
    return _roots(_siblings(index, size), read)


def consistency_proof(old: int, size: int, read: Read) -> list[bytes]:
    """That the tree of `size` continues the tree of `old` (RFC 6962, 2.1.2); empty for `old` 0 or `size`.

    Raises ProofRejected if `old` is above `size`.
    """
    if not 0 <= old <= size:
        raise ProofRejected(f"A tree of {size} does not continue one of {old}.")
    return _roots(_unshared(old, size), read) if 0 < old < size else []


def appended(size: int, leaves: Sequence[bytes], read: Read) -> list[tuple[Node, bytes]]:
    """The nodes above the leaves that appending leaf hashes to a tree of `size` completes, of the levels that are kept.

    At most one reading of up to 255 hashes a level that gains a node.
    """
    made: list[tuple[Node, bytes]] = []
    level, begin, new = 0, size, leaves
    while (begin + len(new)) // TILE_WIDTH > begin // TILE_WIDTH:
        before = begin % TILE_WIDTH
        row = [*read([Node(level, index) for index in range(begin - before, begin)]), *new]
        begin //= TILE_WIDTH
        level += TILE_HEIGHT
        new = [_fold(row[at : at + TILE_WIDTH]) for at in range(0, len(row) - TILE_WIDTH + 1, TILE_WIDTH)]
        made += ((Node(level, begin + nth), head) for nth, head in enumerate(new))
    return made


def root_implied(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Root that `proof` implies for the leaf hash at `index` in a tree of `size` (RFC 9162, 2.1.3.2).

    Raises ProofRejected if index is not below size or the proof has the wrong length. It does not fix the size: leaf 0
    has the same way up in trees of 7 and 8. A signed checkpoint does.
    """
    _within(index, size)
    _demand_hashes([leaf], "of the leaf")
    _demand_hashes(proof, "of the proof")
    node, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise ProofRejected(f"The inclusion proof has more than the hashes that leaf {index} of {size} takes.")
        if node & 1 or node == last:
            found = node_hash(step, found)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, step)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofRejected(f"The inclusion proof has fewer than the hashes that leaf {index} of {size} takes.")
    return found


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Raises ProofRejected unless the tree of `size` with root `expected` has the leaf hash at `index`."""
    found = root_implied(leaf, index, size, proof)
    if found != expected:
        raise ProofRejected(
            f"Leaf {index} is not in the tree of {size}: "
            f"the proof leads to {found.hex()}, the root is {expected.hex()}."
        )


def verify_consistency(old: int, old_root: bytes, size: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raises ProofRejected unless the tree of `size` continues the one of `old` (RFC 9162, 2.1.4.2).

    Every tree continues the empty one, whose proof and root are known.
    """
    _demand_hashes([old_root, new_root], "of the roots")
    _demand_hashes(proof, "of the proof")
    if not 0 <= old <= size:
        raise ProofRejected(f"A tree of {size} does not continue one of {old}.")
    if old in (0, size):
        if proof:
            raise ProofRejected(
                f"From {old} to {size} the consistency proof must be empty; it has {len(proof)} hashes."
            )
        if old == 0 and old_root != EMPTY_ROOT:
            raise ProofRejected(f"The root of an empty tree is {EMPTY_ROOT.hex()}, not {old_root.hex()}.")
        if old == size and old_root != new_root:
            raise ProofRejected(f"Two trees of {size} have different roots, {old_root.hex()} and {new_root.hex()}.")
        return
    implied = _both_implied(old, old_root, size, proof)
    for name, of, found, expected in (("old", old, implied[0], old_root), ("new", size, implied[1], new_root)):
        if found != expected:
            raise ProofRejected(
                f"The tree of {size} does not continue the one of {old}: the proof leads to {found.hex()}, "
                f"the {name} root of {of} is {expected.hex()}."
            )


def through_tiles(read_spans: ReadSpans) -> Read:
    """A function that reads any node by reading rows of the levels that head a tile, at most one span a tile."""

    def read(nodes: Sequence[Node]) -> list[bytes]:
        needed = [_below(node) for node in nodes]
        spans = _merged(needed)
        rows = dict(
            zip(
                ((span.level, span.first // TILE_WIDTH) for span in spans),
                zip(spans, read_spans(spans), strict=True),
                strict=True,
            )
        )
        found = []
        for level, first, end in needed:
            span, hashes = rows[level, first // TILE_WIDTH]
            found.append(_fold(hashes[first - span.first : end - span.first]))
        return found

    return read


def _within(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise ProofRejected(f"A tree of {size} has no leaf {index}.")


def _demand_hashes(hashes: Sequence[bytes], where: str) -> None:
    """What is longer could hide a node's two children, and what is shorter is no hash."""
    for nth, hash in enumerate(hashes):
        if len(hash) != HASH_BYTES:
            raise ProofRejected(f"Hash {nth} {where} has {len(hash)} bytes, not {HASH_BYTES}.")


def _both_implied(old: int, old_root: bytes, size: int, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of `old` and `size` that a consistency proof implies, if `old` is between 0 and `size`."""
    steps = list(proof)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)  # the old tree is a complete subtree of the new one
    node, last = old - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    if not steps:
        raise ProofRejected(f"The consistency proof from {old} to {size} is empty.")
    before = after = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise ProofRejected(f"The consistency proof has more than the hashes that {old} to {size} takes.")
        if node & 1 or node == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            after = node_hash(after, step)
        node, last = node >> 1, last >> 1
    if last:
        raise ProofRejected(f"The consistency proof has fewer than the hashes that {old} to {size} takes.")
    return before, after


def _siblings(index: int, size: int) -> list[Range]:
    """Leaves under each hash of an inclusion proof, in the proof's order."""
    low, high, found = 0, size, []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            found.append((middle, high))
            high = middle
        else:
            found.append((low, middle))
            low = middle
    return found[::-1]


def _unshared(old: int, size: int) -> list[Range]:
    """Leaves under each hash of a consistency proof, in the proof's order."""
    low, high, found = 0, size, []
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            found.append((middle, high))
            high = middle
        else:
            found.append((low, middle))
            low = middle
    if low:  # the old tree is no complete subtree, whose root the verifier knows
        found.append((low, high))
    return found[::-1]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _roots(ranges: Iterable[Range], read: Read) -> list[bytes]:
    """Roots over ranges of leaves, each of which begins where a subtree of its size may; one reading for all."""
    parts = [_complete_subtrees(*leaves) for leaves in ranges]
    hashes = iter(read([node for nodes in parts for node in nodes]))
    return [_joined([next(hashes) for _ in nodes]) for nodes in parts]


def _complete_subtrees(begin: int, end: int) -> list[Node]:
    """The fewest complete subtrees over the leaves `begin` to below `end`, the largest first."""
    nodes = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        nodes.append(Node(level, begin >> level))
        begin += 1 << level
    return nodes


def _joined(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, the largest first."""
    found = hashes[-1]
    for left in reversed(hashes[:-1]):
        found = node_hash(left, found)
    return found


def _fold(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    sha256 = hashlib.sha256
    while len(hashes) > 1:
        hashes = [
            sha256(b"\x01" + left + right).digest() for left, right in zip(hashes[::2], hashes[1::2], strict=True)
        ]
    return hashes[0]


def _below(node: Node) -> Span:
    """The rows of the next level that heads a tile over which `node` stands; all of them are of one tile."""
    height = node.level % TILE_HEIGHT
    return Span(node.level - height, node.nth << height, node.nth + 1 << height)


def _merged(spans: Iterable[Span]) -> list[Span]:
    """One span a tile, over all that is needed of it."""
    found: dict[tuple[int, int], Span] = {}
    for span in spans:
        tile = (span.level, span.first // TILE_WIDTH)
        known = found.get(tile, span)
        found[tile] = Span(span.level, min(known.first, span.first), max(known.end, span.end))
    return list(found.values())
