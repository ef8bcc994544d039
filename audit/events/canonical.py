"""Canonical bytes: JSON text with sorted ASCII keys, equal to RFC 8785 where there is no float.

What is hashed is what is stored, so everything that a database or orjson would refuse or change is
settled here, before hashing: surrogates, NUL, integers over 64 bits, NaN and over-long strings.
"""

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

MAX_TEXT = 8_192  # characters of one string in a payload
_INT64 = range(-(2**63), 2**63)
_PLAIN = (  # refuses what orjson would write in its own way
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


def canonical(value: object) -> bytes:
    """Bytes of a JSON value that `clean` has been over."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def cleaned(value: object) -> bytes:
    """`canonical(clean(value))`, which for nearly all that is recorded is `canonical(value)`, at a tenth of the time.

    orjson refuses surrogates and, told so, big integers; NaN comes out as null, NUL as an escape; and no string is too
    long where the whole is not.
    """
    try:
        written = orjson.dumps(value, option=_PLAIN)
    except orjson.JSONEncodeError:
        return canonical(clean(value))
    if len(written) > MAX_TEXT or b"null" in written or b"\\u0000" in written:
        return canonical(clean(value))
    return written


def clean(value: object) -> Json:
    """`value` with only what both JSON and PostgreSQL can hold.

    Big integers and what JSON does not know become text, NaN and infinities their names; NUL and lone
    surrogates become U+FFFD; a string over MAX_TEXT is cut and says so.
    """
    match value:
        case None | bool():
            return value
        case str():
            return _clean_text(str(value))
        case int():
            return int(value) if int(value) in _INT64 else _big(value)  # a range looks at each number for an enum's
        case float():
            return float(value) if math.isfinite(value) else repr(float(value))
        case datetime():
            return timestamp(value)
        case Mapping():
            return {_clean_text(str(key)): clean(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [clean(item) for item in value]
        case _:
            return _clean_text(str(value))


def timestamp(moment: datetime) -> str:
    """UTC as YYYY-MM-DDTHH:MM:SS.ffffffZ, always six digits. A naive time is an error of ours."""
    assert moment.tzinfo is not None, "a naive time cannot be put on record"
    return datetime.isoformat(moment.astimezone(UTC), timespec="microseconds").removesuffix("+00:00") + "Z"


def digest_of(data: bytes) -> str:
    """`sha256:` and the hex SHA-256 of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _big(value: int) -> str:
    """Decimal, or hexadecimal where Python refuses to write so many decimal digits."""
    return str(int(value)) if value.bit_length() <= 2_048 else _clean_text(hex(value))


def _clean_text(text: str) -> str:
    if not text.isascii() or "\x00" in text:
        text = text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if len(text) > MAX_TEXT:
        return f"{text[:MAX_TEXT]}… (cut, {len(text)} characters)"
    return text
