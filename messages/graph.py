"""The performance graph: what the operator asks of the projector, and what goes between its step and its edge.

A graph lives in one of two halves of a database, told apart by the prefix of their labels (`HALVES`): one serves, the
other is empty or being built beside it. One `Projection` node says which is which and up to where each reflects the
log; whoever holds the lease, by the newest fence, writes.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from understudy.messages.base import Ask, Message
from understudy.messages.events import Event
from understudy.messages.units import Count

HALVES = ("Pm", "Pm2")
"""The prefixes of all labels. `Pm` is the one that serves until a rebuild is done for the first time."""

GraphState = Literal["off", "opening", "held", "projecting", "trouble"]


class AskGraphStatus(Ask, tag="graph.status.v1", frozen=True, kw_only=True):
    """How does the graph stand?"""


class RebuildGraph(Ask, tag="graph.rebuild.v1", frozen=True, kw_only=True):
    """Build the graph anew from the log, beside the one that serves, and let it take that one's place when it is
    done. Answered at once; `graph.status` tells how far it is."""


class SumGraph(Ask, tag="graph.sum.v1", frozen=True, kw_only=True):
    """Read all of the graph that serves and tell its checksum; nothing is written meanwhile."""


class GraphStatus(Message, tag="graph.told.v1", frozen=True, kw_only=True):
    """The answer to `AskGraphStatus` and to `RebuildGraph`.

    `seq` of `head`: so far the graph reflects the log; `lag_s`: how old the newest event in it is, while it is behind.
    `schema`: of the half that serves, `building_seq`: of the one that is being built. `gaps`: so many events that
    retention took before they were read.
    """

    state: GraphState
    home: str = ""  # URI, without a password
    prefix: str = ""
    stream: str = ""
    epoch: str = ""  # when the stream was created: another log is another graph
    schema: str = ""
    seq: Count = 0
    head: Count = 0
    lag_events: Count = 0
    lag_s: float = 0.0
    building: str = ""
    building_seq: Count = 0
    fence: Count = 0
    holder: str = ""
    gaps: Count = 0
    unknown: Count = 0  # events that could not be read
    batches: Count = 0  # written by this process
    trouble: str = ""


class GraphSum(Message, tag="graph.summed.v1", frozen=True, kw_only=True):
    """The answer to `SumGraph`: sha256 over all nodes and relations, and how many there are of each kind."""

    seq: Count
    epoch: str
    checksum: str
    counts: dict[str, Count]


# --- between step and edge -------------------------------------------------------------------------------------------


class Incident(Struct):
    """A time in which a model or a provider was not well. `until`: 0 while it lasts. Times in Unix milliseconds."""

    key: str
    subject: str  # a model's id, or a provider's name
    kind: str  # degraded, unavailable, exhausted, drifted
    reason: str
    at: int
    until: int = 0
    n: int = 1  # announcements


class Half(Struct, frozen=True):
    """One half as the Projection node has it. `day`: of the newest event, days since 1970 (UTC)."""

    prefix: str
    epoch: str = ""
    schema: str = ""
    seq: int = 0
    day: int = 0
    incidents: tuple[Incident, ...] = ()
    written: dict[str, Any] = {}  # its models by id, as `actors/projector/rows.py`: Facts


class Fact(Struct, frozen=True):
    """One event of the log. `stored_ms`: when the server stored it (Unix milliseconds); 0: nobody knows."""

    seq: int
    event: Event
    stored_ms: int = 0


class OpenGraph(Struct, frozen=True):
    """Connect, make constraints, take the lease. Comes back as `GraphOpened`, `GraphHeld` or `GraphTrouble`."""

    holder: str
    lease_ms: int


class GraphOpened(Struct, frozen=True):
    """The lease is ours. `building`: a half that somebody began to build."""

    at_ms: float
    fence: int
    serving: Half
    building: Half | None
    stream: str
    epoch: str  # the stream's, now
    first_seq: int
    head: int


class GraphHeld(Struct, frozen=True):
    """Somebody else has the lease."""

    at_ms: float
    holder: str
    until_ms: int


class GraphTrouble(Struct, frozen=True):
    """The graph cannot be reached, refuses, or has another writer; what was being written may or may not be there."""

    at_ms: float
    text: str


class LogTrouble(Struct, frozen=True):
    """The log cannot be read now."""

    at_ms: float
    prefix: str
    text: str


class ReadCatalogue(Struct, frozen=True):
    """Read the facts about models up to `upto`, and nothing else. Comes back as `CatalogueRead`."""

    prefix: str
    upto: int


class CatalogueRead(Struct, frozen=True):
    """What a fold at that position knows of models."""

    at_ms: float
    prefix: str
    facts: tuple[Fact, ...]


class ReadLog(Struct, frozen=True):
    """Read events after a position. Comes back as `LogRead`."""

    prefix: str
    after_seq: int
    at_most: int


class LogRead(Struct, frozen=True):
    """Events in order, of those that the graph folds; `after_seq`: as it was asked for; `upto`: the last position that
    was looked at, `head`: the log's.

    `first_seq`: where the log begins; `unknown`: events of these kinds that could not be read.
    """

    at_ms: float
    prefix: str
    after_seq: int
    facts: tuple[Fact, ...]
    upto: int
    head: int
    first_seq: int
    unknown: int = 0


class WriteRows(Struct, frozen=True):
    """Write a batch: all of it or nothing, and only where the half is still at `have` and the fence is ours.

    Comes back as `RowsWritten` or `GraphTrouble`.
    """

    prefix: str
    fence: int
    have: int
    upto: int
    day: int
    rows: Any  # `actors/projector/rows.py`: Rows


class RowsWritten(Struct, frozen=True):
    """It is in the graph."""

    at_ms: float
    prefix: str
    upto: int


class RenewLease(Struct, frozen=True):
    """Nothing to write, but we are here. Comes back as `GraphTrouble` where the lease is no longer ours."""

    fence: int
    lease_ms: int


class BeginHalf(Struct, frozen=True):
    """Empty a half and begin to build it, at the beginning of the log. Comes back as `HalfBegun` or `GraphTrouble`."""

    prefix: str
    fence: int
    epoch: str
    schema: str


class HalfBegun(Struct, frozen=True):
    """It is empty."""

    at_ms: float
    prefix: str


class SwapHalves(Struct, frozen=True):
    """The half that was built serves from here on. Comes back as `HalvesSwapped` or `GraphTrouble`."""

    prefix: str
    fence: int
    have: int


class HalvesSwapped(Struct, frozen=True):
    """It serves."""

    at_ms: float
    prefix: str


class SumHalf(Struct, frozen=True):
    """Read a half. Comes back as `HalfSummed` or `GraphTrouble`."""

    prefix: str


class HalfSummed(Struct, frozen=True):
    """See `GraphSum`."""

    at_ms: float
    prefix: str
    checksum: str
    counts: dict[str, int]


class EmptyHalf(Struct, frozen=True):
    """Delete what is left of the half that no longer serves. Comes back as `HalfEmptied` or `GraphTrouble`."""

    prefix: str
    fence: int


class HalfEmptied(Struct, frozen=True):
    """Nothing is left of it."""

    at_ms: float
    prefix: str


GraphWork = OpenGraph | ReadCatalogue | ReadLog | WriteRows | RenewLease | BeginHalf | SwapHalves | EmptyHalf | SumHalf
GraphSaid = (
    GraphOpened
    | GraphHeld
    | GraphTrouble
    | LogTrouble
    | CatalogueRead
    | LogRead
    | RowsWritten
    | HalfBegun
    | HalvesSwapped
    | HalfEmptied
    | HalfSummed
)
