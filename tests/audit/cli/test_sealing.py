"""`audit seal`, `audit log-key`, and what `audit status` says of both."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit.events.payloads import StoreFacts
from audit.ledger.keys import FILE, new_key, read_log_key
from audit.ledger.note import signed
from audit.ledger.sealer import BATCH, KEPT
from audit.settings import settings
from audit.store import ledger, read
from audit.store.append import append
from audit.store.engine import AuditStore, close_stores, open_store
from tests.audit.cli.conftest import Audit, an_event
from tests.audit.cli.test_app import imported_by, on_a_terminal

SECONDS = 60


def grow(store: AuditStore, count: int) -> None:
    append(store, [an_event("store.replayed", StoreFacts(count=1)) for _ in range(count)])


def rewrite(home: Path) -> None:
    """As the owner of the file can."""
    with sqlite3.connect(home / "audit.db") as database:
        database.execute("DROP TRIGGER leaf_no_update")
        database.execute("UPDATE leaf SET hash = zeroblob(32) WHERE idx = 1")


# --- seal


def test_seal_says_what_it_sealed_and_then_that_nothing_waits(audit: Audit, store: AuditStore) -> None:
    grow(store, 184)

    first, again = audit("seal"), audit("seal")

    root = note_of(store).splitlines()[2]
    assert first.stdout == f"sealed 187 events · tree of 187 · checkpoint {root[:12]}…\n"
    assert (again.returncode, again.stdout[:34]) == (0, "nothing to seal · tree of 187 · la")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("every", ["0", "nan", "inf", "1e9"])
def test_watching_so_often_or_so_seldom_is_refused(audit: Audit, every: str) -> None:
    refused = audit("seal", "--watch", "--every", every)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "Invalid value for '--every'" in refused.stderr


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("key", ["hunter2", os.fsdecode(b"\xff\xfehunter2")])
def test_status_names_what_is_given_as_key_and_is_none(audit: Audit, key: str) -> None:
    said = audit("status", AUDIT_LOG_KEY=key)

    assert said.returncode == 0
    assert "AUDIT_LOG_KEY holds no signing key" in said.stdout
    assert "hunter2" not in said.stdout + said.stderr


def note_of(store: AuditStore) -> str:
    with store.reading() as connection:
        found = ledger.last_checkpoint(connection)
    assert found
    return found[1]


def test_seal_shows_the_note_on_request(audit: Audit, store: AuditStore) -> None:
    assert audit("seal", "--note").stdout.endswith(f"\n\n{note_of(store)}")
    assert audit("seal", "--note").stdout.endswith(f"\n\n{note_of(store)}")


def test_seal_in_json(audit: Audit, store: AuditStore) -> None:
    first, again = (json.loads(audit("seal", "--json").stdout) for _ in range(2))

    assert first == {"events": 3, "size": 3, "checkpoints": 1, "note": note_of(store)}
    assert again == {"events": 0, "size": 3, "checkpoints": 0, "note": note_of(store)}


@pytest.mark.usefixtures("store")
def test_sealing_is_told_like_everything_else(audit: Audit, home: Path) -> None:
    audit("seal")

    lines = (home / "logs" / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["checkpoint.signed"]


def test_several_batches_are_one_line_and_a_bar_on_a_terminal(store: AuditStore) -> None:
    grow(store, BATCH)

    shown = on_a_terminal("seal", TERM="xterm", COLUMNS="100")

    assert "sealed 10,004 events · tree of 10,004 · 2 checkpoints, the last " in shown


@pytest.mark.usefixtures("store")
def test_seal_without_the_key_says_what_to_do(audit: Audit, home: Path) -> None:
    shown = read_log_key(home / "keys").verifier.shown
    (home / "keys" / FILE).unlink()

    refused = audit("seal")

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr.startswith(f"The log's key {shown} is not here. This process does not seal.")
    assert "audit log-key --lost" in refused.stderr


@pytest.mark.usefixtures("store")
def test_seal_refuses_a_key_that_others_can_read(audit: Audit, home: Path) -> None:
    (home / "keys" / FILE).chmod(0o640)

    refused = audit("seal")

    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "is open to other users. Run `chmod 600" in refused.stderr


def test_seal_signs_nothing_where_the_past_was_changed(audit: Audit, store: AuditStore, home: Path) -> None:
    audit("seal")
    rewrite(home)
    grow(store, 1)

    refused = audit("seal")

    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "sealed events were changed. Nothing is signed." in refused.stderr


# --- an older copy of the store, put back


@pytest.fixture
def older(audit: Audit, store: AuditStore, home: Path) -> AuditStore:
    """A copy of the store from before the last sealing, in its place, with nothing that waits to be sealed."""
    audit("seal")
    store.engine.dispose()
    content = (home / "audit.db").read_bytes()
    grow(store, 5)
    audit("seal")
    put_back(home, content)
    return open_store()


def put_back(home: Path, content: bytes) -> None:
    close_stores()
    for file in home.glob("audit.db*"):
        file.unlink()
    (home / "audit.db").write_bytes(content)


REFUSING = (
    ("seal",), ("log-key",), ("publish", "log"), ("export", "-o", "b.zip"), ("prove", "EVENT"),
    ("anchor", "--tsa", "https://tsa.example", "--tsa-roots", "tsa.pem"),
)  # fmt: skip


@pytest.mark.parametrize("words", REFUSING, ids=" ".join)
def test_an_older_copy_is_refused_by_all_that_go_by_what_is_sealed(
    words: tuple[str, ...], older: AuditStore, audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    event = next(read.events(older, types=("store.opened",))).id

    refused = audit(*(event if word == "EVENT" else word for word in words))

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert "The store has 3 sealed events, but a checkpoint of size 9 was signed" in refused.stderr
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.usefixtures("older")
def test_watch_does_not_begin_on_an_older_copy() -> None:
    with watching() as process:
        _, errors = process.communicate(timeout=SECONDS)

    assert (process.returncode, errors.count("\n")) == (1, 1)
    assert "this is an older copy" in errors


@pytest.mark.usefixtures("older")
def test_status_says_that_the_store_is_an_older_copy(audit: Audit) -> None:
    shown, found = audit("status"), json.loads(audit("status", "--json").stdout)

    assert shown.returncode == 0
    assert "tree       The store has 3 sealed events, but a checkpoint of size 9 was signed" in shown.stdout
    assert "audit seal" not in shown.stdout
    assert "this is an older copy" in found["tree_problem"]


def test_status_says_why_sealing_is_refused_where_the_past_was_changed(
    audit: Audit, store: AuditStore, home: Path
) -> None:
    audit("seal")
    rewrite(home)
    grow(store, 1)

    shown = audit("status").stdout

    assert "1 not sealed yet · 1 of the log's own" in shown
    assert "sealed events were changed. Nothing is signed." in shown


def test_an_emptied_store_is_refused(audit: Audit, store: AuditStore, home: Path) -> None:
    audit("seal")
    put_back(home, b"")

    refused = audit("seal")

    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "The store has 0 sealed events, but a checkpoint of size 3 was signed" in refused.stderr
    assert "The store has 0 sealed events" in audit("status").stdout


@pytest.mark.usefixtures("older")
def test_a_machine_that_kept_no_checkpoint_does_not_look(audit: Audit, home: Path) -> None:
    (home / "keys" / KEPT).unlink()

    assert "nothing to seal · tree of 3" in audit("seal").stdout
    assert json.loads(audit("status", "--json").stdout)["tree_problem"] is None


# --- seal --watch


@contextmanager
def watching(*words: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "audit", "seal", "--watch", "--every", "0.1", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def sealed(store: AuditStore) -> bool:
    return ledger.not_sealed(store)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_watch_seals_what_comes_until_it_is_told_to_end(number: signal.Signals, store: AuditStore) -> None:
    with watching() as process:
        until(lambda: sealed(store))
        grow(store, 2)
        until(lambda: sealed(store))
        process.send_signal(number)
        shown, errors = process.communicate(timeout=SECONDS)

    assert (process.returncode, errors) == (0, "")
    assert [line[21:45] for line in shown.splitlines()] == ["sealed 3 events · tree o", "sealed 3 events · tree o"]


def test_watch_waits_for_what_is_away_and_says_so_once(store: AuditStore, home: Path) -> None:
    key = home / "keys" / FILE
    with watching("--json") as process:
        until(lambda: sealed(store))
        key.rename(home / "elsewhere")
        grow(store, 1)
        assert process.stderr
        said = [process.stderr.readline()]
        (home / "elsewhere").rename(key)
        until(lambda: sealed(store))
        process.terminate()
        shown, errors = process.communicate(timeout=SECONDS)

    assert process.returncode == 0
    assert "is not here. This process does not seal." in said[0]
    assert errors[20:] == " It is back.\n"
    assert [json.loads(line)["size"] for line in shown.splitlines()] == [3, 5]


def test_watch_ends_where_the_past_was_changed(store: AuditStore, home: Path) -> None:
    with watching() as process:
        until(lambda: sealed(store))
        rewrite(home)
        grow(store, 1)
        _, errors = process.communicate(timeout=SECONDS)

    assert (process.returncode, errors.count("\n")) == (1, 1)
    assert "sealed events were changed" in errors


@pytest.mark.usefixtures("store")
def test_watch_that_cannot_begin_is_an_error(home: Path) -> None:
    (home / "keys" / FILE).unlink()

    with watching() as process:
        _, errors = process.communicate(timeout=SECONDS)

    assert (process.returncode, errors.count("\n")) == (2, 1)


def test_sealing_needs_no_prefect(store: AuditStore) -> None:
    grow(store, 1)

    assert imported_by("seal").isdisjoint(("prefect", "polars", "pandas", "sklearn", "great_expectations", "evidently"))
    assert sealed(store)


# --- log-key


def test_log_key_shows_what_an_auditor_keeps(audit: Audit, store: AuditStore, home: Path) -> None:
    vkey = str(read_log_key(home / "keys").verifier)
    assert audit("log-key").stdout == f"log key     {vkey}\ncheckpoint  none yet: audit seal\n"
    audit("seal")

    shown = audit("log-key").stdout

    assert shown.startswith(f"log key     {vkey}\ncheckpoint  of 3 events, ")
    assert shown.endswith(f" UTC\n\n{note_of(store)}")
    assert json.loads(audit("log-key", "--json").stdout) == {
        "vkey": vkey, "keys": [vkey], "checkpoint": note_of(store), "files": [],
    }  # fmt: skip


def test_log_key_writes_it_into_a_folder(audit: Audit, store: AuditStore, home: Path, tmp_path: Path) -> None:
    audit("seal")

    shown = audit("log-key", "-o", str(tmp_path / "evidence"))

    assert (tmp_path / "evidence" / "log.vkey").read_text() == f"{read_log_key(home / 'keys').verifier}\n"
    assert (tmp_path / "evidence" / "checkpoint").read_text() == note_of(store)
    assert shown.stdout.count("written") == 2


def test_log_key_replaces_what_it_wrote_before(audit: Audit, store: AuditStore, tmp_path: Path) -> None:
    for _ in range(2):
        grow(store, 1)
        audit("seal")
        assert audit("log-key", "-o", str(tmp_path)).returncode == 0
    audit("log-key", "--rotate")
    assert audit("log-key", "-o", str(tmp_path)).returncode == 0

    assert (tmp_path / "checkpoint").read_text() == note_of(store)


OTHER = new_key("other.example/log")
LARGER = str(signed("acme.example/flights\n1000\n" + "A" * 43 + "=\n", [new_key("acme.example/flights")]))
FORKED = LARGER.replace("\n1000\n", "\n2\n")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("log.vkey", f"{OTHER.verifier}\n", "is of other.example/log, this log is acme.example/flights."),
        ("log.vkey", "notes\n", "is of no log"),
        ("checkpoint", LARGER, "checkpoint of size 1000 was signed"),
        ("checkpoint", FORKED, "does not continue the checkpoint of size 2"),
        ("checkpoint", LARGER.replace("acme.example/flights", "other.example/log"), "it is one of other.example/log"),
        ("checkpoint", "notes\n", "cannot be believed"),
        ("checkpoint", "", "cannot be believed"),
    ],
    ids=["another key", "no key", "larger", "another root", "another log", "no checkpoint", "empty"],
)
@pytest.mark.usefixtures("store")
def test_log_key_leaves_what_somebody_kept_of_another_log(
    name: str, content: str, said: str, audit: Audit, tmp_path: Path
) -> None:
    audit("seal")
    (tmp_path / name).write_text(content)
    before = sorted(file.name for file in tmp_path.iterdir())

    refused = audit("log-key", "-o", str(tmp_path))

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert said in refused.stderr
    assert (tmp_path / name).read_text() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == before


@pytest.mark.usefixtures("store")
def test_log_key_into_what_is_no_folder_is_one_line(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    refused = audit("log-key", "-o", str(tmp_path / "file"))

    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


@pytest.mark.usefixtures("store")
def test_log_key_hands_over(audit: Audit, home: Path) -> None:
    shown = audit("log-key", "--rotate")

    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"log key     {read_log_key(home / 'keys').verifier}\n")
    assert "audit log-key -o FOLDER" in shown.stdout
    assert len(json.loads(audit("log-key", "--json").stdout)["keys"]) == 2


@pytest.mark.usefixtures("store")
def test_log_key_writes_a_new_key_for_who_keeps_the_old_one_elsewhere(audit: Audit, home: Path, tmp_path: Path) -> None:
    environ = {"AUDIT_LOG_KEY": read_log_key(home / "keys").encoded}
    (home / "keys" / FILE).unlink()

    refused = audit("log-key", "--rotate", **environ)
    shown = audit("log-key", "--rotate", "--to", str(tmp_path / "new.key"), **environ)

    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"{tmp_path / 'new.key'} (mode 0600). Put it in the place of the old one now" in shown.stdout
    new = (tmp_path / "new.key").read_text().strip()
    assert new.split("+", 4)[4] not in shown.stdout
    assert not (home / "keys" / FILE).exists()
    grow(open_store(), 1)
    assert audit("seal", **environ).returncode == 2
    assert audit("seal", AUDIT_LOG_KEY=new).returncode == 0


@pytest.mark.usefixtures("store")
def test_log_key_that_is_lost_is_replaced_once_somebody_says_so(audit: Audit, home: Path) -> None:
    kept = audit("log-key", "--lost", "--reason", "a mistake", "--yes")
    (home / "keys" / FILE).unlink()
    silent, unasked = audit("log-key", "--lost", "--yes"), audit("log-key", "--lost", "--reason", "disk gone")
    assert not (home / "keys" / FILE).exists()

    done = audit("log-key", "--lost", "--reason", "disk gone", "--yes")

    assert (kept.returncode, silent.returncode, unasked.returncode, done.returncode) == (1, 1, 1, 0)
    assert "is here and works" in kept.stderr
    assert "--reason" in silent.stderr
    assert "--yes" in unasked.stderr
    assert str(read_log_key(home / "keys").verifier) in done.stdout
    assert audit("seal").returncode == 0


@pytest.mark.parametrize(
    "words", [("--rotate", "--lost"), ("--to", "x"), ("--reason", "x"), ("--lost", "--to", "x")], ids=" ".join
)
@pytest.mark.usefixtures("store")
def test_options_of_log_key_that_do_not_fit_are_refused(words: tuple[str, ...], audit: Audit) -> None:
    refused = audit("log-key", *words)

    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)


# --- status


def test_status_says_how_much_is_sealed(audit: Audit, store: AuditStore) -> None:
    assert "sealed     0 of 3 events · no checkpoint · 3 not sealed yet: audit seal" in audit("status").stdout
    audit("seal")
    grow(store, 2)

    found = json.loads(audit("status", "--json").stdout)

    assert (found["events_sealed"], found["events_not_sealed"], found["events_due"]) == (3, 3, 2)
    assert (found["checkpoints"], found["anchors"]) == (1, 0)
    assert found["last_checkpoint_at"].endswith("Z")
    assert "3 of 6 events · last checkpoint " in audit("status").stdout
    assert "2 not sealed yet: audit seal" in audit("status").stdout
    audit("seal")
    assert "not sealed yet" not in audit("status").stdout


@pytest.mark.usefixtures("store")
def test_status_says_where_the_log_key_is(audit: Audit, home: Path) -> None:
    file = home / "keys" / FILE
    shown = read_log_key(home / "keys").verifier.shown
    content = file.read_text()
    assert f"log key    {shown} in {file}: keep a copy" in audit("status").stdout

    file.chmod(0o644)
    assert "log.key is open to other users" in audit("status").stdout
    file.unlink()
    assert f"{shown} is not in {file}: this process does not seal. If it is gone for good: " in audit("status").stdout
    file.write_text(new_key("acme.example/flights").encoded)
    file.chmod(0o600)
    assert f"holds another one than the recorded {shown}" in audit("status").stdout
    file.write_text("hunter2")
    assert "holds no signing key" in audit("status").stdout
    file.unlink()
    assert f"{shown} in AUDIT_LOG_KEY" in audit("status", AUDIT_LOG_KEY=content).stdout
    assert f"{shown}, from the Prefect block log-key" in audit("status", AUDIT_LOG_KEY_BLOCK="log-key").stdout


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("secret", ["hunter2", "a+hunter2+b+hunter2", "PRIVATE+KEY+hunter2+xy+hunter2"])
def test_no_command_shows_what_stands_in_the_key_s_place(secret: str, audit: Audit) -> None:
    for words in (("status",), ("status", "--json"), ("seal",), ("log-key",), ("log-key", "--rotate"), ("init",)):
        shown = audit(*words, AUDIT_LOG_KEY=secret)
        assert "hunter2" not in shown.stdout + shown.stderr


@pytest.mark.usefixtures("store")
def test_status_loads_no_key() -> None:
    assert imported_by("status").isdisjoint(("cryptography", "prefect", "sqlmodel"))


@pytest.mark.usefixtures("home")
def test_init_says_where_the_log_key_is_and_seals(audit: Audit, home: Path) -> None:
    shown = audit("init", "--origin", "acme.example/fraud").stdout

    assert f"log key   {read_log_key(home / 'keys').verifier.shown} in {home / 'keys' / FILE}: keep a copy" in shown
    assert ledger.sealing(open_store()).size == 3
    assert os.environ["AUDIT_HOME"] == str(settings().home)
