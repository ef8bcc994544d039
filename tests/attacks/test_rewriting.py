"""The whole past written anew, so that it fits together: what the store alone cannot show, somebody else must hold."""

import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit.answers.keeping import facts_digest
from audit.cli.app import main
from audit.errors import InconsistentTree, KeyUnavailable
from audit.ledger import anchors
from audit.ledger.note import SigningKey
from audit.ledger.publisher import publish
from audit.ledger.tiles import read_published
from audit.settings import settings
from audit.store.append import append
from audit.store.engine import close_stores
from tests.anchoring import witnessing
from tests.attacks.forging import ORIGIN, Past, owner, past, write_anew
from tests.attacks.victim import SIZES, Victim, faults, verdict, work

Audit = Callable[..., int]


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Audit]:
    """The command as it is run where the log lives; its exit code."""

    def run(victim: Victim, *words: str) -> int:
        for name, value in victim.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["audit", *words])
        settings.cache_clear()
        with pytest.raises(SystemExit) as ended:
            main()
        close_stores()
        return int(ended.value.code or 0)

    yield run
    settings.cache_clear()


def by_who_has_the_keys(victim: Victim) -> Victim:
    """One fact of the past is another one; all that can be recomputed and signed is. Others' evidence is left out."""
    with owner(victim.database) as db:
        write_anew(db, bent(past(db)).without_anchors(), victim.signers)
    return victim


def by_who_has_none(victim: Victim) -> Victim:
    """The same, by somebody who has the database and no key: the log's key was another one from the start."""
    keys = SigningKey(ORIGIN, secrets.token_bytes(32)), SigningKey(ORIGIN, secrets.token_bytes(32))
    forger = replace(victim, keys=keys)
    with owner(victim.database) as db:
        told = bent(past(db)).without_anchors()
        for type, nth, key in (("key.created", 1, keys[0]), ("key.rotated", 0, keys[1])):
            at = told.at(type, nth)
            facts = {"vkey": str(key.verifier), "fingerprint": key.verifier.shown}
            told.events[at] = told.events[at].saying(**facts)
        at = told.at("key.rotated")
        told.events[at] = told.events[at].saying(was=str(keys[0].verifier), consent=keys[0].consent(keys[1].verifier))
        at = told.at("privacy.erased")
        digest = facts_digest(told.events[at].facts)
        assert digest is not None
        told.events[at] = told.events[at].saying(leave=keys[0].leave(digest))
        write_anew(db, told, forger.signers)
    return victim


def bent(told: Past) -> Past:
    told.events[99] = told.events[99].saying(reason="the gates held")
    return told


@pytest.fixture
def with_the_real_keys(victim: Victim) -> Victim:
    return by_who_has_the_keys(victim)


@pytest.fixture(params=[by_who_has_the_keys, by_who_has_none], ids=lambda by: by.__name__)
def forged(request: pytest.FixtureRequest, victim: Victim) -> Victim:
    rewritten: Victim = request.param(victim)
    return rewritten


def test_the_store_alone_does_not_show_that_all_of_it_was_written_anew(forged: Victim) -> None:
    """Whoever owns the store and the key, or the word on which key it is, tells a story that fits."""
    assert verdict(forged).answer == "held"


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_checkpoint_that_somebody_kept_shows_it(forged: Victim, size: int, untouched: Victim) -> None:
    said = verdict(forged, kept=[untouched.notes[SIZES.index(size)]])

    assert any(f"{size}" in fault.about for fault in said.faults), said


def test_what_was_changed_after_the_kept_checkpoint_is_not_shown_by_it(with_the_real_keys: Victim) -> None:
    """A checkpoint speaks for what came before it. The changed event is the 100th, the checkpoint's size is 43."""
    assert verdict(with_the_real_keys, kept=[with_the_real_keys.notes[0]]).answer == "held"


def test_a_key_that_somebody_kept_shows_that_the_log_was_signed_by_another(victim: Victim, untouched: Victim) -> None:
    assert verdict(by_who_has_none(victim), key=untouched.keys[0].verifier).answer == "did not hold"


def test_the_machine_that_signed_remembers_and_signs_no_more(forged: Victim, audit: Audit) -> None:
    assert audit(forged, "verify") == 1
    with pytest.raises((InconsistentTree, KeyUnavailable)):
        forged.seal()


def test_who_owns_the_machine_too_makes_it_forget(with_the_real_keys: Victim, audit: Audit) -> None:
    with_the_real_keys.kept.unlink()

    assert audit(with_the_real_keys, "verify") == 0


def test_what_was_published_shows_it_and_nothing_more_is_published(victim: Victim, tmp_path: Path) -> None:
    place = (tmp_path / "published").as_uri()
    with victim.store() as store:
        publish(store, place, actor="p:publisher")
    with owner(victim.database) as db:
        write_anew(db, bent(past(db)).without_anchors(), victim.signers)

    published = [(f"published at {place}", read_published(place))]
    assert verdict(victim, elsewhere=published).answer == "did not hold"
    with victim.store() as store, pytest.raises(InconsistentTree):
        publish(store, place, actor="p:publisher")


@pytest.mark.usefixtures("stamped")
def test_evidence_of_others_that_is_left_in_place_does_not_fit(victim: Victim) -> None:
    with owner(victim.database) as db:
        write_anew(db, bent(past(db)), victim.signers)

    time_stamps = [fault for fault in verdict(victim).faults if "other bytes" in fault.what]
    assert len(time_stamps) == 2
    assert len(verdict(victim, **victim.trusted).faults) == 4


def test_a_witness_refuses_the_log_that_was_written_anew(with_the_real_keys: Victim) -> None:
    witness = anchors.Witness(with_the_real_keys.witness.vkey, with_the_real_keys.witness.url)

    with with_the_real_keys.store() as store, pytest.raises(InconsistentTree):
        anchors.anchor(store, witness, actor="p:forger")


def test_a_time_stamp_cannot_be_made_for_the_time_before(with_the_real_keys: Victim) -> None:
    """Who demands one gets no answer, then one with a new date: what is older than that, nobody vouches for."""
    victim, demanded = with_the_real_keys, {"tsa_roots": with_the_real_keys.authority.roots}
    assert verdict(victim, **demanded).answer == "could not tell"

    with victim.store() as store:
        anchors.anchor(store, anchors.authority(victim.authority.url, victim.authority.roots), actor="p:forger")

    said = verdict(victim, **demanded)
    assert (said.answer, len(said.held_to)) == ("held", 1)
    assert f"on the checkpoint of size {said.size}" in said.held_to[0]


def test_who_demands_the_word_of_a_witness_gets_no_answer(with_the_real_keys: Victim) -> None:
    demanded = {"witnesses": [with_the_real_keys.witness.vkey]}

    assert verdict(with_the_real_keys, **demanded).answer == "could not tell"


def test_the_log_is_cut_back_to_an_earlier_checkpoint(victim: Victim, audit: Audit) -> None:
    """As if nothing had happened since: every row in every table is a true one."""
    cut_back(victim)

    assert verdict(victim).answer == "held"
    assert verdict(victim, kept=[victim.notes[-1]]).answer == "did not hold"
    assert audit(victim, "verify") == 1
    with pytest.raises(InconsistentTree, match="older copy"):
        continued(victim)


def test_the_end_is_cut_off_and_its_checkpoint_stays(victim: Victim) -> None:
    with owner(victim.database) as db:
        for table, column in (
            ("anchor", "event_seq"),
            ("leaf", "event_seq"),
            ("payload", "event_seq"),
            ("event", "seq"),
        ):
            db.execute(f"DELETE FROM {table} WHERE {column} > ?", (SIZES[4] - 10,))

    assert f"checkpoint of size {SIZES[4]}: the tree has {SIZES[4] - 10} leaves: the log was cut back" in faults(victim)


def test_the_last_checkpoint_is_taken_back(victim: Victim) -> None:
    """What it sealed is open again, and can be changed, unless somebody has seen the checkpoint."""
    with owner(victim.database) as db:
        told = past(db)
        del told.events[told.at("checkpoint.signed", 4)], told.notes[SIZES[4]]
        told.events[400] = told.events[400].saying(reason="the gates held")
        write_anew(db, told, signers=None)

    assert verdict(victim).answer == "held"
    assert verdict(victim, kept=[victim.notes[-1]]).answer == "did not hold"
    with pytest.raises(InconsistentTree):
        victim.seal()


def test_an_older_copy_of_the_store_is_put_back(victim: Victim, audit: Audit, tmp_path: Path) -> None:
    older = victim.copied(tmp_path / "older")
    newest = continued(victim)
    victim = victim.put_back(older)

    assert verdict(victim).answer == "held"
    assert verdict(victim, kept=[newest]).answer == "did not hold"
    assert audit(victim, "verify") == 1
    with pytest.raises(InconsistentTree, match="older copy"):
        victim.seal()


def test_two_auditors_are_shown_two_logs(victim: Victim, tmp_path: Path) -> None:
    """Each of them is signed with the real key and fits together; they part after what both auditors know."""
    other = victim.copied(tmp_path / "other")
    one, two = continued(victim), continued(other)

    assert verdict(victim).answer == verdict(other).answer == "held"
    assert verdict(victim, kept=[one]).answer == verdict(other, kept=[two]).answer == "held"
    assert verdict(victim, kept=[two]).answer == verdict(other, kept=[one]).answer == "did not hold"


def test_a_witness_sees_one_of_two_logs(victim: Victim, tmp_path: Path) -> None:
    other = victim.copied(tmp_path / "other")
    with witnessing(tmp_path / "witness.json") as seeing:
        for key in victim.keys:
            seeing.knows(key.verifier)
        for shown in (victim, other):
            continued(shown)
        with victim.store() as store:
            anchors.anchor(store, anchors.Witness(seeing.vkey, seeing.url), actor="p:auditor")
        with other.store() as store, pytest.raises(InconsistentTree):
            anchors.anchor(store, anchors.Witness(seeing.vkey, seeing.url), actor="p:auditor")


def test_a_resumed_reading_rests_on_what_was_read_before(victim: Victim) -> None:
    with owner(victim.database) as db:
        db.execute("UPDATE event SET severity = 'debug' WHERE seq = 99")

    resumed = verdict(victim, since=SIZES[1])
    assert (resumed.answer, resumed.since) == ("held", SIZES[1])
    assert verdict(victim).answer == "did not hold"


def continued(victim: Victim) -> str:
    """The checkpoint after a day more, which is another one for each copy of the log."""
    with victim.store() as store:
        append(store, work(2))
    return victim.seal()


def cut_back(victim: Victim) -> None:
    size = SIZES[3]
    with owner(victim.database) as db:
        db.execute("DELETE FROM anchor WHERE event_seq > ?", (size + 1,))
        db.execute("DELETE FROM checkpoint WHERE size > ?", (size,))
        db.execute("DELETE FROM node WHERE idx >= ?", (size // 256,))
        db.execute("DELETE FROM leaf WHERE idx >= ?", (size,))
        db.execute("DELETE FROM payload WHERE event_seq > ?", (size + 1,))
        db.execute("DELETE FROM event WHERE seq > ?", (size + 1,))
