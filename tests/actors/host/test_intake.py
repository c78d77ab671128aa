"""Whom an actor answers: components in their inboxes, and actors that the topology has ask as components do."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.actors.host.intake import Intake
from understudy.actors.host.logs import Log
from understudy.actors.host.permissions import Seat, users
from understudy.actors.host.seats import askers, seats_of
from understudy.actors.host.topology import read
from understudy.bus.port import Received
from understudy.messages.base import Ask, Message
from understudy.messages.generate import Generate, Turn
from understudy.messages.wire import encode

ASK = encode(Generate(messages=(Turn(role="user", content="hi"),)))


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
