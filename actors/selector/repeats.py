"""`request_id`: the same request asked again is one run, whichever selector hears it. Pure.

The first asker's selector claims a key (a keyed hash of user and `request_id`); the claim's value names run, instance
and a hash of the body. A repeat is attached to the living run and hears everything from the start; after the end it
hears the recorded end, without text. The same key with another body is `id_reused`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import msgspec

from understudy.actors.selector import ends, takeover
from understudy.actors.selector.callers import MOST_CALLERS, too_many
from understudy.actors.selector.conduct import Conduct
from understudy.actors.selector.marks import Mark
from understudy.actors.selector.state import State
from understudy.messages.events import RequestEnded
from understudy.messages.generate import ADVICE, Failed
from understudy.messages.run import Attach
from understudy.messages.step import Claim, Claimed, Effect, Recall, Recalled, Send

KEEP_S = 600.0
"""A claim outlives the longest deadline by this much."""


class Holder(msgspec.Struct, frozen=True):
    """What a claim's value says."""

    run_id: str
    instance: str
    body: str


def known(state: State, asked_id: str, reply: str, mark: Mark) -> list[Effect] | None:
    """Settled by what we know: the run is in our hands, or the log has its end. None: unknown here."""
    run = state.runs.get(state.claims.get(mark.key, ""))
    if run is not None:
        return run.attach(reply) if run.mark == mark else _reused(reply)
    ended = state.knowledge.ended.get(mark.key) or state.fresh.get(mark.key)
    if ended is None:
        return None
    if ended.body != mark.body:
        return _reused(reply)
    state.recalling[asked_id] = reply
    return [Recall(ended.seq, f"repeat.{asked_id}")]


def claim(state: State, run: Conduct) -> list[Effect]:
    """Find out whose it is; `run` waits for the answer, and so do further repeats."""
    waiting = state.claiming.setdefault(run.mark.key, [])
    if len(waiting) >= MOST_CALLERS:
        return [too_many(run.callers.replies[0])]
    waiting.append(run)
    if len(waiting) > 1:
        return []
    value = msgspec.json.encode(Holder(run.run_id, state.where.instance, run.mark.body)).decode()
    return [Claim(run.mark.key, value, (run.deadline_ms - run.begun_ms) / 1000 + KEEP_S)]


def claimed(state: State, answer: Claimed, begin: Callable[[Conduct], list[Effect]]) -> list[Effect]:
    """The bucket answered: the key is ours (begin the run), somebody holds it (go there), or nobody knows."""
    waiting, out = state.claiming.pop(answer.key, []), list[Effect]()
    if answer.holder is None:
        text = f"`request_id` cannot be arbitrated now. {ADVICE['bus_down']}"
        return [e for run in waiting for e in run.say(Failed(code="bus_down", text=text))]
    holder = msgspec.json.decode(answer.holder, type=Holder) if answer.holder else None
    if waiting and (holder is None or holder.run_id == waiting[0].run_id):  # ours, also when we hear so late
        out += begin(waiting.pop(0))
    for run in waiting:
        settled = known(state, run.run_id, run.callers.replies[0], run.mark)
        if settled is not None:
            out += settled
        elif holder is not None:
            out += _elsewhere(state, run, holder)
    return out


def _elsewhere(state: State, repeat: Conduct, holder: Holder) -> list[Effect]:
    """Another instance has it: ask that one to say everything to this caller too."""
    reply = repeat.callers.replies[0]
    if holder.body != repeat.mark.body:
        return _reused(reply)
    if holder.instance == state.where.instance:  # of an earlier life of ours
        return _lost(state, holder.run_id, reply, repeat.begun_ms)
    order = Attach(run_id=holder.run_id, reply=reply)
    subject = f"{state.where.app}.ask.selector.attach.{holder.instance}"
    # Should nobody hear it, everything that is needed then stands in the reply subject.
    return [Send(subject, order, reply=f"{state.where.inbox}.run.attach.{holder.run_id}.{reply}")]


def attach(state: State, order: Attach, now: float) -> list[Effect]:
    """Another selector's caller wants to hear a run of ours."""
    run = state.runs.get(order.run_id)
    if run is not None:
        return run.attach(order.reply)
    known_ends = chain(state.fresh.values(), state.knowledge.ended.values())
    ended = next((e for e in known_ends if e.run_id == order.run_id), None)
    if ended is None:
        return _lost(state, order.run_id, order.reply, now)
    key = f"{order.run_id}.{order.reply}"
    state.recalling[key] = order.reply
    return [Recall(ended.seq, f"repeat.{key}")]


def unheard(state: State, tail: list[str], now: float) -> list[Effect]:
    """The selector that holds the run is not there. `tail`: the run id, then the reply subject's tokens."""
    return _lost(state, tail[0], ".".join(tail[1:]), now) if len(tail) > 1 else []


def _lost(state: State, run_id: str, reply: str, now: float) -> list[Effect]:
    """Nobody has the run in hand: end it for all who wait. Of one that never began there is nothing to be ended."""
    made = state.siblings.orphan(run_id)
    if made is None and run_id not in state.taken:
        text = f"The selector that had taken this request died before it began. {ADVICE['interrupted']}"
        return [Send(reply, Failed(code="interrupted", text=text, run_id=run_id))]
    waiting = state.repeats.setdefault(run_id, [])
    if made is None and len(waiting) >= MOST_CALLERS:
        return [too_many(reply)]
    waiting.append(reply)
    return takeover.take_over(state, [made], now) if made is not None else []


def recalled(state: State, key: str, answer: Recalled) -> list[Effect]:
    """The recorded end, for a repeat that came after it."""
    reply = state.recalling.pop(key, "")
    if not reply:
        return []
    if not isinstance(answer.event, RequestEnded):
        return [Send(reply, Failed(code="bus_down", text=ADVICE["bus_down"]))]
    stream = answer.event.decision is not None and answer.event.decision.stream
    return [Send(reply, ends.as_message(answer.event, stream))]


def _reused(reply: str) -> list[Effect]:
    return [Send(reply, Failed(code="id_reused", text=ADVICE["id_reused"], path="$.request_id"))]
