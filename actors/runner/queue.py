"""Orders that come, wait, start and leave: what admission decides, as effects. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from understudy.actors.runner import outward
from understudy.actors.runner.state import Call, State, failure, forget, guess_tokens, id_of
from understudy.messages.run import RunModel, RunQueued, RunStarted
from understudy.messages.step import Asked, CallModel, CancelCall, Effect, Probe, Send, Wake
from understudy.messages.wire import encode

HOLD_MS = 20.0
"""So long after an order it is said at the latest that it has been taken: by the first text, if there is some."""
TURN = "turn"
MOST_CLOSED_MS = 600_000.0
"""A provider may say how long it wants to be left alone; so long at most it is believed."""


def admit(state: State, asked: Asked) -> list[Effect]:
    """Start it, let it wait where it may, or say at once that there is no room."""
    run, now = asked.message, asked.at_ms
    assert isinstance(run, RunModel)
    call_id, admission = id_of(run.run_id, run.attempt), state.admission
    if not asked.reply or call_id in state.calls or call_id in state.waiting:
        return []
    if run.remaining_ms <= 0:
        return [failure(asked.reply, run, "deadline")]
    if not state.accepting or not admission.serves(run.model):
        return [failure(asked.reply, run, "busy")]
    call = Call(run, asked.reply, now + run.remaining_ms, now)
    tokens = _reserve(run) if admission.counts_tokens else 0
    if admission.start(call_id, run.model, run.priority, tokens, now, run.probe):
        return _begin(state, call_id, call, now)
    if run.probe:
        return [failure(asked.reply, run, "busy")]
    out = _make_room(state, run.model, now)
    if out and admission.start(call_id, run.model, run.priority, tokens, now):
        return out + _begin(state, call_id, call, now)
    if not run.may_wait and not admission.tickets:
        return [*out, failure(asked.reply, run, "busy")]
    state.waiting[call_id] = call
    size = len(encode(run)) if run.may_wait else 0
    admission.wait(call_id, run.model, run.priority, run.user or run.conversation, tokens, now, size)
    out += look(state, now)
    return out + _stay(state, call_id, call, now) if call_id in state.waiting else out


def _stay(state: State, call_id: str, call: Call, now: float) -> list[Effect]:
    """Its turn has not come at once."""
    run, admission = call.run, state.admission
    out = _crowd_out(state, call_id, now) if run.may_wait else []
    if run.may_wait and admission.stays(call_id):
        call.queued = True
        queued = RunQueued(run_id=run.run_id, attempt=run.attempt, instance=state.instance)
        return [*out, Send(call.reply, queued), Wake(call.until_ms, call_id, 0)]
    _drop(state, call_id)
    if run.may_wait:
        end = _no_room(state, call, now)
    else:
        end = failure(call.reply, run, "busy", waiting=len(admission.tickets))
    return [*out, end, *look(state, now)]  # while it stood there, its turn may have kept others from theirs


def _crowd_out(state: State, call_id: str, now: float) -> list[Effect]:
    """The queue is full, and a critical one has come."""
    out: list[Effect] = []
    for other in state.admission.crowded_out(call_id):
        call = state.waiting[other]
        _drop(state, other)
        out += [_no_room(state, call, now), Wake(0, other, 0)]
    return out


def _no_room(state: State, call: Call, now: float) -> Effect:
    return failure(call.reply, call.run, "no_room", retry_after_ms=state.admission.patience_ms(call.run.model, now))


def look(state: State, now: float) -> list[Effect]:
    """Whose turn has come begins."""
    out: list[Effect] = []
    while (ticket := state.admission.next(now)) is not None:
        call_id, call = ticket.call_id, state.waiting.pop(ticket.call_id)
        if call.until_ms > now:
            out += _begin(state, call_id, call, now)
        else:  # this process was held up, so its timer has not come yet: nobody waits for the answer
            state.admission.end(call_id, call.run.model, call.run.priority, None, 0, probe=False)
            out += [failure(call.reply, call.run, "deadline"), Wake(0, call_id, 0)]
    at_ms = state.admission.look_ms(now)
    return out if at_ms is None else [*out, Wake(at_ms, TURN, 0)]


def _begin(state: State, call_id: str, call: Call, now: float) -> list[Effect]:
    state.calls[call_id], call.begun_ms = call, now
    if call.queued:
        call.run = replace(call.run, remaining_ms=max(0.0, call.until_ms - now))
    run = call.run
    first = outward.begun(call_id, call, state.gate) or CallModel(call_id, run)
    if not call.queued:
        return [first, Wake(min(call.until_ms, now + HOLD_MS), call_id, 0)]
    call.told = True
    started = RunStarted(run_id=run.run_id, attempt=run.attempt, instance=state.instance)
    return [
        first,
        Send(call.reply, started, reply=f"{state.inbox}.vanished.{call_id}"),
        Wake(call.until_ms, call_id, 0),
    ]


def leave(state: State, call_id: str, now: float, *, late: bool = False) -> list[Effect]:
    """One that waits is cancelled, or too late."""
    call = state.waiting[call_id]
    _drop(state, call_id)
    end = failure(call.reply, call.run, "deadline" if late else "cancelled")
    return [end, Wake(0, call_id, 0), *look(state, now)]


def release(state: State, call_ids: list[str]) -> list[Effect]:
    """These must not wait here any longer: perhaps another model has room."""
    out: list[Effect] = []
    for call_id in call_ids:
        call = state.waiting[call_id]
        _drop(state, call_id)
        out += [failure(call.reply, call.run, "busy"), Wake(0, call_id, 0)]
    return out


def close(state: State, model: str, wait_ms: float, now: float) -> list[Effect]:
    """The provider asked for patience: nothing new for this model ('': for all of them), and nobody waits for it."""
    return release(state, state.admission.close(model, now + min(wait_ms, MOST_CLOSED_MS)))


def unheard(state: State, call_id: str) -> list[Effect]:
    """Nobody listens where this one waits to be told: nor for the others of the same selector."""
    home = _home(state.waiting[call_id])
    return release(state, [other for other, call in state.waiting.items() if _home(call) == home])


def probes(state: State) -> list[Effect]:
    """Is somebody still there? One question for all that wait for the same selector."""
    first: dict[str, tuple[str, Call]] = {}
    for call_id, call in state.waiting.items():
        first.setdefault(_home(call), (call_id, call))
    return [Probe(call.reply, f"{state.inbox}.vanished.{call_id}") for call_id, call in first.values()]


def _home(call: Call) -> str:
    """A selector's inbox: all but run and attempt."""
    return call.reply.rsplit(".", 2)[0]


def _drop(state: State, call_id: str) -> None:
    del state.waiting[call_id]
    state.admission.leave(call_id)


def _make_room(state: State, model: str, now: float) -> list[Effect]:
    """A probe gives its slot up to a request; it is asked again later."""
    for call_id, call in state.calls.items():
        if call.run.probe and (call.run.model == model or state.admission.shared):
            forget(state, call_id, now)
            return [CancelCall(call_id), Wake(0, call_id, 0), failure(call.reply, call.run, "busy")]
    return []


def _reserve(run: RunModel) -> int:
    return guess_tokens(run) + (0 if run.input else run.parameters.max_tokens)
