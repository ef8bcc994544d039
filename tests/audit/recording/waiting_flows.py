"""Flows that a worker runs, and that somebody suspends, cancels or retries meanwhile."""

import time
from pathlib import Path

from prefect.deployments import run_deployment
from prefect.flow_runs import suspend_flow_run

from audit import flow, task


@task(persist_result=True)
def step(x):
    return x


@task
def sleeps(seconds):
    for _ in range(seconds * 10):  # in short naps, between which a signal is seen
        time.sleep(0.1)


@flow(persist_result=True)
def suspends():
    step(1)
    suspend_flow_run(timeout=600)
    return step(2)


@flow(persist_result=True)
def fails_until(there: str):
    step(1)
    if not Path(there).exists():
        raise FileNotFoundError
    return step(2)


@flow
def nested(seconds):
    sleeps(seconds)


@flow
def long(how: str = "directly"):
    if how == "directly":
        sleeps(600)
    elif how == "nested":
        nested(600)
    else:
        for future in [sleeps.submit(600), sleeps.submit(600)]:
            future.wait()


@flow
def calls(there: str):
    return run_deployment("fails-until/apart", parameters={"there": there}, timeout=300).state
