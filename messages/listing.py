"""What a provider's list says about its models, whatever the vendor: rows, prices, and the ask for them.

The model manager asks `<app>.ask.runner.list.<provider>`, as the provider's own process alone holds the key. It is
answered with `ListPart`* (`n` counts from 0) and one `ListEnded`, or with one `ListFailed`; a list that is not whole is
none.

A price is the decimal number that the vendor wrote, as a string, in USD for one unit (a token, a request, an image).
Neither floats nor any integer scale hold all that vendors write; whoever calculates makes a `Decimal` of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from understudy.messages.base import Message, Part
from understudy.messages.generate import Capability
from understudy.messages.privacy import Location
from understudy.messages.units import Count, ModelId, PositiveTokens, Word

UsdPerUnit = Annotated[str, Meta(max_length=60, pattern=r"^(0|[1-9][0-9]{0,8})(\.[0-9]{0,40}[1-9])?$(?![\s\S])")]
"""USD for one unit: digits and a point, no exponent, no sign, no zeros at the end: equal prices are equal strings."""

Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$(?![\s\S])")]
"""A calendar day in UTC."""

TOKEN_UNITS = ("prompt", "completion")
"""Units that every price has, and that are counted per token."""


class PriceOverride(Part, frozen=True, kw_only=True):
    """Other prices under a condition: for prompts of strictly more tokens, or between two times of the day (UTC, HHMM,
    perhaps past midnight). Of several that apply, the last one counts."""

    units: dict[Word, UsdPerUnit]
    min_prompt_tokens: Count | None = None
    utc_start: str | None = None
    utc_end: str | None = None


class ListedPrice(Part, frozen=True, kw_only=True):
    """USD per unit: `prompt` and `completion` per token, others by the vendor's name (`request`, `image`, ...)."""

    units: dict[Word, UsdPerUnit]
    overrides: tuple[PriceOverride, ...] = ()

    def is_free(self) -> bool:
        """Nothing costs anything, not the tokens alone: a request may have a price of its own."""
        return all(usd == "0" for each in (self, *self.overrides) for usd in each.units.values())


class Resident(Part, frozen=True, kw_only=True):
    """A model in a server's memory. Less `vram_bytes` than `bytes`: a part of it runs on the CPU."""

    bytes: Count
    vram_bytes: Count
    context_tokens: Count = 0


class Row(Part, frozen=True, kw_only=True):
    """One model of a list in neutral words. None, '' or an empty tuple: the list does not say."""

    name: ModelId  # as the provider calls it
    location: Location = "external"
    context_tokens: PositiveTokens | None = None
    max_output_tokens: PositiveTokens | None = None
    capabilities: tuple[Capability, ...] = ()
    input_modalities: tuple[Word, ...] = ()
    output_modalities: tuple[Word, ...] = ()
    parameters: tuple[Word, ...] = ()  # of requests, that it understands
    licence: str = ""  # the beginning of what the list says
    expires: Day | None = None
    price: ListedPrice | None = None  # None: unknown, which is never free
    resident: Resident | None = None
    problem: str = ""
    """The list has the model and could not say more of it; then all else but its name and place is to be kept as it is
    known. `location` is `local` where nothing says that it computes elsewhere now."""


ListFault = Literal["unreachable", "timeout", "status", "malformed", "too_large", "clash", "unsupported", "shrunk"]
"""Why there is no list: nobody accepts; no answer in time; an HTTP error; not the vendor's form; more than is read; an
id that another provider's model has; a provider without lists; most of what it had is missing, for the first time."""


class ListOrder(Message, tag="runner.list.v1", frozen=True, kw_only=True):
    """Fetch the provider's list; `list_id` comes back with all that answers."""

    list_id: str


class ListPart(Message, tag="list.part.v1", frozen=True, kw_only=True):
    """Some of the rows, number `n` from 0."""

    list_id: str
    n: Count
    rows: tuple[Row, ...]


class ListEnded(Message, tag="list.ended.v1", frozen=True, kw_only=True):
    """All of it was said, in so many parts."""

    list_id: str
    parts: Count


class ListFailed(Message, tag="list.failed.v1", frozen=True, kw_only=True):
    """There is no list. `path` leads to the fault in the vendor's answer, of which nothing is repeated."""

    list_id: str
    code: ListFault
    text: str
    path: str = ""
