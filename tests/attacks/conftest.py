"""A log to attack, made once and copied for each attack; those who vouch for it answer meanwhile."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.anchoring import openssl_is_here, timestamp_authority, witnessing
from tests.attacks.superuser import dropped
from tests.attacks.victim import COPIES, Victim, build
from tests.postgres import postgres_server, postgres_store  # noqa: F401


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """The log as honest hands left it, in a file and in PostgreSQL. Copy it before you touch it."""
    url = request.getfixturevalue("postgres_store") if request.param == "postgresql" else None
    folder = tmp_path_factory.mktemp("victim")
    with ExitStack() as answering:
        stamps = openssl_is_here()
        authority = answering.enter_context(timestamp_authority(folder / "authority")) if stamps else None
        witness = answering.enter_context(witnessing(folder / "witness.json"))
        yield build(folder / "var", url, authority, witness)


@pytest.fixture
def victim(untouched: Victim, tmp_path: Path) -> Victim:
    """The log in a home of this test's own."""
    return untouched.copied(tmp_path / "var")


@pytest.fixture
def stamped(untouched: Victim) -> None:
    """Skips what counts time stamps where there could be none."""
    assert untouched.authority


@pytest.fixture(autouse=True)
def no_copy_stays() -> Iterator[None]:
    yield
    while COPIES:
        dropped(COPIES.pop())
