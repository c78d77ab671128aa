"""What the host expects of an actor's `core.py` and `edge.py`. Modules, not classes: no base class, no registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from understudy.messages.base import Ask, Message
from understudy.messages.events import Event
from understudy.messages.step import Effect, Input


class Core(Protocol):
    """The module `actors/<name>/core.py`.

    One that folds also has `Fold`, the type of what it folds (data only, so that it can be written down), `fold_state`
    and `restore`. The fold at a position depends on the log and the settings alone: not on time, nor on what was only
    decided. A fact at or below the fold's position may be told again.

    One that consults has `CONSULTS`: facts of one family that it reads by `Consult`.

    One that works on something for a while has `in_hand(state) -> int`: how many a stop has to wait for.
    """

    ASKS: Mapping[str, type[Ask | Message]]
    HEARS: tuple[type[Message], ...]
    FOLDS: tuple[type[Event], ...]
    EMITS: tuple[type[Event], ...]
    SENDS: tuple[str, ...]
    Settings: type[msgspec.Struct]
    State: Callable[[], Any]
    Fold: type[Any]

    @staticmethod
    def step(state: Any, message: Input, settings: Any) -> list[Effect]: ...
    @staticmethod
    def fold_state(state: Any) -> Any: ...
    @staticmethod
    def restore(state: Any, fold: Any) -> None: ...


def in_hand(core: Core, state: Any) -> int:
    """How many the actor works on now."""
    of: Callable[[Any], int] | None = getattr(core, "in_hand", None)
    return 0 if of is None else of(state)


class Edge(Protocol):
    """`actors/<name>/edge.py`: performs effects on the world; results come back through `feed`."""

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Get ready (load the model, open the pool); the facts go into `EdgeReady`."""
        ...

    def perform(self, effect: Any) -> None:
        """Begin one of `step.EdgeWork`, of those that its own step asks for; never blocks, never raises."""
        ...

    async def stop(self) -> None:
        """End everything in hand."""
        ...
