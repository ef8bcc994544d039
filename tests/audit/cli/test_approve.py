"""`audit approve`, and where it shows who decided."""

import json

import pytest

from audit.events import payloads as p
from audit.events.event import Event
from audit.recording.circumstances import principal
from audit.store import read
from audit.store.append import append
from audit.store.engine import AuditStore
from tests.audit.cli.conftest import Audit, a_flow_run, a_model, a_task_run, an_event

NOTE = "better in every slice"
FAR = "2126-11-24T21:05:00.000000Z"


@pytest.fixture
def asked(store: AuditStore) -> AuditStore:
    """flights v2 awaits approval against v1; its run has ended."""
    append(store, [*deployed(1), *requested(2, champion=1)])
    return store


def test_an_approved_model_is_champion_and_the_account_is_named(audit: Audit, asked: AuditStore) -> None:
    shown = audit("approve", "flights/v2", "--note", NOTE)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "now       production, champion" in shown.stdout
    assert f"approved by {principal()} (operating system)" in shown.stdout
    (approved,) = read.events(asked, types=("model.approved",))
    assert approved.payload["approver"] == {
        "name": principal(), "identity": "operating system", "by": "command",
    }  # fmt: skip
    assert approved.payload["note"] == NOTE
    (model, _) = json.loads(audit("models", "--json").stdout)
    assert (model["version"], model["champion"], model["awaiting_approval"]) == (2, True, False)


def test_a_name_that_was_typed_is_asserted_beside_the_account_that_typed_it(audit: Audit, asked: AuditStore) -> None:
    said = json.loads(audit("approve", "v2", "--note", NOTE, "--name", "Jane Doe", "--json").stdout)

    assert (said["version"], said["promoted"], said["champion"]) == (2, True, 2)
    assert said["approver"] == {
        "name": "Jane Doe", "identity": "asserted", "by": "command", "account": principal(),
    }  # fmt: skip
    assert "approved by Jane Doe (asserted)" in audit("models").stdout


def test_a_rejected_model_is_out_and_the_champion_stays(audit: Audit, asked: AuditStore) -> None:
    shown = audit("approve", "2", "--reject", "--note", "too few rows", "--spec", "flights")

    assert shown.returncode == 0
    assert "now       rejected" in shown.stdout
    assert "champion  v1" in shown.stdout
    assert f"too few rows · decided by {principal()}" in audit("models").stdout


def test_a_model_that_waits_is_seen_waiting(audit: Audit, asked: AuditStore) -> None:
    assert "v2       awaiting approval" in audit("models").stdout
    assert "1 model awaits approval: audit models" in audit("status").stdout
    audit("approve", "flights/v2", "--note", NOTE)
    assert "no model awaits any" in audit("status").stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["flights/v9"], 1, "flights/v9 is not on record. See `audit models`.\n"),
        (["flights/v1"], 1, "flights/v1 awaits no approval: it was deployed on 2026-11-24 21:04 UTC.\n"),
        (["mortgage/v1"], 1, "mortgage/v1 is not on record. See `audit models`.\n"),
        (["flights"], 1, "'flights' is no model. Write flights/v2. See `audit models`.\n"),
        (["flights/v2", "--spec", "loans"], 1, "flights/v2 is no model of loans. Leave --spec out.\n"),
        (["flights/v2", "--name", " _ "], 1, "The name says nothing. Who decided goes on record, and why.\n"),
    ],
)
def test_what_cannot_be_approved_is_refused_in_one_line(
    audit: Audit, asked: AuditStore, words: list[str], code: int, said: str
) -> None:
    shown = audit("approve", *words, "--note", NOTE)
    assert (shown.returncode, shown.stdout, shown.stderr) == (code, "", said)


def test_nobody_approves_without_saying_why(audit: Audit, asked: AuditStore) -> None:
    assert audit("approve", "flights/v2").returncode == 2
    assert audit("approve", "flights/v2", "--note", " ").stderr.startswith("The note says nothing.")
    assert len(read.awaiting_approval(asked)) == 1


def test_a_version_alone_is_refused_where_two_use_cases_have_models(audit: Audit, asked: AuditStore) -> None:
    append(asked, deployed(1, spec="loans"))
    assert audit("approve", "v2", "--note", NOTE).stderr == (
        "There are models of flights, loans. Say which: flights/v2.\n"
    )


def test_a_second_decision_is_refused_and_says_whose_the_first_was(audit: Audit, asked: AuditStore) -> None:
    audit("approve", "flights/v2", "--note", NOTE, "--name", "Jane Doe")
    shown = audit("approve", "flights/v2", "--reject", "--note", "no")
    assert shown.returncode == 1
    assert shown.stderr.startswith("flights/v2 awaits no approval: it was approved by Jane Doe (asserted) on ")


def test_an_approval_that_comes_too_late_ends_with_code_1_and_says_why(audit: Audit, asked: AuditStore) -> None:
    append(asked, requested(3, champion=1))
    audit("approve", "flights/v3", "--note", NOTE)

    shown = audit("approve", "flights/v2", "--note", NOTE)

    assert shown.returncode == 1
    assert "it was held against v1, but the champion is now v3" in shown.stdout


def test_an_answer_after_the_time_limit_rejects_the_model(audit: Audit, store: AuditStore) -> None:
    append(store, requested(1, answer_by="2026-11-24T21:05:00.000000Z"))
    shown = audit("approve", "flights/v1", "--note", NOTE)
    assert shown.returncode == 1
    assert shown.stderr.endswith("UTC: nobody decided by 2026-11-24 21:05 UTC.\n")


def test_without_a_store_none_is_made(audit: Audit) -> None:
    assert audit("approve", "flights/v2", "--note", NOTE).returncode == 2


def test_the_run_that_decided_shows_who_did(audit: Audit, store: AuditStore) -> None:
    flow = a_flow_run("training flights")
    decide = a_task_run(flow, "decide on flights v1", "decide")
    jane = p.Approver(name="Jane Doe", identity="asserted", by="form")
    (_, asked) = requested(1)
    approved = p.ApprovalFacts.model_validate_json(asked.body).model_copy(update={"approver": jane, "note": NOTE})
    append(
        store,
        [
            flow.state("running", 0), decide.state("running", 1),
            decide.fact("model.approved", approved, 2, "model/flights/v1"), decide.state("completed", 3),
            flow.state("completed", 4),
        ],
    )  # fmt: skip
    assert f"v1 approved by Jane Doe (asserted): {NOTE}" in audit("run", flow.id).stdout


def deployed(version: int, spec: str = "flights") -> list[Event]:
    stage = p.StageFacts(spec=spec, model=a_model(version), version=version, environment="none", reason="evaluated")
    live = stage.model_copy(update={"environment": "production"})
    subject = f"model/{spec}/v{version}"
    return [
        an_event("model.registered", stage, subject=subject, after=1),
        an_event("model.deployed", live, subject=subject, after=2),
    ]


def requested(
    version: int, *, champion: int | None = None, answer_by: str = "2126-11-24T21:05:00.000000Z"
) -> list[Event]:
    stage = p.StageFacts(
        spec="flights", model=a_model(version), version=version, environment="none", reason="evaluated"
    )
    facts = p.ApprovalFacts(
        spec="flights", model=a_model(version), version=version, champion=champion, reason="4 of 4 gates held",
        answer_by=answer_by, unanswered="rejected",
    )  # fmt: skip
    subject = f"model/flights/v{version}"
    return [
        an_event("model.registered", stage, subject=subject, after=10 * version),
        an_event("model.approval_requested", facts, subject=subject, after=10 * version + 1),
    ]
