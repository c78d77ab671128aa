"""Hedging: where a model has not begun by its own 95th percentile, the next one is asked too; who speaks first goes on.

Off unless the request or its task says otherwise. Once per request, only before anything was said, never where one of
the two has a price or draws on a quota of its provider's account, and never beyond a share of the requests that may be
hedged. The other one is cancelled and recorded as `hedged`, which blames nobody; its time counts as that long at least,
else a model would seem quicker the more often it is hedged (`Slowness.add_at_least`). What is kept from leaving this
machine by either stays here for the rest of the run. Both attempts have numbers of their own, so fencing stays exact.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.actors.selector import attempt, ends, failover
from understudy.actors.selector.sight import News
from understudy.messages.base import Message
from understudy.messages.generate import Attempt
from understudy.messages.prices import is_priced, quota_of
from understudy.messages.run import NO_ROOM, RunEnded, RunFailed, RunFailure, RunStarted, RunText
from understudy.messages.step import Effect, Send, Wake

if TYPE_CHECKING:
    from understudy.actors.selector.conduct import Conduct

CREDIT_CAP = 10.0
"""A quiet hour must not be followed by more hedges at once than this."""


@dataclass(slots=True)
class Allowance:
    """Each request that may be hedged and for which a model is asked adds its share of a hedge: so they are never more
    than that share of the calls that come without them."""

    credit: float = 0.0

    def earn(self, ratio: float) -> None:
        """A request's first model is asked."""
        self.credit = min(CREDIT_CAP, self.credit + ratio)

    def take(self) -> bool:
        """May one be hedged?"""
        if self.credit < 1.0 - 1e-9:
            return False
        self.credit -= 1.0
        return True


@dataclass(slots=True)
class Rival:
    """The second attempt, while the first has said nothing."""

    attempt: int
    model: str
    asked_ms: float
    runner: str = ""
    deaf_ms: float = 0.0  # for so long it could not be heard
    cut: bool = False  # the bus was away since it was asked, or last heard


@dataclass(slots=True)
class Hedge:
    """One request's hedging. `p95_ms`: a model's own, as folded."""

    allowance: Allowance
    p95_ms: Callable[[str], float | None]
    rival: Rival | None = None
    number: int = -1  # the rival's attempt number, taken for good


def look(run: Conduct, hedge: Hedge, now: float) -> list[Effect]:
    """A timer came while the model is silent: is it time for the second?"""
    at_ms = _at_ms(run, hedge)
    if at_ms is None or not _allowed(run, now):
        return []
    if now < at_ms:
        return [Wake(min(at_ms, run.due_ms), run.run_id, run.attempt)]
    return _ask(run, hedge, now) if hedge.allowance.take() else []


def wake_ms(run: Conduct, hedge: Hedge) -> float:
    """When to look: at the percentile, or where there is none, at the limit."""
    at_ms = _at_ms(run, hedge)
    return run.due_ms if at_ms is None else min(at_ms, run.due_ms)


def _at_ms(run: Conduct, hedge: Hedge) -> float | None:
    p95_ms = hedge.p95_ms(run.model)
    if p95_ms is None or hedge.number >= 0 or run.room.queued or run.first_ms is not None:
        return None
    return run.asked_ms + p95_ms


def _allowed(run: Conduct, now: float) -> bool:
    if (
        not run.chain
        or run.barred(run, run.chain[0], now)
        or not run.script.empty()
        or run.seam is not None
        or run.beside.thoughts
    ):
        return False
    return not any(is_priced(run.models[m]) or quota_of(m, run.models[m]) for m in (run.model, run.chain[0]))


def _ask(run: Conduct, hedge: Hedge, now: float) -> list[Effect]:
    rival = hedge.rival = Rival(run.next_attempt(), run.chain.pop(0), now)
    hedge.number = rival.attempt
    run.news.append(News(rival.model, "asked"))
    inbox = run.where.inbox_of(run.run_id, rival.attempt)
    order = attempt.order(run, now, rival.attempt, rival.model)
    return [
        Send(run.where.run_subject(run.models[rival.model].provider, rival.model), order, reply=inbox),
        Wake(run.due_ms, run.run_id, run.attempt),
    ]


# --- what is heard while two are asked -----------------------------------------------------------------------------


def hear(run: Conduct, hedge: Hedge, message: Message, now: float) -> list[Effect] | None:
    """What decides between the two, or concerns the second; None: it is the first one's business alone."""
    rival = hedge.rival
    number = getattr(message, "attempt", -1)
    if rival is None or number not in (run.attempt, rival.attempt):
        return None
    if number == run.attempt:
        return stop(run, now) + run.hear(message, now) if _speaks(message) else None
    match message:
        case RunStarted():
            rival.runner, rival.cut = message.instance, False
            return []
        case RunFailed():
            return lose(run, message.reason, now, message)
        case _ if _speaks(message):
            return _overtake(run, hedge, rival, now) + run.hear(message, now)
        case RunText() | RunEnded():
            return lose(run, _lost(message), now)
        case _:
            return []


def _speaks(message: Message) -> bool:
    """Its first words, or all of them."""
    if isinstance(message, RunEnded):
        return message.pieces == 0 and bool(message.text or message.tool_calls or message.vectors)
    return isinstance(message, RunText) and message.n == 0


def _lost(message: RunText | RunEnded) -> RunFailure:
    """Why a second that said nothing, or whose first words were lost, is no answer."""
    if isinstance(message, RunText) or message.pieces:
        return "text_lost"
    return "refused" if message.finish_reason == "refusal" else "empty"


def _overtake(run: Conduct, hedge: Hedge, rival: Rival, now: float) -> list[Effect]:
    """The second speaks first: from here on it is the run's attempt."""
    out = attempt.stop(run, run.attempt, run.runner)
    run.news.append(News(run.model, "cancelled"))
    run.tried.append(_hedged(run, run.model, run.asked_ms, now))
    return out + _become(run, hedge, rival)


def _become(run: Conduct, hedge: Hedge, rival: Rival) -> list[Effect]:
    hedge.rival = None
    run.attempt, run.model, run.runner, run.asked_ms = rival.attempt, rival.model, rival.runner, rival.asked_ms
    run.pieces, run.tokens, run.exact, run.room.queued = 0, 0, True, False
    run.due_ms = min(attempt.first_due_ms(run, rival.asked_ms) + rival.deaf_ms, run.deadline_ms)
    run.cut = rival.cut
    return [Wake(run.due_ms, run.run_id, run.attempt)]


def stop(run: Conduct, now: float) -> list[Effect]:
    """The first speaks, or the run ends: the second is not needed."""
    if run.hedge is None or run.hedge.rival is None:
        return []
    rival, run.hedge.rival = run.hedge.rival, None
    run.news.append(News(rival.model, "cancelled"))
    run.tried.append(_hedged(run, rival.model, rival.asked_ms, now))
    return attempt.stop(run, rival.attempt, rival.runner)


def lose(run: Conduct, reason: RunFailure, now: float, told: RunFailed | None = None) -> list[Effect]:
    """The second failed by itself; the first goes on. `told`: as its runner says."""
    if run.hedge is None or run.hedge.rival is None:
        return []
    rival, run.hedge.rival = run.hedge.rival, None
    wait_ms, until_ms = (told.retry_after_ms, told.exhausted_until_ms) if told is not None else (None, None)
    run.news.append(News(rival.model, reason, wait_ms or 0, until_ms))
    attempt.wants_patience(run, wait_ms, now)
    if reason in NO_ROOM:
        run.room.later[rival.model] = 0 if reason == "busy" else None
        return []
    took_ms = round(now - rival.asked_ms, 3)
    failed = Attempt(
        model=rival.model,
        outcome=reason,
        total_ms=took_ms,
        status=None if told is None else told.status,
        key_id=None if told is None else told.key_id,
        upstream=None if told is None else told.upstream,
        location=run.location(rival.model),
        outbound=None if told is None else told.outbound,
    )
    run.tried.append(failed)
    if reason == "blocked":
        failover.stay_here(run, now)
    out = attempt.stop(run, rival.attempt, rival.runner) if reason == "text_lost" else []
    return [*out, ends.attempt_ended(run, failed, now, told, rival.attempt)]


def promote(run: Conduct) -> list[Effect] | None:
    """The first failed: where a second is asked already, it is the run's attempt."""
    if run.hedge is None or run.hedge.rival is None:
        return None
    return _become(run, run.hedge, run.hedge.rival)


def stay_here(run: Conduct, now: float) -> list[Effect]:
    """The first was kept from leaving this machine: a second elsewhere must not go on."""
    rival = run.hedge.rival if run.hedge is not None else None
    return stop(run, now) if rival is not None and run.location(rival.model) == "external" else []


def deaf(run: Conduct, ms: float, cut: bool) -> None:
    """Nor is silence in that time the second's."""
    if run.hedge is not None and run.hedge.rival is not None:
        rival = run.hedge.rival
        rival.deaf_ms, rival.cut = rival.deaf_ms + ms, rival.cut or cut


def doubled(run: Conduct) -> bool:
    """Is a second asked, and neither has spoken?"""
    return run.hedge is not None and run.hedge.rival is not None


def rests_on(run: Conduct, instance: str, models: list[str]) -> bool:
    """Is the second with this runner, or may it be?"""
    rival = run.hedge.rival if run.hedge is not None else None
    return rival is not None and (rival.runner == instance or (not rival.runner and rival.model in models))


def _hedged(run: Conduct, model: str, asked_ms: float, now: float) -> Attempt:
    took_ms = round(now - asked_ms, 3)
    return Attempt(model=model, outcome="hedged", total_ms=took_ms, location=run.location(model))
