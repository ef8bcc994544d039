"""Many processes and threads that write at once, beside sealers: all on record, once, each run's states in order."""

from pathlib import Path

import pytest

from tests.faults import witness
from tests.faults.conftest import Log, Nothing
from tests.faults.processes import Mother, ended_at_last


@pytest.mark.parametrize(
    ("nothing", "processes", "runs"),
    [
        ("sqlite", 4, 50),
        ("postgres", 16, 50),
        pytest.param("sqlite", 4, 1_000, marks=pytest.mark.slow),
        pytest.param("postgres", 16, 1_000, marks=pytest.mark.slow),
    ],
    indirect=["nothing"],
)
def test_all_that_many_writers_write_is_on_record_once(
    nothing: Nothing, log: Log, mother: Mother, tmp_path: Path, processes: int, runs: int
) -> None:
    ended = tmp_path / "ended"
    sealers = [mother.start("seal", until=str(ended)) for _ in range(2)]
    threads = [1 + nth % 4 for nth in range(processes)]
    writers = [
        mother.start(
            "write", witness=log.witness(), shares=[runs // many] * (many - 1) + [runs - runs // many * (many - 1)]
        )
        for many in threads
    ]

    with ended_at_last(*sealers, *writers):
        assert [writer.ended() for writer in writers] == [0] * processes, mother.words()
        ended.touch()
        assert [sealer.ended() for sealer in sealers] == [0, 0], mother.words()
    mother.run("start_up", witness=log.witness())

    log.demand_whole()
    assert len(witness.told(log.witnesses)) == 2 * (processes * runs + 1)
