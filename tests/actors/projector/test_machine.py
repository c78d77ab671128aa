"""The projector's step against a graph and a log that fail in every order: it always gets to the head, and what is in
the graph was written once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec.structs import replace

from tests.actors.projector.play import AT, NOTHING, Play, outcome
from understudy.actors.projector.core import Settings, State
from understudy.actors.projector.rows import Rows
from understudy.messages.buckets import DAY_MS
from understudy.messages.generate import Failed
from understudy.messages.graph import (
    BeginHalf,
    CatalogueRead,
    EmptyHalf,
    Fact,
    GraphOpened,
    GraphSum,
    GraphTrouble,
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
    RebuildGraph,
    RenewLease,
    RowsWritten,
    SumGraph,
    SumHalf,
    SwapHalves,
    WriteRows,
)
from understudy.messages.step import EdgeReady, Effect, Input, Send, Stopping, Wake, Woke

SMALL = Settings(uri="bolt://here", read_at_once=7, rows_at_once=3, events_at_once=9)


@dataclass
class Graph:
    """The Projection node's rules, and how many outcomes each half has counted."""

    fence: int = 0
    serving: Half = NOTHING
    building: Half | None = None
    counted: dict[str, int] = field(default_factory=dict[str, int])

    def write(self, order: WriteRows) -> None:
        assert order.fence == self.fence, "who was killed or has heard of trouble writes no more"
        half = next((h for h in (self.serving, self.building) if h is not None and h.prefix == order.prefix), None)
        assert half is not None, f"nobody builds {order.prefix}"
        assert half.seq == order.have < order.upto, "a position is written once, and none is left out"
        rows: Rows = order.rows
        self.counted[order.prefix] = self.counted.get(order.prefix, 0) + sum(b.n for b in rows.buckets.values())
        now = replace(half, seq=order.upto, day=order.day)
        if half is self.serving:
            self.serving = now
        else:
            self.building = now

    def begin(self, order: BeginHalf) -> None:
        assert order.prefix != self.serving.prefix
        self.counted[order.prefix] = 0
        self.building = Half(prefix=order.prefix, epoch=order.epoch, schema=order.schema)

    def swap(self, order: SwapHalves) -> None:
        if self.serving.prefix != order.prefix:
            assert self.building is not None and self.building.prefix == order.prefix
            assert self.building.seq == order.have
            self.serving, self.building = self.building, None

    def empty(self, order: EmptyHalf) -> None:
        assert order.prefix != self.serving.prefix
        assert self.building is None, "what is being built is not what is left over"
        self.counted[order.prefix] = 0


class Projecting(RuleBasedStateMachine):
    """Orders are answered in any order, refused, or done without an answer; the log grows, ends, begins anew."""

    def __init__(self) -> None:
        super().__init__()
        self.graph, self.log, self.epoch, self.now, self.day = Graph(), list[Fact | None](), "e0", 1_000.0, 0
        self.settings = SMALL
        self.sums = 0
        self.live()

    def live(self) -> None:
        """A process that has just been started."""
        self.play = Play(self.settings, self.now, life=f"{self.now}")
        self.orders, self.wakes = list[Effect](), dict[str, Wake]()
        self.sums = 0
        self.tell(EdgeReady(self.now, {}))

    @property
    def state(self) -> State:
        return self.play.state

    def tell(self, message: Input) -> None:
        self.take(self.play.tell(message))

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Wake():
                    self.wakes[effect.key] = effect
                case Send():
                    self.sums -= isinstance(effect.message, (GraphSum, Failed))
                case OpenGraph():
                    self.orders = [effect]  # as the edge: what was under way is ended
                case _:
                    self.orders.append(effect)

    def done(self, order: Any) -> Input | None:
        """What the edge would do and say."""
        now, graph = self.now, self.graph
        if not isinstance(order, (OpenGraph, ReadLog, ReadCatalogue, SumHalf)) and getattr(order, "fence", 0):
            assert order.fence == graph.fence
        match order:
            case OpenGraph():
                graph.fence += 1
                head = len(self.log)
                return GraphOpened(now, graph.fence, graph.serving, graph.building, "S", self.epoch, 1, head)
            case ReadLog():
                state = self.state
                if state.place is not None and state.place.epoch != self.epoch:
                    return GraphTrouble(now, "another log")
                seqs = range(order.after_seq + 1, min(len(self.log), order.after_seq + order.at_most) + 1)
                facts = tuple(fact for seq in seqs if (fact := self.log[seq - 1]) is not None)
                upto = seqs[-1] if seqs else order.after_seq
                return LogRead(now, order.prefix, order.after_seq, facts, upto, len(self.log), 1)
            case ReadCatalogue():
                return CatalogueRead(now, order.prefix, ())
            case WriteRows():
                graph.write(order)
                return RowsWritten(now, order.prefix, order.upto)
            case BeginHalf():
                graph.begin(order)
                return HalfBegun(now, order.prefix)
            case SwapHalves():
                graph.swap(order)
                return HalvesSwapped(now, order.prefix)
            case EmptyHalf():
                graph.empty(order)
                return HalfEmptied(now, order.prefix)
            case SumHalf():
                return HalfSummed(now, order.prefix, "c0ffee", {})
            case _:
                assert isinstance(order, RenewLease), order
                return None

    def perform(self, index: int) -> None:
        said = self.done(self.orders.pop(index))
        if said is not None:
            self.tell(said)

    def wake(self, key: str) -> None:
        wake = self.wakes.pop(key)
        self.now = max(self.now, wake.at_ms)
        self.tell(Woke(self.now, key, wake.generation))

    # --- what may happen -------------------------------------------------------------------------------------------

    @initialize(count=st.integers(0, 60), others=st.integers(0, 40))
    def serves(self, count: int, others: int) -> None:
        """A graph at the head of a log, and some way into a rebuild."""
        self.log_grows(20, True, 0)
        self.goes_well(30, True)
        self.asked(RebuildGraph(), count)
        self.log_grows(others + 1, others % 2 == 0, others % 3)

    @rule(count=st.integers(1, 12), ours=st.booleans(), later=st.sampled_from((0, 0, 0, 1, 2)))
    def log_grows(self, count: int, ours: bool, later: int) -> None:
        self.day += later
        for _ in range(count):
            fact = Fact(len(self.log) + 1, outcome(AT + self.day * DAY_MS))
            self.log.append(fact if ours else None)

    @precondition(lambda self: self.orders)
    @rule(data=st.data())
    def answered(self, data: st.DataObject) -> None:
        self.perform(data.draw(st.integers(0, len(self.orders) - 1)))

    @rule(count=st.integers(1, 60), grows=st.booleans())
    def passes(self, count: int, grows: bool) -> None:
        self.goes_well(count, grows)

    def goes_well(self, count: int, grows: bool) -> None:
        """For a while: the oldest order first, and time passes where there is none."""
        for _ in range(count):
            if self.orders:
                self.perform(0)
            elif self.wakes:
                self.wake(min(self.wakes, key=lambda key: self.wakes[key].at_ms))
                if grows:
                    self.log_grows(1, True, 0)

    @precondition(lambda self: self.wakes)
    @rule(data=st.data())
    def woken(self, data: st.DataObject) -> None:
        self.wake(data.draw(st.sampled_from(sorted(self.wakes))))

    @rule(what=st.sampled_from(("refused", "lost", "killed", "stopped", "schema", "log")), data=st.data())
    def disturbed(self, what: str, data: st.DataObject) -> None:
        match what:
            case "refused" | "lost":
                if self.orders:
                    self.fails(self.orders.pop(data.draw(st.integers(0, len(self.orders) - 1))), what == "lost")
            case "killed":
                self.live()
            case "stopped":
                self.tell(Stopping(self.now))
                assert self.sums == 0, "who waits for a checksum hears of the end"
                self.live()
            case "schema":
                days = 35 if self.settings.hourly_days == 30 else 30
                self.settings = Settings(
                    uri="bolt://here", read_at_once=7, rows_at_once=3, events_at_once=9, hourly_days=days
                )
                self.live()
            case _:
                self.epoch, self.log = f"e{int(self.epoch[1:]) + 1}", []
                for order in [one for one in self.orders if isinstance(one, (ReadLog, ReadCatalogue))]:
                    self.orders.remove(order)
                    self.fails(order, False)

    def fails(self, order: Any, answer_lost: bool) -> None:
        """What it was about may have been done all the same."""
        if isinstance(order, (ReadLog, ReadCatalogue)):
            self.tell(LogTrouble(self.now, order.prefix, "bus_down"))
        else:
            if answer_lost:
                self.done(order)
            self.orders.clear()  # the graph is away: nothing else comes of them either
            self.tell(GraphTrouble(self.now, "gone"))

    @rule(ask=st.sampled_from((RebuildGraph(), SumGraph(), RebuildGraph())), then=st.integers(0, 25))
    def asked(self, ask: Any, then: int) -> None:
        """Refused, where there is no graph; a rebuild is answered with how it stands."""
        self.sums += isinstance(ask, SumGraph) or self.state.place is None
        self.play.now = self.now
        self.take(self.play.ask(ask))
        self.goes_well(then, True)

    # --- and what has to come of it --------------------------------------------------------------------------------

    def teardown(self) -> None:
        """From here on all goes well: then it gets to the head, and rests there."""
        for _ in range(60 + len(self.log)):
            while self.orders:
                self.perform(0)
            for key in sorted(self.wakes):
                self.wake(key)
            self.log_grows(1, True, 0)
        while self.orders:
            self.perform(0)
        for _ in range(3):
            self.wake("tick")
            while self.orders:
                self.perform(0)
        half, facts = self.graph.serving, sum(fact is not None for fact in self.log)
        assert (half.seq, half.epoch, half.schema) == (len(self.log), self.epoch, self.settings.schema())
        assert self.graph.counted[half.prefix] == facts and self.sums == 0
        assert self.graph.building is None and not self.state.rebuild and not self.state.busy
        assert sum(n for prefix, n in self.graph.counted.items() if prefix != half.prefix) == 0, "nothing is left over"


Projecting.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestProjecting = Projecting.TestCase
