"""In mode `strict` nothing begins that could not be put on record: no task of any kind, and no flow."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.task_runners import ProcessPoolTaskRunner

from audit import flow, record, record_many, task
from audit.errors import AuditUnavailable
from audit.events.payloads import DatasetFacts
from audit.settings import settings

FACTS = DatasetFacts(spec="s", name="n", version=1, digest="sha256:x", address="artifact://x", rows=1, columns=[])


@pytest.fixture
def no_store(home: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AUDIT_HOME is a file: neither store, nor spool, nor log can be written."""
    home.write_text("not a folder")
    monkeypatch.setenv("AUDIT_MODE", "strict")
    settings.cache_clear()
    return home


@task
def leaves_a_mark(at: str) -> None:
    Path(at).write_text("ran")


@pytest.mark.parametrize(("made", "said"), [(task, r"not begun"), (flow, r"Flow run .* was not begun")])
def test_no_body_of_any_kind_begins(made: Any, said: str, no_store: Path) -> None:
    ran: list[str] = []

    @made  # type: ignore[untyped-decorator]
    def plain() -> None:
        ran.append("plain")

    @made  # type: ignore[untyped-decorator]
    async def coroutine() -> None:
        ran.append("coroutine")

    @made  # type: ignore[untyped-decorator]
    def generator() -> Iterator[int]:
        ran.append("generator")
        yield 1

    @made  # type: ignore[untyped-decorator]
    async def asynchronous_generator() -> AsyncIterator[int]:
        ran.append("asynchronous generator")
        yield 1

    async def drained() -> None:
        async for _ in asynchronous_generator():
            ran.append("one of its values")

    for begin in (plain, lambda: asyncio.run(coroutine()), lambda: list(generator()), lambda: asyncio.run(drained())):
        with pytest.raises(AuditUnavailable, match=said):
            begin()
    assert ran == []


def test_no_body_begins_in_a_process_pool(no_store: Path, tmp_path: Path) -> None:
    import prefect

    @prefect.flow(task_runner=ProcessPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
    def in_another_process() -> str:
        try:
            leaves_a_mark.submit(str(tmp_path / "mark")).result()
        except AuditUnavailable as refused:
            return str(refused)
        return "it ran"

    assert "was not begun" in in_another_process()
    assert not (tmp_path / "mark").exists()


def test_a_fact_that_cannot_be_put_on_record_is_the_callers_to_know(no_store: Path) -> None:
    with pytest.raises(AuditUnavailable, match="Nothing runs unrecorded"):
        record("dataset.ingested", FACTS, subject="dataset/n")
    with pytest.raises(AuditUnavailable, match="Nothing runs unrecorded"):
        record_many([("dataset.ingested", FACTS, "dataset/n")] * 2)
