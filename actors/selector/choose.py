"""Filter, score, pick: which models may answer, in which order. Pure, so that a recorded decision can be repeated.

Every candidate that is dropped gets one closed reason word; every score is a finite number in [0, 1].
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Literal

import msgspec

from understudy.actors.selector.views import Knowledge, ModelView
from understudy.messages.base import Part
from understudy.messages.catalogue import Candidate
from understudy.messages.generate import Requirements
from understudy.messages.prices import is_too_dear
from understudy.messages.privacy import Privacy
from understudy.messages.topology import Model, Policy, Topology, Weights

DRIFTED = 0.9
"""What a part of the score is worth while its figure has drifted: quality for errors and judgements, speed for latency.
It leans between near equals. What its outcomes have been counts by itself, and one that may not be used is rejected."""

Rejection = Literal[
    "unhealthy",
    "retired",
    "offline",
    "not_loaded",
    "no_capability",
    "context_too_small",
    "too_slow",
    "below_quality",
    "too_expensive",
    "not_free",
    "licence",
    "wrong_location",
    "needs_consent",
    "not_named",
    "unknown_price",
    "quota_exhausted",
]


class Local(Part, frozen=True, kw_only=True):
    """What the instance saw of one candidate at the moment of the decision; recorded with it."""

    instances: int
    in_flight: int
    slots: int
    suspect: bool = False
    exhausted: bool = False  # a quota that it draws on is used up, and the log does not say so yet


def idle(declared: Model) -> Local:
    """What needs no record: one instance, nothing in flight, as many slots as declared, no suspicion."""
    return Local(instances=1, in_flight=0, slots=declared.slots)


def is_idle(sight: Local, declared: Model) -> bool:
    """Is it as `idle` says? It is asked about a model before and after each of its requests."""
    plain = sight.instances == 1 and not (sight.in_flight or sight.suspect or sight.exhausted)
    return plain and sight.slots == declared.slots


class Question(Part, frozen=True, kw_only=True):
    """A request as the choice sees it: its shape, never its text. Recorded, so that the choice can be repeated."""

    task: str
    prompt_tokens: int
    max_tokens: int
    requirements: Requirements
    model: str | None = None
    balance: float | None = None
    larger_than: int = 0  # only windows above this (after `context_too_long`)
    privacy: Privacy = "local_only"
    consented: tuple[str, ...] = ()  # providers on other machines that may be sent this request


class Rejected(Part, frozen=True, kw_only=True):
    """The rejected candidates with what follows from them alone; made once for many decisions."""

    reasons: dict[str, str]
    tally: dict[str, int]
    sealed: bytes  # as the digest wants them

    @staticmethod
    def of(reasons: dict[str, str]) -> Rejected:
        """From reasons per model."""
        tally = dict(sorted(Counter(reasons.values()).items()))
        return Rejected(reasons=reasons, tally=tally, sealed=msgspec.json.encode(sorted(reasons.items())))


class Decision(Part, frozen=True, kw_only=True):
    """The outcome: whom to try in which order, and why not the others."""

    chain: tuple[Candidate, ...]
    others: Rejected

    @property
    def rejected(self) -> dict[str, str]:
        """The reason word of everyone who may not answer."""
        return self.others.reasons

    def counts(self) -> dict[str, int]:
        """Rejected candidates per reason word."""
        return self.others.tally

    def digest(self) -> str:
        """What tells this decision from any other: 128 bits of SHA-256 over chain, scores and reasons."""
        body = b"[%b,%b]" % (msgspec.json.encode(self.chain), self.others.sealed)
        return hashlib.sha256(body).hexdigest()[:32]


def decide(knowledge: Knowledge, local: dict[str, Local], question: Question) -> Decision:
    """Choose. `local` holds an entry for every model of the catalogue."""
    topology = knowledge.topology
    if topology is None:
        return Decision(chain=(), others=Rejected.of({}))
    rejected: dict[str, str] = {}
    ranked: list[tuple[int, Candidate]] = []
    weights, named, min_quality = terms(knowledge, topology, question)
    for model_id, view in knowledge.models.items():
        reason = reject(model_id, view, local[model_id], question, named, min_quality)
        if reason is not None:
            rejected[model_id] = reason
            continue
        ranked.append((rank(view, local[model_id]), score(model_id, view, question, topology.policy, weights)))
    ranked.sort(key=lambda pair: (pair[0], -pair[1].score, pair[1].model))
    ordered = [one for _, one in ranked]
    if named:
        ordered.sort(key=lambda one: named.index(one.model))
    chain = _chain(knowledge, question, ordered, topology.policy.chain_length, bool(named))
    return Decision(chain=chain, others=Rejected.of(rejected))


def terms(knowledge: Knowledge, topology: Topology, question: Question) -> tuple[Weights, tuple[str, ...], float]:
    """What a question fixes for all models: the scores' weights, whom it names, the least quality."""
    min_quality = max(topology.tasks[question.task].min_quality, question.requirements.min_quality or 0.0)
    return _weights(topology.policy, question.balance), _named(knowledge, question.model), min_quality


def window_of(q: Question) -> int:
    """The smallest context window that will do."""
    return max(q.prompt_tokens + 1, q.requirements.context_tokens or 0, q.larger_than + 1)


def _named(knowledge: Knowledge, model: str | None) -> tuple[str, ...]:
    """A caller who names a model gets that one, then what its operator declared as fallbacks; nothing else."""
    if model is None:
        return ()
    return tuple(dict.fromkeys((model, *knowledge.models[model].declared.fallbacks)))


def reject(
    model_id: str,
    view: ModelView,
    local: Local,
    q: Question,
    named: tuple[str, ...],
    min_quality: float,
) -> Rejection | None:
    """Why a model may not answer; None when it may."""
    declared, need = view.declared, q.requirements
    if named and model_id not in named:
        return "not_named"
    if need.location is not None and need.location != view.location:
        return "wrong_location"
    if view.location != "local" and q.privacy != "external_allowed":
        return "wrong_location"
    if view.location != "local" and declared.provider not in q.consented:
        return "needs_consent"
    if view.retired or view.offline:
        return "retired" if view.retired else "offline"
    if view.price_refused:
        return "unknown_price"
    if view.exhausted or local.exhausted:
        return "quota_exhausted"
    if view.status == "unavailable":
        return "unhealthy"
    if local.instances == 0:
        return "not_loaded"
    able = declared.capabilities
    if not set(need.capabilities) <= set(able) or ("chat" not in able and "embeddings" not in need.capabilities):
        return "no_capability"
    if declared.context_tokens < window_of(q):
        return "context_too_small"
    if quality_of(view.declared, q.task) < min_quality:
        return "below_quality"
    if need.max_usd_per_mtok is not None and is_too_dear(declared, need.max_usd_per_mtok):
        return "too_expensive"
    if need.free and not view.free:
        return "not_free"
    if need.licences and view.licence_class not in need.licences:
        return "licence"
    if need.max_latency_ms is not None and (view.first_token_ms or 0.0) > need.max_latency_ms:
        return "too_slow"
    return None


def rank(view: ModelView, local: Local) -> int:
    """Healthy with a free slot first; a suspect is the last resort, not an outcast."""
    full = local.slots > 0 and local.in_flight >= local.slots
    return (4 if local.suspect else 0) + (2 if view.status == "degraded" else 0) + (1 if full else 0)


def quality_of(declared: Model, task: str) -> float:
    """The operator's word for a task; 0.5 without any."""
    return declared.quality.get(task, declared.quality.get("default", 0.5))


def quality(view: ModelView, task: str) -> float:
    """The operator's word, and what people and benchmarks have judged since: see `opinions`."""
    declared, opinion = quality_of(view.declared, task), view.opinions.get(task)
    return declared if opinion is None else opinion.quality(declared)


def _weights(policy: Policy, balance: float | None) -> Weights:
    """The request's `balance` (0 = only speed and cost, 1 = only quality) overrides the topology's proportions."""
    w = policy.weights
    if balance is None:
        return w
    rest = w.speed + w.cost or 1.0
    return Weights(quality=balance, speed=(1 - balance) * w.speed / rest, cost=(1 - balance) * w.cost / rest, fit=0.0)


def score(model_id: str, view: ModelView, q: Question, policy: Policy, w: Weights) -> Candidate:
    """Weighted mean of the parts.

    quality = declared quality, blended with judgements (`opinions`), x success ratio (1 before any outcome);
    speed = r / (r + first token ms) with the policy's reference r, each x 0.9 while its figures have drifted
    (`DRIFTED`); cost = c / (c + USD per million tokens), 0 where the price is unknown; fit = share of the window that
    stays free.
    """
    steady = steady_parts(view, q.task, policy)
    fit = fit_of(q, view.declared.context_tokens)
    return candidate(model_id, total_score(steady_score(steady, w), fit, w), steady, fit)


Steady = tuple[float, float, float]
"""Quality, speed, cost: the parts of a score that do not depend on the request's length."""


def candidate(model_id: str, total: float, steady: Steady, fit: float) -> Candidate:
    """A survivor with its score and what the score is made of."""
    return Candidate(model=model_id, score=total, parts={**rounded(steady), "fit": round(fit, 9)})


def rounded(steady: Steady) -> dict[str, float]:
    """The steady parts by name, as a candidate shows them."""
    quality, speed, cost = steady
    return {"quality": round(quality, 9), "speed": round(speed, 9), "cost": round(cost, 9)}


def steady_parts(view: ModelView, task: str, policy: Policy) -> Steady:
    """See `Steady`."""
    declared = view.declared
    ratio = view.success_ratio()
    known = declared.price_known is not False
    price = (declared.usd_per_mtok_in + declared.usd_per_mtok_out) / 2 if known else math.inf
    steady = DRIFTED if "error_ratio" in view.drifted or "score" in view.drifted else 1.0
    speed = DRIFTED if "latency_ms" in view.drifted else 1.0
    return (
        steady * quality(view, task) * (1.0 if ratio is None else ratio),
        speed * policy.speed_reference_ms / (policy.speed_reference_ms + (view.first_token_ms or 0.0)),
        policy.cost_reference_usd_per_mtok / (policy.cost_reference_usd_per_mtok + price),
    )


def steady_score(steady: Steady, w: Weights) -> float:
    """What the steady parts add to the score."""
    quality, speed, cost = steady
    return w.quality * quality + w.speed * speed + w.cost * cost


def fit_of(q: Question, window: int) -> float:
    """The share of a context window that a request leaves free."""
    taken = q.prompt_tokens + q.max_tokens
    return 1.0 - taken / window if taken < window else 0.0


def total_score(steady: float, fit: float, w: Weights) -> float:
    """The whole score: never falls when `steady` rises, also not by rounding."""
    return round((steady + w.fit * fit) / weight_of(w), 9)


def weight_of(w: Weights) -> float:
    """What `total_score` divides by."""
    return w.quality + w.speed + w.cost + w.fit or 1.0


def _chain(
    knowledge: Knowledge, q: Question, ordered: list[Candidate], length: int, named: bool
) -> tuple[Candidate, ...]:
    """Best first; then the operator's fallbacks in declared order; then by score, another provider before the same."""
    if not ordered or named:
        return tuple(ordered[:length])
    topology = knowledge.topology
    declared = knowledge.models[ordered[0].model].declared.fallbacks
    wanted = [*declared, *(topology.tasks[q.task].fallbacks if topology else ())]
    chain, rest = [ordered[0]], ordered[1:]
    for model in dict.fromkeys(wanted):
        found = next((one for one in rest if one.model == model), None)
        if found is not None:
            chain.append(found)
            rest.remove(found)
    while rest and len(chain) < length:
        last = knowledge.models[chain[-1].model].declared.provider
        other = next((one for one in rest if knowledge.models[one.model].declared.provider != last), rest[0])
        chain.append(other)
        rest.remove(other)
    return tuple(chain[:length])
