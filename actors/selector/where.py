"""Where a selector is, and how it speaks to runners: the subjects that a run's effects need. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from understudy.messages.base import Message
from understudy.messages.run import CancelRun, RunQueued, RunStarted, RunText
from understudy.messages.slugs import slug
from understudy.messages.step import Send


@dataclass(slots=True)
class Where:
    """Where we are: what effects need to be addressed."""

    app: str
    instance: str
    inbox: str

    def run_subject(self, provider: str, model: str) -> str:
        """Where a model's runners take attempts."""
        return f"{self.app}.ask.runner.run.{slug(provider)}.{slug(model)}"

    def inbox_of(self, run_id: str, attempt: int) -> str:
        """Where the runner answers."""
        return f"{self.inbox}.run.{run_id}.{attempt}"

    def reserve_subject(self) -> str:
        """Where the ledger is asked."""
        return f"{self.app}.ask.ledger.reserve"

    def cancel(self, started: RunQueued | RunStarted | RunText) -> Send:
        """Tell a runner's instance that nobody waits for this attempt any longer."""
        subject = f"{self.app}.ask.runner.cancel.{started.instance}"
        return Send(subject, CancelRun(run_id=started.run_id, attempt=started.attempt))


def begins(message: Message) -> TypeGuard[RunQueued | RunStarted | RunText]:
    """Whether it is the first that an attempt says. Whoever begins too late works for nobody: it could not be told
    before, as its instance was unknown."""
    return isinstance(message, RunQueued | RunStarted) or (
        isinstance(message, RunText) and message.n == 0 and bool(message.instance)
    )
