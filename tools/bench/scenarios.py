"""Acceptance scenarios of TTA, end to end over a real nats-server against the fake, each with its exact numbers.

Each is a function that returns what was not as it must be: nothing, where it holds. Each judges facts too that are
wrong on purpose, and must find that.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import Client
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Finished
from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.stage import fake_provider, running, topology_on

Wrong = list[str]


@contextlib.asynccontextmanager
async def system(faults: dict[str, Any], **topology: Any) -> AsyncGenerator[tuple[Supervisor, Client, str], None]:
    """The fake with these records, and all actors; `topology` may hold `models` and `url` is where the fake is."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(msgspec.json.encode(faults))
        file.flush()
        async with fake_provider(faults=Path(file.name)) as (url, _):
            root = url.removesuffix("/v1")
            plan = msgspec.json.decode(msgspec.json.encode(topology).replace(b"{root}", root.encode()))
            async with running(topology_on(url, **plan)) as supervisor, await Client.connect(supervisor.url) as client:
                yield supervisor, client, root


async def outcome(supervisor: Supervisor, run_id: str) -> RequestEnded:
    """The recorded end of a run, from the log."""
    async with await Client.connect(supervisor.url, user="operator", password=supervisor.operator_password) as reader:
        async for change in reader.events():
            if isinstance(change.event, RequestEnded) and change.event.run_id == run_id:
                return change.event
    raise RuntimeError(f"the log holds no end of {run_id}")


ALIAS, REAL = "openai/tta", "google/gemma-3-27b-it:free"
TOKENS = (312, 57)


def true_identity(end: Finished, event: RequestEnded) -> Wrong:
    """Answer and outcome name the model that spoke, its tokens as the provider counted them, and its attempts."""
    wrong: Wrong = []
    for where, model, usage, attempts in (
        ("answer", end.model, end.usage, end.attempts),
        ("event", event.model, event.usage, event.attempts),
    ):
        if model != REAL:
            wrong.append(f"{where}: model {model}")
        if (usage.prompt_tokens, usage.completion_tokens, usage.estimated) != (*TOKENS, False):
            wrong.append(f"{where}: usage {usage.prompt_tokens} in, {usage.completion_tokens} out")
        if [(a.model, a.outcome) for a in attempts] != [(REAL, "ok")]:
            wrong.append(f"{where}: attempts {[(a.model, a.outcome) for a in attempts]}")
    return wrong


async def scenario_5() -> Wrong:
    """True identity: asked for an alias; a free model of OpenRouter answers, 312 tokens in, 57 out."""
    async with system(
        {REAL: {"counted": TOKENS}},
        providers={"openrouter": {"kind": "openrouter", "url": "{root}/api/v1"}},
        models={REAL: {"provider": "openrouter"}},
        aliases={ALIAS: REAL},
        tasks={"extraction": {"latency": "interactive", "max_tokens": 128, "temperature": 0.0}},
    ) as (supervisor, client, _):
        end = await client.generate("Which exits are there?", model=ALIAS, task="extraction")
        event = await outcome(supervisor, end.run_id)
        controls = true_identity(msgspec.structs.replace(end, model=ALIAS), event)
        return true_identity(end, event) + ([] if controls else ["the control was not found"])


SCENARIOS: dict[int, Callable[[], Awaitable[Wrong]]] = {5: scenario_5}


async def measure() -> Result:
    """All scenarios, one after the other."""
    found = {number: await scenario() for number, scenario in sorted(SCENARIOS.items())}
    bars = tuple(bar(f"scenario_{n}", float(not wrong), "holds", 1, None, "higher") for n, wrong in found.items())
    return Result(bench="scenarios", bars=bars, detail={f"scenario_{n}": wrong for n, wrong in found.items()})


def explain(result: Result) -> str:
    """What was wrong, for people."""
    lines = [f"{name}: {'; '.join(wrong) or 'as it must be'}" for name, wrong in result.detail.items()]
    return "\n".join(lines)
