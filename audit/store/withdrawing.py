"""Payloads that go: which are there to be withdrawn, and their going, inside the caller's transaction.

A withdrawal is a row that says which later event permitted it; the database lets no payload go without one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Connection, bindparam, text

from audit.store.engine import AuditStore
from audit.store.read import Recorded, bound, recorded_of_types

STREAMED = 1_000  # rows at once
HOLDING = ("retention.held", "retention.released")
END_OF_TIME = "9999"
GONE_ON_FROM = ("predictions.scored", "drift.checked", "performance.checked")  # runs look for the last of them
NAMING = ("spec/%", "dataset/%", "segment/%", "model/%")  # subjects that begin with a kind and a spec's name


@dataclass(frozen=True, slots=True)
class Kept:
    """An event whose payload is there, by what its envelope says."""

    seq: int
    id: str
    type: str
    subject: str
    time: str
    recorded_at: str
    flow_run_id: str | None
    task_run_id: str | None


_KEPT = """SELECT e.seq, e.id, e.type, e.subject, e.time, e.recorded_at, e.flow_run_id, e.task_run_id
             FROM payload p JOIN event e ON e.seq = p.event_seq"""


def kept(connection: Connection, before: str = END_OF_TIME) -> Iterator[Kept]:
    """The sealed events that were recorded before that time and whose payload is there, in the order of seq; read as
    they are asked for."""
    rows = connection.execution_options(yield_per=STREAMED).execute(
        text(
            f"""{_KEPT} WHERE e.recorded_at < :before AND EXISTS (SELECT 1 FROM leaf l WHERE l.event_seq = e.seq)
                 ORDER BY p.event_seq"""
        ),
        {"before": before},
    )
    for row in rows:
        yield Kept(*row)


def kept_by_ids(connection: Connection, ids: Sequence[str]) -> list[Kept]:
    """Those of these events whose payload is there."""
    rows = connection.execute(*bound(f"{_KEPT} WHERE e.id IN :ids ORDER BY e.seq", {"ids": ids}))
    return [Kept(*row) for row in rows]


def subjects_of_runs(connection: Connection) -> Iterator[tuple[str, str]]:
    """(flow run, subject) of what flow runs recorded about datasets, segments, models and specs; each once."""
    about = " OR ".join(f"subject LIKE '{begin}'" for begin in NAMING)
    rows = connection.execute(
        text(f"SELECT DISTINCT flow_run_id, subject FROM event WHERE flow_run_id IS NOT NULL AND ({about})")
    )
    yield from ((row.flow_run_id, row.subject) for row in rows)


def highest_numbers(connection: Connection) -> list[int]:
    """Seqs of the events that give a dataset's name its highest version number: the next one goes by it."""
    rows = connection.execute(
        text(
            """SELECT d.event_seq FROM dataset_version d
                 JOIN (SELECT name, max(version) AS version FROM dataset_version GROUP BY name) last
                   ON last.name = d.name AND last.version = d.version"""
        )
    )
    return list(rows.scalars())


def gone_on_from(connection: Connection) -> list[int]:
    """Seqs of the last decisions, drift check and check of outcomes of each name: the next run goes on from them."""
    rows = connection.execute(
        *bound(
            """SELECT type, subject, max(seq) AS seq FROM event WHERE type IN :types
                GROUP BY type, subject ORDER BY max(seq)""",
            {"types": GONE_ON_FROM},
        )
    )
    return list({(row.type, row.subject.rpartition("/")[0]): row.seq for row in rows}.values())


def last_told(connection: Connection) -> dict[str, str]:
    """When something was last recorded of each model version, by subject. Its steps go together or not at all: some of
    them without the others would say something else."""
    rows = connection.execute(
        text(
            """SELECT subject, max(recorded_at) AS at FROM event
                WHERE subject LIKE 'model/%/v%' AND type >= 'model.' AND type < 'model/' GROUP BY subject"""
        )
    )
    return {row.subject: row.at for row in rows}


def naming_digests(connection: Connection, digests: Sequence[str]) -> list[str]:
    """Ids of the events whose payload names one of these digests, in the order of seq. It reads every payload."""
    tests = " OR ".join(f"p.body LIKE :digest{nth}" for nth, _ in enumerate(digests))
    values = {f"digest{nth}": f'%"{digest}"%' for nth, digest in enumerate(digests)}
    found = connection.execute(
        text(f"SELECT e.id FROM payload p JOIN event e ON e.seq = p.event_seq WHERE {tests} ORDER BY e.seq"), values
    )
    return list(found.scalars())


def nested_runs(connection: Connection, flow_run_id: str) -> list[str]:
    """The flow run and those that it started, and those that these started."""
    started = """SELECT DISTINCT e.flow_run_id FROM event e JOIN payload p ON p.event_seq = e.seq
                  WHERE e.type >= 'flow_run.' AND e.type < 'flow_run/'
                    AND json_extract(p.body, '$.parent_flow_run_id') IN :parents"""
    found = parents = [flow_run_id]
    while parents:
        children = connection.execute(*bound(started, {"parents": parents})).scalars()
        parents = [child for child in children if child not in found]
        found = [*found, *parents]
    return found


def newest_recorded(connection: Connection) -> str | None:
    """When something was recorded last, by whoever recorded it; of the last events, for some come late."""
    last = f"SELECT recorded_at FROM event ORDER BY seq DESC LIMIT {STREAMED}"
    found = connection.execute(text(f"SELECT max(recorded_at) FROM ({last}) AS last"))
    return found.scalar()


def is_spec(connection: Connection, name: str) -> bool:
    """Whether the subject of any event names this spec."""
    subjects = [begin.replace("%", name) for begin in NAMING]
    tests = " OR ".join(f"subject = :is{n} OR (subject >= :is{n} || '/' AND subject < :is{n} || '0')" for n in range(4))
    values = {f"is{nth}": subject for nth, subject in enumerate(subjects)}
    return connection.execute(text(f"SELECT 1 FROM event WHERE {tests} LIMIT 1"), values).first() is not None


def holding(connection: Connection) -> list[Recorded]:
    """What was said of holds, the oldest first."""
    return recorded_of_types(connection, HOLDING)


def withdraw(connection: Connection, by: str, of: Sequence[int]) -> None:
    """Take away the payloads of the events at these seqs, which the event `by` permits. In a file their bytes are
    written over, in the database at once and in its log when that is next written back; see `written_back`."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
    seqs = bindparam("of", expanding=True, type_=BigInteger)  # else PostgreSQL takes them for text
    permitted = text(
        """INSERT INTO withdrawal (event_seq, by_event_seq)
           SELECT event_seq, (SELECT seq FROM event WHERE id = :by) FROM payload WHERE event_seq IN :of"""
    )
    connection.execute(permitted.bindparams(seqs), {"by": by, "of": list(of)})
    connection.execute(text("DELETE FROM payload WHERE event_seq IN :of").bindparams(seqs), {"of": list(of)})


def written_back(store: AuditStore) -> bool:
    """Have SQLite write its log back into the file and empty it, so that what was deleted is in neither; False where
    somebody reads just then, and the next one who writes back does it. PostgreSQL's VACUUM is its operator's."""
    if store.is_postgres:
        return True
    with store.engine.connect() as connection:
        driver = connection.connection.cursor()
        busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy
