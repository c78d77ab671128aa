"""Half open: one small request to a model that rested, so that it is used again when it answers. Pure."""

from __future__ import annotations

from understudy.actors.health_tracker.history import UNTESTED
from understudy.actors.health_tracker.state import Settings, State, Watch, degrade, recover, rest_ms
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.step import Effect, Send

WORDS = "Say yes."


def look(state: State, model: str, watch: Watch, now: float, settings: Settings) -> list[Effect]:
    """Ask when the rest is over; count a probe without an answer as failed."""
    if watch.probing and now >= watch.probe_until_ms:
        failed(state, watch.probing, "text_lost" if watch.probe_cut else "first_token_timeout", now, settings)
    free = watch.status == "unavailable" and state.is_served(watch) and not watch.probing and watch.trial is None
    return _ask(state, model, watch, now, settings) if free and now >= watch.retry_at_ms else []


def _ask(state: State, model: str, watch: Watch, now: float, settings: Settings) -> list[Effect]:
    """Never two at a time, none to a model that its provider does not have, and none that costs money unless allowed:
    then the next request, which is reserved, tells."""
    if state.is_gone(model, watch):
        return []
    if watch.costs() and not settings.probe_paid:
        return degrade(state, model, watch, UNTESTED, now)
    run_id = state.fresh(now)
    watch.probing, watch.probe_until_ms, watch.probe_cut = run_id, now + settings.probe_timeout_ms, False
    chats = "chat" in watch.declared.capabilities
    run = RunModel(
        run_id=run_id,
        attempt=0,
        model=model,
        messages=(Turn(role="user", content=WORDS),) if chats else (),
        input=() if chats else (WORDS,),
        parameters=Parameters(max_tokens=4, temperature=0.0, top_p=1.0, seed=0),
        remaining_ms=float(settings.probe_timeout_ms),
        probe=True,
        location=state.location(model, watch),
        name=watch.declared.name,
        context_tokens=watch.declared.context_tokens,
        price=watch.price(),
    )
    return [Send(state.run_subject(model, watch), run, reply=f"{state.inbox}.probe.{run_id}")]


def answered(state: State, run_id: str, now: float) -> list[Effect]:
    """It spoke: that is enough."""
    for model, watch in state.watches.items():
        if watch.probing and watch.probing == run_id:
            return recover(state, model, watch, "probe", now)
    return []


def blocked(state: State, run_id: str, now: float) -> list[Effect]:
    """Our words may not leave this machine for it, so nobody can tell how it is but those whose words may.

    It is used again after the healthy ones; with the failures in a row that it has, the next one rests it anew.
    """
    for model, watch in state.watches.items():
        if watch.probing and watch.probing == run_id:
            watch.probing = ""
            return degrade(state, model, watch, UNTESTED, now)
    return []


def failed(state: State, run_id: str, reason: str, now: float, settings: Settings) -> None:
    """Rest again, twice as long; a busy model is alive, others use it; a lost answer tells nothing."""
    for watch in state.watches.values():
        if not watch.probing or watch.probing != run_id:
            continue
        watch.probing = ""
        if reason in ("busy", "text_lost"):
            watch.retry_at_ms = now + settings.backoff_ms
            continue
        watch.opened += 1
        watch.retry_at_ms = now + rest_ms(settings, watch.opened)
