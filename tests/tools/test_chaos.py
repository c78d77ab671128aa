"""The chaos bench: its parts on a table, and one small round on real processes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from understudy.tools.bench.chaos import Size, measure
from understudy.tools.bench.chaos.judge import flip
from understudy.tools.bench.chaos.load import Asked, Ends, Plainly
from understudy.tools.bench.chaos.stage import KINDS
from understudy.tools.bench.chaos.strikes import schedule

SMALL = Size(
    requests=12, in_flight=6, plain=2, deadline_s=20, kills=1, stops=0, min_streams=3, tokens=60, gap_ms=40
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_every_request_gets_its_end_though_everything_is_killed_once(tmp_path: Path) -> None:
    result = await measure(seed=3, rounds=("http",), size=SMALL, keep_in=str(tmp_path))
    (played,) = result.detail["rounds"]
    assert [one.id for one in result.bars if not one.holds] == [], json.dumps(played["verdict"])[:4000]
    assert played["verdict"]["decisions_compared"] >= SMALL.requests


def test_the_same_seed_gives_the_same_schedule() -> None:
    one, again, other = schedule(7, 3, 1), schedule(7, 3, 1), schedule(8, 3, 1)
    assert one == again != other
    for kind in KINDS:
        assert sorted(s.word for s in one if s.kind == kind) == ["kill", "kill", "kill", "stop"]


def test_a_flip_changes_one_byte_of_one_decision() -> None:
    decision = b'{"scores":{"m":0.5},"task":"gr\xc3\xb6\xc3\x9fe"}'
    log = b'{"seq":1,"payload":{"x":1}}\n{"seq":2,"payload":{"decision":' + decision + b',"seal":"s"}}\n'
    begin = log.index(decision)
    for seed in range(300):
        (at,) = [i for i, (a, b) in enumerate(zip(log, flip(log, random.Random(seed)), strict=True)) if a != b]
        assert begin <= at < begin + len(decision)


def test_only_ends_that_differ_in_outcome_are_two() -> None:
    ends = Ends()
    said = {"type": "model.finished.v1", "run_id": "r", "finish_reason": "stop", "model": "m", "last_seq": 3}
    for body in ({**said, "text": "all"}, {**said, "text": None}, {"type": "model.delta.v1", "run_id": "q"}):
        ends.hear(json.dumps(body).encode())
    assert ends.runs == {"r", "q"} and ends.twice() == {}
    ends.hear(json.dumps({"type": "model.failed.v1", "run_id": "r", "code": "text_lost"}).encode())
    assert ends.twice() == {} and ends.said_again() == 1
    ends.hear(json.dumps({"type": "model.failed.v1", "run_id": "r", "code": "interrupted", "last_seq": 3}).encode())
    assert ends.twice() == {"r": ["failed interrupted 3", "failed text_lost -1", "finished stop m 3"]}


@pytest.mark.parametrize(
    ("held", "whole", "wrong"), [("ab", "ab", False), ("a", "ab", True), ("ab", None, False), ("ab", "a", True)]
)
def test_a_finished_text_is_exact_or_wrong(held: str, whole: str | None, wrong: bool) -> None:
    one = Asked(0, "ours", "", "", "ab", 0.0, outcome="finished", text=held, whole=whole)
    assert (one.wrong, one.exact) == (wrong, not wrong)


SEAM = {"type": "model.seam.v1", "keep_seq": 1}


@pytest.mark.parametrize(
    ("heard", "exact", "wrong"),
    [
        ("0 1 2", True, False),
        ("0 1 | 2", True, False),
        ("0 2", False, False),  # it knows what it lost: reported as a loss
        ("0 1 2 | 3", False, True),  # nothing was lost, and the text differs
        ("0 1 2 !3", False, False),  # the delta tells of a seam that never came
    ],
)
def test_a_plain_reader_knows_what_it_lost(heard: str, exact: bool, wrong: bool) -> None:
    reading, words = Plainly(), {"0": "a", "1": "b", "2": "c", "3": "x"}
    for word in heard.split():
        n = word.lstrip("!")
        delta = {"type": "model.delta.v1", "seq": int(n) if n != "|" else 0, "text": words.get(n, "")}
        reading.hear(SEAM if word == "|" else delta | ({"seams": 1} if word[0] == "!" else {}))
    last = int(heard[-1])
    one = Asked(0, "stream", "", "", "abc", 0.0, outcome="finished", text=reading.text, holes=reading.holes(last))
    assert (one.exact, one.wrong) == (exact, wrong)
