"""Anthropic's `GET /models`: pages of names. Pure.

Source of the shapes: the vendor's SDK (0.121). Whatever is listed speaks Messages. There are no prices.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from understudy.actors.runner.lists.lister import BadList, Fetch, Lister, Memory, read, tokens, unique
from understudy.messages.listing import Row
from understudy.messages.units import ModelId

PAGE = 1_000


class _Entry(msgspec.Struct):
    id: ModelId
    max_input_tokens: Any = None
    max_tokens: Any = None


class _Page(msgspec.Struct):
    data: list[_Entry]
    has_more: bool = False
    last_id: str | None = None


def rows(memory: Memory) -> Lister:
    """See `Lister`."""
    found: list[Row] = []
    after = ""
    while True:
        page = read((yield Fetch(f"/models?limit={PAGE}{after}")), _Page)
        found += [
            Row(
                name=one.id,
                context_tokens=tokens(one.max_input_tokens),
                max_output_tokens=tokens(one.max_tokens),
                capabilities=("chat",),
                input_modalities=("text",),
                output_modalities=("text",),
            )
            for one in page.data
        ]
        if not page.has_more:
            return unique(found)
        if not page.data or page.last_id is None:
            raise BadList("expected the last id of a page that is not the last", "$.last_id")
        unique(found)
        after = f"&after_id={quote(page.last_id, safe='')}"
