"""The projector's edge: the log read by position, the graph over Bolt. All orders run beside each other, except that
opening the graph ends whatever was under way: what comes of it is of no use any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from understudy.actors.host.logs import Log
from understudy.actors.projector.place import Held, NotOurs
from understudy.actors.projector.rows import CATALOGUE, FOLDS
from understudy.actors.projector.state import Settings
from understudy.bus.port import Bus, BusError, Received
from understudy.bus.subjects import evt_stream
from understudy.messages.buckets import OutcomeBrief
from understudy.messages.events import Event, RequestEnded
from understudy.messages.graph import (
    BeginHalf,
    CatalogueRead,
    EmptyHalf,
    Fact,
    GraphHeld,
    GraphOpened,
    GraphTrouble,
    GraphWork,
    Half,
    HalfBegun,
    HalfEmptied,
    HalfSummed,
    HalvesSwapped,
    LogRead,
    LogTrouble,
    OpenGraph,
    ReadCatalogue,
    ReadLog,
    RenewLease,
    RowsWritten,
    SumHalf,
    SwapHalves,
    WriteRows,
)
from understudy.messages.step import Input
from understudy.messages.wire import WireError, reader_of, tag_of

if TYPE_CHECKING:
    from understudy.actors.projector.bolt import Graph

LET_GO_S, LOG_AGAIN_S = 1.0, 0.1
STUCK_S = 30.0
"""A graph that takes longer to renew a lease has stopped without saying so, and whatever else it was asked for with it.
"""
OPEN_S = 120.0
MOST_AT_MS = 2**53
PAGE = 1_000
"""Events that are asked for at once."""
_BRIEF = (OutcomeBrief, *(cls for cls in FOLDS if cls is not RequestEnded), *CATALOGUE)


class ProjectorEdge:
    """Performs `messages.graph.GraphWork`."""

    def __init__(self, graph: Graph | None, bus: Bus, app: str, now_ms: Callable[[], float], log: Log) -> None:
        """`graph` None: there is none, and nothing is asked of it."""
        self._graph, self._bus, self._app, self._now_ms, self._log = graph, bus, app, now_ms, log
        self._stream = evt_stream(app)
        self._read = reader_of(_BRIEF)
        names = {f"{app}.evt.{tag_of(cls).rsplit('.', 1)[0]}" for cls in (*FOLDS, *CATALOGUE)}

        @lru_cache(4_096)
        def is_ours(subject: str) -> bool:
            return ".".join(subject.split(".", 4)[:4]) in names

        self._kind_is_ours = is_ours
        self._tasks: set[asyncio.Task[None]] = set()
        self._feed: Callable[[Input], None] = lambda _: None
        self._fence, self._epoch = 0, ""
        self._prepared = False
        self._told = ""  # the last trouble

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Nothing is waited for: a graph that is away is no reason not to start."""
        self._feed = feed
        return {}

    async def stop(self) -> None:
        """End what is under way, give the lease back."""
        await self._end_all()
        if self._graph is not None:
            if self._fence:
                try:
                    await asyncio.wait_for(self._graph.renew(self._fence, 0), LET_GO_S)
                except Exception as error:  # noqa: BLE001 - it ends by itself, whatever was wrong
                    self._log.line("lease_kept", why=_told(error))
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._graph.close(), LET_GO_S)

    def perform(self, effect: GraphWork) -> None:
        """Begin; what comes of it is fed."""
        assert self._graph is not None
        task = asyncio.get_running_loop().create_task(self._do(self._graph, effect))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_all(self) -> None:
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _do(self, graph: Graph, effect: GraphWork) -> None:
        try:
            said = await self._work(graph, effect)
        except Held as held:
            said = GraphHeld(self._now_ms(), held.holder, held.until_ms)
        except Exception as error:  # noqa: BLE001 - whatever it is: a step that gets no answer stands still for good
            self._trouble(type(effect).__name__, _told(error))
            said = GraphTrouble(self._now_ms(), _told(error))
        if said is not None:
            self._feed(said)

    def _trouble(self, doing: str, why: str) -> None:
        """Once for as long as it stays the same: a server that is away is asked for every second."""
        if why != self._told:
            self._log.line("graph_trouble", doing=doing, why=why)
        self._told = why

    def _work(self, graph: Graph, effect: GraphWork) -> Coroutine[Any, Any, Input | None]:
        match effect:
            case OpenGraph():
                return _within(OPEN_S, self._open(graph, effect))
            case ReadCatalogue():
                return self._catalogue(effect)
            case ReadLog():
                return self._log_part(effect)
            case WriteRows():
                return self._write(graph, effect)
            case RenewLease():
                return _within(STUCK_S, self._renew(graph, effect))
            case _:
                return self._half(graph, effect)

    # --- the graph -------------------------------------------------------------------------------------------------

    async def _open(self, graph: Graph, order: OpenGraph) -> Input:
        await self._end_all()
        if not self._prepared:
            await graph.prepare()
            self._prepared = True
        try:
            place = await graph.take(order.holder, self._stream, order.lease_ms)
        except NotOurs:
            self._prepared = False  # somebody has emptied the database
            raise
        self._fence, self._told = place.fence, ""
        state = await self._bus.stream_state(self._stream)
        self._epoch = state.created
        return GraphOpened(
            at_ms=self._now_ms(),
            fence=place.fence,
            serving=await _whole(graph, place.half),
            building=None if place.building is None else await _whole(graph, place.building),
            stream=self._stream,
            epoch=state.created,
            first_seq=state.first_seq,
            head=state.last_seq,
        )

    async def _write(self, graph: Graph, order: WriteRows) -> Input:
        await graph.write(order.prefix, order.fence, order.have, order.upto, order.day, order.rows)
        return RowsWritten(self._now_ms(), order.prefix, order.upto)

    async def _renew(self, graph: Graph, order: RenewLease) -> None:
        await graph.renew(order.fence, order.lease_ms)

    async def _half(self, graph: Graph, order: BeginHalf | SwapHalves | EmptyHalf | SumHalf) -> Input:
        match order:
            case BeginHalf():
                await graph.begin(order.prefix, order.fence, order.epoch, order.schema)
                return HalfBegun(self._now_ms(), order.prefix)
            case SwapHalves():
                await graph.swap(order.prefix, order.fence, order.have)
                return HalvesSwapped(self._now_ms(), order.prefix)
            case EmptyHalf():
                await graph.empty(order.prefix, order.fence)
                return HalfEmptied(self._now_ms(), order.prefix)
            case SumHalf():
                checksum, counts = await graph.checksum(order.prefix)
                return HalfSummed(self._now_ms(), order.prefix, checksum, counts)

    # --- the log ---------------------------------------------------------------------------------------------------

    async def _log_part(self, order: ReadLog) -> Input:
        try:
            state = await self._bus.stream_state(self._stream)
            if state.created != self._epoch or state.last_seq < order.after_seq:
                raise NotOurs("the log is another one than when the graph was opened")
            facts, unknown, seq = list[Fact](), 0, order.after_seq
            while seq < state.last_seq and seq - order.after_seq < order.at_most:
                at_most = min(PAGE, order.at_most - (seq - order.after_seq))
                page = await self._bus.get_many(self._stream, seq + 1, f"{self._app}.evt.>", at_most)
                if not page:
                    seq = state.last_seq
                for received in page:
                    seq = received.seq
                    fact = self._fact(received)
                    if fact is not None:
                        facts.append(fact)
                    elif self._is_ours(received):
                        unknown += 1
        except BusError as error:
            await asyncio.sleep(LOG_AGAIN_S)
            return LogTrouble(self._now_ms(), order.prefix, f"{error.code}: {error}")
        head = max(state.last_seq, seq)
        return LogRead(self._now_ms(), order.prefix, order.after_seq, tuple(facts), seq, head, state.first_seq, unknown)

    async def _catalogue(self, order: ReadCatalogue) -> Input:
        """Each kind by itself, as the server then passes over all others; in the log's order again."""
        names = [f"{self._app}.evt.{tag_of(cls).rsplit('.', 1)[0]}" for cls in CATALOGUE]
        try:
            found = [
                fact
                for name in names
                for subject in (name, f"{name}.>")
                for fact in await self._facts(subject, order.upto)
            ]
        except BusError as error:
            await asyncio.sleep(LOG_AGAIN_S)
            return LogTrouble(self._now_ms(), order.prefix, f"{error.code}: {error}")
        found.sort(key=lambda fact: fact.seq)
        return CatalogueRead(self._now_ms(), order.prefix, tuple(found))

    async def _facts(self, subject: str, upto: int) -> list[Fact]:
        """All on a subject, up to a position."""
        found, seq = list[Fact](), 0
        while seq < upto and (page := await self._bus.get_many(self._stream, seq + 1, subject, PAGE)):
            seq = page[-1].seq
            facts = [self._fact(received) for received in page if received.seq <= upto]
            found += [fact for fact in facts if fact is not None]
        return found

    def _is_ours(self, received: Received) -> bool:
        """Of a kind that the graph folds."""
        return not received.foreign and self._kind_is_ours(received.subject)

    def _fact(self, received: Received) -> Fact | None:
        if not self._is_ours(received):
            return None
        try:
            event = self._read(received.payload)
        except WireError:
            return None
        if not isinstance(event, Event) or not 0 <= event.at_ms < MOST_AT_MS:
            return None
        return Fact(received.seq, event, received.at_ms)


def edge_of(settings: Settings, bus: Bus, app: str, now_ms: Callable[[], float], log: Log) -> ProjectorEdge:
    """For a process; without a graph it stands idle. The driver is imported where there is one alone."""
    if settings.missing:
        return ProjectorEdge(None, bus, app, now_ms, log)
    from understudy.actors.projector.bolt import Graph

    logging.getLogger("neo4j").setLevel(logging.CRITICAL)  # what it retries is no news; what fails we say ourselves
    graph = Graph(settings.uri, settings.user, settings.password, settings.database, now_ms, settings.keep())
    return ProjectorEdge(graph, bus, app, now_ms, log)


async def _whole(graph: Graph, half: Half) -> Half:
    """With what the graph itself knows of it."""
    if not half.prefix:
        return half
    return replace(half, incidents=await graph.incidents(half.prefix), written=await graph.written(half.prefix))


async def _within(seconds: float, work: Coroutine[Any, Any, Input | None]) -> Input | None:
    async with asyncio.timeout(seconds):
        return await work


def _told(error: BaseException) -> str:
    """Of the driver's or the bus's making: statements have parameters, so no figure of the graph is in it."""
    return f"{type(error).__name__}: {error}"[:300]
