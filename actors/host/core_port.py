"""What the host expects of an actor's `core.py` and `edge.py`. Modules, not classes: no base class, no registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from understudy.messages.base import Ask, Message
from understudy.messages.events import Event
from understudy.messages.step import CallModel, CancelCall, Effect, Input


class Core(Protocol):
    """The module `actors/<name>/core.py`."""

    ASKS: Mapping[str, type[Ask | Message]]
    HEARS: tuple[type[Message], ...]
    FOLDS: tuple[type[Event], ...]
    EMITS: tuple[type[Event], ...]
    SENDS: tuple[str, ...]
    Settings: type[msgspec.Struct]
    State: Callable[[], Any]

    @staticmethod
    def step(state: Any, message: Input, settings: Any) -> list[Effect]: ...


class Edge(Protocol):
    """`actors/<name>/edge.py`: performs effects on the world; results come back through `feed`."""

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Get ready (load the model, open the pool); the facts go into `EdgeReady`."""
        ...

    def perform(self, effect: CallModel | CancelCall) -> None:
        """Begin; never blocks, never raises."""
        ...

    async def stop(self) -> None:
        """End everything in hand."""
        ...
