"""Orders to a running system, under load: reload, rolling restart. Real processes, our own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest
import pytest_asyncio
import yaml

from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import BusError
from understudy.messages.operate import Progressed, Reload, Restart
from understudy.messages.wire import encode
from understudy.tools.orders import carry_out

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


async def order(client: Client, ask: Reload | Restart) -> tuple[Progressed, list[str]]:
    """Give an order and follow it to its end."""
    lines: list[str] = []
    async with asyncio.timeout(45):
        return await carry_out(client, ask, lines.append), lines


class Load:
    """A few callers that ask one thing after the other with our client, streamed, until the block is left."""

    def __init__(self, url: str, callers: int = 3) -> None:
        self.url, self.callers = url, callers
        self.ok, self.failed = 0, list[str]()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def _call(self, n: int) -> None:
        async with await Client.connect(self.url) as client:
            while not self._stop.is_set():
                try:
                    answer = await client.generate(f"Load {n}.", max_tokens=30)
                except AnswerFailed as failure:
                    self.failed.append(f"{failure.code}: {failure}")
                else:
                    self.ok += answer.finish_reason in ("stop", "length")

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(n)) for n in range(self.callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


def topology(kit: Any, url: str) -> dict[str, Any]:
    few = {"drip@1": {"provider": "lab", "slots": 32, "continues": "native"},
           "drip@2": {"provider": "spare", "slots": 32, "continues": "native"}}  # fmt: skip
    return kit.topology_of(url, "key", models=few, aliases={}, tasks={"general": {"latency": "quick"}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    state = tmp_path_factory.mktemp("s")
    (state / "key").write_text(kit.KEY)
    system = await kit.System(fake, state, topology(kit, fake.url)).start()
    try:
        yield system
    finally:
        await system.stop()


def pids(system: Any) -> dict[str, int]:
    return {p.seat.instance: p.pid for p in system.supervisor.processes}


def rewrite(system: Any, **changes: Any) -> None:
    system.topology = {**system.topology, **changes}
    system.file.write_text(yaml.safe_dump(system.topology))


async def test_a_faulty_file_is_refused_with_every_path_and_nothing_changes(running: Any, kit: Any) -> None:
    before, events = pids(running), len(await running.events())
    good = running.topology
    bad = {**good, "bus": {"port": 0, "ports": 1}, "aliases": {"a": "nobody"}, "log": {"max_bytes": -1}}
    rewrite(running, **bad)
    code, _, err = await running.cli("reload")
    assert code == 2, err
    assert all(path in err for path in ("$.bus.ports", "$.aliases.a", "$.log.max_bytes")), err
    rewrite(
        running, bus={"port": 4299, "max_payload_bytes": 1_000_000, "max_request_bytes": 500_000}, aliases={}, log={}
    )
    async with await running.operator() as client:
        refused, _ = await order(client, Reload())
    assert refused.refused and len(refused.problems) == 2
    assert "$.bus.port: found 4299; 0 runs and cannot change" in refused.problems[0]
    running.topology = {}
    rewrite(running, **good)
    assert (pids(running), len(await running.events())) == (before, events)


async def test_an_order_that_fails_in_an_unforeseen_way_ends_alone(running: Any) -> None:
    before, supervisor = pids(running), running.supervisor
    running.file.write_text(running.file.read_text().replace("drip@1:", "drip@1:\n    fallbacks: 5", 1))
    async with await running.operator() as operator:
        done, _ = await order(operator, Reload())
        assert done.refused and "fallbacks" in " ".join(done.problems)
        rewrite(running)
        supervisor.desk.ids = None  # stands for a mistake in our own code
        try:
            done, _ = await order(operator, Reload())
        finally:
            del supervisor.desk.ids
        assert done.done and "internal: TypeError at operations.py:" in " ".join(done.problems)
        done, lines = await order(operator, Reload())
        assert not done.problems and "nothing differs" in lines[0]
    assert pids(running) == before and not running.running.done()


async def test_reload_starts_ends_and_restarts_what_differs_and_no_request_fails(running: Any, kit: Any) -> None:
    before = pids(running)
    raw = running.topology
    providers = {**raw["providers"], "third": dict(raw["providers"]["lab"])}
    models = {"drip@1": raw["models"]["drip@1"], "drip@3": {"provider": "third", "continues": "native"}}
    actors = {**raw["actors"], "health_tracker": {**raw["actors"]["health_tracker"], "settings": {"sweep_ms": 200}}}
    actors["selector"] = {**actors["selector"], "replicas": 3}
    async with Load(running.url) as load, await running.operator() as client:
        await kit.until(lambda: load.ok >= 3)
        rewrite(running, providers=providers, models=models, actors=actors)
        done, lines = await order(client, Reload())
        assert (done.problems, done.refused) == ((), False)
        assert "2 to start, 1 to restart, 1 to end" in lines[0]
        seen = load.ok
        await kit.until(lambda: load.ok >= seen + 3)
        answer = await client.generate("The new model.", model="drip@3", max_tokens=20)
        listed = {m.id for m in (await client.models()).models}
        _, again = await order(client, Reload())
    assert (answer.model, listed, load.failed) == ("drip@3", {"drip@1", "drip@3"}, [])
    assert again == ["nothing differs from what runs"]
    after = pids(running)
    assert set(after) == {*before, "runner-third", "selector-3"} - {"runner-spare"}
    same = {name for name in after if before.get(name) == after[name]}
    others = ("cost_ledger-1", "model_manager-1", "response_cache-1", "benchmarker-1")
    assert same == {"selector-1", "selector-2", "runner-lab", *others}
    applied = [e for e in await running.events() if e["type"] == "topology.applied.v1"]
    assert [set(e["body"]["models"]) for e in applied] == [{"drip@1", "drip@2"}, {"drip@1", "drip@3"}]
    config = running.supervisor.bus_side.server.extra
    assert "runner-third" in config and "runner-spare" not in config and "selector-3" in config


async def test_a_restart_of_nats_server_alone_is_followed_to_its_end_and_blames_no_model(
    running: Any, kit: Any
) -> None:
    for _ in range(3):
        async with Load(running.url) as load:
            await kit.until(lambda: load.ok >= 3)
            code, out, err = await running.cli("restart", "nats-server")
            assert code == 0 and out.startswith("nats-server "), (out, err)
        assert load.failed == []
    blamed = [e for e in await running.events() if e["type"] == "attempt.ended.v1" and e["reason"] != "text_lost"]
    assert blamed == []


async def test_restart_of_an_unknown_name_is_refused(running: Any) -> None:
    async with await running.operator() as client:
        refused, _ = await order(client, Restart(names=("nobody",)))
    assert refused.refused and "known are: " in refused.problems[0]


async def test_a_guest_gives_no_orders(running: Any) -> None:
    async with await Client.connect(running.url) as guest:
        with pytest.raises(BusError):
            await guest.bus.request("tta.ask.supervisor.restart", encode(Restart()), timeout_s=0.3)


async def test_rolling_restart_of_everything_under_load_and_a_newer_writers_fact(running: Any, kit: Any) -> None:
    before, server = pids(running), running.supervisor.bus_side.server.pid
    async with Load(running.url) as load, await running.operator() as client:
        await kit.until(lambda: load.ok >= 3)
        await client.bus.publish(
            "tta.evt.model.dreamt.drip_1", json.dumps({"type": "model.dreamt.v9", "x": 1}).encode()
        )
        code, out, err = await running.cli("restart")
        assert code == 0, (out, err)
        seen = load.ok
        await kit.until(lambda: load.ok >= seen + 6, 20)
    assert load.failed == []
    after = pids(running)
    assert set(after) == set(before) and not set(after.values()) & set(before.values())
    assert running.supervisor.bus_side.server.pid not in (0, server)
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [*after, "nats-server"]
    gone = [e for e in await running.events() if e["type"] == "model.unavailable.v1"]
    assert gone == []
