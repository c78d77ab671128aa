"""What must be right in a topology before anything may leave this machine: addresses, locations, texts to agree to."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.messages.places import LOOPBACK, consent_text, external_models, host_of
from understudy.messages.topology import Provider, Topology

Fault = tuple[str, str, str]
"""Path, what was found, what would be right."""


def faults(topology: Topology) -> Iterator[Fault]:
    """All of them. Addresses are never shown: they may hold a secret."""
    for name, provider in topology.providers.items():
        yield from _of_provider(f"$.providers.{name}", provider)
        if external_models(topology, name) and not consent_text(topology, name).strip():
            right = f"say what somebody agrees to before their words go to {name!r}: in consent.text for all, or here"
            yield f"$.consent.providers.{name}", "nothing", right
    for name in topology.consent.providers:
        if name not in topology.providers:
            yield f"$.consent.providers.{name}", "no such provider", _known(topology)
        elif topology.providers[name].kind == "local":
            yield f"$.consent.providers.{name}", "a provider of this machine", "leave it out: nothing leaves"


def _of_provider(path: str, provider: Provider) -> Iterator[Fault]:
    if provider.kind == "local":
        if provider.location == "external":
            yield f"{path}.location", "external", "leave it out: its models run in processes of ours"
        return
    host, url = host_of(provider), provider.url or ""
    if not host or host in LOOPBACK:
        return
    if provider.location == "local":
        yield f"{path}.location", "local", "leave it out: only 127.0.0.1, localhost and ::1 are this machine"
    if not url.lower().startswith("https:"):
        yield f"{path}.url", "no https, to another machine", "give https://...: words and keys would go in clear text"


def _known(topology: Topology) -> str:
    return f"name one of: {', '.join(sorted(topology.providers))}"
