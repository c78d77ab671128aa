"""What we booked without knowing, compared with the provider's own record of it, off every request's path. Pure.

A charge that names a `generation` is asked for a while after it was booked, and again after twice as long each time, as
a record may come late (of a stream that was cut, minutes). What no record tells within a day stays as it was booked.
"""

from __future__ import annotations

from understudy.actors.cost_ledger.book import Unproven
from understudy.actors.cost_ledger.state import Look, Settings, State
from understudy.messages.cost import CostReconciled
from understudy.messages.money import usd_of
from understudy.messages.records import Record, RecordOrder
from understudy.messages.slugs import slug
from understudy.messages.step import Effect, Send, Store

AT_ONCE = 4
ANSWER_MS = 30_000.0
"""So long an answer is waited for; the edge gives up earlier."""
LONGEST_MS = 3_600_000.0
INBOX = "run"


def look(state: State, now: float, settings: Settings) -> list[Effect]:
    """Ask for some of those whose time has come."""
    book, out = state.book, list[Effect]()
    for gone in [key for key in state.looks if key not in book.unproven]:
        del state.looks[gone]
    free = AT_ONCE - sum(one.until_ms > now for one in state.looks.values())
    for key, one in book.unproven.items():
        if free <= 0:
            break
        known = state.looks.setdefault(key, Look(next_ms=one.at_ms + settings.reconcile_ms))
        if known.next_ms <= now and known.until_ms <= now:
            out.append(_ask(state, key, one, known, now, settings))
            free -= 1
    return out


def _ask(state: State, key: str, one: Unproven, known: Look, now: float, settings: Settings) -> Send:
    known.tries, known.until_ms = known.tries + 1, now + ANSWER_MS
    known.next_ms = now + min(settings.reconcile_ms * 2**known.tries, LONGEST_MS)
    order = RecordOrder(record_id=key, generation=one.generation)
    subject = f"{state.app}.ask.runner.record.{slug(one.held.provider)}"
    return Send(subject, order, reply=f"{state.inbox}.{INBOX}.{key}")


def unheard(state: State, subject: str) -> None:
    """The runner is not there."""
    _over(state, subject.partition(f".{INBOX}.")[2])


def hear(state: State, record: Record, now: float) -> list[Effect]:
    """A record, or why there is none. The log keeps one answer per attempt."""
    _over(state, record.record_id)
    one = state.book.unproven.get(record.record_id)
    if one is None or record.cost_usd is None:
        return []
    event = CostReconciled(
        at_ms=int(now),
        run_id=one.held.run_id,
        attempt=one.held.attempt,
        model=one.held.model,
        cost_usd=record.cost_usd,
        was_usd=usd_of(one.pusd),
        generation=one.generation,
    )
    return [Store(event, f"reconciled.{record.record_id}")]


def _over(state: State, key: str) -> None:
    known = state.looks.get(key)
    if known is not None:
        known.until_ms = 0.0
