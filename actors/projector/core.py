"""Fold the log into the performance graph, exactly once, and say how far that is. Pure.

One projector at a time holds the graph's lease. It reads the log by position, folds a batch while the one before is
being written, and goes on from where the graph itself says it is: after any trouble all that is in memory is thrown
away and read again. A graph of another log, of another schema, or of an order to rebuild is built in the other half of
the database while the present one serves; then the two change places.
"""

from __future__ import annotations

from understudy.actors.projector import conduct
from understudy.actors.projector import rows as folding
from understudy.actors.projector.state import Settings, State, forget, in_hand
from understudy.messages.base import Ask, Message
from understudy.messages.generate import Failed
from understudy.messages.graph import (
    AskGraphStatus,
    GraphHeld,
    GraphOpened,
    GraphStatus,
    GraphTrouble,
    OpenGraph,
    RebuildGraph,
    SumGraph,
)
from understudy.messages.step import Asked, Booted, EdgeReady, Effect, Input, Send, Stopping, Wake, Woke

__all__ = ["ASKS", "EMITS", "FOLDS", "HEARS", "SENDS", "Settings", "State", "in_hand", "step"]

ASKS: dict[str, type[Ask | Message]] = {
    "graph.status": AskGraphStatus,
    "graph.rebuild": RebuildGraph,
    "graph.sum": SumGraph,
}
HEARS = ()
FOLDS = ()
EMITS = ()
SENDS = ()
PROJECTS = folding.FOLDS + folding.CATALOGUE
"""What it reads of the log by itself: the graph knows its position, so no fold of this process has to."""


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out; `state` is changed in place and by nobody else."""
    match message:
        case Booted():
            state.holder = f"{message.instance}.{message.id}"
            return []
        case EdgeReady():
            if settings.missing:
                state.word, state.trouble = "off", settings.missing
                return []
            return _open(state, settings)
        case Asked():
            return _asked(state, message, settings)
        case Stopping():
            forget(state, "off", "stopping")  # the edge gives the lease back
            return _tell_sums(state)
        case GraphHeld():
            forget(state, "held", f"{message.holder} projects; its lease ends at {message.until_ms}")
            return _again(state, message.at_ms, settings)
        case GraphTrouble():
            forget(state, "trouble", message.text)
            return _again(state, message.at_ms, settings)
        case Woke(key="open"):
            return _open(state, settings)
        case GraphOpened():
            return conduct.opened(state, message, settings)
        case _ if state.place is None:
            return []  # of a time before the trouble
        case Woke():
            return conduct.tick(state, message.at_ms, settings)
        case _:
            return conduct.answered(state, message, settings)


def _open(state: State, settings: Settings) -> list[Effect]:
    return [OpenGraph(state.holder, settings.lease_ms)]


def _again(state: State, at_ms: float, settings: Settings) -> list[Effect]:
    state.generation += 1
    return [*_tell_sums(state), Wake(at_ms + settings.again_ms, "open", state.generation)]


def _tell_sums(state: State) -> list[Effect]:
    """Who waits for a checksum waits in vain."""
    waiting, state.sums = state.sums, []
    failed = Failed(code="internal", text=f"the graph was lost meanwhile: {state.trouble}")
    return [Send(reply, failed) for reply in waiting if reply]


# --- asks ------------------------------------------------------------------------------------------------------------


def _asked(state: State, asked: Asked, settings: Settings) -> list[Effect]:
    match asked.message:
        case RebuildGraph():
            if state.place is None:
                return _refuse(asked, f"the graph is not at hand: {state.word}, {state.trouble}")
            state.rebuild = True
            out = conduct.go_on(state, settings)
            return [*out, *_tell(asked, status(state, asked.at_ms, settings))]
        case SumGraph():
            if state.place is None or not state.serving:
                return _refuse(asked, f"there is no graph to read: {state.word}, {state.trouble}")
            if _schema(state, settings) != settings.schema():
                text = (
                    f"the graph that serves has schema {_schema(state, settings)}; {settings.schema()} is being built"
                )
                return _refuse(asked, text)
            state.sums.append(asked.reply)
            return conduct.go_on(state, settings)
        case _:
            return _tell(asked, status(state, asked.at_ms, settings))


def _schema(state: State, settings: Settings) -> str:
    """Of the half that serves: an older one until that of ours is built."""
    if state.place is None or state.serving in state.works:
        return settings.schema()
    return state.place.serving.schema or settings.schema()


def _tell(asked: Asked, message: Message) -> list[Effect]:
    return [Send(asked.reply, message)] if asked.reply else []


def _refuse(asked: Asked, text: str) -> list[Effect]:
    return _tell(asked, Failed(code="internal", text=text))


def status(state: State, at_ms: float, settings: Settings) -> GraphStatus:
    """How it stands."""
    place, work = state.place, state.works.get(state.serving)
    building = next((one for prefix, one in state.works.items() if prefix != state.serving), None)
    seq = work.seq if work is not None else place.serving.seq if place is not None else 0
    behind = max(0, state.head - seq) if place is not None else 0
    newest = 0 if work is None else work.at_ms or work.folded_ms  # the graph's own is not known before the first batch
    return GraphStatus(
        state=state.word,
        home=settings.uri,
        prefix=state.serving,
        stream="" if place is None else place.stream,
        epoch="" if place is None else place.epoch,
        schema=_schema(state, settings),
        seq=seq,
        head=state.head,
        lag_events=behind,
        lag_s=round(max(0.0, at_ms - newest) / 1000, 3) if behind and newest else 0.0,
        building="" if building is None else building.prefix,
        building_seq=0 if building is None else building.seq,
        fence=0 if place is None else place.fence,
        holder=state.holder if place is not None else "",
        gaps=state.gaps,
        unknown=state.unknown,
        batches=state.batches,
        trouble=state.trouble,
    )
