"""What is wanted of the log: by time, subject, model, task, run; and what of it the server can pick out itself.

Times are the server's store times; a range of them is turned into positions before anything is read, so the last ten
minutes cost what they hold, however long the log is. Subjects are the server's to pick; who is meant stands inside the
events, and is looked for here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import msgspec

from understudy.bus.history import stored_batches
from understudy.bus.port import Bus, Received
from understudy.bus.subjects import evt_stream, matches
from understudy.messages.columns import Facts, facts_of, is_about
from understudy.messages.run_ids import SKEW_MS, begun_ms

_WORD = r"(?:[A-Za-z0-9_-]+|\*)"
_SUBJECT = re.compile(rf"{_WORD}(?:\.{_WORD})*(?:\.>)?|>")
_NAME = re.compile(r"[a-z_]+\.[a-z_]+")


class BadQuery(ValueError):
    """A query that nobody can answer; `path` names the part that is wrong, the text says what would be right."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(text)
        self.path, self.text = path, text


class LogQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything after `after_seq`, stored at `since_ms` or later and before `until_ms` (Unix milliseconds, 0: no
    bound), on one of `subjects` (none: on any), about this model, task and run (None: any).

    A subject is written without `<app>.evt.` before it or with; `request.ended` stands for it with any key as well.
    """

    since_ms: int = 0
    until_ms: int = 0
    after_seq: int = 0
    subjects: tuple[str, ...] = ()
    model: str | None = None
    task: str | None = None
    run_id: str | None = None

    def __post_init__(self) -> None:
        """Raises BadQuery."""
        for n, subject in enumerate(self.subjects):
            if not _SUBJECT.fullmatch(subject):
                raise BadQuery(
                    f"subjects[{n}]", f"{subject!r} is no subject: words between dots, `*` for one, a last `>` for all"
                )
        if self.after_seq < 0:
            raise BadQuery(
                "after_seq", f"{self.after_seq} is no position of the log: they count from 1; 0 is before all"
            )
        if self.until_ms and self.until_ms <= self.since_ms:
            raise BadQuery("until", "`until` has to be later than `since`")
        if self.run_id is not None and begun_ms(self.run_id) is None:
            raise BadQuery("run_id", f"{self.run_id!r} is no run id: 26 digits and capital letters, as `started` says")

    def patterns(self, app: str) -> list[str]:
        """The subjects for the server, none of which covers another. Raises BadQuery for two that overlap."""
        prefix, found = f"{app}.evt.", list[str]()
        for subject in self.subjects or (">",):
            name = subject.removeprefix(prefix)
            found += [prefix + name, f"{prefix}{name}.*"] if _NAME.fullmatch(name) else [prefix + name]
        found = [a for n, a in enumerate(found) if not any(_covers(b, a, m < n) for m, b in enumerate(found) if m != n)]
        for n, one in enumerate(found):
            other = next((b for b in found[:n] if _overlap(one, b)), None)
            if other is not None:
                raise BadQuery("subjects", f"{other} and {one} overlap: name one that covers both")
        return found

    def begins_ms(self) -> int:
        """Nothing that is wanted was stored before (Unix milliseconds); 0: who knows."""
        begun = begun_ms(self.run_id) if self.run_id is not None else None
        return self.since_ms if begun is None else max(self.since_ms, begun - SKEW_MS, 1)

    @property
    def looks_inside(self) -> bool:
        """Whether the events themselves have to be looked at."""
        return (self.model, self.task, self.run_id) != (None, None, None)

    def wants(self, facts: Facts) -> bool:
        """Is it about what is asked for?"""
        return is_about(facts, self.model, self.task, self.run_id)


def _covers(a: str, b: str, equal: bool) -> bool:
    """Does a pattern receive all that another does? For equal ones `equal` decides."""
    if a == b:
        return equal
    return matches(a, b) and (a.endswith(">") or not b.endswith(">"))  # `*` takes one word, and that is no `>`


def _overlap(a: str, b: str) -> bool:
    """May one subject meet both patterns?"""
    mine, yours = a.split("."), b.split(".")
    for x, y in zip(mine, yours, strict=False):
        if ">" in (x, y):
            return True
        if "*" not in (x, y) and x != y:
            return False
    return len(mine) == len(yours)


class Found(NamedTuple):
    """What is wanted of the log up to a position; perhaps nothing."""

    upto_seq: int
    messages: list[Received]


class Span(NamedTuple):
    """Positions: after the one, up to and with the other."""

    after_seq: int
    upto_seq: int


async def span_of(bus: Bus, app: str, query: LogQuery) -> Span:
    """The positions that the query's times stand for, up to what is the head of the log now. Raises BusError."""
    stream = evt_stream(app)
    head = await bus.last_seq(stream)

    async def before(at_ms: int) -> int:
        first = await bus.get(stream, 0, since_ms=at_ms)
        return head if first is None else min(head, first.seq - 1)

    begins_ms = query.begins_ms()
    after = max(query.after_seq, await before(begins_ms)) if begins_ms else query.after_seq
    return Span(after, await before(query.until_ms) if query.until_ms else head)


async def matching(bus: Bus, app: str, query: LogQuery, span: Span, *, follow: bool = False) -> AsyncIterator[Found]:
    """What the query asks for within the span, in order, as many at a time as have come.

    `follow`: then what comes. Raises BadQuery, BusDown.
    """
    if span.after_seq >= span.upto_seq and not follow:
        return
    batches = stored_batches(
        bus,
        evt_stream(app),
        query.patterns(app),
        after_seq=span.after_seq,
        upto_seq=None if follow else span.upto_seq,
        follow=follow,
    )
    async for batch in batches:
        if query.looks_inside:
            batch, seen = [one for one in batch if query.wants(facts_of(one.payload))], batch[-1].seq
            yield Found(seen, batch)
        else:
            yield Found(batch[-1].seq, batch)
