"""What the benchmarker counts is what the log says, whatever the order, closed hours and all; and it stays bounded."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.actors.benchmarker.measured import H0, Bench, ended, hourly
from understudy.actors.benchmarker.history import History, pack, unpack
from understudy.messages.benchmarks import BenchmarkMeasured, TaskScore
from understudy.messages.buckets import BINS, HOUR_MS, KINDS, Bucket
from understudy.messages.events import FeedbackGiven
from understudy.messages.generate import Usage
from understudy.messages.money import Charge

COUNTS = st.integers(0, 2**40)
BUCKETS = st.builds(
    Bucket,
    **{name: COUNTS for name in Bucket.__struct_fields__ if name not in ("hist", "errors")},
    hist=st.lists(COUNTS, min_size=BINS, max_size=BINS),
    errors=st.dictionaries(st.sampled_from(KINDS), st.integers(1, 2**40)),
)


def whole(history: History, model: str, task: str | None = None) -> Bucket:
    found = Bucket()
    for _, one in history.hours(model, task, 0, 10**9):
        found.add(one)
    return found


@given(BUCKETS)
def test_a_packed_bucket_is_the_bucket(one: Bucket) -> None:
    assert msgspec.structs.asdict(unpack(pack(one))) == msgspec.structs.asdict(one)


def test_outcomes_of_open_and_of_closed_hours_are_counted_alike() -> None:
    bench, at = Bench(), H0 * HOUR_MS
    charge = Charge(attempt=1, model="b", cost_usd="0.25", by="usage")
    usage = Usage(prompt_tokens=10, completion_tokens=7)
    event = ended(at, ("a", "server_error", 5), ("b", "ok", 900), model="b", charges=(charge,), usage=usage)
    bench.happen(event)
    before = [whole(bench.state.history, model) for model in "ab"]
    assert (before[0].n, before[0].errors) == (1, {"server": 1})
    assert (before[1].ok, before[1].lat_us, before[1].cost_pusd) == (1, 900_000, 250_000_000_000)
    assert (before[1].tokens_in, before[1].tokens_out) == (10, 7)
    bench.happen(ended(at + 3 * HOUR_MS, ("c", "ok", 1)))
    assert not any(hour == H0 for hour in bench.state.history.open)
    assert [whole(bench.state.history, model) for model in "ab"] == before


def test_an_outcome_that_comes_after_its_hour_was_closed_is_counted_all_the_same() -> None:
    bench = Bench()
    bench.tell([*hourly(H0, "a", 3), *hourly(H0 + 5, "a", 1), *hourly(H0, "a", 2, errors=1, task="u")])
    history = bench.state.history
    assert (whole(history, "a").n, whole(history, "a", "t").n, whole(history, "a", "u").err) == (6, 4, 1)


def test_benchmarks_are_kept_apart_and_their_judgements_beside_those_of_people() -> None:
    bench, at = Bench(), H0 * HOUR_MS
    bench.happen(ended(at, ("a", "ok", 7), labels=("benchmark",)))
    bench.happen(FeedbackGiven(at_ms=at, run_id="r", rating=0.5, model="a", task="t"))
    score = TaskScore(task="t", items=4, scored=4, score_u=3_000_000)
    bench.happen(
        BenchmarkMeasured(at_ms=at, bench_id="b", model="a", suite="s", suite_hash="h", seed=1, tasks=(score,))
    )
    people, runs = whole(bench.state.history, "a"), whole(bench.state.history, "a", "benchmark")
    assert (people.n, people.score_n, people.score_u, people.rating_n) == (0, 5, 3_500_000, 1)
    assert runs.ok == 1


def test_an_hour_is_closed_by_a_fact_from_a_while_after_its_end() -> None:
    bench = Bench(grace_ms=120_000)
    bench.happen(ended(H0 * HOUR_MS, ("a", "ok", 7)))
    bench.happen(ended((H0 + 1) * HOUR_MS + 119_999, ("a", "ok", 7)))
    assert bench.state.history.closed_h == H0 - 1
    bench.happen(ended((H0 + 1) * HOUR_MS + 120_000, ("a", "ok", 7)))
    assert bench.state.history.closed_h == H0


def test_what_is_older_than_is_kept_goes_and_older_facts_do_not_come_back() -> None:
    bench = Bench(keep_days=2)
    for day in range(5):
        bench.tell(hourly(H0 + 24 * day, "a" if day else "b", 2))
    history = bench.state.history
    assert min(history.packed["a"]["t"]) >= history.pruned_h >= H0 + 24
    assert "b" not in history.packed and "b" not in history.watched
    kept = msgspec.json.encode(history.packed)
    bench.tell(hourly(H0, "b", 2))
    assert msgspec.json.encode(history.packed) == kept and not history.open.get(H0)


def test_a_bound_on_buckets_holds_whatever_is_to_be_kept() -> None:
    bench = Bench(keep_days=30, keep_buckets=60)
    for hour in range(24 * 40):
        bench.tell(ended((H0 + hour) * HOUR_MS, (model, "ok", 7)) for model in "abc")
    sizes = [len(hours) for tasks in bench.state.history.packed.values() for hours in tasks.values()]
    assert sum(sizes) <= 60 + 3 * 25


@pytest.mark.parametrize("cut", [10, 200, 390])
def test_a_fold_that_goes_on_from_json_is_the_fold(cut: int) -> None:
    events = [e for hour in range(100) for model in "ab" for e in hourly(H0 + hour, model, 2, errors=hour % 2)]
    one, other = Bench(live=False), Bench(live=False)
    one.tell(events)
    other.tell(events[:cut])
    written = msgspec.json.encode(other.state.history)
    other.state.history = msgspec.json.decode(written, type=History)
    other.tell(events[cut:])
    assert other.state.history == one.state.history


def test_a_clock_that_is_wrong_for_a_moment_makes_nothing_forgotten() -> None:
    bench, year = Bench(), H0 + 24 * 365
    for hour in range(H0, H0 + 100):
        bench.tell(hourly(hour, "a", 20, 1))
    usual, history = bench.now, bench.state.history
    bench.tell(hourly(year, "a", 1))
    bench.tell(hourly(H0 + 100, "a", 20, 1))
    assert history.closed_h == H0 + 99
    bench.tell(hourly(year, "a", 9))  # now they are several in a row, and believed
    assert history.closed_h >= year - 1
    for hour in range(H0 + 100, H0 + 102):
        bench.tell(hourly(hour, "a", 20, 1))
    bench.now = usual + 2 * HOUR_MS
    assert history.closed_h == H0 + 100
    (a,) = bench.compare().models
    assert (a.attempts, history.pruned_h < H0) == (103 * 20, True)


def test_facts_after_a_long_silence_are_counted_and_close_the_hours_before() -> None:
    bench = Bench()
    bench.tell([*hourly(H0, "a", 3), *hourly(H0 + 24 * 9, "a", 3)])
    assert bench.state.history.closed_h == H0 + 24 * 9 - 1
    assert bench.compare(window_ms=30 * 24 * HOUR_MS).models[0].attempts == 6
