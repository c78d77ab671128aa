"""Whom an actor answers: components in their inboxes, and actors that the topology has ask as components do."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from tests import waiting
from understudy.actors.host.intake import Intake
from understudy.actors.host.logs import Log
from understudy.actors.host.loop import Host
from understudy.actors.host.permissions import Seat, users
from understudy.actors.host.seats import askers, seats_of
from understudy.actors.host.topology import read
from understudy.bus import sim_loop
from understudy.bus.memory import Broker
from understudy.bus.port import Received
from understudy.bus.provision import BusSpec
from understudy.messages.base import Ask, Message
from understudy.messages.catalogue import ListModels
from understudy.messages.generate import Failed, Generate, Turn
from understudy.messages.step import Asked, Effect, Input, Send
from understudy.messages.topology import ActorPlan
from understudy.messages.wire import decode, encode

ASK = encode(Generate(messages=(Turn(role="user", content="hi"),)))


class Settings(msgspec.Struct, frozen=True):
    """None."""


@pytest.mark.parametrize(
    ("reply", "taken"),
    [
        ("_INBOX.somebody", True),
        ("_INBOX_A.benchmarker-1.01J.run.1.0", True),
        ("_INBOX_A.benchmarker-10.01J.run.1.0", False),
        ("_INBOX_A.cost_ledger-1.x", False),
        ("_INBOX_A.operator.x", False),
        ("tta.evt.request.ended", False),
        ("", True),
    ],
)
def test_answers_to_what_components_ask_go_to_components_and_to_actors_that_ask_it(
    root: Path, reply: str, taken: bool
) -> None:
    topology = read(root / "topology.yaml")
    heard: list[Ask | Message] = []
    inboxes = askers(topology, topology.actors["selector"])
    assert inboxes == ("_INBOX_A.benchmarker-1",)
    intake = Intake(
        "tta", Seat("selector", "selector-1"), max_bytes=10_000, asked=lambda _, message: heard.append(message),
        send=lambda *_: None, log=Log("selector", "selector-1"), askers=inboxes,
    )  # fmt: skip
    intake._take(Generate, Received("tta.ask.model.generate", ASK, reply=reply))
    assert bool(heard) is taken


def test_nobody_else_is_asked_as_components_do(root: Path) -> None:
    topology = read(root / "topology.yaml")
    for actor in ("cost_ledger", "health_tracker", "model_manager", "response_cache"):
        assert all("benchmarker" not in one for one in askers(topology, topology.actors[actor]))


def test_the_benchmarker_may_ask_the_main_job_and_nothing_else(root: Path) -> None:
    topology = read(root / "topology.yaml")
    seats = [process.seat for process in seats_of(topology)]
    found = {
        user.name: user
        for user in users(topology, seats, dict.fromkeys([*(s.instance for s in seats), "operator"], "p"))
    }
    assert [one for one in found["benchmarker-1"].publish if ".ask." in one] == ["tta.ask.model.generate"]
    assert "_INBOX_A.benchmarker-1.>" in found["selector-1"].publish
    assert "_INBOX_A.operator.>" in found["benchmarker-1"].publish and "_INBOX.>" not in found["benchmarker-1"].publish
    assert not any("benchmark" in one for one in found["guest"].publish)


def test_an_answer_that_no_message_holds_is_refused_to_who_waits_for_it() -> None:
    class Clerk(ModuleType):
        """Answers with more than the bus takes."""

        ASKS: dict[str, type[Ask | Message]] = {"model.list": ListModels}
        HEARS = FOLDS = EMITS = SENDS = ()
        Settings, State, Fold = Settings, dict, dict

        @staticmethod
        def step(_: Any, message: Input, __: Any) -> list[Effect]:
            long = Failed(code="internal", text="x" * (9 << 20))
            return [Send(message.reply, long)] if isinstance(message, Asked) else []

    heard: list[Any] = []

    async def main() -> None:
        broker, out = Broker(1, BusSpec()), io.BytesIO()
        plan, seat, log = ActorPlan(asks=tuple(Clerk.ASKS)), Seat("clerk", "clerk-1"), Log("clerk", "clerk-1", out)
        bus: Any = broker.connect("clerk-1")
        host = Host(Clerk("clerk"), bus, plan, seat, app="tta", settings=Settings(), edge=None, log=log)
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(host.run(stop, lambda _: ready.set()))
        await ready.wait()
        caller = broker.connect("caller")
        await caller.subscribe("_INBOX.x", lambda received: heard.append(decode(received.payload)))
        await caller.publish("tta.ask.model.list", encode(ListModels()), reply="_INBOX.x")
        await waiting.until(lambda: bool(heard))
        stop.set()
        await running

    sim_loop.run(main, 60)
    assert heard[0].code == "too_large" and "less at a time" in heard[0].text
