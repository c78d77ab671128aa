"""A short `bench failover` on real processes: what does not depend on the machine's speed must hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from understudy.tools.bench.failover_asks import Seen, whole, wrong
from understudy.tools.bench.failover_cases import CASES, Case, faults

TIMES = {"status_added_ms", "hang_over_limit_ms", "death_noticed_ms", "stop_noticed_ms"}


@pytest.mark.timeout(150)
def test_each_fault_once(root: Path) -> None:
    code = (
        "import sys; from understudy.tools.cli import main; sys.exit(main(['bench', 'failover', '--quick', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=140
    )
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    bars = {bar["id"]: bar["value"] for bar in report["bars"]}
    judged = {name: value for name, value in bars.items() if name not in TIMES}
    wrong = [row for row in report["detail"]["faults"] if row.get("wrong")]
    assert judged.pop("continued_ratio") == 1.0, wrong
    assert judged and not any(judged.values()), (judged, wrong)
    assert set(bars) >= TIMES
    late = report["detail"]["late"]["rows"]
    assert [row["seams"] for row in late] == [["continue"]] * len(late)


PROMPT = "Go on."
TEXT = whole(PROMPT)
GOOD = Seen(
    ms=1.0,
    end="finished",
    attempts=("reset", "ok"),
    text=TEXT,
    finish="stop",
    held=TEXT,
    seams=("continue",),
    seam_count=1,
)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"held": None, "seams": ()}, []),  # a single reply
        ({"end": "all_failed"}, ["end"]),
        ({"attempts": ("reset", "empty", "ok")}, ["attempts"]),
        ({"finish": "length"}, ["finish"]),
        ({"text": TEXT + "!", "held": TEXT + "!"}, ["text"]),
        ({"text": TEXT[:-9], "held": TEXT[:-9]}, ["text", "truncated"]),
        ({"held": TEXT[:-9]}, ["text"]),  # the reader holds another text than the end says
        ({"seams": ("restart",)}, ["seam"]),
        ({"seams": (), "seam_count": 0}, ["seam"]),
        ({"seams": ("continue", "continue"), "seam_count": 2}, ["seam"]),
    ],
)
def test_what_is_wrong_with_an_ask(change: dict[str, object], found: list[str]) -> None:
    assert wrong(Case(fault="reset", seam="continue"), PROMPT, replace(GOOD, **change)) == found


def test_an_error_where_one_is_due_is_no_fault() -> None:
    case = Case(fault="400", attempts=1, end="caller_fault")
    assert wrong(case, PROMPT, Seen(ms=1.0, end="caller_fault", attempts=("caller_fault",))) == []
    assert wrong(case, PROMPT, replace(GOOD, seams=(), seam_count=0)) == ["end", "attempts"]


def test_each_case_has_models_of_its_own_and_a_breaker_that_can_be_closed() -> None:
    ids = [case.model(mode, 0) for case in CASES for mode in "sw" if case.fault != "refused"]
    assert len(ids) == len(set(ids))
    assert {case.fault for case in CASES if case.trips} == set(faults())
    assert {record["fail_every"] for record in faults().values()} == {2}
