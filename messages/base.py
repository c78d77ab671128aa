"""What every message is: a frozen, tagged, versioned value.

The tag carries type and version (`attempt.ended.v1`) in the field `type`. Fields are only added, always with a default;
a break is a new class with the next version and an upcast (`upcasts.py`). Collections are tuples, so that a message
cannot be changed after it was made. Defaults are left out on the wire; a reader fills them in from the schema.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of everything that travels. Unknown fields are tolerated: a newer writer may have added them."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True, forbid_unknown_fields=True):
    """Base of what other components ask and order: an unknown field is a typing mistake, so it is refused."""


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value inside a message, without a tag of its own."""


class Finite:
    """Mixed into every message with floats: NaN and infinity are refused where they arise, not where they are read.

    msgspec writes NaN as `null`, which the reader would refuse far away from the fault.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        # This runs for every message with floats, so the common case is one sum and one comparison.
        total = 0.0
        for name, is_map in _float_fields(type(self)):
            value = getattr(self, name)
            if is_map:
                total += sum(value.values())
            elif value.__class__ is float:
                total += value
        if not math.isfinite(total):
            self._refuse()

    def _refuse(self) -> None:
        for name, is_map in _float_fields(type(self)):
            value = getattr(self, name)
            for one in value.values() if is_map else (value,):
                if one.__class__ is float and not math.isfinite(one):
                    raise ValueError(f"{type(self).__name__}.{name} must be a finite number, got {one}")


_FLOAT_WORDS = ("float", "Ratio", "Usd")
"""Names in an annotation that mean a float; a test compares this with the real types."""


@functools.cache
def _float_fields(cls: type[Any]) -> tuple[tuple[str, bool], ...]:
    """Fields that hold floats, and whether as the values of a map."""
    hints: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        hints.update({k: str(v) for k, v in getattr(base, "__annotations__", {}).items()})
    found = [n for n in cls.__struct_fields__ if any(w in hints[n] for w in _FLOAT_WORDS)]
    return tuple((n, hints[n].startswith("dict")) for n in found)
