"""Eight selectors, 400 requests at once, a budget for 100: who is answered, and the ledger beside the vendor's bill.

Three rounds and a control. `exact`: each request costs what is reserved for it. `half`: each costs half of that.
`killed`: the ledger, two selectors and the provider's runner are killed -9 in the middle. What an attempt cost is then
told by nobody (its selector died) or estimated (its runner died): both are booked as reserved. This round is played
again, three times in all at most, until all were killed in time and attempts of both kinds are left. `control`: the
exact round under a ledger that forgets what it has reserved, which the same counting must find to overspend. The fake
provider keeps the bill, in arithmetic of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec

from understudy.actors.cost_ledger import core as cost_ledger
from understudy.actors.host.logs import Log
from understudy.actors.host.loop import Host, settings_of
from understudy.actors.host.permissions import Seat, inbox_of
from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import AnswerFailed, Client
from understudy.bus.nats_bus import NatsBus
from understudy.messages.cost import Budgets, CostReserved, ListBudgets
from understudy.messages.events import AttemptEnded, RequestEnded
from understudy.messages.money import Charge
from understudy.messages.topology import Topology
from understudy.tools.bench.report import Bar, Result, bar
from understudy.tools.bench.stage import fake_provider, machine, pids, topology_on

SELECTORS, REQUESTS, AFFORDED = 8, 400, 100
TOKENS, USD_PER_TOKEN = 32, Decimal("0.0000025")
LIMIT_USD = TOKENS * USD_PER_TOKEN * AFFORDED
DEADLINE_MS, MARGIN_MS = 12_000, 3_000
SETTLE_S = 40.0
KILLS = ((5, ("cost_ledger",)), (10, ("selector",)), (15, ("selector", "runner")))
"""How many answers are out when who is killed, while calls are under way. The runner is last: whoever waits there for
its turn may have begun, so what was reserved for it counts as spent, and nothing is left to ask again with. It goes
with the second selector, as these two may hold all reservations: then whoever is left is refused, and all is over."""
TO_KILL = sum(len(who) for _, who in KILLS)
MID_TEXT_S = 0.2
SLOTS, FEW_SLOTS = 512, 24
KILLED_ROUNDS = 3


class Scale(msgspec.Struct, frozen=True):
    """How much is asked; the quick one only shows that the bench works."""

    selectors: int = SELECTORS
    requests: int = REQUESTS


QUICK = Scale(selectors=4, requests=120)


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """One round, counted: what callers heard, what the vendor bills, what the ledger has booked (USD)."""

    answered: int
    refused: int
    others: dict[str, int]
    billed_usd: str
    booked_usd: str
    charged_by: dict[str, int]  # of all attempts, how their cost is known
    killed: int  # processes
    seconds: float

    @property
    def overspent_usd(self) -> Decimal:
        """What the vendor bills beyond the budget."""
        return max(Decimal(0), Decimal(self.billed_usd) - LIMIT_USD)

    @property
    def error_usd(self) -> Decimal:
        """How far ledger and bill are apart."""
        return abs(Decimal(self.billed_usd) - Decimal(self.booked_usd))

    @property
    def struck(self) -> bool:
        """All were killed in time, and attempts of both kinds are left."""
        return self.killed == TO_KILL and min(self.charged_by["nobody told"], self.charged_by["estimated"]) > 0

    @property
    def unbooked_usd(self) -> Decimal:
        """What was billed and is not booked."""
        return max(Decimal(0), Decimal(self.billed_usd) - Decimal(self.booked_usd))


async def measure(quick: bool = False) -> Result:
    """All rounds, one after the other."""
    scale = QUICK if quick else Scale()
    exact = await _round(scale, {"chunks": TOKENS})
    half = await _round(scale, {"chunks": TOKENS // 2, "gap_ms": 5})
    kills = [await _killed(scale)]
    while len(kills) < KILLED_ROUNDS and not kills[-1].struck:
        kills.append(await _killed(scale))
    control = await _round(scale, {"chunks": TOKENS}, forgetful=True)
    rounds = {"exact": exact, "half": half, "killed": kills, "control": control}
    return Result(
        bench="budget",
        bars=bars(scale, exact, half, kills, control),
        detail={**machine(), "limit_usd": str(LIMIT_USD), "rounds": rounds},
    )


def bars(scale: Scale, exact: Count, half: Count, kills: list[Count], control: Count) -> tuple[Bar, ...]:
    """Money of all rounds; who was killed, of the last of `kills`."""
    killed = kills[-1]
    return (
        bar("answered", exact.answered, "of 400", AFFORDED, better="higher"),
        bar("refused", exact.refused, "of 400", scale.requests - AFFORDED, better="higher"),
        _usd("ledger_error_usd", max(exact.error_usd, half.error_usd), 1e-9),
        _usd("overspent_usd", max(one.overspent_usd for one in (exact, half, *kills)), 0.0),
        bar("half_answered", half.answered, "of 400", AFFORDED, better="higher"),
        _usd("killed_unbooked_usd", max(one.unbooked_usd for one in kills), 0.0),
        bar("killed_processes", killed.killed, f"of {TO_KILL}", TO_KILL, better="higher"),
        bar("killed_nobody_told", killed.charged_by["nobody told"], "attempts", 1, better="higher"),
        bar("killed_estimated", killed.charged_by["estimated"], "attempts", 1, better="higher"),
        bar("control_caught", control.overspent_usd > 0, "", 1, better="higher"),
    )


async def _killed(scale: Scale) -> Count:
    return await _round(scale, {"chunks": TOKENS, "gap_ms": 15}, kill=True)


def _usd(name: str, value: Decimal, limit: float) -> Bar:
    """A bar of money, not rounded."""
    return Bar(id=name, value=float(value), unit="USD", bar=limit, holds=value <= Decimal(repr(limit)))


# --- a round -----------------------------------------------------------------------------------------------------


async def _round(scale: Scale, pace: dict[str, Any], *, kill: bool = False, forgetful: bool = False) -> Count:
    price = {"completion": str(USD_PER_TOKEN)}
    with tempfile.TemporaryDirectory(prefix="understudy-budget-") as folder:
        faults = Path(folder) / "faults.json"
        faults.write_text(json.dumps({"ok": {"price": price, **pace}}))
        async with (
            fake_provider(faults) as fake,
            _running(_topology(fake.url, scale, FEW_SLOTS if kill else SLOTS), forgetful) as supervisor,
            await Client.connect(supervisor.url, user="operator", password=supervisor.operator_password) as client,
        ):
            began = time.monotonic()
            heard: Counter[str] = Counter()
            over = asyncio.Event()
            killing = asyncio.create_task(_kill(supervisor, client, heard, fake.url, over)) if kill else None
            await _ask(client, scale.requests, heard)
            took_s = time.monotonic() - began
            over.set()
            killed = await killing if killing is not None else 0
            booked, billed = await _settled(client), await _bill(fake.url)
            charged_by = await _charged_by(client)
    answered, refused = heard.pop("finished", 0), heard.pop("budget_exhausted", 0)
    return Count(
        answered=answered, refused=refused, others=dict(heard), billed_usd=billed, booked_usd=booked,
        charged_by=charged_by, killed=killed, seconds=round(took_s, 2),
    )  # fmt: skip


def _topology(url: str, scale: Scale, slots: int) -> Topology:
    found = topology_on(
        url,
        {"ok": {"slots": slots, "usd_per_mtok_out": float(USD_PER_TOKEN * 1_000_000)}},
        scale.selectors,
        budgets={"house": {"scope": "all", "window": "day", "limit_usd": f"{LIMIT_USD:f}"}},
        tasks={"general": {"latency": "interactive", "max_tokens": TOKENS}},
    )
    ledger = msgspec.structs.replace(found.actors["cost_ledger"], settings={"margin_ms": MARGIN_MS})
    return msgspec.structs.replace(found, actors={**found.actors, "cost_ledger": ledger})


async def _ask(client: Client, requests: int, heard: Counter[str]) -> None:
    """All at once. `heard` counts the codes that callers hear."""

    async def one(n: int) -> None:
        try:
            await client.generate(f"Request {n}.", deadline_ms=DEADLINE_MS)
            heard["finished"] += 1
        except AnswerFailed as failure:
            heard[failure.failed.code] += 1

    await asyncio.gather(*(one(n) for n in range(requests)))


async def _charged_by(client: Client) -> dict[str, int]:
    """From the log: how the cost of each reserved attempt became known."""
    reserved: set[tuple[str, int]] = set()
    told: dict[tuple[str, int], str] = {}
    async for change in client.events():
        match change.event:
            case CostReserved(run_id=run_id, attempt=attempt):
                reserved.add((run_id, attempt))
            case AttemptEnded(run_id=run_id, charge=Charge(attempt=attempt, by=by)):
                told[run_id, attempt] = by
            case RequestEnded(run_id=run_id, charges=charges):
                told |= {(run_id, charge.attempt): charge.by for charge in charges}
            case _:
                pass
    return {"nobody told": len(reserved - told.keys()), "estimated": 0, **Counter(told.values())}


async def _kill(supervisor: Supervisor, client: Client, heard: Counter[str], url: str, over: asyncio.Event) -> int:
    """kill -9 of the ledger, two selectors and the provider's runner, each while the provider is answering; how many
    were still there to be killed before all requests were `over`."""
    killed = 0
    for answers, actors in KILLS:
        while heard["finished"] < answers and not over.is_set():  # noqa: ASYNC110 - a counter that many tasks write
            await asyncio.sleep(0.005)
        victims = [
            await _busiest(supervisor, client) if actor == "selector" else pids(supervisor, actor)[0]
            for actor in actors
        ]
        await asyncio.sleep(MID_TEXT_S)  # answers come in waves: strike between them
        while not over.is_set() and not (await _bill_now(url))["open"]:  # noqa: ASYNC110 - another process's counter
            await asyncio.sleep(0.005)
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                if not over.is_set():
                    os.kill(victim, signal.SIGKILL)
                    killed += 1
    return killed


async def _busiest(supervisor: Supervisor, client: Client) -> int:
    """The selector that answers most, of those not killed yet: the first to ask hold all reservations."""
    ended = Counter(
        [change.event.instance async for change in client.events() if isinstance(change.event, RequestEnded)
         and change.event.outcome == "finished"]
    )  # fmt: skip
    selectors = [
        process for process in supervisor.processes if process.seat.actor == "selector" and not process.restarts
    ]
    return max(selectors, key=lambda process: ended[process.seat.instance]).pid


async def _settled(client: Client) -> str:
    """What the ledger has booked, once nothing is reserved any longer: the last reservations expire by themselves."""
    until = time.monotonic() + SETTLE_S
    while True:
        with contextlib.suppress(AnswerFailed):
            (state,) = (await client.ask("ledger.budgets", ListBudgets(), Budgets)).budgets
            if state.reserved_usd == "0":
                return state.spent_usd
        if time.monotonic() > until:
            raise RuntimeError(f"the ledger still holds reservations after {SETTLE_S:g} s")
        await asyncio.sleep(0.25)


async def _bill(url: str) -> str:
    """The vendor's own figure, once it has nothing under way."""
    for _ in range(200):
        bill = await _bill_now(url)
        if not bill["open"]:
            return bill["total_usd"]
        await asyncio.sleep(0.1)
    raise RuntimeError("the fake provider is still answering")


async def _bill_now(url: str) -> dict[str, Any]:
    address = url.removesuffix("/v1") + "/control/bill"
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        return await answer.json()


# --- the system, and one with a broken ledger --------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _running(topology: Topology, forgetful: bool) -> AsyncGenerator[Supervisor, None]:
    """The actors of a topology, ready. `forgetful`: with a broken ledger in this process, in the place of the real."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        supervisor = Supervisor(topology, Path.cwd(), Path(folder), _quiet)
        if forgetful:
            supervisor.processes = [p for p in supervisor.processes if p.seat.actor != "cost_ledger"]
        task = asyncio.create_task(supervisor.run())
        try:
            async with asyncio.timeout(90):
                await asyncio.wait(
                    [task, asyncio.create_task(supervisor.ready.wait())], return_when=asyncio.FIRST_COMPLETED
                )
            if task.done():
                task.result()
            async with _forgetful(supervisor) if forgetful else contextlib.nullcontext():
                yield supervisor
        finally:
            supervisor.stop.set()
            await task


def _quiet(word: str, **facts: Any) -> None:
    """A bench says nothing of the actors' progress."""


class Forgetful(cost_ledger.State):
    """Sees what was spent and forgets what is reserved: the fault that the counting has to find."""

    def used_pusd(self, account: str) -> int:
        """Only what was settled."""
        known = self.book.accounts.get(account)
        return known.spent_pusd if known is not None else 0


@contextlib.asynccontextmanager
async def _forgetful(supervisor: Supervisor) -> AsyncGenerator[None, None]:
    """The real core with that state, in a real host on the real bus."""
    topology, seat = supervisor.topology, Seat("cost_ledger", "cost_ledger-1")
    broken: Any = SimpleNamespace(**{k: v for k, v in vars(cost_ledger).items() if not k.startswith("__")})
    broken.State = Forgetful
    bus = await NatsBus.open(
        supervisor.url, name="broken-ledger", app=topology.app, user="operator",
        password=supervisor.operator_password, inbox_prefix=inbox_of(seat.instance),
    )  # fmt: skip
    plan, stop, ready = topology.actors["cost_ledger"], asyncio.Event(), asyncio.Event()
    log = Log(seat.actor, seat.instance, io.BytesIO())  # nobody reads it
    host = Host(
        broken, bus, plan, seat, app=topology.app, settings=settings_of(broken, plan, {}), edge=None, log=log
    )  # fmt: skip
    running = asyncio.create_task(host.run(stop, lambda _: ready.set()))
    try:
        await asyncio.wait_for(ready.wait(), 20)
        yield
    finally:
        stop.set()
        await running
        await bus.close()
