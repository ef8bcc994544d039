"""Events, payloads, withdrawals: insert-only from the first row."""

import sqlalchemy as sa
from alembic import op

from audit.store import ddl, ddl_postgres

revision = "0001"
down_revision = None


# Texts compare by their bytes; a database's own collation would order ids and times otherwise.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
SEQ = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("seq", SEQ, sa.Identity(always=True), primary_key=True),
        sa.Column("id", TEXT, nullable=False, unique=True),
        *(sa.Column(name, TEXT, nullable=False) for name in ("source", "type", "subject", "time", "severity", "actor")),
        *(sa.Column(name, TEXT) for name in ("flow_run_id", "task_run_id", "deployment", "trace_id")),
        sa.Column("schema_version", sa.Integer, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("recorded_at", "payload_hash", "envelope")),
    )
    of_task, of_flow = sa.text("task_run_id IS NOT NULL"), sa.text("flow_run_id IS NOT NULL")
    op.create_index(
        "event_task_run",
        "event",
        ["task_run_id", "time", "type"],
        sqlite_where=of_task,
        postgresql_where=of_task,
    )
    op.create_index("event_flow_run", "event", ["flow_run_id"], sqlite_where=of_flow, postgresql_where=of_flow)
    op.create_index("event_type_time", "event", ["type", "time"])
    op.create_table(
        "payload",
        sa.Column("event_seq", SEQ, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("body", TEXT, nullable=False),
    )
    op.create_table(
        "withdrawal",
        sa.Column("event_seq", SEQ, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("by_event_seq", SEQ, sa.ForeignKey("event.seq"), nullable=False),
    )
    postgres = op.get_context().dialect.name == "postgresql"
    of = ddl_postgres if postgres else ddl
    functions = ddl_postgres.FUNCTIONS if postgres else ()
    for statement in (*functions, *of.GUARDS, *of.VIEWS):
        op.get_bind().exec_driver_sql(statement)
