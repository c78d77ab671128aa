"""The scripted engine under the real runner core: every prompt has one known answer, and history decides what fails.

A model that continues natively goes on exactly behind the prefill; one that is asked to ("instructed") repeats the last
words first, as real ones do; one that cannot begins anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from understudy.messages.run import MIN_OVERLAP_CHARS, RunModel
from understudy.messages.step import (
    CallEnded,
    CallFailed,
    CallModel,
    CallText,
    CancelCall,
    Input,
    RunnerWork,
)

_PIECE = re.compile(r"\S+\s*")
_REPEATED_WORDS = 3


def script(prompt: str) -> str:
    """The one right answer to a prompt; no word occurs twice, so that nothing lost or doubled can go unnoticed."""
    luck = Random(prompt)
    name = prompt.rsplit(" ", 1)[-1]
    return " ".join(f"{name}w{i}{'abcdefgh'[: luck.randrange(5)]}" for i in range(luck.randint(6, 14)))


@dataclass
class Fate:
    """What history has in store for one attempt."""

    kind: str  # status, stall, broken, empty, slow, hold
    after: int = 0  # pieces before it happens
    slow_s: float = 0.0


@dataclass
class _Call:
    run: RunModel
    pieces: list[str]
    said: int = 0
    timer: asyncio.TimerHandle | None = None
    fate: Fate | None = None


class Provider:
    """What all engines of a history share: fates by run, the luck of speed, and what they saw that cannot be."""

    def __init__(self, luck: Random) -> None:
        self.luck = luck
        self.fates: dict[tuple[str, int], Fate] = {}
        self.live: dict[str, ScriptedEdge] = {}  # call id -> who runs it
        self.wrong: list[tuple[str, str]] = []  # run id, what

    def doom(self, run_id: str, attempt: int, fate: Fate) -> None:
        """This attempt shall fail so: at once where it is under way, else when it comes."""
        self.fates[run_id, attempt] = fate
        call_id = f"{run_id}.{attempt}"
        if call_id in self.live:
            self.live[call_id].meet(call_id, fate)


class ScriptedEdge:
    """See `core_port.Edge`. Works by timers of its process, so a stopped process's engine stands still too."""

    def __init__(self, provider: Provider, now_ms: Callable[[], float]) -> None:
        self._provider, self._now_ms = provider, now_ms
        self._calls: dict[str, _Call] = {}
        self._feed: Callable[[Input], None] = lambda _: None

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Ready at once."""
        self._feed = feed
        return {"engine": "scripted"}

    async def stop(self) -> None:
        """The process ends; providers notice nothing worth telling."""
        for call_id in list(self._calls):
            self._forget(call_id)

    def perform(self, effect: RunnerWork) -> None:
        """Begin or stop an answer."""
        match effect:
            case CallModel():
                self._begin(effect.call_id, effect.run)
            case CancelCall():
                if self._forget(effect.call_id) is not None:
                    self._feed(CallFailed(self._now_ms(), effect.call_id, "cancelled"))
            case _:
                raise AssertionError("nobody asks for lists, records or pulls here")

    def meet(self, call_id: str, fate: Fate) -> None:
        """History strikes while the call is under way."""
        call = self._calls[call_id]
        call.fate = fate
        if fate.kind == "slow" and call.timer is not None:
            call.timer.cancel()
            self._in(call_id, call, fate.slow_s)
        elif fate.kind in ("status", "broken", "empty"):
            if call.timer is not None:
                call.timer.cancel()
            self._in(call_id, call, 0.0)

    def _begin(self, call_id: str, run: RunModel) -> None:
        call = _Call(run, self._answer(run), fate=self._provider.fates.get((run.run_id, run.attempt)))
        if run.messages[-1].content.startswith("hog "):
            call.fate = Fate("hold", slow_s=float(run.messages[-1].content[4:]))
        self._calls[call_id] = call
        self._provider.live[call_id] = self
        luck = self._provider.luck
        wait_s = luck.uniform(0.004, 0.03)
        if call.fate is not None and call.fate.kind in ("slow", "hold"):
            wait_s = call.fate.slow_s
        self._in(call_id, call, wait_s)

    def _answer(self, run: RunModel) -> list[str]:
        if run.probe:
            return ["yes"]
        whole = script(run.messages[-1].content)
        if run.prefill and not whole.startswith(run.prefill):
            self._provider.wrong.append((run.run_id, f"prefill {run.prefill!r} is not how {whole!r} begins"))
        if run.continuation == "none" and run.prefill:
            self._provider.wrong.append((run.run_id, "a model that cannot continue was given a prefill"))
        rest = whole[len(run.prefill) :] if run.prefill else whole
        if run.continuation == "instructed":
            again = " ".join(run.prefill.split()[-_REPEATED_WORDS:])
            rest = (again if len(again) >= MIN_OVERLAP_CHARS else "") + rest
        lead = rest[: len(rest) - len(rest.lstrip())]
        pieces = _PIECE.findall(rest)
        return [lead + pieces[0], *pieces[1:]] if pieces else []

    def _in(self, call_id: str, call: _Call, wait_s: float) -> None:
        call.timer = asyncio.get_running_loop().call_later(wait_s, self._next, call_id)

    def _next(self, call_id: str) -> None:
        call = self._calls.get(call_id)
        if call is None:
            return
        now, fate = self._now_ms(), call.fate
        if fate is not None and fate.kind not in ("slow", "hold") and call.said >= fate.after:
            self._strike(call_id, fate, now)
            return
        if call.said == len(call.pieces) or (fate is not None and fate.kind == "hold"):
            self._forget(call_id)
            self._feed(CallEnded(now, call_id, "stop", 7, call.said))
            return
        luck = self._provider.luck
        size = 1 if luck.random() < 0.4 else luck.randint(2, 5)
        text = "".join(call.pieces[call.said : call.said + size])
        call.said = min(len(call.pieces), call.said + size)
        self._in(call_id, call, luck.uniform(0.001, 0.03))
        self._feed(CallText(now, call_id, text, size))

    def _strike(self, call_id: str, fate: Fate, now: float) -> None:
        if fate.kind == "stall":
            return
        spoken = self._forget(call_id)
        kind = "broken" if spoken is not None and spoken.said else fate.kind  # too late for a status or no text at all
        match kind:
            case "status":
                self._feed(CallFailed(now, call_id, "server_error", status=500))
            case "broken":
                self._feed(CallFailed(now, call_id, "broken_stream"))
            case _:
                self._feed(CallEnded(now, call_id, "stop", 7, 0))

    def _forget(self, call_id: str) -> _Call | None:
        call = self._calls.pop(call_id, None)
        self._provider.live.pop(call_id, None)
        if call is not None and call.timer is not None:
            call.timer.cancel()
        return call
