"""Which process ran something, and whether it is gone.

A process number alone says little: it is given again, counts from 1 in every container, and from the start after a
reboot. So it is told with its start, its namespace and the machine's start. What cannot be told counts as alive: also
what ran before another start of the machine, for machines made of one image share their name and their id.
"""

import os
import socket
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from audit.events.payloads import Process

LARGEST = 2**31 - 1  # process number (pid_t)
ENDED = -1  # in the place of a start
_ENDED = ("Z", "X", "x")  # states of a process that runs no more and that its parent has not yet asked about
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MACHINE = Path("/etc/machine-id")


def this_process() -> Process:
    """What tells this process from others of its number; without what this system does not say."""
    return _process(os.getpid())


class _Ran(BaseModel):
    """Of a payload's `surroundings` what tells a process."""

    host: str
    process_id: Annotated[int, Field(gt=0, le=LARGEST)]
    process: Process


def gone(around: object) -> str | None:
    """Why the process that these surroundings are of is gone for certain; None where it lives or nobody here can tell.

    `around`: a payload's `surroundings`, whatever somebody wrote there.
    """
    try:
        ran = _Ran.model_validate(around, strict=True)
    except ValidationError:
        return None
    then, now, number = ran.process, this_process(), ran.process_id
    if ran.host != socket.gethostname() or now.boot is None or then.boot != now.boot:
        return None
    if then.namespace != now.namespace or now.namespace is None:
        return None
    named = f"its process {number} on {ran.host}"
    if not _is_there(number):
        return f"{named} is gone"
    started = _started(number)
    if started == ENDED:
        return f"{named} is gone"
    if started is None or then.started is None or started == then.started:
        return None
    return f"{named} is gone, and its number another's"


@cache
def _process(number: int) -> Process:
    return Process(started=_started(number), boot=_boot(), namespace=_namespace(), machine=_machine())


def _is_there(number: int) -> bool:
    """Asked by a signal, which shows other users' processes too, where /proc may hide them."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(number: int) -> int | None:
    """When it was started; ENDED for one that has; None where that cannot be read."""
    try:
        written = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return None
    fields = written.rpartition(")")[2].split()  # behind the name, which may hold anything; the first one is the state
    return ENDED if fields[0] in _ENDED else int(fields[19])


def _boot() -> str | None:
    return _read(_BOOT)


def _namespace() -> int | None:
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  # it is no file
    except OSError:
        return None


def _machine() -> str | None:
    """Digest of the machine's id, which is not to be handed out (machine-id(5))."""
    written = _read(_MACHINE)
    return "sha256:" + sha256(f"prefect-audit\x00{written}".encode()).hexdigest() if written else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
