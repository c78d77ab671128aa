"""A benchmark as a page and as a picture (`tools/report`): needs matplotlib, of the extra `analysis`."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.messages.benchmarks import BenchmarkMeasured, BenchmarkState
from understudy.tools.benchmark_parts import stamp
from understudy.tools.benchmark_report import FIRST, STRONG, TIMES, WEAK, Row, Share, columns, facts, notes, rows_of
from understudy.tools.report import charts, page


def picture(state: BenchmarkState, *, alone: bool = True) -> charts.Chart:
    """A panel per figure, a bar per model. `alone`: with what a reader must know, which a page says itself."""
    rows = rows_of(state.measured)
    speeds = (
        charts.Panel("Speed", {r.model: _point(r.pace) for r in rows}, "tokens/s"),
        charts.Panel("First token", {r.model: _point(r.first_ms) for r in rows}, "ms"),
    )
    shares = [
        charts.Panel(name[0].upper() + name[1:], {row.model: _shared(read(row)) for row in rows}, "", 1)
        for name, read in columns(rows)
    ]
    title = f"Benchmark {state.suite}: {state.items} items, seed {state.seed}, {stamp(state.begun_ms)} UTC"
    return charts.panels([*speeds, *shares], title=title, notes=notes(state.measured) if alone else ())


def _point(value: float | None) -> charts.Point | None:
    return None if value is None else charts.Point(value)


def _shared(share: Share | None) -> charts.Point | None:
    return None if share is None else charts.Point(share.value, *share.interval)


def html(state: BenchmarkState) -> str:
    """The page."""
    rows, measured = rows_of(state.measured), state.measured
    title = f"Benchmark {state.suite}"
    whole = f"{len(measured)} of {len(state.models)} models, {state.items} items each, {stamp(state.begun_ms)} UTC"
    parts = [page.note(one) for one in notes(measured)]
    if not rows:
        return page.page(title, page.note("Nothing was measured yet."), lead=whole)
    thresholds = (
        f"A strength: the 95 % interval (Wilson) lies above {100 * STRONG:.0f} %; weakness: below {100 * WEAK:.0f} %. "
        f"Speed has a word from {TIMES:g} times the others' median on."
    )
    return page.page(
        title,
        page.section("Models", _table(rows), *parts, lead=thresholds),
        page.section("Tasks", _scores(rows), lead="The weighted mean of the items' scores; n: items scored."),
        page.section("Side by side", page.figure(picture(state, alone=False).svg(), "Lines: 95 % intervals.")),
        page.section("Speed", _speed(measured), lead="Median over items, as the selector saw them, queue included."),
        page.section("What this holds for", page.facts(facts(state)), _counts(measured)),
        lead=whole,
        foot=f"Benchmark {state.bench_id}. Equal suite, seed, engine and machine: equal scores of a local model; speed "
        "varies with the hour.",
    )


def _table(rows: Sequence[Row]) -> page.Html:
    """The design's evaluation: what a model is like, in one line. Its tasks have a table of their own."""
    named = [one for one in columns(rows) if one[0] in FIRST]
    head = ["model", "tokens/s", "first token", *(name for name, _ in named), "strengths", "weaknesses"]
    body: list[list[page.Content]] = []
    for row in rows:
        pace = None if row.pace is None else f"{row.pace:,.0f}"
        first = None if row.first_ms is None else f"{row.first_ms:,.0f} ms"
        cells: list[page.Content] = [row.model, pace, first, *(_cell(read(row)) for _, read in named)]
        cells += [page.listing(row.strengths) or None, page.listing(row.weaknesses) or None]
        body.append(cells)
    return page.table(head, body, (len(head) - 2, len(head) - 1))


def _scores(rows: Sequence[Row]) -> page.Html:
    named = [one for one in columns(rows) if one[0] not in FIRST]
    body: list[list[page.Content]] = [[row.model, *(_cell(read(row)) for _, read in named)] for row in rows]
    return page.table(["model", *(name for name, _ in named)], body)


def _cell(share: Share | None) -> page.Content:
    if share is None:
        return None
    low, high = share.interval
    tone: page.Tone = "good" if low > STRONG else "bad" if high < WEAK else ""
    return page.Cell(
        f"{100 * share.value:.0f} %", tone, share.value, f"{100 * low:.0f} to {100 * high:.0f}, n {share.n}"
    )


def _counts(measured: Sequence[BenchmarkMeasured]) -> page.Html:
    body: list[list[page.Content]] = []
    for one in measured:
        of = [sum(getattr(task, name) for task in one.tasks) for name in ("items", "scored", "failed", "skipped")]
        body.append([one.model, *(str(count) for count in of)])
    return page.table(["model", "items", "scored", "failed", "skipped"], body)


def _speed(measured: Sequence[BenchmarkMeasured]) -> page.Html:
    tails = sorted({name.removeprefix("tokens_per_s") for one in measured for name in one.figures
                    if name.startswith("tokens_per_s")}, key=lambda tail: (len(tail), tail))  # fmt: skip
    tails = [tail for tail in tails if tail] or tails
    body: list[list[page.Content]] = []
    for one in measured:
        for tail in tails:
            pace, first = one.figures.get(f"tokens_per_s{tail}"), one.figures.get(f"first_token_ms{tail}_p50")
            if pace is None and first is None:
                continue
            at_once = tail.removeprefix("_at_") or "1"
            said = None if pace is None else f"{pace:,.0f}"
            body.append([one.model, at_once, said, None if first is None else f"{first:,.1f}"])
    return page.table(["model", "at once", "tokens/s, all together", "first token, ms"], body)
