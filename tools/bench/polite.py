"""What people notice of a benchmark that runs beside them: the 99th percentile of their requests with and without it.

Seven rounds, each off, on, off: 2,000 interactive requests of four callers, on a model that the suite is run on too. On
over the mean of both offs is the figure, the second off over the first its control; of each the median of all rounds
counts. The suite is cancelled after each round and gone on with in the next. At the end somebody asks the same items
without any manners: a measurement that did not see that would see nothing, and `p99_ratio` is then 99.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from understudy.bus.client import Client, turns
from understudy.messages.benchmarks import BenchmarkProgress, BenchmarkState, CancelBenchmark, RunBenchmark
from understudy.messages.generate import Finished, Generate
from understudy.messages.topology import Topology
from understudy.messages.wire import decode, encode
from understudy.tools.bench.report import Result, bar, median, quantile
from understudy.tools.bench.stage import fake_provider, machine, running, topology_on
from understudy.tools.bench.suite import operator
from understudy.tools.benchmark_run import follow

MODEL = "steady@1"
FAULTS = {"steady": {"first_token_delay_ms": 30, "chunks": 8}}
ROUNDS, REQUESTS, CALLERS = 7, 2_000, 4
QUICK_ROUNDS, QUICK_REQUESTS = 1, 300
RUDE_CALLERS = 24
LEAST_ITEMS = 100
UNSEEN = 99.0


def topology(url: str) -> Topology:
    """One model with room for many; the benchmarker as it is shipped."""
    return topology_on(url, {MODEL: {"slots": 64, "context_tokens": 8_192}})


_count = itertools.count()


async def _ask(client: Client, **fields: Any) -> float:
    """One whole answer: milliseconds."""
    body = Generate(messages=turns(f"Number {next(_count)}."), model=MODEL, max_tokens=8, **fields)
    began = time.perf_counter()
    received = await client.bus.request(f"{client.app}.ask.model.generate", encode(body), timeout_s=65)
    took = (time.perf_counter() - began) * 1000
    answer = decode(received.payload)
    if not isinstance(answer, Finished):
        raise RuntimeError(f"an interactive request failed: {answer}")
    return took


async def people(client: Client, requests: int) -> list[float]:
    """So many requests of four callers, each asking again when answered."""
    left, found = iter(range(requests)), list[float]()

    async def caller() -> None:
        for _ in left:
            found.append(await _ask(client))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return found


class SuiteBeside:
    """The suite, run while wanted. `done`: items that were scored while people asked."""

    def __init__(self, client: Client) -> None:
        self._client, self._bench_id = client, ""
        self.done, self._now = 0, 0

    def _hear(self, said: BenchmarkProgress) -> None:
        self._bench_id, self._now = said.bench_id, said.done

    async def run(self, wanted: asyncio.Task[list[float]]) -> None:
        """Until people have had their answers; a suite that ends before is begun anew."""
        while not wanted.done():
            ask = RunBenchmark(resume=self._bench_id) if self._bench_id else RunBenchmark(models=(MODEL,))
            begun_at = self._now if self._bench_id else 0
            following = asyncio.create_task(follow(self._client, ask, self._hear))
            await asyncio.wait([following, wanted], return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                cancel = CancelBenchmark(bench_id=self._bench_id)
                await self._client.ask("benchmark.cancel", cancel, BenchmarkState)
            state = await following
            self._now = sum(state.done.values())
            self.done += self._now - begun_at
            if state.state == "finished":
                self._bench_id, self._now = "", 0


async def _with_suite(people_: Client, suite: SuiteBeside, requests: int) -> list[float]:
    asking = asyncio.create_task(people(people_, requests))
    await suite.run(asking)
    return await asking


async def _rude(client: Client, requests: int) -> list[float]:
    """The control: as urgent as people, all at once, and without a pause."""
    asking = asyncio.create_task(people(client, requests))

    async def caller() -> None:
        while not asking.done():
            await _ask(client, labels=("benchmark",))

    await asyncio.gather(*(caller() for _ in range(RUDE_CALLERS)))
    return await asking


def p99(took: list[float]) -> float:
    """Milliseconds."""
    return quantile(took, 0.99)


async def measure(quick: bool = False) -> Result:
    """All rounds, then the control. `quick`: one short round, to see that it works; not to quote."""
    rounds, requests = (QUICK_ROUNDS, QUICK_REQUESTS) if quick else (ROUNDS, REQUESTS)
    on, offs, found = list[float](), list[float](), list[dict[str, float]]()
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        path = Path(folder) / "faults.json"
        path.write_bytes(msgspec.json.encode(FAULTS))
        async with fake_provider(faults=path) as (url, _), running(topology(url)) as supervisor:
            orders = await operator(supervisor)
            async with await Client.connect(supervisor.url) as client:
                suite = SuiteBeside(orders)
                await people(client, requests // 4)
                for _ in range(rounds):
                    first = p99(await people(client, requests))
                    beside = p99(await _with_suite(client, suite, requests))
                    second = p99(await people(client, requests))
                    on.append(2 * beside / (first + second))
                    offs.append(second / first)
                    found.append({"off_ms": first, "on_ms": beside, "off_again_ms": second})
                rude = p99(await _rude(client, requests)) / median([one["off_again_ms"] for one in found])
            await orders.close()
    ratio = median(on) if rude > 1.1 else UNSEEN
    detail = {"rounds": found, "rude_ratio": round(rude, 3), "ratios": [round(one, 3) for one in on], **machine()}
    bars = (
        bar("p99_ratio", ratio, "ratio", 1.1),
        bar("control_ratio", median(offs), "ratio", 1.1),
        bar("suite_items_done", suite.done, "items", None if quick else LEAST_ITEMS, better="higher"),
    )
    return Result(bench="polite", bars=bars, detail=detail)
