"""What a selector instance sees itself and no log holds: who is alive, who failed it, what is under way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from understudy.messages.run import RunnerBeat

SUSPECT_BASE_MS = 500.0
SUSPECT_CAP_MS = 8_000.0
TOLD_CAP_MS = 600_000.0
"""A provider may say how long its model wants to be left alone; so long at most it is believed."""


@dataclass(slots=True)
class Instance:
    """A runner instance as its beats tell."""

    seen_ms: float
    in_flight: int
    slots: int
    waiting: int = 0  # of those in flight


class News(NamedTuple):
    """What happened with a model: it was `asked`, or its attempt ended `ok` or for a reason."""

    model: str
    outcome: str
    wait_ms: float = 0.0  # so long its provider wants to be left alone
    exhausted_until_ms: int | None = None  # so long a quota of its provider's account is used up


@dataclass(slots=True)
class Suspect:
    """A model that failed us a moment ago: avoided before the tracker says so."""

    until_ms: float
    failures: int


@dataclass(slots=True)
class LocalView:
    """What this instance saw itself and no log holds. What a decision used of it is recorded with the decision."""

    instances: dict[str, dict[str, Instance]] = field(default_factory=dict[str, dict[str, Instance]])
    others: dict[str, dict[str, Instance]] = field(default_factory=dict[str, dict[str, Instance]])  # by provider
    named: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])  # models, by such an instance
    suspects: dict[str, Suspect] = field(default_factory=dict[str, Suspect])
    in_flight: dict[str, int] = field(default_factory=dict[str, int])
    exhausted: dict[str, float] = field(default_factory=dict[str, float])  # model -> until when, before the log says it
    exhausted_end_ms: float = math.inf  # when the first of them may be tried again
    touched: set[str] = field(default_factory=set[str])  # models seen differently since `take_touched`
    touched_providers: set[str] = field(default_factory=set[str])  # the same of all that they serve by admission

    def take_touched(self) -> set[str]:
        """Models whose sight has changed since the last call (a suspicion that ended by time alone is not told)."""
        touched, self.touched = self.touched, set()
        return touched

    def serving(self, model: str, provider: str) -> dict[str, Instance]:
        """Living instances that serve a model: those that name it in their beats, and those that serve all of its
        provider's admitted ones, which name only what is at work."""
        named, others = self.instances.get(model), self.others.get(provider)
        if not others:
            return named or {}
        return {**others, **named} if named else others

    def _serves_others(self, beat: RunnerBeat, at_ms: float) -> None:
        """An instance that serves whatever is admitted; what was at work and no longer is, it does not name."""
        known = self.others.setdefault(beat.provider, {})
        if not beat.accepting:
            known.pop(beat.instance, None)
            self.touched_providers.add(beat.provider)
        elif beat.instance not in known:
            known[beat.instance] = Instance(at_ms, 0, beat.others_slots)
            self.touched_providers.add(beat.provider)
        else:
            known[beat.instance].seen_ms = at_ms
        for model in self.named.get(beat.instance, frozenset()) - beat.models.keys():
            self.instances[model].pop(beat.instance, None)
            self.touched.add(model)
        self.named[beat.instance] = frozenset(beat.models)

    def beat(self, beat: RunnerBeat, at_ms: float) -> None:
        """A runner instance is alive; one that takes no more work is none for new requests."""
        if beat.others_slots:
            self._serves_others(beat, at_ms)
        for model, load in beat.models.items():
            known = self.instances.setdefault(model, {})
            if not beat.accepting:
                known.pop(beat.instance, None)
                self.touched.add(model)
                continue
            # Who waits is load too; and where somebody does there is no free slot, whatever the limit is.
            busy = load.in_flight + load.waiting
            slots = min(load.slots, busy) if load.waiting else load.slots
            instance = known.get(beat.instance)
            if instance is None:
                known[beat.instance] = Instance(at_ms, busy, slots, load.waiting)
                self.touched.add(model)
                continue
            instance.seen_ms, instance.waiting = at_ms, load.waiting
            if (instance.in_flight, instance.slots) != (busy, slots):
                instance.in_flight, instance.slots = busy, slots
                self.touched.add(model)

    def asked(self, model: str) -> None:
        """One more request of ours is with this model."""
        self.in_flight[model] = self.in_flight.get(model, 0) + 1
        self.touched.add(model)

    def answered(self, model: str) -> None:
        """One request less."""
        self.in_flight[model] = max(0, self.in_flight.get(model, 0) - 1)
        self.touched.add(model)

    def gone(self, instance: str) -> tuple[list[str], list[str]]:
        """Forget an instance; the models that it named, and the providers of which it served all admitted ones."""
        models = [model for model, known in self.instances.items() if known.pop(instance, None) is not None]
        providers = [name for name, known in self.others.items() if known.pop(instance, None) is not None]
        self.named.pop(instance, None)
        self.touched.update(models)
        self.touched_providers.update(providers)
        return models, providers

    def deaf(self, ms: float) -> None:
        """For so long nobody could be heard: it does not count against anybody."""
        for known in (*self.instances.values(), *self.others.values()):
            for instance in known.values():
                instance.seen_ms += ms

    def silent(self, now_ms: float, limit_ms: float) -> list[str]:
        """Instances without a beat for longer than the limit."""
        every = (*self.instances.values(), *self.others.values())
        return sorted({name for known in every for name, i in known.items() if now_ms - i.seen_ms > limit_ms})

    def suspect(self, model: str, now_ms: float, wait_ms: float = 0.0) -> None:
        """Our own outcome said that this model is bad: avoid it for a while, longer each time.

        `wait_ms`: as long at least, as its provider said so.

        Many runs that fail together are one failure.
        """
        known = self.suspects.get(model)
        again = 0 if known is None else known.failures if known.until_ms > now_ms else known.failures + 1
        failures = max(1, again)
        rest_ms = min(SUSPECT_BASE_MS * 2 ** min(failures - 1, 10), SUSPECT_CAP_MS)
        until = now_ms + max(rest_ms, min(wait_ms, TOLD_CAP_MS))
        self.suspects[model] = Suspect(until if known is None else max(until, known.until_ms), failures)
        self.touched.add(model)

    def trust(self, model: str) -> None:
        """It answered well."""
        if self.suspects.pop(model, None) is not None:
            self.touched.add(model)

    def is_suspect(self, model: str, now_ms: float) -> bool:
        """Is it still to be avoided?"""
        known = self.suspects.get(model)
        return known is not None and known.until_ms > now_ms

    def exhaust(self, models: list[str], until_ms: float) -> None:
        """A quota that these draw on is used up, as an attempt has just been told. The latest end counts."""
        self.exhausted.update({model: max(until_ms, self.exhausted.get(model, 0.0)) for model in models})
        self.exhausted_end_ms = min(self.exhausted.values(), default=math.inf)
        self.touched.update(models)

    def forget_exhausted(self, models: list[str]) -> None:
        """The log says it now, or the time is over."""
        for model in models:
            if self.exhausted.pop(model, None) is not None:
                self.touched.add(model)
        self.exhausted_end_ms = min(self.exhausted.values(), default=math.inf)

    def is_exhausted(self, model: str, now_ms: float) -> bool:
        """Is it known here, and not from the log, that its quota is used up?"""
        return bool(self.exhausted) and self.exhausted.get(model, 0.0) > now_ms

    def waiting(self, model: str, provider: str) -> int:
        """Requests that wait for room, over all living instances."""
        return sum(i.waiting for i in self.serving(model, provider).values())

    def load(self, model: str, provider: str) -> tuple[int, int, int]:
        """Living instances, and over all of them requests in flight and slots."""
        known, busy, slots = self.serving(model, provider), 0, 0
        for one in known.values():
            busy += one.in_flight
            slots += one.slots
        return len(known), max(self.in_flight.get(model, 0), busy), slots
