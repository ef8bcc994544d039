"""A person decides on a candidate: in the form of a paused run, by command, or not at all."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Running

from audit import ModelVersion, flow, record
from audit.events.payloads import ApprovalFacts, Approver, ColumnDrift, DriftFacts, Used, used
from audit.recording import registry
from audit.recording.registry import Answer
from audit.spec.load import load_spec
from audit.spec.model import Approval
from audit.store import read
from audit.store.engine import open_store
from flows import _approval as approval
from flows.pipeline import pipeline
from tasks.approval import for_people
from tasks.register import promote, register
from tests.flows.conftest import UseCase, an_evaluation, loans

YES = {"decision": "approve", "name": "Jane Doe", "note": "better in both regions"}
NO = YES | {"decision": "reject", "note": "too few rows in the north"}
BY_COMMAND = Answer(True, Approver(name="root@host", identity="operating system", by="command"), "cannot wait")
PAUSED = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PAUSED"]}}})
ASKING = FlowFilter.model_validate({"name": {"any_": ["asking", "training"]}})  # others leave runs that nobody resumes
DECISIONS = ("model.approval_requested", "model.approved", "model.rejected", "model.deployed")


@flow
def asking(spec_file: str, hours: float = 1, unanswered: str = "rejected") -> ModelVersion | State[Any]:
    """The end of a training: a candidate, held against whoever is champion, is put before a person."""
    time = Approval.model_validate({"hours": hours, "unanswered": unanswered})
    spec = load_spec(spec_file).model_copy(update={"approval_time": time})
    judged = an_evaluation(read.champion(open_store(), spec.name))
    return approval.ask_a_person(register(judged.model, judged, spec), judged, spec, None)


@pytest.mark.slow
def test_a_pipeline_waits_in_its_training_and_goes_on_with_the_answer(home: Path, manual: UseCase) -> None:
    pages: list[str] = []

    def reads_and_approves(run: FlowRun) -> None:
        pages.extend(page_beside(run))
        assert resumed(run, YES).status == SetStateStatus.ACCEPT

    with a_person(reads_and_approves):
        champion = pipeline(manual.spec, date(2024, 4, 1))

    assert isinstance(champion, ModelVersion)
    asked, approved, deployed = decisions()
    assert asked.flow_run_id == approved.flow_run_id  # the training's: the pipeline itself was not paused
    said = {"name": "Jane Doe", "identity": "asserted", "by": "form"}
    assert approved.payload["note"] == "better in both regions"
    assert [approved.payload["approver"], deployed.payload["approver"]] == [said, said]
    (page,) = pages
    assert "**loans v1** is to become champion: 1 of 1 gates held" in page
    assert "| auc |" in page
    assert "| region=north |" in page
    assert scored() == 1


def test_the_page_shows_the_candidate_beside_the_champion_and_what_drifted_most(home: Path) -> None:
    data = Used(name="d", kind="dataset", of="loans/features", version=1, address="a", digest="d")
    columns = [
        ColumnDrift(name=name, method="wasserstein", score=score, threshold=0.2, drifted=score > 0.2)
        for name, score in {"age": 0.1, "debt": 0.41, "income": 0.92}.items()
    ]
    drift = DriftFacts(
        spec="loans", window="2024-04", reference=data, current=data, sample_rows=1, seed=0, columns=columns,
        watched=3, drifted=2, share=0.67, rule="half", detected=True,
    )  # fmt: skip
    evaluation = an_evaluation(champion=ModelVersion(name="loans", version=1, address="a", digest="d"))
    facts = ApprovalFacts(
        spec="loans", model=used("model", evaluation.model), version=2, champion=1, reason="1 of 1 gates held",
        cause=record("drift.detected", drift, subject="dataset/loans/features/1"),
        answer_by="2024-05-02T10:00:00.000000Z", unanswered="awaiting",
    )  # fmt: skip

    lines = for_people(facts, evaluation).splitlines()

    assert lines[0].startswith("**loans v2** is to replace v1: 1 of 1 gates held.")
    assert "because of drift.detected in 2024-04: 2 of 3 watched columns" in lines[0]
    assert "| metric | v2 | v1 | difference |" in lines
    assert "| auc | 0.710 | 0.699 | +0.011 [+0.004, +0.018] |" in lines
    drifted = [line for line in lines if line.startswith(("| income", "| debt", "| age"))]
    assert drifted == ["| income | 0.920 | 0.200 |", "| debt | 0.410 | 0.200 |"]
    assert lines[-1] == "Decide by 2024-05-02 10:00 UTC; after that it goes on waiting, for `audit approve`."


@pytest.mark.parametrize(
    "bad",
    [
        NO | {"name": ""}, NO | {"note": "   "}, NO | {"decision": "perhaps"}, NO | {"name": "x" * 101},
        {"decision": "reject"}, NO | {"more": "1"}, {},
    ],
    ids=["no name", "blank note", "unknown decision", "endless name", "no note", "unknown field", "empty"],
)  # fmt: skip
def test_the_form_takes_no_bad_answer(manual: UseCase, form: dict[str, Any], bad: dict[str, str]) -> None:
    from prefect.utilities.schema_tools import ValidationError, validate

    with pytest.raises(ValidationError):
        validate(bad, form, raise_on_error=True)


def test_a_form_that_says_nothing_is_asked_again_and_a_rejection_says_who_and_why(home: Path, manual: UseCase) -> None:
    refused: list[SetStateStatus] = []
    shown: list[str] = []

    def stumbles(run: FlowRun) -> None:
        refused.append(resumed(run, NO | {"name": ""}).status)
        resumed(run, NO | {"note": "_"})  # fits the form, and says nothing
        second = paused_again(run)
        resumed(second, None)  # by the API, without the form
        third = paused_again(second)
        shown.extend(map(description, (run, second, third)))
        resumed(third, NO)

    with a_person(stumbles):
        state = asking(manual.spec, return_state=True)

    assert refused == [SetStateStatus.REJECT]
    assert shown[1].startswith("**The note says nothing. Who decided goes on record, and why.**")
    assert (state.name, state.type.value) == ("Turned away", "COMPLETED")
    assert kinds() == ["model.approval_requested", "model.rejected"]
    rejected = decisions()[-1].payload
    assert (rejected["reason"], rejected["approver"]["name"]) == ("too few rows in the north", "Jane Doe")


def test_a_paused_run_ends_with_an_answer_given_by_command(home: Path, manual: UseCase) -> None:
    with a_person(lambda run: registry.decide("loans", 1, BY_COMMAND)):
        champion = asking(manual.spec)

    assert isinstance(champion, ModelVersion)
    assert champion.version == 1
    assert kinds() == ["model.approval_requested", "model.approved", "model.deployed"]
    assert decisions()[-1].payload["approver"]["name"] == "root@host"


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_ends_no_question(home: Path, manual: UseCase) -> None:
    at = PREFECT_API_URL.value() or ""
    with (
        Wire(urlsplit(at).port or 0) as wire,
        temporary_settings({PREFECT_API_URL: wire.api, PREFECT_CLIENT_MAX_RETRIES: 0}),
    ):

        def restarts(run: FlowRun) -> None:
            with temporary_settings({PREFECT_API_URL: at}):
                wire.cut()
                threading.Event().wait(2 * approval.POLL_SECONDS)
                wire.mend()
                answer_until_it_counts()

        with a_person(restarts):
            champion = asking(manual.spec)

    assert isinstance(champion, ModelVersion)
    assert kinds() == ["model.approval_requested", "model.approved", "model.deployed"]


@pytest.mark.slow
def test_of_form_and_command_at_once_one_counts(home: Path, manual: UseCase) -> None:
    def both(run: FlowRun) -> None:
        with ThreadPoolExecutor(1) as pool:
            form = pool.submit(copy_context().run, resumed, run, NO)
            registry.decide("loans", 1, BY_COMMAND)
            form.result()

    with a_person(both):
        champion = asking(manual.spec)

    assert isinstance(champion, ModelVersion)
    assert kinds() == ["model.approval_requested", "model.approved", "model.deployed"]


def test_when_nobody_decides_in_time_the_champion_stays(home: Path, manual: UseCase) -> None:
    spec = load_spec(manual.spec)
    judged = an_evaluation(letter="c")
    champion = promote.fn(register.fn(judged.model, judged, spec), judged, spec)

    assert asking(manual.spec, hours=4 / 3600) == champion

    assert kinds() == ["model.deployed", "model.approval_requested", "model.rejected"]
    assert decisions()[-1].payload["reason"].startswith("nobody decided by 20")


@pytest.mark.slow
def test_a_candidate_may_go_on_waiting_when_its_run_ends(home: Path, manual: UseCase) -> None:
    state = asking(manual.spec, hours=4 / 3600, unanswered="awaiting", return_state=True)

    assert (state.name, state.type.value) == ("Awaiting approval", "COMPLETED")
    assert state.message == "awaiting approval: audit approve loans/v1 --note …"
    assert registry.decide("loans", 1, BY_COMMAND).promoted


@pytest.mark.slow
def test_without_a_server_that_stays_nothing_is_paused_and_the_pipeline_ends_as_awaiting_approval(
    home: Path, manual: UseCase, without_server: None, told: StringIO
) -> None:
    state = pipeline(manual.spec, date(2024, 4, 1), return_state=True)

    assert state.is_completed()
    assert state.message == "awaiting approval: audit approve loans/v1 --note …"
    assert kinds() == ["model.approval_requested"]
    assert scored() == 0
    assert "! approval       awaiting approval: audit approve loans/v1 --note …  " in told.getvalue()
    assert registry.decide("loans", 1, BY_COMMAND).promoted
    assert isinstance(pipeline(manual.spec, date(2024, 4, 1)), ModelVersion)  # v2 waits, v1 goes on deciding
    assert kinds()[-1] == "model.approval_requested"
    assert scored() == 1


@pytest.fixture
def manual(use_case: UseCase) -> UseCase:
    return use_case.write(loans(), approval="manual")


@pytest.fixture
def without_server() -> Iterator[None]:
    """Prefect starts a temporary one, which nobody can open."""
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    """What Prefect's server holds answers against."""
    from prefect._internal.pydantic.v2_schema import create_v2_schema

    return create_v2_schema("Decision", model_base=approval.Decision)


class Wire:
    """A port of its own that leads to the server's, and can be cut."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.open: list[socket.socket] = []
        self.ear: socket.socket | None = None

    def __enter__(self) -> "Wire":
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.own_port}/api"

    def mend(self) -> None:
        self.ear = socket.create_server(("127.0.0.1", getattr(self, "own_port", 0)), reuse_port=True)
        self.own_port = int(self.ear.getsockname()[1])
        threading.Thread(target=self._listen, args=(self.ear,), daemon=True).start()

    def cut(self) -> None:
        assert self.ear
        for each in (self.ear, *self.open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.open.clear()

    def _listen(self, ear: socket.socket) -> None:
        with suppress(OSError):
            while True:
                pair = (ear.accept()[0], socket.create_connection(("127.0.0.1", self.port)))
                self.open += pair
                for one, other in (pair, pair[::-1]):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while heard := one.recv(65_536):
                other.sendall(heard)
            other.shutdown(socket.SHUT_WR)


@contextmanager
def a_person(acts: Callable[[FlowRun], object]) -> Iterator[None]:
    """Somebody who waits for a paused run and acts on it once."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if runs := paused():
                try:
                    acts(runs[0])
                except BaseException:  # the run must not wait for days because this test has failed
                    registry.decide("loans", 1, BY_COMMAND)
                    raise
                return

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(copy_context().run, watch)
        try:
            yield
        finally:
            over.set()
            acting.result()


def paused() -> list[FlowRun]:
    """Paused runs whose form is there: Prefect stores it a moment after the state."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_filter=ASKING, flow_run_filter=PAUSED)
        forms = {run.id: client.filter_flow_run_input(run.id, _keys(run)["schema"], 1, set()) for run in found}
        return [run for run in found if forms[run.id]]


def paused_again(run: FlowRun) -> FlowRun:
    """The run with its next form."""
    for _ in range(300):
        if found := [again for again in paused() if _keys(again) != _keys(run)]:
            return found[0]
        threading.Event().wait(0.2)
    raise AssertionError("nobody was asked again")


def answer_until_it_counts() -> None:
    """Fill in whatever form is shown: a run that asks again has not heard an earlier answer."""
    for _ in range(60):
        for run in paused():
            resumed(run, YES)
        if "model.approved" in kinds():
            return
        threading.Event().wait(1)
    raise AssertionError("no answer counted")


def _keys(run: FlowRun) -> dict[str, str]:
    assert run.state
    return dict(run.state.state_details.run_input_keyset or {})


def resumed(run: FlowRun, answer: dict[str, str] | None) -> OrchestrationResult[Any]:
    """What the UI's form does with an answer; none: somebody goes round the form."""
    with get_client(sync_client=True) as client:
        if answer is None:
            return client.set_flow_run_state(run.id, Running())
        return client.resume_flow_run(run.id, run_input=answer)


def description(run: FlowRun) -> str:
    """What stands above the form."""
    with get_client(sync_client=True) as client:
        return str(orjson.loads(client.read_flow_run_input(run.id, _keys(run)["description"])))


def page_beside(run: FlowRun) -> list[str]:
    """The page about the candidate among the run's artifacts."""
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter.model_validate({"key": {"any_": ["loans-approval"]}, "flow_run_id": {"any_": [run.id]}})
        return [str(artifact.data) for artifact in client.read_artifacts(artifact_filter=wanted)]


def decisions() -> list[read.Recorded]:
    return list(read.events(open_store(), types=DECISIONS, newest_first=False))


def kinds() -> list[str]:
    return [event.type for event in decisions()]


def scored() -> int:
    return len(list(read.events(open_store(), types=("predictions.scored",))))
