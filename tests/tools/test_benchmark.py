"""Tables, pictures and pages of comparisons and trends; and what is said without matplotlib."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.actors.benchmarker.measured import H0, Bench, hourly
from understudy.messages.buckets import HOUR_MS
from understudy.messages.comparison import Comparison, TrendsFound
from understudy.messages.events import FeedbackGiven
from understudy.tools.benchmark_compare import sentences, table
from understudy.tools.benchmark_pictures import (
    add_files,
    comparison_chart,
    comparison_page,
    trends_chart,
    trends_page,
    write,
)
from understudy.tools.benchmark_trends import text, words


@pytest.fixture(scope="module")
def shown() -> tuple[Comparison, TrendsFound]:
    """Of two models: one that got slower and has judgements, one with few calls."""
    bench = Bench()
    for hour in range(H0, H0 + 100):
        bench.tell(hourly(hour, "a", 40, hour % 3, ms=900 if hour < H0 + 90 else 9_000))
        bench.happen(FeedbackGiven(at_ms=hour * HOUR_MS, run_id="r", rating=0.8, model="a", task="t"))
    bench.tell(hourly(H0 + 99, "b", 3))
    return bench.compare(), bench.trends()


def asked(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_files(parser)
    return parser.parse_args(options)


def test_a_table_marks_thresholds_and_says_what_is_too_few(shown: Any) -> None:
    lines = table(shown[0])
    row = next(line for line in lines if line.startswith("a "))
    assert "ok" in row and "FAILS" in row and row.endswith("latency_ms")
    assert any("too few to compare (3 calls of b)" in line for line in lines)


def test_trends_say_changes_and_drift_by_time(shown: Any) -> None:
    lines = text(shown[1])
    rose = next(n for n, line in enumerate(lines) if "latency rose from 900 ms to 9,000 ms" in line)
    assert any("drift, noticed" in line and "latency worse" in line for line in lines[rose - 1 : rose + 2])


def test_files_of_every_kind(shown: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    compared, went = shown
    png, svg, page = (tmp_path / name for name in ("a.png", "a.svg", "a.html"))
    options = asked("--png", str(png), "--svg", str(svg), "--html", str(page))
    said = sentences(compared.pairs)
    assert write(options, lambda: comparison_chart(compared), lambda found: comparison_page(compared, said, found)) == 0
    assert png.read_bytes().startswith(b"\x89PNG") and svg.read_text().startswith("<svg")
    assert "currentColor" not in svg.read_text() and "<svg" in page.read_text() and "too few" in page.read_text()
    assert write(options, lambda: trends_chart(went), lambda found: trends_page(went, words, found)) == 0
    assert "Shaded" in page.read_text() and "latency rose from" in page.read_text()


def test_without_matplotlib_there_is_a_page_without_a_picture_and_a_word_about_it(
    shown: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    went, page = shown[1], tmp_path / "a.html"
    only_page, picture = asked("--html", str(page)), asked("--png", str(tmp_path / "a.png"))
    assert write(only_page, lambda: trends_chart(went), lambda found: trends_page(went, words, found)) == 0
    assert "<svg" not in page.read_text() and "latency rose from" in page.read_text()
    assert write(picture, lambda: trends_chart(went), lambda found: trends_page(went, words, found)) == 1
    assert "understudy[analysis]" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_a_line_and_exit_code_1(
    shown: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    went, where = shown[1], str(tmp_path / "no" / "a.html")
    assert write(asked("--html", where), lambda: trends_chart(went), lambda found: trends_page(went, words, found)) == 1
    assert "cannot write" in capsys.readouterr().err
