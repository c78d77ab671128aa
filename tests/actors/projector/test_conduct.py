"""The projector's step: what it asks for next, whatever the graph and the log say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.actors.projector.play import AT, NOTHING, Play, outcome
from understudy.actors.projector import cypher
from understudy.actors.projector.core import Settings, in_hand
from understudy.messages.buckets import DAY_MS, HOUR_MS
from understudy.messages.generate import Failed
from understudy.messages.graph import (
    AskGraphStatus,
    BeginHalf,
    CatalogueRead,
    EmptyHalf,
    Fact,
    GraphHeld,
    GraphOpened,
    GraphStatus,
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
from understudy.messages.step import EdgeReady, Effect, Send, Stopping, Wake, Woke

SETTINGS = Settings(uri="bolt://here", events_at_once=2)
MANY = Settings(uri="bolt://here")
SERVING = Half(prefix="Pm", epoch="e", schema=SETTINGS.schema(), seq=7, day=20_000)


def facts(first: int, count: int, at: int = AT) -> tuple[Fact, ...]:
    return tuple(Fact(seq, outcome(at)) for seq in range(first, first + count))


class Conducted(Play):
    """What a graph and a log may answer it."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        super().__init__(settings)

    def opened(self, serving: Half = SERVING, building: Half | None = None, head: int = 9, fence: int = 3) -> Any:
        return self.tell(GraphOpened(self.now, fence, serving, building, "TTA_EVT", "e", 1, head))

    def read(self, first: int, count: int, head: int = 99, prefix: str = "Pm", at: int = AT) -> list[Effect]:
        last = first + count - 1
        return self.tell(LogRead(self.now, prefix, first - 1, facts(first, count, at), last, head, 1))

    def status(self) -> GraphStatus:
        (sent,) = [one.message for one in self.ask(AskGraphStatus()) if isinstance(one, Send)]
        assert isinstance(sent, GraphStatus)
        return sent

    def going_on(self) -> Conducted:
        """At 7, the fold is known, a page of the log is on its way."""
        self.tell(EdgeReady(1.0, {}))
        self.opened()
        self.tell(HalfEmptied(self.now, "Pm2"))
        self.tell(CatalogueRead(self.now, "Pm", ()))
        return self


def of(kind: Any, effects: list[Effect]) -> list[Any]:
    return [one for one in effects if isinstance(one, kind)]


def test_without_a_graph_it_stands_idle_and_says_why() -> None:
    play = Conducted(Settings(missing="pip install it"))
    assert play.tell(EdgeReady(1.0, {})) == []
    assert (play.status().state, play.status().trouble) == ("off", "pip install it")
    (refused,) = play.ask(SumGraph())
    assert isinstance(refused, Send) and isinstance(refused.message, Failed)


def test_it_opens_the_graph_under_a_name_of_this_life() -> None:
    assert Conducted().tell(EdgeReady(1.0, {})) == [OpenGraph("projector-1.ID", SETTINGS.lease_ms)]


def test_an_empty_database_is_begun_and_serves_at_once() -> None:
    play = Conducted()
    (begin,) = of(BeginHalf, play.opened(NOTHING))
    assert begin == BeginHalf("Pm", 3, "e", SETTINGS.schema())
    assert play.tell(HalfBegun(play.now, "Pm")) == [SwapHalves("Pm", 3, 0)]
    assert play.tell(HalvesSwapped(play.now, "Pm")) == [ReadLog("Pm", 0, SETTINGS.read_at_once)]


def test_it_goes_on_where_the_graph_is() -> None:
    play = Conducted()
    assert of(ReadCatalogue, play.opened()) == [ReadCatalogue("Pm", 7)]
    assert play.tell(CatalogueRead(play.now, "Pm", ())) == [ReadLog("Pm", 7, SETTINGS.read_at_once)]


def test_it_reads_while_it_writes_and_writes_one_batch_at_a_time() -> None:
    play = Conducted().going_on()
    write, read = play.read(8, 2)
    assert isinstance(write, WriteRows) and (write.have, write.upto, write.fence) == (7, 9, 3)
    assert read == ReadLog("Pm", 9, SETTINGS.read_at_once)
    assert of(WriteRows, play.read(10, 5)) == [], "one is on its way"
    (again,) = of(WriteRows, play.tell(RowsWritten(play.now, "Pm", 9)))
    assert (again.have, again.upto) == (9, 14)
    assert again.rows.buckets["a", "t", AT].n == 5


def test_a_batch_ends_with_its_day() -> None:
    play = Conducted(MANY).going_on()
    today, tomorrow = facts(8, 2), facts(10, 2, AT + DAY_MS)
    (write,) = of(WriteRows, play.tell(LogRead(play.now, "Pm", 7, (*today, *tomorrow), 11, 11, 1)))
    assert (write.upto, write.day, write.rows.sweep) == (9, 20_000, 0)
    assert write.rows.ready == list(cypher.batch(write.rows, 0)) != []
    (after,) = of(WriteRows, play.tell(RowsWritten(play.now, "Pm", 9)))
    assert (after.have, after.upto, after.day, after.rows.sweep) == (9, 11, 20_001, 20_001)


def test_a_batch_that_is_made_ready_holds_hours_as_long_as_the_graph_does() -> None:
    play = Conducted(MANY).going_on()
    first, last = AT - SETTINGS.hourly_days * DAY_MS - HOUR_MS, AT - SETTINGS.hourly_days * DAY_MS
    told = (*facts(8, 1), *facts(9, 1, first), *facts(10, 1, last), *facts(11, 1, AT + DAY_MS))
    (write,) = of(WriteRows, play.tell(LogRead(play.now, "Pm", 7, told, 11, 11, 1)))
    ready = dict(write.rows.ready)
    assert sorted(row["at"] for row in ready[cypher.BUCKETS]) == [last, AT] and len(ready[cypher.DAYS]) == 3
    gone = SETTINGS.keep().gone(write.day)
    assert write.rows.ready == list(cypher.batch(write.rows, gone))


def test_what_comes_in_now_and_then_is_looked_for_with_every_tick_and_written_at_once() -> None:
    play = Conducted(MANY).going_on()
    for n, seq in enumerate((8, 9), 1):
        (write,) = play.read(seq, 1, head=seq)
        assert isinstance(write, WriteRows) and (write.have, write.upto) == (seq - 1, seq), "and no more is asked for"
        assert play.tell(RowsWritten(play.now, "Pm", seq)) == []
        out = play.tell(Woke(play.now, "tick", n))
        assert of(ReadLog, out) == [ReadLog("Pm", seq, MANY.read_at_once)] and of(Wake, out) and not of(WriteRows, out)


def test_behind_the_head_a_batch_waits_until_it_is_large() -> None:
    play = Conducted(MANY).going_on()
    assert play.read(8, 2_000, head=99_999) == [ReadLog("Pm", 2_007, MANY.read_at_once)]
    assert of(WriteRows, play.tell(Woke(play.now, "tick", 1))) == [], "also with a tick"
    (first,) = of(WriteRows, play.read(2_008, 2_000, head=99_999))
    assert (first.have, first.upto) == (7, 4_007), "a fifth, as the graph has nothing to do"
    play.tell(RowsWritten(play.now, "Pm", 4_007))
    for page in range(2, 11):
        assert not of(WriteRows, play.read(8 + 2_000 * page, 2_000, head=99_999))
    (write,) = of(WriteRows, play.read(22_008, 2_000, head=99_999))
    assert (write.have, write.upto) == (4_007, 24_007)


def test_at_the_head_no_more_is_waited_for() -> None:
    play = Conducted(MANY).going_on()
    play.ask(RebuildGraph())
    play.tell(HalfBegun(play.now, "Pm2"))
    assert not of(WriteRows, play.read(1, 5, head=7, prefix="Pm2"))
    (built,) = of(WriteRows, play.read(6, 2, head=7, prefix="Pm2"))
    assert (built.have, built.upto) == (0, 7)


def test_positions_without_a_fact_of_ours_move_on_too() -> None:
    play = Conducted(MANY).going_on()
    (write,) = of(WriteRows, play.tell(LogRead(play.now, "Pm", 7, (), 30, 30, 1)))
    assert (write.have, write.upto, len(write.rows)) == (7, 30, 0)


def test_the_lease_is_renewed_also_while_a_batch_takes_long() -> None:
    play = Conducted().going_on()
    assert of(WriteRows, play.read(8, 2))
    play.now += SETTINGS.lease_ms / 2
    assert of(RenewLease, play.tell(Woke(play.now, "tick", 1))) == [RenewLease(3, SETTINGS.lease_ms)]
    assert of(RenewLease, play.tell(Woke(play.now, "tick", 2))) == []


def test_after_any_trouble_all_is_forgotten_and_read_again() -> None:
    play = Conducted().going_on()
    play.read(8, 2)
    assert in_hand(play.state) == 1
    (wake,) = play.tell(GraphTrouble(play.now, "gone"))
    assert wake == Wake(play.now + SETTINGS.again_ms, "open", wake.generation) and not in_hand(play.state)
    assert play.tell(RowsWritten(play.now, "Pm", 9)) == [], "of a time before"
    assert play.read(10, 1) == []
    assert play.status().state == "trouble" and play.status().trouble == "gone"
    assert of(OpenGraph, play.tell(Woke(play.now, "open", 1)))
    assert of(ReadCatalogue, play.opened(replace(SERVING, seq=9))) == [ReadCatalogue("Pm", 9)]


def test_who_does_not_hold_the_lease_waits() -> None:
    play = Conducted()
    assert of(Wake, play.tell(GraphHeld(play.now, "projector-2.X", 5_000)))
    assert play.status().state == "held" and "projector-2.X" in play.status().trouble


def test_a_log_that_cannot_be_read_is_asked_again_with_the_next_tick() -> None:
    play = Conducted().going_on()
    assert play.tell(LogTrouble(play.now, "Pm", "bus_down")) == []
    assert play.status().trouble == "bus_down"
    assert of(ReadLog, play.tell(Woke(play.now, "tick", 1)))


def test_while_the_log_cannot_be_read_what_is_folded_is_written() -> None:
    play = Conducted(MANY).going_on()
    assert not of(WriteRows, play.read(8, 5, head=99_999))
    play.tell(LogTrouble(play.now, "Pm", "bus_down"))
    (write,) = of(WriteRows, play.tell(Woke(play.now, "tick", 1)))
    assert (write.have, write.upto) == (7, 12)


def test_the_other_half_still_waits_for_a_large_batch() -> None:
    play = Conducted(MANY).going_on()
    play.ask(RebuildGraph())
    play.tell(HalfBegun(play.now, "Pm2"))
    assert not of(WriteRows, play.read(1, 5, head=99_999, prefix="Pm2"))
    play.tell(LogTrouble(play.now, "Pm", "bus_down"))
    assert not of(WriteRows, play.tell(Woke(play.now, "tick", 1)))


def rebuilt_by(half: Half, head: int = 9) -> list[Effect]:
    return Conducted().opened(half, head=head)


def test_another_log_another_schema_or_a_log_that_lost_events_is_another_graph() -> None:
    begin = BeginHalf("Pm2", 3, "e", SETTINGS.schema())
    for half, head in ((replace(SERVING, epoch="old"), 9), (replace(SERVING, schema="0"), 9), (SERVING, 6)):
        out = rebuilt_by(half, head)
        assert of(BeginHalf, out) == [begin] and not of(ReadCatalogue, out), "the old one is left as it is"


def test_a_rebuild_goes_on_beside_the_one_that_serves_until_it_has_all() -> None:
    play = Conducted().going_on()
    assert of(BeginHalf, play.ask(RebuildGraph())) == [BeginHalf("Pm2", 3, "e", SETTINGS.schema())]
    assert ReadLog("Pm2", 0, SETTINGS.read_at_once) in play.tell(HalfBegun(play.now, "Pm2"))
    (served,) = of(WriteRows, play.read(8, 2))
    assert served.prefix == "Pm"
    (built,) = of(WriteRows, play.read(1, 9, head=9, prefix="Pm2"))
    assert (built.prefix, built.have, built.upto) == ("Pm2", 0, 9)
    assert play.status().building == "Pm2"
    assert of(SwapHalves, play.tell(RowsWritten(play.now, "Pm2", 9))) == [], "the other is being written"
    play.tell(Woke(play.now, "tick", 1))
    assert of(WriteRows, play.read(10, 1, head=10, prefix="Pm2")) == [], "nor is this one, until then"
    assert of(SwapHalves, play.tell(RowsWritten(play.now, "Pm", 9))) == [SwapHalves("Pm2", 3, 9)]
    assert of(EmptyHalf, play.tell(HalvesSwapped(play.now, "Pm2"))) == [EmptyHalf("Pm", 3)]
    assert (play.status().prefix, play.status().building) == ("Pm2", "")


def test_a_half_that_was_being_built_is_gone_on_with() -> None:
    play = Conducted()
    out = play.opened(SERVING, Half(prefix="Pm2", epoch="e", schema=SETTINGS.schema(), seq=4))
    assert of(ReadCatalogue, out) == [ReadCatalogue("Pm", 7), ReadCatalogue("Pm2", 4)] and not of(BeginHalf, out)


def test_a_half_that_was_being_built_for_another_schema_is_begun_anew() -> None:
    out = Conducted().opened(SERVING, Half(prefix="Pm2", epoch="e", schema="0", seq=4))
    assert [one.prefix for one in of(BeginHalf, out)] == ["Pm2"]


def test_what_was_read_for_an_earlier_life_of_a_half_is_not_taken() -> None:
    """A slow answer of the log, to who wrote this half before it was swapped out, emptied and begun again."""
    play = Conducted().going_on()
    play.ask(RebuildGraph())
    play.tell(HalfBegun(play.now, "Pm2"))
    assert play.tell(LogRead(play.now, "Pm2", 40, facts(41, 2), 42, 42, 1)) == []
    (built,) = of(WriteRows, play.read(1, 9, head=42, prefix="Pm2"))
    assert (built.have, built.upto) == (0, 9)


def test_a_half_that_was_left_half_empty_is_emptied_by_the_next() -> None:
    assert of(EmptyHalf, Conducted().opened(SERVING)) == [EmptyHalf("Pm2", 3)]


def test_a_rebuild_ends_on_a_busy_log_with_a_slow_graph() -> None:
    """A batch takes longer than a tick, so there is always something that was folded and is not written."""
    play = Conducted(MANY).going_on()
    play.ask(RebuildGraph())
    play.tell(HalfBegun(play.now, "Pm2"))
    head, orders = 20, play.read(1, 20, head=20, prefix="Pm2")
    for _ in range(10):
        writes = of(WriteRows, orders)
        if not writes:
            break
        play.tell(Woke(play.now, "tick", 1))
        head += 1
        play.read(head, 1, head=head, prefix="Pm2")
        orders = play.tell(RowsWritten(play.now, "Pm2", writes[0].upto))
    assert of(SwapHalves, orders) == [SwapHalves("Pm2", 3, 20)]
    done = play.tell(HalvesSwapped(play.now, "Pm2"))
    assert [(one.prefix, one.have) for one in of(WriteRows, [*done, *play.tell(Woke(play.now, "tick", 1))])] == [
        ("Pm2", 20)
    ], "what was folded meanwhile comes behind"


def test_opened_twice_forgets_what_was_under_way() -> None:
    play = Conducted()
    play.opened(NOTHING)
    assert of(BeginHalf, play.opened(NOTHING, fence=4)), "the edge has ended the first order"


def test_who_waits_for_a_sum_hears_of_the_end() -> None:
    play = Conducted().going_on()
    play.ask(SumGraph())
    (said,) = [one.message for one in of(Send, play.tell(Stopping(play.now)))]
    assert isinstance(said, Failed)


def test_nothing_is_written_while_the_sum_is_made() -> None:
    play = Conducted().going_on()
    play.read(8, 2)
    assert of(SumHalf, play.ask(SumGraph())) == [], "a batch is on its way"
    assert of(SumHalf, play.tell(RowsWritten(play.now, "Pm", 9))) == [SumHalf("Pm")]
    assert of(WriteRows, play.read(10, 2)) == [] and of(WriteRows, play.tell(Woke(play.now, "tick", 1))) == []
    out = play.tell(HalfSummed(play.now, "Pm", "c0ffee", {"buckets": 1}))
    (said,) = [one.message for one in of(Send, out)]
    assert said == GraphSum(seq=9, epoch="e", checksum="c0ffee", counts={"buckets": 1})
    assert [one.upto for one in of(WriteRows, out)] == [11]


def test_a_half_of_an_older_schema_says_so_and_is_not_summed() -> None:
    """Our statements would not find its relations."""
    play = Conducted()
    play.opened(replace(SERVING, schema="3.35.400.7"))
    (told,) = of(Send, play.ask(AskGraphStatus()))
    assert isinstance(told.message, GraphStatus) and told.message.schema == "3.35.400.7"
    (refused,) = of(Send, play.ask(SumGraph()))
    assert isinstance(refused.message, Failed) and f"{SETTINGS.schema()} is being built" in refused.message.text


def test_who_waits_for_a_sum_hears_of_the_trouble() -> None:
    play = Conducted().going_on()
    play.ask(SumGraph())
    (said,) = [one.message for one in of(Send, play.tell(GraphTrouble(play.now, "gone")))]
    assert isinstance(said, Failed) and "gone" in said.text


def test_gaps_that_retention_left_are_counted() -> None:
    play = Conducted().going_on()
    play.tell(LogRead(play.now, "Pm", 7, facts(100, 2), 101, 101, 100))
    assert play.status().gaps == 92


def test_a_stop_waits_for_nothing() -> None:
    play = Conducted().going_on()
    play.read(8, 2)
    assert play.tell(Stopping(play.now)) == [] and not in_hand(play.state)


def test_lag_is_told_in_events_and_seconds() -> None:
    play = Conducted().going_on()
    play.now = AT + 5_000.0
    play.read(8, 2, head=50)
    play.tell(RowsWritten(play.now, "Pm", 9))
    status = play.status()
    assert (status.seq, status.head, status.lag_events, status.lag_s) == (9, 50, 41, 5.0)
    play.read(10, 1, head=50, at=AT + 4_000)
    assert play.status().lag_s == 5.0, "folded is not in the graph"


def test_parts_are_of_one_event_at_least() -> None:
    for name in ("read_at_once", "rows_at_once", "events_at_once"):
        with pytest.raises(msgspec.ValidationError, match=f"`int` >= 1 - at `\\$.{name}`"):
            msgspec.convert({name: 0}, Settings)


def test_days_are_not_kept_for_less_long_than_hours() -> None:
    """What hangs on a day would go before its hours do."""
    with pytest.raises(msgspec.ValidationError, match=r"daily_days \(7\) must be at least hourly_days \(35\)"):
        msgspec.convert({"daily_days": 7}, Settings)
