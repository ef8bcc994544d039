"""Every named query. Text SQL over a plain engine, so that `audit status` need not import sqlmodel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, text

from audit.events.references import ModelVersion
from audit.store.engine import AuditStore

PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event as it stands in the store; `payload` is empty where it was withdrawn."""

    seq: int
    id: str
    source: str
    type: str
    subject: str
    time: str
    severity: str
    actor: str
    flow_run_id: str | None
    task_run_id: str | None
    deployment: str | None
    trace_id: str | None
    recorded_at: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much is on record."""

    events: int
    flow_runs: int
    task_runs: int
    newest: str | None


_EVENT = """SELECT e.seq, e.id, e.source, e.type, e.subject, e.time, e.severity, e.actor, e.flow_run_id,
                   e.task_run_id, e.deployment, e.trace_id, e.recorded_at, p.body
              FROM event e LEFT JOIN payload p ON p.event_seq = e.seq"""


def counts(store: AuditStore) -> Counts:
    """Events, flow runs and task runs on record, counted over the indexes."""
    with store.reading() as connection:
        row = connection.execute(
            text(
                """SELECT (SELECT count(*) FROM event),
                          (SELECT count(DISTINCT flow_run_id) FROM event WHERE type = 'flow_run.running'),
                          (SELECT count(*) FROM task_run),
                          (SELECT recorded_at FROM event ORDER BY seq DESC LIMIT 1)"""
            )
        ).one()
    return Counts(*row)


def events(
    store: AuditStore,
    *,
    types: Sequence[str] = (),
    spec: str | None = None,
    run: str | None = None,
    since: str | None = None,
    after: int = 0,
    newest_first: bool = True,
    limit: int | None = None,
) -> Iterator[Recorded]:
    """Events that match, page by page. `types` may end in `.*`; `run` is a flow or task run id;
    `since` a timestamp, inclusive; `after` a seq, exclusive."""
    where, values = _conditions(types, spec, run, since)
    left = limit
    position = None if newest_first else after
    while left is None or left > 0:
        page = min(PAGE, left or PAGE)
        rows = _page(store, where, values, position, newest_first, page, after)
        yield from (_recorded(row) for row in rows)
        if len(rows) < page:
            return
        position = rows[-1].seq
        left = None if left is None else left - len(rows)


def event(store: AuditStore, id_or_prefix: str) -> list[Recorded]:
    """The events whose id begins so; at most three, for saying that a prefix is ambiguous."""
    with store.reading() as connection:
        rows = connection.execute(
            text(f"{_EVENT} WHERE e.id >= :low AND e.id < :high ORDER BY e.id LIMIT 3"), _prefix(id_or_prefix)
        ).all()
    return [_recorded(row) for row in rows]


def dataset_number(store: AuditStore, name: str, digest: str) -> int:
    """The version number under which `name` has this digest, or the next free one."""
    with store.reading() as connection:
        known = connection.execute(
            text("SELECT min(version) FROM dataset_version WHERE name = :name AND digest = :digest"),
            {"name": name, "digest": digest},
        ).scalar()
        if known:
            return int(known)
        highest = connection.execute(
            text("SELECT max(version) FROM dataset_version WHERE name = :name"), {"name": name}
        ).scalar()
    return int(highest or 0) + 1


def next_model_version(store: AuditStore, spec: str) -> int:
    """The version number that the next registered model of `spec` gets."""
    with store.reading() as connection:
        return model_number(connection, spec)


def model_number(connection: Connection, spec: str) -> int:
    """The same, under a lock that the caller holds."""
    highest = connection.execute(
        text(
            """SELECT max(json_extract(p.body, '$.version')) FROM event e JOIN payload p ON p.event_seq = e.seq
                WHERE e.type = 'model.registered' AND json_extract(p.body, '$.spec') = :spec"""
        ),
        {"spec": spec},
    ).scalar()
    return int(highest or 0) + 1


def champion(store: AuditStore, spec: str) -> ModelVersion | None:
    """The model version that makes `spec`'s decisions: the last one deployed to production."""
    deployed = next(events(store, types=("model.deployed",), spec=spec, limit=1), None)
    if deployed is None:
        return None
    model = deployed.payload["model"]
    return ModelVersion(
        name=spec, version=deployed.payload["version"], address=model["address"], digest=model["digest"]
    )


def flow_runs(store: AuditStore, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Flow runs, the latest first."""
    return _rows(store, "SELECT * FROM flow_run ORDER BY first_seq DESC LIMIT :limit", {"limit": _all(limit)})


def flow_runs_by_prefix(store: AuditStore, prefix: str) -> list[dict[str, Any]]:
    """Flow runs whose id begins so, at most three."""
    return _rows(
        store,
        """SELECT * FROM flow_run WHERE id IN (SELECT DISTINCT flow_run_id FROM event
            WHERE flow_run_id >= :low AND flow_run_id < :high LIMIT 3)""",
        _prefix(prefix),
    )


def task_runs_by_prefix(store: AuditStore, prefix: str) -> list[dict[str, Any]]:
    """Task runs whose id begins so, at most three."""
    return _rows(
        store,
        """SELECT * FROM task_run WHERE id IN (SELECT DISTINCT task_run_id FROM event
            WHERE task_run_id >= :low AND task_run_id < :high LIMIT 3)""",
        _prefix(prefix),
    )


def task_runs(store: AuditStore, flow_run_id: str) -> list[dict[str, Any]]:
    """Task runs of one flow run, in the order in which they began."""
    return _rows(
        store,
        """SELECT * FROM task_run WHERE id IN (SELECT DISTINCT task_run_id FROM event
            WHERE flow_run_id = :run AND task_run_id IS NOT NULL) ORDER BY started_at, first_seq""",
        {"run": flow_run_id},
    )


def subflow_runs(store: AuditStore, flow_run_id: str) -> list[dict[str, Any]]:
    """Flow runs that a flow run started, in order."""
    return _rows(
        store,
        "SELECT * FROM flow_run WHERE parent_flow_run_id = :run ORDER BY first_seq",
        {"run": flow_run_id},
    )


def datasets(store: AuditStore, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Dataset versions, each once, the latest first."""
    return _rows(
        store,
        """SELECT name, version, digest, address, rows, "window", min(made_at) AS first_made_at,
                  count(*) AS times, min(event_id) AS event_id, max(event_seq) AS seq
             FROM dataset_version GROUP BY name, version, digest ORDER BY seq DESC LIMIT :limit""",
        {"limit": _all(limit)},
    )


def _rows(store: AuditStore, sql: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    with store.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(text(sql), values)]


def _conditions(
    types: Sequence[str], spec: str | None, run: str | None, since: str | None
) -> tuple[list[str], dict[str, Any]]:
    where, values = [], {}
    if types:
        tests = []
        for index, type in enumerate(types):
            tests.append(f"e.type GLOB :type{index}" if type.endswith("*") else f"e.type = :type{index}")
            values[f"type{index}"] = type
        where.append(f"({' OR '.join(tests)})")
    if spec:
        where.append("json_extract(p.body, '$.spec') = :spec")
        values["spec"] = spec
    if run:
        where.append("(e.flow_run_id = :run OR e.task_run_id = :run)")
        values["run"] = run
    if since:
        where.append("e.time >= :since")
        values["since"] = since
    return where, values


def _page(
    store: AuditStore,
    where: list[str],
    values: dict[str, Any],
    position: int | None,
    newest_first: bool,
    page: int,
    after: int,
) -> Sequence[Row[Any]]:
    edge = "e.seq > :after" if newest_first else "e.seq > :position"
    if newest_first and position is not None:
        edge += " AND e.seq < :position"
    sql = f"{_EVENT} WHERE {' AND '.join([*where, edge])} ORDER BY e.seq {'DESC' if newest_first else ''} LIMIT :page"
    with store.reading() as connection:
        return connection.execute(text(sql), values | {"position": position, "after": after, "page": page}).all()


def _recorded(row: Row[Any]) -> Recorded:
    known = dict(row._mapping)
    body = known.pop("body")
    return Recorded(**known, payload=orjson.loads(body) if body else {})


def _prefix(prefix: str) -> dict[str, str]:
    return {"low": prefix, "high": prefix + "\uffff"}


def _all(limit: int | None) -> int:
    return -1 if limit is None else limit
