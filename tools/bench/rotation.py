"""A provider's key is rotated again and again under load: no request fails, and none uses a key that was taken back.

Two providers share the key, so two processes switch together; one of them is restarted in the middle of each rotation,
at another moment each time, as `understudy restart` does it. After each `understudy keys rotate` the provider (the
fake, in a process of its own) refuses the old key, and its log is searched for requests that came with it later, taken
or not. A request that needed a second attempt counts as failed, since a failover would hide what is looked for; only
where the restarted process had not sent it, it is told apart (`moved_by_restarts`), as it carried no key. Both counts
are shown to find what is planted: a request while no key is taken, and one with the old key.

Then the other keys there are: those of conversations, which are destroyed by an erasure (`erasure.py`).
"""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import AnswerFailed, Client
from understudy.tools.bench.erasure import bars_of, erasure
from understudy.tools.bench.report import Bar, Result, bar, quantile
from understudy.tools.bench.stage import fake_provider, machine, running, topology_on
from understudy.tools.fake.exchange import key_hash
from understudy.tools.fake.script import Message, script

ROTATIONS, CALLERS = 5, 32
QUICK_ROTATIONS, QUICK_CALLERS = 2, 8
NAME, OTHER, MODELS = "fake", "other", ("ok", "ok-slow", "ok@other")
RESTARTED = MODELS[2]
LEAST_PER_CALLER = 5
"""Requests; with fewer the counts of those that failed say nothing."""
RESTART_S = (0.0, 0.5, 1.0, 1.5, 2.0)  # after a rotation began
BETWEEN_S = 0.5
PAUSE_S = 0.05  # a load that leaves the machine room for what is measured
PROMPT = "Caller {caller}, request {n}."
CLI = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
CLI_S = 60.0


@dataclass(slots=True)
class Seen:
    """What callers got."""

    ms: list[float] = field(default_factory=list[float])
    failed: list[str] = field(default_factory=list[str])
    moved: list[str] = field(default_factory=list[str])  # answered by another model, as the process was restarted
    key_ids: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class Rotated:
    """One rotation: the key that is not used any longer, since when (Unix ms), how long the command took."""

    old: str
    since_ms: float
    s: float


async def measure(quick: bool = False) -> Result:
    """Rotations under load, then what is planted; then an erasure."""
    rotations, callers = (QUICK_ROTATIONS, QUICK_CALLERS) if quick else (ROTATIONS, CALLERS)
    with tempfile.TemporaryDirectory(prefix="understudy-rotation-") as folder:
        async with fake_provider() as fake:
            result = await _measure(fake.url, Path(folder), rotations, callers)
    erased = await erasure()
    detail = {**result.detail, "erasure": msgspec.to_builtins(erased)}
    return msgspec.structs.replace(result, bars=(*result.bars, *bars_of(erased)), detail=detail)


async def _measure(url: str, folder: Path, rotations: int, callers: int) -> Result:
    state = folder / "state"
    state.mkdir()
    models: dict[str, dict[str, Any]] = {name: {} for name in MODELS} | {
        "ok@other": {"provider": OTHER, "fallbacks": ["ok"]}
    }
    keyed = {"kind": "openai", "url": url, "max_connections": 512, "key": {"vault": NAME}}
    topology = topology_on(url, models, providers={NAME: keyed, OTHER: keyed})
    (folder / "topology.yaml").write_bytes(msgspec.json.encode(topology))  # JSON is YAML
    provider = Provider(url, folder, _new_key())
    await provider.take()
    await provider.command("add", NAME, "--root", f"file:{folder / 'root.key'}")
    async with running(topology, state) as supervisor:
        seen, rotated = await _under_load(supervisor, provider, rotations, callers)
        used = later_uses(await provider.log(), rotated)
        refused = await provider.ask_with(rotated[-1].old) == 401
        planted_old = (later_uses(await provider.log(), rotated) - used) if refused else 0
        planted_failed = await _plant_refusal(supervisor, provider)
    return _result(seen, rotated, used, planted_old, planted_failed, callers)


class Provider:
    """The fake as its owner sees it: the key that it takes, and who came with which."""

    def __init__(self, url: str, folder: Path, key: str) -> None:
        self.url, self.key, self._root, self._folder = url, key, url.removesuffix("/v1"), folder

    async def take(self, *keys: str) -> None:
        """Take the key in use and these, and no others, from now on."""
        accepted = {str(n): key for n, key in enumerate((self.key, *keys))}
        await self._post({"accepted": accepted})

    async def take_none(self) -> None:
        """Refuse everybody."""
        await self._post({"accepted": {}})

    async def _post(self, body: dict[str, Any]) -> None:
        async with aiohttp.ClientSession() as http, http.post(f"{self._root}/control/keys", json=body) as answer:
            answer.raise_for_status()

    async def log(self) -> list[dict[str, Any]]:
        """Every request for an answer."""
        async with aiohttp.ClientSession() as http, http.get(f"{self._root}/control/log") as answer:
            return (await answer.json())["requests"]

    async def ask_with(self, key: str) -> int:
        """A request of somebody who has this key; the status of its answer."""
        body = {"model": "ok", "messages": [{"role": "user", "content": "planted"}]}
        fields = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}/chat/completions", json=body, headers=fields) as answer,
        ):
            return answer.status

    async def command(self, *words: str) -> None:
        """`understudy keys ...` as an operator gives it. Raises RuntimeError."""
        places = ("--state", str(self._folder / "state"), "--topology", str(self._folder / "topology.yaml"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLI, "keys", *words, *places,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(process.communicate(f"{self.key}\n".encode()), CLI_S)
        if process.returncode != 0:
            raise RuntimeError(f"understudy keys {words[0]}: {said.decode()}")


def _new_key() -> str:
    return f"sk-bench-{secrets.token_hex(16)}"


def later_uses(log: list[dict[str, Any]], rotated: list[Rotated]) -> int:
    """Requests that came with a key after its rotation had ended, taken or not."""
    since = {key_hash(one.old): one.since_ms for one in rotated}
    return sum(r["started_ms"] > since.get(r["key"], float("inf")) for r in log)


# --- load ------------------------------------------------------------------------------------------------------------


async def _under_load(
    supervisor: Supervisor, provider: Provider, rotations: int, callers: int
) -> tuple[Seen, list[Rotated]]:
    seen, stop, rotated = Seen(), asyncio.Event(), list[Rotated]()
    tasks = [asyncio.create_task(_call(supervisor.url, n, seen, stop)) for n in range(callers)]
    try:
        for n in range(rotations):
            await asyncio.sleep(BETWEEN_S)
            restarting = asyncio.create_task(_restart(supervisor, RESTART_S[n % len(RESTART_S)]))
            rotated.append(await _rotate(provider))
            await restarting
        await asyncio.sleep(BETWEEN_S)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    return seen, rotated


async def _restart(supervisor: Supervisor, after_s: float) -> None:
    """The process of one of the two providers, which drains first; until the next one is ready."""
    await asyncio.sleep(after_s)
    process = next(p for p in supervisor.processes if p.provider == OTHER)
    before, until = process.started, time.monotonic() + CLI_S
    await supervisor.end(process, again=True)
    while not (process.ready and process.started > before):
        if time.monotonic() > until:
            raise RuntimeError("the restarted process does not get ready")
        await asyncio.sleep(0.02)


async def _rotate(provider: Provider) -> Rotated:
    """As its owner does: make a new key at the provider, rotate, take the old one back."""
    old, provider.key = provider.key, _new_key()
    await provider.take(old)
    began = time.monotonic()
    await _taken(provider)
    done = Rotated(old, time.time() * 1000, time.monotonic() - began)
    await provider.take()
    return done


async def _taken(provider: Provider) -> None:
    """Where a process is being started, the new key waits, and the owner goes on with it. Raises RuntimeError."""
    words, until = ("rotate", NAME), time.monotonic() + CLI_S
    while True:
        try:
            return await provider.command(*words)
        except RuntimeError as error:
            if "--resume" not in str(error) or time.monotonic() > until:
                raise
        words = ("rotate", NAME, "--resume")
        await asyncio.sleep(BETWEEN_S)


async def _call(url: str, caller: int, seen: Seen, stop: asyncio.Event) -> None:
    """One request after the other."""
    async with await Client.connect(url, name=f"caller-{caller}") as client:
        n = 0
        while not stop.is_set():
            n += 1
            await _one(client, PROMPT.format(caller=caller, n=n), MODELS[caller % len(MODELS)], seen)
            await asyncio.sleep(PAUSE_S)


async def _one(client: Client, prompt: str, model: str, seen: Seen) -> None:
    began = time.monotonic()
    try:
        answer = await client.generate(prompt, model=model)
    except AnswerFailed as failure:
        seen.failed.append(failure.code)
        return
    whole = answer.text in (None, "".join(script([Message("user", prompt)], 48)))
    first = answer.attempts[0]
    if not whole:
        seen.failed.append("wrong text")
    elif len(answer.attempts) != 1 and model == RESTARTED and first.key_id is None and first.status is None:
        seen.moved.append(first.outcome)
    elif len(answer.attempts) != 1:
        seen.failed.append(f"second attempt, after {first.outcome}")
    seen.key_ids |= {a.key_id for a in answer.attempts if a.key_id is not None}
    seen.ms.append((time.monotonic() - began) * 1000)


# --- what is planted -------------------------------------------------------------------------------------------------


async def _plant_refusal(supervisor: Supervisor, provider: Provider) -> int:
    """A request while the provider takes no key: as many as the same count then finds."""
    seen = Seen()
    await provider.take_none()
    async with await Client.connect(supervisor.url, name="planted") as client:
        await _one(client, "planted", "ok", seen)
    return len(seen.failed)


def _result(
    seen: Seen, rotated: list[Rotated], used: int, planted_old: int, planted_failed: int, callers: int
) -> Result:
    bars: tuple[Bar, ...] = (
        bar("failed_requests", len(seen.failed), "requests", 0),
        bar("old_key_accepted", used, "requests", 0),
        bar("planted_failed", planted_failed, "requests", 1, better="higher"),
        bar("planted_old_key", planted_old, "requests", 1, better="higher"),
        bar("rotations", len(rotated), "times"),
        bar("requests", len(seen.ms), "requests", LEAST_PER_CALLER * callers, better="higher"),
        bar("p99_ms", quantile(seen.ms, 0.99), "ms"),
        bar("rotate_s", max(one.s for one in rotated), "s"),
    )
    detail = {
        "callers": callers,
        "restarts": len(rotated),
        "moved_by_restarts": seen.moved[:20],
        "failed": seen.failed[:20],
        "key_ids_that_served": sorted(seen.key_ids),
        **machine(),
    }
    return Result(bench="rotation", bars=bars, detail=detail)
