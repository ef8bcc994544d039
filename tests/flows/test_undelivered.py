"""A message that cannot be delivered: the run comes to what it comes to, and the record knows who was not told.

One model and its first month stand for all: each test looks at a copy of them.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from audit.errors import DatasetRejected
from audit.events.event import Event
from audit.recording import recorder
from audit.settings import settings
from audit.store import read
from audit.store.engine import close_stores, open_store
from flows.monitoring import Monitored, monitoring
from flows.scoring import scoring
from flows.training import training
from tasks import _delivery as delivery
from tests.flows.conftest import UseCase, loans
from tests.flows.test_approval import Wire
from tests.receivers import SILENCE, mail_server, webhook
from tests.written import everything_written

pytestmark = pytest.mark.slow
SECRET = "pl4nted-s3cret"
MAIL = "from=audit@example.org&to=oncall@example.org"


@contextmanager
def a_webhook(answer: int) -> Iterator[str]:
    with webhook(answer) as receiver:
        yield f"json://user:{SECRET}@127.0.0.1:{receiver.port}/{SECRET}?rto=0.2&cto=0.2"


@contextmanager
def a_mail_server(**refuses: Any) -> Iterator[str]:
    login = f"user:{SECRET}@" if "password" in refuses else ""
    with mail_server(**refuses) as (_, port):
        yield f"mailto://{login}127.0.0.1:{port}?{MAIL}"


@contextmanager
def a_template() -> Iterator[str]:
    with NamedTemporaryFile("w", suffix=".json") as card:
        card.write(f'{{"broken": "{SECRET}"')
        card.flush()
        yield f"workflows://prod-01.westus.logic.azure.com:443/{'a' * 32}/{SECRET}?template={card.name}"


@contextmanager
def nothing(url: str = "") -> Iterator[str]:
    yield url


@contextmanager
def a_server_that_goes() -> Iterator[str]:
    """Prefect's, between the finding and the message of it."""
    port = urlsplit(PREFECT_API_URL.value() or "").port or 0
    with (
        Wire(port) as wire,
        temporary_settings({PREFECT_API_URL: wire.api, PREFECT_CLIENT_MAX_RETRIES: 0}),
    ):

        def hear(event: Event) -> None:
            if event.type == "alert.raised":
                wire.cut()
            elif event.type == "alert.failed":
                wire.mend()

        recorder.listen(hear)
        yield ""


CASES: dict[str, tuple[str, Callable[[], AbstractContextManager[str]], str]] = {
    "broken": ("default", partial(a_webhook, 500), "it answered 500"),
    "busy": ("default", partial(a_webhook, 429), "it answered 429"),
    "silent": ("default", partial(a_webhook, SILENCE), "no answer"),
    "mail refused": ("default", partial(a_mail_server, refusal="550 not here"), "the mail server refused it"),
    "login refused": ("default", partial(a_mail_server, password="another"), "the mail server refused the login"),
    "bad address": (
        "default",
        partial(nothing, f"nonsense://{SECRET}"),
        "apprise does not know the address in AUDIT_ALERT_URL",
    ),
    "template": ("default", a_template, "its template cannot be used"),
    "unknown target": ("nobody", nothing, "AUDIT_ALERT_URL_NOBODY is not set"),
    "missing block": ("slack-webhook/nobody-made-it", nothing, "there is no such block"),
    "no server": ("slack-webhook/oncall", a_server_that_goes, "Prefect's server did not hand it out"),
}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """A folder with a use case, and with a home in which a model has decided on a month that drifted."""
    folder = tmp_path_factory.mktemp("lived")
    (folder / "case").mkdir()
    case = UseCase(folder / "case").write(loans(drifts_at=91))
    with living_in(folder):
        training(case.spec)
        scoring(case.spec)
    return folder


@pytest.fixture(scope="module")
def undisturbed(lived: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What monitoring comes to where nobody is to be told."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(lived, folder, dirs_exist_ok=True)
    with living_in(folder):
        return what_is_found(monitoring(str(folder / "case" / "loans.yaml")))


@contextmanager
def living_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AUDIT_HOME", str(folder / "var"))
        environment.delenv("AUDIT_ALERT_URL", raising=False)
        close_stores()
        settings.cache_clear()
        yield
        close_stores()
    settings.cache_clear()


@pytest.fixture
def use_case(lived: Path, home: Path, tmp_path: Path) -> UseCase:
    """As it was, in this test's own home."""
    shutil.copytree(lived, tmp_path, dirs_exist_ok=True)
    return UseCase(tmp_path / "case")


@pytest.fixture
def pointed(
    request: pytest.FixtureRequest, use_case: UseCase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """The target that the spec names, at which no message arrives, and why."""
    to, target, error = CASES[request.param]
    monkeypatch.setattr(delivery, "RETRY_DELAYS_SECONDS", (0.0,))
    monkeypatch.setattr(delivery, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "_listeners", [])
    with target() as url:
        if url:
            monkeypatch.setenv("AUDIT_ALERT_URL", url)
            settings.cache_clear()
        use_case.write(loans(drifts_at=91), alerts={"to": [to]})
        yield to, error


@pytest.mark.parametrize("pointed", CASES, indirect=True)
def test_a_finding_that_nobody_can_be_told_changes_nothing_but_the_record(
    pointed: tuple[str, str],
    undisturbed: Any,
    home: Path,
    use_case: UseCase,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG):
        state = monitoring(use_case.spec, return_state=True)

    assert state.is_completed()
    assert what_is_found(state.result()) == undisturbed
    is_on_record_and_holds_no_secret(*pointed, home, caplog, capfd)


@pytest.mark.parametrize("pointed", CASES, indirect=True)
def test_a_run_that_fails_fails_for_its_own_reason_though_nobody_can_be_told(
    pointed: tuple[str, str],
    home: Path,
    use_case: UseCase,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rows = loans(drifts_at=91)
    rows[7]["debt"] = -1
    use_case.write(rows, alerts={"to": [pointed[0]]})

    with caplog.at_level(logging.DEBUG), pytest.raises(DatasetRejected, match="debt"):
        training(use_case.spec)

    (failed,) = read.events(open_store(), types=("flow_run.failed",))
    assert failed.payload["error"]["kind"].endswith("DatasetRejected")
    is_on_record_and_holds_no_secret(*pointed, home, caplog, capfd)


def what_is_found(found: Any) -> Any:
    assert isinstance(found, Monitored) and found.drift and found.drift.detected
    return found.drift.columns, [(each.verdict, each.figure) for each in found.performance]


def is_on_record_and_holds_no_secret(
    to: str, error: str, home: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (failed,) = read.events(open_store(), types=("alert.failed", "alert.sent"))
    assert (failed.type, failed.payload["to"], failed.payload["error"]) == ("alert.failed", to, error)
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("audit")]
    assert [f" did not reach {to} (" in said and error in said for said in warned] == [True], warned
    close_stores()
    assert SECRET not in caplog.text + "".join(capfd.readouterr()) + everything_written(home)
