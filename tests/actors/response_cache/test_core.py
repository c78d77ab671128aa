"""The response cache's step on a table: looks, keeps, erasures, their bounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.response_cache import core
from understudy.messages.cache import (
    CachedAnswer,
    CacheKeep,
    CacheLook,
    CacheLooked,
    ConversationErased,
    EntryRead,
    EntryWritten,
    EraseConversation,
    EraseKey,
    ErasureDone,
    KeyErased,
    ReadEntry,
    WriteEntry,
)
from understudy.messages.generate import Failed, Parameters
from understudy.messages.hashes import keyed_hash
from understudy.messages.step import Asked, CaughtUp, Send, Store, Stored, StoreFailed

SETTINGS = core.Settings(max_entry_bytes=400, max_in_hand=2, hash_key="secret")
ANSWER = CachedAnswer(
    text="A door.",
    model="a",
    finish_reason="stop",
    parameters=Parameters(max_tokens=9, temperature=0.0, top_p=1.0, seed=7),
)
LOOK = CacheLook(run_id="r1", conversation="c1", key="e1")
KEEP = CacheKeep(conversation="c1", key="e1", key_id="k1", answer=ANSWER)


class Cache:
    def __init__(self) -> None:
        self.state = core.State()

    def feed(self, message: Any) -> list[Any]:
        return core.step(self.state, message, SETTINGS)

    def ask(self, message: Any, id: str = "i1", reply: str = "asker") -> list[Any]:
        return self.feed(Asked(5.0, id, "subject", reply, message))


def test_a_look_is_answered_with_what_the_edge_finds() -> None:
    cache = Cache()
    assert cache.ask(LOOK) == [ReadEntry("i1", "c1", "e1")]
    content = msgspec.json.encode(ANSWER)
    said = cache.feed(EntryRead(6.0, "i1", "k1", content))
    assert said == [Send("asker", CacheLooked(run_id="r1", key_id="k1", answer=ANSWER))]
    assert not cache.state.looks


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"text":"x"}'])
def test_what_is_not_there_or_not_readable_is_a_miss(content: bytes | None) -> None:
    cache = Cache()
    cache.ask(LOOK)
    assert cache.feed(EntryRead(6.0, "i1", "k1", content)) == [Send("asker", CacheLooked(run_id="r1", key_id="k1"))]


def test_looks_beyond_the_bound_are_misses_at_once() -> None:
    cache = Cache()
    for n in range(2):
        cache.ask(LOOK, f"i{n}")
    assert cache.ask(LOOK, "i3") == [Send("asker", CacheLooked(run_id="r1"))]
    assert cache.ask(LOOK, "i4", reply="") == []
    cache.feed(EntryRead(6.0, "i0", "k1", None))
    assert cache.ask(LOOK, "i5") == [ReadEntry("i5", "c1", "e1")]
    assert core.in_hand(cache.state) == 0, "a stop does not wait for looks"


def test_an_answer_is_kept_within_bounds() -> None:
    cache = Cache()
    (order,) = cache.ask(KEEP)
    assert isinstance(order, WriteEntry) and (order.conversation, order.key, order.key_id) == ("c1", "e1", "k1")
    assert msgspec.json.decode(order.content, type=CachedAnswer) == ANSWER
    long = msgspec.structs.replace(KEEP, answer=msgspec.structs.replace(ANSWER, text="x" * 400))
    assert cache.ask(long, "i2") == []
    assert len(cache.ask(KEEP, "i3")) == 1 and cache.ask(KEEP, "i4") == []
    assert core.in_hand(cache.state) == 2
    assert cache.feed(EntryWritten(6.0, "i1", True)) == [] and core.in_hand(cache.state) == 1
    assert len(cache.ask(KEEP, "i5")) == 1


def erased(cache: Cache, **counts: Any) -> list[Any]:
    return cache.feed(KeyErased(7.0, "i1", **counts))


def test_an_erasure_is_a_fact_with_counts_before_it_is_answered() -> None:
    cache, conversation = Cache(), keyed_hash("secret", "c-in-clear")
    assert cache.ask(EraseConversation(conversation_id="c-in-clear")) == [EraseKey("i1", conversation)]
    assert core.in_hand(cache.state) == 1
    event = ConversationErased(at_ms=7, conversation=conversation, keys=1, entries=3)
    assert erased(cache, keys=1, entries=3) == [Store(event, "erased.i1")]
    done = ErasureDone(conversation=conversation, keys=1, entries=3, seq=9)
    assert cache.feed(Stored(8.0, "erased.i1", 9, False)) == [Send("asker", done)]
    assert core.in_hand(cache.state) == 0 and "c-in-clear" not in repr(event)


def test_an_order_that_nobody_waits_for_is_carried_out() -> None:
    cache = Cache()
    assert len(cache.ask(EraseConversation(conversation_id="c"), reply="")) == 1
    assert len(erased(cache)) == 1 and cache.feed(Stored(8.0, "erased.i1", 9, False)) == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (StoreFailed(8.0, "erased.i1", "bus_down"), "bus_down"),
        (StoreFailed(8.0, "erased.i1", "log_full"), "log_full"),
        (Stored(8.0, "erased.i1", 9, False, synced=False), "bus_down"),
    ],
)
def test_an_erasure_that_the_log_does_not_confirm_says_so(answer: Any, code: str) -> None:
    cache = Cache()
    cache.ask(EraseConversation(conversation_id="c"))
    erased(cache, keys=1)
    (said,) = cache.feed(answer)
    assert isinstance(said.message, Failed) and said.message.code == code and "It is erased" in said.message.text
    assert cache.feed(Stored(9.0, "erased.i1", 9, False)) == [], "the log's late answer is nobody's any longer"


@pytest.mark.parametrize(("keys", "words"), [(1, "Its key is destroyed."), (0, "Order it again.")])
def test_an_erasure_that_is_not_finished_is_no_fact_and_may_be_ordered_again(keys: int, words: str) -> None:
    cache = Cache()
    cache.ask(EraseConversation(conversation_id="c"))
    (said,) = erased(cache, keys=keys, failure="BusDown: no answer in time")
    assert said.message.code == "bus_down" and words in said.message.text and core.in_hand(cache.state) == 0


def test_the_tombstone_tells_of_all_that_was_erased_also_where_it_took_two_orders() -> None:
    """The first destroyed the key and could not purge; the log did not take what the second did."""
    cache, order = Cache(), EraseConversation(conversation_id="c")
    cache.ask(order)
    erased(cache, keys=1, failure="BusDown: no answer in time")
    cache.ask(order)
    assert erased(cache, entries=3)[0].event.entries == 3
    cache.feed(StoreFailed(8.0, "erased.i1", "bus_down"))
    cache.ask(order)
    (store,) = erased(cache)
    assert (store.event.keys, store.event.entries) == (1, 3)
    (said,) = cache.feed(Stored(8.0, "erased.i1", 9, False))
    assert (said.message.keys, said.message.entries) == (1, 3) and not cache.state.untold
    cache.ask(order)
    assert (erased(cache)[0].event.keys, cache.state.untold) == (0, {})


def test_nothing_else_concerns_it() -> None:
    cache = Cache()
    assert cache.feed(CaughtUp(1.0, 0)) == [] and cache.feed(Stored(1.0, "erased.unknown", 1, False)) == []
