"""Operations: what the supervisor and the host tell the operator, and orders to the supervisor.

Orders to the supervisor of a running topology are asked as `<app>.ask.supervisor.<order>` by the operator alone.

An order is answered at once with `Progressed`; what becomes of it is asked for with `Progress`, so that it can be
followed across a restart of the bus itself.
"""

from __future__ import annotations

from typing import Literal

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
    """How far an order is. `problems`: why it was refused (nothing was changed) or did not succeed. `key_refused`: the
    provider does not take the key that was tried."""

    operation: str
    lines: tuple[str, ...] = ()
    done: bool = False
    refused: bool = False
    problems: tuple[str, ...] = ()
    key_refused: bool = False


class DeadLetter(Message, tag="dead.letter.v1", frozen=True, kw_only=True):
    """Something that an actor could not handle, kept in `<APP>_DEAD`: enough to find it again, never the payload."""

    actor: str
    instance: str
    subject: str
    message_tag: str  # '' where none could be read
    bytes: Count
    sha256: str  # the first 16 hex digits
    reason: str
    path: str = ""  # to the fault within the payload
    at_ms: Count = 0


class LogLevel(Message, tag="log.level.v1", frozen=True, kw_only=True):
    """How full the event log is, said when it changes: `filling` from the topology's `warn_ratio` on, `full` when new
    facts are refused (raise `log.max_bytes` and reload, or wait for retention)."""

    level: Literal["ok", "filling", "full"]
    bytes: Count
    max_bytes: int
