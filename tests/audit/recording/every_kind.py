"""A script with task runs of every kind. It counts the calls that it makes and writes the numbers to a file.

usage: every_kind.py COUNTED.json. With PREFECT_API_URL it also uses a process pool: without, each child of the
pool would start a Prefect server of its own.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from prefect import runtime
from prefect.cache_policies import INPUTS
from prefect.states import Failed
from prefect.task_runners import ProcessPoolTaskRunner
from prefect.transactions import transaction

from audit import flow, task

made: Counter[str] = Counter()  # how each task run should end, counted where the call is made


@task
def add(x, y=1):
    return x + y


@task(retries=2)
def second_time_lucky():
    if runtime.task_run.run_count < 3:
        raise ValueError("not yet")
    return "well"


@task(retries=1, retry_delay_seconds=0.1)
async def waits_and_fails():
    raise ValueError("never")


@task(cache_policy=INPUTS, persist_result=True)
def cached(x):
    return x


@task(timeout_seconds=0.2)
def too_slow():
    time.sleep(5)


@task(timeout_seconds=0.2)
async def too_slow_async():
    await asyncio.sleep(5)


@task
def leaves():
    sys.exit(3)


@task
def interrupted():
    raise KeyboardInterrupt


@task
def returns_failed():
    return Failed(message="as agreed")


@task
async def add_async(x):
    return x + 1


@task
def counts(n):
    yield from range(n)


@task
async def counts_async(n):
    for i in range(n):
        yield i


@task
def outer(x):
    return add(x)


@task(name="child-process")
def in_process(x):
    return x, os.getpid()


@task
def undone():
    return 1


@flow
def inner(n):
    made["completed"] += n
    return [add(i) for i in range(n)]


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2))
def processes():
    made["completed"] += 6
    futures = in_process.map(range(6))
    assert os.getpid() not in {pid for _, pid in futures.result()}


@flow
def everything():
    made["completed"] += 1
    add(1)
    made["completed"] += 100
    assert sum(add.map(range(100)).result()) == 5050
    made["completed"] += 1
    second_time_lucky()
    made["cached"] += 1
    made["completed"] += 1
    assert cached(7) == cached(7)
    made["timed_out"] += 1
    too_slow(return_state=True)
    made["failed"] += 1
    failing = returns_failed.submit()
    made["not_ready"] += 1
    add.submit(failing).wait()
    made["crashed"] += 1
    with contextlib.suppress(SystemExit):
        leaves()
    made["crashed"] += 1
    with contextlib.suppress(KeyboardInterrupt):
        interrupted()
    made["completed"] += 1
    assert list(counts(3)) == [0, 1, 2]
    made["rolled_back"] += 1
    next(iter(counts(3)))  # Prefect completes a generator that is left early, then rolls it back
    made["completed"] += 2
    outer(1)
    made["completed"] += 1
    add.with_options(name="renamed", on_completion=[lambda task, run, state: None], on_running=[print])(3)
    made["rolled_back"] += 1
    made["failed"] += 1
    try:
        with transaction():
            undone()
            returns_failed()
    except Exception:
        pass
    inner(4)
    inner.with_options(name="renamed", on_completion=[lambda flow, run, state: None])(2)
    return "done"


@flow
async def everything_async():
    made["completed"] += 1
    await add_async(1)
    made["completed"] += 5
    await asyncio.gather(*(add_async(i) for i in range(5)))
    made["timed_out"] += 1
    await too_slow_async(return_state=True)
    made["failed"] += 1
    await waits_and_fails(return_state=True)
    made["completed"] += 1
    assert [i async for i in counts_async(3)] == [0, 1, 2]


if __name__ == "__main__":
    made["completed"] += 1
    add(1)  # in no flow
    everything()
    asyncio.run(everything_async())
    if os.environ.get("PREFECT_API_URL"):
        processes()
    Path(sys.argv[1]).write_text(json.dumps(made))
