"""What a model's tokens cost, what a request can cost at most, and what an answer did cost. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from understudy.messages.generate import Generate, Usage
from understudy.messages.money import Price, pusd_each, pusd_of
from understudy.messages.topology import Model

MTOK = 1_000_000
TURN_TOKENS, REQUEST_TOKENS = 16, 64
"""What a chat template may add around each message, and before them all."""

LEAST_TOKENS = {"openai_responses": 16}
"""By a provider's kind: a smaller limit of tokens is an error there, so this one is sent."""


class Rates(NamedTuple):
    """What a model's declaration says of its price, by its own fields' names."""

    usd_per_mtok_in: float = 0.0
    usd_per_mtok_out: float = 0.0
    usd_per_mtok_cached: float | None = None
    usd_per_mtok_reasoning: float | None = None
    usd_per_request: float = 0.0
    usd_per_search: float = 0.0
    price_known: bool | None = False


UNKNOWN_RATES = Rates()


def is_priced(model: Model) -> bool:
    """Whether anything may have to be paid for this model."""
    price = model.usd_per_mtok_in or model.usd_per_mtok_out or model.usd_per_request or model.price_known is False
    return bool(price or model.usd_per_mtok_cached or model.usd_per_mtok_reasoning or model.usd_per_search)


def price_of(model: Model) -> Price:
    """The price in force. The one place that reads it."""
    if model.price_known is False:
        return Price(known=False)
    prompt, completion = pusd_each(model.usd_per_mtok_in, MTOK), pusd_each(model.usd_per_mtok_out, MTOK)
    cached, reasoning = model.usd_per_mtok_cached, model.usd_per_mtok_reasoning
    return Price(
        prompt_pusd=prompt,
        completion_pusd=completion,
        cached_pusd=prompt if cached is None else pusd_each(cached, MTOK),
        reasoning_pusd=completion if reasoning is None else pusd_each(reasoning, MTOK),
        request_pusd=pusd_each(model.usd_per_request) + pusd_each(model.usd_per_search),
    )


def least_limit(rates: Rates) -> float | None:
    """The least limit per million tokens that a price is within (see `is_too_dear`); None: it is within none."""
    if rates.price_known is False or rates.usd_per_request > 0:
        return None
    cached, reasoning = rates.usd_per_mtok_cached or 0.0, rates.usd_per_mtok_reasoning or 0.0
    return max(rates.usd_per_mtok_in, rates.usd_per_mtok_out, cached, reasoning)


def is_too_dear(declared: Model | Rates, limit: float) -> bool:
    """Of all prices per token the dearest counts. A price that nobody knows is above every limit; so is one per
    request, of which a limit per token says nothing. A search is none of the request; but 0 allows no price at all."""
    if declared.usd_per_mtok_in > limit or declared.usd_per_mtok_out > limit or declared.usd_per_request > 0:
        return True
    cached, reasoning = declared.usd_per_mtok_cached or 0.0, declared.usd_per_mtok_reasoning or 0.0
    above = cached > limit or reasoning > limit or declared.price_known is False
    return above or (limit == 0 and declared.usd_per_search > 0)


def most_prompt_tokens(ask: Generate, more: str = "") -> int:
    """An upper bound without a tokenizer: the request's bytes as JSON, and what a chat template adds.

    Byte-level tokenizers, and those that fall back to bytes, make at most one token of each byte of UTF-8; JSON has at
    least the content's bytes, and with them whatever else the request brings (tools, schemas). `more`: text of another
    model that is to be continued.
    """
    size = len(msgspec.json.encode(ask)) + len(more.encode())
    return size + TURN_TOKENS * len(ask.messages) + REQUEST_TOKENS


def most_completion_tokens(kind: str, max_tokens: int) -> int:
    """So many tokens may an answer be billed for: a vendor with a least limit is sent that instead of a smaller one."""
    return max(max_tokens, LEAST_TOKENS.get(kind, 0))


def most_pusd(price: Price, prompt_tokens: int, max_tokens: int, unknown_usd: str | None) -> int:
    """What a request can cost at most. `unknown_usd`: what to take where the price is not known (see `Policy`)."""
    if not price.known:
        return pusd_of(unknown_usd or "0")
    prompt = prompt_tokens * max(price.prompt_pusd, price.cached_pusd)
    return price.request_pusd + prompt + max_tokens * max(price.completion_pusd, price.reasoning_pusd)


def cost_pusd(price: Price, usage: Usage) -> int:
    """What an answer cost by its token counts, cached and reasoning tokens at their own prices."""
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    reasoning = min(usage.reasoning_tokens, usage.completion_tokens)
    prompt = (usage.prompt_tokens - cached) * price.prompt_pusd + cached * price.cached_pusd
    shown = (usage.completion_tokens - reasoning) * price.completion_pusd
    return price.request_pusd + prompt + shown + reasoning * price.reasoning_pusd


def quota_of(model_id: str, model: Model) -> str | None:
    """The quota of the whole account that a model draws on; None for one of its own.

    OpenRouter counts all models whose name ends in `:free` together (its documentation of limits).
    """
    return "free" if (model.name or model_id).endswith(":free") else None
