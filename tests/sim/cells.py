"""The table of faults and conduct states: what history can do to a run, and when. One cell is one pair.

A run's state, read from its selector's `Conduct`:

asking     the current attempt is asked, no runner has said that it runs it, and no seam waits
waiting    a runner runs it, no text has come, and no seam waits
speaking   text has come, the attempt goes on
queued     no model has room: it waits in the queue of one
resting    no runner of the models left is there: all are asked again after a while
seam       text of an attempt that failed is out, the next attempt has not spoken: a seam waits for its first word
ending     the end is on its way into the log
ended      the end is stored and said, but has not reached the reader
"""

from __future__ import annotations

from typing import Literal

from understudy.actors.selector import keeping
from understudy.actors.selector.conduct import Conduct

State = Literal["asking", "waiting", "speaking", "queued", "resting", "seam", "ending", "ended"]
STATES: tuple[State, ...] = ("asking", "waiting", "speaking", "queued", "resting", "seam", "ending", "ended")

HARD = (
    "selector crash",
    "selector hang",
    "runner crash",
    "runner hang",
    "selector cut off",
    "runner cut off",
    "outage",
)
"""Crashes, hangs and cuts: P1 is promised under any single one."""

FAULTS: dict[str, str] = {
    "selector crash": "kill -9 of the selector that conducts the run; it starts again a while later",
    "selector hang": "SIGSTOP of that selector for up to 3 s",
    "runner crash": "kill -9 of the runner of the current attempt's model",
    "runner hang": "SIGSTOP of that runner for up to 3 s",
    "tracker crash": "kill -9 of the health tracker",
    "selector cut off": "the selector's connection is cut, unnoticed for 2 s, then down until it reconnects",
    "runner cut off": "the runner's connection is cut",
    "outage": "kill -9 of the server, started again up to 1.5 s later",
    "log refuses": "the log is at its limit for a while",
    "log unheard": "what is stored is stored, but the log's answers are lost for a while",
    "lost": "the run's next message on the bus is lost",
    "doubled": "its next message arrives twice",
    "overtaken": "its next message arrives late, those after it before it",
    "slow bus": "half of all messages take 10 to 500 ms for a while",
    "status": "the provider answers with an HTTP 500",
    "stall": "the provider says nothing more and keeps the connection",
    "broken": "the provider's stream ends without its terminator",
    "busy": "the runner has no free slot",
    "empty": "the provider reports success without any content",
    "slow first": "the first token takes 0.1 to 1 s; the limit is 0.6 s",
    "caller leaves": "the reader's inbox is closed",
    "caller cancels": "the reader sends `cancel`",
}

UPSTREAM = ("status", "stall", "broken", "empty", "slow first", "busy")
"""What a provider or a runner answers to an attempt."""

_OVER = "the provider's call is over before the run's end is on its way"
_REST = "no attempt is under way"
_QUEUED = "its runner has not asked the provider yet"
_SPOKEN = "the first token is out"

UNREACHABLE: dict[tuple[str, State], str] = {
    **{(fault, state): _OVER for fault in UPSTREAM for state in ("ending", "ended")},
    **{(fault, "resting"): _REST for fault in UPSTREAM},
    **{(fault, "queued"): _QUEUED for fault in UPSTREAM},
    ("status", "speaking"): "an HTTP status comes before any text; a later error breaks the stream",
    ("empty", "speaking"): _SPOKEN,
    ("slow first", "speaking"): _SPOKEN,
    ("busy", "waiting"): "a runner says busy instead of admitting; this attempt is admitted",
    ("busy", "speaking"): "a runner says busy instead of admitting; this attempt is admitted",
}
"""Cells that cannot happen, each with the reason."""

CELLS: tuple[tuple[str, State], ...] = tuple((f, s) for f in FAULTS for s in STATES if (f, s) not in UNREACHABLE)

DRAWN: tuple[tuple[str, State], ...] = CELLS + tuple(
    (f, s)
    for f, s in CELLS
    for _ in range(1 + (f in HARD) * (1 + (s == "waiting")) + 3 * (s == "queued") + (s in ("seam", "ended", "ending")))
)
"""What plans are drawn from: cells that are hard to hit, or that half of the histories have but once, more often."""


def state_of(run: Conduct) -> State | Literal["looking"]:
    """Where a living run stands. Nothing is aimed at one that waits for the response cache: it does so for moments."""
    if run.ending is not None:
        return "ending"
    if keeping.looking(run):
        return "looking"
    if run.resting:
        return "resting"
    if run.room.queued:
        return "queued"
    if run.seam is not None:
        return "seam"
    if run.pieces:
        return "speaking"
    return "waiting" if run.runner else "asking"


def table(hits: dict[tuple[str, State], int]) -> str:
    """The table as text: hits per cell, `-` where unreachable, and the reasons below."""
    lines = [f"{'':18}" + "".join(f"{state:>10}" for state in STATES)]
    for fault in FAULTS:
        row = ("-" if (fault, s) in UNREACHABLE else str(hits.get((fault, s), 0)) for s in STATES)
        lines.append(f"{fault:18}" + "".join(f"{one:>10}" for one in row))
    lines.append("")
    lines += [f"- {fault} x {state}: {why}" for (fault, state), why in UNREACHABLE.items()]
    return "\n".join(lines)
