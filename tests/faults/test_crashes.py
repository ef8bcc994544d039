"""Processes that are killed while they write and seal: the log opens, holds, and lacks nothing of what was told."""

import random
import time

import pytest

from tests.faults.conftest import Log
from tests.faults.processes import Mother, ended_at_last
from tests.faults.roles import FOR_EVER

KILLS = 45  # on each engine; ten more are those of whole flows
SLOW = pytest.param(KILLS - 5, marks=pytest.mark.slow)


@pytest.mark.parametrize("kills", [5, SLOW])
def test_killed_writers_and_sealers_lose_nothing(log: Log, mother: Mother, chance: random.Random, kills: int) -> None:
    for _ in range(kills):
        writers = [mother.start("write", witness=log.witness(), shares=[FOR_EVER] * threads) for threads in (1, 3)]
        all_of_them = [*writers, mother.start("write_and_seal", witness=log.witness()), mother.start("seal")]
        with ended_at_last(*all_of_them):
            log.until_told(chance.randint(10, 60))
            first, *others = chance.sample(all_of_them, k=len(all_of_them))
            time.sleep(chance.uniform(0, 0.01))
            first.kill()
            log.until_told(10)  # nobody waits for the dead
            time.sleep(chance.uniform(0, 0.01))
            for child in others:
                child.kill()
        mother.run("start_up", witness=log.witness())
        log.demand_whole()


def test_a_process_without_memory_loses_nothing_that_was_acknowledged(
    log: Log, mother: Mother, chance: random.Random
) -> None:
    mother.run("write_without_memory", witness=log.witness(), seed=chance.randrange(2**32), runs=20)
    mother.run("start_up", witness=log.witness())

    log.demand_whole()
