"""What must hold at the end of every history: P1 to P4 of the design, and what a reader would call a lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.actors.selector.replay import Record, replay
from understudy.bus.subjects import evt_stream, trace_stream
from understudy.messages.events import (
    Event,
    ModelDegraded,
    ModelRecovered,
    ModelUnavailable,
    RequestEnded,
    SelectionMade,
)
from understudy.messages.generate import Failed, Finished, Usage
from understudy.messages.wire import decode

if TYPE_CHECKING:
    from sim.reader import Reader
    from sim.strike import Hard
    from sim.world import World

GRACE_S = 2.0
TOLERANCE_MS = 5.0


def is_finished(end: Finished | Failed) -> bool:
    """A whole answer."""
    return isinstance(end, Finished)


def broken(world: World) -> list[str]:
    """Everything that does not hold, in words that begin with the promise."""
    log = [Record(e.seq, e.subject, e.payload) for e in world.broker.stream(evt_stream("tta")).entries.values()]
    events = [(one.seq, event) for one in log if isinstance(event := decode(one.payload), Event)]
    traced = [decode(e.payload) for e in world.broker.stream(trace_stream("tta")).entries.values()]
    made = {one.run_id: one for one in traced if isinstance(one, SelectionMade)}
    ends: dict[str, list[RequestEnded]] = {}
    seqs: dict[str, int] = {}
    for seq, event in events:
        if isinstance(event, RequestEnded):
            ends.setdefault(event.run_id, []).append(event)
            seqs[event.run_id] = seq
    found = [f"P2 run {run_id}: {what}" for run_id, what in world.provider.wrong]
    found += [f"P3 run {run_id} has {len(all_)} ends in the log" for run_id, all_ in ends.items() if len(all_) > 1]
    for reader in world.readers:
        found += [f"P2 {reader.name} run {reader.run_id}: {what}" for what in reader.wrong]
        found += _end(world, reader, ends)
        reader.owed = owed(world, reader, made)
        if reader.end is None and reader.owed:
            found.append(f"P1 {reader.name} run {reader.run_id}: no end by deadline + {GRACE_S:.0f} s")
        found += _durable(world, reader, seqs)
        found += _patience(world, ends.get(reader.run_id, []))
    report = replay(log, made)
    found += [f"P4 run {d.run_id}: {d.field} {d.recorded} != {d.repeated}" for d in report.differ]
    refused = any(fault == "log refuses" for fault, _ in world.hits)
    return found + ([] if refused else _announced(events))


def _end(world: World, reader: Reader, ends: dict[str, list[RequestEnded]]) -> list[str]:
    """Of one reader: the text is exact, the record is there, the code is true."""
    found, who = list[str](), f"{reader.name} run {reader.run_id}"
    said = [one for one in (reader.end, *reader.others) if one is not None]
    for end in said:
        record = ends.get(end.run_id or "", [])
        outcome = "finished" if isinstance(end, Finished) else end.code
        if end.recorded and (len(record) != 1 or record[0].outcome != _word(end)):
            found.append(f"P3 {who}: {outcome} said as recorded, the log has {[r.outcome for r in record]}")
        if outcome == "cancelled" and not (reader.cancelled or reader.gone):
            found.append(f"P2 {who}: cancelled, but nobody did")
        if isinstance(end, Finished) and end.text is not None and end.text != reader.script:
            found.append(f"P2 {who}: finished with {end.text!r}, the script is {reader.script!r}")
        if isinstance(end, Finished) and end.cached and not (reader.may_be_kept and end.usage == Usage()):
            found.append(f"P7 {who}: a kept answer for who did not want one, or one that is booked again: {end.usage}")
    if len({_word(one) for one in said if one.recorded}) > 1:
        found.append(f"P1 {who}: ends differ: {[_word(one) for one in said]}")
    end = reader.end
    # Without its text an end says how far it goes, so a reader sees what died with the selector on its way here.
    whole = isinstance(end, Finished) and (end.text is not None or end.last_seq < reader.next_seq)
    if isinstance(end, Finished) and whole and reader.stream and not reader.harmed:
        if reader.text != reader.script:
            found.append(f"P2 {who}: holds {reader.text!r} at the end, the script is {reader.script!r}")
        if end.seams != reader.seams or end.last_seq != reader.next_seq - 1:
            found.append(f"P2 {who}: {reader.seams} seams seen of {end.seams}, last_seq {end.last_seq}")
    return found


def _durable(world: World, reader: Reader, seqs: dict[str, int]) -> list[str]:
    """What is said as recorded is on the disk, unless another says it for a selector that did not live to.

    The disk that is looked at is that of the moment when the end was heard, a little after it was said.
    """
    end = reader.end
    if end is None or not end.recorded or overlapping(world, reader):
        return []
    seq = seqs.get(end.run_id or "", 0)
    if seq <= reader.synced_seq:
        return []
    return [f"P3 {reader.name} run {end.run_id}: recorded at {seq}, on the disk is only {reader.synced_seq}"]


def _word(end: Finished | Failed) -> str:
    """The recorded outcome; `text_lost` is how a single reply hears of a `finished` whose text died."""
    return "finished" if isinstance(end, Finished) or end.code == "text_lost" else end.code


def owed(world: World, reader: Reader, made: dict[str, SelectionMade]) -> bool:
    """Whether P1 promises this reader an end: selected, still listening, and at most one hard fault in its time.

    What the simulated bus itself lost on the last hop is no promise of ours.
    """
    mine = [one for one in made.values() if one.reply == reader.inbox]
    if reader.gone or not mine or (reader.end_lost and reader.end is None):
        return False
    hard = overlapping(world, reader)
    return len(hard) <= 1


def overlapping(world: World, reader: Reader) -> list[Hard]:
    """Hard faults in a reader's time, and shortly before."""
    late_s = max(reader.asked_s + reader.deadline_s, world.strikes.back_s) + GRACE_S
    until = reader.ended_s if reader.end is not None else late_s
    return [h for h in world.strikes.hard if h.from_s <= until and h.until_s + GRACE_S >= reader.asked_s]


def _patience(world: World, ends: list[RequestEnded]) -> list[str]:
    """A model that says nothing is left at its limit, whichever attempt it is; while nobody hears, nobody is blamed."""
    deaf = {h.who for h in world.strikes.hard if h.fault in ("selector hang", "selector cut off", "outage")}
    if any(fault == "slow bus" for fault, _ in world.hits):  # one's own heartbeats come late, which counts as deafness
        return []
    limit_ms = world.topology.latency["interactive"].first_token_ms
    return [
        f"P1 run {end.run_id}: silent {attempt.model} was waited for {attempt.total_ms:.0f} ms, the limit is {limit_ms}"
        for end in ends
        if not deaf & {end.instance, "server"}
        for attempt in end.attempts
        if attempt.first_token_ms is None and attempt.total_ms > limit_ms + TOLERANCE_MS
    ]


def _announced(events: list[tuple[int, Event]]) -> list[str]:
    """Health changes follow from one another: each says truly what was."""
    status: dict[str, str] = {}
    found: list[str] = []
    for seq, event in events:
        word = {ModelDegraded: "degraded", ModelUnavailable: "unavailable", ModelRecovered: "healthy"}.get(type(event))
        if word is None or not isinstance(event, ModelDegraded | ModelUnavailable | ModelRecovered):
            continue
        if event.was != status.get(event.model, "healthy") or event.was == word:
            found.append(f"health {event.model} at {seq}: {event.was} -> {word}, was {status.get(event.model)}")
        status[event.model] = word
    return found
