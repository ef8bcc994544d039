"""Envelopes and payloads have one canonical form, whatever goes in."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum

import orjson
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from audit.events.canonical import MAX_TEXT, canonical, clean, cleaned, timestamp
from audit.events.event import ENVELOPE_KEYS, MAX_ENVELOPE, Event, make_event, uuid7, uuid8
from audit.events.payloads import Named, RunState, StoreFacts
from audit.events.vocabulary import VOCABULARY

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ascii_keys = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)
without_floats = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ascii_keys, inner, max_size=4),
    max_leaves=20,
)


class Level(IntEnum):
    LOW = 1


def opened(**given: object) -> Event:
    return make_event("store.opened", StoreFacts(origin="here"), source="s", subject="store", actor="p:x", **given)  # type: ignore[arg-type]


@given(anything)
def test_whatever_is_cleaned_can_be_stored_and_reads_back_the_same(value: object) -> None:
    kept = clean(value)
    stored = canonical(kept)

    assert b"\\u0000" not in stored
    assert canonical(orjson.loads(stored)) == stored
    assert clean(kept) == kept or "… (cut" in str(kept)


@given(anything | st.dictionaries(st.text(max_size=8), anything, max_size=4))
@example({"a": "x" * (MAX_TEXT + 1)})
@example([2**63, -(2**63), 2**53, 2**64 - 1])
@example({"a": float("nan")})
@example({"a": "a\x00b", "b": "\\u0000"})
@example({"a": "\ud800", "b": -0.0, "c": [float("-inf"), None]})
@example({"at": datetime(2026, 1, 1, tzinfo=UTC), "of": (1, {2}), "n": Level.LOW})
def test_the_quick_way_to_clean_bytes_is_the_slow_one(value: object) -> None:
    assert cleaned(value) == canonical(clean(value))


@given(without_floats)
def test_canonical_bytes_are_those_of_rfc_8785_where_there_is_no_float(value: object) -> None:
    kept = clean(value)

    assert canonical(kept) == rfc8785.dumps(kept)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("\ud800", "\ufffd"),
        (2**63, str(2**63)),
        (-(2**63), -(2**63)),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_what_a_database_would_refuse_is_settled_before_hashing(given: object, kept: object) -> None:
    assert clean(given) == kept


def test_a_long_text_is_cut_and_says_so() -> None:
    assert clean("x" * (MAX_TEXT + 1)) == "x" * MAX_TEXT + f"… (cut, {MAX_TEXT + 1} characters)"


def test_times_are_utc_with_six_digits() -> None:
    east = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))

    assert timestamp(east) == "2025-12-31T23:00:00.000000Z"


def test_the_envelope_binds_the_payload_and_holds_none_of_it() -> None:
    event = opened()

    assert set(json.loads(event.envelope)) == set(ENVELOPE_KEYS)
    assert "here" not in event.envelope
    assert event.payload_hash == "sha256:" + hashlib.sha256(event.salt + event.body.encode()).hexdigest()


def test_the_same_payload_twice_has_two_salts_and_two_hashes() -> None:
    first, second = opened(), opened()

    assert first.body == second.body
    assert first.payload_hash != second.payload_hash


def test_an_envelope_stays_small_whatever_the_payload_holds() -> None:
    huge = RunState(run_name="x" * 10**6, of="y", parameters=[Named(name="z" * 10**5, value="w" * 10**6)])

    event = make_event("task_run.running", huge, source="s", subject="task-run/1", actor="p:x")

    assert len(event.envelope) < MAX_ENVELOPE / 8


def test_a_type_takes_only_its_own_payload() -> None:
    with pytest.raises(AssertionError, match="RunState"):
        make_event("task_run.running", StoreFacts(), source="s", subject="store", actor="p:x")


def test_ids_of_one_state_are_equal_and_carry_its_time() -> None:
    state = uuid7(1_700_000_000_000)

    first, again = uuid8(state, "run", state, "task_run.running"), uuid8(state, "run", state, "task_run.running")

    assert first == again != uuid8(state, "run", state, "task_run.completed")
    assert first[:13] == state[:13]
    assert (first[14], uuid8("8d4e9a90-7b73-4f39-9c2e-6a5a5a1f0a01", "x")[:13]) == ("8", "00000000-0000")


@given(st.integers(0, 2**48 - 1))
def test_ids_sort_by_their_time(ms: int) -> None:
    assert uuid7(ms) < uuid7(ms + 1) if ms < 2**48 - 1 else True


def test_every_type_has_a_meaning_and_a_shape() -> None:
    assert all(known.meaning and known.payload.model_fields for known in VOCABULARY.values())


def test_a_time_long_ago_is_written_with_four_digits_of_its_year() -> None:
    assert timestamp(datetime(987, 6, 5, tzinfo=UTC)) == "0987-06-05T00:00:00.000000Z"


def test_an_integer_of_any_size_becomes_text() -> None:
    assert clean(2**64) == str(2**64)
    assert str(clean(-(10**5000))).startswith("-0x")
