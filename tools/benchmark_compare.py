"""Models side by side over a window: each figure with its 95 % interval, thresholds marked, significance in words.

understudy benchmark compare                                # every model with outcomes in the last 7 days
understudy benchmark compare --task narrative --window 30d  # one task
understudy benchmark compare --models a/one,b/two --json
understudy benchmark compare --html models.html --png models.png

Marks: ok, FAILS, or ? where the interval holds the threshold, so that more calls are needed to say. Response times are
those of whole answers that ended well; the threshold is for 95 of 100. How each interval is made stands in `methods` of
`--json`.
"""

from __future__ import annotations

import argparse
from collections import Counter

from understudy.bus.client import Client
from understudy.messages.comparison import CompareModels, Comparison, Measure, ModelFigures, Pair
from understudy.tools.benchmark_parts import add_window, stamp, window_of
from understudy.tools.benchmark_pictures import MARKS, add_files, comparison_chart, comparison_page, write
from understudy.tools.common import add_connection, show, with_client

SENTENCES = 8
"""So many sentences are printed of each figure; `--json` has all pairs."""


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_connection(parser)
    add_window(parser, "7d")
    add_files(parser)
    parser.add_argument("--models", default="", metavar="ID,ID", help="only these (default: all that have outcomes)")


def run(args: argparse.Namespace) -> int:
    """Ask and print."""

    async def job(client: Client) -> int:
        models = tuple(one for one in args.models.split(",") if one)
        ask = CompareModels(task=args.task, models=models, window_ms=window_of(args))
        found = await client.ask("benchmark.compare", ask, Comparison, timeout_s=30)
        if args.json:
            show(found)
        else:
            print(*table(found), sep="\n")
        return write(
            args, lambda: comparison_chart(found), lambda svg: comparison_page(found, sentences(found.pairs), svg)
        )

    return with_client(args, job, operator=True)


def table(found: Comparison) -> list[str]:
    """For people."""
    what = found.task or "all tasks"
    lines = [f"{what}, {stamp(found.from_ms)} to {stamp(found.until_ms)} (UTC), 95 % intervals in brackets"]
    if not found.models:
        return [*lines, "Nothing was asked in this window: try a longer one with --window 30d."]
    width = max(5, *(len(one.model) for one in found.models))
    lines.append(
        f"{'model':{width}}  {'calls':>8}  {'errors %':>24}  {'mean ms':>26}  {'p50 ms':>8}  "
        f"{'p95 ms':>28}  {'quality':>24}  {'$/call':>9}  drift"
    )
    lines += [_row(one, width) for one in found.models]
    t = found.thresholds
    lines.append(
        f"thresholds: errors at most {100 * t.max_error_ratio:g} %, p95 at most {t.max_response_ms:,} ms, "
        f"quality at least {t.min_quality:g}; ? = more calls are needed to say"
    )
    return [*lines, "", *sentences(found.pairs)]


def _row(one: ModelFigures, width: int) -> str:
    mark = {name: MARKS[word] for name, word in one.verdicts.items()}
    errors = _cell(one.error_ratio, 100, 1, mark.get("max_error_ratio", ""))
    p95 = _cell(one.p95_ms, 1, 0, mark.get("max_response_ms", ""))
    p50 = f"{one.p50_ms.value:,.0f}" if one.p50_ms is not None else "-"
    quality = _cell(one.score, 1, 2, mark.get("min_quality", ""))
    line = f"{one.model:{width}}  {one.attempts:>8}  {errors:>24}  {_cell(one.latency_ms, 1, 0, ''):>26}  {p50:>8}  "
    return f"{line}{p95:>28}  {quality:>24}  {one.usd_per_call:>9.6f}  {', '.join(one.drifted) or '-'}".rstrip()


def _cell(one: Measure | None, scale: float, digits: int, mark: str) -> str:
    """`1.20 [0.90, 1.60] ok`"""
    if one is None:
        return "-"
    text = f"{scale * one.value:,.{digits}f}"
    if one.low is not None and one.high is not None:
        text += f" [{scale * one.low:,.{digits}f}, {scale * one.high:,.{digits}f}]"
    return f"{text} {mark}".strip()


def sentences(pairs: tuple[Pair, ...]) -> list[str]:
    """The best model of each figure beside the others, in words; how many pairs there are beside these."""
    lines = list[str]()
    for figure in dict.fromkeys(pair.figure for pair in pairs):
        of = [pair for pair in pairs if pair.figure == figure]
        best = Counter(pair.better for pair in of).most_common(1)[0][0]
        lines += [pair.words for pair in of if pair.better == best][:SENTENCES]
    rest = len(pairs) - len(lines)
    return [*lines, f"{rest} more pairs: see --json"] if rest else lines
