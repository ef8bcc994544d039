"""How a draft parts rows: by the months of a time, by a time, or by chance, so that both parts can be learnt from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from audit.errors import BadData
from audit.events.references import Window
from audit.spec.drafting import guesses
from audit.spec.drafting.layout import shown
from audit.spec.drafting.profile import Profile, Seen
from audit.spec.drafting.target import Aim
from audit.spec.load import SCORE, did_you_mean

if TYPE_CHECKING:
    import polars as pl

NONE = "none"  # what --event-time and --key take for an answer
LEAST_MONTHS = 4
DRIFT_ROWS = 30  # on either side of a comparison
TEST_SHARE = 0.2
GOES_ON = "Months go on as the table grows; `until` in the schedule would end them."


@dataclass(frozen=True, slots=True)
class Walk:
    """How rows are parted: by the months of a time, by a time, or by chance."""

    time: str | None = None
    schedule: dict[str, object] | None = None
    least_rows: int = 1
    test_share: float = TEST_SHARE
    remark: str = ""


def times(found: Profile, aim: Aim, asked: str | None) -> list[str]:
    """Columns that can be the event time, the likeliest first."""
    if asked == NONE:
        return []
    if asked is not None:
        _refuse_unknown("--event-time", asked, found)
        seen = found[asked]
        if seen.dtype not in ("date", "datetime"):
            why = f" ({seen.note})" if seen.note else ""
            raise BadData(f"--event-time {seen.name} is a {seen.dtype}{why}.", hint="It must be a date or datetime.")
        if seen.known == 0 or seen.name == aim.name:
            raise BadData(f"--event-time {seen.name} cannot be the time.", hint="Choose another, or `none`.")
        return [seen.name]
    dated = [s for s in found.columns if s.dtype in ("date", "datetime") and not s.nulls and s.first != s.last]
    ranked = [(rank, s.name) for s in dated if (rank := guesses.moment_rank(s.name)) is not None and s.name != aim.name]
    return [name for _, name in sorted(ranked, key=lambda pair: pair[0])]


def _refuse_unknown(option: str, name: str, found: Profile) -> None:
    if name not in found.names:
        raise BadData(f"{option} {name}: there is no such column.{did_you_mean(name, found.names)}")


def walk_by(found: Profile, aim: Aim, times: Sequence[str]) -> Walk:
    """By months where there are enough, else by the time, else by chance; whichever lets both parts be learnt from."""
    share = _test_share(aim.seen.known)
    least = max(1, found.rows // 2)
    if not times:
        return Walk(None, None, least, share, "No column is taken for a time, so rows are parted by a seeded draw.")
    name = times[0]
    others = f" Others could be: {', '.join(map(shown, times[1:4]))}." if len(times) > 1 else ""
    why = f"guess: {shown(name)} is when a case came up, by its type and name.{others}"
    schedule, months = _schedule(found, aim, name)
    if schedule:
        return Walk(name, schedule, least_rows=months, test_share=TEST_SHARE, remark=f"{why} {GOES_ON}")
    known = found.sample.drop_nulls([name, aim.name]).sort(name)
    cut = known.height - max(1, round(known.height * share))
    if _can_be_learnt(known, cut, aim, name):
        return Walk(name, None, least, share, f"{why} Its months are too few or too thin for a schedule.")
    return Walk(None, None, least, share, f"{shown(name)} would part the classes, so rows are parted by a seeded draw.")


def _test_share(known: int) -> float:
    """A fifth; more of a small table, so that what is compared with training has DRIFT_ROWS rows where it can."""
    wanted = (DRIFT_ROWS * 1.1) / known
    return round(min(0.5, max(TEST_SHARE, wanted)), 2) if known >= 2 * DRIFT_ROWS * 1.1 else 0.3


def _schedule(found: Profile, aim: Aim, name: str) -> tuple[dict[str, object] | None, int]:
    """First training on three fifths of the months, and the fewest rows that a month may have."""
    import polars as pl

    month = pl.col(name).dt.truncate("1mo").cast(pl.Date).alias("month")
    counted = found.whole.select(month).drop_nulls().group_by("month").len().collect(engine="streaming")
    rows: dict[date, int] = dict(counted.iter_rows())
    kept = _whole_months(rows)
    training = round(len(kept) * 0.6)
    if len(kept) < LEAST_MONTHS or len(kept) - training < 1:
        return None, 1
    after = kept[training]
    known = found.sample.drop_nulls([name, aim.name]).sort(name)
    window = known.filter((pl.col(name) >= kept[0]) & (pl.col(name) < after))
    cut = window.height - round(window.height * TEST_SHARE)
    if not _can_be_learnt(window, cut, aim, name):
        return None, 1
    least = max(1, min(rows[each] for each in kept) // 2)
    return {"train_from": kept[0], "train_months": training}, least


def _whole_months(rows: Mapping[date, int]) -> list[date]:
    """The longest run of months, each with rows enough to be compared; a thin first or last one is left off."""
    if not rows:
        return []
    enough = max(DRIFT_ROWS, sorted(rows.values())[len(rows) // 2] // 4)
    best: list[date] = []
    run: list[date] = []
    for month in sorted(rows):
        follows = run and month == Window.months(run[-1], 1).end
        run = [*run, month] if follows else [month]
        if rows[month] < enough:
            run = []
        best = max(best, run, key=len)
    return best


def _can_be_learnt(known: "pl.DataFrame", cut: int, aim: Aim, time: str) -> bool:
    """Whether both parts have two values of the target."""
    import polars as pl

    if not 0 < cut < known.height:
        return False
    first = known[time][cut]
    parts = (known.filter(pl.col(time) < first), known.filter(pl.col(time) >= first))
    return all(part[aim.name].n_unique() > 1 for part in parts)


def entity_of(found: Profile, aim: Aim, walk: Walk, asked: str | None) -> tuple[str | None, str]:
    """The entity that a row is about, which its hash will stand for."""
    if asked == NONE:
        return None, ""
    if asked is not None:
        _refuse_unknown("--key", asked, found)
        if asked in (aim.name, walk.time):
            raise BadData(f"--key {asked} is the target or the time.", hint="Choose another, or `none`.")
        return asked, "The entity's key is what --key says. It is hashed."
    taken = (aim.name, walk.time, SCORE)
    keys = [s for s in found.columns if s.name not in taken and guesses.is_key(s) and not guesses.numbers_rows(s)]
    keys = [s for s in keys if _pii(s, found) is None or _pii(s, found) == "quasi"]
    if not keys:
        return None, ""
    chosen = min(keys, key=guesses.key_rank)
    often = "a value of its own in every row" if chosen.unique else "values that come again"
    return chosen.name, f"guess: {shown(chosen.name)} is the entity's key, by its name and {often}. It is hashed."


def _pii(seen: Seen, found: Profile) -> str | None:
    told = guesses.personal(seen, found.sample[seen.name])
    return told.pii if told else None
