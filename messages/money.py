"""Money, exact: whole pico-USD inside, decimal strings of USD on the wire. No float is ever added up.

Pico (10^-12), because prices per token go below a nano: 0.0000000375 USD is 37,500 pico-USD. Decimal strings, because
readers of JSON in other languages hold integers exactly only up to 2^53, which are 9,007 USD in pico.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal, DecimalException, InvalidOperation
from typing import Annotated, Any, Literal

from msgspec import Meta

from understudy.messages.base import Part
from understudy.messages.units import Count, ModelId

PUSD_PER_USD = 10**12
UsdText = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,12})?$(?![\s\S])", max_length=22)]
"""An amount in USD as a decimal string, e.g. `"0.000032"`: at most 12 digits after the point, none of them lost."""

ChargedBy = Literal["usage", "provider", "estimated", "not_run"]
"""How an attempt's cost is known: token counts times price, the provider's own figure, the whole reservation because
nobody knows, or nothing because no model was run."""

MOST_PUSD = 10**21 - 1
"""The largest amount that an `UsdText` can say. What would cost more than 999,999,999 USD is said as that."""

_exact = Context(prec=60)


Generation = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,100}$(?![\s\S])")]
"""A provider's own id of one answer. It names nobody and holds no content."""


class Charge(Part, frozen=True, kw_only=True):
    """What one attempt at a priced model cost. `attempt`: the number that its reservation was asked for with.

    `generation`: where the provider has a record of it that knows better than we.
    """

    attempt: Count
    model: ModelId
    cost_usd: UsdText
    by: ChargedBy
    generation: Generation | None = None


class Price(Part, frozen=True, kw_only=True):
    """Pico-USD per token, and per request. Not `known`: nobody can say; the other fields mean nothing then."""

    prompt_pusd: int = 0
    completion_pusd: int = 0
    cached_pusd: int = 0
    reasoning_pusd: int = 0
    request_pusd: int = 0
    known: bool = True


def pusd_of(usd: str) -> int:
    """An `UsdText` in pico-USD. Raises ValueError where it is none."""
    try:
        value = _exact.multiply(Decimal(usd), Decimal(PUSD_PER_USD))
        whole = value.to_integral_exact(ROUND_CEILING, _exact)
    except InvalidOperation:
        raise ValueError(f"{usd!r} is no decimal number") from None
    if whole != value or not whole >= 0:
        raise ValueError(f"{usd!r} is below 0 or finer than 0.000000000001 USD")
    return int(whole)


def usd_of(pusd: int) -> str:
    """The shortest `UsdText` of an amount of at least 0; see `MOST_PUSD`."""
    if not pusd:  # as most are
        return "0"
    whole, rest = divmod(min(pusd, MOST_PUSD), PUSD_PER_USD)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


def pusd_each(usd: float, units: int = 1) -> int:
    """The price of one of so many units as it was written (the float's shortest decimal), rounded up to a pico-USD."""
    value = _exact.multiply(Decimal(repr(usd)), Decimal(PUSD_PER_USD // units))
    return int(value.to_integral_exact(ROUND_CEILING, _exact))


def usd_said(cost: Any) -> str | None:
    """A provider's own figure (a JSON number or string) to the nearest pico-USD; None where it is no amount."""
    try:
        value = _exact.multiply(Decimal(str(cost)), Decimal(PUSD_PER_USD)).to_integral_exact(ROUND_HALF_EVEN, _exact)
    except DecimalException:  # no number, or one beyond all exponents
        return None
    return usd_of(int(value)) if value.is_finite() and 0 <= value < 10**9 * PUSD_PER_USD else None
