"""The response cache, counted at the fake: repeated requests cost no call, and nobody hears another's answer.

`crossing()` is a part of `bench fairness`: users with a conversation of their own and one that all of them
share send the same request twice. The first must reach the provider, the second must not. Then all starts again on the
same files with a changed topology, under which each must ask anew though all that was kept is still there. A control
keeps one user's answer where another's would be, as if users did not count for the key: the same counting must find it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from understudy.actors.host.keys import hash_key
from understudy.actors.host.topology import hash_of
from understudy.actors.selector.keeping import key_of
from understudy.bus.client import Client, turns
from understudy.bus.subjects import cache_bucket
from understudy.messages.cache import CachedAnswer, CacheKeep, CacheLook, CacheLooked
from understudy.messages.generate import Finished, Generate
from understudy.messages.hashes import keyed_hash
from understudy.messages.topology import Topology
from understudy.messages.wire import decode, encode
from understudy.tools.bench.stage import running, topology_on
from understudy.tools.fake.server import FakeProvider

USERS, SHARED = 5, "everybody"
PAIRS = tuple((f"user-{n}", where) for n in range(USERS) for where in (f"of-{n}", SHARED))
PROMPT = "What hangs above the door?"
WAIT_S, LOOK_S = 5.0, 0.02


class Asked(NamedTuple):
    """One request: the first of this user in this conversation, or a repeat; and what it cost."""

    first: bool
    cached: bool
    calls: int


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """`cache_crossed`: first requests that no call was made for. `missed`: repeats that one was made for."""

    cache_crossed: int
    planted_found: int
    missed: int
    asked: int


def crossed(rows: list[Asked]) -> int:
    """Who had never asked before, and was not answered by a model."""
    return sum(row.cached or not row.calls for row in rows if row.first)


def missed(rows: list[Asked]) -> int:
    """Who had asked before, and was not answered from the cache alone."""
    return sum(not row.cached or row.calls > 0 for row in rows if not row.first)


async def crossing() -> Crossing:
    """Start all actors, ask, plant the control, change the topology, count."""
    with tempfile.TemporaryDirectory(prefix="understudy-kept-") as folder:
        async with FakeProvider() as fake:
            state, topology = Path(folder), topology_on(fake.url, {"ok": {}})
            async with _on(topology, state) as (client, operator):
                rows, told = await _ask_all(client, operator, fake)
                await _cross(operator, state, topology, told)
                planted, _ = await _ask(client, fake, "victim", "victim's", first=True)
            async with _on(topology_on(fake.url, {"ok": {}, "ok-slow": {}}), state) as (client, operator):
                await _until_kept(operator, len(PAIRS) + 1)
                rows += [(await _ask(client, fake, *pair, first=True))[0] for pair in PAIRS]
    return Crossing(cache_crossed=crossed(rows), planted_found=crossed([planted]), missed=missed(rows), asked=len(rows))


@contextlib.asynccontextmanager
async def _on(topology: Topology, state: Path) -> AsyncGenerator[tuple[Client, Client], None]:
    """All actors of a topology, a guest and the operator."""
    async with (
        running(topology, state) as supervisor,
        await Client.connect(supervisor.url) as client,
        await Client.connect(supervisor.url, user="operator", password=supervisor.operator_password) as operator,
    ):
        yield client, operator


def _whose(user: str, conversation: str) -> dict[str, Any]:
    """The same request for all but for whose it is."""
    return {"conversation_id": conversation, "user_id": user, "temperature": 0.0, "cache": True}


async def _ask(client: Client, fake: FakeProvider, user: str, conversation: str, first: bool) -> tuple[Asked, Finished]:
    calls = len(fake.log)
    end = await client.generate(PROMPT, **_whose(user, conversation))
    return Asked(first, end.cached, len(fake.log) - calls), end


async def _ask_all(client: Client, operator: Client, fake: FakeProvider) -> tuple[list[Asked], Finished]:
    """Every user in its own conversation and in the shared one: all firsts, then, once they are kept, all repeats."""
    rows, end = list[Asked](), None
    for user, conversation in PAIRS:
        row, end = await _ask(client, fake, user, conversation, first=True)
        rows.append(row)
    await _until_kept(operator, sum(not row.cached for row in rows))
    rows += [(await _ask(client, fake, *pair, first=False))[0] for pair in PAIRS]
    assert end is not None
    return rows, end


async def _kept(operator: Client) -> int:
    """How many answers are kept; nobody here keeps one twice under the same key, or erases."""
    state = await operator.bus.stream_state(f"KV_{cache_bucket(operator.app)}")
    return state.last_seq - state.first_seq + 1


async def _until_kept(operator: Client, count: int) -> None:
    """Answers are kept after their end was said. Raises TimeoutError."""
    until = time.monotonic() + WAIT_S
    while await _kept(operator) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"only {await _kept(operator)} of {count} answers are kept")
        await asyncio.sleep(LOOK_S)


async def _cross(operator: Client, state: Path, topology: Topology, told: Finished) -> None:
    """Keep what another user was told where the victim's answer would be: as if users did not count for the key."""
    key = hash_key(state)
    conversation, user = keyed_hash(key, "victim's"), keyed_hash(key, "victim")
    ask = Generate(messages=turns(PROMPT), **_whose("victim", "victim's"))
    entry = key_of(ask, told.parameters, key, user, conversation, hash_of(topology), "general", "")
    look = CacheLook(run_id="planted", conversation=conversation, key=entry)
    said = await operator.bus.request(f"{operator.app}.ask.cache.look", encode(look), timeout_s=5)
    looked = decode(said.payload)
    assert isinstance(looked, CacheLooked) and looked.answer is None
    answer = CachedAnswer(
        text=told.text or "", model=told.model, finish_reason=told.finish_reason, parameters=told.parameters
    )
    keep = CacheKeep(conversation=conversation, key=entry, key_id=looked.key_id, answer=answer)
    kept = await _kept(operator)
    await operator.bus.publish(f"{operator.app}.ask.cache.keep", encode(keep))
    await _until_kept(operator, kept + 1)
