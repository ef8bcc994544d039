"""A small sealed log in a SQLite file or in PostgreSQL, changed past all guards where need be."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audit.answers.verdict import Verdict
from audit.answers.verify import verify
from audit.events.event import Event
from audit.ledger.keys import read_log_key
from audit.ledger.note import SigningKey
from audit.ledger.sealer import seal
from audit.recording.initialise import initialise
from audit.settings import read_settings
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store, opened_as_it_is, store_url
from tests.attacks import superuser
from tests.attacks.forging import Database, looking, owner
from tests.attacks.victim import ACTOR

ORIGIN = "acme.example/flights"


@dataclass(frozen=True)
class Log:
    """A store and what its makers hold."""

    home: Path
    url: str | None  # PostgreSQL's address of the store; None where it is a file in the home
    key: SigningKey
    notes: tuple[str, ...]  # its checkpoints, the oldest first

    @property
    def file(self) -> Path:
        return self.home / "audit.db"

    @property
    def database(self) -> Database:
        return self.url or self.file

    @property
    def environ(self) -> dict[str, str]:
        return environ(self.home, self.url)

    @property
    def store(self) -> AuditStore:
        return opened_as_it_is(store_url(read_settings(self.environ, self.home)))

    def append(self, *events: Event) -> None:
        with closing(self.store) as store:
            append(store, events)

    def seal(self, key: SigningKey | None = None, *announced: Event, takes_over_from: SigningKey | None = None) -> str:
        announce = (lambda _current: announced) if announced else None
        with closing(self.store) as store:
            done = seal(store, key or self.key, actor=ACTOR, takes_over_from=takes_over_from, announce=announce)
        assert done is not None
        return done.note

    def change(self, statement: str, *values: object) -> None:
        """As the store's owner can, past the triggers."""
        with owner(self.database) as db:
            assert db.execute(statement, values).rowcount

    def about(self, seq: int) -> str:
        with looking(self.database) as db:
            (id,) = db.execute("SELECT id FROM event WHERE seq = ?", (seq,)).fetchone()
            (size,) = db.execute("SELECT coalesce(max(idx), -1) + 1 FROM leaf").fetchone()
        return f"event {id} (leaf {seq - 1})" if seq <= size else f"event {id} (not sealed)"


def environ(home: Path, url: str | None) -> dict[str, str]:
    """By which the product finds home and store."""
    return {"AUDIT_HOME": str(home)} | ({"AUDIT_DATABASE_URL": url} if url else {})


def a_log(home: Path, url: str | None = None) -> Log:
    where = read_settings(environ(home, url), home)
    initialise(ORIGIN, where)
    open_store(where).close()
    close_stores()
    return Log(home, url, read_log_key(home / "keys"), ())


def copied(log: Log, home: Path) -> Log:
    """All of it in one file: the last one that closes a store takes its -wal file away."""
    shutil.copytree(log.home, home)
    if log.url:
        return replace(log, home=home, url=superuser.copied(log.url))
    with closing(sqlite3.connect(home / "audit.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return replace(log, home=home)


def verified(log: Log, **held_to: Any) -> Verdict:
    with closing(log.store) as store:
        return verify(store, **held_to)


def faults(verdict: Verdict) -> dict[str, str]:
    return {fault.about: fault.what for fault in verdict.faults}
