"""Judgements of models: how much they weigh beside the operator's word, and that decisions follow them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.selector import core
from understudy.actors.selector.opinions import ITEM_WEIGHT, MEMORY, TASKS, Opinion, judged
from understudy.actors.selector.replay import Record, replay
from understudy.messages.benchmarks import BenchmarkMeasured, TaskScore
from understudy.messages.catalogue import Select, Selected
from understudy.messages.events import FeedbackGiven, TopologyApplied
from understudy.messages.wire import encode, tag_of

TASKED = {"tasks": {"general": {}, "story": {}}}


def given(rating: float, model: str = "a", task: str = "general") -> FeedbackGiven:
    return FeedbackGiven(at_ms=1, run_id="r", rating=rating, model=model, task=task)


def measured(*scores: TaskScore, model: str = "a") -> BenchmarkMeasured:
    return BenchmarkMeasured(at_ms=1, bench_id="b", model=model, suite="s", suite_hash="h", seed=1, tasks=scores)


def score(task: str, items: int, mean: float) -> TaskScore:
    return TaskScore(task=task, items=items, scored=items, score_u=round(mean * items * 1_000_000))


@pytest.mark.parametrize(
    ("ratings", "declared", "quality"),
    [
        ([], 0.8, 0.8),
        ([0.0], 0.8, 0.8 * 20 / 21),
        ([1.0], 0.8, (0.8 * 20 + 1) / 21),
        ([0.5] * 3, 0.5, 0.5),
        ([0.0, 1.0], 0.5, (0.5 * 20 + 1) / (20 + 1 + 100 / 101)),
        ([1.0, 0.0], 0.5, (0.5 * 20 + 100 / 101) / (20 + 1 + 100 / 101)),
    ],
)
def test_the_formula(ratings: list[float], declared: float, quality: float) -> None:
    one = Opinion()
    for rating in ratings:
        one.add(rating, 1.0)
    assert one.quality(declared) == pytest.approx(quality, abs=1e-12)


def test_it_forgets_and_never_weighs_more_than_so_much() -> None:
    one = Opinion()
    for _ in range(5000):
        one.add(0.0, 1.0)
    assert one.weight == pytest.approx(MEMORY + 1) and one.quality(0.9) == pytest.approx(0.9 * 20 / 121)
    for _ in range(70):
        one.add(1.0, 1.0)
    assert one.score / one.weight == pytest.approx(0.5, abs=0.01), "half of what was is gone"


def test_items_of_a_benchmark_weigh_a_fraction() -> None:
    found: dict[str, Opinion] = {}
    judged(found, measured(score("general", 50, 0.3), score("story", 5, 1.0), score("none", 0, 0.0)))
    assert set(found) == {"general", "story"}
    assert (found["general"].weight, found["story"].weight) == (50 * ITEM_WEIGHT, 5 * ITEM_WEIGHT)
    assert found["general"].quality(0.9) == pytest.approx((0.9 * 20 + 0.3 * 10) / 30)


def test_what_is_kept_is_bounded() -> None:
    found: dict[str, Opinion] = {}
    for n in range(TASKS + 10):
        judged(found, given(0.5, task=f"t{n}"))
        judged(found, given(0.5, task="t0"))
    assert len(found) == TASKS and "t0" in found and "t1" not in found


@pytest.mark.parametrize("event", [given(0.0, model=""), given(0.0, task=""), given(0.0, model="gone"), measured()])
def test_what_is_about_nobody_changes_nothing(stage: Any, event: Any) -> None:
    s = stage()
    before = msgspec.json.encode(core.fold_state(s.state).models)
    s.happen(event)
    assert msgspec.json.encode(core.fold_state(s.state).models) == before


def first(s: Any, task: str = "general") -> tuple[str, dict[str, float]]:
    s.put(msgspec.convert({"messages": [{"role": "user", "content": "x"}], "task": task}, Select), "asker")
    best = s.said(Selected, "asker")[-1].chain[0]
    return best.model, best.parts


def test_decisions_follow_ratings_in_their_task_alone(stage: Any) -> None:
    s = stage(**TASKED)
    assert first(s)[0] == first(s, "story")[0] == "a"
    for _ in range(10):
        s.happen(given(0.0))
    assert first(s)[0] == "b" and first(s, "story")[0] == "a"
    assert first(s, "story")[1]["quality"] == 0.9
    for _ in range(60):
        s.happen(given(1.0))
    model, parts = first(s)
    assert model == "a" and parts["quality"] > 0.8


def test_decisions_follow_benchmarks(stage: Any) -> None:
    s = stage(**TASKED)
    s.happen(measured(score("general", 200, 0.1)))
    assert first(s)[0] == "b" and first(s, "story")[0] == "a"


def test_who_is_judged_badly_is_last_but_not_gone(stage: Any) -> None:
    """`min_quality` is about the operator's word: no rating can leave a task without a model."""
    s = stage(tasks={"general": {"min_quality": 0.6}})
    for model in "abc":
        for _ in range(200):
            s.happen(given(0.0, model=model))
    s.put(msgspec.convert({"messages": [{"role": "user", "content": "x"}]}, Select), "asker")
    assert len(s.said(Selected, "asker")[-1].chain) == 3


def test_a_snapshot_keeps_them(stage: Any) -> None:
    s = stage(**TASKED)
    for _ in range(10):
        s.happen(given(0.0))
    kept = msgspec.json.decode(msgspec.json.encode(core.fold_state(s.state)), type=core.Fold)
    other = stage(**TASKED)
    core.restore(other.state, kept)
    other.beat_all()
    assert first(other) == first(s) and first(s)[0] == "b"


def test_a_replay_repeats_decisions_that_rest_on_them(stage: Any) -> None:
    s = stage(**TASKED)
    events: list[Any] = [TopologyApplied(at_ms=0, hash="h1", body=s.topology)]

    def happen(event: Any) -> None:
        events.append(event)
        s.happen(event)

    for n in range(12):
        s.ask(f"r{n}", balance=0.9)
        s.text("x", run=f"r{n}")
        s.ended(run=f"r{n}")
        happen(s.stores("end.")[-1].event)
        happen(given(0.0, model=s.call(f"r{n}").model))
    log = [Record(n, f"tta.evt.{tag_of(type(e)).removesuffix('.v1')}", encode(e)) for n, e in enumerate(events, 1)]
    assert len({s.call(f"r{n}").model for n in range(12)}) > 1, "ratings moved them"
    report = replay(log)
    assert (report.compared, report.differ) == (12, ())
    without = [one for one in log if "feedback" not in one.subject]
    assert replay(without).differ
