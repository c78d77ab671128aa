"""Run attempts at the models of one process: admit or say busy at once, relay text, report one end each. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from understudy.messages.base import Ask, Message
from understudy.messages.events import Event, ModelLoaded, ModelUnloaded
from understudy.messages.generate import FinishReason, Usage
from understudy.messages.keys import KeyRefused
from understudy.messages.run import (
    CancelRun,
    ModelLoad,
    RunEnded,
    RunFailed,
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
    CallEnded,
    CallFailed,
    CallModel,
    CallText,
    CancelCall,
    EdgeReady,
    Effect,
    Input,
    Send,
    Stopping,
    Store,
    Unheard,
    Wake,
    Woke,
)

ASKS: dict[str, type[Ask | Message]] = {"runner.run.{model}": RunModel, "runner.cancel.{instance}": CancelRun}
HEARS: tuple[type[Message], ...] = ()
FOLDS: tuple[type[Event], ...] = ()
EMITS = (ModelLoaded, ModelUnloaded, KeyRefused)
SENDS: tuple[str, ...] = ()
OBSERVES = (RunnerBeat,)

BEAT = "beat"
HOLD_MS = 20.0
"""So long after an order it is said at the latest that it has been taken: by the first text, if there is some."""
UNHEARD_MS, FORGET_UNHEARD_MS = 1_000.0, 10_000.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`models`: slots per model of this process; `provider`: its name (set by the supervisor from the topology)."""

    beat_ms: int = 250
    models: dict[str, int] = {}
    provider: str = ""


@dataclass(slots=True)
class Call:
    """One attempt under way."""

    run: RunModel
    reply: str
    until_ms: float
    pieces: int = 0
    tokens: int = 0
    told: bool = False  # whether the selector knows which instance has it
    held: CallText | None = None  # what has come and was not passed on yet, with the time of its beginning
    unheard_ms: float = 0.0  # since when nobody hears it


@dataclass(slots=True)
class State:
    """The calls in hand and who we are."""

    app: str = ""
    instance: str = ""
    inbox: str = ""
    accepting: bool = False
    calls: dict[str, Call] = field(default_factory=dict[str, Call])
    busy: dict[str, int] = field(default_factory=dict[str, int])
    refused: set[str] = field(default_factory=set[str])  # ids of keys that the provider does not take


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out."""
    match message:
        case CallText():
            return _text(state, message)
        case Asked(message=RunModel()):
            return _admit(state, message, settings)
        case Asked(message=CancelRun() as cancel):
            call_id = _call_id(cancel.run_id, cancel.attempt)
            return [CancelCall(call_id)] if call_id in state.calls else []
        case CallEnded():
            return _ended(state, message)
        case CallFailed():
            return _failed(state, message, settings)
        case Woke(key=key) if key == BEAT:
            return _beat(state, message.at_ms, message.generation, settings)
        case Unheard():
            return _unheard(state, message)
        case Woke():
            return _woke(state, message)
        case Booted():
            state.app, state.instance, state.inbox = message.app, message.instance, message.inbox
            return []
        case EdgeReady():
            return _ready(state, message, settings)
        case Stopping():
            return _stop(state, message.at_ms, settings)
        case _:
            return []


def _call_id(run_id: str, attempt: int) -> str:
    return f"{run_id}.{attempt}"


def _admit(state: State, asked: Asked, settings: Settings) -> list[Effect]:
    run = asked.message
    assert isinstance(run, RunModel)
    call_id = _call_id(run.run_id, run.attempt)
    if not asked.reply or call_id in state.calls:
        return []
    if run.remaining_ms <= 0:
        return [_failure(asked.reply, run, "deadline")]
    out: list[Effect] = []
    if _free(state, run.model, settings) <= 0 and not run.probe:
        out = _make_room(state, run.model)
    if not state.accepting or _free(state, run.model, settings) <= 0:
        return [*out, _failure(asked.reply, run, "busy")]
    until = asked.at_ms + run.remaining_ms
    state.calls[call_id] = Call(run, asked.reply, until)
    state.busy[run.model] = state.busy.get(run.model, 0) + 1
    return [*out, CallModel(call_id, run), Wake(min(until, asked.at_ms + HOLD_MS), call_id, 0)]


def _free(state: State, model: str, settings: Settings) -> int:
    return settings.models.get(model, 0) - state.busy.get(model, 0)


def _make_room(state: State, model: str) -> list[Effect]:
    """A probe gives its slot up to a request; it is asked again later."""
    probe = next((i for i, c in state.calls.items() if c.run.probe and c.run.model == model), None)
    call = _forget(state, probe) if probe is not None else None
    if probe is None or call is None:
        return []
    return [CancelCall(probe), Wake(0, probe, 0), _failure(call.reply, call.run, "busy")]


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
    call = state.calls.get(call_id)
    if call is None:
        return []
    since = unheard.at_ms - call.unheard_ms
    if since > FORGET_UNHEARD_MS:
        call.unheard_ms = unheard.at_ms
        return []
    if since < UNHEARD_MS:
        return []
    _forget(state, call_id)
    return [CancelCall(call_id), Wake(0, call_id, 0), _failure(call.reply, call.run, "text_lost")]


def _ended(state: State, ended: CallEnded) -> list[Effect]:
    if state.refused:
        state.refused.discard(ended.key_id or "")
    call = _forget(state, ended.call_id)
    if call is None:
        return []
    aside = call.held is not None and call.held.kind != "text"
    out = _say(state, ended.call_id, call, ended.at_ms) if aside else []
    run, held = call.run, call.held or CallText(ended.at_ms, ended.call_id, "", 0, exact=True)
    usage = Usage(
        prompt_tokens=_guess_tokens(run) if ended.prompt_tokens is None else ended.prompt_tokens,
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
    )
    return [*out, Send(call.reply, end), Wake(0, ended.call_id, 0)]


def _finish_reason(word: str) -> FinishReason:
    match word:
        case "length" | "tool_calls":
            return word
        case "refusal" | "content_filter":
            return "refusal"
        case _:
            return "stop"


def _guess_tokens(run: RunModel) -> int:
    chars = sum(len(turn.content) for turn in run.messages) + sum(map(len, run.input)) + len(run.prefill)
    calls = [turn.tool_calls for turn in run.messages if turn.tool_calls]
    if run.tools or run.format or calls:
        chars += len(msgspec.json.encode((run.tools, run.format, calls)))
    return chars // 4 + 1


def _failed(state: State, failed: CallFailed, settings: Settings) -> list[Effect]:
    call = _forget(state, failed.call_id)
    if call is None:
        return []
    reason = msgspec.convert(failed.reason, RunFailure)
    return [
        *_say(state, failed.call_id, call, failed.at_ms),
        _failure(call.reply, call.run, reason, failed),
        Wake(0, failed.call_id, 0),
        *_key_refused(state, call.run.model, failed, settings),
    ]


def _key_refused(state: State, model: str, failed: CallFailed, settings: Settings) -> list[Effect]:
    """Told once, until the provider takes the key again. (A call that was never sent has no status.)"""
    key_id = failed.key_id
    if failed.reason != "auth" or failed.status is None or key_id is None or key_id in state.refused:
        return []
    state.refused.add(key_id)
    now = int(failed.at_ms)
    event = KeyRefused(at_ms=now, provider=settings.provider, key_id=key_id, model=model, status=failed.status)
    return [Store(event, f"key.refused.{key_id}.{state.instance}.{now}", key=slug(model))]


def _failure(reply: str, run: RunModel, reason: RunFailure, failed: CallFailed | None = None) -> Send:
    """The attempt's end, with what its call says of it."""
    said = RunFailed(run_id=run.run_id, attempt=run.attempt, reason=reason)
    if failed is not None:
        said = replace(
            said,
            status=failed.status,
            retry_after_ms=failed.retry_after_ms,
            key_id=failed.key_id,
            exhausted_until_ms=failed.exhausted_until_ms,
        )
    return Send(reply, said)


def _forget(state: State, call_id: str) -> Call | None:
    call = state.calls.pop(call_id, None)
    if call is not None:
        state.busy[call.run.model] = max(0, state.busy.get(call.run.model, 0) - 1)
    return call


def _woke(state: State, woke: Woke) -> list[Effect]:
    """The first short while is over. Or the deadline has passed: then the selector has turned away already."""
    call = state.calls.get(woke.key)
    if call is None:
        return []
    if woke.at_ms >= call.until_ms:
        _forget(state, woke.key)
        return [CancelCall(woke.key), _failure(call.reply, call.run, "deadline")]
    out = _say(state, woke.key, call, woke.at_ms)
    if not call.told:
        run, call.told = call.run, True
        out.append(Send(call.reply, RunStarted(run_id=run.run_id, attempt=run.attempt, instance=state.instance)))
    return [*out, Wake(call.until_ms, woke.key, 0)]


def _beat(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    models = {m: ModelLoad(slots=slots, in_flight=state.busy.get(m, 0)) for m, slots in settings.models.items()}
    beat = RunnerBeat(instance=state.instance, models=models, accepting=state.accepting)
    wake = Wake(now + settings.beat_ms, BEAT, generation + 1)
    return [wake, Send(f"{state.app}.obs.runner.beat.{state.instance}", beat)]


def _ready(state: State, ready: EdgeReady, settings: Settings) -> list[Effect]:
    state.accepting = True
    out: list[Effect] = []
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
    out = _beat(state, now, 0, settings)
    for model in settings.models:
        unloaded = ModelUnloaded(at_ms=int(now), model=model, instance=state.instance)
        out.append(Store(unloaded, f"unloaded.{slug(model)}.{state.instance}.{int(now)}", key=slug(model)))
    return out


def in_hand(state: State) -> int:
    """Calls that a stopping process should still end."""
    return len(state.calls)
