"""Every call ends once: by itself, at a limit, at once where it cannot be asked, when cancelled, late or stopped."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.actors.runner.local.engines import LEAD, ask
from understudy.actors.runner.local import Event, Failed, Finished, GenerateSpec, Text

pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_exactly_one_final_event_and_token_counts(both: Any) -> None:
    running = both(LEAD, slots=6, context=256)
    calls = {
        "stop": ask("stop", max_tokens=250),
        "length": ask("length", max_tokens=7),
        "stop_string": ask("stop_string", max_tokens=250, stop=("You",)),
        "deadline": ask("deadline", deadline_monotonic=time.monotonic() - 1),
        "bad_prompt": ask("bad_prompt", temperature=float("nan")),
        "context_too_long": ask("context_too_long", "go north " * 300),
    }
    for name, ended in zip(calls, running.submit(*calls.values()), strict=True):
        assert (ended.reason if isinstance(ended, Finished) else ended.code) == name
        told = [event for event in running.events if event.call_id == name]
        assert [event for event in told if not isinstance(event, Text)] == [ended] == told[-1:]
        if isinstance(ended, Finished) and name != "stop_string":
            assert sum(event.tokens for event in told[:-1]) == ended.completion_tokens
    assert running.last("length").completion_tokens == 7


@pytest.mark.parametrize(
    "spec",
    [
        ask("x", max_tokens=0),
        ask("x", temperature=-1.0),
        ask("x", top_p=0.0),
        ask("x", "half a pair: \ud800"),
    ],
)
def test_what_cannot_be_asked_is_refused_without_content(spec: GenerateSpec, run: Any) -> None:
    (ended,) = run(LEAD).submit(spec)
    assert isinstance(ended, Failed)
    assert ended.code == "bad_prompt"
    assert "pair" not in ended.detail


def test_max_tokens_is_cut_to_the_room_that_is_left(run: Any) -> None:
    running = run(LEAD, context=64)
    (ended,) = running.submit(ask("a", max_tokens=1000))
    assert isinstance(ended, Finished)
    assert ended.reason == "length"
    assert ended.prompt_tokens + ended.completion_tokens == running.engine.info.context_tokens == 64


def test_busy_when_full_and_free_with_the_last_event(both: Any) -> None:
    running = both(LEAD, slots=2, begin=False)
    assert running.engine.submit(ask("a", max_tokens=5))
    assert running.engine.submit(ask("b", max_tokens=5))
    assert not running.engine.submit(ask("c"))
    with pytest.raises(ValueError, match="open"):
        running.engine.submit(ask("a"))
    again: list[bool] = []

    def on_events(events: list[Event]) -> None:
        if any(isinstance(e, Finished) for e in events) and not again:
            again.append(running.engine.submit(ask("d", max_tokens=3)))

    running.on_events = on_events
    running.engine.start()
    assert isinstance(running.last("d"), Finished)
    assert again == [True]


def test_the_place_of_a_cancelled_call_is_free_at_once(both: Any) -> None:
    running = both(LEAD, slots=1, begin=False)
    assert running.engine.submit(ask("first", max_tokens=300))
    running.engine.cancel("first")
    assert running.engine.submit(ask("second", max_tokens=3))
    assert not running.engine.submit(ask("third"))
    running.engine.start()
    assert [type(running.last(name)) for name in ("first", "second")] == [Failed, Finished]
    for i in range(30):  # while the engine is anywhere in its work
        assert running.engine.submit(ask(f"probe{i}", max_tokens=300))
        running.engine.cancel(f"probe{i}")
        assert running.engine.submit(ask(f"request{i}", max_tokens=2))
        assert isinstance(running.last(f"request{i}"), Finished)
        assert isinstance(running.last(f"probe{i}"), Failed)


def test_cancel_takes_effect_within_two_steps(both: Any) -> None:
    running = both(LEAD, begin=False)
    passes, at_cancel, at_end = [0], [0], [0]
    running.engine._loaded.model.register_forward_hook(lambda *args: passes.__setitem__(0, passes[0] + 1))

    def on_events(events: list[Event]) -> None:
        told = len(running.tokens.get("a", []))
        if told == 10 and not at_cancel[0]:
            at_cancel[0] = passes[0]
            running.engine.cancel("a")
        if any(isinstance(e, Failed) for e in events):
            at_end[0] = passes[0]

    running.on_events = on_events
    running.engine.start()
    ended, other = running.submit(ask("a", max_tokens=300), ask("b", "Go north.", max_tokens=50))
    assert isinstance(ended, Failed)
    assert ended.code == "cancelled"
    assert at_end[0] - at_cancel[0] <= 2
    assert isinstance(other, Finished)
    running.engine.cancel("a")  # ended: ignored
    running.engine.cancel("never seen")


def test_speed_limit_and_deadline_and_stop(both: Any) -> None:
    running = both(LEAD, tokens_per_s=100.0)
    begin = time.monotonic()
    running.submit(ask("a", max_tokens=31))
    assert time.monotonic() - begin >= 29 / 100  # 30 gaps, and one to spare for the clock
    (late,) = running.submit(ask("b", max_tokens=300, deadline_monotonic=time.monotonic() + 0.2))
    assert isinstance(late, Failed)
    assert late.code == "deadline"
    beat = running.engine.heartbeat_monotonic
    assert running.engine.submit(ask("c", max_tokens=300))
    assert running.engine.stop()
    ended = running.last("c")
    assert isinstance(ended, Failed)
    assert ended.code == "cancelled"
    assert running.engine.heartbeat_monotonic > beat
    assert not running.engine.submit(ask("d"))
