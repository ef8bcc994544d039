"""Build steps of prefect.yaml and prefect.containers.yaml: where things are, so that neither names a path of yours."""

import os
from pathlib import Path

from audit.settings import settings

CLONE = Path(__file__).resolve().parent.parent
IMAGE = "prefect-audit:local"
IMAGE_FOLDER = "/app"  # as in deployments/containers/Dockerfile


def this_clone() -> dict[str, str]:
    """`folder` that flows run in, and the `audit_home` of whoever deploys."""
    return {"folder": str(CLONE), "audit_home": str(settings().home)}


def the_image() -> dict[str, str]:
    """`image` that flows run in, IMAGE of the environment as in compose.yaml, and the `folder` of the code in it."""
    return {"image": os.environ.get("IMAGE") or IMAGE, "folder": IMAGE_FOLDER}
