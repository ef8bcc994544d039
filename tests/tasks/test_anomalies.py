"""Figures against a spec's own history: what is broken is found, what is usual or unknown is not."""

import pytest

from audit.events.payloads import AnomalyFacts
from audit.events.references import Window
from audit.spec.model import Spec, TargetKind
from audit.store import read
from audit.store.engine import open_store
from flows._findings import anomaly_finding
from tasks.anomalies import ENOUGH, FIGURES, AnomalyVerdict, Floor, check_anomalies, figures, floor_of, table, usual
from tests.tasks.conftest import record_decisions

MONTHS = [Window.month(2024, month) for month in range(1, 13)]
NOW = Window.month(2025, 1)


def history(spec: Spec, months: int = ENOUGH) -> None:
    for number, month in enumerate(MONTHS[:months]):
        record_decisions(spec.name, month, rows=1000 + 20 * number, mean=0.3 + 0.01 * number)


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({}, []),
        ({"rows": 900, "mean": 0.38, "positive": 260}, []),
        ({"rows": 300, "positive": 60}, ["rows"]),
        ({"failed": 100, "positive": 180}, ["failed_share"]),
        ({"mean": 0.7}, ["mean_score"]),
        ({"positive": 800}, ["positive_share"]),
        ({"rows": 3000, "mean": 0.9, "positive": 600}, ["rows", "mean_score"]),
    ],
    ids=["usual", "a season", "rows missing", "rows failed", "scores doubled", "decisions turned", "two at once"],
)
def test_what_is_far_from_usual_is_found_and_a_season_is_not(home, loan_spec: Spec, now, found) -> None:
    history(loan_spec)

    verdict = check_anomalies.fn(record_decisions(loan_spec.name, NOW, **now), loan_spec, NOW)

    assert [one.what for one in verdict.found] == found
    recorded = read.events(open_store(), types=("anomaly.detected",), newest_first=False)
    assert [event.id for event in recorded] == list(verdict.events)


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({"p10": 0.06, "p50": 0.31, "p90": 0.7}, []),
        ({"p10": 0.3, "p50": 0.3, "p90": 0.3}, ["score_p10", "score_p90"]),
        ({"p10": 0.01, "p50": 0.01, "p90": 0.99}, ["score_p50", "score_p90"]),
        ({}, []),
    ],
    ids=["usual", "all the same", "two heaps", "not known"],
)
def test_scores_of_another_shape_are_found_though_their_mean_is_as_usual(
    home, loan_spec: Spec, now: dict[str, float], found: list[str]
) -> None:
    for number, month in enumerate(MONTHS[:ENOUGH]):
        scores = {"p10": 0.05, "p50": 0.3 + 0.01 * number, "p90": 0.68}
        record_decisions(loan_spec.name, month, scores=scores)

    verdict = check_anomalies.fn(record_decisions(loan_spec.name, NOW, scores=now), loan_spec, NOW)

    assert [one.what for one in verdict.found] == found


def test_windows_of_before_the_shape_was_kept_are_no_history_of_it(home, loan_spec: Spec) -> None:
    history(loan_spec)

    assert check_anomalies.fn(record_decisions(loan_spec.name, NOW, scores={"p50": 0.99}), loan_spec, NOW).found == ()


def test_a_run_that_took_much_longer_is_found_and_no_figure_is_usual_below_zero(
    home, loan_spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = iter([*[4.0, 5.0, 4.5, 5.5, 5.0], 80.0])
    for month in MONTHS[:ENOUGH]:
        record_decisions(loan_spec.name, month)
    now = record_decisions(loan_spec.name, NOW)
    monkeypatch.setattr("tasks.anomalies.figures", lambda scored, _: figures(scored, next(took)))

    (found,) = check_anomalies.fn(now, loan_spec, NOW).found

    assert (found.what, found.value, found.usual, found.low) == ("seconds", 80.0, 5.0, 0.0)


def test_with_too_little_history_nothing_is_said_but_that(home, loan_spec: Spec) -> None:
    history(loan_spec, ENOUGH - 1)
    verdict = check_anomalies.fn(record_decisions(loan_spec.name, NOW, rows=3), loan_spec, NOW)
    assert (verdict.found, verdict.history) == ((), ENOUGH - 1)
    assert [row["verdict"] for row in table({"rows": 3.0}, {"rows": usual([1.0], Floor())})] == ["not enough history"]


def test_a_history_that_never_moved_makes_no_alarm_of_the_first_that_does(home, loan_spec: Spec) -> None:
    for month in MONTHS[:8]:
        record_decisions(loan_spec.name, month)
    verdict = check_anomalies.fn(
        record_decisions(loan_spec.name, NOW, rows=1100, failed=5, mean=0.33, positive=230), loan_spec, NOW
    )
    assert verdict.found == ()


def test_a_window_decided_twice_counts_once_and_other_lengths_do_not_count(home, loan_spec: Spec) -> None:
    for _ in range(ENOUGH):
        record_decisions(loan_spec.name, MONTHS[0])
    for number in range(ENOUGH):
        record_decisions(loan_spec.name, Window(start=NOW.start, end=NOW.start.replace(day=2 + number)))
    record_decisions("another", MONTHS[1])
    assert check_anomalies.fn(record_decisions(loan_spec.name, NOW), loan_spec, NOW).history == 1


def test_decisions_of_today_are_not_held_against_later_ones(home, loan_spec: Spec) -> None:
    history(loan_spec)
    now = record_decisions(loan_spec.name, NOW, rows=300, positive=60)
    for month in MONTHS[ENOUGH:]:
        record_decisions(loan_spec.name, month, rows=300, positive=60)
    assert [one.what for one in check_anomalies.fn(now, loan_spec, NOW).found] == ["rows"]


def test_an_old_month_that_is_decided_on_again_is_not_held_against_later_months(home, loan_spec: Spec) -> None:
    history(loan_spec, len(MONTHS))
    again = record_decisions(loan_spec.name, MONTHS[2], rows=10_000)
    assert check_anomalies.fn(again, loan_spec, MONTHS[2]).history == 2


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_floor(name: str) -> None:
    still = usual([0.0] * ENOUGH, floor_of(name, "binary")), usual([0.5] * ENOUGH, floor_of(name, "binary"))
    assert still[1] and still[1].low < 0.5 < still[1].high
    assert still[0] and (still[0].high > 0 or name == "rows")


@pytest.mark.parametrize("name", sorted(set(FIGURES) - {"rows", "seconds"}))
def test_a_share_and_a_probability_are_usual_between_nothing_and_all(name: str) -> None:
    for value in (0.0, 0.01, 0.99, 1.0):
        range = usual([value] * ENOUGH, floor_of(name, "binary"))
        assert range and 0 <= range.low <= value <= range.high <= 1


def test_rows_and_seconds_are_never_less_than_none_and_a_number_may_be() -> None:
    for name in ("rows", "seconds"):
        range = usual([0.0, 1.0, 50.0, 100.0, 101.0], floor_of(name, "regression"))
        assert range and (range.low, range.high > 100) == (0.0, True)
    number = usual([0.0, 1.0, 50.0, 100.0, 101.0], floor_of("score_p50", "regression"))
    assert number and number.low < 0


SOURCE, LOG = "Look whether the source is whole", "look at its log"


@pytest.mark.parametrize(
    ("what", "advice"), [(["rows"], [SOURCE]), (["seconds"], [LOG]), (["score_p90", "seconds"], [SOURCE, LOG])]
)
def test_what_to_do_is_said_for_the_figures_that_are_unusual(
    what: list[str], advice: list[str], loan_spec: Spec
) -> None:
    found = [
        AnomalyFacts(spec="loans", what=name, window="2025-01", value=80.0, usual=5.0, low=0.0, high=30.0, history=6)
        for name in what
    ]
    verdict = AnomalyVerdict(found=tuple(found), events=tuple(what), history=6)

    told = anomaly_finding(verdict, loan_spec)

    assert told and (told.kind, told.window, told.cause) == ("anomaly", "2025-01", what[0])
    assert f"{what[0]} 80, usually 5 (0 to 30, by 6 earlier windows)" in told.body
    assert [said for said in (SOURCE, LOG) if said in told.body] == advice


# Other kinds of target, and specs without windows.


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({}, []),
        ({"rows": 300}, ["rows"]),
        ({"mean": 800_000.0}, ["mean_score"]),
        ({"mean": -250_000.0}, ["mean_score"]),
    ],
    ids=["usual", "rows missing", "numbers tripled", "numbers turned"],
)
def test_numbers_have_a_mean_and_no_positive_share(home, loan_spec: Spec, now, found) -> None:
    spec = of_kind(loan_spec, "regression")
    for number, month in enumerate(MONTHS[:ENOUGH]):
        record_decisions(spec.name, month, kind="regression", decisions={}, mean=250_000.0 + 5_000 * number)
    given = {"mean": 255_000.0, **now}
    verdict = check_anomalies.fn(record_decisions(spec.name, NOW, kind="regression", decisions={}, **given), spec, NOW)
    assert [one.what for one in verdict.found] == found
    assert "positive_share" not in figures_of(spec)


def test_of_several_classes_none_is_taken_for_the_positive_one(home, loan_spec: Spec) -> None:
    spec = of_kind(loan_spec, "multiclass")
    for month in MONTHS[:ENOUGH]:
        record_decisions(spec.name, month, kind="multiclass", decisions={"neutral": 600, "positive": 400})
    turned = record_decisions(spec.name, NOW, kind="multiclass", decisions={"positive": 990, "neutral": 10})
    assert check_anomalies.fn(turned, spec, NOW).found == ()
    assert "positive_share" not in figures_of(spec)


def test_numbers_with_a_threshold_have_a_positive_share(home, loan_spec: Spec) -> None:
    spec = of_kind(loan_spec, "regression")
    for month in MONTHS[:ENOUGH]:
        record_decisions(spec.name, month, kind="regression", positive=200)
    turned = record_decisions(spec.name, NOW, kind="regression", positive=900)
    assert [one.what for one in check_anomalies.fn(turned, spec, NOW).found] == ["positive_share"]


def test_figures_of_another_kind_of_target_are_no_history(home, loan_spec: Spec) -> None:
    history(loan_spec)
    spec = of_kind(loan_spec, "regression")
    now = record_decisions(spec.name, NOW, kind="regression", decisions={}, mean=250_000.0)
    assert check_anomalies.fn(now, spec, NOW).history == 0


def test_without_windows_all_earlier_decisions_are_the_history(home, loan_spec: Spec) -> None:
    for _ in range(ENOUGH):
        record_decisions(loan_spec.name, None)
    record_decisions(loan_spec.name, MONTHS[0])  # of a time when the spec had a schedule
    verdict = check_anomalies.fn(record_decisions(loan_spec.name, None, rows=300, positive=60), loan_spec)
    assert (verdict.history, [one.what for one in verdict.found]) == (ENOUGH, ["rows"])
    assert verdict.found[0].window is None


def of_kind(spec: Spec, kind: TargetKind) -> Spec:
    return spec.model_copy(update={"target": spec.target.model_copy(update={"kind": kind})})


def figures_of(spec: Spec) -> set[str]:
    """Names of the figures that the last decisions have."""
    scored = next(read.events(open_store(), types=("predictions.scored",), spec=spec.name))
    return set(figures(scored.payload, 1.0))
