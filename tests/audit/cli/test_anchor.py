"""`audit anchor`: everybody who is named is asked, and what each of them said is shown."""

import json
from pathlib import Path

import pytest

from audit.ledger.keys import read_log_key
from audit.ledger.note import VerifierKey
from audit.store.engine import AuditStore
from tests.anchoring import TimestampAuthority, Witness, replies
from tests.audit.cli.conftest import Audit, an_event

PASSWORD = "hunter2-planted"


@pytest.fixture
def sealed(store: AuditStore, audit: Audit) -> AuditStore:
    assert audit("seal").returncode == 0
    return store


def witnesses(home: Path, *lines: str) -> str:
    file = home / "witnesses"
    file.write_text("".join(lines))
    return str(file)


def test_an_authority_and_a_witness_vouch_for_the_newest_checkpoint(
    sealed: AuditStore, audit: Audit, home: Path, authority: TimestampAuthority, witness: Witness
) -> None:
    witness.knows(read_log_key(home / "keys").verifier)
    named = {
        "AUDIT_TSA_URL": authority.url_with("acme", PASSWORD),
        "AUDIT_TSA_ROOTS": str(authority.roots),
        "AUDIT_WITNESSES": witnesses(home, witness.line),
    }

    shown = audit("anchor", **named)

    assert (shown.returncode, shown.stderr) == (0, "")
    head, stamped, cosigned = shown.stdout.splitlines()
    assert head.split() == ["checkpoint", "anchor", "by", "at", "(UTC)"]
    assert stamped.split()[:5] == ["3", "time", "stamp", "CN=Example", "Time"]
    assert cosigned.split()[:3] == ["3", "cosignature", witness.vkey.shown]
    again = audit("anchor", "--json", **named)
    assert [(one["kind"], one["size"], one["new"]) for one in json.loads(again.stdout)["anchors"]] == [
        ("timestamp", 3, False),
        ("cosignature", 3, False),
    ]
    assert PASSWORD not in shown.stdout + shown.stderr + again.stdout + again.stderr
    assert all(line.endswith("was on record") for line in audit("anchor", **named).stdout.splitlines()[1:])


def test_one_that_fails_keeps_no_other_from_being_asked(
    sealed: AuditStore, audit: Audit, home: Path, authority: TimestampAuthority, witness: Witness
) -> None:
    away = VerifierKey("away.example/w", 4, bytes(32))
    file = witnesses(home, f"{away} http://127.0.0.1:9/\n", witness.line)
    options = ("--tsa", authority.url, "--tsa-roots", str(authority.roots), "--witnesses", file)

    shown = audit("anchor", *options)

    assert shown.returncode == 1  # the second witness does not know the log
    outcomes = [line.rsplit("  ", 1)[-1] for line in shown.stdout.splitlines()[1:]]
    assert outcomes[1:] == ["not reached", "refused"] and authority.received
    first, second = shown.stderr.splitlines()
    assert first.startswith(f"{away.shown} cannot be reached")
    assert second.startswith(f"{witness.vkey.shown} does not know this log")
    witness.knows(read_log_key(home / "keys").verifier)
    assert audit("anchor", *options).returncode == 2
    said = json.loads(audit("anchor", *options, "--json").stdout)["anchors"]
    assert [one["anchored"] for one in said] == [True, False, True]
    assert "cannot be reached" in said[1]["error"]


def test_events_that_no_anchor_covers_are_counted(
    sealed: AuditStore, audit: Audit, authority: TimestampAuthority
) -> None:
    from audit.events.payloads import KeyFacts
    from audit.store.append import append

    append(sealed, [an_event("key.created", KeyFacts(purpose="test", fingerprint="f"))])
    options = ("anchor", "--tsa", authority.url, "--tsa-roots", str(authority.roots))
    assert audit(*options).stdout.endswith("1 event is not sealed yet: no anchor covers it. See `audit seal`.\n")
    assert json.loads(audit(*options, "--json").stdout)["unsealed"] == 1


def test_anchors_on_record_are_listed_and_nobody_is_asked(
    sealed: AuditStore, audit: Audit, authority: TimestampAuthority
) -> None:
    assert audit("anchor", "--list").stdout == "No anchor is on record.\n"
    audit("anchor", "--tsa", authority.url, "--tsa-roots", str(authority.roots))
    authority.instead = replies(500)
    shown = audit("anchor", "--list", AUDIT_TSA_URL=authority.url)
    assert shown.stdout.splitlines()[1].split()[:6] == ["3", "time", "stamp", "CN=Example", "Time", "Stamping"]
    (listed,) = json.loads(audit("anchor", "--list", "--json").stdout)
    assert (listed["size"], listed["kind"], len(authority.received)) == (3, "timestamp", 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tsa", "https://u:hunter2-planted@tsa.example/"), "root certificates are not named"),
        (("--tsa", "u:hunter2-planted@tsa.example"), "The time stamp authority's address is none."),
        (("--witnesses", "nowhere"), "nowhere cannot be read (No such file or directory)."),
    ],
    ids=["no roots", "no address", "no file"],
)
def test_what_cannot_be_used_is_one_line(sealed: AuditStore, audit: Audit, options: tuple[str, ...], said: str) -> None:
    shown = audit("anchor", *options)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (1, "", 1)
    assert said in shown.stderr and PASSWORD not in shown.stderr


def test_nobody_to_ask_is_not_that_one_does_not_vouch(sealed: AuditStore, audit: Audit) -> None:
    shown = audit("anchor")
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
    assert shown.stderr.startswith("Nobody is named who could vouch for a checkpoint. Set AUDIT_TSA_URL")


def test_before_the_first_sealing_there_is_nothing_to_anchor(
    store: AuditStore, audit: Audit, authority: TimestampAuthority
) -> None:
    shown = audit("anchor", "--tsa", authority.url, "--tsa-roots", str(authority.roots))
    assert (shown.returncode, shown.stderr) == (
        1,
        "No checkpoint is on record that could be anchored. Run `audit seal`.\n",
    )
