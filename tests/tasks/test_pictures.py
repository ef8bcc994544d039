"""Pictures: the same numbers give the same bytes anywhere, names stay names, and no row can be made out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.events.payloads import Metric
from tasks import _pictures as pictures
from tasks._frames import Predicted
from tasks._judging import judge
from tasks._pages import Markup, page
from tasks._pictures import Bar, Distribution, Group
from tests.tasks.kinds import foretold, spec_of
from tests.tasks.read_pages import Page
from tests.tasks.test_pages import HOSTILE

ROOT = Path(__file__).parents[2]
PROBE = """
import hashlib, sys
import numpy as np
from tasks import _pictures as pictures
drawn = np.random.default_rng(0)
score = drawn.random(500)
made = [
    pictures.calibration(score, (drawn.random(500) < score).astype(float)),
    pictures.dots([pictures.Group("region=north", 0.7, 300, 0.6, 0.8)], 0.75, "AUC"),
    pictures.distributions([pictures.Distribution("income", [0.5, 0.5], [0.1, 0.9], edges=[0, 1, 2])]),
]
print(hashlib.sha256("".join(picture.html for picture in made).encode()).hexdigest())
print("matplotlib.pyplot" in sys.modules)
"""


@pytest.fixture(autouse=True)
def at_home(home: Path) -> None:
    """Fonts are listed there and nowhere else."""


def scores(rows: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are right about themselves, and what came."""
    drawn = np.random.default_rng(0)
    score = drawn.random(rows)
    return score, (drawn.random(rows) < score).astype(float)


def every_picture(name: str = "income") -> dict[str, Markup]:
    score, came = scores()
    return {
        "calibration": pictures.calibration(score, came),
        "ranking": pictures.ranking(came, score),
        "residuals": pictures.residuals(score, came),
        "dots": pictures.dots([Group(name, 0.7, 300, 0.6, 0.8), Group("region=south", 0.8, 40)], 0.75, "AUC"),
        "bars": pictures.bars([Bar(name, 0.3, 0.2, beyond=True), Bar("debt", 0.0)], "Scores", "distance", "told"),
        "distributions": pictures.distributions(
            [Distribution(name, [0.5, 0.5], [1, 0], edges=[0, 1, 2]), Distribution("r", [1], [1], groups=[name])]
        ),
    }


def test_the_same_numbers_are_the_same_bytes_in_another_process_home_and_taste(tmp_path: Path) -> None:
    told = []
    for seed in ("1", "2"):
        user = tmp_path / seed
        user.mkdir()
        (user / "matplotlibrc").write_text("axes.linewidth: 5\naxes.xmargin: 0.4\n" if seed == "2" else "")
        names = {"HOME": str(user), "AUDIT_HOME": str(tmp_path / f"var{seed}"), "PYTHONHASHSEED": seed}
        kept = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "XDG_CONFIG_HOME")}
        command = [sys.executable, "-c", PROBE]
        environment = kept | names | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(user / "cache")}
        told.append(subprocess.run(command, cwd=user, env=environment, capture_output=True, text=True, check=True))
        assert [path.name for path in user.rglob("*")] == ["matplotlibrc"], "nothing is written in a user's own folder"
    assert told[0].stdout == told[1].stdout
    assert told[0].stdout.endswith("False\n"), "pyplot keeps pictures for ever"


def test_a_picture_says_in_words_what_it_shows_and_stands_in_a_page() -> None:
    shown = every_picture()
    read = Page(page("x", "## One\n", {"One": list(shown.values())}))
    assert read.faults == []
    assert read.count("svg", role="img") == read.count("desc") == read.count("figcaption") == len(shown)
    assert len(read.ids) == len(set(read.ids)) > 0, "ids of two pictures must not meet in one page"
    assert "http" not in "".join(picture.html for picture in shown.values())


def test_a_picture_has_the_page_s_colours_and_fonts_alone() -> None:
    for name, picture in every_picture().items():
        assert re.findall(r"(?:fill|stroke|color): ?#\w+", picture.html) == [], name
        assert "var(--main)" in picture.html or "var(--faint)" in picture.html
        assert set(re.findall(r"font-family: ([^;\"]*)", picture.html)) == {"inherit"}, name


@pytest.mark.parametrize("words", [*HOSTILE.values(), "$x$", "a $\\frac{", "עברית", "\x00\x07\ud800"], ids=ascii)
def test_a_name_of_a_user_s_is_drawn_as_it_is(words: str) -> None:
    for name in ("dots", "bars", "distributions"):
        picture = every_picture(words)[name]
        assert Page(picture.html).faults == []
        picture.html.encode()


def test_a_long_name_is_cut_and_a_dollar_is_a_dollar() -> None:
    drawn = pictures.bars([Bar("x" * 60, 0.1), Bar("in $ or in $", 0.2)], "t", "u", "told")
    assert f"{'x' * (pictures.LONGEST - 1)}…" in Page(drawn.html).words
    assert "in $ or in $" in Page(drawn.html).words


def test_words_say_how_far_stated_probabilities_are_from_what_came() -> None:
    score, came = scores(20_000)
    right, wrong = pictures.calibration(score, came), pictures.calibration(score, 1 - came)
    far = [float(re.findall(r"distance from it is (\d\.\d+)", picture.html)[0]) for picture in (right, wrong)]
    assert far[0] <= 0.05 and far[1] > 0.8


@pytest.mark.parametrize("name", ["ranking", "residuals"])
def test_more_rows_make_a_picture_no_finer(name: str) -> None:
    def points(rows: int) -> int:
        score, came = scores(rows)
        made = pictures.ranking(came, score) if name == "ranking" else pictures.residuals(score, came)
        return len(re.findall(r"\b[ML] [\d.-]+ [\d.-]+", made.html))

    assert points(20_000) <= points(2_000) * 1.1


@pytest.mark.parametrize(
    ("kind", "heading"), [("binary", "Calibration"), ("multiclass", "Calibration"), ("regression", "Residuals")]
)
def test_each_kind_of_target_has_its_picture(kind: str, heading: str) -> None:
    score, came = scores()
    if kind == "multiclass":
        said = foretold(np.stack([score, 1 - score], axis=1), ("A", "B"))
        target: np.ndarray = np.where(came == 1, "A", "B")
    else:
        said, target = Predicted(score), came
    made = pictures.of_judged(judge(target, said, spec_of(kind)))
    assert list(made) == [heading]
    assert all("<svg" in picture.html for picture in made[heading])


def test_groups_are_shown_in_their_order_by_the_figure_that_comes_first() -> None:
    sliced = [
        Metric(name="auc", value=0.7, slice="race=black", rows=41),
        Metric(name="recall", value=0.1, slice="race=black", rows=41),
        Metric(name="auc", value=0.8, slice="race=white", rows=1_350),
    ]
    (picture,) = pictures.of_slices(sliced, Metric(name="auc", value=0.75))
    words = Page(picture.html).words
    assert words.index("race=black") < words.index("race=white") and "1,350" in words
    assert "2 groups, from 0.700 to 0.800; 0.750 of all rows." in words
    assert pictures.of_slices([], Metric(name="auc", value=0.75)) == []


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=20))
def test_the_interval_of_a_share_holds_it_and_stays_a_share(drawn: list[tuple[int, int]]) -> None:
    rows = np.array([max(pair) for pair in drawn])
    share = np.array([min(pair) for pair in drawn]) / rows
    low, high = pictures._wilson(share, rows)
    assert ((low >= -1e-9) & (low <= share + 1e-9) & (share - 1e-9 <= high) & (high <= 1 + 1e-9)).all()
    few, many = (np.subtract(*pictures._wilson(share, rows * times)) for times in (1, 10))
    assert (few < many).all(), "more rows, a narrower interval"
