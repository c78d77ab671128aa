"""Going over to the next model, or giving up: where a seam falls, what the next model gets, what the caller hears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.actors.selector import ends
from understudy.actors.selector.admit import guessed_tokens
from understudy.actors.selector.structured import is_structured
from understudy.messages.generate import FailCode, Seam, SeamMode, Usage, Waiting
from understudy.messages.run import NO_ROOM, Continuation
from understudy.messages.step import Effect

if TYPE_CHECKING:
    from understudy.actors.selector.conduct import Conduct

NOT_ITS_FAULT = NO_ROOM | {"text_lost", "blocked"}
"""Failures that no model caused: going over after them is no cascade, and the same model may well do it."""

ENDS: dict[str, FailCode] = {
    "caller_fault": "caller_fault",
    "context_too_long": "context_too_long",
    "refused": "refused",
    "blocked": "blocked",
    "deadline": "deadline_exceeded",
    "cancelled": "cancelled",
}


def resume(run: Conduct, text: str) -> None:
    """The caller kept this text of a run that broke off: go on from there where the first model can."""
    text, first = text.rstrip(), run.chain[0]
    if not text:
        return
    continues = _continues(run, first)
    if continues == "none":
        run.seam = _seam(run, "restart", -1, first, first, "resume")
        return
    run.script.pieces.append(text)
    run.script.continue_from_here(continues == "instructed")
    run.continued = True


def fail_over(run: Conduct, reason: str, now: float) -> list[Effect]:
    """Ask the next model. Readers may hold text: the seam that tells them waits for the next model's first word."""
    next_model, out = run.chain[0], list[Effect]()
    if run.script.empty() and run.seam is None:
        run.script.restart()
        if run.ask.stream and not run.room.searching():
            out += run.say(Waiting(run_id=run.run_id, reason="failover"))
        return out + run.ask_next(now)
    spoke = run.seam.from_model if run.seam else run.model
    mode = _join(run, next_model, reason)
    keep = run.script.seq - 1 if mode == "continue" else -1
    run.seam = _seam(run, mode, keep, spoke, next_model, reason)
    out.append(ends.switched(run, next_model, mode, reason, now))
    return out + run.ask_next(now)


def narrow(run: Conduct, reason: str, now: float) -> list[Effect]:
    """What a failure says about the models that are left."""
    if reason == "context_too_long":
        window = run.models[run.model].context_tokens
        run.chain = [m for m in run.chain if run.models[m].context_tokens > window]
    if reason == "blocked":
        stay_here(run, now)
    return ends.retired(run, now) if reason == "model_not_found" else []


def stay_here(run: Conduct, now: float) -> None:
    """What was kept from leaving once stays on this machine: whoever is left there goes on, chosen anew."""
    tried = {one.model for one in run.tried} | {run.model}
    if run.hedge is not None and run.hedge.rival is not None:  # asked already
        tried.add(run.hedge.rival.model)
    run.chain = [model for model in run.refuge(now) if model not in tried]
    for model in run.chain:
        view = run.knowledge.models[model]
        run.models[model], run.places[model] = view.declared, view.location
    run.room.later = {model: n for model, n in run.room.later.items() if run.location(model) == "local"}


def _join(run: Conduct, next_model: str, reason: str) -> SeamMode:
    """Continue where the next model can; else begin anew, visibly. A refusal is nothing to go on from."""
    continues = _continues(run, next_model)
    if not run.script.pieces or continues == "none" or next_model in run.mute or reason == "refused":
        run.script.restart()
        run.beside.thoughts.clear()
        run.continued, run.spent_tokens, run.spent_exact = False, 0, True
        return "restart"
    run.spent_tokens += run.tokens if run.exact else min(run.tokens, guessed_tokens(run.script.new_text()))
    run.spent_exact = run.spent_exact and run.exact
    run.script.continue_from_here(continues == "instructed")
    run.continued = True
    return "continue"


def _continues(run: Conduct, model: str) -> Continuation:
    """A JSON value or a tool call must come from one model: two halves by two models make no whole."""
    return "none" if is_structured(run.ask) else run.knowledge.continues(model)


def mute(run: Conduct) -> None:
    """The model had nothing to add to another's text: that may be whole, or this model broken, and nobody can tell.

    Whoever is left goes on. The last one is asked for the whole answer instead, visibly: so no cut-off text is ever
    passed off as whole, and a whole one whose end was lost is not called a failure.
    """
    if not run.chain and not run.room.later and run.model not in run.mute:
        run.chain.append(run.model)
    run.mute.add(run.model)


def used_up(run: Conduct, reason: str) -> bool:
    """Are all tokens that were asked for out already? Then a broken end is none: the limit would have cut here.

    Only an engine that counts can tell. A provider may send a token in many pieces: by their number, a stream that
    broke in the middle would be passed off as whole.
    """
    if reason == "refused" or not (run.exact and run.spent_exact):
        return False
    said = bool(run.script.pieces) or run.script.added()
    return said and run.spent_tokens + run.tokens >= run.parameters.max_tokens


def cut_by_length(run: Conduct, now: float) -> list[Effect]:
    """End as the limit would have ended it."""
    out = run.show(run.script.finish()) + run.announce_seam(run.script.seq)
    return out + run.finish("length", ends.spent(run, Usage(estimated=True)), now)


def give_up(run: Conduct, reason: str, now: float) -> list[Effect]:
    """No model is left, or none may be tried: the run ends."""
    words = None if is_structured(run.ask) or run.embed is not None else run.emergency_reply
    if words is not None and reason not in ("cancelled", "caller_fault"):
        return _emergency(run, words, now)
    code: FailCode = ENDS.get(reason, "all_failed")
    if now >= run.deadline_ms and code != "cancelled":
        code = "deadline_exceeded"
    if not run.tried and (refused := run.purse.refused()) is not None and code == "all_failed":
        code = refused
    elif all(a.outcome in NO_ROOM for a in run.tried) and code not in ("cancelled", "caller_fault"):
        code = "overloaded"
    return run.end_failed(code, now)


def _emergency(run: Conduct, words: str, now: float) -> list[Effect]:
    """The task's own canned words, opted in by the operator, marked as degraded."""
    if not run.script.empty() or run.seam is not None:
        spoke = run.seam.from_model if run.seam else run.model
        run.seam = _seam(run, "restart", -1, spoke, "emergency", "all_failed")
    run.script.restart()
    run.beside.thoughts.clear()
    out = run.show(run.script.add(words)) + run.show(run.script.finish()) + run.announce_seam(run.script.seq)
    return out + run.finish("stop", ends.spent(run, Usage(estimated=True)), now, degraded=True)


def _seam(run: Conduct, mode: SeamMode, keep: int, before: str, after: str, reason: str) -> Seam:
    return Seam(run_id=run.run_id, mode=mode, keep_seq=keep, from_model=before, to_model=after, reason=reason)
