"""One item: how it is asked, and what its answers come to. Pure."""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from understudy.actors.benchmarker.scorers import Answer, judge, score
from understudy.actors.benchmarker.scorers.specs import Json, Judged, Speed, Tools
from understudy.actors.benchmarker.state import Asking, Work
from understudy.actors.benchmarker.suite import Question
from understudy.messages.base import Message
from understudy.messages.benchmarks import BENCHMARK, BenchmarkBegun, BenchmarkScored
from understudy.messages.buckets import millionths
from understudy.messages.generate import Failed, Finished, Generate, Requirements
from understudy.messages.step import Effect, Send
from understudy.messages.topology import Model

OURS = frozenset({"overloaded", "bus_down", "log_full", "interrupted", "text_lost", "ledger_down", "nobody", "silent"})
"""Ends that say nothing of the model: such an item is asked again."""
NOT_ASKED = OURS | {"budget_exhausted", "no_allowed_model", "blocked", "internal"}
"""Ends of items that never reached the model, or not for want of anything that it lacks. They count neither way."""


def seed_of(seed: int, item: str) -> int:
    """Of an item, the same each time."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{item}".encode()).digest()[:4], "big")


def ask(
    work: Work, n: int, asking: Asking, begun: BenchmarkBegun, declared: Model, item_ms: int, now: float
) -> list[Effect]:
    """Ask it, as often at once as it says. Nobody's words: no user, no conversation; and no model with a price, not
    even as a fallback, unless the order allows it."""
    question, count = asking.question, asking.question.at_once
    asking.open, asking.ends, asking.begun_ms = set(range(count)), [], now
    work.room.begin(asking.model, now, count)
    body = Generate(
        messages=question.messages,
        model=asking.model,
        requirements=Requirements(free=not begun.allow_cost),
        max_tokens=question.max_tokens,
        temperature=0.0,
        seed=seed_of(begun.seed, question.id),
        tools=question.tools,
        tool_choice=question.tool_choice,
        format=question.format if "json" in declared.capabilities else None,
        deadline_ms=item_ms,
        priority="best_effort",
        traffic="batch",
        hedge=False,
        cache=False,
        labels=(BENCHMARK,),
    )
    return [Send(_subject(work), body, reply=f"{work.inbox}.run.{n}.{part}") for part in range(count)]


def _subject(work: Work) -> str:
    return f"{work.app}.ask.model.generate"


def unfit(end: Finished, model: str) -> str:
    """Why an answer is none of this model; '' where it is."""
    if end.degraded:
        return "emergency"
    return "" if end.model == model else "fallback"


def reason_of(failed: Failed) -> str:
    """The code, and where one reason ruled the model out, that: `no_allowed_model.needs_consent`."""
    ruled_out = sorted(word for word in failed.rejected if word != "not_named")
    if failed.code == "no_allowed_model" and ruled_out:
        return f"{failed.code}.{ruled_out[0]}"
    if failed.attempts and failed.code == "all_failed":
        return failed.attempts[-1].outcome
    return failed.code


def reached(one: BenchmarkScored) -> bool:
    """Whether an item says how often its model answers."""
    return one.outcome == "scored" or (
        one.outcome == "failed" and (one.reason or "").partition(".")[0] not in NOT_ASKED
    )


def scored(asking: Asking, now: float) -> BenchmarkScored:
    """What its ends come to."""
    question, spec = asking.question, asking.question.score
    fact = BenchmarkScored(
        at_ms=int(now), bench_id=asking.bench_id, model=asking.model, item=question.id, task=question.task,
        outcome="failed", reason=asking.failure, weight=question.weight,
    )  # fmt: skip
    if isinstance(spec, Json) and asking.failure == "invalid_output":  # it was held to JSON, and gave none
        return replace(fact, outcome="scored", figures={"json_valid": 0.0, "schema_ok": 0.0})
    if (
        isinstance(spec, Tools) and asking.failure == "invalid_output"
    ):  # a tool that it was not offered, or no arguments
        return replace(fact, outcome="scored", figures={"tool_right": 0.0, "arguments_right": 0.0})
    if asking.failure or not asking.ends:
        return fact
    first = asking.ends[0]
    attempt = first.attempts[-1] if first.attempts else None
    fact = replace(
        fact,
        outcome="scored",
        ms=round(attempt.total_ms if attempt is not None else first.total_ms, 3),
        first_token_ms=attempt.first_token_ms if attempt is not None else None,
        tokens=first.usage.completion_tokens,
    )
    if isinstance(spec, Speed):
        return _speed(fact, asking, now)
    asked = "\n".join(turn.content for turn in question.messages)
    found = score(spec, Answer(first.text or "", first.tool_calls, asked))
    return replace(fact, score_u=found.score_u, figures=found.figures)


def _speed(fact: BenchmarkScored, asking: Asking, now: float) -> BenchmarkScored:
    """Together: all tokens over the time until the last one was there. Alone the attempt's own figures say more."""
    ends, at_once = asking.ends, asking.question.at_once
    shown = sum(score(asking.question.score, Answer(end.text or "", end.tool_calls)).score_u for end in ends)
    figures: dict[str, float] = {"at_once": float(at_once)}
    tokens = sum(end.usage.completion_tokens for end in ends)
    if at_once > 1:
        figures["tokens_per_s"] = round(tokens * 1000 / max(1.0, now - asking.begun_ms), 3)
        firsts = sorted(a.first_token_ms for end in ends for a in end.attempts[-1:] if a.first_token_ms is not None)
        fact = replace(fact, first_token_ms=firsts[len(firsts) // 2] if firsts else None)
    return replace(fact, score_u=round(shown / at_once), figures=figures, tokens=tokens)


# --- the judge -------------------------------------------------------------------------------------------------------


def is_judged(question: Question) -> bool:
    """Does it ask for a judge, where there is one?"""
    return isinstance(question.score, Judged)


def ask_judge(work: Work, n: int, asking: Asking, begun: BenchmarkBegun, item_ms: int) -> Send:
    """What the model named as judge is asked."""
    spec = asking.question.score
    assert isinstance(spec, Judged)
    asked = "\n".join(turn.content for turn in asking.question.messages)
    body = Generate(
        messages=judge.turns(spec.criteria, asked, asking.ends[0].text or ""),
        model=begun.judge,
        requirements=Requirements(free=not begun.allow_cost),
        max_tokens=judge.MAX_TOKENS,
        temperature=0.0,
        seed=seed_of(begun.seed, asking.question.id),
        deadline_ms=item_ms,
        priority="best_effort",
        traffic="batch",
        hedge=False,
        cache=False,
        labels=(BENCHMARK,),
    )
    return Send(_subject(work), body, reply=f"{work.inbox}.run.{n}.judge")


def with_verdict(fact: BenchmarkScored, message: Message | None, named: str | None) -> BenchmarkScored:
    """The score of the judge that was named, where it gave one; else the rules' stands."""
    heard = isinstance(message, Finished) and not message.degraded and message.model == named
    found = judge.verdict(message.text or "") if heard and isinstance(message, Finished) else None
    return fact if found is None else replace(fact, score_u=millionths(found), judged=True)
