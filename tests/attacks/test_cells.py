"""Any one cell of any table of the ledger is changed: every column that the schema has, in every way that we know."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from audit.answers.verdict import Verdict
from audit.events.event import ENVELOPE_KEYS
from tests.attacks.forging import contents, exchange, owner
from tests.attacks.victim import SIZES, WITHDRAWN, Victim, verdict

OF_THE_SCHEMA = "alembic_version"  # says how to read the others; the rest is evidence

# What a cell comes to, in SQL; `{was}` is what is in it.
CHANGES = {
    "nothing": "NULL",
    "empty": "CASE typeof({was}) WHEN 'integer' THEN 0 WHEN 'blob' THEN x'' ELSE '' END",
    "something": "CASE WHEN {was} IS NULL THEN '0' WHEN typeof({was}) = 'integer' THEN {was} + 1000 "
    "WHEN typeof({was}) = 'blob' THEN CAST(substr({was}, 1, length({was}) - 1) || '~' AS BLOB) "
    "ELSE substr({was}, 1, length({was}) - 1) || '~' END",
    "another row's": "(SELECT {column} FROM {table} AS other WHERE other.{column} IS NOT {was} LIMIT 1)",
    "first letter": "CASE typeof({was}) WHEN 'text' THEN '~' || substr({was}, 2) END",
    "padded": "{was} || ' '",
    "padded before": "' ' || {was}",
    "ended by NUL": "{was} || char(0)",
    "cut": "substr({was}, 1, length({was}) - 1)",
    "zeroed": "zeroblob(length({was}))",
    "upper case": "upper({was})",
    "lower case": "lower({was})",
    "look-alike": "replace(replace(replace({was}, 'e', 'е'), 'a', 'а'), '1', '１')",
    "as bytes": "CAST({was} AS BLOB)",
    "as text": "CAST({was} AS TEXT)",
    "as a fraction": "CASE typeof({was}) WHEN 'integer' THEN {was} + 0.5 END",
    "negative": "CASE typeof({was}) WHEN 'integer' THEN -{was} - 1 END",
    "largest": "9223372036854775807",
    "key twice": """CASE WHEN {was} LIKE '{{%' THEN '{{"severity":"info",' || substr({was}, 2) END""",
    "spaced": """replace({was}, '":', '": ')""",
    "escaped": """replace({was}, 'e":', '\\u0065":')""",
}


@dataclass(frozen=True)
class Cell:
    """One value, by its table, the row's key and the column."""

    table: str
    key: tuple[tuple[str, int], ...]
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column} where {', '.join(f'{name} = {value}' for name, value in self.key)}"


def columns(database: Path) -> Iterator[list[Cell]]:
    """Of every table and column that is in the file some cells: ends, middle, one withdrawn, the first not sealed."""
    with closing(sqlite3.connect(database)) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            named = db.execute(f"PRAGMA table_info({table})").fetchall()
            key = [name for _, name, *_, primary in named if primary]
            keys = db.execute(f"SELECT {', '.join(key)} FROM {table} ORDER BY {', '.join(key)}").fetchall()
            some = {0, WITHDRAWN[0] - 1, len(keys) // 2, len(keys) - 4, len(keys) - 1}
            rows = [tuple(zip(key, keys[at], strict=True)) for at in sorted(some) if 0 <= at < len(keys)]
            for _, column, *_ in named:
                if table != OF_THE_SCHEMA:
                    yield [Cell(table, row, column) for row in rows]


def changed(database: Path, cell: Cell, to: str) -> bool:
    """Whether the cell could be given what `to` says, and then was another one."""
    where, values = " AND ".join(f"{name} IS ?" for name, _ in cell.key), [value for _, value in cell.key]
    read = f"SELECT typeof({cell.column}), CAST({cell.column} AS BLOB) FROM {cell.table} WHERE {where}"
    expression = to.format(was=cell.column, table=cell.table, column=cell.column)
    with owner(database) as db:
        was = db.execute(read, values).fetchone()
        try:
            db.execute(f"UPDATE {cell.table} SET {cell.column} = {expression} WHERE {where}", values)
        except sqlite3.IntegrityError:  # the key of another row, or no number where there must be one
            return False
        return bool(db.execute(read, values).fetchone() != was)


@pytest.mark.parametrize("change", CHANGES)
def test_no_cell_changes_unseen(untouched: Victim, tmp_path: Path, change: str) -> None:
    """Of each column two cells, other ones for each change, so that all changes together go through all of them."""
    unseen, turn, tried = [], list(CHANGES).index(change), 0
    for nth, cells in enumerate(columns(untouched.database)):
        for cell in {cells[(turn + nth) % len(cells)], cells[(turn + nth + 2) % len(cells)]}:
            victim = untouched.copied(tmp_path / str(tried))
            if changed(victim.database, cell, CHANGES[change]):
                tried += 1
                unseen += [f"{cell}: {said}" for said in [verdict(victim)] if not names(cell, said)]
            shutil.rmtree(victim.home)

    assert not unseen, "\n".join(unseen)
    assert tried


def test_no_two_cells_of_a_column_change_places_unseen(untouched: Victim, tmp_path: Path) -> None:
    unseen = []
    for nth, (one, *_, other) in enumerate(cells for cells in columns(untouched.database) if len(cells) > 1):
        victim = untouched.copied(tmp_path / str(nth))
        before = contents(victim.database)
        with owner(victim.database) as db:
            exchange(db, one.table, [one.column], dict(one.key), dict(other.key))
        if contents(victim.database) != before:
            unseen += [f"{one}, {other}: {said}" for said in [verdict(victim)] if not names(one, said)]

    assert not unseen, "\n".join(unseen)


def names(cell: Cell, said: Verdict) -> bool:
    """Whether the log did not hold, and a fault names the event and the column, or what else the row is."""
    what = f"column {cell.column} says" if (cell.table, cell.column in ENVELOPE_KEYS) == ("event", True) else cell.table
    place = ""
    if cell.table in ("event", "payload") and (cell.column,) != tuple(name for name, _ in cell.key):
        ((_, seq),) = cell.key
        place = f"(leaf {seq - 1})" if seq <= SIZES[-1] else "(not sealed)"
    return any(what in f"{fault.about} {fault.what}" and place in fault.about for fault in said.faults)
