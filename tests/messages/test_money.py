"""Money is exact: texts and whole pico-USD there and back, prices per token, bounds that bound."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.messages.generate import Generate, Usage
from understudy.messages.known import at_price
from understudy.messages.listing import ListedPrice
from understudy.messages.money import MOST_PUSD, Price, pusd_each, pusd_of, usd_of, usd_said
from understudy.messages.prices import (
    MTOK,
    cost_pusd,
    is_priced,
    is_too_dear,
    most_prompt_tokens,
    most_pusd,
    price_of,
    quota_of,
)
from understudy.messages.topology import Model


@given(pusd=st.integers(0, 10**20))
def test_every_amount_there_and_back(pusd: int) -> None:
    text = usd_of(pusd)
    assert pusd_of(text) == pusd and Fraction(text) * 10**12 == pusd
    assert not text.endswith(".") and (text == "0" or not text.endswith("00") or "." not in text)


@pytest.mark.parametrize(
    ("text", "pusd"),
    [("0", 0), ("1", 10**12), ("0.0000000375", 37_500), ("0.000000000001", 1), ("20.50", 20_500_000_000_000)],
)
def test_texts(text: str, pusd: int) -> None:
    assert pusd_of(text) == pusd


@pytest.mark.parametrize(
    ("price", "dear"),
    [
        ({"usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0}, False),
        ({"usd_per_mtok_out": 2.01}, True),
        ({"usd_per_mtok_in": 1.0, "usd_per_mtok_cached": 2.01}, True),
        ({"usd_per_mtok_in": 1.0, "usd_per_mtok_reasoning": 2.01}, True),
        ({"usd_per_request": 0.000001}, True),
        ({"price_known": False}, True),
        ({}, False),
    ],
)
def test_under_a_limit_of_two_dollars(price: dict[str, Any], dear: bool) -> None:
    assert is_too_dear(Model(provider="p", **price), 2.0) is dear
    assert is_too_dear(Model(provider="p", **price), 0.0) is (price != {})


def test_a_list_that_says_nothing_for_reasoning_does_not_make_it_free() -> None:
    listed = ListedPrice(units={"prompt": "0.000001", "completion": "0.000002", "internal_reasoning": "0",
                                "input_cache_read": "0"})  # fmt: skip
    price = price_of(at_price(Model(provider="p"), listed))
    assert (price.reasoning_pusd, price.cached_pusd) == (2 * 10**6, 10**6)


def test_more_than_can_be_written_is_said_as_the_most() -> None:
    assert pusd_of(usd_of(10**22)) == MOST_PUSD == pusd_of(usd_of(MOST_PUSD))
    assert len(usd_of(10**22)) <= 22


@pytest.mark.parametrize("text", ["", "x", "-1", "0.0000000000001", "NaN", "1,5"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError):
        pusd_of(text)


@pytest.mark.parametrize(
    ("said", "usd"),
    [
        (0.000032, "0.000032"), ("0.1", "0.1"), (1, "1"), (0.30000000000000004, "0.3"), (0, "0"),
        (-1, None), ("nan", None), (math.inf, None), (None, None), ({}, None), (1e30, None), ("null", None),
        ("1e999999", None), ("1e-999999", "0"), ("-1", None),
    ],
)  # fmt: skip
def test_what_providers_say(said: Any, usd: str | None) -> None:
    assert usd_said(said) == usd


@pytest.mark.parametrize(
    ("usd_per_mtok", "pusd"),
    [(0.15, 150_000), (0.0375, 37_500), (15.0, 15_000_000), (0.1, 100_000), (1e-7, 1), (0.0, 0)],
)
def test_a_price_is_never_understated(usd_per_mtok: float, pusd: int) -> None:
    assert pusd_each(usd_per_mtok, MTOK) == pusd
    assert pusd_each(usd_per_mtok, MTOK) >= Fraction(str(usd_per_mtok)) * 10**6


def model(**fields: Any) -> Model:
    return msgspec.convert({"provider": "p", **fields}, Model)


@pytest.mark.parametrize(
    ("fields", "priced"),
    [
        ({}, False), ({"usd_per_mtok_in": 1}, True), ({"usd_per_mtok_out": 1}, True), ({"usd_per_request": 0.1}, True),
        ({"usd_per_mtok_cached": 1}, True), ({"usd_per_mtok_reasoning": 1}, True), ({"price_known": False}, True),
        ({"usd_per_mtok_cached": 0}, False),
    ],
)  # fmt: skip
def test_who_has_a_price(fields: dict[str, Any], priced: bool) -> None:
    assert is_priced(model(**fields)) is priced


def test_cached_and_reasoning_tokens_at_their_own_prices() -> None:
    price = price_of(model(usd_per_mtok_in=2, usd_per_mtok_out=8, usd_per_mtok_cached=0.5, usd_per_request=0.001))
    assert price.reasoning_pusd == price.completion_pusd == 8_000_000
    usage = Usage(prompt_tokens=100, completion_tokens=10, cached_tokens=40, reasoning_tokens=3)
    assert usd_of(cost_pusd(price, usage)) == usd_of(10**9 + 60 * 2_000_000 + 40 * 500_000 + 10 * 8_000_000)
    dear = price_of(model(usd_per_mtok_out=8, usd_per_mtok_reasoning=20))
    assert cost_pusd(dear, usage) == 7 * 8_000_000 + 3 * 20_000_000


PRICES = st.builds(Price, **{f: st.integers(0, 10**8) for f in Price.__struct_fields__ if f != "known"})


@given(price=PRICES, bound=st.integers(0, 10**6), limit=st.integers(0, 10**5), share=st.tuples(*[st.floats(0, 1)] * 4))
def test_nothing_within_the_bounds_costs_more_than_is_reserved(
    price: Price, bound: int, limit: int, share: tuple[float, ...]
) -> None:
    prompt, completion = int(bound * share[0]), int(limit * share[1])
    usage = Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=int(prompt * share[2]),
        reasoning_tokens=int(completion * share[3]),
    )
    assert cost_pusd(price, usage) <= most_pusd(price, bound, limit, None)


@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=4))
def test_the_prompt_s_bound_holds_for_one_token_per_byte(words: list[str]) -> None:
    ask = msgspec.convert({"messages": [{"role": "user", "content": w} for w in words]}, Generate)
    assert most_prompt_tokens(ask, "more") >= sum(len(w.encode()) + 16 for w in words) + 64 + 4


def test_an_unknown_price_takes_what_the_policy_says() -> None:
    unknown = price_of(model(price_known=False, usd_per_mtok_in=5))
    assert not unknown.known and most_pusd(unknown, 10, 10, "0.05") == pusd_of("0.05")


def test_whose_quota_is_shared() -> None:
    assert quota_of("org/a:free", model()) == "free" and quota_of("alias", model(name="org/a:free")) == "free"
    assert quota_of("org/a:free", model(name="org/a")) is None and quota_of("a", model()) is None
