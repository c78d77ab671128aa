"""Scenario 2, Account quota: the free models of one provider share a quota, and nobody knocks twice.

Given `:free` models A and B and a local `ollama/llama3.2:3b`; A answers 429 with the daily free limit used up. When a
classification with 500 ms left asks for a model, then no attempt is made on B or any `:free`; the local model is
chosen; one announcement says until when; a paid model is used only if the request allows cost.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec.structs import replace

from understudy.bus.port import Received
from understudy.messages.cost import ProviderExhausted
from understudy.messages.wire import decode
from understudy.tools.bench.scenarios.ground import PLAIN, Play, System, Wrong, judged, system, tried, until_all
from understudy.tools.fake.script import Fault, built_in_faults
from understudy.tools.fake.server import FakeProvider

A, B, LOCAL, PAID = "a@x:free", "b@x:free", "ollama/llama3.2:3b", "c@x"
LEFT_MS, DAY_MS = 500, 86_400_000
LATER = 12
"""Asks after the first, so that every selector is among those that are asked."""
NO_COST = {"task": "classification", "deadline_ms": LEFT_MS, "requirements": {"max_usd_per_mtok": 0}}

Tried = tuple[tuple[str, str], ...]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. `announced`, `stored`: provider, quota and end of each announcement heard, and in the log."""

    first: Tried
    later: tuple[Tried, ...]
    announced: tuple[tuple[str, str, int], ...]
    stored: tuple[tuple[str, str, int], ...]
    midnight_ms: int
    free_asked: tuple[str, ...]
    rejected: dict[str, int]
    with_cost: Tried


def wrong(facts: Facts) -> Wrong:
    """One knock, one announcement until 00:00 UTC, the local model, and money only where it is allowed."""
    found: Wrong = []
    if facts.first != ((A, "rate_limited"), (LOCAL, "ok")):
        found.append(f"the first ask: {facts.first}")
    if len(facts.later) != LATER or set(facts.later) != {((LOCAL, "ok"),)}:
        found.append(f"later asks: {set(facts.later)}")
    one = (("openrouter", "free", facts.midnight_ms),)
    if facts.announced != one or facts.stored != one:
        found.append(f"announced {facts.announced}, in the log {facts.stored}")
    if facts.free_asked != (A,):
        found.append(f"free models that were asked: {facts.free_asked}")
    if facts.rejected.get("quota_exhausted") != 2:
        found.append(f"rejected: {facts.rejected}")
    if facts.with_cost != ((PAID, "ok"),):
        found.append(f"where cost is allowed: {facts.with_cost}")
    return found


def controls(facts: Facts) -> dict[str, Facts]:
    """Each thing that could be wrong, put in."""
    hour_early = tuple((p, q, ms - 3_600_000) for p, q, ms in facts.announced)
    return {
        "a sibling is asked": replace(facts, free_asked=(A, B)),
        "A is asked twice": replace(facts, free_asked=(A, A)),
        "B is in the chain": replace(facts, first=((A, "rate_limited"), (B, "rate_limited"), (LOCAL, "ok"))),
        "a paid model answers": replace(facts, later=(*facts.later[1:], ((PAID, "ok"),))),
        "it is announced twice": replace(facts, announced=facts.announced * 2),
        "it is stored twice": replace(facts, stored=facts.stored * 2),
        "it ends an hour early": replace(facts, announced=hour_early),
        "a sibling is not rejected": replace(facts, rejected={"quota_exhausted": 1}),
        "no cost is no reason": replace(facts, with_cost=((LOCAL, "ok"),)),
    }


async def scenario_2(play: Play = PLAIN) -> Wrong:
    """Play it."""
    faults = {A: built_in_faults()["429-free-day"], B: Fault(), PAID: Fault(), "llama3.2:3b": Fault()}
    async with FakeProvider(faults) as fake:
        facts = await _play(play, fake)
    return judged(facts, wrong, controls(facts))


def _topology(fake: FakeProvider) -> dict[str, Any]:
    router = {"provider": "openrouter"}
    return {
        "providers": {
            "openrouter": {"kind": "openrouter", "url": f"{fake.root}/api/v1", "location": "external"},
            "ollama": {"kind": "ollama", "url": fake.root},
        },
        "models": {
            A: {**router, "quality": {"default": 0.9}},
            B: {**router, "quality": {"default": 0.8}},
            PAID: {**router, "quality": {"default": 0.7}, "usd_per_mtok_out": 1.0},
            LOCAL: {"provider": "ollama", "name": "llama3.2:3b", "quality": {"default": 0.3}},
        },
        "latency": {"quick": {"deadline_ms": 20_000, "first_token_ms": 1_200, "stall_ms": 900}},
        "tasks": {"classification": {"latency": "quick", "max_tokens": 8}},
        "policy": {"weights": {"quality": 1, "speed": 0, "cost": 0, "fit": 0}, "privacy": "external_allowed"},
    }


async def _play(play: Play, fake: FakeProvider) -> Facts:
    async with system(play, fake.url, **_topology(fake)) as all_of_it:
        client, heard = all_of_it.client, list[Received]()
        await until_all(lambda: _select(play, all_of_it), lambda found: len(found.chain) == 4)
        await client.bus.subscribe(f"{client.app}.live.provider.>", heard.append)
        midnight_ms = (int(time.time() * 1000) // DAY_MS + 1) * DAY_MS
        first = await client.generate(play.prompt("Which mood is this?"), **NO_COST, **play.fields)
        chosen = await until_all(lambda: _select(play, all_of_it), lambda found: "quota_exhausted" in found.rejected)
        later = [await client.generate(play.prompt(f"And this {n}?"), **NO_COST, **play.fields) for n in range(LATER)]
        paid = await client.generate(play.prompt("Any price."), task="classification", **play.fields)
        stored = await all_of_it.events(ProviderExhausted)
        said = [message for one in heard if isinstance(message := decode(one.payload), ProviderExhausted)]
    return Facts(
        first=tried(first),
        later=tuple(tried(end) for end in later),
        announced=tuple((one.provider, one.quota, one.until_ms) for one in said),
        stored=tuple((one.provider, one.quota, one.until_ms) for one in stored),
        midnight_ms=midnight_ms,
        free_asked=tuple(seen.model for seen in fake.log if seen.model.endswith(":free")),
        rejected=dict(chosen.rejected),
        with_cost=tried(paid),
    )


async def _select(play: Play, all_of_it: System) -> Any:
    return await all_of_it.client.select(play.prompt("Which?"), task="classification")
