"""The facade: load a folder, start one thread, submit calls from any thread, get events from the engine's thread."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from understudy.actors.runner.local import Event, FailCode, GenerateSpec, Text
from understudy.actors.runner.local.load import Device, DType, Loaded, load
from understudy.actors.runner.local.serial import SerialLoop
from understudy.actors.runner.local.slots import SlotLoop, why_not
from understudy.actors.runner.local.text import PromptError, Request, prepare, refused

IDLE_S = 0.1  # longest rest: how late a deadline is noticed while nothing is computed, and the heartbeat's period


@dataclass(frozen=True)
class EngineInfo:
    """What was loaded and how it is served. `reason` is empty for the slot loop, else layers, forward or parity."""

    arch: str
    path: Literal["slots", "generate"]
    reason: str
    parameters: int
    dtype: str
    device: str  # cpu, or the GPU's name
    context_tokens: int


class Engine:
    """One model, many calls.

    `submit` and `cancel` may be called from any thread and return at once. `emit` is called from the engine's thread,
    once per step, with the step's events; every accepted call gets exactly one `Finished` or `Failed`, as its last
    event. Its place is free again when `emit` is called with that, or as soon as it is cancelled. `emit` must be quick
    and must not raise: an error in it ends the thread, and so does a model that cannot be reset after an error: see
    `Watchdog`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        slots: int,
        max_context_tokens: int,
        emit: Callable[[list[Event]], None],
        threads: int = 1,
        dtype: DType = "auto",
        device: Device = "auto",
        tokens_per_s: float | None = None,
    ) -> None:
        if slots < 1 or max_context_tokens < 16 or threads < 1 or (tokens_per_s is not None and not tokens_per_s > 0):
            raise ValueError("slots, threads and tokens_per_s must be positive and the context at least 16 tokens")
        self._folder, self._slots, self._context, self._threads = folder, slots, max_context_tokens, threads
        self._dtype: DType = dtype
        self._device: Device = device
        self._rate, self._emit = tokens_per_s, emit
        self._loaded: Loaded | None = None
        self._loop: SlotLoop | SerialLoop | None = None
        self._info: EngineInfo | None = None
        self._thread: threading.Thread | None = None
        # everything below is shared between threads and guarded by the condition
        self._changed = threading.Condition()
        self._open: set[str] = set()  # calls without a last event
        self._inbox: list[GenerateSpec] = []
        self._cancels: set[str] = set()  # of the open ones, until they have ended
        self._stopping = False
        self.heartbeat_monotonic = time.monotonic()  # seconds; renewed at every step and when idle

    def load(self) -> None:
        """Loads and checks the model; blocking, seconds for a large one. Raises `LoadError`."""
        torch.set_num_threads(self._threads)
        loaded = load(self._folder, self._dtype, self._context, self._device)
        served, reason = why_not(loaded.model, self._slots, loaded.context_tokens)
        if served is None:
            self._loop = SerialLoop(loaded.model, self._rate, self._pulse)
        else:
            self._loop = SlotLoop(served, self._rate)
        path: Literal["slots", "generate"] = "generate" if served is None else "slots"
        self._loaded = loaded
        self._info = EngineInfo(
            loaded.arch, path, reason, loaded.parameters, loaded.dtype, loaded.device, loaded.context_tokens
        )

    @property
    def info(self) -> EngineInfo:
        """What was loaded; only after `load`."""
        if self._info is None:
            raise RuntimeError("not loaded")
        return self._info

    def start(self) -> None:
        """Starts the engine's thread; after `load`, once."""
        if self._loaded is None or self._loop is None or self._thread is not None:
            raise RuntimeError("not loaded, or started before")
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="engine", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, spec: GenerateSpec) -> bool:
        """Accepts a call, or says False at once when all slots are taken or the engine is stopping."""
        with self._changed:
            if spec.call_id in self._open:
                raise ValueError("a call with this id is open")
            if self._stopping or len(self._open) - len(self._cancels) >= self._slots:
                return False
            self._open.add(spec.call_id)
            self._inbox.append(spec)
            self._changed.notify()
        return True

    def cancel(self, call_id: str) -> None:
        """Ends a call with `Failed(cancelled)` before the next decode step; an unknown or ended call is ignored."""
        with self._changed:
            if call_id in self._open:
                self._cancels.add(call_id)
                self._changed.notify()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Cancels every open call and ends the thread; False if it did not end within `timeout_s`. For good."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- the engine's thread ---------------------------------------------------------------------------------------

    def _run(self, loop: SlotLoop | SerialLoop) -> None:
        torch.set_num_threads(self._threads)  # OpenMP counts threads per calling thread
        while not self._stopping:
            self._pulse([], loop.wait_s(time.monotonic()))
            try:
                events = loop.step(time.monotonic())
            except Exception as error:  # noqa: BLE001 - whatever a model raises ends its calls, not the engine
                self._pulse(self._broken(loop, error), 0.0)
                continue
            if events:
                self._tell(events)
        self._pulse([], 0.0)

    def _pulse(self, events: list[Event], wait_s: float) -> None:
        """Between two steps: tell events, rest if nothing is due, take in new calls, end cancelled and late ones."""
        if events:
            self._tell(events)
        self.heartbeat_monotonic = time.monotonic()
        with self._changed:
            if wait_s > 0 and not (self._inbox or self._cancels or self._stopping):
                self._changed.wait(min(wait_s, IDLE_S))
            specs, self._inbox = self._inbox, []
            cancels = set(self._cancels)
            stopping = self._stopping
        ended = self._take_in(specs, stopping) + self._end(cancels, stopping)
        if ended:
            self._tell(ended)

    def _take_in(self, specs: list[GenerateSpec], stopping: bool) -> list[Event]:
        """Prepares new calls here, not in the caller's thread: templates and long texts take their time."""
        assert self._loop is not None and self._loaded is not None
        events: list[Event] = []
        for spec in specs:
            self.heartbeat_monotonic = time.monotonic()
            try:
                if stopping:
                    raise PromptError("cancelled", "the engine is stopping")
                self._loop.add(prepare(spec, self._loaded))
            except PromptError as error:
                events.append(refused(spec, error))
        return events

    def _end(self, cancels: set[str], stopping: bool) -> list[Event]:
        """Ends the calls that were cancelled or whose time is over."""
        assert self._loop is not None
        now, events = time.monotonic(), list[Event]()
        for request in list(self._loop.requests):
            over = _over(request, cancels, stopping, now)
            if over:
                self._loop.remove(request)
                events += request.fail(*over)
        return events

    def _broken(self, loop: SlotLoop | SerialLoop, error: Exception) -> list[Event]:
        """The model raised: nobody knows which rows it wrote, so all its calls end."""
        dropped = loop.reset()
        return [event for request in dropped for event in request.fail("engine", type(error).__name__)]

    def _tell(self, events: list[Event]) -> None:
        last = {event.call_id for event in events if not isinstance(event, Text)}
        if last:
            with self._changed:
                self._open -= last
                self._cancels -= last
        self.heartbeat_monotonic = time.monotonic()
        self._emit(events)


def _over(request: Request, cancels: set[str], stopping: bool, now: float) -> tuple[FailCode, str] | None:
    if stopping:
        return "cancelled", "the engine is stopping"
    if request.call_id in cancels:
        return "cancelled", "cancelled by the caller"
    if now >= (math.inf if request.deadline is None else request.deadline):
        return "deadline", "the deadline passed"
    return None
