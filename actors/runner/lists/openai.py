"""`GET /models` of OpenAI and of servers that speak its dialect: hardly more than names. Pure.

Source: the vendor's OpenAPI document. vLLM adds `max_model_len`, the window it was started with. There are no prices
and no capabilities, so these are unknown; an operator who knows them names the model in the topology.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner.lists.lister import Fetch, Lister, Memory, read, tokens, unique
from understudy.messages.listing import Row
from understudy.messages.units import ModelId


class _Entry(msgspec.Struct):
    id: ModelId
    max_model_len: Any = None


class _List(msgspec.Struct):
    data: list[_Entry]


def rows(memory: Memory) -> Lister:
    """See `Lister`."""
    found = read((yield Fetch("/models")), _List)
    return unique([Row(name=entry.id, context_tokens=tokens(entry.max_model_len)) for entry in found.data])
