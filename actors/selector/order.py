"""The same decision as `choose.decide`, without walking over the whole catalogue for every request.

What of a decision does not depend on the request's length is kept per kind of question (task, requirements, named
model, balance, privacy, consents, and which context windows are large enough): who is rejected and why, and the
survivors sorted within groups in which a request's length changes all scores alike. An event or a heartbeat re-files
the one model that it is about. A decision then only looks at the heads of the groups. A property test holds both ways
of deciding equal, byte for byte; replay uses the plain one. Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from understudy.actors.selector import choose
from understudy.actors.selector.choose import Decision, Local, Question, Rejected
from understudy.actors.selector.sight import LocalView
from understudy.actors.selector.views import Knowledge, ModelView
from understudy.messages.brief import RequestBrief
from understudy.messages.catalogue import Candidate
from understudy.messages.catalogue_events import CatalogueEvent, ModelPriced
from understudy.messages.cost import ProviderExhausted, ProviderRestored
from understudy.messages.events import Event, RequestEnded, TopologyApplied
from understudy.messages.known import about
from understudy.messages.topology import Topology, Weights

KINDS = 32
"""Kinds of questions that are kept; the one that was asked least recently makes room."""

NEAR = 2e-9
"""Scores that are further apart differ after rounding to nine places too."""

Group = tuple[int, int, str]  # rank, context window, provider
Entry = tuple[float, str]  # minus the length-independent part of the score, model
Filed = tuple[Group, Entry, dict[str, float]]  # with the length-independent parts, as a candidate shows them
Key = tuple[int, float, str]  # rank, minus score, model: the order of candidates


def local_of(local: LocalView, model: str, provider: str, now: float) -> Local:
    """What this instance sees of a model right now, in the form that is recorded."""
    instances, busy, slots = local.load(model, provider)
    return Local(instances=instances, in_flight=busy, slots=slots, suspect=local.is_suspect(model, now),
                 exhausted=local.is_exhausted(model, now))  # fmt: skip


@dataclass(slots=True)
class Seen:
    """What a decision used of this instance's own sight, as it is recorded: survivors that differ from one idle
    instance, and who is not loaded. (400 models take 24 kB otherwise, in every outcome.)"""

    surviving: dict[str, Any]
    not_loaded: tuple[str, ...]


@dataclass(slots=True)
class _Kind:
    """Everything known about one kind of question."""

    weights: Weights
    named: tuple[str, ...]
    min_quality: float
    rejected: dict[str, str] = field(default_factory=dict[str, str])
    groups: dict[Group, list[Entry]] = field(default_factory=dict[Group, list[Entry]])
    filed: dict[str, Filed] = field(default_factory=dict[str, Filed])
    stale: set[str] = field(default_factory=set[str])  # to be filed again
    resighted: set[str] = field(default_factory=set[str])  # only their record has changed: in-flight requests, mostly
    all_rejected: Rejected | None = None  # made of `rejected` when something has changed
    seen: Seen = field(default_factory=lambda: Seen({}, ()))


def _stand(view: ModelView, sight: Local) -> tuple[int, bool, bool]:
    """All that a decision draws from a sight, besides recording it."""
    return choose.rank(view, sight), sight.instances == 0, sight.exhausted


class Order:
    """Decides for one selector. `happened` must be told every event after it was folded into `knowledge`."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[Any, ...], _Kind] = {}
        self._knowledge: Knowledge | None = None
        self._topology: Topology | None = None
        self._windows: list[int] = []
        self._touched: set[str] = set()
        self._changed = False  # models may have come or gone, or have another window
        self._suspects: set[str] = set()  # filed as suspects; suspicion ends by time alone
        self._sights: dict[str, tuple[Local, Any]] = {}
        self._absent: set[str] = set()  # models without an instance
        self._not_loaded: tuple[str, ...] = ()

    def happened(self, event: Event) -> None:
        """A fact was folded: what it is about must be looked at again."""
        match event:
            case TopologyApplied() | ProviderExhausted() | ProviderRestored():
                self._knowledge = None
            case RequestBrief() | RequestEnded():
                self._touched.update(attempt.model for attempt in event.attempts)
            case _ if isinstance(event, CatalogueEvent):
                self._touched.update(about(event))
                self._changed = self._changed or not isinstance(event, ModelPriced)  # no price makes a candidate
            case _:
                self._touched.add(getattr(event, "model", ""))

    def decide(self, knowledge: Knowledge, local: LocalView, question: Question, now: float) -> tuple[Decision, Seen]:
        """As `choose.decide`, and what of the local view it rests on."""
        topology = knowledge.topology
        if topology is None:
            return Decision(chain=(), others=Rejected.of({})), Seen({}, ())
        self._catch_up(knowledge, topology, local, now)
        kind = self._kind(knowledge, topology, question)
        if kind.stale:
            self._file_all(kind, knowledge, topology, question)
        if kind.stale or kind.resighted:
            kind.seen = self._seen_by(kind)
            kind.stale.clear()
            kind.resighted.clear()
        if kind.all_rejected is None or kind.all_rejected.reasons is not kind.rejected:
            kind.all_rejected = Rejected.of(kind.rejected)
        fits, scores = _Fits(question, kind.weights), dict[str, float]()
        if kind.named:
            models = [model for model in kind.named if model in kind.filed][: topology.policy.chain_length]
        else:
            scores = _best(kind, fits, topology.policy.chain_length)
            models = _chain(kind, list(scores), knowledge, topology, question)
        chain = tuple([_candidate(kind, fits, model, scores.get(model)) for model in models])
        return Decision(chain=chain, others=kind.all_rejected), kind.seen

    # --- keeping books ---------------------------------------------------------------------------------------------

    def _catch_up(self, knowledge: Knowledge, topology: Topology, local: LocalView, now: float) -> None:
        """Note for every kind what has changed since the last decision."""
        if self._knowledge is not knowledge or self._topology is not topology:
            self._knowledge, self._topology = knowledge, topology
            self._kinds.clear()
            self._sights.clear()
            self._absent.clear()
            self._windows = _windows(knowledge)
            self._touched, self._changed = set(knowledge.models), False
        if self._changed:
            self._recount(knowledge)
        if now >= local.exhausted_end_ms:
            local.forget_exhausted([m for m, until_ms in local.exhausted.items() if until_ms <= now])
        looked_at = local.take_touched()
        if local.touched_providers:
            looked_at.update(m for m, v in knowledge.models.items() if v.declared.provider in local.touched_providers)
            local.touched_providers.clear()
        looked_at.update(m for m in self._suspects if not local.is_suspect(m, now))
        if not looked_at and not self._touched:
            return
        for model in (looked_at | self._touched) & knowledge.models.keys():
            self._look(knowledge, local, model, now)
        self._touched.clear()
        if len(self._not_loaded) != len(self._absent) or not self._absent.issuperset(self._not_loaded):
            self._not_loaded = tuple(sorted(self._absent))

    def _recount(self, knowledge: Knowledge) -> None:
        """The catalogue has changed: forget who left; other windows sort questions into other kinds."""
        self._changed = False
        gone = self._sights.keys() - knowledge.models.keys()
        for model in gone:
            del self._sights[model]
        self._suspects -= gone
        self._absent -= gone
        for kind in self._kinds.values():
            _drop(kind, gone)
        windows = _windows(knowledge)
        if windows != self._windows:
            self._windows = windows
            self._kinds.clear()

    def _look(self, knowledge: Knowledge, local: LocalView, model: str, now: float) -> None:
        """See a model as it is now; file it again only if that, or what the log says, may move it."""
        view = knowledge.models[model]
        sight = local_of(local, model, view.declared.provider, now)
        before = self._sights.get(model)
        moved = model in self._touched or before is None or _stand(view, before[0]) != _stand(view, sight)
        if before is None or before[0] != sight:
            self._sights[model] = sight, None if choose.is_idle(sight, view.declared) else msgspec.to_builtins(sight)
        elif not moved:
            return
        (self._suspects.add if sight.suspect else self._suspects.discard)(model)
        (self._absent.add if sight.instances == 0 else self._absent.discard)(model)
        for kind in self._kinds.values():
            (kind.stale if moved else kind.resighted).add(model)

    def _kind(self, knowledge: Knowledge, topology: Topology, q: Question) -> _Kind:
        """The books for this kind of question; new ones have every model still to be filed."""
        too_small = bisect_left(self._windows, choose.window_of(q))
        key = (q.task, q.requirements, q.model, q.balance, q.privacy, q.consented, too_small)
        kind = self._kinds.pop(key, None)
        if kind is None:
            if len(self._kinds) >= KINDS:
                del self._kinds[next(iter(self._kinds))]
            weights, named, min_quality = choose.terms(knowledge, topology, q)
            kind = _Kind(weights, named, min_quality, stale=set(knowledge.models))
        self._kinds[key] = kind
        return kind

    def _file_all(self, kind: _Kind, knowledge: Knowledge, topology: Topology, q: Question) -> None:
        """Put the stale models where they belong now: among the rejected, or into their groups.

        Decisions made before keep their reasons, so new ones are written into a copy: one for all.
        """
        reasons = dict(kind.rejected)
        for model in sorted(kind.stale):
            reason = self._file(kind, knowledge, topology, q, model)
            if reason is None:
                reasons.pop(model, None)
            else:
                reasons[model] = reason
        if reasons != kind.rejected:
            kind.rejected = reasons

    def _file(self, kind: _Kind, knowledge: Knowledge, topology: Topology, q: Question, model: str) -> str | None:
        """Take a model out of its group, and put it into the one that it belongs to now, or say why into none."""
        old = kind.filed.pop(model, None)
        if old is not None:
            entries = kind.groups[old[0]]
            del entries[bisect_left(entries, old[1])]
        view, sight = knowledge.models[model], self._sights[model][0]
        reason = choose.reject(model, view, sight, q, kind.named, kind.min_quality)
        if reason is not None:
            return reason
        group = choose.rank(view, sight), view.declared.context_tokens, view.declared.provider
        steady = choose.steady_parts(view, q.task, topology.policy)
        entry = -choose.steady_score(steady, kind.weights), model
        insort(kind.groups.setdefault(group, []), entry)
        kind.filed[model] = group, entry, choose.rounded(steady)
        return None

    def _seen_by(self, kind: _Kind) -> Seen:
        """What was seen before, with what is new of the stale models."""
        before = kind.seen.surviving
        surviving = dict(before)
        for model in sorted(kind.stale | kind.resighted):
            sight, told = self._sights[model]
            if told is None or (model in kind.rejected and not sight.exhausted):
                surviving.pop(model, None)
            else:
                surviving[model] = told
        if not surviving.keys() <= before.keys():
            surviving = dict(sorted(surviving.items()))
        return Seen(surviving, self._not_loaded)


def _windows(knowledge: Knowledge) -> list[int]:
    return sorted({view.declared.context_tokens for view in knowledge.models.values()})


def _drop(kind: _Kind, gone: set[str]) -> None:
    """They are no candidates any longer. Decisions made before keep what they were given."""
    for model in gone & kind.filed.keys():
        group, entry, _ = kind.filed.pop(model)
        entries = kind.groups[group]
        del entries[bisect_left(entries, entry)]
    if not gone.isdisjoint(kind.rejected):
        kind.rejected = {m: r for m, r in kind.rejected.items() if m not in gone}
    kind.stale -= gone
    kind.resighted -= gone
    if not (gone.isdisjoint(kind.seen.surviving) and gone.isdisjoint(kind.seen.not_loaded)):
        surviving = {m: told for m, told in kind.seen.surviving.items() if m not in gone}
        kind.seen = Seen(surviving, tuple(m for m in kind.seen.not_loaded if m not in gone))


# --- the chain --------------------------------------------------------------------------------------------------------


class _Fits(dict[int, tuple[float, float]]):
    """By context window, what a request's length does to scores: the fit as a candidate shows it, and what
    `choose.total_score` adds for it to the steady score."""

    def __init__(self, q: Question, weights: Weights) -> None:
        super().__init__()
        self._question, self._weights = q, weights
        self.of = choose.weight_of(weights)  # what it divides by

    def __missing__(self, window: int) -> tuple[float, float]:
        fit = choose.fit_of(self._question, window)
        found = self[window] = round(fit, 9), self._weights.fit * fit
        return found


def _candidate(kind: _Kind, fits: _Fits, model: str, score: float | None) -> Candidate:
    """`score`: where it has been worked out already."""
    (_, window, _), (steady, _), parts = kind.filed[model]
    fit, more = fits[window]
    if score is None:
        score = round((more - steady) / fits.of, 9)
    return Candidate(model=model, score=score, parts={**parts, "fit": fit})


def _chain(kind: _Kind, ordered: list[str], knowledge: Knowledge, topology: Topology, q: Question) -> list[str]:
    """Best first; then the operator's fallbacks in declared order; then by score, another provider before the same."""
    length = topology.policy.chain_length
    if len(ordered) < 2:
        return ordered
    chain = [ordered[0]]
    declared = knowledge.models[chain[0]].declared.fallbacks
    wanted = dict.fromkeys((*declared, *topology.tasks[q.task].fallbacks))
    chain += [model for model in wanted if model != chain[0] and model in kind.filed]
    rest = [model for model in ordered if model not in chain]
    if len({provider for (_, _, provider), entries in kind.groups.items() if entries}) == 1:
        chain, rest = chain + rest, []
    while rest and len(chain) < length:
        last = kind.filed[chain[-1]][0][2]
        at = next((i for i, model in enumerate(rest) if kind.filed[model][0][2] != last), 0)
        chain.append(rest.pop(at))
    return chain[:length]


def _best(kind: _Kind, fits: _Fits, length: int) -> dict[str, float]:
    """The best of each provider in their order, with their scores: a chain of that length takes from these alone."""
    heads: dict[str, list[Key]] = {}
    for group, entries in kind.groups.items():
        heads.setdefault(group[2], []).extend(_heads(group, entries, fits, length))
    found: list[Key] = []
    for keys in heads.values():
        keys.sort()
        found += [(rank, round(score, 9), model) for rank, score, model in keys[: _cut(keys, length)]]
    found.sort()
    return {model: -score for _, score, model in found}


def _heads(group: Group, entries: list[Entry], fits: _Fits, length: int) -> list[Key]:
    """A group's best for this length, and all that may be equal to the last of them. Rounding (as in
    `choose.total_score`) is most of a decision's cost, so it is left for those that are taken."""
    rank, window, _ = group
    (_, more), of = fits[window], fits.of
    found = [(rank, (steady - more) / of, model) for steady, model in entries[:length]]
    for steady, model in islice(entries, length, None):
        score = (steady - more) / of
        if score > found[-1][1] + NEAR:
            break
        found.append((rank, score, model))
    return found


def _cut(keys: list[Key], length: int) -> int:
    """So many of these may be among the first `length` after rounding."""
    if len(keys) <= length:
        return len(keys)
    rank, score, _ = keys[length - 1]
    end = length
    while end < len(keys) and keys[end][0] == rank and keys[end][1] <= score + NEAR:
        end += 1
    return end
