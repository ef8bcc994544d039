"""A few hundred task runs on one of Prefect's task runners, some of which fail, at once or for good.

usage: on_runners.py RUNNER COUNTED.json [how many]. It counts what the record must have, where each call is made.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

from prefect import runtime
from prefect.context import FlowRunContext
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from audit import flow, task

made: Counter[str] = Counter()  # events by type


@task
def doubles(x):
    return 2 * x, os.getpid()


@task
async def doubles_async(x):
    return 2 * x, os.getpid()


@task(retries=2)
def third_time_lucky(x):
    if runtime.task_run.run_count < 3:
        raise ValueError("not yet")
    return x


@task(retries=1, retry_delay_seconds=0.1)
def fails(x):
    raise ValueError("never")


@task
def after(x):
    return x


def runner(name):
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=8)
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=2)
    from prefect_dask import DaskTaskRunner

    return DaskTaskRunner(
        cluster_kwargs={"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    )


@flow
def many(n):
    futures = doubles.map(range(n))
    made.update(running=n, completed=n)
    futures += [doubles_async.submit(i) for i in range(n // 10)]
    made.update(running=n // 10, completed=n // 10)
    lucky = third_time_lucky.map(range(n // 10))
    made.update(running=n // 10, attempt_failed=n // 5, retrying=n // 5, completed=n // 10)
    failed = fails.map(range(n // 10))
    made.update(running=n // 10, attempt_failed=n // 5, retrying=n // 10, failed=n // 10)
    waited = [*lucky, *failed]
    if not isinstance(FlowRunContext.get().task_runner, ProcessPoolTaskRunner):  # which raises, and makes no run of it
        waited.append(after.submit(failed[0]))
        made.update(not_ready=1)
    for future in waited:
        future.wait()
    return sorted({pid for future in futures for _, pid in [future.result()]})


if __name__ == "__main__":
    name, counted, *n = sys.argv[1:]
    pids = many.with_options(task_runner=runner(name))(int(n[0]) if n else 200)
    Path(counted).write_text(json.dumps({"made": made, "pids": pids, "own": os.getpid()}))
