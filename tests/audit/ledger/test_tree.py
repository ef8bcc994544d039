"""The Merkle tree against its definition in RFC 6962, published vectors, and proofs bent in every way we know."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audit.errors import ProofRejected
from audit.ledger import tree
from audit.ledger.tree import EMPTY_ROOT, Node, Span
from tests.vectors import make

VECTORS = Path(__file__).parents[2] / "vectors"
KNOWN = json.loads((VECTORS / "rfc6962.json").read_text())
ENTRIES = [nth.to_bytes(2, "big") for nth in range(2_000)]
LEAVES = [tree.leaf_hash(entry) for entry in ENTRIES]

sizes = st.integers(1, len(ENTRIES))
anything = st.integers(-(2**63), 2**63) | st.integers(-3, 20)


class Rows:
    """Rows of the levels that head a tile, as the store keeps them; what is asked of it is counted."""

    def __init__(self) -> None:
        self.hashes: dict[Node, bytes] = {}
        self.size = 0
        self.readings: list[Sequence[Span]] = []

    def append(self, leaves: Sequence[bytes]) -> None:
        made = tree.appended(self.size, leaves, self.read)
        self.hashes |= {Node(0, self.size + nth): leaf for nth, leaf in enumerate(leaves)} | dict(made)
        self.size += len(leaves)

    def spans(self, spans: Sequence[Span]) -> list[list[bytes]]:
        self.readings.append(spans)
        return [[self.hashes[Node(span.level, nth)] for nth in range(span.first, span.end)] for span in spans]

    @property
    def read(self) -> tree.Read:
        return tree.through_tiles(self.spans)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Two thousand leaves, sealed one by one."""
    found = Rows()
    for leaf in LEAVES:
        found.append([leaf])
    return found


_known: dict[tuple[int, int], bytes] = {}


def mth(begin: int, end: int) -> bytes:
    """RFC 6962, 2.1, over ENTRIES; remembered, or two thousand trees would take minutes."""
    if (begin, end) not in _known:
        if begin == end:
            found = hashlib.sha256().digest()
        elif end - begin == 1:
            found = hashlib.sha256(b"\x00" + ENTRIES[begin]).digest()
        else:
            k = begin + split(end - begin)
            found = hashlib.sha256(b"\x01" + mth(begin, k) + mth(k, end)).digest()
        _known[begin, end] = found
    return _known[begin, end]


def path(m: int, begin: int, end: int) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if end - begin == 1:
        return []
    k = begin + split(end - begin)
    return [*path(m, begin, k), mth(k, end)] if m < k else [*path(m, k, end), mth(begin, k)]


def subproof(m: int, begin: int, end: int, known: bool) -> list[bytes]:
    """RFC 6962, 2.1.2."""
    if m == end:
        return [] if known else [mth(begin, end)]
    k = begin + split(end - begin)
    if m <= k:
        return [*subproof(m, begin, k, known), mth(k, end)]
    return [*subproof(m, k, end, False), mth(begin, k)]


def split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def direct(nodes: Sequence[Node]) -> list[bytes]:
    """Reads any node from the definition."""
    return [mth(node.nth << node.level, node.nth + 1 << node.level) for node in nodes]


def test_roots_of_all_sizes_are_those_of_the_definition(rows: Rows) -> None:
    for size in range(len(ENTRIES) + 1):
        assert tree.root(size, rows.read) == mth(0, size), size


@pytest.mark.parametrize("size", [*range(1, 34), 255, 256, 257, 513])
def test_inclusion_of_every_leaf(rows: Rows, size: int) -> None:
    for index in range(size):
        proof = tree.inclusion_proof(index, size, rows.read)

        assert proof == path(index, 0, size), index
        tree.verify_inclusion(LEAVES[index], index, size, proof, mth(0, size))


@pytest.mark.parametrize("size", [*range(1, 34), 255, 256, 257, 513])
def test_consistency_with_every_older_size(rows: Rows, size: int) -> None:
    for old in range(1, size + 1):
        proof = tree.consistency_proof(old, size, rows.read)

        assert proof == subproof(old, 0, size, True), old
        tree.verify_consistency(old, mth(0, old), size, mth(0, size), proof)


@settings(max_examples=300)
@given(sizes.flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
@example((1_999, 2_000))
@example((1_024, 1_025))
def test_inclusion_in_any_size(rows: Rows, leaf: tuple[int, int]) -> None:
    index, size = leaf
    proof = tree.inclusion_proof(index, size, rows.read)

    assert proof == path(index, 0, size)
    tree.verify_inclusion(LEAVES[index], index, size, proof, mth(0, size))


@settings(max_examples=300)
@given(sizes.flatmap(lambda size: st.tuples(st.integers(1, size), st.just(size))))
@example((1_024, 2_000))
@example((1, 2_000))
def test_consistency_of_any_two_sizes(rows: Rows, both: tuple[int, int]) -> None:
    old, size = both
    proof = tree.consistency_proof(old, size, rows.read)

    assert proof == subproof(old, 0, size, True)
    tree.verify_consistency(old, mth(0, old), size, mth(0, size), proof)


@settings(max_examples=30)
@given(st.lists(st.sampled_from([1, 2, 3, 7, 100, 254, 255, 256, 257, 300, 511, 512, 513]), max_size=8))
def test_appending_in_any_batches_keeps_the_same_nodes(rows: Rows, batches: list[int]) -> None:
    kept = Rows()
    for batch in batches:
        kept.append(LEAVES[kept.size : kept.size + batch])

    expected = {
        node: hash for node, hash in rows.hashes.items() if node.nth + 1 << node.level <= kept.size
    }  # those of the levels that head a tile, over leaves that are there
    assert kept.hashes == expected
    assert {node.level for node in kept.hashes} <= {0, 8}
    assert tree.root(kept.size, kept.read) == mth(0, kept.size)


def test_levels_of_sixteen_are_kept_and_read() -> None:
    leaves = [tree.leaf_hash(nth.to_bytes(4, "big")) for nth in range(2 * 65_536 + 300)]
    rows = Rows()
    for at in (0, 1, 65_000, 65_536, 70_000, 131_071):
        rows.append(leaves[rows.size : at])
    rows.append(leaves[rows.size :])

    assert sum(node.level == 16 for node in rows.hashes) == 2
    assert tree.root(rows.size, rows.read) == folded(leaves)
    for index in (0, 65_535, 65_536, 131_072, rows.size - 1):
        proof = tree.inclusion_proof(index, rows.size, rows.read)
        tree.verify_inclusion(leaves[index], index, rows.size, proof, folded(leaves))
    for old in (1, 256, 65_536, 65_537, 131_073, rows.size - 1):
        proof = tree.consistency_proof(old, rows.size, rows.read)
        tree.verify_consistency(old, folded(leaves[:old]), rows.size, folded(leaves), proof)


def folded(leaves: Sequence[bytes]) -> bytes:
    """Root by joining neighbours level by level, where an odd one out moves up: the same tree, built another way."""
    row = list(leaves)
    while len(row) > 1:
        odd = row[-1:] if len(row) % 2 else []
        row = [tree.node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=False)] + odd
    return row[0]


def test_each_answer_asks_once() -> None:
    asked: list[Sequence[Node]] = []

    def read(nodes: Sequence[Node]) -> list[bytes]:
        asked.append(nodes)
        return direct(nodes)

    for answer in (
        lambda: tree.root(1_999, read),
        lambda: tree.inclusion_proof(1_000, 1_999, read),
        lambda: tree.consistency_proof(1_000, 1_999, read),
    ):
        asked.clear()
        answer()
        assert len(asked) == 1
        assert len(asked[0]) <= 2 * 11  # log2 of the size, twice: the right edge is no complete subtree


@pytest.mark.parametrize("size", [999_999, 1_000_000, 1_048_576])
@pytest.mark.parametrize("index", [0, 1, 255, 256, 65_535, 65_536, 500_001, 983_039, 983_040, 999_998])
def test_at_a_million_leaves_a_proof_touches_five_tiles(size: int, index: int) -> None:
    readings: list[Sequence[Span]] = []

    def spans(spans: Sequence[Span]) -> list[list[bytes]]:
        readings.append(spans)
        return [[bytes(32)] * (span.end - span.first) for span in spans]

    read = tree.through_tiles(spans)
    for answer in (
        lambda: tree.inclusion_proof(index, size, read),
        lambda: tree.consistency_proof(max(index, 1), size, read),
        lambda: tree.root(size, read),
    ):
        readings.clear()
        answer()
        assert len(readings) == 1
        assert len(readings[0]) <= 5  # three levels that head a tile; the way up and the right edge
        assert sum(span.end - span.first for span in readings[0]) <= 5 * 256
        assert all(span.first // 256 == (span.end - 1) // 256 for span in readings[0])


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_an_append_reads_no_more_than_the_tiles_that_it_fills(size: int) -> None:
    read: list[int] = []

    def nodes(nodes: Sequence[Node]) -> list[bytes]:
        read.append(len(nodes))
        return [bytes(32)] * len(nodes)

    tree.appended(size, [bytes(32)] * 10, nodes)
    tree.appended(size, [bytes(32)] * 256, nodes)

    assert len(read) <= 3
    assert max(read) <= 255


def test_the_published_tree() -> None:
    entries = [bytes.fromhex(entry) for entry in KNOWN["leaves"]]
    nodes = [[bytes.fromhex(hash) for hash in level] for level in KNOWN["nodes"]]

    def read(wanted: Sequence[Node]) -> list[bytes]:
        return [nodes[node.level][node.nth] for node in wanted]

    assert [tree.leaf_hash(entry) for entry in entries] == nodes[0]
    for level, above in itertools.pairwise(nodes):
        assert [tree.node_hash(*level[at : at + 2]) for at in range(0, len(level), 2)] == above
    assert [tree.root(size, read).hex() for size in range(9)] == KNOWN["roots"]
    for case in KNOWN["inclusion"]:
        assert [step.hex() for step in tree.inclusion_proof(case["index"], case["size"], read)] == case["proof"]
    for case in KNOWN["consistency"]:
        assert [step.hex() for step in tree.consistency_proof(case["old"], case["size"], read)] == case["proof"]


def test_the_example_of_the_rfc() -> None:
    drawn = KNOWN["example"]
    names = {mth(*leaves): name for name, leaves in drawn["nodes"].items()}

    for index, expected in drawn["inclusion"].items():
        proof = tree.inclusion_proof(int(index), drawn["size"], direct)
        assert [names[step] for step in proof] == expected
    for old, expected in drawn["consistency"].items():
        proof = tree.consistency_proof(int(old), drawn["size"], direct)
        assert [names[step] for step in proof] == expected


def cases(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in json.loads((VECTORS / f"{kind}.json").read_text())]


@pytest.mark.parametrize("case", cases("inclusion"))
def test_inclusion_proofs_that_hold_and_bent_ones(case: dict[str, Any]) -> None:
    leaf, root = bytes.fromhex(case["leaf"]), bytes.fromhex(case["root"])
    proof = [bytes.fromhex(step) for step in case["proof"]]

    assert case["held"] == holds(lambda: tree.verify_inclusion(leaf, case["index"], case["size"], proof, root))


@pytest.mark.parametrize("case", cases("consistency"))
def test_consistency_proofs_that_hold_and_bent_ones(case: dict[str, Any]) -> None:
    old, root = bytes.fromhex(case["old_root"]), bytes.fromhex(case["root"])
    proof = [bytes.fromhex(step) for step in case["proof"]]

    assert case["held"] == holds(lambda: tree.verify_consistency(case["old"], old, case["size"], root, proof))


def holds(verify: Callable[[], None]) -> bool:
    """Whether it does; if not, it says so in one line."""
    try:
        verify()
    except ProofRejected as bent:
        assert str(bent) and "\n" not in str(bent)
        return False
    return True


def test_the_files_are_what_their_script_makes() -> None:
    for name, content in make.made().items():
        assert (VECTORS / name).read_text() == content, f"run python tests/vectors/make.py for {name}"


def test_most_bent_proofs_are_of_the_right_length() -> None:
    """Else a verifier that counts hashes and nothing more would look good."""
    bent = [case for case in json.loads((VECTORS / "inclusion.json").read_text()) if not case["held"]]
    lengths = {case["name"].split(":")[0]: len(case["proof"]) for case in bent if case["name"].endswith("no root")}
    same = [case for case in bent if len(case["proof"]) == lengths[case["name"].split(":")[0]]]

    assert len(same) > len(bent) / 2


garbage = st.lists(st.binary(min_size=32, max_size=32) | st.binary(max_size=70), max_size=70)


@settings(max_examples=150)
@given(st.binary(max_size=40) | st.just(LEAVES[0]), anything, anything, garbage, st.binary(max_size=40))
def test_garbage_is_no_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> None:
    if (leaf, index, size, proof) != (root, 0, 1, []):
        assert not holds(lambda: tree.verify_inclusion(leaf, index, size, proof, root))


@settings(max_examples=150)
@given(anything, st.binary(max_size=40), anything, st.binary(max_size=40), garbage)
@example(2**63, bytes(32), 2**63, bytes(31), [])
def test_garbage_is_no_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: list[bytes]) -> None:
    if old != size or old_root != root:
        assert not holds(lambda: tree.verify_consistency(old, old_root, size, root, proof))


@pytest.mark.parametrize("nth", range(3))
@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_hash_of_another_length_is_named(nth: int, length: int) -> None:
    for proof, verify in (
        (path(5, 0, 8), lambda bent: tree.verify_inclusion(LEAVES[5], 5, 8, bent, mth(0, 8))),
        (subproof(6, 0, 8, True), lambda bent: tree.verify_consistency(6, mth(0, 6), 8, mth(0, 8), bent)),
    ):
        bent = [*proof[:nth], bytes(length), *proof[nth + 1 :]]
        with pytest.raises(ProofRejected, match=f"Hash {nth} of the proof has {length} bytes"):
            verify(bent)


@pytest.mark.parametrize("many", [64, 10_000])
@pytest.mark.parametrize("size", [1, 2, 2_000, 2**63])
def test_thousands_of_hashes_are_refused_at_once(size: int, many: int) -> None:
    assert not holds(lambda: tree.verify_inclusion(LEAVES[0], 0, size, [LEAVES[1]] * many, EMPTY_ROOT))
    assert not holds(lambda: tree.verify_consistency(1, LEAVES[0], size, EMPTY_ROOT, [LEAVES[1]] * many))


@settings(max_examples=150)
@given(st.data())
def test_no_proof_survives_a_changed_bit(rows: Rows, data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 2_000))
    index = data.draw(st.integers(0, size - 1))
    root, proof = mth(0, size), tree.inclusion_proof(index, size, rows.read)
    bent = [LEAVES[index], root, *proof]
    at, bit = data.draw(st.integers(0, len(bent) - 1)), data.draw(st.integers(0, 255))
    bent[at] = (int.from_bytes(bent[at], "big") ^ 1 << bit).to_bytes(32, "big")

    assert not holds(lambda: tree.verify_inclusion(bent[0], index, size, bent[2:], bent[1]))


@settings(max_examples=150)
@given(st.data())
def test_no_consistency_survives_a_changed_bit(rows: Rows, data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 2_000))
    old = data.draw(st.integers(1, size - 1))
    bent = [mth(0, old), mth(0, size), *tree.consistency_proof(old, size, rows.read)]
    at, bit = data.draw(st.integers(0, len(bent) - 1)), data.draw(st.integers(0, 255))
    bent[at] = (int.from_bytes(bent[at], "big") ^ 1 << bit).to_bytes(32, "big")

    assert not holds(lambda: tree.verify_consistency(old, bent[0], size, bent[1], bent[2:]))


@settings(max_examples=300)
@given(st.integers(0, 1_999), sizes, sizes)
def test_a_leaf_is_at_no_other_index(rows: Rows, index: int, other: int, size: int) -> None:
    if index < size and index != other:
        proof = tree.inclusion_proof(index, size, rows.read)
        assert not holds(lambda: tree.verify_inclusion(LEAVES[index], other, size, proof, mth(0, size)))


def questions() -> Iterator[tuple[str, Callable[[], object]]]:
    for index, size in ((-1, 5), (5, 5), (6, 5), (0, 0), (0, -1), (2**63, 2**63)):
        yield f"leaf {index} of {size}", lambda index=index, size=size: tree.inclusion_proof(index, size, direct)
    for old, size in ((-1, 5), (6, 5), (0, -1), (1, 0)):
        yield f"{old} to {size}", lambda old=old, size=size: tree.consistency_proof(old, size, direct)


@pytest.mark.parametrize("ask", [pytest.param(ask, id=name) for name, ask in questions()])
def test_there_is_no_proof_of_what_is_not_there(ask: Callable[[], object]) -> None:
    with pytest.raises(ProofRejected):
        ask()


def test_the_empty_tree() -> None:
    assert tree.root(0, direct) == EMPTY_ROOT == mth(0, 0)
    assert tree.consistency_proof(0, 5, direct) == tree.consistency_proof(5, 5, direct) == []
