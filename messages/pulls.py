"""Pulling a model into a provider that can fetch one (Ollama): the operator's ask, its progress, its one end.

The operator asks `<app>.ask.catalogue.pull` of the model manager, which knows the providers and passes the order on to
the provider's runner, as `<app>.ask.runner.pull.<provider>` with the operator's own inbox as reply. There come
`PullProgress`* and then one `PullEnded` or `PullFailed`. Whoever does not listen any longer has ended the pull.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from understudy.messages.base import Ask, Message
from understudy.messages.units import Count, ModelId, Word

PULLING_KINDS = ("ollama",)
"""Kinds of providers that pull models."""

PullFault = Literal[
    "unreachable", "not_found", "refused", "truncated", "stalled", "malformed", "pulling", "unsupported", "cancelled"
]
"""Why there is no model: nobody accepts, or the connection broke before a word; no registry has it; the server says
another error; its answer ended without `success`; it is silent; not Ollama's form; this model is being pulled already,
or as many as may be; a provider that pulls nothing; the runner stops."""

MOST_WORDS = 300
Words = Annotated[str, Meta(max_length=MOST_WORDS)]
"""What the server says: at most so many characters of it."""


class PullModel(Ask, tag="catalogue.pull.v1", frozen=True, kw_only=True):
    """Have a provider fetch a model from its registry. For operators. `insecure`: a registry without TLS may do."""

    provider: Word
    name: ModelId
    insecure: bool = False


class PullOrder(Message, tag="runner.pull.v1", frozen=True, kw_only=True):
    """The same, to the provider's own process."""

    name: ModelId
    insecure: bool = False


class PullProgress(Message, tag="pull.progress.v1", frozen=True, kw_only=True):
    """Where it is, in the server's words: said when they change, five times a second at most while bytes come, and
    once a second in any case. `digest` and bytes are of the layer that is being fetched."""

    status: Words = ""
    digest: str = ""
    total_bytes: Count = 0
    completed_bytes: Count = 0


class PullEnded(Message, tag="pull.ended.v1", frozen=True, kw_only=True):
    """The provider has it. `digest`: of its largest layer, which holds the weights; `bytes`: of all layers."""

    name: ModelId
    digest: str = ""
    bytes: Count = 0


class PullFailed(Message, tag="pull.failed.v1", frozen=True, kw_only=True):
    """The provider does not have it; what it has fetched of it, it keeps."""

    code: PullFault
    text: str


# --- between the runner's step and its edge ---------------------------------------------------------------------------


class StartPull(Struct, frozen=True):
    """Runner's edge: pull a model. Comes back as PullSaid*, then one PullOver."""

    pull_id: str
    name: str
    insecure: bool = False


class EndPull(Struct, frozen=True):
    """Runner's edge: give a pull up. Nothing comes back."""

    pull_id: str


class PullSaid(Struct, frozen=True):
    """A line of the server's answer."""

    at_ms: float
    pull_id: str
    status: str
    digest: str = ""
    total_bytes: int = 0
    completed_bytes: int = 0


class PullOver(Struct, frozen=True):
    """The server has said `success` (no `fault`), or never will; `said`: its own words about it."""

    at_ms: float
    pull_id: str
    fault: PullFault | None = None
    said: str = ""
