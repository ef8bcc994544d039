"""One stage a file. What must be set before Prefect, scikit-learn and the others are imported is set here."""

import os

for name, value in {
    "DO_NOT_TRACK": "1",  # Prefect's SDK, Evidently
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a cold start takes 15 s, on a busy machine 40
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin made training ten times slower on busy cores,
    "GOMP_SPINCOUNT": "3000",  # and those that never spin twice as slow on quiet ones
}.items():
    os.environ.setdefault(name, value)
