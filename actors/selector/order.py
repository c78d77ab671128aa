"""The same decision as `choose.decide`, without walking over the whole catalogue for every request.

What of a decision does not depend on the request's length is kept per kind of question (task, requirements, named
model, balance, and which context windows are large enough): who is rejected and why, and the survivors sorted within
groups in which a request's length changes all scores alike. An event or a heartbeat re-files the one model that it is
about. A decision then only looks at the heads of the groups. A property test holds both ways of deciding equal, byte
for byte; replay uses the plain one. Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from understudy.actors.selector import choose
from understudy.actors.selector.choose import Decision, Local, Question, Rejected, Steady
from understudy.actors.selector.views import Knowledge, LocalView
from understudy.messages.brief import RequestBrief
from understudy.messages.catalogue import Candidate
from understudy.messages.events import Event, RequestEnded, TopologyApplied
from understudy.messages.topology import Topology, Weights

KINDS = 32
"""Kinds of questions that are kept; the one that was asked least recently makes room."""

SMALL = 8
"""Up to so many models a plain walk costs less than keeping books."""

Group = tuple[int, int, str]  # rank, context window, provider
Entry = tuple[float, str]  # minus the length-independent part of the score, model
Filed = tuple[Group, Entry, Steady]
Key = tuple[int, float, str]  # rank, minus score, model: the order of candidates


def local_of(local: LocalView, model: str, now: float) -> Local:
    """What this instance sees of a model right now, in the form that is recorded."""
    busy, slots = local.load(model)
    instances = len(local.instances.get(model, {}))
    return Local(instances=instances, in_flight=busy, slots=slots, suspect=local.is_suspect(model, now))


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
    stale: set[str] = field(default_factory=set[str])
    all_rejected: Rejected | None = None  # made of `rejected` when something has changed
    seen: Seen = field(default_factory=lambda: Seen({}, ()))


class Order:
    """Decides for one selector. `happened` must be told every event after it was folded into `knowledge`."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[Any, ...], _Kind] = {}
        self._knowledge: Knowledge | None = None
        self._topology: Topology | None = None
        self._windows: list[int] = []
        self._touched: set[str] = set()
        self._suspects: set[str] = set()  # filed as suspects; suspicion ends by time alone
        self._sights: dict[str, tuple[Local, Any]] = {}

    def happened(self, event: Event) -> None:
        """A fact was folded: what it is about must be looked at again."""
        match event:
            case TopologyApplied():
                self._knowledge = None
            case RequestBrief() | RequestEnded():
                self._touched.update(attempt.model for attempt in event.attempts)
            case _:
                self._touched.add(getattr(event, "model", ""))

    def decide(self, knowledge: Knowledge, local: LocalView, question: Question, now: float) -> tuple[Decision, Seen]:
        """As `choose.decide`, and what of the local view it rests on."""
        topology = knowledge.topology
        if topology is None or len(knowledge.models) <= SMALL:
            return self._plainly(knowledge, local, question, now)
        self._catch_up(knowledge, topology, local, now)
        kind = self._kind(knowledge, topology, question)
        for model in sorted(kind.stale):
            self._file(kind, knowledge, topology, question, model)
        if kind.stale or kind.all_rejected is None:
            kind.stale.clear()
            if kind.all_rejected is None or kind.all_rejected.reasons is not kind.rejected:
                kind.all_rejected = Rejected.of(kind.rejected)
            kind.seen = self._sight(knowledge, kind)
        length = topology.policy.chain_length
        if kind.named:
            models = [model for model in kind.named if model in kind.filed]
        else:
            models = _chain(kind, knowledge, topology, question)
        chain = tuple(_candidate(kind, question, model) for model in models[:length])
        return choose.sealed(chain, kind.all_rejected), kind.seen

    def _plainly(self, knowledge: Knowledge, local: LocalView, question: Question, now: float) -> tuple[Decision, Seen]:
        view = {model: local_of(local, model, now) for model in knowledge.models}
        decision = choose.decide(knowledge, view, question)
        surviving = {
            m: msgspec.to_builtins(v)
            for m, v in view.items()
            if m not in decision.rejected and v != choose.idle(knowledge.models[m].declared)
        }
        return decision, Seen(surviving, tuple(sorted(m for m, v in view.items() if v.instances == 0)))

    # --- keeping books ---------------------------------------------------------------------------------------------

    def _catch_up(self, knowledge: Knowledge, topology: Topology, local: LocalView, now: float) -> None:
        """Note for every kind what has changed since the last decision."""
        if self._knowledge is not knowledge or self._topology is not topology:
            self._knowledge, self._topology = knowledge, topology
            self._kinds.clear()
            self._sights.clear()
            self._windows = sorted({view.declared.context_tokens for view in knowledge.models.values()})
            self._touched = set(knowledge.models)
        self._touched |= local.take_touched()
        self._touched.update(m for m in self._suspects if not local.is_suspect(m, now))
        if not self._touched:
            return
        for model in self._touched & knowledge.models.keys():
            sight = local_of(local, model, now)
            told = sight != choose.idle(knowledge.models[model].declared)
            self._sights[model] = sight, msgspec.to_builtins(sight) if told else None
            (self._suspects.add if sight.suspect else self._suspects.discard)(model)
            for kind in self._kinds.values():
                kind.stale.add(model)
        self._touched.clear()

    def _kind(self, knowledge: Knowledge, topology: Topology, q: Question) -> _Kind:
        """The books for this kind of question; new ones have every model still to be filed."""
        too_small = bisect_left(self._windows, choose.window_of(q))
        key = (q.task, q.requirements, q.model, q.balance, too_small)
        kind = self._kinds.pop(key, None)
        if kind is None:
            if len(self._kinds) >= KINDS:
                del self._kinds[next(iter(self._kinds))]
            weights, named, min_quality = choose.terms(knowledge, topology, q)
            kind = _Kind(weights, named, min_quality, stale=set(knowledge.models))
        self._kinds[key] = kind
        return kind

    def _file(self, kind: _Kind, knowledge: Knowledge, topology: Topology, q: Question, model: str) -> None:
        """Put a model where it belongs now: among the rejected, or into its group."""
        old = kind.filed.pop(model, None)
        if old is not None:
            entries = kind.groups[old[0]]
            del entries[bisect_left(entries, old[1])]
        view, sight = knowledge.models[model], self._sights[model][0]
        is_local = topology.providers[view.declared.provider].kind == "local"
        reason = choose.reject(model, view, sight, q, kind.named, kind.min_quality, is_local)
        if reason is not None:
            if kind.rejected.get(model) != reason:
                kind.rejected = {**kind.rejected, model: reason}  # decisions made before keep theirs
            return
        if model in kind.rejected:
            kind.rejected = {m: r for m, r in kind.rejected.items() if m != model}
        group = choose.rank(view, sight), view.declared.context_tokens, view.declared.provider
        steady = choose.steady_parts(view, q.task, topology.policy)
        entry = -choose.steady_score(steady, kind.weights), model
        insort(kind.groups.setdefault(group, []), entry)
        kind.filed[model] = group, entry, steady

    def _sight(self, knowledge: Knowledge, kind: _Kind) -> Seen:
        sights = ((m, self._sights[m][1]) for m in knowledge.models if m not in kind.rejected)
        surviving = {m: told for m, told in sights if told is not None}
        return Seen(surviving, tuple(sorted(m for m, (sight, _) in self._sights.items() if sight.instances == 0)))


# --- the chain --------------------------------------------------------------------------------------------------------


def _candidate(kind: _Kind, q: Question, model: str) -> Candidate:
    group, entry, steady = kind.filed[model]
    fit = choose.fit_of(q, group[1])
    return choose.candidate(model, choose.total_score(-entry[0], fit, kind.weights), steady, fit)


def _chain(kind: _Kind, knowledge: Knowledge, topology: Topology, q: Question) -> list[str]:
    """Best first; then the operator's fallbacks in declared order; then by score, another provider before the same."""
    lines = [_Line(group, entries, kind.weights, q) for group, entries in kind.groups.items() if entries]
    chain: list[str] = []
    last = ""
    while lines and len(chain) < topology.policy.chain_length:
        others = [line for line in lines if line.provider != last] or lines
        chain.append(min([line.head for line in others])[2])
        if len(chain) == 1:
            declared = knowledge.models[chain[0]].declared.fallbacks
            wanted = dict.fromkeys((*declared, *topology.tasks[q.task].fallbacks))
            chain += [model for model in wanted if model != chain[0] and model in kind.filed]
        last = kind.filed[chain[-1]][0][2]
        lines = [line for line in lines if line.head[2] not in chain or line.goes_on(chain)]
    return chain


class _Line:
    """The candidates of one group, best first."""

    __slots__ = ("_keys", "head", "provider")

    def __init__(self, group: Group, entries: list[Entry], weights: Weights, q: Question) -> None:
        self.provider = group[2]
        self._keys = _in_order(group, entries, weights, q)
        self.head = next(self._keys)

    def goes_on(self, used: list[str]) -> bool:
        """Step over those that are used; False when none is left."""
        for head in self._keys:
            if head[2] not in used:
                self.head = head
                return True
        return False


def _in_order(group: Group, entries: list[Entry], weights: Weights, q: Question) -> Iterator[Key]:
    """A group's candidates with their scores for this length; those that are equal after rounding, by name."""
    rank, window, _ = group
    fit = choose.fit_of(q, window)
    equal: list[Key] = []
    for steady, model in entries:
        key = rank, -choose.total_score(-steady, fit, weights), model
        if equal and key[1] != equal[0][1]:
            yield from sorted(equal)
            equal.clear()
        equal.append(key)
    yield from sorted(equal)
