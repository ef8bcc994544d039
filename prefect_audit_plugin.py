"""Prefect's plugin point: every flow and task that is defined from now on is recorded."""
