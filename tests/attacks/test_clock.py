"""The clock is moved. All of it is sealed as it was written, so only who holds the key can have done it."""

from datetime import datetime, timedelta

from audit.events.canonical import timestamp
from audit.events.event import uuid7
from audit.ledger import anchors
from tests.attacks.forging import owner, past, write_anew
from tests.attacks.victim import EVENTS, SIZES, Victim, faults, verdict

A_YEAR = timedelta(days=365)


def moved(at: str, by: timedelta) -> str:
    return timestamp(datetime.fromisoformat(at) + by)


def test_an_event_says_it_was_recorded_after_the_checkpoint_that_seals_it(victim: Victim) -> None:
    with owner(victim.database) as db:
        told = past(db)
        event = told.events[99]
        told.events[99] = event.with_(recorded_at=moved(event.columns["recorded_at"], A_YEAR))
        write_anew(db, told.without_anchors(), victim.signers)

    (fault,) = verdict(victim).faults
    assert ("leaf 99" in fault.about, "recorded_at" in fault.what) == (True, True)


def test_a_checkpoint_says_it_was_signed_before_the_one_before_it(victim: Victim) -> None:
    with owner(victim.database) as db:
        told = past(db).without_anchors()
        at = told.at("checkpoint.signed", 2)
        was = told.events[at].columns
        told.events[at] = told.events[at].with_(
            time=moved(was["time"], -A_YEAR), recorded_at=moved(was["recorded_at"], -A_YEAR)
        )
        write_anew(db, told, victim.signers)

    assert "the clock was moved back" in faults(victim)


def test_the_time_of_the_last_checkpoint_is_no_time(victim: Victim) -> None:
    """What tells of the last one is itself not sealed yet."""
    with owner(victim.database) as db:
        told = past(db)
        at = told.at("checkpoint.signed", len(SIZES) - 1)
        told.events[at] = told.events[at].with_(time="soon")
        write_anew(db, told, signers=None)

    assert "time is 'soon'" in faults(victim)


def test_a_machines_clock_runs_a_year_ahead(victim: Victim) -> None:
    """Its own times fit together; the authority's does not fit to them."""
    with owner(victim.database) as db:
        told = past(db)
        told.events.append(told.events[told.at("checkpoint.signed", len(SIZES) - 1)].with_(id=uuid7()))
        for at in (SIZES[-1] + 1, len(told.events) - 1):  # the first event that was not sealed, and what seals it now
            was = told.events[at].columns
            ahead = {name: moved(was[name], A_YEAR) for name in ("time", "recorded_at")}
            told.events[at] = told.events[at].with_(**ahead)
        write_anew(db, told, victim.signers)
    assert verdict(victim).answer == "held"

    with victim.store() as store:
        anchors.anchor(store, anchors.authority(victim.authority.url, victim.authority.roots), actor="p:auditor")

    said = faults(victim, tsa_roots=victim.authority.roots)
    assert f"checkpoint of size {EVENTS}: was signed at" in said
    assert "a checkpoint that seals it was stamped by an authority at" in said


def test_an_event_may_tell_of_an_earlier_time(victim: Victim) -> None:
    """One that waited in the spool does. Whether what is written is true, nobody can say."""
    with owner(victim.database) as db:
        told = past(db).without_anchors()
        event = told.events[99]
        told.events[99] = event.with_(time=moved(event.columns["time"], -A_YEAR))
        write_anew(db, told, victim.signers)

    assert verdict(victim).answer == "held"
