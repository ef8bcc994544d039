"""The loans once more, with a target of each kind: whether it is repaid, which grade it has, how much is lost."""

import numpy as np
import polars as pl

from audit.spec.model import Spec
from tasks._frames import Predicted
from tests.tasks.conftest import LOANS, loans_of

DTYPES = {"binary": "boolean", "multiclass": "string", "regression": "float"}
NAMES = {"binary": "repaid", "multiclass": "grade", "regression": "loss"}


def spec_of(kind: str, **changes: object) -> Spec:
    """The loans' spec with a target of this kind, and no gate but that on the gain."""
    target = {"name": NAMES[kind], "dtype": DTYPES[kind], "role": "target", "known_at": "outcome"}
    others = [column for column in LOANS["columns"] if column["name"] != "repaid"]  # type: ignore[attr-defined]
    whole = {"columns": [*others, target], "target": {"column": NAMES[kind], "kind": kind}, "gates": {}}
    return Spec.model_validate(LOANS | whole | changes)


def loans_with(kind: str, rows: int = 600, seed: int = 0) -> pl.DataFrame:
    """Loans with that target; grades and losses follow from income and debt, and some chance."""
    frame = loans_of(rows, seed)
    drawn = np.random.default_rng(seed + 100)
    left = frame["income"].fill_null(50).to_numpy() - frame["debt"].to_numpy() + drawn.normal(0, 10, rows)
    columns = {
        "grade": pl.Series(np.array(["C", "B", "A"])[np.digitize(left, [10, 30])]),
        "loss": pl.Series(np.round(1_000 - 20 * left, 2)),
    }
    return frame if kind == "binary" else frame.drop("repaid").with_columns(columns[NAMES[kind]].alias(NAMES[kind]))


def foretold(probabilities: np.ndarray, classes: tuple[str, ...]) -> Predicted:
    """What a model of several classes says."""
    return Predicted(probabilities.max(axis=1), np.array(classes)[probabilities.argmax(axis=1)], probabilities, classes)
