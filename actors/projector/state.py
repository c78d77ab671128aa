"""What a projector knows between two inputs, and what it is told by the topology."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from understudy.actors.projector.cypher import schema_name
from understudy.actors.projector.place import Retention
from understudy.actors.projector.rows import Folding
from understudy.messages.graph import Fact, GraphOpened, GraphState


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Retention in days by the events' own times; a change of it builds the graph anew.

    A batch ends with its day; with a part of the log, `read_at_once` events, after which it has `rows_at_once` or
    `events_at_once`; and where there are no more for now, which is looked for every `look_ms`. `uri`, `user`,
    `password`, `database` are set by the supervisor from the topology's `graph`; `missing` says why there is none.
    """

    hourly_days: int = 35
    daily_days: int = 400
    rare_chain_days: int = 7
    read_at_once: Annotated[int, msgspec.Meta(ge=1)] = 1_000
    rows_at_once: Annotated[int, msgspec.Meta(ge=1)] = 4_000
    events_at_once: Annotated[int, msgspec.Meta(ge=1)] = 20_000
    look_ms: float = 500.0
    lease_ms: int = 5_000
    again_ms: float = 1_000.0
    uri: str = ""
    user: str = ""
    password: str = ""
    database: str = ""
    missing: str = ""

    def __post_init__(self) -> None:
        if self.daily_days < self.hourly_days:
            raise ValueError(f"daily_days ({self.daily_days}) must be at least hourly_days ({self.hourly_days})")

    def events(self, *, first: bool) -> int:
        """Enough for a batch. For the first one since the graph was opened a fifth is: nothing is being written yet."""
        return max(1, self.events_at_once // 5) if first else self.events_at_once

    def keep(self) -> Retention:
        """As the graph has it."""
        return Retention(hourly_days=self.hourly_days, daily_days=self.daily_days, rare_chain_days=self.rare_chain_days)

    def schema(self) -> str:
        """What the graph's content depends on beside the log."""
        return schema_name(self.hourly_days, self.daily_days, self.rare_chain_days)


@dataclass(slots=True)
class Work:
    """A half that is being written. Positions of the log: `seq` is in the graph, `folded` in `fold`, `read` here.

    `left`: facts that were read and belong behind the batch that is being folded.
    """

    prefix: str
    seq: int
    fold: Folding | None = None  # None: not known yet
    folded: int = 0
    read: int = 0
    left: list[Fact] = field(default_factory=list[Fact])
    reading: bool = False
    writing: int = 0  # the position that it will reach; 0: nothing is being written
    begun: bool = False  # something was written
    full: bool = False  # a batch is to end here
    folded_ms: int = 0  # of the newest event that was folded
    writing_ms: int = 0  # that is being written
    at_ms: int = 0  # that is in the graph
    at_head: bool = False
    unread: bool = False  # the log could not be read
    near: int = -1  # the log's head when it was reached for the first time; -1: not yet


@dataclass(slots=True)
class State:
    """Everything below `word` is forgotten when anything goes wrong with the graph, and asked for again."""

    holder: str = ""
    word: GraphState = "opening"
    trouble: str = ""
    place: GraphOpened | None = None
    serving: str = ""
    works: dict[str, Work] = field(default_factory=dict[str, Work])
    busy: str = ""  # what the edge does with halves: begin, swap, sum
    sums: list[str] = field(default_factory=list[str])  # who waits for a checksum
    rebuild: bool = False
    head: int = 0
    gaps: int = 0
    unknown: int = 0
    batches: int = 0
    generation: int = 0
    kept_ms: float = 0.0  # when the lease was renewed, by a batch or without one


def in_hand(state: State) -> int:
    """A batch that is being written is worth waiting for."""
    return sum(bool(work.writing) for work in state.works.values())


def forget(state: State, word: GraphState, trouble: str) -> None:
    state.word, state.trouble, state.place, state.busy = word, trouble, None, ""
    state.works.clear()
