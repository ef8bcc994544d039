"""What looks like a secret or a person does not get on record."""

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr

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
    "ann.planted%40example.org",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
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
        "password='my secret phrase of hunter2'",
        '{"password": "hun ter hunter2"}',
        r"{\"passphrase\": \"my hunter2\"}",
        "db_pwd=hunter2",
        "X-API-Key: hunter2",
        "https://host/x?sv=1&sig=hunter2",
        "postgresql://ann:hun/hunter2@db/x",
        "postgresql://ann:hun@hunter2@db/x",
    ],
)
def test_what_is_named_a_secret_is_one(said: str) -> None:
    assert "hunter2" not in text(said)


@pytest.mark.parametrize(
    "harmless",
    [
        "flows.pipeline.pipeline",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "artifact://sha256/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "01a20fb2-aaea-7891-b595-061c881396c9",
        "96b20a3c1f00a0896b20a3c1f00a0896b20a3c1f",
        "https://localhost:4200/api/@me",
        "models/HistGradientBoostingClassifier/v12/model.skops",
        "/home/Ann/Projects/FlightDelays/2013/Data/Raw01",
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


class Proxy:
    """A lazy proxy outside of its context."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("outside of context")


class ProxyOfAClass:
    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("outside of context")


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    held: object


class Unreadable(dict[str, int]):
    def items(self) -> object:  # type: ignore[override]
        raise RuntimeError("of ann")


@pytest.mark.parametrize("make", [Proxy, ProxyOfAClass, lambda: Holder(held=object()), lambda: Unreadable(a=1)])
def test_what_cannot_be_shown_is_named_and_costs_nothing_else(make: Callable[[], object]) -> None:
    value = make()
    told = parameters({"odd": value, "inside": [value, 1], "n": 3})

    assert "could not be shown" in str(told[0].value)
    assert told[1].value == [told[0].value, 1]
    assert told[2].value == 3


@pytest.mark.parametrize("value", [10**5000, -(10**5000), 2**64], ids=["huge", "negative", "big"])
def test_an_integer_of_any_size_goes_on_record(value: int) -> None:
    canonical(clean([p.model_dump(mode="json") for p in parameters({"x": value, "m": Holder(held=value)})]))
    assert isinstance(clean(value), str)


def test_an_exception_that_cannot_tell_what_it_is_is_named() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    told = error(Mute())

    assert told.kind.endswith("Mute")
    assert "could not be shown" in told.message


@pytest.mark.parametrize("name", ["db_pwd", "dbPwd", "customer_ssn", "passphrase", "X-API-Key", "AccountKey", "IBAN"])
def test_a_name_that_says_secret_is_heard_in_any_spelling(name: str) -> None:
    assert parameters({name: "hunter2"})[0].value == REDACTED


def test_a_number_of_a_payment_card_is_none_to_keep_but_other_numbers_are() -> None:
    card, at, rows = parameters({"card": 4111111111111111, "at": 1763942400000000000, "rows": 4111111111111112})

    assert card.value == REDACTED
    assert at.value == 1763942400000000000
    assert rows.value == 4111111111111112


def test_a_field_that_a_model_did_not_declare_is_no_key() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    (told,) = parameters({"m": Open.model_validate({"ann@example.org": 1})})

    assert told.value == [{"name": REDACTED, "value": 1}]


def test_half_a_secret_does_not_show_where_a_text_was_cut() -> None:
    many = " ".join(f"ann.planted{n}@example.org" for n in range(200))

    assert "planted" not in str(parameters({"x": many})[0].value)


def test_parameters_are_shown_in_bounded_time_however_many_there_are() -> None:
    leaf = "ann " * 1000
    many: object = [[[[leaf] * 50] * 50] * 50] * 50
    began = time.process_time()
    parameters({"x": many, "y": Holder(held=[list(range(1000))] * 1000)})

    assert time.process_time() - began < 2


HOSTILE = [
    "-", "a-", "2013-01-01-", "a.", "@", "eyJ", "eyJ-", "1", "=", "a=", "a+", "/", "A1a/", "://", "://a:", "password=",
    "password='", "password", '"', "token ", "a@", "@a.", "%40", "-----BEGIN ", "sk-", "AB12", "bearer ", "_", "0f",
]  # fmt: skip


def seconds(raw: str) -> float:
    def once() -> float:
        began = time.process_time()
        text(raw)
        return time.process_time() - began

    return min(once() for _ in range(3))


@pytest.mark.parametrize("seed", HOSTILE)
def test_searching_takes_time_in_proportion_to_the_text(seed: str) -> None:
    short, long = (seconds((seed * length)[:length]) for length in (4_000, 16_000))

    assert long < 8 * short + 0.005  # a search that goes back to each beginning would take 16 times as long
    assert long < 0.5
