"""A store in PostgreSQL as it is set up for production: an owner who is no superuser, roles, a login of each."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url

from audit.settings import read_settings
from audit.store.engine import close_stores, make_store
from tests.postgres import database, said

ROLES_SQL = Path(__file__).parents[2] / "deployments" / "postgres" / "roles.sql"
ROLES = ("writer", "sealer", "custodian", "reader", "auditor")


@dataclass(frozen=True)
class Production:
    """A database with its logins."""

    superuser: str  # addresses
    owner: str

    def login(self, *roles: str) -> str:
        """The address of a new login that has these roles and no other."""
        name = f"login_{secrets.token_hex(6)}"
        granted = [f"GRANT audit_{role} TO {name}" for role in roles]
        self._run(self.superuser, f"CREATE ROLE {name} LOGIN PASSWORD '{name}'", *granted)
        return said(make_url(self.superuser).set(username=name, password=name))

    def apply_roles(self) -> None:
        self._run(self.owner, ROLES_SQL.read_text())

    def _run(self, url: str, *statements: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type]


@contextmanager
def production(server: URL) -> Iterator[Production]:
    """The store is made and its roles applied by an owner, whose database it is."""
    with database(server, "template1") as url:
        owner = f"owner_{secrets.token_hex(6)}"
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in (
                f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD '{owner}'",
                f"ALTER DATABASE {make_url(url).database} OWNER TO {owner}",
            ):
                connection.execute(statement)  # type: ignore[arg-type]
        made = Production(url, said(make_url(url).set(username=owner, password=owner)))
        make_store(read_settings({"AUDIT_HOME": "/nowhere", "AUDIT_DATABASE_URL": made.owner}, Path())).close()
        close_stores()
        made.apply_roles()
        yield made


def columns(url: str, schema: str) -> Sequence[tuple[str, str]]:
    """(view, column) of what a login sees of a schema."""
    of = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s"
    with psycopg.connect(url) as connection:
        return connection.execute(of, (schema,)).fetchall()
