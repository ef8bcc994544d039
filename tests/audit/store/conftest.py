"""The store's tests, in a file and in PostgreSQL."""

from tests.postgres import empty_database_url, postgres_server, postgres_url  # noqa: F401  # fixtures
from tests.stores import home  # noqa: F401
