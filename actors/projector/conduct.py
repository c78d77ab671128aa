"""The halves that are being written: what is read, folded, written next; when one is built, swapped, summed. Pure."""

from __future__ import annotations

from understudy.actors.projector import cypher
from understudy.actors.projector import rows as folding
from understudy.actors.projector.rows import Folding, Rows
from understudy.actors.projector.state import Settings, State, Work, forget, in_hand
from understudy.messages.graph import (
    HALVES,
    BeginHalf,
    CatalogueRead,
    EmptyHalf,
    GraphOpened,
    GraphSum,
    Half,
    HalfBegun,
    HalfEmptied,
    HalfSummed,
    HalvesSwapped,
    LogRead,
    LogTrouble,
    ReadCatalogue,
    ReadLog,
    RenewLease,
    RowsWritten,
    SumHalf,
    SwapHalves,
    WriteRows,
)
from understudy.messages.step import Effect, Input, Send, Wake

# --- what the edge says ----------------------------------------------------------------------------------------------


def opened(state: State, message: GraphOpened, settings: Settings) -> list[Effect]:
    """The lease is ours: which halves are to be written, and which is to be built?"""
    forget(state, "projecting", "")
    state.place = message
    state.head, state.serving = message.head, message.serving.prefix
    for half in (message.serving, message.building):
        if half is not None and half.prefix and _is_ours(half, message, settings):
            state.works[half.prefix] = Work(half.prefix, half.seq, folded=half.seq, read=half.seq)
    if message.building is not None and message.building.prefix not in state.works:
        state.rebuild = True  # it was begun for a schema or a log that is no longer ours
    state.kept_ms = message.at_ms
    out: list[Effect] = []
    if state.serving in state.works and message.building is None and not state.rebuild:
        state.busy = "empty"  # who was here before may have been killed while emptying it
        out.append(EmptyHalf(_other(state), message.fence))
    return [*out, *go_on(state, settings), _wake(state, message.at_ms, settings)]


def _is_ours(half: Half, place: GraphOpened, settings: Settings) -> bool:
    """Of this log and of this schema, and no further than the log."""
    return half.epoch == place.epoch and half.schema == settings.schema() and half.seq <= place.head


def answered(state: State, message: Input, settings: Settings) -> list[Effect]:
    assert state.place is not None
    match message:
        case HalfBegun():
            state.busy, state.rebuild = "", False
            state.works[message.prefix] = Work(message.prefix, 0, fold=Folding())
            if not state.serving:  # there is nothing better to show
                return _swap(state, message.prefix, 0)
        case HalvesSwapped():
            state.busy = ""
            before, state.serving = state.serving, message.prefix
            state.works.pop(before, None)
            if before:
                state.busy = "empty"
                return [EmptyHalf(before, state.place.fence), *go_on(state, settings)]
        case HalfEmptied():
            state.busy = ""
        case HalfSummed():
            state.busy = ""
            work, place = state.works.get(message.prefix), state.place
            seq = work.seq if work is not None else place.serving.seq
            epoch = place.epoch if work is not None else place.serving.epoch
            said = GraphSum(seq=seq, epoch=epoch, checksum=message.checksum, counts=message.counts)
            waiting, state.sums = state.sums, []
            return [*(Send(reply, said) for reply in waiting if reply), *go_on(state, settings)]
        case CatalogueRead():
            work = state.works.get(message.prefix)
            if work is not None and work.fold is None:
                work.reading, half = False, _half(state, message.prefix)
                work.fold = folding.at_position(message.facts, half)
        case LogRead():
            _take(state, message, settings)
        case LogTrouble():
            state.trouble = message.text
            if (work := state.works.get(message.prefix)) is not None:
                work.reading, work.unread = False, True
            return []  # the next tick asks again
        case RowsWritten():
            if (work := state.works.get(message.prefix)) is not None:
                work.seq, work.writing, work.at_ms = message.upto, 0, work.writing_ms
                state.batches += 1
        case _:
            return []
    return go_on(state, settings)


def _half(state: State, prefix: str) -> Half:
    assert state.place is not None
    building = state.place.building
    return building if building is not None and building.prefix == prefix else state.place.serving


def _take(state: State, read: LogRead, settings: Settings) -> None:
    work = state.works.get(read.prefix)
    if work is None or work.fold is None or read.after_seq != work.read:
        return  # of an order for what was written here before
    work.reading, work.unread, state.trouble = False, False, ""
    if read.first_seq > work.read + 1:
        state.gaps += read.first_seq - work.read - 1
    state.head, state.unknown = max(state.head, read.head), state.unknown + read.unknown
    work.left.extend(read.facts)
    work.read, work.at_head = max(work.read, read.upto), read.upto >= read.head
    if work.at_head and work.near < 0:
        work.near = work.read
    _fold(work, settings)


def _fold(work: Work, settings: Settings) -> None:
    """As far as this batch goes: a new day begins another one."""
    fold = work.fold
    if fold is None or work.full:
        return
    taken = 0
    for fact in work.left:
        if fold.starts_a_day(fact) and len(fold.rows):
            work.full = True
            gone = settings.keep().gone(fold.day)
            fold.rows.ready = list(cypher.batch(fold.rows, gone))  # while the batch before is being written
            break
        fold.take(fact.seq, fact.event, fact.stored_ms)
        work.folded, work.folded_ms = fact.seq, max(work.folded_ms, fact.event.at_ms)
        taken += 1
    del work.left[:taken]
    if not work.left:
        work.folded = max(work.folded, work.read)


# --- what to do next -------------------------------------------------------------------------------------------------


def tick(state: State, at_ms: float, settings: Settings) -> list[Effect]:
    """Look for more, say that we are here."""
    assert state.place is not None
    out: list[Effect] = [_wake(state, at_ms, settings)]
    for work in state.works.values():
        work.at_head = False
    out += go_on(state, settings)
    if at_ms - state.kept_ms > settings.lease_ms / 3:
        state.kept_ms = at_ms
        out.append(RenewLease(state.place.fence, settings.lease_ms))
    return out


def _wake(state: State, at_ms: float, settings: Settings) -> Wake:
    state.generation += 1
    return Wake(at_ms + settings.look_ms, "tick", state.generation)


def go_on(state: State, settings: Settings) -> list[Effect]:
    if state.busy in ("sum", "swap") or state.place is None:
        return []
    if not state.busy:
        out = _halves(state, settings)
        if out:
            return out
    return [effect for work in state.works.values() for effect in _work(state, work, settings)]


def _halves(state: State, settings: Settings) -> list[Effect]:
    """Begin to build, swap, sum: one at a time."""
    assert state.place is not None
    if state.sums and not in_hand(state):
        state.busy = "sum"
        return [SumHalf(state.serving)]
    building = _building(state)
    if building is not None and _is_built(building) and not in_hand(state):
        return _swap(state, building.prefix, building.seq)
    if building is None and (state.rebuild or state.serving not in state.works):
        state.busy = "begin"
        return [BeginHalf(_other(state), state.place.fence, state.place.epoch, settings.schema())]
    return []


def _swap(state: State, prefix: str, have: int) -> list[Effect]:
    assert state.place is not None
    state.busy = "swap"
    return [SwapHalves(prefix, state.place.fence, have)]


def _other(state: State) -> str:
    """The half that does not serve."""
    return next(one for one in HALVES if one != state.serving)


def _building(state: State) -> Work | None:
    return next((one for one in state.works.values() if one.prefix != state.serving), None)


def _is_built(work: Work) -> bool:
    """It has been at the log's head. Where that is now is not asked: on a busy log it would never be there."""
    return 0 <= work.near <= work.seq


def _holds(state: State) -> bool:
    """Nothing more is written until what is under way is there: a sum, or a swap, waits for it."""
    building = _building(state)
    return bool(state.sums) or (building is not None and _is_built(building))


def _work(state: State, work: Work, settings: Settings) -> list[Effect]:
    """Read, unless enough is folded already; write what is enough, or all that there is for now, unless something is
    being written."""
    assert state.place is not None
    found: list[Effect] = []
    if work.fold is None:
        if not work.reading:
            work.reading = True
            found.append(ReadCatalogue(work.prefix, work.seq))
        return found
    due = work.full or work.left or work.at_head or work.unread or _enough(work, settings)
    if not work.writing and not _holds(state) and work.folded > work.seq and due:
        found.append(_write(state, work, settings))
        _fold(work, settings)  # what belonged behind it
    if not work.reading and not work.at_head and not work.full and not _enough(work, settings):
        work.reading = True
        found.append(ReadLog(work.prefix, work.read, settings.read_at_once))
    return found


def _enough(work: Work, settings: Settings) -> bool:
    """For a batch. Fewer are written only where there are no more for now, since many small batches cost more."""
    assert work.fold is not None
    events = work.folded - (work.writing or work.seq)
    return len(work.fold.rows) >= settings.rows_at_once or events >= settings.events(first=not work.begun)


def _write(state: State, work: Work, settings: Settings) -> WriteRows:
    assert state.place is not None and work.fold is not None
    rows: Rows = work.fold.cut()
    work.writing, work.writing_ms, work.full, work.begun = work.folded, work.folded_ms, False, True
    return WriteRows(
        prefix=work.prefix,
        fence=state.place.fence,
        have=work.seq,
        upto=work.folded,
        day=work.fold.day,
        rows=rows,
    )
