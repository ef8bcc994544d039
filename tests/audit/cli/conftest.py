"""A store with a day's work in it, and the command as people run it."""

import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from audit.cli.app import main
from audit.events import payloads as p
from audit.events.event import Event, make_event, uuid7
from audit.events.payloads import Payload, RunState, Used
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store
from tests.anchoring import authority, witness  # noqa: F401  # fixtures

BEGAN = datetime(2026, 11, 24, 21, 4, 1, tzinfo=UTC)
ACTOR = "p:7c1e0f" + "0" * 58


@pytest.fixture
def store(home: Path) -> AuditStore:
    close_stores()
    initialise("acme.example/flights")
    return open_store()


@dataclass(frozen=True)
class Shown:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Audit = Callable[..., Shown]


@pytest.fixture
def audit(home: Path) -> Audit:
    """The command's own entry in this process, its output in what is no terminal: an import each would take minutes."""

    def run(*words: str, **environ: str) -> Shown:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=environ.get("PYTHONIOENCODING", "utf-8")) for _ in range(2)]
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            for name, value in environ.items():
                patched.setenv(name, value)
            patched.setattr(sys, "argv", ["audit", *words])
            settings.cache_clear()
            with pytest.raises(SystemExit) as ended:
                main()
        settings.cache_clear()
        out, err = (_text(stream) for stream in streams)
        return Shown(int(ended.value.code or 0), out, err)

    return run


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


@pytest.fixture
def audit_process(home: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """The command in a process of its own, its output in pipes."""

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "audit", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


def an_event(type: str, payload: Payload, *, after: float = 0, subject: str = "store", **more: Any) -> Event:
    return make_event(
        type, payload, source="test", subject=subject, actor=ACTOR, time=BEGAN + timedelta(seconds=after), **more
    )


def a_dataset(name: str, rows: int, version: int = 1, *, as_: str = "return") -> Used:
    digest = sha256(f"{name}/{version}".encode()).hexdigest()
    return Used(
        name=as_, kind="dataset", of=name, version=version, rows=rows,
        address=f"artifact://sha256/{digest}", digest=f"sha256:{digest}",
    )  # fmt: skip


def a_model(version: int, *, as_: str = "return", digest: str = "ab") -> Used:
    return Used(
        name=as_, kind="model", of="flights", version=version,
        address=f"artifact://sha256/{digest * 32}", digest=f"sha256:{digest * 32}",
    )  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run to be, and how its states become events."""

    kind: str
    id: str
    flow_run_id: str
    name: str
    of: str

    def state(self, state: str, after: float, **facts: Any) -> Event:
        return an_event(
            f"{self.kind}.{state}",
            RunState(run_name=self.name, of=self.of, flow_name="training", **facts),
            subject=f"{self.kind.replace('_', '-')}/{self.id}",
            after=after,
            flow_run_id=self.flow_run_id,
            task_run_id=self.id if self.kind == "task_run" else None,
        )

    def fact(self, type: str, payload: Payload, after: float, subject: str) -> Event:
        return an_event(type, payload, subject=subject, after=after, flow_run_id=self.flow_run_id, task_run_id=self.id)


def a_flow_run(name: str, of: str = "training", id: str | None = None) -> Run:
    id = id or uuid7()
    return Run("flow_run", id, id, name, of)


def a_task_run(flow: Run, name: str, of: str = "stage", id: str | None = None) -> Run:
    return Run("task_run", id or uuid7(), flow.id, name, of)


@dataclass(frozen=True)
class Day:
    """The runs of one day, by name."""

    pipeline: Run
    training: Run
    ingest: Run
    validate: Run
    train: Run
    promote: Run


@pytest.fixture
def day(store: AuditStore) -> Day:
    """A pipeline whose nested training ingests, validates (with a retry), trains and promotes."""
    pipeline = a_flow_run("pipeline flights", "pipeline")
    training = a_flow_run("training flights 2013-01…06")
    day = Day(
        pipeline,
        training,
        *(a_task_run(training, name, name) for name in ("ingest", "validate", "train_model", "promote")),
    )
    append(store, [*flows(day), *ingesting(day), *validating(day), *judging(day)])
    return day


def flows(day: Day) -> Sequence[Event]:
    code = p.Code(commit="81c2e0f" + "0" * 33, dirty=False, source="flows.training.training")
    return [
        day.pipeline.state("running", 0, code=code),
        day.training.state("running", 1, code=code, parent_flow_run_id=day.pipeline.id),
        day.training.state("completed", 13.4, parent_flow_run_id=day.pipeline.id),
        day.pipeline.state("completed", 14),
    ]


def ingesting(day: Day) -> Sequence[Event]:
    made = a_dataset("flights/ingested", 336_776)
    facts = p.DatasetFacts(
        spec="flights", name=made.of, version=1, digest=made.digest, address=made.address, rows=336_776,
        columns=[], window="2013-01…2013-06",
    )  # fmt: skip
    given = [p.Named(name="spec", value="flights"), p.Named(name="window", value="2013-01…2013-06")]
    return [
        day.ingest.state("running", 1, parameters=given),
        day.ingest.fact("dataset.ingested", facts, 1.5, "dataset/flights/ingested/1"),
        day.ingest.state("completed", 1.6, parameters=given, inputs=[], outputs=[made]),
    ]


def validating(day: Day) -> Sequence[Event]:
    checked = a_dataset("flights/ingested", 336_776, as_="rows")
    valid, rejected = a_dataset("flights/validated", 327_346), a_dataset("flights/rejected", 9_430)
    rule = p.Expectation(rule="not null", column="dep_time", severity="warning", held=True)
    facts = p.ValidationFacts(
        spec="flights", checked=checked, valid=valid, rejected=rejected, rows=336_776, rejected_rows=9_430, held=True,
        expectations=[rule, rule, rule.model_copy(update={"held": False})],
    )  # fmt: skip
    error = p.RunError(kind="MemoryError", message="no room", traceback="Traceback …\nMemoryError: no room")
    return [
        day.validate.state("running", 2),
        day.validate.state("attempt_failed", 2.5, error=error, attempt=1),
        day.validate.state("retrying", 3, attempt=2),
        day.validate.fact("dataset.validated", facts, 3.5, "dataset/flights/validated/1"),
        day.validate.state("completed", 4, inputs=[checked], outputs=[valid], attempt=2),
    ]


def judging(day: Day) -> Sequence[Event]:
    rows = a_dataset("flights/train", 160_678, as_="rows")
    trained = p.TrainingFacts(
        spec="flights", model=a_model(0), trained_on=rows, estimator="hist_gradient_boosting", hyperparameters=[],
        features=["dep_hour"], target="late", seeds=[], libraries=[], rows=160_678, seconds=2.4,
    )  # fmt: skip
    judged = p.EvaluationFacts(
        spec="flights", model=a_model(0), tested_on=a_dataset("flights/test", 40_000),
        metrics=[p.Metric(name="auc", value=0.7512, low=0.7441, high=0.7583)],
        gates=[p.Gate(name="auc", limit=">= 0.7", value=0.7512, held=True)], held=True, seed=0,
    )  # fmt: skip
    registered = p.StageFacts(spec="flights", model=a_model(1), version=1, environment="none", reason="evaluated")
    deployed = registered.model_copy(update={"environment": "production", "reason": "all 1 gates held"})
    subject = "model/flights/v1"
    return [
        day.train.state("running", 4),
        day.train.fact("model.trained", trained, 6, "model/flights/unregistered"),
        day.train.state("completed", 6.6, inputs=[rows], outputs=[a_model(0)]),
        day.promote.state("running", 7),
        day.promote.fact("model.evaluated", judged, 7.1, "model/flights/unregistered"),
        day.promote.fact("model.registered", registered, 7.2, subject),
        day.promote.fact("model.promoted", deployed.model_copy(update={"environment": "staging"}), 7.3, subject),
        day.promote.fact("model.deployed", deployed, 7.4, subject),
        day.promote.state("completed", 7.5, inputs=[a_model(1, as_="model")], outputs=[a_model(1)]),
    ]
