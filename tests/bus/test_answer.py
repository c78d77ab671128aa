"""When a component's request is offered again and when it is given up, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from understudy.bus import sim_loop
from understudy.bus.answer import NOBODY_S, Answer, AnswerFailed
from understudy.bus.memory import Broker
from understudy.bus.port import Received
from understudy.bus.provision import BusSpec
from understudy.messages.generate import Failed, Finished, Generate
from understudy.messages.wire import encode

FINISHED = msgspec.convert(
    {"type": "model.finished.v1", "run_id": "r", "text": "Once.", "model": "m", "finish_reason": "stop", "usage": {}}
    | {"parameters": {"max_tokens": 5, "temperature": 0.0, "top_p": 1.0, "seed": 1}, "attempts": ()},
    Finished,
)


def asked(deadline_ms: int, hear: Any) -> tuple[Answer, Any, list[float]]:
    """An answer that is waited for, a selector that handles each ask by `hear`, and when it was asked."""
    broker, times = Broker(1, BusSpec()), list[float]()
    caller, selector = broker.connect("caller"), broker.connect("selector")
    tasks: set[asyncio.Task[None]] = set()

    def on_ask(ask: Received) -> None:
        times.append(asyncio.get_running_loop().time())
        message = hear(len(times))
        if message is not None:
            tasks.add(asyncio.create_task(selector.publish(ask.reply, encode(message))))

    raw = {"messages": [{"role": "user", "content": "Tell."}], "stream": True, "deadline_ms": deadline_ms}
    listen = selector.subscribe("tta.ask.model.generate", on_ask, queue="selector")
    return Answer(caller, "tta", msgspec.convert(raw, Generate), set()), listen, times


def test_who_is_there_but_silent_is_asked_again_until_the_deadline() -> None:
    """A stopped selector takes its share of the asks; one of the repeats reaches another."""

    async def story() -> None:
        answer, listen, times = asked(60_000, lambda n: FINISHED if n == 20 else None)
        await listen
        assert (await answer).text == "Once."
        assert times[-1] - times[0] > 3 * NOBODY_S

    sim_loop.run(story, 3600)


@pytest.mark.parametrize("deadline_ms", [4_000, 30_000])
def test_silence_ends_at_the_deadline(deadline_ms: int) -> None:
    async def story() -> None:
        began = asyncio.get_running_loop().time()
        answer, listen, _ = asked(deadline_ms, lambda _: None)
        await listen
        with pytest.raises(AnswerFailed) as failed:
            await answer
        assert failed.value.code == "deadline_exceeded"
        assert deadline_ms / 1000 <= asyncio.get_running_loop().time() - began <= deadline_ms / 1000 + 5

    sim_loop.run(story, 3600)


def test_where_nobody_listens_it_is_given_up_soon() -> None:
    async def story() -> None:
        began = asyncio.get_running_loop().time()
        answer, listen, times = asked(60_000, lambda _: Failed(code="internal", text=""))
        listen.close()
        with pytest.raises(AnswerFailed) as failed:
            await answer
        assert failed.value.code == "bus_down" and times == []
        assert NOBODY_S <= asyncio.get_running_loop().time() - began <= NOBODY_S + 2

    sim_loop.run(story, 3600)
