"""`make ui`: Prefect's server and UI, a worker, your specs' deployments and the pages they link to, until Ctrl-C.

Every child leads a session of its own: Ctrl-C on a terminal reaches this process alone, which ends them in order.
"""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_urlsafe
from types import FrameType
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from audit.errors import AuditError, NotFound, UserError
from audit.settings import settings
from deployments.deploy import Case, checked
from deployments.where import CLONE
from flows import _beside as beside
from flows._beside import API, EVIDENTLY, HOST, REPORTS

PORT = 4200  # Prefect's own
LAST_PORT = 65_535
POOL = "local"  # as in prefect.yaml
PYTHON = (sys.executable, "-m")
PREFECT = (*PYTHON, "prefect")
RUNS_AT_ONCE = 4  # and one more a spec: a training that waits for an answer keeps its place; the rest is short
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRIES = 5
START_SECONDS = 180  # a first start makes the database; machines are slow


class AskedToEnd(Exception):
    """Ctrl-C, `kill`, or the terminal is gone."""


class ChildEnded(AuditError):
    """Server or worker ended by itself, or a step of the set-up failed."""


def main() -> None:
    """Entry of `python -m deployments.local`."""
    typer.run(local)


def local(
    specs: Annotated[list[Path] | None, typer.Argument(metavar="SPEC...", help="Use cases' YAML files.")] = None,
    port: Annotated[int | None, typer.Option(help=f"The server's port; by default {PORT}, or a free one.")] = None,
    timezone: Annotated[str, typer.Option(help="Of the daily schedules.")] = "",
) -> None:
    """Run server, worker and deployments here until Ctrl-C.  Example: python -m deployments.local cancer.yaml"""
    console = Console(highlight=False)
    try:
        cases = checked(specs, timezone)
        with only_one_of_us(settings().home):
            serve(cases, port, console)
    except AuditError as failed:
        console.print(f"[red]✗[/red] {escape(str(failed))}", soft_wrap=True)
        raise SystemExit(failed.exit_code) from None


def serve(cases: Sequence[Case], port: int | None, console: Console) -> None:
    """Start everything in order, watch it, end it in reverse order.

    Raises ChildEnded if a child ends that nobody asked to.
    """
    home = settings().home
    at = addresses(chosen_port(port, console))
    children = Children(home / "logs", environment(home, at), console)
    try:
        set_up(children, at, cases, console)
        beside.note(home, at)
        tell_where_to_look(at, cases, console)
        children.watch()
    except AskedToEnd:
        console.print("\nEnding worker and servers …")
    finally:
        beside.forget(home)
        end_runs(at[API], children.began, console)
        children.end()
    console.print("Ended. Nothing of it runs any more; the record stays.")


def addresses(port: int) -> dict[str, str]:
    """Where the servers will be, by the variables that runs read: Prefect's API on `port`, the pages beside it."""
    reports = beside_of(port)
    at = {API: f"{port}/api", REPORTS: f"{reports}", EVIDENTLY: f"{beside_of(reports)}"}
    return {name: f"http://{HOST}:{place}" for name, place in at.items()}


def set_up(children: "Children", at: dict[str, str], cases: Sequence[Case], console: Console) -> None:
    """Servers, store and keys, worker with its pool, deployments; a line as each is there."""
    api = at[API]
    with step("server", api.removesuffix("/api"), console):
        children.start("server", *PREFECT, "server", "start", "--host", HOST, "--port", port_of(api))
        start_pages(children, at)
        make_record()
        children.wait_until(lambda: bool(ask("GET", f"{api}/health")), START_SECONDS)
    # A run seals when it ends; this seals what a killed one, or a hook of the worker's, left behind.
    with step("sealer", "audit seal --watch", console):
        children.start("sealer", *PYTHON, "audit", "seal", "--watch", needed=False)
    with step("worker", f"work pool {POOL}", console):
        worker = ("--pool", POOL, "--type", "process", "--name", POOL, "--limit", str(RUNS_AT_ONCE + len(cases)))
        children.start("worker", *PREFECT, "worker", "start", *worker)
        children.wait_until(lambda: worker_reported(api, children.began), START_SECONDS)
        close_left_over(api, children.began)
        children.wait_until(lambda: queue_paused(api, False), START_SECONDS)
    with step("deployments", f"of {', '.join(case.name for case in cases)}", console):
        files = [case.file for case in cases]
        children.run("deploy", *PYTHON, "deployments.deploy", *files, "--timezone", cases[0].timezone)
    with step("automations", "from deployments/automations.py", console):
        try:
            children.run("automations", *PYTHON, "deployments.automations", "--yes")
        except ChildEnded as failed:  # runs start and are watched without them
            warn(failed, console)
    with step("pages", "reports, and drift in Evidently", console):
        children.wait_until(lambda: pages_there(children, at), START_SECONDS)


def start_pages(children: "Children", at: dict[str, str]) -> None:
    """What links lead to. Whoever only looks can do without, so neither ends the rest if it ends."""
    shown = settings().evidently_path
    shown.mkdir(parents=True, exist_ok=True)
    children.start("reports", *PYTHON, "deployments.reports", "--port", port_of(at[REPORTS]), needed=False)
    evidently = ("evidently.cli", "ui", "--workspace", str(shown), "--host", HOST, "--port", port_of(at[EVIDENTLY]))
    children.start("evidently", *PYTHON, *evidently, needed=False)


def pages_there(children: "Children", at: dict[str, str]) -> bool:
    """Both answer, or have ended and were named."""
    asked = {"reports": f"{at[REPORTS]}/health", "evidently": f"{at[EVIDENTLY]}/api/version"}
    return all(ask("GET", asked[name]) for name in asked if children.has(name))


def environment(home: Path, at: dict[str, str]) -> dict[str, str]:
    """What servers, worker and runs see. Prefect's settings for this folder are in prefect.toml."""
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "EVIDENTLY_SECRET": token_urlsafe(),  # nobody is told: its UI shows what runs wrote, and changes nothing
        **os.environ,
        **beside.past_the_proxy(),
        "AUDIT_HOME": str(home),
        **at,
    }


def chosen_port(asked: int | None, console: Console) -> int:
    """The port asked for, else Prefect's own, else a free one. Raises UserError if the one asked for is taken."""
    if is_free(asked or PORT):
        return asked or PORT
    if asked:
        raise UserError(f"Port {asked} is taken.", hint="Name another one, or leave --port out.")
    port = any_free_port()
    console.print(f"[yellow]![/yellow] Port {PORT} is taken by another program; {port} is used instead.")
    return port


def any_free_port() -> int:
    """One that the system chooses."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def beside_of(port: int) -> int:
    """The next port, else any free one."""
    return port + 1 if port < LAST_PORT and is_free(port + 1) else any_free_port()


def port_of(address: str) -> str:
    """As an option's value."""
    return str(urlsplit(address).port)


def is_free(port: int) -> bool:
    """Nobody listens on `port` of this machine."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: waiting sockets are no owners
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
        return True


@contextmanager
def only_one_of_us(home: Path) -> Iterator[None]:
    """Hold `home` for this process. The system lets go of it however the process ends.

    Raises UserError if another one holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "ui.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            where = beside.noted(home).get(API, "it is still starting").removesuffix("/api")
            raise UserError(f"`make ui` already runs here ({where}).", hint="End that one with Ctrl-C first.") from None
        yield


def make_record() -> None:
    """Store and mask key, so that the first run finds them."""
    from audit.recording.initialise import initialise

    initialise()


def ask(method: str, url: str, body: dict[str, Any] | None = None) -> Any | None:
    """What the server answers, as JSON; None if it does not, also after a few tries: under load its SQLite refuses."""
    for _ in range(TRIES):
        try:
            found = httpx.request(method, url, json=body, timeout=10, trust_env=False)
        except httpx.HTTPError:
            return None
        if found.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            break
        time.sleep(0.5)
    if not found.is_success:
        return None
    return found.json() if found.content else True


def worker_reported(api: str, since: datetime) -> bool:
    """The worker made its pool and sent a sign of life after `since`; an older one is that of an earlier worker."""
    found = ask("POST", f"{api}/work_pools/{POOL}/workers/filter", {}) or []
    return any(datetime.fromisoformat(worker["last_heartbeat_time"]) >= since for worker in found)


def queue_paused(api: str, paused: bool) -> bool:
    """Pause or resume the work pool; whether that was done."""
    return ask("PATCH", f"{api}/work_pools/{POOL}", {"is_paused": paused}) is not None


def end_runs(api: str, began: datetime, console: Console) -> None:
    """Let no queued run start, and have those that go on end as crashed, by themselves and on record.

    A worker that is told to end kills its runs at once, and nobody hears of it.
    """
    queue_paused(api, True)
    going_on = [run.pid for run in open_runs(api) if run.since >= began]
    if going_on:
        console.print(f"Ending {len(going_on)} run(s), on record as crashed …")
    for number, seconds in ((signal.SIGTERM, 30), (signal.SIGKILL, 5)):
        going_on = [pid for pid in going_on if signalled(pid, number)]
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(signalled(pid, 0) for pid in going_on):
            time.sleep(0.2)


def close_left_over(api: str, began: datetime) -> None:
    """Tell Prefect that runs of an earlier worker have crashed, if this machine died under it: nobody else will."""
    crashed = {"type": "CRASHED", "name": "Crashed", "message": "Its worker is gone."}
    for run in open_runs(api):
        if run.since < began and not signalled(run.pid, 0):
            ask("POST", f"{api}/flow_runs/{run.id}/set_state", {"state": crashed})


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A flow run that is not over as far as Prefect knows. An old `pid` may be that of another program by now."""

    id: str
    pid: int
    since: datetime


def open_runs(api: str) -> list[OpenRun]:
    """Flow runs that a worker of the pool took and that have no end."""
    asked = {
        "work_pools": {"name": {"any_": [POOL]}},
        "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
    }
    return [
        OpenRun(run["id"], int(run["infrastructure_pid"]), datetime.fromisoformat(run["state"]["timestamp"]))
        for run in ask("POST", f"{api}/flow_runs/filter", asked) or []
        if run["infrastructure_pid"]
    ]


def signalled(pid: int, number: int) -> bool:
    """Send a signal to the session that `pid` leads, if there is one."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):  # gone; or its number is another user's by now
        return False
    return True


@contextmanager
def step(name: str, what: str, console: Console) -> Iterator[None]:
    """A spinner while it lasts, a line when it is done."""
    began = time.monotonic()
    with console.status(f"{name} …"):
        yield
    console.print(f"[green]✓[/green] {name:<12} {what}  [dim]{time.monotonic() - began:.0f} s[/dim]", soft_wrap=True)


def warn(failed: AuditError, console: Console) -> None:
    """A failure that the rest goes on without."""
    console.print(f"[yellow]![/yellow] {escape(str(failed))}", soft_wrap=True)


def tell_where_to_look(at: dict[str, str], cases: Sequence[Case], console: Console) -> None:
    """What one can do now."""
    scripts = shown(Path(sys.executable).parent)
    console.print(
        f"\nUI            [bold]{at[API].removesuffix('/api')}[/bold]\n"
        f"Reports       {at[REPORTS]}   data docs, drift, evaluations\n"
        f"Drift         {at[EVIDENTLY]}   month by month, in Evidently's own UI\n"
        f"Start a run   in the UI under Deployments; by  make run  in another terminal; or by\n"
        f"              PREFECT_API_URL={at[API]} {scripts}/prefect deployment run "
        f"pipeline/{cases[0].named('pipeline')}\n"
        f"See it        {scripts}/audit runs\n"
        f"Logs          {shown(settings().home / 'logs')}\n"
        "\nCtrl-C ends all of it.",
        soft_wrap=True,
    )


def shown(path: Path) -> Path:
    """As one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@dataclass(frozen=True, slots=True)
class Child:
    """One process of ours and where its words go."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    needed: bool = True  # the rest ends with it

    def how_it_ended(self) -> ChildEnded:
        """How it ended, and its last words."""
        words = self.log.read_text(errors="replace").strip().splitlines()
        last = f" Its last words: “{words[-1].strip()}”." if words else ""
        return ChildEnded(f"The {self.name} ended with code {self.process.returncode}.{last}", hint=f"See {self.log}.")


class Children:
    """The processes that were started here, and the wish to end them. Made on the main thread, once."""

    def __init__(self, logs: Path, environment: dict[str, str], console: Console) -> None:
        self.logs = logs
        self.environment = environment
        self.console = console
        self.started: list[Child] = []
        self.began = datetime.now(UTC)
        self.asked_to_end = False
        logs.mkdir(parents=True, exist_ok=True)
        for number in SIGNALS:  # also where the shell had SIGINT ignored, as it does for `make ui &`
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Only a note: an exception out of a signal handler could come between a child's start and its being listed."""
        self.asked_to_end = True

    def start(self, name: str, *command: str, needed: bool = True) -> None:
        """Start a command that is to last until the end."""
        self.started.append(self._popen(name, command, needed))

    def has(self, name: str) -> bool:
        """Whether the child of that name has not ended, as far as is known."""
        return any(child.name == name for child in self.started)

    def run(self, name: str, *command: str) -> None:
        """Run a command to its end. Raises ChildEnded if that is not 0."""
        child = self._popen(name, command)
        try:
            self.wait_until(lambda: child.process.poll() is not None, START_SECONDS)
        finally:
            end(child)
        if child.process.returncode:
            raise child.how_it_ended()

    def wait_until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait for `reached`. Raises AskedToEnd, ChildEnded, or NotFound after `seconds`."""
        until = time.monotonic() + seconds
        while not reached():
            self._check()
            if time.monotonic() > until:
                raise NotFound(f"No sign of life within {seconds:.0f} s.", hint=f"See the logs in {self.logs}.")
            time.sleep(0.2)

    def watch(self) -> None:
        """Wait for ever. Raises AskedToEnd or ChildEnded."""
        while True:
            self._check()
            time.sleep(0.2)

    def end(self) -> None:
        """End all children, the last one first."""
        for child in reversed(self.started):
            end(child)

    def _check(self) -> None:
        if self.asked_to_end:
            raise AskedToEnd
        for child in [child for child in self.started if child.process.poll() is not None]:
            if child.needed:
                raise child.how_it_ended()
            self.started.remove(child)
            warn(child.how_it_ended(), self.console)

    def _popen(self, name: str, command: Sequence[str], needed: bool = True) -> Child:
        log = self.logs / f"{name}.log"
        with log.open("wb") as words:
            process = subprocess.Popen(
                command,
                cwd=CLONE,  # for prefect.toml and prefect.yaml
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Child(name, process, log, needed)


def end(child: Child) -> None:
    """Ask politely, ask again, kill."""
    for number, seconds in ((signal.SIGTERM, 15), (signal.SIGINT, 5), (signal.SIGKILL, 5)):
        if child.process.poll() is not None:
            return
        signalled(child.process.pid, number)
        try:
            child.process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    main()
