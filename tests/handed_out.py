"""A log with a past, what is handed out of it, and what both verifiers say of that: ours, and the one that comes along.

The log: work, a payload that was withdrawn, a key that was handed over, a witness that cosigned the newest checkpoint.
"""

import atexit
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson

import audit.answers
from audit.answers.bundle import FORMAT, export, verify_bundle
from audit.answers.checks import GrowingTree
from audit.answers.prove import proof_of, verify_proof, write_proof
from audit.answers.verdict import EXIT_CODES, Verdict
from audit.events.canonical import canonical, digest_of
from audit.events.payloads import AnchorFacts
from audit.ledger.keys import read_log_key
from audit.ledger.note import (
    COSIGNATURE,
    Checkpoint,
    SigningKey,
    VerifierKey,
    cosignature,
    parse_checkpoint,
    parse_note,
    signed,
)
from audit.ledger.sealer import seal
from audit.ledger.tree import leaf_hash
from audit.recording.initialise import initialise
from audit.settings import read_settings
from audit.store import ledger
from audit.store.append import append, insert_event
from audit.store.engine import AuditStore, close_stores, open_store, opened
from audit.store.ledger import Part
from tests.attacks.forging import Database
from tests.attacks.victim import ACTOR, erased, rotated, told, withdraw, work
from tests.postgres import said

ORIGIN = "acme.example/fraud"
SIZE = 32  # of the newest checkpoint
VERIFIER = Path(audit.answers.__file__).with_name("standalone.py")
AT = datetime(2026, 11, 24, 21, 4, tzinfo=UTC)
WITHDRAWN = 4  # leaf of the event whose payload is gone


@dataclass(frozen=True)
class Log:
    """A store and what its makers hold."""

    home: Path
    store: AuditStore
    keys: tuple[SigningKey, SigningKey]  # the log's, the second in force
    witness: SigningKey
    notes: tuple[str, ...]  # checkpoints, the oldest first

    @property
    def key(self) -> VerifierKey:
        return self.keys[1].verifier

    @property
    def witness_key(self) -> VerifierKey:
        return VerifierKey(self.witness.name, COSIGNATURE, self.witness.verifier.public)

    @property
    def database(self) -> Database:
        return said(self.store.engine.url) if self.store.is_postgres else self.home / "audit.db"

    def copied(self, home: Path) -> "Log":
        """The same log in another home, for those who change it."""
        self.store.close()
        shutil.copytree(self.home, home)
        return replace(self, home=home, store=opened(home / "audit.db"))

    def bundle(self, path: Path, **more: Any) -> Path:
        export(self.store, path, by=ACTOR, at=AT, **more)
        return path

    def part(self, path: Path, **more: Any) -> Path:
        return self.bundle(path, part=Part(types=("model.*", "key.*")), **more)

    def proof(self, folder: Path, leaf: int = 5) -> Path:
        write_proof(proof_of(self.store, self.id(leaf)), folder)
        return folder

    def id(self, leaf: int) -> str:
        with self.store.reading() as connection:
            return next(row.id for row in ledger.sealed_events(connection, Part()) if row.idx == leaf)


def build(home: Path, url: str | None = None) -> Log:
    """In a file, or in the empty store at PostgreSQL's `url`."""
    where = read_settings({"AUDIT_HOME": str(home)} | ({"AUDIT_DATABASE_URL": url} if url else {}), home)
    initialise(ORIGIN, where)
    store = open_store(where)
    first, second = read_log_key(home / "keys"), SigningKey(ORIGIN, secrets.token_bytes(32))
    witness = SigningKey("witness.example/w", secrets.token_bytes(32))
    notes: list[str] = []

    def sealed(key: SigningKey, takes_over_from: SigningKey | None = None) -> None:
        done = seal(store, key, actor=ACTOR, takes_over_from=takes_over_from)
        assert done is not None
        notes.append(done.note)

    append(store, work(2))
    sealed(first)
    append(store, [erased(store, [WITHDRAWN + 1], first), *work(1)])
    sealed(first)
    withdraw(store, [WITHDRAWN + 1])
    append(store, [rotated(first, second), *work(2)])
    sealed(second, takes_over_from=first)
    append(store, work(1))
    sealed(second)
    cosign(store, witness, notes[-1])
    close_stores()
    assert notes[-1].split("\n")[1] == str(SIZE)
    return Log(home, store, (first, second), witness, tuple(notes))


def stamp(store: AuditStore, note: str, evidence: bytes) -> None:
    """Put a time stamp over a checkpoint on record."""
    _anchor(store, "timestamp", "Example Time Stamping", note, evidence)


def cosign(store: AuditStore, witness: SigningKey, note: str) -> None:
    """Put a witness's cosignature of a checkpoint on record."""
    line = str(cosignature(witness, parse_note(note).text, 1_795_554_000))
    _anchor(store, "cosignature", witness.name, note, line.encode())


def _anchor(store: AuditStore, kind: Literal["timestamp", "cosignature"], by: str, note: str, evidence: bytes) -> None:
    size = parse_checkpoint(parse_note(note).text).size
    facts = AnchorFacts(size=size, kind=kind, by=by, at="2026-11-24", digest=digest_of(evidence))
    with store.writing() as connection:
        seq = insert_event(connection, told("checkpoint.anchored", facts, f"checkpoint/{size}"))
        assert seq is not None
        ledger.add_anchor(connection, seq, size, kind, evidence)


# What is handed out, bent.


def members(bundle: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(bundle) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, content: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, written in content.items():
            archive.writestr(name, written)
    return path


def lines(content: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in content.splitlines()]


def unlined(found: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(canonical(line) + b"\n" for line in found)


def forged(path: Path, key: SigningKey, entries: Sequence[bytes], payloads: Sequence[tuple[bytes, str]]) -> Path:
    """A whole log of whatever entries, each with salt and payload, as who holds a key can make one and sign it."""
    grown = GrowingTree()
    grown.add([leaf_hash(entry) for entry in entries])
    bound = zip(entries, payloads, strict=True)
    told = [
        {"index": nth, "envelope": entry.decode(), "salt": salt.hex(), "payload": payload}
        for nth, (entry, (salt, payload)) in enumerate(bound)
    ]
    manifest = {
        "format": FORMAT, "origin": key.name, "size": len(entries), "complete": True, "payloads": True,
        "events": len(entries), "checkpoints": 1, "made_at": "", "made_by": "",
    }  # fmt: skip
    return zipped(
        path,
        {
            "manifest.json": unlined([manifest]),
            "checkpoint": str(signed(Checkpoint(key.name, len(entries), grown.root()).text, [key])).encode(),
            "checkpoints.jsonl": b"",
            "log.vkey": f"{key.verifier}\n".encode(),
            "events.jsonl": unlined(told),
        },
    )


# Both verifiers.


@cache
def interpreters() -> Sequence[str]:
    """This Python, and another one that has `cryptography` if there is one."""
    named = [os.environ.get("PREFECT_AUDIT_OTHER_PYTHON"), "/usr/bin/python3"]
    named += [shutil.which(f"python3.{minor}") for minor in range(9, 15)]
    probe = "import cryptography, sys; sys.exit(sys.version_info < (3, 9))"
    others = (name for name in named if name and Path(name).exists())
    works = (name for name in others if not subprocess.run([name, "-I", "-c", probe], capture_output=True).returncode)
    return [sys.executable, *[name for name in works if Path(name).resolve() != Path(sys.executable).resolve()][:1]]


@dataclass(frozen=True)
class Said:
    """What the file that comes along said."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Answers:
    """What the verifiers came to over one thing."""

    ours: Verdict
    theirs: tuple[Said, ...]  # by each interpreter

    @property
    def answer(self) -> str:
        """On which all agree, in one line each and without a traceback."""
        for one in self.theirs:
            assert one.stderr == ""
            assert one.code == EXIT_CODES[self.ours.answer], f"{one.stdout}\n{self.ours}"
            assert one.stdout.startswith(self.ours.answer)
        assert len({one.stdout for one in self.theirs}) == 1 or self.ours.answer != "held"
        return self.ours.answer


def verified(
    path: Path, *, key: VerifierKey | None = None, kept: Sequence[str] = (), witnesses: Sequence[VerifierKey] = ()
) -> Answers:
    """Both verifiers over a bundle, or a proof's folder."""
    ours = (verify_proof if path.is_dir() else verify_bundle)(path, key=key, kept=kept, witnesses=witnesses)
    with tempfile.TemporaryDirectory() as empty:
        words = ["--key", str(key)] if key else []
        for nth, note in enumerate(kept):
            (Path(empty) / str(nth)).write_text(note)
            words += ["--checkpoint", str(Path(empty) / str(nth))]
        words += [word for witness in witnesses for word in ("--witness", str(witness))]
        return Answers(ours, tuple(_said(python, [str(path.absolute()), *words]) for python in interpreters()))


# Loads the file that comes along once, then runs it with each line's words: a start of Python takes longer than most
# of what is checked.
_DRIVER = """
import contextlib, importlib.util, io, json, sys, traceback
found = importlib.util.spec_from_file_location("verify", sys.argv[1])
module = sys.modules["verify"] = importlib.util.module_from_spec(found)
found.loader.exec_module(module)
for line in sys.stdin:
    sys.argv[1:] = json.loads(line)
    out, code, error = io.StringIO(), None, ""
    try:
        with contextlib.redirect_stdout(out):
            code = module.main()
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps([code, out.getvalue(), error]), flush=True)
"""


@cache
def _running(python: str) -> "subprocess.Popen[str]":
    """The file that comes along, in an empty folder, with none of our packages in sight; ends with this process."""
    empty = tempfile.mkdtemp(prefix="empty-")
    atexit.register(shutil.rmtree, empty)
    command = [python, "-I", "-c", _DRIVER, str(VERIFIER)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=empty, env={}, stdin=pipe, stdout=pipe, text=True, encoding="utf-8")


def _said(python: str, words: Sequence[str]) -> Said:
    running = _running(python)
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write(f"{orjson.dumps(words).decode()}\n")
    running.stdin.flush()
    return Said(*orjson.loads(running.stdout.readline()))
