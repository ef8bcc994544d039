"""A log with a past, as honest hands make it: sealed, anchored, its key handed over, two payloads withdrawn."""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from audit.answers.keeping import facts_digest
from audit.answers.verdict import Verdict
from audit.answers.verify import verify
from audit.events import payloads as p
from audit.events.canonical import canonical
from audit.events.event import ENVELOPE_KEYS, SALT_BYTES, Event, make_event, payload_hash, uuid7
from audit.events.payloads import Payload
from audit.ledger import anchors
from audit.ledger.keys import read_log_key
from audit.ledger.note import SigningKey
from audit.ledger.sealer import KEPT, seal
from audit.recording.initialise import initialise
from audit.settings import read_settings
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_existing, open_store, opened_as_it_is, store_url
from tests.anchoring import TimestampAuthority, Witness, demand_openssl
from tests.attacks.forging import ORIGIN, Database, Told
from tests.attacks.superuser import copied

ACTOR = "p:7c1e0f" + "0" * 58
ERASER = "p:99aa41" + "0" * 58
SIZES = (43, 284, 300, 314, 557)  # of the checkpoints; the last five events are not sealed
EVENTS = 562
WITHDRAWN = (20, 30)  # seqs
PERMITS = 288  # the event that permits it
COPIES: list[str] = []  # databases that were made, to be dropped
IN_A_FILE = pytest.mark.parametrize("untouched", ["sqlite"], indirect=True)
IN_POSTGRES = pytest.mark.parametrize("untouched", ["postgresql"], indirect=True)


@dataclass(frozen=True)
class Victim:
    """A home with the log in it, and what its makers hold."""

    home: Path
    url: str | None  # PostgreSQL's address of the store; None where it is a file in the home
    keys: tuple[SigningKey, ...] = field(repr=False)  # the log's, the oldest first
    notes: tuple[str, ...] = field(repr=False)  # its checkpoints, the oldest first
    withdrawn: dict[str, Any] = field(repr=False)  # a payload's row, as an older copy of the store still has it
    stamping: TimestampAuthority | None = field(repr=False)  # None where openssl is missing
    witness: Witness = field(repr=False)

    @property
    def authority(self) -> TimestampAuthority:
        """Who stamped two checkpoints; skips the test that asks where nobody did."""
        if self.stamping is None:
            demand_openssl()
        assert self.stamping is not None
        return self.stamping

    @property
    def database(self) -> Database:
        return self.url or self.home / "audit.db"

    @property
    def numbers(self) -> str:
        """What a fault calls an event's place."""
        return "place" if self.url else "seq"

    @property
    def environ(self) -> dict[str, str]:
        """By which the product finds home and store."""
        return {"AUDIT_HOME": str(self.home)} | ({"AUDIT_DATABASE_URL": self.url} if self.url else {})

    @property
    def trusted(self) -> dict[str, Any]:
        """Whose word on checkpoints an auditor believes."""
        return {"tsa_roots": self.authority.roots, "witnesses": [self.witness.vkey]}

    @property
    def kept(self) -> Path:
        """The last checkpoint that the log's machine signed, beside the key."""
        return self.home / "keys" / KEPT

    def copied(self, to: Path) -> "Victim":
        """The same log in another home."""
        shutil.copytree(self.home, to)
        return replace(self, home=to, url=self._copied_database())

    def put_back(self, older: "Victim") -> "Victim":
        """This machine with the store of an older copy."""
        if self.url is None:
            shutil.copy(older.home / "audit.db", self.home / "audit.db")
        return replace(self, url=older.url)

    def _copied_database(self) -> str | None:
        if self.url is None:
            return None
        COPIES.append(copied(self.url))
        return COPIES[-1]

    @contextmanager
    def store(self) -> Iterator[AuditStore]:
        """The store as the product opens it, closed behind us: a file is whole then, and a database can be copied."""
        found = open_existing(read_settings(self.environ, self.home))
        try:
            yield found
        finally:
            found.close()
            close_stores()

    def as_it_lies(self) -> AuditStore:
        """As `audit verify` opens it."""
        return opened_as_it_is(store_url(read_settings(self.environ, self.home)))

    def id(self, seq: int) -> str:
        with self.store() as store, store.reading() as connection:
            found = connection.execute(text("SELECT id FROM event WHERE seq = :seq"), {"seq": seq})
            return str(found.scalar_one())

    def about(self, seq: int) -> str:
        """As a fault names a sealed event."""
        return f"event {self.id(seq)} (leaf {seq - 1})"

    def signers(self, events: Sequence[Told], before: int) -> Sequence[SigningKey]:
        """Who signs a checkpoint over these events, as the rules have it: both, where the key was handed over."""
        by = self.keys[: 1 + sum(event.type == "key.rotated" for event in events)]
        return by[::-1] if any(event.type == "key.rotated" for event in events[before:]) else by[-1:]

    def seal(self) -> str:
        """The checkpoint that the log's own machine signs next."""
        with self.store() as store:
            sealed = seal(store, self.keys[-1], actor=ACTOR, kept=self.kept)
        assert sealed is not None
        return sealed.note


def build(home: Path, url: str | None, authority: TimestampAuthority | None, witness: Witness) -> Victim:
    """More than 512 events, so that two nodes above the leaves are on file; two checkpoints are anchored."""
    where = read_settings({"AUDIT_HOME": str(home)} | ({"AUDIT_DATABASE_URL": url} if url else {}), home)
    initialise(ORIGIN, where)
    store = open_store(where)
    first, second = read_log_key(home / "keys"), SigningKey(ORIGIN, secrets.token_bytes(32))
    notes: list[str] = []

    def sealed(**handed_over: Any) -> None:
        key = second if handed_over or len(notes) > 3 else first
        done = seal(store, key, actor=ACTOR, kept=home / "keys" / KEPT, **handed_over)
        assert done is not None
        notes.append(done.note)

    def anchored() -> None:
        if authority is None:
            append(store, work(1)[:1])  # so that every event has the same place
        else:
            anchors.anchor(store, anchors.authority(authority.url, authority.roots), actor=ACTOR)
        anchors.anchor(store, anchors.Witness(witness.vkey, witness.url), actor=ACTOR)

    append(store, work(10))
    sealed()
    append(store, work(60))
    sealed()
    witness.knows(first.verifier)
    anchored()
    append(store, [erased(store, WITHDRAWN, first), *work(3)])
    sealed()
    withdrawn = payload(store, WITHDRAWN[0])
    withdraw(store, WITHDRAWN)
    append(store, work(3))
    sealed(takes_over_from=first, announce=lambda _: [rotated(first, second)])
    witness.knows(second.verifier)
    anchored()
    append(store, work(60))
    sealed()
    append(store, work(1))
    store.close()
    close_stores()
    return Victim(home, url, (first, second), tuple(notes), withdrawn, authority, witness)


def work(runs: int) -> list[Event]:
    """What this many scoring runs put on record, four events each."""
    return [event for nth in range(runs) for event in _run(nth)]


def _run(nth: int) -> Sequence[Event]:
    flow, task = uuid7(), uuid7()
    state = p.RunState(run_name=f"score {nth}", of="score", flow_name="scoring", tags=["nightly"])
    model = p.Used(
        name="model", kind="model", of="fraud", version=nth + 1,
        address=f"artifact://sha256/{nth:064x}", digest=f"sha256:{nth:064x}",
    )  # fmt: skip
    step = p.StageFacts(spec="fraud", model=model, version=nth + 1, environment="production", reason="gates held")
    around = {"flow_run_id": flow, "task_run_id": task, "deployment": uuid7(), "trace_id": secrets.token_hex(16)}
    return [
        told("flow_run.running", state, f"flow-run/{flow}", flow_run_id=flow),
        told("task_run.running", state, f"task-run/{task}", **around),
        told("model.deployed", step, "model/fraud", **around),
        told("task_run.failed", state, f"task-run/{task}", **around),
    ]


def told(type: str, payload: Payload, subject: str, **around: str) -> Event:
    return make_event(type, payload, source="prefect-audit/recorder", subject=subject, actor=ACTOR, **around)


def rotated(old: SigningKey, new: SigningKey, *, consent: str | None = None) -> Event:
    """What hands over from one key to the other; without the old one somebody makes another `consent` up."""
    key = new.verifier
    facts = p.KeyFacts(
        purpose="log", fingerprint=key.shown, vkey=str(key), was=str(old.verifier), consent=consent or old.consent(key)
    )
    return told("key.rotated", facts, "key/log")


def erased(store: AuditStore, seqs: Sequence[int], key: SigningKey) -> Event:
    """The event that permits withdrawing these events' payloads, with the leave of the log's key."""
    with store.reading() as connection:
        ids = [connection.execute(text("SELECT id FROM event WHERE seq = :seq"), {"seq": seq}).scalar() for seq in seqs]
    return permission("privacy.erased", ids, key)


def permission(type: str, ids: Sequence[str | None], key: SigningKey | None = None) -> Event:
    """An event of a type that nothing emits yet, with the leave of `key`; who has none cannot give it."""
    like = told("store.opened", p.StoreFacts(), "subject/1")
    facts: dict[str, Any] = {"events": list(ids), "reason": "asked for by the subject"}
    digest = facts_digest(facts)
    assert digest
    salt, body = secrets.token_bytes(SALT_BYTES), canonical(facts | ({"leave": key.leave(digest)} if key else {}))
    columns = {key: getattr(like, key) for key in ENVELOPE_KEYS}
    columns |= {"type": type, "actor": ERASER, "payload_hash": payload_hash(salt, body)}
    return Event(**columns, envelope=canonical(columns).decode(), salt=salt, body=body.decode())


def payload(store: AuditStore, seq: int) -> dict[str, Any]:
    with store.reading() as connection:
        rows = connection.execute(text("SELECT * FROM payload WHERE event_seq = :seq"), {"seq": seq})
        return dict(rows.mappings().one())


def withdraw(store: AuditStore, seqs: Sequence[int]) -> None:
    """Take away these payloads, as the last event that permits it says."""
    with store.writing() as connection:
        by = connection.execute(text("SELECT max(seq) FROM event WHERE type = 'privacy.erased'")).scalar_one()
        for seq in seqs:
            connection.execute(text("INSERT INTO withdrawal VALUES (:seq, :by)"), {"seq": seq, "by": by})
            connection.execute(text("DELETE FROM payload WHERE event_seq = :seq"), {"seq": seq})


def faults(victim: Victim, **held_to: Any) -> str:
    """What did not hold, a line each."""
    said = verdict(victim, **held_to)
    assert said.answer == "did not hold", said
    return "\n".join(f"{fault.about}: {fault.what}" for fault in said.faults)


def verdict(victim: Victim, **held_to: Any) -> Verdict:
    """What `audit verify` comes to."""
    return verify(victim.as_it_lies(), **held_to)
