"""What was measured as a table, a page and a picture: one row per model, strengths and weaknesses in words.

The words come from numbers alone: a figure is a strength where its 95 % interval (Wilson 1927) lies above `STRONG`, a
weakness where it lies below `WEAK`; where it holds either, there is no word. Speed has a word where a model is `TIMES`
as fast, or as slow, as the median of the others; that is of this machine and this hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from understudy.actors.benchmarker.stats import wilson
from understudy.messages.benchmarks import BENCHMARK, BenchmarkMeasured, BenchmarkState
from understudy.tools.benchmark_parts import stamp

STRONG, WEAK, TIMES = 0.8, 0.5, 1.5
RULES = {
    "interim": "Therapeutic items are scored by interim rules: words are looked for, and no clinician has judged them."
}


class Share(NamedTuple):
    """A share of n with its interval."""

    value: float
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        return wilson(self.value * self.n, self.n)


class Row(NamedTuple):
    """A model. `shares`: by name, what is between 0 and 1; None where nothing of the kind was asked."""

    model: str
    measured: BenchmarkMeasured
    pace: float | None
    first_ms: float | None
    shares: dict[str, Share | None]
    strengths: list[str]
    weaknesses: list[str]


FIRST = ("success", "tool accuracy", "JSON validity")
TITLES = {"json": "JSON content", "tools": "tool calls"}
"""What a task's column is called, where that is not its name."""
WORDS = {
    "success": ("answers reliably", "often does not answer"),
    "tool accuracy": ("picks the right tool", "picks wrong tools"),
    "JSON validity": ("writes valid JSON", "writes broken JSON"),
}
"""What is said of the figures that are no task."""


def rows_of(measured: Sequence[BenchmarkMeasured]) -> list[Row]:
    """In the order given; columns that no model has are left out."""
    shares = [_shares(one) for one in measured]
    tasks = list(dict.fromkeys(name for of in shares for name in of))
    names = [name for name in (*FIRST, *(t for t in tasks if t not in FIRST)) if any(name in of for of in shares)]
    rows: list[Row] = []
    for one, of in zip(measured, shares, strict=True):
        pace, first = one.figures.get("tokens_per_s"), one.figures.get("first_token_ms_p50")
        strong, weak = _words(of)
        others = [other.figures for other in measured if other is not one]
        _add_speed(strong, weak, pace, [of.get("tokens_per_s") for of in others])
        _add_first(strong, weak, first, [of.get("first_token_ms_p50") for of in others])
        rows.append(Row(one.model, one, pace, first, {name: of.get(name) for name in names}, strong, weak))
    return rows


def _shares(one: BenchmarkMeasured) -> dict[str, Share]:
    figures, found = one.figures, dict[str, Share]()
    if "success_ratio" in figures:
        found["success"] = Share(figures["success_ratio"], _reached(one))
    named = (("tool accuracy", "tool_right"), ("JSON validity", "json_valid"))
    for name, figure in named:
        if figure in figures:
            found[name] = Share(figures[figure], int(figures[f"{figure}_n"]))
    for task in one.tasks:
        if task.scored and task.task != BENCHMARK:
            found[TITLES.get(task.task, task.task)] = Share(task.weighted_u / max(1, task.weight) / 1e6, task.scored)
    return found


def _asked(one: BenchmarkMeasured) -> int:
    return sum(task.items - task.skipped for task in one.tasks)


def _reached(one: BenchmarkMeasured) -> int:
    """Items that say how often the model answers; measurements of the first formulas took all that were asked."""
    return int(one.figures.get("success_ratio_n", _asked(one) if "success_ratio" in one.figures else 0))


def _words(shares: dict[str, Share]) -> tuple[list[str], list[str]]:
    strong, weak = list[str](), list[str]()
    for name, share in shares.items():
        good, bad = WORDS.get(name, (f"good at {name}", f"weak at {name}"))
        low, high = share.interval
        said = f"({100 * share.value:.0f}\u00a0% of\u00a0{share.n})"
        if low > STRONG:
            strong.append(f"{good} {said}")
        if high < WEAK:
            weak.append(f"{bad} {said}")
    return strong, weak


def _add_speed(strong: list[str], weak: list[str], mine: float | None, others: Sequence[float | None]) -> None:
    known = [one for one in others if one]
    if not mine or not known:
        return
    said = f"({mine:,.0f} tokens/s, the others {median(known):,.0f})"
    if mine >= TIMES * median(known):
        strong.append(f"fast {said}")
    if mine * TIMES <= median(known):
        weak.append(f"slow {said}")


def _add_first(strong: list[str], weak: list[str], mine: float | None, others: Sequence[float | None]) -> None:
    known = [one for one in others if one]
    if not mine or not known:
        return
    said = f"(first token after {mine:,.0f} ms, the others {median(known):,.0f} ms)"
    if mine * TIMES <= median(known):
        strong.append(f"begins at once {said}")
    if mine >= TIMES * median(known):
        weak.append(f"slow to begin {said}")


def percent(share: Share | None) -> str:
    """For a cell."""
    return "-" if share is None else f"{100 * share.value:.0f} %"


def notes(measured: Sequence[BenchmarkMeasured]) -> list[str]:
    """What a reader must know."""
    found = [RULES[one] for one in dict.fromkeys(m.rules for m in measured) if one in RULES]
    for one in measured:
        asked, kept = _asked(one), _asked(one) - _reached(one)
        if not one.complete:
            found.append(f"{one.model}: not whole: {asked} items were asked, then it failed too often in a row.")
        if kept:
            why = "a budget, a rule or our own load kept them away"
            found.append(f"{one.model}: {kept} of its items never reached it ({why}); they count neither way.")
        if one.judge is not None:
            found.append(f"{one.model}: some items were judged by {one.judge}, a model, not by a formula.")
    skipped = {one.model: sum(task.skipped for task in one.tasks) for one in measured}
    each = ", ".join(f"{model} ({count})" for model, count in skipped.items() if count)
    why = "the model has no tools, no room for so many at once, a price now, or is not declared any more"
    return [*found, f"Skipped, as {why}: {each}."] if each else found


def table(measured: Sequence[BenchmarkMeasured]) -> list[str]:
    """For a terminal."""
    rows = rows_of(measured)
    if not rows:
        return ["nothing was measured yet"]
    names = list(rows[0].shares)
    width = max(5, *(len(row.model) for row in rows))
    heads = [f"{name:>{max(7, len(name))}}" for name in names]
    lines = [f"{'model':{width}}  {'tokens/s':>8}  {'first token':>11}  " + "  ".join(heads)]
    for row in rows:
        pace = "-" if row.pace is None else f"{row.pace:.0f}"
        first = "-" if row.first_ms is None else f"{row.first_ms:.0f} ms"
        cells = [f"{percent(row.shares[name]):>{max(7, len(name))}}" for name in names]
        lines.append(f"{row.model:{width}}  {pace:>8}  {first:>11}  " + "  ".join(cells))
    for row in rows:
        lines += ["", row.model]
        lines += [f"  + {one}" for one in row.strengths] + [f"  - {one}" for one in row.weaknesses]
        if not row.strengths and not row.weaknesses:
            lines.append("  nothing that these few items would prove")
    said = notes(measured)
    return [*lines, "", *said] if said else lines


def facts(state: BenchmarkState) -> dict[str, str]:
    """What the scores hold for."""
    first = state.measured[0] if state.measured else None
    hardware = dict(first.hardware) if first is not None else {}
    gpus = hardware.get("gpus") or ["none"]
    memory = f"{hardware.get('memory_bytes', 0) / 2**30:.0f} GiB"
    found = {
        "suite": f"{state.suite}, {state.items} items, hash {state.suite_hash}",
        "begun": f"{stamp(state.begun_ms)} UTC",
        "seed": str(state.seed),
        "judge": state.judge or "none: formulas alone",
        "engines": ", ".join(sorted({f"{one.model}: {one.engine}" for one in state.measured})),
    }
    if hardware:
        found["machine"] = f"{hardware.get('cpu', '?')}, {hardware.get('usable_cores', '?')} cores, {memory}"
        found["GPU"] = ", ".join(map(str, gpus))
    return found


def columns(rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], Share | None]]]:
    """The shares, each with how to read it."""
    return [(name, lambda row, name=name: row.shares[name]) for name in (rows[0].shares if rows else ())]
