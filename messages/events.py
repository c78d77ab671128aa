"""Facts, past tense: what is stored in the log (`evt`) and republished to `live`. None holds any content of a request.

User and conversation ids appear as keyed hashes only.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from understudy.messages.base import Message
from understudy.messages.generate import Attempt, FinishReason, Parameters, Usage
from understudy.messages.money import Charge, UsdText
from understudy.messages.run import Continuation
from understudy.messages.topology import Topology
from understudy.messages.units import Count, ModelId, Word

Health = Literal["healthy", "degraded", "unavailable"]


ProbeWord = Literal["matched", "no_match", "costs_money"]
"""What a continuation probe found. `costs_money`: not asked, as the model has a price and nobody allowed it."""

OUTCOMES = frozenset({"request.ended", "attempt.ended"})
"""Facts that come with every request: they are counted, and no single one is waited for."""


class Event(Message, frozen=True, kw_only=True):
    """Base of stored facts. `at_ms`: Unix milliseconds at the writer; the order of facts is the log's sequence."""

    at_ms: int
    id: str = ""


class TopologyApplied(Event, tag="topology.applied.v1", frozen=True, kw_only=True):
    """Said by the supervisor at start and at each valid reload. `body` is the topology without secrets."""

    hash: str
    body: Topology


class SelectionMade(Event, tag="selection.made.v1", frozen=True, kw_only=True):
    """A decision and all that a replay needs and the log does not hold. Written to the trace stream, unawaited."""

    run_id: str
    instance: str
    as_of_seq: Count
    topology: str
    seed: int
    task: Word
    features: dict[str, Any]  # the request's shape, never its text
    local_view: dict[str, Any]  # surviving candidates that were not simply one idle instance: load, suspicion
    chain: tuple[ModelId, ...]
    scores: dict[str, float]
    rejected: dict[str, int]
    not_loaded: tuple[ModelId, ...]
    digest: str
    reply: str = ""
    deadline_at_ms: int = 0
    stream: bool = False
    claim: str = ""  # keyed hash of the caller's `request_id`
    body: str = ""  # keyed hash of the request, where it had a `request_id`
    conversation: str = ""  # keyed hash
    user: str = ""  # keyed hash


def seal_of(decision: bytes) -> str:
    """What `request.ended` says about the decision inside it: a hash over its very bytes, so that none can change."""
    return hashlib.sha256(decision).hexdigest()[:32]


class AttemptEnded(Event, tag="attempt.ended.v1", frozen=True, kw_only=True):
    """One model tried in vain. (The successful attempt stands inside `RequestEnded`.)

    `exhausted_until_ms`: see `RunFailed`. `charge`: what the attempt cost, where its model has a price.
    """

    run_id: str
    attempt: Count
    model: ModelId
    reason: str
    first_token_ms: float | None = None
    total_ms: float = 0.0
    tokens: Count = 0
    status: int | None = None
    retry_after_ms: int | None = None
    exhausted_until_ms: int | None = None
    charge: Charge | None = None


class RequestEnded(Event, tag="request.ended.v1", frozen=True, kw_only=True):
    """The one outcome of a run; its message id is `end.<run_id>`, so the log keeps exactly one."""

    run_id: str
    instance: str
    outcome: str  # `finished`, or the code of the failure
    task: Word
    as_of_seq: Count
    topology: str
    digest: str
    model: ModelId | None = None
    finish_reason: FinishReason | None = None
    attempts: tuple[Attempt, ...] = ()
    usage: Usage = Usage()
    parameters: Parameters | None = None
    last_seq: int = -1
    seams: Count = 0
    text_chars: Count = 0
    tool_calls: Count = 0
    vectors: Count = 0
    cost_usd: UsdText = "0"
    charges: tuple[Charge, ...] = ()  # of every attempt for which something was reserved, or asked to be
    rejected: dict[str, Count] = {}  # see `Finished`
    total_ms: float = 0.0
    conversation: str = ""  # keyed hash
    user: str = ""  # keyed hash
    labels: tuple[str, ...] = ()
    degraded: bool = False  # the task's emergency reply
    cached: bool = False  # see `Finished`: `usage` and `attempts` are empty, `model` is the one that once answered
    claim: str = ""  # keyed hash of the caller's `request_id`
    body: str = ""  # keyed hash of the request, where it had a `request_id`
    decision: SelectionMade | None = None
    seal: str = ""  # `seal_of` the decision as it is encoded here


class ModelLoaded(Event, tag="model.loaded.v1", frozen=True, kw_only=True):
    """A runner is ready to serve this model."""

    model: ModelId
    instance: str
    engine: str
    facts: dict[str, Any] = {}


class ModelUnloaded(Event, tag="model.unloaded.v1", frozen=True, kw_only=True):
    """A runner stopped serving this model in good order."""

    model: ModelId
    instance: str


class ModelDegraded(Event, tag="model.degraded.v1", frozen=True, kw_only=True):
    """Still used, but after the healthy ones."""

    model: ModelId
    reason: str
    was: Health
    error_ratio: float = 0.0


class ModelUnavailable(Event, tag="model.unavailable.v1", frozen=True, kw_only=True):
    """Not used until it recovers. `retry_at_ms`: when it is probed next; `opened` counts the openings in a row."""

    model: ModelId
    reason: str
    was: Health
    retry_at_ms: int
    opened: Count = 1


class ModelRecovered(Event, tag="model.recovered.v1", frozen=True, kw_only=True):
    """Healthy again."""

    model: ModelId
    was: Health
    by: Literal["probe", "outcome", "loaded", "quiet", "listed"]
    """`quiet`: no failure for a while, so the old ones are forgiven; `listed`: its provider has it again."""


class ModelProbed(Event, tag="model.probed.v1", frozen=True, kw_only=True):
    """How a model that is declared `continues: probe` goes on with a known text that another one began.

    It holds for the model as it is since position `since_seq` of the log (its last load, or a change of its
    declaration); a later load makes it unknown again, which counts as `none`.
    """

    model: ModelId
    continues: Continuation
    reason: ProbeWord
    since_seq: Count


class ModelSwitched(Event, tag="model.switched.v1", frozen=True, kw_only=True):
    """A run went on with another model in the middle of its answer."""

    model: ModelId
    from_model: ModelId
    run_id: str
    mode: str
    reason: str
    task: str = ""


class ModelPinned(Event, tag="model.pinned.v1", frozen=True, kw_only=True):
    """From here on a conversation is answered by this model, where its requests name none."""

    model: ModelId
    conversation: str  # keyed hash


class ModelCleared(Event, tag="model.cleared.v1", frozen=True, kw_only=True):
    """A conversation's pin is gone: its requests are answered by the best model again."""

    conversation: str  # keyed hash


class FeedbackGiven(Event, tag="feedback.given.v1", frozen=True, kw_only=True):
    """What a caller thought of an answer, and who gave that: the run's model and task, as its end has them."""

    run_id: str
    rating: float
    reason: Word | None = None
    user: str = ""
    model: str = ""
    task: str = ""
