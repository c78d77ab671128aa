"""The runner's edge to a local transformers model: one engine thread beside the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from understudy.actors.runner.dialect import CONTINUE_WORDS
from understudy.actors.runner.watchdog import Watchdog
from understudy.messages.pulls import EndPull, PullOver, StartPull
from understudy.messages.records import FetchRecord, RecordFetched
from understudy.messages.run import RunModel
from understudy.messages.step import (
    CallEnded,
    CallFailed,
    CallModel,
    CallText,
    CancelCall,
    FetchFailed,
    FetchList,
    Input,
    RunnerWork,
    Screen,
)
from understudy.messages.topology import Model

if TYPE_CHECKING:
    from understudy.actors.runner.local import Event
    from understudy.actors.runner.local.engine import Engine

REASONS = {
    "context_too_long": "context_too_long",
    "bad_prompt": "caller_fault",
    "nan_logits": "engine",
    "cancelled": "cancelled",
    "deadline": "deadline",
    "engine": "engine",
}


def _end_process(model: str, why: str) -> None:
    """Leave at once: the supervisor tells everybody and starts the process anew, with a sound engine."""
    line = msgspec.json.encode({"actor": "runner", "event": "engine_dead", "model": model, "why": why})
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()
    os._exit(os.EX_SOFTWARE)


class LocalEdge:
    """Performs `CallModel` on the engine; its events come back on the event loop, once per decode step.

    `on_dead(model id, why)` is called when the engine's thread serves nobody any longer; by default, the process ends.
    """

    def __init__(
        self,
        model_id: str,
        model: Model,
        folder: Path,
        now_ms: Callable[[], float],
        on_dead: Callable[[str, str], None] = _end_process,
    ) -> None:
        self._id, self._model, self._folder, self._now_ms = model_id, model, folder, now_ms
        self._on_dead = on_dead
        self._engine: Engine | None = None
        self._watchdog: Watchdog | None = None
        self._feed: Callable[[Input], None] = lambda _: None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Load the model in a thread, so that heartbeats and the log go on. Raises LoadError."""
        self._feed, self._loop = feed, asyncio.get_running_loop()
        engine = await asyncio.to_thread(self._load)
        engine.start()
        self._engine, self._watchdog = engine, Watchdog(engine, partial(self._on_dead, self._id))
        info = engine.info
        facts = {
            "arch": info.arch,
            "path": info.path,
            "reason": info.reason,
            "parameters": info.parameters,
            "dtype": info.dtype,
            "device": info.device,
            "context_tokens": info.context_tokens,
        }
        return {"engine": "transformers", self._id: facts}

    def _load(self) -> Engine:
        # Imported here: only processes that run a local model pay for torch, and the event loop does not wait for it.
        from understudy.actors.runner.local.engine import Engine

        engine = Engine(
            self._folder,
            slots=self._model.slots,
            max_context_tokens=self._model.context_tokens,
            dtype=self._model.dtype,
            tokens_per_s=self._model.tokens_per_s,
            emit=self._emit,
        )
        engine.load()
        return engine

    def perform(self, effect: RunnerWork) -> None:
        """Begin a call or end one. A step is being performed: whatever comes of it is fed later, never from here."""
        engine, loop = self._engine, self._loop
        if engine is None or loop is None:
            return
        match effect:
            case Screen():
                raise TypeError("models that compute here pass no gate")
            case CancelCall():
                engine.cancel(effect.call_id)
            case CallModel():
                if not engine.submit(self._spec(effect.call_id, effect.run)):
                    loop.call_soon(self._refused, effect.call_id)
            case FetchList():
                none = FetchFailed(self._now_ms(), effect.list_id, "unsupported", "a local engine has no list")
                loop.call_soon(self._feed, none)
            case FetchRecord():
                loop.call_soon(self._feed, RecordFetched(self._now_ms(), effect.record_id, fault="unsupported"))
            case StartPull():
                loop.call_soon(self._feed, PullOver(self._now_ms(), effect.pull_id, "unsupported"))
            case EndPull():
                pass  # none was begun

    async def stop(self) -> None:
        """Cancel everything and end the thread."""
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.stop, 2.0)

    def _spec(self, call_id: str, run: RunModel) -> Any:
        from understudy.actors.runner.local import GenerateSpec

        p = run.parameters
        messages, prefill = tuple((turn.role, turn.content) for turn in run.messages), run.prefill
        if run.continuation == "instructed":
            messages, prefill = (*messages, ("user", CONTINUE_WORDS.format(prefill))), ""
        return GenerateSpec(
            call_id=call_id,
            messages=messages,
            prefill=prefill,
            max_tokens=p.max_tokens,
            temperature=p.temperature,
            top_p=p.top_p,
            stop=p.stop,
            seed=p.seed,
            deadline_monotonic=time.monotonic() + run.remaining_ms / 1000,
        )

    def _refused(self, call_id: str) -> None:
        self._feed(CallFailed(self._now_ms(), call_id, "busy"))

    def _emit(self, events: list[Event]) -> None:
        """On the engine's thread: hand a whole step's events over with one wake-up."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, events)

    def _take(self, events: list[Event]) -> None:
        from understudy.actors.runner.local import Failed, Finished, Text

        now = self._now_ms()
        for event in events:
            match event:
                case Text():
                    self._feed(CallText(now, event.call_id, event.text, event.tokens, exact=True))
                case Finished():
                    reason = "length" if event.reason == "length" else "stop"
                    self._feed(CallEnded(now, event.call_id, reason, event.prompt_tokens, event.completion_tokens))
                case Failed():
                    self._feed(CallFailed(now, event.call_id, REASONS.get(event.code, "engine")))
