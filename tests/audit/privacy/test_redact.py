"""What looks like a secret or a person does not get on record."""

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from audit.events.canonical import canonical, clean
from audit.events.references import DatasetVersion
from audit.privacy.redact import MAX_TEXT, REDACTED, error, parameters, text

PLANTED = [
    "ann.o'hara+x@example.org",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "sk-proj-abcdefghijklmnop1234",
    "xoxb-123456789012-abcdefghijkl",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sflKxwRJSMeKKF2QT4",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "9dYx7Qh2KfLm4Tz8Wp3Rs6Vb1Nc5",
]


@pytest.mark.parametrize("secret", PLANTED)
@pytest.mark.parametrize("around", ["{}", "row {}: refused", "('{}',)", "a={}&b=1", "<{}>"])
def test_secrets_are_found_in_texts(secret: str, around: str) -> None:
    assert secret not in text(around.format(secret))


@pytest.mark.parametrize(
    "said",
    [
        "password=hunter2",
        "DB_PASSWORD: hunter2",
        "Bearer hunter2hunter2",
        "postgresql://ann:hunter2@db/x",
        '"api_key": "hunter2"',
    ],
)
def test_what_is_named_a_secret_is_one(said: str) -> None:
    assert "hunter2" not in text(said)


@pytest.mark.parametrize(
    "harmless",
    [
        "flows.pipeline.pipeline",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "01a20fb2-aaea-7891-b595-061c881396c9",
        "2026-11-24T22:34:57.130833Z",
        "/srv/models/HistGradientBoostingClassifier/v12.skops",
        "expected 336776 rows, found 336775",
    ],
)
def test_what_people_need_to_read_stays(harmless: str) -> None:
    assert text(harmless) == harmless


@pytest.mark.parametrize("secret", PLANTED)
def test_secrets_are_found_in_parameters_at_any_depth(secret: str) -> None:
    class Inner(BaseModel):
        note: str

    given = {
        "plain": secret, "in_list": [{"x": (secret,)}], "in_model": Inner(note=secret), secret: 1,
        "path": Path("/srv") / secret, "password": "x", "hidden": SecretStr(secret),
    }  # fmt: skip

    assert secret not in canonical(clean([p.model_dump(mode="json") for p in parameters(given)])).decode()


def test_secrets_are_found_in_errors_their_causes_and_source_lines() -> None:
    try:
        try:
            raise ValueError("ann@example.org is no number")
        except ValueError as cause:
            raise RuntimeError("token=hunter2") from cause
    except RuntimeError as raised:
        told = error(raised)

    assert told.kind == "RuntimeError"
    assert "ann@example.org" not in str(told)
    assert "hunter2" not in str(told)
    assert "test_redact.py" in (told.traceback or "")


def test_an_object_is_named_never_shown() -> None:
    import pandas as pd

    class Customer:
        def __repr__(self) -> str:
            return "Customer(Ann)"

    told = parameters({"who": Customer(), "frame": pd.DataFrame({"name": ["Ann"]})})

    assert "Ann" not in str(told)
    assert "shape (1, 1)" in str(told)


def test_references_dates_and_numbers_stay_whole() -> None:
    rows = DatasetVersion(name="flights/train", version=3, address="artifact://sha256/ab", digest="sha256:cd", rows=7)

    told = {p.name: p.value for p in parameters({"rows": rows, "day": date(2026, 1, 1), "n": 3, "r": 0.5, "on": True})}

    assert told == {"rows": rows.model_dump(mode="json"), "day": "2026-01-01", "n": 3, "r": 0.5, "on": True}


def test_long_values_are_cut() -> None:
    (told,) = parameters({"x": "ab " * 10_000})

    assert len(str(told.value)) < MAX_TEXT + 30


def test_a_name_that_says_secret_hides_whatever_is_behind_it() -> None:
    (told,) = parameters({"API_KEY": {"a": ["plain"]}})

    assert told.value == REDACTED


@given(
    st.dictionaries(st.text(max_size=5), st.recursive(st.text() | st.binary() | st.floats(), st.lists, max_leaves=5))
)
def test_any_parameters_can_be_put_on_record(given: dict[str, object]) -> None:
    canonical(clean([p.model_dump(mode="json") for p in parameters(given)]))
