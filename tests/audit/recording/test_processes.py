"""A process counts as gone only where that is certain."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from audit.recording import circumstances
from audit.recording.processes import gone

ANOTHER = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process that says who it is, and waits."""
    program = (
        "from audit.recording.circumstances import surroundings as s; print(s().model_dump_json(), flush=True); input()"
    )
    made = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield made
    made.kill()
    made.wait()


def said_by(child: subprocess.Popen[str]) -> dict:
    import json

    assert child.stdout is not None
    return json.loads(child.stdout.readline())


def here(**process: object) -> dict:
    """Surroundings of this process, with something else in what tells it."""
    around = circumstances.surroundings().model_dump()
    around["process"] |= process
    return around


def test_a_process_that_runs_is_not_gone(child: subprocess.Popen[str]) -> None:
    assert gone(here()) is None
    assert gone(said_by(child)) is None


def test_a_killed_process_is_gone_before_and_after_its_parent_asked(child: subprocess.Popen[str]) -> None:
    around = said_by(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still in the table
    expected = f"its process {child.pid} on {around['host']} is gone"
    assert gone(around) == expected
    child.wait()
    assert gone(around) == expected


def test_a_number_that_was_given_again_is_another_process() -> None:
    assert (
        gone(here(started=1))
        == f"its process {os.getpid()} on {circumstances.surroundings().host} is gone, and its number another's"
    )


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"namespace": 4026539999},  # a container beside this one: its numbers are others
        {"boot": ANOTHER, "machine": "sha256:another"},  # a machine of the same name
        {"boot": None},  # no Linux
        {"started": None},
    ],
    ids=["container", "namesake", "no boot id", "no start"],
)
def test_what_cannot_be_told_from_here_counts_as_alive(elsewhere: dict) -> None:
    around = here(**elsewhere)
    if elsewhere.keys() != {"started"}:
        around["process_id"] = 2**22 + 1  # a number that no process here has
    assert gone(around) is None


def test_a_process_of_another_host_counts_as_alive() -> None:
    assert gone(here() | {"host": "another", "process_id": 2**22 + 1}) is None


def test_what_an_earlier_release_recorded_counts_as_alive() -> None:
    around = here()
    del around["process"]
    assert gone(around | {"process_id": 2**22 + 1}) is None


def test_machines_of_one_image_cannot_be_told_from_one_that_was_started_again() -> None:
    """Of the same name and id, and no container: it may run on another, and so it counts as alive."""
    assert gone(here(boot=ANOTHER) | {"process_id": 2**22 + 1}) is None


def test_a_fork_is_a_process_of_its_own() -> None:
    parent = circumstances.surroundings()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, circumstances.surroundings().model_dump_json().encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 65_536).decode()
    assert f'"process_id":{child}' in told
    assert parent.process_id == os.getpid()
