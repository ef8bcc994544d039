"""Build step of prefect.yaml: where this clone is and where its record lives, so that no path stands in the file."""

from pathlib import Path

from audit.settings import settings

CLONE = Path(__file__).resolve().parent.parent


def this_clone() -> dict[str, str]:
    """`folder` that flows run in, and the `audit_home` of whoever deploys."""
    return {"folder": str(CLONE), "audit_home": str(settings().home)}
