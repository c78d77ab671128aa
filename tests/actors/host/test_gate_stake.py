"""What a runner's gate goes by is told at its start: a change of it means another process, and of nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.host.seats import seats_of, stake
from understudy.messages.topology import Topology


def topology(**more: Any) -> Topology:
    raw = {
        "version": 1,
        "providers": {
            "far": {"kind": "openai", "url": "https://far.example/v1"},
            "here": {"kind": "openai", "url": "http://127.0.0.1:1/v1"},
        },
        "models": {"a": {"provider": "far"}, "b": {"provider": "here"}},
        "consent": {"text": "Yes?"},
        "actors": {"runner": {}},
        **more,
    }
    return msgspec.convert(raw, Topology)


def changed(**more: Any) -> list[str]:
    before, after = topology(), topology(**more)
    return [p.provider for p in seats_of(before) if stake(before, p) != stake(after, p)]


@pytest.mark.parametrize(
    "more",
    [
        {"consent": {"text": "Another?"}},
        {"consent": {"text": "Yes?", "providers": {"far": "Another?"}}},
        {"consent": {"text": "Yes?", "without_user": True}},
        {"policy": {"require_judge": False}},
        {"policy": {"judge_ms": 5}},
        {"policy": {"pii": "refuse"}},
    ],
)
def test_a_change_of_the_gate_concerns_the_runners_that_have_one(more: dict[str, Any]) -> None:
    assert changed(**more) == ["far"]


def test_what_selectors_look_at_alone_concerns_no_runner() -> None:
    assert changed(policy={"privacy": "external_allowed"}) == changed() == []


def test_how_long_answers_are_kept_concerns_who_keeps_them() -> None:
    actors = {"actors": {"runner": {}, "response_cache": {}}}
    (before, after) = (topology(**actors, **more) for more in ({}, {"cache": {"ttl_s": 9}}))
    changed = [p.seat.actor for p in seats_of(before) if stake(before, p) != stake(after, p)]
    assert changed == ["response_cache"]
