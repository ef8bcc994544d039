"""Fixtures shared by all rooms. Prefect's own state goes to a folder of this session, before Prefect is imported."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

_prefect_home = tempfile.TemporaryDirectory(prefix="prefect-audit-tests-", ignore_cleanup_errors=True)
os.environ |= {
    "PREFECT_HOME": _prefect_home.name,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_PLUGINS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
}

from audit.settings import settings  # noqa: E402

_GIVEN_ELSEWHERE = (
    "AUDIT_DATABASE_URL", "AUDIT_ARTIFACTS_URL", "AUDIT_MODE", "AUDIT_ALERT_URL", "AUDIT_LOG_KEY",
    "AUDIT_LOG_KEY_BLOCK", "AUDIT_RETENTION", "AUDIT_TSA_URL", "AUDIT_TSA_ROOTS", "AUDIT_WITNESSES",
    "AUDIT_PUBLISH_URL",
)  # fmt: skip


hypothesis.settings.register_profile("noisy machines", deadline=None)
hypothesis.settings.load_profile("noisy machines")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh AUDIT_HOME; the process's settings are read anew before and after."""
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "var"))
    for name in _GIVEN_ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield tmp_path / "var"
    settings.cache_clear()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary Prefect server for all runs inside this test process."""
    from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}), prefect_test_harness(server_startup_timeout=180):
        yield
