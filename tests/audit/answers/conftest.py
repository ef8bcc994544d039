"""One log for all that is handed out; nothing here writes to it."""

from pathlib import Path

import pytest

from tests.handed_out import Log, build


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return build(tmp_path_factory.mktemp("log") / "var")


@pytest.fixture(scope="session")
def bundle(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole log."""
    return log.bundle(tmp_path_factory.mktemp("whole") / "bundle.zip")


@pytest.fixture(scope="session")
def part(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of it."""
    return log.part(tmp_path_factory.mktemp("part") / "part.zip")


@pytest.fixture(scope="session")
def proof(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One event's folder."""
    return log.proof(tmp_path_factory.mktemp("proof") / "evidence")
