"""Bytes to messages and back: JSON by msgspec, one registry of all tags.

Asks refuse unknown tags and fields, with the path; folds count and skip what they do not know (mixed versions).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Any, TypeVar, Union

import msgspec

from understudy.messages import (
    benchmarks,
    cache,
    catalogue,
    catalogue_events,
    comparison,
    consent,
    cost,
    embed,
    events,
    generate,
    graph,
    keys,
    listing,
    operate,
    pulls,
    records,
    run,
    safety,
)
from understudy.messages.base import Ask, Message, refuse_not_finite
from understudy.messages.upcasts import UPCASTS


class WireError(Exception):
    """A payload that cannot become a message: a stable code, the path to the fault, and what would be right."""

    def __init__(self, code: str, path: str, text: str) -> None:
        super().__init__(f"{code} at {path}: {text}")
        self.code, self.path, self.text = code, path, text


def _tagged(*modules: Any) -> dict[str, type[Message | Ask]]:
    found: dict[str, type[Message | Ask]] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Message | Ask) and value.__module__ == module.__name__:
                tag = value.__struct_config__.tag
                if isinstance(tag, str) and "." in tag:
                    found[tag] = value
    return found


T = TypeVar("T", bound=Message | Ask)

REGISTRY: dict[str, type[Message | Ask]] = _tagged(
    *(generate, embed, run, events, listing, catalogue_events, catalogue, operate, keys, cost, consent, safety),
    *(cache, records, pulls, benchmarks, comparison, graph),
)
"""Every tag and its class."""

_encoder = msgspec.json.Encoder()
_decoders: dict[type[Any], msgspec.json.Decoder[Any]] = {}


_any: msgspec.json.Decoder[Message | Ask] = msgspec.json.Decoder(Union[tuple(REGISTRY.values())])  # noqa: UP007
"""Reads the tag and the rest in one pass; what it refuses is looked at again, for the exact reason."""


class _Head(msgspec.Struct):
    type: str = ""


_head = msgspec.json.Decoder(_Head)
_TAG = re.compile(r"[a-z_]{1,32}(\.[a-z_]{1,32}){1,3}\.v[0-9]{1,4}")
_PATH = re.compile(r" - at `(.+)`$")


def tag_of(cls: type[Message | Ask]) -> str:
    """The tag of a message class, e.g. `attempt.ended.v1`."""
    return str(cls.__struct_config__.tag)


def encode(message: Message | Ask) -> bytes:
    """JSON bytes, defaults left out. Raises ValueError, with the path, for NaN and infinity."""
    payload = _encoder.encode(message)
    if b"null" in payload:  # as which msgspec writes them, for the reader to refuse, far away from the fault
        refuse_not_finite(message, type(message).__name__)
    return payload


def decode_as(cls: type[T], payload: bytes) -> T:
    """Decode one known class; the tag may be absent (a caller in another language writes only the fields).

    Raises WireError `invalid` with path and text.
    """
    decoder = _decoders.get(cls)
    if decoder is None:
        decoder = _decoders[cls] = msgspec.json.Decoder(cls)
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("invalid", "$", f"not a JSON object: {error}") from None


def made_of(cls: type[T], fields: dict[str, Any]) -> T:
    """A message of plain values, checked as if it had come over the wire. Raises WireError `invalid`."""
    try:
        made = msgspec.convert(fields, cls)
        refuse_not_finite(made, "$")
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except ValueError as error:
        raise WireError("invalid", "$", str(error)) from None
    return made


def _invalid(error: msgspec.ValidationError) -> WireError:
    text = str(error)
    at = _PATH.search(text)
    return WireError("invalid", at.group(1) if at else "$", _PATH.sub("", text))


def decode(payload: bytes) -> Message | Ask:
    """Decode by tag, older versions lifted by their upcasts. Raises WireError `unknown_tag` or `invalid`."""
    try:
        return _any.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_step_by_step(payload)


def _decode_step_by_step(payload: bytes) -> Message | Ask:
    try:
        tag = _head.decode(payload).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("invalid", "$", f"not a JSON object with a `type`: {error}") from None
    if tag in UPCASTS:
        return decode(_lift(tag, payload))
    cls = REGISTRY.get(tag)
    if cls is None:
        raise WireError("unknown_tag", "$.type", f"no message has the tag {tag[:80]!r}")
    return decode_as(cls, payload)


def readable_tag(payload: bytes) -> str:
    """The tag that a payload claims to have, if it looks like one; '' for anything else, which might be content."""
    try:
        tag = _head.decode(payload).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return tag if _TAG.fullmatch(tag) else ""


def reader_of(classes: Sequence[type[T]]) -> Callable[[bytes], Message | Ask]:
    """A decoder for a stream of mostly these classes, which may be light forms (`brief.py`). Others go to `decode`."""
    quick: Callable[[bytes], T] = msgspec.json.Decoder(reduce(or_, classes)).decode

    def read(payload: bytes) -> Message | Ask:
        try:
            return quick(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return decode(payload)  # an older version, an unknown tag, a fault: it knows, and says where

    return read


def _lift(tag: str, payload: bytes) -> bytes:
    body: dict[str, Any] = msgspec.json.decode(payload)
    return msgspec.json.encode(UPCASTS[tag](body))
