"""What the selector answers about models and decisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from understudy.actors.selector.admit import refuse
from understudy.actors.selector.choose import Decision
from understudy.actors.selector.views import Knowledge, LocalView, ModelView
from understudy.messages.base import Message
from understudy.messages.catalogue import Described, ModelCard, Models, Selected
from understudy.messages.generate import ADVICE, Failed
from understudy.messages.step import Stored, StoreFailed


def models(knowledge: Knowledge, local: LocalView) -> Models:
    """All models, in the topology's order."""
    cards = tuple(card(m, v, knowledge, local) for m, v in knowledge.models.items())
    return Models(as_of_seq=knowledge.seq, models=cards)


def describe(knowledge: Knowledge, local: LocalView, model: str) -> Described:
    """One model. Raises Refusal `unknown_model`."""
    topology = knowledge.topology
    real = topology.aliases.get(model, model) if topology else model
    view = knowledge.models.get(real)
    if view is None:
        raise refuse("unknown_model", f"No model {model!r}.", "$.model")
    declared: dict[str, Any] = msgspec.to_builtins(view.declared)
    return Described(as_of_seq=knowledge.seq, card=card(real, view, knowledge, local), declared=declared)


def card(model: str, view: ModelView, knowledge: Knowledge, local: LocalView) -> ModelCard:
    """How a model is now: the log's word and this instance's own sight."""
    topology = knowledge.topology
    assert topology is not None
    declared = view.declared
    busy, _ = local.load(model)
    ratio = view.success_ratio()
    return ModelCard(
        id=model,
        status=view.status,
        provider=declared.provider,
        location="local" if topology.providers[declared.provider].kind == "local" else "external",
        quality=declared.quality.get("default", 0.5),
        context_tokens=declared.context_tokens,
        capabilities=declared.capabilities,
        continues=view.continues(),
        continues_by="declared" if declared.continues != "probe" else view.probe_word or "pending",
        loaded=bool(local.instances.get(model)),
        instances=len(local.instances.get(model, {})),
        in_flight=busy,
        last_error=view.last_error,
        last_used_ms=view.last_used_ms,
        success_ratio=None if ratio is None else round(ratio, 4),
        first_token_ms=None if view.first_token_ms is None else round(view.first_token_ms, 3),
        aliases=tuple(sorted(a for a, m in topology.aliases.items() if m == model)),
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
