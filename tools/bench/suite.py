"""The suite `standard` on three tiny local models and on one behind the fake that answers by a script.

The scores of the scripted model have to be the script's, item by item, and in sum; a second run with the same seed has
to score every item of every model as the first did. Controls in the same run: a script in which one answer is another,
and an item that is scored in one run alone, must be told from it. `--keep DIR` keeps the report, as a page
and a picture.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.benchmarker.edge import shipped_suites
from understudy.actors.benchmarker.suite import Suite, build, cut, read
from understudy.bus.client import Client
from understudy.messages.benchmarks import BenchmarkMeasured, BenchmarkScored, BenchmarkState, RunBenchmark
from understudy.messages.topology import Topology
from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.stage import fake_provider, machine, running, topology_on
from understudy.tools.bench.suite_script import expected_u, fault
from understudy.tools.benchmark_report import table
from understudy.tools.benchmark_run import follow

SCRIPTED = "scripted@1"
LOCAL = ("demo/story-lead", "demo/story-second", "tiny/mistral")
QUICK_ITEMS = 14
Scores = dict[str, dict[str, BenchmarkScored]]
"""By model, by item."""


def suite_of(name: str, items: int | None = None) -> Suite:
    """A shipped suite, or so many items of it, as the benchmarker takes them."""
    files = {one: read(text, one) for one, text in shipped_suites().items()}
    whole = build(files[name], files)
    return whole if items is None else cut(whole, items)


def topology(url: str, third: Path) -> Topology:
    """Three local models, none slowed down, and the scripted one."""
    local = {"provider": "local", "context_tokens": 512, "slots": 4, "dtype": "float32"}
    models: dict[str, dict[str, Any]] = {
        LOCAL[0]: {**local, "path": str(Path("tools/tiny/demo/lead").resolve())},
        LOCAL[1]: {**local, "path": str(Path("tools/tiny/demo/second").resolve())},
        LOCAL[2]: {**local, "path": str(third)},
        SCRIPTED: {"slots": 16, "capabilities": ["chat", "tools", "json"], "context_tokens": 8_192},
    }
    providers = {"fake": {"kind": "openai", "url": url}, "local": {"kind": "local"}}
    return topology_on(url, models, selectors=1, providers=providers)


async def operator(supervisor: Any) -> Client:
    """Only the operator may order a benchmark, and read the whole log."""
    return await Client.connect(supervisor.url, user="operator", password=supervisor.operator_password)


async def scores_of(client: Client, bench_id: str) -> tuple[Scores, int]:
    """What the log has of a benchmark, and how many items it has more than once."""
    found, twice = Scores(), 0
    async for change in client.events():
        event = change.event
        if isinstance(event, BenchmarkScored) and event.bench_id == bench_id:
            items = found.setdefault(event.model, {})
            twice += event.item in items
            items[event.item] = event
    return found, twice


def differ(expected: Mapping[str, int], found: Mapping[str, BenchmarkScored]) -> list[str]:
    """Items whose score is another than the script's, or that are missing."""
    right = {item for item, one in found.items() if one.outcome == "scored" and one.score_u == expected.get(item)}
    wrong = [item for item in expected if item not in right]
    return wrong + [item for item in found if item not in expected]


def changed(before: Scores, after: Scores) -> int:
    """Items that a second run scored otherwise, over all models."""
    count = 0
    for model in {*before, *after}:
        one, other = before.get(model, {}), after.get(model, {})
        for item in {*one, *other}:
            pair = [(x.outcome, x.score_u, x.figures if "at_once" not in x.figures else {}) for x in
                    (of[item] for of in (one, other) if item in of)]  # fmt: skip
            count += len(pair) != 2 or pair[0] != pair[1]
    return count


def sums_differ(measured: BenchmarkMeasured, expected: Mapping[str, int]) -> bool:
    """Is the sum over all tasks another than the script's?"""
    return sum(task.score_u for task in measured.tasks) != sum(expected.values())


async def measure(quick: bool = False, keep_in: str = "") -> Result:
    """Twice the suite, and the controls. `quick`: few items and one local model, for tests."""
    from understudy.tools.tiny.make import random_model

    items, local = (QUICK_ITEMS, LOCAL[:1]) if quick else (None, LOCAL)
    suite = suite_of("standard", items)
    expected = expected_u(suite.questions)
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        third = random_model("mistral", 11, Path(folder) / "third")
        path = Path(folder) / "faults.json"
        path.write_bytes(msgspec.json.encode({"scripted": fault(suite.questions)}))
        async with fake_provider(faults=path) as (url, _), running(topology(url, third)) as supervisor:
            client = await operator(supervisor)
            try:
                ask = RunBenchmark(models=(*local, SCRIPTED), suite="standard", seed=5, max_items=items)
                began = time.monotonic()
                first = await follow(client, ask, lambda _: None)
                took_s = time.monotonic() - began
                again = await follow(client, ask, lambda _: None)
                found, twice = await scores_of(client, first.bench_id)
                second, _ = await scores_of(client, again.bench_id)
            finally:
                await client.close()
    if keep_in:
        _keep(first, Path(keep_in))
    planted = {**expected, suite.questions[-1].id: 333_333}
    moved = {**second, LOCAL[0]: {**second[LOCAL[0]], "planted": found[LOCAL[0]][suite.questions[0].id]}}
    missed = (len(differ(planted, found[SCRIPTED])) != len(differ(expected, found[SCRIPTED])) + 1) + (
        changed(found, moved) != changed(found, second) + 1
    )
    scripted = next(one for one in first.measured if one.model == SCRIPTED)
    detail = {
        "items": len(suite.questions),
        "suite_hash": first.suite_hash,
        "seconds_first_run": round(took_s, 1),
        "report": table(first.measured),
        "wrong": differ(expected, found[SCRIPTED])[:20],
        "twice": twice,
        **machine(),
    }
    bars = (
        bar("script_mismatches", len(differ(expected, found[SCRIPTED])), "items", 0),
        bar("sums_mismatched", sums_differ(scripted, expected), "models", 0),
        bar("rerun_mismatches", changed(found, second), "items", 0),
        bar("scored_twice", twice, "items", 0),
        bar("controls_missed", missed, "controls", 0),
    )
    return Result(bench="suite", bars=bars, detail=detail)


def _keep(state: BenchmarkState, folder: Path) -> None:
    from understudy.tools import benchmark_page

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.html").write_text(benchmark_page.html(state), encoding="utf-8")
    (folder / "benchmark.png").write_bytes(benchmark_page.picture(state).png())
    (folder / "benchmark.json").write_bytes(msgspec.json.encode(state))


def explain(result: Result) -> str:
    """The report itself."""
    return "\n".join([*result.detail["report"], ""])
