"""The commands on a store in PostgreSQL."""

import json
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from audit.events.payloads import StoreFacts
from audit.settings import settings
from audit.store.append import append, insert_event
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, an_event
from tests.deployments.roles import ROLES_SQL
from tests.postgres import empty_database_url, postgres_server, postgres_url  # noqa: F401  # fixtures
from tests.stores import as_superuser, home, on_a_server  # noqa: F401

pytestmark = on_a_server


def test_init_makes_the_store_and_its_keys_once(
    audit: Audit,
    home: Path,  # noqa: F811
    empty_database_url: str,  # noqa: F811
) -> None:
    first = json.loads(audit("init", "--json", AUDIT_DATABASE_URL=empty_database_url).stdout)
    again = json.loads(audit("init", "--json", AUDIT_DATABASE_URL=empty_database_url).stdout)

    assert (first["made"], {**first, "made": False}) == (True, again)
    assert make_url(first["store"]).database == make_url(empty_database_url).database
    assert (home / "keys" / "log.key").exists()
    assert not (home / "audit.db").exists()


def test_what_no_owner_made_is_not_made_by_asking(audit: Audit, empty_database_url: str) -> None:  # noqa: F811
    for command in (("seal",), ("verify",), ("runs",)):
        asked = audit(*command, AUDIT_DATABASE_URL=empty_database_url)
        assert (asked.returncode, f"{asked.stdout}{asked.stderr}".count("\n")) == (2, 1), command
        assert "no audit store" in f"{asked.stdout}{asked.stderr}"


def test_status_of_a_server_that_is_down_says_what_is_known_here(audit: Audit, store: AuditStore) -> None:
    gone = make_url(settings().database_url or "").set(host="127.0.0.1", port=9, query={}, password="TOKEN-a")
    url = gone.render_as_string(hide_password=False)

    shown = audit("status", AUDIT_DATABASE_URL=url, AUDIT_MODE="strict")
    found = audit("status", "--json", AUDIT_DATABASE_URL=url)

    named = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines() if not line.startswith(("mask", "log")))
    assert (shown.returncode, found.returncode) == (2, 2)
    assert (named["mode"], named["lost"], "cannot be used" in named["problem"]) == ("strict", "nothing", True)
    assert json.loads(found.stdout)["waiting_in_spool"] == 0
    assert "TOKEN" not in shown.stdout + found.stdout


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("role", ["writer", "sealer", "reader"])
def test_status_of_a_login_that_may_not_read_says_so_beside_what_is_known_here(audit: Audit, role: str) -> None:
    url = make_url(settings().database_url or "")
    name = f"login_{secrets.token_hex(6)}"
    with as_superuser() as database:
        database.execute(ROLES_SQL.read_text())  # type: ignore[arg-type]
        database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'; GRANT audit_{role} TO {name}")  # type: ignore[arg-type]
    login = url.set(username=name, password=name).render_as_string(hide_password=False)

    shown = audit("status", AUDIT_DATABASE_URL=login)
    found = json.loads(audit("status", "--json", AUDIT_DATABASE_URL=login).stdout)

    assert (shown.returncode, "permission denied" in found["problem"]) == (2, True)
    assert [line.split("  ")[0] for line in shown.stdout.splitlines()] == [
        "store", "problem", "mask key", "log key", "mode", "recording", "plugin", "spool", "lost",
    ]  # fmt: skip
    assert found["log_key_here"] is True


def test_no_password_is_shown_by_whatever_fails_or_works(audit: Audit, store: AuditStore) -> None:
    right = make_url(settings().database_url or "").set(password="TOKEN-a")
    wrong = right.set(database="nowhere")
    for url in (right, wrong):
        for command in (("status",), ("status", "--json"), ("init",), ("seal",), ("verify",)):
            shown = audit(*command, AUDIT_DATABASE_URL=url.render_as_string(hide_password=False))
            assert shown.returncode == (2 if url is wrong else 0), command
            assert "TOKEN" not in shown.stdout + shown.stderr


@pytest.mark.usefixtures("store")
def test_status_says_who_asks_and_what_the_server_risks(audit: Audit) -> None:
    shown = audit("status").stdout

    assert "superuser: it can lift the guards" in shown
    assert "fsync and full_page_writes off: a power cut loses what was recorded" in shown  # the tests' own server
    assert json.loads(audit("status", "--json").stdout)["login"]["roles"] == ["superuser"]


def test_tail_shows_an_event_that_came_in_behind_others(store: AuditStore) -> None:
    command = [sys.executable, "-m", "audit", "tail", "--type", "store.*", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stdout and tail.stderr
        shown = [json.loads(tail.stdout.readline())]
        with store.writing() as slow:
            insert_event(slow, an_event("store.dropped", StoreFacts(count=1)))
            append(store, [an_event("store.dropped", StoreFacts(count=2))])
            shown.append(json.loads(tail.stdout.readline()))
        shown.append(json.loads(tail.stdout.readline()))
        append(store, [an_event("store.dropped", StoreFacts(count=3))])
        shown.append(json.loads(tail.stdout.readline()))
        tail.send_signal(signal.SIGINT)

    assert [event["payload"].get("count") for event in shown] == [None, 2, 1, 3]
