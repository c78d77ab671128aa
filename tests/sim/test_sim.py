"""The whole system on the simulated bus: thousands of histories, every fault in every state, P1 to P4.

`UNDERSTUDY_HISTORIES=20000 pytest tests/sim` plays more of them; `python tests/sim --jobs 2` prints the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sim.cells import CELLS, table
from sim.play import complaint, hits, play
from sim.world import Outcome, history

HISTORIES = int(os.environ.get("UNDERSTUDY_HISTORIES", "2000"))
FULL = 2000
"""From so many histories on every cell has its hits."""
JOBS = min(4, os.cpu_count() or 1)
HITS = 30


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    return play(0, HISTORIES, JOBS)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_promise_holds_whatever_fails(outcomes: list[Outcome]) -> None:
    broken = [complaint(one) for one in outcomes if one.wrong]
    assert not broken, "\n".join([f"{len(broken)} of {len(outcomes)} histories broke a promise:", *broken[:20]])
    assert len(outcomes) == HISTORIES and all(one.requests >= 20 for one in outcomes)
    assert [one.seed for one in outcomes if len(one.hits) < 5] == [], "at least five faults in each"
    assert sum(one.checked for one in outcomes) > 0.4 * sum(one.requests for one in outcomes), "P1 is looked at"
    assert sum(one.finished for one in outcomes) > 0.7 * sum(one.requests for one in outcomes), "most end well"


@pytest.mark.timeout(1800)
@pytest.mark.skipif(HISTORIES < FULL, reason="the table needs the default number of histories")
def test_every_fault_struck_in_every_state(outcomes: list[Outcome]) -> None:
    struck = hits(outcomes)
    rare = {cell: struck.get(cell, 0) for cell in CELLS if struck.get(cell, 0) < HITS}
    assert not rare, f"cells hit less than {HITS} times: {rare}\n{table(struck)}"


def test_one_seed_is_one_history_in_any_process(root: Path) -> None:
    here = {seed: history(seed).digest for seed in (3, 4, 3)}
    assert here[3] != here[4]
    for hash_seed in ("1", "77"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        for seed, digest in here.items():
            argv = [sys.executable, str(root / "tests" / "sim"), str(seed)]
            there = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=60)
            assert f"trace hash {digest}" in there.stdout
