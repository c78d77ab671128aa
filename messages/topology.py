"""The topology as a value: what an operator declares in `topology.yaml` (read by `actors/host/topology.py`).

It is a message because decisions depend on it: `topology.applied` carries it into the log, and every decision names
its hash. It never holds a secret, only where one is to be read (`key`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from understudy.messages.base import Finite, Part
from understudy.messages.generate import Capability, LicenceClass
from understudy.messages.limits import QUEUE, QUEUE_BYTES, Lanes, Limits, QueueBound, QueueBytes
from understudy.messages.money import UsdText
from understudy.messages.privacy import Location, Privacy
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


class CachePlan(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kept answers: so long at most, and so many bytes; then the oldest make room."""

    ttl_s: Positive = 86_400
    max_bytes: Positive = 64_000_000


class GraphPlan(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the performance graph lives.

    `uri`: `embedded` (the server that the extra `graph` brings, started here, data in the state folder), `off`, or the
    Bolt address of a Neo4j: `bolt://`, `neo4j://`, with TLS `bolt+s://`, `neo4j+s://`. `user`, `password_file` (without
    one nobody logs in) and `database` are the Neo4j's; our labels have a prefix, so it may be shared.
    """

    uri: str = "embedded"
    user: str = "neo4j"
    password_file: str | None = None  # holds the password and nothing else; relative to the topology file
    database: Word = "neo4j"
    heap_mb: Positive = 512  # of the embedded server


class KeySource(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a provider's key is read from: one of the three. `vault`: the name of a key in the vault."""

    env: str | None = None
    file: str | None = None
    vault: Word | None = None


class Admit(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which models of a provider's list may be selected though `models` does not name them: all that is given must
    hold.

    `ids` are shell patterns on the provider's own names, of which one must match. A model whose context length the list
    does not say is never admitted, nor one without text in and out; nor, with `free` or a price, one of unknown price.
    `slots` and `quality` are theirs as in `models`. Without `locations` a model must compute where the provider's
    address is: an Ollama on this machine offers its vendor's cloud under the same roof.
    """

    ids: Annotated[tuple[str, ...], Meta(min_length=1)]
    free: bool = False
    max_usd_per_mtok: Usd | None = None
    capabilities: tuple[Capability, ...] = ("chat",)
    context_tokens: PositiveTokens | None = None  # at least
    licences: tuple[LicenceClass, ...] = ()  # one of these; none given: any
    locations: tuple[Location, ...] = ()
    slots: Positive = 8
    quality: dict[str, Ratio] = {}


class CataloguePlan(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read the provider's own list of models, again and again.

    `url`: where the list is, if not where calls go. `refresh_s`: by default 5 s for Ollama, an hour for others.
    `prefix`: stands before the provider's names where another provider has the same. `licence`: of listed models where
    the list says none.
    """

    url: str | None = None
    refresh_s: Positive | None = None
    prefix: Annotated[str, Meta(max_length=64, pattern=r"^[^\s\x00-\x1f\x7f-\x9f]*$(?![\s\S])")] = ""
    licence: str = ""
    admit: Admit | None = None  # none: lists are only shown


class Provider(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who runs models: `local` (transformers, one process per model), or an endpoint that speaks one of the dialects.

    `url`: with the version, where the dialect has one (`.../v1`; none for ollama). `queue`: so many requests may
    wait for room, in each of its processes, and `queue_bytes` of them together; beyond that it is `overloaded`.
    """

    kind: Literal["local", "openai", "openai_responses", "openrouter", "anthropic", "ollama"]
    url: str | None = None
    key: KeySource | None = None
    connect_timeout_ms: PositiveMs = 2_000
    max_connections: Positive = 100
    catalogue: CataloguePlan | None = None  # none: no list is read
    zdr: bool = False  # openrouter: only upstreams that retain nothing of what they are sent
    location: Location | None = None  # loopback is local unless said otherwise, all else external
    limits: Limits = Limits()
    lanes: Lanes = Lanes()
    queue: QueueBound = QUEUE
    queue_bytes: QueueBytes = QUEUE_BYTES


class Model(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model. `quality` is the operator's word per task (`default` for the rest), until outcomes say more.

    Without any price: what the provider's `catalogue` says, or nothing where no list is read. A list without prices
    leaves that of a model elsewhere unknown; `price_known: true` says that it costs nothing but what is given here.
    """

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
    usd_per_search: Usd = 0.0  # of the web, by a model that does so unasked: one per request is reserved
    price_known: bool | None = None  # false: nobody can say before (see `policy.unknown_price_reserve_usd`)
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
    hedge: bool = False  # of requests that do not say: see `Policy.hedge_ratio`
    cache: bool = False  # keep answers of requests that say nothing about it, where they qualify


class Weights(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much each score counts; only their proportion matters."""

    quality: Annotated[float, Meta(ge=0)] = 0.6
    speed: Annotated[float, Meta(ge=0)] = 0.25
    cost: Annotated[float, Meta(ge=0)] = 0.1
    fit: Annotated[float, Meta(ge=0)] = 0.05


class Thresholds(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model should hold; comparisons and trends mark it, nothing is refused for it.

    `max_response_ms`: of the whole answer, for 95 of 100. `max_error_ratio`: failed attempts of all that say something
    of the model.
    """

    min_quality: Ratio = 0.7
    max_response_ms: PositiveMs = 5_000
    max_error_ratio: Ratio = 0.05


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

    `hedge_ratio`: of all requests that may be hedged, at most so many are (a second model is asked when the first has
    not begun by its own 95th percentile).
    """

    weights: Weights = Weights()
    speed_reference_ms: PositiveMs = 500
    cost_reference_usd_per_mtok: Annotated[float, Meta(gt=0)] = 1.0
    chain_length: Positive = 8
    failover_ratio: Ratio = 0.2
    failover_minimum: Count = 10
    unknown_price_reserve_usd: UsdText | None = None
    privacy: Privacy = "local_only"  # of requests that say nothing
    pii: Literal["redact", "refuse"] = "redact"  # of what leaves
    require_judge: bool = True  # does nothing leave while nobody answers `safety.judge`?
    judge_ms: PositiveMs = 1_000  # so long is an answer of it waited for
    hedge_ratio: Ratio = 0.08


class ConsentPlan(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody agrees to before their words leave this machine: one text, or one of a provider's own.

    `without_user`: requests that name no user may leave too, by the consent of everybody here or of their conversation.
    In these nobody's own "no" can be found, so they stay here unless an installation without users says otherwise.
    """

    text: str = ""
    providers: dict[Word, str] = {}
    without_user: bool = False


class ActorPlan(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An actor's place: what it answers, folds and says. `{instance}` and `{model}` stand for its own keys."""

    asks: tuple[str, ...] = ()
    hears: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()  # what it reads of the trace stream
    emits: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()  # facts that it reads by position, from where it left off
    consults: tuple[str, ...] = ()  # facts that it reads when it needs to know, up to that very moment
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
    cache: CachePlan = CachePlan()
    graph: GraphPlan = GraphPlan()
    aliases: dict[ModelId, ModelId] = {}
    latency: dict[Word, Latency] = field(default_factory=_latencies)
    tasks: dict[Word, Task] = field(default_factory=lambda: {"general": Task()})
    policy: Policy = Policy()
    thresholds: Thresholds = Thresholds()
    budgets: dict[Word, Budget] = {}
    consent: ConsentPlan = ConsentPlan()
    actors: dict[Word, ActorPlan] = {}
