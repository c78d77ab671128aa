"""From an item to its fact, and from all items of a model to what was measured. Pure.

    success_ratio    items with an answer of this very model / items that reached it (`success_ratio_n`; not those that
                     were skipped, or that a budget, a rule or an overload of ours kept away from it)
    score            sum of weight * score / sum of weights, of the items that were scored
    <figure>         the mean of what scorers say beside the score (`json_valid`, ...), over `<figure>_n` items
    tokens_per_s     of one answer of `LEAST_TOKENS` or more: (tokens - 1) / (whole time - time to the first token);
                     of n at once: all their tokens / the time from the first ask to the last answer
    first_token_ms   as the selector saw it, queue included

Speed is the median over items (`_p95`: of the first token, too); with items of the scorer `speed` of these alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from understudy.actors.benchmarker.items import reached
from understudy.messages.benchmarks import BenchmarkBegun, BenchmarkMeasured, BenchmarkScored, TaskScore

LEAST_TOKENS = 8
P95_FROM = 20
"""Below so many items a 95th percentile is the slowest one, so none is said."""


def tokens_per_s(tokens: int, ms: float, first_token_ms: float | None) -> float | None:
    """The pace of one answer; None where it is too short to tell."""
    if first_token_ms is None or tokens < LEAST_TOKENS or ms <= first_token_ms:
        return None
    return (tokens - 1) * 1000 / (ms - first_token_ms)


def task_scores(done: Iterable[BenchmarkScored]) -> tuple[TaskScore, ...]:
    """By task, in order of appearance."""
    found = dict[str, list[BenchmarkScored]]()
    for one in done:
        found.setdefault(one.task, []).append(one)
    return tuple(_task(task, items) for task, items in found.items())


def _task(task: str, items: Sequence[BenchmarkScored]) -> TaskScore:
    scored = [one for one in items if one.outcome == "scored"]
    return TaskScore(
        task=task,
        items=len(items),
        scored=len(scored),
        failed=sum(one.outcome == "failed" for one in items),
        skipped=sum(one.outcome == "skipped" for one in items),
        score_u=sum(one.score_u for one in scored),
        weight=sum(one.weight for one in scored),
        weighted_u=sum(one.score_u * one.weight for one in scored),
    )


def figures(done: Sequence[BenchmarkScored]) -> dict[str, float]:
    """See the module."""
    scored = [one for one in done if one.outcome == "scored"]
    asked = sum(map(reached, done))
    found = dict[str, float]()
    if asked:
        found["success_ratio"], found["success_ratio_n"] = len(scored) / asked, asked
    if weight := sum(one.weight for one in scored):
        found["score"] = sum(one.score_u * one.weight for one in scored) / weight / 1e6
    each = dict[str, list[float]]()
    for one in scored:
        for name, value in one.figures.items():
            if name not in ("at_once", "tokens_per_s"):
                each.setdefault(name, []).append(value)
    for name, values in sorted(each.items()):
        found[name], found[f"{name}_n"] = sum(values) / len(values), len(values)
    return {name: round(value, 6) for name, value in (found | _speed(scored)).items()}


def _speed(scored: Sequence[BenchmarkScored]) -> dict[str, float]:
    timed = [one for one in scored if "at_once" in one.figures]
    found = dict[str, float]()
    if not timed:
        return _pace(scored, "")
    for at_once in sorted({int(one.figures["at_once"]) for one in timed}):
        found |= _pace([one for one in timed if one.figures["at_once"] == at_once], f"_at_{at_once}")
    alone = min(int(one.figures["at_once"]) for one in timed)
    return found | {name.replace(f"_at_{alone}", ""): value for name, value in found.items() if f"_at_{alone}" in name}


def _pace(items: Sequence[BenchmarkScored], tail: str) -> dict[str, float]:
    found = dict[str, float]()
    first = sorted(one.first_token_ms for one in items if one.first_token_ms is not None)
    if first:
        found[f"first_token_ms{tail}_p50"] = median(first)
    if len(first) >= P95_FROM:
        found[f"first_token_ms{tail}_p95"] = first[int(0.95 * len(first))]
    paces = [one.figures.get("tokens_per_s") or tokens_per_s(one.tokens, one.ms, one.first_token_ms) for one in items]
    known = [pace for pace in paces if pace is not None]
    if known:
        found[f"tokens_per_s{tail}"] = median(known)
    return found


def measured(
    begun: BenchmarkBegun,
    model: str,
    done: Sequence[BenchmarkScored],
    at_ms: int,
    engine: str,
    hardware: dict[str, Any],
    rules: str,
) -> BenchmarkMeasured:
    """A model's part of a benchmark, whole."""
    return BenchmarkMeasured(
        at_ms=at_ms,
        bench_id=begun.bench_id,
        model=model,
        suite=begun.suite,
        suite_hash=begun.suite_hash,
        seed=begun.seed,
        tasks=task_scores(done),
        figures=figures(done),
        engine=engine,
        hardware=hardware,
        complete=len(done) == begun.items,
        judge=begun.judge if any(one.judged for one in done) else None,
        rules=rules,
    )
