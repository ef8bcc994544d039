"""Proofs of one entry in c2sp.org/tlog-proof@v1: what is written, what is read, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import ProofRejected
from audit.ledger import tree
from audit.ledger.note import Checkpoint, SigningKey, parse_key, signed
from audit.ledger.proof import TlogProof, check_proof, parse_proof

VECTORS = Path(__file__).parents[2] / "vectors"
CASES = json.loads((VECTORS / "proofs.json").read_text())
PUBLISHED = json.loads((VECTORS / "notes.json").read_text())["proof"]["proof"]
GOOD = next(case for case in CASES if case["name"] == "good")
KEYS = [parse_key(key) for key in GOOD["keys"]]
KEY = SigningKey("acme.example/fraud", bytes(range(32)))

hashes = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_proofs_that_hold_and_bent_ones(case: dict[str, Any]) -> None:
    keys = [parse_key(key) for key in case["keys"]]

    if case["held"]:
        assert check_proof(case["entry"].encode(), parse_proof(case["proof"]), keys).origin == "acme.example/fraud"
    else:
        with pytest.raises(ProofRejected) as refused:
            check_proof(case["entry"].encode(), parse_proof(case["proof"]), keys)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 300


def test_a_proof_is_written_as_the_specification_shows_it() -> None:
    text = PUBLISHED.partition("\n\n")[2]
    written = f"{PUBLISHED}\n{signed(text, [KEY]).signatures[0]}"
    proof = parse_proof(written)

    assert (proof.index, len(proof.hashes), proof.extra) == (73_894, 5, None)
    assert proof.checkpoint.text == text
    assert str(proof) == written


def test_extra_data_is_carried_and_not_believed() -> None:
    proof = parse_proof(GOOD["proof"])
    with_extra = TlogProof(proof.index, proof.hashes, proof.checkpoint, b"\x01\x02\x03")

    assert str(with_extra).split("\n")[1] == "extra AQID"
    assert parse_proof(str(with_extra)) == with_extra
    assert check_proof(GOOD["entry"].encode(), with_extra, KEYS).size == 11


def test_it_says_which_checkpoint_held() -> None:
    head = check_proof(GOOD["entry"].encode(), parse_proof(GOOD["proof"]), KEYS)

    assert head == Checkpoint("acme.example/fraud", 11, head.root)
    assert head.text == parse_proof(GOOD["proof"]).checkpoint.text


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 1_000])
def test_a_proof_out_of_our_tree_holds(size: int) -> None:
    entries = [f'{{"id":"{nth}"}}'.encode() for nth in range(size)]
    leaves = [tree.leaf_hash(entry) for entry in entries]
    rows = {tree.Node(0, nth): leaf for nth, leaf in enumerate(leaves)} | dict(
        tree.appended(0, leaves, lambda nodes: [])
    )
    read = tree.through_tiles(
        lambda spans: [[rows[tree.Node(span.level, nth)] for nth in range(span.first, span.end)] for span in spans]
    )
    note = signed(Checkpoint(KEY.name, size, tree.root(size, read)).text, [KEY])

    for index in {0, size // 2, size - 1}:
        proof = TlogProof(index, tuple(tree.inclusion_proof(index, size, read)), note)
        assert check_proof(entries[index], parse_proof(str(proof)), [KEY.verifier]).size == size
        with pytest.raises(ProofRejected):
            check_proof(entries[index] + b" ", proof, [KEY.verifier])


@given(st.integers(0, 2**63 - 1), st.lists(hashes, max_size=63), st.none() | st.binary(min_size=1, max_size=100))
def test_what_was_written_is_read_back(index: int, steps: list[bytes], extra: bytes | None) -> None:
    proof = TlogProof(index, tuple(steps), parse_proof(GOOD["proof"]).checkpoint, extra)

    assert parse_proof(str(proof)) == proof


@pytest.mark.parametrize("many", [64, 10_000])
def test_more_hashes_than_any_tree_takes_are_refused(many: int) -> None:
    note = parse_proof(GOOD["proof"]).checkpoint

    with pytest.raises(ProofRejected, match="63"):
        parse_proof(str(TlogProof(6, (bytes(32),) * many, note)))


def test_more_than_a_megabyte_is_refused() -> None:
    with pytest.raises(ProofRejected, match="1000000"):
        parse_proof(GOOD["proof"].replace("index", "extra " + "AAAA" * 250_000 + "\nindex"))


@settings(max_examples=150)
@given(st.text(max_size=300) | st.text("c2sp.org/tlog-proof@v1\nindex =A—0\r\ud800", max_size=200))
def test_garbage_is_no_proof(written: str) -> None:
    with pytest.raises(ProofRejected) as refused:
        parse_proof(written)

    assert str(refused.value).isprintable()


@settings(max_examples=150)
@given(st.integers(0, len(GOOD["proof"]) - 1), st.characters() | st.sampled_from("\n +=—1A"))
def test_no_proof_survives_a_changed_character(at: int, character: str) -> None:
    bent = GOOD["proof"][:at] + character + GOOD["proof"][at + 1 :]

    assert bent == GOOD["proof"] or not holds(bent)


@given(st.integers(0, len(GOOD["proof"]) - 1))
def test_no_proof_survives_being_cut(at: int) -> None:
    assert not holds(GOOD["proof"][:at])


@settings(max_examples=300)
@given(st.integers(0, 2**63 - 1), st.lists(hashes, max_size=63))
def test_other_hashes_prove_nothing(index: int, steps: list[bytes]) -> None:
    assert not holds(str(TlogProof(index, tuple(steps), parse_proof(GOOD["proof"]).checkpoint)))


def holds(written: str) -> bool:
    try:
        check_proof(GOOD["entry"].encode(), parse_proof(written), KEYS)
    except ProofRejected:
        return False
    return True
