"""Tasks whose runs one process hands over and another one executes.

usage: served_tasks.py serve | served_tasks.py hand-over HANDED.json
"""

import json
import sys
from pathlib import Path

from prefect.task_worker import serve

from audit import flow, task


@task
def adds(x):
    return x + 1


@task
async def adds_async(x):
    return x + 1


@task(retries=1)
def fails(x):
    raise ValueError("never")


@task
def nobody_serves(x):
    return x


@flow
def hands_over():
    return [str(adds.delay(i).task_run_id) for i in range(5)]


def handed():
    """Ids of the task runs that were handed over, by how they should end."""
    return {
        "completed": hands_over() + [str(of.delay(1).task_run_id) for of in (adds, adds_async) for _ in range(5)],
        "failed": [str(fails.delay(1).task_run_id)],
        "scheduled": [str(nobody_serves.apply_async((1,)).task_run_id)],
    }


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(adds, adds_async, fails)
    else:
        Path(sys.argv[2]).write_text(json.dumps(handed()))
