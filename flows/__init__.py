"""Compositions of stages."""

import tasks  # noqa: F401 - sets the environment before anything of Prefect's is imported
