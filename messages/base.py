"""What every message is: a frozen, tagged, versioned value.

The tag carries type and version (`attempt.ended.v1`) in the field `type`. Fields are only added, always with a default;
a break is a new class with the next version and an upcast (`upcasts.py`). Collections are tuples, so that a message
cannot be changed after it was made. Defaults are left out on the wire; a reader fills them in from the schema.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, cast

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of everything that travels. Unknown fields are tolerated: a newer writer may have added them."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, forbid_unknown_fields=True):
    """Base of what other components ask and order: an unknown field is a typing mistake, so it is refused."""

    stores: ClassVar[bool] = False
    """Taking it puts a fact into the log, so it is refused while too many facts wait for the log."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value inside a message, without a tag of its own."""


class Finite:
    """Mixed into what is read from files: YAML may hold NaN and infinity. For JSON see `wire.encode`."""

    __slots__ = ()

    def __post_init__(self) -> None:
        refuse_not_finite(self, type(self).__name__)


def refuse_not_finite(value: Any, path: str) -> None:
    """Raises ValueError with the path to a NaN or infinity."""
    if not _is_finite(value):
        where, found = _first_not_finite(value)
        raise ValueError(f"{path}{where} must be a finite number, got {found}")


_PLAIN = frozenset({str, int, bool, type(None)})


def _is_finite(value: Any) -> bool:
    """Without a path for every value looked at: folds make models by hundreds."""
    inner: Any
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, msgspec.Struct):
        inner = msgspec.structs.astuple(value)
    elif isinstance(value, dict):
        inner = cast(dict[Any, Any], value).values()
    elif isinstance(value, tuple | list):
        inner = cast(list[Any], value)
    else:
        return True
    for one in inner:  # noqa: SIM110 - a generator takes half as long again
        if one and type(one) not in _PLAIN and not _is_finite(one):
            return False
    return True


def _first_not_finite(value: Any) -> tuple[str, float]:
    """The path, and what is there."""
    match value:
        case msgspec.Struct():
            inner = [(f".{name}", getattr(value, name)) for name in value.__struct_fields__]
        case dict():
            inner = [(f"[{key!r}]", one) for key, one in cast(dict[Any, Any], value).items()]
        case tuple() | list():
            inner = [(f"[{n}]", one) for n, one in enumerate(cast(list[Any], value))]
        case _:
            return "", value
    name, one = next((name, one) for name, one in inner if not _is_finite(one))
    where, found = _first_not_finite(one)
    return name + where, found
