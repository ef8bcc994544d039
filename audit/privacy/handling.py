"""How personal columns are handled before anything is written: kept, dropped or replaced by a keyed hash.

The hash is HMAC-SHA-256 over column, 0x00 and canonical value, as untruncated hex: the same value in the same
column hashes alike under one key, so rows still match; in another column, or without the key, nothing matches.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of each column, in the order in which the kept and hashed ones stand afterwards."""

    kept: tuple[str, ...]  # with the hashed ones among them
    hashed: tuple[str, ...]
    dropped: tuple[str, ...]
    undeclared: tuple[str, ...]  # taken for direct, so dropped as well


def plan_of(present: Iterable[str], handling: Mapping[str, str]) -> Plan:
    """The plan for the columns that are `present`, by the handling (keep, drop or hash) that each declared one has."""
    columns = set(present)
    declared = [name for name in handling if name in columns]
    return Plan(
        kept=tuple(name for name in declared if handling[name] in ("keep", "hash")),
        hashed=tuple(name for name in declared if handling[name] == "hash"),
        dropped=tuple(name for name in declared if handling[name] not in ("keep", "hash")),
        undeclared=tuple(sorted(columns - set(declared))),
    )


def handle(frame: "pl.DataFrame", plan: Plan, key: bytes) -> "pl.DataFrame":
    """`frame` with only the plan's columns, the hashed ones as text. A null stays null."""
    kept = frame.select(plan.kept)
    return kept.with_columns(hashed(kept[name], key) for name in plan.hashed)


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
