"""Compositions of stages. What must be set before Prefect and its companions are imported is set here."""

import os

for name, value in {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a cold start takes 15 s, on a busy machine 40
}.items():
    os.environ.setdefault(name, value)
