"""Orders to the supervisor of a running topology, asked as `<app>.ask.supervisor.<order>` by the operator alone.

An order is answered at once with `Progressed`; what becomes of it is asked for with `Progress`, so that it can be
followed across a restart of the bus itself.
"""

from __future__ import annotations

from understudy.messages.base import Ask, Message
from understudy.messages.units import Count, Key


class Reload(Ask, tag="supervisor.reload.v1", frozen=True, kw_only=True):
    """Read the topology file again and apply what changed."""


class Restart(Ask, tag="supervisor.restart.v1", frozen=True, kw_only=True):
    """Restart processes one after the other, nats-server last. `names`: actors, instances, `nats-server`; none: all."""

    names: tuple[str, ...] = ()


class Progress(Ask, tag="supervisor.progress.v1", frozen=True, kw_only=True):
    """What has become of an order: its lines from number `after` on."""

    operation: Key
    after: Count = 0


class Progressed(Message, tag="supervisor.progressed.v1", frozen=True, kw_only=True):
    """How far an order is. `problems`: why it was refused (nothing was changed) or did not succeed."""

    operation: str
    lines: tuple[str, ...] = ()
    done: bool = False
    refused: bool = False
    problems: tuple[str, ...] = ()
