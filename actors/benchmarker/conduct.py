"""Run benchmarks: ask item after item, score the answers, state what comes of them. Pure.

    order ── ReadSuite ──> begun ── item: model.generate ──> scored ... ──> measured, per model, one after the other
                                        └── our bus or selectors failed it: asked again, `tries` times in all

What was begun, scored and measured is what the fold has; beside it only what is on its way. So a process that dies
asks those items again whose score the log does not have, and no others.
"""

from __future__ import annotations

from understudy.actors.benchmarker import items, sums
from understudy.actors.benchmarker.runs import Entry
from understudy.actors.benchmarker.state import Asking, Settings, State, Watcher, Work
from understudy.actors.benchmarker.suite import Question
from understudy.messages.base import Message
from understudy.messages.benchmarks import (
    BenchmarkCancelled,
    BenchmarkDone,
    BenchmarkProgress,
    BenchmarkScored,
    Waits,
)
from understudy.messages.events import Event
from understudy.messages.generate import Failed, Finished
from understudy.messages.prices import is_priced
from understudy.messages.slugs import slug
from understudy.messages.step import Effect, Send, Store, Wake
from understudy.messages.suites import ReadSuite
from understudy.messages.topology import Model

TICK = "work"
TOLD_MS, AGAIN_MS = 500.0, 1_000.0
"""A watcher is told no more often, and no less."""
LATE_MS = 5_000.0
RETRY_MS = 1_000.0


def advance(state: State, now: float, settings: Settings) -> list[Effect]:
    """All that can be done now."""
    work, running = state.work, state.history.runs.running()
    if not state.live or not work.ready:
        return []
    out = _tell(state, now)
    if running:
        out += _work_on(state, running[0], now, settings)
    if running and not work.ticking:
        work.ticking = True
        out.append(Wake(now + settings.tick_ms, TICK, work.asked))
    return out


def tick(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    """While anything runs: the clock's part."""
    work = state.work
    work.ticking = bool(state.history.runs.running())
    out: list[Effect] = []
    if work.ticking:
        out.append(Wake(now + settings.tick_ms, TICK, generation + 1))
    for n, asking in list(work.asking.items()):
        out += _late(state, n, asking, now, settings)
    return out + advance(state, now, settings)


def _late(state: State, n: int, asking: Asking, now: float, settings: Settings) -> list[Effect]:
    """Whoever should have answered is gone."""
    took = now - asking.begun_ms
    if asking.open and took > settings.item_ms + LATE_MS:
        for _ in asking.open:
            state.work.room.end(asking.model, now)
        asking.failure, asking.open = "silent", set()
        return _over(state, n, asking, now, settings)
    if asking.judged_ms and now - asking.judged_ms > settings.item_ms + LATE_MS:
        return _judged(state, n, asking, None, now, settings)
    return []


def _work_on(state: State, entry: Entry, now: float, settings: Settings) -> list[Effect]:
    begun, work = entry.begun, state.work
    suite = work.suites.get(begun.bench_id)
    if suite is None:
        work.waits = "suite"
        if begun.bench_id in work.reading:
            return []
        work.reading.add(begun.bench_id)
        return [ReadSuite(begun.bench_id, begun.source)]
    model = next((m for m in begun.models if m not in entry.measured), None)
    if model is None or (begun.bench_id, "", "") in work.storing.values():  # its end is on its way to the log
        return []
    out = _ask_judge(state, entry, now, settings)
    if any(one.judging is not None and not one.judged_ms for one in work.asking.values()):
        return out
    todo = _todo(state, entry, model, suite.questions, settings)
    away = any(one.bench_id == begun.bench_id for one in work.asking.values())
    away = away or any(key[:2] == (begun.bench_id, model) for key in work.storing.values())
    if not todo and not away:
        return _measure(state, entry, model, suite.rules, now)
    return out + _ask_some(state, entry, model, todo, now, settings)


def _todo(
    state: State, entry: Entry, model: str, questions: tuple[Question, ...], settings: Settings
) -> list[Question]:
    """What the log does not have, and is not on its way: to the log, or to an answer. None once a model has failed so
    often in a row that it will not answer the rest either."""
    done = entry.done.get(model, {})
    if len(done) >= settings.give_up:
        last = list(done.values())[-settings.give_up :]
        if all(one.outcome == "failed" for one in last):
            return []
    bench_id, work = entry.begun.bench_id, state.work
    away = {one.question.id for one in work.asking.values() if one.bench_id == bench_id}
    away |= {item for of, whom, item in work.storing.values() if (of, whom) == (bench_id, model)}
    return [one for one in questions if one.id not in done and one.id not in away]


def _ask_some(
    state: State, entry: Entry, model: str, todo: list[Question], now: float, settings: Settings
) -> list[Effect]:
    """As many as may be asked now. What cannot be asked at all is skipped."""
    begun, work = entry.begun, state.work
    declared = state.history.known.declared(model)
    again = [(n, one) for n, one in work.asking.items() if not one.open and one.judging is None]
    if declared is None or (is_priced(declared) and not begun.allow_cost):
        reason = "unknown_model" if declared is None else "price"
        for n, _ in again:
            del work.asking[n]
        return _skip(state, entry, model, [*(one.question for _, one in again), *todo], reason, now)
    out: list[Effect] = []
    for n, asking in again:
        if now < asking.retry_ms:
            continue
        work.waits = _room(state, model, declared, asking.question.at_once, now, settings)
        if work.waits:
            return out
        out += items.ask(work, n, asking, begun, declared, settings.item_ms, now)
    for question in todo:
        if not set(question.needs) <= set(declared.capabilities):
            out += _skip(state, entry, model, [question], "no_capability", now)
            continue
        if question.at_once > declared.slots:
            out += _skip(state, entry, model, [question], "no_room", now)
            continue
        in_hand = sum(len(one.open) or 1 for one in work.asking.values())
        if in_hand and in_hand + question.at_once > max(begun.at_once, question.at_once):
            work.waits = "answer"
            break
        if in_hand and question.at_once > 1:  # it measures how many together are answered: alone
            work.waits = "answer"
            break
        work.waits = _room(state, model, declared, question.at_once, now, settings)
        if work.waits:
            break
        work.asked += 1
        asking = work.asking[work.asked] = Asking(begun.bench_id, model, question, now)
        out += items.ask(work, work.asked, asking, begun, declared, settings.item_ms, now)
    return out


def _room(state: State, model: str, declared: Model, count: int, now: float, settings: Settings) -> Waits:
    topology = state.history.known.topology
    provider = topology.providers.get(declared.provider) if topology is not None else None
    local = provider is not None and provider.kind == "local"
    return state.work.room.may(model, declared.slots, local, count, now, settings.manners)


def _ask_judge(state: State, entry: Entry, now: float, settings: Settings) -> list[Effect]:
    """Of answers that wait for the judge, with the manners of any ask. One that is gone says so itself, when asked."""
    work, judge, out = state.work, entry.begun.judge or "", list[Effect]()
    declared = state.history.known.declared(judge)
    for n, one in work.asking.items():
        if one.judging is None or one.judged_ms:
            continue
        work.waits = "" if declared is None else _room(state, judge, declared, 1, now, settings)
        if work.waits:
            break
        one.judged_ms = now
        work.room.begin(judge, now)
        out.append(items.ask_judge(work, n, one, entry.begun, settings.item_ms))
    return out


def _skip(state: State, entry: Entry, model: str, questions: list[Question], reason: str, now: float) -> list[Effect]:
    out: list[Effect] = []
    for one in questions:
        fact = BenchmarkScored(
            at_ms=int(now), bench_id=entry.begun.bench_id, model=model, item=one.id, task=one.task,
            outcome="skipped", reason=reason, weight=one.weight,
        )  # fmt: skip
        out.append(store(state, fact, one.id))
    return out


def store(state: State, fact: Event, item: str = "") -> Store:
    """Into the log, once: an item of a model of a benchmark has one id, whoever scores it."""
    bench_id: str = getattr(fact, "bench_id", "")
    model: str = getattr(fact, "model", "")
    msg_id = f"bench.{bench_id}.{slug(model)}.{f'item.{item}' if item else 'measured'}"
    state.work.storing[msg_id] = bench_id, model, item
    return Store(fact, msg_id, key=slug(model))


def _measure(state: State, entry: Entry, model: str, rules: str, now: float) -> list[Effect]:
    engine = state.history.runs.engines.get(model)
    hardware = {**state.work.hardware, **({"engine": engine.facts} if engine is not None else {})}
    done = list(entry.done.get(model, {}).values())
    name = engine.engine if engine is not None else "http"
    return [store(state, sums.measured(entry.begun, model, done, int(now), name, hardware, rules))]


# --- answers ---------------------------------------------------------------------------------------------------------


def answered(state: State, tail: str, message: Message | None, now: float, settings: Settings) -> list[Effect]:
    """What came for an ask of ours; None: nobody heard it."""
    number, _, part = tail.partition(".")
    asking = state.work.asking.get(int(number)) if number.isdigit() else None
    if asking is None:
        return []
    n = int(number)
    if part == "judge":
        return _judged(state, n, asking, message, now, settings)
    if not part.isdigit() or int(part) not in asking.open:
        return []
    asking.open.discard(int(part))
    state.work.room.end(asking.model, now)
    match message:
        case Finished():
            asking.ends.append(message)
            asking.failure = asking.failure or items.unfit(message, asking.model)
        case Failed():
            asking.failure = asking.failure or items.reason_of(message)
        case _:
            asking.failure = asking.failure or "nobody"
    return [] if asking.open else _over(state, n, asking, now, settings)


def _over(state: State, n: int, asking: Asking, now: float, settings: Settings) -> list[Effect]:
    """All parts have come to their end."""
    work = state.work
    entry = state.history.runs.entries.get(asking.bench_id)
    if entry is None or entry.state != "running":
        work.asking.pop(n, None)
        return []
    if asking.failure in items.OURS and asking.tries < settings.tries:
        asking.retry_ms = now + RETRY_MS * 2 ** (asking.tries - 1)
        asking.tries += 1
        asking.failure, asking.ends = "", []
        return []
    fact = items.scored(asking, now)
    if entry.begun.judge is not None and items.is_judged(asking.question) and fact.outcome == "scored":
        asking.judging = fact
        return advance(state, now, settings)
    del work.asking[n]
    return [store(state, fact, fact.item), *advance(state, now, settings)]


def _judged(
    state: State, n: int, asking: Asking, message: Message | None, now: float, settings: Settings
) -> list[Effect]:
    fact = asking.judging
    entry = state.history.runs.entries.get(asking.bench_id)
    if fact is None or entry is None or not asking.judged_ms:
        return []
    state.work.room.end(entry.begun.judge or "", now)
    del state.work.asking[n]
    fact = items.with_verdict(fact, message, entry.begun.judge)
    return [store(state, fact, fact.item), *advance(state, now, settings)]


# --- who watches -----------------------------------------------------------------------------------------------------


def _tell(state: State, now: float) -> list[Effect]:
    out: list[Effect] = []
    runs, work = state.history.runs, state.work
    for bench_id, watchers in list(work.watchers.items()):
        entry = runs.entries.get(bench_id)
        if entry is None:
            continue
        if entry.state != "running":
            out += [Send(one.reply, BenchmarkDone(state=entry.told())) for one in watchers]
            del work.watchers[bench_id]
            continue
        said = _progress(work, entry, runs.running()[0] is entry)
        for one in watchers:
            if now - one.told_ms >= (TOLD_MS if said.done != one.done else AGAIN_MS):
                one.told_ms, one.done = now, said.done
                out.append(Send(one.reply, said))
    for bench_id, replies in list(work.cancelling.items()):
        entry = runs.entries.get(bench_id)
        if entry is not None and entry.state != "running":
            out += [Send(reply, entry.told()) for reply in replies]
            del work.cancelling[bench_id]
    return out


def _progress(work: Work, entry: Entry, its_turn: bool) -> BenchmarkProgress:
    begun = entry.begun
    left = [model for model in begun.models if model not in entry.measured]
    model = left[0] if left else begun.models[-1]
    done = list(entry.done.get(model, {}).values())
    return BenchmarkProgress(
        bench_id=begun.bench_id,
        model=model,
        nth_model=len(entry.measured) + (1 if left else 0),
        models=len(begun.models),
        done=len(done),
        items=begun.items,
        failed=sum(one.outcome == "failed" for one in done),
        scored=sum(one.outcome == "scored" for one in done),
        score_u=sum(one.score_u for one in done if one.outcome == "scored"),
        waits=work.waits if its_turn else "turn",
    )


def watch(state: State, bench_id: str, reply: str) -> None:
    """Tell `reply` from now on, once each time, however often it has asked."""
    if reply and all(one.reply != reply for one in state.work.watchers.get(bench_id, ())):
        state.work.watchers.setdefault(bench_id, []).append(Watcher(reply))


def cancel(state: State, entry: Entry, reason: str, now: float) -> list[Effect]:
    """Ask nothing more for it. What is on its way ends by itself and does not count."""
    bench_id = entry.begun.bench_id
    for n in [n for n, one in state.work.asking.items() if one.bench_id == bench_id]:
        asking = state.work.asking.pop(n)
        for _ in asking.open:
            state.work.room.end(asking.model, now)
        if asking.judged_ms:
            state.work.room.end(entry.begun.judge or "", now)
    fact = BenchmarkCancelled(at_ms=int(now), bench_id=bench_id, reason=reason)  # pyright: ignore[reportArgumentType]
    msg_id = f"bench.{bench_id}.cancelled.{entry.seq}"
    state.work.storing[msg_id] = bench_id, "", ""
    return [Store(fact, msg_id, key=slug(bench_id))]
