"""Facts about which models there are: stored by the model manager, and `model.retired` by selectors as well.

Only changes are facts: a list that says nothing new stores nothing. One event may be about many models, so that the
first list of a large provider is a few events and not hundreds.
"""

from __future__ import annotations

from typing import Literal

from understudy.messages.base import Part
from understudy.messages.events import Event
from understudy.messages.generate import Capability, LicenceClass
from understudy.messages.listing import Day, ListedPrice, ListFault, Resident
from understudy.messages.privacy import Location
from understudy.messages.units import ModelId, PositiveTokens, Word

RetiredWord = Literal["not_listed", "not_found", "expired", "removed"]
"""Why a model cannot be used: its provider's list lacks it, or has it and answered 404, or its last day is over; or the
topology no longer has it (or its provider)."""


class Listing(Part, frozen=True, kw_only=True):
    """One model of the catalogue. A later one about the same model replaces it whole.

    `source`: whose word counts, the operator's or the list's. `listed`: the provider's list has it. `admitted`: it may
    be selected though the topology does not name it.
    """

    id: ModelId
    name: ModelId  # as the provider calls it
    source: Literal["topology", "list"]
    location: Location
    listed: bool = False
    admitted: bool = False
    context_tokens: PositiveTokens | None = None
    max_output_tokens: PositiveTokens | None = None
    capabilities: tuple[Capability, ...] = ()
    input_modalities: tuple[Word, ...] = ()
    output_modalities: tuple[Word, ...] = ()
    parameters: tuple[Word, ...] = ()
    licence: str = ""
    licence_class: LicenceClass = "unknown"
    expires: Day | None = None
    problem: str = ""  # the list has it, and its details could not be read: they are as they were known before


class Priced(Part, frozen=True, kw_only=True):
    """A model's price from here on; None: unknown."""

    model: ModelId
    price: ListedPrice | None


class ModelRegistered(Event, tag="model.registered.v1", frozen=True, kw_only=True):
    """These models are in the catalogue, or are described anew."""

    provider: Word
    models: tuple[Listing, ...]


class ModelPriced(Event, tag="model.priced.v1", frozen=True, kw_only=True):
    """These prices are in force from here on."""

    provider: Word
    prices: tuple[Priced, ...]


class ModelRetired(Event, tag="model.retired.v1", frozen=True, kw_only=True):
    """These models are not tried again until they are listed again."""

    provider: Word
    models: tuple[ModelId, ...]
    reason: RetiredWord


class ModelReturned(Event, tag="model.returned.v1", frozen=True, kw_only=True):
    """These had been retired, and a list that was asked for afterwards has them."""

    provider: Word
    models: tuple[ModelId, ...]


class ModelOffline(Event, tag="model.offline.v1", frozen=True, kw_only=True):
    """The server on this machine that runs these models is not there."""

    provider: Word
    models: tuple[ModelId, ...]
    reason: ListFault


class ModelOnline(Event, tag="model.online.v1", frozen=True, kw_only=True):
    """It is back."""

    provider: Word
    models: tuple[ModelId, ...]


class ModelResident(Event, tag="model.resident.v1", frozen=True, kw_only=True):
    """What a server on this machine holds in its memory now: all of it."""

    provider: Word
    models: dict[ModelId, Resident]


class CatalogueRefused(Event, tag="catalogue.refused.v1", frozen=True, kw_only=True):
    """An alarm: a provider's list cannot be used, so what is known of its models stays as it was."""

    provider: Word
    code: ListFault
    text: str
    path: str = ""


class CatalogueAccepted(Event, tag="catalogue.accepted.v1", frozen=True, kw_only=True):
    """After a `catalogue.refused`: the list is good again."""

    provider: Word


CatalogueEvent = (
    ModelRegistered
    | ModelPriced
    | ModelRetired
    | ModelReturned
    | ModelOffline
    | ModelOnline
    | ModelResident
    | CatalogueRefused
    | CatalogueAccepted
)
CATALOGUE_EVENTS: tuple[type[Event], ...] = (
    ModelRegistered,
    ModelPriced,
    ModelRetired,
    ModelReturned,
    ModelOffline,
    ModelOnline,
    ModelResident,
    CatalogueRefused,
    CatalogueAccepted,
)
