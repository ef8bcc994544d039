"""Whose turn it is to append: `Line` among the threads of one process, `turn` among the processes of one SQLite file.

Threads stand in line and hand over directly: who has committed wakes the next leader first and its own followers
afterwards, each by a lock of its own. The next leader writes for all who came meanwhile, with one commit. A common lock
around the commit would make a convoy and gain nothing. Among processes SQLite lets a waiter look again every 100 ms,
so that one of four starves for seconds; in the kernel's queue at a lock beside the file none does.
"""

import _thread
import fcntl
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from audit.errors import StoreBusy
from audit.events.event import Event

GROUP = 1_000  # events, after which a leader takes nobody else in: a transaction that others wait for ends
TURN = "-turn"  # of the file beside a store's
LOOK_SECONDS = 1.0  # after which who waits looks whether anybody is at it


@dataclass(eq=False, slots=True)
class Waiter:
    """Events that one thread handed in, and what became of them."""

    events: Sequence[Event]
    added: int | None = None  # how many were new, once they are in
    failed: Exception | None = None
    leads: bool = False
    hands_to: "Waiter | None" = None
    thread: int = field(default_factory=threading.get_ident)
    woken: threading.Lock = field(default_factory=threading.Lock)

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.leads or self.served

    @property
    def served(self) -> bool:
        return self.added is not None or self.failed is not None

    def wake(self) -> None:
        """Twice does no harm."""
        if self.woken.locked():
            self.woken.release()


Serve = Callable[[Sequence[Waiter]], None]
_of_the_parent: list[Any] = []  # connections that came with a fork: closing one here would end it there


class Line:
    """The threads of this process that append to one store; `connection` is kept by whoever leads."""

    connection: Any = None

    def __init__(self) -> None:
        self._form()

    def put(self, events: Sequence[Event], serve: Serve) -> int:
        """Have `events` written, by this thread or another; returns how many were new, when they are on disk.

        `serve` writes what several handed in and marks each of them as served. Raises what it marked. Who is
        interrupted while it waits takes its events along; who is interrupted while it leads leaves the rest to others.
        """
        if self._process != os.getpid():
            self._form()  # a fork's locks and connection are its parent's
        thread = threading.get_ident()
        if thread in self._inside and any(self._puts_of(thread)):
            raise StoreBusy("A signal handler cannot append while what it interrupted does.")
        group = [mine := Waiter(events)]
        try:
            self._inside.add(thread)
            if not self._comes_first(mine):
                while not mine.woken.acquire(timeout=LOOK_SECONDS) and not mine.settled:
                    self._look_after(mine)
            if mine.leads:
                self._take_in(group)
                serve(group)
        finally:
            self._surely_leave(group)
            self._inside.discard(thread)
        if mine.failed:
            raise mine.failed
        assert mine.added is not None
        return mine.added

    def __len__(self) -> int:
        """How many wait for who leads."""
        return len(self._waiting)

    def _form(self) -> None:
        if self.connection is not None:
            _of_the_parent.append(self.connection)
        self.connection = None
        self._process = os.getpid()
        self._mutex = threading.Lock()
        self._waiting: deque[Waiter] = deque()
        self._leader: Waiter | None = None
        self._inside: set[int] = set()

    def _comes_first(self, mine: Waiter) -> bool:
        with self._mutex:
            if self._leader:
                mine.woken.acquire()
                self._waiting.append(mine)
            else:
                mine.leads = True
                self._leader = mine
        return mine.leads

    def _look_after(self, mine: Waiter) -> None:
        """An interruption can strike between any two steps, so also before a leader that it ends hands over."""
        with self._mutex:
            leader = self._leader
            if leader and any(put is leader for put in self._puts_of(leader.thread)):
                return
            if mine in self._waiting:  # else whoever is gone had taken it in
                self._waiting.remove(mine)
            mine.leads = True
            self._leader = mine

    def _puts_of(self, thread: int) -> Iterator[Waiter]:
        """What that thread is putting in, by its own stack, which no interruption falsifies."""
        frame = sys._current_frames().get(thread)
        while frame:
            if frame.f_code is Line.put.__code__ and frame.f_locals["self"] is self and "mine" in frame.f_locals:
                yield frame.f_locals["mine"]
            frame = frame.f_back

    def _take_in(self, group: list[Waiter]) -> None:
        """Add to the leader of `group` those who wait, as many as one transaction bears."""
        events = len(group[0].events)
        with self._mutex:
            if self._waiting and self._waiting[0] is group[0]:
                self._waiting.popleft()
            while self._waiting and (events := events + len(self._waiting[0].events)) <= GROUP:
                group.append(self._waiting[0])  # first: an interruption finds it in both rather than in neither
                self._waiting.popleft()

    def _surely_leave(self, group: Sequence[Waiter]) -> None:
        try:
            self._leave(group)
        except BaseException:  # an interruption that struck in there; what is done twice does no harm
            self._leave(group)
            raise

    def _leave(self, group: Sequence[Waiter]) -> None:
        """Whatever happened: who leads hands over, and nobody whose events are settled goes on waiting."""
        mine, *others = group
        with self._mutex:
            if mine in self._waiting:
                self._waiting.remove(mine)
            if mine.leads:
                self._hand_over(mine, others)
        if mine.hands_to:
            mine.hands_to.wake()  # first: it goes to disk while the others wake
        for waiter in others:
            if waiter.served:
                waiter.wake()

    def _hand_over(self, mine: Waiter, others: Sequence[Waiter]) -> None:
        unserved = [waiter for waiter in others if not waiter.served and waiter not in self._waiting]
        self._waiting.extendleft(reversed(unserved))
        if self._waiting:
            mine.hands_to = self._waiting[0]
            mine.hands_to.leads = True
        self._leader = mine.hands_to
        mine.leads = False


@contextmanager
def turn(place: "Place", seconds: float) -> Iterator[None]:
    """Have the turn among the processes that write a file, at the latest after `seconds` without it.

    Who has it may have been stopped, and a folder may take no file: it makes appending fair, not right.
    """
    had = place.reached_within(seconds)
    try:
        yield
    finally:
        if had:
            place.leave()


class Place:
    """One in the queue at the lock beside a file. An interruption may strike anywhere: who comes back to a place that
    was not left has the turn at once, and one that is forgotten is given up with its file object."""

    def __init__(self, path: Path | None) -> None:
        """For the file at `path`; None where nobody queues."""
        self._path = path and f"{path}{TURN}"
        self._file: FileIO | None = None

    def reached_within(self, seconds: float) -> bool:
        """Whether the turn came."""
        if self._path is None:
            return False
        try:
            self._file = self._file or FileIO(self._path, opener=_made_if_need_be)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._stand_at_most(seconds)
        except OSError:  # a folder that takes no file, a file system without such locks
            return False
        return True

    def leave(self) -> None:
        if self._file:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # closing it would not do where a fork has it too

    def close(self) -> None:
        self.leave()
        file, self._file = self._file, None
        if file:
            file.close()

    def _stand_at_most(self, seconds: float) -> bool:
        """In a thread of its own, for the kernel's queue cannot be left after some time."""
        file, self._file = self._file, None  # the thread's, until the turn came
        assert file
        wait = _Wait()
        try:
            _thread.start_new_thread(_stand, (file, weakref.ref(wait)))
        except RuntimeError:  # no more threads, or the interpreter is ending
            file.close()
            return False
        try:
            wait.over.acquire(timeout=seconds)
        finally:
            if wait.came_in_time():
                self._file = file
        return self._file is file


class _Wait:
    """Of one who waits for a thread that stands in the queue."""

    def __init__(self) -> None:
        self.over = threading.Lock()
        self.over.acquire()
        self._mutex = threading.Lock()
        self._came: bool | None = None

    def came_in_time(self) -> bool:
        """Said once and for all, by the turn or by who waited for it."""
        return self._settle(False)

    def comes(self) -> bool:
        """Whether somebody still waits for it."""
        return self._settle(True)

    def _settle(self, came: bool) -> bool:
        with self._mutex:
            if self._came is None:
                self._came = came
            return self._came


def _stand(file: FileIO, waits: "weakref.ref[_Wait]") -> None:
    fcntl.flock(file, fcntl.LOCK_EX)
    wait = waits()
    if wait and wait.comes():
        wait.over.release()
    else:
        fcntl.flock(file, fcntl.LOCK_UN)
        file.close()


def _made_if_need_be(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NONBLOCK, 0o644)  # of a pipe in its place no writer is awaited
