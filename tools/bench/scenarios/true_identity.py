"""Scenario 5, True identity: whoever asks for an alias hears who really spoke.

Given a request for the alias `openai/tta`, role extraction. When `google/gemma-3-27b-it:free` answers, then the answer
and the outcome event carry that id, the real token counts (312 in, 57 out), that nothing was paid, and the attempts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from understudy.messages.events import RequestEnded
from understudy.messages.generate import Finished
from understudy.tools.bench.scenarios.ground import PLAIN, Play, System, Wrong, judged, system, until_all
from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

ALIAS, REAL = "openai/tta", "google/gemma-3-27b-it:free"
TOKENS = (312, 57)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, and the outcomes that the log holds of its run."""

    end: Finished
    events: tuple[RequestEnded, ...]


def wrong(facts: Facts) -> Wrong:
    """Answer and outcome name the model that spoke, its tokens as the provider counted them, and its attempts."""
    if len(facts.events) != 1:
        return [f"{len(facts.events)} outcomes"]
    found: Wrong = []
    for where, one in (("answer", facts.end), ("event", facts.events[0])):
        if one.model != REAL:
            found.append(f"{where}: model {one.model}")
        usage = one.usage
        if (usage.prompt_tokens, usage.completion_tokens, usage.estimated) != (*TOKENS, False):
            found.append(f"{where}: usage {usage.prompt_tokens} in, {usage.completion_tokens} out")
        if [(a.model, a.outcome, a.location) for a in one.attempts] != [(REAL, "ok", "external")]:
            found.append(f"{where}: attempts {[(a.model, a.outcome, a.location) for a in one.attempts]}")
        if one.cost_usd != "0":
            found.append(f"{where}: cost {one.cost_usd}")
    if facts.events[0].task != "extraction":
        found.append(f"event: task {facts.events[0].task}")
    return found


def controls(facts: Facts) -> dict[str, Facts]:
    """Each thing that could be wrong, put in."""
    end, event = facts.end, facts.events[0]
    guessed = replace(end.usage, estimated=True)
    return {
        "the answer names the alias": replace(facts, end=replace(end, model=ALIAS)),
        "the event names the alias": replace(facts, events=(replace(event, model=ALIAS),)),
        "the answer's tokens are estimated": replace(facts, end=replace(end, usage=guessed)),
        "the event has one token more": replace(facts, events=(replace(event, usage=_more(event)),)),
        "the event has no attempts": replace(facts, events=(replace(event, attempts=()),)),
        "a free answer costs": replace(facts, end=replace(end, cost_usd="0.01")),
        "there are two outcomes": replace(facts, events=facts.events * 2),
    }


def _more(event: RequestEnded) -> msgspec.Struct:
    return replace(event.usage, completion_tokens=TOKENS[1] + 1)


async def scenario_5(play: Play = PLAIN) -> Wrong:
    """Play it."""
    facts = await played(play)
    return judged(facts, wrong, controls(facts) if len(facts.events) == 1 else {})


async def played(
    play: Play = PLAIN,
    graph: dict[str, Any] | None = None,
    look: Callable[[System, str], Awaitable[None]] | None = None,
) -> Facts:
    """What is seen of it. With a `graph`, `look` is called while all still run, with the run's id."""
    more = {"graph": graph} if graph is not None else {}
    router = {"kind": "openrouter", "location": "external"}
    async with (
        FakeProvider({REAL: Fault(counted=TOKENS)}) as fake,
        system(
            play,
            fake.url,
            providers={"openrouter": {**router, "url": f"{fake.root}/api/v1"}},
            models={REAL: {"provider": "openrouter"}},
            aliases={ALIAS: REAL},
            tasks={"extraction": {"latency": "interactive", "max_tokens": 128, "temperature": 0.0}},
            policy={"privacy": "external_allowed"},
            **more,
        ) as all_of_it,
    ):
        client = all_of_it.client
        ask = {"model": ALIAS, "task": "extraction"}
        await until_all(lambda: client.select(play.prompt("Which?"), **ask), lambda found: bool(found.chain))
        end = await client.generate(play.prompt("Which exits are there?"), **ask, **play.fields)
        stored = await all_of_it.events(RequestEnded)
        if look is not None:
            await look(all_of_it, end.run_id)
        return Facts(end=end, events=tuple(one for one in stored if one.run_id == end.run_id))
