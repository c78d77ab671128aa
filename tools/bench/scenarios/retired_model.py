"""Scenario 4, Retired model: who is gone is asked no more, by no process, until a list has it again.

Given a primary that answers 404 "model not found". When requests with a deadline of 35 s come, then the next model
answers; the primary is marked gone, that is announced once, and no process tries it again until a refresh lists it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec.structs import replace

from understudy.bus.client import Client
from understudy.bus.port import Received
from understudy.messages.catalogue_events import ModelRetired
from understudy.messages.wire import decode
from understudy.tools.bench.scenarios.ground import PLAIN, Play, Wrong, judged, system, tried, until_all
from understudy.tools.fake.lists import Trouble, entry
from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

PRIMARY, NEXT = "lab/primary", "lab/next"
DEADLINE_MS = 35_000
AT_ONCE, LATER = 8, 40
GONE = Fault(status=404, body={"error": {"code": 404, "message": "gone", "availability": {"code": "model_not_found"}}})
SELECTORS = ("selector-1", "selector-2")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. `asked`: requests for the primary that reached the provider: at first, while gone, when back."""

    models: tuple[str, ...]
    first: tuple[tuple[str, str], ...]
    asked_at_first: int
    later: tuple[tuple[tuple[str, str], ...], ...]
    asked_later: int
    instances: tuple[str, ...]
    announced: tuple[tuple[tuple[str, ...], str], ...]
    stored: tuple[tuple[tuple[str, ...], str], ...]
    back: str
    asked_when_back: int


def wrong(facts: Facts) -> Wrong:
    """The next model answers, nobody knocks again, one announcement, and a list brings the primary back."""
    found: Wrong = []
    if facts.models != (NEXT,) * AT_ONCE:
        found.append(f"answered: {facts.models}")
    if facts.first != ((PRIMARY, "model_not_found"), (NEXT, "ok")) or not 1 <= facts.asked_at_first <= AT_ONCE:
        found.append(f"the first ask: {facts.first}, {facts.asked_at_first} at the primary")
    if len(facts.later) != LATER or set(facts.later) != {((NEXT, "ok"),)} or facts.asked_later:
        found.append(f"later asks: {set(facts.later)}, {facts.asked_later} at the primary")
    if facts.instances != SELECTORS:
        found.append(f"asked later: {facts.instances}")
    one = (((PRIMARY,), "not_found"),)
    if facts.announced != one or facts.stored != one:
        found.append(f"announced {facts.announced}, in the log {facts.stored}")
    if (facts.back, facts.asked_when_back) != (PRIMARY, 1):
        found.append(f"listed again: {facts.back}, {facts.asked_when_back} at the primary")
    return found


def controls(facts: Facts) -> dict[str, Facts]:
    """Each thing that could be wrong, put in."""
    again = ((PRIMARY, "model_not_found"), (NEXT, "ok"))
    return {
        "an ask is not answered by the next": replace(facts, models=(*facts.models[1:], PRIMARY)),
        "the 404 is another fault": replace(facts, first=((PRIMARY, "server_error"), (NEXT, "ok"))),
        "it is tried again": replace(facts, later=(*facts.later[1:], again)),
        "it is asked again": replace(facts, asked_later=1),
        "only one process was asked": replace(facts, instances=SELECTORS[:1]),
        "it is announced twice": replace(facts, announced=facts.announced * 2),
        "it is stored twice": replace(facts, stored=facts.stored * 2),
        "it is not announced": replace(facts, announced=()),
        "it does not come back": replace(facts, back=NEXT, asked_when_back=0),
    }


async def scenario_4(play: Play = PLAIN) -> Wrong:
    """Play it."""
    async with FakeProvider() as fake:
        fake.lists.openrouter = [entry(PRIMARY, prompt="0.000001"), entry(NEXT, prompt="0.000001")]
        facts = await _play(play, fake)
    return judged(facts, wrong, controls(facts))


def _topology(fake: FakeProvider) -> dict[str, Any]:
    hub = {"kind": "openrouter", "url": f"{fake.root}/api/v1", "location": "external", "catalogue": {"refresh_s": 1}}
    return {
        "providers": {"hub": hub},
        "models": {
            PRIMARY: {"provider": "hub", "quality": {"default": 0.9}, "fallbacks": [NEXT]},
            NEXT: {"provider": "hub", "quality": {"default": 0.8}},
        },
        "policy": {"privacy": "external_allowed"},
    }


async def _play(play: Play, fake: FakeProvider) -> Facts:
    async with system(play, fake.url, **_topology(fake)) as all_of_it:
        client, heard = all_of_it.client, list[Received]()
        await client.bus.subscribe(f"{client.app}.live.model.>", heard.append)
        await until_all(client.models, lambda found: found.total == 2 and all(c.price for c in found.models))
        fake.lists.faults["openrouter"] = Trouble(status=500)  # no list: only the answer tells
        await until_all(client.models, lambda found: "hub" in found.problems)
        fake.faults[PRIMARY] = GONE
        wanted = {"deadline_ms": DEADLINE_MS, **play.fields}
        prompts = [play.prompt(f"Gone {n}.") for n in range(AT_ONCE)]
        ends = await asyncio.gather(*(client.generate(prompt, **wanted) for prompt in prompts))
        await until_all(client.models, lambda found: _card(found).retired == "not_found")
        at_first = _asked(fake)
        later, instances = await _ask_later(client, play, wanted)
        asked_later = _asked(fake) - at_first
        del fake.faults[PRIMARY], fake.lists.faults["openrouter"]  # the list has it still
        await until_all(client.models, lambda found: _card(found).retired is None)
        back = await client.generate(play.prompt("Back."), model=PRIMARY, **wanted)
        stored = await all_of_it.events(ModelRetired)
        said = [message for one in heard if isinstance(message := decode(one.payload), ModelRetired)]
    return Facts(
        models=tuple(end.model for end in ends),
        first=tried(ends[0]),
        asked_at_first=at_first,
        later=tuple(later),
        asked_later=asked_later,
        instances=tuple(sorted(instances)),
        announced=tuple((one.models, one.reason) for one in said),
        stored=tuple((one.models, one.reason) for one in stored),
        back=back.model,
        asked_when_back=_asked(fake) - at_first - asked_later,
    )


async def _ask_later(client: Client, play: Play, wanted: dict[str, Any]) -> tuple[list[Any], set[str]]:
    """What was tried, and by which selectors."""
    found, instances = list[Any](), set[str]()
    for n in range(LATER):
        answer = client.generate(play.prompt(f"Later {n}."), **wanted)
        end = await answer
        found.append(tried(end))
        instances.add(answer.instance)
    return found, instances


def _card(found: Any) -> Any:
    return next(card for card in found.models if card.id == PRIMARY)


def _asked(fake: FakeProvider) -> int:
    return sum(seen.model == PRIMARY for seen in fake.log)
