"""Where the record lives is decided once, and never in a folder that vanishes."""

from pathlib import Path

import pytest

from audit.errors import AuditError, AuditUnavailable, BadData, CouldNotTell, StoreUnavailable, UserError
from audit.settings import read_settings, settings, strict


def test_the_home_is_var_beside_the_project_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/nowhere")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "flows" / "deep").mkdir(parents=True)

    assert read_settings({}, tmp_path / "flows" / "deep").home == tmp_path / "var"


def test_a_temporary_home_is_refused_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))

    with pytest.raises(UserError, match="Set AUDIT_HOME to a folder that stays"):
        read_settings({}, tmp_path)

    assert read_settings({"AUDIT_HOME": str(tmp_path / "mine")}, tmp_path).home == tmp_path / "mine"


def test_what_is_not_set_follows_the_home() -> None:
    found = read_settings({"AUDIT_HOME": "/srv/audit", "AUDIT_ALERT_URL": ""}, Path("/"))

    assert found.database_url is None
    assert found.artifacts_url == "file:///srv/audit/artifacts"
    assert (found.mode, found.alert_url) == ("spool", None)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(UserError, match="AUDIT_MODE is 'lax'"):
        read_settings({"AUDIT_HOME": "/srv", "AUDIT_MODE": "lax"}, Path("/"))


@pytest.mark.parametrize(("mode", "taken"), [("Strict", True), ("strict", True), ("spool", False), ("", False)])
def test_a_mode_that_is_not_known_counts_as_strict(
    home: Path, monkeypatch: pytest.MonkeyPatch, mode: str, taken: bool
) -> None:
    monkeypatch.setenv("AUDIT_MODE", mode)
    settings.cache_clear()
    assert strict() is taken


@pytest.mark.parametrize(("kind", "code"), [(UserError, 1), (BadData, 1), (StoreUnavailable, 2), (AuditUnavailable, 2)])
def test_an_error_carries_its_exit_code(kind: type[AuditError], code: int) -> None:
    assert kind("x").exit_code == code
    assert issubclass(kind, CouldNotTell) == (code == 2)


def test_an_error_travels_between_processes_whole() -> None:
    import pickle

    there = pickle.loads(pickle.dumps(BadData("August has no rows.", hint="Choose another month.")))

    assert (type(there), str(there)) == (BadData, "August has no rows. Choose another month.")
