"""A user's own file: flows and tasks of many kinds, and not a word about any audit.

usage: never_mentions_us.py [CALLS]. Writes as JSON what its definitions look like; with CALLS, a file, it runs them
too, and each call of a cached body leaves a line there.
"""

import asyncio
import inspect
import json
import sys
import typing
from pathlib import Path

import cloudpickle
from prefect import Flow, Task, flow, task
from prefect.assets import materialize
from prefect.cache_policies import INPUTS, TASK_SOURCE
from prefect.states import Completed
from prefect.tasks import task_input_hash


@task(cache_policy=INPUTS + TASK_SOURCE, persist_result=True)
def cached(x: int, calls: str) -> int:
    """Twice x."""
    with Path(calls).open("a") as file:
        file.write("cached\n")
    return 2 * x


@task(cache_key_fn=task_input_hash, persist_result=True)
async def cached_async(x: int, calls: str) -> int:
    with Path(calls).open("a") as file:
        file.write("cached_async\n")
    return 3 * x


@task
def counts(n: int) -> typing.Iterator[int]:
    yield from range(n)


@task
async def counts_async(n: int) -> typing.AsyncIterator[int]:
    for i in range(n):
        yield i


@task(name="by another name", retries=1, tags=["mine"])
def agrees(x: "int | None" = None, *more: int, key: str = "k"):
    return Completed(message="agreed")


class Adder:
    def __call__(self, x: int) -> int:
        return x + 1


class Model:
    @task
    def fit(self, x: int) -> int:
        return x

    @task
    @staticmethod
    def free(x: int) -> int:
        return x


@materialize("s3://bucket/table")
def table() -> int:
    return 1


added = task(Adder())
renamed = cached.with_options(name="renamed", retries=3)


@flow(name="whole", retries=1)
def whole(calls: str, x: int = 2, rows: "list[int] | None" = None) -> list[object]:
    """The flow of this file."""
    doubled = cached.map([x, x + 1], calls=calls).result()
    return [*doubled, *counts(3), added(x), Model().fit(x), Model.free(x), table(), agrees(x).message]


@flow
async def whole_async(calls: str) -> list[int]:
    return [await cached_async(5, calls), *[i async for i in counts_async(2)]]


class Around:
    """Stands where Prefect's run context does when it asks for a cache key."""

    def __init__(self, of: Task) -> None:
        self.task = of


def look(of: Task | Flow) -> dict[str, object]:
    seen: dict[str, object] = {
        "type": type(of).__name__,
        "name": of.name,
        "doc": of.__doc__,
        "description": of.description,
        "signature": [str(inspect.signature(one)) for one in (of, of.fn)],
        "kind": [test(of.fn) for test in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, callable)],
        "travels as": type(cloudpickle.loads(cloudpickle.dumps(of))).__name__,
    }
    if isinstance(of, Flow):
        seen |= {"parameters": of.parameters.model_dump(), "version": of.version, "entrypoint": of._entrypoint}
    else:
        keys = [of.task_key, TASK_SOURCE.compute_key(Around(of), {}, {})]
        seen |= {"keys": keys, "tags": sorted(of.tags), "retries": of.retries}
    return seen | (look_at_function(of) if of is not added else {})


def look_at_function(of: Task | Flow) -> dict[str, object]:
    return {
        "names": [getattr(of.fn, name) for name in ("__name__", "__qualname__", "__module__", "__doc__")],
        "source": [inspect.getsource(of), inspect.getsource(of.fn)],
        "source kept": getattr(of, "source_code", None),
        "hints": str(typing.get_type_hints(of.fn)),
        "input hash": task_input_hash(Around(of), {"x": 1}) if isinstance(of, Task) else None,
    }


if __name__ == "__main__":
    made = [
        cached, cached_async, counts, counts_async, agrees, added, renamed, Model.fit, Model.free, table, whole,
        whole_async, whole.with_options(name="renamed"),
    ]  # fmt: skip
    said: dict[str, object] = {"looks": [look(one) for one in made]}
    if sys.argv[1:]:
        said["results"] = str([whole(sys.argv[1]), asyncio.run(whole_async(sys.argv[1]))])
    sys.stdout.write(json.dumps(said) + "\n")
