"""The report of a benchmark: words only where the numbers are sure, nothing that a reader would take for more."""

from __future__ import annotations

import re
from typing import Any

import pytest

from understudy.messages.benchmarks import BenchmarkMeasured, BenchmarkProgress, BenchmarkState, TaskScore
from understudy.tools import benchmark_report as report
from understudy.tools.benchmark_run import line_of


def measured(model: str, right: int, of: int, **more: Any) -> BenchmarkMeasured:
    """So many of `of` questions right; `figures` beside that."""
    figures = {"success_ratio": 1.0, **more.pop("figures", {})}
    task = TaskScore(task="questions", items=of, scored=of, score_u=right * 1_000_000, weight=of,
                     weighted_u=right * 1_000_000)  # fmt: skip
    fields: dict[str, Any] = {"bench_id": "b", "suite": "s", "suite_hash": "h", "seed": 0, "tasks": (task,)}
    return BenchmarkMeasured(at_ms=0, model=model, figures=figures, **{**fields, **more})


@pytest.mark.parametrize(
    ("right", "of", "strong", "weak"),
    [(40, 40, 1, 0), (4, 4, 0, 0), (0, 40, 0, 1), (0, 2, 0, 0), (28, 40, 0, 0), (36, 40, 0, 0), (39, 40, 1, 0)],
)
def test_a_word_only_where_the_interval_allows_it(right: int, of: int, strong: int, weak: int) -> None:
    (row,) = report.rows_of([measured("m", right, of)])
    assert sum("good at questions" in one for one in row.strengths) == strong
    assert sum("weak at questions" in one for one in row.weaknesses) == weak


def test_speed_has_a_word_beside_others_alone() -> None:
    def with_pace(pace: float, first: float) -> dict[str, float]:
        return {"tokens_per_s": pace, "first_token_ms_p50": first}

    (alone,) = report.rows_of([measured("m", 1, 2, figures=with_pace(900, 1))])
    assert not any("tokens/s" in one for one in alone.strengths)
    fast, slow = report.rows_of(
        [measured("f", 1, 2, figures=with_pace(150, 10)), measured("s", 1, 2, figures=with_pace(100, 15))]
    )
    assert fast.strengths[-2:] == ["fast (150 tokens/s, the others 100)",
                                   "begins at once (first token after 10 ms, the others 15 ms)"]  # fmt: skip
    assert [one.split(" (")[0] for one in slow.weaknesses] == ["slow", "slow to begin"]
    near, _ = report.rows_of(
        [measured("f", 1, 2, figures=with_pace(149, 11)), measured("s", 1, 2, figures=with_pace(100, 15))]
    )
    assert not any("others" in one for one in near.strengths)


def test_columns_are_those_that_any_model_has() -> None:
    tools = {"tool_right": 0.5, "tool_right_n": 8.0}
    rows = report.rows_of([measured("a", 1, 2), measured("b", 1, 2, figures=tools)])
    assert list(rows[0].shares) == ["success", "tool accuracy", "questions"]
    assert rows[0].shares["tool accuracy"] is None and rows[1].shares["tool accuracy"] == report.Share(0.5, 8)
    lines = report.table([one.measured for one in rows])
    assert "tool accuracy" in lines[0] and "  50 %" in lines[2] and " - " in lines[1]


def test_what_a_reader_must_know_is_said() -> None:
    (half,) = report.notes(
        [measured("a", 1, 2, complete=False, tasks=(TaskScore(task="t", items=30, scored=5, failed=15, skipped=10),))]
    )[:1]
    assert "20 items were asked" in half
    skipped = TaskScore(task="tools", items=4, scored=0, skipped=4)
    said = report.notes(
        [measured("a", 1, 2, rules="interim", complete=False), measured("b", 1, 2, rules="interim", judge="j/1"),
         measured("c", 1, 2, tasks=(skipped,))]
    )  # fmt: skip
    assert len(said) == 4
    assert "interim" in said[0] and "clinician" in said[0]
    away = measured("d", 1, 2, figures={"success_ratio": 1.0, "success_ratio_n": 1}), measured("e", 0, 2)
    (one,) = report.notes(away)
    assert one.startswith("d: 1 of its items never reached it")
    assert report.rows_of(away)[0].shares["success"] == report.Share(1.0, 1)
    assert said[1].startswith("a: not whole") and "j/1, a model" in said[2] and said[3].endswith("any more: c (4).")


def test_the_page_and_the_picture_hold_every_model_and_the_seed() -> None:
    pytest.importorskip("matplotlib")
    from understudy.tools import benchmark_page

    both = (measured("lab/<one>", 9, 9), measured("lab/two", 0, 9, hardware={"cpu": "X", "gpus": []}))
    state = BenchmarkState(bench_id="id-7", begun_ms=1_790_000_000_000, suite="m", suite_hash="abc", seed=41, items=9,
                           models=("lab/<one>", "lab/two"), measured=both, state="finished")  # fmt: skip
    html = benchmark_page.html(state)
    assert all(word in html for word in ("lab/&lt;one&gt;", "lab/two", "41", "abc", "id-7", "Wilson", "100 %"))
    assert "<one>" not in html
    assert benchmark_page.picture(state).png().startswith(b"\x89PNG")
    none = BenchmarkState(bench_id="b", begun_ms=0, suite="m", suite_hash="h", models=("a",), items=1)
    assert "Nothing was measured yet" in benchmark_page.html(none)


def test_a_picture_alone_says_what_a_reader_must_know_and_its_page_says_it_once() -> None:
    pytest.importorskip("matplotlib")
    from understudy.tools import benchmark_page

    one = (measured("a", 1, 2, rules="interim"),)
    state = BenchmarkState(bench_id="b", begun_ms=0, suite="m", suite_hash="h", models=("a",), items=2, measured=one)
    assert "no clinician has judged them" in re.sub(r"\s+", " ", benchmark_page.picture(state).svg())
    assert benchmark_page.html(state).count("no clinician has judged them") == 1


def test_a_name_that_looks_like_a_formula_is_a_name() -> None:
    pytest.importorskip("matplotlib")
    from understudy.tools import benchmark_page

    both = (measured(r"lab/$\frac$", 9, 9), measured("lab/$x$", 0, 9))
    state = BenchmarkState(
        bench_id="b", begun_ms=0, suite="m", suite_hash="h", models=("a", "b"), items=9, measured=both
    )
    assert r"lab/$\frac$" in benchmark_page.picture(state).svg() and "lab/$x$" in benchmark_page.picture(state).svg()
    assert benchmark_page.picture(state).png().startswith(b"\x89PNG")


def test_a_line_of_progress() -> None:
    said = BenchmarkProgress(bench_id="b", model="m", nth_model=2, models=3, done=5, items=10, failed=1, scored=4,
                             score_u=3_000_000, waits="busy")  # fmt: skip
    line = line_of(said)
    assert line == "[##########..........] m (2 of 3): 5 of 10, score 0.75, 1 failed  waits: others use it"
