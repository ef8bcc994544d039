"""All that a home holds, as text: for tests that look for what must not be in it."""

import sqlite3
import zipfile
from pathlib import Path

import polars as pl


def everything_written(home: Path) -> str:
    """All texts under AUDIT_HOME: database cells, logs, and every artifact, tables and models unpacked."""
    found = []
    for path in home.rglob("*"):
        if not path.is_file() or path.name.endswith((".db-wal", ".db-shm")):
            continue
        data = path.read_bytes()
        if path.suffix == ".db":
            found.append("\n".join(sqlite3.connect(path).iterdump()))
        elif data[:4] == b"PAR1":
            found.append(pl.read_parquet(data).write_csv())
        elif data[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                found += [archive.read(name).decode("latin-1") for name in archive.namelist()]
        else:
            found.append(data.decode("latin-1"))
    return "\n".join(found)
