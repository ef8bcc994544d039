"""`audit verify`: whether what was recorded is what stands there, and what that does not show."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.answers.verdict import many
from audit.cli import output
from audit.cli.sealing import text_of
from audit.errors import CouldNotTell, ProofRejected, UserError
from audit.roots import shown
from audit.settings import settings

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from sqlalchemy import URL

    from audit.answers.verdict import Fault, Verdict
    from audit.ledger.note import VerifierKey

MAX_DIGITS = 18  # of a size
ANSWERS = {"held": "bold green", "did not hold": "bold red", "could not tell": "bold yellow"}
WIDTH = len("could not tell")
CHANGED = (
    "The store was changed behind its triggers. Keep it as it is; compare with a copy from before; see "
    "docs/when-verify-fails.md"
)
OTHER = (
    "This is not the log, or not all of it, that it is held to. Is that the right one? If so, keep it as it is; "
    "see docs/when-verify-fails.md"
)
BENT = "This is not what the log gave out. Keep it as it is, and ask for it again where you had it."
UNHELD = (
    "nothing outside of the store. Whoever owns it could have written all of it anew, with the log's key or another: "
    "have a checkpoint and the key (audit log-key -o) where they cannot reach, named with --checkpoint and --key"
)

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--checkpoint", metavar="FILE", help="A checkpoint that you kept: the log must continue it. Can be repeated."
    ),
]
Published = Annotated[
    list[str] | None,
    typer.Option("--published", metavar="URL", help="Likewise the checkpoint published there (see `audit publish`)."),
]
Key = Annotated[
    str, typer.Option("--key", metavar="VKEY|FILE", help="The log's key that you kept: the log must be that key's.")
]
Since = Annotated[
    str,
    typer.Option(
        "--since-checkpoint",
        metavar="SIZE|FILE",
        help="Do not read again what this checkpoint sealed, nor its payloads.",
    ),
]
Artifacts = Annotated[bool, typer.Option("--artifacts", help="Also hash every artifact again that payloads refer to.")]
Roots = Annotated[
    Path | None,
    typer.Option(
        "--tsa-roots",
        metavar="FILE",
        help="Roots (PEM) of the time stamp authorities you believe. Default AUDIT_TSA_ROOTS.",
    ),
]
Witness = Annotated[
    list[str] | None,
    typer.Option(
        "--witness",
        metavar="VKEY|FILE",
        help="A witness whose cosignature you demand. Default AUDIT_WITNESSES. Can be repeated.",
    ),
]
Store = Annotated[
    str,
    typer.Option(
        "--store", metavar="FILE|URL", help="Another store: a file, for example a copy, or postgresql://HOST/DATABASE."
    ),
]
Bundle = Annotated[
    Path | None, typer.Option("--bundle", metavar="FILE", help="No store, but what `audit export` wrote.")
]
Proof = Annotated[
    Path | None, typer.Option("--proof", metavar="FOLDER", help="No store, but what `audit prove` wrote.")
]
Tiles = Annotated[
    str,
    typer.Option(
        "--tiles", metavar="URL", help="No store, but what `audit publish` put there: every entry and tile of it."
    ),
]


def verify(
    checkpoint: Files = None,
    published: Published = None,
    key: Key = "",
    since_checkpoint: Since = "",
    artifacts: Artifacts = False,
    tsa_roots: Roots = None,
    witness: Witness = None,
    store: Store = "",
    bundle: Bundle = None,
    proof: Proof = None,
    tiles: Tiles = "",
    as_json: output.AsJson = False,
) -> None:
    """Read everything on record again and say whether it is what was sealed.

    Nothing is changed, so a copy can be verified anywhere. The checkpoint that this machine signed last
    (AUDIT_HOME/keys/checkpoint) is held against the store by itself; one that you kept elsewhere shows more.

    Exit code 0: it held, 1: it did not, 2: nobody could tell.

    Example: audit verify

    Example: audit verify --store copy/audit.db --checkpoint kept/checkpoint --key kept/log.vkey
    """
    try:
        if bundle or proof or tiles:
            named = sum(map(bool, (bundle, proof, tiles)))
            if named > 1 or store or published or since_checkpoint or artifacts or (tiles and tsa_roots):
                raise UserError(
                    "--bundle, --proof and --tiles read no store, and no more than one of them is read.",
                    hint="Leave out what is about others; where --tiles reads there are no time stamps.",
                )
            trusted = _Trusted.named(checkpoint, key, tsa_roots, witness)
            found = _of_tiles(tiles, trusted) if tiles else _of_files(bundle, proof, trusted)
        else:
            trusted = _Trusted.named(checkpoint, key, tsa_roots, witness)
            found = _of_store(store, trusted, published or [], since_checkpoint, artifacts)
    except UserError as wrong:  # its exit code would say that the store did not hold
        raise CouldNotTell(wrong.what, hint=wrong.hint) from None
    _show(found, as_json=as_json, of_store=not (bundle or proof or tiles))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trusted:
    """What the reader brought along."""

    kept: list[str]
    key: "VerifierKey | None"
    tsa_roots: Path | None
    witnesses: "list[VerifierKey]"

    @classmethod
    def named(
        cls, checkpoints: list[Path] | None, key: str, tsa_roots: Path | None, witnesses: list[str] | None
    ) -> "_Trusted":
        """Raises UserError for a file that cannot be read or a key that is none."""
        return cls(
            kept=[_checkpoint(path) for path in checkpoints or []],
            key=_key(key) if key else None,
            tsa_roots=tsa_roots,
            witnesses=[_witness(one) for one in witnesses or []],
        )


def _of_files(bundle: Path | None, proof: Path | None, trusted: _Trusted) -> "Verdict":
    from audit.answers.bundle import verify_bundle
    from audit.answers.prove import verify_proof

    given = {field.name: getattr(trusted, field.name) for field in fields(trusted)}
    if bundle:
        with output.bar("verifying") as progress:
            return verify_bundle(bundle, **given, progress=progress)
    assert proof is not None, "one of the two is named"
    return verify_proof(proof, **given)


def _of_tiles(url: str, trusted: _Trusted) -> "Verdict":
    """By the key that was named, else by those that this machine's store has on record."""
    from audit.answers.published import verify_published
    from audit.ledger.keys import keys_on_record
    from audit.store import ledger
    from audit.store.engine import open_existing

    keys = [trusted.key] if trusted.key else []
    if not keys:
        with open_existing().reading() as connection:
            keys = keys_on_record(ledger.key_events(connection))
    with output.bar("verifying") as progress:
        return verify_published(url, keys, kept=trusted.kept, witnesses=trusted.witnesses, progress=progress)


def _of_store(named: str, trusted: _Trusted, published: Sequence[str], since: str, artifacts: bool) -> "Verdict":
    from audit.answers.verify import verify
    from audit.ledger.note import parse_checkpoint, parse_note
    from audit.ledger.sealer import KEPT
    from audit.ledger.tiles import read_published
    from audit.store.engine import opened_as_it_is, store_url

    elsewhere = [(f"published at {shown(url)}", read_published(url)) for url in published]
    if named:
        store = opened_as_it_is(_url(named))
        own = store.path.parent / "keys" / KEPT if store.path else None
        where = f"in {own}"
    else:
        store, trusted = opened_as_it_is(store_url(settings())), _with_settings(trusted)
        own, where = settings().keys_path / KEPT, "that this machine signed last"
    elsewhere += [(where, text_of(own))] if own and own.exists() else []
    size = int(since) if since.isdecimal() and len(since) <= MAX_DIGITS else None
    if since and size is None:
        note = _checkpoint(Path(since))
        trusted = replace(trusted, kept=[*trusted.kept, note])
        size = parse_checkpoint(parse_note(note).text).size
    with output.bar("verifying") as progress:
        return verify(
            store, kept=trusted.kept, elsewhere=elsewhere, key=trusted.key, since=size, artifacts=artifacts,
            tsa_roots=trusted.tsa_roots, witnesses=trusted.witnesses, progress=progress,
        )  # fmt: skip


def _url(named: str) -> "URL":
    """Where another store is than the settings say. Raises StoreUnavailable, UserError."""
    from sqlalchemy import URL

    from audit.settings import Settings
    from audit.store.engine import store_url

    if "://" not in named:
        return URL.create("sqlite", database=named)
    if not named.startswith("postgres"):  # not shown: there may be a password in it
        raise UserError("--store names neither a file nor PostgreSQL.", hint="Use postgresql://USER@HOST/DATABASE.")
    return store_url(Settings(home=Path(), database_url=named, artifacts_url=""))


def _with_settings(trusted: _Trusted) -> _Trusted:
    """Whom this machine's settings name, where the options name nobody."""
    from audit.ledger.witnesses import read_witnesses

    where = settings()
    named = [one.key for one in read_witnesses(where.witnesses)] if where.witnesses else []
    return replace(trusted, tsa_roots=trusted.tsa_roots or where.tsa_roots, witnesses=trusted.witnesses or named)


def _checkpoint(path: Path) -> str:
    """A checkpoint that somebody kept. Raises UserError if the file holds none."""
    from audit.ledger.note import parse_checkpoint, parse_note

    written = text_of(path)
    try:
        parse_checkpoint(parse_note(written).text)
    except ProofRejected as none:
        raise UserError(f"{path} holds no checkpoint: {none.what}", hint="One comes from `audit log-key -o`.") from None
    return written


def _key(written: str) -> "VerifierKey":
    """A verifier key, or the one that a file holds. Raises UserError."""
    from audit.ledger.note import parse_key

    if "+" in written:
        return parse_key(written)
    lines = [line for line in text_of(Path(written)).splitlines() if line.strip()]
    if len(lines) != 1:
        raise UserError(
            f"{written} holds {len(lines)} lines, not one verifier key.", hint="Give the one that you know the log by."
        )
    return parse_key(lines[0])


def _witness(written: str) -> "VerifierKey":
    """Likewise; the log's own key is none, for it would then be believed. Raises UserError."""
    from audit.ledger.note import COSIGNATURE

    key = _key(written)
    if key.kind != COSIGNATURE:
        raise UserError(f"{key.shown} is no witness's key.", hint="Its verifier key is of the kind for cosignatures.")
    return key


def _show(found: "Verdict", *, as_json: bool, of_store: bool) -> None:
    from audit.answers.verdict import EXIT_CODES

    if as_json:
        output.write_json({"answer": found.answer, **asdict(found)})
    else:
        output.show(*_parts(found, of_store))
    raise typer.Exit(EXIT_CODES[found.answer])


def _parts(found: "Verdict", of_store: bool) -> "list[RenderableType]":
    told = [("not known", what) for what in (found.unknown if found.faults else found.unknown[1:])]
    if found.size:
        told += [("held to", what) for what in found.held_to or ([UNHELD] if of_store and not found.faults else [])]
    told += [("withdrawn", f"{many(count, 'payload')} by {actor}") for actor, count in found.withdrawals]
    told += [("note", what) for what in found.notes]
    if found.answer == "held":
        told.append(("not shown", _not_shown(found)))
    return [
        *([output.styled(_counted(found))] if found.size or found.events else []),
        _named((found.answer, _summary(found, of_store)), style=ANSWERS[found.answer]),
        *(output.styled(f"  {line}") for line in _faults(found, of_store)),
        *(_named(one) for one in told),
    ]


def _named(said: tuple[str, str], style: str = "bold") -> "Table":
    """A word and what it says, below which further lines of it begin."""
    word, text = said
    return output.columns([(output.styled(f"{word:<{WIDTH}}", style), text)])


def _faults(found: "Verdict", of_store: bool) -> "Iterator[str]":
    for fault in found.faults:
        yield f"{fault.about}: {fault.what}"
    if found.more_faults:
        yield f"and {found.more_faults:,} more"
    if found.faults:
        yield (CHANGED if any(map(_is_of_the_store, found.faults)) else OTHER) if of_store else BENT


def _is_of_the_store(fault: "Fault") -> bool:
    """And not of what the store is held against: a wrong key or checkpoint accuses nobody."""
    return not any(
        word in fault.about
        for word in (" that you kept", " published at ", " signed last", "/keys/", "artifact://", "key ")
    )


def _counted(found: "Verdict") -> str:
    waiting = f", {found.unsealed:,} waiting ({', '.join(found.unsealed_types)})" if found.unsealed else ""
    sealed = found.events - found.unsealed
    parts = [f"{many(found.events, 'event')}{' read' if found.since else ''}", f"{sealed:,} sealed{waiting}"]
    parts.append(f"tree of {found.size:,}")
    consistent = ", each consistent with the last" if found.answer == "held" and found.checkpoints > 1 else ""
    parts.append(f"{many(found.checkpoints, 'checkpoint')}{consistent}")
    parts.append(many(found.anchors, "anchor"))
    if found.artifacts:
        parts.append(f"{many(found.artifacts, 'artifact')} referred to")
    return " · ".join(parts)


def _summary(found: "Verdict", of_store: bool) -> str:
    if found.faults:
        return many(len(found.faults) + found.more_faults, "fault")
    if found.unknown:
        return found.unknown[0]
    if of_store:
        return "nothing changed, removed, inserted or reordered since it was sealed"
    return "what is in it is in the log, as it was sealed"


def _not_shown(found: "Verdict") -> str:
    waiting = f"; anything about the {many(found.unsealed, 'event')} that no checkpoint seals" if found.unsealed else ""
    return f"that what was recorded was true, or that all was recorded{waiting}"
