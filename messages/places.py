"""Where a model computes, and what somebody has to agree to before their words go there. Pure, over the topology.

Whatever cannot be told is external.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from urllib.parse import urlsplit

from understudy.messages.address import LOOPBACK
from understudy.messages.privacy import Location
from understudy.messages.topology import Provider, Topology


def location_of(provider: Provider, name: str, said: Location | None = None) -> Location:
    """Where the model that the provider calls `name` computes, as it is declared and as its list has `said`.

    An endpoint on loopback is local unless it is declared `location: external`. Ollama passes models whose tag ends in
    `cloud` (`gpt-oss:120b-cloud`) on to its vendor, whatever dialect it is asked in, and others under any name: where
    its list is read, what the list has not shown to be local is external.
    """
    if provider.kind == "local":
        return "local"
    if provider.location == "external" or host_of(provider) not in LOOPBACK:
        return "external"
    tag = name.rpartition(":")[2].strip().lower()  # Ollama takes its names in any case
    if ":" in name and (tag == "cloud" or tag.endswith("-cloud")):
        return "external"
    if provider.kind != "ollama":
        return "local"
    return said or ("local" if provider.catalogue is None else "external")


def external_models(topology: Topology, provider: str) -> tuple[str, ...]:
    """The models of a provider that compute elsewhere, whatever its list says."""
    declared = topology.providers[provider]
    return tuple(
        model
        for model, one in topology.models.items()
        if one.provider == provider and location_of(declared, one.name or model, "local") == "external"
    )


def unread(topology: Topology) -> tuple[str, ...]:
    """Ollamas on this machine whose models are local by the operator's word alone: no list is read that could tell
    which of them it passes on to a cloud, and no `location: local` says that somebody has looked."""
    return tuple(
        name
        for name, one in topology.providers.items()
        if one.kind == "ollama" and one.catalogue is None and one.location is None and host_of(one) in LOOPBACK
    )


def may_leave(topology: Topology, provider: str) -> bool:
    """Can it be that a model of the provider computes elsewhere? Lists bring models that the topology does not name."""
    return location_of(topology.providers[provider], "") == "external" or bool(external_models(topology, provider))


def host_of(provider: Provider) -> str:
    """The host that a provider's requests go to; '' where there is none, or none can be read."""
    return _host(provider.url or "")


@lru_cache(maxsize=1_024)  # it is asked before every call
def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def consent_text(topology: Topology, provider: str) -> str:
    """What is to be agreed to for a provider; '' where the topology says nothing."""
    return topology.consent.providers.get(provider, topology.consent.text)


def consent_version(topology: Topology, provider: str) -> str:
    """The name of what is agreed to: the text, the provider and the address that words go to. '' without a text.

    So a consent is worth nothing for another text, nor once the provider's address has become somebody else's: another
    host, another port of a tunnel, another path of a gateway that passes on to several vendors.
    """
    declared, text = topology.providers.get(provider), consent_text(topology, provider)
    if declared is None or not text:
        return ""
    whole = "\0".join((provider, declared.kind, _place_of(declared.url or ""), text))
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def _place_of(url: str) -> str:
    """Host, port and path of an address, spelled in one way."""
    try:
        parts = urlsplit(url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
    except ValueError:
        return url
    return f"{parts.hostname or ''}:{port}{parts.path.rstrip('/')}"
