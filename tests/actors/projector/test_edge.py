"""The projector's edge: whatever becomes of an order, the step hears of it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from tests.actors.projector.test_bolt import AT, begun, clock, ended, graph, rows
from understudy.actors.host.logs import Log
from understudy.actors.projector import edge as edges
from understudy.actors.projector.bolt import Graph
from understudy.actors.projector.place import Retention
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import api
from understudy.bus.port import Bus, Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.messages.graph import GraphOpened, GraphTrouble, LogRead, OpenGraph, ReadLog, RenewLease, WriteRows
from understudy.messages.step import Input
from understudy.messages.wire import encode

pytestmark = pytest.mark.timeout(120)
__all__ = ["clock", "graph"]
SUBJECT = "tta.evt.request.ended"


class Told:
    """An edge, and what it says."""

    def __init__(self, graph: Graph, bus: Bus | None = None) -> None:
        self.said = asyncio.Queue[Input]()
        self.edge = edges.ProjectorEdge(graph, cast("Bus", bus), "tta", lambda: 1.0, Log("projector", "projector-1"))

    async def about(self, order: Any) -> Input:
        await self.edge.start(self.said.put_nowait)
        self.edge.perform(order)
        return await asyncio.wait_for(self.said.get(), 20)


async def test_a_number_that_no_graph_can_hold_is_trouble_and_no_silence(graph: Graph) -> None:
    fence = await begun(graph)
    some = rows(ended(AT, "a"))
    next(iter(some.buckets.values())).n = 2**70
    said = await Told(graph).about(WriteRows("Pm", fence, 0, 9, 20_000, some))
    assert isinstance(said, GraphTrouble) and "Overflow" in said.text


async def test_a_server_that_takes_connections_and_never_answers_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "STUCK_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"bolt://127.0.0.1:{server.getsockname()[1]}"
        silent = Graph(uri, "", "", "neo4j", lambda: 1.0, Retention())
        assert isinstance(await Told(silent).about(RenewLease(1, 5_000)), GraphTrouble)
        await silent.close()


async def test_a_log_that_was_made_anew_is_noticed_while_it_is_read(graph: Graph, tmp_path: Path) -> None:
    server = NatsServer(tmp_path, sync="2m").start()
    bus = await NatsBus.open(server.url, name="test")
    try:
        await provision(bus, BusSpec(evt_max_bytes=10_000_000, trace_max_bytes=1_000_000))
        ahead = ended(2**60, "a")  # a time that no graph can hold: counted as one that could not be read
        events = [Outgoing(SUBJECT, encode(one), f"{n}") for n, one in enumerate((ended(AT, "a"), ahead))]
        await bus.store(events, timeout_s=5)
        told = Told(graph, bus)
        opened = await told.about(OpenGraph("me", 5_000))
        assert isinstance(opened, GraphOpened) and opened.head == 2
        read = await told.about(ReadLog("Pm", 0, 10))
        assert isinstance(read, LogRead) and (len(read.facts), read.upto, read.unknown) == (1, 2, 1)
        assert read.facts[0].stored_ms > AT
        await api(bus.client, "STREAM.DELETE.TTA_EVT", timeout_s=5)
        await provision(bus, BusSpec(evt_max_bytes=10_000_000, trace_max_bytes=1_000_000))
        await bus.store([Outgoing(SUBJECT, encode(ended(AT, "a")), f"again {n}") for n in range(5)], timeout_s=5)
        said = await told.about(ReadLog("Pm", 2, 10))
        assert isinstance(said, GraphTrouble) and "another" in said.text
    finally:
        await bus.close()
        await asyncio.to_thread(server.stop)
