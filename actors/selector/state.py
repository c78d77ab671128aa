"""What a selector instance holds, and how a run's progress is noted in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from understudy.actors.selector.choose import Question, idle, reject
from understudy.actors.selector.conduct import Conduct
from understudy.actors.selector.failover import NOT_ITS_FAULT
from understudy.actors.selector.hedge import Allowance
from understudy.actors.selector.order import Order
from understudy.actors.selector.siblings import Siblings
from understudy.actors.selector.sight import LocalView
from understudy.actors.selector.views import BLAMELESS, Ended, Knowledge, account_of
from understudy.actors.selector.where import Where
from understudy.messages.base import Message
from understudy.messages.cost import Estimates
from understudy.messages.events import FeedbackGiven, SelectionMade
from understudy.messages.step import Effect

WINDOW_MS = 10_000.0
LOG_FULL_MS = 2_000.0
"""After the log has refused an outcome so long nothing new is begun; then one request finds out how it is now."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`hash_key` (set by the supervisor, not by hand) keys the hashes of user and conversation ids."""

    max_in_flight: int = 512
    beat_ms: int = 250
    beat_timeout_ms: int = 1_500  # a runner or selector without heartbeats for this long is dead
    sweep_ms: int = 100
    overload_retry_ms: int = 250
    cache_wait_ms: int = 50  # for the response cache, before a model is asked
    hash_key: str = ""


@dataclass(slots=True)
class Budget:
    """Further failovers of the last 10 s against cascades; each request's first one is free."""

    window_ms: float = 0.0
    requests: int = 0
    used: int = 0

    def roll(self, now: float) -> None:
        """Forget the window before the last."""
        if now - self.window_ms > WINDOW_MS:
            self.window_ms, self.requests, self.used = now, 0, 0

    def allows(self, ratio: float, minimum: int) -> bool:
        """May one more failover be tried?"""
        return self.used < max(minimum, self.requests * ratio)


class Awaited(NamedTuple):
    """A fact on its way to the log for a caller: where to answer, and what once it has a position."""

    reply: str
    done: Callable[[int], Message]


class Rating(NamedTuple):
    """Feedback whose run is being looked up: where to answer, and what is to be stored."""

    reply: str
    event: FeedbackGiven


class Unanswered(NamedTuple):
    """An estimate that waits for the ledger's part."""

    reply: str
    said: Estimates
    until_ms: float


@dataclass(slots=True)
class State:
    """`knowledge` is the fold; the rest is this instance's own."""

    where: Where = field(default_factory=lambda: Where("", "", ""))
    knowledge: Knowledge = field(default_factory=Knowledge)
    local: LocalView = field(default_factory=LocalView)
    order: Order = field(default_factory=Order)  # what follows from both, kept up to date
    runs: dict[str, Conduct] = field(default_factory=dict[str, Conduct])
    siblings: Siblings = field(default_factory=Siblings)
    claims: dict[str, str] = field(default_factory=dict[str, str])  # claim -> our living run
    claiming: dict[str, list[Conduct]] = field(default_factory=dict[str, list[Conduct]])  # wait for the bucket
    recalling: dict[str, str] = field(default_factory=dict[str, str])  # repeats after the end: id -> reply
    taken: dict[str, SelectionMade] = field(default_factory=dict[str, SelectionMade])  # runs of dead selectors
    fresh: dict[str, Ended] = field(default_factory=dict[str, Ended])  # claim -> stored, but not folded yet
    repeats: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # taken run -> further replies
    budget: Budget = field(default_factory=Budget)
    hedges: Allowance = field(default_factory=Allowance)
    log_full_until_ms: float = 0.0  # the log refused an outcome a moment ago: nothing new is begun
    estimates: dict[str, Unanswered] = field(default_factory=dict[str, Unanswered])  # by id
    ratings: dict[str, Rating] = field(default_factory=dict[str, Rating])  # by id of the ask
    lately: dict[str, int] = field(default_factory=dict[str, int])  # run -> position of its end, oldest first
    awaited: dict[str, Awaited] = field(default_factory=dict[str, Awaited])  # facts that a caller waits for, by id


def ended(state: State, claim: str, end: Ended) -> None:
    """The log has an end that the fold may not have come upon yet: who asks for it again meanwhile must hear of it."""
    known = state.knowledge.ended.get(claim)
    if claim and (known is None or known.run_id != end.run_id):
        state.fresh[claim] = end


def conducted(state: State, run: Conduct, now: float, act: Callable[[], list[Effect]]) -> list[Effect]:
    """Let a run act, with the failover budget as it is now, and note what its progress says about models."""
    topology = state.knowledge.topology
    if topology is not None:
        state.budget.roll(now)
        run.may_fail_over = state.budget.allows(topology.policy.failover_ratio, topology.policy.failover_minimum)
    effects = act()
    if run.news:
        _note(state, run, now)
    return effects


def barred(state: State, question: Question, run: Conduct, model: str, now: float) -> str | None:
    """Why a model of a run's chain may not be tried now, though it was allowed when the chain was made.

    What has changed since is taken over: it is tried, and paid for, as it is now.
    """
    view = state.knowledge.models.get(model)
    if view is None:
        return "retired"
    if view.retired or view.offline:
        return "retired" if view.retired else "offline"
    if view.exhausted or state.local.is_exhausted(model, now):
        return "quota_exhausted"
    if view.declared is run.models[model] and view.location == run.places[model]:
        return None
    run.models[model], run.places[model] = view.declared, view.location
    return reject(model, view, idle(view.declared), question, (), 0.0)


def _sharing(knowledge: Knowledge, model: str) -> list[str]:
    """All models that draw on the same quota as this one."""
    view = knowledge.models.get(model)
    account = account_of(model, view.declared) if view is not None else ""
    return [m for m, v in knowledge.models.items() if account and account_of(m, v.declared) == account]


def used_up(state: State, model: str, until_ms: float, now: float) -> None:
    """An attempt, ours or another selector's, was told that the model's quota is used up: the ledger, which announces
    it, may be away."""
    view = state.knowledge.models.get(model)
    if until_ms > now and view is not None and not view.exhausted:
        state.local.exhaust(_sharing(state.knowledge, model), until_ms)


def _note(state: State, run: Conduct, now: float) -> None:
    """Trust, suspicion, load; a request's further failovers are paid from the budget, unless no model was at fault."""
    for model, outcome, wait_ms, until_ms in run.news:
        if outcome == "asked":
            state.local.asked(model)
            if run.attempt > 1 and run.tried and run.tried[-1].outcome not in NOT_ITS_FAULT:
                state.budget.used += 1
            continue
        state.local.answered(model)
        if until_ms is not None:
            used_up(state, model, until_ms, now)
        if outcome == "ok":
            state.local.trust(model)
        elif outcome not in BLAMELESS and outcome != "invalid_output":  # a sound endpoint
            state.local.suspect(model, now, wait_ms)
    run.news.clear()
