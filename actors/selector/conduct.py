"""One request on its way: a small state machine that conducts attempts at models to exactly one end.

    asking ── RunStarted ──> running ── RunEnded ──> ending ── Stored ──> (gone)
      │  ^                      │
      │  └──── next model ──────┤  RunFailed, first-token and stall timeouts, a dead or silent runner, a lost piece
      └─────────────────────────┴── no model left, deadline, cancel ──> ending

Fencing: whatever comes from an attempt that is not the current one is dropped. A seam is announced with the first text
of the next model, so a model that fails before its first word leaves no trace in the text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from understudy.actors.selector import ends
from understudy.actors.selector.text import Script
from understudy.messages.base import Message
from understudy.messages.events import SelectionMade
from understudy.messages.generate import (
    Attempt,
    Delta,
    FailCode,
    FinishReason,
    Generate,
    Parameters,
    Seam,
    SeamMode,
    Started,
    Usage,
    Waiting,
)
from understudy.messages.run import CancelRun, RunEnded, RunFailed, RunFailure, RunModel, RunStarted, RunText
from understudy.messages.slugs import slug
from understudy.messages.step import Effect, Send, Stored, StoreFailed, Wake
from understudy.messages.topology import Latency, Model, Topology

ENDS: dict[str, FailCode] = {
    "caller_fault": "caller_fault",
    "context_too_long": "context_too_long",
    "refused": "refused",
    "deadline": "deadline_exceeded",
    "cancelled": "cancelled",
}


@dataclass(slots=True)
class Where:
    """Where we are: what effects need to be addressed."""

    app: str
    instance: str
    inbox: str

    def run_subject(self, slug: str) -> str:
        """Where a model's runners take attempts."""
        return f"{self.app}.ask.runner.run.{slug}"

    def inbox_of(self, run_id: str, attempt: int) -> str:
        """Where the runner answers."""
        return f"{self.inbox}.run.{run_id}.{attempt}"


@dataclass(slots=True)
class Conduct:
    """A run. The selector's core owns it, feeds it and performs nothing itself."""

    where: Where
    run_id: str
    reply: str
    ask: Generate
    parameters: Parameters
    latency: Latency
    task: str
    chain: list[str]
    decision: SelectionMade
    topology: Topology
    begun_ms: float
    deadline_ms: float
    emergency_reply: str | None = None
    conversation: str = ""
    user: str = ""

    attempt: int = -1
    model: str = ""
    runner: str = ""  # instance that runs the current attempt
    asked_ms: float = 0.0
    first_ms: float | None = None
    due_ms: float = 0.0
    pieces: int = 0
    tokens: int = 0  # of the current attempt
    spent_tokens: int = 0  # kept from attempts before
    seam: Seam | None = None  # announced with the next text
    seams: int = 0
    continued: bool = False
    empties: int = 0
    ending: Message | None = None
    may_fail_over: bool = True  # the selector's failover budget, looked at from the second failover on
    news: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])  # (model, asked | ok | reason)
    script: Script = field(default_factory=Script)
    tried: list[Attempt] = field(default_factory=list[Attempt])

    # --- beginning -------------------------------------------------------------------------------------------------

    def resume(self, text: str) -> None:
        """The caller kept this text of a run that broke off: go on from there where the first model can."""
        if self.topology.models[self.chain[0]].continues == "none":
            self.seam = Seam(
                run_id=self.run_id,
                mode="restart",
                keep_seq=-1,
                from_model=self.chain[0],
                to_model=self.chain[0],
                reason="resume",
            )
            return
        self.script.pieces.append(text.rstrip())
        self.script.continue_from_here(self.topology.models[self.chain[0]].continues == "instructed")
        self.continued = True

    def begin(self, now: float) -> list[Effect]:
        """First attempt."""
        out: list[Effect] = []
        if self.ask.stream:
            left = max(1, int(self.deadline_ms - now))
            started = Started(run_id=self.run_id, instance=self.where.instance, model=self.chain[0], deadline_ms=left)
            out.append(self._say(started))
        return out + self._ask_next(now)

    def _ask_next(self, now: float) -> list[Effect]:
        self.attempt += 1
        self.model = self.chain.pop(0)
        self.runner, self.first_ms, self.pieces, self.tokens = "", None, 0, 0
        self.asked_ms = now
        self.due_ms = min(now + self.latency.first_token_ms, self.deadline_ms)
        self.news.append((self.model, "asked"))
        declared = self.topology.models[self.model]
        run = RunModel(
            run_id=self.run_id,
            attempt=self.attempt,
            model=self.model,
            messages=self.ask.messages,
            parameters=self._left_parameters(),
            remaining_ms=max(0.0, self.deadline_ms - now),
            prefill=self.script.text() if self.continued else "",
            continuation=declared.continues if self.continued else "none",
        )
        subject = self.where.run_subject(slug(self.model))
        inbox = self.where.inbox_of(self.run_id, self.attempt)
        return [Send(subject, run, reply=inbox), Wake(self.due_ms, self.run_id, self.attempt)]

    def _left_parameters(self) -> Parameters:
        p = self.parameters
        left = max(1, p.max_tokens - self.spent_tokens)
        return Parameters(max_tokens=left, temperature=p.temperature, top_p=p.top_p, stop=p.stop, seed=p.seed)

    # --- what runners say ------------------------------------------------------------------------------------------

    def hear(self, message: Message, now: float) -> list[Effect]:
        """An answer of a runner; one of an abandoned attempt is fenced off."""
        if self.ending is not None or getattr(message, "attempt", self.attempt) != self.attempt:
            return []
        match message:
            case RunText():
                return self._text(message, now)
            case RunStarted():
                self.runner = message.instance
                return []
            case RunEnded():
                return self._ended(message, now)
            case RunFailed():
                return self.fail(message.reason, now, status=message.status, retry_after_ms=message.retry_after_ms)
            case _:
                return []

    def _text(self, message: RunText, now: float) -> list[Effect]:
        if message.n != self.pieces:
            return self.fail("text_lost", now)
        self.pieces += 1
        self.tokens += message.tokens
        if self.first_ms is None:
            self.first_ms = now
        self.due_ms = min(now + self.latency.stall_ms, self.deadline_ms)
        return self._show(self.script.add(message.text))

    def _show(self, text: str) -> list[Effect]:
        if not text:
            return []
        out = self._announce_seam()
        if self.ask.stream:
            out.append(self._say(Delta(run_id=self.run_id, seq=self.script.seq - 1, text=text), vanish=True))
        return out

    def _announce_seam(self) -> list[Effect]:
        seam, self.seam = self.seam, None
        if seam is None:
            return []
        self.seams += 1
        return [self._say(seam)] if self.ask.stream else []

    def _ended(self, message: RunEnded, now: float) -> list[Effect]:
        if message.pieces != self.pieces:
            return self.fail("text_lost", now)
        if message.finish_reason == "refusal" and self.ask.on_refusal == "next" and self.chain:
            return self.fail("refused", now)
        if self.pieces == 0 and message.finish_reason != "refusal":
            self.empties += 1
            # Two models agreeing that nothing is to be added is an end; one alone may be broken.
            if not (self.continued and self.empties > 1):
                return self.fail("empty", now)
        out = self._show(self.script.finish())
        out += self._announce_seam()
        usage = message.usage
        if self.tried:
            usage = Usage(
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens + self.spent_tokens,
                estimated=True,
            )
        self.tried.append(self._attempt("ok", now))
        return out + self._finish(message.finish_reason, usage, now)

    # --- failing over ----------------------------------------------------------------------------------------------

    def fail(
        self, reason: RunFailure, now: float, *, status: int | None = None, retry_after_ms: int | None = None
    ) -> list[Effect]:
        """The current attempt is over; the next model goes on, or the run ends."""
        if self.ending is not None:
            return []
        failed = self._attempt(reason, now, status)
        self.tried.append(failed)
        out: list[Effect] = (
            [] if reason in ("busy", "no_responders") else [ends.attempt_ended(self, failed, now, retry_after_ms)]
        )
        if self.runner and reason in ("first_token_timeout", "stall_timeout", "deadline", "cancelled", "text_lost"):
            out.append(self._cancel_runner())
        if reason == "context_too_long":
            window = self.topology.models[self.model].context_tokens
            self.chain = [m for m in self.chain if self.topology.models[m].context_tokens > window]
        over = reason in ("caller_fault", "deadline", "cancelled") or now >= self.deadline_ms
        first_failover = len(self.tried) == 1
        if over or not self.chain or not (first_failover or self.may_fail_over):
            return out + self._give_up(reason, now)
        return out + self._fail_over(reason, now)

    def _fail_over(self, reason: str, now: float) -> list[Effect]:
        """Ask the next model. Readers may hold text: the seam that tells them waits for the next model's first word."""
        next_model, out = self.chain[0], list[Effect]()
        spoke = self.seam.from_model if self.seam else self.model
        if self.script.pieces or self.seam is not None:
            mode = self._join(self.topology.models[next_model]) if self.script.pieces else "restart"
            keep = self.script.seq - 1 if mode == "continue" else -1
            self.seam = Seam(
                run_id=self.run_id, mode=mode, keep_seq=keep, from_model=spoke, to_model=next_model, reason=reason
            )
            out.append(ends.switched(self, next_model, mode, reason, now))
        else:
            self.script.restart()
            if self.ask.stream:
                out.append(self._say(Waiting(run_id=self.run_id, reason="failover")))
        return out + self._ask_next(now)

    def _join(self, after: Model) -> SeamMode:
        """Continue where the next model can; else begin anew, visibly."""
        left = self.parameters.max_tokens - self.spent_tokens - self.tokens
        if after.continues == "none" or left < 1:
            self.script.restart()
            self.continued, self.spent_tokens = False, 0
            return "restart"
        self.script.continue_from_here(after.continues == "instructed")
        self.continued = True
        self.spent_tokens += self.tokens
        return "continue"

    def _give_up(self, reason: str, now: float) -> list[Effect]:
        if self.emergency_reply is not None and reason not in ("cancelled", "caller_fault"):
            return self._emergency(now)
        code: FailCode = ENDS.get(reason, "all_failed")
        if now >= self.deadline_ms and code != "cancelled":
            code = "deadline_exceeded"
        if all(a.outcome == "busy" for a in self.tried):
            code = "overloaded"
        return self.end_failed(code, now)

    def _emergency(self, now: float) -> list[Effect]:
        """The task's own canned words, opted in by the operator, marked as degraded."""
        if self.script.pieces:
            self.seam = Seam(
                run_id=self.run_id,
                mode="restart",
                keep_seq=-1,
                from_model=self.model,
                to_model="emergency",
                reason="all_failed",
            )
        self.script.restart()
        self.script.add(self.emergency_reply or "")
        out = self._show(self.script.text())
        return out + self._finish("stop", Usage(estimated=True), now, degraded=True)

    def cancel(self, now: float) -> list[Effect]:
        """The caller said so, or is gone."""
        if self.ending is not None:
            return []
        return self.fail("cancelled", now)

    def woke(self, generation: int, now: float) -> list[Effect]:
        """A timer came. Text moves `due_ms` without a new timer, so look again when it is not due yet."""
        if self.ending is not None or generation != self.attempt:
            return []
        if now < self.due_ms:
            return [Wake(self.due_ms, self.run_id, self.attempt)]
        if now >= self.deadline_ms:
            return self.fail("deadline", now)
        return self.fail("first_token_timeout" if self.first_ms is None else "stall_timeout", now)

    # --- ending ----------------------------------------------------------------------------------------------------

    def end_failed(self, code: FailCode, now: float) -> list[Effect]:
        """End without a whole answer."""
        self.ending = ends.failed(self, code)
        return [Wake(0, self.run_id, self.attempt), ends.request_ended(self, code, None, Usage(estimated=True), now)]

    def _finish(self, reason: FinishReason, usage: Usage, now: float, degraded: bool = False) -> list[Effect]:
        self.ending = ends.finished(self, reason, usage, now, degraded)
        return [Wake(0, self.run_id, self.attempt), ends.request_ended(self, "finished", reason, usage, now)]

    def stored(self, answer: Stored | StoreFailed) -> list[Effect]:
        """The log answered about our end: now, and not before, the caller hears it."""
        end = self.ending
        if end is None:
            return []
        if isinstance(answer, StoreFailed) or answer.duplicate:
            end = ends.unrecorded(end)
        return [self._say(end)]

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _say(self, message: Message, vanish: bool = False) -> Send:
        return Send(self.reply, message, reply=f"{self.where.inbox}.vanished.{self.run_id}" if vanish else "")

    def _cancel_runner(self) -> Send:
        subject = f"{self.where.app}.ask.runner.cancel.{self.runner}"
        return Send(subject, CancelRun(run_id=self.run_id, attempt=self.attempt))

    def _attempt(self, outcome: str, now: float, status: int | None = None) -> Attempt:
        self.news.append((self.model, outcome))
        first = None if self.first_ms is None else round(self.first_ms - self.asked_ms, 3)
        return Attempt(
            model=self.model,
            outcome=outcome,
            first_token_ms=first,
            total_ms=round(now - self.asked_ms, 3),
            tokens=self.tokens,
            status=status,
        )
