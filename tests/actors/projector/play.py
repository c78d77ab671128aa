"""A projector's step, told one message after the other; what it says is the test's to judge."""

from __future__ import annotations

from typing import Any

from understudy.actors.projector.core import Settings, State, step
from understudy.messages.brief import AttemptBrief
from understudy.messages.buckets import DAY_MS, OutcomeBrief
from understudy.messages.graph import Half
from understudy.messages.step import Asked, Booted, Effect, Input

AT = 20_000 * DAY_MS
NOTHING = Half(prefix="")


def outcome(at: int = AT, model: str = "a") -> OutcomeBrief:
    tried = (AttemptBrief(model=model, outcome="ok", total_ms=1.0),)
    return OutcomeBrief(at_ms=at, run_id="r", outcome="finished", task="t", model=model, attempts=tried)


class Play:
    """A projector that has just been started, at a time of the test's own."""

    def __init__(self, settings: Settings, now: float = 1_000.0, life: str = "ID") -> None:
        self.state, self.settings, self.now = State(), settings, now
        self.tell(Booted(now, "projector", "projector-1", "tta", "_INBOX_A.projector-1.x", life))

    def tell(self, message: Input) -> list[Effect]:
        return step(self.state, message, self.settings)

    def ask(self, message: Any) -> list[Effect]:
        return self.tell(Asked(self.now, "ask", "tta.ask.graph.x", "_INBOX.me", message))
