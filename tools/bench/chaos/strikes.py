"""What hits the system, when, and how it is seen to have hit: a seeded schedule of kills, stops and cut connections."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from understudy.tools.bench.chaos.load import Load, progress
from understudy.tools.bench.chaos.stage import KINDS, Up

WAIT_STREAMS_S = 30.0
WAIT_BACK_S = 45.0
LOOK_S = 0.02


@dataclass
class Strike:
    """One blow. `mid_text`: streams with text out and no end when it fell; `until`: when it was over."""

    word: str  # kill, stop, or a toxic
    kind: str
    pause_s: float
    draw: float  # in [0, 1): which of the candidates
    at: float = 0.0
    until: float = 0.0
    victim: str = ""
    mid_text: int = 0
    back: bool = False


def schedule(seed: int, kills: int, stops: int) -> list[Strike]:
    """So many of each kind, in a drawn order, with drawn pauses. The same seed gives the same schedule."""
    rng = random.Random(seed)
    words = [("kill", kind) for kind in KINDS for _ in range(kills)] + [
        ("stop", k) for k in KINDS for _ in range(stops)
    ]
    rng.shuffle(words)
    return [Strike(word, kind, round(rng.uniform(0.5, 2.5), 2), rng.random()) for word, kind in words]


@dataclass
class Striker:
    """Carries a schedule out on a running system, one strike at a time (the promises are for single faults)."""

    up: Up
    load: Load
    min_streams: int
    stop_s: float
    strikes: list[Strike]
    killed: set[int] = field(default_factory=set[int])

    async def run(self) -> None:
        """All of them."""
        for strike in self.strikes:
            await asyncio.sleep(strike.pause_s)
            await until(lambda: self.load.mid_text() >= self.min_streams, WAIT_STREAMS_S)
            await self._strike(strike)

    async def _strike(self, strike: Strike) -> None:
        if not await until(lambda: bool(self.up.living(strike.kind)), WAIT_BACK_S):
            progress(f"  no {strike.kind} to strike")
            return
        living = sorted(self.up.living(strike.kind).items())
        strike.victim, pid = living[int(strike.draw * len(living))]
        strike.at, strike.mid_text = self.load.now(), self.load.mid_text()
        progress(f"  {strike.at:6.1f} s  {strike.word} {strike.victim} ({pid}) while {strike.mid_text} are mid-text")
        if strike.word == "kill":
            os.kill(pid, signal.SIGKILL)
            self.killed.add(pid)
            strike.back = await until(
                lambda: self.up.living(strike.kind).get(strike.victim, pid) not in self.killed, WAIT_BACK_S
            )
        else:
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(self.stop_s)
            finally:
                os.kill(pid, signal.SIGCONT)
            strike.back = True
        strike.until = self.load.now()


async def until(condition: Callable[[], bool], within_s: float) -> bool:
    """Look again and again, bounded."""
    end = asyncio.get_running_loop().time() + within_s
    while not condition():
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(LOOK_S)
    return True
