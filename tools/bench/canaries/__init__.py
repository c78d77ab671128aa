"""Canaries: words, ids and keys that must stand nowhere, and the search that would find them.

`understudy up` runs with a vault against the fake. Callers put a canary into each field that takes words, the fake says
one wherever a provider says anything, keys and passphrase are canaries too. Then come the fake's faults, input that is
refused, kill -9 and crashes in mid-answer, and TTA's scenarios. Searched, while it runs and afterwards: every file of
the state folders, core dumps, what was printed, metrics, dead letters, new temporary files, the recorded bus; and every
process, for keys in its memory. `rules.py` says what may be where. In every kind of place and in every form a planted
canary must be found.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.tools.bench.canaries import laced, planted
from understudy.tools.bench.canaries.forms import Search, make
from understudy.tools.bench.canaries.house import House
from understudy.tools.bench.canaries.record import COMMANDS, QUICK, Recorder, compressed, metrics
from understudy.tools.bench.canaries.rules import Hit, allowed, is_key, rows
from understudy.tools.bench.canaries.rules import planted as is_planted
from understudy.tools.bench.canaries.sweep import Swept, sweep
from understudy.tools.bench.canaries.traffic import BREAKS, Canaries, Traffic, topology
from understudy.tools.bench.canaries.watch import Watch, now_s
from understudy.tools.bench.providers_cases import DIALECTS
from understudy.tools.bench.report import Bar, Result, bar
from understudy.tools.bench.scenarios import SCENARIOS
from understudy.tools.bench.scenarios.ground import Play
from understudy.tools.fake.lists import Trouble
from understudy.tools.fake.server import FakeProvider

QUICK_DIALECTS = ("openai", "openrouter")
QUICK_EVERY = 11
REQUESTS = 16
"""So many request ids are looked for as plain hashes."""
LISTS_S = 2.5


@dataclass(slots=True)
class Run:
    """What a run is made of, and what was found."""

    base: Path
    search: Search
    words: dict[str, str]
    canaries: Canaries
    passphrase: str
    dialects: tuple[str, ...]
    names: tuple[str, ...]
    quick: bool
    hits: set[Hit] = field(default_factory=set[Hit])
    searched: list[str] = field(default_factory=list[str])
    unread: list[str] = field(default_factory=list[str])
    detail: dict[str, Any] = field(default_factory=dict[str, Any])
    phases: dict[str, float] = field(default_factory=dict[str, float])
    began: float = field(default_factory=time.monotonic)

    def reached(self, phase: str) -> None:
        """A phase is over: how long it took, in seconds."""
        self.phases[phase] = round(time.monotonic() - self.began - sum(self.phases.values()), 1)

    def take(self, swept: Swept) -> None:
        """What a sweep has found."""
        self.hits |= swept.hits
        self.searched += swept.searched
        self.unread += swept.unread

    def printed(self, who: str, data: bytes) -> None:
        """Search what somebody said."""
        self.hits |= {Hit("output", who, canary, form) for canary, form in self.search.all(data)}


async def measure(quick: bool = False) -> Result:
    """The whole run. `quick`: two dialects, some faults, one kill and one crash; no scenarios. Raises RuntimeError."""
    if sys.platform != "linux":
        raise RuntimeError("bench canaries searches processes through /proc: it needs Linux")
    with tempfile.TemporaryDirectory(prefix="understudy-canaries-") as folder, _tmp(Path(folder)) as tmp:
        run = _prepare(Path(folder), quick)
        tmp.search = run.search
        async with _watched(run):
            if not quick:
                await _scenarios(run)
                run.reached("scenarios")
            with planted.in_tmp(run.words["planted-tmp"]):
                await _play(run)
                await asyncio.to_thread(tmp.read, run)
    run.reached("files once more")
    run.detail |= {"phases_s": run.phases, "seconds": round(time.monotonic() - run.began, 1)}
    return _result(run)


def _prepare(base: Path, quick: bool) -> Run:
    dialects = QUICK_DIALECTS if quick else DIALECTS
    places = [f"planted-{name}" for name in (*planted.PLACES, "form")]
    keys = [f"key-{dialect}" for dialect in dialects]
    core, words = make(("text", "id", "stored", "junk", "passphrase", *keys, *places))
    canaries = Canaries(
        text=words["text"],
        stored=words["stored"],
        junk=words["junk"],
        user=f"user-{words['id']}",
        conversation=f"conversation-{words['id']}",
        request=f"request-{words['id']}",
        keys={dialect: f"sk-{words[f'key-{dialect}']}-1" for dialect in dialects},
    )
    passphrase = f"five {words['passphrase']} words"
    ids = (canaries.user, canaries.conversation, *(f"{canaries.request}-{n}" for n in range(1, REQUESTS)))
    values: dict[str, tuple[str, ...]] = {
        "text": (words["text"],),
        "id": ids,
        "passphrase": (passphrase,),
        "planted-form": (words["planted-form"],),
        **{f"key-{dialect}": (key,) for dialect, key in canaries.keys.items()},
    }
    faults = tuple(sorted(laced.faults("", "")))
    names = tuple(name for name in faults if name not in ("drip", "able", "ok"))
    return Run(
        base=base,
        search=Search(core, words, values),
        words=words,
        canaries=canaries,
        passphrase=passphrase,
        dialects=dialects,
        names=(*(names[::QUICK_EVERY] if quick else names), "ok"),
        quick=quick,
    )


# --- what is played --------------------------------------------------------------------------------------------------


async def _scenarios(run: Run) -> None:
    """TTA's acceptance scenarios, with canaries in prompts and ids; their state folders stay to be searched."""
    fields = {"user_id": run.canaries.user, "conversation_id": run.canaries.conversation}
    for number, scenario in sorted(SCENARIOS.items()):
        play = Play(run.canaries.text, fields, run.base / f"scenario-{number}")
        run.detail[f"scenario_{number}"] = await scenario(play)


async def _play(run: Run) -> None:
    (folder := run.base / "house").mkdir()
    faults = laced.faults(run.canaries.text, run.canaries.stored)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # callers of the fake are killed in mid-answer
    async with FakeProvider(faults) as fake:
        fake.accepted = dict(run.canaries.keys)
        fake.lists.openrouter = laced.listed(run.canaries.text)
        house = House(folder, topology(fake.root, run.dialects, run.names), run.passphrase)
        for n, (dialect, key) in enumerate(run.canaries.keys.items()):
            root = ("--root", "passphrase") if n == 0 else ()
            await house.command("keys", "add", dialect, *root, key=key, secret=True)
        run.reached("vault")
        recorder = Recorder()
        async with house:
            run.reached("up")
            await recorder.begin(house)
            traffic = await Traffic.begin(house, run.canaries)
            await _live(run, house, fake, traffic)
            await _said(run, house)
            run.reached("commands")
            await _plant(run, house)
            run.reached("planted")
            await traffic.end()
            await recorder.end()
        run.reached("stop")
        run.detail |= {"said": dict(traffic.said), "messages": recorder.messages, "asked": len(fake.log)}
    for name, data in house.printed.items():
        run.printed(name, bytes(data))
    run.hits |= await asyncio.to_thread(recorder.hits, run.search)
    run.reached("output and bus")


async def _live(run: Run, house: House, fake: FakeProvider, traffic: Traffic) -> None:
    """Requests, refusals, faulty lists, kills, crashes, a rotated key."""
    await traffic.odd()
    run.reached("odd")
    await traffic.faults(run.dialects, run.names)
    run.reached("faults")
    fake.lists.openrouter = laced.listed_badly(run.canaries.text)
    await asyncio.sleep(LISTS_S)
    fake.lists.faults["openrouter"] = Trouble(status=500, body=run.canaries.text)
    if not run.quick:
        run.take(await asyncio.to_thread(sweep, house, run.search, {}))
    run.reached("sweep")
    runners = [f"runner-{dialect}" for dialect in run.dialects]
    for instance in runners[:1] if run.quick else [*BREAKS, *runners]:
        await traffic.struck(instance, signal.SIGKILL, run.dialects)
    for instance in ("selector-1",) if run.quick else ("selector-1", "runner-openai"):
        await traffic.struck(instance, signal.SIGABRT, run.dialects)
    run.reached("kills")
    if not run.quick:
        run.detail["memory_errors"] = await traffic.out_of_memory("selector-2")
        await _rotate(run, house, fake)
        await traffic.faults(run.dialects, ("ok",))
        run.reached("memory, rotation")


async def _rotate(run: Run, house: House, fake: FakeProvider) -> None:
    """Another key for one provider, and the orders about keys."""
    fresh = f"sk-{run.words['key-openai']}-2"
    fake.accepted = {**run.canaries.keys, "fresh": fresh}
    await house.command("keys", "rotate", "openai", key=fresh, secret=True)
    await house.command("keys", "test", "openai")
    await house.command("keys", "audit", "--entries", secret=True)


async def _said(run: Run, house: House) -> None:
    """What people and monitors read."""
    for words in QUICK if run.quick else COMMANDS:
        await house.command(*words, good=(0, 1, 3))
    run.detail["compressed"] = await compressed(house)


async def _plant(run: Run, house: House) -> None:
    """The controls, and the last sweep, which must find some of them."""
    words = {name: run.words[f"planted-{name}"] for name in planted.PLACES}
    gone = run.base / "house" / "state" / "gone.txt"
    gone.write_text(words["gone"])
    planted.files(house, words)
    planted.forms(run.base / "forms", run.words["planted-form"])
    await planted.on_the_bus(house, words)
    await planted.commands(house, words)
    if "core" in planted.places():
        await planted.crash(house.folder, words["core"])
    async with planted.service(house, words["metrics"]):
        run.printed("metrics", await metrics(house))
    async with planted.process(run.base, words) as pid:
        run.take(await asyncio.to_thread(sweep, house, run.search, {"planted": pid}))
    gone.unlink()


# --- watching --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _watched(run: Run) -> AsyncGenerator[None, None]:
    """Everything below the base, while it runs, and once more at the end."""
    watch = Watch(run.search, run.base)
    keeping = asyncio.create_task(watch.keep())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
    await asyncio.to_thread(watch.read_all)
    run.hits |= watch.hits
    run.detail |= {"files": watch.files, "looks": watch.looks}


class _Tmp:
    """Temporary files that somebody made meanwhile, in the system's folders for them."""

    search: Search

    def __init__(self, base: Path) -> None:
        self._folders = [Path(p) for p in (tempfile.gettempdir(), "/dev/shm", "/var/tmp") if Path(p).is_dir()]
        self._before = frozenset(str(p) for f in self._folders for p in f.iterdir() if p.is_dir()) | {str(base)}
        self._since_s = now_s()

    def read(self, run: Run) -> None:
        """Blocks."""
        for folder in self._folders:
            watch = Watch(self.search, folder, self._since_s, self._before)
            watch.read_all()
            run.hits |= watch.hits


@contextlib.contextmanager
def _tmp(base: Path):
    yield _Tmp(base)


# --- judging ---------------------------------------------------------------------------------------------------------


def _result(run: Run) -> Result:
    wrong = {hit for hit in run.hits if not is_planted(hit) and not allowed(hit)}
    missed = planted.missed(run.hits)
    may_look = os.geteuid() == 0
    bars: tuple[Bar, ...] = (
        bar("text_hits", len({h for h in wrong if not is_key(h)}), "places", 0),
        bar("key_hits", len({h for h in wrong if is_key(h)}), "places", 0),
        bar("planted_found", planted.total() - len(missed), "controls", planted.total(), None, "higher"),
        bar("processes_unread", len(run.unread), "processes", 0 if may_look else None),
        bar("processes_searched", len(run.searched), "processes"),
    )
    design = {hit for hit in run.hits if hit.canary == "stored" or (hit.kind == "mem" and is_key(hit))}
    detail = {
        **run.detail,
        "hits": rows(wrong),
        "missed": missed,
        "searched": sorted(set(run.searched)),
        "unread": sorted(set(run.unread)),
        "by_design": rows({hit for hit in design if allowed(hit)}),
    }
    return Result(bench="canaries", bars=bars, detail=detail)


def explain(result: Result) -> str:
    """What was found where it must not be, what was not found, what was searched."""
    found = result.detail
    return "\n".join(
        [
            *(f"HIT {row}" for row in found["hits"]),
            *(f"MISSED {row}" for row in found["missed"]),
            f"{found['messages']} messages of the bus, {found['files']} files ({found['looks']} looks), "
            f"processes: {', '.join(found['searched'])}",
            f"what came of the asks: {found['said']}",
        ]
    )
