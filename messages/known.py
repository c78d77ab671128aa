"""The fold of the catalogue's facts: which models there are, and which of them may be selected. Pure.

It stands beside the messages because it is what they mean: selectors, the health tracker and the model manager fold it
alike, and a ledger would. Models of the topology may be selected always, others where a listing says `admitted` and the
provider still has an `admit` rule.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from understudy.messages.catalogue_events import (
    CatalogueAccepted,
    CatalogueEvent,
    CatalogueRefused,
    Listing,
    ModelOffline,
    ModelOnline,
    ModelPriced,
    ModelRegistered,
    ModelResident,
    ModelRetired,
    ModelReturned,
    RetiredWord,
)
from understudy.messages.events import TopologyApplied
from understudy.messages.generate import LicenceClass
from understudy.messages.listing import TOKEN_UNITS, ListedPrice, Resident
from understudy.messages.places import location_of
from understudy.messages.prices import MTOK, UNKNOWN_RATES, Rates, is_priced, least_limit
from understudy.messages.privacy import Location
from understudy.messages.topology import Admit, Model, Topology

PRICED_UNITS = frozenset(
    {
        *("prompt", "completion", "request", "internal_reasoning"),
        *("input_cache_read", "input_cache_write", "input_cache_write_1h"),
        *("image", "image_token", "image_output", "audio", "audio_output", "input_audio_cache", "web_search"),
    }
)
"""Units whose meaning we know."""

V = TypeVar("V")
RETIRED = 500
"""So many models of lists are remembered after they were retired."""


@dataclass(slots=True)
class Entry:
    """One model as the facts tell it."""

    provider: str
    listing: Listing
    price: ListedPrice | None = None
    rates: Rates = UNKNOWN_RATES  # what follows from it
    usd_per_mtok: float | None = None  # the dearer of prompt and completion; None: unknown
    least_limit: float | None = None  # and the least `max_usd_per_mtok` that it is within; None: within none
    free: bool = False
    retired: RetiredWord | None = None
    retired_seq: int = 0
    retirements: int = 0  # so far; names the next one, so that it is stored once, whoever says it
    offline: bool = False
    resident: Resident | None = None

    def set_price(self, price: ListedPrice | None) -> None:
        """In force from here on."""
        self.price, self.free = price, price is not None and price.is_free()
        self.usd_per_mtok = None if price is None else max(_most_usd(price, unit, MTOK) for unit in TOKEN_UNITS)
        self.rates = rates_of(price, self.listing.output_modalities)
        self.least_limit = least_limit(self.rates)


class Standing(NamedTuple):
    """What filters look at in a candidate, beside its declaration."""

    location: Location
    free: bool
    licence_class: LicenceClass
    retired: bool
    offline: bool


@dataclass(slots=True)
class Refusal:
    """Why a provider's list is not used, since when (Unix milliseconds)."""

    code: str
    text: str
    path: str
    since_ms: int


def about(event: CatalogueEvent) -> Iterable[str]:
    """The models that a fact may change as candidates."""
    match event:
        case ModelRegistered():
            return [one.id for one in event.models]
        case ModelPriced():
            return [one.model for one in event.prices]
        case ModelRetired() | ModelReturned() | ModelOffline() | ModelOnline():
            return event.models
        case _:
            return ()


@lru_cache(4_096)
def _usd(usd: str, units: int) -> float:
    """Of so many units. Lists ask a few prices for many models. Multiplied before it is rounded to a float, never
    after: money is calculated from the float's shortest decimal."""
    return float(Decimal(usd) * units)


def _most_usd(price: ListedPrice, unit: str, units: int) -> float:
    """USD for so many of a unit, the highest that may apply; 0 where nothing is asked."""
    return max([_usd(one.units[unit], units) for one in (price, *price.overrides) if unit in one.units], default=0.0)


def rates_of(price: ListedPrice | None, outputs: tuple[str, ...] = ()) -> Rates:
    """What a provider's list asks for: of conditions the dearest, and None is unknown.

    `outputs`: the output modalities, whose tokens may be dearer than text's. A model may search the web unasked, so
    that is taken to happen with each request. Images and audio do not occur in what we send; of a unit that we do not
    know, nobody can say. A price of nothing for cached or reasoning tokens is taken for none of their own: lists say so
    of models that bill them as the rest.
    """
    if price is None:
        return UNKNOWN_RATES
    each = {unit: _usd(usd, MTOK) for unit, usd in price.units.items()}
    for override in price.overrides:
        for unit, usd in override.units.items():
            each[unit] = max(each.get(unit, 0.0), _usd(usd, MTOK))
    if not PRICED_UNITS.issuperset(each):
        return UNKNOWN_RATES
    prompt, completion = each.get("prompt", 0.0), each.get("completion", 0.0)

    def own(unit: str, otherwise: float) -> float | None:
        """None: as the other. A price under a condition alone is the other's without it."""
        found = each.get(unit)
        return found if found is None or unit in price.units else max(found, otherwise)

    spoken = [each.get(f"{kind}_output", 0.0) for kind in ("image", "audio") if kind in outputs]
    return Rates(
        usd_per_mtok_in=max(prompt, each.get("input_cache_write", 0.0), each.get("input_cache_write_1h", 0.0)),
        usd_per_mtok_out=max([completion, *spoken]),
        usd_per_mtok_cached=own("input_cache_read", prompt) or None,
        usd_per_mtok_reasoning=own("internal_reasoning", completion) or None,
        usd_per_request=_most_usd(price, "request", 1),
        usd_per_search=_most_usd(price, "web_search", 1),
        price_known=True,
    )


def at_price(model: Model, price: ListedPrice | None, outputs: tuple[str, ...] = ()) -> Model:
    """A model at what its provider's list asks for it (`rates_of`); at an unknown price what is declared stays."""
    rates = rates_of(price, outputs)
    return replace(model, **rates._asdict()) if rates.price_known else replace(model, price_known=False)


def _is_free(declared: Model, entry: Entry | None) -> bool:
    """A price of nothing in every unit, said by the list or the operator. An unknown price is not free."""
    by_list = entry is not None and entry.price is not None and entry.listing.listed
    listed_free = entry.free if by_list and entry is not None else True
    return listed_free and not is_priced(declared)


@dataclass(slots=True)
class Known:
    """The catalogue at a position of the log. `marks`: the last position that was about a provider."""

    topology: Topology | None = None
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    refused: dict[str, Refusal] = field(default_factory=dict[str, Refusal])
    marks: dict[str, int] = field(default_factory=dict[str, int])

    def apply(self, seq: int, event: CatalogueEvent) -> Iterable[str]:
        """Fold one fact; the models that it may change as candidates."""
        self.marks[event.provider] = seq
        forgotten: list[str] = []
        match event:
            case ModelRegistered():
                self._register(event)
            case ModelPriced():
                for one in event.prices:
                    for entry in self._of(event.provider, (one.model,)):
                        entry.set_price(one.price)
            case ModelRetired():
                self._retire(seq, event)
                forgotten = self._forget()
            case ModelReturned():
                for entry in self._of(event.provider, event.models):
                    entry.retired = None
            case ModelOffline() | ModelOnline():
                for entry in self._of(event.provider, event.models):
                    entry.offline = isinstance(event, ModelOffline)
            case ModelResident():
                for entry in [e for e in self.entries.values() if e.provider == event.provider]:
                    entry.resident = event.models.get(entry.listing.id)
            case CatalogueRefused():
                self.refused[event.provider] = Refusal(event.code, event.text, event.path, event.at_ms)
            case CatalogueAccepted():
                self.refused.pop(event.provider, None)
        return [*about(event), *forgotten]

    def _register(self, event: ModelRegistered) -> None:
        for one in event.models:
            entry = self.entries.get(one.id)
            if entry is None or entry.provider != event.provider:
                self.entries[one.id] = Entry(event.provider, one)
            else:
                before, entry.listing = entry.listing, one
                entry.retired = None if entry.retired == "removed" else entry.retired
                if before.output_modalities != one.output_modalities:
                    entry.set_price(entry.price)  # what is asked for it depends on them

    def _retire(self, seq: int, event: ModelRetired) -> None:
        for entry in self._of(event.provider, event.models):
            if entry.retired is None:
                entry.retirements += 1
            entry.retired, entry.retired_seq = event.reason, seq

    def _forget(self) -> list[str]:
        """Lists change for years: of what they have no longer, only the newest is remembered."""
        retired = [m for m, e in self.entries.items() if e.retired is not None and e.listing.source == "list"]
        old = heapq.nsmallest(len(retired) - RETIRED, retired, key=lambda m: (self.entries[m].retired_seq, m))
        for model in old:
            del self.entries[model]
        return old

    def _of(self, provider: str, models: Iterable[str]) -> list[Entry]:
        found = [self.entries[model] for model in models if model in self.entries]
        return [entry for entry in found if entry.provider == provider]

    def is_listing(self, model: str) -> bool:
        """Is a list read that can say whether this model is there?"""
        entry = self.entries.get(model)
        plan = self.topology.providers.get(entry.provider) if self.topology is not None and entry is not None else None
        return plan is not None and plan.catalogue is not None

    def is_shown(self, model: str) -> bool:
        """Is it a provider's list that has, or had, it? What only the topology had is gone with it."""
        entry = self.entries.get(model)
        return entry is not None and entry.listing.source == "list" and entry.retired != "removed"

    # --- what may be selected --------------------------------------------------------------------------------------

    def candidates(self) -> dict[str, Model]:
        """All models that may be selected, the topology's first."""
        named = self.topology.models if self.topology is not None else {}
        found = {model: self.declared(model) for model in (*named, *self.entries)}
        return {model: declared for model, declared in found.items() if declared is not None}

    def declared(self, model: str) -> Model | None:
        """A candidate as if the topology had declared it: what it does not say, the list does. None: no candidate."""
        if self.topology is None:
            return None
        named, entry = self.topology.models.get(model), self.entries.get(model)
        if named is not None:
            mine = entry if entry is not None and entry.provider == named.provider else None
            return self._named_at_price(model, named, mine)
        if entry is None or not entry.listing.admitted or entry.retired == "removed":
            return None
        rule = self._admit(entry.provider)
        if rule is None or entry.listing.context_tokens is None:
            return None
        listing = entry.listing
        return Model(
            provider=entry.provider,
            name=listing.name,
            context_tokens=listing.context_tokens or 1,
            slots=rule.slots,
            quality=rule.quality,
            capabilities=listing.capabilities,
            licence=listing.licence or "unknown",
            **entry.rates._asdict(),
        )

    def _admit(self, provider: str) -> Admit | None:
        plan = self.topology.providers.get(provider) if self.topology is not None else None
        return plan.catalogue.admit if plan is not None and plan.catalogue is not None else None

    def _named_at_price(self, model: str, declared: Model, entry: Entry | None) -> Model:
        """The operator's price where there is one; else the list's; else nothing where no list is read, or where it
        computes on this machine. What a list does not say of a model elsewhere is unknown."""
        if declared.price_known is not None:
            return declared
        plan = self.topology.providers.get(declared.provider) if self.topology is not None else None
        price = entry.price if entry is not None else None
        if is_priced(declared) or plan is None or plan.catalogue is None:
            return replace(declared, price_known=True)
        if price is None and plan.kind != "openrouter" and self._location(model, declared, entry) == "local":
            return replace(declared, price_known=True)
        return at_price(declared, price, entry.listing.output_modalities if entry is not None else ())

    def keep(
        self,
        seq: int,
        event: TopologyApplied | CatalogueEvent,
        views: dict[str, V],
        candidate: Callable[[str, Model], None],
    ) -> None:
        """Fold a fact, and keep a table by model in step: who is no candidate any longer leaves it, of each other that
        may have changed `candidate` is told the declaration. A topology decides the table's order too."""
        if isinstance(event, TopologyApplied):
            self.topology = event.body
            old = dict(views)
            views.clear()
            for model, declared in self.candidates().items():
                if model in old:
                    views[model] = old[model]
                candidate(model, declared)
            return
        for model in self.apply(seq, event):
            declared = self.declared(model)
            if declared is None:
                views.pop(model, None)
            else:
                candidate(model, declared)

    # --- what is known of a candidate ------------------------------------------------------------------------------

    def standing(self, model: str, declared: Model) -> Standing:
        """What filters look at."""
        entry = self.entries.get(model)
        mine = entry if entry is not None and entry.provider == declared.provider else None
        return Standing(
            location=self._location(model, declared, mine),
            free=_is_free(declared, mine),
            licence_class=mine.listing.licence_class if mine is not None else "unknown",
            retired=mine is not None and mine.retired is not None,
            offline=mine is not None and mine.offline,
        )

    def _location(self, model: str, declared: Model, entry: Entry | None) -> Location:
        """As its provider has it (`places`), and its list. What cannot be told is external."""
        plan = self.topology.providers.get(declared.provider) if self.topology is not None else None
        if plan is None:
            return "external"
        return location_of(plan, declared.name or model, entry.listing.location if entry is not None else None)
