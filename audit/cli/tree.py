"""How one run is shown to people: a flow run as a tree, a task run in full."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from audit.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

Row = dict[str, Any]  # a run with what belongs to it, or a reference in it


def header(run: Row) -> list["Text"]:
    """What ran, how it ended, who started it, which code."""
    code = f"commit {run['code_commit'][:7]} ({_clean(run['code_dirty'])})" if run["code_commit"] else "no commit"
    who = f"by {output.short_actor(run['actor'])}"
    ended = output.styled(" · ".join(["", output.duration(run["duration_seconds"]), who, code]))
    name = output.styled(run["name"] or run["id"], "bold")
    first = output.joined("", [name, output.styled("    "), output.state(run["state"]), ended])
    where = run["deployment_name"] or run["deployment"]
    second = [f"flow run {run['id']}", f"flow {run['flow']}", f"began {output.day_and_time(run['started_at'])} UTC"]
    second += [f"deployment {where}"] if where else []
    known = [output.styled(f"known by: {run['known_by']}", "yellow")] if run["known_by"] else []
    return [first, output.styled(" · ".join(second), "dim"), *known, *_troubles(run)]


def _clean(dirty: int | None) -> str:
    return "clean or not: unknown" if dirty is None else "dirty" if dirty else "clean"


def tree(run: Row) -> "Table":
    return output.columns(_branch(guide, child) for guide, child in _branches(run, ""))


def _branches(run: Row, indent: str) -> Iterator[tuple[str, Row]]:
    """Task runs and nested flow runs below `run` in the order in which they began, each with its guide lines."""
    children = sorted(
        [*run["task_runs"], *run["flow_runs"]], key=lambda child: (child["started_at"], child["first_seq"])
    )
    for child in children:
        last = child is children[-1]
        yield f"{indent}{'└─ ' if last else '├─ '}", child
        if child["kind"] == "flow_run":
            yield from _branches(child, indent + ("   " if last else "│  "))


def _branch(guide: str, run: Row) -> tuple["str | Text", ...]:
    name = output.styled(run["name"] or output.NOTHING, "bold" if run["kind"] == "flow_run" else "")
    return (
        output.joined("", [output.styled(guide, "dim"), name]),
        output.state(run["state"]),
        output.duration(run["duration_seconds"]),
        output.styled(output.short_id(run["id"]), "dim"),
        _detail(run),
    )


def _detail(run: Row) -> "Text":
    """What went in and came out, what was found, what went wrong."""
    moved = _moved(run) if run["kind"] == "task_run" else ""
    told = [output.styled(phrase) for phrase in (moved, *run["findings"]) if phrase]
    return output.joined(" · ", [*told, *_troubles(run)])


def _moved(run: Row) -> str:
    """`flights/ingested v1 → flights/validated v1 (327,346 rows)`: datasets and models by their version."""
    taken = _versions(run["inputs"])
    made = {address: shown for address, shown in _versions(run["outputs"], rows=True).items() if address not in taken}
    came_from, became = ", ".join(taken.values()), ", ".join(made.values())
    return f"{came_from} → {became}".strip() if became else came_from


def _versions(references: Sequence[Row] | None, *, rows: bool = False) -> dict[str, str]:
    kept = [reference for reference in references or () if reference["kind"] in ("dataset", "model")]
    return {reference["address"]: _version(reference, rows=rows) for reference in kept}


def _version(reference: Row, *, rows: bool = False) -> str:
    number = f"v{reference['version']}" if reference.get("version") else output.short_digest(reference["digest"])
    counted = f" ({reference['rows']:,} rows)" if rows and "rows" in reference else ""
    return f"{'model ' if reference['kind'] == 'model' else ''}{reference['of']} {number}{counted}"


def _troubles(run: Row) -> list["Text"]:
    """Earlier attempts that failed, and the error that ended the run."""
    troubles = []
    retries = run["attempts"] - 1
    if retries > 0:
        first = run["failed_attempts"][:1]
        reason = "".join(f": {_failure(attempt)} at {output.clock(attempt['at'])}" for attempt in first)
        where = f"audit events --run {output.short_id(run['id'])} --type {run['kind']}.attempt_failed"
        troubles.append(
            output.styled(f"{retries} {'retry' if retries == 1 else 'retries'}{reason} ({where})", "yellow")
        )
    if run["error"]:
        troubles.append(output.styled(_error(run["error"]), "red"))
    return troubles


def _failure(attempt: Row) -> str:
    error: Row | None = attempt.get("error")
    return _error(error) if error else output.NOTHING


def _error(error: Row) -> str:
    """`ValueError: what it said`, its first line."""
    said = error["message"].strip().partition("\n")[0]
    return f"{error['kind']}: {said}" if said else error["kind"]


def in_full(run: Row) -> list["RenderableType"]:
    """Everything that is on record of one task run."""
    named: list[tuple[str, str | Text]] = [
        ("task run", run["id"]),
        ("name", run["name"] or output.NOTHING),
        ("task", run["task"] or output.NOTHING),
        ("flow", run["flow"] or output.NOTHING),
        ("flow run", run["flow_run_id"] or output.NOTHING),
        ("deployment", run["deployment"] or output.NOTHING),
        ("state", output.state(run["state"])),
        ("began", f"{output.day_and_time(run['started_at'])} UTC"),
        ("ended", f"{output.day_and_time(run['ended_at'])} UTC" if run["ended_at"] else output.NOTHING),
        ("duration", output.duration(run["duration_seconds"])),
        ("attempts", str(run["attempts"])),
        ("by", output.short_actor(run["actor"])),
    ]
    named += [("known by", run["known_by"])] if run["known_by"] else []
    named += [("found", phrase) for phrase in run["findings"]]
    named += [("error", output.styled(_error(run["error"]), "red"))] if run["error"] else []
    error = run["error"] or {}
    return [
        output.facts(*named),
        *_section("states (UTC)", ((_exact(was["at"]), output.state(was["state"])) for was in run["states"])),
        *_section("parameters", ((given["name"], _value(given)) for given in run["parameters"] or ())),
        *_section("inputs", ((used["name"], _reference(used)) for used in run["inputs"] or ())),
        *_section("outputs", ((used["name"], _reference(used)) for used in run["outputs"] or ())),
        *_section("failed attempts", ((_exact(failed["at"]), _failure(failed)) for failed in run["failed_attempts"])),
        *_section("traceback", (("", line) for line in (error.get("traceback") or "").splitlines())),
    ]


def _section(title: str, named: "Iterable[tuple[str, str | Text]]") -> list["RenderableType"]:
    """A heading with what stands under it, or nothing at all."""
    lines = [(f"  {name}" if name else "", said) for name, said in named]
    return [output.styled(""), output.styled(title, "bold"), output.facts(*lines)] if lines else []


def _exact(at: str) -> str:
    """`2026-11-24 21:04:11.123456`"""
    return at.replace("T", " ").removesuffix("Z")


def _value(given: Row) -> str:
    value = given.get("value")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _reference(used: Row) -> str:
    return f"{_version(used, rows=True)}  {used['digest']}"
