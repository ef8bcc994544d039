"""Checkpoints, anchors and keys removed, exchanged, forged. The forger has no key of the log."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audit.events.canonical import timestamp
from audit.events.event import Event, uuid7
from audit.events.payloads import AnchorFacts, CheckpointFacts, KeyFacts
from audit.ledger import anchors
from audit.ledger.note import SigningKey, signed
from audit.store.append import append
from tests.anchoring import timestamp_authority, witnessing
from tests.attacks.forging import ORIGIN, exchange, head_of, owner, past, put_in, rows, write_anew
from tests.attacks.victim import SIZES, Victim, faults, rotated, told, verdict, work

FORGER = SigningKey(ORIGIN, secrets.token_bytes(32))


@pytest.mark.parametrize("size", [SIZES[0], SIZES[2], SIZES[-1]])
def test_a_checkpoint_is_removed(victim: Victim, size: int) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM checkpoint WHERE size = ?", (size,))

    assert f"checkpoint of size {size}: is not there" in faults(victim)


def test_two_checkpoints_are_exchanged(victim: Victim) -> None:
    with owner(victim.database) as db:
        exchange(db, "checkpoint", ["note"], {"size": SIZES[0]}, {"size": SIZES[1]})

    assert f"checkpoint of size {SIZES[0]}: its note is of size {SIZES[1]}" in faults(victim)


@pytest.mark.parametrize("size", [100, SIZES[-1] + 1, 0, -1])
def test_another_ones_note_is_put_in(victim: Victim, size: int) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO checkpoint VALUES (?, ?)", (size, victim.notes[-1]))

    assert f"checkpoint of size {size}: its note is of size {SIZES[-1]}" in faults(victim)


def test_a_checkpoint_is_put_in_that_no_event_tells_of(victim: Victim) -> None:
    """A true one, for who has the key: what was given out is on record."""
    with owner(victim.database) as db:
        put_in(db, head_of(past(db), 100), [victim.keys[0]])

    assert "checkpoint of size 100: no checkpoint.signed event tells of it" in faults(victim)


def test_an_event_tells_of_a_checkpoint_that_was_told_of(victim: Victim) -> None:
    """With another root, for whoever reads events and not notes."""
    facts = CheckpointFacts(size=SIZES[1], root="A" * 43 + "=", previous=SIZES[0], keys=[], digest="sha256:" + "0" * 64)
    with victim.store() as store:
        append(store, [told("checkpoint.signed", facts, f"checkpoint/{SIZES[1]}")])

    assert f"is a second one about the checkpoint of size {SIZES[1]}" in faults(victim)


def test_an_event_tells_of_an_anchor_that_never_was(victim: Victim) -> None:
    facts = AnchorFacts(
        size=SIZES[1], kind="timestamp", by="somebody", at="2020-01-01T00:00:00.000000Z", digest="sha256:" + "0" * 64
    )
    with victim.store() as store:
        append(store, [told("checkpoint.anchored", facts, f"checkpoint/{SIZES[1]}")])

    assert "tells of an anchor that is not there" in faults(victim)


def test_a_checkpoint_says_more_than_the_trees_head(victim: Victim) -> None:
    with owner(victim.database) as db:
        text = f"{head_of(past(db), SIZES[0]).text}said by whom?\n"
        db.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (str(signed(text, [victim.keys[0]])), SIZES[0]))

    assert f"checkpoint of size {SIZES[0]}: its note says more" in faults(victim)


def test_a_checkpoint_is_signed_by_one_more(victim: Victim) -> None:
    """Whose signature is that? The standard ignores it; the log's own record has none but the log's."""
    with owner(victim.database) as db:
        note = str(signed(head_of(past(db), SIZES[0]).text, [victim.keys[0], FORGER]))
        db.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (note, SIZES[0]))

    assert f"checkpoint of size {SIZES[0]}: it has a signature that is not the log's" in faults(victim)


def test_a_checkpoint_is_one_of_another_log(victim: Victim) -> None:
    """By a key of the log, under another name, as who has the key can make one."""
    with owner(victim.database) as db:
        head = replace(head_of(past(db), SIZES[0]), origin="acme.example/other")
        db.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (str(signed(head.text, victim.keys[:1])), SIZES[0]))

    assert f"checkpoint of size {SIZES[0]}: its note is of the log acme.example/other" in faults(victim)


def test_a_checkpoint_is_signed_by_somebody_else_under_the_same_name(victim: Victim) -> None:
    with owner(victim.database) as db:
        note = str(signed(head_of(past(db), SIZES[0]).text, [FORGER]))
        db.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (note, SIZES[0]))

    assert f"checkpoint of size {SIZES[0]}: it is not signed by {victim.keys[0].verifier.shown}" in faults(victim)


def test_a_leaf_is_put_in_without_a_checkpoint(victim: Victim) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO leaf SELECT ?, ?, hash FROM leaf WHERE idx = 0", (SIZES[-1], SIZES[-1] + 1))

    assert f"tree: has {SIZES[-1] + 1} leaves" in faults(victim)


@pytest.mark.parametrize("level, idx", [(8, 2), (16, 0), (24, 0), (0, 0), (7, 0), (8, -1)])
def test_a_node_is_put_in(victim: Victim, level: int, idx: int) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO node SELECT ?, ?, hash FROM node WHERE idx = 0", (level, idx))

    assert f"node {idx} of level {level}: is none that the leaves imply" in faults(victim)


@pytest.mark.parametrize("idx", [0, 1])
def test_a_node_is_removed(victim: Victim, idx: int) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM node WHERE idx = ?", (idx,))

    assert faults(victim) == f"node {idx} of level 8: is missing"


@pytest.mark.parametrize("nth", range(4))
@pytest.mark.usefixtures("stamped")
def test_an_anchor_is_removed(victim: Victim, nth: int) -> None:
    with owner(victim.database) as db:
        db.execute("DELETE FROM anchor WHERE event_seq = (SELECT event_seq FROM anchor LIMIT 1 OFFSET ?)", (nth,))

    assert "tells of an anchor that is not there" in faults(victim)


@pytest.mark.parametrize("columns", [["evidence"], ["size", "evidence"], ["size"], ["kind", "evidence"]], ids="+".join)
@pytest.mark.usefixtures("stamped")
def test_two_anchors_are_exchanged(victim: Victim, columns: list[str]) -> None:
    with owner(victim.database) as db:
        first, _, alike, unlike = rows(db, "anchor")
        exchange(db, "anchor", columns, first, unlike if "kind" in columns else alike)

    assert all(f"its anchor's {column} is" in faults(victim) for column in columns)


def test_an_anchor_is_put_in_that_no_event_tells_of(victim: Victim) -> None:
    with owner(victim.database) as db:
        db.execute("INSERT INTO anchor SELECT 100, size, kind, evidence FROM anchor LIMIT 1")

    assert "anchor at event_seq 100: no checkpoint.anchored event tells of this anchor" in faults(victim)


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

    assert f"it is not signed by {victim.keys[-1].verifier.shown}" in faults(victim)


def test_the_forgers_key_takes_over_from_one_that_was_not_the_logs(victim: Victim) -> None:
    carried_on(victim, [rotated(victim.keys[0], FORGER)], by=FORGER)

    assert f"it is not signed by {victim.keys[-1].verifier.shown}" in faults(victim)


def test_a_handing_over_that_nobody_signed_is_not_believed(victim: Victim) -> None:
    """Whoever can append can say that the key is another one. It is sealed as any event is, and changes nothing."""
    with victim.store() as store:
        append(store, [rotated(victim.keys[-1], FORGER), created(FORGER)])
    victim.seal()

    said = verdict(victim, key=victim.keys[-1].verifier)
    assert said.answer == "held"
    assert len([note for note in said.notes if "not believed" in note]) == 2


@pytest.mark.parametrize("consent", ["none", "AAAA", "their own", "for another key"])
def test_a_signature_added_to_the_logs_own_is_no_handing_over(victim: Victim, consent: str) -> None:
    """The log's key signs whatever events there are, one that names the forger's key too; and to a note that it signed
    anybody can add a signature."""
    own = victim.keys[-1]
    made_up = {"their own": FORGER.consent(FORGER.verifier), "for another key": own.consent(own.verifier)}
    event = rotated(own, FORGER, consent=made_up.get(consent, consent))
    with victim.store() as store:
        append(store, [event])
    kept = victim.seal()
    with owner(victim.database) as db:
        write_anew(
            db,
            past(db),
            lambda told, before: [FORGER, own] if told[-1].columns["id"] == event.id else victim.signers(told, before),
        )
    assert verdict(victim, key=own.verifier, kept=[kept]).answer == "did not hold"


def test_the_forgers_key_is_made_beside_the_logs(victim: Victim) -> None:
    carried_on(victim, [created(FORGER)], by=FORGER)

    assert f"puts another key in the place of {victim.keys[-1].verifier.shown}" in faults(victim)


def test_the_forgers_key_signs_though_the_log_has_another(victim: Victim) -> None:
    carried_on(victim, work(1), by=FORGER)

    assert f"it is not signed by {victim.keys[-1].verifier.shown}" in faults(victim)


def test_a_key_that_was_handed_over_signs_on(victim: Victim) -> None:
    carried_on(victim, work(1), by=victim.keys[0])

    assert f"it is not signed by {victim.keys[-1].verifier.shown}" in faults(victim)


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
        now, at = past(db), timestamp(datetime.now(UTC))
        like = now.events[now.at("checkpoint.signed", len(SIZES) - 1)]
        now.events.append(like.with_(id=uuid7(), time=at, recorded_at=at))
        write_anew(db, now, lambda told, before: [by] if before == SIZES[-1] else victim.signers(told, before))
