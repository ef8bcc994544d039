"""How many events neither store nor spool took: a number in a small file, which outlives who lost them.

The file is made while all is well and written in place, which a full disk takes too. Where it cannot be written the
number lives in memory until it can. Should a process die between telling and taking off, it is told twice: too many
rather than too few.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

WIDTH = 12  # digits


@dataclass
class Losses:
    """What the processes of one AUDIT_HOME lost and nobody has put on record yet."""

    path: Path
    unwritten: int = 0  # of this process, where the file could not be written
    lock: threading.RLock = field(default_factory=threading.RLock)

    def prepare(self) -> int:
        """Make the file, while there is room for it; returns what it tells of."""
        with self.lock, self._file() as file:
            return self._settled(file)

    def add(self) -> None:
        """One more is lost."""
        with self.lock, self._file() as file:
            self.unwritten += 1
            self._settled(file)

    @contextmanager
    def telling(self) -> Iterator[int]:
        """How many there are to tell of, for who tells at once; 0 while another process does. They are taken off when
        the caller is through, and stay if it fails."""
        with self.lock, self._file() as file:
            count = self._settled(file) + self.unwritten
            yield count
            if count and file is not None:
                _write(file, 0)
            self.unwritten = 0

    def count(self) -> int:
        """As many as are known here."""
        try:
            return _number(self.path.read_bytes()) + self.unwritten
        except OSError:
            return self.unwritten

    def _settled(self, file: int | None) -> int:
        """What the file tells of, once it tells of ours too."""
        if file is None:
            return 0
        written = _number(os.pread(file, WIDTH, 0))
        with suppress(OSError):
            _write(file, written + self.unwritten)
            written, self.unwritten = written + self.unwritten, 0
        return written

    @contextmanager
    def _file(self) -> Iterator[int | None]:
        """The file, for us alone; None where it cannot be had at once."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            yield None
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            yield None
            return
        try:
            yield file
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)


def _number(written: bytes) -> int:
    return int(written) if written.isdigit() else 0


def _write(file: int, number: int) -> None:
    os.pwrite(file, f"{number:0{WIDTH}}".encode(), 0)
