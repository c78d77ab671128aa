"""Reports: pages that ask nobody for anything and pictures that a page's colours reach."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from understudy.tools.report import page

pytest.importorskip("matplotlib")

from understudy.tools.report import charts

EVIL = "<script>alert('x')</script> & \"quoted\""


class _Reader(HTMLParser):
    """Every element, and every address that a browser would ask."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asks: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.asks += [value or "" for name, value in attrs if name in ("src", "href", "action", "xlink:href")]
        if tag not in ("meta", "br", "img", "link", "path", "use", "rect", "defs") or tag == "defs":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.asks += [value or "" for name, value in attrs if name in ("src", "href", "action", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _drawn() -> charts.Chart:
    bars = {"one": charts.Point(0.5, 0.3, 0.7), "other": None}
    return charts.panels([charts.Panel("Success", bars, top=1), charts.Panel("Speed", bars, "tokens/s")])


def test_a_page_is_whole_and_asks_nobody() -> None:
    rows = [["first", page.Cell("3", "good", 0.5, "of 6"), None], [EVIL, "4", EVIL]]
    text = page.page(
        EVIL,
        page.section("Models", page.table(["model", "n", "words"], rows, [2], EVIL), page.figure(_drawn().svg(), EVIL)),
        page.tiles([("5", "items", "good")]),
        page.note(EVIL),
        page.facts({"seed": EVIL}),
        page.listing([EVIL]),
        lead=EVIL,
        foot=EVIL,
    )
    reader = _Reader()
    reader.feed(text)
    assert reader.open == []
    assert "script" not in reader.seen and "link" not in reader.seen
    assert [one for one in reader.asks if not one.startswith("#")] == []
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)
    assert text.count("&lt;script&gt;") == 11  # once each, and the title twice


def test_a_missing_figure_is_a_dash_and_a_share_is_drawn() -> None:
    text = page.table(["model", "a", "b"], [["x", None, page.Cell("7", share=2.0)]])
    assert '<td class="figure dim">–</td>' in text
    assert "width:100.0%" in text


def test_pictures_are_the_same_each_time_and_take_the_pages_colour() -> None:
    first, second = _drawn(), _drawn()
    svg = first.svg()
    ET.fromstring(svg)
    assert svg == second.svg()
    assert "currentColor" in svg and charts.INK not in svg and charts.FAINT not in svg
    assert "no figure" in svg and "50 %" in svg
    png = first.png()
    assert png.startswith(b"\x89PNG") and png == second.png()


def test_lines_leave_gaps_where_there_is_no_figure() -> None:
    drawn = charts.lines(
        {"a": [(0, 1.0), (1, None), (2, 3.0)], "b": [(0, 2.0), (2, 1.0)]},
        "Latency",
        "ms",
        ticks=[(0, "Mon"), (2, "Wed")],
        marks=[charts.Mark(1, "drifted")],
    )
    svg = drawn.svg()
    ET.fromstring(svg)
    assert all(word in svg for word in ("Latency", "Mon", "Wed", "drifted", ">a<", ">b<"))


@pytest.mark.parametrize("name", ["lab/$x^{$", "a$b$c", "_hidden", EVIL, "--><script>1</script><!--"])
def test_names_are_drawn_as_they_are(name: str) -> None:
    """Not as mathematics, not as markup; and a legend leaves none out."""
    from understudy.tools.report import timelines

    points = [(0, 1.0), (3_600_000, 2.0)]
    row = timelines.Row(name, [timelines.Line(name, points)])
    for chart in (
        charts.panels([charts.Panel(name, {name: charts.Point(0.5)})]),
        charts.lines({name: points, "b": points}, "Latency", "ms", ticks=[(0, name)], marks=[charts.Mark(1, name)]),
        timelines.timelines([row], 0, 3_600_000),
    ):
        svg = chart.svg()
        assert name in ["".join(one.itertext()).strip() for one in ET.fromstring(svg).iter()]
        assert "<script" not in svg
        assert chart.png().startswith(b"\x89PNG")
