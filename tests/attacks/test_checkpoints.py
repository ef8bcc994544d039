"""Checkpoints, anchors and keys removed, exchanged, forged. The forger has no key of the log."""

import secrets
from pathlib import Path

import pytest

from audit.events.event import Event, uuid7
from audit.events.payloads import KeyFacts
from audit.ledger import anchors
from audit.ledger.note import SigningKey, parse_note, signed
from audit.store.append import append
from tests.anchoring import timestamp_authority, witnessing
from tests.attacks.forging import ORIGIN, exchange, owner, past, rows, write_anew
from tests.attacks.victim import SIZES, Victim, rotated, told, verdict, work

FORGER = SigningKey(ORIGIN, secrets.token_bytes(32))


@pytest.mark.parametrize("size", [SIZES[0], SIZES[2], SIZES[-1]])
def test_a_checkpoint_is_removed(victim: Victim, size: int) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM checkpoint WHERE size = ?", (size,))

    assert (f"checkpoint of size {size}", True) in [
        (f.about, "it was removed" in f.what) for f in verdict(victim).faults
    ]


def test_two_checkpoints_are_exchanged(victim: Victim) -> None:
    with owner(victim.database) as db:
        exchange(db, "checkpoint", ["note"], {"size": SIZES[0]}, {"size": SIZES[1]})

    assert verdict(victim).answer == "did not hold"


@pytest.mark.parametrize("size", [100, SIZES[-1] + 1, 0, -1])
def test_a_checkpoint_is_put_in_that_no_event_tells_of(victim: Victim, size: int) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO checkpoint VALUES (?, ?)", (size, victim.notes[-1]))

    assert verdict(victim).answer == "did not hold"


def test_a_checkpoint_is_signed_by_somebody_else_under_the_same_name(victim: Victim) -> None:
    with owner(victim.database) as db:
        head = parse_note(victim.notes[0]).text
        note = str(signed(head, [SigningKey(ORIGIN, secrets.token_bytes(32))]))
        db.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (note, SIZES[0]))

    assert verdict(victim).answer == "did not hold"


def test_a_leaf_is_put_in_without_a_checkpoint(victim: Victim) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO leaf SELECT ?, ?, hash FROM leaf WHERE idx = 0", (SIZES[-1], SIZES[-1] + 1))

    assert verdict(victim).answer == "did not hold"


@pytest.mark.parametrize("level, idx", [(8, 2), (16, 0), (24, 0), (0, 0), (7, 0), (8, -1)])
def test_a_node_is_put_in(victim: Victim, level: int, idx: int) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO node SELECT ?, ?, hash FROM node WHERE idx = 0", (level, idx))

    assert verdict(victim).answer == "did not hold"


@pytest.mark.parametrize("idx", [0, 1])
def test_a_node_is_removed(victim: Victim, idx: int) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM node WHERE idx = ?", (idx,))

    assert verdict(victim).answer == "did not hold"


@pytest.mark.parametrize("nth", range(4))
def test_an_anchor_is_removed(victim: Victim, nth: int) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM anchor WHERE event_seq = (SELECT event_seq FROM anchor LIMIT 1 OFFSET ?)", (nth,))

    assert verdict(victim).answer == "did not hold"


@pytest.mark.parametrize("columns", [["evidence"], ["size", "evidence"], ["size"], ["kind", "evidence"]], ids="+".join)
def test_two_anchors_are_exchanged(victim: Victim, columns: list[str]) -> None:
    with owner(victim.database) as db:
        first, _, alike, unlike = rows(db, "anchor")
        exchange(db, "anchor", columns, first, unlike if "kind" in columns else alike)

    assert verdict(victim).answer == "did not hold"


def test_an_anchor_is_put_in_that_no_event_tells_of(victim: Victim) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO anchor SELECT 100, size, kind, evidence FROM anchor LIMIT 1")

    assert verdict(victim).answer == "did not hold"


def test_the_anchors_of_whom_an_auditor_believes_are_counted(victim: Victim) -> None:
    said = verdict(victim, **victim.trusted)

    assert (said.answer, said.anchors, len(said.held_to)) == ("held", 4, 2)


def test_an_authority_of_the_forgers_own_is_not_believed(victim: Victim, tmp_path: Path) -> None:
    with timestamp_authority(tmp_path / "theirs") as theirs, victim.store() as store:
        anchors.anchor(store, anchors.authority(theirs.url, theirs.roots), actor="p:forger")

    said = verdict(victim, **victim.trusted)
    assert (said.answer, said.anchors) == ("held", 4)
    assert any("1 anchor" in note for note in said.notes)


def test_a_witness_of_the_forgers_own_is_not_believed(victim: Victim, tmp_path: Path) -> None:
    with witnessing(tmp_path / "theirs.json", victim.witness.key.name) as theirs, victim.store() as store:
        theirs.knows(victim.keys[-1].verifier)
        anchors.anchor(store, anchors.Witness(theirs.vkey, theirs.url), actor="p:forger")

    said = verdict(victim, **victim.trusted)
    assert (said.answer, said.anchors) == ("held", 4)
    assert any("1 anchor" in note for note in said.notes)


def test_the_forgers_key_takes_over_without_the_old_ones_signature(victim: Victim) -> None:
    carried_on(victim, [rotated(victim.keys[-1], FORGER)], by=FORGER)

    assert verdict(victim).answer == "did not hold"


def test_the_forgers_key_takes_over_from_one_that_was_not_the_logs(victim: Victim) -> None:
    carried_on(victim, [rotated(victim.keys[0], FORGER)], by=FORGER)

    assert verdict(victim).answer == "did not hold"


def test_the_forgers_key_is_made_beside_the_logs(victim: Victim) -> None:
    carried_on(victim, [created(FORGER)], by=FORGER)

    assert verdict(victim).answer == "did not hold"


def test_the_forgers_key_signs_though_the_log_has_another(victim: Victim) -> None:
    carried_on(victim, work(1), by=FORGER)

    assert verdict(victim).answer == "did not hold"


def test_a_key_that_was_handed_over_signs_on(victim: Victim) -> None:
    carried_on(victim, work(1), by=victim.keys[0])

    assert verdict(victim).answer == "did not hold"


def test_a_loss_that_was_made_up_is_told(victim: Victim) -> None:
    """A log whose key is lost goes on under a new one. Whether it was lost, only its owner can say: so it is told."""
    lost = KeyFacts(purpose="log", fingerprint=victim.keys[-1].verifier.shown)
    carried_on(victim, [told("key.lost", lost, "key/log"), created(FORGER)], by=FORGER)

    said = verdict(victim)
    assert said.answer == "held"
    assert any("declared lost" in note for note in said.notes)
    assert verdict(victim, key=victim.keys[-1].verifier).answer == "could not tell"


def created(key: SigningKey) -> Event:
    facts = KeyFacts(purpose="log", fingerprint=key.verifier.shown, vkey=str(key.verifier))
    return told("key.created", facts, "key/log")


def carried_on(victim: Victim, events: list[Event], *, by: SigningKey) -> None:
    """These events and a checkpoint over them; those before are as they were."""
    with victim.store() as store:
        append(store, events)
    with owner(victim.database) as db:
        now = past(db)
        now.events.append(now.events[now.at("checkpoint.signed", 4)].with_(id=uuid7()))
        write_anew(db, now, lambda told, before: [by] if before == SIZES[-1] else victim.signers(told, before))
