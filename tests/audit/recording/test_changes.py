"""What a spec says is on record without the addresses in it."""

from pathlib import Path

from audit.recording.changes import note_change
from audit.recording.initialise import initialise
from audit.store import read
from audit.store.engine import open_store


def test_an_address_in_a_title_path_or_key_is_on_record_in_no_form(home: Path) -> None:
    initialise()
    spec = {"title": "by ann@planted.org", "sources": {"t": {"file": "/home/ann@planted.org/t.csv"}}}
    note_change("loans", "spec", "sha256:1", spec)
    note_change("loans", "spec", "sha256:2", spec | {"title": "by bob@planted.org", "bob@planted.org": 1})

    written = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    assert b"planted" not in written
    latest = next(read.events(open_store(), types=("pipeline.changed",)))
    assert latest.payload["details"][0] == {"name": "title", "value": "by [redacted]"}


def test_what_is_named_like_a_secret_is_on_record_in_no_form_but_a_keyed_hash(home: Path) -> None:
    initialise()
    hashed = "keyed:0123456789abcdef"
    steps = [{"git_clone": {"access_token": "planted", "repository": "r"}}, {"name": "db_password", "value": "planted"}]
    note_change("loans", "deployment", "sha256:1", {"steps": steps, "API_KEY": hashed})
    note_change("loans", "deployment", "sha256:2", {"steps": [], "columns": [{"name": "token", "dtype": "string"}]})

    latest, first = (e.payload for e in read.events(open_store(), types=("pipeline.changed",)))
    assert "planted" not in str((latest, first))
    shown = {one["name"]: one["value"] for one in first["details"]}
    assert shown["API_KEY"] == hashed and shown["steps[0].git_clone.repository"] == "r"
    assert {"name": "columns[token].dtype", "value": "string"} in latest["details"], "what is merely about one is told"
