"""What an actor asks the bus itself: who holds a key, what stands in the log, who listens on a subject."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from understudy.actors.host.consulting import Consulting
from understudy.bus import tracing
from understudy.bus.port import Bus, BusError, Received
from understudy.bus.subjects import evt_stream
from understudy.messages.events import Event, RequestEnded
from understudy.messages.step import Claim, Claimed, Consult, FindEnd, Input, Probe, Recall, Recalled, Unheard
from understudy.messages.topology import ActorPlan
from understudy.messages.wire import WireError, decode

RECALL_RETRIES_S = (0.05, 0.2, 0.5, 1.0)
CLAIM_RETRIES_S = (0.05, 0.2)
FIND_S, FIND_PAUSE_S = 4.0, 0.2
"""So long the end of a run is looked for; who asked waits six seconds."""
FIND_BATCH = 1000
EARLY_MS = 10_000
"""So far a selector's clock, which is in its run ids, may be ahead of the server's, which stamps what is stored."""
LONGEST_RUN_MS = 86_400_000 + 60_000
"""No deadline is longer than a day."""
LOOK_S = 1.0
"""While something is in hand, what it rests on is read this often, whether or not anything was heard of it."""


class Questions:
    """Performs `Recall`, `FindEnd`, `Claim`, `Consult` and `Probe`; answers through `feed`.

    None is awaited by the host's loop.
    """

    def __init__(
        self,
        bus: Bus,
        app: str,
        inbox: str,
        plan: ActorPlan,
        now_ms: Callable[[], float],
        feed: Callable[[Input], None],
    ) -> None:
        self._bus, self._app, self._inbox, self._now_ms, self._feed = bus, app, inbox, now_ms, feed
        self.asking: dict[asyncio.Task[None], None] = {}  # a set has no order that two runs share
        self._rings = [f"{app}.live.{name}" for name in plan.consults]
        family = plan.consults[0].partition(".")[0] if plan.consults else ""
        self._consulting = Consulting(bus, app, family, now_ms, feed) if family else None

    async def listen(self) -> None:
        """Hear when there is something new of what is consulted, so as to read it without being asked."""
        for subject in self._rings:
            await self._bus.subscribe(subject, self._look, settle=False)

    async def keep_looking(self, in_hand: Callable[[], int]) -> None:
        """Until cancelled: a ring may be lost, with the connection or the server's reading of the log."""
        while self._consulting is not None:
            await asyncio.sleep(LOOK_S)
            if in_hand():
                self._look()

    def _look(self, _: Received | None = None) -> None:
        if self._consulting is not None:
            self._keep(self._consulting.look())

    def put(self, effect: Recall | FindEnd | Claim | Consult) -> None:
        """Ask."""
        if isinstance(effect, Consult):
            assert self._consulting is not None, "only an actor that consults something asks"
            self._keep(self._consulting.put(effect.key))
            return
        work: Coroutine[Any, Any, None]
        match effect:
            case Recall():
                work = self._recall(effect)
            case FindEnd():
                work = self._find_end(effect)
            case Claim():
                work = self._claim(effect)
        self._keep(asyncio.get_running_loop().create_task(work))

    def _keep(self, task: asyncio.Task[None] | None) -> None:
        if task is None:
            return
        self.asking[task] = None
        task.add_done_callback(lambda done: self.asking.pop(done, None))

    def probe(self, effect: Probe) -> dict[str, str]:
        """The headers that turn a message to `effect.subject` into a question; the answer comes to `on_trace`."""
        return tracing.trace_only(f"{self._inbox}.traced{effect.reply.removeprefix(self._inbox)}")

    def on_trace(self, received: Received) -> None:
        """Where nobody listens, the reply subject of the probe hears so."""
        if tracing.nobody_listens(received.payload):
            reply = self._inbox + received.subject.removeprefix(f"{self._inbox}.traced")
            self._feed(Unheard(self._now_ms(), reply))

    async def _recall(self, effect: Recall) -> None:
        event: Event | None = None
        ok = False
        for wait_s in RECALL_RETRIES_S:
            try:
                found = await self._bus.get(evt_stream(self._app), effect.seq)
            except BusError:
                await asyncio.sleep(wait_s)
                continue
            with suppress(WireError):
                message = decode(found.payload) if found is not None else None
                event = message if isinstance(message, Event) else None
            ok = True
            break
        self._feed(Recalled(self._now_ms(), effect.key, event, ok))

    async def _find_end(self, effect: FindEnd) -> None:
        """Outcome after outcome from a little before the run began by its selector's clock, as many at a time as the
        server hands out. At what was stored a day after, or in vain until the head, there is no such run."""
        subject, since_ms, seq = f"{self._app}.evt.request.ended", max(1, effect.begun_ms - EARLY_MS), 0
        end: RequestEnded | None = None
        sure, loop = False, asyncio.get_running_loop()
        until = loop.time() + FIND_S
        while end is None and not sure and loop.time() < until:
            try:
                found = await self._bus.get_many(evt_stream(self._app), seq, subject, FIND_BATCH, since_ms=since_ms)
            except BusError:
                await asyncio.sleep(FIND_PAUSE_S)
                continue
            end = _end_of(effect.run_id, found)
            sure = not found or found[-1].at_ms > effect.begun_ms + LONGEST_RUN_MS
            seq, since_ms = (found[-1].seq + 1 if found else seq), 0
        self._feed(Recalled(self._now_ms(), effect.key, end, ok=sure or end is not None))

    async def _claim(self, effect: Claim) -> None:
        holder: str | None = None
        for wait_s in CLAIM_RETRIES_S:
            try:
                held = await self._bus.claim(effect.key, effect.value.encode(), ttl_s=effect.ttl_s)
            except BusError:
                await asyncio.sleep(wait_s)
                continue
            holder = "" if held is None else held.decode()
            break
        self._feed(Claimed(self._now_ms(), effect.key, holder))


def _end_of(run_id: str, outcomes: Sequence[Received]) -> RequestEnded | None:
    """The outcome of this run, if it is among these. Only what names it is decoded."""
    wanted = run_id.encode()
    for one in outcomes:
        if wanted in one.payload:
            with suppress(WireError):
                event = decode(one.payload)
                if isinstance(event, RequestEnded) and event.run_id == run_id:
                    return event
    return None
