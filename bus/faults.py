"""The simulated wire between connections and the broker, and everything that may go wrong on it.

Every chance is drawn from one seed. Rates are probabilities (0 to 1), times are virtual seconds. A connection is `up`,
`silent` (cut, but neither end has noticed: what is sent vanishes) or `down` (noticed: sending fails).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Literal

import msgspec

from understudy.bus.subjects import matches

TICK_S = 1e-6
"""Least distance between two arrivals of one lane: equal times would have no order."""


class Lane:
    """One ordered queue on the wire; `at`: when its last message arrives."""

    def __init__(self) -> None:
        self.at = 0.0


class Link:
    """One connection's wire. Its `epoch` grows with every cut and repair: what was under way then is lost."""

    def __init__(self, name: str, on_change: Callable[[], None]) -> None:
        self.name = name
        self.state: Literal["up", "silent", "down", "closed"] = "up"
        self.epoch = 0
        self.cut_until = 0.0
        self.out = Lane()
        self.on_change = on_change

    def become(self, state: Literal["up", "silent", "down", "closed"]) -> None:
        """Change, lose what is under way unless the cut has only been noticed, and tell the connection."""
        if self.state == "closed":
            return
        if not (self.state == "silent" and state == "down"):
            self.epoch += 1
        self.state = state
        self.on_change()


Harm = Literal["lose", "double", "delay"]


class Scripted(msgspec.Struct):
    """What is to happen to the next `left` messages whose subject matches and whose payload holds `holding`."""

    harm: Harm
    pattern: str
    holding: bytes
    left: int
    by_s: float = 0.0


class Faults:
    """What goes wrong. Set the rates at any time; call the rest from inside the loop.

    `loss`, `duplicate`, `reorder` concern core messages, republished ones too, for each subscriber by itself;
    `answer_loss` loses the broker's answer to a store or a claim that was done; `slow` delays any message by `slow_s`.
    `reread`: so many events a reader gets again after a reconnect; `port.Bus.read` promises none, a fold bears them.
    `on_harm(harm, subject)` hears of every core message that was lost, doubled or overtaken.
    """

    def __init__(self, seed: int | str) -> None:
        self.luck = Random(f"faults {seed}")
        self.loss = 0.0
        self.duplicate = 0.0
        self.reorder = 0.0
        self.reorder_s = 0.01
        self.answer_loss = 0.0
        self.reread = 0
        self.slow = 0.0
        self.slow_s = (0.01, 0.5)
        self.delay_s = (0.0001, 0.001)
        self.notice_s = 2.0
        self.reconnect_s = (0.01, 0.2)
        self.up = True
        self.links: list[Link] = []
        self.on_stop: Callable[[], None] = lambda: None
        self.on_harm: Callable[[Harm, str], None] = lambda _, __: None
        self._scripted: list[Scripted] = []
        self._nobody = Context()  # what travels belongs to no process, so a stopped one does not hold it up

    # --- what a test or a script calls -----------------------------------------------------------------------------

    def lose_next(self, pattern: str, count: int = 1, *, holding: bytes = b"") -> None:
        """Lose the next `count` deliveries of core messages whose subject matches and whose payload holds `holding`."""
        self.harm_next("lose", pattern, count, holding=holding)

    def harm_next(self, harm: Harm, pattern: str, count: int = 1, *, holding: bytes = b"", by_s: float = 0.0) -> None:
        """As `lose_next`, for each harm; what is delayed arrives `by_s` later than it would and may be overtaken."""
        self._scripted.append(Scripted(harm, pattern, holding, count, by_s))

    def at(self, when_s: float, action: Callable[[], object]) -> None:
        """Do something at a virtual time."""
        asyncio.get_running_loop().call_at(when_s, action)

    def partition(self, connection: str, until: float) -> None:
        """Cut every connection of that name until a virtual time. Both ends notice after `notice_s`."""
        loop = asyncio.get_running_loop()
        for link in self.links:
            if link.name != connection:
                continue
            link.cut_until = max(link.cut_until, until)
            if link.state == "up":
                link.become("silent")
                loop.call_later(self.notice_s, self._notice, link, link.epoch)
            loop.call_at(link.cut_until, self._restore, link)

    def stop(self) -> None:
        """Kill the server: what is under way is lost, every connection notices at once, memory is forgotten."""
        if not self.up:
            return
        self.up = False
        self.on_stop()
        for link in list(self.links):
            link.become("down")

    def start(self) -> None:
        """Start the server again; each connection finds back after its own time."""
        if self.up:
            return
        self.up = True
        loop = asyncio.get_running_loop()
        for link in self.links:
            loop.call_later(self.luck.uniform(*self.reconnect_s), self._restore, link)

    def outage(self, for_s: float) -> None:
        """`stop` now and `start` after `for_s`."""
        self.stop()
        asyncio.get_running_loop().call_later(for_s, self.start)

    # --- what the broker and its connections call ------------------------------------------------------------------

    def to_server(self, link: Link, action: Callable[[], None]) -> None:
        """Carry something from a connection to the broker, in order. Lost unless the link is up all the way."""
        self._carry(link, link.out, action)

    def to_client(self, link: Link, lane: Lane, action: Callable[[], None]) -> None:
        """Carry something reliable (a stream's message, an answer) from the broker to a connection, in order."""
        self._carry(link, lane, action)

    def core_to_client(self, link: Link, lane: Lane, subject: str, payload: bytes, action: Callable[[], None]) -> None:
        """Carry a core message: it may be lost, doubled or overtaken."""
        plan = self._script_for(subject, payload)
        harm = plan.harm if plan is not None else None
        if harm == "lose" or (harm is None and self._happens(self.loss)):
            self.on_harm("lose", subject)
            return
        twice = harm == "double" or self._happens(self.duplicate)
        for _ in range(2 if twice else 1):
            if harm == "delay" or self._happens(self.reorder):
                by_s = plan.by_s if plan is not None else self.luck.uniform(0, self.reorder_s)
                self._carry(link, Lane(), action, extra_s=by_s)
                self.on_harm("delay", subject)
            else:
                self._carry(link, lane, action)
        if twice:
            self.on_harm("double", subject)

    def answer_lost(self) -> bool:
        """Whether the answer to a store or claim gets lost."""
        return self._happens(self.answer_loss)

    def _carry(self, link: Link, lane: Lane, action: Callable[[], None], *, extra_s: float = 0.0) -> None:
        if link.state != "up":
            return
        loop = asyncio.get_running_loop()
        wait_s = extra_s + self.luck.uniform(*self.delay_s)
        if self._happens(self.slow):
            wait_s += self.luck.uniform(*self.slow_s)
        lane.at = max(lane.at + TICK_S, loop.time() + wait_s)
        loop.call_at(lane.at, self._arrive, link, link.epoch, action, context=self._nobody)

    def _arrive(self, link: Link, epoch: int, action: Callable[[], None]) -> None:
        if link.epoch == epoch:
            action()

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self.luck.random() < rate

    def _script_for(self, subject: str, payload: bytes) -> Scripted | None:
        for one in self._scripted:
            if one.holding in payload and matches(one.pattern, subject):
                one.left -= 1
                if one.left <= 0:
                    self._scripted.remove(one)
                return one
        return None

    def _notice(self, link: Link, epoch: int) -> None:
        if link.epoch == epoch and link.state == "silent":
            link.become("down")

    def _restore(self, link: Link) -> None:
        """Up again, if the server runs, no partition lasts and nobody else was faster."""
        if not self.up or asyncio.get_running_loop().time() + TICK_S < link.cut_until:  # sums of floats fall short
            return
        if link.state == "silent":
            link.become("down")  # a new connection means that the old one's end was noticed
        if link.state == "down":
            link.become("up")
