"""What flows between tasks: small references to artifacts, never frames or models.

Lineage is read off these in arguments and results, so every stage takes and returns them.
"""

import calendar
from datetime import date, timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

DatasetRole = Literal["ingested", "validated", "rejected", "features", "train", "test", "undecided", "decisions"]
Environment = Literal["none", "staging", "production"]


class Reference(BaseModel):
    """Bytes by address, content by digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str  # artifact://sha256/<hex of the stored bytes>
    digest: str  # sha256:<hex of the content in canonical form>


class DatasetVersion(Reference):
    """One version of a dataset: same rows, columns and dtypes, same digest."""

    kind: Literal["dataset"] = "dataset"
    name: str  # <spec>/<role>, for example flights/validated
    version: int  # counted per name, from 1, a new number for a new digest
    rows: int


class ModelVersion(Reference):
    """One registered or freshly trained model; `version` is 0 until it is registered."""

    kind: Literal["model"] = "model"
    name: str  # the spec's name
    version: int = 0


class Report(Reference):
    """A page or file for people: Data Docs, an Evidently report, an evaluation."""

    kind: Literal["report"] = "report"
    name: str
    media_type: str = "text/html"


class Window(BaseModel):
    """Rows whose event time is at or after `start` and before `end`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: date
    end: date

    @classmethod
    def month(cls, year: int, month: int) -> Self:
        """One calendar month."""
        return cls.months(date(year, month, 1), 1)

    @classmethod
    def months(cls, start: date, count: int) -> Self:
        """`count` calendar months from the first day of `start`'s month."""
        first = start.replace(day=1)
        index = first.year * 12 + first.month - 1 + count
        return cls(start=first, end=date(index // 12, index % 12 + 1, 1))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The window that reads `text` as a string. Raises ValueError where none does."""
        named = [cls._named(part) for part in text.split("…", 1)]
        return cls(start=named[0].start, end=named[-1].end)

    @classmethod
    def _named(cls, text: str) -> Self:
        if len(text) == len("2013-07"):
            return cls.months(date.fromisoformat(f"{text}-01"), 1)
        day = date.fromisoformat(text)
        return cls(start=day, end=day + timedelta(days=1))

    def __str__(self) -> str:
        """`2013-07`, `2013-01…2013-06`, or the days where it is no whole months."""
        last = self.end - timedelta(days=1)
        whole = self.start.day == 1 and last.day == calendar.monthrange(last.year, last.month)[1]
        first, final = (f"{self.start:%Y-%m}", f"{last:%Y-%m}") if whole else (str(self.start), str(last))
        return first if first == final else f"{first}…{final}"
