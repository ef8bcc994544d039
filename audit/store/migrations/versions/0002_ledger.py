"""Leaves, nodes, checkpoints, anchors: an event's place in the tree, and what fixes the tree's head."""

import sqlalchemy as sa
from alembic import op

from audit.store import ddl, ddl_postgres

revision = "0002"
down_revision = "0001"


NUMBER = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "leaf",
        sa.Column("idx", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("event_seq", NUMBER, sa.ForeignKey("event.seq"), nullable=False, unique=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "node",
        sa.Column("level", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("idx", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "checkpoint",
        sa.Column("size", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "anchor",
        sa.Column("event_seq", NUMBER, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("size", NUMBER, sa.ForeignKey("checkpoint.size"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
    )
    of = ddl_postgres if op.get_context().dialect.name == "postgresql" else ddl
    for statement in of.LEDGER_GUARDS:
        op.get_bind().exec_driver_sql(statement)
