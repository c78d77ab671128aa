"""The graph's benches find what they are there to find: broken folds, rows and answers with a fault, kept apart."""

from __future__ import annotations

import json

from understudy.messages.buckets import BOUNDS_US
from understudy.tools.bench.graph.answers import ANSWERS, Known, same
from understudy.tools.bench.graph.dump import faulty
from understudy.tools.bench.graph.reader import bin_of, differences, read, totals
from understudy.tools.bench.graph.workload import DAY, Log
from understudy.tools.bench.project import broken_folds
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
