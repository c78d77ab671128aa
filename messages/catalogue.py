"""Questions about models and decisions, and orders that are no generation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from understudy.messages.base import Ask, Message, Part
from understudy.messages.catalogue_events import Listing, RetiredWord
from understudy.messages.comparison import Figure
from understudy.messages.events import Health, ProbeWord
from understudy.messages.generate import Capability, Generate, LicenceClass
from understudy.messages.listing import Day, ListedPrice, Resident
from understudy.messages.privacy import Location
from understudy.messages.units import Count, Key, ModelId, PositiveTokens, Usd, Word

MOST_MODELS, SOME_MODELS = 1_000, 100


class ListModels(Ask, tag="model.list.v1", frozen=True, kw_only=True):
    """Which models are there, and how are they: those that meet every filter, in the order of their ids.

    `candidates`: only what may be selected; `retired` and `offline` models are left out with it. `task`: what that
    task's own least quality would refuse is left out. At most `limit` are answered, those behind the id `after`.
    """

    free: bool = False
    max_usd_per_mtok: Usd | None = None  # of prompt and completion; an unknown price is too much
    capabilities: tuple[Capability, ...] = ()
    context_tokens: PositiveTokens | None = None  # at least
    provider: Word | None = None
    location: Location | None = None
    licences: tuple[LicenceClass, ...] = ()  # one of these; none given: any
    task: Word | None = None
    candidates: bool = False
    after: ModelId | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_MODELS)] = SOME_MODELS


class RefreshCatalogue(Ask, tag="catalogue.refresh.v1", frozen=True, kw_only=True):
    """Read a provider's list now (none named: all lists), without waiting for its time. For operators."""

    provider: Word | None = None


class Refreshing(Message, tag="catalogue.refreshing.v1", frozen=True, kw_only=True):
    """The answer to `catalogue.refresh`: whose lists are read. What they change is told by events."""

    providers: tuple[Word, ...]


class DescribeModel(Ask, tag="model.describe.v1", frozen=True, kw_only=True):
    """Everything known about one model."""

    model: ModelId


class Select(Generate, tag="model.select.v1", frozen=True, kw_only=True):
    """The decision alone: what `generate` would choose for this request, ranked, with reasons.

    `explain`: name every rejected model as well, which is a long answer where there are many.
    """

    stores: ClassVar[bool] = False

    explain: bool = False


class GiveFeedback(Ask, tag="feedback.give.v1", frozen=True, kw_only=True):
    """What a caller thought of an answer: `rating` from 0 (bad) to 1 (good)."""

    stores: ClassVar[bool] = True

    run_id: Key
    rating: Annotated[float, Meta(ge=0.0, le=1.0)]
    reason: Word | None = None
    user_id: Key | None = None


class PinModel(Ask, tag="model.pin.v1", frozen=True, kw_only=True):
    """Answer this conversation by this model (an id or alias) from now on; without a model the pin is cleared.

    A request that names a model itself is not concerned. Where the pinned model and its declared fallbacks cannot be
    used, the request is answered by the best that can.
    """

    stores: ClassVar[bool] = True

    conversation_id: Key
    model: ModelId | None = None


class PinTaken(Message, tag="pin.taken.v1", frozen=True, kw_only=True):
    """The pin is in the log, at `seq`. Every selector folds it within moments."""

    model: ModelId | None
    seq: Count


class ModelCard(Part, frozen=True, kw_only=True):
    """One model as the selector sees it now. `quality` and what follows from asking is about candidates alone."""

    id: ModelId
    status: Health
    provider: str
    location: str
    quality: float
    context_tokens: Count  # 0: not known
    capabilities: tuple[str, ...]
    continues: str  # in effect: as declared, or as probed, else `none`
    loaded: bool = False
    instances: Count = 0
    in_flight: Count = 0
    waiting: Count = 0
    last_error: str | None = None
    last_used_ms: int | None = None
    success_ratio: float | None = None
    first_token_ms: float | None = None
    aliases: tuple[str, ...] = ()
    continues_by: Literal["declared", "pending"] | ProbeWord = "declared"  # whose word `continues` is
    candidate: bool = True  # it may be selected, if it is neither retired nor offline nor unavailable
    retired: RetiredWord | None = None
    offline: bool = False
    free: bool = False
    price: ListedPrice | None = None  # as the provider's list has it
    usd_per_mtok: Usd | None = None  # the dearer of prompt and completion; None: unknown
    licence_class: LicenceClass = "unknown"
    expires: Day | None = None
    problem: str = ""  # the provider's list has it, and could not say more of it
    drifted: tuple[Figure, ...] = ()  # worse than its past lets expect, see `model.drifted`


class ListProblem(Part, frozen=True, kw_only=True):
    """Why a provider's list is not used now, since when (Unix milliseconds); what was known before stands."""

    code: str
    text: str
    path: str = ""
    since_ms: int


class Models(Message, tag="model.models.v1", frozen=True, kw_only=True):
    """The answer to `model.list`. `as_of_seq`: the log position it reflects. `total`: how many met the filters.

    `problems`: by provider, where its list cannot be used.
    """

    as_of_seq: Count
    models: tuple[ModelCard, ...]
    total: Count = 0
    problems: dict[Word, ListProblem] = {}


class Described(Message, tag="model.described.v1", frozen=True, kw_only=True):
    """The answer to `model.describe`: the card, what is declared (without secrets; of an admitted model what its
    provider's list and `admit` make of it), and what the list says."""

    as_of_seq: Count
    card: ModelCard
    declared: dict[str, Any]
    listing: Listing | None = None
    resident: Resident | None = None


class Candidate(Part, frozen=True, kw_only=True):
    """One surviving candidate with its score and what the score is made of."""

    model: ModelId
    score: float
    parts: dict[str, float] = {}


class Selected(Message, tag="model.selected.v1", frozen=True, kw_only=True):
    """The answer to `model.select`: who would be tried, in order (the policy's `chain_length`), and why not the others.

    `rejected` counts the others per reason; `rejected_models` names them where the ask said `explain`.
    """

    as_of_seq: Count
    task: str
    chain: tuple[Candidate, ...]
    rejected: dict[str, Count]
    topology: str
    rejected_models: dict[str, tuple[str, ...]] = {}


class FeedbackTaken(Message, tag="feedback.taken.v1", frozen=True, kw_only=True):
    """The answer to `feedback.give`: stored at this sequence of the log."""

    run_id: str
    seq: Count
