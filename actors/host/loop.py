"""The one loop that runs every actor: it waits, decodes, steps, publishes, stores. Actors only decide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from understudy.actors.host.clock import Clock, SystemClock
from understudy.actors.host.core_port import Core, Edge, in_hand
from understudy.actors.host.follower import Follower, until_seen
from understudy.actors.host.hearing import RETURN_MS, Hearing
from understudy.actors.host.intake import Intake
from understudy.actors.host.log_sync import Disk
from understudy.actors.host.logs import FLUSH_S, Log
from understudy.actors.host.outbox import Outbox, Overflow
from understudy.actors.host.permissions import Seat, inbox_of
from understudy.actors.host.questions import Questions
from understudy.actors.host.snapshots import Snapshots
from understudy.actors.host.storer import Storer
from understudy.actors.host.telling import dead_letter, places, stored_facts, stored_name
from understudy.actors.host.timers import Timers
from understudy.bus.port import Bus, BusError, Received
from understudy.bus.subjects import trace_stream
from understudy.messages.base import Ask, Message
from understudy.messages.events import Event, SelectionMade
from understudy.messages.generate import ADVICE, Failed
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    Claim,
    Consult,
    Deaf,
    EdgeReady,
    Effect,
    FindEnd,
    Happened,
    Heard,
    Input,
    Later,
    Probe,
    Recall,
    Send,
    Stopping,
    Store,
    Stored,
    StoreFailed,
    Trace,
    Traced,
    Unheard,
    Wake,
    Woke,
)
from understudy.messages.topology import ActorPlan
from understudy.messages.wire import WireError, decode, encode

MAX_ASK_BYTES = 4_000_000
FINISH_S = 4.0
FOLLOW_S = 0.2
"""How often what others decided is read: only their death makes it matter, and it comes in bursts."""
LOOK_BACK_S = 120.0
"""How far back a starting actor reads the trace: runs begun before that are left to those who were there."""


class Crashed(Exception):
    """A step raised: its state cannot be trusted any longer, so the process ends and is built anew from the log."""


class Host:
    """One actor in one process.

    Runs until `stop` is set (then asks are refused and what is in hand is ended) or a step raises (`Crashed`).
    """

    def __init__(
        self,
        core: Core,
        bus: Bus,
        plan: ActorPlan,
        seat: Seat,
        *,
        app: str,
        settings: Any,
        edge: Edge | None,
        log: Log,
        clock: Clock | None = None,
        max_ask_bytes: int = MAX_ASK_BYTES,
        listen_s: float = 0.0,
        snapshots: Snapshots | None = None,
        sync: Disk | None = None,
        askers: tuple[str, ...] = (),
    ) -> None:
        """`clock` is the system's unless another is brought; `max_ask_bytes` bounds what components may ask.

        `listen_s`: hear observations so long before taking asks. `sync`: an event is stored when that says so too.
        `askers`: inboxes of actors that ask what components ask.
        """
        self.core, self.bus, self.plan, self.seat, self.app, self.settings = core, bus, plan, seat, app, settings
        self.edge, self.log = edge, log
        self.listen_s = listen_s
        self.clock: Clock = clock or SystemClock()
        self.state = core.State()
        self.hearing = Hearing(self.clock.now_ms, lambda ms, cut: self.feed(Deaf(self.clock.now_ms(), ms, cut)))
        self.timers = Timers(
            self.clock.now_ms,
            lambda key, gen: self.feed(Woke(self.clock.now_ms(), key, gen)),
            self.hearing.before_timers,
        )
        self._in_hand = partial(in_hand, core, self.state)
        self.storer = Storer(bus, app, self.clock.now_ms, self._stored, sync, self._in_hand)
        self.drain_ms = 0.0  # set before `stop`: so long what is in hand may go on
        self._sound = True  # no step has raised
        self.follower = Follower(core, bus, app, log, self.clock.now_ms, self._on_fact, lambda: self._sound, snapshots)
        self.unknown = 0  # messages whose tag or form we do not know
        self._out = Outbox(bus, self._not_sent)
        self._crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stores: dict[str, Event] = {}
        self._later: list[tuple[Later, Input]] = []
        self.id = self.clock.new_id(self.clock.now_ms())
        # Of this process alone: what answers an earlier life of the same instance finds nobody, and notices.
        self.inbox = f"{inbox_of(seat.instance)}.{self.id}"
        self.questions = Questions(bus, app, self.inbox, plan, self.clock.now_ms, self._answered)
        self._back_ms = float("-inf")
        asked, send = self._on_ask, self._send
        self._intake = Intake(app, seat, max_bytes=max_ask_bytes, asked=asked, send=send, log=log, askers=askers)
        self.ready = asyncio.Event()

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, on_ready: Callable[[dict[str, Any]], None]) -> None:
        """Fold the log, get the edge ready, take asks, work until stopped. Raises Crashed."""
        looking = self.questions.keep_looking(self._in_hand)
        work = (self.storer.run(), self._out.run(), self._flush_log(), self.follower.keep(self.state), looking)
        tasks = [asyncio.create_task(t) for t in work]
        try:
            now = self.clock.now_ms()
            inbox = self.inbox
            self.feed(Booted(now, self.seat.actor, self.seat.instance, self.app, inbox, self.id))
            await self.bus.subscribe(f"{inbox}.run.>", self._on_inbox)
            await self.bus.subscribe(f"{inbox}.probe.>", self._on_inbox)
            await self.bus.subscribe(f"{inbox}.vanished.>", self._on_vanished)
            await self.bus.subscribe(f"{inbox}.traced.>", self.questions.on_trace)
            for name in self.plan.hears:
                await self.bus.subscribe(f"{self.app}.obs.{name}.*", self._on_inbox)
            heard_from_ms = self.clock.now_ms() + self.listen_s * 1000 if self.plan.hears else 0.0
            await self.questions.listen()
            await self._follow()
            await self._fold()
            # Whoever answers before it has heard who is alive would refuse what can be done.
            await asyncio.sleep(max(0.0, heard_from_ms - self.clock.now_ms()) / 1000)
            facts = await self.edge.start(self.feed_threadsafe()) if self.edge is not None else {}
            if self.edge is not None:
                self.feed(EdgeReady(self.clock.now_ms(), facts))
            service, own = await self._intake.open(self.bus, self.core, self.plan)
            self.ready.set()
            on_ready(facts)
            await self._until(stop)
            if service is not None:
                await service.stop()  # nothing new; orders about what is in hand still come
            await self._finish()
            for sub in own:
                await sub.stop()
            self.follower.save(self.state)
        finally:
            for task in (*tasks, *self.questions.asking):
                task.cancel()
            self.timers.stop()
            if self.edge is not None:
                await self.edge.stop()
            self.log.flush()

    async def _until(self, stop: asyncio.Event) -> None:
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait([waiting, self._crashed], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._crashed.done():
            self._crashed.result()

    async def _finish(self) -> None:
        """End what is in hand, within bounds: with the bus gone for good, what waits to be sent never leaves."""
        drain_ms, now = self.drain_ms, self.clock.now_ms()
        self.feed(Stopping(now, now + drain_ms))
        until = now + drain_ms + FINISH_S * 1000
        while (self._in_hand() or self._out or self.storer.pending) and self.clock.now_ms() < until:
            if self._crashed.done():
                self._crashed.result()
            if self.drain_ms < drain_ms:  # told to hurry meanwhile
                drain_ms, now = self.drain_ms, self.clock.now_ms()
                self.feed(Stopping(now, now + drain_ms))
                until = now + drain_ms + FINISH_S * 1000
            await asyncio.sleep(0.02)

    async def _flush_log(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.log.flush()

    # --- inputs ----------------------------------------------------------------------------------------------------

    def feed(self, message: Input) -> None:
        """One input through the step, its effects performed in order."""
        if self._crashed.done():
            return
        if self._later:
            self._perform_later()
        try:
            for effect in self.core.step(self.state, message, self.settings):
                if isinstance(effect, Later):
                    self._put_off(effect, message)
                else:
                    self._perform(effect)
        except Exception as error:  # noqa: BLE001 - the one place where a step's bug is met
            self._crash(message, error)

    def _put_off(self, effect: Later, message: Input) -> None:
        """Until a turn of the loop later: what was sent in this one has left then."""
        if not self._later:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._perform_later)
        self._later.append((effect, message))

    def _perform_later(self) -> None:
        later, self._later = self._later, []
        for one, message in later:
            try:
                for effect in one.make():
                    self._perform(effect)
            except Exception as error:  # noqa: BLE001 - as in `feed`: it is that message's fault
                self._crash(message, error)

    def feed_threadsafe(self) -> Callable[[Input], None]:
        """`feed` for edges that live in another thread."""
        loop = asyncio.get_running_loop()

        def feed(message: Input) -> None:
            try:
                running = asyncio.get_running_loop()
            except RuntimeError:
                running = None
            if running is loop:
                self.feed(message)
            else:
                loop.call_soon_threadsafe(self.feed, message)

        return feed

    def _crash(self, message: Input, error: Exception) -> None:
        """Say what happened without any content, answer the caller, and let the process end."""
        self._sound = False
        where = places(error)
        self.log.line("step_raised", input=type(message).__name__, error=type(error).__name__, at=where[-6:])
        if isinstance(message, Asked) and message.reply:
            failed = Failed(code="internal", text=ADVICE["internal"], run_id=message.id)
            self._send(message.reply, encode(failed), "")
        crash = Crashed(f"{type(error).__name__} at {where[-1] if where else '?'}")
        asyncio.get_running_loop().call_later(0.05, self._give_in, crash)

    def _give_in(self, crash: Crashed) -> None:
        if not self._crashed.done():
            self._crashed.set_exception(crash)

    def connection(self, word: str) -> None:
        """The bus has us again, or not."""
        if word == "reconnected":
            self._back_ms = self.clock.now_ms()
            self._out.hold()

    def _answered(self, answer: Input) -> None:
        if not isinstance(answer, Unheard) or answer.at_ms - self._back_ms > RETURN_MS:
            self.feed(answer)

    def _on_vanished(self, received: Received) -> None:
        if received.no_responders:
            self._answered(Unheard(self.clock.now_ms(), received.subject))

    def _on_inbox(self, received: Received) -> None:
        now = self.clock.now_ms()
        if received.no_responders:
            self.feed(Unheard(now, received.subject))
            return
        if (message := self._decode(received)) is not None:
            self.feed(Heard(now, received.subject, message))

    def _on_ask(self, received: Received, message: Ask | Message) -> None:
        if self.storer.busy and isinstance(message, Ask) and message.stores:
            if received.reply:
                text = f"{self.storer.pending} events wait for the log. {ADVICE['bus_down']}"
                self._send(received.reply, encode(Failed(code="bus_down", text=text)), "")
            return
        now = self.clock.now_ms()
        self.feed(Asked(now, self.clock.new_id(now), received.subject, received.reply, message))

    def _decode(self, received: Received) -> Message | None:
        try:
            message = decode(received.payload)
        except WireError as error:
            self._dead(received, error)
            return None
        return message if isinstance(message, Message) else None

    def _dead(self, received: Received, error: WireError) -> None:
        """What cannot be read: its length, hash and where it failed; never the payload."""
        self.unknown += 1
        letter = dead_letter(self.seat, received, error, int(self.clock.now_ms()))
        facts = {name: getattr(letter, name) for name in ("subject", "bytes", "sha256", "reason", "path")}
        self.log.line("unreadable", **facts)
        self._send(f"{self.app}.dead.{self.seat.actor}.{self.seat.instance}", encode(letter), "")

    def _on_fact(self, seq: int, event: Event, payload: bytes) -> None:
        self.feed(Happened(self.clock.now_ms(), seq, event, payload))

    # --- the fold --------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """The recent decisions of all, before the log crosses out those that have ended; later ones keep coming."""
        if not self.plan.follows:
            return
        stream, own = trace_stream(self.app), f".{self.seat.instance}"
        head, seen, moved = await self.bus.last_seq(stream), 0, asyncio.Event()

        def on_trace(received: Received) -> None:
            nonlocal seen
            seen = received.seq
            moved.set()
            if seen > head and received.subject.endswith(own):
                return  # of this life: in our hands already
            message = self._decode(received)
            if isinstance(message, SelectionMade):
                self.feed(Traced(self.clock.now_ms(), message))

        since_ms = int(self.clock.now_ms() - LOOK_BACK_S * 1000)
        await self.bus.read(
            stream,
            [f"{self.app}.trace.{n}.*" for n in self.plan.follows],
            on_trace,
            since_ms=since_ms,
            every_s=FOLLOW_S,
        )
        await until_seen(moved, lambda: seen >= head)

    async def _fold(self) -> None:
        """Read the log up to what was its head when we started; later facts keep coming in order."""
        if not self.plan.folds:
            self.feed(CaughtUp(self.clock.now_ms(), 0))
            return
        look_back = int(self.clock.now_ms() - LOOK_BACK_S * 1000) if self.plan.follows else 0
        await self.follower.catch_up(self.state, look_back)
        self.feed(CaughtUp(self.clock.now_ms(), self.follower.seq))

    # --- effects ---------------------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(effect.subject, encode(effect.message), effect.reply)
            case Wake():
                self.timers.set(effect)
            case Store():
                self._stores[effect.msg_id] = effect.event
                self.storer.put(effect)
            case Trace():
                self._send(f"{self.app}.trace.selection.made.{self.seat.instance}", encode(effect.event), "")
            case Probe():
                self._send(effect.subject, b"", "", self.questions.probe(effect))
            case Recall() | FindEnd() | Claim() | Consult():
                self.questions.put(effect)
            case Later():
                raise TypeError("only a step may put something off")
            case _:
                if self.edge is not None:
                    self.edge.perform(effect)

    def _stored(self, answer: Stored | StoreFailed) -> None:
        event = self._stores.pop(answer.msg_id, None)
        self.feed(answer)  # first: somebody waits for what comes of it
        if event is not None:
            self.log.line(stored_name(event), **stored_facts(event, answer))

    # --- the way out -----------------------------------------------------------------------------------------------

    def _send(self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        try:
            self._out.send(subject, payload, reply, headers)
        except Overflow as error:
            self._give_in(Crashed(str(error)))

    def _not_sent(self, subject: str, error: BusError, size: int) -> None:
        self.log.line("not_sent", subject=subject, code=error.code, bytes=size)
        self._intake.not_answered(subject, error, size)


def settings_of(core: Core, plan: ActorPlan, extra: dict[str, Any]) -> Any:
    """The actor's own settings: the topology's lines plus what only the supervisor knows."""
    return msgspec.convert({**plan.settings, **extra}, core.Settings)
