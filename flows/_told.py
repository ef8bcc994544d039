"""`make run`: the pipeline told on a terminal, one line as each stage ends, from the events as they are recorded."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from audit.errors import AuditError, UserError
from audit.events.event import Event
from audit.events.payloads import Approver, EvaluationFacts, OutcomeFacts, called
from audit.settings import settings
from audit.store.engine import store_name, store_path
from flows import _beside as beside

Facts = dict[str, dict[str, Any]]  # payloads of one task run's events, by type


def main() -> None:
    """Entry of `python -m flows.pipeline`."""
    typer.run(run)


def run(
    spec: Annotated[Path, typer.Argument(help="The use case's YAML file.")] = Path("flows/specs/flights.yaml"),
    until: Annotated[str, typer.Option(help="Last month to decide on: 2013-12, or 12 for December.")] = "",
) -> None:
    """Run the whole pipeline on a spec and tell what happens.  Example: python -m flows.pipeline SPEC --until 12"""
    began = time.monotonic()
    story = Story(Console(highlight=False))
    try:
        _prepare()
        with story.live():
            _pipeline(spec, until, story)
    except AuditError as failed:
        story.console.print(f"[red]✗[/red] {_plain(failed)}", soft_wrap=True)
        if story.flow_run:
            story.console.print(f"Next:  audit run {story.flow_run[-8:]}")
        raise SystemExit(failed.exit_code) from None
    story.sum_up(time.monotonic() - began)


def _prepare() -> None:
    """A store that opens, and Prefect's own log in a file. Raises StoreUnavailable."""
    from audit.recording.initialise import initialise

    home = settings().home
    initialise()
    _log_to_file(home / "logs" / "prefect.log")


def _import_ahead() -> None:
    """What the stages will import, while we wait for Prefect's server: some 15 s that nobody has to watch."""
    for name in ("great_expectations", "sklearn.ensemble", "skops.io", "evidently.presets"):
        import_module(name)
    import_module("tasks._pictures").get_ready()


def _pipeline(spec: Path, until: str, story: "Story") -> None:
    from audit.recording.recorder import listen

    listen(story.hear)
    pipeline = import_module("flows.pipeline").pipeline  # by the name on record: what runs us is called __main__
    Thread(target=_import_ahead, daemon=True).start()
    with _server():
        pipeline(str(spec), _month(until, spec))


def _month(asked: str, spec: Path) -> date | None:
    """`12` or `2013-12` as the month's first day."""
    if not asked:
        return None
    try:
        if asked.isdigit() and len(asked) <= 2:
            from audit.spec.load import load_spec

            schedule = load_spec(spec).schedule
            if schedule is None:
                raise UserError(f"{spec.name} has no schedule, so it has no months.", hint="Leave --until out.")
            return schedule.train_from.replace(month=int(asked), day=1)
        return date.fromisoformat(f"{asked}-01")
    except ValueError:
        raise UserError(f"--until {asked} is no month.", hint="Write 2013-12, or 12 for December.") from None


def _server() -> AbstractContextManager[object]:
    """PREFECT_API_URL where it is set, else the server that `make ui` runs, else one of our own for this run.

    The runs of a `make ui` link to its pages, and so do those beside it.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    os.environ |= beside.past_the_proxy()
    asked, running = PREFECT_API_URL.value(), beside.noted(settings().home)
    if not running or asked not in (None, running[beside.API]) or not _answers(running[beside.API]):
        return nullcontext()
    os.environ |= {name: address for name, address in running.items() if name != beside.API}
    settings.cache_clear()
    return temporary_settings({PREFECT_API_URL: running[beside.API]})


def _answers(api: str) -> bool:
    """Whether a Prefect server is there; the `make ui` that noted it may have been killed."""
    import httpx

    try:
        return httpx.get(f"{api}/health", timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _log_to_file(path: Path) -> None:
    """Send what Prefect would print on the terminal to a file; the UI's log is not touched."""
    from prefect.logging.configuration import setup_logging
    from prefect.logging.handlers import PrefectConsoleHandler

    setup_logging()
    path.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    for logger in [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]:
        if any(isinstance(handler, PrefectConsoleHandler) for handler in logger.handlers):
            logger.handlers = [h for h in logger.handlers if not isinstance(h, PrefectConsoleHandler)] + [to_file]
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(to_file)
    logging.getLogger("py.warnings").propagate = False


class Story:
    """What was heard so far, and how to tell it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.facts: dict[str, Facts] = {}
        self.began: dict[str, float] = {}
        self.started: set[str] = set()
        self.events = 0
        self.decisions = 0
        self.flow_run: str | None = None
        self.bar = Progress(
            SpinnerColumn(), TextColumn("{task.description:<14}"), BarColumn(24), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self.stage: Any = None

    @contextmanager
    def live(self) -> Iterator[None]:
        """A live bar for the stage that runs, on a terminal; in a pipe only the lines."""
        if not self.console.is_terminal:
            yield
            return
        with self.bar:
            self.stage = self.bar.add_task("starting Prefect", total=None)
            yield

    def hear(self, event: Event) -> None:
        """Take in one event as it is recorded."""
        payload = orjson.loads(event.body)
        self.events += 1
        if event.type == "predictions.scored":
            self.decisions += _decisions(payload)
        if event.task_run_id:
            self.facts.setdefault(event.task_run_id, {})[event.type] = payload
        if told := _TOLD.get(event.type):
            told(self, event, payload)

    def flow_began(self, event: Event, payload: dict[str, Any]) -> None:
        self.flow_run = self.flow_run or event.flow_run_id
        if payload["of"] == "pipeline":
            given = {p["name"]: p.get("value") for p in payload["parameters"]}
            self.console.print(f"[bold]prefect-audit · {Path(given['spec_file']).stem}[/bold]   {_store()}")

    def task_began(self, event: Event, payload: dict[str, Any]) -> None:
        assert event.task_run_id
        self.began[event.task_run_id] = time.monotonic()
        self.started.add(event.task_run_id)
        if self.stage is not None:
            self.bar.reset(self.stage, description=payload["of"], total=None)

    def task_ended(self, event: Event, payload: dict[str, Any]) -> None:
        assert event.task_run_id
        tell = _STAGES.get(payload["of"])
        if tell is None:
            return
        told = tell(self.facts.pop(event.task_run_id, {}))
        if told is None:
            return
        sign, name, text = told
        seconds = time.monotonic() - self.began.get(event.task_run_id, time.monotonic())
        colour = {"✓": "green", "!": "yellow", "✗": "red"}[sign]
        self.console.print(f"[{colour}]{sign}[/{colour}] {name:<14} {text}  [dim]{seconds:.1f} s[/dim]", soft_wrap=True)

    def sum_up(self, seconds: float) -> None:
        """How many task runs were started here, how many the store has, and where to look next."""
        from audit.store import ledger, read
        from audit.store.engine import open_store

        store = open_store()
        on_record, log = read.task_runs_on_record(store, self.started), ledger.sealing(store)
        agree = "green" if on_record == len(self.started) else "red"
        self.console.print(
            f"\n[{agree}]{len(self.started)} task runs · {on_record} on record[/{agree}] · "
            f"{self.events} events · {self.decisions:,} decisions · {seconds:.0f} s"
        )
        self.console.print(f"Sealed: a log of {log.size:,} events, {log.unsealed} waiting for the next run to end")
        self.console.print(f"Next:  audit runs · audit run {(self.flow_run or '')[-8:]} · audit verify · make ui")


def _ingested(facts: Facts) -> tuple[str, str, str]:
    rows = facts["dataset.ingested"]
    count = len(rows.get("sources", []))
    tables = f"{count} {'table' if count == 1 else 'tables'}"
    changed = " · source changed" if any(source.get("changed_since") for source in rows.get("sources", [])) else ""
    text = f"{_window(rows)}{rows['rows']:,} rows · {tables} · {_digest(rows['digest'])}{changed}"
    return "✓", "ingest", text


def _validated(facts: Facts) -> tuple[str, str, str]:
    found = facts["dataset.validated"]
    held = sum(e["held"] for e in found["expectations"])
    aside = f" · {found['rejected_rows']:,} rows set aside" if found["rejected_rows"] else ""
    return "✓", "validate", f"{len(found['expectations'])} expectations · {held} held{aside}"


def _transformed(facts: Facts) -> tuple[str, str, str]:
    made = facts["dataset.transformed"]
    return "✓", "features", f"{made['rows']:,} rows · {len(made['columns'])} columns · {_digest(made['digest'])}"


def _trained(facts: Facts) -> tuple[str, str, str]:
    made = facts["model.trained"]
    return "✓", "train", f"{made['estimator']} · {made['rows']:,} rows · {len(made['features'])} features"


def _evaluated(facts: Facts) -> tuple[str, str, str]:
    from tasks._frames import figure, with_interval

    found = EvaluationFacts.model_validate(facts["model.evaluated"])
    main, against = figure(found.main, found.metrics), figure(found.main, found.difference)
    assert main, "every evaluation has its main figure"
    gain = f" · against champion {with_interval(against, signed=True)}" if against else ""
    gates = f"gates {sum(gate.held for gate in found.gates)} of {len(found.gates)}"
    return "✓" if found.held else "!", "evaluate", f"{called(found.main)} {with_interval(main)}{gain} · {gates}"


def _promoted(facts: Facts) -> tuple[str, str, str]:
    if "model.deployed" in facts:
        deployed = facts["model.deployed"]
        reason = f", because event …{deployed['cause'][-8:]}" if deployed.get("cause") else ""
        return "✓", "promote", f"v{deployed['version']} is champion in production{reason}"
    rejected = facts["model.rejected"]
    return "!", "promote", f"v{rejected['version']} not promoted: {rejected['reason']}"


def _asked(facts: Facts) -> tuple[str, str, str]:
    asked = facts["model.approval_requested"]
    form = ", or on the run's page in the UI, where it is paused" if _has_a_form() else ""
    return "!", "approval", f"awaiting approval: audit approve {asked['spec']}/v{asked['version']} --note …{form}"


def _decided(facts: Facts) -> tuple[str, str, str] | None:
    if step := facts.get("model.deployed") or facts.get("model.rejected"):
        by = f" · by {Approver(**step['approver'])}" if step.get("approver") else ""
        sign, _, text = _promoted(facts)
        return sign, "approval", f"{text}{by}"
    return None  # decided elsewhere: whoever did so was told


def _has_a_form() -> bool:
    from flows._approval import has_a_form

    return has_a_form()


def _scored(facts: Facts) -> tuple[str, str, str]:
    made = facts["predictions.scored"]
    failed = f" · {made['failed']:,} rows failed (on record)" if made["failed"] else ""
    undecided = f" · {made['undecided']:,} undecided" if made["undecided"] else ""
    return "✓", "score", f"{_window(made)}{_decisions(made):,} decisions{undecided}{failed}"


def _drift(facts: Facts) -> tuple[str, str, str]:
    found = facts["drift.checked"]
    if not found["watched"]:
        reasons = {column["value"] for column in found["left_out"]}
        return "✓", "drift", f"{_window(found)}{reasons.pop() if len(reasons) == 1 else 'nothing to compare'}"
    top = sorted((c for c in found["columns"] if c["drifted"]), key=lambda c: -c["score"] / (c["threshold"] or 1))[:3]
    named = ", ".join(f"{c['name']} {c['score']:.2f} > {c['threshold']:.2f}" for c in top)
    text = f"{_window(found)}{found['drifted']} of {found['watched']} watched columns"
    text += f" ({named})" if named else ""
    asks = " → retraining" if found.get("window") else ""  # without months the pipeline would learn the same again
    return ("!", "drift", f"{text}{asks}") if found["detected"] else ("✓", "drift", text)


def _anomalies(facts: Facts) -> tuple[str, str, str] | None:
    found = facts.get("anomaly.detected")
    if found is None:
        return None
    text = f"{found['what']} {found['value']:,.4g}, usually {found['low']:,.4g} to {found['high']:,.4g}"
    return "!", "anomaly", f"{_window(found)}{text}"


def _performance(facts: Facts) -> tuple[str, str, str]:
    from tasks._frames import figure, with_interval

    if "performance.checked" not in facts:
        return "✓", "performance", "no more outcomes than before"
    found = OutcomeFacts.model_validate(facts["performance.checked"])
    window = f"{found.window} · " if found.window else ""
    now, then = figure(found.main, found.metrics), figure(found.main, found.baseline)
    if not now or not then:
        return "✓", "performance", f"{window}{found.known:,} of {found.rows:,} outcomes known"
    text = f"{window}{called(found.main)} {with_interval(now)} against {then.value:.3f}"
    asks = " → retraining" if "performance.decayed" in facts and found.window else ""
    return "✓" if found.verdict == "steady" else "!", "performance", text + asks


def _alerted(facts: Facts) -> tuple[str, str, str]:
    if held := facts.get("alert.held"):
        return "!", "alert", f"{held['kind']} held back until {held['until'][11:16]} UTC: {held['reason']}"
    sent, failed = facts.get("alert.sent"), facts.get("alert.failed")
    if not sent and not failed:
        return "!", "alert", "no target: set AUDIT_ALERT_URL to be told"
    came = [f"{sent['kind']} sent to {sent['target']}"] if sent else []
    came += [f"{failed['kind']} not delivered to {failed['target']} (on record)"] if failed else []
    return "!" if failed else "✓", "alert", " · ".join(came)


_STAGES: dict[str, Callable[[Facts], tuple[str, str, str] | None]] = {
    "ingest": _ingested,
    "validate": _validated,
    "build_features": _transformed,
    "train_model": _trained,
    "evaluate": _evaluated,
    "promote": _promoted,
    "request_approval": _asked,
    "decide": _decided,
    "score": _scored,
    "check_drift": _drift,
    "check_anomalies": _anomalies,
    "check_performance": _performance,
    "send_alert": _alerted,
}
_TOLD: dict[str, Callable[[Story, Event, dict[str, Any]], None]] = {
    "flow_run.running": Story.flow_began,
    "task_run.running": Story.task_began,
    "task_run.completed": Story.task_ended,
    "task_run.cached": Story.task_ended,
}


def _window(facts: dict[str, Any]) -> str:
    return f"{facts['window']} · " if facts.get("window") else ""


def _decisions(scored: dict[str, Any]) -> int:
    return int(scored["rows"] - scored["failed"] - scored["undecided"])


def _digest(digest: str) -> str:
    return f"sha256:{digest.removeprefix('sha256:')[:8]}…"


def _store() -> str:
    path = store_path(settings())
    return _short(path) if path else store_name(settings())


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _plain(failed: AuditError) -> str:
    return str(failed).replace("[", "\\[")
