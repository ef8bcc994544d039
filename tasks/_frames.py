"""What stages share: from references to frames, from frames to what scikit-learn takes, and on to the record."""

from typing import TYPE_CHECKING

from audit.artifacts import datasets
from audit.errors import BadData
from audit.events.payloads import DatasetFacts, Named, Source, Used
from audit.events.references import DatasetVersion, ModelVersion, Window
from audit.spec.model import Spec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl


def read(reference: DatasetVersion) -> "pl.DataFrame":
    """The rows that `reference` names. Raises ArtifactUnavailable if their bytes are missing or differ."""
    return datasets.read(reference)


def features(frame: "pl.DataFrame", spec: Spec) -> "pd.DataFrame":
    """The spec's features for scikit-learn: text as objects with None, all else as float64 with NaN.

    Raises BadData if a feature is not in the frame.
    """
    import pandas as pd

    missing = [name for name in spec.features() if name not in frame.columns]
    if missing:
        raise BadData(
            f"{spec.name}: the rows have no feature {', '.join(missing)}.",
            hint="Build the features with the spec that the model is for.",
        )
    return pd.DataFrame({name: _plain(frame[name]) for name in spec.features()})


def target(frame: "pl.DataFrame", spec: Spec) -> "np.ndarray[tuple[int], np.dtype[np.int8]]":
    """1 where the target has the spec's positive value, else 0. Raises BadData if a row has no target."""
    import numpy as np

    known = frame[spec.target.column]
    if known.null_count():
        raise BadData(
            f"{spec.name}: target {spec.target.column!r} is missing in {known.null_count()} rows.",
            hint="Only rows whose outcome is known can be learnt from or judged on.",
        )
    return (known == spec.target.positive).to_numpy().astype(np.int8)


def subject(reference: DatasetVersion | ModelVersion) -> str:
    """How an event names what it is about: by number, never by digest."""
    if isinstance(reference, DatasetVersion):
        return f"dataset/{reference.name}/{reference.version}"
    return f"model/{reference.name}/{f'v{reference.version}' if reference.version else 'unregistered'}"


def facts(
    reference: DatasetVersion,
    frame: "pl.DataFrame",
    spec: Spec,
    *,
    window: Window | None = None,
    sources: list[Source] | None = None,
    made_from: tuple[Used, ...] = (),
    transformations: tuple[str, ...] = (),
    assumptions: tuple[Named, ...] = (),
) -> DatasetFacts:
    """What goes on record of a dataset version that a stage has made."""
    return DatasetFacts(
        spec=spec.name,
        name=reference.name,
        version=reference.version,
        digest=reference.digest,
        address=reference.address,
        rows=reference.rows,
        columns=datasets.columns(frame),
        window=str(window) if window else None,
        sources=sources,
        made_from=list(made_from),
        transformations=list(transformations),
        assumptions=list(assumptions),
    )


def _plain(series: "pl.Series") -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
    import polars as pl

    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        return series.cast(pl.String).to_numpy()
    return series.cast(pl.Float64).to_numpy()
