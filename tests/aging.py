"""A store with a past: a use case whose months lie years back, as its recorders then wrote them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from audit.events import payloads as p
from audit.events.canonical import canonical, timestamp
from audit.events.event import ENVELOPE_KEYS, Event, make_event, uuid7
from audit.events.payloads import Payload
from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store

ACTOR = "p:7c1e0f" + "0" * 58
SPEC = "mortgage"
MARKER = "Erika Mustermann"  # stands in every payload of a run, and nowhere else
KEPT = {"decisions": "25 months", "runs": "6 months", "findings": "25 months", "lineage": "forever"}


def recorded(event: Event, at: datetime) -> Event:
    """The same event, as if it had happened and been recorded at that time."""
    aged = replace(event, time=timestamp(at), recorded_at=timestamp(at))
    return replace(aged, envelope=canonical({key: getattr(aged, key) for key in ENVELOPE_KEYS}).decode())


def event(type: str, payload: Payload, subject: str, at: datetime, **around: str) -> Event:
    return recorded(make_event(type, payload, source="test", subject=subject, actor=ACTOR, **around), at)


def policy(at: datetime, kept: Mapping[str, str] = KEPT, spec: str = SPEC) -> Event:
    """What a run puts on record of its spec's retention."""
    details = [p.Named(name=f"retention.{of}", value=time) for of, time in kept.items()]
    facts = p.ChangeFacts(spec=spec, what="spec", is_now=f"sha256:{len(details)}", details=details)
    return event("pipeline.changed", facts, f"spec/{spec}", at)


def a_dataset(stage: str, version: int, spec: str = SPEC) -> p.Used:
    digest = sha256(f"{spec}/{stage}/{version}".encode()).hexdigest()
    return p.Used(
        name="return", kind="dataset", of=f"{spec}/{stage}", version=version, rows=10,
        address=f"artifact://sha256/{digest}", digest=f"sha256:{digest}",
    )  # fmt: skip


def a_model(version: int, spec: str = SPEC) -> p.Used:
    digest = sha256(f"{spec}/model/{version}".encode()).hexdigest()
    return p.Used(
        name="model", kind="model", of=spec, version=version,
        address=f"artifact://sha256/{digest}", digest=f"sha256:{digest}",
    )  # fmt: skip


@dataclass(frozen=True)
class Month:
    """One month's scoring run and what it recorded."""

    begins: datetime
    flow: str
    task: str
    events: tuple[Event, ...]

    def of(self, *types: str) -> list[str]:
        """Ids of its events of these types; of all types if none is named."""
        return [event.id for event in self.events if not types or event.type in types]


def scoring(begins: datetime, nth: int, spec: str = SPEC) -> Month:
    """A flow run that decides on a month and looks for drift in it."""
    flow, task = uuid7(), uuid7()
    state = p.RunState(run_name=f"scoring {begins:%Y-%m}", of="scoring", parameters=[p.Named(name="who", value=MARKER)])
    of_task = state.model_copy(update={"run_name": f"score {begins:%Y-%m}", "of": "score"})
    of_flow, of_both = {"flow_run_id": flow}, {"flow_run_id": flow, "task_run_id": task}
    window, segment = f"{begins:%Y-%m}", a_dataset("decisions", nth, spec)
    scored = p.ScoringFacts(
        spec=spec, window=window, model=a_model(1, spec), segment=segment, inputs=a_dataset("features", nth, spec),
        rows=10, failed=0, decisions=[p.Named(name="positive", value=4)],
    )  # fmt: skip
    checked = p.DriftFacts(
        spec=spec, window=window, reference=a_dataset("features", 1, spec), current=a_dataset("features", nth, spec),
        sample_rows=10, seed=0, columns=[], watched=0, drifted=0, share=0.3, rule="none", detected=False,
    )  # fmt: skip
    told = (
        ("flow_run.running", state, f"flow-run/{flow}", of_flow),
        ("task_run.running", of_task, f"task-run/{task}", of_both),
        ("predictions.scored", scored, f"segment/{spec}/decisions/{nth}", of_both),
        ("drift.checked", checked, f"dataset/{spec}/features/{nth}", of_both),
        ("task_run.completed", of_task, f"task-run/{task}", of_both),
        ("flow_run.completed", state, f"flow-run/{flow}", of_flow),
    )
    events = (
        event(type, payload, subject, begins + timedelta(minutes=after), **around)
        for after, (type, payload, subject, around) in enumerate(told)
    )
    return Month(begins, flow, task, tuple(events))


def training(begins: datetime, version: int, spec: str = SPEC) -> list[Event]:
    """How a model version came about and became the champion."""
    flow = uuid7()
    ingested, valid, features = (a_dataset(stage, version, spec) for stage in ("ingested", "validated", "features"))
    train, test, model = a_dataset("train", version, spec), a_dataset("test", version, spec), a_model(version, spec)
    step = p.StageFacts(spec=spec, model=model, version=version, environment="none", reason="evaluated")
    deployed = step.model_copy(update={"environment": "production", "reason": "all gates held"})
    told: list[tuple[str, Payload, str]] = [
        ("dataset.ingested", _dataset_facts(ingested, spec), f"dataset/{ingested.of}/{version}"),
        (
            "dataset.validated",
            p.ValidationFacts(
                spec=spec, checked=ingested, valid=valid, rows=10, rejected_rows=0, held=True, expectations=[]
            ),
            f"dataset/{ingested.of}/{version}",
        ),
        (
            "dataset.transformed",
            _dataset_facts(features, spec).model_copy(update={"made_from": [valid]}),
            f"dataset/{features.of}/{version}",
        ),
        (
            "dataset.split",
            p.SplitFacts(spec=spec, made_from=features, train=train, test=test, by="time"),
            f"dataset/{train.of}/{version}",
        ),
        (
            "model.trained",
            p.TrainingFacts(
                spec=spec,
                model=model,
                trained_on=train,
                estimator="logistic_regression",
                hyperparameters=[],
                features=[],
                target="approve",
                seeds=[],
                libraries=[],
                rows=8,
                seconds=1.0,
            ),
            f"model/{spec}/unregistered",
        ),
        (
            "model.evaluated",
            p.EvaluationFacts(spec=spec, model=model, tested_on=test, metrics=[], gates=[], held=True, seed=0),
            f"model/{spec}/unregistered",
        ),
        ("model.registered", step, f"model/{spec}/v{version}"),
        ("model.deployed", deployed, f"model/{spec}/v{version}"),
    ]
    return [
        event(type, payload, subject, begins + timedelta(minutes=after), flow_run_id=flow)
        for after, (type, payload, subject) in enumerate(told)
    ]


def retired(version: int, at: datetime, spec: str = SPEC) -> Event:
    facts = p.StageFacts(
        spec=spec, model=a_model(version, spec), version=version, environment="none",
        previous_environment="production", reason="replaced",
    )  # fmt: skip
    return event("model.retired", facts, f"model/{spec}/v{version}", at)


def _dataset_facts(made: p.Used, spec: str) -> p.DatasetFacts:
    assert made.version
    return p.DatasetFacts(
        spec=spec, name=made.of, version=made.version, digest=made.digest, address=made.address, rows=10, columns=[]
    )


def opened(*events: Sequence[Event]) -> AuditStore:
    """This AUDIT_HOME's store, with these events in it and all of its keys."""
    settings.cache_clear()
    close_stores()
    initialise("acme.example/mortgage")
    store = open_store()
    append(store, [event for some in events for event in some])
    return store


def months(year: int, *numbers: int) -> list[datetime]:
    return [datetime(year, number, 3, 9, tzinfo=UTC) for number in numbers]
