"""Those outside who vouch for a log."""

from tests.anchoring import authority, witness  # noqa: F401  # fixtures
