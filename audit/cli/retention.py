"""`audit retention` and `audit hold`: payloads whose time is up, and what is kept whatever their policy says."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.answers.verdict import many
from audit.cli import output
from audit.cli.events import moment
from audit.cli.naming import event_called, run_called
from audit.errors import UserError
from audit.settings import settings

if TYPE_CHECKING:
    from audit.answers.keeping import Hold, Policy
    from audit.retention import Due, Expired, Plan
    from audit.store.read import Recorded

retention = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Export payloads whose time is up, and withdraw them.\n\nExample: audit retention run --dry-run",
)
hold = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep payloads whatever their policy says.\n\nExample: audit hold list",
)

Specs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[SPEC...]", help="Specs that have changed; by default what is on record of each counts."),
]
Until = Annotated[str, typer.Option(metavar="DATE", help="Only of months that end by then: 2026-01-01.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the hold is called: case-2026-17.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why. It stays on record for ever: name nobody in it.")]


@retention.command("run")
def run_now(
    specs: Specs = None,
    until: Until = "",
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where bundles go. Default: AUDIT_HOME/expired.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and do nothing.")] = False,
    as_json: output.AsJson = False,
) -> None:
    """Export payloads whose time is up to bundles that anybody can check, then withdraw them. Envelopes stay.

    It needs the log's key. After a crash, run it again: nothing is exported twice.

    Example: audit retention run --to /mnt/archive
    """
    from audit.retention import run, written_over
    from audit.spec.load import load_spec

    loaded, last = [load_spec(path) for path in specs or ()], _day(until)
    if dry_run:
        _show_plan(loaded, last, as_json=as_json)
        return
    done: list[Expired] = []
    with output.bar("exporting") as progress:
        for one in run(settings(), folder=to, until=last, specs=loaded, progress=progress):
            done.append(one)
            if not as_json:
                output.show(_done(one))
    over = written_over(settings())
    if as_json:
        withdrawn = [
            _facts(one.due) | {"withdrawn": one.withdrawn, "bundle": str(one.bundle), "digest": one.digest}
            for one in done
        ]
        output.write_json({"expired": withdrawn, "written_over": over})
        return
    output.show(_sum(done))
    if done and not over:
        typer.echo(
            "Somebody reads the store: what was withdrawn is still in its -wal file. Run this again later.", err=True
        )


@retention.command()
def status(as_json: output.AsJson = False) -> None:
    """Say how long payloads are kept, what is due, and what was withdrawn to which bundle.

    Example: audit retention status
    """
    from audit.retention import expired, plan, policies
    from audit.store.engine import open_existing

    with open_existing(settings()).reading() as connection:
        known = policies(connection)
        planned, gone = plan(connection, known, datetime.now(UTC)), expired(connection)
    bundles = _bundles(gone)
    if as_json:
        policies_said = [{"spec": one.spec, "event": one.event, **one.kept} for one in known.values()]
        output.write_json({"policies": policies_said, **_plan_facts(planned), "bundles": bundles})
        return
    output.show(_policies(list(known.values())), "", *_planned(planned))
    if bundles:
        output.show("", _bundle_table(bundles))


@hold.command()
def add(
    name: Name,
    reason: Reason,
    spec: Annotated[str, typer.Option(metavar="NAME", help="Only of this spec, and what belongs to none.")] = "",
    model: Annotated[str, typer.Option(metavar="MODEL", help="Only of this model version: mortgage/v2.")] = "",
    run: Annotated[str, typer.Option(metavar="ID", help="Only of this run, with those nested in it.")] = "",
    event: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only this event. Can be repeated.")] = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="Only what happened from then on (UTC).")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Only what happened before then.")] = "",
    as_json: output.AsJson = False,
) -> None:
    """Keep what all of these options name until the hold is released; without one, everything.

    Example: audit hold add case-2026-17 --reason 'complaint 17' --spec mortgage --since 2026-03-01
    """
    from audit.retention import Scope, seal_said
    from audit.retention import hold as place
    from audit.store.engine import open_existing

    store = open_existing(settings())
    scope = Scope(
        spec=spec or None,
        model=model or None,
        run=run_called(store, run).id if run else None,
        events=tuple(event_called(store, each).id for each in event or ()),
        since=moment(since) if since else None,
        until=moment(until) if until else None,
    )
    facts = place(settings(), name, reason, scope)
    if as_json:
        output.write_json(facts.model_dump(mode="json"))
    else:
        output.show(f"{name} is in force and keeps {_words(facts.model_dump())} until it is released.")
    _warn_unsealed(sealed=seal_said(settings()))


@hold.command("list")
def list_all(as_json: output.AsJson = False) -> None:
    """Name the holds in force: what each keeps, by whom and why.

    Example: audit hold list
    """
    from audit.retention import holds_in_force
    from audit.store.engine import open_existing

    with open_existing(settings()).reading() as connection:
        found = holds_in_force(connection)
    if as_json:
        output.write_json([_hold_facts(one) for one in found])
        return
    rows = ((one.name, _words(asdict(one)), output.short_actor(one.actor), one.reason) for one in found)
    output.show(
        output.table(("hold", "keeps", "by", "reason"), rows, wrapping=("reason",)) if found else "No hold is in force."
    )


@hold.command("release")
def release_one(name: Name, reason: Reason, as_json: output.AsJson = False) -> None:
    """Let the policy have its way again.

    Example: audit hold release case-2026-17 --reason 'closed'
    """
    from audit.retention import release, seal_said

    facts = release(settings(), name, reason)
    if as_json:
        output.write_json(facts.model_dump(mode="json"))
    else:
        output.show(f"{name} is released; see `audit retention run --dry-run` for what is due now.")
    _warn_unsealed(sealed=seal_said(settings()))


def _warn_unsealed(*, sealed: bool) -> None:
    if not sealed:
        typer.echo(
            "It is not sealed yet: until `audit seal` ran where the log's key is, who owns the database can take it "
            "out unseen.",
            err=True,
        )


def _day(written: str) -> date | None:
    try:
        return date.fromisoformat(written) if written else None
    except ValueError:
        raise UserError(f"--until {written!r} is no date.", hint="Write one as 2026-01-01.") from None


def _show_plan(specs: "Sequence[Any]", until: date | None, *, as_json: bool) -> None:
    from audit.retention import plan, policies, policies_said
    from audit.store.engine import open_existing

    with open_existing(settings()).reading() as connection:
        known = policies(connection) | policies_said(settings(), specs)
        planned = plan(connection, known, datetime.now(UTC), until)
    if as_json:
        output.write_json(_plan_facts(planned))
    else:
        output.show(*_planned(planned))


def _facts(due: "Due") -> dict[str, Any]:
    return {"period": due.period, "spec": due.spec, "of": due.of, "kept": due.kept, "payloads": len(due.events)}


def _plan_facts(planned: "Plan") -> dict[str, Any]:
    return {"due": [_facts(one) for one in planned.due], "held": dict(planned.held), "needed": planned.needed}


def _planned(planned: "Plan") -> Iterator[Any]:
    if planned.due:
        rows = ((one.period, _spec(one.spec), one.of, one.kept, output.number(len(one.events))) for one in planned.due)
        yield output.table(("recorded in", "spec", "of", "kept", "payloads"), rows, numbers=("payloads",))
        yield f"{many(sum(len(one.events) for one in planned.due), 'payload')} due: audit retention run"
    else:
        yield "Nothing is due."
    for name, count in sorted(planned.held.items()):
        yield f"{many(count, 'payload')} kept by the hold {output.plain(name)}"
    if planned.needed:
        yield f"{many(planned.needed, 'payload')} kept, for what is in use rests on them"


def _policies(known: "Sequence[Policy]") -> Any:
    if not known:
        return "No spec is on record, so everything is kept."
    head = tuple(known[0].kept)
    rows = ((_spec(one.spec), *(one.kept[of] for of in head)) for one in sorted(known, key=lambda one: one.spec))
    return output.table(("spec", *head), rows)


def _done(one: "Expired") -> str:
    due = one.due
    what = f"{due.of} of {_spec(due.spec)}, recorded in {due.period}"
    return f"{output.plain(str(one.bundle))} · {what} · {many(one.withdrawn, 'payload')} withdrawn"


def _sum(done: "Sequence[Expired]") -> str:
    if not done:
        return "Nothing is due."
    gone = many(sum(one.withdrawn for one in done), "payload")
    return f"{gone} withdrawn; envelopes stay, and `audit verify` lists who did it. Keep the bundles."


def _bundles(gone: "Sequence[Recorded]") -> list[dict[str, Any]]:
    """Each bundle that payloads went to, and whether it lies where it was written."""
    found: dict[str, dict[str, Any]] = {}
    for event in (event for event in gone if "bundle" in event.payload):  # one by whoever has what he gave it
        facts = event.payload
        one = found.setdefault(
            facts["bundle"],
            {name: facts[name] for name in ("period", "spec", "of", "kept", "bundle", "place")}
            | {"payloads": 0, "actor": event.actor, "there": _is_there(facts)},
        )
        one["payloads"] += len(facts["events"])
    return list(found.values())


def _is_there(facts: Mapping[str, Any]) -> bool:
    import hashlib

    try:
        with (settings().home / facts["place"]).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return False
    return bool(facts["bundle"] == f"sha256:{digest}")


def _bundle_table(bundles: Sequence[Mapping[str, Any]]) -> Any:
    where = {True: output.styled("there"), False: output.styled("elsewhere", "yellow")}
    rows = (
        (
            one["period"], _spec(one["spec"]), one["of"], output.number(one["payloads"]),
            output.short_actor(one["actor"]), one["place"], where[one["there"]],
        )
        for one in bundles
    )  # fmt: skip
    return output.table(("recorded in", "spec", "of", "withdrawn", "by", "bundle", ""), rows, numbers=("withdrawn",))


def _spec(name: str) -> str:
    return "no spec" if name == "*" else name


def _words(facts: Mapping[str, Any]) -> str:
    """`spec mortgage, since 2026-03-01 00:00:00`"""
    runs, events = facts["runs"], facts["events"]
    said = [f"{name} {facts[name]}" for name in ("spec", "model") if facts[name]]
    said += [many(len(runs), "run")] if runs else []
    said += [many(len(events), "event")] if events else []
    said += [f"{name} {output.day_and_time(facts[name])}" for name in ("since", "until") if facts[name]]
    return ", ".join(said) or "everything"


def _hold_facts(one: "Hold") -> dict[str, Any]:
    return asdict(one) | {"runs": sorted(one.runs), "events": sorted(one.events)}
