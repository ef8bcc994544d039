"""Whose turn it is to append: `Line` among the threads of one process, `turn` among the processes of one SQLite file.

Threads stand in line and hand over directly: who has committed wakes the next leader first and its own followers
afterwards, each by a lock of its own. The next leader writes for all who came meanwhile, with one commit. A common lock
around the commit would make a convoy and gain nothing. Among processes SQLite lets a waiter look again every 100 ms,
so that one of four starves for seconds; the kernel's queue at a lock beside the file does not.
"""

import _thread
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.errors import StoreBusy
from audit.events.event import Event

GROUP = 1_000  # events, after which a leader takes nobody else in: a transaction that others wait for ends
TURN = "-turn"  # of the file beside a store's


@dataclass(eq=False, slots=True)
class Waiter:
    """Events that one thread handed in, and what became of them."""

    events: Sequence[Event]
    added: int | None = None  # how many were new, once they are in
    failed: Exception | None = None
    leads: bool = False
    hands_to: "Waiter | None" = None
    woken: threading.Lock = field(default_factory=threading.Lock)

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
        if thread in self._inside:
            raise StoreBusy("A signal handler cannot append while what it interrupted does.")
        group = [mine := Waiter(events)]
        try:
            self._inside.add(thread)
            if not self._comes_first(mine):
                mine.woken.acquire()
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
        self._led = False
        self._inside: set[int] = set()

    def _comes_first(self, mine: Waiter) -> bool:
        with self._mutex:
            if self._led:
                mine.woken.acquire()
                self._waiting.append(mine)
            else:
                self._led = mine.leads = True
        return mine.leads

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
        self._led = bool(self._waiting)
        if self._waiting:
            mine.hands_to = self._waiting[0]
            mine.hands_to.leads = True
        mine.leads = False


@contextmanager
def turn(path: Path, seconds: float) -> Iterator[None]:
    """Have the turn among the processes that write the file at `path`, at the latest after `seconds` without it.

    Who has it may have been stopped, and a folder may take no file: it makes appending fair, not right.
    """
    place = _Place.beside(path)
    had = place is not None and place.reached_within(seconds)
    try:
        yield
    finally:
        if place and had:
            place.leave()


@dataclass(eq=False, slots=True)
class _Place:
    """A place in the queue at the lock beside a file."""

    file: int
    reached: bool = False
    given_up: bool = False
    mutex: threading.Lock = field(default_factory=threading.Lock)
    came: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def beside(cls, path: Path) -> "_Place | None":
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # of a pipe in its place no writer is awaited
        try:
            return cls(os.open(f"{path}{TURN}", flags, 0o644))
        except OSError:
            return None

    def reached_within(self, seconds: float) -> bool:
        """Whether the turn came; if it did not, the place is given up."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._stand_at_most(seconds)
        except OSError:  # a file system without such locks
            os.close(self.file)
            return False
        return True

    def leave(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_UN)  # closing it would not do where a fork has it too
        os.close(self.file)

    def _stand_at_most(self, seconds: float) -> bool:
        """In a thread of its own, for the kernel's queue cannot be left after some time."""
        self.came.acquire()
        try:
            _thread.start_new_thread(self._stand, ())
        except RuntimeError:  # no more threads, or the interpreter is ending
            os.close(self.file)
            return False
        try:
            self.came.acquire(timeout=seconds)
        except BaseException:  # interrupted
            if self._reached_after_all():
                self.leave()
            raise
        return self._reached_after_all()

    def _reached_after_all(self) -> bool:
        with self.mutex:
            self.given_up = not self.reached
        return self.reached

    def _stand(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_EX)
        with self.mutex:
            self.reached = not self.given_up
        if self.given_up:
            self.leave()
        self.came.release()
