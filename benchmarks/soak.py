"""A million events from eight processes while the store fails and comes back ten times, beside a sealer.

    python benchmarks/soak.py [--events 1000000] [--stops 10] [--processes 8] [--engine postgres|sqlite]
                              [--folder DIR] [--json FILE]

PostgreSQL, from the package index, is stopped and started: in turn as an administrator does it, and as a crash does.
A SQLite file cannot be stopped, so another process holds its lock for longer than any writer waits. An outage lasts
until a number of events were written into it, which wait in the spool. Each writer keeps a file of what it was told is
on record; at the end every line of these is looked for in the store, which must also verify.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from audit.answers.verify import verify
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store.engine import AuditStore, close_stores, make_store, open_store
from tests.faults import databases, witness
from tests.faults.processes import Child, Mother, ended_at_last

IN_OUTAGE = 2_000  # events that are written while the store is away, each time; fewer where all are few
LOOK_SECONDS = 0.05
Outage = Callable[[], AbstractContextManager[None]]


@dataclass
class Figures:
    """What came of it."""

    engine: str
    events: int  # that writers were told are on record
    processes: int
    stops: int
    missing: int = 0
    changed: int = 0
    lost: int = 0  # that the record says were lost
    verified: str = ""
    sealed: int = 0
    checkpoints: int = 0
    from_the_spool: int = 0
    seconds_writing: float = 0
    seconds_away: float = 0
    seconds_until_all_is_sealed: float = 0
    seconds_verifying: float = 0

    @property
    def held(self) -> bool:
        return self.verified == "held" and not (self.missing or self.changed or self.lost)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--events", type=int, default=1_000_000)
    asked.add_argument("--stops", type=int, default=10)
    asked.add_argument("--processes", type=int, default=8)
    asked.add_argument("--engine", choices=("postgres", "sqlite"), default="postgres")
    asked.add_argument("--folder", type=Path, help="where the store goes; some 4 KB an event")
    asked.add_argument("--json", type=Path, help="where the figures go")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        soak = Soak(Path(folder), given.engine, given.events, given.stops, given.processes)
        figures = soak.run()
    words = json.dumps(asdict(figures) | {"held": figures.held}, indent=2)
    if given.json:
        given.json.write_text(words + "\n")
    print(words)
    return 0 if figures.held else 1


@dataclass
class Soak:
    """One run, in a folder of its own."""

    folder: Path
    engine: str
    events: int
    stops: int
    processes: int

    def run(self) -> Figures:
        self.witnesses.mkdir()
        os.environ |= {"AUDIT_HOME": str(self.folder / "var"), "AUDIT_MODE": "strict", "DO_NOT_TRACK": "1"}
        os.environ |= {"PREFECT_HOME": str(self.folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        with self._store() as outages:
            settings.cache_clear()
            make_store()
            initialise("soak.example/log")
            self.mother = Mother(self.folder / "said.txt", seconds=0)
            try:
                return self._figures(outages)
            finally:
                self.mother.close()
                close_stores()

    @property
    def witnesses(self) -> Path:
        return self.folder / "witnesses"

    def _figures(self, outages: Sequence[Outage]) -> Figures:
        figures = Figures(self.engine, 0, self.processes, self.stops)
        runs = self.events // 2 // self.processes  # a task run is two events
        began = time.monotonic()
        writers = [
            self.mother.start("write", witness=str(self.witnesses / f"{nth}.told"), shares=[runs])
            for nth in range(self.processes)
        ]
        sealer = self.mother.start("seal", until=str(self.folder / "ended"), patient=True)
        with ended_at_last(*writers, sealer), self._progress(2 * runs * self.processes) as until:
            for nth, outage in zip(range(self.stops), cycle(outages), strict=False):
                until((nth + 1) * self.events // (self.stops + 1))
                away = time.monotonic()
                with outage():
                    until(witness.count(self.witnesses) + min(IN_OUTAGE, self.events // self.stops // 4))
                figures.seconds_away += time.monotonic() - away
            until(2 * runs * self.processes)
            self._demand_good_ends(writers)
            figures.seconds_writing = time.monotonic() - began
            (self.folder / "ended").touch()
            self._demand_good_ends([sealer])
        self.mother.run("start_up", witness=str(self.witnesses / "last.told"))
        self.mother.run("seal_the_rest")
        figures.seconds_until_all_is_sealed = time.monotonic() - began
        self._judge(open_store(), figures)
        return figures

    def _judge(self, store: AuditStore, figures: Figures) -> None:
        """Every line of the writers' own files against the store, and the store against what was sealed."""
        began = time.monotonic()
        said = verify(store)
        figures.seconds_verifying = time.monotonic() - began
        figures.verified = " ".join([said.answer, *(f"{one.about}: {one.what}" for one in said.faults), *said.unknown])
        figures.sealed, figures.checkpoints = said.size, said.checkpoints
        told = witness.told(self.witnesses)
        figures.events = len(told)
        figures.missing, figures.changed = witness.differences(store, told)
        figures.lost = witness.counted(store, "store.dropped")
        figures.from_the_spool = witness.counted(store, "store.replayed")

    def _demand_good_ends(self, children: Sequence[Child]) -> None:
        ends = [child.ended() for child in children]
        assert not any(ends), f"{ends}\n{self.mother.words()}"

    @contextmanager
    def _progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """Waits for so many events, and shows how many there are."""
        columns = (TextColumn("events"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as shown:
            bar = shown.add_task("events", total=total)

            def until(wanted: int) -> None:
                while (there := witness.count(self.witnesses)) < wanted:
                    shown.update(bar, completed=there)
                    time.sleep(LOOK_SECONDS)

            yield until
            shown.update(bar, completed=total)

    @contextmanager
    def _store(self) -> Iterator[Sequence[Outage]]:
        """An empty store; what can make it fail for a while."""
        if self.engine == "sqlite":
            yield [self._locked]
            return
        with databases.folder() as folder, databases.server(folder) as server:
            os.environ["AUDIT_DATABASE_URL"] = server.make_database("audit")
            yield [partial(_away, server.stop, server), partial(_away, server.crash, server)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        ready = self.folder / f"locked-{time.monotonic_ns()}"
        holder = self.mother.start("hold_the_lock", path=str(self.folder / "var" / "audit.db"), ready=str(ready))
        with ended_at_last(holder):
            while not ready.exists():
                time.sleep(LOOK_SECONDS)
            yield


@contextmanager
def _away(stop: Callable[[], None], server: databases.Server) -> Iterator[None]:
    stop()
    yield
    server.start()


if __name__ == "__main__":
    sys.exit(main())
