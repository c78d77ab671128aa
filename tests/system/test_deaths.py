"""Runners and selectors that are killed or hang in mid-stream: nothing is lost, nothing is said twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import nats
import pytest

from tests.system.expected import assert_whole, tried
from tests.waiting import found

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]


@pytest.mark.parametrize(("model", "mode"), [("drip@victim", "continue"), ("drip@victim2", "restart")])
async def test_kill_9_of_the_runner_in_mid_stream(system: Any, talk: Any, kit: Any, model: str, mode: str) -> None:
    prompt = f"Killed {mode}."
    async with talk.stream(prompt, model=model) as reading:
        await reading.until_delta(5)
        restarts = await system.kill("runner-victim")
        began = kit.clock()
        end = await reading.end()
    assert kit.clock() - began < 5
    assert_whole(end, reading, kit.script(prompt))
    assert [m for m, _ in tried(end)] == [model, "ok@next" if mode == "continue" else "ok@plain"]
    assert tried(end)[0][1] == "gone"
    assert [s["mode"] for s in reading.of("seam")] == [mode]
    assert len(await system.outcomes(end["run_id"])) == 1
    await system.back("runner-victim", restarts)
    await _serving(talk, kit, model)


async def test_a_runner_that_hangs_is_left_and_its_late_words_are_dropped(system: Any, talk: Any, kit: Any) -> None:
    await _serving(talk, kit, "drip@victim")
    pid = system.process("runner-victim").pid
    async with talk.stream("Frozen.", model="drip@victim") as reading:
        await reading.until_delta(5)
        os.kill(pid, signal.SIGSTOP)
        try:
            end = await reading.end()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert_whole(end, reading, kit.script("Frozen."))
        assert tried(end)[0][1] in ("stall_timeout", "silent")
        await kit.until(lambda: all(s.ended != "open" for s in system.upstream("Frozen.")))
        with pytest.raises(TimeoutError):
            await reading.next(0.2)
    assert len(await system.outcomes(end["run_id"])) == 1
    assert system.process("runner-victim").pid == pid
    await _serving(talk, kit, "drip@victim")


async def _serving(talk: Any, kit: Any, model: str) -> None:
    """The model itself answers again (bounded: until its breaker has closed)."""
    until = kit.clock() + 10
    while True:
        end = await talk.whole("Back?", model=model)
        if tried(end) == [(model, "ok")]:
            return
        assert kit.clock() < until, end
        await asyncio.sleep(0.05)


async def test_kill_9_of_the_runner_under_thirty_streams(system: Any, talk: Any, kit: Any) -> None:
    await _serving(talk, kit, "drip@victim")
    prompts = [f"Thirty {n}." for n in range(30)]

    async def read(prompt: str) -> tuple[Any, Any]:
        async with talk.stream(prompt, model="drip@victim") as reading:
            return await reading.end(), reading

    tasks = [asyncio.create_task(read(p)) for p in prompts]
    await kit.until(lambda: all(any(s.tokens_sent > 3 for s in system.upstream(p)) for p in prompts))
    restarts = await system.kill("runner-victim")
    ended = [e["run_id"] for e in await system.events() if e["type"] == "request.ended.v1"]
    runs = list[str]()
    for prompt, (end, reading) in zip(prompts, await asyncio.gather(*tasks), strict=True):
        text = kit.script(prompt)
        assert reading.text == end["text"] == text
        assert_whole(end, reading, text)
        runs.append(end["run_id"])
        if end["run_id"] not in ended:
            assert tried(end) in ([("drip@victim", "gone"), ("ok@next", "ok")], [("drip@victim", "ok")])
    ended = [e["run_id"] for e in await system.events() if e["type"] == "request.ended.v1"]
    assert [ended.count(run) for run in runs] == [1] * 30
    await system.back("runner-victim", restarts)


async def test_a_dead_runner_is_announced_and_so_is_its_return(system: Any, talk: Any, kit: Any) -> None:
    await _serving(talk, kit, "drip@victim")
    guest = await nats.connect(system.url)
    heard: list[tuple[str, Any]] = []

    async def hear(msg: Any) -> None:
        heard.append((msg.subject, json.loads(msg.data)))

    await guest.subscribe("tta.live.model.>", cb=hear)
    await guest.flush()
    restarts = await system.kill("runner-victim")

    def words() -> list[str]:
        return [s.removeprefix("tta.live.model.") for s, _ in heard if s.endswith("drip_victim")]

    await kit.until(lambda: "recovered.drip_victim" in words())
    await guest.close()
    assert words().index("unavailable.drip_victim") < words().index("recovered.drip_victim")
    gone = next(b for s, b in heard if s == "tta.live.model.unavailable.drip_victim")
    assert (gone["model"], gone["reason"]) == ("drip@victim", "gone")
    await system.back("runner-victim", restarts)


async def nobody_hears(talk: Any, selector: str) -> bool:
    try:
        await talk.raw(b'{"run_id": "none"}', f"tta.ask.model.cancel.{selector}", timeout_s=0.2)
    except nats.errors.NoRespondersError:
        return True
    except TimeoutError:
        pass
    return False


async def test_kill_9_of_a_selector_the_other_serves(system: Any, talk: Any, kit: Any) -> None:
    prompt = "Selector dies."
    async with talk.stream(prompt, model="drip@1") as reading:
        await reading.until_delta(5)
        victim = reading.of("started")[0]["instance"]
        restarts = await system.kill(victim)
        await found(lambda: nobody_hears(talk, victim))  # before the server knows, it may still send there
        others = await asyncio.gather(*(talk.stream(f"Other {n}.", model="ok@1").__aenter__() for n in range(6)))
        for n, other in enumerate(others):
            end = await other.end()
            assert_whole(end, other, kit.script(f"Other {n}."))
            assert other.of("started")[0]["instance"] != victim
            await other.leave()
        kept = {"run_id": reading.of("started")[0]["run_id"], "text": reading.text}
        end = await talk.whole(prompt, model="ok@1", resume=kept)
        assert end["text"] == kit.script(prompt)
    await system.back(victim, restarts)
