"""The target of a draft: what kind it is, which value counts as positive, and why we think so."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from audit.errors import BadData, UserError
from audit.spec.drafting.profile import Profile, Seen
from audit.spec.load import SCORE, did_you_mean
from audit.spec.model import TargetKind
from audit.spec.sources import MAX_EXACT

LEAST_ROWS = 10  # with a known target
MAX_CLASSES, FEW_CLASSES = 50, 20  # of text; of integers
_POSITIVE = (
    "1", "true", "yes", "y", "t", "positive", "pos", "bad", "default", "defaulted", "fraud", "churn", "churned", "late",
    "malignant", "sick", "ill", "dead", "died", "failed", "fail", "approved", "won", "spam",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Aim:
    """The target: its kind, the values that decide, and what is to be said of it."""

    seen: Seen
    kind: TargetKind
    classes: dict[Any, int] = field(default_factory=dict)  # rows of each value; of a number none
    positive: str | int | bool | None = None
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.seen.name


def as_target(seen: Seen) -> str:
    """As what the column could be predicted; empty where it cannot."""
    if seen.distinct < 2 or seen.dtype in ("date", "datetime") or seen.name == SCORE:
        return ""
    if seen.distinct == 2 and seen.dtype != "float":
        return "binary: two values"
    if seen.dtype == "string":
        return f"multiclass: {seen.distinct} values" if seen.distinct <= FEW_CLASSES else ""
    if seen.dtype == "integer" and seen.distinct <= FEW_CLASSES:
        return f"multiclass: {seen.distinct} values (or regression)"
    return "" if seen.unique and seen.dtype == "integer" else "regression: a number"


def aim_at(found: Profile, name: str, kind: TargetKind | None, positive: str | None) -> Aim:
    """The target called `name`, of the kind and with the positive value that were asked for, else guessed.

    Raises BadData or UserError where it cannot be predicted.
    """
    if name in found.left_out:
        raise BadData(f"--target {name}: the column {found.left_out[name]}.", hint="Choose another.")
    if name not in found.names:
        near = did_you_mean(name, found.names)
        raise BadData(f"--target {name}: there is no such column.{near}", hint="Without --target, they are listed.")
    if name == SCORE:
        raise BadData(f"--target {SCORE} is the name of the model's output.", hint="Rename the column.")
    seen = found[name]
    if seen.known < LEAST_ROWS:
        rows = "1 row" if seen.known == 1 else f"{seen.known:,} rows"
        raise BadData(f"--target {name} has a value in {rows}, and it takes {LEAST_ROWS}.", hint="Add rows.")
    if seen.dtype in ("date", "datetime"):
        raise BadData(f"--target {name} is a {seen.dtype}.", hint="Derive a number or a yes or no from it.")
    counts = _counts(seen, found)
    if len(counts) == 1 or seen.low == seen.high is not None:
        raise BadData(f"--target {name} has one value only.", hint="There is nothing to tell apart.")
    aim = _of_kind(kind or _kind(seen, counts), seen, counts, positive)
    why = f"{kind}, as --kind says." if kind else _why(aim)
    return replace(aim, remarks=tuple(filter(None, (why, *aim.remarks, _without(seen), _few(aim.classes)))))


def _counts(seen: Seen, found: Profile) -> dict[Any, int]:
    """Rows of each value, where they may be classes; exact."""
    import polars as pl

    if seen.distinct > MAX_CLASSES or (seen.dtype == "float" and seen.distinct > 2):
        return {}
    known = found.whole.select(pl.col(seen.name).alias("value")).drop_nulls()
    counted = known.group_by("value").len().sort("value").collect(engine="streaming")
    return dict(counted.iter_rows())


def _kind(seen: Seen, counts: Mapping[Any, int]) -> TargetKind:
    if len(counts) == 2 and (seen.dtype != "float" or _are_whole(counts)):
        return "binary"
    if seen.dtype == "string" or (seen.dtype == "integer" and 0 < len(counts) <= FEW_CLASSES):
        return "multiclass"
    return "regression"


def _of_kind(kind: TargetKind, seen: Seen, counts: dict[Any, int], positive: str | None) -> Aim:
    what = f"--target {seen.name}"
    if kind == "regression":
        if seen.dtype not in ("integer", "float"):
            raise BadData(f"{what} is a {seen.dtype} and no number.", hint="Choose another --kind.")
        return Aim(seen, kind)
    if not counts:
        raise BadData(
            f"{what} has too many values to be classes.", hint=f"A spec takes {MAX_CLASSES}; group them first."
        )
    if seen.dtype == "float":
        if not _are_whole(counts):
            raise BadData(f"{what} has fractions, which are no classes.", hint="Choose --kind regression.")
        seen, counts = replace(seen, dtype="integer"), {int(value): rows for value, rows in counts.items()}
    if kind == "multiclass":
        return Aim(seen, kind, counts)
    if len(counts) != 2:
        raise BadData(f"{what} has {len(counts)} values and is not binary.", hint="Choose another --kind.")
    chosen, reason = _positive(seen, counts, positive)
    return Aim(seen, kind, counts, chosen, (reason,))


def _are_whole(counts: Mapping[Any, int]) -> bool:
    return all(float(value).is_integer() and abs(value) < MAX_EXACT for value in counts)


def _why(aim: Aim) -> str:
    if aim.kind == "regression":
        return "guess: regression, for it is a number with many values."
    measured = aim.kind == "multiclass" and aim.seen.dtype == "integer"
    other = " (--kind regression, if it measures something)" if measured else ""
    return f"guess: {aim.kind}, for it has {len(aim.classes)} values{other}."


def _without(seen: Seen) -> str:
    if not seen.nulls:
        return ""
    return f"{seen.nulls:,} of {seen.rows:,} rows have none: they are decided on, not learnt from."


def _few(counts: Mapping[Any, int]) -> str:
    few = sum(rows < 2 for rows in counts.values())
    return f"{few} of its classes have one row only, which can be learnt or tested, not both." if few else ""


def _positive(seen: Seen, counts: Mapping[Any, int], asked: str | None) -> tuple[str | int | bool, str]:
    by_word = {str(value).strip().lower(): value for value in counts}
    if asked is not None:
        if asked.strip().lower() in by_word:
            return by_word[asked.strip().lower()], "positive is what --positive says."
        raise UserError(f"--positive: {seen.name} has no such value.", hint="It has two; without it one is guessed.")
    word = next((word for word in _POSITIVE if word in by_word), None)
    if word is not None:
        return by_word[word], "guess: positive is the value that means yes."
    return min(
        counts, key=lambda value: counts[value]
    ), "guess: positive is the rarer value; turn it if it is the other."
