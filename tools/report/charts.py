"""The few pictures of our reports, by matplotlib without a display: PNG to send, SVG to embed.

Colours are Okabe and Ito's, told apart by colour-blind readers; where more series than colours are drawn, line styles
and hatches tell them apart too. In an embedded SVG, words and axes take the colour of the page's own text, so that one
picture does for light and dark.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from understudy.tools.report.page import Html

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C00", "#7F7F7F")
"""Okabe and Ito (2008), without black, which is the text's; their yellow is darkened, as it vanishes on white."""
STYLES = ("-", "--", ":", "-.")
HATCHES = ("", "///", "...", "xxx")
INK, FAINT = "#123456", "#123457"
"""Stand for the page's own text colour until the SVG is made."""
PNG_INK, PNG_FAINT = "#222222", "#D8DCE2"


class Point(NamedTuple):
    """A figure with the interval in which the true one probably lies."""

    value: float
    low: float | None = None
    high: float | None = None


class Chart:
    """A drawn picture."""

    def __init__(self, figure: Any) -> None:
        self._figure = figure

    def png(self, dpi: int = 150) -> bytes:
        """On white."""
        out = io.BytesIO()
        _paint(self._figure, PNG_INK, PNG_FAINT)
        _plain(self._figure)
        self._figure.savefig(out, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
        return out.getvalue()

    def svg(self) -> Html:
        """To embed: its text is text, and it takes the page's colour."""
        import matplotlib as mpl

        out = io.StringIO()
        _paint(self._figure, INK, FAINT)
        _plain(self._figure)
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "understudy"}):
            self._figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = out.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = text.replace(FAINT, "currentColor; stroke-opacity: 0.18").replace(INK, "currentColor")
        return Html(re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text))


def _paint(figure: Any, ink: str, faint: str) -> None:
    """Everything drawn in ink, and what stands behind it, for one output."""

    def inked(artist: Any) -> bool:
        return artist.get_gid() == "ink"

    for one in figure.findobj(inked):
        one.set_color(ink)
    for axes in figure.axes:
        axes.tick_params(colors=ink, which="both", color=faint)
        for line in (*axes.get_xgridlines(), *axes.get_ygridlines(), *axes.spines.values()):
            line.set_color(faint)


def _plain(figure: Any) -> None:
    """No text is mathematics: a model's name may hold dollar signs."""
    from matplotlib.text import Text

    for one in figure.findobj(Text):
        one.set_parse_math(False)


def blank(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """Axes of our looks. No window, no global state: neither `pyplot` nor its list of figures."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    found = Figure(figsize=(width, height), layout="constrained")
    return found, found.subplots(rows, columns, squeeze=False)


def dress(axes: Any, title: str, label: str, grid: str) -> None:
    """Our looks: a title, the axis with the figures named, lines of a grid for that one."""
    for side in ("top", "right", "left" if grid == "x" else "top"):
        axes.spines[side].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, linewidth=0.8)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold").set_gid("ink")
    (axes.set_xlabel if grid == "x" else axes.set_ylabel)(label, fontsize=9).set_gid("ink")
    axes.tick_params(labelsize=9, length=0)


class Panel(NamedTuple):
    """One of several pictures side by side: a bar per name. `top`: where the scale ends (1 for shares); `limit`: a
    threshold, drawn where it is near the figures."""

    title: str
    values: Mapping[str, Point | None]
    unit: str = ""
    top: float | None = None
    digits: int = 0
    limit: float | None = None


def panels(of: Sequence[Panel], columns: int = 4, title: str = "", notes: Sequence[str] = ()) -> Chart:
    """The same names in every panel, a horizontal bar each; whiskers are intervals, no bar: there is no figure.

    `notes` stand below, for a picture that is looked at alone.
    """
    names = list(dict.fromkeys(name for panel in of for name in panel.values))
    columns = min(columns, max(1, len(of)))
    rows = -(-len(of) // columns)
    words = max(1.0, 0.075 * max(map(len, names), default=0))  # so many inches the longest name takes
    width = words + 2.5 * columns
    below = [line for note in notes for line in textwrap.wrap(note, int(14 * width))]
    height = rows * (0.9 + 0.34 * len(names)) + 0.17 * len(below)
    found, grid = blank(width, height, columns, rows)
    for n, axes in enumerate(grid.flat):
        if n >= len(of):
            axes.set_visible(False)
            continue
        _bars(axes, of[n], names)
        if n % columns:
            axes.set_yticklabels([])
    if title:
        found.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold").set_gid("ink")
    if below:
        found.supxlabel("\n".join(below), x=0.01, ha="left", fontsize=8.5, linespacing=1.3).set_gid("ink")
    return Chart(found)


def _bars(axes: Any, panel: Panel, names: Sequence[str]) -> None:
    dress(axes, panel.title, panel.unit, "x")
    top = panel.top or 1.15 * max([p.high or p.value for p in panel.values.values() if p is not None], default=1) or 1
    for n, name in enumerate(names):
        point, colour = panel.values.get(name), COLOURS[n % len(COLOURS)]
        if point is None:
            axes.text(0.02 * top, n, "no figure", va="center", fontsize=8.5, style="italic").set_gid("ink")
            continue
        axes.barh(n, point.value, height=0.62, color=colour, hatch=HATCHES[n // len(COLOURS) % 4], edgecolor="white")
        end = point.value
        if point.low is not None and point.high is not None:
            end = max(end, point.high)
            low, high = max(0.0, point.value - point.low), max(0.0, point.high - point.value)
            line = axes.errorbar(point.value, n, xerr=[[low], [high]], fmt="none", elinewidth=1.4)
            line[2][0].set_gid("ink")
        words = f"{100 * point.value:.0f} %" if panel.top == 1 else f"{point.value:,.{panel.digits}f}"
        place = end + 0.03 * top
        if panel.limit is not None and place - 0.03 * top < panel.limit < place + 0.15 * top:
            place = panel.limit + 0.03 * top  # its line would go through the words
        axes.text(place, n, words, va="center", fontsize=8.5).set_gid("ink")
    if panel.limit is not None and panel.limit <= top:
        axes.axvline(panel.limit, linewidth=1.2, linestyle="--").set_gid("ink")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.set_xlim(0, top * 1.28 if panel.top == 1 else top * 1.12)
    axes.locator_params(axis="x", nbins=4)
    if panel.top == 1:
        axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])


class Mark(NamedTuple):
    """A moment worth a word: `at` on the x axis."""

    at: float
    text: str


def lines(
    series: Mapping[str, Sequence[tuple[float, float | None]]],
    title: str,
    label: str,
    *,
    ticks: Sequence[tuple[float, str]] = (),
    marks: Sequence[Mark] = (),
    bottom: float | None = 0,
    top: float | None = None,
) -> Chart:
    """Figures over time: (x, value) per series, None where there is a gap. `ticks`: what x is called."""
    found, grid = blank(9.2, 3.4)
    axes = grid[0][0]
    dress(axes, title, label, "y")
    for n, points in enumerate(series.values()):
        xs, ys = [x for x, _ in points], [float("nan") if y is None else y for _, y in points]
        style = STYLES[n // len(COLOURS) % len(STYLES)]
        small = 3.5 if len(points) <= 60 else 0
        axes.plot(xs, ys, style, color=COLOURS[n % len(COLOURS)], linewidth=1.8, marker="o", ms=small)
    axes.set_ylim(bottom, top)
    axes.locator_params(axis="y", nbins=6)
    for mark in marks:
        axes.axvline(mark.at, linewidth=1.1, linestyle=":").set_gid("ink")
        place = (mark.at, 0.98)
        words = axes.annotate(mark.text, place, (4, 0), "data", textcoords="offset points", fontsize=8.5, va="top")
        words.xycoords = axes.get_xaxis_transform()
        words.set_gid("ink")
    if ticks:
        axes.set_xticks([x for x, _ in ticks], [word for _, word in ticks])
    if len(series) > 1:
        # named here, as a label of its own that begins with an underscore would be left out
        drawn = axes.lines[: len(series)]
        legend = found.legend(drawn, list(series), loc="outside right upper", frameon=False, fontsize=9)
        for one in legend.get_texts():
            one.set_gid("ink")
    return Chart(found)
