"""Whole flows that are killed, and many at once, against one Prefect server."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Log
from tests.faults.flowing import FlowProcess, states_of_runs
from tests.faults.processes import Mother, ended_at_last

pytestmark = pytest.mark.slow


def test_real_flows_in_many_processes_are_on_record_once(log: Log, mother: Mother, api: str, tmp_path: Path) -> None:
    flows = [FlowProcess(mother, api, tmp_path, n=100, at_once=nth % 2 == 1) for nth in range(4)]
    processes = [flow.start() for flow in flows]
    with ended_at_last(*processes):
        assert [process.ended() for process in processes] == [0] * 4, mother.words()

    assert {flow.result for flow in flows} == {100 * 99}
    expected = {run: ["running", "completed"] for flow in flows for run in flow.ended}
    assert len(expected) == 400
    assert states_of_runs(log.store) == expected
    log.demand_whole()


@pytest.mark.parametrize("kills", [5])
def test_killed_flows_leave_what_they_did_on_record(
    log: Log, mother: Mother, api: str, tmp_path: Path, chance: random.Random, kills: int
) -> None:
    for nth in range(kills):
        flow = FlowProcess(mother, api, tmp_path, n=100, at_once=nth % 2 == 1)
        process = flow.start()
        with ended_at_last(process):
            flow.until_told(chance.randint(1, 60))
            time.sleep(chance.uniform(0, 0.02))
        states = states_of_runs(log.store)
        assert all(states[run] == ["running", "completed"] for run in flow.ended)
        assert all(states[run][0] == "running" for run in flow.began)
        mother.run("start_up", witness=log.witness())
        states = states_of_runs(log.store)
        assert all(states[run][-1] in ("completed", "abandoned") for run in flow.began)  # none is left without an end
        log.demand_whole()
