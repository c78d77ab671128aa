"""A provider's quota is announced once when it is used up, and once when its time has come."""

from __future__ import annotations

from typing import Any

from understudy.messages.cost import ProviderExhausted, ProviderRestored


def exhausted(d: Any, run: str, until_ms: int, model: str = "f:free") -> None:
    d.attempt_ended(run, None, model=model, reason="rate_limited", exhausted_until_ms=until_ms)
    d.settle()


def test_once_for_many_refusals_and_once_when_it_is_over(desk: Any) -> None:
    d = desk()
    until = int(d.now) + 60_000
    for n in range(5):
        exhausted(d, f"r{n}", until, "f:free" if n % 2 else "g:free")
    assert [(e.provider, e.quota, e.until_ms) for e in d.told] == [("far", "free", until)]
    d.sweep(59_999)
    d.settle()
    assert len(d.told) == 1
    d.sweep(1)
    d.sweep()
    d.settle()
    assert isinstance(d.told[-1], ProviderRestored) and len(d.told) == 2
    d.sweep(1_000)
    assert not d.stores


def test_a_later_end_is_announced_and_stands(desk: Any) -> None:
    d = desk()
    minute, day = int(d.now) + 60_000, int(d.now) + 3_600_000
    exhausted(d, "r1", minute)
    exhausted(d, "r2", day)
    exhausted(d, "r3", minute)
    assert [e.until_ms for e in d.told] == [minute, day]
    d.sweep(60_001)
    d.settle()
    assert len(d.told) == 2


def test_refusals_that_name_the_same_reset_differently_are_one(desk: Any) -> None:
    d = desk()
    until = int(d.now) + 60_000
    for n in range(50):
        d.attempt_ended(f"r{n}", None, model="f:free", reason="rate_limited", exhausted_until_ms=until + 90 * n)
        if n % 7 == 0:
            d.settle()
    d.settle()
    assert [e.until_ms for e in d.told] == [until]


def test_each_account_has_its_own(desk: Any) -> None:
    d = desk()
    exhausted(d, "r1", int(d.now) + 1_000)
    exhausted(d, "r2", int(d.now) + 1_000, "h:free")
    exhausted(d, "r3", int(d.now) + 1_000, "a")  # draws on no quota of the account
    assert [e.provider for e in d.told] == ["far", "lab"]


def test_a_crash_before_the_announcement_does_not_lose_it(desk: Any) -> None:
    d = desk()
    d.attempt_ended("r1", None, model="f:free", reason="rate_limited", exhausted_until_ms=int(d.now) + 60_000)
    d.boot()
    d.settle()
    assert [type(e) for e in d.told] == [ProviderExhausted]
    d.boot()
    d.settle()
    assert len(d.told) == 1
