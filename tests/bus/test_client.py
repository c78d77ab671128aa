"""What the client promises about changes and about requests that nobody would take, on the simulated bus."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.bus import sim_loop
from understudy.bus.client import AnswerFailed, Change, Client
from understudy.bus.memory import Broker
from understudy.bus.port import Outgoing, Received
from understudy.bus.provision import BusSpec
from understudy.messages.catalogue import Models
from understudy.messages.events import ModelRecovered
from understudy.messages.wire import encode


def recovered(n: int) -> Outgoing:
    event = ModelRecovered(at_ms=n, model="m", was="unavailable", by="probe")
    return Outgoing("tta.evt.model.recovered.m", encode(event), f"e{n}")


def test_a_change_that_the_answering_selector_has_not_read_yet_is_not_missed() -> None:
    """Stored, and said, before we listened; and the list that comes first does not know it."""

    async def story() -> None:
        broker = Broker(1, BusSpec())
        selector, client = broker.connect("selector"), Client(broker.connect("component"))

        def on_list(ask: Received) -> None:
            selector.send(ask.reply, encode(Models(as_of_seq=1, models=())))

        await selector.subscribe("tta.ask.model.list", on_list)
        for n in (1, 2):
            await selector.store([recovered(n)], timeout_s=1)
        seen: list[int] = []
        async for change in client.changes():
            if isinstance(change, Change):
                seen.append(change.seq)
            elif not seen:
                await selector.store([recovered(3)], timeout_s=1)
            if seen and seen[-1] == 3:
                break
        assert seen == [2, 3]
        await client.close()

    sim_loop.run(story, 60)


@pytest.mark.parametrize(
    ("prompt", "fields", "path"),
    [
        ("x", {"max_tokens": 0}, "$.max_tokens"),
        ("x", {"temprature": 1.0}, "$"),
        ("x", {"temperature": float("nan")}, "$.temperature"),
        ("x", {"requirements": {"max_usd_per_mtok": float("inf")}}, "$"),
        ("x", {"requirements": {"location": "moon"}}, "$.requirements.location"),
        ([{"role": "user", "content": "x"}, {"role": "bard", "content": "x"}], {}, "$.messages[1].role"),
        ([], {}, "$.messages"),
    ],
)
def test_what_nobody_would_take_is_refused_with_its_path(prompt: Any, fields: dict[str, Any], path: str) -> None:
    async def story() -> None:
        client = Client(Broker(1, BusSpec()).connect("component"))
        with pytest.raises(AnswerFailed) as generated:
            client.generate(prompt, **fields)
        with pytest.raises(AnswerFailed) as selected:
            await client.select(prompt, **fields)
        for one in (generated.value.failed, selected.value.failed):
            assert (one.code, one.path) == ("invalid", path), one

    sim_loop.run(story, 60)
