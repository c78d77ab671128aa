"""The topology as a value: what an operator declares in `topology.yaml` (read by `actors/host/topology.py`).

It is a message because decisions depend on it: `topology.applied` carries it into the log, and every decision names
its hash. It never holds a secret, only where one is to be read (`key`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from understudy.messages.base import Finite, Part
from understudy.messages.generate import Capability
from understudy.messages.money import UsdText
from understudy.messages.run import Continuation
from understudy.messages.units import Count, ModelId, Positive, PositiveMs, PositiveTokens, Ratio, Usd, Word

DeclaredContinuation = Continuation | Literal["probe"]
"""The operator's word, or `probe`: the health tracker finds out with a known text, each time the model was loaded."""

Refusable = Literal["temperature", "top_p", "seed", "stop", "max_tokens"]
"""Parameters that some models take no word on. Stop strings are then watched for by the runner."""


class BusPlan(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The embedded nats-server. `max_payload_bytes` bounds every message, `max_request_bytes` what callers may send."""

    port: Annotated[int, Meta(ge=0, le=65535)] = 4222
    max_payload_bytes: Positive = 8_000_000
    max_request_bytes: Positive = 4_000_000


class LogPlan(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long events are kept. The log refuses new events when `max_bytes` is reached; `warn_ratio` warns before."""

    max_age_days: Positive = 30
    max_bytes: Positive = 2_000_000_000
    warn_ratio: Ratio = 0.8
    trace_max_bytes: Positive = 500_000_000


class KeySource(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a provider's key is read from: one of the three. `vault`: the name of a key in the vault."""

    env: str | None = None
    file: str | None = None
    vault: Word | None = None


class Provider(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who runs models: `local` (transformers, one process per model), or an endpoint that speaks one of the dialects.

    `url`: with the version, where the dialect has one (`.../v1`; none for ollama).
    """

    kind: Literal["local", "openai", "openai_responses", "openrouter", "anthropic", "ollama"]
    url: str | None = None
    key: KeySource | None = None
    connect_timeout_ms: PositiveMs = 2_000
    max_connections: Positive = 100


class Model(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model. `quality` is the operator's word per task (`default` for the rest), until outcomes say more."""

    provider: Word
    name: str | None = None  # what the provider calls it; the id when absent
    path: str | None = None  # local: folder with safetensors, relative to the topology file
    context_tokens: PositiveTokens = 4_096
    slots: Positive = 8  # requests at once
    quality: dict[str, Ratio] = {}
    capabilities: tuple[Capability, ...] = ("chat",)
    continues: DeclaredContinuation = "none"  # how it goes on with another model's text; `probe`: find out (if free)
    refuses: tuple[Refusable, ...] = ()  # answered with an error: left out; `max_tokens` goes by its newer name
    fallbacks: tuple[ModelId, ...] = ()
    usd_per_mtok_in: Usd = 0.0
    usd_per_mtok_out: Usd = 0.0
    usd_per_mtok_cached: Usd | None = None  # of the prompt, read from a cache; none: as the rest of it
    usd_per_mtok_reasoning: Usd | None = None  # of the completion, not shown; none: as the rest of it
    usd_per_request: Usd = 0.0
    price_known: bool = True  # not: what it costs nobody can say before (see `policy.unknown_price_reserve_usd`)
    licence: str = "unknown"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    tokens_per_s: Annotated[float, Meta(gt=0)] | None = None  # a limit on purpose (demo, politeness)


class Latency(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a request of this class may take: in all, until the first token, and between tokens."""

    deadline_ms: PositiveMs
    first_token_ms: PositiveMs
    stall_ms: PositiveMs


class Task(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of work with its own defaults. `emergency_reply` opts in to a canned answer when every model failed."""

    latency: Word = "interactive"
    fallbacks: tuple[ModelId, ...] = ()
    max_tokens: PositiveTokens = 256
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.7
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    min_quality: Ratio = 0.0
    emergency_reply: str | None = None


class Weights(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much each score counts; only their proportion matters."""

    quality: Annotated[float, Meta(ge=0)] = 0.6
    speed: Annotated[float, Meta(ge=0)] = 0.25
    cost: Annotated[float, Meta(ge=0)] = 0.1
    fit: Annotated[float, Meta(ge=0)] = 0.05


class Budget(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most so much may be spent in each window (UTC), by each key of the scope apart.

    `match`: only these keys; none: each. Keys are providers, models, or keyed hashes of users and conversations.
    Requests that name no user share one budget; a request without a conversation is in none.
    """

    scope: Literal["all", "provider", "model", "user", "conversation"]
    window: Literal["day", "month", "conversation"]
    limit_usd: UsdText
    match: tuple[str, ...] = ()


class Policy(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """House rules of selection. The reference values are where a score is one half.

    `unknown_price_reserve_usd`: a model whose price nobody knows is not free. It is used only where this says what to
    reserve for a request to it.
    """

    weights: Weights = Weights()
    speed_reference_ms: PositiveMs = 500
    cost_reference_usd_per_mtok: Annotated[float, Meta(gt=0)] = 1.0
    chain_length: Positive = 8
    failover_ratio: Ratio = 0.2
    failover_minimum: Count = 10
    unknown_price_reserve_usd: UsdText | None = None


class ActorPlan(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An actor's place: what it answers, folds and says. `{instance}` and `{model}` stand for its own keys."""

    asks: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()  # what it reads of the trace stream
    emits: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()
    observes: tuple[str, ...] = ()  # what it publishes as `obs`
    singleton: bool = False
    replicas: Positive = 1
    settings: dict[str, Any] = {}


def _latencies() -> dict[str, Latency]:
    return {
        "interactive": Latency(deadline_ms=60_000, first_token_ms=10_000, stall_ms=5_000),
        "batch": Latency(deadline_ms=600_000, first_token_ms=60_000, stall_ms=30_000),
    }


class Topology(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole: one file, read from top to bottom."""

    version: Literal[1]
    models: dict[ModelId, Model]
    providers: dict[Word, Provider]
    vault: str | None = None  # file of the keys' vault, relative to the topology file; `keys.vault` in the state folder
    app: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]{0,15}$")] = "tta"
    bus: BusPlan = BusPlan()
    log: LogPlan = LogPlan()
    aliases: dict[ModelId, ModelId] = {}
    latency: dict[Word, Latency] = field(default_factory=_latencies)
    tasks: dict[Word, Task] = field(default_factory=lambda: {"general": Task()})
    policy: Policy = Policy()
    budgets: dict[Word, Budget] = {}
    actors: dict[Word, ActorPlan] = {}
