"""A provider's address, taken apart: the check of a topology and the runner both go by this."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
RIGHT = (
    "give http://host:port/v1 (of an ollama http://host:port) in plain ASCII, and a password or token as the provider's"
    " `key`"
)
_NO_ADDRESS = "no http or https address with a host (and a valid port, if any)"


class Target(NamedTuple):
    """Where requests go."""

    tls: bool
    host: str
    port: int
    authority: str  # the Host header
    path: str  # without a slash at its end


class BadAddress(ValueError):
    """No request can go there. `found` says why, and repeats nothing of the address: it may hold a secret."""

    def __init__(self, found: str) -> None:
        super().__init__(f"the provider's url is {found}; {RIGHT}")
        self.found = found


def target(url: str) -> Target:
    """An `http(s)://host[:port][/base]` address. Raises BadAddress."""
    if " " in url or not plain(url):
        raise BadAddress("an address with spaces, or not in printable ASCII")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadAddress(_NO_ADDRESS) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise BadAddress(_NO_ADDRESS)
    if parts.username is not None:
        raise BadAddress("an address with credentials")
    if parts.query or parts.fragment:
        raise BadAddress("an address with a query or a fragment")
    tls = parts.scheme == "https"
    name = f"[{host}]" if ":" in host else host
    standard = 443 if tls else 80
    authority = name if port in (None, standard) else f"{name}:{port}"
    return Target(tls, host, port or standard, authority, parts.path.rstrip("/"))


def plain(text: str) -> bool:
    """May it stand in the head of a request?"""
    return text.isascii() and text.isprintable()
