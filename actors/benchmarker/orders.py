"""Orders about benchmarks: what is taken, refused, gone on with, cancelled, listed. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from understudy.actors.benchmarker import conduct
from understudy.actors.benchmarker.runs import Entry
from understudy.actors.benchmarker.state import Order, Settings, State
from understudy.actors.benchmarker.suite import Suite, SuiteFault, build, cut, read
from understudy.messages.benchmarks import (
    BenchmarkBegun,
    BenchmarkDone,
    Benchmarks,
    CancelBenchmark,
    ListBenchmarks,
    RunBenchmark,
)
from understudy.messages.generate import FailCode, Failed
from understudy.messages.prices import is_priced
from understudy.messages.slugs import slug
from understudy.messages.step import Asked, Effect, Send, Store, StoreFailed
from understudy.messages.suites import ReadSuite, SuiteRead

FAILS: dict[str, FailCode] = {"log_full": "log_full"}
"""What is said of a store that failed; of any other: `bus_down`."""


def run(state: State, asked: Asked, ask: RunBenchmark, settings: Settings) -> list[Effect]:
    """Take an order, or say what is wrong with it."""
    if ask.resume is not None:
        return _resume(state, asked, ask, settings)
    topology = state.history.known.topology
    aliases = topology.aliases if topology is not None else {}
    models = tuple(dict.fromkeys(aliases.get(model, model) for model in ask.models))
    judge = aliases.get(ask.judge, ask.judge) if ask.judge is not None else None
    ask = replace(ask, models=models, judge=judge)
    wrong = _wrong(state, ask)
    if wrong is not None:
        return [Send(asked.reply, wrong)] if asked.reply else []
    return begin(state, asked.id, Order(ask, asked.reply))


def begin(state: State, bench_id: str, order: Order) -> list[Effect]:
    """First of all its suite is read."""
    state.work.orders[bench_id] = order
    state.work.reading.add(bench_id)
    return [ReadSuite(bench_id, order.ask.suite)]


def _wrong(state: State, ask: RunBenchmark) -> Failed | None:
    known = state.history.known
    if not ask.models:
        return Failed(code="invalid", text="Name at least one model (`understudy models` lists them).", path="$.models")
    named = [(f"$.models[{n}]", model) for n, model in enumerate(ask.models)]
    named += [("$.judge", ask.judge)] if ask.judge is not None else []
    for path, model in named:
        declared = known.declared(model)
        if declared is None:
            there = ", ".join(sorted(known.candidates()))
            return Failed(
                code="unknown_model", text=f"No model {model!r} may be selected; there are: {there}.", path=path
            )
        if "chat" not in declared.capabilities:
            return Failed(code="invalid", text=f"{model} does not chat, so a suite has nothing to ask it.", path=path)
        if is_priced(declared) and not ask.allow_cost:
            text = f"{model} has a price, or an unknown one: say `allow_cost` (--allow-cost) to spend money on it."
            return Failed(code="invalid", text=text, path=path)
    return None


def _resume(state: State, asked: Asked, ask: RunBenchmark, settings: Settings) -> list[Effect]:
    bench_id = ask.resume or ""
    entry = state.history.runs.entries.get(bench_id)
    if entry is None:
        text = f"No benchmark {bench_id!r} is remembered; `understudy benchmark list` shows those that are."
        return [Send(asked.reply, Failed(code="invalid", text=text, path="$.resume"))] if asked.reply else []
    if entry.state == "finished":
        return [Send(asked.reply, BenchmarkDone(state=entry.told()))] if asked.reply else []
    if entry.state == "running" or bench_id in state.work.orders:
        conduct.watch(state, bench_id, asked.reply)
        return conduct.advance(state, asked.at_ms, settings)
    begun = entry.begun
    again = RunBenchmark(
        models=begun.models, suite=begun.source, seed=begun.seed, at_once=begun.at_once, judge=begun.judge,
        allow_cost=begun.allow_cost or ask.allow_cost, max_items=begun.items,
    )  # fmt: skip
    return begin(state, bench_id, Order(again, asked.reply, begun.scheduled))


def suite_read(state: State, found: SuiteRead, settings: Settings) -> list[Effect]:
    """The file of an order, or of a benchmark that a former process has begun."""
    work, bench_id = state.work, found.key
    work.reading.discard(bench_id)
    order, entry = work.orders.get(bench_id), state.history.runs.entries.get(bench_id)
    try:
        suite = _suite(found)
    except SuiteFault as fault:
        if order is not None:
            if order.scheduled:  # nobody waits for this refusal, and others are due
                work.unreadable.add(order.ask.suite)
            return _refuse(state, bench_id, "invalid", str(fault), "$.suite")
        return conduct.cancel(state, entry, "bad_suite", found.at_ms) if entry is not None else []
    if order is not None:
        return _begin(state, found, order, suite, entry)
    if entry is None or entry.state != "running":
        return []
    suite = cut(suite, entry.begun.items)
    if suite.hash != entry.begun.suite_hash:
        return conduct.cancel(state, entry, "suite_changed", found.at_ms)
    work.suites[bench_id] = suite
    return conduct.advance(state, found.at_ms, settings)


def _suite(found: SuiteRead) -> Suite:
    if found.problem:
        raise SuiteFault(found.problem)
    file = read(found.content, "the suite")
    wanted = {one.suite for one in file.head.includes}
    return build(file, {name: read(text, name) for name, text in found.shipped.items() if name in wanted})


def _begin(state: State, found: SuiteRead, order: Order, suite: Suite, entry: Entry | None) -> list[Effect]:
    ask, bench_id = order.ask, found.key
    suite = cut(suite, min(ask.max_items or len(suite.questions), len(suite.questions)))
    if entry is not None and suite.hash != entry.begun.suite_hash:
        text = f"The suite has changed since (it is {suite.hash}, was {entry.begun.suite_hash}): begin anew."
        return _refuse(state, bench_id, "invalid", text, "$.resume")
    state.work.suites[bench_id] = suite
    fact = BenchmarkBegun(
        at_ms=int(found.at_ms),
        bench_id=bench_id,
        models=ask.models,
        suite=suite.name,
        source=ask.suite,
        suite_hash=suite.hash,
        items=len(suite.questions),
        seed=ask.seed,
        at_once=ask.at_once,
        allow_cost=ask.allow_cost,
        judge=ask.judge,
        scheduled=order.scheduled,
    )
    return [Store(fact, f"bench.{bench_id}.begun.{entry.seq if entry is not None else 0}", key=slug(bench_id))]


def _refuse(state: State, bench_id: str, code: FailCode, text: str, path: str | None) -> list[Effect]:
    order = state.work.orders.pop(bench_id)
    return [Send(order.reply, Failed(code=code, text=text, path=path))] if order.reply else []


def begun(state: State, bench_id: str) -> None:
    """The log has it: who ordered it watches from now on."""
    order = state.work.orders.pop(bench_id, None)
    if order is not None:
        conduct.watch(state, bench_id, order.reply)


def not_stored(state: State, failed: StoreFailed) -> list[Effect]:
    """The log did not take the begin of a benchmark, or its end."""
    name, code = failed.msg_id.removeprefix("bench."), FAILS.get(failed.code, "bus_down")
    replies = state.work.cancelling.pop(name.rpartition(".cancelled.")[0], [])
    if replies:
        text = "The log has not taken the order to end it, so it goes on. Try again."
        return [Send(reply, Failed(code=code, text=text)) for reply in replies]
    bench_id = name.rpartition(".begun.")[0]
    if bench_id not in state.work.orders:
        return []
    return _refuse(state, bench_id, code, "The log has not taken the order; nothing was asked. Try again.", None)


def cancel(state: State, asked: Asked, ask: CancelBenchmark) -> list[Effect]:
    """What runs is ended; of what is over its state is told."""
    entry = state.history.runs.entries.get(ask.bench_id)
    if entry is None:
        text = f"No benchmark {ask.bench_id!r} is remembered; `understudy benchmark list` shows those that are."
        return [Send(asked.reply, Failed(code="invalid", text=text, path="$.bench_id"))] if asked.reply else []
    if entry.state != "running":
        return [Send(asked.reply, entry.told())] if asked.reply else []
    if asked.reply:
        state.work.cancelling.setdefault(ask.bench_id, []).append(asked.reply)
    return conduct.cancel(state, entry, "ordered", asked.at_ms)


def listed(state: State, asked: Asked, ask: ListBenchmarks) -> list[Effect]:
    """The newest first."""
    if not asked.reply:
        return []
    entries = list(state.history.runs.entries.values())[::-1]
    if ask.bench_id is not None:
        entries = [one for one in entries if one.begun.bench_id == ask.bench_id]
    told = tuple(one.told(whole=ask.bench_id is not None) for one in entries[: ask.limit])
    return [Send(asked.reply, Benchmarks(as_of_seq=state.history.seq, benchmarks=told))]
