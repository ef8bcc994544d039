"""What a machine's disk may hold when its power fails, from the system calls of a process that wrote to it.

A write is on the disk when its file was synced after it. Until then it may be there or not, whole or up to some
sector, whatever came before or after it. Taken from a run under strace, so it is what SQLite really asked for.
"""

import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
TRACED = "pwrite64,ftruncate,fdatasync,fsync,unlink,write"
_CALL = re.compile(r'^(\w+)\((?:\d+<([^>]*)>)?(?:, )?(?:"([^"]*)")?(.*)\) += (\d+)$')


class Call(NamedTuple):
    """One of those that were traced."""

    name: str
    path: str
    bytes: bytes
    numbers: tuple[int, ...]


@dataclass
class Disk:
    """Files as they are for certain, and what was written since."""

    files: dict[str, bytes]
    pending: list[Call] = field(default_factory=list)

    def apply(self, call: Call) -> None:
        if call.name in ("fdatasync", "fsync"):
            for one in [one for one in self.pending if one.path == call.path]:
                _apply(self.files, one)
            self.pending = [one for one in self.pending if one.path != call.path]
        else:
            self.pending.append(call)

    def image(self, survived: Sequence[Call]) -> dict[str, bytes]:
        """The files, where of all that was not synced this came through."""
        files = dict(self.files)
        for one in survived:
            _apply(files, one)
        return files

    def chance(self, by: random.Random) -> list[Call]:
        """Some of it, the odd one torn."""
        return [_torn(one, by) for one in self.pending if by.random() < 0.5]


def watched(pid: int, paths: Sequence[Path], to: Path) -> "subprocess.Popen[str]":
    """strace of a process that stands still; returns when it is attached."""
    only = [word for path in paths for word in ("-P", str(path))]
    command = ["strace", "-y", "-xx", "-s", "70000", "-e", f"trace={TRACED}", *only, "-o", str(to), "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr
    said = tracer.stderr.readline()
    assert "attached" in said, said
    return tracer


def calls(trace: Path) -> Iterator[Call]:
    """What it wrote down, those that succeeded."""
    for line in trace.read_text().splitlines():
        if line.startswith(("+++", "---")) or " = -1 " in line:
            continue
        found = _CALL.match(line)
        assert found, line[:200]
        name, path, text, rest, _ = found.groups()
        data = _bytes(text) if text else b""
        if name == "unlink":
            yield Call(name, data.decode(), b"", ())
        else:
            yield Call(name, _bytes(path).decode(), data, tuple(int(one) for one in re.findall(r"\d+", rest)))


def _bytes(written: str) -> bytes:
    return bytes.fromhex(written.replace("\\x", ""))


def _apply(files: dict[str, bytes], call: Call) -> None:
    if call.name == "unlink":
        files.pop(call.path, None)
        return
    was = files.get(call.path, b"")
    if call.name == "ftruncate":
        (size,) = call.numbers
        files[call.path] = was[:size].ljust(size, b"\0")
        return
    offset = call.numbers[-1]
    files[call.path] = was[:offset].ljust(offset, b"\0") + call.bytes + was[offset + len(call.bytes) :]


def _torn(call: Call, by: random.Random) -> Call:
    if call.name != "pwrite64" or by.random() < 0.5:
        return call
    return call._replace(bytes=call.bytes[: SECTOR * by.randint(0, len(call.bytes) // SECTOR)])
