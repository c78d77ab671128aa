"""The benches of benchmarks: small runs of each, and what must not pass."""

from __future__ import annotations

import msgspec
import pytest

from understudy.messages.benchmarks import BenchmarkScored
from understudy.tools.bench import polite, suite
from understudy.tools.bench.suite_script import WORTH_U, expected_u, said

IDS = ["script_mismatches", "sums_mismatched", "rerun_mismatches", "scored_twice", "controls_missed"]


def test_the_script_has_right_wrong_and_half_answers_of_every_kind_that_can_be() -> None:
    kinds: dict[str, set[str]] = {}
    for question in suite.suite_of("standard").questions:
        one = said(question)
        kinds.setdefault(question.task, set()).add(one.kind if one is not None else "story")
    both = {"right", "wrong"}
    assert kinds == {"benchmark": {"story"}, "questions": both, "mathematics": both, "narrative": both,
                     "therapeutic": both, "json": {*WORTH_U}, "tools": {*WORTH_U}}  # fmt: skip


def test_an_item_that_is_missing_too_many_or_wrong_is_found() -> None:
    expected = expected_u(suite.suite_of("standard", 3).questions)
    found = {item: scored(item, score_u) for item, score_u in expected.items()}
    assert suite.differ(expected, found) == []
    first = next(iter(expected))
    assert suite.differ(expected, {**found, first: scored(first, 1)}) == [first]
    assert suite.differ(expected, {item: one for item, one in found.items() if item != first}) == [first]
    not_answered = msgspec.structs.replace(found[first], outcome="failed")
    assert suite.differ(expected, {**found, first: not_answered}) == [first]
    assert suite.differ(expected, {**found, "more": scored("more", 0)}) == ["more"]
    assert suite.changed({"m": found}, {"m": found}) == 0
    assert suite.changed({"m": found}, {"m": {**found, first: scored(first, 1)}}) == 1
    assert suite.changed({"m": found}, {}) == 3


def scored(item: str, score_u: int) -> BenchmarkScored:
    return BenchmarkScored(at_ms=0, bench_id="b", model="m", item=item, task="t", outcome="scored", score_u=score_u)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_scores_equal_the_script_and_a_second_run_the_first() -> None:
    pytest.importorskip("torch")
    result = await suite.measure(quick=True)
    assert [one.id for one in result.bars] == IDS
    assert [one.id for one in result.bars if not one.holds] == [], result.detail
    assert suite.LOCAL[0] in suite.explain(result)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_people_and_a_suite_side_by_side() -> None:
    result = await polite.measure(quick=True)
    assert [one.id for one in result.bars] == ["p99_ratio", "control_ratio", "suite_items_done"]
    assert result.bars[2].value >= 1
