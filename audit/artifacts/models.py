"""Models as skops files, never pickle. The digest is over content, so that the same fit has the same digest.

Digest of a model, definition 1 (fixed for good):

    "sha256:" ‖ hex SHA-256( "prefect-audit model 1\\n" ‖ tree )

`tree` is the archive's schema.json as canonical JSON (sorted keys, no spaces, ASCII), in which every node
- has lost `__id__`, the address that the object had in memory (which objects were shared goes with it),
- says `"file": "sha256:<hex>"` over the member's bytes where it named a member of the archive (of an array of records
  that has gaps between its fields, with zeros in the gaps: they hold whatever the memory held), and
- has its content sorted by canonical JSON where it is a set (their order hangs on the hash seed);
the root has lost `_skops_version` as well. Names, order and times of the archive's members do not count.
"""

import hashlib
import io
import json
import zipfile
from typing import TYPE_CHECKING

from audit.artifacts import blobs
from audit.errors import ArtifactUnavailable, BadData
from audit.events.canonical import Json
from audit.events.references import ModelVersion
from audit.settings import settings

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# Beyond what skops trusts by itself (scikit-learn's estimators and losses, numpy's dtypes). A crafted TreePredictor
# could crash the process, for its node indices are not checked; ours come from bytes whose SHA-256 is on record.
TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "numpy.dtype",
    "functools.partial",  # what it wraps has to be trusted too; gradient boosting wraps check_array for its categories
    "sklearn.utils.validation.check_array",
    "sklearn.compose._column_transformer._RemainderColsList",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.tree._tree.Tree",  # of a random forest; as with TreePredictor, its node indices are not checked
    "interpret.glassbox._ebm._ebm.ExplainableBoostingClassifier",
    "interpret.glassbox._ebm._ebm.ExplainableBoostingRegressor",
)


def put(model: "Pipeline", name: str) -> ModelVersion:
    """Reference to the fitted `model`, stored as a skops file; version 0, for it is not registered yet.

    Raises BadData if it, or an estimator of the user's in it, holds something that no skops file can.
    """
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException

    try:
        archive = skops.io.dumps(model, compression=zipfile.ZIP_DEFLATED)
    except (UnsupportedTypeException, TypeError) as refused:
        raise BadData(
            f"Model {name} cannot be stored: {' '.join(str(refused).split())}",
            hint="Let the estimator keep numbers, texts, arrays and lists of them only.",
        ) from refused
    return ModelVersion(address=blobs.put(archive), digest=_digest_of_archive(archive), name=name)


def load(reference: ModelVersion) -> "Pipeline":
    """The model that `reference` names.

    Classes on AUDIT_ESTIMATORS are trusted beside those on TRUSTED, and nothing else is. Trusting a class means that
    its module is imported and that it is filled with what the file says, by its own `__setstate__` where it has one:
    its author runs code here, as at training. Whoever may change that variable may do so too.

    Raises ArtifactUnavailable if the bytes are missing or differ, hold a type that is not trusted, or need a package
    that is not installed.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    archive, trusted = blobs.get(reference.address), [*TRUSTED, *settings().estimators]
    try:
        model: Pipeline = skops.io.loads(archive, trusted=trusted)
    except UntrustedTypesFoundException as refused:
        foreign = sorted(set(skops.io.get_untrusted_types(data=archive)) - set(trusted))
        raise ArtifactUnavailable(
            f"Model {reference.name} at {reference.address} holds types that are not trusted: {', '.join(foreign)}.",
            hint="Put a class of your own on AUDIT_ESTIMATORS; else build the model from scikit-learn's estimators.",
        ) from refused
    except (ImportError, AttributeError) as gone:
        raise ArtifactUnavailable(
            f"Model {reference.name} at {reference.address} needs what is not installed here: {gone}.",
            hint="Install it, in the version that the training has on record.",
        ) from gone
    except zipfile.BadZipFile:
        raise ArtifactUnavailable(
            f"{reference.address} is not a model.", hint=f"Look at what put it on record as model {reference.name}."
        ) from None
    return model


def digest(model: "Pipeline") -> str:
    """The digest of a fitted model, as defined above."""
    import skops.io

    return _digest_of_archive(skops.io.dumps(model))


def _digest_of_archive(archive: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        root = json.loads(members.read("schema.json"))
        root.pop("_skops_version", None)
        tree = _without_circumstances(root, members)
    return "sha256:" + hashlib.sha256(b"prefect-audit model 1\n" + _json(tree)).hexdigest()


def _without_circumstances(value: Json, members: zipfile.ZipFile) -> Json:
    """`value` with what differs between two dumps of the same model taken out."""
    if isinstance(value, list):
        return [_without_circumstances(item, members) for item in value]
    if not isinstance(value, dict):
        return value
    loader = value.get("__loader__")
    node: dict[str, Json] = {
        key: _without_circumstances(item, members)
        for key, item in value.items()
        if not (key == "__id__" and isinstance(loader, str))
    }
    if isinstance(loader, str) and isinstance(file := value.get("file"), str):
        node["file"] = "sha256:" + hashlib.sha256(_without_gaps(members.read(file))).hexdigest()
    if loader == "SetNode" and isinstance(content := node["content"], list):
        node["content"] = sorted(content, key=_json)
    return node


def _without_gaps(member: bytes) -> bytes:
    """An array's file with zeros between the fields of its records; any other bytes as they are."""
    import numpy as np
    from numpy.lib import format as npy

    if not member.startswith(npy.MAGIC_PREFIX):
        return member
    file = io.BytesIO(member)
    version = npy.read_magic(file)
    _, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    gaps = np.ones(dtype.itemsize, dtype=bool)
    for field, start, *_ in (dtype.fields or {}).values():
        gaps[start : start + field.itemsize] = False
    if not dtype.fields or not gaps.any():
        return member
    head = file.tell()
    records = np.frombuffer(member, dtype=np.uint8, offset=head).reshape(-1, dtype.itemsize).copy()
    records[:, gaps] = 0
    return member[:head] + records.tobytes()


def _json(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
