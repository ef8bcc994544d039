"""Many append at once; what one of them suffers, the others do not."""

import ctypes
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from audit.errors import StoreBusy, StoreRefused, StoreUnavailable
from audit.events.event import Event, make_event
from audit.events.payloads import StoreFacts
from audit.store import engine, turns
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, make_store, open_store
from audit.store.turns import TURN, Line, Place, Waiter, turn
from tests.stores import as_superuser, in_a_file, on_a_server, rows

THREADS = 8


@pytest.fixture
def store(home: Path) -> AuditStore:
    return make_store()


def an_event(id: str | None = None) -> Event:
    return make_event("store.opened", StoreFacts(origin="here"), source="test", subject="store", actor="p:test", id=id)


def refused_event() -> Event:
    """Its columns say what its envelope does not."""
    from dataclasses import replace

    return replace(an_event(), severity="critical")


def at_once(work: Callable[[int], object], number: int = THREADS) -> list[BaseException]:
    """Have so many threads do `work` with their number; returns what they raised."""
    raised: list[BaseException] = []
    ready = threading.Barrier(number)

    def one(at: int) -> None:
        ready.wait()
        try:
            work(at)
        except BaseException as failed:
            raised.append(failed)

    threads = [threading.Thread(target=one, args=(at,), daemon=True) for at in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads), "somebody hangs"
    return raised


def ids() -> list[str]:
    return [id for (id,) in rows("SELECT id FROM event JOIN payload ON event_seq = seq ORDER BY seq")]


def test_what_threads_append_at_once_is_on_record_once_in_each_ones_order(store: AuditStore) -> None:
    theirs = [[an_event() for _ in range(25)] for _ in range(THREADS)]
    shared = [an_event() for _ in range(5)]

    def work(at: int) -> None:
        assert sum(append(store, [event]) for event in theirs[at]) == 25
        for event in shared:
            append(store, [event])

    assert at_once(work) == []

    found = ids()
    assert sorted(found) == sorted(event.id for events in [*theirs, shared] for event in events)
    for events in theirs:
        places = [found.index(event.id) for event in events]
        assert places == sorted(places)


def test_an_event_that_is_refused_fails_alone_and_not_its_whole_group(store: AuditStore) -> None:
    good = [an_event() for _ in range(THREADS - 1)]

    with the_line_held_up(store):
        raised_by = start([*([event] for event in good), [refused_event()]], store)
    raised = raised_by()

    assert [type(failed) for failed in raised] == [StoreRefused]
    assert "columns and envelope differ" in str(raised[0])
    assert set(ids()) == {event.id for event in good}


def start(batches: Sequence[Sequence[Event]], store: AuditStore) -> Callable[[], list[BaseException]]:
    """Threads that append a batch each, all of which stand in line; call what is returned to wait for them."""
    raised: list[BaseException] = []

    def one(events: Sequence[Event]) -> None:
        try:
            append(store, events)
        except BaseException as failed:
            raised.append(failed)

    threads = [threading.Thread(target=one, args=(events,), daemon=True) for events in batches]
    for thread in threads:
        thread.start()
    until(lambda: len(store.line) == len(threads))

    def wait() -> list[BaseException]:
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads), "somebody hangs"
        return raised

    return wait


@contextmanager
def the_line_held_up(store: AuditStore) -> Iterator[None]:
    """Somebody leads, and does not come to an end."""
    leads, go = threading.Event(), threading.Event()

    def serve(group: Sequence[Waiter]) -> None:
        leads.set()
        go.wait(60)
        for waiter in group:
            waiter.added = 0

    holder = threading.Thread(target=store.line.put, args=([], serve), daemon=True)
    holder.start()
    assert leads.wait(60)
    try:
        yield
    finally:
        go.set()
        holder.join(60)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_those_who_came_meanwhile_share_one_commit(store: AuditStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from audit.store import append as module

    groups: list[int] = []
    serve = module._serve

    def counted(to: AuditStore, group: Sequence[Waiter]) -> None:
        groups.append(len(group))
        serve(to, group)

    with the_line_held_up(store):
        monkeypatch.setattr(module, "_serve", counted)
        wait = start([[an_event()] for _ in range(THREADS)], store)
    assert wait() == []

    assert groups == [THREADS]
    assert len(ids()) == THREADS


def test_a_leader_that_dies_leaves_those_whom_it_served_to_the_next() -> None:
    line, groups, raised = Line(), [], []
    leads, go = threading.Event(), threading.Event()

    def serve(group: Sequence[Waiter]) -> None:
        groups.append(len(group))
        if len(groups) == 1:
            leads.set()
            go.wait(60)
        if len(groups) == 2:
            raise KeyboardInterrupt
        for waiter in group:
            waiter.added = 1

    def put() -> None:
        try:
            line.put([an_event()], serve)
        except KeyboardInterrupt as interrupted:
            raised.append(interrupted)

    threads = [threading.Thread(target=put, daemon=True) for _ in range(5)]
    for number, thread in enumerate(threads):
        thread.start()
        assert leads.wait(60)
        until(lambda expected=number: len(line) == expected)  # type: ignore[misc]
    go.set()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads), "somebody hangs"
    assert groups == [1, 4, 3]  # four in the group whose leader dies, whose other three are served by the next
    assert len(raised) == 1


def test_threads_that_are_interrupted_anywhere_leave_nobody_hanging(
    store: AuditStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Prefect's time-outs do it in threads; each event that was reported as written is on record."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # pytest's own could be struck, and fail the test
    written: list[str] = []
    chance, stop = random.Random(4), threading.Event()

    class Struck(Exception):
        pass

    def work() -> None:
        try:
            while len(written) < 200:
                with suppress(Struck):
                    append(store, [event := an_event()])
                    written.append(event.id)
        except Struck:  # outside of the append
            return

    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    struck = 0
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers) and struck < 400:
        victim = chance.choice(workers)
        if victim.ident and victim.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(victim.ident), ctypes.py_object(Struck))
            struck += 1
        stop.wait(chance.random() / 200)
    for worker in workers:
        worker.join(timeout=60)

    assert not any(worker.is_alive() for worker in workers), "somebody hangs"
    assert struck
    assert set(written) <= set(ids())
    assert append(store, [an_event()]) == 1


def test_a_leader_that_ends_before_it_hands_over_is_replaced_and_may_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if an interruption struck between any two of its last steps."""
    monkeypatch.setattr(turns, "LOOK_SECONDS", 0.05)
    line, done = Line(), []
    leads, go = threading.Event(), threading.Event()

    def struck(_: Sequence[Waiter]) -> None:
        vars(line).pop("_surely_leave")
        raise KeyboardInterrupt

    vars(line)["_surely_leave"] = struck

    def serve(group: Sequence[Waiter]) -> None:
        leads.set()
        go.wait(60)
        for waiter in group:
            waiter.added = 1

    def put() -> None:
        with suppress(KeyboardInterrupt):
            done.append(line.put([an_event()], serve))
        done.append(line.put([an_event()], serve))

    threads = [threading.Thread(target=put, daemon=True) for _ in range(4)]
    threads[0].start()
    assert leads.wait(60)
    for thread in threads[1:]:
        thread.start()
    until(lambda: len(line) == 3)
    go.set()
    for thread in threads:
        thread.join(60)

    assert not any(thread.is_alive() for thread in threads), "somebody hangs"
    assert done == [1] * 7


def test_a_turn_that_nobody_gave_back_is_given_back_with_its_place(tmp_path: Path) -> None:
    mine, other = Place(tmp_path / "x"), Place(tmp_path / "x")
    assert mine.reached_within(0)
    assert mine.reached_within(0), "who comes back to it has it"
    assert not other.reached_within(0)

    del mine

    assert other.reached_within(60)


def test_a_signal_handler_that_appends_in_the_middle_of_an_append_does_not_hang(store: AuditStore) -> None:
    refused: list[StoreBusy] = []

    def serve(group: Sequence[Waiter]) -> None:
        signal.raise_signal(signal.SIGUSR1)
        group[0].added = 1

    def handle(_signal: int, _frame: object) -> None:
        try:
            append(store, [an_event()])
        except StoreBusy as busy:
            refused.append(busy)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        assert store.line.put([an_event()], serve) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(refused) == 1


def test_a_fork_appends_through_a_connection_of_its_own_whoever_led_when_it_was_made(store: AuditStore) -> None:
    append(store, [first := an_event()])
    of_the_child = an_event()

    with the_line_held_up(store):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # it would wait for a leader who is not there
            try:
                append(store, [of_the_child])
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    assert append(store, [last := an_event()]) == 1
    assert ids() == [first.id, of_the_child.id, last.id]


@in_a_file
def test_a_process_that_was_stopped_while_it_had_the_turn_holds_nobody_up_for_long(
    store: AuditStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.2)
    holds = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", holds, f"{home / 'audit.db'}{TURN}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    append(store, [an_event()])  # the file beside it is there
    assert holder.stdout and holder.stdin
    if holder.stdout.readline() != "held\n":
        raise AssertionError("no lock")

    began = time.monotonic()
    assert append(store, [an_event()]) == 1
    assert time.monotonic() - began < 20

    holder.communicate("\n", timeout=60)
    began = time.monotonic()
    assert append(store, [an_event()]) == 1  # and those who gave up their place do not keep it
    assert time.monotonic() - began < 0.2


@in_a_file
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_lies_in_the_place_of_the_file_for_turns_keeps_nobody_from_appending(
    store: AuditStore, home: Path, make: Callable[[Path], None]
) -> None:
    beside = home / f"audit.db{TURN}"
    beside.unlink(missing_ok=True)
    make(beside)

    assert append(store, [an_event()]) == 1


def test_the_turn_goes_to_one_after_the_other(tmp_path: Path) -> None:
    count = 0

    def work(_: int) -> None:
        nonlocal count
        place = Place(tmp_path / "x")
        for _ in range(20):
            with turn(place, 60):
                found = count
                os.sched_yield()
                count = found + 1

    assert at_once(work) == []
    assert count == 20 * THREADS


@in_a_file
def test_nothing_is_written_into_a_file_that_was_moved_away(store: AuditStore, home: Path) -> None:
    append(store, [an_event()])
    for file in home.glob("audit.db*"):
        file.rename(file.with_name(file.name.replace("audit", "old")))

    with pytest.raises(StoreUnavailable):
        append(store, [an_event()])

    shutil.copy(home / "old.db", home / "audit.db")  # a backup that is brought back
    shutil.copy(home / "old.db-wal", home / "audit.db-wal")
    assert append(store, [an_event()]) == 1
    with sqlite3.connect(home / "old.db") as old:
        assert old.execute("SELECT count(*) FROM event").fetchone() == (1,)
    assert len(ids()) == 2


@in_a_file
def test_a_failed_append_leaves_the_file_unlocked(store: AuditStore, home: Path) -> None:
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("ALTER TABLE payload RENAME TO elsewhere")
    with pytest.raises(StoreUnavailable, match="no such table"):
        append(store, [an_event()])

    with sqlite3.connect(home / "audit.db", timeout=0) as database:
        database.execute("ALTER TABLE elsewhere RENAME TO payload")
    assert append(store, [an_event()]) == 1


@on_a_server
def test_batches_with_the_same_ids_in_other_orders_all_go_in(store: AuditStore) -> None:
    """Each writer has a connection of its own, as processes do. Some meet in a deadlock, which one of them loses."""
    shared = [an_event() for _ in range(300)]
    stores = []
    for _ in range(4):
        close_stores()
        stores.append(open_store())

    def work(at: int) -> None:
        for round in range(5):
            mine = [an_event(event.id) for event in shared] if round else shared
            append(stores[at], random.Random(at * 10 + round).sample(mine, len(mine)))

    assert at_once(work, number=4) == []
    assert sorted(ids()) == sorted(event.id for event in shared)


@on_a_server
def test_a_connection_that_the_server_closed_is_replaced_without_a_word(store: AuditStore) -> None:
    append(store, [first := an_event()])
    with as_superuser() as database:
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'prefect-audit'"
        )

    assert append(store, [last := an_event()]) == 1
    assert ids() == [first.id, last.id]


def test_of_two_in_one_batch_with_one_id_the_first_wins(store: AuditStore) -> None:
    first = an_event()

    assert append(store, [first, an_event(first.id)]) == 1

    assert rows("SELECT salt FROM payload") == [(first.salt,)]


def test_nothing_to_append_is_nothing(store: AuditStore) -> None:
    assert append(store, []) == 0
