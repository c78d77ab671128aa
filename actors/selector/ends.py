"""How a run's end is said to the caller and written into the log."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, cast

import msgspec
from msgspec.structs import replace

from understudy.actors.selector import labels
from understudy.messages.catalogue_events import ModelRetired
from understudy.messages.embed import Embedded
from understudy.messages.events import AttemptEnded, ModelSwitched, RequestEnded, SelectionMade, seal_of
from understudy.messages.generate import ADVICE, Attempt, FailCode, Failed, Finished, FinishReason, SeamMode, Usage
from understudy.messages.privacy import ABOUT_CONTENT, Location
from understudy.messages.run import RunFailed
from understudy.messages.slugs import slug
from understudy.messages.step import Effect, Recall, Recalled, Store, Stored, StoreFailed
from understudy.messages.wire import WireError, decode, encode

if TYPE_CHECKING:
    from understudy.actors.selector.conduct import Conduct

End = Finished | Failed | Embedded
RETRY_AFTER_MS = 1_000
STORE_MARGIN_MS = 500.0
"""An end that the log has not confirmed this long before the deadline goes out with `recorded: false`."""


def failed(run: Conduct, code: FailCode, now: float) -> Failed:
    """What the caller hears when no whole answer came about."""
    return Failed(
        code=code,
        text=f"{run.purse.words} {ADVICE[code]}" if code == "budget_exhausted" else ADVICE[code],
        run_id=run.run_id,
        rejected=run.purse.rejected,
        attempts=tuple(run.tried),
        last_seq=run.script.seq - 1,
        resumable=_resumable(run, code),
        retry_after_ms=_retry_after_ms(run, code, now),
        recorded=True,
    )


def _retry_after_ms(run: Conduct, code: FailCode, now: float) -> int | None:
    """When it is worth trying again: once the first provider that asked for patience has had it."""
    if code == "budget_exhausted" and run.purse.until_ms is not None:
        return max(0, math.ceil(run.purse.until_ms - now))
    if code in ("all_failed", "overloaded") and run.free_ms is not None:
        return max(0, math.ceil(run.free_ms - now))
    return RETRY_AFTER_MS if code == "overloaded" else None


def _resumable(run: Conduct, code: FailCode) -> bool:
    """Of a single reply nobody holds any text. Who lost the connection may go on; who cancelled does not want to."""
    if code == "cancelled":
        return run.ask.stream and run.callers.lost_sight
    return run.ask.stream and bool(run.script.pieces)


def finished(run: Conduct, reason: FinishReason, usage: Usage, now: float, degraded: bool) -> Finished:
    """The whole answer."""
    return Finished(
        run_id=run.run_id,
        text=run.script.text(),
        tool_calls=run.beside.calls,
        reasoning=run.beside.reasoning(),
        model="emergency" if degraded else run.model,
        finish_reason=reason,
        usage=usage,
        parameters=run.parameters,
        attempts=tuple(run.tried),
        last_seq=run.script.seq - 1,
        seams=run.seams,
        degraded=degraded,
        cost_usd=run.purse.cost_usd(),
        cost_estimated=run.purse.estimated(),
        cached=run.kept is not None and run.kept.hit,
        rejected=run.purse.rejected,
        notice=run.purse.notice(),
        total_ms=round(now - run.begun_ms, 3),
        labels=_labels(run),
        location=_location(run, degraded),
    )


def _labels(run: Conduct) -> tuple[str, ...]:
    """The caller's, then ours. What is a fact of how a kept answer was made stays one when it is given again."""
    if run.kept is not None and run.kept.hit:
        outside = run.location(run.model) == "external"  # of one that was kept before labels were
        made = run.kept.labels or (("external",) if outside else ())
        return (*run.ask.labels, *made, *labels.of_answer(run.script.text(), ()))
    return (*run.ask.labels, *labels.of_answer(run.script.text(), run.tried))


def _location(run: Conduct, degraded: bool = False) -> Location:
    return "local" if degraded else run.location(run.model)


def embedded(run: Conduct, usage: Usage, now: float) -> Embedded:
    """The vectors, passed on as they came: taking them apart and putting them together again would hold up others."""
    return Embedded(
        run_id=run.run_id,
        model=run.model,
        vectors=cast(tuple[tuple[float, ...], ...], msgspec.Raw(run.beside.vectors.encode())),
        usage=usage,
        attempts=tuple(run.tried),
        cost_usd=run.purse.cost_usd(),
        cost_estimated=run.purse.estimated(),
        rejected=run.purse.rejected,
        notice=run.purse.notice(),
        total_ms=round(now - run.begun_ms, 3),
        labels=_labels(run),
        location=_location(run),
    )


def spent(run: Conduct, last: Usage) -> Usage:
    """All tokens of a run: the last attempt's, and an estimate for those before it that broke off in their text."""
    lost = [attempt for attempt in run.tried if attempt.tokens or attempt.outcome == "hedged"]
    if not lost:
        return last
    prompt = int(run.decision.features.get("prompt_tokens", 0))
    return Usage(
        prompt_tokens=last.prompt_tokens + prompt * len(lost),
        completion_tokens=last.completion_tokens + sum(attempt.tokens for attempt in lost),
        estimated=True,
    )


def unrecorded(end: End) -> End:
    """The same end, honest about the log not having confirmed it."""
    return replace(end, recorded=False)


def request_ended(run: Conduct, outcome: str, reason: FinishReason | None, usage: Usage, now: float) -> Store:
    """The run's one outcome, without any text. The decision stands in it, so that the log alone can repeat it."""
    stated, made = run.parameters, run.decision
    event = RequestEnded(
        at_ms=int(now),
        run_id=run.run_id,
        instance=run.where.instance,
        outcome=outcome,
        task=run.task,
        as_of_seq=made.as_of_seq,
        topology=made.topology,
        digest=made.digest,
        model=run.model or None,
        finish_reason=reason,
        attempts=tuple([_storable(one) for one in run.tried]),
        usage=usage,
        parameters=replace(stated, stop=()) if stated.stop else stated,  # stop strings are the caller's content
        last_seq=run.script.seq - 1,
        seams=run.seams,
        text_chars=sum(map(len, run.script.pieces)),
        tool_calls=len(run.beside.calls) if outcome == "finished" else 0,
        vectors=len(run.embed.input) if run.embed is not None and outcome == "finished" else 0,
        cost_usd=run.purse.cost_usd(),
        charges=run.purse.in_all(),
        rejected=run.purse.rejected,
        total_ms=round(now - run.begun_ms, 3),
        conversation=run.conversation,
        user=run.user,
        labels=_storable_labels(run),
        claim=run.mark.key,
        body=run.mark.body,
        degraded=isinstance(run.ending, Finished) and run.ending.degraded,
        cached=isinstance(run.ending, Finished) and run.ending.cached,
        decision=made,
        seal=run.seal or seal_of(encode(made)),  # it may end before its decision was recorded
    )
    patience = max(STORE_MARGIN_MS, run.deadline_ms - STORE_MARGIN_MS - now)
    return Store(event, f"end.{run.run_id}", give_up_ms=int(patience))


def _storable_labels(run: Conduct) -> tuple[str, ...]:
    """The caller's, and where words went. What an answer speaks of is content, and beside it stands whose it was."""
    if not isinstance(run.ending, Finished | Embedded):
        return run.ask.labels
    return tuple(label for label in run.ending.labels if label not in labels.OF_CONTENT)


def _storable(one: Attempt) -> Attempt:
    """That a text kept itself from leaving is stored; whether as a crisis or a secret is between us and the caller."""
    if one.outbound is None or one.outbound.blocked not in ABOUT_CONTENT:
        return one
    return replace(one, outbound=replace(one.outbound, blocked="content"))


def stored(run: Conduct, ending: End, answer: Stored | StoreFailed) -> list[Effect]:
    """The log answered about our end."""
    if isinstance(answer, StoreFailed):
        return run.say(unrecorded(ending))
    run.ending = ending if answer.synced else unrecorded(ending)
    return [Recall(answer.seq, f"end.{run.run_id}")] if answer.duplicate else run.say(run.ending)


def recalled(run: Conduct, ending: End, answer: Recalled) -> list[Effect]:
    """The log had an end already: our own, sent twice because an answer was lost, or another selector's."""
    first = answer.event
    if not isinstance(first, RequestEnded):
        return run.say(unrecorded(ending))
    if first.instance == run.where.instance:
        return run.say(ending)
    end = as_message(first, run.ask.stream)
    return run.say(end if ending.recorded else unrecorded(end))


def interrupted(made: SelectionMade, instance: str, now: float) -> RequestEnded:
    """The end that a survivor proposes for a run whose selector died. How far it had come, nobody knows."""
    return RequestEnded(
        at_ms=int(now),
        run_id=made.run_id,
        instance=instance,
        outcome="interrupted",
        task=made.task,
        as_of_seq=made.as_of_seq,
        topology=made.topology,
        digest=made.digest,
        usage=Usage(estimated=True),
        conversation=made.conversation,
        user=made.user,
        claim=made.claim,
        body=made.body,
        decision=made,
        seal=seal_of(encode(made)),
    )


def whole(payload: bytes) -> RequestEnded | None:
    """The stored end of which only the light form was read so far; None where the rest cannot be."""
    try:
        found = decode(payload)
    except WireError:
        return None
    return found if isinstance(found, RequestEnded) else None


def unreadable(made: SelectionMade) -> Failed:
    """What a caller hears of an end that the log holds in a form that this process cannot read."""
    return Failed(code="text_lost", text=ADVICE["text_lost"], run_id=made.run_id, recorded=True)


def as_message(end: RequestEnded, stream: bool) -> End:
    """A recorded end as its caller hears it: the log holds no text, so a single reply's is gone."""
    if end.outcome != "finished":
        code = msgspec.convert(end.outcome, FailCode)
        return Failed(
            code=code,
            text=ADVICE[code],
            run_id=end.run_id,
            attempts=end.attempts,
            last_seq=end.last_seq,
            resumable=stream and (end.last_seq >= 0 or code in ("interrupted", "cancelled")),
            retry_after_ms=RETRY_AFTER_MS if code == "overloaded" else None,
            recorded=True,
        )
    if not stream or end.parameters is None or end.finish_reason is None:
        return Failed(code="text_lost", text=ADVICE["text_lost"], run_id=end.run_id, recorded=True)
    return Finished(
        run_id=end.run_id,
        text=None,
        model="emergency" if end.degraded else end.model or "",
        finish_reason=end.finish_reason,
        usage=end.usage,
        parameters=end.parameters,
        attempts=end.attempts,
        last_seq=end.last_seq,
        seams=end.seams,
        degraded=end.degraded,
        cached=end.cached,
        cost_usd=end.cost_usd,
        cost_estimated=any(charge.by == "estimated" for charge in end.charges),
        rejected=end.rejected,
        total_ms=end.total_ms,
        labels=end.labels,
        location="local" if end.degraded else end.attempts[-1].location if end.attempts else None,
    )


def attempt_ended(
    run: Conduct, failed_attempt: Attempt, now: float, told: RunFailed | None, hedge: int | None = None
) -> Store:
    """One model tried in vain. `told`: as its runner says; `hedge`: its attempt's number, where it was the second."""
    number = run.attempt if hedge is None else hedge
    event = AttemptEnded(
        at_ms=int(now),
        run_id=run.run_id,
        attempt=number,
        model=failed_attempt.model,
        reason=failed_attempt.outcome,
        first_token_ms=failed_attempt.first_token_ms,
        total_ms=failed_attempt.total_ms,
        tokens=failed_attempt.tokens,
        status=failed_attempt.status,
        retry_after_ms=told.retry_after_ms if told is not None else None,
        exhausted_until_ms=told.exhausted_until_ms if told is not None else None,
        charge=run.purse.last if hedge is None else None,
    )
    return Store(event, f"attempt.{run.run_id}.{number}", key=slug(failed_attempt.model))


def retired(run: Conduct, now: float) -> list[Effect]:
    """The provider does not have this model, so nobody tries it again until its list has it.

    Only where there is a list to tell; the id is the model's next retirement, so it is stored once, whoever saw it.
    """
    topology, entry = run.knowledge.topology, run.knowledge.known.entries.get(run.model)
    provider = run.models[run.model].provider
    plan = topology.providers.get(provider) if topology is not None else None
    if plan is None or plan.catalogue is None or entry is None or entry.provider != provider or entry.retired:
        return []
    event = ModelRetired(at_ms=int(now), provider=provider, models=(run.model,), reason="not_found")
    exact = hashlib.sha256(run.model.encode()).hexdigest()[:8]  # two ids may have one slug
    return [Store(event, f"retired.{slug(run.model)}.{exact}.{entry.retirements + 1}", key=slug(run.model))]


def switched(run: Conduct, to_model: str, mode: SeamMode, reason: str, now: float) -> Store:
    """Another model goes on in the middle of an answer."""
    event = ModelSwitched(
        at_ms=int(now),
        model=to_model,
        from_model=run.model,
        run_id=run.run_id,
        mode=mode,
        reason=reason,
        task=run.task,
    )
    return Store(event, f"switched.{run.run_id}.{run.attempt}", key=slug(to_model))
