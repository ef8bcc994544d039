"""Schema migrations by alembic, run from code: no ini file, the engine is the caller's."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Engine


def config() -> "Config":
    """Alembic's configuration: the folder of this package, and nothing else."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent))
    return made


def upgrade(engine: "Engine") -> None:
    """Bring the database to the newest migration in one transaction."""
    from alembic import command
    from sqlalchemy import text

    from audit.store.engine import DECIDING, SCHEMA

    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": DECIDING})
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")
