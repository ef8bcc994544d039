"""Bytes by digest: datasets, models and reports under one content-addressed root."""
