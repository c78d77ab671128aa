"""Run a suite of questions on models, and see what each is good at.

understudy benchmark run demo/story-lead demo/story-second                 # the suite `standard`, some of each kind
understudy benchmark run lab/tale --suite mathematics --seed 7
understudy benchmark run lab/tale --suite ./mine.jsonl --max-items 20      # a suite of your own, a path with a slash
understudy benchmark run MODEL... --html report.html --png report.png
understudy benchmark run --resume ID                                       # go on with one that was cancelled

Suites: speed, questions, mathematics, json, tools, narrative, therapeutic, and standard, which is some of each.
Progress goes to standard error. Ctrl-C cancels the benchmark in order, and its id goes on with it; a second one leaves
it running. Nothing is asked of a model with a price without --allow-cost, of one elsewhere without a consent, and of a
model of this machine while anybody else uses it. Only the operator may order one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import BusError, Received
from understudy.bus.subjects import ACTOR_INBOX
from understudy.messages.benchmarks import (
    BenchmarkDone,
    BenchmarkProgress,
    BenchmarkState,
    CancelBenchmark,
    RunBenchmark,
)
from understudy.messages.generate import Failed
from understudy.messages.wire import WireError, decode, encode, made_of
from understudy.tools.benchmark_report import table
from understudy.tools.common import add_connection, complain, show, with_client

QUIET_S = 15.0
"""Progress comes every second: who says nothing for so long does not work on it, or is being restarted."""
PATIENCE = 4
"""So often it is asked again who works on it."""


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="ids or aliases, run one after the other")
    parser.add_argument("--suite", default="standard", help="a name, or the path of a file (default: standard)")
    parser.add_argument("--seed", type=int, default=0, help="of the models' sampling (default: 0)")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="items at the same time (default: 1)")
    parser.add_argument("--max-items", type=int, metavar="N", help="only so many, evenly spread")
    parser.add_argument(
        "--judge", metavar="MODEL", help="a model that judges the items which ask for it; marked as such"
    )
    parser.add_argument("--allow-cost", action="store_true", help="models with a price too")
    parser.add_argument("--resume", metavar="ID", help="go on with one that was cancelled, or watch one that runs")
    add_outputs(parser)
    add_connection(parser)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """`--html` and `--png`."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page (needs the extra `analysis`)")
    parser.add_argument("--png", type=Path, metavar="FILE", help="also write a picture (needs the extra `analysis`)")


def run(args: argparse.Namespace) -> int:
    """Order, follow, print: exit code 0 once all is measured."""
    fields = {"models": args.models, "suite": _source(args.suite), "seed": args.seed, "at_once": args.at_once}
    fields |= {"allow_cost": args.allow_cost, "max_items": args.max_items, "judge": args.judge, "resume": args.resume}
    try:
        ask = made_of(RunBenchmark, fields)
    except WireError as error:
        return complain("invalid", f"{error.path}: {error.text}", args)
    bar = Bar(shown=sys.stderr.isatty() and not args.json)

    async def job(client: Client) -> int:
        state = await follow(client, ask, bar.show, interrupts=True)
        bar.end()
        return written(state, args) or (0 if is_whole(state) else 1)

    try:
        return with_client(args, job, operator=True)
    finally:
        bar.end()


def _source(suite: str) -> str:
    """A path is said whole: the benchmarker runs elsewhere."""
    return str(Path(suite).resolve()) if "/" in suite or suite.endswith(".jsonl") else suite


def written(state: BenchmarkState, args: argparse.Namespace) -> int:
    """Everything that was asked for; exit code 1 where a file could not be written."""
    if args.html is not None or args.png is not None:
        try:
            from understudy.tools import benchmark_page

            if args.html is not None:
                args.html.write_text(benchmark_page.html(state), encoding="utf-8")
            if args.png is not None:
                args.png.write_bytes(benchmark_page.picture(state).png())
        except ImportError:
            return complain("no_matplotlib", "pictures need matplotlib: pip install 'understudy[analysis]'", args)
        except OSError as error:
            return complain("not_written", f"{error.filename}: {error.strerror}", args)
    if args.json:
        show(state)
    else:
        print(f"benchmark {state.bench_id}: {state.suite}, {state.items} items, {state.state} {state.reason}".rstrip())
        print(*table(state.measured), sep="\n")
    return 0


def is_whole(state: BenchmarkState) -> bool:
    """Was every item asked of every model?"""
    return state.state == "finished" and all(one.complete for one in state.measured)


async def follow(
    client: Client, ask: RunBenchmark, tell: Callable[[BenchmarkProgress], None], interrupts: bool = False
) -> BenchmarkState:
    """Order a benchmark and follow it to its end. Raises AnswerFailed, BusError.

    `interrupts`: Ctrl-C cancels it, in order. A benchmarker that is restarted meanwhile goes on with it, and so do we.
    """
    queue: asyncio.Queue[Received] = asyncio.Queue()
    inbox = f"{ACTOR_INBOX}.operator.{uuid.uuid4().hex}"
    sub = await client.bus.subscribe(inbox, queue.put_nowait)
    bench_id, quiet = ask.resume or "", 0
    stopping = _Stop(client) if interrupts else None
    try:
        await client.bus.publish(f"{client.app}.ask.benchmark.run", encode(ask), reply=inbox)
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    received = await queue.get()
            except TimeoutError:
                received = None
            if received is None or received.no_responders:
                quiet += 1
                if not bench_id or quiet > PATIENCE:
                    raise AnswerFailed(_nobody()) from None
                await asyncio.sleep(0.5 if received is not None else 0)
                again = RunBenchmark(resume=bench_id)
                await client.bus.publish(f"{client.app}.ask.benchmark.run", encode(again), reply=inbox)
                continue
            match decode(received.payload):
                case BenchmarkProgress() as said:
                    bench_id, quiet = said.bench_id, 0
                    if stopping is not None:
                        stopping.bench_id = bench_id
                    tell(said)
                case BenchmarkDone(state=state):
                    return state
                case Failed() as failed:
                    raise AnswerFailed(failed)
                case other:
                    text = f"`benchmark.run` was answered with {type(other).__name__}"
                    raise AnswerFailed(Failed(code="internal", text=text))
    finally:
        if stopping is not None:
            stopping.close()
        with contextlib.suppress(BusError):
            await sub.stop()


def _nobody() -> Failed:
    text = "Nobody answers `benchmark.run`. Does `understudy up` run, and is this its state folder (--state)?"
    return Failed(code="bus_down", text=text)


class _Stop:
    """Ctrl-C orders the end; a second one ends this command alone."""

    def __init__(self, client: Client) -> None:
        self.bench_id, self._client = "", client
        self._task: asyncio.Task[None] | None = None
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)

    def _interrupt(self) -> None:
        if self._task is not None or not self.bench_id:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            return
        print("\ncancelling; Ctrl-C again leaves it running", file=sys.stderr)
        self._task = asyncio.create_task(self._cancel())

    async def _cancel(self) -> None:
        with contextlib.suppress(BusError, AnswerFailed):
            await self._client.ask("benchmark.cancel", CancelBenchmark(bench_id=self.bench_id), BenchmarkState)

    def close(self) -> None:
        """Ctrl-C means what it did before."""
        with contextlib.suppress(ValueError, RuntimeError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


WAITS = {
    "": "", "busy": "  waits: others use it", "pace": "  slowly: others are at work", "answer": "",
    "suite": "  reads the suite", "turn": "  waits for its turn",
}  # fmt: skip


class Bar:
    """Progress for people: one line of standard error that is rewritten."""

    def __init__(self, shown: bool) -> None:
        self._shown, self._open, self._model = shown, False, ""

    def show(self, said: BenchmarkProgress) -> None:
        """Where it is."""
        if self._shown:
            self._open = True
            print(f"\r\x1b[K{line_of(said)}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The next word begins a line."""
        if self._open:
            print(file=sys.stderr)
        self._open = False


def line_of(said: BenchmarkProgress) -> str:
    """A bar of twenty, the counts, the score so far."""
    full = 20 * said.done // max(1, said.items)
    score = f", score {said.score_u / said.scored / 1e6:.2f}" if said.scored else ""
    failed = f", {said.failed} failed" if said.failed else ""
    which = f" ({said.nth_model} of {said.models})" if said.models > 1 else ""
    bar = f"[{'#' * full}{'.' * (20 - full)}]"
    return f"{bar} {said.model}{which}: {said.done} of {said.items}{score}{failed}{WAITS.get(said.waits, '')}"
