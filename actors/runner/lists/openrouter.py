"""OpenRouter's `GET /models`: pages of entries with prices. Pure.

Source: its OpenAPI document (2026-08). Prices are decimal strings in USD per unit; any key of `pricing` that is one
counts, also one that we do not know, so that nothing with a cost passes for free. `discount` is no price. -1 is a
router, whose price depends on whom it chooses: unknown. `:free` is a name; free is what the prices say.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from understudy.actors.runner.lists.lister import (
    MOST_WORDS,
    REST_ROWS,
    BadList,
    Fetch,
    Lister,
    Memory,
    day,
    read,
    tokens,
    unique,
    usd,
    words,
)
from understudy.messages.generate import Capability
from understudy.messages.listing import TOKEN_UNITS, ListedPrice, PriceOverride, Row
from understudy.messages.units import ModelId

PAGE = 1_000
"""The most that it gives at once."""
NO_PRICE = frozenset({"discount", "overrides"})
CONDITIONS = frozenset({"min_prompt_tokens", "utc_start", "utc_end"})
KNOWN_UNITS = frozenset(
    {
        *TOKEN_UNITS, "request", "image", "image_token", "image_output", "audio", "audio_output", "input_audio_cache",
        "web_search", "internal_reasoning", "input_cache_read", "input_cache_write", "input_cache_write_1h",
    }
)  # fmt: skip
_TIME = re.compile(r"([01][0-9]|2[0-3])[0-5][0-9]")
_UNIT = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class _Architecture(msgspec.Struct):
    input_modalities: list[str] | None = None
    output_modalities: list[str] | None = None


class _Top(msgspec.Struct):
    context_length: Any = None
    max_completion_tokens: Any = None


class _Entry(msgspec.Struct):
    id: ModelId
    pricing: dict[str, Any]
    context_length: Any = None
    architecture: _Architecture | None = None
    top_provider: _Top | None = None
    supported_parameters: list[str] | None = None
    expiration_date: str | None = None


class _Links(msgspec.Struct):
    next: str | None = None


class _Page(msgspec.Struct):
    data: list[_Entry]
    total_count: int | None = None
    links: _Links | None = None


def rows(memory: Memory) -> Lister:
    """See `Lister`. Pages are asked for by offset, so that no address of the answer is ever followed; so a model that
    leaves between two pages would hide another, which only the total tells."""
    found: list[Row] = []
    total: int | None = None
    while True:
        page = read((yield Fetch(f"/models?offset={len(found)}&limit={PAGE}")), _Page)
        begin = len(found)
        for n, entry in enumerate(page.data):
            if n % REST_ROWS == REST_ROWS - 1:
                yield None
            found.append(_row(entry, f"$.data[{begin + n}]"))
        more = page.links is not None and page.links.next is not None
        if page.total_count is not None:
            more = len(found) < page.total_count
            if begin and page.total_count != total:
                raise BadList("the total of the page before: it changed while it was read", "$.total_count")
            total = page.total_count
        if not more:
            return unique(found)
        if not page.data:
            raise BadList(f"the list ends after {len(found)} entries, and says that there are more", "$.total_count")
        unique(found)


def _row(entry: _Entry, path: str) -> Row:
    shape, top = entry.architecture or _Architecture(), entry.top_provider or _Top()
    inputs = words(shape.input_modalities, f"{path}.architecture.input_modalities")
    outputs = words(shape.output_modalities, f"{path}.architecture.output_modalities")
    parameters = words(entry.supported_parameters, f"{path}.supported_parameters")
    windows = [most for most in (tokens(entry.context_length), tokens(top.context_length)) if most is not None]
    return Row(
        name=entry.id,
        context_tokens=min(windows, default=None),
        max_output_tokens=tokens(top.max_completion_tokens),
        capabilities=_capabilities(inputs, outputs, parameters),
        input_modalities=inputs,
        output_modalities=outputs,
        parameters=parameters,
        expires=day(entry.expiration_date, f"{path}.expiration_date"),
        price=_price(entry.pricing, f"{path}.pricing"),
    )


def _capabilities(inputs: tuple[str, ...], outputs: tuple[str, ...], parameters: tuple[str, ...]) -> tuple[Any, ...]:
    told: dict[Capability, bool] = {
        "chat": "text" in inputs and "text" in outputs,
        "json": "response_format" in parameters or "structured_outputs" in parameters,
        "tools": "tools" in parameters,
        "vision": "image" in inputs,
    }
    return tuple(word for word, has in told.items() if has)


def _price(pricing: dict[str, Any], path: str) -> ListedPrice | None:
    """None where any part of it is unknown."""
    for unit in TOKEN_UNITS:
        if pricing.get(unit) is None:
            raise BadList("expected a price", f"{path}.{unit}")
    units = _units(pricing, path)
    given = pricing.get("overrides") or []
    if not isinstance(given, list) or len(given) > MOST_WORDS:
        raise BadList(f"expected a list of at most {MOST_WORDS}", f"{path}.overrides")
    overrides = [_override(one, f"{path}.overrides[{n}]") for n, one in enumerate(given)]
    if units is None or any(one is None for one in overrides):
        return None
    return ListedPrice(units=units, overrides=tuple(one for one in overrides if one is not None))


def _override(value: Any, path: str) -> PriceOverride | None:
    if not isinstance(value, dict):
        raise BadList("expected an object", path)
    least, start, end = value.get("min_prompt_tokens"), value.get("utc_start"), value.get("utc_end")
    if least is not None and (type(least) is not int or least < 0):
        raise BadList("expected a count of tokens", f"{path}.min_prompt_tokens")
    for name, time in (("utc_start", start), ("utc_end", end)):
        if time is not None and not (isinstance(time, str) and _TIME.fullmatch(time)):
            raise BadList("expected a time of the day as HHMM", f"{path}.{name}")
    units = _units({key: price for key, price in value.items() if key not in CONDITIONS}, path)
    return None if units is None else PriceOverride(units=units, min_prompt_tokens=least, utc_start=start, utc_end=end)


def _units(prices: dict[str, Any], path: str) -> dict[str, str] | None:
    """USD per unit; None where one is unknown. Of keys that we do not know, those that hold no number are no price."""
    found: dict[str, str | None] = {}
    if len(prices) > MOST_WORDS:
        raise BadList(f"more than {MOST_WORDS} prices", path, "too_large")
    for unit, value in sorted(prices.items()):
        if unit in NO_PRICE or value is None or not _UNIT.fullmatch(unit):
            continue
        try:
            found[unit] = usd(value, f"{path}.{unit}")
        except BadList:
            if unit in KNOWN_UNITS:
                raise
    return None if None in found.values() else {unit: price for unit, price in found.items() if price is not None}
