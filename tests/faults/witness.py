"""What writers were told is on record, in files of their own, and whether it is.

A line is written when `append` has returned. What `write` took outlives its process, whatever ends that; only a
machine without power could take it, and the tests that imagine one keep another account.
"""

import os
from collections import defaultdict
from hashlib import sha256
from pathlib import Path

from sqlalchemy import text

from audit.events.event import Event
from audit.store.engine import AuditStore


def digest(envelope: str, salt: bytes, body: str) -> str:
    return sha256(b"\x00".join((envelope.encode(), salt, body.encode()))).hexdigest()


class Witness:
    """A writer's own file. Threads share it: each line is one write to its end."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def was_told(self, event: Event) -> None:
        os.write(self._file, f"{event.id} {digest(event.envelope, event.salt, event.body)}\n".encode())


def told(folder: Path) -> dict[str, str]:
    """Every event that a writer was told is on record, and the digest of what it gave."""
    lines = [line for path in folder.glob("*.told") for line in path.read_text().splitlines()]
    found = dict(line.split() for line in lines)
    assert len(found) == len(lines), "a writer gave an event twice"
    return found


def count(folder: Path) -> int:
    """How many that are by now."""
    return sum(path.stat().st_size // LINE for path in folder.glob("*.told"))


LINE = 36 + 1 + 64 + 1


def demand_on_record(store: AuditStore, told: dict[str, str]) -> None:
    """Fails unless all that writers were told is there, as they gave it, and each run's states once, in their order."""
    with store.reading() as connection:
        rows = connection.execute(
            text(
                """SELECT id, type, task_run_id, envelope, salt, body FROM event
                     LEFT JOIN payload ON event_seq = seq ORDER BY seq"""
            )
        ).all()
    found = {row.id: digest(row.envelope, bytes(row.salt), row.body) for row in rows}  # a payload is never missing
    missing = {id for id in told if id not in found}
    assert not missing, f"{len(missing)} of {len(told)} events that were acknowledged are gone, such as {min(missing)}"
    other = {id for id, given in told.items() if found[id] != given}
    assert not other, f"{len(other)} events are not as they were given, such as {min(other)}"
    runs = defaultdict[str, list[str]](list)
    for row in rows:
        if row.task_run_id:
            runs[row.task_run_id].append(row.type)
    odd = {run: types for run, types in runs.items() if types not in COURSES}
    assert not odd, f"{len(odd)} runs are not one `running`, then one `completed`, such as {min(odd.items())}"


COURSES = [  # of a task run: still open, ended, given up by a later process because its own was gone
    ["task_run.running"],
    ["task_run.running", "task_run.completed"],
    ["task_run.running", "task_run.abandoned"],
]


def lost(store: AuditStore) -> int:
    """How many events the record says it lost."""
    query = """SELECT coalesce(sum(CAST(json_extract(body, '$.count') AS integer)), 0)
                 FROM event JOIN payload ON event_seq = seq WHERE type = 'store.dropped'"""
    with store.reading() as connection:
        return int(connection.execute(text(query)).scalar_one())
