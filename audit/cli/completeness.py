"""`audit reconcile` and `audit completeness`: the record held against what Prefect's server knows."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.answers.verdict import many
from audit.cli import output
from audit.cli.events import moment

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from audit.answers.completeness import Completeness, Statement
    from audit.recording.reconcile import Compared
    from audit.store.engine import AuditStore

BAR = 40  # characters
DEFAULT = timedelta(days=1)
ANSWERS = {0: ("complete", "bold green"), 1: ("not complete", "bold red"), 2: ("could not tell", "bold yellow")}
LISTED = 20

Since = Annotated[
    str, typer.Option(metavar="TIME", help="From then on (UTC): 2026-11-24, 2026-11-24T10:00, 30m, 1h, 2d.")
]
Follow = Annotated[
    bool, typer.Option("--follow", help="Go on with what Prefect tells of runs as they run, until Ctrl-C.")
]


def reconcile(since: Since = "", follow: Follow = False, as_json: output.AsJson = False) -> None:
    """Put on record what only Prefect knows of, and give up runs whose process is gone; then say how complete it is.

    By default from where the last one ended, at most seven days back. A second one appends nothing but its count.
    With --follow also for runs on images that nobody can add anything to: it records their states, no arguments, no
    results and no errors of single attempts.

    Exit code 0: all is on record or explained, 1: it is not, 2: the server could not be asked.

    Example: audit reconcile --since 2d
    """
    from audit.recording.reconcile import reconcile as reconciled
    from audit.store.engine import open_existing

    store = open_existing()
    found = reconciled(store, datetime.fromisoformat(moment(since)) if since else None)
    if follow:
        _follow(store, as_json=as_json)
        return
    code = 2 if found.unknown else 1 if _unexplained(found) else 0
    if as_json:
        output.write_json({"answer": ANSWERS[code][0], **_json(found)})
    else:
        output.show(*_reconciled(found), *_window(found), *_answer(found, code))
    raise typer.Exit(code)


def completeness(since: Since = "", as_json: output.AsJson = False) -> None:
    """Say how many task runs there were, by Prefect's count and by each process's own, and how many are on record.

    By default of the last day. Nothing is changed; `audit reconcile` puts on record what is missing.

    Exit code 0: all is on record or explained, 1: it is not, 2: the server could not be asked.

    Example: audit completeness --since 7d
    """
    from audit.answers.completeness import completeness as complete
    from audit.store.engine import open_existing

    from_ = datetime.fromisoformat(moment(since)) if since else datetime.now(UTC) - DEFAULT
    found = complete(open_existing(), from_)
    if as_json:
        said = [
            {"flow_run": one.flow_run, "event": one.event, "stated": one.facts, "still_missing": one.still_missing}
            for one in found.statements
        ]
        output.write_json({"answer": ANSWERS[found.exit_code][0], **_json(found.compared), "statements": said})
    else:
        output.show(
            *_window(found.compared), *_statements(found.statements), *_answer(found.compared, found.exit_code, found)
        )
    raise typer.Exit(found.exit_code)


def _follow(store: "AuditStore", *, as_json: bool) -> None:
    from audit.recording.follow import follow

    def tell(said: str) -> None:
        if as_json:
            output.write_json_line({"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "said": said})
        else:
            output.show(output.styled(said))

    follow(store, tell)


def _json(found: "Compared") -> dict[str, Any]:
    return found.facts.model_dump(exclude_none=True) | {
        "flow_runs": dict(found.flow_runs),
        "appended": dict(found.appended),
        "missing_runs": [asdict(run) for run in found.missing],
        "not_in_prefect_ids": found.some_not_in_prefect,
        "open": [{"kind": run.kind, "id": run.id, "since": run.seen_at} for run in found.still_open],
    }


def _window(found: "Compared") -> "Iterator[RenderableType]":
    yield output.facts(
        ("window", f"{output.day_and_time(found.since)} to {output.day_and_time(found.until)} UTC"),
        ("asked", f"Prefect's API at {found.where}" if found.where else "nobody"),
    )
    if not found.unknown:
        yield _bars(found)


def _bars(found: "Compared") -> "Table":
    """How the task runs that Prefect knows stand, as a picture."""
    stand = found.task_runs
    total = stand.total()
    rows = [
        ("known to Prefect", total, ""),
        ("observed", stand["observed"], "green"),
        ("reconciled", stand["reconciled"], "cyan"),
        ("abandoned", stand["abandoned"], "yellow"),
        ("too recent or running", stand["too_recent"], "blue"),
        ("not instrumented", stand["not_instrumented"], "yellow"),
        ("not explained", stand["missing"], "bold red"),
    ]
    shown = [row for row in rows if row[1] or row[0] in ("known to Prefect", "observed", "not explained")]
    return output.table(
        ["task runs", "count", ""],
        [(name, output.number(count), output.styled(_bar(count, total), style)) for name, count, style in shown],
        numbers=("count",),
    )


def _bar(count: int, total: int) -> str:
    """Never empty where there is one."""
    return "█" * max(1, round(BAR * count / total)) if count else ""


def _statements(said: "Sequence[Statement]") -> "Iterator[RenderableType]":
    if not said:
        return
    head = ["run", "flow", "state", "ended (UTC)", "began", "on record", "not instrumented", "missing"]
    yield output.styled("")
    yield output.table(head, map(_statement, said), numbers=head[4:], wrapping=("flow",))


def _statement(one: "Statement") -> "list[str | Text]":
    run, facts = one.flow_run, one.facts
    who = [
        output.short_id(run["id"]),
        run["flow"] or output.NOTHING,
        output.state(run["state"]),
        output.day_and_time(run["ended_at"]),
    ]
    if facts is None:
        return [*who, "nothing stated", output.NOTHING, output.NOTHING, output.NOTHING]
    plain = sum(named["value"] for named in facts["not_instrumented"])
    missing = len(one.still_missing)
    return [
        *who,
        output.number(facts.get("counted")),
        output.number(facts.get("on_record")),
        output.number(plain),
        output.styled(output.number(missing), "bold red" if missing else ""),
    ]


def _reconciled(found: "Compared") -> "Iterator[RenderableType]":
    words = [f"{count:,} {type}" for type, count in sorted(found.appended.items())]
    nothing = "nothing" if found.unknown else "nothing: both sides say the same"
    yield output.facts(("appended", ", ".join(words) or nothing))


def _answer(found: "Compared", code: int, whole: "Completeness | None" = None) -> "Iterator[RenderableType]":
    word, style = ANSWERS[code]
    said = (word, output.styled(_summary(found, code), style))
    yield output.facts(said, *((name, output.styled(told)) for name, told in _remarks(found, whole)))


def _summary(found: "Compared", code: int) -> str:
    if code == 2:
        return found.unknown or ""
    if code == 1:
        return f"{many(_unexplained(found), 'run')} that Prefect knows neither on record nor explained"
    return "every task run that Prefect knows is on record or explained"


def _remarks(found: "Compared", whole: "Completeness | None") -> Iterator[tuple[str, str]]:
    for run in found.missing[:LISTED]:
        kind = run.kind.replace("_", " ")
        yield "missing", f"{kind} {run.id} ({run.name}), {run.state}: `audit reconcile` puts on record what Prefect has"
    for one in whole.statements if whole else ():
        for id in one.still_missing[:LISTED]:
            yield "missing", f"task run {id} of flow run {one.flow_run['id']}: its process saw it begin"
    for task, count in found.not_instrumented.most_common(LISTED):
        yield "no record", f"{many(count, 'task run')} of {task}, which nobody asked to have recorded"
    if found.nested:
        yield "nested", f"{many(found.nested, 'task run')} of Prefect's only stand for a nested flow run: not counted"
    if found.not_in_prefect:
        yield "only here", f"{many(found.not_in_prefect, 'task run')} that Prefect does not know, or no more"
    for left in found.still_open[:LISTED]:
        kind = left.kind.replace("_", " ")
        yield "open", f"{kind} {left.id} ({left.run_name}), {left.state} since {output.day_and_time(left.seen_at)}"


def _unexplained(found: "Compared") -> int:
    return found.task_runs["missing"] + found.flow_runs["missing"]
