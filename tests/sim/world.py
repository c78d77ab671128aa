"""One history: a world of real actors on the simulated bus, requests, and faults that strike where they are aimed.

outcome = history(seed)        # everything is drawn from the seed
outcome.wrong                  # broken promises; empty when all hold
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from sim import promises
from sim.actors import MODELS, Actor, topology
from sim.cache import Shelf
from sim.cells import CELLS, DRAWN, HARD, State, state_of
from sim.disk import Platter
from sim.engine import Provider, script
from sim.process import NOBODY, WorldLoop
from sim.reader import Caller, Reader
from sim.strike import Strikes

from understudy.actors.host.permissions import Seat
from understudy.actors.host.topology import hash_of
from understudy.actors.selector.conduct import Conduct
from understudy.bus.memory import Broker, Note
from understudy.bus.memory_log import EPOCH_MS
from understudy.bus.port import BusDown, Outgoing
from understudy.bus.provision import BusSpec
from understudy.bus.sim_loop import SimError
from understudy.messages.events import TopologyApplied
from understudy.messages.run import ProcessGone
from understudy.messages.topology import Topology
from understudy.messages.wire import encode

REQUESTS, MORE_REQUESTS = 20, 80
FAULTS, LEAST_FAULTS = 10, 5
BEGIN_S, SPAN_S = 1.0, 3.0
DEADLINES_S = (1.5, 2.5, 4.0)
GRACE_S = 2.0
EASY = tuple(cell for cell in CELLS if cell[1] == "speaking" and cell[0] not in HARD)
LIMIT_S = 120.0
CACHE = "response_cache-1"
KEPT_RATIO, KEPT = 0.12, 2
"""So many of the requests may be answered by what is kept; they are of so many kinds."""


@dataclass
class Plan:
    """One fault, waiting for a run in the state it is aimed at."""

    fault: str
    state: State
    at_s: float
    pending: bool = False
    tries: int = 0
    leads_to: State | None = None  # it is done so that a run comes into this state, and stays there for a while
    runs: dict[str, Conduct] = field(default_factory=dict[str, Conduct])  # alive while we wait for their end


@dataclass
class Outcome:
    """What came of a history."""

    seed: int
    digest: str
    hits: list[tuple[str, State]]
    wrong: list[str]
    requests: int
    checked: int  # requests of which P1 was checked
    finished: int


class World:
    """The cast, the stage and the plans."""

    def __init__(self, seed: int, on_note: Callable[[Note], None] | None = None) -> None:
        self.seed, self.luck = seed, Random(f"world {seed}")
        self.broker = Broker(seed, BusSpec(), on_note=on_note)
        self.topology: Topology = topology(seed % 4)
        self.provider = Provider(Random(f"provider {seed}"))
        self.readers: list[Reader] = []
        self.by_inbox: dict[str, Reader] = {}
        self.caller_of: dict[str, Caller] = {}
        self.callers: list[Caller] = []
        self.hits: list[tuple[str, State]] = []
        self.wrong: list[str] = []
        self.platter = Platter(self.broker)
        self.shelf = Shelf(Random(f"shelf {seed}"))
        cast = (self.broker, self.platter, self.topology, self.provider, self.shelf)
        self.actors = {seat.instance: Actor(seat, seed, *cast) for seat in _seats()}
        self.selectors = [a for a in self.actors.values() if a.seat.actor == "selector"]
        self.strikes = Strikes(self)
        self.armed: list[Plan] = []
        self.supervisor = self.broker.connect("supervisor")
        for actor in self.actors.values():
            actor.on_wrong = self.wrong.append
            actor.on_gone = self._announce_gone
        for actor in self.selectors:
            actor.on_step = self._look
        self.broker.faults.on_harm = self._harmed
        self.broker.faults.reread = 3

    # --- the story -------------------------------------------------------------------------------------------------

    async def play(self) -> Outcome:
        """All of it."""
        body = self.topology
        event = TopologyApplied(at_ms=EPOCH_MS, id="topology.0", hash=hash_of(body), body=body)
        await self.supervisor.store([Outgoing("tta.evt.topology.applied", encode(event), event.id)], timeout_s=2)
        for actor in self.actors.values():
            actor.boot()
        for i in range(3):
            caller = Caller(self.broker.connect(f"caller{i}"), body.app, self.platter)
            await caller.start()
            self.callers.append(caller)
        loop = asyncio.get_running_loop()
        for plan in self._plans():
            loop.call_at(plan.at_s, self.armed.append, plan)
        if self.luck.random() < 0.3:
            loop.call_at(BEGIN_S + self.luck.random() * SPAN_S, self.actors[CACHE].kill, self.luck.uniform(0.05, 1.5))
        asking = self._requests()
        for at_s in asking:
            await asyncio.sleep(max(0.0, at_s - loop.time()))
            await self._ask()
        while len(self.hits) < LEAST_FAULTS and len(self.readers) < MORE_REQUESTS:
            if len(self.readers) % 5 == 0:  # what was drawn may hardly ever come about in this history
                self.armed.append(Plan(*EASY[self.luck.randrange(len(EASY))], at_s=loop.time()))
            await asyncio.sleep(self.luck.uniform(0.02, 0.3))
            await self._ask()
        self.armed.clear()
        await self._await_ends()
        found = self.wrong + promises.broken(self)
        ended = [r for r in self.readers if r.end is not None]
        checked = sum(r.owed for r in self.readers)
        fine = sum(1 for r in ended if r.end is not None and promises.is_finished(r.end))
        return Outcome(self.seed, self.broker.digest(), self.hits, found, len(self.readers), checked, fine)

    def _requests(self) -> list[float]:
        """When requests are made: some alone, some in bursts."""
        luck, found = self.luck, list[float]()
        while len(found) < REQUESTS:
            at = BEGIN_S + luck.random() * SPAN_S
            found += [at] * (1 if luck.random() < 0.8 else luck.randint(2, 4))
        return sorted(found)

    def _plans(self) -> list[Plan]:
        """Faults by target cell, drawn evenly. Half of the histories have at most one hard one, for P1."""
        luck, found = self.luck, list[Plan]()
        gentle = luck.random() < 0.5
        while len(found) < FAULTS:
            fault, state = DRAWN[luck.randrange(len(DRAWN))]
            if gentle and fault in HARD and any(one.fault in HARD for one in found):
                continue
            at_s = BEGIN_S + luck.random() * SPAN_S * 0.8
            found.append(Plan(fault, state, at_s))
            if state == "seam":  # there is none by itself: an attempt has to break first
                found.append(Plan("broken", "speaking", at_s, leads_to="seam"))
            elif state == "queued":  # every model has to be full
                found.append(Plan("busy", "asking", at_s, leads_to="queued"))
            elif state == "resting":  # no runner may be there
                found.append(Plan("runner crash", "asking", at_s, leads_to="resting"))
        return found

    async def _ask(self) -> None:
        luck, n = self.luck, len(self.readers)
        kept = luck.randrange(KEPT) if luck.random() < KEPT_RATIO else None
        prompt = f"story {n}x" if kept is None else f"story k{kept}x"
        reader = Reader(f"r{n}", prompt, script(prompt), luck.random() < 0.75, luck.choice(DEADLINES_S))
        reader.may_be_kept = kept is not None
        caller = self.callers[n % len(self.callers)]
        self.readers.append(reader)
        await caller.ask(reader, own=luck.random() < 0.35)
        self.by_inbox[reader.inbox], self.caller_of[reader.inbox] = reader, caller

    async def _await_ends(self) -> None:
        """Until every reader that is still owed something has its end, or it is too late."""
        now = asyncio.get_running_loop().time
        while any(self._waits(reader, now()) for reader in self.readers):
            await asyncio.sleep(0.1)

    def _waits(self, reader: Reader, now_s: float) -> bool:
        if reader.done or reader.end_lost:
            return False
        due_s = max(reader.asked_s + reader.deadline_s, self.strikes.back_s, self._due_s(reader))
        return now_s < due_s + GRACE_S + 0.2

    def _due_s(self, reader: Reader) -> float:
        """The deadline of its run, which counts from when a selector that hung took the ask."""
        states = [actor.state for actor in self.selectors if actor.state is not None]
        runs = [run for state in states for run in state.runs.values() if reader.inbox in run.callers.replies]
        return max([(run.deadline_ms - EPOCH_MS) / 1000 for run in runs], default=0.0)

    def end(self) -> None:
        """Nobody starts again."""
        for actor in self.actors.values():
            actor.kill(LIMIT_S)

    # --- aiming ----------------------------------------------------------------------------------------------------

    def _look(self, actor: Actor) -> None:
        """After every step of a selector: is a run where a fault waits for it?"""
        for plan in self.armed:
            if plan.pending:
                continue
            run = self._target(plan, actor)
            if run is not None and (plan.tries > 12 or self.luck.random() < 0.4):
                plan.pending = True
                wait_s = 0.0 if self.strikes.at_once(plan) or self.luck.random() < 0.4 else self.luck.random() * 0.001
                asyncio.get_running_loop().call_later(wait_s, self._strike, plan, actor, run, context=NOBODY)
            elif run is not None:
                plan.tries += 1

    def _target(self, plan: Plan, actor: Actor) -> Conduct | None:
        runs: dict[str, Conduct] = actor.state.runs
        if plan.state != "ended":
            return next((run for run in runs.values() if self._fits(plan, actor, run)), None)
        for run_id in [i for i in plan.runs if i not in runs and plan.runs[i].where.instance == actor.name]:
            run = plan.runs.pop(run_id)
            if self._fits(plan, actor, run):
                return run
        plan.runs.update(runs)
        return None

    def _fits(self, plan: Plan, actor: Actor, run: Conduct) -> bool:
        reader = self.by_inbox.get(run.callers.replies[0])
        if reader is None or reader.done:
            return False
        if plan.state == "ended":
            return run.run_id not in actor.state.runs and self.strikes.possible(plan, run, reader)
        return state_of(run) == plan.state and self.strikes.possible(plan, run, reader)

    def _strike(self, plan: Plan, actor: Actor, run: Conduct) -> None:
        """Now, if the run is still there; else the plan waits for another."""
        plan.pending = False
        if plan not in self.armed or not actor.up or actor.state is None or not self._fits(plan, actor, run):
            return
        self.armed.remove(plan)
        self.hits.append((plan.fault, plan.state))
        self.broker.note("fault", plan.fault, f"{run.run_id}.{run.attempt}", plan.state.encode())
        self.strikes.strike(plan, actor, run)

    # --- what the world does by itself -----------------------------------------------------------------------------

    def _harmed(self, harm: str, subject: str) -> None:
        reader = self.by_inbox.get(subject)
        if reader is not None:
            reader.harmed = True
            reader.end_lost = reader.end_lost or harm == "lose"
            reader.disordered = reader.disordered or harm != "lose"

    def _announce_gone(self, actor: Actor) -> None:
        """The supervisor sees a process end and says so, unless it cannot."""
        gone = ProcessGone(actor=actor.seat.actor, instance=actor.name, models=actor.seat.slugs, exit_code=-9)
        delay_s = self.luck.uniform(0.001, 0.05)

        async def announce() -> None:
            await asyncio.sleep(delay_s)
            try:
                await self.supervisor.publish(f"tta.obs.process.gone.{actor.name}", encode(gone))
            except BusDown:
                return

        self.strikes.do(announce())


def _seats() -> list[Seat]:
    seats = [Seat("selector", "selector-1"), Seat("selector", "selector-2"), Seat("health_tracker", "health_tracker-1")]
    seats.append(Seat("response_cache", CACHE))
    return seats + [Seat("runner", f"runner-{model}", (model,), "lab") for model in MODELS]


def history(seed: int, on_note: Callable[[Note], None] | None = None) -> Outcome:
    """Play one history on a loop of its own."""
    loop = WorldLoop()
    loop.limit(LIMIT_S)

    async def main() -> Outcome:
        world = World(seed, on_note)
        try:
            return await world.play()
        finally:
            world.end()

    try:
        return loop.run_until_complete(main())
    except SimError as error:
        return Outcome(seed, "", [], [f"{type(error).__name__}: {error}"], 0, 0, 0)
    finally:
        loop.end()
