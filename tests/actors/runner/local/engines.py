"""What the engine's tests share besides the fixtures, free of torch: an engine that is heard, and calls to ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.actors.runner.local import Event, Failed, Finished, GenerateSpec, Text
from understudy.tools.tiny import make

if TYPE_CHECKING:
    from understudy.actors.runner.local.engine import Engine

ARCHS = ["llama", "qwen2", "qwen3", "gemma3", "phi3"]
LEAD = Path(make.__file__).parent / "demo" / "lead"
SENTENCE = "look around the old tower and take every golden key you can find near the silent pond"
LIMIT_S = 30.0  # for any wait; reached only by a failure


@dataclass
class Running:
    """A started engine and all it said."""

    engine: Engine
    events: list[Event] = field(default_factory=list)
    tokens: dict[str, list[int | None]] = field(default_factory=dict)  # by call, the end token included
    changed: threading.Condition = field(default_factory=threading.Condition)
    on_events: Callable[[list[Event]], None] = lambda events: None

    def emit(self, events: list[Event]) -> None:
        self.on_events(events)
        with self.changed:
            self.events += events
            self.changed.notify_all()

    def record(self) -> None:
        """Notes the tokens of every request the loop gets."""
        add = self.engine._loop.add

        def recording(request: Any) -> None:
            take, seen = request.take, self.tokens.setdefault(request.call_id, [])
            request.take = lambda token: (seen.append(token), take(token))[1]
            add(request)

        self.engine._loop.add = recording

    def last(self, call_id: str) -> Finished | Failed:
        """Waits for the final event of a call."""

        def finals() -> list[Any]:
            return [e for e in self.events if e.call_id == call_id and not isinstance(e, Text)]

        with self.changed:
            assert self.changed.wait_for(finals, LIMIT_S), "no final event"
            return finals()[0]

    def text(self, call_id: str) -> str:
        return "".join(e.text for e in self.events if e.call_id == call_id and isinstance(e, Text))

    def submit(self, *specs: GenerateSpec) -> list[Finished | Failed]:
        for spec in specs:
            assert self.engine.submit(spec)
        return [self.last(spec.call_id) for spec in specs]


def ask(call_id: str, content: str = "Look around.", **more: Any) -> GenerateSpec:
    return GenerateSpec(call_id, (("user", content),), **more)


def prompts(count: int) -> list[str]:
    """Contents of 1 to 40 words, so that rows differ in age and exceed the models' window of 16."""
    words = SENTENCE.split()
    return [" ".join(words[(i + j) % len(words)] for j in range(1 + i * 40 // count)) for i in range(count)]
