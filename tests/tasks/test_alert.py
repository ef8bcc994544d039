"""What people are told of: once, whichever run finds it, by however many; and that it is over."""

import json
import logging
import multiprocessing
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings
from prefect.states import Crashed, Failed

from audit.errors import BadData, DatasetRejected
from audit.events.payloads import ApprovalFacts, Approver, ColumnDrift, Used
from audit.events.references import ModelVersion, Report, Window
from audit.recording import recorder, registry
from audit.recording.registry import Answer
from audit.settings import settings
from audit.spec.load import load_spec
from audit.spec.model import Alerts, Spec
from audit.store import read
from audit.store.engine import open_store
from audit.store.read import Recorded
from tasks import _delivery as delivery
from tasks import _outbox as outbox
from tasks import alert
from tasks.alert import (
    Finding,
    drift_finding,
    gate_finding,
    recover,
    scoring_finding,
    send_alert,
    send_summary,
    tell_completion,
    tell_failure,
    tell_of_drift,
)  # fmt: skip
from tests.receivers import Receiver, webhook

FLIGHTS = Path(__file__).parents[2] / "flows/specs/flights.yaml"
SECRET = "s3cr3t-t0ken"
RUN_ID = "3f2a0000-0000-4000-8000-000000000000"
AUGUST = Window.month(2013, 8)
AT_ONCE, TIMES = 4, 100


@pytest.fixture
def target(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with webhook(*getattr(request, "param", [200])) as receiver:
        point_at(f"json://user:{SECRET}@127.0.0.1:{receiver.port}/hook/{SECRET}", monkeypatch)
        yield receiver


@pytest.fixture
def spec() -> Spec:
    return load_spec(FLIGHTS)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows send through the task; here its body is called without Prefect's engine around it."""
    monkeypatch.setattr(alert, "send_alert", send_alert.fn)


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDIT_ALERT_URL", url)
    monkeypatch.setattr(delivery, "RETRY_DELAYS_SECONDS", (0.0, 0.0))
    settings.cache_clear()


def finding(window: str = "2013-08", **changes: object) -> Finding:
    given = {"kind": "drift", "title": f"Drift, {window}", "body": "dep_time 0.31 (0.12)", "severity": "warning"}
    return Finding.model_validate({**given, "window": window, "cause": "the-event", **changes})


def quiet_for(minutes: float, spec: Spec, **changes: object) -> Spec:
    return spec.model_copy(update={"alerts": Alerts.model_validate({"quiet_minutes": minutes, **changes})})


def on_record(*types: str) -> list[Recorded]:
    return list(read.events(open_store(), types=types or ("alert.sent", "alert.failed"), newest_first=False))


def states() -> list[str]:
    return [event.type.removeprefix("alert.") for event in on_record("alert.*")]


def titles(receiver: Receiver) -> list[str]:
    return [message["title"] for message in receiver.received]


def all_that_was_written(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_a_message_reaches_its_target_and_is_on_record(target: Receiver, spec: Spec) -> None:
    assert send_alert.fn(finding(), spec)

    assert titles(target) == ["⚠ Drift, 2013-08"]
    assert target.received[0]["message"] == "dep_time 0.31 (0.12)\nwarning · event the-event"
    assert states() == ["raised", "sent"]
    (sent,) = on_record()
    assert (sent.severity, sent.subject) == ("info", "spec/flights")
    assert (sent.payload["alert"], sent.payload["window"]) == ("flights drift 2013-08", "2013-08")
    assert (sent.payload["to"], sent.payload["target"]) == ("default", "json://127.0.0.1")
    assert (sent.payload["cause"], sent.payload["attempts"]) == ("the-event", 1)


def test_four_hundred_findings_in_a_night_are_one_message_then_a_summary_then_a_recovery(
    target: Receiver, spec: Spec, sent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")
    gate = fork.Barrier(AT_ONCE)
    # Nothing here has opened the store yet: SQLite's connections do not survive a fork.
    finders = [fork.Process(target=find_often, args=(gate, spec, number)) for number in range(AT_ONCE)]
    for finder in finders:
        finder.start()
    for finder in finders:
        finder.join()

    recorder.flow_ended()  # on a busy machine the store makes some wait too long: those found the spool
    assert [finder.exitcode for finder in finders] == [0] * AT_ONCE
    assert len(target.received) == 1
    assert (states().count("sent"), states().count("held")) == (1, AT_ONCE * TIMES - 1)
    send_summary(spec)
    assert len(target.received) == 1  # the night is not over

    by_day = quiet_for(0, spec)
    send_summary(by_day)
    send_summary(by_day)
    assert len(target.received) == 2
    assert titles(target)[1].startswith("⚠ 399 findings since ")
    assert titles(target)[1].endswith(" not told before: drift in flights")

    recover("drift", by_day, AUGUST)
    recover("drift", by_day, AUGUST)
    assert titles(target)[2:] == ["✓ Recovered in flights: drift 2013-08"]
    assert target.received[2]["type"] == "success"


def find_often(gate: Any, spec: Spec, number: int) -> None:
    gate.wait()
    for time in range(TIMES):
        day = date(2012, 1, 1) + timedelta(days=number * TIMES + time)
        send_alert.fn(finding(str(day)), spec)


def test_what_was_held_back_says_why_and_until_when(target: Receiver, spec: Spec) -> None:
    assert send_alert.fn(finding(), spec)
    assert not send_alert.fn(finding("2013-09"), spec)

    (held,) = on_record("alert.held")
    assert held.payload["reason"].startswith("one of its kind went out at ")
    (sent,) = on_record("alert.sent")
    assert held.payload["until"][:10] > sent.time[:10] or held.payload["until"][11:13] != sent.time[11:13]


def test_kinds_specs_and_graver_findings_do_not_silence_each_other(target: Receiver, spec: Spec) -> None:
    others = [
        finding(kind="decay"),
        finding(severity="critical"),
        finding(kind="failed", about="training"),
        finding(kind="failed", about="scoring"),
        finding(kind="approval", cause="candidate-2"),
        finding(kind="approval", cause="candidate-3"),
    ]
    assert send_alert.fn(finding(), spec)
    assert [send_alert.fn(other, spec) for other in others] == [True] * len(others)
    assert send_alert.fn(finding(), spec.model_copy(update={"name": "loans"}))
    assert [send_alert.fn(again, spec) for again in (finding(), *others)] == [False] * (1 + len(others))


def test_after_the_quiet_time_the_next_message_stands_for_those_that_were_held(target: Receiver, spec: Spec) -> None:
    send_alert.fn(finding(), spec)
    send_alert.fn(finding("2013-09"), spec)

    assert send_alert.fn(finding("2013-10"), quiet_for(0, spec))

    assert "stands for 1 finding of before as well" in target.received[-1]["message"]
    send_summary(quiet_for(0, spec))
    assert len(target.received) == 2


@pytest.mark.parametrize("target", [[500]], indirect=True)
def test_a_message_that_did_not_arrive_silences_nobody(target: Receiver, spec: Spec) -> None:
    assert not send_alert.fn(finding(), spec)
    target.answers = [200]
    assert send_alert.fn(finding("2013-09"), spec)

    assert states() == ["raised", "failed", "raised", "sent"]
    (failed,) = on_record("alert.failed")
    assert (failed.severity, failed.payload["error"], failed.payload["attempts"]) == ("error", "it answered 500", 3)


def test_a_message_whose_process_died_silences_for_a_moment_and_is_told_by_the_summary(
    target: Receiver, spec: Spec, sent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(delivery, "deliver", lambda *_: [])
        send_alert.fn(finding(), spec)
    assert not send_alert.fn(finding(), spec)
    send_summary(spec)
    assert target.received == []

    monkeypatch.setattr(outbox, "OUTCOME_DUE", timedelta(0))
    send_summary(spec)

    assert titles(target)[0].startswith("⚠ 2 findings since ")
    assert "dep_time 0.31 (0.12)" in target.received[0]["message"]


def test_word_that_it_is_over_goes_out_only_where_people_wait_for_it(target: Receiver, spec: Spec, sent: None) -> None:
    recover("drift", spec)
    send_alert.fn(finding(kind="decay"), spec)
    recover("drift", spec)
    assert len(target.received) == 1

    send_alert.fn(finding(), spec)
    recover("drift", spec)

    assert titles(target)[1:] == ["⚠ Drift, 2013-08", "✓ Recovered in flights: drift"]
    assert "It had been told of as: ⚠ Drift, 2013-08" in target.received[-1]["message"]


def test_an_earlier_window_that_is_well_ends_nothing(target: Receiver, spec: Spec, sent: None) -> None:
    send_alert.fn(finding("2013-07"), spec)
    recover("drift", spec, Window.month(2013, 2))
    word = finding("2013-02", kind="recovered", of="drift", severity="info", cause=None)
    assert not send_alert.fn(word, spec)
    assert len(target.received) == 1

    recover("drift", spec, Window.month(2013, 7))

    assert titles(target)[1:] == ["✓ Recovered in flights: drift 2013-07"]


def test_a_summary_tells_of_the_windows_that_it_stands_for(target: Receiver, spec: Spec, sent: None) -> None:
    send_alert.fn(finding("2013-07"), spec)
    send_alert.fn(finding("2013-09"), spec)
    send_summary(quiet_for(0, spec))

    recover("drift", spec, AUGUST)

    assert [title[0] for title in titles(target)] == ["⚠", "⚠"]


@pytest.mark.parametrize("target", [[404]], indirect=True)
def test_a_request_that_was_decided_on_meanwhile_is_told_to_nobody(target: Receiver, spec: Spec, sent: None) -> None:
    model = Used(name="model", kind="model", of="flights", version=1, address="a://1", digest="sha256:1")
    asked = registry.request(ApprovalFacts(spec="flights", model=model, version=1, reason="it is better"))
    send_alert.fn(finding(kind="approval", cause=asked.id), spec)
    send_summary(spec)
    assert len(target.received) == 2

    registry.decide("flights", 1, Answer(False, Approver(name="ann", identity="asserted", by="command"), "no"))
    send_summary(spec)

    assert len(target.received) == 2


def test_what_comes_and_goes_is_told_three_times_in_a_night_and_last_as_a_problem(
    target: Receiver, spec: Spec, sent: None
) -> None:
    for _ in range(5):
        send_alert.fn(finding(), spec)
        recover("drift", spec)
        send_alert.fn(finding(), spec)

    assert [title[0] for title in titles(target)] == ["⚠", "✓", "⚠"]


def test_every_target_of_the_spec_is_told_and_has_its_own_outcome(
    target: Receiver, spec: Spec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with webhook() as oncall:
        monkeypatch.setenv("AUDIT_ALERT_URL_ONCALL", f"json://127.0.0.1:{oncall.port}/{SECRET}")
        settings.cache_clear()
        both = quiet_for(60, spec, to=("default", "oncall", "nobody"))

        assert send_alert.fn(finding(), both)
        assert not send_alert.fn(finding(), both)

    assert (len(target.received), len(oncall.received)) == (1, 1)
    assert states() == ["raised", "sent", "sent", "failed", "held"]
    (failed,) = on_record("alert.failed")
    assert (failed.payload["to"], failed.payload["error"]) == ("nobody", "AUDIT_ALERT_URL_NOBODY is not set")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "audit"]
    assert len(warnings) == 1 and "nobody" in warnings[0]


def test_without_an_address_nothing_is_sent_and_nothing_recorded(home: Path, spec: Spec) -> None:
    assert not send_alert.fn(finding(), spec)
    assert states() == []


def test_a_kind_that_the_spec_does_not_name_is_not_sent(target: Receiver, spec: Spec) -> None:
    assert not send_alert.fn(finding(), quiet_for(60, spec, on=("failed",)))
    assert target.received == [] and states() == []


def test_a_store_that_cannot_be_read_is_no_reason_to_tell_nobody(
    target: Receiver, home: Path, spec: Spec, caplog: pytest.LogCaptureFixture
) -> None:
    home.mkdir(parents=True)
    (home / "audit.db").write_bytes(b"somebody else's bytes, long enough for the header of a database" * 10)

    assert send_alert.fn(finding(), spec)

    assert len(target.received) == 1
    assert "cannot be known" in caplog.text


@pytest.mark.slow
def test_a_store_that_stays_busy_is_read_all_the_same(
    target: Receiver, spec: Spec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send_alert.fn(finding(), spec)
    monkeypatch.setattr(recorder, "BUSY_TRIES", 1)

    with open_store().writing():
        assert not send_alert.fn(finding("2013-09"), spec)

    assert len(target.received) == 1
    assert "not on record" in caplog.text and "cannot be known" not in caplog.text


def test_an_alert_that_breaks_breaks_no_pipeline(monkeypatch: pytest.MonkeyPatch, home: Path, spec: Spec) -> None:
    monkeypatch.setenv("AUDIT_MODE", "no such mode")
    settings.cache_clear()
    assert not send_alert.fn(finding(), spec)
    recover("drift", spec)
    send_summary(spec)


@pytest.mark.parametrize("target", [[200], [500]], indirect=True, ids=["delivered", "refused"])
def test_the_secrets_of_an_address_are_in_nothing_that_is_written(
    target: Receiver, spec: Spec, home: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        send_alert.fn(finding(), spec)
    assert target.received and on_record()
    assert SECRET not in caplog.text + "".join(capfd.readouterr())
    assert SECRET.encode() not in all_that_was_written(home)


def test_a_secret_in_a_finding_leaves_the_house_in_no_form(target: Receiver, home: Path, spec: Spec) -> None:
    send_alert.fn(finding(title="Failed: ann.planted@example.org", body="of ann.planted@example.org"), spec)

    assert "ann.planted" not in json.dumps(target.received)
    assert b"ann.planted" not in all_that_was_written(home)


def test_a_message_is_no_longer_than_the_shortest_service_takes(target: Receiver, spec: Spec) -> None:
    send_alert.fn(finding(body="why " * 500), spec)

    (told,) = target.received
    assert len(told["title"] + told["message"]) <= 1_020
    assert told["message"].endswith("…\nwarning · event the-event")
    assert len(on_record()[0].payload["body"]) == 2_000


@pytest.mark.parametrize("ui", ["http://prefect.example.org:4200", ""], ids=["a server", "none"])
def test_a_message_links_to_the_run_where_a_browser_can_reach_it(ui: str, target: Receiver) -> None:
    with temporary_settings({PREFECT_API_URL: f"{ui}/api" if ui else None, PREFECT_UI_URL: None}):
        tell_failure("training", "training flights", RUN_ID, FLIGHTS, Crashed())

    link = f"Run: {ui}/runs/flow-run/{RUN_ID}"
    assert (link in target.received[0]["message"]) == bool(ui)
    assert "Run: " not in target.received[0]["message"].replace(link, "") or ui


def test_a_drift_message_names_the_month_the_worst_columns_and_what_to_do(spec: Spec) -> None:
    found = [("wind_gust", 0.372, 0.189), ("dewp", 0.72, 0.565), ("temp", 0.73, 0.66), ("late", 0.06, 0.05)]
    told = drift_finding(verdict(True, *found), spec, AUGUST)

    assert told and (told.kind, told.window, told.cause) == ("drift", "2013-08", "0199a4")
    assert told.title == "Drift in flights, August 2013: 4 of 5 watched columns"
    assert told.body.startswith("wind_gust 0.37 (0.19) · dewp 0.72 (0.56) · temp 0.73 (0.66) …\n")
    assert "start the training flow with this event as its cause" in told.body
    assert told.report and told.report.startswith("artifact://")


def test_of_drift_within_one_table_nobody_is_told_that_the_pipeline_retrains(spec: Spec) -> None:
    told = drift_finding(verdict(True, ("dewp", 0.72, 0.565)), spec, None)

    assert told and told.title == "Drift in flights: 1 of 2 watched columns"
    assert "The automation trains on the table as it is by now; the pipeline does not" in told.body


def test_a_check_that_could_not_tell_ends_nothing(target: Receiver, spec: Spec, sent: None) -> None:
    tell_of_drift(verdict(True, ("dewp", 0.72, 0.565)), spec, AUGUST)
    too_few = SimpleNamespace(detected=False, event="0199a5", columns=(), report=None)
    tell_of_drift(too_few, spec, Window.month(2013, 9))

    assert [title.split(",")[0] for title in titles(target)] == ["⚠ Drift in flights"]


def test_scores_that_drift_alone_are_a_finding_of_their_own(spec: Spec) -> None:
    told = drift_finding(verdict(False, ("dewp", 0.72, 0.565), ("score", 0.2, 0.1)), spec, AUGUST)

    assert told and told.kind == "prediction_drift"
    assert told.body.startswith("score 0.20 (0.10) · dewp 0.72 (0.56)\n")
    assert drift_finding(verdict(False, ("dewp", 0.72, 0.565)), spec, AUGUST) is None


def test_while_the_rule_fires_nothing_is_said_of_scores_that_drifted_before(
    target: Receiver, spec: Spec, sent: None
) -> None:
    tell_of_drift(verdict(False, ("score", 0.2, 0.1)), spec, AUGUST)
    tell_of_drift(verdict(True, ("dewp", 0.72, 0.565)), spec, Window.month(2013, 9))
    tell_of_drift(verdict(False), spec, Window.month(2013, 10))

    assert [title.split(",")[0] for title in titles(target)] == [
        "⚠ Scores drift in flights",
        "⚠ Drift in flights",
        "✓ Recovered in flights: drift 2013-10",
        "✓ Recovered in flights: prediction drift 2013-10",
    ]


def verdict(detected: bool, *found: tuple[str, float, float]) -> SimpleNamespace:
    columns = [
        ColumnDrift(
            name=n, of="prediction" if n == "score" else "data", method="psi", score=s, threshold=t, drifted=True
        )
        for n, s, t in found
    ]
    steady = ColumnDrift(name="origin", method="psi", score=0.01, threshold=0.05, drifted=False)
    report = Report(address="artifact://sha256/" + "0" * 64, digest="sha256:" + "0" * 64, name="report")
    return SimpleNamespace(detected=detected, event="0199a4", columns=(*columns, steady), report=report)


def test_a_model_that_its_gates_turned_away_is_told_with_the_gates(spec: Spec) -> None:
    old, new = (ModelVersion(name="flights", version=v, address=f"a://{v}", digest=f"sha256:{v}") for v in (1, 2))
    judged = SimpleNamespace(held=False, failed=lambda: ["auc 0.6120, wanted >= 0.7"], event="0199b2")

    told = gate_finding(new, old, judged, spec, AUGUST)  # type: ignore[arg-type]

    assert told and told.title == "v2 of flights was not promoted: 1 gate failed"
    assert told.body.startswith("auc 0.6120, wanted >= 0.7\nv1 goes on deciding.")
    assert gate_finding(new, new, judged, spec, AUGUST) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("failed", "told"), [(10, False), (11, True)])
def test_rows_that_could_not_be_scored_are_told_over_the_share_that_the_spec_allows(
    failed: int, told: bool, spec: Spec
) -> None:
    found = scoring_finding(1_000, failed, ["a feature is infinite"], "019a-0000-event", spec, AUGUST)

    assert (found is not None) == told
    if found:
        assert found.title == "11 of 1,000 rows of flights, August 2013 could not be scored (1.1%)"
        assert "Why: a feature is infinite" in found.body


def test_a_rejected_dataset_is_told_as_such(target: Receiver) -> None:
    state: State[Any] = Failed(
        data=DatasetRejected("flights/ingested version 3 breaks critical rules: rows.", hint="Mend it.")
    )
    assert tell_failure("training", "training flights 2013-07", RUN_ID, FLIGHTS, state)

    (told,) = target.received
    assert told["title"] == "✗ Data rejected in flights: training flights 2013-07"
    assert "breaks critical rules: rows. Mend it." in told["message"] and "audit run 00000000" in told["message"]
    (sent,) = on_record()
    assert (sent.payload["kind"], sent.subject) == ("rejected", f"flow-run/{RUN_ID}")


def test_the_next_run_of_the_same_flow_that_completes_ends_it(target: Receiver) -> None:
    tell_completion("training", RUN_ID, FLIGHTS)
    tell_failure("training", "training flights", RUN_ID, FLIGHTS, Failed(data=BadData("No rows.")))
    tell_completion("scoring", RUN_ID, FLIGHTS)
    assert len(target.received) == 1

    tell_completion("training", RUN_ID, FLIGHTS)
    tell_completion("training", RUN_ID, FLIGHTS)

    assert titles(target)[1:] == ["✓ Recovered in flights: failed training"]


def test_a_failure_of_ours_is_told_in_its_own_words(target: Receiver) -> None:
    error = BadData("No rows.", hint="Mend the window.")
    assert tell_failure("scoring", "scoring flights", RUN_ID, FLIGHTS, Failed(data=error))
    assert target.received[0]["message"].startswith("No rows. Mend the window.\n")


@pytest.mark.parametrize("state", [Failed(data=ValueError("jane@example.org is 47"), message="jane"), Crashed()])
def test_the_text_of_a_foreign_error_does_not_leave_the_house(target: Receiver, state: State[Any]) -> None:
    assert tell_failure("scoring", "scoring flights", RUN_ID, FLIGHTS, state)
    assert "jane" not in json.dumps(target.received)


def test_a_spec_that_cannot_be_read_is_told_too(target: Receiver, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    assert tell_failure("training", "training broken", RUN_ID, broken, Failed())
    assert titles(target) == ["✗ Failed: training broken"]
