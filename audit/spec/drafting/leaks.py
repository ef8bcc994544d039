"""Columns that give the target away: copies of it, codes for it, numbers that part it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.spec.drafting.profile import Profile, Seen
from audit.spec.drafting.target import LEAST_ROWS, Aim

if TYPE_CHECKING:
    import polars as pl

TOLD = 0.99  # share of the rows in which a column tells the target, from which it is suspicious


@dataclass(frozen=True, slots=True)
class Suspicion:
    """How a column gives the target away, in all rows or in most."""

    reason: str
    whole: bool


def tells(seen: Seen, found: Profile, aim: Aim) -> Suspicion | None:
    import polars as pl

    both = found.sample.select(pl.col(seen.name).alias("it"), pl.col(aim.name).alias("target"))
    known = both.drop_nulls("target")
    if known.height < 3 * LEAST_ROWS:
        return None
    if aim.kind == "regression":
        return _tells_number(known.drop_nulls("it"), seen)
    if seen.nulls and aim.kind == "binary" and _one_to_one(known.with_columns(pl.col("it").is_null()), 2):
        return Suspicion("it is missing exactly where the target has one of its values", whole=True)
    pairs = known.drop_nulls("it")
    if _one_to_one(pairs, len(aim.classes)):
        return Suspicion("each of its values goes with one value of the target", whole=True)
    return _tells_class(pairs, seen, aim)


def _one_to_one(pairs: "pl.DataFrame", classes: int) -> bool:
    different = pairs["it"].n_unique()
    if different != classes or pairs.height < max(3 * LEAST_ROWS, 5 * classes):
        return False
    return pairs.unique().height == pairs["target"].n_unique() == different


def _tells_class(pairs: "pl.DataFrame", seen: Seen, aim: Aim) -> Suspicion | None:
    import polars as pl

    if pairs.height < 3 * LEAST_ROWS:
        return None
    usual = max(aim.classes.values()) / sum(aim.classes.values())
    if seen.distinct <= pairs.height // 20 and usual < TOLD - 0.02:
        each = pairs.group_by("it", "target").len().group_by("it").agg(pl.col("len").max())
        share = int(each["len"].sum()) / pairs.height
        if share >= TOLD:
            return Suspicion(f"it tells the target in {_per_cent(share)} of the rows", whole=False)
    if aim.kind == "binary" and seen.dtype in ("integer", "float"):
        auc = _auc(pairs, aim)
        if auc >= 0.999:
            return Suspicion("its size alone tells the target in nearly every row", whole=False)
    return None


def _auc(pairs: "pl.DataFrame", aim: Aim) -> float:
    """How well the column's size alone parts the two values, either way round (Mann and Whitney's U)."""
    import polars as pl

    ranks = pairs.select(pl.col("it").rank("average"), (pl.col("target") == aim.positive).alias("positive"))
    positive = ranks.filter(pl.col("positive"))["it"]
    n, m = len(positive), ranks.height - len(positive)
    if not n or not m:
        return 0.5
    auc = (float(positive.sum()) - n * (n + 1) / 2) / (n * m)
    return max(auc, 1 - auc)


def _tells_number(pairs: "pl.DataFrame", seen: Seen) -> Suspicion | None:
    import polars as pl

    if seen.dtype not in ("integer", "float") or pairs.height < 3 * LEAST_ROWS:
        return None
    finite = pairs.cast(pl.Float64).filter(pl.all_horizontal(pl.all().is_finite()))
    correlation = finite.select(pl.corr("it", "target")).item() if finite.height > 1 else None
    if correlation is None or math.isnan(correlation) or abs(correlation) < 0.995:
        return None
    if abs(correlation) > 0.999_999:
        return Suspicion("it is the target, in the same or another unit", whole=True)
    return Suspicion(f"it goes along with the target (correlation {correlation:.3f})", whole=False)


def _per_cent(share: float) -> str:
    return f"{math.floor(share * 1000) / 10:g} %"
