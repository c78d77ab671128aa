"""Repeat recorded decisions: fold the log to where a decision stood, decide again from its recorded inputs, compare.

Pure, and over the log's own bytes, since a reader that decodes first no longer sees what it tolerates. A difference
names its field: `payload` (unreadable), `seal` (a byte of the decision is not what was stored), what the outcome says
beside its decision (`run_id`, `task`, `as_of_seq`, `topology`, `digest`), or what deciding again gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from understudy.actors.selector.admit import consented, seed_of
from understudy.actors.selector.choose import Local, Question, decide, idle
from understudy.actors.selector.views import Knowledge, ModelView
from understudy.messages.events import Event, RequestEnded, SelectionMade, seal_of
from understudy.messages.wire import WireError, decode, tag_of


class Record(NamedTuple):
    """One message of the log as it is stored. An empty `subject` is one that is not known; `foreign` is no event."""

    seq: int
    subject: str
    payload: bytes
    foreign: bool = False


class Difference(msgspec.Struct, frozen=True):
    """A recorded decision that today's code, or an unharmed log, would not have made."""

    seq: int
    run_id: str
    field: str
    recorded: str
    repeated: str


class Report(msgspec.Struct, frozen=True):
    """`compared` decisions were repeated; `never_recorded` stand in the trace without an end in the log.

    `skipped` events are of kinds that this version does not know, `foreign` messages are no events at all. The log
    begins after position `cut`: where that is not 0, decisions that stood on older facts may differ without anybody
    having changed them.
    """

    compared: int
    differ: tuple[Difference, ...]
    never_recorded: int = 0
    skipped: int = 0
    foreign: int = 0
    cut: int = 0


class _Raw(msgspec.Struct):
    """The decision's very bytes inside an outcome."""

    decision: msgspec.Raw = msgspec.Raw()


_raw = msgspec.json.Decoder(_Raw)
_OUTCOME = ".".join(tag_of(RequestEnded).split(".")[:2])


def replay(log: Iterable[Record], traced: Iterable[str] = (), since_ms: int = 0) -> Report:
    """Repeat every decision that the log holds, in the order of the positions they were made at.

    `log` in order of its sequence; `traced` are the run ids of the trace stream; decisions older than `since_ms`
    (Unix milliseconds) are folded over, not repeated.
    """
    events, ends, differ, skipped = list[tuple[int, Event]](), list[tuple[int, RequestEnded]](), list[Difference](), 0
    first = foreign = 0
    for record in log:
        first = first or record.seq
        if record.foreign:
            foreign += 1
            continue
        event = _read(record)
        if isinstance(event, Difference):
            differ.append(event)
        elif event is None:
            skipped += 1
        else:
            events.append((record.seq, event))
            if isinstance(event, RequestEnded):
                ends.append((record.seq, event))
                differ += _harmed(record, event)
    harmed = {one.seq for one in differ}
    made = [(seq, e.decision) for seq, e in ends if e.decision is not None and seq not in harmed]
    made = sorted(((seq, d) for seq, d in made if d.at_ms >= since_ms), key=lambda one: one[1].as_of_seq)
    knowledge, at = Knowledge(), 0
    for seq, decision in made:
        while at < len(events) and events[at][0] <= decision.as_of_seq:
            knowledge.apply(*events[at])
            at += 1
        differ += compare(knowledge, decision, seq)
    recorded = {e.run_id for _, e in ends}
    return Report(len(made), tuple(differ), len(set(traced) - recorded), skipped, foreign, max(0, first - 1))


def _read(record: Record) -> Event | Difference | None:
    """The event, None for one of a kind that a newer writer added, or what is wrong with its bytes."""
    outcome = f".evt.{_OUTCOME}" in record.subject
    try:
        event = decode(record.payload)
    except WireError as error:
        if error.code == "unknown_tag" and not outcome:
            return None
        return Difference(record.seq, "", "payload", record.payload[:80].decode(errors="replace"), error.text[:80])
    if isinstance(event, RequestEnded) or (isinstance(event, Event) and not outcome):
        return event
    return Difference(record.seq, "", "payload", tag_of(type(event)), "an event that belongs on its subject")


def _harmed(record: Record, ended: RequestEnded) -> list[Difference]:
    """The seal over the decision's bytes, and what the outcome repeats of its decision."""
    found = bytes(_raw.decode(record.payload).decision)
    pairs = {"seal": (ended.seal, seal_of(found) if found else "")}
    made = ended.decision
    if made is not None:
        for name in ("run_id", "task", "as_of_seq", "topology", "digest"):
            pairs[name] = getattr(ended, name), getattr(made, name)
    return _differences(pairs, record.seq, ended.run_id)


def compare(knowledge: Knowledge, made: SelectionMade, seq: int = 0) -> list[Difference]:
    """Decide again and list what is not the same."""
    try:
        question = msgspec.convert(made.features, Question)
        local = {m: _local(made, m, view) for m, view in knowledge.models.items()}
        again = decide(knowledge, local, question)
    except (msgspec.ValidationError, KeyError) as error:
        return [Difference(seq, made.run_id, "features", "unusable", type(error).__name__)]
    pairs = {
        "topology": (made.topology, knowledge.topology_hash),
        "seed": (made.seed, seed_of(made.run_id)),
        "consented": (question.consented, consented(knowledge, question.privacy, made.user, made.conversation)),
        "chain": (made.chain, tuple(r.model for r in again.chain)),
        "scores": (made.scores, {r.model: r.score for r in again.chain}),
        "rejected": (made.rejected, again.counts()),
        "digest": (made.digest, again.digest()),
    }
    return _differences(pairs, seq, made.run_id)


def _differences(pairs: dict[str, tuple[Any, Any]], seq: int, run_id: str) -> list[Difference]:
    return [Difference(seq, run_id, name, str(a)[:200], str(b)[:200]) for name, (a, b) in pairs.items() if a != b]


def _local(made: SelectionMade, model: str, view: ModelView) -> Local:
    """What was recorded, or what needs no record; of a candidate rejected for another reason it did not matter."""
    if model in made.not_loaded:
        return Local(instances=0, in_flight=0, slots=0)
    if model in made.local_view:
        return msgspec.convert(made.local_view[model], Local)
    return idle(view.declared)
