"""Benchmarks in a running system: from the command to the log, across a kill, and with the actor's own rights only."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from understudy.bus.client import Client
from understudy.messages.benchmarks import BenchmarkProgress, BenchmarkState, CancelBenchmark, RunBenchmark
from understudy.tools.bench import suite as bench
from understudy.tools.bench.stage import fake_provider, pids, running, topology_on
from understudy.tools.bench.suite_script import expected_u, fault
from understudy.tools.benchmark_run import follow

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
ITEMS = 40


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Any, Client, Path]]:
    """A running system with the scripted model, its state folder, and the operator's connection."""
    folder = tmp_path_factory.mktemp("benchmarks")
    questions = bench.suite_of("standard", ITEMS).questions
    (folder / "faults.json").write_bytes(msgspec.json.encode({"scripted": {**fault(questions), "gap_ms": 0}}))
    async with fake_provider(faults=folder / "faults.json") as (url, _):
        facts = {"slots": 16, "capabilities": ["chat", "tools", "json"], "context_tokens": 8_192}
        topology = topology_on(url, {bench.SCRIPTED: facts, "drop@1": {"slots": 8}}, selectors=1)
        async with running(topology, folder / "state") as supervisor:
            client = await bench.operator(supervisor)
            yield supervisor, client, folder / "state"
            await client.close()


async def test_scores_are_the_scripts_also_when_the_benchmarker_is_killed(house: tuple[Any, Client, Path]) -> None:
    supervisor, client, _ = house
    expected = expected_u(bench.suite_of("standard", ITEMS).questions)
    killed = list[int]()

    def on_progress(said: BenchmarkProgress) -> None:
        if said.done >= 10 and not killed:
            killed.extend(pids(supervisor, "benchmarker"))
            os.kill(killed[0], signal.SIGKILL)

    ask = RunBenchmark(models=(bench.SCRIPTED,), max_items=ITEMS, seed=9)
    state = await follow(client, ask, on_progress)
    assert killed and pids(supervisor, "benchmarker") != killed
    found, twice = await bench.scores_of(client, state.bench_id)
    assert bench.differ(expected, found[bench.SCRIPTED]) == [] and twice == 0
    (measured,) = state.measured
    assert measured.complete and measured.rules == "interim" and measured.hardware["cores"] > 0
    assert sum(task.score_u for task in measured.tasks) == sum(expected.values())
    planted = {**expected, next(iter(expected)): 1}
    assert len(bench.differ(planted, found[bench.SCRIPTED])) == 1  # the judgement finds one that is wrong


async def test_a_cancelled_one_goes_on_where_it_was(house: tuple[Any, Client, Path]) -> None:
    _, client, _ = house
    orders = set[asyncio.Task[BenchmarkState]]()

    def on_progress(said: BenchmarkProgress) -> None:
        if said.done >= 3 and not orders:
            cancel = CancelBenchmark(bench_id=said.bench_id)
            orders.add(asyncio.create_task(client.ask("benchmark.cancel", cancel, BenchmarkState)))

    first = await follow(client, RunBenchmark(models=(bench.SCRIPTED,), max_items=ITEMS), on_progress)
    assert (first.state, first.reason) == ("cancelled", "ordered")
    (order,) = orders
    assert (await order).state == "cancelled"
    had = sum(first.done.values())
    assert 3 <= had < ITEMS
    again = await follow(client, RunBenchmark(resume=first.bench_id), lambda _: None)
    assert again.state == "finished" and again.bench_id == first.bench_id
    _, twice = await bench.scores_of(client, first.bench_id)
    assert twice == 0


async def test_the_command_runs_reports_and_refuses(house: tuple[Any, Client, Path], tmp_path: Path) -> None:
    _, _, state = house

    async def cli(*words: str) -> tuple[int, str, str]:
        code = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, "benchmark", *words, "--state", str(state),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode or 0, out.decode(), err.decode()

    page = tmp_path / "report.html"
    code, out, err = await cli("run", bench.SCRIPTED, "--max-items", "14", "--html", str(page), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [one["model"] for one in found["measured"]] == [bench.SCRIPTED]
    assert bench.SCRIPTED in page.read_text()
    code, out, _ = await cli("list")
    assert code == 0 and found["bench_id"] in out
    code, out, _ = await cli("show", "last")
    assert code == 0 and "tokens/s" in out and "interim rules" in out
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"suite":"mine","about":"a","source":"s","licence":"l","task":"t"}\n{"id":"x"}\n')
    code, _, err = await cli("run", bench.SCRIPTED, "--suite", str(mine))
    assert code == 1 and "line 2: Object missing required field `score`" in err
    code, _, err = await cli("show", "last", "--html", str(tmp_path / "no" / "page.html"))
    assert code == 1 and err.startswith("not_written: ")
    code, _, err = await cli("schedule", "--every", "24h", "--suites", "standrad")
    assert code == 1 and err.startswith("invalid: No suite 'standrad'; there are: ")
    code, _, err = await cli("run", "nobody/there")
    assert code == 1 and err.startswith("unknown_model: No model 'nobody/there'")
    code, out, _ = await cli("schedule", "--every", "24h")
    assert code == 0 and out.startswith("every 24 h, standard (by order)") and bench.SCRIPTED in out
    code, out, _ = await cli("schedule", "--off")
    assert code == 0 and out.startswith("never")


async def test_no_component_may_order_one(house: tuple[Any, Client, Path]) -> None:
    supervisor, _, _ = house
    async with await Client.connect(supervisor.url) as guest:
        inbox, heard = "_INBOX.guest.x", list[Any]()
        await guest.bus.subscribe(inbox, heard.append)
        body = msgspec.json.encode({"type": "benchmark.run.v1", "models": [bench.SCRIPTED]})
        await guest.bus.publish("tta.ask.benchmark.run", body, reply=inbox)
        await asyncio.sleep(0.5)
        assert heard == []
