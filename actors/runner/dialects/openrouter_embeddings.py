"""OpenRouter's embeddings: OpenAI's, with the same rules about who may see a request as its chat has. Pure.

Source: its OpenAPI document (2026-08).
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner.dialects import openai_embeddings
from understudy.messages.money import Price, usd_of
from understudy.messages.prices import MTOK
from understudy.messages.run import RunModel

PATH: str = openai_embeddings.PATH
PROVIDER: dict[str, Any] = {"data_collection": "deny", "allow_fallbacks": False}
read = openai_embeddings.read


def body(run: RunModel, name: str) -> bytes:
    """See `Embeddings`."""
    return msgspec.json.encode({**openai_embeddings.fields(run, name), "provider": rules(run)})


def rules(run: RunModel) -> dict[str, Any]:
    """Who may serve a request: nobody who keeps it, and nobody who asks for more than was reserved.

    An upstream may be dearer than the list's price, which is the cheapest one's. What nothing is reserved for may cost
    nothing. Of a price that nobody knows there is no most.
    """
    price = run.price or Price()
    return {**PROVIDER, "max_price": most(price)} if price.known else PROVIDER


def most(price: Price) -> dict[str, str]:
    """USD per million tokens, and per request, as exact decimal strings."""
    prompt, completion = (max(price.prompt_pusd, price.cached_pusd), max(price.completion_pusd, price.reasoning_pusd))
    each = {"prompt": prompt * MTOK, "completion": completion * MTOK, "request": price.request_pusd}
    return {unit: usd_of(pusd) for unit, pusd in each.items()}
