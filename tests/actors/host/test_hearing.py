"""Deafness: a late timer or a cut connection is told before anything is judged by silence."""

from __future__ import annotations

import asyncio
from typing import Any

from understudy.actors.host.hearing import LATE_MS, RETURN_MS, Hearing
from understudy.actors.host.timers import Timers
from understudy.messages.step import Wake


class Ear:
    def __init__(self) -> None:
        self.now, self.deaf = 1_000.0, list[tuple[float, bool]]()
        self.hearing = Hearing(lambda: self.now, lambda ms, cut: self.deaf.append((ms, cut)))

    def timers(self, due: float, now: float) -> list[tuple[float, bool]]:
        self.now, before = now, len(self.deaf)
        self.hearing.before_timers(due)
        return self.deaf[before:]


def test_a_timer_in_time_tells_nothing_and_a_late_one_how_late() -> None:
    ear = Ear()
    assert ear.timers(1_100, 1_100 + LATE_MS) == []
    assert ear.timers(1_200, 3_200) == [(2_000, False)]


def test_lateness_is_told_once_however_many_timers_were_late() -> None:
    ear = Ear()
    assert ear.timers(1_100, 3_100) == [(2_000, False)]
    assert ear.timers(1_150, 3_110) == []  # due meanwhile, handled after


def test_a_cut_connection_is_told_at_every_timer_and_at_the_return_with_time_for_others() -> None:
    ear = Ear()
    ear.hearing.connection("disconnected")
    ear.hearing.connection("disconnected")
    assert ear.timers(1_050, 1_050) == [(50, True)]
    assert ear.timers(1_150, 1_150) == [(100, True)]
    ear.now = 1_200
    ear.hearing.connection("reconnected")
    ear.hearing.connection("reconnected")
    assert ear.deaf[2:] == [(50 + RETURN_MS, True)]
    assert ear.timers(1_300, 1_300) == []


def test_other_words_of_the_connection_mean_nothing() -> None:
    ear = Ear()
    for word in ("connected", "reconnected", "permission:x", "closed"):
        ear.hearing.connection(word)
    assert ear.deaf == []


async def test_timers_tell_before_any_of_them_comes() -> None:
    now, seen = [0.0], list[Any]()
    timers = Timers(lambda: now[0], lambda key, _: seen.append(key), seen.append)
    timers.set(Wake(5.0, "b", 0))
    timers.set(Wake(4.0, "a", 0))
    now[0] = 2_000.0
    async with asyncio.timeout(2):
        while len(seen) < 3:
            await asyncio.sleep(0.001)
    timers.stop()
    assert seen == [4.0, "a", "b"]
