"""Vectors of texts: the ask `embed` and its answer. It is chosen, failed over and recorded as `generate` is."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from understudy.messages.base import Ask, Message
from understudy.messages.generate import Attempt, Requirements, Usage
from understudy.messages.money import UsdText
from understudy.messages.privacy import Location, Privacy
from understudy.messages.units import Count, Key, ModelId, PositiveMs, Word

Text = Annotated[str, Meta(min_length=1, max_length=4_000_000)]
MOST_INPUTS = 128
"""So that the vectors of all inputs fit into one message."""


class Embed(Ask, tag="model.embed.v1", frozen=True, kw_only=True):
    """Ask for a vector per text. Vectors of different models mean nothing to each other: name the model to stay with.

    A model that is named is left only for its declared fallbacks; without a name the best one answers.
    """

    stores: ClassVar[bool] = True

    input: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MOST_INPUTS)]
    task: Word | None = None
    model: ModelId | None = None  # an id or an alias of the topology
    requirements: Requirements = Requirements()
    balance: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=100_000)] | None = None  # shorter vectors, where the model can
    deadline_ms: PositiveMs | None = None
    request_id: Key | None = None
    conversation_id: Key | None = None
    user_id: Key | None = None
    priority: Literal["critical", "high", "low", "best_effort"] = "high"
    traffic: Literal["interactive", "batch"] = "interactive"
    privacy: Privacy | None = None  # as in `Generate`
    labels: Annotated[tuple[Word, ...], Meta(max_length=16)] = ()


class Embedded(Message, tag="model.embedded.v1", frozen=True, kw_only=True):
    """One vector per text, in their order, all of one length. `recorded` as in `Finished`."""

    run_id: str
    model: ModelId
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage
    attempts: tuple[Attempt, ...]
    recorded: bool = True
    cost_usd: UsdText = "0"
    cost_estimated: bool = False
    rejected: dict[str, Count] = {}  # as in `Finished`
    notice: str = ""
    total_ms: float = 0.0
    labels: tuple[str, ...] = ()  # as in `Finished`
    location: Location | None = None
