"""What a model's tokens cost, what a request can cost at most, and what an answer did cost. Pure."""

from __future__ import annotations

import msgspec

from understudy.messages.base import Part
from understudy.messages.generate import Generate, Usage
from understudy.messages.money import pusd_each, pusd_of
from understudy.messages.topology import Model

MTOK = 1_000_000
TURN_TOKENS, REQUEST_TOKENS = 16, 64
"""What a chat template may add around each message, and before them all."""


class Price(Part, frozen=True, kw_only=True):
    """Pico-USD per token, and per request. Not `known`: nobody can say; the other fields mean nothing then."""

    prompt_pusd: int = 0
    completion_pusd: int = 0
    cached_pusd: int = 0
    reasoning_pusd: int = 0
    request_pusd: int = 0
    known: bool = True


def is_priced(model: Model) -> bool:
    """Whether anything may have to be paid for this model."""
    price = model.usd_per_mtok_in or model.usd_per_mtok_out or model.usd_per_request or not model.price_known
    return bool(price or model.usd_per_mtok_cached or model.usd_per_mtok_reasoning)


def price_of(model: Model) -> Price:
    """The price in force. The one place that reads it."""
    if not model.price_known:
        return Price(known=False)
    prompt, completion = pusd_each(model.usd_per_mtok_in, MTOK), pusd_each(model.usd_per_mtok_out, MTOK)
    cached, reasoning = model.usd_per_mtok_cached, model.usd_per_mtok_reasoning
    return Price(
        prompt_pusd=prompt,
        completion_pusd=completion,
        cached_pusd=prompt if cached is None else pusd_each(cached, MTOK),
        reasoning_pusd=completion if reasoning is None else pusd_each(reasoning, MTOK),
        request_pusd=pusd_each(model.usd_per_request),
    )


def most_prompt_tokens(ask: Generate, more: str = "") -> int:
    """An upper bound without a tokenizer: the request's bytes as JSON, and what a chat template adds.

    Byte-level tokenizers, and those that fall back to bytes, make at most one token of each byte of UTF-8; JSON has at
    least the content's bytes, and with them whatever else the request brings (tools, schemas). `more`: text of another
    model that is to be continued.
    """
    size = len(msgspec.json.encode(ask)) + len(more.encode())
    return size + TURN_TOKENS * len(ask.messages) + REQUEST_TOKENS


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
