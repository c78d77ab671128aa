"""Keys in the process that uses them: which one a call carries, and what a provider says of one."""

from __future__ import annotations

import asyncio

import pytest

from tests.actors.runner.test_http_edge import Edge, Kind, url_of
from tests.waiting import until
from understudy.actors.runner.http_keys import Keys, check
from understudy.messages.step import CallEnded, CallFailed
from understudy.messages.topology import Provider
from understudy.tools.fake.exchange import key_hash
from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

OLD, NEW = "sk-old-71c2", "sk-new-93d8"
KINDS = pytest.mark.parametrize("kind", ["openai", "openrouter", "anthropic"])


@KINDS
async def test_a_provider_takes_a_key_or_refuses_it(kind: Kind) -> None:
    async with FakeProvider(require_key=OLD) as fake:
        provider = Provider(kind=kind, url=url_of(fake, kind))
        assert await check(provider, OLD) == (True, "", 200, True)
        assert await check(provider, NEW) == (False, "the provider refuses the key (401)", 401, True)
        (taken, wrong, refused) = fake.checks
        assert [(c.key, c.status) for c in (taken, refused)] == [(key_hash(OLD), 200), (key_hash(NEW), 401)]
        assert wrong.status == 401 and wrong.key not in (taken.key, refused.key), (
            "a made-up one, to see that it is looked at"
        )
        assert not fake.log, "no model was asked"


@KINDS
async def test_who_takes_any_key_tells_nothing_about_one(kind: Kind) -> None:
    async with FakeProvider() as fake:
        said = await check(Provider(kind=kind, url=url_of(fake, kind)), OLD)
    assert (said.ok, said.known) == (False, False) and "it answers any key" in said.why


async def test_ollama_has_nothing_to_ask() -> None:
    said = await check(Provider(kind="ollama", url="http://127.0.0.1:1"), OLD)
    assert (said.ok, said.known, said.status) == (False, False, None) and "cannot be checked" in said.why


async def test_who_cannot_be_asked_is_not_known_to_take_it() -> None:
    assert await check(Provider(kind="openai", url="http://127.0.0.1:1/v1"), OLD) == (
        False, "whether the provider takes the key is not known: no connection", None, False,
    )  # fmt: skip
    async with FakeProvider() as fake:
        ok, why, status, _ = await check(Provider(kind="openai", url=f"{fake.root}/nowhere"), OLD)
    assert (ok, status) == (False, 404) and why.endswith("status 404")


async def test_calls_under_way_keep_their_key_and_new_ones_carry_the_other() -> None:
    slow = {"slow": Fault(gap_ms=10, chunks=30)}
    async with FakeProvider(slow) as fake, Edge(fake.url, OLD) as edge:
        fake.accepted = {"old": OLD, "new": NEW}
        keys: Keys = edge.edge.keys
        (first,) = keys._heads
        edge.call("slow", "before")
        await until(lambda: fake.log and fake.log[0].tokens_sent)
        keys.hold("k2", NEW)
        assert keys.in_use == first, "held is not used"
        keys.use("k2")
        edge.call("ok", "after")
        await until(lambda: edge.ends("after"))
        assert await keys.others_ended("k2", 0) == 1
        waiting = asyncio.create_task(keys.others_ended("k2", 5_000))
        keys.forget(first)
        assert await waiting == 0
        assert isinstance(edge.ends("before")[0], CallEnded) and edge.ends("after")[0].key_id == "k2"
        assert [seen.key for seen in fake.log] == [key_hash(OLD), key_hash(NEW)]


async def test_calls_that_wait_for_a_connection_carry_no_key_that_was_forgotten() -> None:
    async with (
        FakeProvider({"slow": Fault(gap_ms=10, chunks=30)}) as fake,
        Edge(fake.url, OLD, max_connections=1) as edge,
    ):
        keys: Keys = edge.edge.keys
        first = keys.in_use or ""
        edge.call("slow", "sent")
        await until(lambda: fake.log and fake.log[0].tokens_sent)
        edge.call("ok", "second")
        keys.hold("k2", NEW)
        keys.use("k2")
        keys.forget(first)
        assert keys._in_hand == {first: 1, "k2": 1}
        edge.call("ok", "third")
        keys.forget("k2")
        assert [edge.ends(c) for c in ("second", "third")] == [
            [CallFailed(0.0, c, "auth", key_id="k2")] for c in ("second", "third")
        ]
        keys.hold("k3", NEW)
        edge.call("ok", "fourth")
        keys.hold("k4", OLD)
        keys.use("k4")
        keys.forget("k3")
        assert not edge.edge.calls["sent"].repeatable and edge.edge.calls["fourth"].repeatable
        await until(lambda: edge.ends("fourth"))
        assert isinstance(edge.ends("sent")[0], CallEnded) and edge.ends("fourth")[0].key_id == "k4"
        assert [seen.key for seen in fake.log] == [key_hash(OLD), key_hash(OLD)] and +keys._in_hand == {}


async def test_who_waits_for_others_to_end_is_not_kept_by_another_change() -> None:
    keys = Keys(Provider(kind="openai", url="http://127.0.0.1:1/v1"))
    keys.hold("k1", OLD)
    keys.hold("k2", NEW)
    keys.begun("k1")
    keys.use("k2")
    waiting = [asyncio.create_task(keys.others_ended("k2", 60_000)) for _ in range(2)]
    await asyncio.sleep(0)
    keys.ended("k1")
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [0, 0], "both"
        keys.begun("k1")
        waiting = [asyncio.create_task(keys.others_ended("k2", 60_000))]
        await asyncio.sleep(0)
        keys.use("k1")
        assert await waiting[0] == 1, "another is used: nobody waits for that any longer"


async def test_without_a_key_nothing_is_sent() -> None:
    async with FakeProvider() as fake, Edge(fake.url, OLD) as edge:
        edge.edge.keys.forget(edge.edge.keys.in_use or "")
        assert (await edge.ask("ok"))[2] == CallFailed(0.0, "c", "auth")
        assert not fake.log
        edge.edge.keys.hold("k2", NEW)
        assert isinstance((await edge.ask("ok"))[2], CallEnded), "the next one is used at once"


async def test_no_key_is_shown() -> None:
    keys = Keys(Provider(kind="openai", url="http://127.0.0.1:1/v1"))
    keys.hold("k1", OLD)
    assert OLD not in f"{keys!r}{keys._heads!r}"
    with pytest.raises(KeyError):
        keys.use("k9")
    with pytest.raises(ValueError, match="Authorization") as caught:
        keys.hold("k2", "ca\nnary")
    assert "nary" not in str(caught.value) and keys.in_use == "k1"
