"""What the selector answers about models and decisions."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import msgspec

from understudy.actors.selector.admit import refuse
from understudy.actors.selector.choose import Decision, quality_of
from understudy.actors.selector.sight import LocalView
from understudy.actors.selector.views import Knowledge, ModelView
from understudy.messages.base import Message
from understudy.messages.catalogue import Described, ListModels, ListProblem, ModelCard, Models, Selected
from understudy.messages.generate import ADVICE, Failed
from understudy.messages.known import Entry
from understudy.messages.prices import is_too_dear
from understudy.messages.step import Stored, StoreFailed


def models(knowledge: Knowledge, local: LocalView, ask: ListModels) -> Models:
    """The catalogue's models that meet the filters, by id. Raises Refusal `unknown_task`."""
    topology, known = knowledge.topology, knowledge.known
    task = topology.tasks.get(ask.task) if topology is not None and ask.task is not None else None
    if ask.task is not None and task is None:
        raise refuse("unknown_task", f"No task {ask.task!r}.", "$.task")
    least = task.min_quality if task is not None else 0.0
    found = [model for model, _ in _candidates(knowledge, ask, least)]
    if not ask.candidates and least == 0.0:  # nobody has said anything about the quality of the others
        found += [model for model, _ in _listed(knowledge, ask)]
    found.sort()
    page = found[bisect_right(found, ask.after) if ask.after is not None else 0 :][: ask.limit]
    problems = {
        p: ListProblem(code=r.code, text=r.text, path=r.path, since_ms=r.since_ms) for p, r in known.refused.items()
    }
    aliases = _aliases(knowledge)
    cards = tuple([_any_card(m, knowledge, local, aliases) for m in page])
    return Models(as_of_seq=knowledge.seq, models=cards, total=len(found), problems=problems)


def _candidates(knowledge: Knowledge, ask: ListModels, least: float) -> list[tuple[str, ModelView]]:
    """Those that may be selected. Filter after filter, over what is left: only what is asked for costs anything, and
    hundreds of models are looked at while others wait."""
    found = list(knowledge.models.items())
    if ask.candidates:
        found = [(m, v) for m, v in found if not (v.retired or v.offline)]
    if ask.provider is not None:
        found = [(m, v) for m, v in found if v.declared.provider == ask.provider]
    if ask.free:
        found = [(m, v) for m, v in found if v.free]
    if ask.location is not None:
        found = [(m, v) for m, v in found if v.location == ask.location]
    if (window := ask.context_tokens) is not None:
        found = [(m, v) for m, v in found if v.declared.context_tokens >= window]
    if ask.licences:
        found = [(m, v) for m, v in found if v.licence_class in ask.licences]
    if wanted := frozenset(ask.capabilities):
        found = [(m, v) for m, v in found if wanted.issubset(v.declared.capabilities)]
    if (limit := ask.max_usd_per_mtok) is not None:
        found = [(m, v) for m, v in found if not is_too_dear(v.declared, limit)]
    if ask.task is not None and least > 0.0:
        found = [(m, v) for m, v in found if quality_of(v.declared, ask.task) >= least]
    return found


def _listed(knowledge: Knowledge, ask: ListModels) -> list[tuple[str, Entry]]:
    """Those that only a provider's list names, and that may not be selected: by the same filters."""
    known = knowledge.known
    rest = known.entries.keys() - knowledge.models.keys()
    found = [(m, known.entries[m]) for m in rest if known.is_shown(m)]
    if ask.provider is not None:
        found = [(m, e) for m, e in found if e.provider == ask.provider]
    if ask.location is not None:
        found = [(m, e) for m, e in found if e.listing.location == ask.location]
    if (window := ask.context_tokens) is not None:
        found = [(m, e) for m, e in found if (e.listing.context_tokens or 0) >= window]
    if ask.licences:
        found = [(m, e) for m, e in found if e.listing.licence_class in ask.licences]
    if wanted := frozenset(ask.capabilities):
        found = [(m, e) for m, e in found if wanted.issubset(e.listing.capabilities)]
    if ask.free:
        found = [(m, e) for m, e in found if e.free]
    if (limit := ask.max_usd_per_mtok) is not None:
        found = [(m, e) for m, e in found if _is_at_most(e, limit)]
    return found


def _is_at_most(entry: Entry, limit: float) -> bool:
    """As `is_too_dear` of a candidate: a limit of 0 allows no price of any kind."""
    return entry.least_limit is not None and entry.least_limit <= limit and (limit > 0 or entry.free)


def describe(knowledge: Knowledge, local: LocalView, model: str) -> Described:
    """One model. Raises Refusal `unknown_model`."""
    topology = knowledge.topology
    real = topology.aliases.get(model, model) if topology else model
    view, entry = knowledge.models.get(real), knowledge.known.entries.get(real)
    if view is None and not knowledge.known.is_shown(real):
        raise refuse("unknown_model", f"No model {model!r}.", "$.model")
    declared: dict[str, Any] = {} if view is None else msgspec.to_builtins(view.declared)
    return Described(
        as_of_seq=knowledge.seq,
        card=_any_card(real, knowledge, local, _aliases(knowledge)),
        declared=declared,
        listing=entry.listing if entry is not None else None,
        resident=entry.resident if entry is not None else None,
    )


def _aliases(knowledge: Knowledge) -> dict[str, tuple[str, ...]]:
    """By model, sorted."""
    found: dict[str, tuple[str, ...]] = {}
    for alias, model in sorted(knowledge.topology.aliases.items()) if knowledge.topology is not None else ():
        found[model] = (*found.get(model, ()), alias)
    return found


def _any_card(model: str, knowledge: Knowledge, local: LocalView, aliases: dict[str, tuple[str, ...]]) -> ModelCard:
    view, entry = knowledge.models.get(model), knowledge.known.entries.get(model)
    if view is not None:
        mine = entry if entry is not None and entry.provider == view.declared.provider else None
        return _card(model, view, mine, local, aliases.get(model, ()))
    assert entry is not None
    return _listed_card(model, entry)


def _listed_card(model: str, entry: Entry) -> ModelCard:
    """A model that the provider's list has, and that may not be selected."""
    listing = entry.listing
    return ModelCard(
        id=model,
        status="healthy",
        provider=entry.provider,
        location=listing.location,
        quality=0.0,
        context_tokens=listing.context_tokens or 0,
        capabilities=listing.capabilities,
        continues="none",
        candidate=False,
        retired=entry.retired,
        offline=entry.offline,
        free=entry.free,
        price=entry.price,
        usd_per_mtok=entry.usd_per_mtok,
        licence_class=listing.licence_class,
        expires=listing.expires,
        problem=listing.problem,
    )


def _card(model: str, view: ModelView, entry: Entry | None, local: LocalView, aliases: tuple[str, ...]) -> ModelCard:
    """How a candidate is now: the log's word and this instance's own sight."""
    declared = view.declared
    instances, busy, _ = local.load(model, declared.provider)
    ratio = view.success_ratio()
    return ModelCard(
        id=model,
        status=view.status,
        provider=declared.provider,
        location=view.location,
        quality=declared.quality.get("default", 0.5),
        context_tokens=declared.context_tokens,
        capabilities=declared.capabilities,
        continues=view.continues(),
        continues_by="declared" if declared.continues != "probe" else view.probe_word or "pending",
        loaded=instances > 0,
        instances=instances,
        in_flight=busy,
        waiting=local.waiting(model, declared.provider),
        last_error=view.last_error,
        last_used_ms=view.last_used_ms,
        success_ratio=None if ratio is None else round(ratio, 4),
        first_token_ms=None if view.first_token_ms is None else round(view.first_token_ms, 3),
        aliases=aliases,
        retired=entry.retired if entry is not None else None,
        offline=view.offline,
        free=view.free,
        price=entry.price if entry is not None else None,
        usd_per_mtok=view.usd_per_mtok(),
        licence_class=view.licence_class,
        expires=entry.listing.expires if entry is not None else None,
        problem=entry.listing.problem if entry is not None else "",
        drifted=view.drifted,
    )


def selected(knowledge: Knowledge, task: str, decision: Decision, explain: bool) -> Selected:
    """The decision alone; with `explain`, the rejected listed per reason word."""
    named: dict[str, list[str]] = {}
    for model, reason in sorted(decision.rejected.items()) if explain else ():
        named.setdefault(reason, []).append(model)
    return Selected(
        as_of_seq=knowledge.seq,
        task=task,
        chain=decision.chain,
        rejected=decision.counts(),
        topology=knowledge.topology_hash,
        rejected_models={reason: tuple(models) for reason, models in named.items()},
    )


def taken(answer: Stored | StoreFailed, done: Callable[[int], Message]) -> Message:
    """The fact is in the log and on the disk, or why not."""
    if isinstance(answer, Stored) and answer.synced:
        return done(answer.seq)
    code = "log_full" if isinstance(answer, StoreFailed) and answer.code == "log_full" else "bus_down"
    return Failed(code=code, text=ADVICE[code])
