"""What must be right in a topology about how much of a provider is used at once."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.messages.limits import Limits
from understudy.messages.topology import Provider


def faults(path: str, provider: Provider) -> Iterator[tuple[str, str, str]]:
    """Limits of an account, where there is one, that the connections can reach: path, what was found, what would be
    right."""
    limits, most = provider.limits, provider.max_connections
    if provider.kind == "local" and limits != Limits():
        right = "leave it out: each local model has a process and `slots` of its own"
        yield f"{path}.limits", "limits of local models", right
    elif limits.concurrent is not None and limits.concurrent > most:
        yield (
            f"{path}.limits.concurrent",
            str(limits.concurrent),
            f"give at most max_connections ({most}), or raise that",
        )
