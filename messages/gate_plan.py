"""What the gate of an external runner goes by: the host makes it of the topology, the runner obeys it. Pure."""

from __future__ import annotations

import msgspec

from understudy.messages.places import consent_version, may_leave
from understudy.messages.topology import CataloguePlan, Provider, Topology


class GatePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the gate of one process goes by. `version`: the text's name; `names`: the provider's, of declared models."""

    provider: str
    version: str
    declared: Provider
    names: dict[str, str]
    require_judge: bool = True
    judge_ms: int = 1_000
    refuse_pii: bool = False
    without_user: bool = False  # see `ConsentPlan`


def plan_of(topology: Topology, provider: str) -> GatePlan | None:
    """From the topology; None for a provider none of whose models can compute elsewhere."""
    policy, declared = topology.policy, topology.providers[provider]
    if not may_leave(topology, provider):
        return None
    listed = None if declared.catalogue is None else CataloguePlan()
    return GatePlan(
        provider=provider,
        version=consent_version(topology, provider),
        declared=Provider(kind=declared.kind, url=declared.url, location=declared.location, catalogue=listed),
        names={model: one.name or model for model, one in topology.models.items() if one.provider == provider},
        require_judge=policy.require_judge,
        judge_ms=policy.judge_ms,
        refuse_pii=policy.pii == "refuse",
        without_user=topology.consent.without_user,
    )
