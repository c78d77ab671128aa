"""What of the log is asked for: subjects for the server, times as positions, the rest looked for inside the events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.host.clock import ulid
from understudy.bus import sim_loop
from understudy.bus.client import NOT_ALLOWED, AnswerFailed, Client, LogEntry
from understudy.bus.log_query import BadQuery, LogQuery, Span, matching, span_of
from understudy.bus.memory import Broker
from understudy.bus.memory_log import now_ms
from understudy.bus.port import NotAllowed, Outgoing
from understudy.bus.provision import BusSpec
from understudy.bus.server import NatsServer
from understudy.bus.subjects import matches
from understudy.messages.events import AttemptEnded, ModelRecovered
from understudy.messages.run_ids import begun_ms
from understudy.messages.wire import encode

APP = "tta"


@pytest.mark.parametrize(
    ("subjects", "wanted"),
    [
        ((), ["tta.evt.>"]),
        (("request.ended",), ["tta.evt.request.ended", "tta.evt.request.ended.*"]),
        (("tta.evt.model.>", "model.loaded"), ["tta.evt.model.>"]),
        (("model.loaded", "tta.evt.model.>"), ["tta.evt.model.>"]),
        (("model.>", "model.>"), ["tta.evt.model.>"]),
        (("*.ended",), ["tta.evt.*.ended"]),
        (("key.*", "model.loaded.m"), ["tta.evt.key.*", "tta.evt.model.loaded.m"]),
        ((">", "cost.>"), ["tta.evt.>"]),
        (("model.*", "model.>"), ["tta.evt.model.>"]),
        (("model.>", "model.*"), ["tta.evt.model.>"]),
        (("*", ">"), ["tta.evt.>"]),
        (("model.loaded", "model.loaded.>"), ["tta.evt.model.loaded", "tta.evt.model.loaded.>"]),
    ],
)
def test_subjects_for_the_server(subjects: tuple[str, ...], wanted: list[str]) -> None:
    assert LogQuery(subjects=subjects).patterns(APP) == wanted


WORDS = st.lists(st.sampled_from(("a", "b", "*")), min_size=1, max_size=3).map(".".join)
SUBJECTS = st.one_of(WORDS, WORDS.map(lambda words: f"{words}.>"), st.just(">"))


@given(st.lists(SUBJECTS, min_size=1, max_size=4))
def test_no_subject_is_lost_or_added(asked: list[str]) -> None:
    try:
        found = LogQuery(subjects=tuple(asked)).patterns(APP)
    except BadQuery:
        return  # overlapping
    names = [one for one in asked if "*" not in one and one.count(".") == 1 and not one.endswith(">")]
    wanted = [f"tta.evt.{one}" for one in (*asked, *(f"{name}.*" for name in names))]
    for length in (1, 2, 3, 4):
        for subject in (f"tta.evt.{'.'.join(words)}" for words in product("ab", repeat=length)):
            takers = [one for one in found if matches(one, subject)]
            assert len(takers) == any(matches(one, subject) for one in wanted), (found, subject)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"subjects": ("model.>.x",)}, "subjects[0]"),
        ({"subjects": ("model.>", "a b")}, "subjects[1]"),
        ({"subjects": ("",)}, "subjects[0]"),
        ({"subjects": ("*.ended", "request.*")}, "subjects"),
        ({"since_ms": 5, "until_ms": 5}, "until"),
        ({"after_seq": -1}, "after_seq"),
        ({"run_id": "last-one"}, "run_id"),
        ({"run_id": "8" + "0" * 25}, "run_id"),
    ],
)
def test_what_nobody_can_answer_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(BadQuery) as refused:
        LogQuery(**fields).patterns(APP)
    assert refused.value.path == path


def test_a_run_id_says_when_the_run_began() -> None:
    assert begun_ms(ulid(1_790_000_000_123, 7)) == 1_790_000_000_123
    assert [begun_ms(odd) for odd in ("", "x" * 26, "7" + "Z" * 26, "u" + "0" * 25)] == [None] * 4


def failed(n: int, **fields: Any) -> Outgoing:
    about = {"run_id": f"r{n}", "attempt": 1, "model": "m", "reason": "empty", **fields}
    return Outgoing("tta.evt.attempt.ended", encode(AttemptEnded(at_ms=n, **about)), f"f{n}")


def recovered(n: int, model: str) -> Outgoing:
    event = ModelRecovered(at_ms=n, model=model, was="degraded", by="probe")
    return Outgoing(f"tta.evt.model.recovered.{model}", encode(event), f"r{n}")


def sim(story: Callable[[Client, Callable[..., Coroutine[Any, Any, None]]], Coroutine[Any, Any, None]]) -> None:
    """A story with a client and with what stores an event every ten virtual seconds."""

    async def main() -> None:
        broker = Broker(3, BusSpec())
        writer = broker.connect("writer")

        async def store(*events: Outgoing) -> None:
            for event in events:
                await writer.store([event], timeout_s=1)
                await asyncio.sleep(10)

        await story(Client(broker.connect("reader")), store)

    sim_loop.run(main, 600)


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


async def seqs(client: Client, **where: Any) -> list[int]:
    return [entry.seq async for entry in client.events(**where)]


def test_by_time_subject_model_and_run() -> None:
    run = ulid(now_at_start := 1_800_000_000_000, 1)

    async def story(client: Client, store: Any) -> None:
        assert now_ms() == now_at_start
        await store(failed(1), recovered(2, "a"), failed(3, run_id=run, model="a"), recovered(4, "b"))
        begun = now_at_start
        assert await seqs(client) == [1, 2, 3, 4]
        assert await seqs(client, after_seq=2) == [3, 4]
        assert await seqs(client, since=at(begun + 9_000)) == [2, 3, 4]
        assert await seqs(client, until=at(begun + 20_000)) == [1, 2]
        assert await seqs(client, since=at(begun + 9_000), until=at(begun + 21_000), after_seq=2) == [3]
        assert await seqs(client, since=at(now_ms() + 5_000)) == []
        assert await seqs(client, subjects="model.>") == [2, 4]
        assert await seqs(client, subjects=("model.recovered.b", "attempt.ended")) == [1, 3, 4]
        assert await seqs(client, model="a") == [2, 3]
        assert await seqs(client, model="a", subjects="model.>") == [2]
        assert await seqs(client, run_id=run) == [3]
        assert await seqs(client, run_id=run, model="b") == []

    sim(story)


def test_what_has_its_place_and_cannot_be_read() -> None:
    async def story(client: Client, store: Any) -> None:
        await store(failed(1), Outgoing("tta.evt.new.thing", b'{"type":"new.thing.v1"}', "n1"))
        await client.bus.publish("tta.evt.request.ended", b"an answer of the server that somebody had put there")
        await asyncio.sleep(1)
        await store(failed(4))
        found = [entry async for entry in client.events()]
        assert [(one.seq, one.subject.split(".", 2)[2]) for one in found] == [
            (1, "attempt.ended"), (2, "new.thing"), (3, "request.ended"), (4, "attempt.ended")
        ]  # fmt: skip
        assert [type(one.event).__name__ for one in found] == ["AttemptEnded", "NoneType", "NoneType", "AttemptEnded"]
        assert found[1].payload == b'{"type":"new.thing.v1"}' and found[2].payload == b""
        assert found[3].stored_ms > found[0].stored_ms

    sim(story)


def test_following_goes_on_behind_what_was_taken() -> None:
    async def story(client: Client, store: Any) -> None:
        await store(failed(1), failed(2))
        storing = asyncio.ensure_future(store(recovered(3, "a"), failed(4), failed(5)))
        taken: list[LogEntry] = []
        async for entry in client.events(follow=True, after_seq=1, subjects="attempt.ended"):
            taken.append(entry)
            if len(taken) == 3:
                break
        assert [entry.seq for entry in taken] == [2, 4, 5]
        await storing
        with pytest.raises(AnswerFailed) as refused:
            await seqs(client, follow=True, until=at(now_ms()))
        assert refused.value.failed.path == "$.follow"

    sim(story)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"since": datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)}, "$.since"),
        ({"subjects": ["x y"]}, "$.subjects[0]"),
        ({"run_id": "x"}, "$.run_id"),
    ],
)
def test_a_client_is_told_what_is_wrong(fields: dict[str, Any], path: str) -> None:
    async def story(client: Client, _: Any) -> None:
        with pytest.raises(AnswerFailed) as refused:
            await seqs(client, **fields)
        assert (refused.value.failed.code, refused.value.failed.path) == ("invalid", path)

    sim(story)


def test_the_head_is_what_it_was_at_the_beginning() -> None:
    async def story(client: Client, store: Any) -> None:
        await store(failed(1), failed(2))
        query = LogQuery()
        span = await span_of(client.bus, APP, query)
        await store(failed(3))
        found = [batch async for batch in matching(client.bus, APP, query, span)]
        assert span == Span(0, 2) and [one.seq for batch in found for one in batch.messages] == [1, 2]

    sim(story)


GUEST = """
accounts { APP { jetstream: enabled, users: [
  { user: guest, password: pw, permissions { publish { allow: ["tta.ask.>"] }, subscribe { allow: ["_INBOX.>"] } } }
] } }
"""


async def test_who_may_not_read_the_log_is_told_at_once_who_may(server: NatsServer) -> None:
    server.stop()
    server.extra = GUEST
    server.start()
    async with await Client.connect(server.url, user="guest", password="pw") as guest:
        began = asyncio.get_running_loop().time()
        with pytest.raises(NotAllowed) as refused:
            await seqs(guest)
        assert str(refused.value) == NOT_ALLOWED and asyncio.get_running_loop().time() - began < 1
