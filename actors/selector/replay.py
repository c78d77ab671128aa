"""Repeat recorded decisions: fold the log to where a decision stood, decide again from its recorded inputs, compare.

Pure. What is compared: chain, scores, rejected counts, digest and seed; a difference names the field.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from understudy.actors.selector.admit import seed_of
from understudy.actors.selector.choose import Local, Question, decide
from understudy.actors.selector.views import Knowledge
from understudy.messages.events import Event, RequestEnded, SelectionMade


class Difference(msgspec.Struct, frozen=True):
    """A recorded decision that today's code, or an unharmed log, would not have made."""

    run_id: str
    field: str
    recorded: str
    repeated: str


class Report(msgspec.Struct, frozen=True):
    """`compared` decisions were repeated; `never_recorded` stand in the trace without an end in the log."""

    compared: int
    differ: tuple[Difference, ...]
    never_recorded: int = 0


def replay(log: Iterable[tuple[int, Event]], traced: Iterable[str] = (), since_ms: int = 0) -> Report:
    """Repeat every decision that the log holds, in the order of the positions they were made at.

    `log` in order of its sequence; `traced` are the run ids of the trace stream; decisions older than `since_ms`
    (Unix milliseconds) are folded over, not repeated.
    """
    events = list(log)
    ends = [e for _, e in events if isinstance(e, RequestEnded)]
    decisions = [e.decision for e in ends if e.decision is not None and e.decision.at_ms >= since_ms]
    decisions.sort(key=lambda d: d.as_of_seq)
    knowledge, differ, at = Knowledge(), list[Difference](), 0
    for decision in decisions:
        while at < len(events) and events[at][0] <= decision.as_of_seq:
            knowledge.apply(*events[at])
            at += 1
        differ += compare(knowledge, decision)
    recorded = {e.run_id for e in ends}
    return Report(len(decisions), tuple(differ), len(set(traced) - recorded))


def compare(knowledge: Knowledge, made: SelectionMade) -> list[Difference]:
    """Decide again and list what is not the same."""
    try:
        question = msgspec.convert(made.features, Question)
        local = {m: _local(made, m) for m in knowledge.models}
        again = decide(knowledge, local, question)
    except (msgspec.ValidationError, KeyError) as error:
        return [Difference(made.run_id, "features", "unusable", type(error).__name__)]
    pairs = {
        "topology": (made.topology, knowledge.topology_hash),
        "seed": (made.seed, seed_of(made.run_id)),
        "chain": (made.chain, tuple(r.model for r in again.chain)),
        "scores": (made.scores, {r.model: r.score for r in again.chain}),
        "rejected": (made.rejected, again.counts()),
        "digest": (made.digest, again.digest),
    }
    return [Difference(made.run_id, name, str(a)[:200], str(b)[:200]) for name, (a, b) in pairs.items() if a != b]


def _local(made: SelectionMade, model: str) -> Local:
    """What was recorded; of a candidate that was rejected for another reason it did not matter."""
    if model in made.not_loaded:
        return Local(instances=0, in_flight=0, slots=0)
    if model in made.local_view:
        return msgspec.convert(made.local_view[model], Local)
    return Local(instances=1, in_flight=0, slots=1)
