"""An order on its way through the gate: what is asked of whom, and what becomes of the answers. Pure.

    begun ── Consult ──> consent, policy ── safety.judge ──> consent, policy, crisis ── Screen ──> secrets, pii
          ── Consult ──> consent, policy ──> call

Between two answers consent may be withdrawn, so it is looked at anew each time; judging and reading take a while, so
the log is read once more before the call. One that is under way ends with its consent.
"""

from __future__ import annotations

from msgspec.structs import replace

from understudy.actors.runner.gate import BEFORE, JUDGED, Case, Level, leaves, walk
from understudy.actors.runner.state import JUDGE, Call, Settings, State, failure, forgotten
from understudy.messages.gate_plan import GatePlan
from understudy.messages.generate import Turn
from understudy.messages.privacy import BlockReason, Outbound
from understudy.messages.safety import Judge, Judged
from understudy.messages.step import (
    CallModel,
    CallSent,
    CancelCall,
    Consult,
    Consulted,
    Effect,
    Happened,
    Heard,
    Screen,
    Screened,
    Send,
    Unheard,
    Wake,
    Woke,
)

JUDGES = f".run.{JUDGE}"
"""In the subjects where their answers come."""

LAST = "last."
"""How the key of the last look at the log begins; the call's id follows."""

Answer = Consulted | Screened | CallSent | Heard | Unheard | Woke


def begun(call_id: str, call: Call, plan: GatePlan | None) -> Effect | None:
    """The first question about a call that would leave this machine; None for all others."""
    if plan is None or not leaves(plan, call.run):
        return None
    call.at_gate = "consult"
    return Consult(call_id)


def answered(state: State, answer: Answer, settings: Settings) -> list[Effect]:
    """The next question, the call, or the end of it."""
    call_id = _call_of(answer)
    call, plan = state.calls.get(call_id), settings.gate
    if call is None or plan is None:
        return []
    match call.at_gate, answer:
        case "", CallSent():
            if call.outbound is not None:
                call.outbound = replace(call.outbound, bytes=answer.bytes)
            return [] if call.withdrawn is None else _block(state, call_id, call, call.withdrawn, plan)
        case "consult", Consulted(key=key) if key == call_id:
            if not answer.ok:
                return _block(state, call_id, call, "gate_error", plan)
            reason = walk(Case(call.run, plan=plan, consents=state.consents), BEFORE)
            return _block(state, call_id, call, reason, plan) if reason else _judge(state, call_id, call, answer, plan)
        case "judge", Heard() | Unheard() | Woke():
            return _judged(state, call_id, call, _level(answer), plan)
        case "screen", Screened():
            return _screened(state, call_id, call, answer, plan)
        case "last", Consulted(key=key) if key != call_id:
            return _last(state, call_id, call, answer, plan)
        case _:
            return []


def happened(state: State, happened: Happened, settings: Settings) -> list[Effect]:
    """A consent was given or withdrawn: calls that rest on one that is gone end at once."""
    state.consents.apply(happened.seq, happened.event)
    out, plan = list[Effect](), settings.gate
    if plan is None:
        return out
    for call_id, call in list(state.calls.items()):
        if not leaves(plan, call.run) or call.at_gate == "consult":
            continue
        reason = walk(Case(call.run, plan=plan, consents=state.consents), BEFORE)
        if reason is None or call.withdrawn is not None:
            continue
        if not call.at_gate:
            out.append(CancelCall(call_id))
        if call.outbound is not None and not call.outbound.bytes:  # how much is out is about to be said
            call.withdrawn = reason
        else:
            out += _block(state, call_id, call, reason, plan)
    return out


def _call_of(answer: Answer) -> str:
    match answer:
        case Consulted(key=key):
            return key.removeprefix(LAST)
        case Screened(call_id=call_id) | CallSent(call_id=call_id):
            return call_id
        case Woke(key=key):
            return key.removeprefix(JUDGE)
        case Heard(subject=subject) | Unheard(subject=subject):
            return subject.partition(JUDGES)[2]


def _judge(state: State, call_id: str, call: Call, answer: Consulted, plan: GatePlan) -> list[Effect]:
    """Ask how things stand with whoever wrote it; our own words need no judge."""
    run = call.run
    if run.probe:
        return _judged(state, call_id, call, "nobody", plan)
    call.at_gate = "judge"
    begun = (Turn(role="assistant", content=run.prefill),) if run.prefill else ()
    ask = Judge(messages=(*run.messages, *begun), input=run.input, conversation=run.conversation, user=run.user)
    until = min(call.until_ms, answer.at_ms + plan.judge_ms)
    reply = f"{state.inbox}{JUDGES}{call_id}"
    return [Send(f"{state.app}.ask.safety.judge", ask, reply=reply), Wake(until, JUDGE + call_id, 0)]


def _level(answer: Answer) -> Level:
    """What was judged. Any other answer, or none in time, is a failure of the judge."""
    match answer:
        case Heard(message=Judged() as judged):
            return judged.level
        case Unheard():
            return "nobody"
        case _:
            return "unjudged"


def _judged(state: State, call_id: str, call: Call, level: Level, plan: GatePlan) -> list[Effect]:
    reason = walk(Case(call.run, plan=plan, consents=state.consents, level=level), JUDGED)
    if reason is not None:
        return _block(state, call_id, call, reason, plan)
    call.at_gate = "screen"
    return [Wake(0, JUDGE + call_id, 0), Screen(call_id, call.run, plan.refuse_pii)]


def _screened(state: State, call_id: str, call: Call, answer: Screened, plan: GatePlan) -> list[Effect]:
    reason = answer.blocked or walk(Case(call.run, plan=plan, consents=state.consents), BEFORE)
    if reason is not None or answer.run is None:
        return _block(state, call_id, call, reason or "gate_error", plan)
    call.at_gate, call.cleaned, call.redacted = "last", answer.run, answer.redacted
    return [Consult(LAST + call_id)]


def _last(state: State, call_id: str, call: Call, answer: Consulted, plan: GatePlan) -> list[Effect]:
    """Nothing is waited for between this look at the log and the call."""
    case = Case(call.run, plan=plan, consents=state.consents)
    reason = walk(case, BEFORE) if answer.ok else "gate_error"
    if reason is not None or call.cleaned is None:
        return _block(state, call_id, call, reason or "gate_error", plan)
    call.at_gate = ""
    call.outbound = Outbound(provider=plan.provider, consent=case.consent, redacted=call.redacted)
    return [CallModel(call_id, call.cleaned, call.outbound)]


def said_of(call: Call, settings: Settings) -> Outbound | None:
    """Of a call that ends for another reason. One that is still at the gate has let nothing out."""
    if call.at_gate and settings.gate is not None:
        return Outbound(provider=settings.gate.provider)
    return call.outbound


def _block(state: State, call_id: str, call: Call, reason: BlockReason, plan: GatePlan) -> list[Effect]:
    """Nothing leaves, or nothing more."""
    outbound = replace(call.outbound or Outbound(provider=plan.provider), blocked=reason)
    return [failure(call.reply, call.run, "blocked", outbound=outbound), *forgotten(state, call_id)]
