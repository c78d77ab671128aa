"""When which suite is due on which model, and what begins now: idle models only, one benchmark at a time. Pure.

due = last + every * (1 + jitter * u), u from -1 to 1 drawn from the ids and the last time: the same for whoever asks,
and another each round. A model that was never measured counts from when it was first seen, one whose turn was cancelled
from then.
"""

from __future__ import annotations

import hashlib

from understudy.actors.benchmarker import orders
from understudy.actors.benchmarker.state import Order, Settings, State
from understudy.messages.benchmarks import (
    BenchmarkSchedule,
    BenchmarksScheduled,
    Due,
    RunBenchmark,
    ScheduleBenchmarks,
)
from understudy.messages.buckets import HOUR_MS
from understudy.messages.generate import Failed
from understudy.messages.prices import is_priced
from understudy.messages.slugs import slug
from understudy.messages.step import Asked, Effect, Send, Store
from understudy.messages.suites import ReadSuite, SuiteRead


def plan(state: State, settings: Settings) -> tuple[float, tuple[str, ...], tuple[str, ...]]:
    """How often, which suites, which models: by the last order, else by the topology."""
    order = state.history.runs.scheduled
    if order is not None:
        return order.every_h, order.suites or settings.suites, order.models
    return settings.every_h, settings.suites, ()


def drawn(*parts: object) -> float:
    """-1 to 1, the same for the same parts."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return 2 * int.from_bytes(digest[:8], "big") / 2**64 - 1


def due(state: State, settings: Settings) -> list[Due]:
    """The next of each, the earliest first. Models without a price, on this machine unless they are named."""
    every_h, suites, named = plan(state, settings)
    if not every_h:
        return []
    runs, known, found = state.history.runs, state.history.known, list[Due]()
    for model in named or state.history.models:
        declared = known.declared(model)
        if declared is None or is_priced(declared) or "chat" not in declared.capabilities:
            continue
        standing = known.standing(model, declared)
        if standing.retired or standing.offline or (not named and standing.location != "local"):
            continue
        for suite in suites:
            last = runs.last_ms.get(model, {}).get(suite, 0)
            since = max(last, runs.tried_ms.get(model, {}).get(suite, 0)) or runs.first_ms.get(model, 0)
            pause = every_h * HOUR_MS * (1 + settings.jitter_ratio * drawn(model, suite, since))
            found.append(Due(model=model, suite=suite, due_ms=int(since + pause), last_ms=last))
    return sorted(found, key=lambda one: (one.due_ms, one.model, one.suite))


def begin(state: State, now: float, settings: Settings) -> list[Effect]:
    """What is due, on a model that nobody has used for a while; the rest waits for another look."""
    work = state.work
    if not state.live or not work.ready or work.orders or state.history.runs.running():
        return []
    for one in due(state, settings):
        if one.due_ms > now:
            break
        if one.suite not in work.unreadable and work.room.quiet(one.model, now, settings.idle_ms):
            ask = RunBenchmark(models=(one.model,), suite=one.suite)
            return orders.begin(state, f"due.{slug(one.model)}.{one.suite}.{one.due_ms}", Order(ask, "", True))
    return []


def answer(state: State, asked: Asked, ask: ScheduleBenchmarks, settings: Settings) -> list[Effect]:
    """Change it, or say what is due when."""
    if ask.every_h is None:
        return [Send(asked.reply, told(state, settings))] if asked.reply else []
    for n, model in enumerate(ask.models):
        if state.history.known.declared(model) is None:
            text = f"No model {model!r} may be selected; `understudy models` lists them."
            failed = Failed(code="unknown_model", text=text, path=f"$.models[{n}]")
            return [Send(asked.reply, failed)] if asked.reply else []
    if not ask.suites:
        return _ordered(state, asked, ask, settings)
    key = f"schedule.{asked.id}"
    state.work.planning[key] = asked, ask
    return [ReadSuite(key, ask.suites[0])]


def suites_known(state: State, found: SuiteRead, settings: Settings) -> list[Effect]:
    """What is shipped: an order that names anything else would never be run."""
    asked, ask = state.work.planning.pop(found.key)
    for n, suite in enumerate(ask.suites):
        if suite not in found.shipped:
            text = f"No suite {suite!r}; there are: {', '.join(sorted(found.shipped))}."
            return [Send(asked.reply, Failed(code="invalid", text=text, path=f"$.suites[{n}]"))] if asked.reply else []
    return _ordered(state, asked, ask, settings)


def _ordered(state: State, asked: Asked, ask: ScheduleBenchmarks, settings: Settings) -> list[Effect]:
    assert ask.every_h is not None
    fact = BenchmarksScheduled(
        at_ms=int(asked.at_ms), every_h=ask.every_h, suites=ask.suites or settings.suites, models=ask.models
    )
    msg_id = f"bench.schedule.{asked.id}"
    if asked.reply:
        state.work.scheduling[msg_id] = asked.reply
    return [Store(fact, msg_id)]


def told(state: State, settings: Settings) -> BenchmarkSchedule:
    """For who asks."""
    every_h, suites, models = plan(state, settings)
    by = "topology" if state.history.runs.scheduled is None else "order"
    return BenchmarkSchedule(every_h=every_h, suites=suites, models=models, by=by, due=tuple(due(state, settings)))
