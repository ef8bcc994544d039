"""`audit prove` and `audit export`, as people call them."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from audit.answers.bundle import verify_bundle
from audit.answers.prove import verify_proof
from audit.ledger.keys import read_log_key
from audit.ledger.sealer import seal
from audit.settings import settings
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.attacks.forging import owner
from tests.attacks.victim import ACTOR, work
from tests.audit.cli.conftest import Audit, Day


def zipped(name: str, content: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def sealed(store: AuditStore, day: Day, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AuditStore:
    """A day's work, sealed; we stand in an empty folder."""
    seal(store, read_log_key(settings().keys_path), actor=ACTOR)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return store


def deployed(store: AuditStore) -> str:
    return next(read.events(store, types=("model.deployed",))).id


def test_an_event_is_proven_by_its_short_id(audit: Audit, sealed: AuditStore) -> None:
    id = deployed(sealed)
    shown = audit("prove", id[-8:])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"evidence-{id[-8:]} · event {id} (model.deployed) · leaf ")
    assert "about people" in shown.stdout
    assert verify_proof(Path(f"evidence-{id[-8:]}")).answer == "held"


def test_prove_tells_programs_what_it_wrote(audit: Audit, sealed: AuditStore) -> None:
    shown = json.loads(audit("prove", deployed(sealed), "-o", "a/b", "--json").stdout)
    assert (shown["event"], shown["folder"], shown["payload"]) == (deployed(sealed), "a/b", True)
    assert sorted(file.name for file in Path("a/b").iterdir()) == shown["files"]


def test_prove_refuses_what_is_not_sealed_unknown_or_there_already(audit: Audit, sealed: AuditStore) -> None:
    (event, *_) = work(1)
    append(sealed, [event])
    waiting, unknown = audit("prove", event.id), audit("prove", "ffffffff")
    assert (waiting.returncode, unknown.returncode) == (2, 1)
    assert waiting.stderr == f"Event {event.id} is not sealed yet. Run `audit seal`, then this again.\n"
    assert list(Path.cwd().iterdir()) == []
    assert audit("prove", deployed(sealed), "-o", "evidence").returncode == 0
    again = audit("prove", deployed(sealed), "-o", "evidence")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert audit("prove", deployed(sealed), "-o", "evidence", "--force").returncode == 0


def test_a_store_that_was_changed_proves_nothing(audit: Audit, sealed: AuditStore) -> None:
    id = deployed(sealed)
    with owner(sealed.path) as database:
        database.execute("UPDATE payload SET body = replace(body, 'production', 'staging')")
    for words in (("prove", id), ("export", "-o", "bundle.zip")):
        shown = audit(*words)
        assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
        assert "audit verify" in shown.stderr
    assert list(Path.cwd().iterdir()) == []


def test_the_whole_log_is_exported(audit: Audit, sealed: AuditStore) -> None:
    append(sealed, work(1))
    shown = audit("export", "-o", "bundle.zip")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "the whole log acme.example/flights · 1 checkpoint" in shown.stdout
    assert "4 events not sealed, so not in it" in shown.stdout
    assert verify_bundle(Path("bundle.zip")).answer == "held"


def test_a_part_is_exported_by_run_time_type_or_event(audit: Audit, sealed: AuditStore, day: Day) -> None:
    def exported(*words: str) -> int:
        return int(json.loads(audit("export", "-o", "part.zip", "--force", "--json", *words).stdout)["events"])

    assert exported("--run", day.promote.id[-8:]) == 6
    assert exported("--type", "model.*", "--type", "dataset.*") == 7
    assert exported("--since", "2026-11-24T21:04:08", "--until", "2026-11-24T21:04:09") == 6
    assert exported("--event", deployed(sealed)[-8:], "--no-payloads") == 1
    verdict = verify_bundle(Path("part.zip"))
    assert (verdict.answer, verdict.events) == ("held", 1)


def test_export_refuses_a_file_that_is_there_and_a_part_without_events(audit: Audit, sealed: AuditStore) -> None:
    assert audit("export", "-o", "bundle.zip").returncode == 0
    for words in (("-o", "bundle.zip"), ("-o", "part.zip", "--type", "none.such")):
        shown = audit("export", *words)
        assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
    assert [file.name for file in Path.cwd().iterdir()] == ["bundle.zip"]


NO_BUNDLES = {
    "text": b"precious\n",
    "zip of others": zipped("notes.txt", "precious"),
    "manifest of others": zipped("manifest.json", '{"format": "other/bundle@1"}'),
    "manifest that is a list": zipped("manifest.json", '["prefect-audit/bundle@1"]'),
    "manifest that is no JSON": zipped("manifest.json", "prefect-audit/bundle@1"),
    "empty": b"",
}


@pytest.mark.parametrize("content", NO_BUNDLES.values(), ids=NO_BUNDLES)
def test_export_replaces_no_file_that_is_no_bundle(content: bytes, audit: Audit, sealed: AuditStore) -> None:
    Path("precious").write_bytes(content)
    shown = audit("export", "-o", "precious", "--force")
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
    assert "is no bundle: it stays as it is." in shown.stderr
    assert Path("precious").read_bytes() == content
    assert [file.name for file in Path.cwd().iterdir()] == ["precious"]


def test_export_replaces_neither_the_store_nor_a_link_or_folder(audit: Audit, sealed: AuditStore, home: Path) -> None:
    assert audit("export", "-o", "bundle.zip").returncode == 0
    Path("link.zip").symlink_to("bundle.zip")
    Path("dangling").symlink_to("nowhere")
    Path("folder").mkdir()
    for place in (home / "audit.db", home / "keys" / "log.key", "link.zip", "dangling", "folder"):
        shown = audit("export", "-o", str(place), "--force")
        assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
        assert "it stays as it is" in shown.stderr
    assert audit("export", "-o", "bundle.zip", "--force").returncode == 0
    assert Path("link.zip").is_symlink() and Path("dangling").is_symlink()


def test_export_to_a_dash_makes_no_file_of_that_name(audit: Audit, sealed: AuditStore) -> None:
    shown = audit("export", "-o", "-")
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("command", [("prove", "ffffffff"), ("export", "-o", "bundle.zip")])
def test_without_a_store_nothing_is_made(command: tuple[str, ...], audit: Audit, home: Path) -> None:
    shown = audit(*command)
    assert (shown.returncode, shown.stderr.count("\n")) == (2, 1)
    assert not home.exists()
