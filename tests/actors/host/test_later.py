"""What a step puts off leaves behind what it sends, before anything else is stepped, and without a further input."""

from __future__ import annotations

import asyncio
import io
import json
from types import ModuleType
from typing import Any

import msgspec

from tests import waiting
from understudy.actors.host.logs import Log
from understudy.actors.host.loop import Crashed, Host
from understudy.actors.host.permissions import Seat
from understudy.bus import sim_loop
from understudy.bus.memory import Broker
from understudy.bus.provision import BusSpec
from understudy.messages.base import Ask, Message
from understudy.messages.catalogue import DescribeModel, ListModels, Models
from understudy.messages.generate import Failed
from understudy.messages.step import Asked, Effect, Input, Later, Send
from understudy.messages.topology import ActorPlan
from understudy.messages.wire import decode, encode


class Settings(msgspec.Struct, frozen=True):
    """None."""


def models(n: int) -> Models:
    return Models(as_of_seq=n, models=())


class Clerk(ModuleType):
    """An actor that answers at once, and once more later; asked to describe, it fails later."""

    ASKS: dict[str, type[Ask | Message]] = {"model.list": ListModels, "model.describe": DescribeModel}
    HEARS = FOLDS = EMITS = SENDS = ()
    Settings, State, Fold = Settings, dict, dict

    @staticmethod
    def step(state: Any, message: Input, __: Any) -> list[Effect]:
        match message:
            case Asked(message=ListModels(), reply=reply):
                n = state["n"] = state.get("n", 0) + 2
                return [Later(lambda: [Send(reply, models(n + 1))]), Send(reply, models(n))]
            case Asked(message=DescribeModel()):
                return [Later(lambda: 1 // 0)]  # pyright: ignore[reportReturnType]
            case _:
                return []


def story(ask: Ask, name: str, times: int, heard: list[Any], out: io.BytesIO) -> None:
    async def main() -> None:
        broker = Broker(1, BusSpec())
        plan, seat = ActorPlan(asks=tuple(Clerk.ASKS)), Seat("clerk", "clerk-1")
        host = Host(
            Clerk("clerk"), broker.connect("clerk-1"), plan, seat, app="tta", settings=Settings(), edge=None,
            log=Log("clerk", "clerk-1", out),
        )  # fmt: skip
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(host.run(stop, lambda _: ready.set()))
        await ready.wait()
        caller = broker.connect("caller")
        await caller.subscribe("_INBOX.x", lambda received: heard.append(decode(received.payload)))
        for _ in range(times):
            await caller.publish(f"tta.ask.{name}", encode(ask), reply="_INBOX.x")
        await waiting.until(lambda: len(heard) >= min(2 * times, 4) or running.done())
        stop.set()
        try:
            await running
        except Crashed:
            heard.append("crashed")

    sim_loop.run(main, 60)


def test_what_was_put_off_comes_after_what_was_sent_and_by_itself() -> None:
    heard: list[Any] = []
    story(ListModels(), "model.list", 1, heard, io.BytesIO())
    assert [m.as_of_seq for m in heard] == [2, 3]


def test_what_was_put_off_comes_before_the_next_input() -> None:
    heard: list[Any] = []
    story(ListModels(), "model.list", 2, heard, io.BytesIO())
    assert [m.as_of_seq for m in heard] == [2, 3, 4, 5]


def test_a_failure_of_what_was_put_off_is_its_asker_s() -> None:
    heard: list[Any] = []
    out = io.BytesIO()
    story(DescribeModel(model="m"), "model.describe", 1, heard, out)
    assert isinstance(heard[0], Failed) and heard[0].code == "internal" and heard[-1] == "crashed"
    raised = [line for line in map(json.loads, out.getvalue().splitlines()) if line["event"] == "step_raised"]
    assert [(line["input"], line["error"]) for line in raised] == [("Asked", "ZeroDivisionError")]
