"""Fixtures shared by all rooms."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.settings import settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh AUDIT_HOME; the process's settings are read anew before and after."""
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "var"))
    for name in ("AUDIT_DATABASE_URL", "AUDIT_ARTIFACTS_URL", "AUDIT_MODE", "AUDIT_ALERT_URL"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield tmp_path / "var"
    settings.cache_clear()
