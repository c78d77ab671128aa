"""The hedging part of `bench fairness`: time to the first token of a model with a slow tail, without and with."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import msgspec

from understudy.bus.client import Client
from understudy.messages.generate import Delta
from understudy.tools.bench.report import median, quantile

SLOW, SECOND = "tail@a", "even@b"
MODELS: dict[str, dict[str, Any]] = {SLOW: {"fallbacks": [SECOND]}, SECOND: {}}
ASKS, QUICK_ASKS, WARM, TOGETHER = 600, 100, 120, 4
FOLDED_S = 0.5
"""So long after an answer every selector has folded its outcome."""


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds to the first token, and calls that the provider got beyond one per ask."""

    gain: float
    extra_ratio: float
    without_ms: dict[str, float]
    with_ms: dict[str, float]
    asks: int
    calls: int


async def hedging(client: Client, url: str, quick: bool) -> Tail:
    """Both arms, after as many asks as a percentile needs."""
    count = QUICK_ASKS if quick else ASKS
    await _arm(client, WARM, hedge=False)
    without = await _arm(client, count, hedge=False)
    await asyncio.sleep(FOLDED_S)
    before = await _calls(url)
    with_ = await _arm(client, count, hedge=True)
    await asyncio.sleep(FOLDED_S)
    calls = await _calls(url) - before
    return Tail(
        gain=quantile(without, 0.99) / max(0.001, quantile(with_, 0.99)),
        extra_ratio=(calls - count) / count,
        without_ms=_shown(without),
        with_ms=_shown(with_),
        asks=count,
        calls=calls,
    )


def _shown(found: list[float]) -> dict[str, float]:
    return {"p50": median(found), "p95": quantile(found, 0.95), "p99": quantile(found, 0.99), "max": max(found)}


async def _arm(client: Client, count: int, hedge: bool) -> list[float]:
    """So many asks, a few at once."""
    found: list[float] = []

    async def lane(asks: int) -> None:
        for _ in range(asks):
            found.append(await _first_token_ms(client, hedge))

    await asyncio.gather(*(lane(count // TOGETHER) for _ in range(TOGETHER)))
    return found


async def _first_token_ms(client: Client, hedge: bool) -> float:
    began, first = time.perf_counter(), 0.0
    async for piece in client.generate("Go on.", model=SLOW, hedge=hedge):
        if not first and isinstance(piece, Delta):
            first = (time.perf_counter() - began) * 1000
    return first


async def _calls(url: str) -> int:
    """How many the provider got of these models so far, by its own log."""
    async with aiohttp.ClientSession() as session, session.get(url.removesuffix("/v1") + "/control/log") as got:
        seen = await got.json()
    entries: list[dict[str, Any]] = seen["requests"]
    return sum(one["model"] in MODELS for one in entries)
