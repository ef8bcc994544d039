"""What waits in the spool comes home once and in its order, whatever is wrong with the spool, the store or an event."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from audit.errors import StoreUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import KeyFacts
from audit.recording import recorder, spool
from audit.recording.initialise import initialise
from audit.recording.losses import Losses
from audit.settings import settings
from audit.store import read
from audit.store.engine import close_stores, make_store, open_store
from tests.audit.recording.conftest import break_store, mend_store
from tests.faults.databases import Server, folder, server
from tests.postgres import empty_database_url, postgres_server, postgres_url  # noqa: F401

NO_DATABASE = b"not a database, but long enough to look like one" * 20


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0)


def an_event(id: str | None = None) -> Event:
    facts = KeyFacts(purpose="test", fingerprint="f")
    return make_event("key.created", facts, source="test", subject="key/test", actor="p:test", id=id)


def poison() -> Event:
    """No store ever takes it: its columns say what its envelope does not."""
    return replace(an_event(), severity="critical")


def waits(*events: Event) -> None:
    spool.put(settings().spool_path, events)


def ids() -> list[str]:
    with open_store().reading() as connection:
        return [id for (id,) in connection.exec_driver_sql("SELECT id FROM event ORDER BY seq")]


def of_type(type: str) -> list[dict[str, object]]:
    return [event.payload for event in read.events(open_store(), types=(type,))]


def test_an_event_that_the_store_refuses_for_ever_blocks_none_behind_it(home: Path) -> None:
    initialise()
    good = [an_event() for _ in range(3)]
    waits(good[0], bad := poison(), *good[1:])

    recorder.append(last := an_event())

    assert [id for id in ids() if id in {event.id for event in [*good, last]}] == [event.id for event in [*good, last]]
    (kept,) = spool.contents(settings().spool_path)[0].refused
    assert (kept.id, kept.type) == (bad.id, "key.created")
    assert "columns and envelope differ" in kept.reason


def test_what_the_store_refuses_when_it_is_made_is_kept_and_does_not_make_the_store_rest(home: Path) -> None:
    initialise()
    recorder.append(bad := poison())

    recorder.append(after := an_event())

    assert after.id in ids()
    assert [refused.id for file in spool.contents(settings().spool_path) for refused in file.refused] == [bad.id]


def test_of_many_recorded_at_once_one_that_is_refused_keeps_none_out(home: Path) -> None:
    initialise()
    good = [an_event() for _ in range(3)]

    recorder.append_all([good[0], poison(), *good[1:]])

    assert {event.id for event in good} <= set(ids())
    assert spool.waiting(settings().spool_path) == 1


def test_what_was_refused_goes_home_when_the_store_takes_it_again(home: Path) -> None:
    initialise()
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'no'); END")
    recorder.append(event := an_event())
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("DROP TRIGGER no")

    assert event.id not in ids()
    recorder.flow_ended()

    assert event.id in ids()
    assert spool.waiting(settings().spool_path) == 0


@pytest.mark.parametrize("theirs", [False, True], ids=["damaged", "another application's"])
def test_a_spool_file_that_cannot_be_used_is_left_as_it_is_and_another_takes_its_place(
    home: Path, theirs: bool, caplog: pytest.LogCaptureFixture
) -> None:
    initialise()
    path = settings().spool_path
    if theirs:
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE orders (id INTEGER)")
    else:
        path.write_bytes(NO_DATABASE)
    before = path.read_bytes()
    break_store(home)

    recorder.append(event := an_event())
    mend_store(home)
    recorder.append(an_event())

    assert event.id in ids()
    assert path.read_bytes() == before
    assert of_type("store.dropped") == []
    assert "audit spool" in caplog.text  # which says what to do
    assert spool.contents(path)[0].damaged


def test_a_spool_that_is_damaged_in_the_middle_of_a_run_loses_nothing_that_comes_later(home: Path) -> None:
    initialise()
    break_store(home)
    recorder.append(an_event())
    path = settings().spool_path
    spool.spool(path).close()
    path.write_bytes(NO_DATABASE)

    recorder.append(event := an_event())

    mend_store(home)
    recorder.append(an_event())
    assert event.id in ids()


def test_a_spool_file_that_was_taken_away_is_made_anew(home: Path) -> None:
    initialise()
    break_store(home)
    recorder.append(an_event())
    for file in home.glob("spool.db*"):
        file.rename(file.with_name(f"old-{file.name}"))

    recorder.append(event := an_event())

    mend_store(home)
    recorder.append(an_event())
    assert event.id in ids()


def test_a_crash_between_the_store_and_the_spool_doubles_nothing(home: Path) -> None:
    initialise()
    waits(*(events := [an_event() for _ in range(3)]))
    dies = """
import os
from audit.recording import recorder, spool
spool._forget = lambda *_: os._exit(9)
recorder.flush()
"""
    assert subprocess.run([sys.executable, "-c", dies], timeout=120).returncode == 9
    assert {event.id for event in events} <= set(ids())
    assert spool.waiting(settings().spool_path) == 3

    recorder.append(an_event())

    assert [ids().count(event.id) for event in events] == [1, 1, 1]
    assert spool.waiting(settings().spool_path) == 0
    assert of_type("store.replayed") == []  # by then nothing was new


def test_processes_that_replay_at_once_double_nothing_and_keep_the_order(home: Path) -> None:
    initialise()
    waits(*(events := [an_event() for _ in range(1_200)]))
    code = "from audit.recording import recorder; print('ready', flush=True); input(); print(recorder.flush().moved)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    replaying = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for process in replaying:
        assert process.stdout.readline() == "ready\n"

    moved = [int(process.communicate("\n", timeout=120)[0]) for process in replaying]

    ours = {event.id for event in events}
    assert [id for id in ids() if id in ours] == [event.id for event in events]
    assert sum(moved) == len(events)
    assert sum(int(str(told["count"])) for told in of_type("store.replayed")) == len(events)
    assert spool.waiting(settings().spool_path) == 0


def test_while_what_waits_cannot_come_home_what_follows_waits_behind_it(home: Path) -> None:
    recorder.append(an_event())
    break_store(home)
    recorder.append(first := an_event())
    with sqlite3.connect(home / "audit.db") as database:  # mended, but for what waits
        database.execute("ALTER TABLE elsewhere RENAME TO payload")
        quiet = f"WHEN NEW.id = '{first.id}' BEGIN SELECT RAISE(IGNORE); END"
        database.execute(f"CREATE TRIGGER quiet BEFORE INSERT ON event {quiet}")

    recorder.append(second := an_event())

    assert second.id not in ids()
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("DROP TRIGGER quiet")
    recorder.append(third := an_event())
    assert ids()[-3:] != [third.id]
    assert [id for id in ids() if id in {first.id, second.id, third.id}] == [first.id, second.id, third.id]


def test_what_is_lost_is_told_by_another_process_if_this_one_ends_first(home: Path) -> None:
    initialise()
    recorder.append(an_event())  # while all is well the file for it is made
    lost = """
from audit.recording import recorder
recorder.append(recorder._about("store.spooled", recorder.StoreFacts()))
import os; os._exit(0)
"""
    break_store(home)
    settings().spool_path.unlink(missing_ok=True)
    settings().spool_path.mkdir()
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", lost], timeout=120).returncode == 0
    assert Losses(settings().lost_path).count() == 2
    settings().spool_path.rmdir()
    mend_store(home)

    assert subprocess.run([sys.executable, "-c", lost], timeout=120).returncode == 0

    assert of_type("store.dropped") == [{"count": 2}]
    assert Losses(settings().lost_path).count() == 0


def test_a_process_that_ends_tells_what_it_lost_if_the_store_is_back(home: Path) -> None:
    initialise()
    loses = """
import sqlite3, sys
from tests.audit.recording.conftest import mend_store
from pathlib import Path
from audit.recording import recorder
recorder.append(recorder._about("store.spooled", recorder.StoreFacts()))
mend_store(Path(sys.argv[1]))
Path(sys.argv[1], "spool.db").rmdir()
"""
    break_store(home)
    settings().spool_path.mkdir()

    told = subprocess.run(
        [sys.executable, "-c", loses, home],
        timeout=120,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"PYTHONPATH": "."},
    )

    assert told.returncode == 0
    assert of_type("store.dropped") == [{"count": 1}]


def test_losses_that_are_not_told_stay(tmp_path: Path) -> None:
    losses = Losses(tmp_path / "lost")
    losses.prepare()
    losses.add()
    with pytest.raises(StoreUnavailable), losses.telling():
        raise StoreUnavailable("away")

    assert Losses(tmp_path / "lost").count() == 1
    with losses.telling() as told, Losses(tmp_path / "lost").telling() as meanwhile:
        assert (told, meanwhile) == (1, 0)  # nobody tells the same twice
    assert losses.count() == 0


def test_losses_that_cannot_be_written_are_kept_in_mind(tmp_path: Path) -> None:
    losses = Losses(tmp_path / "nowhere" / "lost")
    losses.add()
    losses.add()
    assert losses.count() == 2

    losses.path.parent.mkdir()
    losses.add()

    assert (losses.count(), Losses(losses.path).count()) == (3, 3)


@pytest.fixture
def own_server() -> Iterator[Server]:
    with folder() as at, server(at) as made:
        yield made


@pytest.mark.slow
def test_a_server_that_is_started_again_loses_nothing_and_is_used_again_soon(
    home: Path, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the waits as they are. What comes meanwhile waits in the spool; a second later the server is asked again."""
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 15.0)
    monkeypatch.setenv("AUDIT_DATABASE_URL", own_server.make_database("audit"))
    settings.cache_clear()
    close_stores()
    make_store()
    recorder.append(first := an_event())

    own_server.stop()
    recorder.append(meanwhile := an_event())
    recorder.append(and_then := an_event())
    assert spool.waiting(settings().spool_path) == 3  # store.spooled among them
    own_server.start()
    assert recorder._recorder().rests_until - time.monotonic() < 3  # for it said no at once
    recorder._recorder().rests_until = 0  # which is then
    recorder.append(last := an_event())

    ours = [event.id for event in (first, meanwhile, and_then, last)]
    assert [id for id in ids() if id in ours] == ours
    assert spool.waiting(settings().spool_path) == 0
    close_stores()
