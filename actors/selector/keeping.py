"""Answers that are kept: which requests qualify, under which key, and how a run is ended by a kept answer. Pure.

A run is admitted and decided as any other, so that consent, price, health and retirement of models hold for kept
answers too: one is given only if the model that gave it could be asked for this request now. Then the cache is looked
at, before the first model is asked; late, broken or absent, it is a miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from understudy.actors.selector import labels, paying
from understudy.actors.selector.admit import refuse
from understudy.messages.cache import CachedAnswer, CacheKeep, CacheLook, CacheLooked
from understudy.messages.generate import Finished, Generate, Parameters, Usage
from understudy.messages.hashes import keyed_hash
from understudy.messages.step import Effect, Send, Stored, StoreFailed, Wake
from understudy.messages.wire import encode

if TYPE_CHECKING:
    from understudy.actors.selector.conduct import Conduct


@dataclass(slots=True)
class Kept:
    """What a run that qualifies knows of its place in the cache."""

    key: str
    wait_ms: float  # for the cache's answer
    key_id: str = ""  # of the conversation's data key, once the cache has said
    looking: bool = False
    hit: bool = False
    labels: tuple[str, ...] = ()  # of a hit


def check(ask: Generate) -> None:
    """Raises Refusal `invalid`: who says `cache: true` must say to which conversation the answer belongs."""
    if ask.cache and ask.conversation_id is None:
        raise refuse("invalid", "An answer is kept for one conversation: say which.", "$.conversation_id")


def qualifies(ask: Generate, parameters: Parameters, by_task: bool) -> bool:
    """May the answer to this request be kept?

    Deterministic (temperature 0, or the caller's own seed), a whole answer of one conversation, and words alone: a
    tool that is called again may act again, and its call ids are given once.
    """
    wanted = by_task if ask.cache is None else ask.cache
    steady = parameters.temperature == 0 or ask.seed is not None
    plain = not (ask.tools or ask.reasoning or ask.resume)
    return wanted and steady and plain and ask.conversation_id is not None


def key_of(ask: Generate, parameters: Parameters, hash_key: str, *about: str) -> str:
    """The entry's key: all that the answer depends on. `about`: whose it is, topology, task and model as resolved.

    Left out is what changes no word of an answer: how and for how long the caller waits, its labels. A seed that we
    drew ourselves is one of them at temperature 0. `parameters` stand for what the request says of them.
    """
    bare = replace(
        ask,
        **dict.fromkeys(("request_id", "conversation_id", "user_id", "deadline_ms", "cache", "hedge")),
        **dict.fromkeys(("task", "model", "max_tokens", "temperature", "top_p", "seed")),
        stop=(),
        stream=False,
        priority="high",
        traffic="interactive",
        labels=(),
    )
    drawn = replace(parameters, seed=0) if ask.seed is None else parameters
    whole = msgspec.json.encode(["cache", about, drawn, encode(bare).decode()])
    return keyed_hash(hash_key, whole.decode())


def begin(run: Conduct, now: float) -> list[Effect]:
    """What a run does first: ask the cache, if it qualifies. It rests meanwhile: no attempt is under way."""
    kept = run.kept
    if kept is None:
        return paying.proceed(run, "", now)
    run.resting = kept.looking = True
    order = CacheLook(run_id=run.run_id, conversation=run.conversation, key=kept.key)
    subject, reply = f"{run.where.app}.ask.cache.look", f"{run.where.inbox}.run.{run.run_id}.cache"
    until_ms = min(now + kept.wait_ms, run.deadline_ms)
    return [Send(subject, order, reply=reply), Wake(until_ms, run.run_id, run.attempt)]


def looking(run: Conduct) -> Kept | None:
    """Where the cache's answer is still waited for."""
    return run.kept if run.kept is not None and run.kept.looking and run.ending is None else None


def looked(run: Conduct, said: CacheLooked, now: float) -> list[Effect]:
    """The cache has answered. Too late for this run, it still tells under which data key its answer can be kept."""
    if run.kept is not None:
        run.kept.key_id = said.key_id
    kept = looking(run)
    if kept is None:
        return []
    answer = said.answer
    if answer is None or answer.model not in run.chain or run.barred(run, answer.model, now) is not None:
        return missed(run, kept, now)
    return _hit(run, kept, answer, now)


def missed(run: Conduct, kept: Kept, now: float) -> list[Effect]:
    """Nothing is kept, or the cache does not answer: the first model is asked."""
    run.resting = kept.looking = False
    return paying.proceed(run, "", now)


def _hit(run: Conduct, kept: Kept, answer: CachedAnswer, now: float) -> list[Effect]:
    """End with the kept answer. Nothing is used, so nothing is booked."""
    run.resting, kept.looking, kept.hit, kept.labels = False, False, True, answer.labels
    run.model, run.parameters = answer.model, answer.parameters
    told = run.show(run.script.add(answer.text)) + run.show(run.script.finish())
    return told + run.finish(answer.finish_reason, Usage(), now)


def keep(run: Conduct, answer: Stored | StoreFailed) -> list[Effect]:
    """The log has this run's end: a whole good answer by one model is kept."""
    kept, end = run.kept, run.ending
    if kept is None or kept.hit or not kept.key_id or not isinstance(end, Finished):
        return []
    if not isinstance(answer, Stored) or answer.duplicate or not end.text:
        return []
    if end.finish_reason != "stop" or end.degraded or end.seams:
        return []
    whole = CachedAnswer(
        text=end.text,
        model=end.model,
        finish_reason=end.finish_reason,
        parameters=end.parameters,
        labels=tuple([label for label in end.labels if label in labels.OF_MAKING]),
    )
    order = CacheKeep(conversation=run.conversation, key=kept.key, key_id=kept.key_id, answer=whole)
    return [Send(f"{run.where.app}.ask.cache.keep", order)]
