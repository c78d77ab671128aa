"""Decide which model answers, and conduct each request through failover to its one end. Pure: no clock, no bus."""

from __future__ import annotations

from functools import partial

from understudy.actors.selector import answers, consent, estimate, feedback, hedge, keeping, paying, repeats, takeover
from understudy.actors.selector.asks import asked_for, begin
from understudy.actors.selector.conduct import Conduct
from understudy.actors.selector.order import Order
from understudy.actors.selector.state import LOG_FULL_MS, Settings, State, conducted, ended, used_up
from understudy.actors.selector.views import Ended, Knowledge
from understudy.actors.selector.where import Where, begins
from understudy.messages.base import Ask, Message
from understudy.messages.benchmarks import BenchmarkMeasured, ModelDrifted
from understudy.messages.brief import RequestBrief
from understudy.messages.cache import CacheLooked, ConversationErased
from understudy.messages.catalogue import DescribeModel, GiveFeedback, ListModels, PinModel, Select
from understudy.messages.catalogue_events import CATALOGUE_EVENTS, ModelRetired
from understudy.messages.consent import ConsentGiven, ConsentWithdrawn, GiveConsent, ListConsents, WithdrawConsent
from understudy.messages.cost import Estimate, ProviderExhausted, ProviderRestored, Quoted, Reserved, ReserveRefused
from understudy.messages.embed import Embed
from understudy.messages.events import (
    AttemptEnded,
    FeedbackGiven,
    ModelCleared,
    ModelDegraded,
    ModelLoaded,
    ModelPinned,
    ModelProbed,
    ModelRecovered,
    ModelSwitched,
    ModelUnavailable,
    RequestEnded,
    SelectionMade,
    TopologyApplied,
)
from understudy.messages.generate import Cancel, Generate, Resend
from understudy.messages.run import (
    Attach,
    ProcessGone,
    RunEnded,
    RunFailed,
    RunFailure,
    RunnerBeat,
    RunQueued,
    RunStarted,
    RunText,
    SelectorBeat,
)
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    Claimed,
    Deaf,
    Effect,
    Happened,
    Heard,
    Input,
    Recalled,
    Send,
    Stopping,
    Stored,
    StoreFailed,
    Traced,
    Unheard,
    Wake,
    Woke,
)

ASKS: dict[str, type[Ask | Message]] = {
    "model.generate": Generate,
    "model.embed": Embed,
    "model.select": Select,
    "model.estimate": Estimate,
    "model.list": ListModels,
    "model.describe": DescribeModel,
    "feedback.give": GiveFeedback,
    "model.pin": PinModel,
    "consent.give": GiveConsent,
    "consent.give.installation": GiveConsent,
    "consent.withdraw": WithdrawConsent,
    "consent.withdraw.installation": WithdrawConsent,
    "consent.list": ListConsents,
    "model.cancel.{instance}": Cancel,
    "model.resend.{instance}": Resend,
    "selector.attach.{instance}": Attach,
}
HEARS = (RunnerBeat, SelectorBeat, ProcessGone)
FOLLOWS = (SelectionMade,)
FOLDS = (
    TopologyApplied,
    AttemptEnded,
    RequestBrief,
    ModelLoaded,
    ModelDegraded,
    ModelUnavailable,
    ModelRecovered,
    ModelProbed,
    ModelDrifted,
    ModelPinned,
    ModelCleared,
    ProviderExhausted,
    ProviderRestored,
    *CATALOGUE_EVENTS,
    ConsentGiven,
    ConsentWithdrawn,
    ConversationErased,
    FeedbackGiven,
    BenchmarkMeasured,
)
EMITS = (
    AttemptEnded,
    RequestEnded,
    ModelSwitched,
    ModelPinned,
    ModelCleared,
    FeedbackGiven,
    ModelRetired,
    ConsentGiven,
    ConsentWithdrawn,
)
SENDS = ("runner.run", "runner.cancel", "selector.attach", "ledger.reserve", "ledger.quote", "cache.look", "cache.keep")
OBSERVES = (SelectorBeat,)
Fold = Knowledge

SWEEP, BEAT, DRAINED = "sweep", "beat", "drained"
DEAF_LOOK_MS = 250.0
VANISH_SWEEPS, FORGET_SWEEPS, CARRY_SWEEPS = 2, 50, 600


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out; `state` is changed in place and by nobody else."""
    match message:
        case Heard():
            return _heard(state, message)
        case Asked():
            return asked_for(state, message, settings)
        case Happened():
            return _happened(state, message)
        case Traced():
            return takeover.decided(state, message.made, message.at_ms)
        case Stored() | StoreFailed():
            return _stored(state, message)
        case Recalled():
            return _recalled(state, message)
        case Claimed():
            now = message.at_ms
            return repeats.claimed(state, message, lambda run: begin(state, run, now))
        case Woke():
            return _woke(state, message, settings)
        case Unheard():
            return _unheard(state, message)
        case Deaf():
            state.local.deaf(message.ms)
            state.siblings.deaf(message.ms)
            for run in state.runs.values():
                run.deaf(message.ms, message.cut)
            return []
        case Stopping():
            return _stopping(state, message)
        case Booted():
            state.where = Where(message.app, message.instance, message.inbox)
            state.siblings.mine, state.siblings.born_ms = message.instance, message.at_ms
            return []
        case CaughtUp():
            return [
                *takeover.former_life(state, message.at_ms),
                *_beat(state, message.at_ms, 0, settings),
                Wake(message.at_ms + settings.sweep_ms, SWEEP, 0),
            ]
        case _:
            return []


def fold_state(state: State) -> Knowledge:
    """The part of the state that is folded from the log."""
    return state.knowledge


def restore(state: State, knowledge: Knowledge) -> None:
    """Go on from an earlier fold."""
    state.knowledge, state.order = knowledge, Order()


# --- answers from runners, timers, the log -------------------------------------------------------------------------


def _heard(state: State, heard: Heard) -> list[Effect]:
    message = heard.message
    match message:
        case RunText() | RunStarted() | RunEnded() | RunFailed() | RunQueued():
            run = state.runs.get(message.run_id)
            if run is None:
                return [state.where.cancel(message)] if begins(message) else []
            return conducted(state, run, heard.at_ms, partial(run.hear, message, heard.at_ms))
        case Reserved() | ReserveRefused():
            run = state.runs.get(message.run_id)
            return conducted(state, run, heard.at_ms, partial(paying.hear, run, message, heard.at_ms)) if run else []
        case Quoted():
            return estimate.quoted(state, message)
        case CacheLooked():
            return _looked(state, message, heard.at_ms)
        case RunnerBeat():
            state.local.beat(message, heard.at_ms)
            return []
        case SelectorBeat():
            state.siblings.beat(message.instance, heard.at_ms)
            return []
        case ProcessGone(actor="selector"):
            return takeover.selector_gone(state, message.instance, message.at_ms, heard.at_ms)
        case ProcessGone():
            return _gone(state, message.instance, "gone", heard.at_ms)
        case _:
            return []


def _looked(state: State, said: CacheLooked, now: float) -> list[Effect]:
    run = state.runs.get(said.run_id)
    return [] if run is None else conducted(state, run, now, partial(keeping.looked, run, said, now))


def _gone(state: State, instance: str, reason: RunFailure, now: float) -> list[Effect]:
    """A runner died: its runs go on elsewhere at once, without waiting for their stall limit.

    So do those that nobody has taken yet who said so: it may have been this one.
    """
    out: list[Effect] = []
    models, providers = state.local.gone(instance)
    if providers:
        known = state.knowledge.models.items()
        models = list(dict.fromkeys((*models, *(m for m, v in known if v.declared.provider in providers))))
    hit = [r for r in state.runs.values() if r.runner == instance or (not r.runner and r.model in models)]
    for run in state.runs.values():  # first: a run whose first attempt dies too must not go on with a dead second
        if hedge.rests_on(run, instance, models):
            out += conducted(state, run, now, partial(hedge.lose, run, reason, now))
    for run in [r for r in hit if r.ending is None]:
        out += conducted(state, run, now, partial(run.fail, reason, now))
    for model in models:
        view = state.knowledge.models.get(model)
        if not state.local.serving(model, view.declared.provider if view is not None else ""):
            state.local.suspect(model, now)
    return out


def _stopping(state: State, stopping: Stopping) -> list[Effect]:
    """Nothing new is taken; what is in hand may end by itself for a while, then it ends honestly, and resumable."""
    if stopping.until_ms > stopping.at_ms:
        return [Wake(stopping.until_ms, DRAINED, 0)]
    return _interrupt(state, stopping.at_ms)


def _interrupt(state: State, now: float) -> list[Effect]:
    out: list[Effect] = []
    for run in list(state.runs.values()):
        out += conducted(state, run, now, partial(run.interrupt, now))
    return out


def in_hand(state: State) -> int:
    """Runs whose end has not been said."""
    return len(state.runs)


def _happened(state: State, happened: Happened) -> list[Effect]:
    event = happened.event
    state.knowledge.apply(happened.seq, event)
    state.order.happened(event)
    if isinstance(event, ProviderExhausted):
        views = state.knowledge.models
        state.local.forget_exhausted([m for m in state.local.exhausted if m not in views or views[m].exhausted])
    if isinstance(event, AttemptEnded) and event.exhausted_until_ms is not None:
        used_up(state, event.model, event.exhausted_until_ms, happened.at_ms)
    if not isinstance(event, RequestBrief | RequestEnded):
        return []
    if isinstance(event, RequestBrief) and not happened.payload:  # an old one: nobody waits for it any longer
        return []
    feedback.ended(state, event.run_id, happened.seq)
    state.fresh.pop(event.claim, None)
    state.siblings.ended(event, happened.payload, happened.at_ms)
    run = state.runs.get(event.run_id)
    if run is None:
        return takeover.read_back(state, event, happened.payload)
    if event.instance == state.where.instance:
        return []  # ours: the log's answer tells more, that the disk has it too
    _forget(state, run)
    return conducted(state, run, happened.at_ms, run.superseded)


def _woke(state: State, woke: Woke, settings: Settings) -> list[Effect]:
    if woke.key == SWEEP:
        return _sweep(state, woke, settings)
    if woke.key == BEAT:
        return _beat(state, woke.at_ms, woke.generation + 1, settings)
    if woke.key == DRAINED:
        return _interrupt(state, woke.at_ms)
    run = state.runs.get(woke.key)
    if run is None:
        return []
    if woke.at_ms < run.deadline_ms and state.siblings.hear_nobody(settings.beat_timeout_ms, woke.at_ms):
        return [
            Wake(min(woke.at_ms + DEAF_LOOK_MS, run.deadline_ms), woke.key, woke.generation)
        ]  # not the model's fault
    return conducted(state, run, woke.at_ms, partial(run.woke, woke.generation, woke.at_ms))


def _beat(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    beat = SelectorBeat(instance=state.where.instance, in_flight=len(state.runs))
    subject = f"{state.where.app}.obs.selector.beat.{state.where.instance}"
    return [Send(subject, beat), Wake(now + settings.beat_ms, BEAT, generation)]


def _sweep(state: State, woke: Woke, settings: Settings) -> list[Effect]:
    """Look after the dead: runners and selectors that went silent, callers that left while nothing was said."""
    now, limit = woke.at_ms, settings.beat_timeout_ms
    out: list[Effect] = [Wake(now + settings.sweep_ms, SWEEP, woke.generation + 1)]
    heard = state.siblings.now_as_heard(limit, now)
    if heard is not None:
        for instance in state.local.silent(heard, limit):
            out += _gone(state, instance, "silent", now)
    for instance in state.siblings.silent(limit, now):
        out += takeover.selector_gone(state, instance, now, now)
    out += estimate.sweep(state, now)
    if woke.generation % VANISH_SWEEPS == 0:
        out += [probe for run in state.runs.values() for probe in run.probes()]
    if woke.generation % FORGET_SWEEPS == 0:
        state.siblings.sweep(now)
    if woke.generation % CARRY_SWEEPS == 0:
        out += consent.carried(state, now)
    return out


def _unheard(state: State, unheard: Unheard) -> list[Effect]:
    """Nobody listens: on `run.<id>.<attempt>` the runner is not there, on `vanished.<id>` the caller is gone."""
    _, _, tail = unheard.subject.partition(state.where.inbox + ".")
    kind, *rest = tail.split(".")
    if rest[:1] == ["attach"]:
        return repeats.unheard(state, rest[1:], unheard.at_ms)
    if rest[2:] == ["quote"]:
        return estimate.unheard(state, rest[0])
    run = state.runs.get(rest[0]) if rest else None
    if run is None:
        return []
    if kind == "vanished":
        return conducted(state, run, unheard.at_ms, partial(run.vanished, int(rest[1]), unheard.at_ms))
    if rest[1:] == ["cache"]:
        return _looked(state, CacheLooked(run_id=run.run_id), unheard.at_ms)
    if kind == "run" and rest[1:] == [str(run.attempt)]:
        return conducted(state, run, unheard.at_ms, partial(run.fail, "no_responders", unheard.at_ms))
    if kind == "run" and run.hedge is not None and rest[1:] == [str(run.hedge.number)]:
        return conducted(state, run, unheard.at_ms, partial(hedge.lose, run, "no_responders", unheard.at_ms))
    return []


def _stored(state: State, answer: Stored | StoreFailed) -> list[Effect]:
    if isinstance(answer, StoreFailed) and answer.code == "log_full":
        state.log_full_until_ms = answer.at_ms + LOG_FULL_MS
    awaited = state.awaited.pop(answer.msg_id, None)
    if awaited is not None:
        return [Send(awaited.reply, answers.taken(answer, awaited.done))] if awaited.reply else []
    kind, _, run_id = answer.msg_id.partition(".")
    run = state.runs.get(run_id) if kind == "end" else None
    if run is None:
        return takeover.stored(state, run_id, answer) if kind == "end" else []
    if isinstance(answer, StoreFailed) or not answer.duplicate:
        _forget(state, run)
        if isinstance(answer, Stored):
            ended(state, run.mark.key, Ended(answer.seq, run_id, run.mark.body, int(answer.at_ms)))
    return run.stored(answer) + keeping.keep(run, answer)


def _recalled(state: State, answer: Recalled) -> list[Effect]:
    kind, _, rest = answer.key.partition(".")
    if kind in ("taken", "doubted"):
        return takeover.recalled(state, answer)
    if kind == "rating":
        return feedback.recalled(state, rest, answer)
    if kind == "repeat":
        return repeats.recalled(state, rest, answer)
    run = state.runs.get(rest)
    if run is None:
        return []
    _forget(state, run)
    return run.recalled(answer)


def _forget(state: State, run: Conduct) -> None:
    del state.runs[run.run_id]
    if state.claims.get(run.mark.key) == run.run_id:
        del state.claims[run.mark.key]
