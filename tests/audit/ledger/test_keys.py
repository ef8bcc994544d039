"""The log's key: made once, found where it was put, handed over whole, never replaced unasked and never shown."""

import multiprocessing
import os
import random
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.errors import KeyUnavailable, UserError
from audit.events.event import Event, make_event
from audit.events.payloads import KeyFacts, StoreFacts
from audit.ledger.keys import (
    FILE,
    NEXT,
    current_key,
    keys_on_record,
    log_key,
    new_key,
    put_next,
    read_log_key,
    written,
)
from audit.ledger.note import SigningKey, VerifierKey, parse_note, verified
from audit.ledger.sealer import BATCH, KEPT, Sealed, seal
from audit.privacy.mask_key import create_mask_key
from audit.recording import recorder
from audit.recording.initialise import initialise
from audit.recording.sealing import given_key, recorded_key, replace_lost, rotate, seal_all, signing_key
from audit.settings import settings
from audit.store import ledger, read
from audit.store.append import append
from audit.store.engine import HEAD, close_stores, open_store, opened
from tests.stores import in_a_file, rows

ORIGIN = "acme.example/fraud"
ACTOR = "p:7c1e0f" + "0" * 58
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def keys(home: Path) -> Path:
    """The folder of a log's keys."""
    close_stores()
    initialise(ORIGIN)
    return home / "keys"


@pytest.fixture
def elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SigningKey]:
    """A key that comes from the environment; the home is still empty."""
    close_stores()
    key = new_key(ORIGIN)
    monkeypatch.setenv("AUDIT_LOG_KEY", key.encoded)
    settings.cache_clear()
    yield key


def seal_now() -> list[Sealed]:
    key = signing_key(settings())
    assert key is not None
    return list(seal_all(settings(), key, tell=lambda event: None))


def something() -> None:
    append(open_store(), [make_event("store.spooled", StoreFacts(), source="t", subject="store", actor=ACTOR)])


def told(*types: str) -> list[read.Recorded]:
    return list(read.events(open_store(), types=types, newest_first=False))


def signers(note: str) -> list[VerifierKey]:
    with open_store().reading() as connection:
        return verified(parse_note(note), keys_on_record(ledger.key_events(connection)))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- made


def test_a_new_log_gets_a_key_for_its_owner_alone(keys: Path) -> None:
    key = read_log_key(keys)

    assert (mode(keys), mode(keys / FILE)) == (0o700, 0o600)
    assert sorted(path.name for path in keys.iterdir()) == [FILE, "mask.key"]
    assert recorded_key(settings()) == key.verifier
    assert (keys / FILE).read_text() == f"{key.encoded}\n"


@in_a_file  # PostgreSQL came later
def test_a_store_of_before_there_was_a_log_gets_its_key_and_is_sealed_from_the_first_event(home: Path) -> None:
    close_stores()
    first = a_store_of_schema_0001(home)
    with pytest.raises(KeyUnavailable, match="key on record is none"):
        seal(open_store(), new_key(ORIGIN), actor=ACTOR)

    made = initialise()

    assert made.origin == ORIGIN
    assert made.log_key == read_log_key(home / "keys").verifier.shown
    (sealed,) = seal_now()
    assert sealed.events == len(first) + 1
    with open_store().reading() as connection:
        assert [id for _, _, id in ledger.entries(connection, 0, len(first))] == [event.id for event in first]
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == HEAD
    assert read.guards_in_place(open_store())


def a_store_of_schema_0001(home: Path) -> list[Event]:
    """As the release before made it, with a mask key, an origin and some events."""
    from alembic import command

    from audit.privacy.mask_key import fingerprint
    from audit.store.migrations import config

    home.mkdir()
    store = opened(home / "audit.db")
    with store.engine.connect().execution_options(writes=True) as connection, connection.begin():
        settings_of = config()
        settings_of.attributes["connection"] = connection
        command.upgrade(settings_of, "0001")
    mask = KeyFacts(purpose="mask", fingerprint=fingerprint(create_mask_key(home / "keys")))
    facts = [("key.created", mask), ("store.opened", StoreFacts(origin=ORIGIN))] + [("store.spooled", StoreFacts())] * 9
    events = [make_event(type, fact, source="t", subject="store", actor=ACTOR) for type, fact in facts]
    append(store, events)
    store.engine.dispose()
    return events


def test_a_key_of_another_log_that_lies_there_is_refused_and_stays(home: Path) -> None:
    close_stores()
    lying = new_key("other.example/log")
    (home / "keys").mkdir(parents=True, mode=0o700)
    put_next(home / "keys", lying)
    (home / "keys" / NEXT).rename(home / "keys" / FILE)

    with pytest.raises(KeyUnavailable, match=r"log\.key is the key of other\.example/log, this log is acme") as refused:
        initialise(ORIGIN)

    assert "\n" not in str(refused.value)
    assert read_log_key(home / "keys") == lying
    assert told("store.opened", "key.created") == []


def test_a_key_that_was_put_there_for_this_log_becomes_its_key(home: Path) -> None:
    close_stores()
    put_next(home / "keys", brought := new_key(ORIGIN))
    (home / "keys" / NEXT).rename(home / "keys" / FILE)

    assert initialise(ORIGIN).log_key == brought.verifier.shown
    assert read_log_key(home / "keys") == brought


def test_a_first_start_that_died_before_its_key_was_on_record_is_made_up_for(home: Path) -> None:
    close_stores()
    put_next(home / "keys", new_key("prefect-audit.local/of-the-dead"))

    made = initialise()

    assert made.origin != "prefect-audit.local/of-the-dead"
    assert signing_key(settings()) == read_log_key(home / "keys")
    assert not (home / "keys" / NEXT).exists()


@pytest.mark.parametrize("open_to", [0o644, 0o660, 0o604])
def test_a_key_that_others_can_read_is_not_used(keys: Path, open_to: int) -> None:
    (keys / FILE).chmod(open_to)

    with pytest.raises(KeyUnavailable, match=r"is open to other users\. Run `chmod 600"):
        signing_key(settings())


@pytest.mark.parametrize("content", ["", "PRIVATE+KEY+", "hunter2", "PRIVATE+KEY+a+00000000+AAAA", "\x00" * 90])
def test_what_is_no_key_is_named_and_never_shown(keys: Path, content: str) -> None:
    (keys / FILE).write_text(content)

    with pytest.raises(KeyUnavailable, match=r"log\.key: .*damaged") as refused:
        signing_key(settings())

    assert "hunter2" not in str(refused.value)


# --- given from elsewhere


def test_a_key_from_the_environment_names_the_log_and_no_file_is_made(elsewhere: SigningKey, home: Path) -> None:
    made = initialise()

    assert (made.origin, made.log_key) == (ORIGIN, elsewhere.verifier.shown)
    assert [path.name for path in (home / "keys").iterdir()] == ["mask.key"]
    assert signing_key(settings()) == elsewhere
    assert seal_now()


@pytest.mark.usefixtures("elsewhere")
def test_a_key_from_the_environment_for_another_origin_is_refused(home: Path) -> None:
    with pytest.raises(KeyUnavailable, match=f"AUDIT_LOG_KEY is the key of {ORIGIN}, this log is other.example/log"):
        initialise("other.example/log")

    assert told("store.opened") == []


def test_a_key_from_the_environment_goes_before_the_file(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    another = new_key(ORIGIN)
    monkeypatch.setenv("AUDIT_LOG_KEY", another.encoded)
    settings.cache_clear()

    assert signing_key(settings()) == another
    with pytest.raises(KeyUnavailable, match=r"The log's key on record is .* this process holds"):
        seal_now()


@pytest.mark.slow  # for the server alone
def test_a_key_from_a_prefect_block(home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.blocks.system import Secret

    close_stores()
    key = new_key(ORIGIN)
    Secret(value=key.encoded).save("log-key", overwrite=True, _sync=True)  # type: ignore[call-arg]
    monkeypatch.setenv("AUDIT_LOG_KEY_BLOCK", "log-key")
    settings.cache_clear()

    assert initialise().log_key == key.verifier.shown
    assert signing_key(settings()) == key
    assert not (home / "keys" / FILE).exists()


def test_a_block_that_is_not_there_or_holds_no_key_is_one_line(
    keys: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.blocks.system import Secret

    Secret(value="hunter2").save("no-key", overwrite=True, _sync=True)  # type: ignore[call-arg]
    for block, words in (("absent", "cannot be loaded"), ("no-key", "damaged")):
        monkeypatch.setenv("AUDIT_LOG_KEY_BLOCK", block)
        settings.cache_clear()
        with pytest.raises(KeyUnavailable, match=f"the Prefect block {block}.*{words}") as refused:
            given_key(settings())
        assert "\n" not in str(refused.value)
        assert "hunter2" not in str(refused.value)


def test_a_key_is_in_no_repr_and_no_event(elsewhere: SigningKey) -> None:
    initialise()
    something()
    seal_now()
    secret = elsewhere.encoded.split("+", 4)[4]  # which may hold a plus itself

    shown = [repr(settings()), repr(elsewhere), repr(given_key(settings())), *(repr(event) for event in told())]

    assert not any(secret in one or elsewhere.seed.hex() in one for one in shown)


# --- handed over


def test_a_rotation_is_on_record_and_sealed_by_both_keys(keys: Path) -> None:
    old = read_log_key(keys)

    done = rotate(settings(), tell=lambda event: None)

    new = read_log_key(keys)
    assert new != old
    assert (new.name, recorded_key(settings())) == (ORIGIN, new.verifier)
    (event,) = told("key.rotated")
    assert (event.payload["vkey"], event.payload["was"]) == (str(new.verifier), str(old.verifier))
    assert signers(done.note) == [new.verifier, old.verifier]
    assert not (keys / NEXT).exists()
    assert mode(keys / FILE) == 0o600
    something()
    assert signers(seal_now()[-1].note) == [new.verifier]


def test_what_waited_is_sealed_before_the_key_is_handed_over(keys: Path) -> None:
    old = read_log_key(keys)
    something()

    done = rotate(settings(), tell=lambda event: None)

    with open_store().reading() as connection:
        notes = connection.exec_driver_sql("SELECT note FROM checkpoint ORDER BY size").scalars().all()
    assert [len(signers(note)) for note in notes] == [1, 2]
    assert done.events == 2  # the word about the checkpoint before, and the handing over
    assert signers(notes[0]) == [old.verifier]


def test_a_rotation_that_died_before_it_was_on_record_never_was(keys: Path) -> None:
    old = read_log_key(keys)
    put_next(keys, new_key(ORIGIN))

    assert signing_key(settings()) == old
    assert seal_now()
    rotate(settings(), tell=lambda event: None)
    assert read_log_key(keys).verifier == recorded_key(settings()) != old.verifier


def test_a_rotation_that_died_once_it_was_on_record_is_brought_to_its_end(keys: Path) -> None:
    old = (keys / FILE).read_bytes()
    rotate(settings(), tell=lambda event: None)
    (keys / FILE).rename(keys / NEXT)
    (keys / FILE).write_bytes(old)
    (keys / FILE).chmod(0o600)

    found = signing_key(settings())

    assert found is not None
    assert found.verifier == recorded_key(settings())
    assert (keys / FILE).read_bytes() == written(found)
    assert not (keys / NEXT).exists()


def test_while_a_key_takes_its_place_no_other_one_is_put_in_its_way(keys: Path) -> None:
    put_next(keys, new := new_key(ORIGIN))
    later = new_key(ORIGIN)
    another = threading.Thread(target=put_next, args=(keys, later))

    def recorded() -> VerifierKey:
        another.start()
        another.join(0.3)  # it has to wait
        return new.verifier

    assert log_key(keys, recorded) == new
    another.join(10)
    assert read_log_key(keys) == new
    assert (keys / NEXT).read_bytes() == written(later)


def rotate_for_ever() -> None:
    while True:
        rotate(settings(), tell=lambda event: None)


@pytest.mark.parametrize("kills", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_whenever_a_rotation_is_killed_the_key_on_record_is_here(keys: Path, kills: int) -> None:
    chance = random.Random(kills)
    for _ in range(kills):
        process = FORK.Process(target=rotate_for_ever)
        process.start()
        time.sleep(chance.uniform(0.05, 0.5))  # the first rotation of a process may take a quarter of a second
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()

        found = signing_key(settings())
        assert found is not None
        assert found.verifier == recorded_key(settings())
        something()
        assert seal_now()

    rotations = told("key.rotated")
    assert len(rotations) > 1
    for event in rotations:
        sealing = "SELECT note FROM checkpoint WHERE size > (SELECT idx FROM leaf WHERE event_seq = ?) ORDER BY size"
        note, *_ = rows(sealing, event.seq)
        assert {str(key) for key in signers(note[0])} == {event.payload["vkey"], event.payload["was"]}


def test_of_two_that_rotate_at_once_the_key_on_record_is_the_one_that_is_here(keys: Path) -> None:
    processes = [FORK.Process(target=rotate, args=(settings(),), kwargs={"tell": print}) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)

    assert [process.exitcode for process in processes].count(0) >= 1
    assert read_log_key(keys).verifier == recorded_key(settings())
    something()
    assert seal_now()


def test_who_is_overtaken_by_another_rotation_changes_nothing(keys: Path) -> None:
    something()

    def overtaken(event: Event) -> None:
        if event.type == "checkpoint.signed":  # what waited is sealed, the new key not yet on record
            rotate(settings(), tell=lambda event: None)

    with pytest.raises(KeyUnavailable, match="The log's key on record is"):
        rotate(settings(), tell=overtaken)

    assert len(told("key.rotated")) == 1
    assert read_log_key(keys).verifier == recorded_key(settings())


def test_a_key_from_elsewhere_is_rotated_into_a_new_file(elsewhere: SigningKey, tmp_path: Path) -> None:
    initialise()
    with pytest.raises(UserError, match=r"comes from AUDIT_LOG_KEY, which is not changed from here\..*--to FILE"):
        rotate(settings(), tell=lambda event: None)

    done = rotate(settings(), to=tmp_path / "new.key", tell=lambda event: None)

    assert mode(tmp_path / "new.key") == 0o600
    assert len(signers(done.note)) == 2
    with pytest.raises(KeyUnavailable, match="The log's key on record is"):
        something()
        seal_now()


@pytest.mark.usefixtures("elsewhere")
def test_a_new_key_overwrites_no_file(tmp_path: Path) -> None:
    initialise()
    (tmp_path / "letter.txt").write_text("Dear Jane")

    with pytest.raises(UserError, match=r"letter\.txt is there already"):
        rotate(settings(), to=tmp_path / "letter.txt", tell=lambda event: None)

    assert (tmp_path / "letter.txt").read_text() == "Dear Jane"
    assert told("key.rotated") == []
    something()
    assert seal_now()


# --- lost


def test_a_lost_key_is_not_replaced_unasked_and_keeps_nobody_from_recording(keys: Path) -> None:
    (keys / FILE).unlink()

    assert not initialise().made
    recorder.append(make_event("store.spooled", StoreFacts(), source="t", subject="store", actor=ACTOR))
    recorder.flow_ended()

    assert signing_key(settings()) is None
    assert not (keys / FILE).exists()
    assert told("checkpoint.signed") == []


def test_a_log_goes_on_with_a_new_key_once_its_own_is_declared_lost(keys: Path) -> None:
    old = read_log_key(keys)
    seal_now()
    (keys / FILE).unlink()
    for _ in range(3):
        something()

    done = replace_lost(settings(), "the disk is gone", tell=lambda event: None)

    new = read_log_key(keys)
    assert (new.name, recorded_key(settings())) == (ORIGIN, new.verifier)
    lost, created = told("key.lost")[-1], told("key.created")[-1]
    assert (lost.payload["vkey"], lost.payload["reason"]) == (str(old.verifier), "the disk is gone")
    assert created.payload["vkey"] == str(new.verifier)
    assert signers(done.note) == [new.verifier]
    assert done.events == 6  # with the word about the checkpoint before
    something()
    assert signers(seal_now()[-1].note) == [new.verifier]


def test_a_new_key_seals_all_that_the_lost_one_left_under_one_checkpoint(keys: Path) -> None:
    (keys / FILE).unlink()
    many = (make_event("store.spooled", StoreFacts(), source="t", subject="store", actor=ACTOR) for _ in range(BATCH))
    append(open_store(), list(many))

    done = replace_lost(settings(), "the disk is gone", tell=lambda event: None)

    assert done.events == 3 + BATCH + 2  # the new store's, what came, the loss and the new key
    something()
    assert signers(seal_now()[-1].note) == [read_log_key(keys).verifier]


def test_a_key_that_is_here_is_not_lost(keys: Path) -> None:
    with pytest.raises(UserError, match="is here and works"):
        replace_lost(settings(), "a mistake", tell=lambda event: None)

    assert told("key.lost") == []


def test_another_key_in_its_place_is_not_overwritten(keys: Path) -> None:
    (keys / FILE).write_bytes(other := written(new_key(ORIGIN)))

    with pytest.raises(KeyUnavailable, match="holds another key"):
        replace_lost(settings(), "the disk is gone", tell=lambda event: None)

    assert (keys / FILE).read_bytes() == other


def test_the_key_after_a_loss_may_come_from_elsewhere(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (keys / FILE).unlink()
    monkeypatch.setenv("AUDIT_LOG_KEY", (brought := new_key(ORIGIN)).encoded)
    settings.cache_clear()

    replace_lost(settings(), "the disk is gone", tell=lambda event: None)

    assert recorded_key(settings()) == brought.verifier
    assert sorted(path.name for path in keys.iterdir()) == [KEPT, "mask.key"]


# --- said by somebody who has no key


def said(type: str, key: VerifierKey | None, was: VerifierKey | None = None) -> Event:
    """Words about the log's key as anybody can put them on record."""
    facts = KeyFacts(
        purpose="log", fingerprint="f", vkey=str(key) if key else None, was=str(was) if was else None, reason="so I say"
    )
    return make_event(type, facts, source="prefect-audit/log-key", subject="key/log", actor=ACTOR)


def sayings(own: VerifierKey, other: VerifierKey) -> dict[str, list[Event]]:
    return {
        "created": [said("key.created", other)],
        "rotated": [said("key.rotated", other, own)],
        "lost": [said("key.lost", own)],
        "lost and created": [said("key.lost", own), said("key.created", other)],
        "to itself": [said("key.rotated", own, own)],
        "none": [said("key.rotated", None, own), said("key.created", None), said("key.lost", None)],
    }


@pytest.mark.parametrize("what", ["created", "rotated", "lost", "lost and created", "to itself", "none"])
def test_what_somebody_without_the_key_says_of_keys_is_sealed_and_changes_nothing(keys: Path, what: str) -> None:
    own = read_log_key(keys)
    seal_now()
    append(open_store(), events := sayings(own.verifier, new_key(ORIGIN).verifier)[what])

    assert recorded_key(settings()) == own.verifier
    (done,) = seal_now()
    assert done.events == len(events) + 1
    assert recorded_key(settings()) == own.verifier
    assert initialise().log_key == own.verifier.shown
    with open_store().reading() as connection:
        assert keys_on_record(ledger.key_events(connection)) == [own.verifier]
    rotate(settings(), tell=lambda event: None)
    something()
    assert signers(seal_now()[-1].note) == [read_log_key(keys).verifier] != [own.verifier]


@pytest.mark.parametrize("what", ["created", "rotated", "lost and created"])
def test_who_says_that_the_key_is_his_cannot_seal_with_it(keys: Path, what: str) -> None:
    other = new_key(ORIGIN)
    append(open_store(), sayings(read_log_key(keys).verifier, other.verifier)[what])

    with pytest.raises(KeyUnavailable, match="The log's key on record is"):
        seal(open_store(), other, actor=ACTOR)


def test_a_handing_over_that_the_key_before_did_not_sign_is_none(keys: Path) -> None:
    own, other = read_log_key(keys), new_key(ORIGIN)

    with pytest.raises(KeyUnavailable, match=f"key on record is {own.verifier.shown}".replace("+", r"\+")):
        seal(open_store(), other, actor=ACTOR, announce=lambda _: [said("key.rotated", other.verifier, own.verifier)])

    assert told("key.rotated", "checkpoint.signed") == []
    assert seal_now()


def test_a_loss_goes_to_who_signs_and_not_to_whom_somebody_named_before(keys: Path) -> None:
    own = read_log_key(keys)
    append(open_store(), sayings(own.verifier, new_key(ORIGIN).verifier)["lost and created"])
    (keys / FILE).unlink()

    replace_lost(settings(), "the disk is gone", tell=lambda event: None)

    assert recorded_key(settings()) == read_log_key(keys).verifier
    something()
    assert seal_now()


def test_no_run_can_speak_of_keys_and_checkpoints_as_the_log_does(keys: Path) -> None:
    for type in ("key.rotated", "checkpoint.signed", "store.opened"):
        with pytest.raises(UserError, match=f"{type} is what the record says of itself"):
            recorder.record(type, StoreFacts(), subject="key/log")

    assert told("key.rotated", "checkpoint.signed") == []


def test_a_second_opening_without_an_origin_keeps_nobody_from_recording(keys: Path) -> None:
    append(open_store(), [make_event("store.opened", StoreFacts(), source="t", subject="store", actor=ACTOR)])

    assert initialise().origin == ORIGIN


def test_keys_for_other_purposes_are_not_the_log_s(home: Path) -> None:
    close_stores()
    facts = KeyFacts(purpose="test", fingerprint="f")
    for time_of_it in ("before", "after"):
        append(open_store(), [make_event("key.created", facts, source="t", subject=time_of_it, actor=ACTOR)])
        initialise(ORIGIN)

    assert recorded_key(settings()) == read_log_key(home / "keys").verifier
    assert current_key([]) is None
