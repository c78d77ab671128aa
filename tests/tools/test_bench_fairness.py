"""`bench fairness`: its judgement finds what is wrong, and its topology is one."""

from __future__ import annotations

import msgspec
import pytest

from understudy.tools.bench.fairness import CALLERS, FAULTS, Asked, added_wait_ms, share_ratio, starved, topology
from understudy.tools.bench.fairness_hedge import MODELS
from understudy.tools.fake.script import fault_for, parse_faults


def served(user: str, end: str = "finished", at_s: float = 5.0) -> Asked:
    return Asked(user, end, 100.0, at_s)


def test_an_added_wait_is_what_nearly_all_stay_below() -> None:
    assert added_wait_ms([110.0] * 100, [100.0] * 9) == 10.0
    assert added_wait_ms([110.0] * 94 + [400.0] * 6, [100.0] * 9) == 300.0


@pytest.mark.parametrize(("counts", "ratio"), [((10, 10), 1.0), ((12, 10), 1.2), ((40, 4), 10.0), ((40, 0), 40.0)])
def test_the_share_of_one_user_over_anothers(counts: tuple[int, int], ratio: float) -> None:
    most, least = counts
    found = [served("user-0")] * most
    for user in list(CALLERS)[1:]:
        found += [served(user)] * least + [served(user, "overloaded")] * 99 + [served(user, at_s=11.0)] * 99
    assert share_ratio(found, 1.0, 10.0) == ratio


def test_whoever_is_not_served_starved() -> None:
    assert starved([served("u"), served("u", "overloaded"), served("u", "deadline_exceeded")]) == 2


def test_the_stage() -> None:
    found = topology("http://127.0.0.1:9/v1")
    assert sum(CALLERS.values()) == 200 < found.providers["narrow"].queue
    faults = parse_faults(msgspec.json.encode(FAULTS), "faults")
    assert all(fault_for(faults, model) is not None for model in (*MODELS, "steady@1"))
