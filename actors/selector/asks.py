"""What components ask a selector: admit a request and begin its run, show a decision, cancel, take feedback, list."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from understudy.actors.selector import admit, answers, consent, estimate, feedback, keeping, repeats, vectors
from understudy.actors.selector.callers import Callers
from understudy.actors.selector.choose import Decision, Question
from understudy.actors.selector.conduct import Conduct
from understudy.actors.selector.hedge import Hedge
from understudy.actors.selector.marks import Mark, mark_of
from understudy.actors.selector.state import Awaited, Settings, State, barred, conducted
from understudy.actors.selector.text import Script
from understudy.messages.base import Message
from understudy.messages.catalogue import (
    DescribeModel,
    GiveFeedback,
    ListModels,
    PinModel,
    PinTaken,
    Select,
)
from understudy.messages.consent import GiveConsent, ListConsents, WithdrawConsent
from understudy.messages.cost import Estimate
from understudy.messages.embed import Embed
from understudy.messages.events import Event, ModelCleared, ModelPinned, SelectionMade
from understudy.messages.generate import Cancel, Cancelled, Failed, Generate, Resend, Resent
from understudy.messages.hashes import keyed_hash
from understudy.messages.run import Attach
from understudy.messages.step import Asked, Effect, Later, Send, Store
from understudy.messages.topology import Topology

SHARES = {"critical": 1.25, "high": 1.0, "low": 0.8, "best_effort": 0.5}
"""How much of `max_in_flight` requests of a priority may find taken: the lower ones are turned away first."""


def asked_for(state: State, asked: Asked, settings: Settings) -> list[Effect]:
    """Answer, or begin a run. A question that nobody waits for is dropped; orders are carried out all the same."""
    if not asked.reply and not isinstance(asked.message, Cancel | GiveFeedback | PinModel | WithdrawConsent | Attach):
        return []
    try:
        match asked.message:
            case Estimate():
                return estimate.asked(state, asked, asked.message, settings.hash_key)
            case Select():
                return [Send(asked.reply, _select(state, asked, settings))]
            case Generate():
                return _generate(state, asked, asked.message, settings)
            case Embed():
                return _generate(state, asked, vectors.as_generate(asked.message), settings, asked.message)
            case Cancel():
                return _cancel(state, asked, asked.message)
            case Resend():
                return _resend(state, asked, asked.message)
            case Attach():
                return repeats.attach(state, asked.message, asked.at_ms)
            case GiveFeedback():
                return feedback.asked(state, asked, asked.message, settings)
            case PinModel():
                return _pin(state, asked, asked.message, settings)
            case GiveConsent() | WithdrawConsent():
                return consent.taken(state, asked, asked.message, settings)
            case ListConsents():
                return consent.listed(state, asked, asked.message, settings)
            case ListModels():
                return [Send(asked.reply, answers.models(state.knowledge, state.local, asked.message))]
            case DescribeModel():
                return [Send(asked.reply, answers.describe(state.knowledge, state.local, asked.message.model))]
            case _:
                return []
    except admit.Refusal as refusal:
        return [Send(asked.reply, refusal.failed)] if asked.reply else []


def _generate(
    state: State, asked: Asked, ask: Generate, settings: Settings, embed: Embed | None = None
) -> list[Effect]:
    state.budget.roll(asked.at_ms)
    state.budget.requests += 1
    in_flight = len(state.runs) + len(state.claiming)
    if in_flight >= settings.max_in_flight * SHARES[ask.priority]:
        retry = settings.overload_retry_ms
        text = f"{in_flight} requests are in flight here."
        return [Send(asked.reply, Failed(code="overloaded", text=text, retry_after_ms=retry))]
    vectors.check(embed) if embed is not None else admit.check(ask)
    keeping.check(ask)
    if asked.at_ms < state.log_full_until_ms:
        raise admit.refuse("log_full")
    mark = mark_of(embed or ask, settings.hash_key) if ask.request_id else Mark()
    settled = repeats.known(state, asked.id, asked.reply, mark) if ask.request_id else None
    if settled is not None:
        return settled
    run = _admitted(state, asked, ask, mark, settings, embed)
    return repeats.claim(state, run) if ask.request_id else begin(state, run, asked.at_ms)


def _admitted(
    state: State, asked: Asked, ask: Generate, mark: Mark, settings: Settings, embed: Embed | None
) -> Conduct:
    """A run with its decision, not begun yet. Raises Refusal."""
    run_id = asked.id
    seed = admit.seed_of(run_id)
    conversation = keyed_hash(settings.hash_key, ask.conversation_id)
    question, parameters, latency, topology = admit.question(ask, state.knowledge, seed)
    question = question if embed is None else replace(question, prompt_tokens=vectors.longest(embed))
    deadline_ms = asked.at_ms + (ask.deadline_ms or latency.deadline_ms)
    user = keyed_hash(settings.hash_key, ask.user_id)
    question = admit.with_consent(question, ask, state.knowledge, settings.hash_key)
    about = {"stream": ask.stream, "claim": mark.key, "body": mark.body, "conversation": conversation, "user": user}
    pinned = state.knowledge.pins.get(conversation) if ask.model is None else None
    wish = replace(question, model=pinned) if pinned in state.knowledge.models else question
    decision, deciding = _decide(state, asked, wish, seed, deadline_ms, about)
    if not decision.chain and wish is not question:  # a pin is a wish: a session must not break off
        decision, deciding = _decide(state, asked, question, seed, deadline_ms, about)
    if not decision.chain:
        raise admit.no_model(decision.counts(), unnamed=admit.is_unnamed(state.knowledge, user))
    kept = None
    if embed is None and keeping.qualifies(ask, parameters, topology.tasks[question.task].cache):
        about_it = (user, conversation, state.knowledge.topology_hash, question.task, wish.model or "")
        kept = keeping.Kept(keeping.key_of(ask, parameters, settings.hash_key, *about_it), settings.cache_wait_ms)
    return Conduct(
        where=state.where,
        run_id=run_id,
        callers=Callers(run_id, [asked.reply], f"{state.where.inbox}.vanished.{run_id}", ask.stream),
        ask=ask,
        parameters=parameters,
        latency=latency,
        task=question.task,
        chain=[one.model for one in decision.chain],
        deciding=deciding,
        models={one.model: state.knowledge.models[one.model].declared for one in decision.chain},
        places={one.model: state.knowledge.models[one.model].location for one in decision.chain},
        topology=topology,
        knowledge=state.knowledge,
        barred=partial(barred, state, question),
        script=Script(stops=parameters.stop),
        begun_ms=asked.at_ms,
        deadline_ms=deadline_ms,
        refuge=partial(_refuge, state, question),
        privacy=question.privacy,
        emergency_reply=topology.tasks[question.task].emergency_reply,
        conversation=conversation,
        user=user,
        mark=mark,
        kept=kept,
        embed=embed,
        hedge=_hedge(state, ask, topology, question.task),
    )


def _refuge(state: State, question: Question, now: float) -> list[str]:
    """Who may answer on this machine, as things are now."""
    here = replace(question, privacy="local_only", consented=())
    decision, _ = state.order.decide(state.knowledge, state.local, here, now)
    return [one.model for one in decision.chain]


def _hedge(state: State, ask: Generate, topology: Topology, task: str) -> Hedge | None:
    """Where it is wanted."""
    if not (topology.tasks[task].hedge if ask.hedge is None else ask.hedge):
        return None
    return Hedge(state.hedges, state.knowledge.p95_first_token_ms)


def begin(state: State, run: Conduct, now: float) -> list[Effect]:
    """From here on the run is ours: its first attempt goes to a runner, then its decision to the trace."""
    state.runs[run.run_id] = run
    if run.mark.key:
        state.claims[run.mark.key] = run.run_id
    started = run.started(now)
    attempt = conducted(state, run, now, partial(keeping.begin, run, now))
    return [*attempt, Later(lambda: [run.record(), *started])]


def _decide(
    state: State, asked: Asked, question: Question, seed: int, deadline_ms: float, about: dict[str, Any]
) -> tuple[Decision, Callable[[], SelectionMade]]:
    """The decision, and what makes its record when there is time for that."""
    decision, seen = state.order.decide(state.knowledge, state.local, question, asked.at_ms)
    as_of_seq, topology = state.knowledge.seq, state.knowledge.topology_hash

    def deciding() -> SelectionMade:
        return SelectionMade(
            at_ms=int(asked.at_ms),
            run_id=asked.id,
            instance=state.where.instance,
            as_of_seq=as_of_seq,
            topology=topology,
            seed=seed,
            task=question.task,
            features=msgspec.to_builtins(question),
            local_view=seen.surviving,
            chain=tuple(one.model for one in decision.chain),
            scores={one.model: one.score for one in decision.chain},
            rejected=decision.counts(),
            not_loaded=seen.not_loaded,
            digest=decision.digest(),
            reply=asked.reply,
            deadline_at_ms=int(deadline_ms),
            **about,
        )

    return decision, deciding


def _select(state: State, asked: Asked, settings: Settings) -> Message:
    ask = asked.message
    assert isinstance(ask, Select)
    admit.check(ask)
    question, _, _, _ = admit.question(ask, state.knowledge, 0)
    question = admit.with_consent(question, ask, state.knowledge, settings.hash_key)
    decision, _ = state.order.decide(state.knowledge, state.local, question, asked.at_ms)
    return answers.selected(state.knowledge, question.task, decision, ask.explain)


def _cancel(state: State, asked: Asked, cancel: Cancel) -> list[Effect]:
    run = state.runs.get(cancel.run_id)
    out: list[Effect] = []
    if asked.reply:
        out.append(Send(asked.reply, Cancelled(run_id=cancel.run_id, known=run is not None)))
    if run is None:
        return out
    return out + conducted(state, run, asked.at_ms, partial(run.cancel, asked.at_ms))


def _resend(state: State, asked: Asked, order: Resend) -> list[Effect]:
    run = state.runs.get(order.run_id)
    if run is None:
        return [Send(asked.reply, Resent(run_id=order.run_id, known=False))]
    return run.resend(asked.reply, order.from_seq)


def _pin(state: State, asked: Asked, order: PinModel, settings: Settings) -> list[Effect]:
    now, conversation = int(asked.at_ms), keyed_hash(settings.hash_key, order.conversation_id)
    if order.model is None:
        event = ModelCleared(at_ms=now, conversation=conversation)
        return _put(state, asked, event, lambda seq: PinTaken(model=None, seq=seq))
    model = admit.model_of(state.knowledge, order.model)
    event = ModelPinned(at_ms=now, conversation=conversation, model=model)
    return _put(state, asked, event, lambda seq: PinTaken(model=model, seq=seq))


def _put(state: State, asked: Asked, event: Event, done: Callable[[int], Message]) -> list[Effect]:
    """A fact that the asker hears of once the log has it."""
    msg_id = f"order.{asked.id}"
    state.awaited[msg_id] = Awaited(asked.reply, done)
    return [Store(event, msg_id)]
