"""One attempt of a run: the order that a runner gets, what it says besides text, and how it is recorded. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from understudy.actors.selector.sight import News
from understudy.messages.generate import Attempt, Delta, Usage
from understudy.messages.run import RunEnded, RunFailed, RunModel, RunStarted, RunText
from understudy.messages.step import Effect
from understudy.messages.tools import ToolCall

if TYPE_CHECKING:
    from understudy.actors.selector.conduct import Conduct


@dataclass(slots=True)
class Beside:
    """What an answer holds besides its text. Tool calls are told as they are written, and whole at the end."""

    calls: tuple[ToolCall, ...] = ()
    thoughts: list[str] = field(default_factory=list[str])
    vectors: str = ""  # JSON

    def holds_any(self) -> bool:
        """Is there something to hand over although there is no text?"""
        return bool(self.calls or self.vectors)

    def reasoning(self) -> str | None:
        """What the model thought aloud, where the caller wanted to know."""
        return "".join(self.thoughts) or None


def order(run: Conduct, now: float, number: int, model: str) -> RunModel:
    """What the model's runner is asked for: the request, or the rest of it."""
    ask, p, embed, declared = run.ask, run.parameters, run.embed, run.models[model]
    return RunModel(
        run_id=run.run_id,
        attempt=number,
        model=model,
        messages=ask.messages if embed is None else (),
        input=() if embed is None else embed.input,
        dimensions=None if embed is None else embed.dimensions,
        parameters=replace(p, max_tokens=max(1, p.max_tokens - run.spent_tokens)) if run.spent_tokens else p,
        remaining_ms=max(0.0, run.deadline_ms - now),
        live=ask.stream,
        tools=ask.tools,
        tool_choice=ask.tool_choice,
        format=ask.format,
        prefill=run.script.text() if run.continued else "",
        continuation=run.knowledge.continues(model) if run.continued else "none",
        price=run.purse.held.price if run.purse.held is not None else None,
        privacy=run.privacy,
        location=run.location(model),
        conversation=run.conversation,
        user=run.user,
        priority=ask.priority,
        may_wait=run.room.may_wait and number == run.attempt,
        name=declared.name,
        context_tokens=declared.context_tokens,
    )


def first_due_ms(run: Conduct, now: float) -> float:
    """When the first token must have come. Vectors come all at once: half of the time that is left is theirs."""
    limit = run.latency.first_token_ms
    if run.embed is not None:
        limit = max(limit, (run.deadline_ms - now) / 2)
    return min(now + limit, run.deadline_ms)


def stop(run: Conduct, number: int, runner: str) -> list[Effect]:
    """Nobody waits for this attempt any longer. Where nobody knows who has it, a late beginner is told then."""
    started = RunStarted(run_id=run.run_id, attempt=number, instance=runner)
    return [run.where.cancel(started)] if runner else []


def tell(run: Conduct, piece: RunText) -> list[Effect]:
    """A part of a tool call, or reasoning for those who asked for it. It is never held back."""
    if piece.kind == "reasoning":
        if not run.ask.reasoning:
            return []
        run.beside.thoughts.append(piece.text)
    seq = run.script.seq
    run.script.aside(piece.kind == "tool_call")
    out = run.announce_seam(seq)
    if run.ask.stream:
        delta = Delta(run_id=run.run_id, seq=seq, text=piece.text, seams=run.seams, kind=piece.kind, call=piece.call)
        out += run.callers.tell(delta)
    return out


def record(
    run: Conduct,
    outcome: str,
    now: float,
    *,
    told: RunEnded | RunFailed | None = None,
    usage: Usage | None = None,
) -> Attempt:
    """The current attempt is over: what it cost, what is news of its model. `told`: as its runner says."""
    status, wait_ms, until_ms = None, None, None
    if isinstance(told, RunFailed):
        status, wait_ms, until_ms = told.status, told.retry_after_ms, told.exhausted_until_ms
    outbound = None if told is None else told.outbound
    # Nothing left, so nothing is billed. One that ended at the gate rests on no consent yet.
    kept = not outbound.bytes and (outcome == "blocked" or not outbound.consent) if outbound else outcome == "blocked"
    run.purse.settle(outcome, status, usage, sent=not kept)
    run.news.append(News(run.model, outcome, wait_ms or 0, until_ms))
    wants_patience(run, wait_ms, now)
    first = None if run.first_ms is None else round(run.first_ms - run.asked_ms, 3)
    return Attempt(
        model=run.model,
        outcome=outcome,
        first_token_ms=first,
        total_ms=round(now - run.asked_ms, 3),
        tokens=run.tokens,
        status=status,
        served_by=told.served_by if isinstance(told, RunEnded) else None,
        key_id=None if told is None else told.key_id,
        upstream=None if told is None else told.upstream,
        location=run.location(run.model),
        outbound=outbound,
    )


def wants_patience(run: Conduct, wait_ms: int | None, now: float) -> None:
    """A provider said how long it wants to be left alone: the first of those that did tells when to try again."""
    if wait_ms is not None:
        run.free_ms = now + wait_ms if run.free_ms is None else min(run.free_ms, now + wait_ms)
