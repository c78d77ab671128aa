"""Kills, stops and cut connections under load: does every request get its one end, with exact text?

Round `http`: real processes as `understudy up` starts them; a seeded schedule kills -9 runners, selectors, the health
tracker and nats-server, and stops one of each with SIGSTOP. Round `local`: the same with local transformers processes.
Round `toxic`: latency, cut and half-open connections by toxiproxy. After each round a replay in a fresh process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from understudy.bus.server import NatsServer
from understudy.tools.bench.chaos import picture, toxics
from understudy.tools.bench.chaos.judge import Verdict, judge, keep
from understudy.tools.bench.chaos.load import Load, progress
from understudy.tools.bench.chaos.stage import KINDS, Up, http_topology, local_topology
from understudy.tools.bench.chaos.strikes import Strike, Striker, schedule
from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.stage import fake_provider
from understudy.tools.fake.script import Message, script

ROUNDS = ("http", "local", "toxic")


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much of it. The defaults are what the bars are for; a smoke test takes less."""

    requests: int = 300
    in_flight: int = 20
    plain: int = 4
    deadline_s: float = 60.0
    kills: int = 3  # of each kind
    stops: int = 1  # of each kind
    stop_s: float = 10.0
    min_streams: int = 10
    tokens: int = 120
    gap_ms: int = 50


class Round(msgspec.Struct, kw_only=True):
    """One round: figures, strikes, picture; or why it was skipped."""

    name: str
    skipped: str = ""
    verdict: Verdict | None = None
    strikes: list[Strike] = []
    picture: str = ""


async def measure(
    seed: int = 1, rounds: Sequence[str] | None = None, size: Size | None = None, keep_in: str = ""
) -> Result:
    """The rounds one after another. `keep_in`: a folder for logs, stores and everything that was heard."""
    size = size or Size()
    found: list[Round] = []
    for name in rounds or ROUNDS:
        progress(f"round {name}, seed {seed}")
        with _folder(keep_in, name) as folder:
            play = {"http": _http, "local": _local, "toxic": _toxic}[name]
            found.append(await play(folder, seed, size))
        if found[-1].skipped:
            progress(f"  skipped: {found[-1].skipped}")
    return _result(found, size, seed)


@contextlib.contextmanager
def _folder(keep_in: str, name: str) -> Any:
    if keep_in:
        parent = Path(keep_in).resolve()
        folder = next(f for n in itertools.count(1) if not (f := parent / f"{name}-{n}").exists())
        folder.mkdir(parents=True)  # of this run alone: a store that is left over would be replayed with it
        progress(f"  kept in {folder}")
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="understudy-chaos-") as made:
        yield Path(made)


# --- rounds --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _drip(folder: Path, size: Size) -> AsyncGenerator[str, None]:
    """The fake provider with a model that speaks for some seconds."""
    faults = folder / "faults.json"
    record = {"first_token_delay_ms": 200, "gap_ms": size.gap_ms, "chunks": size.tokens}
    faults.write_text(json.dumps({"drip": record}))
    async with fake_provider(faults=faults) as (url, _):
        yield url


def _scripted(size: Size) -> Callable[[int], tuple[str, str]]:
    def prompt(n: int) -> tuple[str, str]:
        words = f"Tell me story number {n}."
        return words, "".join(script([Message("user", words)], size.tokens))

    return prompt


async def _http(folder: Path, seed: int, size: Size) -> Round:
    async with _drip(folder, size) as provider:
        up = Up(http_topology(provider), folder)
        return await _killing("http", up, _scripted(size), seed, size)


async def _local(folder: Path, seed: int, size: Size) -> Round:
    try:
        from understudy.tools.bench.chaos.twins import twins
    except ImportError as error:
        return Round(name="local", skipped=f"local models need the extra `local`: {error}")
    weights, prompts = await asyncio.to_thread(twins)
    rng = random.Random(seed)
    chosen = [rng.choice(prompts) for _ in range(4096)]
    up = Up(local_topology(weights, 1000 / size.gap_ms), folder)
    return await _killing("local", up, lambda n: chosen[n % len(chosen)], seed, size)


async def _killing(name: str, up: Up, prompts: Callable[[int], tuple[str, str]], seed: int, size: Size) -> Round:
    try:
        await up.start()
        load = Load(up.url, prompts, 3, size.deadline_s)
        await load.observe(up.url, up.operator)
        strikes = schedule(seed, size.kills, size.stops)
        striker = Striker(up, load, size.min_streams, size.stop_s, strikes)
        await _under_load(load, striker.run(), size)
        return await _judged(name, load, up, up.url, strikes, seed)
    finally:
        await up.stop()


async def _toxic(folder: Path, seed: int, size: Size) -> Round:
    program = toxics.binary()
    if program is None:
        return Round(name="toxic", skipped=f"no toxiproxy: set TOXIPROXY or put it at {toxics.BESIDE}")
    server = NatsServer(folder / "nats")
    server.start()
    try:
        async with _drip(folder, size) as provider, toxics.proxied(program, server.port) as proxy:
            up = Up(http_topology(provider), folder, url=proxy.url("actors"))
            try:
                await up.start()
                load = Load(proxy.url("clients"), _scripted(size), 3, size.deadline_s)
                await load.observe(server.url, {})
                strikes = _toxic_schedule(seed, size)
                await _under_load(load, proxy.run(load, strikes, size.min_streams, size.stop_s), size)
                return await _judged("toxic", load, up, server.url, strikes, seed)
            finally:
                await up.stop()
    finally:
        server.stop()


def _toxic_schedule(seed: int, size: Size) -> list[Strike]:
    rng = random.Random(seed)
    words = [("cut", side) for side in toxics.SIDES for _ in range(size.kills)]
    words += [(word, side) for word in ("latency", "half-open") for side in toxics.SIDES for _ in range(size.stops)]
    rng.shuffle(words)
    return [Strike(word, side, round(rng.uniform(0.5, 2.5), 2), rng.random()) for word, side in words]


async def _under_load(load: Load, striking: Any, size: Size) -> None:
    """The load goes on until the last strike is over and everybody has an end."""
    running = asyncio.create_task(load.run(size.requests, size.in_flight, size.plain))
    telling = asyncio.create_task(_tell(load))
    try:
        await striking
    finally:
        load.go_on = False
        await running
        telling.cancel()


async def _tell(load: Load) -> None:
    while True:
        await asyncio.sleep(10)
        done = [one for one in load.asked if one.outcome]
        odd = sum(not one.exact for one in done if one.arm == "ours")
        progress(f"  {load.now():6.1f} s  {len(load.asked)} asked, {len(done)} ended, {odd} of ours not as they should")


async def _judged(name: str, load: Load, up: Up, direct_url: str, strikes: list[Strike], seed: int) -> Round:
    verdict = await judge(load, up, direct_url, seed)
    await load.close()
    keep(load, up.folder)
    return Round(name=name, verdict=verdict, strikes=strikes, picture=picture.draw(load, strikes))


# --- result --------------------------------------------------------------------------------------------------------


def explain(result: Result) -> str:
    """The rounds as pictures, and what callers with plain nats-py lost."""
    lines: list[str] = []
    for one in result.detail["rounds"]:
        lines += [f"round {one['name']}: {one['skipped'] or ''}", one["picture"]]
        if one["verdict"] is not None:
            lines += [f"{arm:>14} {losses}" for arm, losses in one["verdict"]["plain"].items()]
    return "\n".join(lines)


def _result(found: list[Round], size: Size, seed: int) -> Result:
    """The worst round counts."""
    verdicts = [one.verdict for one in found if one.verdict is not None]
    asked = sum(v.requests for v in verdicts)
    hits = [_hits(one, size) for one in found if one.verdict is not None]
    ratio = min((v.finished_exact / max(1, v.requests) for v in verdicts), default=0.0)
    bars = (
        bar("unended", sum(v.unended for v in verdicts), "requests", 0),
        bar("ended_twice", sum(v.ended_twice for v in verdicts), "runs", 0),
        bar("wrong_text", sum(v.wrong_text for v in verdicts), "answers", 0),
        bar("finished_ratio", ratio, "ratio", 0.99, 1.0, "higher"),
        bar("outcomes_lost", sum(v.outcomes_lost for v in verdicts), "runs", 0),
        bar("outcomes_doubled", sum(v.outcomes_doubled for v in verdicts), "runs", 0),
        bar("decisions_differ", sum(v.decisions_differ for v in verdicts), "decisions", 0),
        bar("flips_missed", sum(not v.flip_found for v in verdicts), "flips", 0),
        bar("kills", min((h[0] for h in hits), default=0), "per kind", size.kills, None, "higher"),
        bar("stops", min((h[1] for h in hits), default=0), "per kind", size.stops, None, "higher"),
        bar("requests", asked, "requests", size.requests * len(verdicts), None, "higher"),
    )
    detail = {"seed": seed, "size": size, "load": os.getloadavg(), "rounds": found}
    return Result(bench="chaos", bars=bars, detail=msgspec.to_builtins(detail))


def _hits(one: Round, size: Size) -> tuple[int, int]:
    """The fewest strikes of a kind that fell while enough streams were mid-text: those that end, those that last."""
    valid = [s for s in one.strikes if s.mid_text >= size.min_streams and s.back]
    kinds = KINDS if one.name != "toxic" else toxics.SIDES
    ending = [sum(s.kind == kind and s.word in ("kill", "cut") for s in valid) for kind in kinds]
    lasting = [
        sum(s.kind == kind and s.word == word for s in valid)
        for kind in kinds
        for word in (("stop",) if one.name != "toxic" else ("latency", "half-open"))
    ]
    return min(ending), min(lasting)
