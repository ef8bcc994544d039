"""The power fails a process between any two things that it does: what the next one finds is whole, and has all that
anybody was told it has."""

import signal
from collections.abc import Callable
from itertools import count

import pytest

from tests.faults.conftest import Log, Nothing
from tests.faults.processes import Mother

pytestmark = pytest.mark.slow

AWAY = {"AUDIT_DATABASE_URL": "sqlite:////dev/null/audit.db"}  # a store that cannot be opened


def killed_before_every_step(mother: Mother, deed: str, log: Callable[[], Log], **environ: str) -> int:
    """How many steps a deed has, after it died before each of them and its log was found whole."""
    for nth in count(1):
        one = log()
        child = mother.start("die", nth=nth, deed=deed, witness=one.witness(), environ=environ)
        ended = child.ended()
        assert ended in (0, -signal.SIGKILL), mother.words()
        mother.run("make_and_start_up", witness=one.witness())
        one.demand_whole()
        if ended == 0:
            return nth - 1
    raise AssertionError


@pytest.mark.parametrize(
    ("deed", "least", "environ"),
    [
        ("record_runs", 10, {}),
        ("append_many", 10, {}),
        ("seal_all_that_waits", 10, {}),
        ("record_runs", 10, AWAY),
        ("bring_home", 10, {}),
        ("hand_over_the_key", 10, {}),
    ],
    ids=["record", "append many", "seal", "spool", "bring home", "rotate the key"],
)
def test_a_process_that_dies_between_two_steps_leaves_the_log_whole(
    log: Log, mother: Mother, deed: str, least: int, environ: dict[str, str]
) -> None:
    def ready() -> Log:
        roles_before = {"seal_all_that_waits": {}, "bring_home": AWAY}
        if deed in roles_before:
            mother.run("write", witness=log.witness(), shares=[2], environ=roles_before[deed])
        return log

    steps = killed_before_every_step(mother, deed, ready, **environ)
    assert steps >= least


def test_a_log_whose_maker_dies_is_made_by_the_next(nothing: Nothing, mother: Mother) -> None:
    assert killed_before_every_step(mother, "make_the_log", nothing) >= 20


def test_a_migration_that_dies_is_done_by_the_next(nothing: Nothing, mother: Mother) -> None:
    def older() -> Log:
        log = nothing()
        mother.run("make_older", revision="0002", witness=log.witness())
        return log

    assert killed_before_every_step(mother, "make_the_log", older) >= 5
