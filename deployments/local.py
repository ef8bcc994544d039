"""`make ui`: a Prefect server with its UI, a work pool, a worker and the deployments, on this machine, until Ctrl-C.

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
from types import FrameType
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from audit.errors import AuditError, NotFound, UserError
from audit.settings import settings
from deployments.where import CLONE

HOST = "127.0.0.1"
PORT = 4200  # Prefect's own
POOL = "local"  # as in prefect.yaml
PREFECT = (sys.executable, "-m", "prefect")
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
    port: Annotated[int | None, typer.Option(help=f"The server's port; by default {PORT}, or a free one.")] = None,
) -> None:
    """Run server, worker and deployments here until Ctrl-C.  Example: python -m deployments.local --port 4300"""
    console = Console(highlight=False)
    try:
        with only_one_of_us(settings().home):
            serve(port, console)
    except AuditError as failed:
        console.print(f"[red]✗[/red] {escape(str(failed))}", soft_wrap=True)
        raise SystemExit(failed.exit_code) from None


def serve(port: int | None, console: Console) -> None:
    """Start everything in order, watch it, end it in reverse order.

    Raises ChildEnded if a child ends that nobody asked to.
    """
    home = settings().home
    port = chosen_port(port, console)
    api = f"http://{HOST}:{port}/api"
    children = Children(home / "logs", environment(home, api))
    address = home / "ui.url"
    try:
        set_up(children, port, api, console)
        address.write_text(f"{api}\n")
        tell_where_to_look(api, console)
        children.watch()
    except AskedToEnd:
        console.print("\nEnding worker and server …")
    finally:
        address.unlink(missing_ok=True)
        end_runs(api, children.began, console)
        children.end()
    console.print("Ended. Nothing of it runs any more; the record stays.")


def set_up(children: "Children", port: int, api: str, console: Console) -> None:
    """Server, store and keys, worker with its pool, deployments; a line as each is there."""
    with step("server", api.removesuffix("/api"), console):
        children.start("server", "server", "start", "--host", HOST, "--port", str(port))
        make_record()
        children.wait_until(lambda: bool(ask("GET", f"{api}/health")), START_SECONDS)
    with step("worker", f"work pool {POOL}, one run at a time", console):
        children.start("worker", "worker", "start", "--pool", POOL, "--type", "process", "--name", POOL, "--limit", "1")
        children.wait_until(lambda: worker_reported(api, children.began), START_SECONDS)
        close_left_over(api, children.began)
        children.wait_until(lambda: queue_paused(api, False), START_SECONDS)
    with step("deployments", "from prefect.yaml", console):
        children.run("deploy", "--no-prompt", "deploy", "--all")


def environment(home: Path, api: str) -> dict[str, str]:
    """What server, worker and runs see. Prefect's settings for this folder are in prefect.toml."""
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        **os.environ,
        **{name: f"{os.environ[name]},{HOST}" if os.environ.get(name) else HOST for name in ("NO_PROXY", "no_proxy")},
        "AUDIT_HOME": str(home),
        "PREFECT_API_URL": api,
    }


def chosen_port(asked: int | None, console: Console) -> int:
    """The port asked for, else Prefect's own, else a free one. Raises UserError if the one asked for is taken."""
    if is_free(asked or PORT):
        return asked or PORT
    if asked:
        raise UserError(f"Port {asked} is taken.", hint="Name another one, or leave --port out.")
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = int(free.getsockname()[1])
    console.print(f"[yellow]![/yellow] Port {PORT} is taken by another program; {port} is used instead.")
    return port


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
            noted = home / "ui.url"
            where = noted.read_text().strip().removesuffix("/api") if noted.exists() else "it is still starting"
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


def tell_where_to_look(api: str, console: Console) -> None:
    """What one can do now."""
    scripts = shown(Path(sys.executable).parent)
    console.print(
        f"\nUI            [bold]{api.removesuffix('/api')}[/bold]\n"
        f"Start a run   in the UI under Deployments; by  make run  in another terminal; or by\n"
        f"              PREFECT_API_URL={api} {scripts}/prefect deployment run pipeline/pipeline\n"
        f"See it        {scripts}/audit runs\n"
        f"Logs          {shown(settings().home / 'logs')}\n"
        "\nCtrl-C ends worker and server.",
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

    def how_it_ended(self) -> ChildEnded:
        """How it ended, and its last words."""
        words = self.log.read_text(errors="replace").strip().splitlines()
        last = f" Its last words: “{words[-1].strip()}”." if words else ""
        return ChildEnded(f"The {self.name} ended with code {self.process.returncode}.{last}", hint=f"See {self.log}.")


class Children:
    """The processes that were started here, and the wish to end them. Made on the main thread, once."""

    def __init__(self, logs: Path, environment: dict[str, str]) -> None:
        self.logs = logs
        self.environment = environment
        self.started: list[Child] = []
        self.began = datetime.now(UTC)
        self.asked_to_end = False
        logs.mkdir(parents=True, exist_ok=True)
        for number in SIGNALS:  # also where the shell had SIGINT ignored, as it does for `make ui &`
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Only a note: an exception out of a signal handler could come between a child's start and its being listed."""
        self.asked_to_end = True

    def start(self, name: str, *arguments: str) -> Child:
        """Start `prefect ARGUMENTS`, to last until the end."""
        child = self._popen(name, arguments)
        self.started.append(child)
        return child

    def run(self, name: str, *arguments: str) -> None:
        """Run `prefect ARGUMENTS` to its end. Raises ChildEnded if that is not 0."""
        child = self._popen(name, arguments)
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
        for child in self.started:
            if child.process.poll() is not None:
                raise child.how_it_ended()

    def _popen(self, name: str, arguments: Sequence[str]) -> Child:
        log = self.logs / f"{name}.log"
        with log.open("wb") as words:
            process = subprocess.Popen(
                [*PREFECT, *arguments],
                cwd=CLONE,  # for prefect.toml and prefect.yaml
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Child(name, process, log)


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
