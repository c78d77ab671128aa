"""What the log says of every model, task and hour, and what the drift detectors make of it: the fold. Pure.

The clock is that of the events: an hour is closed once the log has a fact from a while after its end. Closed hours are
packed (about 100 bytes each), as a month of twelve models and eight tasks has 70,000 of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from understudy.actors.benchmarker.drift import Cell, Detector, DriftPlan, Found
from understudy.actors.benchmarker.runs import Runs
from understudy.messages.benchmarks import BENCHMARK, BenchmarkMeasured, ModelDrifted
from understudy.messages.buckets import DAY_MS, HOUR_MS, Bucket, OutcomeBrief, count
from understudy.messages.catalogue_events import CatalogueEvent
from understudy.messages.comparison import Figure
from understudy.messages.events import Event, FeedbackGiven, RequestEnded, TopologyApplied
from understudy.messages.known import Known
from understudy.messages.topology import Thresholds

DAY_H = DAY_MS // HOUR_MS
ODD = 3
"""So many facts in a row make a jump of the clock one that is believed."""


class _Packed(Bucket, array_like=True):
    """A bucket whose fields have places instead of names."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(one: Bucket) -> bytes:
    """A bucket as bytes: its fields in their order."""
    return _encode(msgspec.structs.astuple(one))


def unpack(packed: bytes) -> Bucket:
    """As it was."""
    return _decode(packed)


class Watched(msgspec.Struct):
    """The detectors of one model, and what they found, oldest first."""

    detectors: dict[Figure, Detector] = msgspec.field(default_factory=dict[Figure, Detector])
    found: list[tuple[Figure, Found]] = msgspec.field(default_factory=list[tuple[Figure, Found]])

    def observe(self, hour: int, tasks: dict[str, Bucket], plan: DriftPlan) -> None:
        """One closed hour."""
        for figure, cells in cells_of(tasks).items():
            if cells:
                found = self.detectors.setdefault(figure, Detector()).observe(figure, hour, cells, plan)
                if found is not None:
                    self.found.append((figure, found))

    def settle(self, hour: int, plan: DriftPlan) -> None:
        """What has been worse for long, also where nobody asks the model any more."""
        for figure, detector in self.detectors.items():
            found = detector.settle(figure, hour, plan)
            if found is not None:
                self.found.append((figure, found))


class History(msgspec.Struct):
    """`seq`: the position it reflects. Hours are counted since 1970 (UTC)."""

    seq: int = 0
    now_ms: int = 0  # of the newest fact
    odd: int = 0  # so many facts in a row were a day ahead of that, or (negative) behind it
    closed_h: int = -1  # up to this hour all are closed
    pruned_h: int = 0  # nothing is kept from before
    checked_h: int = 0  # when that was looked at
    thresholds: Thresholds = Thresholds()
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # that the topology declares
    open: dict[int, dict[str, dict[str, Bucket]]] = msgspec.field(
        default_factory=dict[int, dict[str, dict[str, Bucket]]]
    )  # hour, model, task
    packed: dict[str, dict[str, dict[int, bytes]]] = msgspec.field(
        default_factory=dict[str, dict[str, dict[int, bytes]]]
    )  # model, task, hour
    watched: dict[str, Watched] = msgspec.field(default_factory=dict[str, Watched])
    told: dict[str, dict[Figure, str]] = msgspec.field(default_factory=dict[str, dict[Figure, str]])  # last direction
    known: Known = msgspec.field(default_factory=Known)  # the catalogue: prices, what models can do
    runs: Runs = msgspec.field(default_factory=Runs)

    def apply(self, seq: int, event: Event, grace_ms: int, plan: DriftPlan) -> bool:
        """Fold one fact; False for a position at or below ours. Hours that are over by its time are closed first."""
        if seq <= self.seq:
            return False
        self.seq = seq
        if self._believed(event.at_ms):
            self.now_ms = event.at_ms
            self.close(self.now_ms - grace_ms, plan)
        match event:
            case OutcomeBrief() | RequestEnded() | FeedbackGiven() | BenchmarkMeasured():
                self._count(event)
            case ModelDrifted():
                self.told.setdefault(event.model, {})[event.figure] = event.direction
            case TopologyApplied():
                self.thresholds, self.tasks = event.body.thresholds, tuple(event.body.tasks)
                self.models = tuple(event.body.models)
                self.known.topology = event.body
                self.runs.seen(self.models, event.at_ms)
            case _:
                if isinstance(event, CatalogueEvent):
                    self.known.apply(seq, event)
        self.runs.apply(seq, event)
        return True

    def _believed(self, at_ms: int) -> bool:
        """Is it as late as that? One fact a day from all before may be of a clock that is wrong: it takes `ODD`. A
        clock that was wrong and is set back opens the hours again, and what is old by it is not forgotten for a day."""
        side = (at_ms > self.now_ms + DAY_MS) - (at_ms < self.now_ms - DAY_MS) if self.now_ms else 0
        if side:
            self.odd = side + (self.odd if side * self.odd > 0 else 0)
            if abs(self.odd) < ODD:
                return False
        self.odd = 0
        hour = at_ms // HOUR_MS
        if side < 0:
            self.closed_h, self.pruned_h = hour - 1, min(self.pruned_h, hour)
        if side:
            self.checked_h = hour
        return side < 0 or at_ms > self.now_ms

    def _count(self, event: RequestEnded | OutcomeBrief | FeedbackGiven | BenchmarkMeasured) -> None:
        hour = event.at_ms // HOUR_MS
        if hour < self.pruned_h:
            return
        if hour > self.closed_h:
            models = self.open.setdefault(hour, {})
            count(event, lambda model, task, _: models.setdefault(model, {}).setdefault(task, Bucket()))
            return
        late = dict[tuple[str, str], Bucket]()  # its hour was closed without it

        def bucket(model: str, task: str, _: int) -> Bucket:
            if (model, task) not in late:
                packed = self.packed.get(model, {}).get(task, {}).get(hour)
                late[model, task] = unpack(packed) if packed is not None else Bucket()
            return late[model, task]

        count(event, bucket)
        for (model, task), one in late.items():
            self.packed.setdefault(model, {}).setdefault(task, {})[hour] = pack(one)

    def close(self, before_ms: int, plan: DriftPlan) -> None:
        """Judge and pack the hours that ended by then."""
        upto = before_ms // HOUR_MS - 1
        if upto <= self.closed_h:
            return
        for hour in sorted(h for h in self.open if h <= upto):
            for model, tasks in self.open.pop(hour).items():
                self.watched.setdefault(model, Watched()).observe(hour, tasks, plan)
                for task, one in tasks.items():
                    hours = self.packed.setdefault(model, {}).setdefault(task, {})
                    if hour in hours:  # it was closed before, by a clock that was wrong
                        one.add(unpack(hours[hour]))
                    hours[hour] = pack(one)
        for of in self.watched.values():
            of.settle(upto, plan)
        self.closed_h = upto

    def prune(self, keep_h: int, most: int) -> None:
        """Forget the oldest, once a day: what is older than `keep_h` hours, and days beyond `most` buckets."""
        if self.closed_h < self.checked_h + DAY_H:
            return
        self.checked_h = self.closed_h
        self.pruned_h = max(self.pruned_h, self.closed_h - keep_h)
        self._forget()
        while sum(len(hours) for tasks in self.packed.values() for hours in tasks.values()) > most:
            self.pruned_h += DAY_H
            self._forget()

    def _forget(self) -> None:
        first = self.pruned_h
        for tasks in self.packed.values():
            for task, hours in tasks.items():
                if hours and min(hours) < first:
                    tasks[task] = {hour: one for hour, one in hours.items() if hour >= first}
        for of in self.watched.values():
            of.found = [one for one in of.found if one[1].until_h >= first]
        for model in [m for m, tasks in self.packed.items() if not any(tasks.values())]:
            self.packed.pop(model)
            self.watched.pop(model, None)

    def hours(self, model: str, task: str | None, first: int, end: int) -> Iterator[tuple[int, Bucket]]:
        """The buckets of a model from hour `first` to before `end`, in no order; without a task: of all that people
        asked for. (An hour comes once per task.)"""
        for name, hours in self.packed.get(model, {}).items():
            if name == task or (task is None and name != BENCHMARK):
                yield from ((hour, unpack(one)) for hour, one in hours.items() if first <= hour < end)
        for hour, models in self.open.items():
            if first <= hour < end:
                for name, one in models.get(model, {}).items():
                    if name == task or (task is None and name != BENCHMARK):
                        yield hour, one

    def seen(self) -> set[str]:
        """Every model that anything is kept of."""
        return {*self.packed, *(model for models in self.open.values() for model in models)}

    def tasks_seen(self) -> set[str]:
        """Every task that anything is kept of."""
        open_now = (tasks for models in self.open.values() for tasks in models.values())
        return {task for tasks in (*self.packed.values(), *open_now) for task in tasks}


def cells_of(tasks: dict[str, Bucket]) -> dict[Figure, list[Cell]]:
    """What an hour of one model says of each figure. Benchmarks ask in their own rhythm, so their speed is left out;
    what they judge is held apart from what people judge."""
    found: dict[Figure, list[Cell]] = {"error_ratio": [], "latency_ms": [], "score": []}
    for task, one in tasks.items():
        if task != BENCHMARK:
            if one.ok + one.err:
                found["error_ratio"].append(Cell(task, one.ok + one.err, one.err))
            if one.ok:
                found["latency_ms"].append(Cell(task, one.ok, one.lat_us / 1000))
        measured = one.score_n - one.rating_n
        if one.rating_n:
            found["score"].append(Cell(f"{task} people", one.rating_n, one.rating_n - one.rating_u / 1e6))
        if measured:
            missing = measured - (one.score_u - one.rating_u) / 1e6
            found["score"].append(Cell(f"{task} benchmark", measured, missing))
    return found
