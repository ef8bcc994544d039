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


def differences(store: AuditStore, told: dict[str, str]) -> tuple[int, int]:
    """How many events that writers were told of are not there, and how many are not as they were given."""
    missing, changed = set(told), 0
    with store.reading() as connection:
        for id, envelope, salt, body in connection.execute(text(GIVEN)):
            missing.discard(id)
            changed += id in told and told[id] != digest(envelope, salt, body)
    return len(missing), changed


def demand_on_record(store: AuditStore, told: dict[str, str]) -> None:
    """Fails unless all that writers were told is there, as they gave it, and each run's states once, in their order."""
    missing, changed = differences(store, told)
    assert not missing, f"{missing} of {len(told)} events that were acknowledged are gone"
    assert not changed, f"{changed} of {len(told)} events are not as they were given"
    runs = defaultdict[str, list[str]](list)
    with store.reading() as connection:
        for run, type in connection.execute(text(ORDERED)):
            runs[run].append(type)
    odd = {run: types for run, types in runs.items() if types not in COURSES}
    assert not odd, f"{len(odd)} runs are not one `running`, then one `completed`, such as {min(odd.items())}"


GIVEN = "SELECT id, envelope, salt, body FROM event JOIN payload ON event_seq = seq"
ORDERED = """SELECT task_run_id, type FROM event LEFT JOIN leaf ON event_seq = seq WHERE task_run_id IS NOT NULL
  ORDER BY CASE WHEN idx IS NULL THEN 1 ELSE 0 END, idx, seq"""  # as they are sealed; then those that wait
COURSES = [  # of a task run: still open, ended, given up by a later process because its own was gone
    ["task_run.running"],
    ["task_run.running", "task_run.completed"],
    ["task_run.running", "task_run.abandoned"],
]


def counted(store: AuditStore, type: str) -> int:
    """How many events the record's events of a type speak of."""
    query = """SELECT coalesce(sum(CAST(json_extract(body, '$.count') AS integer)), 0)
                 FROM event JOIN payload ON event_seq = seq WHERE type = :type"""
    with store.reading() as connection:
        return int(connection.execute(text(query), {"type": type}).scalar_one())
