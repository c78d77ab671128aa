"""Admission: no limit is exceeded, nobody waits who could start, nobody starves, users take equal turns."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.runner.admission import AGE_MS, LANE, TURNS, Admission
from understudy.messages.limits import PRIORITIES, Lanes, Limits


def limits(**fields: Any) -> Limits:
    return msgspec.convert({"buffer_ratio": 0.0, **fields}, Limits)


def lanes(**fields: Any) -> Lanes:
    return msgspec.convert(fields, Lanes)


class Gate:
    """One provider: calls come, wait, start and end; its own books are kept beside those of admission."""

    def __init__(self, slots: dict[str, int] | None = None, plan: Limits | None = None, **more: Any) -> None:
        self.admission = Admission(slots or {"m": 10}, plan, **more)
        self.now, self.n = 1e6, 0
        self.running: dict[str, tuple[str, str, str, int]] = {}  # model, class, user, tokens
        self.waits: dict[str, tuple[str, str, str, int]] = {}
        self.started: list[tuple[float, str]] = []

    def come(
        self, priority: Any = "high", user: str = "u", model: str = "m", tokens: int = 0, stay: bool = True
    ) -> str:
        self.n += 1
        call_id, it = f"c{self.n}", (model, priority, user, tokens)
        if self.admission.start(call_id, model, priority, tokens, self.now):
            self._started(call_id, it)
            return call_id
        self.waits[call_id] = it
        self.admission.wait(call_id, model, priority, user, tokens, self.now)
        self.drain()
        if call_id in self.waits and not (stay and self.admission.stays(call_id)):
            self.go(call_id)
        return call_id

    def _started(self, call_id: str, it: tuple[str, str, str, int]) -> None:
        self.running[call_id] = it
        self.started.append((self.now, call_id))

    def drain(self) -> list[str]:
        found: list[str] = []
        while (ticket := self.admission.next(self.now)) is not None:
            self._started(ticket.call_id, self.waits.pop(ticket.call_id))
            found.append(ticket.call_id)
        return found

    def go(self, call_id: str) -> None:
        del self.waits[call_id]
        assert self.admission.leave(call_id)
        self.drain()

    def end(self, call_id: str, used: int | None = None) -> list[str]:
        model, priority, _, _ = self.running.pop(call_id)
        self.admission.end(call_id, model, priority, 100.0, used, probe=False)
        return self.drain()

    def count(self, priority: str) -> int:
        return sum(it[1] == priority for it in self.running.values())


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("priority", "most"), [("critical", 9), ("high", 9), ("low", 7), ("best_effort", 4)]
)  # of 10, a tenth is kept as buffer, of 9 the class has its share
def test_each_class_starts_up_to_its_share_of_what_the_buffer_leaves(priority: str, most: int) -> None:
    gate = Gate({"m": 100}, Limits(concurrent=10))
    for _ in range(20):
        gate.come(priority)
    assert len(gate.running) == most


def test_shares_hold_for_slots_and_no_share_is_nothing() -> None:
    for slots, most in ((10, 8), (4, 3), (1, 1)):
        gate = Gate({"m": slots})
        for _ in range(20):
            gate.come("low")
        assert len(gate.running) == most
        gate.come("critical")
        assert len(gate.running) == min(slots, most + 1)


def test_critical_overtakes_and_then_the_higher_class() -> None:
    gate = Gate({"m": 1})
    first = gate.come()
    order = [gate.come(p) for p in ("best_effort", "low", "high", "critical", "critical")]
    seen = [first]
    for _ in order:
        seen += gate.end(seen[-1])
    assert seen[1:] == [order[3], order[4], order[2], order[1], order[0]]


def test_so_many_at_once_of_a_class() -> None:
    gate = Gate({"m": 10}, lanes=lanes(low={"at_once": 2}))
    for _ in range(5):
        gate.come("low")
    assert gate.count("low") == 2 and len(gate.waits) == 3
    gate.come("high")
    assert gate.count("high") == 1


def test_a_minute_is_any_sixty_seconds() -> None:
    gate = Gate({"m": 100}, limits(requests_per_min=3))
    for _ in range(5):
        gate.end(gate.come()) if len(gate.running) < 3 and gate.n < 3 else gate.come()
    assert len(gate.started) == 3 and len(gate.waits) == 2
    assert gate.admission.look_ms(gate.now) == 1e6 + 60_000
    gate.now += 59_999
    assert gate.drain() == []
    gate.now += 1
    assert len(gate.drain()) == 2


def test_tokens_are_reserved_then_settled() -> None:
    gate = Gate({"m": 100}, limits(tokens_per_min=100))
    one = gate.come(tokens=90)
    two = gate.come(tokens=30)
    assert list(gate.waits) == [two]
    assert gate.end(one, used=50) == [two]
    three = gate.come(tokens=30)
    assert gate.end(two) == [], "what a failed one used is not known: its reservation stands"
    gate.now += 60_000
    assert gate.drain() == [three]
    assert gate.end(three, used=1_000) == []
    gate.come(tokens=1)
    assert len(gate.waits) == 1


def test_a_long_request_is_not_overtaken_for_ever_and_one_longer_than_the_limit_is_refused() -> None:
    gate = Gate({"m": 100}, limits(tokens_per_min=100))
    gate.come(tokens=50)
    long = gate.come(tokens=80)
    short = gate.come(tokens=10)
    assert list(gate.waits) == [long, short], "its turn is kept"
    assert gate.come("critical", tokens=10) in gate.running
    assert gate.come(tokens=101) not in gate.waits
    gate.now += 60_000
    assert gate.drain() == [long, short]


def test_the_queue_is_bounded_and_the_lower_classes_leave_room_in_it() -> None:
    gate = Gate({"m": 1}, queue=10)
    gate.come()
    for _ in range(20):
        gate.come("low")
    assert len(gate.waits) == 8
    assert gate.come("critical") in gate.waits and gate.come("high") in gate.waits
    assert gate.come("critical") not in gate.waits, "full"
    none = Gate({"m": 1}, queue=0)
    none.come()
    assert none.come() not in none.waits


def test_who_may_not_wait_leaves_nothing() -> None:
    gate = Gate({"m": 1})
    gate.come()
    gate.come(stay=False)
    assert gate.admission.tickets == {} and len(gate.running) == 1


def test_a_closed_model_takes_nobody_until_then() -> None:
    gate = Gate({"m": 1, "n": 1})
    busy = gate.come()
    waits = gate.come()
    assert gate.admission.close("m", gate.now + 500) == [waits]
    assert gate.end(busy) == [] and gate.come(model="n") in gate.running
    late = gate.come()
    assert gate.admission.look_ms(gate.now) == gate.now + 500 and gate.admission.patience_ms("m", gate.now) == 500
    gate.now += 500
    assert gate.drain() == [late]
    gate.admission.close("", gate.now + 100)
    assert gate.come(model="n", stay=False) not in gate.running


def test_probes_are_the_last() -> None:
    gate = Gate({"m": 2})
    assert gate.admission.start("p", "m", "critical", 0, gate.now, probe=True)
    assert not gate.admission.start("p2", "m", "critical", 0, gate.now, probe=True), "half of two slots"
    gate.admission.end("p", "m", "critical", 1.0, None, probe=True)
    gate.come(), gate.come(), gate.come()
    gate.end("c1")
    assert not gate.admission.start("p3", "m", "critical", 0, gate.now, probe=True)


def test_a_low_one_gets_a_quarter_of_the_turns_once_it_has_waited_long() -> None:
    gate = Gate({"m": 1})
    running = gate.come()
    for n in range(30):
        gate.come("low", f"l{n}")
    won: list[str] = []
    for n in range(60):
        gate.come("high", f"h{n}")
        (running,) = gate.end(running)
        won.append(gate.running[running][1])
        gate.now += 0 if n < 19 else AGE_MS
    assert "low" not in won[:20], "not before it has aged"
    assert Counter(won[20:]) == {"high": 30, "low": 10}


def test_where_nobody_higher_waits_aged_ones_keep_to_their_share() -> None:
    gate = Gate({"m": 10})
    for _ in range(30):
        gate.come("low")
    gate.now += 10 * AGE_MS
    gate.drain()
    assert len(gate.running) == 8
    assert gate.come("critical") in gate.running


# --- properties ----------------------------------------------------------------------------------------------------

PLANS = st.builds(
    limits,
    concurrent=st.none() | st.integers(1, 6),
    requests_per_min=st.none() | st.integers(1, 8),
    tokens_per_min=st.none() | st.integers(20, 60),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("come"),
            st.sampled_from(PRIORITIES),
            st.sampled_from("uvw"),
            st.sampled_from("mn"),
            st.integers(0, 25),
            st.booleans(),
        ),
        st.tuples(st.just("end"), st.integers(0, 9), st.none() | st.integers(0, 40)),
        st.tuples(st.just("go"), st.integers(0, 9)),
        st.tuples(st.just("time"), st.sampled_from([1.0, 700.0, 5_000.0, 61_000.0])),
        st.tuples(st.just("close"), st.sampled_from(["m", "n", ""])),
    ),
    max_size=60,
)


def play(gate: Gate, steps: Any) -> Any:
    """After each step what must always hold may be looked at."""
    for word, *how in steps:
        match word:
            case "come":
                priority, user, model, tokens, stay = how
                gate.come(priority, user, model, tokens, stay)
            case "end" if gate.running:
                gate.end(sorted(gate.running)[how[0] % len(gate.running)], how[1])
            case "go" if gate.waits:
                gate.go(sorted(gate.waits)[how[0] % len(gate.waits)])
            case "time":
                gate.now += how[0]
                gate.drain()
            case "close":
                for call_id in gate.admission.close(how[0], gate.now + 1_000):
                    del gate.waits[call_id]
                gate.drain()
            case _:
                pass
        yield


@given(STEPS, PLANS)
def test_no_limit_is_ever_exceeded(steps: Any, plan: Limits) -> None:
    gate = Gate({"m": 3, "n": 2}, plan, lanes=lanes(low={"at_once": 2}), queue=8)
    for _ in play(gate, steps):
        by_model = Counter(it[0] for it in gate.running.values())
        assert by_model["m"] <= 3 and by_model["n"] <= 2 and gate.count("low") <= 2
        assert len(gate.running) <= (plan.concurrent or 99)
        recent = [call for at, call in gate.started if at > gate.now - 60_000]
        assert len(recent) <= (plan.requests_per_min or 999)
        assert len(gate.waits) <= 8
        assert set(gate.waits) == set(gate.admission.tickets)


@given(STEPS, st.integers(20, 60))
def test_reserved_tokens_stay_under_their_limit_unless_calls_use_more_than_they_reserved(steps: Any, most: int) -> None:
    gate = Gate({"m": 9, "n": 9}, limits(tokens_per_min=most))
    mild = [s if s[0] != "end" else ("end", s[1], None) for s in steps]
    size: dict[str, int] = {}
    for _ in play(gate, mild):
        size |= {call: it[3] for call, it in gate.running.items()}
        assert sum(size[call] for at, call in gate.started if at > gate.now - 60_000) <= most


@given(STEPS)
def test_nobody_waits_who_could_start(steps: Any) -> None:
    """Judged by slots alone, from our own books: the class's share of the model's slots."""
    gate = Gate({"m": 3, "n": 2})
    shares = {"critical": (3, 2), "high": (3, 2), "low": (2, 1), "best_effort": (1, 1)}
    closed: dict[str, float] = {}
    for step, _ in zip(steps, play(gate, steps), strict=True):
        if step[0] == "close":
            closed |= dict.fromkeys(step[1] or "mn", gate.now + 1_000)
        taken = Counter(it[0] for it in gate.running.values())
        for model, priority, _user, _tokens in gate.waits.values():
            assert closed.get(model, 0) > gate.now or taken[model] >= shares[priority]["mn".index(model)]


@given(STEPS, PLANS)
def test_who_has_gone_leaves_nothing_behind(steps: Any, plan: Limits) -> None:
    gate = Gate({"m": 3, "n": 2}, plan)
    for _ in play(gate, steps):
        pass
    for call_id in list(gate.waits):
        del gate.waits[call_id]
        gate.admission.leave(call_id)
    for call_id in list(gate.running):
        gate.end(call_id)
    admission: Any = gate.admission
    assert admission.tickets == {} and admission.busy == {"m": 0, "n": 0} and sum(admission._running) == 0
    assert all(lane.groups == {} and lane.turns == {} for lane in admission._lanes) and admission._passed == {}
    assert admission._windows is None or admission._windows.by_call == {}


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 40)), min_size=2, max_size=8),
    st.integers(1, 4),
    st.sampled_from(["critical", "low"]),
)
def test_users_take_equal_turns_whatever_each_has_waiting(bursts: Any, slots: int, priority: str) -> None:
    gate = Gate({"m": slots}, lanes=lanes(low={"share": 1.0}), queue=4096)
    block = [gate.come() for _ in range(slots)]
    for user, count in bursts:
        for _ in range(count):
            gate.come(priority, user)
    backlog = Counter(it[2] for it in gate.waits.values())
    served: Counter[str] = Counter()
    running = deque(block)
    while all(backlog[user] > served[user] for user in backlog):
        for call_id in gate.end(running.popleft()):
            running.append(call_id)
            served[gate.running[call_id][2]] += 1
        assert max(served[u] for u in backlog) - min(served[u] for u in backlog) <= 1


@given(
    st.lists(st.tuples(st.sampled_from(["low", "best_effort"]), st.sampled_from("mn")), min_size=1, max_size=12),
    st.sampled_from([None, 1, 2, 3]),
    st.lists(st.sampled_from("mn"), min_size=4, max_size=4),
)
def test_nobody_starves_below_a_flood_of_higher_ones(lower: Any, concurrent: int | None, flood: Any) -> None:
    """Two higher requests come for each that ends; still all lower ones start within so many turns of each model."""
    gate = Gate({"m": 2, "n": 1}, limits(concurrent=concurrent), queue=4096)
    running = deque(gate.come(model=m) for m in ("m", "m", "n"))
    ours = {gate.come(priority, f"u{i}", model) for i, (priority, model) in enumerate(lower)}
    bound = 3 * TURNS * (2 * len(PRIORITIES) + len(lower)) * 2
    turns = 0
    gate.now += AGE_MS
    while ours & set(gate.waits):
        for model in flood:
            gate.come(model=model, user=f"h{turns}")
        running = deque(call for call in running if call in gate.running) or deque(gate.running)
        gate.end(running.popleft())
        running += [call for call in gate.running if call not in running]
        turns += 1
        assert turns <= bound, f"{ours & set(gate.waits)} of {lower} still wait"


def test_every_priority_has_a_lane() -> None:
    assert sorted(LANE.values()) == list(range(len(PRIORITIES)))
