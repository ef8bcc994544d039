"""Which process ran something, and whether it is gone.

A process number alone says little: it is given again, counts from 1 in every container, and from the start after a
reboot. So it is told with its start, its namespace and the machine's start. What cannot be told counts as alive.
"""

import os
import socket
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from audit.events.payloads import Process

OUTERMOST = 0xEFFFFFFC  # the namespace of a machine's own numbers (Linux: PROC_PID_INIT_INO): no container
ENDED = -1  # in the place of a start
_ENDED = ("Z", "X", "x")  # states of a process that runs no more and that its parent has not yet asked about
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MACHINE = Path("/etc/machine-id")


def this_process() -> Process:
    """What tells this process from others of its number; without what this system does not say."""
    return _process(os.getpid())


def gone(around: Mapping[str, Any]) -> str | None:
    """Why the process that these surroundings are of is gone for certain; None where it lives or nobody here can tell.

    `around`: a payload's `surroundings`.
    """
    then, now, number = around.get("process") or {}, this_process(), around["process_id"]
    if around["host"] != socket.gethostname() or now.boot is None or then.get("boot") is None:
        return None
    named = f"its process {number} on {around['host']}"
    if then["boot"] != now.boot:
        known = now.machine is not None and then.get("machine") == now.machine
        own = then.get("namespace") == now.namespace == OUTERMOST  # images of containers share a machine's id
        return f"{named} is gone, for the machine was started again" if known and own else None
    if then.get("namespace") != now.namespace or now.namespace is None:
        return None
    if not _is_there(number):
        return f"{named} is gone"
    started = _started(number)
    if started == ENDED:
        return f"{named} is gone"
    if started is None or then.get("started") is None or started == then["started"]:
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
