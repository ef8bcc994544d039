"""A published log is read again, all of it, without its store."""

import secrets
import shutil
import sys
from pathlib import Path

import orjson
import pytest

from audit.answers.published import verify_published
from audit.cli.app import main
from audit.ledger.note import SigningKey
from audit.ledger.publisher import publish
from audit.settings import settings
from tests.attacks.victim import ACTOR
from tests.handed_out import ORIGIN, SIZE, Log


@pytest.fixture(scope="module")
def place(log: Log, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    publish(log.copied(folder / "var").store, str(folder / "log"), actor=ACTOR)
    return folder / "log"


def test_what_was_published_holds(log: Log, place: Path) -> None:
    found = verify_published(str(place), [log.key], kept=[log.notes[-1]], witnesses=[log.witness_key])
    assert (found.answer, found.events, found.anchors) == ("held", SIZE, 1)
    assert found.held_to


def test_another_key_older_checkpoints_and_no_place(log: Log, place: Path, tmp_path: Path) -> None:
    stranger = SigningKey(ORIGIN, secrets.token_bytes(32)).verifier
    assert verify_published(str(place), [stranger]).answer == "did not hold"
    assert verify_published(str(place), []).answer == "did not hold"
    assert verify_published(str(place), [log.key], kept=[log.notes[0]]).answer == "could not tell"
    assert verify_published(str(tmp_path / "none"), [log.key]).answer == "could not tell"


@pytest.mark.parametrize("name", ["tile/0/000.p/32", "tile/entries/000.p/32"])
def test_a_file_that_was_changed_is_named(name: str, log: Log, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "log")
    content = bytearray((tmp_path / "log" / name).read_bytes())
    content[40] ^= 1
    (tmp_path / "log" / name).write_bytes(content)
    found = verify_published(str(tmp_path / "log"), [log.key])
    assert found.answer == "did not hold"
    assert "tile/" in found.faults[0].what


def test_the_command_takes_the_key_that_is_named_else_those_of_the_store(
    log: Log, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def asked(*words: str, home: Path) -> int:
        monkeypatch.setenv("AUDIT_HOME", str(home))
        monkeypatch.setattr(sys, "argv", ["audit", "verify", "--tiles", str(place), *words])
        settings.cache_clear()
        with pytest.raises(SystemExit) as ended:
            main()
        settings.cache_clear()
        return int(ended.value.code or 0)

    assert asked("--json", home=log.copied(tmp_path / "var").home) == 0
    assert orjson.loads(capfd.readouterr().out)["size"] == SIZE
    assert asked("--key", str(log.key), home=tmp_path / "none") == 0
    assert asked(home=tmp_path / "none") == 2
    assert asked("--bundle", "b.zip", home=tmp_path / "none") == 2
