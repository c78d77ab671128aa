"""Provider keys by their ids: what happened to them, and orders about them. No message ever holds a key.

A key lives in the vault (`actors/host/vault.py`); it reaches the one process that uses it through a pipe.
"""

from __future__ import annotations

from typing import Literal

from understudy.messages.base import Ask
from understudy.messages.events import Event
from understudy.messages.units import Count, ModelId, Word


class KeyChanged(Event, frozen=True, kw_only=True):
    """Base of what was done to a key. `name`: the vault's name of it, which providers of the topology refer to.

    `audit_n` and `audit_hash` are the audit's entry about it: so the log knows where the audit stood, whoever rewrites
    the file.
    """

    name: Word
    key_id: Word
    audit_n: Count
    audit_hash: str


class KeyAdded(KeyChanged, tag="key.added.v1", frozen=True, kw_only=True):
    """The vault has a key where it had none of this name."""


class KeyRotated(KeyChanged, tag="key.rotated.v1", frozen=True, kw_only=True):
    """A new key is used instead of `was`, which is gone from the vault."""

    was: Word


class KeyRevoked(KeyChanged, tag="key.revoked.v1", frozen=True, kw_only=True):
    """The vault no longer holds this key."""


class KeyRefused(Event, tag="key.refused.v1", frozen=True, kw_only=True):
    """A provider answered 401 or 403. Said once, until a call succeeds. `model`: '' when it was checked."""

    provider: Word
    key_id: Word
    model: ModelId | Literal[""] = ""
    status: int | None = None


class KeyOrder(Ask, tag="supervisor.keys.v1", frozen=True, kw_only=True):
    """About the vault's key `name`; the vault itself is changed by who orders.

    `check`: does the provider take the key in use? `rotate`: try the key `key_id` that waits in the vault, and if the
    provider takes it (`unchecked`: or nobody can tell), use it for new calls and wait for the others' end; where
    one process cannot, all are as before. `settle`: the vault was changed: use
    what is live there, forget what is revoked, and tell the log. It waits for no other order, and may be repeated.
    """

    do: Literal["check", "rotate", "settle"]
    name: Word
    key_id: str = ""
    wait_ms: Count = 120_000  # so long may calls on another key go on before it is told how many do
    unchecked: bool = False
