"""The store's tables as SQLModel. Migrations make them; a test holds the two against each other.

Importing sqlmodel takes a second, so only what writes imports this module; readers use text SQL.
"""

from sqlalchemy import BigInteger, Column, ForeignKey, Identity, Index, Integer, LargeBinary, Text, text
from sqlmodel import Field, SQLModel

_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
_NUMBER = Integer().with_variant(BigInteger(), "postgresql")
_OF_TASK, _OF_FLOW = text("task_run_id IS NOT NULL"), text("flow_run_id IS NOT NULL")


class EventRow(SQLModel, table=True):
    """One envelope: every key a column, and the exact text that was hashed."""

    __tablename__ = "event"
    __table_args__ = (
        Index("event_task_run", "task_run_id", "time", "type", sqlite_where=_OF_TASK, postgresql_where=_OF_TASK),
        Index("event_flow_run", "flow_run_id", sqlite_where=_OF_FLOW, postgresql_where=_OF_FLOW),
        Index("event_type_time", "type", "time"),
    )

    seq: int | None = Field(default=None, sa_column=Column(_NUMBER, Identity(always=True), primary_key=True))
    id: str = Field(sa_column=Column(_TEXT, nullable=False, unique=True))
    source: str = Field(sa_column=Column(_TEXT, nullable=False))
    type: str = Field(sa_column=Column(_TEXT, nullable=False))
    subject: str = Field(sa_column=Column(_TEXT, nullable=False))
    time: str = Field(sa_column=Column(_TEXT, nullable=False))
    severity: str = Field(sa_column=Column(_TEXT, nullable=False))
    actor: str = Field(sa_column=Column(_TEXT, nullable=False))
    flow_run_id: str | None = Field(default=None, sa_column=Column(_TEXT))
    task_run_id: str | None = Field(default=None, sa_column=Column(_TEXT))
    deployment: str | None = Field(default=None, sa_column=Column(_TEXT))
    trace_id: str | None = Field(default=None, sa_column=Column(_TEXT))
    schema_version: int = Field(sa_column=Column(Integer, nullable=False))
    recorded_at: str = Field(sa_column=Column(_TEXT, nullable=False))
    payload_hash: str = Field(sa_column=Column(_TEXT, nullable=False))
    envelope: str = Field(sa_column=Column(_TEXT, nullable=False))


class PayloadRow(SQLModel, table=True):
    """What an envelope's payload_hash binds; may be withdrawn, never changed."""

    __tablename__ = "payload"

    event_seq: int = Field(sa_column=Column(_NUMBER, ForeignKey("event.seq"), primary_key=True))
    salt: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    body: str = Field(sa_column=Column(_TEXT, nullable=False))


class WithdrawalRow(SQLModel, table=True):
    """Permission to delete one payload, given by a later event that can itself never be withdrawn."""

    __tablename__ = "withdrawal"

    event_seq: int = Field(sa_column=Column(_NUMBER, ForeignKey("event.seq"), primary_key=True))
    by_event_seq: int = Field(sa_column=Column(_NUMBER, ForeignKey("event.seq"), nullable=False))


class LeafRow(SQLModel, table=True):
    """An event's place in the tree, given when it was sealed, and its leaf hash."""

    __tablename__ = "leaf"

    idx: int = Field(sa_column=Column(_NUMBER, primary_key=True, autoincrement=False))
    event_seq: int = Field(sa_column=Column(_NUMBER, ForeignKey("event.seq"), nullable=False, unique=True))
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class NodeRow(SQLModel, table=True):
    """A hash above the leaves, of the levels that head a tile (8, 16, …), so that a proof reads few rows."""

    __tablename__ = "node"
    __table_args__ = ({"sqlite_with_rowid": False},)

    level: int = Field(sa_column=Column(_NUMBER, primary_key=True, autoincrement=False))
    idx: int = Field(sa_column=Column(_NUMBER, primary_key=True, autoincrement=False))
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class CheckpointRow(SQLModel, table=True):
    """A signed note over the tree's head at one size."""

    __tablename__ = "checkpoint"

    size: int = Field(sa_column=Column(_NUMBER, primary_key=True, autoincrement=False))
    note: str = Field(sa_column=Column(_TEXT, nullable=False))


class AnchorRow(SQLModel, table=True):
    """What somebody outside said of a checkpoint; told by the event that it is filed under."""

    __tablename__ = "anchor"

    event_seq: int = Field(sa_column=Column(_NUMBER, ForeignKey("event.seq"), primary_key=True))
    size: int = Field(sa_column=Column(_NUMBER, ForeignKey("checkpoint.size"), nullable=False))
    kind: str = Field(sa_column=Column(_TEXT, nullable=False))
    evidence: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


# For Core statements: the plain tables behind the classes.
EVENT = SQLModel.metadata.tables["event"]
PAYLOAD = SQLModel.metadata.tables["payload"]
