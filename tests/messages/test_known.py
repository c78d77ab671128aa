"""The catalogue's fold: what a candidate costs, as its operator and its provider's list say it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.messages.catalogue_events import Listing, ModelPriced, ModelRegistered, Priced
from understudy.messages.known import Known, at_price
from understudy.messages.listing import ListedPrice, PriceOverride
from understudy.messages.money import PUSD_PER_USD
from understudy.messages.prices import is_priced, most_pusd, price_of
from understudy.messages.topology import Model, Topology

BASE = {"prompt": "0.000001", "completion": "0.000002"}


def most_usd(units: dict[str, str], *overrides: dict[str, str], outputs: tuple[str, ...] = ("text",)) -> float | None:
    """What 1,000 tokens in and 100 out are reserved with; None: unknown."""
    listed = ListedPrice(units={**BASE, **units}, overrides=tuple(PriceOverride(units=one) for one in overrides))
    price = price_of(at_price(Model(provider="hub"), listed, outputs))
    return most_pusd(price, 1_000, 100, None) / PUSD_PER_USD if price.known else None


@pytest.mark.parametrize(
    ("units", "overrides", "outputs", "usd"),
    [
        ({}, (), ("text",), 0.0012),
        ({}, ({"prompt": "0.000003"},), ("text",), 0.0032),
        ({}, ({"internal_reasoning": "0.00005"},), ("text",), 0.006),
        ({}, ({"input_cache_write": "0.000004"},), ("text",), 0.0042),
        ({}, ({"request": "0.5"},), ("text",), 0.5012),
        ({"web_search": "0.005"}, (), ("text",), 0.0062),
        ({"web_search": "0"}, ({"web_search": "0.01"},), ("text",), 0.0112),
        ({"image_output": "0.0001"}, (), ("text",), 0.0012),
        ({"image_output": "0.0001"}, (), ("text", "image"), 0.011),
        ({}, ({"input_video": "1"},), ("text",), None),
        ({"input_video": "1"}, (), ("text",), None),
    ],
)
def test_what_may_be_asked_for_is_reserved(units: Any, overrides: Any, outputs: Any, usd: float | None) -> None:
    assert most_usd(units, *overrides, outputs=outputs) == usd


def test_a_cached_price_under_a_condition_is_not_the_price_without_it() -> None:
    listed = ListedPrice(units=BASE, overrides=(PriceOverride(units={"input_cache_read": "0.0000001"}),))
    assert at_price(Model(provider="hub"), listed).usd_per_mtok_cached == 1.0


@pytest.mark.parametrize("unit", ["request", "web_search"])
def test_a_price_per_request_is_exact(unit: str) -> None:
    listed = ListedPrice(units={unit: "0.0000001"})
    assert price_of(at_price(Model(provider="hub"), listed)).request_pusd == 100_000


def named(kind: str, location: str, price: ListedPrice | None = None, read: bool = True, **declared: Any) -> Known:
    """A catalogue with one model of the topology, `mine`."""
    catalogue = {"catalogue": {}} if read else {}
    provider = {"kind": kind, "url": "http://127.0.0.1:1/v1", "location": None, **catalogue}
    if location == "external":
        provider["location"] = "external"
    models = {"mine": {"provider": "hub", "name": "big:1b", **declared}}
    known = Known(topology=msgspec.convert({"version": 1, "models": models, "providers": {"hub": provider}}, Topology))
    listing: Any = Listing(id="mine", name="big:1b", source="topology", location=location, listed=True)  # type: ignore[arg-type]
    known.apply(1, ModelRegistered(at_ms=0, provider="hub", models=(listing,)))
    if price is not None:
        known.apply(2, ModelPriced(at_ms=0, provider="hub", prices=(Priced(model="mine", price=price),)))
    return known


FREE = ListedPrice(units={"prompt": "0", "completion": "0"})
PAID = ListedPrice(units=BASE)


@pytest.mark.parametrize(
    ("known", "is_known", "priced", "free"),
    [
        (named("anthropic", "external"), False, True, False),
        (named("openai", "external"), False, True, False),
        (named("ollama", "external"), False, True, False),
        (named("openai", "local"), True, False, True),
        (named("ollama", "local", FREE), True, False, True),
        (named("openrouter", "external"), False, True, False),
        (named("openrouter", "external", PAID), True, True, False),
        (named("openrouter", "external", FREE), True, False, True),
        (named("anthropic", "external", read=False), True, False, True),
        (named("anthropic", "external", price_known=True), True, False, True),
        (named("anthropic", "external", usd_per_mtok_in=1.0), True, True, False),
        (named("anthropic", "external", usd_per_mtok_in=1.0, price_known=False), False, True, False),
        (named("openrouter", "external", PAID, usd_per_mtok_in=9.0), True, True, False),
    ],
)
def test_a_price_that_nobody_has_said_is_not_nothing(known: Known, is_known: bool, priced: bool, free: bool) -> None:
    declared = known.declared("mine")
    assert declared is not None and declared.price_known is is_known
    assert is_priced(declared) is priced and known.standing("mine", declared).free is free
