"""The entry of each column in a draft: role, handling and rules, by the first of the reasons that holds."""

import math
from datetime import date

from audit.events.references import Window
from audit.spec.drafting import guesses
from audit.spec.drafting.guesses import Personal
from audit.spec.drafting.layout import Remarked
from audit.spec.drafting.leaks import tells
from audit.spec.drafting.months import Walk
from audit.spec.drafting.profile import Profile, Seen
from audit.spec.drafting.target import Aim
from audit.spec.load import is_of_decisions

MAX_CATEGORIES = 100  # of a text that a model can use
LEAST_KNOWN = 10  # values of a column that a model is to learn from
RARE_SENTINEL = 0.05  # share of the rows that a limit may turn away


def entry_of(seen: Seen, found: Profile, aim: Aim, walk: Walk, key: str | None) -> Remarked:
    """The column's entry, by the first of the reasons that holds."""
    entry: dict[str, object] = {"name": seen.name, "dtype": seen.dtype}
    if seen.name == aim.name:
        return _target_column(aim, found)
    if seen.date_format:
        entry["date_format"] = seen.date_format
    if seen.name == walk.time:
        remark = f"the time of the event{f'; {seen.note}' if seen.note else ''}"
        nulls = {"nulls": 0, "severity": "critical"} if not seen.nulls else {}
        return Remarked(entry | {"role": "time"} | nulls, remark)
    if seen.known == 0:
        return Remarked(entry | {"role": "info", "handling": "drop"}, "no row has a value")
    if is_of_decisions(seen.name, aim.kind):
        return Remarked(
            entry | {"role": "info"}, "a name that decisions have for a column of ours: rename it to use it"
        )
    values = found.sample[seen.name]
    told = guesses.personal(seen, values)
    if told and told.pii in ("direct", "secret"):
        remark = f"guess: {told.what}, {told.reason}; {'hashed, for it is the key' if seen.name == key else 'dropped'}"
        return Remarked(entry | {"role": "key" if seen.name == key else "info", "pii": told.pii}, remark)
    if seen.name == key:
        return Remarked(entry | {"role": "key", "pii": "quasi"}, "")
    return _nothing_to_learn(entry, seen) or _about_people(entry, seen, told) or _of_use(entry, seen, found, aim, walk)


def _target_column(aim: Aim, found: Profile) -> Remarked:
    seen = aim.seen
    entry: dict[str, object] = {"name": seen.name, "dtype": seen.dtype, "role": "target", "known_at": "outcome"}
    told = guesses.personal(found[seen.name], found.sample[seen.name])
    if told:
        return Remarked(entry | {"pii": "quasi"}, f"guess: {told.what}, {told.reason}; kept, for it is the target")
    if aim.kind == "regression":
        ends, said = _ends(seen) if seen.infinite else ({}, _seen_in_words(seen))
        return Remarked(entry | ends, said)
    if seen.dtype != "boolean":
        entry["values"] = list(aim.classes)
    return Remarked(entry, seen.note)


def _nothing_to_learn(entry: dict[str, object], seen: Seen) -> Remarked | None:
    info = entry | {"role": "info"}
    if seen.distinct <= 1 and (
        seen.constant or seen.low == seen.high is not None or seen.first == seen.last is not None
    ):
        return Remarked(info, "one value in every row that has one")
    if seen.known < LEAST_KNOWN:
        return Remarked(info, f"a value in {seen.known:,} rows only")
    if reason := guesses.numbers_rows(seen):
        return Remarked(
            info, f"guess: a row number: it {reason}" if reason.startswith("counts") else f"guess: {reason}"
        )
    return None


def _about_people(entry: dict[str, object], seen: Seen, told: Personal | None) -> Remarked | None:
    """What a person could be found by, or must not be judged by."""
    if attribute := guesses.protected(seen):
        remark = f"guess: {attribute}, by its name; figures are taken apart by it, no model sees it"
        if seen.dtype == "string" and seen.distinct > MAX_CATEGORIES:
            return Remarked(entry | {"role": "info", "pii": "quasi"}, f"{remark.partition(';')[0]}, of too many values")
        bands = {"generalise": {"width": _band(seen)}} if _is_fine(seen) else {}
        return Remarked(entry | {"role": "protected", "pii": "quasi"} | bands, remark)
    if told and told.what == "a date of birth":
        if seen.dtype == "string":
            return Remarked(entry | {"role": "info", "pii": "direct"}, f"guess: {told.what}, {told.reason}; dropped")
        year = {"to": "year"} if seen.dtype in ("date", "datetime") else {"width": 5}
        return Remarked(_quasi(entry) | {"generalise": year}, f"guess: {told.what}, {told.reason}; coarsened")
    if told and told.what == "a postcode":
        coarse: dict[str, object] = {"prefix": 2} if seen.dtype == "string" else {"width": 1000}
        return Remarked(_quasi(entry) | {"generalise": coarse}, f"guess: {told.what}, {told.reason}; coarsened")
    if told and told.what == "a place":
        if seen.dtype != "float":
            return Remarked(_quasi(entry) | {"handling": "drop"}, f"guess: {told.what}, {told.reason}; dropped")
        return Remarked(
            entry | {"pii": "quasi", "generalise": {"width": 0.1}}, f"guess: {told.what}, {told.reason}; to some 10 km"
        )
    if told:
        remark = f"guess: {told.what}, {told.reason}; hashed"
        return Remarked(_quasi(entry) | {"handling": "hash"}, remark)
    if guesses.is_key(seen):
        return Remarked(_quasi(entry) | {"handling": "hash"}, "guess: a key, by its name and its many values; hashed")
    return None


def _quasi(entry: dict[str, object]) -> dict[str, object]:
    return entry | {"role": "info", "pii": "quasi"}


def _is_fine(seen: Seen) -> bool:
    """Whether the column is a number of so many values that one of them stands for few people."""
    return seen.dtype in ("integer", "float") and seen.distinct > 10 and seen.low != seen.high


def _band(seen: Seen) -> float:
    """A round width that makes some six bands of the column."""
    assert seen.low is not None and seen.high is not None, "a number of many values has ends"
    wanted = (seen.high - seen.low) / 6
    unit = 10.0 ** math.floor(math.log10(wanted))
    width = max((unit * step for step in (1, 2, 5) if unit * step <= wanted * 1.001), default=unit)
    return max(1, round(width)) if seen.dtype == "integer" else _rounded(width)


def _of_use(entry: dict[str, object], seen: Seen, found: Profile, aim: Aim, walk: Walk) -> Remarked:
    """A feature with its rules, unless it cannot be used, or tells the target."""
    info = entry | {"role": "info"}
    if seen.dtype in ("date", "datetime"):
        note = f"; {seen.note}" if seen.note else ""
        return Remarked(info, f"a moment that a model cannot use as it is: derive a number of days from it{note}")
    if seen.dtype == "string" and guesses.is_free_text(seen, found.sample[seen.name]):
        return Remarked(info | {"pii": "direct"}, "guess: free text, in which people may be named; dropped")
    if seen.dtype == "string" and seen.distinct > MAX_CATEGORIES:
        many = f"{seen.distinct:,} values in the rows looked at, too many categories to learn from"
        # What nobody learns from need not be kept, and among so many texts some may lead to a person.
        return Remarked(_quasi(entry) | {"handling": "drop"}, f"{f'{seen.note}; ' if seen.note else ''}{many}; dropped")
    if not _is_there_in_training(seen, found, aim, walk):
        return Remarked(info, "no value in the rows that the first training sees")
    suspicion = tells(seen, found, aim)
    if suspicion and suspicion.whole:
        return Remarked(info | {"known_at": "outcome"}, f"guess: {suspicion.reason}; no feature, for it gives it away")
    rules, said = _rules(seen)
    parts = [f"guess: {suspicion.reason}: is it known at the decision?" if suspicion else "", seen.note, said]
    return Remarked(entry | rules, "; ".join(filter(None, parts)))


def _is_there_in_training(seen: Seen, found: Profile, aim: Aim, walk: Walk) -> bool:
    import polars as pl

    if not walk.time:
        return True
    known = found.sample.select({seen.name, aim.name, walk.time}).drop_nulls([aim.name, walk.time]).sort(walk.time)
    if walk.schedule:
        start, months = walk.schedule["train_from"], walk.schedule["train_months"]
        assert isinstance(start, date) and isinstance(months, int)
        known = known.filter((pl.col(walk.time) >= start) & (pl.col(walk.time) < Window.months(start, months).end))
    values = known[seen.name].head(int(known.height * (1 - walk.test_share)))
    return values.null_count() < len(values)


def _rules(seen: Seen) -> tuple[dict[str, object], str]:
    """Limits that every row seen keeps to, with room; and what is to be said of them."""
    rules: dict[str, object] = {}
    said = ""
    if seen.dtype != "boolean" and seen.values is not None:
        rules["values"] = list(seen.values)
    elif seen.dtype in ("integer", "float"):
        ends, said = _ends(seen)
        rules |= ends
    rules["nulls"] = _nulls(seen)
    if rules["nulls"] == 1:
        del rules["nulls"]
    return rules, said


def _ends(seen: Seen) -> tuple[dict[str, object], str]:
    if seen.low is None or seen.high is None or seen.low == seen.high or max(-seen.low, seen.high) > 1e15:
        return {}, ""
    alone = seen.sentinel
    if alone and alone.rows <= RARE_SENTINEL * seen.rows:
        low, high = (alone.nearest, seen.high) if alone.value == seen.low else (seen.low, alone.nearest)
        ends = _with_room(seen, low, high)
        if alone.value == seen.low:
            ends["min"] = ends["min"] if ends["min"] > alone.value else low
        else:
            ends["max"] = ends["max"] if ends["max"] < alone.value else high
        rows = "1 row has" if alone.rows == 1 else f"{alone.rows:,} rows have"
        remedy = "set aside by its limit, unless `null_values` names it"
        return dict(ends), f'guess: {rows} {alone.value:g} for "not known", far from the others; {remedy}'
    said = f'guess: {alone.value:g} in {alone.rows:,} rows may stand for "not known"' if alone else ""
    if seen.infinite:
        values = "1 infinite value" if seen.infinite == 1 else f"{seen.infinite:,} infinite values"
        said = f"{values}, set aside by its limits"
    return dict(_with_room(seen, seen.low, seen.high)), said or _seen_in_words(seen)


def _with_room(seen: Seen, low: float, high: float) -> dict[str, float]:
    """Half the spread more on either side, in round numbers; what never was below zero may not be."""
    room = (high - low) / 2 or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(room))
    least, most = math.floor((low - room) / unit) * unit, math.ceil((high + room) / unit) * unit
    least = 0.0 if low >= 0 > least else least
    if seen.dtype == "integer":
        return {"min": math.floor(least), "max": math.ceil(most)}
    least, most = _rounded(least), _rounded(most)
    return {"min": least if least <= low else low, "max": most if most >= high else high}


def _rounded(number: float) -> float:
    """Without the tail of binary fractions: 0.3, not 0.30000000000000004."""
    return float(f"{number:.12g}")


def _seen_in_words(seen: Seen) -> str:
    if seen.low is None or seen.high is None:
        return ""
    return f"seen {seen.low:.6g} to {seen.high:.6g}"


def _nulls(seen: Seen) -> float:
    """The share of missing values that is allowed: none where there was none, else half as much again and a little."""
    if not seen.nulls:
        return 0
    return min(1.0, math.ceil((seen.nulls / seen.rows * 1.5 + 0.02) * 100) / 100)
