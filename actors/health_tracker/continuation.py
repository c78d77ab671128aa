"""Find out how a model goes on with text that another one began, by a known text. Pure.

The model is asked to repeat a text and is given its beginning as if it had said it: natively (prefill) first, then in
the instructed form. Whoever says the rest, to the letter, at both cuts, can take over in mid-answer; whoever begins
anew, adds a preamble, repeats, or loses white space is joined by a visible restart. What is found is one fact in the
log (`model.probed`), so that every selector and every replay knows the same.

A model that fails to answer is asked again later; failing to match is no failure of the model.
"""

from __future__ import annotations

from typing import Literal

from understudy.actors.health_tracker.state import Settings, State, Trial, Watch, rest_ms, say
from understudy.messages.events import ModelProbed, ProbeWord
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import (
    MIN_OVERLAP_CHARS,
    Continuation,
    RunEnded,
    RunFailed,
    RunFailure,
    RunModel,
    RunText,
)
from understudy.messages.step import Effect, Send

KNOWN = (
    "The keeper of the old lighthouse counted seven white boats, closed the heavy door, and climbed the narrow "
    "stairs to light the lamp before the evening fog came in."
)
CUTS = (KNOWN.index(" closed"), KNOWN.index("row stairs"))
"""Where streams break: after a word, so that white space at the joint counts, and inside of one."""
PROMPT = f"Repeat exactly: {KNOWN}"
MAX_TOKENS = 96
DECLINED: frozenset[RunFailure] = frozenset({"caller_fault", "context_too_long", "refused"})
"""Ends of a trial that answer the question: this model does not take this form."""

Form = Literal["native", "instructed"]


def matches(form: Form, cut: int, answer: str) -> bool:
    """Is this the known rest? White space counts, save after the last word.

    An instructed model may repeat the end of the beginning, as selectors trim it.
    """
    before, rest = KNOWN[: CUTS[cut]], KNOWN[CUTS[cut] :]
    answer = answer.rstrip()
    if answer == rest:
        return True
    overlap = answer.removesuffix(rest).lstrip()
    cuttable = len(overlap) >= MIN_OVERLAP_CHARS and before.endswith(overlap)
    return form == "instructed" and answer.endswith(rest) and cuttable


# --- when ----------------------------------------------------------------------------------------------------------


def look(state: State, model: str, watch: Watch, now: float, settings: Settings) -> list[Effect]:
    """Begin a probe where one is due and disturbs nobody; give up a question that was not answered in time."""
    if watch.trial is not None and now >= watch.trial.until_ms:
        _later(watch, now, settings, "first_token_timeout")
    wanted = watch.declared.continues == "probe" and watch.probed_seq != watch.since_seq
    if not wanted or watch.trial is not None or not watch.loaded or not watch.beats:
        return []
    if watch.costs() and not settings.probe_paid:
        return _found(state, model, watch, "none", "costs_money", now)
    if watch.probing or watch.status == "unavailable" or now < watch.trial_at_ms or state.is_gone(model, watch):
        return []
    if watch.wanted_ms is None:
        watch.wanted_ms = now
    under_way = sum(w.trial is not None for w in state.watches.values())
    if under_way >= settings.trials_at_once or not _has_room(watch, now - watch.wanted_ms > settings.trial_idle_ms):
        return []
    return _ask(state, model, watch, "native", 0, now, settings)


def _has_room(watch: Watch, impatient: bool) -> bool:
    """Idle; or, once we have waited long, a free slot."""
    busy, slots = sum(b.in_flight for b in watch.beats.values()), sum(b.slots for b in watch.beats.values())
    return busy == 0 or (impatient and busy < slots)


def _ask(state: State, model: str, watch: Watch, form: Form, cut: int, now: float, settings: Settings) -> list[Effect]:
    run_id = state.fresh(now)
    watch.trial = Trial(run_id, now + settings.trial_timeout_ms, form, cut)
    run = RunModel(
        run_id=run_id,
        attempt=0,
        model=model,
        messages=(Turn(role="user", content=PROMPT),),
        parameters=Parameters(max_tokens=MAX_TOKENS, temperature=0.0, top_p=1.0, seed=0),
        remaining_ms=float(settings.trial_timeout_ms),
        prefill=KNOWN[: CUTS[cut]],
        continuation=form,
        probe=True,
        location=state.location(model, watch),
        name=watch.declared.name,
        context_tokens=watch.declared.context_tokens,
        price=watch.price(),
    )
    return [Send(state.run_subject(model, watch), run, reply=f"{state.inbox}.probe.{run_id}")]


# --- what comes back -----------------------------------------------------------------------------------------------


def hear(state: State, message: RunText | RunEnded | RunFailed, now: float, settings: Settings) -> list[Effect] | None:
    """An answer to one of our questions; None when it belongs to none of them."""
    for model, watch in state.watches.items():
        trial = watch.trial
        if trial is not None and trial.run_id == message.run_id:
            return _hear(state, model, watch, trial, message, now, settings)
    return None


def failed(state: State, run_id: str, reason: RunFailure, now: float, settings: Settings) -> None:
    """Nobody took the question."""
    for watch in state.watches.values():
        if watch.trial is not None and watch.trial.run_id == run_id:
            _later(watch, now, settings, reason)


def _hear(
    state: State,
    model: str,
    watch: Watch,
    trial: Trial,
    message: RunText | RunEnded | RunFailed,
    now: float,
    settings: Settings,
) -> list[Effect]:
    match message:
        case RunText():
            if message.n != trial.pieces:
                _later(watch, now, settings, "text_lost")
                return []
            trial.pieces += 1
            trial.text += message.text
            return []
        case RunEnded():
            if message.pieces != trial.pieces:
                _later(watch, now, settings, "text_lost")
                return []
            matched = message.finish_reason != "refusal" and matches(trial.form, trial.cut, trial.text)
            return _judge(state, model, watch, trial, matched, now, settings)
        case RunFailed():
            if message.reason in DECLINED:
                return _judge(state, model, watch, trial, False, now, settings)
            _later(watch, now, settings, message.reason)
            return []


def _judge(
    state: State, model: str, watch: Watch, trial: Trial, matched: bool, now: float, settings: Settings
) -> list[Effect]:
    """The next cut, the next form, or a finding."""
    if matched and trial.cut + 1 < len(CUTS):
        return _ask(state, model, watch, trial.form, trial.cut + 1, now, settings)
    if matched:
        return _found(state, model, watch, trial.form, "matched", now)
    if trial.form == "native":
        return _ask(state, model, watch, "instructed", 0, now, settings)
    return _found(state, model, watch, "none", "no_match", now)


def _found(
    state: State, model: str, watch: Watch, continues: Continuation, reason: ProbeWord, now: float
) -> list[Effect]:
    watch.trial, watch.trial_failures, watch.probed_seq = None, 0, watch.since_seq
    event = ModelProbed(at_ms=int(now), model=model, continues=continues, reason=reason, since_seq=watch.since_seq)
    return [say(state, event, model)]


def _later(watch: Watch, now: float, settings: Settings, reason: RunFailure) -> None:
    """No answer to our question: the model's health is judged by others' requests, we only ask again later."""
    watch.trial = None
    if reason == "busy":  # it is alive, and others use it
        watch.trial_at_ms = now + settings.backoff_ms
        return
    watch.trial_failures += 1
    watch.trial_at_ms = now + rest_ms(settings, watch.trial_failures)
