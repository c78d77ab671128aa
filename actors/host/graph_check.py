"""What is wrong with the place of the performance graph, as a topology has it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from understudy.messages.address import LOOPBACK
from understudy.messages.topology import GraphPlan

SCHEMES = ("bolt", "neo4j", "bolt+s", "neo4j+s", "bolt+ssc", "neo4j+ssc")
RIGHT = "give `embedded`, `off`, or an address like bolt://127.0.0.1:7687 or neo4j+s://graph.example.com"


def faults(plan: GraphPlan) -> Iterator[tuple[str, str, str]]:
    """Path, what was found, what would be right. The address is never shown: somebody may have put a secret into it."""
    path = "$.graph"
    if plan.uri in ("embedded", "off"):
        if plan.password_file is not None:
            yield f"{path}.password_file", "a file", "leave it out: the embedded server's password is made here"
        return
    try:
        parts = urlsplit(plan.uri)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        yield f"{path}.uri", "no address", RIGHT
        return
    if parts.scheme not in SCHEMES or not host:
        yield f"{path}.uri", "no address of a Bolt server", RIGHT
    elif parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        yield (
            f"{path}.uri",
            "an address with credentials, a query or a fragment",
            "give `user` and `password_file` apart",
        )
    elif host not in LOOPBACK and "+s" not in parts.scheme:
        right = "use bolt+s:// or neo4j+s://: off this machine figures travel encrypted or not at all"
        yield f"{path}.uri", f"{parts.scheme}:// to another machine", right
