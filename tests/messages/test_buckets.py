"""Counting outcomes: integers only, so that neither order nor grouping changes a sum."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from understudy.messages.benchmarks import BenchmarkMeasured, TaskScore
from understudy.messages.brief import AttemptBrief
from understudy.messages.buckets import (
    BINS,
    BOUNDS_US,
    HOUR_MS,
    Bucket,
    ChargeBrief,
    Counted,
    OutcomeBrief,
    UsageBrief,
    count,
    quantile_ms,
)
from understudy.messages.events import FeedbackGiven
from understudy.messages.generate import Attempt, Usage
from understudy.messages.run import RunFailure

AT = 500_000 * HOUR_MS
WORDS = ("ok", "hedged", *RunFailure.__args__)

attempts = st.builds(
    AttemptBrief,
    model=st.sampled_from(("a", "b/c:d")),
    outcome=st.sampled_from(WORDS),
    first_token_ms=st.none() | st.floats(0, 1e5),
    total_ms=st.floats(-5, 1e6),
)
outcomes = st.builds(
    OutcomeBrief,
    at_ms=st.integers(AT, AT + 3 * HOUR_MS),
    run_id=st.just("r"),
    outcome=st.just("finished"),
    task=st.sampled_from(("t", "u")),
    model=st.none() | st.just("a"),
    attempts=st.lists(attempts, max_size=3).map(tuple),
    usage=st.builds(UsageBrief, prompt_tokens=st.integers(0, 9999), completion_tokens=st.integers(0, 9999)),
    charges=st.lists(st.builds(ChargeBrief, model=st.just("a"), cost_usd=st.just("0.000001")), max_size=2).map(tuple),
    labels=st.sampled_from(((), ("benchmark",))),
)


def fold(events: list[Counted]) -> dict[tuple[str, str, int], Bucket]:
    found: dict[tuple[str, str, int], Bucket] = {}
    for event in events:
        count(event, lambda model, task, at: found.setdefault((model, task, at), Bucket()))
    return found


@given(st.lists(outcomes, max_size=12), st.data())
def test_neither_order_nor_grouping_changes_a_sum(events: list[OutcomeBrief], data: st.DataObject) -> None:
    whole = fold(list(events))
    shuffled = data.draw(st.permutations(events))
    cut = data.draw(st.integers(0, len(events)))
    first, second = fold(shuffled[:cut]), fold(shuffled[cut:])
    for key, bucket in second.items():
        first.setdefault(key, Bucket()).add(bucket)
    assert first == whole
    for bucket in whole.values():
        assert bucket.ok + bucket.err <= bucket.n
        assert sum(bucket.hist) == bucket.ok
        assert sum(bucket.errors.values()) == bucket.err


def test_what_counts_for_whom() -> None:
    event = OutcomeBrief(
        at_ms=AT + 5,
        run_id="r",
        outcome="finished",
        task="t",
        model="b",
        attempts=(
            AttemptBrief(model="a", outcome="stall_timeout", total_ms=5000.0),
            AttemptBrief(model="c", outcome="hedged", total_ms=10.0),
            AttemptBrief(model="b", outcome="ok", first_token_ms=12.5, total_ms=100.0015),
        ),
        usage=UsageBrief(prompt_tokens=312, completion_tokens=57),
        charges=(ChargeBrief(model="a", cost_usd="0.000002"), ChargeBrief(model="b", cost_usd="0.5")),
    )
    found = fold([event])
    a, b, c = (found[(model, "t", AT)] for model in "abc")
    assert (a.n, a.ok, a.err, a.errors, a.cost_pusd) == (1, 0, 1, {"timeout": 1}, 2_000_000)
    assert (c.n, c.ok, c.err) == (1, 0, 0)
    assert (b.n, b.ok, b.lat_us, b.lat_max_us, b.ttft_us, b.ttft_n) == (1, 1, 100_002, 100_002, 12_500, 1)
    assert (b.tokens_in, b.tokens_out, b.cost_pusd) == (312, 57, 500_000_000_000)
    assert b.hist[2] == 1  # 100 ms: the third half octave


def test_judgements_of_people_and_benchmarks() -> None:
    given_ = FeedbackGiven(at_ms=AT, run_id="r", rating=0.5, model="a", task="t")
    unknown = FeedbackGiven(at_ms=AT, run_id="gone", rating=0.5)
    measured = BenchmarkMeasured(
        at_ms=AT, bench_id="b", model="a", suite="s", suite_hash="h", seed=1,
        tasks=(TaskScore(task="t", items=4, scored=3, failed=1, score_u=2_250_000),),
    )  # fmt: skip
    found = fold([given_, unknown, measured])
    one = found[("a", "t", AT)]
    assert list(found) == [("a", "t", AT)]
    assert (one.score_u, one.score_n, one.rating_u, one.rating_n, one.n) == (2_750_000, 4, 500_000, 1, 0)


def test_what_a_benchmark_asked_is_kept_apart() -> None:
    event = OutcomeBrief(
        at_ms=AT, run_id="r", outcome="finished", task="t", model="a", labels=("benchmark",),
        attempts=(AttemptBrief(model="a", outcome="ok", total_ms=1.0),),
    )  # fmt: skip
    assert list(fold([event])) == [("a", "benchmark", AT)]


def test_a_brief_reads_what_a_whole_event_says() -> None:
    """The light forms name fields of the whole ones."""
    for brief, whole in ((AttemptBrief, Attempt), (UsageBrief, Usage)):
        assert set(brief.__struct_fields__) <= set(whole.__struct_fields__)


@given(st.lists(st.integers(0, 200_000_000), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bin_of_the_true_one(took: list[int], share: float) -> None:
    one = Bucket()
    for us in took:
        one.attempt(AttemptBrief(model="a", outcome="ok", total_ms=us / 1000))
    found = quantile_ms(one.hist, share)
    rank = min(len(took), max(1, -(-share * len(took) // 1)))
    true_us = sorted(took)[int(rank) - 1]
    assert found is not None
    low = max([0, *(edge for edge in BOUNDS_US if edge <= true_us)])
    high = min([*(edge for edge in BOUNDS_US if edge > true_us), float("inf")])
    assert low <= found * 1000 + 1 and found * 1000 <= high + 1


def test_bounds_are_half_octaves() -> None:
    assert len(BOUNDS_US) == BINS - 1
    assert BOUNDS_US[1] == 100_000 and BOUNDS_US[-1] == round(50_000 * 2**11.5)
    assert msgspec.json.decode(msgspec.json.encode(Bucket(n=3)), type=Bucket) == Bucket(n=3)
