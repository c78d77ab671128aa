"""Reading now and then on the real server: nothing is missing after a lost message, a lost answer or a restart."""

from __future__ import annotations

from tests.bus.kit import EVT, Until, events
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_fast import Direct
from understudy.bus.server import NatsServer


def losing(bus: NatsBus, lost: list[str]) -> None:
    """From now on the first message with each of these last tokens of its `Nats-Msg-Id` is lost on its way to us."""
    clients = bus.client.direct

    def wrapped(handler: Direct) -> Direct:
        def on_message(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
            mark = (headers or {}).get("Nats-Msg-Id") or (headers or {}).get("Status", "")
            if mark in lost:
                lost.remove(mark)
            else:
                handler(subject, payload, reply, headers)

        return on_message

    for sid, handler in list(clients.items()):
        clients[sid] = wrapped(handler)


async def test_a_lost_message_is_asked_for_again(bus: NatsBus, until: Until) -> None:
    seen: list[int] = []
    reading = await bus.read(EVT, ["tta.evt.>"], lambda m: seen.append(m.seq), every_s=60)
    lost = ["b", "d"]
    losing(bus, lost)
    await bus.store(events(*"abcd"), timeout_s=2)
    reading.look()
    await until(lambda: len(seen) == 4)
    assert seen == [1, 2, 3, 4] and lost == []


async def test_a_lost_end_of_an_answer_is_not_waited_for(bus: NatsBus, until: Until) -> None:
    seen: list[int] = []
    await bus.read(EVT, ["tta.evt.>"], lambda m: seen.append(m.seq), every_s=0.01)
    lost = ["204"]
    losing(bus, lost)
    await bus.store(events(*"ab"), timeout_s=2)
    await until(lambda: not lost)
    await bus.store(events(*"cd"), timeout_s=2)
    await until(lambda: seen == [1, 2, 3, 4])


async def test_after_a_restart_it_goes_on(server: NatsServer, bus: NatsBus, until: Until) -> None:
    seen: list[int] = []
    await bus.read(EVT, ["tta.evt.>"], lambda m: seen.append(m.seq), every_s=60)
    await bus.store(events("a"), timeout_s=2)
    server.restart()
    await until(lambda: seen == [1])  # the reconnect asks, whatever the time
    await bus.store(events("b"), timeout_s=5)
    server.restart()
    await until(lambda: seen == [1, 2])
