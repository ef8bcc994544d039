"""The ledger's tests, in a file and in PostgreSQL; and those outside who vouch for a log."""

from tests.anchoring import authority, witness  # noqa: F401  # fixtures
from tests.postgres import postgres_server, postgres_url  # noqa: F401
from tests.stores import home  # noqa: F401
