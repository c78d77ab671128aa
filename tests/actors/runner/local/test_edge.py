"""The edge over a real engine: nothing is fed while a step is being performed."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.actors.runner.local.engines import LEAD
from tests.waiting import until
from understudy.actors.runner.local_edge import LocalEdge
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.step import CallFailed, CallModel, CancelCall, Input
from understudy.messages.topology import Model

RUN = RunModel(
    run_id="r",
    attempt=0,
    model="m",
    messages=(Turn(role="user", content="Look around."),),
    parameters=Parameters(max_tokens=300, temperature=0.0, top_p=1.0, seed=1),
    remaining_ms=60_000.0,
)


async def test_a_full_engine_is_told_after_the_step_that_asked_it() -> None:
    fed: list[Input] = []
    edge = LocalEdge("m", Model(provider="here", slots=1), LEAD, lambda: 0.0)
    await edge.start(fed.append)
    edge.perform(CallModel("a", RUN))
    edge.perform(CallModel("b", RUN))
    assert fed == []
    await until(lambda: CallFailed(0.0, "b", "busy") in fed)
    edge.perform(CancelCall("a"))
    edge.perform(CallModel("c", RUN))  # as a probe makes room for a request
    await until(lambda: CallFailed(0.0, "a", "cancelled") in fed)
    await edge.stop()
    assert CallFailed(0.0, "c", "busy") not in fed
