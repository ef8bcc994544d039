"""Whether the database still has the guards that the migrations gave it, by their text, and no others."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from audit.store import ddl, ddl_postgres

# As PostgreSQL keeps them: what `CREATE` said, put in its own words. Without rules, which act before any trigger does.
_TRIGGERS = """SELECT 'trigger', tgname, pg_get_triggerdef(t.oid, true)
                      || CASE tgenabled WHEN 'O' THEN '' ELSE ' switched off' END
                 FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
                WHERE NOT tgisinternal AND relnamespace = 'audit'::regnamespace"""
_FUNCTIONS = """SELECT 'function', proname, concat_ws(' ', CASE WHEN prosecdef THEN 'SECURITY DEFINER' END,
                       'SET', proconfig, prosrc)
                  FROM pg_proc WHERE pronamespace = 'audit'::regnamespace AND prorettype = 'trigger'::regtype"""
_RULES = "SELECT 'rule', rulename, definition FROM pg_rules WHERE schemaname = 'audit'"
_HIDDEN = """SELECT 'row security', relname, '' FROM pg_class
              WHERE relnamespace = 'audit'::regnamespace AND relrowsecurity"""
POSTGRES_GUARDS = " UNION ALL ".join((_TRIGGERS, _FUNCTIONS, _RULES, _HIDDEN))
_CONFIG = '{"search_path=audit, pg_temp"}'
_BODY = re.compile(r"CREATE FUNCTION (\w+)\(\).*?\$\$(.*)\$\$", re.DOTALL)

Guard = tuple[str, str]  # kind, name


def changed_guards(connection: Connection) -> list[Guard]:
    """Those that are gone, others than were made, or none of ours; empty where all is as it was made."""
    if connection.dialect.name == "postgresql":
        return changed_in_postgres(connection.exec_driver_sql(POSTGRES_GUARDS))
    kept = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    found = [(("trigger", name), said) for name, said in connection.exec_driver_sql(kept)]
    return _changed({("trigger", guard.split()[2]): guard for guard in (*ddl.GUARDS, *ddl.LEDGER_GUARDS)}, found)


def changed_in_postgres(rows: Iterable[Sequence[Any]]) -> list[Guard]:
    """The same, of what POSTGRES_GUARDS found."""
    return _changed(dict(_made_in_postgres()), [((kind, name), _plain(said)) for kind, name, said in rows])


def _changed(made: Mapping[Guard, str], found: Sequence[tuple[Guard, str]]) -> list[Guard]:
    """Two tables can have a trigger of one name each."""
    gone = made.keys() - {guard for guard, _ in found}
    return sorted(gone | {guard for guard, said in found if made.get(guard) != said})


def _made_in_postgres() -> Iterator[tuple[Guard, str]]:
    for statement in (*ddl_postgres.GUARDS, *ddl_postgres.LEDGER_GUARDS):
        if function := _BODY.match(statement):
            name, body = function.groups()
            yield ("function", name), _plain(f"SECURITY DEFINER SET {_CONFIG} {body}")
        else:
            yield ("trigger", statement.split()[2]), _plain(statement)


def _plain(words: str) -> str:
    return " ".join(words.split())
