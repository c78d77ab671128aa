"""500 models of a provider's list: asked for with filters, selected from while the list is read again and changes.

The list comes from the fake through the runner and the model manager, as it does in `up`. Selections with and
without refreshes are made in turns of the same run, by a process of their own; the vendor's lists are written before,
for a vendor computes elsewhere. A refresh changes a tenth of all prices and swaps ten models. The bar is on one a
second (by default a list is read once an hour); `flooded` in the detail has a new one as soon as the last was read.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import aiohttp
import msgspec
import nats
from nats.aio.client import Client

from understudy.actors.host.supervisor import Supervisor
from understudy.messages.catalogue import MOST_MODELS, ListModels, Models, RefreshCatalogue, Select, Selected
from understudy.messages.generate import Requirements, Turn
from understudy.messages.wire import decode_as, encode
from understudy.tools.bench.report import Result, bar, median, quantile
from understudy.tools.bench.stage import fake_provider, loop_factory, machine, running, topology_on
from understudy.tools.fake.lists import entry

LIST, SELECT, REFRESH = "tta.ask.model.list", "tta.ask.model.select", "tta.ask.catalogue.refresh"
PING = "$SRV.PING.selector"
MODELS, SWAPPED = 500, 10
PAUSES_S = {"refreshing": 1.0, "flooded": 0.1}
"""Between two refreshes. One takes about 0.15 s until all have it."""
WAIT_S = 30.0
FILTERS = (
    ListModels(free=True),
    ListModels(max_usd_per_mtok=0.5, capabilities=("chat", "json")),
    ListModels(context_tokens=100_000, candidates=True, limit=50),
    ListModels(capabilities=("tools",), location="external", licences=("unknown",)),
    ListModels(provider="fake", task="general", candidates=True, limit=100),
)


class Scale(msgspec.Struct, frozen=True):
    """How long everything takes; the quick one only shows that the bench works."""

    lists: int = 2_000
    rounds: int = 10
    window_s: float = 2.0


QUICK = Scale(lists=50, rounds=1, window_s=0.5)


class Version(NamedTuple):
    """A list as it is sent, and each model's price of a token in it."""

    body: str
    prices: dict[str, str]


class Vendor:
    """The list as the vendor has it, and how it changes."""

    def __init__(self, http: aiohttp.ClientSession, root: str) -> None:
        self._http, self._root, self._luck = http, root, random.Random(500)
        self._numbers = itertools.count(MODELS)
        self.rows = {f"lab/model-{n}": self._row(f"lab/model-{n}") for n in range(MODELS)}
        self.prices: dict[str, str] = {}  # what the catalogue should say

    def _row(self, name: str) -> dict[str, Any]:
        luck = self._luck
        parameters = ["max_tokens", *(word for word in ("tools", "response_format") if luck.random() < 0.5)]
        return entry(
            name,
            prompt=luck.choice(("0", "0.0000001", "0.00000025", "0.000001", "0.0000025")),
            context_length=luck.choice((4_096, 32_768, 131_072, 1_000_000)),
            top_provider=None,
            supported_parameters=parameters,
            description="x" * 400,
        )

    def change(self) -> None:
        """A tenth has another price, ten models leave, ten come."""
        for name in self._luck.sample(sorted(self.rows), MODELS // 10):
            usd = f"0.00000{self._luck.randrange(1, 100):02d}1"
            self.rows[name]["pricing"] = {"prompt": usd, "completion": usd}
        for name in self._luck.sample(sorted(self.rows), SWAPPED):
            del self.rows[name]
            fresh = f"lab/model-{next(self._numbers)}"
            self.rows[fresh] = self._row(fresh)

    def written(self) -> Version:
        """The list as it is now."""
        page = {"data": list(self.rows.values()), "total_count": len(self.rows), "links": {"next": None}}
        prices = {name: row["pricing"]["prompt"] for name, row in self.rows.items()}
        return Version(msgspec.json.encode(page).decode(), prices)

    def versions(self, count: int) -> list[Version]:
        """So many lists, each changed from the one before."""
        found: list[Version] = []
        for _ in range(count):
            self.change()
            found.append(self.written())
        return found

    async def publish(self, version: Version) -> None:
        """Let the fake have it."""
        await self.show(version.body)
        self.prices = version.prices

    async def show(self, body: str) -> None:
        """Let the fake answer with this."""
        control = msgspec.json.encode({"faults": {"openrouter": {"body": body}}})
        async with self._http.post(f"{self._root}/control/lists", data=control) as answer:
            answer.raise_for_status()


async def measure(quick: bool = False) -> Result:
    """List, then select with and without refreshes."""
    scale = QUICK if quick else Scale()
    async with fake_provider() as fake, aiohttp.ClientSession() as http:
        root = fake.url.removesuffix("/v1")
        vendor = Vendor(http, root)
        await vendor.publish(vendor.written())
        admit = {"ids": ["*"], "max_usd_per_mtok": 1.0, "slots": 256}
        catalogue = {"refresh_s": 86_400, "admit": admit}
        provider = {"kind": "openrouter", "url": f"{root}/api/v1", "catalogue": catalogue}
        async with running(topology_on(fake.url, {}, providers={"fake": provider})) as up, _connected(up) as nc:
            loaded_s = await _until_known(nc, vendor)
            lists, pings = await _lists(nc, scale)
            turns = await _turns(up, nc, vendor, scale)
            planted = await _planted(nc, vendor)
    bars = (
        bar("list_p99_ms", quantile(lists, 0.99), "ms", 5.0),
        bar("refresh_errors", turns["errors"], "", 0),
        bar("refresh_p99_ratio", turns["p99_ratio"], "x", 2.0),
        bar("planted_found", planted, "", 3, better="higher"),
    )
    detail = {**machine(), "load": os.getloadavg(), "models": MODELS, "loaded_s": round(loaded_s, 2)}
    detail |= {"list_p50_ms": round(median(lists), 3), "lists": len(lists), "turns": turns}
    detail |= {"ping_p50_ms": round(median(pings), 3), "ping_p99_ms": round(quantile(pings, 0.99), 3)}
    return Result(bench="catalogue", bars=bars, detail=detail)


@contextlib.asynccontextmanager
async def _connected(supervisor: Supervisor) -> AsyncGenerator[Client, None]:
    nc = await nats.connect(supervisor.url, user="operator", password=supervisor.operator_password)
    try:
        yield nc
    finally:
        await nc.close()


async def _models(nc: Client, wanted: ListModels) -> Models:
    return decode_as(Models, (await nc.request(LIST, encode(wanted), timeout=10)).data)


async def _until_known(nc: Client, vendor: Vendor) -> float:
    """Seconds until what selectors answer is the vendor's list, several times in a row. Raises RuntimeError."""
    began, in_a_row = time.perf_counter(), 0
    while time.perf_counter() < began + WAIT_S:
        page = await _models(nc, ListModels(limit=MOST_MODELS))  # those that were retired stand in it too
        rest = await _models(nc, ListModels(limit=MOST_MODELS, after=page.models[-1].id)) if page.models else page
        found = (*page.models, *rest.models)
        told = {m.id: m.price.units["prompt"] for m in found if m.price is not None and m.retired is None}
        in_a_row = in_a_row + 1 if told == vendor.prices else 0
        if in_a_row == 8:
            return time.perf_counter() - began
        await asyncio.sleep(0.02)
    raise RuntimeError("the selectors never had the vendor's list")


async def _lists(nc: Client, scale: Scale) -> tuple[list[float], list[float]]:
    """Milliseconds of each question, asked one after the other; and of a selector's bare PING after each."""
    lists: list[float] = []
    pings: list[float] = []
    for wanted in itertools.islice(itertools.cycle(FILTERS), scale.lists):
        for subject, payload, took in ((LIST, encode(wanted), lists), (PING, b"", pings)):
            began = time.perf_counter()
            await nc.request(subject, payload, timeout=10)
            took.append((time.perf_counter() - began) * 1000)
    return lists, pings


def _asks() -> Iterator[bytes]:
    luck = random.Random(7)
    while True:
        words = Turn(role="user", content="x" * luck.randrange(20, 2_000))
        needs = Requirements(capabilities=luck.choice((("chat",), ("chat", "json"))))
        yield encode(Select(messages=(words,), requirements=needs, max_tokens=100))


def _is_chosen(reply: bytes) -> bool:
    """Is it a decision for somebody? An empty chain is none, and every question here can be met."""
    return b'"model.selected.v1"' in reply[:60] and bool(decode_as(Selected, reply).chain)


class Asked(msgspec.Struct, frozen=True):
    """Selections of one window: how long each took, and how many were no decision."""

    took_ms: list[float]
    errors: int


def _select_for(url: str, password: str, window_s: float) -> Asked:
    """Selections one after the other, in a process of its own."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_selecting(url, password, window_s))


async def _selecting(url: str, password: str, window_s: float) -> Asked:
    took, errors, asks = list[float](), 0, _asks()
    nc = await nats.connect(url, user="operator", password=password)
    try:
        until = time.perf_counter() + window_s
        while time.perf_counter() < until:
            began = time.perf_counter()
            reply = await nc.request(SELECT, next(asks), timeout=10)
            took.append((time.perf_counter() - began) * 1000)
            errors += not _is_chosen(reply.data)
    finally:
        await nc.close()
    return Asked(took, errors)


async def _turns(up: Supervisor, nc: Client, vendor: Vendor, scale: Scale) -> dict[str, Any]:
    """Selections in turns without and with refreshes."""
    took: dict[str, list[float]] = {"quiet": [], "refreshing": [], "flooded": []}
    refreshes, errors = dict.fromkeys(PAUSES_S, 0), 0
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        await loop.run_in_executor(beside, _select_for, up.url, up.operator_password, 0.2)  # not counted
        for _ in range(scale.rounds):
            for arm, found in took.items():
                ends = asyncio.Event()
                busy: asyncio.Task[int] | None = None
                if pause_s := PAUSES_S.get(arm):
                    versions = vendor.versions(int(scale.window_s / pause_s) + 1)
                    busy = asyncio.create_task(_refreshing(nc, vendor, versions, pause_s, ends))
                asked = await loop.run_in_executor(beside, _select_for, up.url, up.operator_password, scale.window_s)
                found += asked.took_ms
                errors += asked.errors
                ends.set()
                if busy is not None:
                    refreshes[arm] += await busy
                    await _until_known(nc, vendor)
    errors += len((await _models(nc, ListModels(limit=1))).problems)
    p99 = {arm: quantile(values, 0.99) for arm, values in took.items()}
    return {
        "errors": errors,
        "p99_ratio": round(p99["refreshing"] / p99["quiet"], 3),
        "flooded_p99_ratio": round(p99["flooded"] / p99["quiet"], 3),
        "p99_ms": {arm: round(value, 3) for arm, value in p99.items()},
        "p50_ms": {arm: round(median(values), 3) for arm, values in took.items()},
        "selections": {arm: len(values) for arm, values in took.items()},
        "refreshes": refreshes,
    }


async def _refreshing(nc: Client, vendor: Vendor, versions: list[Version], pause_s: float, ends: asyncio.Event) -> int:
    """Publish one list after the other and have it read; how many were."""
    count = 0
    for version in versions:
        await vendor.publish(version)
        await nc.request(REFRESH, encode(RefreshCatalogue()), timeout=10)
        count += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ends.wait(), pause_s)
        if ends.is_set():
            break
    await nc.request(REFRESH, encode(RefreshCatalogue()), timeout=10)
    return count


async def _planted(nc: Client, vendor: Vendor) -> int:
    """What the count of errors must see: a question that nobody can meet, one that is refused, and a list that is none.
    How many of the three it does see."""
    words = (Turn(role="user", content="x"),)
    unmet = Select(messages=words, requirements=Requirements(context_tokens=9_000_000))
    replies = [
        await nc.request(SELECT, encode(ask), timeout=10) for ask in (unmet, Select(messages=words, task="none"))
    ]
    seen = sum(not _is_chosen(reply.data) for reply in replies)
    await vendor.show("{")
    await nc.request(REFRESH, encode(RefreshCatalogue()), timeout=10)
    until = time.perf_counter() + WAIT_S
    while time.perf_counter() < until:
        if (await _models(nc, ListModels(limit=1))).problems:
            return seen + 1
        await asyncio.sleep(0.05)
    return seen
