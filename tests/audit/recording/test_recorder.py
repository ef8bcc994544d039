"""An event reaches the store, else the spool, else is counted; it is never silently gone."""

import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from audit.errors import AuditUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import KeyFacts, StoreFacts
from audit.recording import recorder, spool
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store import read
from audit.store.append import append as append_to_store
from audit.store.engine import AuditStore, close_stores, open_store
from tests.audit.recording.conftest import break_store, mend_store

KEY = KeyFacts(purpose="test", fingerprint="f")
MADE = 3  # events of a new store: mask key, origin, log key


def an_event() -> Event:
    return make_event("key.created", KEY, source="test", subject="key/test", actor="p:test")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0)


def ids(home: Path) -> list[str]:
    return [row[0] for row in sqlite3.connect(home / "audit.db").execute("SELECT id FROM event ORDER BY seq")]


def of_type(home: Path, type: str) -> list[dict[str, object]]:
    return [event.payload for event in read.events(open_store(), types=(type,))]


def test_the_first_event_makes_store_key_and_origin(home: Path) -> None:
    recorder.append(an_event())

    types = [event.type for event in read.events(open_store(), newest_first=False)]
    assert types == ["key.created", "store.opened", "key.created", "key.created"]  # of mask and log, and the one given
    assert stat.S_IMODE((home / "keys" / "mask.key").stat().st_mode) == 0o600
    assert {event.actor for event in read.events(open_store())} != {"p:unknown"}


def test_an_event_that_the_store_refuses_waits_in_the_spool_with_its_own_salt(home: Path) -> None:
    initialise()
    break_store(home)
    event = an_event()

    recorder.append(event)

    assert spool.waiting(settings().spool_path) == 2  # store.spooled and the event
    mend_store(home)
    recorder.append(an_event())
    (salt,) = (
        sqlite3.connect(home / "audit.db")
        .execute("SELECT salt FROM payload JOIN event ON seq = event_seq WHERE id = ?", (event.id,))
        .fetchone()
    )
    assert salt == event.salt


def test_what_was_spooled_is_replayed_once_and_leaves_the_spool(home: Path) -> None:
    initialise()
    break_store(home)
    spooled = [an_event() for _ in range(3)]
    for event in spooled:
        recorder.append(event)
    mend_store(home)

    recorder.append(last := an_event())
    recorder.append(spooled[0])  # a second copy changes nothing

    found = ids(home)
    assert [found.count(event.id) for event in [*spooled, last]] == [1, 1, 1, 1]
    assert spool.waiting(settings().spool_path) == 0
    assert of_type(home, "store.replayed") == [{"count": 4}]
    assert "elsewhere" in str(of_type(home, "store.spooled")) or "payload" in str(of_type(home, "store.spooled"))


def test_that_the_spool_came_home_is_said_once(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    initialise()
    break_store(home)
    recorder.append(an_event())
    assert settings().spool_path.stat().st_mode & 0o777 == 0o600
    mend_store(home)

    for _ in range(3):
        recorder.append(an_event())

    assert [told.message for told in caplog.records if "came home" in told.message] == [
        "The audit store is there: 2 events came home from the spool."
    ]


def test_a_new_process_brings_home_what_another_spooled(home: Path) -> None:
    initialise()
    append_to_store(spool.spool(settings().spool_path), [left := an_event()])

    recorder.append(an_event())

    assert left.id in ids(home)


def test_replayed_payloads_are_overwritten_in_the_spool_file(home: Path) -> None:
    initialise()
    secret = make_event("store.opened", StoreFacts(reason="findme" * 20), source="t", subject="store", actor="p:t")
    append_to_store(spool.spool(settings().spool_path), [secret])

    recorder.flow_ended()

    spool.spool(settings().spool_path).engine.dispose()  # the last connection checkpoints the log
    assert b"findme" not in b"".join(path.read_bytes() for path in home.glob("spool.db*"))


def test_a_spool_that_cannot_be_read_does_not_keep_events_from_the_store(home: Path) -> None:
    initialise()
    settings().spool_path.write_bytes(b"not a database, but long enough to look like one" * 20)

    recorder.append(event := an_event())

    assert event.id in ids(home)


def test_mode_spool_counts_what_neither_takes_and_tells_when_it_can(home: Path) -> None:
    initialise()
    break_store(home)
    settings().spool_path.mkdir()

    recorder.append(an_event())
    recorder.append(an_event())

    settings().spool_path.rmdir()
    mend_store(home)
    recorder.append(an_event())
    assert of_type(home, "store.dropped") == [{"count": 2}]


def test_mode_strict_raises_where_neither_takes_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_MODE", "strict")
    settings.cache_clear()
    initialise()
    break_store(home)
    settings().spool_path.mkdir()

    with pytest.raises(AuditUnavailable, match="Nothing runs unrecorded"):
        recorder.append(an_event())


def test_a_store_that_failed_is_left_alone_for_a_while(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 1_000)
    monkeypatch.setattr(recorder, "LEAST_REST_SECONDS", 1_000)
    initialise()
    break_store(home)
    recorder.append(an_event())
    mend_store(home)

    recorder.append(event := an_event())

    assert event.id not in ids(home)  # it would have gone in, but each try may block for long


def test_initialising_twice_changes_nothing(home: Path) -> None:
    first = initialise(origin="example.org/log")
    again = initialise()

    assert (first.made, again.made) == (True, False)
    assert first.origin == again.origin == "example.org/log"
    assert read.counts(open_store()).events == MADE


def test_another_mask_key_is_not_taken_silently(home: Path) -> None:
    from audit.errors import KeyUnavailable

    initialise()
    key = home / "keys" / "mask.key"
    key.write_bytes(bytes(32))

    with pytest.raises(KeyUnavailable, match="Put the right key back"):
        initialise()


def test_each_event_is_one_json_line_without_its_payload(home: Path) -> None:
    import json

    recorder.append(event := an_event())

    (line,) = [
        json.loads(text) for text in (home / "logs" / "audit.jsonl").read_text().splitlines() if event.id in text
    ]
    assert {"timestamp", "level", "event", "id", "severity", "subject"} <= set(line)
    assert (line["event"], line["level"]) == ("key.created", "info")
    assert "fingerprint" not in line


def test_a_forked_or_new_process_opens_its_own_store(home: Path) -> None:
    initialise()
    close_stores()

    assert read.counts(open_store()).events == MADE


def test_an_event_spooled_while_another_process_replays_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    initialise()
    where = settings().spool_path
    append_to_store(spool.spool(where), [first := an_event()])
    meanwhile = an_event()

    def append_and_be_overtaken(store: AuditStore, events: list[Event]) -> int:
        monkeypatch.setattr(spool, "append", append_to_store)
        done = append_to_store(store, events)
        spool.replay(where, open_store())  # the other process takes the same batch, and the spool is empty
        append_to_store(spool.spool(where), [meanwhile])  # a third one spools; its row gets the same number
        return done

    monkeypatch.setattr(spool, "append", append_and_be_overtaken)
    spool.replay(where, open_store())

    assert {first.id, meanwhile.id} <= set(ids(home))


def test_processes_that_make_a_home_at_once_agree_on_key_and_origin(home: Path) -> None:
    made = [
        subprocess.Popen(
            [sys.executable, "-c", "from audit.recording.initialise import initialise; print(initialise().origin)"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    origins = {process.communicate(timeout=120)[0] for process in made}

    assert len(origins) == 1
    assert read.counts(open_store()).events == MADE
