"""Every named query. Text SQL over a plain engine, so that `audit status` need not import sqlmodel."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Row, Text, TextClause, bindparam, text

from audit.errors import InconsistentTree
from audit.store.engine import AuditStore

if TYPE_CHECKING:
    from audit.events.references import ModelVersion

PAGE = 1_000
LAST = "\uffff"  # is behind every letter of an id or a type
REPORT = '"kind":"report"'  # in the payload of a task run that came to one
NO_LIMIT = 2**62  # to SQLite it would be -1, to PostgreSQL NULL
MOST_PARAMETERS = 10_000  # SQLite takes 32,766 a query, PostgreSQL 65,535


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


_OF_EVENT = tuple(field.name for field in fields(Recorded) if field.name != "payload")
EVENT_COLUMNS = ", ".join(f"e.{name}" for name in _OF_EVENT)  # of an event `e`, as `recorded` takes them
_EVENT = f"SELECT {EVENT_COLUMNS}, p.body FROM event e LEFT JOIN payload p ON p.event_seq = e.seq"
_BEGINS = "{0} >= :low AND {0} < :high"
_ENDS = "substr({0}, length({0}) - length(:low) + 1) = :low"  # a negative position is SQLite's alone


def counts(store: AuditStore) -> Counts:
    """Events, flow runs and task runs on record, counted over the indexes."""
    with store.reading() as connection:
        row = connection.execute(
            text(
                """SELECT (SELECT count(*) FROM event),
                          (SELECT count(DISTINCT flow_run_id) FROM event
                            WHERE type >= 'flow_run.' AND type < 'flow_run/'),
                          (SELECT count(DISTINCT task_run_id) FROM event
                            WHERE task_run_id IS NOT NULL AND type >= 'task_run.' AND type < 'task_run/'),
                          (SELECT recorded_at FROM event ORDER BY seq DESC LIMIT 1)"""
            )
        ).one()
    return Counts(*row)


def events(
    store: AuditStore,
    *,
    types: Sequence[str] = (),
    severities: Sequence[str] = (),
    spec: str | None = None,
    run: str | None = None,
    since: str | None = None,
    after: int = 0,
    newest_first: bool = True,
    limit: int | None = None,
) -> Iterator[Recorded]:
    """Events that match, page by page. `types` may end in `.*`; `run` is a flow or task run id;
    `since` a timestamp, inclusive; `after` a seq, exclusive."""
    where, values = _conditions(types, severities, spec, run, since)
    left = limit
    position = None if newest_first else after
    while left is None or left > 0:
        page = min(PAGE, left or PAGE)
        rows = _page(store, where, values, position, newest_first, page, after)
        yield from (recorded(row) for row in rows)
        if len(rows) < page:
            return
        position = rows[-1].seq
        left = None if left is None else left - len(rows)


def event(store: AuditStore, part: str) -> list[Recorded]:
    """The events whose id begins with `part`, or where there is none, ends so; at most three, for saying that it
    is ambiguous."""
    with store.reading() as connection:
        for matches in (_BEGINS, _ENDS):
            few = f"SELECT seq FROM event WHERE {matches.format('id')} LIMIT 3"
            found = f"{_EVENT} WHERE e.seq IN ({few}) ORDER BY e.id"
            rows = connection.execute(text(found), _prefix(part)).all()
            if rows:
                break
    return [recorded(row) for row in rows]


def newest_seq(store: AuditStore) -> int:
    """The seq of the last event on record, 0 in an empty store."""
    with store.reading() as connection:
        return int(connection.execute(text("SELECT coalesce(max(seq), 0) FROM event")).scalar_one())


def waiting(spool: AuditStore) -> int:
    """How many events wait in a spool."""
    with spool.reading() as connection:
        return int(connection.execute(text("SELECT count(*) FROM event")).scalar_one())


def lost(store: AuditStore) -> int:
    """How many events reached neither store nor spool, as far as their processes could still tell."""
    return sum(dropped.payload.get("count", 0) for dropped in events(store, types=("store.dropped",)))


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


def model_number(connection: Connection, spec: str) -> int:
    """The version number that the next registered model of `spec` gets, if the caller holds the write lock."""
    highest = connection.execute(
        text(
            """SELECT max(CAST(json_extract(p.body, '$.version') AS INTEGER))
                 FROM event e JOIN payload p ON p.event_seq = e.seq
                WHERE e.type = 'model.registered' AND json_extract(p.body, '$.spec') = :spec"""
        ),
        {"spec": spec},
    ).scalar()
    return int(highest or 0) + 1


def champion(store: AuditStore, spec: str) -> "ModelVersion | None":
    """The model version that makes `spec`'s decisions: the last one deployed to production."""
    with store.reading() as connection:
        return champion_now(connection, spec)


def champion_now(connection: Connection, spec: str) -> "ModelVersion | None":
    """The same, under a lock that the caller may hold. By time: a deployment that was spooled comes in late."""
    from audit.events.references import ModelVersion

    deployed = connection.execute(
        text(
            """SELECT CAST(json_extract(p.body, '$.version') AS INTEGER) AS version,
                      json_extract(p.body, '$.model.address') AS address,
                      json_extract(p.body, '$.model.digest') AS digest
                 FROM event e JOIN payload p ON p.event_seq = e.seq
                WHERE e.type = 'model.deployed' AND json_extract(p.body, '$.spec') = :spec
                ORDER BY e.time DESC, e.seq DESC LIMIT 1"""
        ),
        {"spec": spec},
    ).one_or_none()
    return ModelVersion(name=spec, **deployed._mapping) if deployed else None


_STEPS = (
    "model.registered", "model.approval_requested", "model.approved", "model.promoted", "model.rejected",
    "model.deployed", "model.retired",
)  # fmt: skip
_ASKED = ("model.approval_requested", "model.approved")  # of a person; they move nothing


def steps_now(connection: Connection, subject: str) -> list[Recorded]:
    """What became of one model version, step by step, under a lock that the caller may hold."""
    rows = connection.execute(
        *bound(
            f"{_EVENT} WHERE e.type IN :types AND e.subject = :subject ORDER BY e.time, e.seq",
            {"types": _STEPS, "subject": subject},
        )
    )
    return [recorded(row) for row in rows]


def awaiting_approval(store: AuditStore) -> list[Recorded]:
    """The requests for approval that were not decided on yet, the oldest first."""
    with store.reading() as connection:
        rows = connection.execute(
            text(
                f"""{_EVENT} WHERE e.type = 'model.approval_requested' AND p.body IS NOT NULL AND NOT EXISTS (
                      SELECT 1 FROM event later WHERE later.subject = e.subject
                         AND later.type IN ('model.approved', 'model.rejected', 'model.deployed'))
                     ORDER BY e.seq"""
            )
        )
        return [recorded(row) for row in rows]


def alerts_now(
    connection: Connection, spec: str | None, kind: str, about: str | None, *, since: str, held_since: str
) -> list[Recorded]:
    """What was found of one kind and what people were told of it, the oldest first, under a lock that the caller may
    hold: messages and their fate since `since`, findings held back since `held_since`."""
    rows = connection.execute(
        text(
            f"""{_EVENT} WHERE (e.type IN ('alert.raised', 'alert.sent', 'alert.failed') AND e.time >= :since
                              OR e.type = 'alert.held' AND e.time >= :held_since)
                   AND {_is("json_extract(p.body, '$.spec')", "spec", spec)}
                   AND {_is("json_extract(p.body, '$.about')", "about", about)}
                   AND coalesce(json_extract(p.body, '$.of'), json_extract(p.body, '$.kind')) = :kind
                 ORDER BY e.seq"""
        ),
        {"spec": spec, "kind": kind, "about": about, "since": since, "held_since": held_since},
    )
    return [recorded(row) for row in rows]


def alert_topics(store: AuditStore, spec: str | None, since: str) -> list[tuple[str, str | None]]:
    """(kind, about) of everything of `spec` that was found or told of since `since`."""
    rows = _rows(
        store,
        f"""SELECT DISTINCT coalesce(json_extract(p.body, '$.of'), json_extract(p.body, '$.kind')) AS kind,
                           json_extract(p.body, '$.about') AS about
             FROM event e JOIN payload p ON p.event_seq = e.seq
            WHERE e.type IN ('alert.raised', 'alert.held') AND e.time >= :since
              AND {_is("json_extract(p.body, '$.spec')", "spec", spec)} ORDER BY 1, 2""",
        {"spec": spec, "since": since},
    )
    return [(row["kind"], row["about"]) for row in rows]


def recorded_of_types(connection: Connection, types: Sequence[str]) -> list[Recorded]:
    """Every event of the few that there are of these types, the oldest first, inside the caller's transaction."""
    rows = connection.execute(*bound(f"{_EVENT} WHERE e.type IN :types ORDER BY e.seq", {"types": types}))
    return [recorded(row) for row in rows]


def guards_in_place(store: AuditStore) -> bool:
    """Whether the database has the triggers that make it insert-only, and no others."""
    from audit.store.guards import changed_guards

    with store.reading() as connection:
        return not changed_guards(connection)


def damage(store: AuditStore) -> str | None:
    """What the database says of pages that are not as they should be; None where it knows of none. SQLite looks at
    every page for this, PostgreSQL counts those whose checksum was wrong when they were read."""
    with store.reading() as connection:
        if not store.is_postgres:
            said = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
            return None if said == "ok" else str(said)
        failures = "SELECT coalesce(checksum_failures, 0) FROM pg_stat_database WHERE datname = current_database()"
        count = connection.execute(text(failures)).scalar_one()
    return f"{count} pages had a wrong checksum" if count else None


def not_durable(store: AuditStore) -> list[str]:
    """The server's settings without which a commit may be gone after a power cut though it returned; SQLite's file is
    opened so that none is."""
    if not store.is_postgres:
        return []
    needed = "('fsync', 'full_page_writes', 'synchronous_commit')"
    off = f"SELECT name FROM pg_settings WHERE name IN {needed} AND setting = 'off' ORDER BY name"
    return [row["name"] for row in _rows(store, off, {})]


@dataclass(frozen=True, slots=True)
class Login:
    """As whom this process asks PostgreSQL, and which of the roles of deployments/postgres it has."""

    name: str
    roles: list[str]  # "superuser" and "owner", who can lift the guards, stand for all


def login(store: AuditStore) -> Login | None:
    """None on SQLite, where who can write the file can do everything."""
    if not store.is_postgres:
        return None
    may = "pg_has_role(current_user, {}, 'USAGE')"
    found = _rows(
        store,
        f"""SELECT current_user AS name, rolsuper AS superuser, {may.format("nspowner")} AS owner,
                   ARRAY(SELECT substr(rolname, 7) FROM pg_roles r
                          WHERE r.rolname LIKE 'audit\\_%' AND {may.format("r.oid")} ORDER BY 1) AS roles
              FROM pg_roles, pg_namespace WHERE rolname = current_user AND nspname = 'audit'""",
        {},
    )[0]
    above = [name for name in ("superuser", "owner") if found[name]]
    return Login(found["name"], above[:1] or found["roles"])


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


def run_ids(store: AuditStore, part: str) -> list[tuple[str, str]]:
    """(`flow_run` or `task_run`, id) of the runs whose id begins with `part`, or where there is none, ends so.

    Task runs' ids are UUIDv7: those of one minute begin alike, so the ending is what people tell them apart by. It
    takes a scan of the index. At most two of a kind, for saying that `part` is ambiguous.
    """
    for matches in (_BEGINS, _ENDS):
        sql = " UNION ALL ".join(
            f"""SELECT kind, id FROM (SELECT DISTINCT '{kind}' AS kind, {kind}_id AS id FROM event
                 WHERE {kind}_id IS NOT NULL AND {matches.format(f"{kind}_id")} LIMIT 2) AS {kind}s"""
            for kind in ("flow_run", "task_run")
        )
        if found := _rows(store, sql, _prefix(part)):
            break
    return [(row["kind"], row["id"]) for row in found]


def task_run_counts(store: AuditStore, flow_run_ids: Collection[str]) -> dict[str, int]:
    """How many task runs each of these flow runs made itself; those without any are left out."""
    counted = _rows(
        store,
        """SELECT flow_run_id, count(DISTINCT task_run_id) AS task_runs FROM event
            WHERE flow_run_id IN :ids AND task_run_id IS NOT NULL GROUP BY flow_run_id""",
        {"ids": flow_run_ids},
    )
    return {row["flow_run_id"]: row["task_runs"] for row in counted}


def flow_run_seconds(store: AuditStore, ids: Collection[str]) -> dict[str, float]:
    """How long each of these flow runs took; those that have not ended are left out."""
    ended = _rows(
        store,
        "SELECT id, duration_seconds FROM flow_run WHERE id IN :ids AND duration_seconds IS NOT NULL",
        {"ids": ids},
    )
    return {row["id"]: row["duration_seconds"] for row in ended}


def task_runs(store: AuditStore, flow_run_id: str) -> list[dict[str, Any]]:
    """Task runs of one flow run, in the order in which they began."""
    return _rows(
        store,
        """SELECT * FROM task_run WHERE id IN (SELECT DISTINCT task_run_id FROM event
            WHERE flow_run_id = :run AND task_run_id IS NOT NULL) ORDER BY started_at, first_seq""",
        {"run": flow_run_id},
    )


def task_runs_on_record(store: AuditStore, ids: Collection[str]) -> int:
    """How many of these task runs the store has."""
    known = "SELECT count(DISTINCT task_run_id) AS known FROM event WHERE task_run_id IN :ids"
    return sum(_rows(store, known, {"ids": some})[0]["known"] for some in _batched(dict.fromkeys(ids)))


def subflow_runs(store: AuditStore, flow_run_id: str, since: str) -> list[dict[str, Any]]:
    """Flow runs that a flow run which began at `since` started itself, in order.

    Found by their first events after that time, not through the view, which would read every flow run there is.
    """
    return _rows(
        store,
        """SELECT * FROM flow_run WHERE id IN (
              SELECT DISTINCT e.flow_run_id FROM event e JOIN payload p ON p.event_seq = e.seq
               WHERE e.type IN ('flow_run.running', 'flow_run.failed', 'flow_run.crashed', 'flow_run.cancelled')
                 AND e.time >= :since AND json_extract(p.body, '$.parent_flow_run_id') = :run)
            ORDER BY first_seq""",
        {"run": flow_run_id, "since": since},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """A registered model version: where it stands now, how it was judged last, what it was trained on."""

    spec: str
    version: int
    address: str
    digest: str
    environment: str
    champion: bool  # the one that makes the spec's decisions
    awaiting_approval: bool
    approved: bool
    approver: dict[str, Any] | None  # the person who decided on it
    registered_at: str
    reason: str  # of its last step
    evaluation: dict[str, Any] | None  # payload of the last model.evaluated
    trained_on: dict[str, Any] | None  # the dataset version


def models(store: AuditStore) -> list[RegisteredModel]:
    """Every registered model version, the latest first."""
    steps: dict[tuple[str, int], list[Recorded]] = {}
    for step in events(store, types=_STEPS, newest_first=False):
        if step.payload:
            steps.setdefault((step.payload["spec"], step.payload["version"]), []).append(step)
    judged, trained = list(_told(store, "model.evaluated")), list(_told(store, "model.trained"))
    champions = {spec: champion(store, spec) for spec in {spec for spec, _ in steps}}
    return [
        RegisteredModel(
            spec=spec,
            version=version,
            address=taken[0].payload["model"]["address"],
            digest=taken[0].payload["model"]["digest"],
            environment=next(step.payload["environment"] for step in reversed(taken) if step.type not in _ASKED),
            champion=(best := champions[spec]) is not None and best.version == version,
            awaiting_approval=taken[-1].type == "model.approval_requested",
            approved=any(step.type == "model.approved" for step in taken),
            approver=next((step.payload["approver"] for step in taken if step.payload.get("approver")), None),
            registered_at=taken[0].time,
            reason=taken[-1].payload["reason"],
            evaluation=_before(taken[0], judged),
            trained_on=(_before(taken[0], trained) or {}).get("trained_on"),
        )
        for (spec, version), taken in reversed(steps.items())
    ]


def _before(registered: Recorded, told: Sequence[Recorded]) -> dict[str, Any] | None:
    """What was last told of a model before it got its number; the same model may be trained and judged again."""
    digest = registered.payload["model"]["digest"]
    of_it = [e for e in told if e.seq < registered.seq and e.payload["model"]["digest"] == digest]
    return max(of_it, key=lambda e: e.seq).payload if of_it else None


def _told(store: AuditStore, type: str) -> Iterator[Recorded]:
    return (event for event in events(store, types=(type,), newest_first=False) if event.payload)


def datasets(store: AuditStore, *, limit: int | None = None) -> list[dict[str, Any]]:
    """Dataset versions, each once, the latest first."""
    return _rows(
        store,
        """SELECT name, version, digest, min(address) AS address, min("window") AS "window", min(rows) AS rows,
                  min(made_at) AS first_made_at, count(*) AS times, min(event_id) AS event_id, max(event_seq) AS seq
             FROM dataset_version GROUP BY name, version, digest ORDER BY seq DESC LIMIT :limit""",
        {"limit": _all(limit)},
    )


def reports(
    store: AuditStore,
    types: Sequence[str],
    *,
    keys: Sequence[str] = ("report",),
    address: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Pages for people, each once, the latest first: those that events of these types name under `keys`, and those
    that task runs came to. `run` is the flow run's name; `spec` is absent where only a task run tells of the page."""
    return _rows(
        store,
        """WITH named AS (
             SELECT p.event_seq AS seq, 1 AS told, json_extract(p.body, '$.spec') AS spec, r.value AS report
               FROM event e JOIN payload p ON p.event_seq = e.seq, json_each(p.body) r
              WHERE e.type IN :types AND r.type = 'object' AND r.key IN :keys
             UNION ALL
             SELECT p.event_seq, 0, NULL, r.value
               FROM event e JOIN payload p ON p.event_seq = e.seq, json_each(json_extract(p.body, '$.outputs')) r
              WHERE e.type = 'task_run.completed' AND p.body LIKE :somewhere
                AND json_extract(r.value, '$.kind') = 'report'
           ), page AS (
             SELECT seq, told, spec, json_extract(report, '$.of') AS name, json_extract(report, '$.address') AS address
               FROM named
           ), ranked AS (
             SELECT seq, spec, name, address,
                    row_number() OVER (PARTITION BY address ORDER BY told DESC, seq DESC) AS nth
               FROM page WHERE address = :address OR CAST(:address AS TEXT) IS NULL
           )
           SELECT e.id AS event_id, e.type, e.time, r.seq, r.spec, r.name, r.address,
                  (SELECT json_extract(b.body, '$.run_name') FROM event f JOIN payload b ON b.event_seq = f.seq
                    WHERE f.flow_run_id = e.flow_run_id AND f.type >= 'flow_run.' AND f.type < 'flow_run/'
                    ORDER BY f.seq LIMIT 1) AS run
             FROM ranked r JOIN event e ON e.seq = r.seq WHERE r.nth = 1 ORDER BY r.seq DESC LIMIT :limit""",
        {
            "types": types,
            "keys": keys,
            "address": address,
            "somewhere": f"%{address or REPORT}%",  # at a glance; what is found is then looked at
            "limit": _all(limit),
        },
    )


def bound(sql: str, values: Mapping[str, Any]) -> tuple[TextClause, dict[str, Any]]:
    """A query and its values, where `IN :name` takes a collection of texts, which may be empty."""
    lists = [name for name, value in values.items() if isinstance(value, Collection) and not isinstance(value, str)]
    expanding = [bindparam(name, expanding=True, type_=Text) for name in lists]
    return text(sql).bindparams(*expanding), {**values, **{name: list(values[name]) for name in lists}}


def of_types(column: str, types: Sequence[str]) -> tuple[str, dict[str, str]]:
    """That a column holds one of these types, which may end in `.*`, and the values for it."""
    tests: list[str] = []
    values: dict[str, str] = {}
    for nth, type in enumerate(types):
        if type.endswith("*"):
            tests.append(f"{column} >= :type{nth} AND {column} < :past{nth}")
            values |= {f"type{nth}": type[:-1], f"past{nth}": type[:-1] + LAST}
        else:
            tests.append(f"{column} = :type{nth}")
            values[f"type{nth}"] = type
    return f"({' OR '.join(tests)})", values


def recorded(row: Row[Any]) -> Recorded:
    """The event in a row that has EVENT_COLUMNS and `body`. Raises InconsistentTree where that is no payload."""
    try:
        payload = orjson.loads(row.body) if row.body else {}
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        raise InconsistentTree(f"event {row.id}: its payload is not what was recorded.", hint="Run `audit verify`.")
    return Recorded(**{name: getattr(row, name) for name in _OF_EVENT}, payload=payload)


def _rows(store: AuditStore, sql: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    with store.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(*bound(sql, values))]


def _is(column: str, name: str, value: str | None) -> str:
    """That a column holds what is bound as `name`, which may be nothing. SQLite's IS is no other database's."""
    return f"{column} IS NULL" if value is None else f"{column} = :{name}"


def _batched(ids: Iterable[str]) -> Iterator[list[str]]:
    """So many at once as a query takes as parameters."""
    left = iter(ids)
    while some := list(islice(left, MOST_PARAMETERS)):
        yield some


def _conditions(
    types: Sequence[str], severities: Sequence[str], spec: str | None, run: str | None, since: str | None
) -> tuple[list[str], dict[str, Any]]:
    where: list[str] = []
    values: dict[str, Any] = {}
    if types:
        of, named = of_types("e.type", types)
        where.append(of)
        values |= named
    if severities:
        where.append("e.severity IN :severities")
        values["severities"] = severities
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
        return connection.execute(*bound(sql, values | {"position": position, "after": after, "page": page})).all()


def _prefix(prefix: str) -> dict[str, str]:
    return {"low": prefix, "high": prefix + LAST}


def _all(limit: int | None) -> int:
    return NO_LIMIT if limit is None else limit
