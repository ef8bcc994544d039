"""How personal columns are handled before anything is written: kept, generalised, dropped or replaced by a keyed hash.

The hash is HMAC-SHA-256 over column, 0x00 and canonical value, as untruncated hex: the same value in the same
column hashes alike under one key, so rows still match; in another column, or without the key, nothing matches.
A generalised value is the lower edge of a band, a text's first letters or the first day of a month or year.
"""

import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import polars as pl


MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Coarser:
    """How a column loses its precision: in one of these ways. `low` and `high` are the limits that its values must
    keep to: a value beyond them stays beyond them, so that what is no value at all is still found out."""

    width: float | None = None  # of bands of numbers that begin at a multiple of it
    edges: tuple[float, ...] | None = None  # of bands of numbers, rising; the first one stands for what lies under it
    prefix: int | None = None  # letters that are left of a text
    to: Literal["month", "year"] | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.edges is not None:
            return f"edges {', '.join(f'{edge:.15g}' for edge in self.edges)}"
        if self.width is not None:
            return f"width {self.width:.15g}"
        return f"prefix {self.prefix}" if self.prefix is not None else f"to {self.to}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each column, in the order in which the kept, generalised and hashed ones stand afterwards."""

    kept: tuple[str, ...]  # with the hashed and the generalised ones among them
    hashed: tuple[str, ...]
    generalised: tuple[tuple[str, Coarser], ...]
    dropped: tuple[str, ...]
    undeclared: tuple[str, ...]  # taken for direct, so dropped as well


def plan_of(present: Iterable[str], handling: Mapping[str, str], coarser: Mapping[str, Coarser] | None = None) -> Plan:
    """The plan for the columns that are `present`, by the handling (keep, generalise, drop or hash) that each declared
    one has; one that is to be generalised and has no way in `coarser` is dropped."""
    columns, ways = set(present), coarser or {}
    declared = {name: how for name, how in handling.items() if name in columns}
    generalised = tuple((name, ways[name]) for name, how in declared.items() if how == "generalise" and name in ways)
    kept = {name for name, how in declared.items() if how in ("keep", "hash")} | {name for name, _ in generalised}
    return Plan(
        kept=tuple(name for name in declared if name in kept),
        hashed=tuple(name for name, how in declared.items() if how == "hash"),
        generalised=generalised,
        dropped=tuple(name for name in declared if name not in kept),
        undeclared=tuple(sorted(columns - set(declared))),
    )


def handle(frame: "pl.DataFrame", plan: Plan, key: bytes) -> "pl.DataFrame":
    """`frame` with only the plan's columns, the hashed ones as text. A null stays null."""
    kept = frame.select(plan.kept)
    coarse = [generalise(kept[name], way) for name, way in plan.generalised]
    return kept.with_columns(*coarse, *(hashed(kept[name], key) for name in plan.hashed))


def generalise(column: "pl.Series", way: Coarser) -> "pl.Series":
    """Every value with less precision, its dtype kept; what is null or not finite becomes null.

    Numbers take the lower edge of their band: never greater than the value, and the same when generalised again.
    Of floats that is exact while the value, counted in the last decimal of `width`, stays below 2**53.
    """
    if way.prefix is not None:
        return column.str.slice(0, way.prefix)
    if way.to is not None:
        return column.dt.truncate({"month": "1mo", "year": "1y"}[way.to])
    finite = column.set(~column.is_finite(), None) if column.dtype.is_float() else column
    return _kept_to_limits(finite, _banded(finite, way), way).cast(column.dtype).alias(column.name)


def hashed(column: "pl.Series", key: bytes) -> "pl.Series":
    """The keyed hash of every value, each distinct one hashed once."""
    import polars as pl

    distinct = column.drop_nulls().unique()
    hashes = [keyed(key, column.name, value) for value in _canonical(distinct)]
    return column.replace_strict(distinct, pl.Series(hashes, dtype=pl.String), default=None, return_dtype=pl.String)


def keyed(key: bytes, *parts: str) -> str:
    """HMAC-SHA-256 over `parts`, joined by 0x00, as hex."""
    message = b"\x00".join(part.encode("utf-8", "surrogatepass") for part in parts)
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def _canonical(values: "pl.Series") -> list[str]:
    """Text that is the same for equal values in every version: integers in decimal, floats by repr with one zero
    and one NaN, times in ISO 8601."""
    import polars as pl

    if isinstance(values.dtype, pl.Boolean):
        return ["true" if value else "false" for value in values]
    if values.dtype.is_temporal():
        return [value.isoformat() for value in values]
    if values.dtype.is_float():
        return [repr(value + 0.0) for value in values]
    return [str(value) for value in values]


def _banded(values: "pl.Series", way: Coarser) -> "pl.Series":
    """The lower edge of each value's band; of integers the least integer in it."""
    import polars as pl

    whole = values.dtype.is_integer()
    if way.edges is not None:
        edges = pl.Series([_least(edge, whole=whole) for edge in way.edges], dtype=values.dtype)
        places = edges.search_sorted(values.fill_null(edges[0]), side="right").cast(pl.Int64) - 1
        return edges.gather(places.clip(0)).set(values.is_null(), None)
    assert way.width is not None, "one of the ways is given"
    if not (whole and way.width.is_integer()):
        edges = _float_edges(values.cast(pl.Float64), way.width)
        return edges.ceil().cast(pl.Int64) if whole else edges
    width = min(int(way.width), MAX_INTEGER)
    value, edge = pl.col(values.name), pl.col(values.name) // width * width
    below_all = edge > value  # the edge of the lowest integers is no integer of 64 bits: it came round
    return values.to_frame().select(pl.when(below_all).then(-MAX_INTEGER - 1).otherwise(edge)).to_series()


def _float_edges(values: "pl.Series", width: float) -> "pl.Series":
    """The greatest multiples of `width`, as people write it, that are no greater than the values: 0.3, and by no means
    0.30000000000000004. Hence whole numbers are multiplied, and the power of ten divides last; not in Polars, which
    multiplies by 0.1 instead."""
    import numpy as np
    import polars as pl

    exact = Decimal(repr(width)).normalize()
    decimals = max(0, -int(exact.as_tuple().exponent))
    value = values.to_numpy()
    with np.errstate(over="ignore"):
        count = np.floor(value / width)
        under, edge, over = ((count + more) * float(exact.scaleb(decimals)) / 10.0**decimals for more in (-1, 0, 1))
    edge = np.where(over <= value, over, np.where(edge > value, under, edge))
    return pl.Series(values.name, np.minimum(edge, value) + 0.0, nan_to_null=True)  # one zero


def _kept_to_limits(values: "pl.Series", coarse: "pl.Series", way: Coarser) -> "pl.Series":
    """The limits are edges too: else 999999, which stands for missing, would vanish in the last band, and a value
    just above the lower limit would fall below it."""
    import polars as pl

    whole = values.dtype.is_integer()
    value, edge = pl.col("value"), pl.col("edge")
    if way.low is not None:
        low = _least(way.low, whole=whole)
        under = low - 1 if way.edges is not None and way.edges[0] >= low else low
        edge = pl.when(value < low).then(pl.min_horizontal(edge, under)).otherwise(pl.max_horizontal(edge, low))
    if way.high is not None:
        high = math.floor(way.high) if whole else way.high
        over = _edge_over(high, way, whole=whole)
        edge = pl.when(value > high).then(pl.max_horizontal(edge, over)).otherwise(pl.min_horizontal(edge, high))
    frame = pl.DataFrame({"value": values, "edge": coarse})
    return frame.select(pl.when(value.is_not_null()).then(edge).alias("edge")).to_series()


def _edge_over(high: float, way: Coarser, *, whole: bool) -> float:
    """Where the next band begins, or one more where there is none."""
    over = next((edge for edge in way.edges or () if edge > high), high + 1)
    if way.width is not None:
        width = Decimal(repr(way.width))
        over = float((math.floor(Decimal(repr(high)) / width) + 1) * width)
    return _least(over, whole=whole)


def _least(edge: float, *, whole: bool) -> float:
    """The edge, or the least integer at or above it."""
    return max(-MAX_INTEGER - 1, min(MAX_INTEGER, math.ceil(edge))) if whole else edge
