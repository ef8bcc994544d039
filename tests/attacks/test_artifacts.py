"""What events refer to: files beside the store, each under the SHA-256 of its bytes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.artifacts import blobs
from audit.events.payloads import RunState, Used
from audit.settings import settings
from audit.store.append import append
from tests.attacks.victim import Victim, told, verdict


@pytest.fixture
def artifact(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that a sealed event names."""
    monkeypatch.setenv("AUDIT_HOME", str(victim.home))
    settings.cache_clear()
    address = blobs.put(b"a model, let us say")
    made = Used(name="return", kind="model", of="fraud", address=address, digest="sha256:" + "0" * 64)
    state = RunState(run_name="train", of="train", outputs=[made])
    with victim.store() as store:
        append(store, [told("task_run.completed", state, "task-run/1")])
    victim.seal()
    found = blobs.local_path(address)
    assert found is not None
    yield found
    settings.cache_clear()


def test_an_artifact_has_other_bytes(victim: Victim, artifact: Path) -> None:
    artifact.chmod(0o600)
    artifact.write_bytes(b"another one")

    assert verdict(victim).answer == "held"
    (fault,) = verdict(victim, artifacts=True).faults
    assert (artifact.name in fault.about, "differs" in fault.what) == (True, True)


def test_an_artifact_is_removed(victim: Victim, artifact: Path) -> None:
    before = verdict(victim).notes
    artifact.unlink()

    assert verdict(victim).notes != before
    assert verdict(victim, artifacts=True).answer == "could not tell"
