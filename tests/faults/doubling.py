"""A flow as its user writes it. Its tasks leave word in a file of their own of when they began and ended, and wait for
a file where a test wants to do something in the middle."""

import time
from pathlib import Path

from prefect.runtime import task_run
from prefect.task_runners import ThreadPoolTaskRunner

from audit import flow, task

LINE = 6 + 1 + 36 + 1  # bytes: `began ` or `ended `, and the task run


def leave_word(what: str, run: str, told: str) -> None:
    with Path(told).open("ab", buffering=0) as file:
        file.write(f"{what} {run}\n".encode())


@task
def double(x: int, told: str, until: str | None = None) -> tuple[int, str]:
    leave_word("began ", task_run.id, told)
    while until and not Path(until).exists():
        time.sleep(0.01)
    return 2 * x, task_run.id


@flow
def doubling(n: int, told: str, until: dict[int, str]) -> int:
    """One after the other. A task has ended, with all that its hooks do, when its result is here."""
    total = 0
    for x in range(n):
        doubled, run = double(x, told, until.get(x))
        leave_word("ended ", run, told)
        total += doubled
    return total


@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def doubling_at_once(n: int, told: str, until: dict[int, str]) -> int:
    """The same in threads."""
    total = 0
    for future in double.map(list(range(n)), told=told):
        doubled, run = future.result()
        leave_word("ended ", run, told)
        total += doubled
    return total


def run(n: int, told: str, until: dict[str, str], at_once: bool, result: str) -> None:
    """What `python flow.py` does; the result goes to a file."""
    which = doubling_at_once if at_once else doubling
    Path(result).write_text(str(which(n, told, {int(x): file for x, file in until.items()})))
