"""Leaves, nodes, checkpoints, anchors: an event's place in the tree, and what fixes the tree's head."""

import sqlalchemy as sa
from alembic import op

from audit.store.ddl import LEDGER_GUARDS

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "leaf",
        sa.Column("idx", sa.Integer, primary_key=True),
        sa.Column("event_seq", sa.Integer, sa.ForeignKey("event.seq"), nullable=False, unique=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "node",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("idx", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "checkpoint",
        sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "anchor",
        sa.Column("event_seq", sa.Integer, sa.ForeignKey("event.seq"), primary_key=True),
        sa.Column("size", sa.Integer, sa.ForeignKey("checkpoint.size"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
    )
    for statement in LEDGER_GUARDS:
        op.execute(statement)
