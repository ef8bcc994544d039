"""Personal data: how columns are handled at ingest, the key of their hashes, and what is taken out of texts."""
