"""Scenario 1, Free only: of six listed models, exactly the three that cost nothing are free.

Given a list of two `:free` models, one whose tokens are free but whose requests have a price, one with zero prices, one
paid and one router ("-1"). When a component asks for free models, then exactly the two and the one come back; prices
stay as the list has them, per token.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from understudy.messages.catalogue import ListModels, Select
from understudy.messages.catalogue import Selected as Chosen
from understudy.messages.generate import Requirements, Turn
from understudy.tools.bench.scenarios.ground import PLAIN, Play, Wrong, judged, system, until_all
from understudy.tools.fake.lists import entry
from understudy.tools.fake.server import FakeProvider

FREE = ("lab/story:free", "lab/tale:free", "lab/zero")
PER_REQUEST, PAID, ROUTER = "lab/per-request", "lab/paid", "lab/router"
PRICES = {
    **{model: {"prompt": "0", "completion": "0"} for model in FREE},
    PER_REQUEST: {"prompt": "0", "completion": "0", "request": "0.01"},
    PAID: {"prompt": "0.0000025", "completion": "0.00001"},
    ROUTER: None,
}
"""As `model.list` must say them: USD per token and per request; None: not known, so never free."""
SIX = [
    *(entry(model) for model in FREE),
    entry(PER_REQUEST, pricing={"request": "0.01"}),
    entry(PAID, prompt="0.0000025", completion="0.00001"),
    entry(ROUTER, prompt="-1"),
]
ASKS = 6


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. `answered`: models that answered asks for a free one; `asked`: those that the provider saw."""

    free: tuple[str, ...]
    prices: dict[str, dict[str, str] | None]
    chain: tuple[str, ...]
    not_free: tuple[str, ...]
    answered: tuple[str, ...]
    asked: tuple[str, ...]


def wrong(facts: Facts) -> Wrong:
    """Exactly the three, in the list, in the choice and at the provider; and prices that nobody divided."""
    found: Wrong = []
    if facts.free != FREE:
        found.append(f"listed as free: {facts.free}")
    if facts.prices != PRICES:
        found.append(f"prices: {facts.prices}")
    if tuple(sorted(facts.chain)) != FREE:
        found.append(f"chosen as free: {facts.chain}")
    if {PER_REQUEST, PAID} - set(facts.not_free):
        found.append(f"rejected as not free: {facts.not_free}")
    if len(facts.answered) != ASKS or not set(facts.answered) <= set(FREE) or facts.asked != facts.answered:
        found.append(f"answered {facts.answered}, asked at the provider {facts.asked}")
    return found


def controls(facts: Facts) -> dict[str, Facts]:
    """Each thing that could be wrong, put in."""
    divided = {**facts.prices, PAID: {"prompt": "0.0000000025", "completion": "0.00000001"}}
    return {
        "a model with a price per request is called free": replace(facts, free=(*FREE[:2], PER_REQUEST, FREE[2])),
        "a router is called free": replace(facts, free=(*FREE[:2], ROUTER, FREE[2])),
        "a free model without a suffix is left out": replace(facts, free=FREE[:2]),
        "a price is divided": replace(facts, prices=divided),
        "a router's price is a number": replace(facts, prices={**facts.prices, ROUTER: {"prompt": "-1"}}),
        "a paid model is chosen": replace(facts, chain=(*facts.chain, PAID)),
        "a paid model is asked": replace(facts, asked=(*facts.asked[1:], PAID)),
        "a request's price is no reason": replace(facts, not_free=(PAID,)),
    }


async def scenario_1(play: Play = PLAIN) -> Wrong:
    """Play it."""
    async with FakeProvider() as fake:
        fake.lists.openrouter = list(SIX)
        facts = await _play(play, fake)
    return judged(facts, wrong, controls(facts))


async def _play(play: Play, fake: FakeProvider) -> Facts:
    router = {
        "kind": "openrouter",
        "url": f"{fake.root}/api/v1",
        "location": "external",
        "catalogue": {"refresh_s": 1, "admit": {"ids": ["*"]}},
    }
    async with system(play, fake.url, providers={"router": router}, models={}) as (_, client, _):
        listed = await until_all(client.models, lambda found: found.total == len(SIX))
        free = await until_all(lambda: client.models(ListModels(free=True)), lambda found: found.total > 0)
        only_free = Requirements(free=True)
        ask = Select(
            messages=(Turn(role="user", content=play.prompt("Which?")),),
            requirements=only_free,
            privacy="external_allowed",
            explain=True,
        )
        chosen = await client.ask("model.select", ask, Chosen)
        ends = [
            await client.generate(
                play.prompt(f"Free {n}."),
                requirements={"free": True},
                privacy="external_allowed",
                **play.fields,
            )
            for n in range(ASKS)
        ]
    return Facts(
        free=tuple(sorted(card.id for card in free.models)),
        prices={card.id: None if card.price is None else dict(card.price.units) for card in listed.models},
        chain=tuple(one.model for one in chosen.chain),
        not_free=chosen.rejected_models.get("not_free", ()),
        answered=tuple(end.model for end in ends),
        asked=tuple(seen.model for seen in fake.log),
    )
