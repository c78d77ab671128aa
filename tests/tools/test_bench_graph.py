"""The graph's benches find what they are there to find: broken folds, rows and answers with a fault, kept apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.actors.projector.play import Play
from understudy.actors.projector.core import PROJECTS
from understudy.actors.projector.rows import Rows
from understudy.actors.projector.state import Settings
from understudy.messages.buckets import BOUNDS_US, OutcomeBrief
from understudy.messages.events import RequestEnded
from understudy.messages.graph import (
    CatalogueRead,
    Fact,
    GraphOpened,
    Half,
    HalfEmptied,
    LogRead,
    ReadLog,
    RowsWritten,
    WriteRows,
)
from understudy.messages.step import EdgeReady, Woke
from understudy.messages.wire import reader_of
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


@pytest.mark.parametrize(
    ("settings", "at_least"),
    [
        (Settings(uri="bolt://here"), 3),  # by days alone
        (Settings(uri="bolt://here", read_at_once=100, rows_at_once=150), 10),
        (Settings(uri="bolt://here", read_at_once=100, events_at_once=250), 10),
        (Settings(uri="bolt://here", read_at_once=100, events_at_once=70), 30),
    ],
)
def test_rows_for_the_bare_loop_are_cut_as_the_projector_cuts_them(settings: Settings, at_least: int) -> None:
    payloads = [one.payload for one in Log(3_000, days=3.0)]
    found = list(prepared(payloads, settings=settings))
    expected = written_by_the_projector(payloads, settings)
    assert [len(rows) for rows in found] == [len(rows) for rows in expected] and len(found) >= at_least
    assert [rows.buckets for rows in found] == [rows.buckets for rows in expected]
    assert sum(one.n for rows in found for one in rows.buckets.values()) == totals(read(payloads))["n"]


def written_by_the_projector(payloads: list[bytes], settings: Settings) -> list[Rows]:
    """By a step that gets the log page by page, and each batch written at once."""
    decode: Any = reader_of((OutcomeBrief, *(cls for cls in PROJECTS if cls is not RequestEnded)))
    play = Play(settings)
    facts = [Fact(seq, decode(payload)) for seq, payload in enumerate(payloads, 1)]
    play.tell(EdgeReady(1.0, {}))
    empty = Half("Pm", "e", settings.schema())
    orders = play.tell(GraphOpened(play.now, 1, empty, None, "TTA_EVT", "e", 1, len(facts)))
    orders += [*play.tell(HalfEmptied(play.now, "Pm2")), *play.tell(CatalogueRead(play.now, "Pm", ()))]
    found: list[Rows] = []
    for tick in range(3):
        while orders:
            match orders.pop(0):
                case ReadLog(after_seq=after):
                    page = tuple(facts[after : after + settings.read_at_once])
                    told = LogRead(play.now, "Pm", after, page, after + len(page), len(facts), 1)
                case WriteRows(upto=upto, rows=rows):
                    found.append(rows)
                    told = RowsWritten(play.now, "Pm", upto)
                case _:
                    continue
            orders += play.tell(told)
        orders = play.tell(Woke(play.now, "tick", tick))
    return found


def test_the_middle_turn_counts() -> None:
    turns = [
        Turn(before_per_s=before, bare_per_s=bare, after_per_s=after, batches=9, bare_batches=9)
        for before, bare, after in (
            (8_000.0, 10_000.0, 8_000.0),
            (4_000.0, 6_000.0, 2_000.0),
            (9_000.0, 9_000.0, 9_000.0),
        )
    ]
    one = Projected(
        events=0, buckets=0, rows_wrong=0, wrong=[], totals={}, totals_wrong=0, cold_per_s=9_999.0, turns=turns,
        checksums=[], projections=1, growth_us=[], rounds_us=[],
        large_checksums=[], days_wrong=[],
    )  # fmt: skip
    assert (one.ratio_to_bare(), one.rate()) == (0.8, 8_000.0)
