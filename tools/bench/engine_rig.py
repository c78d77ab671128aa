"""What `bench engine` measures: the lab's 42 M model, and an engine beside an event loop that is timed meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

from understudy.actors.runner.local import Event, Failed, Finished, GenerateSpec, Text

AT_ONCE, NEW_TOKENS, CONTEXT, THREADS = 16, 32, 512, 1
TICK_S = 0.002
DType = Literal["float32", "bfloat16"]


def lab_model(folder: Path) -> Path:
    """The 42 M llama that the figures are given for: random weights and invented words, the same every time."""
    from understudy.tools.tiny import make

    draw = random.Random(1)
    syllables = [a + b for a in "bcdfglmnprst" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randrange(2, 5))) for _ in range(9000)]
    tokenizer = make.make_tokenizer([" ".join(words[i : i + 20]) for i in range(0, len(words), 20)], 8000)
    model = make.make_model("llama", len(tokenizer), 0, hidden=512, layers=12, heads=8, std=0.02, context=2048)
    make.save(model, tokenizer, folder, {"kind": "random", "arch": "llama", "seed": 0})
    (folder / "words").write_text(" ".join(words))
    return folder


class Rig:
    """An engine beside this event loop: calls in, last events out, and the loop's longest pause meanwhile."""

    def __init__(self, folder: Path, dtype: DType) -> None:
        from understudy.actors.runner.local.engine import Engine

        self.loop = asyncio.get_running_loop()
        self.engine = Engine(
            folder, slots=AT_ONCE, max_context_tokens=CONTEXT, emit=self._emit, threads=THREADS, dtype=dtype
        )
        self.texts: dict[str, str] = {}
        self.on_emit: Callable[[list[Event]], None] = lambda events: None  # on the engine's thread
        self._ends: dict[str, asyncio.Future[Finished | Failed]] = {}
        self._numbers = itertools.count()

    async def __aenter__(self) -> Rig:
        await asyncio.to_thread(self.engine.load)
        self.engine.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.engine.stop)

    def ask(self, prompt: str, **more: Any) -> str:
        """Submits a call; returns its id."""
        name = str(next(self._numbers))
        self._ends[name] = self.loop.create_future()
        if not self.engine.submit(GenerateSpec(name, (("user", prompt),), **more)):
            raise RuntimeError("the engine is full")
        return name

    async def end(self, name: str) -> Finished | Failed:
        """Waits for a call's last event."""
        return await self._ends[name]

    async def together(self, prompts: list[str]) -> int:
        """All at once, to the end; returns the tokens generated."""
        names = [self.ask(p, max_tokens=NEW_TOKENS, temperature=0.8, seed=i) for i, p in enumerate(prompts)]
        ends = [await self.end(name) for name in names]
        return sum(end.completion_tokens for end in ends if isinstance(end, Finished))

    def _emit(self, events: list[Event]) -> None:
        self.on_emit(events)
        self.loop.call_soon_threadsafe(self._take, events)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Text):
                self.texts[event.call_id] = self.texts.get(event.call_id, "") + event.text
            else:
                self._ends[event.call_id].set_result(event)


async def longest_pause_ms(work: Coroutine[Any, Any, None]) -> float:
    """How late a 2 ms timer of this loop came at worst while `work` ran."""
    task, longest = asyncio.ensure_future(work), 0.0
    while not task.done():
        began = time.perf_counter()
        await asyncio.sleep(TICK_S)
        longest = max(longest, time.perf_counter() - began - TICK_S)
    await task
    return longest * 1000
