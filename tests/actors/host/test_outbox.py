"""The way out: at once while the bus takes it, and after an outage in order, once others are back to hear it."""

from __future__ import annotations

import asyncio

from understudy.actors.host.outbox import Outbox
from understudy.bus import sim_loop
from understudy.bus.memory import Broker


def test_after_an_outage_what_waited_is_heard_in_order_by_those_who_come_back_later() -> None:
    async def main() -> list[bytes]:
        broker, got = Broker(1), list[bytes]()
        ours, theirs = broker.connect("ours"), broker.connect("theirs")
        broker.faults.reconnect_s = (0.0, 0.001)
        await theirs.subscribe("inbox", lambda received: got.append(received.payload))
        outbox = Outbox(ours, lambda *_: None)
        writing = asyncio.create_task(outbox.run())
        outbox.send("inbox", b"0", "")
        await asyncio.sleep(0.1)
        assert got == [b"0"], "at once"
        now = asyncio.get_running_loop().time()
        broker.faults.partition("theirs", now + 1.2)
        broker.faults.outage(1.0)
        outbox.send("inbox", b"1", "")
        await asyncio.sleep(1.05)
        assert ours.connected and not theirs.connected
        outbox.send("inbox", b"2", "")
        await asyncio.sleep(1.0)
        outbox.send("inbox", b"3", "")
        await asyncio.sleep(0.1)
        writing.cancel()
        return got

    assert sim_loop.run(main) == [b"0", b"1", b"2", b"3"]
