"""Views that know of runs whose end nobody saw: reconciled with what Prefect says, or abandoned."""

from alembic import op

from audit.store import ddl, ddl_postgres

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    of = ddl_postgres if op.get_context().dialect.name == "postgresql" else ddl
    for view in ("task_run", "flow_run", "dataset_version", "ledger_payload"):
        op.execute(f"DROP VIEW IF EXISTS {view}")
    for statement in of.VIEWS:
        op.get_bind().exec_driver_sql(statement)
