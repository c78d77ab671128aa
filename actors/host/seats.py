"""Who is to run: the seats of a topology, what each process gets told, and what makes it necessary to tell it anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from understudy.actors.host.key_pipe import KeyPipe
from understudy.actors.host.permissions import Seat, inbox_of
from understudy.actors.host.spawn import Child
from understudy.messages.gate_plan import plan_of
from understudy.messages.slugs import slug
from understudy.messages.topology import ActorPlan, Provider, Topology

SELECTION_ONLY = ("quality", "capabilities", "continues", "fallbacks", "usd_per_mtok_in", "usd_per_mtok_out", "licence",
                  "usd_per_mtok_cached", "usd_per_mtok_reasoning", "usd_per_request", "usd_per_search",
                  "price_known")  # fmt: skip
"""What selectors alone look at in a model; they fold it from `topology.applied`, so no process needs a restart."""


@dataclass(slots=True)
class Process:
    """A seat and the process that holds it now. `started` counts its processes, `renewing` and `leaving` say why
    the present one is ended on purpose: to be followed by another at once, or by none."""

    seat: Seat
    provider: str = ""
    models: tuple[str, ...] = ()
    pid: int = 0
    started: int = 0
    restarts: int = 0
    ready: bool = False
    trouble: str = ""
    renewing: bool = False
    leaving: bool = False
    child: Child | None = field(default=None, repr=False)
    keys: KeyPipe | None = field(default=None, repr=False)  # where the present process gets its provider's key


def seats_of(topology: Topology) -> list[Process]:
    """Who is to run: replicas of each actor; for runners one per local model and one per HTTP provider."""
    found: list[Process] = []
    for actor, plan in topology.actors.items():
        if actor == "projector" and topology.graph.uri == "off":
            continue
        if actor != "runner":
            found += [Process(Seat(actor, f"{actor}-{n + 1}")) for n in range(plan.replicas)]
            continue
        for name, provider in topology.providers.items():
            models = [m for m, d in topology.models.items() if d.provider == name]
            local, wanted = provider.kind == "local", bool(models) or provider.catalogue is not None
            groups = [[m] for m in models] if local else [models] if wanted else []
            for group in groups:
                tail = group[0] if local else name  # one token of a subject: no dots
                seat = Seat("runner", f"runner-{slug(tail)}", tuple(slug(m) for m in group), slug(name), not local)
                found.append(Process(seat, name, tuple(group)))
    return found


def others_slots(provider: Provider) -> int:
    """Requests at once of each model that the provider's list brings and the topology admits."""
    plan = provider.catalogue
    return plan.admit.slots if plan is not None and plan.admit is not None else 0


def runner_settings(topology: Topology, process: Process) -> dict[str, Any]:
    """What the topology says of a runner's models and provider, as its settings."""
    declared = topology.providers[process.provider]
    provider = msgspec.to_builtins(declared)
    slots = {model: topology.models[model].slots for model in process.models}
    return {
        "models": slots,
        "provider": process.provider,
        "others_slots": others_slots(declared),
        "gate": msgspec.to_builtins(plan_of(topology, process.provider)),
        **{name: provider[name] for name in ("limits", "lanes", "queue", "queue_bytes") if name in provider},
    }


def listen_s(topology: Topology) -> float:
    """How long to hear others before taking asks: a little longer than the runners' beat, then all have been heard."""
    runner = topology.actors.get("runner")
    return 1.2 * float(runner.settings.get("beat_ms", 250) if runner is not None else 0) / 1000


def askers(topology: Topology, plan: ActorPlan) -> tuple[str, ...]:
    """The inboxes of other actors that ask what components ask: they are answered in theirs."""
    asked = set(plan.asks)
    return tuple(
        inbox_of(process.seat.instance)
        for process in seats_of(topology)
        if topology.actors[process.seat.actor] is not plan and asked & set(topology.actors[process.seat.actor].sends)
    )


def stake(topology: Topology, process: Process) -> Any:
    """All of the topology that a process was started with and cannot learn from the log: compare to see a change."""
    plan = topology.actors[process.seat.actor]
    found: dict[str, Any] = {
        "plan": {**msgspec.to_builtins(plan), "replicas": None},
        "max_request_bytes": topology.bus.max_request_bytes,
        "listen_s": listen_s(topology) if plan.hears else None,
    }
    if process.seat.actor == "projector":
        found["graph"] = topology.graph
    if process.seat.actor == "response_cache":
        found["ttl_s"] = topology.cache.ttl_s
    if process.seat.actor == "runner":
        provider = topology.providers[process.provider]
        listed = None if provider.catalogue is None else {"url": provider.catalogue.url}
        found["provider"] = {**msgspec.to_builtins(provider), "catalogue": listed}
        found["others_slots"] = others_slots(provider)
        found["gate"] = msgspec.to_builtins(plan_of(topology, process.provider))
        for model in process.models:
            declared: dict[str, Any] = msgspec.to_builtins(topology.models[model])
            found[f"model {model}"] = {k: v for k, v in declared.items() if k not in SELECTION_ONLY}
    return found
