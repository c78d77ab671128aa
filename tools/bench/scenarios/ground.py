"""What every scenario stands on: all actors over a real nats-server, what they left in the log, the judgement."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import Client
from understudy.messages.events import Event
from understudy.tools.bench.stage import running, topology_on

Wrong = list[str]
"""What was not as it must be; nothing, where the scenario holds."""

F = TypeVar("F")
WAIT_S = 15.0
IN_A_ROW = 12
"""So many right answers in a row say that both selectors know."""


class Play(NamedTuple):
    """How a scenario is played. `words` stand behind every prompt, `fields` in every request; who searches what a run
    leaves behind gives both, and the `state` folder to keep it in."""

    words: str = ""
    fields: Mapping[str, Any] = {}
    state: Path | None = None

    def prompt(self, text: str) -> str:
        """A prompt with those words."""
        return f"{text} {self.words}".rstrip()


PLAIN = Play()


def judged(facts: F, judge: Callable[[F], Wrong], controls: Mapping[str, F]) -> Wrong:
    """What the judgement finds, and each fact that is wrong on purpose and that it does not find."""
    return judge(facts) + [f"control not found: {name}" for name, planted in controls.items() if not judge(planted)]


class System(NamedTuple):
    """All actors, a component's connection and the operator's."""

    supervisor: Supervisor
    client: Client
    operator: Client

    async def events(self, kind: type[Event]) -> list[Any]:
        """What the log holds of one kind."""
        return [change.event async for change in self.operator.events() if isinstance(change.event, kind)]


@contextlib.asynccontextmanager
async def system(play: Play, url: str, **topology: Any) -> AsyncGenerator[System, None]:
    """The actors of a topology. Nobody judges crises here; everybody has agreed to whatever needs an agreement."""
    topology["policy"] = {"require_judge": False, "failover_minimum": 1_000, **topology.get("policy", {})}
    topology.setdefault("consent", {"text": "Your words go to the company named here.", "without_user": True})
    async with (
        running(topology_on(url, **topology), play.state) as supervisor,
        await Client.connect(supervisor.url) as client,
        await Client.connect(supervisor.url, user="operator", password=supervisor.operator_password) as operator,
    ):
        for text in (await operator.consents()).texts:
            await operator.give_consent(text.provider, "installation", text.version)
            await until_all(lambda: operator.consents(), lambda found, p=text.provider: _stands(found, p))
        yield System(supervisor, client, operator)


def _stands(found: Any, provider: str) -> bool:
    return any(card.provider == provider and card.given and card.current for card in found.consents)


async def until_all(ask: Callable[[], Any], right: Callable[[Any], bool]) -> Any:
    """Ask until every instance must have said what is right; the last answer. Raises TimeoutError."""
    found, in_a_row = None, 0
    async with asyncio.timeout(WAIT_S):
        while in_a_row < IN_A_ROW:
            found = await ask()
            in_a_row = in_a_row + 1 if right(found) else 0
            await asyncio.sleep(0 if in_a_row else 0.02)
    return found


def tried(end: Any) -> tuple[tuple[str, str], ...]:
    """The attempts of an end: model and outcome."""
    return tuple((one.model, one.outcome) for one in end.attempts)
