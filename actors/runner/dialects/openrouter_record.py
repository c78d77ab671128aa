"""OpenRouter's record of one answer: which head names it, and what it says that is billed. Pure.

Source: its OpenAPI document (2026-08), GET /generation. A record comes seconds after an answer, of one that was broken
off perhaps minutes later; until then it is a 404. `total_cost` is charged to the account; with a key of the upstream's
own that is a fee, and the upstream's bill comes to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from understudy.actors.runner.dialect import UNREADABLE
from understudy.messages.money import Generation, pusd_of, usd_of, usd_said

HEADER = b"x-generation-id"
PATH: str = "/generation?id="


class _Data(msgspec.Struct):
    id: str
    total_cost: msgspec.Raw
    is_byok: Any = False
    upstream_inference_cost: msgspec.Raw = msgspec.Raw(b"null")


class _Record(msgspec.Struct):
    data: _Data


_decoder = msgspec.json.Decoder(_Record)


def generation(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The id under which an answer with this head will have a record."""
    said = next((value for name, value in headers if name.lower() == HEADER), b"")
    try:
        return msgspec.convert(said.decode("ascii"), Generation)
    except (UnicodeDecodeError, msgspec.ValidationError):
        return None


def cost_usd(data: bytes, wanted: str) -> str | None:
    """What a record says; None where it is of another answer, not the vendor's form, or does not say all of it."""
    try:
        record = _decoder.decode(data).data
    except UNREADABLE:
        return None
    charged, upstream = usd_raw(record.total_cost), usd_raw(record.upstream_inference_cost)
    if record.id != wanted or charged is None or not record.is_byok:
        return charged if record.id == wanted else None
    return None if upstream is None else usd_of(pusd_of(charged) + pusd_of(upstream))


def usd_raw(number: msgspec.Raw) -> str | None:
    """A JSON number or string, digit by digit: no float in between."""
    return usd_said(bytes(number).decode().strip('"'))
