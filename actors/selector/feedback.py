"""Feedback: a rating is of an answer, so the run's end is looked up first, for the model and task that it is about.

A recent end is known by its position; an older one, or that of another time or selector, is looked for in the log from
when the run's id says that it began. Who rates a run that nobody knows is refused: it would be about nothing.
"""

from __future__ import annotations

from msgspec.structs import replace

from understudy.actors.selector.admit import Refusal, refuse
from understudy.actors.selector.state import Awaited, Rating, Settings, State
from understudy.messages.catalogue import FeedbackTaken, GiveFeedback
from understudy.messages.events import FeedbackGiven, RequestEnded
from understudy.messages.generate import Failed
from understudy.messages.hashes import keyed_hash
from understudy.messages.run_ids import begun_ms
from understudy.messages.step import Asked, Effect, FindEnd, Recall, Recalled, Send, Store

AT_ONCE = 64
"""So many ratings may wait for their run: each may cost a reading of the log."""
LATELY = 10_000
"""Of so many runs the position of the end is remembered."""


def asked(state: State, asked: Asked, given: GiveFeedback, settings: Settings) -> list[Effect]:
    """Look the run up. Raises Refusal."""
    if len(state.ratings) >= AT_ONCE:
        text = f"{len(state.ratings)} ratings are being looked up here."
        raise Refusal(Failed(code="overloaded", text=text, retry_after_ms=settings.overload_retry_ms))
    if given.run_id in state.runs:
        raise refuse("unknown_run", "It has not ended yet.", "$.run_id")
    seq, begun = state.lately.get(given.run_id), begun_ms(given.run_id)
    if seq is None and begun is None:
        raise refuse("unknown_run", f"{given.run_id!r} is no run id.", "$.run_id")
    event = FeedbackGiven(
        at_ms=int(asked.at_ms),
        run_id=given.run_id,
        rating=given.rating,
        reason=given.reason,
        user=keyed_hash(settings.hash_key, given.user_id),
    )
    state.ratings[asked.id] = Rating(asked.reply, event)
    key = f"rating.{asked.id}"
    return [Recall(seq, key) if seq is not None else FindEnd(given.run_id, begun or 0, key)]


def recalled(state: State, asked_id: str, answer: Recalled) -> list[Effect]:
    """The run's end, or there is none: store the rating with whom it is about, or refuse it."""
    rating = state.ratings.pop(asked_id, None)
    if rating is None:
        return []
    end, run_id = answer.event, rating.event.run_id
    if not isinstance(end, RequestEnded) or end.run_id != run_id:
        text = f"The log holds no end of a run {run_id!r}."
        failed = refuse("unknown_run", text, "$.run_id") if answer.ok else refuse("bus_down")
        return [Send(rating.reply, failed.failed)] if rating.reply else []
    event = replace(rating.event, model=end.model or "", task=end.task)
    msg_id = f"order.{asked_id}"

    def done(seq: int) -> FeedbackTaken:
        return FeedbackTaken(run_id=run_id, seq=seq)

    state.awaited[msg_id] = Awaited(rating.reply, done)
    return [Store(event, msg_id)]


def ended(state: State, run_id: str, seq: int) -> None:
    """The log holds the end of a run here: somebody may rate it soon."""
    state.lately[run_id] = seq
    if len(state.lately) > LATELY:
        del state.lately[next(iter(state.lately))]
