"""Bounded polling: the one way in which a test waits for what it cannot be told of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], Any], within_s: float = 8.0, *, look_s: float = 0.005) -> None:
    """Return as soon as the condition holds; TimeoutError where it does not in time."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(look_s)


async def found(look: Callable[[], Awaitable[T]], within_s: float = 8.0, *, look_s: float = 0.05) -> T:
    """The first answer that is not empty; TimeoutError where there is none in time."""
    async with asyncio.timeout(within_s):
        while not (answer := await look()):
            await asyncio.sleep(look_s)
    return answer
