"""How each fault is done: through the outside alone (the bus, the provider, signals to processes, the caller)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.actors import MODELS, SLOTS, Actor
from sim.engine import Fate
from sim.process import NOBODY
from sim.reader import Reader

from understudy.actors.selector.conduct import Conduct
from understudy.bus.port import BusDown
from understudy.bus.subjects import evt_stream
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.wire import encode

if TYPE_CHECKING:
    from sim.world import Plan, World

MESSAGE = {"lost": "lose", "doubled": "double", "overtaken": "delay"}


RETURN_S = 1.0
"""So long after an outage its connections come back: a bus that is slow then is a second fault."""


@dataclass
class Hard:
    """A crash, hang, cut or outage: whom, and from when to when (virtual seconds)."""

    fault: str
    who: str
    from_s: float
    until_s: float


class Strikes:
    """Does it, and remembers what P1 has to know."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.hard: list[Hard] = []
        self.back_s = 0.0  # when the server is back after its last outage
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._refusing = self._deaf = self._slow = 0

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """In the background."""
        task = asyncio.get_running_loop().create_task(work, context=NOBODY.copy())
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def at_once(self, plan: Plan) -> bool:
        """Whether there is no time to lose: the message it concerns is on its way."""
        return plan.fault in MESSAGE or plan.fault == "busy" or plan.state == "ended"

    def possible(self, plan: Plan, run: Conduct, reader: Reader) -> bool:
        """Whether this run can be struck so now."""
        match plan.fault:
            case "busy":
                return not run.runner
            case "caller leaves":
                return reader.inbox.endswith(".own")
            case "runner crash" | "runner hang" | "runner cut off":
                return run.model != "" and self._runner(run).up  # it may have ended before any runner had it
            case _:
                return True

    def strike(self, plan: Plan, actor: Actor, run: Conduct) -> None:
        """Do it."""
        world, luck = self.world, self.world.luck
        match plan.fault:
            case "selector crash":
                self._kill(plan.fault, actor)
            case "runner crash" if plan.leads_to == "resting":
                for model in MODELS:
                    world.actors[f"runner-{model}"].kill(luck.uniform(0.05, 0.25))
            case "runner crash":
                self._kill(plan.fault, self._runner(run))
            case "tracker crash":
                self._kill(plan.fault, world.actors["health_tracker-1"])
            case "selector hang":
                self._stop(plan.fault, actor)
            case "runner hang":
                self._stop(plan.fault, self._runner(run))
            case "selector cut off":
                self._deafen(actor, run)
                self._cut(plan.fault, actor)
            case "runner cut off":
                self._cut(plan.fault, self._runner(run))
            case "outage":
                self._outage()
            case "log refuses":
                self._refuse(luck.uniform(0.05, 1.0))
            case "log unheard":
                self._unheard(luck.uniform(0.05, 1.0))
            case "slow bus":
                self._slow_bus(luck.uniform(0.05, 0.5))
            case "caller leaves":
                world.caller_of[run.callers.replies[0]].leave(world.by_inbox[run.callers.replies[0]])
            case "caller cancels":
                world.caller_of[run.callers.replies[0]].cancel(
                    world.by_inbox[run.callers.replies[0]], run.run_id, actor.name
                )
            case "busy":
                for model in MODELS if plan.leads_to == "queued" else (run.model,):
                    self._hog(run, model)
            case fault if fault in MESSAGE:
                self._message(MESSAGE[fault], plan, run)
            case fault:
                self._upstream(fault, plan, run)

    # --- processes -------------------------------------------------------------------------------------------------

    def _runner(self, run: Conduct) -> Actor:
        return self.world.actors[f"runner-{run.model}"]

    def _kill(self, fault: str, actor: Actor) -> None:
        down_s = self.world.luck.uniform(0.05, 1.5)
        self._note_hard(fault, actor.name, down_s + 0.6)
        actor.kill(down_s)

    def _stop(self, fault: str, actor: Actor) -> None:
        luck = self.world.luck
        for_s = luck.uniform(0.1, 3.0)
        self._note_hard(fault, actor.name, for_s)
        actor.stop(for_s, timers_first=luck.random() < 0.5)

    def _cut(self, fault: str, actor: Actor) -> None:
        loop = asyncio.get_running_loop()
        for_s = self.world.luck.uniform(0.1, 3.0)
        self._note_hard(fault, actor.name, for_s)
        self.world.broker.faults.partition(actor.name, loop.time() + for_s)

    def _outage(self) -> None:
        for_s = self.world.luck.uniform(0.05, 1.5)
        self._note_hard("outage", "server", for_s)
        living = {
            run.callers.replies[0] for a in self.world.selectors if a.state is not None for run in a.state.runs.values()
        }
        for reader in self.world.readers:
            reader.harmed = True
            reader.end_lost = reader.end_lost or reader.inbox not in living  # its end may be on its way
        self.world.broker.faults.outage(for_s)

    def _deafen(self, actor: Actor, run: Conduct) -> None:
        """What a selector says while its connection is cut and it has not noticed is lost, its runs' ends too."""
        living = {one.callers.replies[0] for one in actor.state.runs.values()} | {run.callers.replies[0]}
        for reader in self.world.readers:
            if not reader.done and (reader.inbox in living or reader.instance in ("", actor.name)):
                reader.harmed = reader.end_lost = True

    def _note_hard(self, fault: str, who: str, for_s: float) -> None:
        now = asyncio.get_running_loop().time()
        self.hard.append(Hard(fault, who, now, now + for_s))
        if fault == "outage":
            self.back_s = max(self.back_s, now + for_s)

    # --- the log and the bus ---------------------------------------------------------------------------------------

    def _refuse(self, for_s: float) -> None:
        stream = self.world.broker.stream(evt_stream("tta"))
        self._refusing += 1
        stream.max_bytes = max(1, stream.bytes)

        def again() -> None:
            self._refusing -= 1
            if not self._refusing:
                stream.max_bytes = self.world.broker.spec.evt_max_bytes

        asyncio.get_running_loop().call_later(for_s, again)

    def _unheard(self, for_s: float) -> None:
        faults = self.world.broker.faults
        self._deaf += 1
        faults.answer_loss = 1.0

        def again() -> None:
            self._deaf -= 1
            if not self._deaf:
                faults.answer_loss = 0.0

        asyncio.get_running_loop().call_later(for_s, again)

    def _slow_bus(self, for_s: float) -> None:
        faults = self.world.broker.faults
        if asyncio.get_running_loop().time() < self.back_s + RETURN_S:  # who comes back from the outage is late
            self._note_hard("slow bus", "", for_s)
        self._slow += 1
        faults.slow = 0.5

        def again() -> None:
            self._slow -= 1
            if not self._slow:
                faults.slow = 0.0

        asyncio.get_running_loop().call_later(for_s, again)

    def _message(self, harm: Any, plan: Plan, run: Conduct) -> None:
        """The next message that this state waits for, or the next one to the reader."""
        inbox = f"{run.where.inbox_of(run.run_id, run.attempt)}"
        luck = self.world.luck
        pattern, holding = inbox, b""
        match plan.state:
            case "asking" | "seam" if not run.runner and luck.random() < 0.6:
                pattern, holding = run.where.run_subject("lab", run.model), run.run_id.encode()
            case "queued" | "resting" | "ending" | "ended":
                pattern = run.callers.replies[0]
            case "speaking" | "seam" if luck.random() < 0.4:
                pattern = run.callers.replies[0]
            case _:
                pass
        by_s = luck.choice((0.002, 0.02, 0.2))
        self.world.broker.faults.harm_next(harm, pattern, holding=holding, by_s=by_s)

    # --- the provider and the runner's slots -----------------------------------------------------------------------

    def _upstream(self, fault: str, plan: Plan, run: Conduct) -> None:
        luck = self.world.luck
        fate = Fate(fault.split(" ", 1)[0], slow_s=luck.uniform(0.1, 1.0))
        self.world.provider.doom(run.run_id, run.attempt, fate)
        if plan.leads_to == "seam":
            self.world.provider.doom(run.run_id, run.attempt + 1, Fate("slow", slow_s=luck.uniform(0.05, 0.4)))

    def _hog(self, run: Conduct, model: str) -> None:
        """Others take all slots, a moment before our ask arrives."""
        world, subject = self.world, run.where.run_subject("lab", model)
        hold_s = round(world.luck.uniform(0.05, 0.4), 3)
        world.broker.faults.harm_next("delay", subject, holding=run.run_id.encode(), by_s=0.004)

        async def send() -> None:
            for i in range(SLOTS):
                hog = RunModel(
                    run_id=f"hog-{run.run_id}-{model}{i}",
                    attempt=0,
                    model=model,
                    messages=(Turn(role="user", content=f"hog {hold_s}"),),
                    parameters=Parameters(max_tokens=1, temperature=0.0, top_p=1.0, seed=0),
                    remaining_ms=5_000.0,
                )
                with suppress(BusDown):
                    await world.supervisor.publish(subject, encode(hog), reply="_INBOX.hog")

        self.do(send())
