"""While too many facts wait for the log, what would end in another one is refused, the rest is answered."""

from __future__ import annotations

import asyncio
import io
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tests import waiting
from understudy.actors.host import storer
from understudy.actors.host.logs import Log
from understudy.actors.host.loop import Host
from understudy.actors.host.permissions import Seat
from understudy.bus import sim_loop
from understudy.bus.memory import Broker
from understudy.bus.memory_bus import MemoryBus
from understudy.bus.provision import BusSpec
from understudy.messages.base import Ask, Message
from understudy.messages.catalogue import GiveFeedback, ListModels, Models, PinModel, Select
from understudy.messages.events import ModelCleared
from understudy.messages.generate import Failed, Generate
from understudy.messages.step import Asked, Effect, Input, Send, Store
from understudy.messages.topology import ActorPlan
from understudy.messages.wire import decode, encode


class Settings(msgspec.Struct, frozen=True):
    """None."""


class Clerk(ModuleType):
    """An actor that stores a fact per pin and lists no models."""

    ASKS: dict[str, type[Ask | Message]] = {"model.pin": PinModel, "model.list": ListModels}
    HEARS = FOLDS = EMITS = SENDS = ()
    Settings, State, Fold = Settings, dict, dict

    @staticmethod
    def step(_: Any, message: Input, __: Any) -> list[Effect]:
        match message:
            case Asked(message=PinModel(conversation_id=conversation)):
                return [Store(ModelCleared(at_ms=0, conversation=conversation), f"id.{message.id}")]
            case Asked(message=ListModels()):
                return [Send(message.reply, Models(as_of_seq=0, models=()))]
            case _:
                return []


PIN = PinModel(conversation_id="c")


async def ask(bus: MemoryBus, name: str, message: Ask, reply: str = "") -> None:
    await bus.publish(f"tta.ask.{name}", encode(message), reply=reply)


def test_asks_that_would_store_are_refused_while_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storer, "BUSY", 5)

    async def story() -> None:
        broker = Broker(1, BusSpec())
        plan, seat = ActorPlan(asks=tuple(Clerk.ASKS)), Seat("clerk", "clerk-1")
        log = Log("clerk", "clerk-1", io.BytesIO())
        bus = broker.connect("clerk-1")
        host = Host(Clerk("clerk"), bus, plan, seat, app="tta", settings=Settings(), edge=None, log=log)
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(host.run(stop, lambda _: ready.set()))
        await ready.wait()
        caller = broker.connect("caller")
        heard: list[Any] = []
        await caller.subscribe("_INBOX.x", lambda received: heard.append(decode(received.payload)))
        broker.faults.answer_loss = 1.0
        for _ in range(5):
            await ask(caller, "model.pin", PIN)
        await waiting.until(lambda: host.storer.pending == 5)
        await ask(caller, "model.pin", PIN, "_INBOX.x")
        await ask(caller, "model.list", ListModels(), "_INBOX.x")
        await waiting.until(lambda: len(heard) == 2)
        refused = next(one for one in heard if isinstance(one, Failed))
        assert refused.code == "bus_down" and "5 events wait" in refused.text
        assert any(isinstance(one, Models) for one in heard) and host.storer.pending == 5
        broker.faults.answer_loss = 0.0
        await waiting.until(lambda: not host.storer.pending, within_s=60)
        await ask(caller, "model.pin", PIN)
        await waiting.until(lambda: broker.stream("TTA_EVT").last == 6)
        stop.set()
        await running

    sim_loop.run(story, 600)


def test_which_asks_store() -> None:
    assert [cls.stores for cls in (Generate, GiveFeedback, PinModel, Select, ListModels)] == [True] * 3 + [False] * 2
