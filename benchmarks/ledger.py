"""What sealing, proving and verifying cost, each against the least that could do the same.

    python benchmarks/ledger.py [--events 1000000] [--rounds 3] [--folder DIR]

The two sides of a ratio run one after the other in each round, on the same rows of the same file. Only ratios within
one call mean anything; seconds and milliseconds stand beside them for orientation.
"""

import argparse
import hashlib
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from audit.events.event import ENVELOPE_KEYS, Event, make_event, uuid7
from audit.events.payloads import RunState
from audit.ledger import tree
from audit.ledger.keys import read_log_key
from audit.ledger.sealer import BATCH, KEPT, reader, seal
from audit.recording.initialise import initialise
from audit.settings import Settings
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store

ACTOR = "p:" + "0" * 64
FEW = 10_000


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--events", type=int, default=1_000_000)
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--folder", type=Path, help="where the stores go; some 4 KB an event")
    asked.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.peak:
        _verify(_store(given.peak))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        _measure(Path(folder), given.events, given.rounds)


def _measure(folder: Path, events: int, rounds: int) -> None:
    few, many = _made(folder / "few", FEW), _made(folder / "many", events)
    print(f"{events:,} events, {many.stat().st_size / 1e9:.2f} GB, {rounds} rounds; the least / ours (1 would be free)")
    _show("seal", [(_bare_seal(_copy(many, "bare")), _seal(_copy(many, "ours"))) for _ in range(rounds)])
    _seal(many), _seal(few)
    stores = {"few": _store(few), "many": _store(many)}
    _show(
        "verify the tree",
        [(_read_envelopes(many), _timed(lambda: _verify_tree(stores["many"]))) for _ in range(rounds)],
    )
    _show("verify all", [(_read_and_compare(many), _timed(lambda: _verify(stores["many"]))) for _ in range(rounds)])
    _show("append at 10,000 / at all", [(_append(stores["few"]), _append(stores["many"])) for _ in range(rounds)])
    few_ms = [_seal_ten(many) * 1e3 for _ in range(21)]
    print(f"seal ten events             {statistics.median(few_ms):7.2f} ms   (max {max(few_ms):.2f})")
    proofs = [_prove(stores["many"], at) * 1e3 for at in range(0, events, events // 200)]
    print(f"an inclusion proof          {statistics.median(proofs):7.2f} ms   (max {max(proofs):.2f})")
    peak = subprocess.run([sys.executable, __file__, "--peak", str(many)], check=True, capture_output=True, text=True)
    print(f"verify all, peak memory     {float(peak.stdout.splitlines()[-1]):7.0f} MiB")


def _made(home: Path, events: int) -> Path:
    """A store with its key and so many unsealed events of task runs."""
    where = _where(home)
    initialise("bench.example/log", where)
    connection = sqlite3.connect(home / "audit.db", isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    names = ("id", *ENVELOPE_KEYS[1:], "envelope")
    event_row = f"INSERT INTO event ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    for at in range(0, events, 1_000):
        connection.execute("BEGIN")
        for event in (_event() for _ in range(min(1_000, events - at))):
            seq = connection.execute(event_row, [getattr(event, name) for name in names]).lastrowid
            connection.execute("INSERT INTO payload VALUES (?, ?, ?)", (seq, event.salt, event.body))
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    close_stores()
    return home / "audit.db"


def _event() -> Event:
    run = uuid7()
    return make_event(
        "task_run.completed",
        RunState(run_name="score flights 2013-07", of="score", state="Completed", attempt=1, tags=["flights"] * 8),
        source="bench",
        subject=f"task-run/{run}",
        actor=ACTOR,
        task_run_id=run,
        flow_run_id=run,
    )


def _bare_seal(db: Path) -> float:
    """Hash the same events and insert their leaves, in the same batches, with nothing else."""
    connection = sqlite3.connect(db, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    for trigger in [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
        connection.execute(f"DROP TRIGGER {trigger}")
    began = time.perf_counter()
    last = 0
    while True:
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(
            "SELECT seq, envelope FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (last, BATCH)
        ).fetchall()
        leaves = [(seq - 1, seq, hashlib.sha256(b"\x00" + envelope.encode()).digest()) for seq, envelope in rows]
        connection.executemany("INSERT INTO leaf VALUES (?, ?, ?)", leaves)
        connection.execute("COMMIT")
        if len(rows) < BATCH:
            break
        last = rows[-1][0]
    seconds = time.perf_counter() - began
    connection.close()
    shutil.rmtree(db.parent)
    return seconds


def _seal(db: Path) -> float:
    store, key = _store(db), read_log_key(_where(db.parent).keys_path)
    began = time.perf_counter()
    while seal(store, key, actor=ACTOR):
        pass
    seconds = time.perf_counter() - began
    if db.parent.name == "ours":
        shutil.rmtree(db.parent)
    return seconds


def _seal_ten(db: Path) -> float:
    store, key = _store(db), read_log_key(_where(db.parent).keys_path)
    append(store, [_event() for _ in range(10)])
    kept = _where(db.parent).keys_path / KEPT
    return _timed(lambda: seal(store, key, actor=ACTOR, kept=kept))


def _prove(store: AuditStore, index: int) -> float:
    def proof() -> None:
        with store.reading() as connection:
            size = connection.exec_driver_sql("SELECT max(size) FROM checkpoint").scalar_one()
            tree.inclusion_proof(index, size, reader(connection))

    return _timed(proof)


def _append(store: AuditStore) -> float:
    """Two hundred appends, a commit each."""
    events = [_event() for _ in range(200)]

    def appends() -> None:
        for event in events:
            append(store, [event])

    return _timed(appends)


def _read_envelopes(db: Path) -> float:
    """Read the envelopes in the tree's order and hash each."""

    def read() -> None:
        rows = sqlite3.connect(db).execute("SELECT envelope FROM leaf JOIN event ON event_seq = seq ORDER BY idx")
        while batch := rows.fetchmany(1_000):
            for (envelope,) in batch:
                hashlib.sha256(b"\x00" + envelope.encode()).digest()

    return _timed(read)


def _read_and_compare(db: Path) -> float:
    """Read envelopes, columns and payloads, hash both, and hold every column against its envelope."""
    columns = ", ".join(ENVELOPE_KEYS)

    def read() -> None:
        rows = sqlite3.connect(db).execute(
            f"SELECT envelope, salt, body, {columns} FROM event LEFT JOIN payload ON event_seq = seq ORDER BY seq"
        )
        while batch := rows.fetchmany(1_000):
            for envelope, salt, body, *values in batch:
                hashlib.sha256(b"\x00" + envelope.encode()).digest()
                sealed = orjson.loads(envelope)
                assert [sealed[key] for key in ENVELOPE_KEYS] == values
                assert sealed["payload_hash"] == "sha256:" + hashlib.sha256(salt + body.encode()).hexdigest()

    return _timed(read)


def _verify_tree(store: AuditStore) -> None:
    """Hash the envelopes into the tree, and hold its root against the stored one."""
    from audit.answers.walk import grown
    from audit.store.evidence import snapshot

    with snapshot(store) as taken:
        size = taken.tree_size()
        implied = grown(taken, size).root()
    with store.reading() as connection:
        assert implied == tree.root(size, reader(connection))


def _verify(store: AuditStore) -> None:
    from audit.answers.verify import verify

    verdict = verify(store)
    assert verdict.answer == "held", verdict


def _where(home: Path) -> Settings:
    return Settings(home=home, database_url=None, artifacts_url=(home / "artifacts").as_uri())


def _store(db: Path) -> AuditStore:
    return open_store(_where(db.parent))


def _copy(db: Path, name: str) -> Path:
    """The store with its keys in a folder of that name."""
    made = db.parent.with_name(name)
    shutil.copytree(db.parent, made)
    close_stores()
    return made / db.name


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _show(what: str, rounds: list[tuple[float, float]]) -> None:
    ratios = [least / ours for least, ours in rounds]
    least, ours = (statistics.median(side) for side in zip(*rounds, strict=True))
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{what:<27} {statistics.median(ratios):7.2f}   ({shown})   {least:.2f} s against {ours:.2f} s")


if __name__ == "__main__":
    main()
