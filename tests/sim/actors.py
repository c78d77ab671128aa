"""The actors of a history: real hosts and cores, started, killed, stopped and started again as a supervisor would."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import msgspec
import yaml
from sim.cache import ScriptedCache, Shelf
from sim.disk import Platter
from sim.engine import Provider, ScriptedEdge
from sim.process import NOBODY, OwnBus, Process

from understudy.actors.health_tracker import core as health_tracker
from understudy.actors.host.clock import ulid
from understudy.actors.host.logs import Log
from understudy.actors.host.loop import Crashed, Host, settings_of
from understudy.actors.host.permissions import Seat, inbox_of
from understudy.actors.response_cache import core as response_cache
from understudy.actors.runner import core as runner
from understudy.actors.selector import core as selector
from understudy.bus.memory import Broker
from understudy.bus.memory_bus import MemoryBus
from understudy.bus.memory_log import EPOCH_MS
from understudy.bus.port import BusError
from understudy.messages.topology import Topology

ROOT = Path(__file__).resolve().parents[2]
CORES: dict[str, Any] = {
    "selector": selector, "runner": runner, "health_tracker": health_tracker, "response_cache": response_cache,
}  # fmt: skip
MODELS = ("a", "b", "c")
SLOTS = 6
CONTINUES = (
    ("native", "native", "none"),
    ("native", "instructed", "native"),
    ("none", "native", "instructed"),
    ("native", "native", "native"),
)
BEAT_MS = 500
SETTINGS: dict[str, dict[str, Any]] = {
    "selector": {"beat_ms": 400, "beat_timeout_ms": 1_500, "sweep_ms": 200},
    "runner": {"beat_ms": BEAT_MS},
    "health_tracker": {"beat_timeout_ms": 1_500, "grace_ms": 2_000, "sweep_ms": 400},
}
RETRY_S = 0.3


@cache
def topology(kind: int) -> Topology:
    """What is shipped, with three models of different skill and limits that make a history short."""
    shipped = yaml.safe_load((ROOT / "topology.yaml").read_text())
    actors = shipped["actors"]
    for name, settings in SETTINGS.items():
        actors[name]["settings"] = {**actors[name].get("settings", {}), **settings}
    models = {
        name: {"provider": "lab", "continues": CONTINUES[kind][i], "slots": SLOTS, "quality": {"default": 0.9 - i / 10}}
        for i, name in enumerate(MODELS)
    }
    body = {
        "version": 1,
        "models": models,
        "providers": {"lab": {"kind": "openai", "url": "http://127.0.0.1:1/v1"}},
        "latency": {"interactive": {"deadline_ms": 4_000, "first_token_ms": 600, "stall_ms": 400}},
        "actors": actors,
    }
    return msgspec.convert(body, Topology)


class VirtualClock:
    """A host's time and luck: the loop's, and the seed's."""

    def __init__(self, seed: str) -> None:
        self._loop, self._luck = asyncio.get_running_loop(), Random(seed)

    def now_ms(self) -> float:
        """See `clock.Clock`."""
        return EPOCH_MS + self._loop.time() * 1000

    def new_id(self, now_ms: float) -> str:
        """See `clock.Clock`."""
        return ulid(now_ms, self._luck.getrandbits(80))


class _Quiet(Log):
    """Log lines change nothing, so nobody writes them."""

    def line(self, event: str, **fields: Any) -> None:
        """Forget it."""


_QUIET = _Quiet("", "")


class Actor:
    """A seat and whoever sits in it now."""

    def __init__(
        self, seat: Seat, seed: int, broker: Broker, platter: Platter, plan: Topology, provider: Provider, shelf: Shelf
    ) -> None:
        self.seat, self.name, self.topology = seat, seat.instance, plan
        self.lives = 0
        self.ready_s = float("inf")
        self.state: Any = None
        self.on_step: Callable[[Actor], None] = lambda _: None
        self.on_wrong: Callable[[str], None] = lambda _: None
        self.on_gone: Callable[[Actor], None] = lambda _: None
        self._seed, self._broker, self._platter, self._provider, self._shelf = seed, broker, platter, provider, shelf
        self._core = SimpleNamespace(**{k: v for k, v in vars(CORES[seat.actor]).items() if not k.startswith("__")})
        self._step, self._core.step = self._core.step, self._stepped
        self._process: Process | None = None
        self._bus: MemoryBus | None = None

    @property
    def up(self) -> bool:
        """Running, and not stopped."""
        return self._process is not None and not self._process.gate.shut

    def boot(self) -> None:
        """Start a new life, unless one is being lived."""
        if self._process is not None:
            return
        self.lives += 1
        self._process = Process(self.name)
        told: list[Callable[[str], None]] = []

        def on_state(word: str) -> None:
            for listener in told:
                listener(word)

        self._bus = self._broker.connect(
            self.name, inbox_prefix=inbox_of(self.name), on_state=self._process.entered(on_state)
        )
        self._process.start(self._live(self._process, self._bus, told))

    def kill(self, down_s: float) -> None:
        """kill -9, and start again after `down_s`."""
        process, bus = self._process, self._bus
        if process is None or bus is None:
            return
        self._process, self.ready_s, self.state = None, float("inf"), None
        process.kill(bus)
        self.on_gone(self)
        asyncio.get_running_loop().call_later(down_s, self.boot)

    def stop(self, for_s: float, timers_first: bool) -> None:
        """SIGSTOP, and SIGCONT after `for_s`."""
        process = self._process
        if process is None or process.gate.shut:
            return
        process.gate.shut = True
        asyncio.get_running_loop().call_later(for_s, self._go_on, process, timers_first)

    def _go_on(self, process: Process, timers_first: bool) -> None:
        if not process.dead:
            process.gate.open(timers_first)

    async def _live(self, process: Process, bus: MemoryBus, told: list[Callable[[str], None]]) -> None:
        clock = VirtualClock(f"{self._seed} {self.name} {self.lives}")
        plan = self.topology.actors[self.seat.actor]
        models = {model: self.topology.models[model].slots for model in self.seat.slugs}
        extra = {"models": models} if self.seat.actor == "runner" else {}
        edge: ScriptedEdge | ScriptedCache | None = None
        if self.seat.actor == "runner":
            edge = ScriptedEdge(self._provider, clock.now_ms)
        elif self.seat.actor == "response_cache":
            edge = ScriptedCache(self._shelf, clock.now_ms)
        host = Host(
            self._core,  # type: ignore[arg-type]
            OwnBus(bus, process),  # type: ignore[arg-type]
            plan,
            self.seat,
            app=self.topology.app,
            settings=settings_of(self._core, plan, extra),  # type: ignore[arg-type]
            edge=edge,
            log=_QUIET,
            clock=clock,
            listen_s=1.2 * BEAT_MS / 1000,
            sync=self._platter.disk(f"disk {self._seed} {self.name} {self.lives}"),
        )
        told += [host.hearing.connection, host.connection]
        self.state = host.state
        try:
            await host.run(asyncio.Event(), self._ready)
        except Crashed as crash:
            self.on_wrong(f"{self.name} crashed: {crash}")
        except BusError:
            pass  # as a real process: it ends, and the supervisor tries again
        if self._process is process:
            self._process, self.ready_s, self.state = None, float("inf"), None
            bus.crash()
            asyncio.get_running_loop().call_later(RETRY_S, self.boot, context=NOBODY)

    def _ready(self, _: dict[str, Any]) -> None:
        self.ready_s = asyncio.get_running_loop().time()

    def _stepped(self, state: Any, message: Any, settings: Any) -> Any:
        try:
            effects = self._step(state, message, settings)
        except Exception:
            self.on_wrong(f"{self.name}: a step raised on {message!r}\n{traceback.format_exc()}")
            raise
        if state is self.state:
            self.on_step(self)
        return effects
