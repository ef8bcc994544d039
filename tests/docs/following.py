"""A docs page followed word for word: each `$ command` in a shell, its output beside the one that the page shows.

What differs from one machine to the next (ids, times, ports) is masked. A command that only reads is asked again for
a while, as whoever follows the page would, because what it tells of may still be going on.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

CLONE = Path(__file__).resolve().parents[2]
OF_A_CLONE = ("audit", "tasks", "flows", "deployments", "Makefile", "pyproject.toml", "requirements.lock")
BLOCK = re.compile(r"^```text\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL)
READS = ("audit runs", "audit models", "audit alerts", "audit events", "cat ")
MASKS = [
    (re.compile(pattern, re.MULTILINE), instead)
    for pattern, instead in (
        (r"^! Port \d+ is taken.*\n", ""),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
        (r"\b[0-9a-f]{8}\b", "ID"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
        (r"\b\d+(\.\d+)? s\b", "SECONDS"),
        (r"127\.0\.0\.1:\d+", "PORT"),
        (r"flow run '[a-z]+-[a-z]+'", "flow run 'NAME'"),
        (r"[ \t]+", " "),
    )
]
MARK = "-- over --"
ALERTS_PORT = "9009"  # as the page has it; here any that is free
UI_PORTS = ("4200", "4201", "4202")
SECONDS = 600
AGAIN_SECONDS = 240


@dataclass(frozen=True)
class Step:
    """A command, and what it says."""

    command: str
    says: str

    @property
    def in_the_background(self) -> bool:
        return self.command.endswith(" &")

    @property
    def reads(self) -> bool:
        return self.command.startswith(READS)

    def as_shown(self) -> str:
        return "$ " + self.command.replace("\n", "\n> ").replace("\n> \n", "\n>\n") + "\n" + self.says


def steps(block: str) -> list[Step]:
    """The commands of one block: `$ ` begins one, `> ` goes on with it, the rest is what it says."""
    found: list[Step] = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append(Step(line[2:].rstrip("\n"), ""))
        elif line.startswith(">") and not found[-1].says:
            found[-1] = replace(found[-1], command=f"{found[-1].command}\n{line[2:].rstrip()}")
        else:
            found[-1] = replace(found[-1], says=found[-1].says + line)
    return found


def masked(said: str) -> list[str]:
    for pattern, instead in MASKS:
        said = pattern.sub(instead, said)
    return [line.rstrip() for line in said.strip().splitlines()]


class Terminal:
    """One shell, in which what is exported stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.alerts_port = str(_free_port())
        environment = {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "home"),  # the folder lies in /tmp itself, where no record may live
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
        }
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder, env=environment, text=True, bufsize=1, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lines: Queue[str] = Queue()
        Thread(target=self._listen, daemon=True).start()

    def follow(self, step: Step) -> Step:
        """What the command says here; in the background up to the last line that is shown."""
        said = self._said(step)
        until = time.monotonic() + AGAIN_SECONDS
        while step.reads and masked(said) != masked(step.says) and time.monotonic() < until:
            time.sleep(3)
            said = self._said(step)
        return replace(step, says=said if masked(said) != masked(step.says) else step.says)

    def as_on_the_page(self, said: str) -> str:
        """With the ports that everybody has."""
        said = re.sub(r"^! Port \d+ is taken.*\n", "", said, flags=re.MULTILINE)
        ui = self.folder / "var/ui.env"
        found = re.findall(r"127\.0\.0\.1:(\d+)", ui.read_text()) if ui.exists() else []
        for here, there in zip([*found, self.alerts_port], [*UI_PORTS, ALERTS_PORT], strict=False):
            said = said.replace(f"127.0.0.1:{here}", f"127.0.0.1:{there}")
        return said

    def _said(self, step: Step) -> str:
        command = step.command.replace(ALERTS_PORT, self.alerts_port)
        assert self.shell.stdin
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null; echo; echo '{MARK}'\n")
        said = self._up_to(MARK)
        said = said[:-1] if said[-1:] == ["\n"] else said  # the line that `echo` began
        shown = masked(step.says)
        if step.in_the_background and shown:
            said += self._up_to(shown[-1])
        return "".join(said)

    def _up_to(self, last: str) -> list[str]:
        """Lines up to the `last` one, which is kept if it is no mark."""
        lines: list[str] = []
        until = time.monotonic() + SECONDS
        while not lines or masked(lines[-1]) != [last]:
            try:
                lines.append(self.lines.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                raise AssertionError(f"{last!r} is not said within {SECONDS} s:\n{''.join(lines)}") from None
        return lines[:-1] if last == MARK else lines

    def _listen(self) -> None:
        assert self.shell.stdout
        for line in self.shell.stdout:
            self.lines.put(line)


@contextmanager
def terminal_in_a_clone(folder: Path) -> Iterator[Terminal]:
    """A shell in a folder with what a clone has once `make` has made .venv; nothing that it started outlives it."""
    for name in (*OF_A_CLONE, *(path.name for path in CLONE.glob("prefect*.*ml"))):
        if (CLONE / name).is_dir():
            shutil.copytree(CLONE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(CLONE / name, folder / name)
            os.utime(folder / name, (0, 0))  # older than .venv, which is the real one and must not be made again
    (folder / ".venv").symlink_to(CLONE / ".venv")
    (folder / "var/prefect").mkdir(parents=True)
    (folder / "home").mkdir()
    terminal = Terminal(folder)
    try:
        yield terminal
    finally:
        for pid in _processes_of(folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        terminal.shell.kill()
        terminal.shell.wait()


def _processes_of(folder: Path) -> Iterator[int]:
    """Every process with this HOME."""
    mark = f"HOME={folder / 'home'}\0".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (entry / "environ").read_bytes():
                yield int(entry.name)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
