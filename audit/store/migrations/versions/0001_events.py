"""Events, payloads, withdrawals: insert-only from the first row."""

import sqlalchemy as sa
from alembic import op

from audit.store.ddl import GUARDS, VIEWS

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        *(
            sa.Column(name, sa.Text, nullable=False)
            for name in ("source", "type", "subject", "time", "severity", "actor")
        ),
        *(sa.Column(name, sa.Text) for name in ("flow_run_id", "task_run_id", "deployment", "trace_id")),
        sa.Column("schema_version", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("recorded_at", "payload_hash", "envelope")),
    )
    op.create_index(
        "event_task_run", "event", ["task_run_id", "time", "type"], sqlite_where=sa.text("task_run_id IS NOT NULL")
    )
    op.create_index("event_flow_run", "event", ["flow_run_id"], sqlite_where=sa.text("flow_run_id IS NOT NULL"))
    op.create_index("event_type_time", "event", ["type", "time"])
    op.create_table(
        "payload",
        sa.Column("event_seq", sa.Integer, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "withdrawal",
        sa.Column("event_seq", sa.Integer, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("by_event_seq", sa.Integer, sa.ForeignKey("event.seq"), nullable=False),
    )
    for statement in (*GUARDS, *VIEWS):
        op.execute(statement)
