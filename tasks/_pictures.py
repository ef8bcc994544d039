"""Pictures for pages: matplotlib's SVG, which stands in the page itself, in the page's colours, as text that is text.

Same numbers, same bytes: no date, no id by chance, no font of this machine, nothing of a user's own matplotlibrc.
Each shows counts, shares and quantiles of many rows, never a row.
"""

import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from audit.events.payloads import Metric, called
from audit.settings import settings
from tasks._judging import Binary, Classes, Judged, Numbers
from tasks._pages import Markup

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Floats = np.ndarray[tuple[int], np.dtype[np.float64]]

WIDTH = 9.0  # inches, 72 px each
LONGEST = 32  # characters of a label
BINS = 10
STEPS, ROWS = 20, 25  # for residuals: at most so many groups of at least so many rows
CURVE = 101  # points of a curve: fewer than rows, so that none of them can be made out

# Colours that stand for the page's own, so that a picture is readable in the light and in the dark.
INK, FAINT, LINE, MAIN, OTHER, BAD = (f"#0a0b0{number}" for number in range(1, 7))
_VARIABLES = {INK: "ink", FAINT: "faint", LINE: "line", MAIN: "main", OTHER: "other", BAD: "bad"}

RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may have a dollar in it
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: what text is measured by
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "grid.color": LINE,
    "xtick.bottom": False,  # a tick's mark is dear to draw, and the grid says as much
    "ytick.left": False,
    "axes.axisbelow": True,
}

_ONE_AT_A_TIME = threading.Lock()  # matplotlib's settings are the process's
_HEAD = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_NAMES = re.compile(r' (xmlns(:xlink)?|width|height)="[^"]*"')
_COLOUR = re.compile(r"#0a0b0[1-6]")


@dataclass(frozen=True, slots=True)
class Group:
    """A figure of some of the rows."""

    label: str
    value: float
    rows: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A number against a limit, in words and as a bar."""

    label: str
    value: float
    limit: float | None = None
    beyond: bool = False


@dataclass(frozen=True, slots=True)
class Distribution:
    """How rows are spread over the same bins before and now. Numbers have edges, one more than bins; groups names."""

    name: str
    before: Sequence[float]  # shares
    now: Sequence[float]
    edges: Sequence[float] = ()
    groups: Sequence[str] = ()


def get_ready() -> None:
    """Import matplotlib, which keeps its list of fonts under AUDIT_HOME and not in the user's own folder."""
    os.environ.setdefault("MPLCONFIGDIR", str(settings().home / "matplotlib"))
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def of_judged(own: Judged) -> dict[str, list[Markup]]:
    """What a model said beside what came, by the heading that it belongs beneath."""
    match own:
        case Binary():
            calibrated = calibration(own.calibration.stated, own.calibration.came)
            return {"Calibration": [calibrated, ranking(own.target, own.score)]}
        case Classes():
            return {"Calibration": [calibration(own.calibration.stated, own.calibration.came)]}
        case Numbers():
            return {"Residuals": [residuals(own.score, own.target)]}
    raise AssertionError("there are three kinds of target")


def of_slices(sliced: Sequence[Metric], overall: Metric) -> list[Markup]:
    """The figure `overall` group by group, in the order given; nothing where there are no groups."""
    groups = [
        Group(str(each.slice), each.value, each.rows or 0, each.low, each.high)
        for each in sliced
        if each.name == overall.name
    ]
    return [dots(groups, overall.value, called(overall.name))] if groups else []


def calibration(stated: "Floats", came: "Floats") -> Markup:
    """Stated probabilities against what came (1 or 0), with 95 % intervals (Wilson), and how many rows each bin has."""
    import numpy as np

    place = np.minimum((stated * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(place, minlength=BINS)
    some = rows > 0
    meant = np.bincount(place, stated, minlength=BINS)[some] / rows[some]
    share = np.bincount(place, came, minlength=BINS)[some] / rows[some]
    low, high = _wilson(share, rows[some])

    def draw(figure: "Figure") -> None:
        left, right = _panels(figure, 2, height=3.7)
        left.plot([0, 1], [0, 1], color=FAINT, linestyle=(0, (4, 4)), linewidth=1)
        left.vlines(meant, low, high, color=MAIN, linewidth=1.4)
        left.plot(meant, share, "o", color=MAIN, markersize=6)
        _unit(left, "stated probability", "observed share")
        right.stairs(rows, np.linspace(0, 1, BINS + 1), fill=True, color=MAIN, alpha=0.55)
        _unit(right, "stated probability", "rows", y=False)
        _thousands(right)

    return _drawn(
        draw,
        title="Calibration",
        told=f"{len(stated):,} rows in {int(some.sum())} bins of stated probability; on the dashed line what was "
        f"stated is what came. The largest distance from it is {np.abs(share - meant).max():.2f}.",
        height=3.7,
    )


def ranking(target: "Floats", score: "Floats") -> Markup:
    """The ROC curve, and how the scores of both outcomes are spread."""
    import numpy as np

    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    hits, misses = (np.append(0, np.cumsum(each[order])[ends]) for each in (target, 1 - target))
    at = np.linspace(0, 1, CURVE)
    caught = np.interp(at, misses / misses[-1], hits / hits[-1])
    edges = np.linspace(0, 1, 2 * BINS + 1)

    def draw(figure: "Figure") -> None:
        left, right = _panels(figure, 2, height=3.7)
        left.plot([0, 1], [0, 1], color=FAINT, linestyle=(0, (4, 4)), linewidth=1)
        left.plot(at, caught, color=MAIN, linewidth=1.8)
        _unit(left, "share of negative rows above the score", "share of positive rows")
        for outcome, colour, name in ((0, OTHER, "negative"), (1, MAIN, "positive")):
            counts, _ = np.histogram(score[target == outcome], edges)
            right.stairs(counts / counts.sum(), edges, color=colour, linewidth=1.6, label=name)
        _unit(right, "score", "share of the rows of each outcome", y=False)
        _legend(right)

    return _drawn(
        draw,
        title="How well scores rank",
        told="Left the ROC curve: the farther above the dashed line, the better scores tell positive from negative "
        "rows. Right the scores of each.",
        height=3.7,
    )


def residuals(predicted: "Floats", outcome: "Floats") -> Markup:
    """Outcomes minus predicted values: by the predicted value, and how often how much."""
    import numpy as np

    missed = outcome - predicted
    parts = np.array_split(np.argsort(predicted, kind="stable"), max(1, min(STEPS, len(predicted) // ROWS)))
    middle = [float(np.median(predicted[part])) for part in parts]
    low, median, high = (np.array([np.quantile(missed[part], q) for part in parts]) for q in (0.05, 0.5, 0.95))
    bounds = np.quantile(missed, [0.005, 0.995])
    if not bounds[1] - bounds[0] > 1e-9 * np.abs(bounds).max():  # all alike, as far as 30 bars could tell
        bounds = bounds.mean() + np.array([-0.5, 0.5]) * max(1.0, 1e-9 * np.abs(bounds).max())
    counts, edges = np.histogram(np.clip(missed, *bounds), np.linspace(float(bounds[0]), float(bounds[1]), 31))

    def draw(figure: "Figure") -> None:
        left, right = _panels(figure, 2, height=3.7, left=0.85)
        left.axhline(0, color=FAINT, linestyle=(0, (4, 4)), linewidth=1)
        left.fill_between(middle, low, high, color=MAIN, alpha=0.2, linewidth=0)
        left.plot(middle, median, color=MAIN, marker="o", markersize=4, linewidth=1.2)
        _plain_axes(left, "predicted", "outcome minus predicted")
        right.stairs(counts, edges, fill=True, color=MAIN, alpha=0.55)
        right.axvline(0, color=FAINT, linestyle=(0, (4, 4)), linewidth=1)
        _plain_axes(right, "outcome minus predicted", "rows")

    return _drawn(
        draw,
        title="Residuals",
        told=f"{len(outcome):,} rows. Left the median of the residuals and their middle 90 %, by the predicted value; "
        "right all of them, the outermost 1 % in the outermost bars.",
        height=3.7,
    )


def dots(groups: Sequence[Group], overall: float, figure_name: str) -> Markup:
    """A figure group by group, beside the one of all rows, with the size of each group."""
    height = 0.9 + 0.27 * len(groups)
    labels = [_label(group.label) for group in groups]
    places = range(len(groups))

    def draw(figure: "Figure") -> None:
        (axes,) = _panels(figure, 1, height=height, left=_room(labels), right=1.0)
        axes.axvline(overall, color=FAINT, linestyle=(0, (4, 4)), linewidth=1)
        for place, group in zip(places, groups, strict=True):
            if group.low is not None and group.high is not None:
                axes.hlines(place, group.low, group.high, color=MAIN, linewidth=1.4)
            axes.text(1.01, place, f"{group.rows:,}", transform=axes.get_yaxis_transform(), va="center", fontsize=10)
        axes.plot([group.value for group in groups], list(places), "o", color=MAIN, markersize=6)
        _rows_of(axes, labels)
        axes.margins(x=0.1)
        axes.set_xlabel(f"{figure_name}; dashed: all rows; to the right: rows")

    values = [group.value for group in groups]
    return _drawn(
        draw,
        title=f"{figure_name} by group",
        told=f"{len(groups)} groups, from {min(values):.3f} to {max(values):.3f}; {overall:.3f} of all rows.",
        height=height,
    )


def bars(shown: Sequence[Bar], title: str, unit: str, told: str, *, percent: bool = False) -> Markup:
    """A number for each name; where it has a limit, a stroke stands there."""
    height = 0.9 + 0.27 * len(shown)
    labels = [_label(bar.label) for bar in shown]
    top = max([bar.value for bar in shown] + [bar.limit or 0.0 for bar in shown]) or 1.0

    def draw(figure: "Figure") -> None:
        (axes,) = _panels(figure, 1, height=height, left=_room(labels), right=0.9)
        colours = [BAD if bar.beyond else MAIN for bar in shown]
        axes.barh(range(len(shown)), [bar.value for bar in shown], height=0.62, color=colours, alpha=0.75)
        for place, bar in enumerate(shown):
            if bar.limit is not None:
                axes.vlines(bar.limit, place - 0.42, place + 0.42, color=INK, linewidth=1.6)
            number = f"{bar.value:.1%}" if percent else f"{bar.value:.3f}"
            axes.text(1.01, place, number, transform=axes.get_yaxis_transform(), va="center", fontsize=10)
        _rows_of(axes, labels)
        axes.set_xlim(0, top * 1.04)
        if percent:
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.set_xlabel(unit)

    return _drawn(draw, title=title, told=told, height=height)


def distributions(shown: Sequence[Distribution]) -> Markup:
    """Small multiples: each column's rows over the same bins, before and now."""
    import numpy as np

    lines = (len(shown) + 1) // 2
    height = 0.5 + 2.1 * lines

    def draw(figure: "Figure") -> None:
        panels = _panels(figure, 2, height=height, lines=lines, top=0.55, gap=0.75)
        for axes, column in zip(panels, shown, strict=False):
            edges = np.array(column.edges) if column.edges else np.arange(len(column.before) + 1) - 0.5
            for shares, colour, name in ((column.before, FAINT, "reference"), (column.now, MAIN, "current")):
                axes.stairs(shares, edges, color=colour, fill=colour == FAINT, alpha=0.35 if colour == FAINT else 1,
                            linewidth=1.6, label=name)  # fmt: skip
            axes.set_title(_label(column.name), loc="left", color=INK)
            axes.locator_params(nbins=4)
            axes.grid(axis="y", linewidth=0.6)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            if column.groups:
                axes.set_xticks(range(len(column.groups)), [_label(name, 9) for name in column.groups], fontsize=8)
        _legend(panels[0])
        for axes in panels[len(shown) :]:
            axes.set_visible(False)

    names = ", ".join(_one_line(column.name) for column in shown)
    return _drawn(
        draw,
        title="How the drifted columns are spread",
        told=f"Share of the rows in each bin or group, the reference filled, the current data as a line: {names}.",
        height=height,
    )


def _drawn(draw: "Callable[[Figure], None]", *, title: str, told: str, height: float) -> Markup:
    """The picture with its caption. `told` says in words what can be seen, for whoever cannot."""
    get_ready()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    written = io.StringIO()
    with _ONE_AT_A_TIME, matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has other fonts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC | {"svg.hashsalt": title + told})
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    shown = f"<title>{escape(title)}</title><desc>{escape(told)}</desc>"
    svg = _cleaned(written.getvalue()).replace(">", f' role="img">{shown}', 1)
    return Markup(f"<figure>\n{svg}\n<figcaption>{escape(told)}</figcaption></figure>\n")


def _cleaned(svg: str) -> str:
    """What stands in a page: no head of its own, no ids but those that it uses, the page's colours and fonts."""
    svg = _HEAD.sub("", svg).strip()
    head, _, drawn = svg.partition(">")
    svg = _NAMES.sub("", head) + ">" + re.sub(r'<g id="[^"]*">', "<g>", drawn).replace("xlink:href", "href")
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    return _COLOUR.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", svg)


def _panels(
    figure: "Figure", columns: int, *, height: float, lines: int = 1, left: float = 0.6, right: float = 0.15,
    top: float = 0.2, gap: float = 0.9,
) -> "list[Axes]":  # fmt: skip
    """Panels with margins in inches, which cost nothing to work out."""
    bottom = 0.55
    width = (WIDTH - left - right - (columns - 1) * gap) / columns
    tall = (height - top - bottom - (lines - 1) * gap) / lines
    return [
        figure.add_axes(
            (
                (left + column * (width + gap)) / WIDTH,
                (bottom + (lines - 1 - line) * (tall + gap)) / height,
                width / WIDTH,
                tall / height,
            )
        )
        for line in range(lines)
        for column in range(columns)
    ]


def _unit(axes: "Axes", x: str, y_label: str, *, y: bool = True) -> None:
    """Axes from 0 to 1, or only the lower one."""
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    if y:
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    else:
        axes.locator_params(axis="y", nbins=5)
    axes.set_xlabel(x)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", linewidth=0.6)


def _plain_axes(axes: "Axes", x: str, y: str) -> None:
    axes.locator_params(nbins=5)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", linewidth=0.6)


def _thousands(axes: "Axes") -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _rows_of(axes: "Axes", labels: Sequence[str]) -> None:
    """One line for each label, the first on top."""
    axes.set_yticks(range(len(labels)), labels, color=INK)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", linewidth=0.6)


def _legend(axes: "Axes") -> None:
    axes.legend(frameon=False, fontsize=10, labelcolor=INK, loc="best")


def _room(labels: Sequence[str]) -> float:
    """Inches that the longest of the labels takes."""
    return 0.3 + 0.092 * max(map(len, labels), default=0)


def _label(text: str, longest: int = LONGEST) -> str:
    """`text` as a label: one line, cut where it is long."""
    shown = _one_line(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _one_line(text: str) -> str:
    """`text` without what cannot be seen, or would turn the writing round."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _wilson(share: "Floats", rows: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> "tuple[Floats, Floats]":
    """95 % interval of a share (Wilson 1927): not outside of 0 and 1, and right for few rows too."""
    import numpy as np

    z = 1.96
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2)) / (1 + z**2 / rows)
    return centre - half, centre + half
