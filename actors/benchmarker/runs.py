"""What the log says of benchmarks: what was ordered, which items are done, what was measured: the fold. Pure.

An item counts once, whatever the log holds of it twice. A benchmark whose process died is found here as it was.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from understudy.messages.benchmarks import (
    BenchmarkBegun,
    BenchmarkCancelled,
    BenchmarkMeasured,
    BenchmarkScored,
    BenchmarksScheduled,
    BenchmarkState,
)
from understudy.messages.events import Event, ModelLoaded

KEPT = 100
"""So many that are over are remembered, the newest."""


class Entry(msgspec.Struct):
    """One benchmark. `seq`: the position of its (last) begin, by which it is told from itself before."""

    begun: BenchmarkBegun
    seq: int
    state: Literal["running", "finished", "cancelled"] = "running"
    reason: str = ""
    done: dict[str, dict[str, BenchmarkScored]] = msgspec.field(
        default_factory=dict[str, dict[str, BenchmarkScored]]
    )  # model, item
    measured: dict[str, BenchmarkMeasured] = msgspec.field(default_factory=dict[str, BenchmarkMeasured])

    def end(self) -> None:
        """Finished once all is measured, whatever came between."""
        if len(self.measured) == len(set(self.begun.models)):
            self.state, self.reason = "finished", ""

    def told(self, whole: bool = True) -> BenchmarkState:
        """For who asks."""
        begun = self.begun
        counts = {model: len(self.done.get(model, ())) for model in begun.models}
        counts |= {model: sum(task.items for task in one.tasks) for model, one in self.measured.items()}
        return BenchmarkState(
            bench_id=begun.bench_id,
            begun_ms=begun.at_ms,
            suite=begun.suite,
            suite_hash=begun.suite_hash,
            models=begun.models,
            items=begun.items,
            seed=begun.seed,
            state=self.state,
            reason=self.reason,
            done=counts,
            judge=begun.judge,
            scheduled=begun.scheduled,
            measured=tuple(self.measured[m] for m in begun.models if m in self.measured) if whole else (),
        )


class Engine(msgspec.Struct):
    """What a model was loaded with."""

    engine: str
    facts: dict[str, Any]


class Runs(msgspec.Struct):
    """All of it. `last_ms`, `tried_ms` and `first_ms`: when a suite was last measured on a model, when one that was
    scheduled was cancelled, and when a model was first seen."""

    entries: dict[str, Entry] = msgspec.field(default_factory=dict[str, Entry])
    engines: dict[str, Engine] = msgspec.field(default_factory=dict[str, Engine])
    scheduled: BenchmarksScheduled | None = None
    last_ms: dict[str, dict[str, int]] = msgspec.field(default_factory=dict[str, dict[str, int]])  # model, suite
    tried_ms: dict[str, dict[str, int]] = msgspec.field(default_factory=dict[str, dict[str, int]])  # model, suite
    first_ms: dict[str, int] = msgspec.field(default_factory=dict[str, int])

    def apply(self, seq: int, event: Event) -> None:
        """Fold one fact."""
        match event:
            case BenchmarkBegun():
                self._begin(seq, event)
            case BenchmarkScored():
                entry = self.entries.get(event.bench_id)  # cancelled or not: the order to end it may be stored first
                if entry is not None and entry.state != "finished" and event.model not in entry.measured:
                    entry.done.setdefault(event.model, {}).setdefault(event.item, event)
            case BenchmarkMeasured():
                self._measured(event)
            case BenchmarkCancelled():
                entry = self.entries.get(event.bench_id)
                if entry is not None and entry.state == "running":
                    entry.state, entry.reason = "cancelled", event.reason
                    self._tried(entry, event.at_ms)
                    self._forget()
            case BenchmarksScheduled():
                self.scheduled = event
            case ModelLoaded():
                self.engines[event.model] = Engine(event.engine, event.facts)
            case _:
                pass

    def seen(self, models: tuple[str, ...], at_ms: int) -> None:
        """Models that the topology declares now."""
        for model in models:
            self.first_ms.setdefault(model, at_ms)

    def _begin(self, seq: int, event: BenchmarkBegun) -> None:
        before = self.entries.pop(event.bench_id, None)
        entry = Entry(event, seq)
        if before is not None:  # gone on with
            entry.done, entry.measured = before.done, before.measured
            entry.end()
        self.entries[event.bench_id] = entry

    def _tried(self, entry: Entry, at_ms: int) -> None:
        """What was cancelled is not due again at once."""
        left = [model for model in entry.begun.models if model not in entry.measured] if entry.begun.scheduled else []
        for model in left:
            suites = self.tried_ms.setdefault(model, {})
            suites[entry.begun.suite] = max(at_ms, suites.get(entry.begun.suite, 0))

    def _measured(self, event: BenchmarkMeasured) -> None:
        suites = self.last_ms.setdefault(event.model, {})
        suites[event.suite] = max(event.at_ms, suites.get(event.suite, 0))
        entry = self.entries.get(event.bench_id)
        if entry is None or entry.state == "finished" or event.model not in entry.begun.models:
            return
        entry.measured.setdefault(event.model, event)
        entry.done.pop(event.model, None)
        entry.end()
        self._forget()

    def _forget(self) -> None:
        over = [name for name, entry in self.entries.items() if entry.state != "running"]
        for name in over[:-KEPT]:
            del self.entries[name]

    def running(self) -> list[Entry]:
        """In the order in which they were begun; the first is worked on."""
        return [entry for entry in self.entries.values() if entry.state == "running"]
