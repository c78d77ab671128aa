"""A log that fills up, a server that is away, messages nobody can read: said clearly, and mended without a restart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
import pytest_asyncio
import yaml

from understudy.actors.host.permissions import Seat
from understudy.actors.host.seats import Process
from understudy.bus.client import AnswerFailed, Client
from understudy.bus.nats_log import api
from understudy.bus.port import LogFull, Outgoing
from understudy.bus.server import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

LIMIT = 300_000
CANARY = "canary-9c41"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """A system with a small log."""
    state = tmp_path_factory.mktemp("small")
    (state / "key").write_text(kit.KEY)
    models = {"ok@1": {"provider": "lab"}}
    topology = kit.topology_of(
        fake.url,
        "key",
        models=models,
        aliases={},
        tasks={"general": {"latency": "quick"}},
        log={"max_bytes": LIMIT},
    )
    system = await kit.System(fake, state, topology).start()
    try:
        yield system
    finally:
        await system.stop()


async def fill(client: Client, until_bytes: int, pad: int = 4_000) -> None:
    """Facts of a newer writer: nobody is disturbed by what they are."""
    n = 0
    while (await client.bus.stream_bytes("TTA_EVT"))[0] < until_bytes:
        n += 1
        body = json.dumps({"type": "filler.put.v1", "n": n, "pad": "x" * pad}).encode()
        await client.bus.store([Outgoing("tta.evt.filler.put", body, f"filler.{until_bytes}.{pad}.{n}")], timeout_s=2)


def told(system: Any, word: str) -> list[dict[str, Any]]:
    return [facts for said, facts in system.said if said == word]


async def test_a_filling_and_a_full_log_are_told_to_everybody_and_a_reload_mends_it(small: Any, kit: Any) -> None:
    levels: list[str] = []
    async with await small.operator() as client:
        await client.bus.subscribe("tta.obs.log.level.>", lambda m: levels.append(json.loads(m.payload)["level"]))
        assert (await client.generate("Room enough.")).recorded
        await fill(client, int(LIMIT * 0.85))
        await kit.until(lambda: levels == ["filling"])
        code, out, _ = await small.cli("status")
        assert code == 0 and "FILLING: raise log.max_bytes" in out
        for pad in (4_000, 200, 1):
            with pytest.raises(LogFull):
                await fill(client, LIMIT, pad)
        await kit.until(lambda: levels == ["filling", "full"])
        assert (await small.cli("status"))[1].count("FULL (log_full)") == 1
        refused: list[AnswerFailed] = []

        async def ask(n: int) -> None:
            try:
                assert not (await client.generate(f"No room {n}.", max_tokens=900)).recorded
            except AnswerFailed as failure:
                refused.append(failure)

        for _ in range(10):  # the first at each selector is answered, unrecorded; from then on nothing new is begun
            await asyncio.gather(*(ask(n) for n in range(4)))
        assert refused and {f.code for f in refused} == {"log_full"} and "raise it" in refused[0].failed.text
        small.file.write_text(yaml.safe_dump({**small.topology, "log": {"max_bytes": 10 * LIMIT}}))
        code, out, err = await small.cli("reload")
        assert (code, err) == (0, ""), out
        await kit.until(lambda: levels == ["filling", "full", "ok"])
        recorded = False
        async with asyncio.timeout(15):
            while not recorded:
                try:
                    recorded = (await client.generate("Room again.")).recorded
                except AnswerFailed as failure:
                    assert failure.code == "log_full"
                    await asyncio.sleep(0.05)
    assert [f["level"] for f in told(small, "log_level")] == ["filling", "full", "ok"]
    lines = [x for x in small.log_lines() if x["event"] == "log_level"]
    assert [x["level"] for x in lines] == ["filling", "full", "ok"] and lines[0]["actor"] == "supervisor"
    assert not any("Traceback" in x for x in (small.state / "actors.log").read_text().splitlines())


async def test_what_nobody_can_read_becomes_a_dead_letter_without_its_payload(small: Any, kit: Any) -> None:
    nc = await nats.connect(small.url, user="operator", password=small.supervisor.operator_password)
    for payload in (f'{{"type": "{CANARY}", "text": "{CANARY}"}}', CANARY, '{"type": "runner.beat.v1", "instance": 7}'):
        await nc.publish("tta.obs.runner.beat.ok_1", payload.encode())
    await nc.close()
    readers = 4  # two selectors, the health tracker and the benchmarker
    await kit.until(lambda: small.supervisor.watch.seen.dead == 3 * readers)
    letters: list[dict[str, Any]] = []
    async with await small.operator() as client:
        await client.bus.read("TTA_DEAD", ["tta.dead.>"], lambda m: letters.append(json.loads(m.payload)))
        await kit.until(lambda: len(letters) == 3 * readers)
    assert CANARY not in json.dumps(letters)
    mine = [x for x in letters if x["instance"] == "selector-1"]
    assert [(x["message_tag"], x["reason"], x.get("path", "")) for x in mine] == [
        ("", "unknown_tag", "$.type"),
        ("", "invalid", "$"),
        ("runner.beat.v1", "invalid", "$.instance"),
    ]
    assert all(x["bytes"] > 5 and len(x["sha256"]) == 16 for x in mine)
    await kit.until(lambda: json.loads((small.state / "run.json").read_text())["dead"] == 3 * readers)
    assert f"dead letters so far: {3 * readers}" in (await small.cli("status"))[1]


async def test_a_stream_that_the_server_lost_is_there_again_after_its_restart(small: Any, kit: Any) -> None:
    async with await small.operator() as client:
        await api(client.bus.client, "STREAM.DELETE.KV_TTA_CLAIMS")
        os.kill(small.supervisor.bus_side.server.pid, signal.SIGKILL)
        await kit.until(lambda: told(small, "provisioned"), 15)
        assert told(small, "provisioned")[-1]["done"] == ["created KV_TTA_CLAIMS"]


@pytest.mark.parametrize("words", [("ask", "Hello?"), ("models",), ("events",)])
async def test_a_server_that_is_not_there_is_one_clear_line(kit: Any, tmp_path: Any, words: tuple[str, ...]) -> None:
    with socket.socket() as taken:  # bound and not listening: refused, and nobody else's meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = await kit.cli(*words, "--nats", url, "--state", str(tmp_path))
    assert (code, out) == (1, "") and err.startswith("bus_down: ") and url in err
    assert "understudy up" in err and len(err.splitlines()) == 1


async def test_up_on_a_server_that_is_not_there_says_so(kit: Any, tmp_path: Any, root: Any) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    where = ("--topology", str(root / "topology.yaml"), "--state", str(tmp_path / "state"))
    code, _, err = await kit.cli("up", "--nats", url, *where)
    assert code == 1 and url in err and len(err.splitlines()) == 1 and "Traceback" not in err


async def test_two_health_trackers_by_mistake_announce_each_change_once(fake: Any, kit: Any, tmp_path: Any) -> None:
    (tmp_path / "key").write_text(kit.KEY)
    models = {"ok@1": {"provider": "lab"}}
    topology = kit.topology_of(fake.url, "key", models=models, aliases={}, tasks={"general": {"latency": "quick"}})
    system = kit.System(fake, tmp_path, topology)
    system.supervisor.processes.append(Process(Seat("health_tracker", "health_tracker-2")))
    await system.start()
    try:
        for _ in range(2):
            await system.back("runner-lab", await system.kill("runner-lab"))
            await kit.until(lambda: system.process("runner-lab").ready)
        words: list[str] = []

        def read(message: Any) -> None:
            event = json.loads(message.payload)
            if event["type"] in ("model.unavailable.v1", "model.recovered.v1"):
                words.append(f"{event['type']} {event['id']}")

        async with await system.operator() as client:
            await client.bus.read("TTA_EVT", ["tta.evt.model.>"], read)
            await kit.until(lambda: len(words) >= 4)
            assert (await client.generate("Anybody?")).recorded
        assert [w.split()[0] for w in words] == ["model.unavailable.v1", "model.recovered.v1"] * 2
        assert [w.rsplit(".", 1)[1] for w in words] == ["1", "2", "3", "4"]
    finally:
        await system.stop()
