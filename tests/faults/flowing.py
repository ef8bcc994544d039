"""Whole flows in processes of their own, against one Prefect server, and what is on record of their task runs."""

import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text

from audit.store.engine import AuditStore
from tests.faults.conftest import wait_until
from tests.faults.doubling import LINE
from tests.faults.processes import Child, Mother


@dataclass
class FlowProcess:
    """One that runs a flow of `n` task runs; before the end of the xth it waits for `go(x)`."""

    mother: Mother
    api: str
    folder: Path
    n: int
    waits_at: tuple[int, ...] = ()
    at_once: bool = False
    retry_seconds: float = 0
    environ: dict[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: secrets.token_hex(4))

    def start(self) -> Child:
        return self.mother.start(
            "run_a_flow",
            environ=self.environ,
            api=self.api,
            retry_seconds=self.retry_seconds,
            n=self.n,
            told=str(self._told),
            until={x: str(self._go(x)) for x in self.waits_at},
            at_once=self.at_once,
            result=str(self._result),
        )

    def go(self, x: int) -> None:
        self._go(x).touch()

    def until_told(self, lines: int) -> None:
        """Wait for so many words of tasks that began or ended."""
        wait_until(lambda: self._told.exists() and self._told.stat().st_size >= lines * LINE, f"{lines} words of tasks")

    def until_it_waits(self, x: int) -> None:
        self.until_told(2 * x + 1)

    @property
    def result(self) -> int:
        return int(self._result.read_text())

    @property
    def began(self) -> set[str]:
        return self._runs("began")

    @property
    def ended(self) -> set[str]:
        return self._runs("ended")

    def _runs(self, what: str) -> set[str]:
        return {line.split()[1] for line in self._told.read_text().splitlines() if line.startswith(what)}

    @property
    def _told(self) -> Path:
        return self.folder / f"{self.name}.runs"

    @property
    def _result(self) -> Path:
        return self.folder / f"{self.name}.result"

    def _go(self, x: int) -> Path:
        return self.folder / f"{self.name}.go{x}"


def states_of_runs(store: AuditStore) -> dict[str, list[str]]:
    """What is on record of each task run, in the order of the record."""
    query = "SELECT task_run_id, type FROM event WHERE type >= 'task_run.' AND type < 'task_run/' ORDER BY time, seq"
    found = defaultdict[str, list[str]](list)
    with store.reading() as connection:
        for run, type in connection.execute(text(query)):
            found[run].append(type.removeprefix("task_run."))
    return dict(found)
