"""What a draft costs: `audit spec init` on 5 million rows of 20 columns, against a plain scan by Polars.

    python benchmarks/spec_init.py [--rows 5000000] [--rounds 1]

The scan counts the rows and takes the least and largest value of every column. Both run as processes of their own,
one after the other in the same round; only the ratio means anything on another machine. The table is made in a folder
beside this one, as CSV and as Parquet, and removed again.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS, MEBIBYTES = 20, 2_048  # what a draft may take
SCAN = """
import polars as pl, sys
path = sys.argv[1]
frame = pl.scan_csv(path) if path.endswith(".csv") else pl.scan_parquet(path)
least, most = pl.all().min().name.prefix("least "), pl.all().max().name.prefix("most ")
print(frame.select(pl.len(), least, most).collect(engine="streaming").shape)
"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--rows", type=int, default=5_000_000)
    asked.add_argument("--rounds", type=int, default=1)
    asked.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.make:
        make(given.make, given.rows)
        return
    with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1], prefix=".spec_init-") as folder:
        # By a process of its own: what this one ever held would count for every child of it.
        command = [sys.executable, __file__, "--make", folder, "--rows", str(given.rows)]
        subprocess.run(command, check=True)
        for path in sorted(Path(folder).iterdir()):
            report(path, [measure_round(path) for _ in range(given.rounds)])


def make(folder: Path, rows: int) -> None:
    """The same table as CSV and as Parquet: keys, times, amounts, counts, categories, a target."""
    import numpy as np
    import polars as pl

    drawn = np.random.default_rng(0)
    seconds = drawn.integers(0, 2 * 365 * 86_400, rows)
    regions = np.array(["north", "south", "east", "west", "middle"])
    columns: dict[str, object] = {
        "customer_id": drawn.integers(1, max(2, rows // 6), rows),
        "applied_at": np.datetime64("2023-01-01T00:00:00", "ms") + (seconds * 1_000).astype("timedelta64[ms]"),
        **{f"amount_{n}": np.round(drawn.lognormal(3, 1, rows), 2) for n in range(8)},
        **{f"count_{n}": drawn.integers(0, 500, rows) for n in range(4)},
        **{f"region_{n}": regions[drawn.integers(0, len(regions), rows)] for n in range(3)},
        "reference": np.char.add("R", drawn.permutation(rows).astype(str)),
        "flag": drawn.integers(0, 2, rows).astype(bool),
        "defaulted": drawn.integers(0, 2, rows),
    }
    frame = pl.DataFrame(columns)
    frame.write_csv(folder / "cases.csv")
    frame.write_parquet(folder / "cases.parquet")


def measure_round(path: Path) -> dict[str, tuple[float, float]]:
    """Seconds and peak MiB of the plain scan and of the draft."""
    out = path.with_suffix(".yaml")
    words = [str(path), "--target", "defaulted", "-o", str(out), "--force"]
    return {
        "scan": measured([sys.executable, "-c", SCAN, str(path)]),
        "init": measured([sys.executable, "-m", "audit", "spec", "init", *words]),
    }


def measured(command: list[str]) -> tuple[float, float]:
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return seconds, used.ru_maxrss / 1_024  # KiB, on Linux


def report(path: Path, rounds: list[dict[str, tuple[float, float]]]) -> None:
    print(f"{path.name}, {path.stat().st_size / 1e6:,.0f} MB")
    for what in ("scan", "init"):
        seconds, peaks = ([taken[what][place] for taken in rounds] for place in (0, 1))
        print(
            f"  {what:<5} {statistics.median(seconds):6.1f} s   (min {min(seconds):.1f})   peak {max(peaks):,.0f} MiB"
        )
    ratios = [taken["init"][0] / taken["scan"][0] for taken in rounds]
    print(f"  init / scan  {statistics.median(ratios):.2f}   ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    slow = min(taken["init"][0] for taken in rounds) > SECONDS
    large = max(taken["init"][1] for taken in rounds) > MEBIBYTES
    print(f"  under {SECONDS} s and {MEBIBYTES:,} MiB: {'no' if slow or large else 'yes'}")


if __name__ == "__main__":
    main()
