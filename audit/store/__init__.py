"""The audit store: the only SQL. Insert-only tables, named queries, migrations."""
