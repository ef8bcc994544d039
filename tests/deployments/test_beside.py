"""Prefect's own tables in the same database."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from audit.recording.initialise import initialise
from audit.settings import settings
from audit.store import read
from audit.store.engine import HEAD, open_store
from tests.postgres import empty_database_url, postgres_server  # noqa: F401  # fixtures


@pytest.mark.slow  # Prefect's migrations take a quarter of a minute
def test_prefects_migrations_and_ours_share_a_database(
    home: Path,
    tmp_path: Path,
    empty_database_url: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AUDIT_DATABASE_URL", empty_database_url)
    settings.cache_clear()
    prefects = make_url(empty_database_url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
    environment = os.environ | {"PREFECT_API_DATABASE_CONNECTION_URL": prefects, "PREFECT_HOME": str(tmp_path)}
    upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]

    initialise()
    subprocess.run(upgrade, env=environment, capture_output=True, check=True)
    assert not initialise().made

    versions = {of: version(empty_database_url, of) for of in ("public", "audit")}
    assert (versions["audit"], versions["public"] != HEAD) == (HEAD, True)
    assert read.guards_in_place(open_store())
    assert read.counts(open_store()).events == 3
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM public.flow_run").fetchone() == (0,)


def version(url: str, schema: str) -> str:
    with psycopg.connect(url) as connection:
        found = connection.execute(f"SELECT version_num FROM {schema}.alembic_version").fetchone()  # type: ignore[arg-type]
    assert found
    return str(found[0])
