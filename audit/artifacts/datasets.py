"""Datasets as Parquet files (zstd), known by a digest over their content.

Digest of a dataset, definition 1 (fixed for good: later versions must come to the same digests):

    "sha256:" ‖ hex SHA-256( "prefect-audit dataset 1\\n" ‖ u64(rows) ‖ u64(columns) ‖ H(column 1) ‖ H(column 2) … )
    H(column) = SHA-256( text(name) ‖ text(dtype) ‖ bits(validity) ‖ values )

u64 is 8 bytes, u32 4 bytes, little-endian; text(t) is u64(bytes) and t in UTF-8; bits(b) is one bit a row, the
lowest bit of a byte first, the last byte filled with zeros; a row is valid (1) if it is not null. Columns and rows
are in the dataset's order. `values`, where a null row has zeros, false or no bytes:

    dtype (exact text)                                           values
    int8 int16 int32 int64 uint8 uint16 uint32 uint64            two's complement, little-endian, as wide as the dtype
    float32 float64                                              IEEE 754, little-endian; every NaN is 7fc00000 or
                                                                 7ff8000000000000, -0.0 is 0.0
    bool                                                         bits(value)
    string, binary, categorical                                  u32(bytes of the row) for all rows, then all rows'
                                                                 bytes without a gap; text in UTF-8
    date                                                         int32, days since 1970-01-01
    time                                                         int64, nanoseconds since midnight
    datetime[<unit>] datetime[<unit>,<zone>] duration[<unit>]    int64, in units (ms, us, ns); a datetime since
                                                                 1970-01-01, in UTC where there is a zone
    null                                                         none

`categorical` is any dictionary-encoded text (Polars' Categorical and Enum); its categories and their order do not
count, nor do chunks, slices, the file's bytes and the version of any library.
"""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from audit.artifacts import blobs
from audit.errors import BadData, StoreUnavailable
from audit.events.payloads import Column
from audit.events.references import DatasetVersion

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

_HEAD = b"prefect-audit dataset 1\n"
_MAX_CELL = 2**32 - 1  # bytes of one string


def put(frame: "pl.DataFrame", name: str) -> DatasetVersion:
    """Reference to `frame`, stored and numbered: the number its digest had under `name`, or the next one.

    Version 0 where the audit store cannot be asked. Raises ArtifactUnavailable if the root cannot be written.
    """
    content = digest(frame)
    address = blobs.put(_parquet(frame))
    return DatasetVersion(address=address, digest=content, name=name, version=_number(name, content), rows=frame.height)


def read(reference: DatasetVersion) -> "pl.DataFrame":
    """The dataset that `reference` names. Raises ArtifactUnavailable if its bytes are missing or differ."""
    import polars as pl

    return pl.read_parquet(io.BytesIO(blobs.get(reference.address)))


def columns(frame: "pl.DataFrame") -> list[Column]:
    """The frame's schema with the number of nulls in each column, as it goes on record."""
    return [
        Column(name=series.name, dtype=dtype_name(series.dtype, series.name), nulls=series.null_count())
        for series in frame.iter_columns()
    ]


def digest(frame: "pl.DataFrame") -> str:
    """The digest of the frame's content, as defined above.

    Raises BadData for a dtype that the definition does not know (lists, structs, decimals, objects).
    """
    with ThreadPoolExecutor(max_workers=4) as threads:  # hashing and numpy leave the interpreter's lock
        hashes = list(threads.map(_column_hash, frame.iter_columns()))
    head = _HEAD + _u64(frame.height) + _u64(frame.width)
    return "sha256:" + hashlib.sha256(head + b"".join(hashes)).hexdigest()


def dtype_name(dtype: "pl.DataType", column: str) -> str:
    """The definition's text for `dtype`, the same in every version of Polars. Raises BadData if there is none."""
    import polars as pl

    match dtype:
        case pl.Datetime():
            zone = f",{dtype.time_zone}" if dtype.time_zone else ""
            return f"datetime[{dtype.time_unit}{zone}]"
        case pl.Duration():
            return f"duration[{dtype.time_unit}]"
        case pl.Categorical() | pl.Enum():
            return "categorical"
        case _ if name := _plain_dtypes().get(dtype):
            return name
    raise BadData(
        f"Column {column!r} is of dtype {dtype}, for which no dataset digest is defined.",
        hint="Cast it to a number, string, boolean, date or datetime.",
    )


def _plain_dtypes() -> "dict[pl.DataType, str]":
    import polars as pl

    return {
        pl.Int8(): "int8", pl.Int16(): "int16", pl.Int32(): "int32", pl.Int64(): "int64",
        pl.UInt8(): "uint8", pl.UInt16(): "uint16", pl.UInt32(): "uint32", pl.UInt64(): "uint64",
        pl.Float32(): "float32", pl.Float64(): "float64", pl.Boolean(): "bool",
        pl.String(): "string", pl.Binary(): "binary",
        pl.Date(): "date", pl.Time(): "time", pl.Null(): "null",
    }  # fmt: skip


def _column_hash(series: "pl.Series") -> bytes:
    hashed = hashlib.sha256(_text(series.name))
    hashed.update(_text(dtype_name(series.dtype, series.name)))
    hashed.update(_bits(series.is_not_null()))
    for part in _values(series):
        hashed.update(part)
    return hashed.digest()


def _values(series: "pl.Series") -> list[bytes | memoryview]:
    import polars as pl

    match series.dtype:
        case pl.Null():
            return []
        case pl.Boolean():
            return [_bits(series.fill_null(False))]
        case pl.String() | pl.Categorical() | pl.Enum():
            return _cells(series.cast(pl.String).cast(pl.Binary))
        case pl.Binary():
            return _cells(series)
        case pl.Float32() | pl.Float64():
            return [_floats(series)]
    return [_little_endian(series.to_physical().fill_null(0).to_numpy())]


def _floats(series: "pl.Series") -> memoryview:
    import numpy as np

    values = series.fill_null(0.0).to_numpy()
    values = np.where(np.isnan(values), values.dtype.type(np.nan), values + values.dtype.type(0))  # -0.0 + 0 is 0.0
    return _little_endian(values)


def _cells(series: "pl.Series") -> list[bytes | memoryview]:
    """Length of each row, then the bytes of all rows, whatever the buffers behind them look like."""
    import numpy as np
    import polars as pl

    # The oldest level has offsets into one buffer; rows lie in it without a gap, a slice's from its first offset on.
    # Arrow takes names as C strings and panics on a NUL, so the name stays behind.
    array = series.alias("").fill_null(b"").rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets_buffer, bytes_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    lengths = np.diff(offsets)
    if lengths.size and int(lengths.max()) > _MAX_CELL:
        raise BadData(f"Column {series.name!r} has a cell of 4 GiB or more.", hint="Keep such bytes outside the table.")
    joined = memoryview(bytes_buffer)[offsets[0] : offsets[-1]] if bytes_buffer else b""
    return [_little_endian(lengths.astype(np.uint32)), joined]


def _bits(flags: "pl.Series") -> bytes:
    import numpy as np

    return np.packbits(flags.to_numpy(), bitorder="little").tobytes()


def _little_endian(values: "np.ndarray[Any, np.dtype[np.number]]") -> memoryview:
    import numpy as np

    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data


def _text(text: str) -> bytes:
    data = text.encode()
    return _u64(len(data)) + data


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _parquet(frame: "pl.DataFrame") -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _number(name: str, content: str) -> int:
    from audit.store import read
    from audit.store.engine import open_store

    try:
        return read.dataset_number(open_store(), name, content)
    except StoreUnavailable:  # the event that follows goes to the spool; a number is a convenience, the digest counts
        return 0
