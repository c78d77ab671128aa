"""Who of those that want a provider may start, and who is next: slots, limits, lanes, turns, a bounded queue. Pure.

All requests for a provider pass through its one process, so everything here is exact for any number of selectors.

* A class may start up to its share of every limit and of a model's slots, and so many at once as its lane allows; it
  may wait in up to the same share of the queue, by number and by bytes.
* Critical overtakes everybody. Among the others the higher class is first, but one of a lower class that has waited for
  `AGE_MS` gets every fourth turn of the higher at least, also above its own share: the turn is taken either way. Where
  nobody higher waits its share holds, so that what is kept free for critical ones stays free.
* Within a class users take turns, whatever each has waiting; who comes new stands behind all who wait.
* Whose turn it is waits for tokens, and everybody behind with it: else a long request would wait for ever.

Nobody waits who could start: whoever comes while others wait stands among them for a moment (`wait`, `next`, `stays`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from understudy.actors.runner.windows import Windows
from understudy.messages.limits import PRIORITIES, QUEUE, QUEUE_BYTES, SHARES, Lanes, Limits, Priority

AGE_MS = 5_000.0
"""Long beside an answer of a few seconds, short beside the 60 s that a request may take in all: who waits so long is
being passed over, and still has time for its answer."""
TURNS = 4
"""Of so many turns that a lower class could have had, it gets one: the higher class keeps three quarters."""
NO_LIMIT = 2**62
CRITICAL, LOWEST = 0, len(PRIORITIES) - 1
LANE: dict[Priority, int] = {word: n for n, word in enumerate(PRIORITIES)}


class Ticket(NamedTuple):
    """One who waits. `tokens`: what it reserves; `size`: its bytes."""

    call_id: str
    model: str
    lane: int
    user: str
    tokens: int
    since_ms: float
    size: int


class _Caps(NamedTuple):
    """Up to where a class may use what all models share."""

    concurrent: int
    requests: int
    tokens: int
    at_once: int


Group = deque[Ticket]
Groups = dict[tuple[str, str], Group]  # by user and model, each in order of arrival
Key = tuple[int, str]  # lane and model


@dataclass(slots=True)
class _Lane:
    """Those of one class who wait. A user's turn is a number: the lowest is next, and each start sets it behind all."""

    groups: Groups
    turns: dict[str, int]  # users who wait
    now: int = 0  # the last turn that was served

    def add(self, ticket: Ticket) -> None:
        self.turns.setdefault(ticket.user, self.now + 1)
        self.groups.setdefault((ticket.user, ticket.model), deque()).append(ticket)

    def remove(self, ticket: Ticket) -> None:
        group = self.groups[ticket.user, ticket.model]
        group.remove(ticket)
        if not group:
            del self.groups[ticket.user, ticket.model]
        if not any(user == ticket.user for user, _ in self.groups):
            del self.turns[ticket.user]

    def serve(self, ticket: Ticket) -> None:
        self.now = max(self.now, self.turns[ticket.user])
        self.turns[ticket.user] = self.now + 1
        self.remove(ticket)


class Admission:
    """The state of one provider's process. What it says may start counts as running until `end`."""

    def __init__(
        self,
        slots: dict[str, int],
        limits: Limits | None = None,
        lanes: Lanes | None = None,
        queue: int = QUEUE,
        queue_bytes: int = QUEUE_BYTES,
        others: int = 0,
    ) -> None:
        """`slots`: per model, `others`: of each model that is not among them; without `limits` there are no others."""
        limits, lanes = limits or Limits(), lanes or Lanes()
        plans = [lanes.critical, lanes.high, lanes.low, lanes.best_effort]
        shares = [plan.share or SHARES[word] for plan, word in zip(plans, PRIORITIES, strict=True)]
        self._caps = [_caps(limits, share, plan.at_once) for plan, share in zip(plans, shares, strict=True)]
        self._slots = {model: tuple(_part(n, share) for share in shares) for model, n in slots.items()}
        self._others = tuple(_part(others, share) for share in shares) if others else None
        self.counts_tokens = limits.tokens_per_min is not None
        self.shared = limits.concurrent is not None  # models take room from each other
        self._windows = Windows() if limits.requests_per_min or limits.tokens_per_min else None
        self._lanes = [_Lane({}, {}) for _ in PRIORITIES]
        self._passed: dict[Key, int] = {}  # turns that aged ones saw go by
        self._closed: dict[str, float] = {}  # model ('': all) -> until when
        self._room = [_part(queue, share) if queue else 0 for share in shares]
        self._room_bytes = [_part(queue_bytes, share) for share in shares]
        self._bytes = 0  # of all that wait
        self._mean_ms = 0.0  # how long calls take, lately
        self._running = [0] * len(PRIORITIES)
        self.busy = dict.fromkeys(slots, 0)
        self.tickets: dict[str, Ticket] = {}

    def serves(self, model: str) -> bool:
        """Is there room for it at all?"""
        return model in self._slots or self._others is not None

    # --- coming and going ------------------------------------------------------------------------------------------

    def start(self, call_id: str, model: str, priority: Priority, tokens: int, now: float, probe: bool = False) -> bool:
        """May it start at once, where nobody waits? A probe is of the lowest class."""
        lane = LOWEST if probe else LANE[priority]
        if self._windows is not None:
            self._windows.slide(now)
        if self.tickets or not self._may(lane, lane, model, now) or not self._fits(tokens, lane):
            return False
        self._begin(call_id, model, lane, tokens, now)
        return True

    def wait(
        self, call_id: str, model: str, priority: Priority, user: str, tokens: int, now: float, size: int = 0
    ) -> None:
        """Stand among those who wait; see `stays`."""
        ticket = self.tickets[call_id] = Ticket(call_id, model, LANE[priority], user, tokens, now, size)
        self._lanes[ticket.lane].add(ticket)
        self._bytes += size

    def stays(self, call_id: str) -> bool:
        """May the one who came last go on waiting? Not where its class's share of the queue is full, nor where its turn
        would never come."""
        ticket = self.tickets[call_id]
        lane, room = ticket.lane, len(self.tickets) <= self._room[ticket.lane]
        return room and self._bytes <= self._room_bytes[lane] and ticket.tokens <= self._caps[lane].tokens

    def crowded_out(self, call_id: str) -> list[str]:
        """Who must leave a full queue so that the critical one that came last may wait: the last of the lowest class
        first. Nobody where it is not critical, or finds no room all the same."""
        ticket, found = self.tickets[call_id], list[str]()
        if ticket.lane != CRITICAL or self.stays(call_id):
            return found
        number, size = len(self.tickets) - self._room[CRITICAL], self._bytes - self._room_bytes[CRITICAL]
        lower = [one for one in reversed(self.tickets.values()) if one.lane != CRITICAL]
        for one in sorted(lower, key=lambda one: -one.lane):
            if number <= 0 and size <= 0:
                break
            found.append(one.call_id)
            number, size = number - 1, size - one.size
        return found if number <= 0 and size <= 0 and ticket.tokens <= self._caps[CRITICAL].tokens else []

    def leave(self, call_id: str) -> bool:
        """One who waits goes without having started: nothing of it is left. False if it does not wait."""
        ticket = self.tickets.pop(call_id, None)
        if ticket is None:
            return False
        self._bytes -= ticket.size
        self._lanes[ticket.lane].remove(ticket)
        self._tidy(ticket)
        return True

    def end(
        self, call_id: str, model: str, priority: Priority, took_ms: float | None, tokens: int | None, probe: bool
    ) -> None:
        """One that ran is over. `tokens`: what it used, where that is known; without `took_ms` it was no call."""
        self._running[LOWEST if probe else LANE[priority]] -= 1
        self.busy[model] -= 1
        if not self.busy[model] and model not in self._slots:
            del self.busy[model]
        if took_ms is not None:
            self._mean_ms += (took_ms - self._mean_ms) * (0.1 if self._mean_ms else 1.0)
        if self._windows is not None:
            self._windows.settle(call_id, tokens)

    def close(self, model: str, until_ms: float) -> list[str]:
        """The provider wants this model ('': all) left alone until then. Those who waited for it, who must leave."""
        self._closed[model] = max(until_ms, self._closed.get(model, 0.0))
        found = [t.call_id for t in self.tickets.values() if model in ("", t.model)]
        for call_id in found:
            self.leave(call_id)
        return found

    # --- turns -----------------------------------------------------------------------------------------------------

    def next(self, now: float) -> Ticket | None:
        """Who of those that wait starts now; to be asked until it is nobody."""
        if not self.tickets:
            return None
        if self._windows is not None:
            self._windows.slide(now)
        first = self._regular(now)
        if first is None:
            return None
        aged = self._aged(first, now) if first.lane != CRITICAL else {}
        found = self._due(aged) or first
        if not self._fits(found.tokens, first.lane):
            return None
        del self.tickets[found.call_id]
        self._bytes -= found.size
        self._lanes[found.lane].serve(found)
        for key in aged:
            self._passed[key] = self._passed.get(key, 0) + 1
        self._passed.pop((found.lane, found.model), None)
        self._tidy(found)
        self._begin(found.call_id, found.model, found.lane, found.tokens, now)
        return found

    def look_ms(self, now: float) -> float | None:
        """When somebody who waits may be able to start though nobody ended."""
        if not self.tickets:
            return None
        times = [until for until in self._closed.values() if until > now]
        slides = self._windows.next_ms() if self._windows is not None else None
        return min([*times, slides] if slides is not None else times, default=None)

    def patience_ms(self, model: str, now: float) -> int:
        """About how long until whoever waits now has been served: from how long calls took lately, and not before the
        provider, or a minute's limit, lets anybody in."""
        served_ms = self._mean_ms * len(self.tickets) / max(1, sum(self._running))
        closed_ms = max(self._closed.get(model, 0.0), self._closed.get("", 0.0)) - now
        windows, cap, minute_ms = self._windows, self._caps[CRITICAL], 0.0
        if windows is not None and (len(windows.starts) >= cap.requests or windows.tokens >= cap.tokens):
            minute_ms = (windows.next_ms() or now) - now
        return int(min(max(served_ms, closed_ms, minute_ms, 250.0), 86_400_000.0))

    def waiting(self, model: str) -> int:
        """How many wait for a model."""
        return sum(ticket.model == model for ticket in self.tickets.values()) if self.tickets else 0

    def _regular(self, now: float) -> Ticket | None:
        """By class and turn alone, limits on tokens aside."""
        for lane, waiting in enumerate(self._lanes):
            may: dict[str, bool] = {}
            best: Ticket | None = None
            for (user, model), group in waiting.groups.items():
                if model not in may:
                    may[model] = self._may(lane, lane, model, now)
                if may[model] and (best is None or _before(waiting, user, group[0], best)):
                    best = group[0]
            if best is not None:
                return best
        return None

    def _aged(self, first: Ticket, now: float) -> dict[Key, Ticket]:
        """Who of lower classes has waited long and could have the turn of `first`: the next one per class and model."""
        found: dict[Key, Ticket] = {}
        for lane in range(first.lane + 1, len(self._lanes)):
            waiting = self._lanes[lane]
            for (user, model), group in waiting.groups.items():
                ticket, best = group[0], found.get((lane, model))
                if now - ticket.since_ms < AGE_MS or (best is not None and not _before(waiting, user, ticket, best)):
                    continue
                if self._may(lane, first.lane, model, now):
                    found[lane, model] = ticket
        return found

    def _due(self, aged: dict[Key, Ticket]) -> Ticket | None:
        """The longest waiting of those that have seen enough turns go by: so many each that together they get no more
        than one in `TURNS`."""
        enough = (TURNS - 1) * len(aged)
        due = [ticket for key, ticket in aged.items() if self._passed.get(key, 0) >= enough]
        return min(due, key=lambda ticket: ticket.since_ms, default=None)

    # --- limits ----------------------------------------------------------------------------------------------------

    def _may(self, lane: int, turn_of: int, model: str, now: float) -> bool:
        """Is there room for one more of this class in a turn of the class `turn_of`, tokens aside?"""
        slots = self._slots.get(model, self._others)
        if (
            slots is None
            or self.busy.get(model, 0) >= slots[turn_of]
            or self._running[lane] >= self._caps[lane].at_once
        ):
            return False
        if self._closed and max(self._closed.get(model, 0.0), self._closed.get("", 0.0)) > now:
            return False
        caps = self._caps[turn_of]
        if caps.concurrent != NO_LIMIT and sum(self._running) >= caps.concurrent:
            return False
        return self._windows is None or len(self._windows.starts) < caps.requests

    def _fits(self, tokens: int, turn_of: int) -> bool:
        return self._windows is None or self._windows.tokens + tokens <= self._caps[turn_of].tokens

    def _begin(self, call_id: str, model: str, lane: int, tokens: int, now: float) -> None:
        self._running[lane] += 1
        self.busy[model] = self.busy.get(model, 0) + 1
        if self._windows is not None:
            self._windows.count(call_id, tokens, now)

    def _tidy(self, gone: Ticket) -> None:
        """Turns that went by are remembered for those who wait alone."""
        if self._passed and not any(model == gone.model for _, model in self._lanes[gone.lane].groups):
            self._passed.pop((gone.lane, gone.model), None)


def _before(lane: _Lane, user: str, ticket: Ticket, best: Ticket) -> bool:
    return (lane.turns[user], ticket.since_ms) < (lane.turns[best.user], best.since_ms)


def _caps(limits: Limits, share: float, at_once: int | None) -> _Caps:
    whole = 1.0 - limits.buffer_ratio

    def cap(limit: int | None) -> int:
        return NO_LIMIT if limit is None else _part(limit, whole * share)

    return _Caps(cap(limits.concurrent), cap(limits.requests_per_min), cap(limits.tokens_per_min), at_once or NO_LIMIT)


def _part(of: int, share: float) -> int:
    """Rounded down, but for what floating point leaves out of a whole number; never nothing."""
    return max(1, int(of * share + 1e-6))
