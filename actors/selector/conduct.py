"""One request on its way: a small state machine that conducts attempts at models to exactly one end.

      ┌────────────────────────── RunEnded ──────────────────────┐
    asking ── RunStarted, RunText ──> running ── RunEnded ──> ending ── Stored ──> (gone)
      │  ^                               │
      │  └──── next model ───────────────┤  RunFailed, first-token and stall timeouts, a dead or silent runner,
      │                                  │  a lost piece
      └──────────────────────────────────┴── no model left, deadline, cancel ──> ending

Fencing: whatever comes from an attempt that is not the current one is dropped. A seam is announced with the first text
of the next model, so a model that fails before its first word leaves no trace in the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from understudy.actors.selector import attempt, ends, failover, hedge, keeping, paying, room
from understudy.actors.selector.attempt import Beside
from understudy.actors.selector.callers import Callers
from understudy.actors.selector.hedge import Hedge
from understudy.actors.selector.marks import Mark
from understudy.actors.selector.purse import Purse
from understudy.actors.selector.room import Room
from understudy.actors.selector.sight import News
from understudy.actors.selector.text import Script
from understudy.actors.selector.views import Knowledge
from understudy.actors.selector.where import Where, begins
from understudy.messages.base import Message
from understudy.messages.embed import Embed
from understudy.messages.events import SelectionMade, seal_of
from understudy.messages.generate import (
    Attempt,
    Delta,
    FailCode,
    FinishReason,
    Generate,
    Parameters,
    Seam,
    Started,
    Usage,
)
from understudy.messages.privacy import Location, Privacy
from understudy.messages.run import (
    NO_ROOM,
    RunEnded,
    RunFailed,
    RunFailure,
    RunQueued,
    RunStarted,
    RunText,
)
from understudy.messages.step import Effect, Recalled, Send, Stored, StoreFailed, Trace, Wake
from understudy.messages.topology import Latency, Model, Topology
from understudy.messages.wire import encode


@dataclass(slots=True)
class Conduct:
    """A run. The selector's core owns it, feeds it and performs nothing itself."""

    where: Where
    run_id: str
    callers: Callers
    ask: Generate
    parameters: Parameters
    latency: Latency
    task: str
    chain: list[str]
    deciding: Callable[[], SelectionMade]
    models: dict[str, Model]  # those of the chain, as they are declared: when it was made, or they were last tried
    places: dict[str, Location]  # and where they compute
    topology: Topology
    knowledge: Knowledge  # as far as the log tells now
    barred: Callable[[Conduct, str, float], str | None]  # why a model may not be tried now, though it is in the chain
    begun_ms: float
    deadline_ms: float
    refuge: Callable[[float], list[str]]  # the models of this machine that may answer, as things are then
    privacy: Privacy = "local_only"
    emergency_reply: str | None = None
    conversation: str = ""
    user: str = ""
    mark: Mark = field(default_factory=Mark)
    purse: Purse = field(default_factory=Purse)

    attempt: int = -1
    model: str = ""
    runner: str = ""  # instance that runs the current attempt
    asked_ms: float = 0.0
    first_ms: float | None = None
    due_ms: float = 0.0
    cut: bool = False  # the bus was away since the current attempt was asked, or last heard
    pieces: int = 0
    tokens: int = 0  # of the current attempt
    exact: bool = True  # they are all counted; a provider's are only the number of its pieces
    spent_tokens: int = 0  # kept from attempts before
    spent_exact: bool = True
    seam: Seam | None = None  # announced with the next text
    seams: int = 0
    continued: bool = False
    mute: set[str] = field(default_factory=set[str])  # models that had nothing to add to the text
    ending: ends.End | None = None
    may_fail_over: bool = True  # the selector's failover budget, looked at from the second failover on
    news: list[News] = field(default_factory=list[News])
    free_ms: float | None = None  # when the first of those that asked for patience may be asked again
    broken: str = "busy"  # why the attempt before the search for room ended
    resting: bool = False
    room: Room = field(default_factory=Room)
    hedge: Hedge | None = None  # None: not to be hedged
    script: Script = field(default_factory=Script)  # holds back beginnings of our stop strings
    beside: Beside = field(default_factory=Beside)
    kept: keeping.Kept | None = None  # the request qualifies for the response cache
    embed: Embed | None = None  # vectors are asked for; `ask` is the same as a conversation
    tried: list[Attempt] = field(default_factory=list[Attempt])
    seal: str = ""  # of the decision
    _decision: SelectionMade | None = None

    # --- beginning -------------------------------------------------------------------------------------------------

    @property
    def decision(self) -> SelectionMade:
        """As it is recorded; made when it is first looked at."""
        if self._decision is None:
            self._decision = self.deciding()
        return self._decision

    def record(self) -> Trace:
        """The decision for the other selectors; what the end will say about it is made now too, while there is time."""
        self.seal = seal_of(encode(self.decision))
        return Trace(self.decision)

    def started(self, now: float) -> list[Effect]:
        """What a reader is told first."""
        return self.say(self._started(self.chain[0], now)) if self.ask.stream else []

    def _started(self, model: str, now: float) -> Started:
        left = max(1, int(self.deadline_ms - now))
        return Started(
            run_id=self.run_id,
            instance=self.where.instance,
            model=model,
            deadline_ms=left,
            location=self.location(model),
        )

    def location(self, model: str) -> Location:
        """Where it computes: as it was when it was chosen, or elsewhere, once it is known to be."""
        view = self.knowledge.models.get(model)
        return "external" if view is not None and view.location == "external" else self.places[model]

    def ask_next(self, now: float) -> list[Effect]:
        """Ask the chain's next model, which is paid for by now (`paying.proceed`)."""
        self.attempt = self.next_attempt() if self.purse.held is None else self.purse.attempt
        self.model = self.chain.pop(0)
        self.runner, self.first_ms, self.pieces, self.tokens, self.exact = "", None, 0, 0, True
        self.asked_ms, self.cut = now, False
        self.due_ms = attempt.first_due_ms(self, now)
        self.news.append(News(self.model, "asked"))
        subject = self.where.run_subject(self.models[self.model].provider, self.model)
        inbox = self.where.inbox_of(self.run_id, self.attempt)
        wake_ms = self.due_ms if self.hedge is None else hedge.wake_ms(self, self.hedge)
        order = attempt.order(self, now, self.attempt, self.model)
        return [Send(subject, order, reply=inbox), Wake(wake_ms, self.run_id, self.attempt)]

    def next_attempt(self) -> int:
        """The number of the next one: no number is given twice."""
        return (self.attempt if self.hedge is None else max(self.attempt, self.hedge.number)) + 1

    # --- what runners say ------------------------------------------------------------------------------------------

    def hear(self, message: Message, now: float) -> list[Effect]:
        """An answer of a runner; one of an abandoned attempt is fenced off."""
        if self.hedge is not None and self.hedge.rival is not None:
            done = hedge.hear(self, self.hedge, message, now)
            if done is not None:
                return done
        over = self.ending is not None or self.idle
        if over or getattr(message, "attempt", self.attempt) != self.attempt:
            return [self.where.cancel(message)] if begins(message) else []
        if self.room.queued and isinstance(message, RunText | RunStarted | RunEnded):
            return room.begun(self, now) + self.hear(message, now)
        match message:
            case RunText():
                return self._text(message, now)
            case RunStarted():
                self.runner, self.cut = message.instance, False
                self.purse.generation = message.generation or self.purse.generation
                return []
            case RunEnded():
                return self._ended(message, now)
            case RunFailed():
                return self.fail(message.reason, now, told=message)
            case RunQueued():
                return room.queued(self, message)
            case _:
                return []

    def _text(self, message: RunText, now: float) -> list[Effect]:
        self.runner = message.instance or self.runner
        if message.n != self.pieces:
            return self.fail("text_lost", now)
        self.pieces += 1
        return self._more(message, now) if message.kind == "text" else self._aside(message, now)

    def _aside(self, message: RunText, now: float) -> list[Effect]:
        self._alive(message, now)
        return attempt.tell(self, message)

    def _more(self, message: RunText | RunEnded, now: float) -> list[Effect]:
        self._alive(message, now)
        return self.show(self.script.add(message.text))

    def _alive(self, message: RunText | RunEnded, now: float) -> None:
        """Something came, so it does not stall."""
        self.tokens += message.tokens
        self.exact = self.exact and message.exact
        if self.first_ms is None:
            self.first_ms = max(self.asked_ms, now - message.held_ms)
        self.due_ms, self.cut = min(now + self.latency.stall_ms, self.deadline_ms), False

    def show(self, text: str) -> list[Effect]:
        """Text for the reader, after the seam that it waited for."""
        if not text:
            return []
        out = self.announce_seam(self.script.seq - 1)
        if self.ask.stream:
            delta = Delta(run_id=self.run_id, seq=self.script.seq - 1, text=text, seams=self.seams)
            out += self.callers.tell(delta)
        return out

    def announce_seam(self, next_seq: int) -> list[Effect]:
        """A seam that waits is said once, with the first text after it."""
        seam, self.seam = self.seam, None
        if seam is None:
            return []
        self.seams += 1
        if not self.ask.stream:
            return []
        seam = replace(seam, next_seq=next_seq, trimmed_chars=self.script.trimmed_chars)
        return self.callers.tell(seam)

    def _ended(self, message: RunEnded, now: float) -> list[Effect]:
        if message.pieces != self.pieces:
            return self.fail("text_lost", now)
        out = self._more(message, now) if message.text else []
        others = self.chain or hedge.doubled(self)
        if message.finish_reason == "refusal" and self.ask.on_refusal == "next" and others:
            return out + self.fail("refused", now, usage=message.usage)
        self.beside.calls, self.beside.vectors = message.tool_calls, message.vectors
        silent = not (self.script.added() or self.script.stop_begun or self.beside.holds_any())
        if silent and message.finish_reason != "refusal":
            if self.continued:
                failover.mute(self)
            return self.fail("empty", now, usage=message.usage)
        out += self.show(self.script.finish())
        out += self.announce_seam(self.script.seq)
        usage = ends.spent(self, message.usage)
        self.tried.append(attempt.record(self, "ok", now, told=message, usage=message.usage))
        return out + self.finish(message.finish_reason, usage, now)

    # --- failing over ----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """No attempt is under way: there is no room anywhere, or the ledger has not answered yet."""
        return self.resting or self.purse.waiting is not None

    def fail(
        self, reason: RunFailure, now: float, *, told: RunFailed | None = None, usage: Usage | None = None
    ) -> list[Effect]:
        """The current attempt is over; the next model goes on, or the run ends. `told`: as its runner says."""
        if self.ending is not None:
            return []
        if self.idle:
            return failover.give_up(self, reason, now) if reason in ("cancelled", "deadline") else []
        if self.room.queued:
            if reason in ("cancelled", "deadline"):
                return room.leave(self, reason, now)
            reason = room.sent_away(self, reason)
        failed = attempt.record(self, reason, now, told=told, usage=usage)
        room.keep(self, reason, told.waiting if told is not None else 0)
        if reason not in NO_ROOM or not self.room.searching():  # waiting for room is told once per model
            self.tried.append(failed)
        out: list[Effect] = [] if reason in NO_ROOM else [ends.attempt_ended(self, failed, now, told)]
        if reason in ("first_token_timeout", "stall_timeout", "deadline", "cancelled", "text_lost"):
            out += attempt.stop(self, self.attempt, self.runner)
        out += failover.narrow(self, reason, now)
        out += hedge.stay_here(self, now) if reason == "blocked" else []
        over = reason in ("caller_fault", "deadline", "cancelled") or now >= self.deadline_ms
        over = over or (reason == "refused" and self.ask.on_refusal != "next")
        if not over and (second := hedge.promote(self)) is not None:
            return out + second
        if not over and failover.used_up(self, reason):
            return out + failover.cut_by_length(self, now)
        if told is not None and told.exhausted_until_ms is not None:
            paying.drop_siblings(self)
        if not over and not self.chain and self.room.later:
            return out + room.again(self, reason, now)
        free = len(self.tried) == 1 or reason in failover.NOT_ITS_FAULT
        if over or not self.chain or not (free or self.may_fail_over):
            return out + failover.give_up(self, reason, now)
        return out + paying.proceed(self, reason, now)

    def cancel(self, now: float) -> list[Effect]:
        """The caller said so, or is gone."""
        if self.ending is not None:
            return []
        return self.fail("cancelled", now)

    def vanished(self, which: int, now: float) -> list[Effect]:
        """Nobody listens at one of the callers; the work ends with the last of them."""
        return self.cancel(now) if self.callers.all_gone(which, now) else []

    def superseded(self) -> list[Effect]:
        """While we were taken for dead, another selector ended this run: what it said stands."""
        out: list[Effect] = [Wake(0, self.run_id, self.attempt), *hedge.stop(self, self.asked_ms)]
        if self.ending is not None:
            return out
        if self.model and not self.idle:
            self.news.append(News(self.model, "cancelled"))
        return out + attempt.stop(self, self.attempt, self.runner)

    def interrupt(self, now: float) -> list[Effect]:
        """This selector stops: the caller may go on elsewhere with the text that it kept (`resume`)."""
        if self.ending is not None:
            return []
        if not self.idle:
            self.tried.append(attempt.record(self, "cancelled", now))
        return attempt.stop(self, self.attempt, self.runner) + self.end_failed("interrupted", now)

    def deaf(self, ms: float, cut: bool) -> None:
        """For so long no text could be heard: that is no stall of the model's. After a `cut` it may have been lost."""
        self.due_ms, self.cut = min(self.due_ms + ms, self.deadline_ms), self.cut or cut
        hedge.deaf(self, ms, cut)

    def woke(self, generation: int, now: float) -> list[Effect]:
        """A timer came. Text moves `due_ms` without a new timer, so look again when it is not due yet."""
        if self.ending is not None or generation != self.attempt:
            return []
        if (kept := keeping.looking(self)) is not None:
            return keeping.missed(self, kept, now)
        if self.resting:
            return room.rested(self, now)
        if self.purse.waiting is not None:
            return paying.woke(self, now)
        if now < self.due_ms:
            second = [] if self.hedge is None else hedge.look(self, self.hedge, now)
            return second or [Wake(self.due_ms, self.run_id, self.attempt)]
        if now >= self.deadline_ms:
            return self.fail("deadline", now)
        silence = "first_token_timeout" if self.first_ms is None else "stall_timeout"
        return self.fail("text_lost" if self.cut else silence, now)

    # --- ending ----------------------------------------------------------------------------------------------------

    def end_failed(self, code: FailCode, now: float) -> list[Effect]:
        """End without a whole answer."""
        stopped = hedge.stop(self, now)
        self.ending = ends.failed(self, code, now)
        usage = ends.spent(self, Usage(estimated=True))
        return [*stopped, Wake(0, self.run_id, self.attempt), ends.request_ended(self, code, None, usage, now)]

    def finish(self, reason: FinishReason, usage: Usage, now: float, degraded: bool = False) -> list[Effect]:
        """End with the whole answer."""
        stopped = hedge.stop(self, now)
        whole = ends.finished(self, reason, usage, now, degraded) if self.embed is None else None
        self.ending = whole or ends.embedded(self, usage, now)
        ended = ends.request_ended(self, "finished", reason, usage, now)
        return [*stopped, Wake(0, self.run_id, self.attempt), ended]

    def stored(self, answer: Stored | StoreFailed) -> list[Effect]:
        """The log answered about our end: now, and not before, the caller hears it."""
        return [] if self.ending is None else ends.stored(self, self.ending, answer)

    def recalled(self, answer: Recalled) -> list[Effect]:
        """The log had an end already: our own, sent twice because an answer was lost, or another selector's."""
        return [] if self.ending is None else ends.recalled(self, self.ending, answer)

    # --- callers ---------------------------------------------------------------------------------------------------

    def attach(self, reply: str) -> list[Effect]:
        """Somebody asked again for this run."""
        return self.callers.attach(reply, self._started(self.model or self.chain[0], self.deadline_ms - 1))

    def resend(self, reply: str, from_seq: int) -> list[Effect]:
        """A reader lost something."""
        return self.callers.resend(reply, from_seq, self.script.seq)

    def probes(self) -> list[Effect]:
        """Look for callers while nothing is said."""
        return self.callers.probes(self.script.seq) if self.ending is None else []

    def say(self, message: Message) -> list[Effect]:
        """To everybody who waits."""
        return self.callers.say(message)
