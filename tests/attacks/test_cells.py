"""Any one cell of any table of the ledger is changed: every column that the schema has, in every way that we know."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from audit.answers.verdict import Verdict
from audit.events.event import ENVELOPE_KEYS
from tests.attacks.forging import (
    REFUSED,
    Database,
    Hands,
    contents,
    exchange,
    insert,
    looking,
    owner,
    remove,
    tables_in,
)
from tests.attacks.victim import IN_A_FILE, IN_POSTGRES, SIZES, WITHDRAWN, Victim, verdict

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

# The same where a column has one type, by that type.
TYPED_CHANGES = {
    "nothing": {"text": "NULL", "bigint": "NULL", "bytea": "NULL"},
    "empty": {"text": "''", "bigint": "0", "bytea": "''"},
    "something": {
        "text": "coalesce(left({was}, -1) || '~', '0')",
        "bigint": "{was} + 1000",
        "bytea": "set_byte({was}, length({was}) - 1, 255 - get_byte({was}, length({was}) - 1))",
    },
    "another row's": dict.fromkeys(
        ("text", "bigint", "bytea"),
        "(SELECT {column} FROM {table} AS other WHERE other.{column} IS DISTINCT FROM {table}.{column} LIMIT 1)",
    ),
    "first letter": {"text": "'~' || substr({was}, 2)"},
    "padded": {"text": "{was} || ' '", "bytea": "{was} || '\\x00'"},
    "padded before": {"text": "' ' || {was}", "bytea": "'\\x00' || {was}"},
    "cut": {"text": "left({was}, -1)", "bytea": "substr({was}, 1, length({was}) - 1)"},
    "zeroed": {"bytea": "decode(repeat('00', length({was})), 'hex')"},
    "upper case": {"text": "upper({was})"},
    "lower case": {"text": "lower({was})"},
    "look-alike": {"text": "replace(replace(replace({was}, 'e', 'е'), 'a', 'а'), '1', '１')"},
    "negative": {"bigint": "-{was} - 1"},
    "largest": {"bigint": "CASE WHEN '{column}' = 'schema_version' THEN 2147483647 ELSE 9223372036854775807 END"},
    "key twice": {"text": """CASE WHEN {was} LIKE '{{%' THEN '{{"severity":"info",' || substr({was}, 2) END"""},
    "spaced": {"text": """replace({was}, '":', '": ')"""},
    "escaped": {"text": """replace({was}, 'e":', '\\u0065":')"""},
}


@dataclass(frozen=True)
class Cell:
    """One value, by its table, the row's key and the column."""

    table: str
    key: tuple[tuple[str, int], ...]
    column: str
    type: str = ""  # where a column has one

    def __str__(self) -> str:
        return f"{self.table}.{self.column} where {', '.join(f'{name} = {value}' for name, value in self.key)}"


def columns(database: Database) -> list[list[Cell]]:
    """Of every table and column that is in the store some cells: ends, middle, one withdrawn, the first not sealed."""
    found: list[list[Cell]] = []
    with looking(database) as db:
        for table in tables_in(db):
            named = _columns(db, table, database)
            key = [name for name, _, primary in named if primary]
            keys = db.execute(f"SELECT {', '.join(key)} FROM {table} ORDER BY {', '.join(key)}").fetchall()
            some = {0, WITHDRAWN[0] - 1, len(keys) // 2, len(keys) - 4, len(keys) - 1}
            rows = [tuple(zip(key, keys[at], strict=True)) for at in sorted(some) if 0 <= at < len(keys)]
            if table != OF_THE_SCHEMA:
                found += [[Cell(table, row, column, type) for row in rows] for column, type, _ in named]
    return found


def _columns(db: Hands, table: str, database: Database) -> Sequence[tuple[str, str, bool]]:
    """Name, type where there is one, and whether it belongs to the key."""
    if isinstance(database, Path):
        return [(name, "", bool(key)) for _, name, *_, key in db.execute(f"PRAGMA table_info({table})")]
    found = db.execute(
        """SELECT attname, CASE atttypid WHEN 'integer'::regtype THEN 'bigint' ELSE format_type(atttypid, NULL) END,
                  EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary AND attnum = ANY (indkey))
             FROM pg_attribute WHERE attrelid = ?::regclass AND attnum > 0 ORDER BY attnum""",
        (f"audit.{table}",),
    )
    return list(found)


def changed(database: Path, cell: Cell, to: str) -> bool:
    """Whether the cell could be given what `to` says, and then was another one."""
    where, values = " AND ".join(f"{name} IS ?" for name, _ in cell.key), [value for _, value in cell.key]
    read = f"SELECT typeof({cell.column}), CAST({cell.column} AS BLOB) FROM {cell.table} WHERE {where}"
    expression = to.format(was=cell.column, table=cell.table, column=cell.column)
    with owner(database) as db:
        was = db.execute(read, values).fetchone()
        try:
            db.execute(f"UPDATE {cell.table} SET {cell.column} = {expression} WHERE {where}", values)
        except REFUSED:
            return False
        return bool(db.execute(read, values).fetchone() != was)


@IN_A_FILE
@pytest.mark.parametrize("change", CHANGES)
def test_no_cell_changes_unseen(untouched: Victim, tmp_path: Path, change: str) -> None:
    """Of each column two cells, other ones for each change, so that all changes together go through all of them."""
    unseen, turn, tried = [], list(CHANGES).index(change), 0
    for nth, cells in enumerate(columns(untouched.database)):
        for cell in {cells[(turn + nth) % len(cells)], cells[(turn + nth + 2) % len(cells)]}:
            victim = untouched.copied(tmp_path / str(tried))
            assert isinstance(victim.database, Path)
            if changed(victim.database, cell, CHANGES[change]):
                tried += 1
                unseen += [f"{cell}: {said}" for said in [verdict(victim)] if not names(cell, said)]
            shutil.rmtree(victim.home)

    assert not unseen, "\n".join(unseen)
    assert tried


@IN_POSTGRES
@pytest.mark.parametrize("change", TYPED_CHANGES)
def test_no_cell_of_a_type_changes_unseen(victim: Victim, change: str) -> None:
    """Of each column one cell, another one for each change. Those that a fault names by event and column all at once,
    the others one after the other, each put back."""
    turn, alone, tried, unseen = list(TYPED_CHANGES).index(change), [], 0, []
    together: list[Change] = []
    for nth, cells in enumerate(columns(victim.database)):
        cell = cells[(turn + nth) % len(cells)]
        if to := TYPED_CHANGES[change].get(cell.type):
            named = (cell.table, cell.column in ENVELOPE_KEYS) == ("event", True)
            (together if named else alone).append(Change(cell, to))
    for changes in [together, *([one] for one in alone)]:
        with owner(victim.database) as db:
            done = [one for one in changes if one.apply(db)]
        if done:
            said, tried = verdict(victim), tried + len(done)
            unseen += [f"{one.cell}: {said}" for one in done if not names(one.cell, said)]
            with owner(victim.database) as db:
                for one in reversed(done):
                    one.undo(db)

    assert not unseen, "\n".join(unseen)
    assert tried
    assert verdict(victim).faults == ()


class Change:
    """A cell that is given another value, and then its own again."""

    def __init__(self, cell: Cell, to: str) -> None:
        self.cell, self._to = cell, to
        self._was: dict[str, Any] = {}
        self._is: dict[str, Any] = {}

    def apply(self, db: Hands) -> bool:
        """Whether it could be done, and made a difference."""
        where, values = " AND ".join(f"{name} = ?" for name, _ in self.cell.key), [value for _, value in self.cell.key]
        self._was = self._row(db, f"SELECT * FROM {self.cell.table} WHERE {where}", values)
        expression = self._to.format(was=self.cell.column, table=self.cell.table, column=self.cell.column)
        changing = f"UPDATE {self.cell.table} SET {self.cell.column} = {expression} WHERE {where} RETURNING *"
        try:
            self._is = self._row(db, changing, values)
        except REFUSED:
            return False
        return self._is != self._was

    def undo(self, db: Hands) -> None:
        remove(db, self.cell.table, self._is)
        insert(db, self.cell.table, self._was)

    @staticmethod
    def _row(db: Hands, query: str, values: list[int]) -> dict[str, Any]:
        found = db.execute(query, values)
        return dict(zip([name for name, *_ in found.description], found.fetchone(), strict=True))


@pytest.mark.slow
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
