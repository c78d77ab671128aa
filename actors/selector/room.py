"""No room: nobody is asked to wait while somebody else may be free, then the request waits in one queue.

First each model of the chain is asked without permission to wait, so that the next is tried at once. When all that are
left had no room, they are asked again with it, the shortest queue first: its runner says `RunQueued`, and `RunStarted`
when the turn has come. Those whose queue is full are out: when that is all, the run ends as `overloaded`. Runners that
are not there are asked again after a rest. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from understudy.actors.selector import attempt, failover, hedge, paying
from understudy.messages.generate import Waiting
from understudy.messages.run import NO_ROOM, RunFailure, RunQueued
from understudy.messages.step import Effect, Wake

if TYPE_CHECKING:
    from understudy.actors.selector.conduct import Conduct

REST_MS = 100.0
REST_CAP_MS = 1_600.0


@dataclass(slots=True)
class Room:
    """How far the search for room is."""

    may_wait: bool = False  # models are asked with permission to wait
    queued: bool = False  # the current attempt waits at its runner
    told: bool = False  # the caller knows
    later: dict[str, int | None] = field(default_factory=dict[str, int | None])
    """Models that are asked again: those without room, with how many wait there, and those that were not there."""
    lost: tuple[str, ...] = ()  # models whose process or words were lost
    rests: int = 0

    def searching(self) -> bool:
        """Has everybody been asked once?"""
        return self.may_wait or self.rests > 0


def keep(run: Conduct, reason: RunFailure, waiting: int) -> None:
    """Models to ask once more when no other is left: those without room, and once each those that lost us."""
    room = run.room
    if reason not in NO_ROOM:  # it had its turn: whoever is left may have room now
        room.may_wait = False
    if reason in ("gone", "silent", "text_lost") and run.model not in room.lost:
        room.lost += (run.model,)
        room.later[run.model] = None
    elif reason in ("busy", "no_responders"):  # who may wait and is sent away all the same: it is not there for us
        room.later[run.model] = waiting if reason == "busy" and not room.may_wait else None


def again(run: Conduct, reason: str, now: float) -> list[Effect]:
    """All that are left had no room, or are not there: wait at the first, or rest."""
    room = run.room
    there = sorted((waiting, n, m) for n, (m, waiting) in enumerate(room.later.items()) if waiting is not None)
    if room.may_wait or not there:
        return _rest(run, reason, now)
    _remember(run, reason)
    room.may_wait, run.chain = True, [model for _, _, model in there]
    room.later = {model: None for model, waiting in room.later.items() if waiting is None}
    return paying.proceed(run, run.broken, now)


def _rest(run: Conduct, reason: str, now: float) -> list[Effect]:
    """None of the runners left is there: ask again after a while, until the deadline."""
    room = run.room
    wait_ms = min(REST_MS * 2**room.rests, REST_CAP_MS)
    if now + wait_ms >= run.deadline_ms:
        return failover.give_up(run, reason, now)
    _remember(run, reason)
    run.resting, room.rests, run.runner = True, room.rests + 1, ""
    return [*_tell(run), Wake(now + wait_ms, run.run_id, run.attempt)]


def rested(run: Conduct, now: float) -> list[Effect]:
    """Ask them again, in their order, first without waiting at any."""
    room = run.room
    run.resting, run.chain, room.may_wait = False, list(room.later), False
    room.later.clear()
    return paying.proceed(run, run.broken, now)


def queued(run: Conduct, message: RunQueued) -> list[Effect]:
    """It waits there. Only the deadline runs; whatever was said before this came is later news."""
    if run.runner or not run.room.may_wait:
        return []
    run.runner, run.room.queued, run.due_ms = message.instance, True, run.deadline_ms
    return [*_tell(run), Wake(run.due_ms, run.run_id, run.attempt)]


def begun(run: Conduct, now: float) -> list[Effect]:
    """Its turn has come: from here on the model's own time counts."""
    run.room.queued, run.asked_ms = False, now
    run.due_ms = attempt.first_due_ms(run, now)
    wake_ms = run.due_ms if run.hedge is None else hedge.wake_ms(run, run.hedge)
    return [Wake(wake_ms, run.run_id, run.attempt)]


def sent_away(run: Conduct, reason: RunFailure) -> RunFailure:
    """It never began, so no attempt failed. Where money is at stake nobody can be sure of that."""
    run.room.queued = False
    return "no_responders" if reason in ("gone", "silent") and run.purse.held is None else reason


def leave(run: Conduct, reason: RunFailure, now: float) -> list[Effect]:
    """Too late, or cancelled, before its turn came: no model is to blame. It may have begun a moment ago, so what was
    reserved for it counts as spent."""
    attempt.record(run, "cancelled", now)
    run.room.queued = False
    return [*attempt.stop(run, run.attempt, run.runner), *failover.give_up(run, reason, now)]


def _tell(run: Conduct) -> list[Effect]:
    """The caller hears once why nothing comes."""
    if run.room.told or not run.ask.stream:
        return []
    run.room.told = True
    return run.say(Waiting(run_id=run.run_id, reason="busy"))


def _remember(run: Conduct, reason: str) -> None:
    """What broke the text, if any: the seam names it."""
    if reason not in NO_ROOM:
        run.broken = reason
