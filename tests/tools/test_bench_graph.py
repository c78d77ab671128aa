"""The graph's benches find what they are there to find: broken folds, rows and answers with a fault, kept apart."""

from __future__ import annotations

import json

from understudy.messages.buckets import BOUNDS_US
from understudy.tools.bench.graph.answers import ANSWERS, Known, same
from understudy.tools.bench.graph.dump import faulty
from understudy.tools.bench.graph.reader import bin_of, differences, read, totals
from understudy.tools.bench.graph.workload import DAY, Log
from understudy.tools.bench.project import Projected, Turn, broken_folds, prepared
from understudy.tools.bench.questions import GIVEN, parameters


def log(outcomes: int) -> tuple[Log, list[bytes]]:
    found = Log(outcomes, days=1.0)
    return found, [one.payload for one in found]


def test_the_fold_agrees_with_the_reader_and_broken_ones_do_not() -> None:
    found = broken_folds(2_500)
    assert all(found.values()) and len(found) == 3, found


def test_every_fault_in_rows_is_found() -> None:
    _, payloads = log(3_000)
    right = read(payloads)
    assert differences(right, right) == []
    missed = [name for name, wrong in faulty(right).items() if not differences(right, wrong)]
    assert not missed


def test_the_readers_bins_are_those_of_the_histogram() -> None:
    for edge in BOUNDS_US:
        assert bin_of(edge) == bin_of(edge - 1) + 1
    assert (bin_of(0), bin_of(10**9)) == (0, 23)


def test_answers_with_a_fault_are_not_the_same() -> None:
    made, payloads = log(4_000)
    topology = json.loads(payloads[0])["body"]
    known = Known(read(payloads), topology)
    for name, answer in ANSWERS.items():
        given = parameters(name, made.until - DAY // 2, made.until)
        since, until = given.pop("from"), given.pop("to")
        rows = answer(known, since, until, **given)
        assert rows, name
        assert same(rows, list(reversed(rows)))
        assert not same(rows, rows[1:])
        assert not same(rows, [{**rows[0], next(iter(rows[0])): "another"}, *rows[1:]])
    assert GIVEN


def test_totals_are_sums_of_the_log() -> None:
    _, payloads = log(500)
    events = [json.loads(one) for one in payloads]
    ended = [one for one in events if one["type"] == "request.ended.v1"]
    found = totals(read(payloads))
    assert found["n"] == sum(len(one["attempts"]) for one in ended)
    assert found["tokens_out"] == sum(one["usage"].get("completion_tokens", 0) for one in ended)


def test_rows_for_the_bare_loop_are_cut_at_days_and_hold_all_outcomes() -> None:
    payloads = [one.payload for one in Log(3_000, days=3.0)]
    batches = list(prepared(payloads))
    days = [{at // DAY for _, _, at in rows.buckets} for rows in batches]
    assert [len(one) for one in days] == [1] * len(days) and len(set().union(*days)) == len(days) >= 3
    assert sum(one.n for rows in batches for one in rows.buckets.values()) == totals(read(payloads))["n"]


def test_the_middle_turn_counts() -> None:
    turns = [
        Turn(built_per_s=built, bare_per_s=bare, batches=9, bare_batches=9)
        for built, bare in ((8_000.0, 10_000.0), (5_000.0, 10_000.0), (9_000.0, 9_000.0))
    ]
    one = Projected(
        events=0, buckets=0, rows_wrong=0, wrong=[], totals={}, totals_wrong=0, cold_per_s=9_999.0, turns=turns,
        checksums=[], projections=1, growth_us=[], rounds_us=[],
    )  # fmt: skip
    assert (one.ratio_to_bare(), one.rate()) == (0.8, 8_000.0)
