"""A spec drafted from the data itself, which runs as it is. Every guess stands with its reason in a comment.

What is uncertain is decided for the person the data is about (dropped, hashed, kept from the model) and for the first
run (no gate but the one against a champion), never silently. Values of the data come into a spec only as ranges and
value sets of columns that are `pii: none`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.errors import BadData, UserError
from audit.spec.drafting import guesses, layout
from audit.spec.drafting.columns import entry_of
from audit.spec.drafting.layout import Remarked, shown
from audit.spec.drafting.months import TEST_SHARE, Walk, entity_of, times, walk_by
from audit.spec.drafting.opened import Data, open_data
from audit.spec.drafting.profile import MISSING, SEED, Profile, Seen, profile
from audit.spec.drafting.target import Aim, aim_at
from audit.spec.load import SCORE, parse_spec
from audit.spec.model import Spec, TargetKind

WATCHED = 20  # features
FEW_ROWS = 10_000  # that want fewer steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for on the command line."""

    data: tuple[str, ...]
    out: Path
    target: str
    name: str | None = None
    title: str | None = None
    table: str | None = None
    query: str | None = None
    event_time: str | None = None
    key: str | None = None
    positive: str | None = None
    kind: TargetKind | None = None


@dataclass(frozen=True, slots=True)
class Drafted:
    """A spec as text that was read back and held, and what it was drafted from."""

    text: str
    spec: Spec
    rows: int
    left_out: Mapping[str, str]


def draft(wish: Wish) -> Drafted:
    """The spec for what was wished. Raises BadData or UserError, one line, where the data allows none."""
    data, found = examine(wish.data, wish.out.parent, table=wish.table, query=wish.query)
    aim = aim_at(found, wish.target, wish.kind, wish.positive)
    walk = walk_by(found, aim, times(found, aim, wish.event_time))
    key, key_remark = entity_of(found, aim, walk, wish.key)
    columns = [entry_of(seen, found, aim, walk, key) for seen in found.columns if seen.name != SCORE]
    text = _Text(wish, data, found, aim, walk, key, key_remark, tuple(columns)).whole()
    return Drafted(text, _held(text, wish.out, found, aim), found.rows, found.left_out)


def examine(given: Sequence[str], folder: Path, *, table: str | None, query: str | None) -> tuple[Data, Profile]:
    """The data, opened, and its profile; words for what is missing are found out and read as that."""
    data = open_data(given, folder, table=table, query=query)
    for _ in MISSING:
        found = profile(data.read, data.shown, texts=data.is_text)
        words = tuple(sorted({*found.missing, *_null_values(data)}))
        if words == _null_values(data):
            break
        data = data.without(words)
    names = [*found.names, *found.left_out]
    if data.is_text and guesses.looks_like_rows(names):
        raise BadData(f"{data.shown} has no header: its first line looks like a row.", hint="Write the names above it.")
    return data, found


def _null_values(data: Data) -> tuple[str, ...]:
    return next(iter(data.sources.values())).null_values


def _held(text: str, out: Path, found: Profile, aim: Aim) -> Spec:
    """The text as a spec, read as every stage will read it. What we wrote and cannot read back is our own fault."""
    spec = parse_spec(text, str(out.absolute()))
    assert {c.name for c in spec.columns} == {name for name in found.names if name != SCORE}, "names came out otherwise"
    assert spec.target.column == aim.name, "the target's name came out otherwise"
    return spec


@dataclass(frozen=True, slots=True)
class _Text:
    """All that was decided, to be written down."""

    wish: Wish
    data: Data
    found: Profile
    aim: Aim
    walk: Walk
    key: str | None
    key_remark: str
    columns: tuple[Remarked, ...]

    def whole(self) -> str:
        """The file's text. Raises BadData where no column is left for a model."""
        features = self._features()
        if not features:
            raise BadData(
                f"No column of {self.data.shown} is left for a model to learn from beside {self.aim.name}.",
                hint="They are constant, personal, times, keys, or give the target away.",
            )
        parts = [
            self._head(), self._sources(), self._who_and_when(), self._columns(), self._target(), self._rows(),
            self._drift(features), self._split(), self._estimator(), self._gates(), self._schedule(),
        ]  # fmt: skip
        return "\n\n".join(filter(None, parts)) + "\n"

    def _features(self) -> list[Seen]:
        """Those that have no role of their own."""
        return [self.found[str(each.entry["name"])] for each in self.columns if "role" not in each.entry]

    def _head(self) -> str:
        found = self.found
        columns = len(found.names) + len(found.left_out)
        said = [f"Drafted by `audit spec init` from {self.data.shown}: {found.rows:,} rows, {columns:,} columns."]
        if found.is_sampled:
            drawn = f"{found.sample.height:,} of {found.rows:,} rows, seed {SEED}"
            said.append(
                f"Distinct values, forms of text and what tells the target are from {drawn}; all else is exact."
            )
        said += [
            "It runs as it is; read the guesses before you rely on it.",
            "Limits are what was seen with half its spread as room; a row beyond one is set aside, not lost.",
            "Values of the data stand here only as limits and value sets of columns that are `pii: none`.",
        ]
        source = next(iter(self.data.sources))
        title = self.wish.title or f"{self.aim.name} of {source}"
        named = layout.field("name", self.wish.name or _spec_name(source))
        return "\n".join([layout.comment(" ".join(said)), named, layout.field("title", title)])

    def _sources(self) -> str:
        lines = ["sources:"]
        if words := _null_values(self.data):
            told = ", ".join(words)
            lines.append(f"  {layout.comment(f'guess: what is missing is written {told}, among numbers or dates.')}")
        for name, table in self.data.sources.items():
            lines.append(f"  {layout.field(name, table.model_dump(mode='json', exclude_defaults=True))}")
        return "\n".join([*lines, *(["", layout.field("query", self.data.query)] if self.data.query else [])])

    def _who_and_when(self) -> str:
        lines = [layout.comment(self.walk.remark)]
        if self.walk.time:
            lines.append(layout.field("event_time", self.walk.time))
        if self.key:
            lines += [layout.comment(self.key_remark), layout.field("entity_key", self.key)]
        return "\n".join(lines)

    def _columns(self) -> str:
        left = dict(self.found.left_out)
        if SCORE in self.found.names:
            left[SCORE] = "has the name of the model's output; rename it in the source to use it"
        told = [layout.comment(f"left out, so dropped: {shown(name)} {reason}.") for name, reason in left.items()]
        return "\n".join(["columns:", layout.items(self.columns), *told])

    def _target(self) -> str:
        binary = self.aim.kind == "binary"
        how = {"positive": self.aim.positive} if binary else {"kind": self.aim.kind}
        return (
            f"{layout.comment(' '.join(self.aim.remarks))}\n{layout.field('target', {'column': self.aim.name} | how)}"
        )

    def _rows(self) -> str:
        of = "the thinnest month" if self.walk.schedule else "the table"
        return f"rows: {{min: {self.walk.least_rows}}}  # half of {of}; with fewer a run stops"

    def _drift(self, features: Sequence[Seen]) -> str:
        varied = sorted(features, key=lambda seen: -seen.distinct)[:WATCHED]
        watched = [*(seen.name for seen in features if seen in varied), SCORE, self.aim.name]
        which = "The features" if len(features) <= WATCHED else f"The {WATCHED} features of the most values"
        said = f"{which}, the model's own output and the target. It is drift where half of them differ."
        watch = layout.field("watch", watched).replace("\n", "\n  ")
        return f"{layout.comment(said)}\ndrift:\n  {watch}\n  share: 0.5"

    def _split(self) -> str:
        share = self.walk.test_share
        return (
            "" if share == TEST_SHARE else f"split: {{test_share: {share}}}  # so that few rows are enough to compare"
        )

    def _estimator(self) -> str:
        rows = self.aim.seen.known
        steps, leaf = 100 if rows < FEW_ROWS else 200, min(200, max(2, rows // 50))
        parameters = {"max_iter": steps, "max_leaf_nodes": 15, "min_samples_leaf": leaf, "early_stopping": False}
        return f"estimator:\n  kind: hist_gradient_boosting\n  {layout.field('parameters', parameters)}"

    def _gates(self) -> str:
        limit = "min_r2: 0.2" if self.aim.kind == "regression" else "min_auc: 0.6"
        said = (
            "No figure is demanded of a first model, or it might never come to be. Once you know what can be reached, "
            f"demand it here, for example `{limit}`."
        )
        return f"{layout.comment(said)}\ngates: {{min_gain: -0.01}}  # over the champion, on the same rows"

    def _schedule(self) -> str:
        return layout.field("schedule", self.walk.schedule) if self.walk.schedule else ""


def _spec_name(source: str) -> str:
    """A name that flows, models and pages can go by: from the source's, at most 40 letters."""
    plain = re.sub(r"[^a-z0-9_-]", "", source.lower())[:40].strip("_-")
    return plain if plain[:1].isalpha() else f"data{plain}"[:40]


def write(drafted: Drafted, out: Path) -> None:
    """Put the spec at `out`, all of it or nothing. Raises UserError if it cannot be written."""
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        try:
            beside.write_text(drafted.text, encoding="utf-8")
            beside.replace(out)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}).") from None
