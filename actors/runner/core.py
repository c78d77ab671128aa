"""Run attempts at the models of one process: admit or say busy at once, relay text, report one end each. Pure."""

from __future__ import annotations

from collections import Counter

import msgspec
from msgspec.structs import replace

from understudy.actors.runner import lists_said as lists
from understudy.actors.runner import outward, queue
from understudy.actors.runner import pulls_said as pulls
from understudy.actors.runner import records_said as records
from understudy.actors.runner.admission import Admission
from understudy.actors.runner.quotas import FREE
from understudy.actors.runner.state import (
    JUDGE,
    Call,
    Settings,
    State,
    failure,
    forget,
    forgotten,
    guess_tokens,
    id_of,
)
from understudy.messages.base import Ask, Message
from understudy.messages.consent import ConsentGiven, ConsentWithdrawn
from understudy.messages.events import Event, ModelLoaded, ModelUnloaded
from understudy.messages.generate import FinishReason, Usage
from understudy.messages.keys import KeyRefused
from understudy.messages.listing import ListOrder
from understudy.messages.privacy import Outbound
from understudy.messages.pulls import PullOrder, PullOver, PullSaid
from understudy.messages.records import RecordFetched, RecordOrder
from understudy.messages.run import (
    CancelRun,
    ModelLoad,
    RunEnded,
    RunFailure,
    RunModel,
    RunnerBeat,
    RunStarted,
    RunText,
)
from understudy.messages.slugs import slug
from understudy.messages.step import (
    Asked,
    Booted,
    CallBegun,
    CallEnded,
    CallFailed,
    CallSent,
    CallText,
    CancelCall,
    Consult,
    Consulted,
    EdgeReady,
    Effect,
    Fetched,
    FetchFailed,
    Happened,
    Heard,
    Input,
    Screened,
    Send,
    Stopping,
    Store,
    Unheard,
    Wake,
    Woke,
)

ASKS: dict[str, type[Ask | Message]] = {
    "runner.run.{provider}.{model}": RunModel,
    "runner.cancel.{instance}": CancelRun,
    "runner.list.{provider}": ListOrder,
    "runner.record.{provider}": RecordOrder,
    "runner.pull.{provider}": PullOrder,
}
HEARS: tuple[type[Message], ...] = ()
FOLDS: tuple[type[Event], ...] = ()
EMITS = (ModelLoaded, ModelUnloaded, KeyRefused)
CONSULTS = (ConsentGiven, ConsentWithdrawn)
SENDS = ("safety.judge", "catalogue.refresh")
OBSERVES = (RunnerBeat,)

__all__ = ["ASKS", "CONSULTS", "EMITS", "FOLDS", "HEARS", "OBSERVES", "SENDS", "Settings", "State", "in_hand", "step"]

BEAT = "beat"
UNHEARD_MS, FORGET_UNHEARD_MS = 1_000.0, 10_000.0
PROBE_BEATS = 4


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out."""
    match message:
        case CallText():
            return _text(state, message)
        case Asked(message=RunModel()):
            return queue.admit(state, message)
        case Asked(message=CancelRun() as cancel):
            return _cancel(state, id_of(cancel.run_id, cancel.attempt), message.at_ms, settings)
        case Asked(message=ListOrder() as order, reply=reply):
            return lists.ordered(state.lists, order, reply)
        case Fetched() | FetchFailed():
            return lists.answered(state.lists, message)
        case Asked(message=RecordOrder() as order, reply=reply):
            return records.ordered(state.records, order, reply)
        case RecordFetched():
            return records.answered(state.records, message)
        case Asked(message=PullOrder()) | PullSaid() | PullOver():
            return pulls.step(state, message, settings)
        case Unheard(subject=subject) if pulls.MARK in subject:
            return pulls.step(state, message, settings)
        case CallBegun():
            return _begun(state, message)
        case CallEnded():
            return _ended(state, message)
        case CallFailed():
            return _failed(state, message, settings)
        case Consulted() | Screened() | CallSent() | Heard():
            return _then(state, outward.answered(state, message, settings), message.at_ms)
        case Happened():
            return _then(state, outward.happened(state, message, settings), message.at_ms)
        case Woke(key=key) if key.startswith(JUDGE):
            return _then(state, outward.answered(state, message, settings), message.at_ms)
        case Unheard(subject=subject) if outward.JUDGES in subject:
            return _then(state, outward.answered(state, message, settings), message.at_ms)
        case Woke(key=key) if key == BEAT:
            return _beat(state, message.at_ms, message.generation, settings)
        case Unheard():
            return _unheard(state, message)
        case Woke(key=key) if key == queue.TURN:
            return queue.look(state, message.at_ms)
        case Woke():
            return _woke(state, message, settings)
        case Booted():
            state.app, state.instance, state.inbox = message.app, message.instance, message.inbox
            queue_bound = settings.queue, settings.queue_bytes
            state.admission = Admission(
                settings.models, settings.limits, settings.lanes, *queue_bound, settings.others_slots
            )
            state.gate = settings.gate
            return []
        case EdgeReady():
            return _ready(state, message, settings)
        case Stopping():
            return _stop(state, message.at_ms, settings)
        case _:
            return []


def _cancel(state: State, call_id: str, now: float, settings: Settings) -> list[Effect]:
    """Where it waits, or at the gate, the edge has nothing of it yet."""
    if call_id in state.waiting:
        return queue.leave(state, call_id, now)
    call = state.calls.get(call_id)
    if call is None or not call.at_gate:
        return [] if call is None else [CancelCall(call_id)]
    said = failure(call.reply, call.run, "cancelled", outbound=outward.said_of(call, settings))
    return _then(state, [said, *forgotten(state, call_id)], now)


def _text(state: State, text: CallText) -> list[Effect]:
    """Text leaves at once, but for the beginning of what nobody reads along: that waits for a short while's end."""
    call = state.calls.get(text.call_id)
    if call is None:
        return []
    call.tokens += text.tokens
    held, out = call.held, list[Effect]()
    if held is not None and (text.kind, text.call) != (held.kind, held.call):
        out, held = _say(state, text.call_id, call, text.at_ms), None
    call.held = text if held is None else _joined(held, text)
    return out + _say(state, text.call_id, call, text.at_ms) if call.run.live or call.told else out


def _begun(state: State, begun: CallBegun) -> list[Effect]:
    """Told at once: whatever becomes of the call, its cost can be looked up later."""
    call = state.calls.get(begun.call_id)
    if call is None:
        return []
    run, named = call.run, begun.generation
    said = RunStarted(run_id=run.run_id, attempt=run.attempt, instance=state.instance, generation=named)
    return [Send(call.reply, said)]


def _say(state: State, call_id: str, call: Call, now: float) -> list[Effect]:
    """What is held."""
    if call.held is None:
        return []
    run, held, n = call.run, call.held, call.pieces
    call.told, call.held, call.pieces = True, None, n + 1
    piece = RunText(
        run_id=run.run_id,
        attempt=run.attempt,
        instance=state.instance,
        n=n,
        text=held.text,
        kind=held.kind,
        call=held.call,
        tokens=held.tokens,
        exact=held.exact,
        held_ms=_age_ms(held, now),
    )
    return [Send(call.reply, piece, reply=f"{state.inbox}.vanished.{call_id}")]


def _joined(held: CallText, more: CallText) -> CallText:
    both, tokens, exact = held.text + more.text, held.tokens + more.tokens, held.exact and more.exact
    return CallText(held.at_ms, held.call_id, both, tokens, exact, held.kind, held.call)


def _age_ms(held: CallText, now: float) -> float:
    """How long its beginning has waited."""
    return round(max(0.0, now - held.at_ms), 3)


def _unheard(state: State, unheard: Unheard) -> list[Effect]:
    """The selector is not there. One that only lost its connection is back soon, so it takes a while to be sure."""
    call_id = unheard.subject.partition(".vanished.")[2]
    call = state.calls.get(call_id) or state.waiting.get(call_id)
    if call is None:
        return []
    since = unheard.at_ms - call.unheard_ms
    if since > FORGET_UNHEARD_MS:
        call.unheard_ms = unheard.at_ms
        return []
    if since < UNHEARD_MS:
        return []
    if call_id in state.waiting:
        return _then(state, queue.unheard(state, call_id), unheard.at_ms)
    forget(state, call_id, unheard.at_ms)
    end = failure(call.reply, call.run, "text_lost", outbound=call.outbound)
    return _then(state, [CancelCall(call_id), Wake(0, call_id, 0), Wake(0, JUDGE + call_id, 0), end], unheard.at_ms)


def _ended(state: State, ended: CallEnded) -> list[Effect]:
    if state.refused:
        state.refused.discard(ended.key_id or "")
    call = state.calls.get(ended.call_id)
    if call is None:
        return []
    aside = call.held is not None and call.held.kind != "text"
    out = _say(state, ended.call_id, call, ended.at_ms) if aside else []
    run, held = call.run, call.held or CallText(ended.at_ms, ended.call_id, "", 0, exact=True)
    usage = Usage(
        prompt_tokens=guess_tokens(run) if ended.prompt_tokens is None else ended.prompt_tokens,
        completion_tokens=call.tokens if ended.completion_tokens is None else ended.completion_tokens,
        estimated=ended.completion_tokens is None or ended.prompt_tokens is None,
        cached_tokens=ended.cached_tokens or 0,
        reasoning_tokens=ended.reasoning_tokens or 0,
        cost_usd=ended.cost_usd,
    )
    end = RunEnded(
        run_id=run.run_id,
        attempt=run.attempt,
        pieces=call.pieces,
        finish_reason=_finish_reason(ended.finish_reason),
        usage=usage,
        tool_calls=ended.tool_calls,
        vectors=ended.vectors,
        text=held.text,
        tokens=held.tokens,
        exact=held.exact,
        held_ms=_age_ms(held, ended.at_ms),
        served_by=ended.served_by,
        key_id=ended.key_id,
        upstream=ended.upstream,
        outbound=call.outbound,
    )
    forget(state, ended.call_id, ended.at_ms, usage.prompt_tokens + usage.completion_tokens)
    return _then(state, [*out, Send(call.reply, end), Wake(0, ended.call_id, 0)], ended.at_ms)


def _finish_reason(word: str) -> FinishReason:
    match word:
        case "length" | "tool_calls":
            return word
        case "refusal" | "content_filter":
            return "refusal"
        case _:
            return "stop"


def _failed(state: State, failed: CallFailed, settings: Settings) -> list[Effect]:
    call = forget(state, failed.call_id, failed.at_ms)
    if call is None:
        return []
    reason, outbound = msgspec.convert(failed.reason, RunFailure), call.outbound
    if reason == "blocked":  # the edge let nothing out
        outbound = Outbound(provider=settings.provider, blocked="gate_error")
    elif call.withdrawn is not None and outbound is not None:  # nor did it come to that
        reason, outbound = "blocked", replace(outbound, blocked=call.withdrawn)
    out = [
        *_say(state, failed.call_id, call, failed.at_ms),
        failure(call.reply, call.run, reason, failed, outbound=outbound),
        Wake(0, failed.call_id, 0),
        *_key_refused(state, call.run.model, failed, settings),
    ]
    if reason in ("rate_limited", "server_error") and failed.retry_after_ms:  # of a 429, or a 503
        out += queue.close(state, "" if failed.account else call.run.model, failed.retry_after_ms, failed.at_ms)
    if failed.exhausted_until_ms is not None:  # whoever else draws on that quota must not try it
        out += queue.release(state, [i for i, one in state.waiting.items() if _is_free(one) == _is_free(call)])
    return _then(state, out, failed.at_ms)


def _is_free(call: Call) -> bool:
    """Does it draw on the quota of an account's free models?"""
    return (call.run.name or call.run.model).endswith(FREE)


def _then(state: State, out: list[Effect], now: float) -> list[Effect]:
    """A call is over: somebody may wait for its room."""
    return out + queue.look(state, now) if state.waiting else out


def _key_refused(state: State, model: str, failed: CallFailed, settings: Settings) -> list[Effect]:
    """Told once, until the provider takes the key again. (A call that was never sent has no status.)"""
    key_id = failed.key_id
    if failed.reason != "auth" or failed.status is None or key_id is None or key_id in state.refused:
        return []
    state.refused.add(key_id)
    now = int(failed.at_ms)
    event = KeyRefused(at_ms=now, provider=settings.provider, key_id=key_id, model=model, status=failed.status)
    return [Store(event, f"key.refused.{key_id}.{state.instance}.{now}", key=slug(settings.provider))]


def _woke(state: State, woke: Woke, settings: Settings) -> list[Effect]:
    """The first short while is over. Or the deadline has passed: then the selector has turned away already."""
    if woke.key in state.waiting:
        return queue.leave(state, woke.key, woke.at_ms, late=True)
    call = state.calls.get(woke.key)
    if call is None:
        return []
    if woke.at_ms >= call.until_ms:
        end = failure(call.reply, call.run, "deadline", outbound=outward.said_of(call, settings))
        if call.at_gate:
            return _then(state, [end, *forgotten(state, woke.key)], woke.at_ms)
        forget(state, woke.key, woke.at_ms)
        return _then(state, [CancelCall(woke.key), end], woke.at_ms)
    out = _say(state, woke.key, call, woke.at_ms)
    if not call.told:
        run, call.told = call.run, True
        out.append(Send(call.reply, RunStarted(run_id=run.run_id, attempt=run.attempt, instance=state.instance)))
    return [*out, Wake(call.until_ms, woke.key, 0)]


def _beat(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    busy, wait = state.admission.busy, Counter(call.run.model for call in state.waiting.values())
    models = {m: ModelLoad(slots=n, in_flight=busy[m], waiting=wait[m]) for m, n in settings.models.items()}
    for m in {*busy, *wait} - models.keys():
        models[m] = ModelLoad(slots=settings.others_slots, in_flight=busy.get(m, 0), waiting=wait[m])
    beat = RunnerBeat(
        instance=state.instance,
        models=models,
        accepting=state.accepting,
        provider=settings.provider,
        others_slots=settings.others_slots,
    )
    wake = Wake(now + settings.beat_ms, BEAT, generation + 1)
    ask = queue.probes(state) if state.waiting and generation % PROBE_BEATS == 0 else []
    return [wake, Send(f"{state.app}.obs.runner.beat.{state.instance}", beat), *ask, *pulls.remind(state, now)]


def _ready(state: State, ready: EdgeReady, settings: Settings) -> list[Effect]:
    state.accepting = True
    out: list[Effect] = [] if settings.gate is None else [Consult("")]  # so that the first request need not
    for model in settings.models:
        facts = ready.facts.get(model, {})
        loaded = ModelLoaded(
            at_ms=int(ready.at_ms),
            model=model,
            instance=state.instance,
            engine=str(ready.facts.get("engine", "http")),
            facts=facts,
        )
        out.append(Store(loaded, f"loaded.{slug(model)}.{state.instance}.{int(ready.at_ms)}", key=slug(model)))
    return out + _beat(state, ready.at_ms, 0, settings)


def _stop(state: State, now: float, settings: Settings) -> list[Effect]:
    if not state.accepting:  # never ready, or told twice
        return []
    state.accepting = False
    out = queue.release(state, list(state.waiting)) + pulls.stop(state) + _beat(state, now, 0, settings)
    for model in settings.models:
        unloaded = ModelUnloaded(at_ms=int(now), model=model, instance=state.instance)
        out.append(Store(unloaded, f"unloaded.{slug(model)}.{state.instance}.{int(now)}", key=slug(model)))
    return out


def in_hand(state: State) -> int:
    """Calls that a stopping process should still end."""
    return len(state.calls)
