"""The port's promises, once for every bus: publish and subscribe, requests, services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.bus.kit import EVT, events
from tests.bus.stories import Play, World
from understudy.bus.port import BusDown, BusError, Closed, NoResponders, NotAnInbox, Received, TooLarge


def test_send_keeps_its_place_among_publishes(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        seen: list[Received] = []
        await b.subscribe("s.*", seen.append)
        for i in range(0, 100, 2):
            await a.publish("s.x", b"%d" % i)
            a.send("s.x", b"%d" % (i + 1), reply="r")
        assert seen == [], "handlers never run inside send"
        await world.until(lambda: len(seen) == 100)
        assert [int(m.payload) for m in seen] == list(range(100))
        assert seen[1] == Received("s.x", b"1", "r")
        gone: list[Received] = []
        await a.subscribe("gone.x", gone.append)
        a.send("nobody.here", b"", reply="gone.x")
        await world.until(lambda: len(gone) == 1)
        assert gone[0].no_responders
        with pytest.raises(TooLarge):
            a.send("s.x", b"x" * ((1 << 20) + 1))
        await a.close()
        with pytest.raises(Closed):
            a.send("s.x", b"")

    play(story)


def test_publish_and_subscribe_in_order(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        seen: list[Received] = []
        own: list[Received] = []
        subscription = await b.subscribe("s.x", seen.append)
        await a.subscribe("s.x", own.append)
        await a.publish("s.x", b"0", reply="r")
        assert seen == [], "handlers never run inside publish"
        for i in range(1, 200):
            await a.publish("s.x", b"%d" % i)
        await world.until(lambda: len(seen) == 200 and len(own) == 200)
        assert seen[0] == Received("s.x", b"0", "r")
        assert [int(m.payload) for m in seen] == list(range(200))
        await subscription.stop()
        await subscription.stop()
        await a.publish("s.x", b"")
        await world.until(lambda: len(own) == 201)
        assert len(seen) == 200

    play(story)


def test_wildcards(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        seen: dict[str, list[str]] = {p: [] for p in ("a.*", "a.>", "a.*.c", "*.b", "a.b")}
        for pattern, subjects in seen.items():
            await bus.subscribe(pattern, lambda m, subjects=subjects: subjects.append(m.subject))
        for subject in ("a", "a.b", "a.b.c", "x.b", "a.b.d"):
            await bus.publish(subject, b"")
        await world.until(lambda: len(seen["a.>"]) == 3)
        assert seen == {
            "a.*": ["a.b"],
            "a.>": ["a.b", "a.b.c", "a.b.d"],
            "a.*.c": ["a.b.c"],
            "*.b": ["a.b", "x.b"],
            "a.b": ["a.b"],
        }

    play(story)


def test_a_queue_group_delivers_once(play: Play) -> None:
    async def story(world: World) -> None:
        sender, one, two = [await world.connect(n) for n in ("s", "1", "2")]
        first: list[bytes] = []
        second: list[bytes] = []
        everything: list[bytes] = []
        await one.subscribe("q", lambda m: first.append(m.payload), queue="g")
        await two.subscribe("q", lambda m: second.append(m.payload), queue="g")
        await two.subscribe("q", lambda m: everything.append(m.payload))
        for i in range(100):
            await sender.publish("q", b"%d" % i)
        await world.until(lambda: len(everything) == 100 and len(first) + len(second) >= 100)
        await world.quiet(sender)
        assert first and second
        assert sorted(first + second) == sorted(everything)

    play(story)


def test_no_responders(play: Play) -> None:
    async def story(world: World) -> None:
        bus, other = await world.connect(), await world.connect()
        seen: list[Received] = []
        elsewhere: list[Received] = []
        inbox = bus.new_inbox()
        await bus.subscribe(inbox + ".>", seen.append)
        await bus.publish("nobody", b"x", reply=f"{inbox}.1")
        await world.until(lambda: len(seen) == 1)
        assert seen[0].no_responders and (seen[0].subject, seen[0].payload) == (f"{inbox}.1", b"")
        with pytest.raises(NoResponders):
            await bus.request("nobody", b"", timeout_s=2)
        subscription = await other.subscribe("nobody", elsewhere.append)
        await bus.publish("nobody", b"x", reply=f"{inbox}.2")
        await world.until(lambda: len(elsewhere) == 1)
        await subscription.stop()
        with pytest.raises(NoResponders):
            await bus.request("nobody", b"", timeout_s=2)
        assert len(seen) == 1

    play(story)


def test_request(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        tasks: list[asyncio.Task[None]] = []

        def answer(message: Received) -> None:
            if message.payload != b"silence":
                tasks.append(asyncio.create_task(b.publish(message.reply, message.payload[::-1])))

        await b.subscribe("ask", answer)
        answers = await asyncio.gather(*(a.request("ask", b"a%d" % i, timeout_s=2) for i in range(10)))
        assert [m.payload for m in answers] == [b"%da" % i for i in range(10)]
        with pytest.raises(BusDown):
            await a.request("ask", b"silence", timeout_s=0.05)
        await asyncio.gather(*tasks)

    play(story)


def test_too_large(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        seen: list[Received] = []
        await bus.subscribe("s", seen.append)
        most = bus.max_payload
        with pytest.raises(TooLarge):
            await bus.publish("s", b"x" * (most + 1))
        with pytest.raises(TooLarge):
            await bus.publish("s", b"x" * most, headers={"A": "b"})
        with pytest.raises(TooLarge):
            await bus.request("s", b"x" * (most + 1), timeout_s=1)
        with pytest.raises(TooLarge):
            await bus.store(events("a", payload=b"x" * most), timeout_s=1)
        with pytest.raises(TooLarge):
            await bus.store(events(*map(str, range(1001))), timeout_s=1)
        await bus.publish("s", b"x" * most)
        await world.until(lambda: len(seen) == 1)
        assert await bus.last_seq(EVT) == 0

    play(story)


def test_serve(play: Play) -> None:
    async def story(world: World) -> None:
        a, b, c = [await world.connect(n) for n in "abc"]
        tasks: list[asyncio.Task[None]] = []
        calls: list[str] = []

        def handler(bus: Any, name: str) -> Callable[[Received], None]:
            def handle(message: Received) -> None:
                calls.append(name)
                if message.payload == b"bad":
                    raise LookupError
                if message.reply:
                    tasks.append(asyncio.create_task(bus.publish(message.reply, name.encode())))

            return handle

        services = [
            await bus.serve("echo", "1.2.3", "", {"tta.ask.e.e": handler(bus, n)}) for bus, n in ((b, "b"), (c, "c"))
        ]
        answers = [await a.request("tta.ask.e.e", b"", timeout_s=2) for _ in range(30)]
        assert {m.payload for m in answers} == {b"b", b"c"} and len(calls) == 30, "one member answers each"
        with pytest.raises(BusError, match="handler failed"):
            await a.request("tta.ask.e.e", b"bad", timeout_s=2)
        assert isinstance(world.errors[0], LookupError)
        ping = json.loads((await a.request("$SRV.PING.echo", b"", timeout_s=2)).payload)
        assert (ping["name"], ping["version"], ping["type"]) == ("echo", "1.2.3", "io.nats.micro.v1.ping_response")
        info = json.loads((await a.request("$SRV.INFO.echo", b"", timeout_s=2)).payload)
        assert [(e["subject"], e["queue_group"]) for e in info["endpoints"]] == [("tta.ask.e.e", "echo")]
        pings: list[str] = []
        inbox = a.new_inbox()
        await a.subscribe(inbox, lambda m: pings.append(json.loads(m.payload)["id"]))
        await a.publish("$SRV.PING", b"", reply=inbox)
        await world.until(lambda: len(set(pings)) == 2)
        for service in services:
            await service.stop()
        for subject in ("tta.ask.e.e", "$SRV.PING.echo"):
            with pytest.raises(NoResponders):
                await a.request(subject, b"", timeout_s=1)
        await asyncio.gather(*tasks)

    play(story)


def test_what_is_asked_after_an_unsettled_subscription_is_answered_there(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        await b.subscribe("ask.me", lambda m: b.send(m.reply, m.payload))
        got: list[bytes] = []
        for n in range(20):
            inbox = a.new_inbox()
            await a.subscribe(inbox, lambda m: got.append(m.payload), settle=False)
            a.send("ask.me", b"%d" % n, reply=inbox)
        await world.until(lambda: len(got) == 20)
        assert sorted(map(int, got)) == list(range(20))

    play(story)


def test_a_service_answers_inboxes_and_nowhere_else(play: Play) -> None:
    """The server checks no reply subject: what is answered wherever an asker points could be written into the log."""

    async def story(world: World) -> None:
        asker, server, witness = [await world.connect(n) for n in ("asker", "server", "witness")]
        taken: list[str] = []
        heard: list[Received] = []

        def answer(message: Received) -> None:
            taken.append(message.reply)
            if message.payload == b"bad":
                raise LookupError
            if message.reply:
                server.send(message.reply, b"answer")

        service = await server.serve("echo", "1.2.3", "", {"tta.ask.e.e": answer})
        await witness.subscribe("tta.>", lambda m: None if ".ask." in m.subject else heard.append(m))
        await witness.subscribe("_INBOX_A.>", heard.append)
        for reply in ("tta.evt.a.b", "tta.obs.a.b", "_INBOX", "_INBOXES.a", "x_INBOX.a"):
            for payload in (b"good", b"bad"):
                await asker.publish("tta.ask.e.e", payload, reply=reply)
        for reply in ("tta.evt.a.b", "tta.obs.a.b", "_INBOX_A.somebody.x"):
            for verb in ("PING", "INFO", "STATS"):
                for tail in ("", ".echo"):
                    await asker.publish(f"$SRV.{verb}{tail}", b"", reply=reply)
        assert (await asker.request("tta.ask.e.e", b"", timeout_s=2)).payload == b"answer"
        await asker.request("$SRV.PING.echo", b"", timeout_s=2)
        await world.quiet(server)
        await world.quiet(witness)
        assert heard == [] and await server.last_seq(EVT) == 0
        assert len(taken) == 1 and [type(e) for e in world.errors] == [NotAnInbox] * 10
        await asker.publish("tta.ask.e.e", b"", reply="_INBOX_A.somebody.x")
        await asker.publish("tta.ask.e.e", b"")
        await world.until(lambda: len(taken) == 3 and len(heard) == 1)
        await service.stop()

    play(story)
