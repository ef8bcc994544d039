"""What recording costs: the pipeline with audit on, with audit off, and its stages as a plain script.

    python benchmarks/pipeline.py [SPEC] [--rounds 3]

On and off alternate in processes of their own; imports and the start of Prefect's server are not counted. Off means
that no flow or task is instrumented; the facts that stages need of each other (who is champion, what was decided on)
are kept in both. Only ratios within one call mean anything.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDES = ("on", "off", "plain")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("spec", nargs="?", default="flows/specs/flights.yaml")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.side:
        print(json.dumps({"on": _with_prefect, "off": _without_audit, "plain": _plain}[given.side](given.spec)))
        return
    rounds = [{side: _measure(side, given.spec) for side in SIDES} for _ in range(given.rounds)]
    for side in SIDES:
        seconds = [round_[side]["seconds"] for round_ in rounds]
        memory = max(round_[side]["peak_mib"] for round_ in rounds)
        print(f"{side:<6} {statistics.median(seconds):7.1f} s   (min {min(seconds):.1f})   peak {memory:,.0f} MiB")
    for over in ("off", "plain"):
        ratios = [round_["on"]["seconds"] / round_[over]["seconds"] for round_ in rounds]
        print(f"on / {over:<6} {statistics.median(ratios):.3f}   ({', '.join(f'{ratio:.3f}' for ratio in ratios)})")


def _measure(side: str, spec: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "AUDIT_HOME": f"{folder}/var", "PREFECT_HOME": f"{folder}/var/prefect"}
        Path(environ["PREFECT_HOME"]).mkdir(parents=True)
        environ |= {"PREFECT_LOGGING_LEVEL": "ERROR", "PYTHONPATH": str(Path(__file__).parents[1])}
        told = subprocess.run(
            [sys.executable, __file__, spec, "--side", side], env=environ, check=True, capture_output=True, text=True
        )
        measured: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
        return measured


def _with_prefect(spec: str) -> dict[str, float]:
    from audit.recording.initialise import initialise
    from flows.pipeline import pipeline
    from flows.scoring import scoring

    initialise()
    _import_heavy()
    try:
        scoring(spec)  # starts the server; there is no model yet
    except Exception as expected:
        assert "in production" in str(expected), expected
    return _timed(lambda: pipeline(spec))


def _without_audit(spec: str) -> dict[str, float]:
    from audit.recording import decorators

    decorators.instrument = lambda it: it  # type: ignore[assignment]
    return _with_prefect(spec)


def _plain(spec_file: str) -> dict[str, float]:
    _import_heavy()
    return _timed(lambda: _script(spec_file))


def _script(spec_file: str) -> None:
    """The same stages on the same windows, called as functions: nothing stored, nothing recorded."""
    from audit.events.references import ModelVersion
    from audit.spec.load import load_spec
    from tasks import _frames as frames
    from tasks._judging import judge, with_intervals
    from tasks.drift import compare
    from tasks.features import derive_features, parted
    from tasks.ingest import read_sources
    from tasks.score import decide
    from tasks.train import fit
    from tasks.validate import check

    spec = load_spec(spec_file)
    model = ModelVersion(name=spec.name, version=1, address="artifact://", digest="sha256:")

    def prepared(window):  # type: ignore[no-untyped-def]
        return derive_features(check(read_sources(spec, window, bytes(32)).frame, spec).valid, spec)

    def trained(window):  # type: ignore[no-untyped-def]
        train, test = parted(prepared(window), spec)
        fitted = fit(train, spec)
        with_intervals([judge(frames.target(test, spec), frames.predicted(fitted, test, spec), spec)])
        return fitted, train

    champion, reference = trained(spec.schedule.training_window())
    months = spec.schedule.months_after_training()
    for month in (next(months), next(months)):
        rows = prepared(month)
        decide(rows, champion, model, spec)
        found = compare(
            reference,
            rows,
            spec,
            reference_scores=frames.predicted(champion, reference, spec).score,
            current_scores=frames.predicted(champion, rows, spec).score,
        )
        if found.share >= spec.drift.share:
            champion, reference = trained(spec.schedule.everything_before(month.end))


def _import_heavy() -> None:
    import evidently.presets  # noqa: F401
    import great_expectations.expectations  # noqa: F401
    import sklearn.ensemble
    import sklearn.pipeline  # noqa: F401
    import skops.io  # noqa: F401


def _timed(work) -> dict[str, float]:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
