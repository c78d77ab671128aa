"""End the runs of a selector that died, and say whichever end the log took. Pure."""

from __future__ import annotations

from understudy.actors.selector import ends
from understudy.actors.selector.state import State, ended
from understudy.actors.selector.views import Ended
from understudy.messages.brief import RequestBrief
from understudy.messages.events import RequestEnded, SelectionMade
from understudy.messages.step import Effect, Recall, Recalled, Send, Store, Stored, StoreFailed


def selector_gone(state: State, instance: str, until_ms: float, now: float) -> list[Effect]:
    """A selector is dead: what it had begun until then is over."""
    if instance != state.where.instance:
        state.siblings.heard_ms.pop(instance, None)
        state.siblings.gone_ms[instance] = until_ms
    again = say_again(state, instance, until_ms)
    return again + take_over(state, state.siblings.orphans(instance, until_ms), now)


def decided(state: State, made: SelectionMade, now: float) -> list[Effect]:
    """A decision was read from the trace; if its selector has died meanwhile, that run is over too."""
    state.siblings.decided(made, now)
    if not state.siblings.is_gone(made):
        return []
    until_ms = state.siblings.gone_ms[made.instance]
    again = say_again(state, made.instance, until_ms)
    return again + take_over(state, state.siblings.orphans(made.instance, until_ms), now)


def former_life(state: State, now: float) -> list[Effect]:
    """What we ourselves had in hand before we were started again."""
    return selector_gone(state, state.where.instance, state.siblings.born_ms, now)


def say_again(state: State, instance: str, until_ms: float) -> list[Effect]:
    """Ends that the log took, and that their selector may not have lived to say: a reader stops at the first it hears.

    Found by the simulation: a selector killed between the log's answer and its last word to the caller.
    """
    found = state.siblings.unsaid(instance, until_ms)
    return [effect for one in found for effect in _say_stored(state, one.made, one.ending.end, one.ending.payload)]


def take_over(state: State, orphans: list[SelectionMade], now: float) -> list[Effect]:
    """Propose `interrupted` as the end of each; the log decides whether it came first."""
    out: list[Effect] = []
    for made in orphans:
        state.taken[made.run_id] = made
        out.append(Store(ends.interrupted(made, state.where.instance, now), f"end.{made.run_id}"))
    return out


def stored(state: State, run_id: str, answer: Stored | StoreFailed) -> list[Effect]:
    """The log answered about the end of a run that we took over.

    Not reached: it goes on trying, and so do we. Refused (a full log): then it holds no end either, which it would
    have told us, and the caller hears ours, unrecorded.
    """
    made = state.taken.get(run_id)
    if made is None or (isinstance(answer, StoreFailed) and answer.code == "bus_down"):
        return []
    if isinstance(answer, Stored):
        ended(state, made.claim, Ended(answer.seq, run_id, made.body, int(answer.at_ms)))
    if isinstance(answer, Stored) and answer.duplicate:
        return [Recall(answer.seq, f"{'taken' if answer.synced else 'doubted'}.{run_id}")]
    del state.taken[run_id]
    end = ends.as_message(ends.interrupted(made, state.where.instance, 0.0), made.stream)
    return _say(state, made, end if isinstance(answer, Stored) and answer.synced else ends.unrecorded(end))


def recalled(state: State, answer: Recalled) -> list[Effect]:
    """The end that came before ours. If it could not be read now, the fold comes upon it and says it."""
    if not isinstance(answer.event, RequestEnded):
        return []
    made = state.taken.pop(answer.event.run_id, None)
    doubted = answer.key.startswith("doubted.")
    return [] if made is None else _say_stored(state, made, answer.event, doubted=doubted)


def read_back(state: State, end: RequestBrief | RequestEnded, payload: bytes) -> list[Effect]:
    """Whichever end it is, the log has it: its answer to ours may be lost, and is not waited for.

    If it is ours, only that answer would tell whether the disk has it too.
    """
    made = state.taken.pop(end.run_id, None)
    ours = end.instance == state.where.instance
    return [] if made is None else _say_stored(state, made, end, payload, doubted=ours)


def _say_stored(
    state: State, made: SelectionMade, end: RequestBrief | RequestEnded, payload: bytes = b"", doubted: bool = False
) -> list[Effect]:
    whole = end if isinstance(end, RequestEnded) else ends.whole(payload)
    said = ends.unreadable(made) if whole is None else ends.as_message(whole, made.stream)
    return _say(state, made, ends.unrecorded(said) if doubted else said)


def _say(state: State, made: SelectionMade, end: ends.End) -> list[Effect]:
    """To the caller, and to whoever asked again meanwhile."""
    replies = [made.reply, *state.repeats.pop(made.run_id, [])]
    return [Send(reply, end) for reply in replies if reply]
