"""A whole running system per test module: the fake provider, a supervisor in this process, its real child processes.

What asks here knows nats-py and json and nothing of ours, as any other component would.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import nats
import pytest
import pytest_asyncio
import yaml

from tests.system.expected import FIRST, MID, ODD, model_of
from tests.waiting import until
from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import read
from understudy.bus.client import Client
from understudy.messages.wire import encode
from understudy.tools.fake.script import Fault, Message, built_in_faults, script
from understudy.tools.fake.server import FakeProvider

ROOT = Path(__file__).resolve().parents[2]
KEY = "canary-key-5a1f"
GENERATE = "tta.ask.model.generate"


def alive(pid: int) -> bool:
    """Is there a process of this id that is not only waiting to be reaped?"""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


# --- asking: nats-py and json only ---------------------------------------------------------------------------------


class Stream:
    """A streamed request on an inbox of its own, read by the one rule for readers."""

    def __init__(self, nc: Any, fields: dict[str, Any]) -> None:
        self.nc, self.fields = nc, fields
        self.pieces: list[dict[str, Any]] = []
        self.kept: list[tuple[int, str]] = []
        self.inbox = ""
        self.sub: Any = None

    async def __aenter__(self) -> Self:
        self.inbox = f"_INBOX.test.{uuid.uuid4().hex}"
        self.sub = await self.nc.subscribe(self.inbox)
        await self.nc.publish(GENERATE, json.dumps({**self.fields, "stream": True}).encode(), reply=self.inbox)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.sub is not None and not self.nc.is_closed:
            await self.sub.unsubscribe()

    async def leave(self) -> None:
        sub, self.sub = self.sub, None
        await sub.unsubscribe()
        await self.nc.flush()

    async def next(self, timeout_s: float = 8.0) -> dict[str, Any]:
        msg = await self.sub.next_msg(timeout=timeout_s)
        piece = json.loads(msg.data)
        self.pieces.append(piece)
        match piece["type"]:
            case "model.seam.v1":
                self.kept = [one for one in self.kept if one[0] <= piece["keep_seq"]]
            case "model.delta.v1":
                self.kept.append((piece["seq"], piece["text"]))
            case _:
                pass
        return piece

    async def until_delta(self, count: int) -> None:
        while len(self.of("delta")) < count:
            piece = await self.next()
            assert not self.is_end(piece), piece

    async def end(self) -> dict[str, Any]:
        while True:
            piece = await self.next()
            if self.is_end(piece):
                return piece

    @staticmethod
    def is_end(piece: dict[str, Any]) -> bool:
        return piece["type"] in ("model.finished.v1", "model.failed.v1")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [p for p in self.pieces if p["type"] == f"model.{kind}.v1"]

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.kept)


def ask_for(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], **fields}


# --- the topology --------------------------------------------------------------------------------------------------

DOTTED = "ok@org.x/model-name:v1.5"


def faults() -> dict[str, Fault]:
    """Faults that strike in the middle get a pace, so that text is out before they do."""
    built = built_in_faults()
    paced = {n: {f: getattr(built[n], f) for f in Fault.__struct_fields__} | {"gap_ms": 4} for n in MID}
    return {
        **{name: Fault(**fields) for name, fields in paced.items()},
        "drip": Fault(gap_ms=20),
        "crawl": Fault(gap_ms=20, chunks=2000),
        "echo": Fault(continues="restart", instructed=True, instructed_continues="repeat"),
    }


def models() -> dict[str, dict[str, Any]]:
    def model(provider: str = "lab", **more: Any) -> dict[str, Any]:
        return {"provider": provider, "continues": "native", "quality": {"default": 0.3}, **more}

    names = [*FIRST, *MID, *ODD, "length", "refusal"]
    found = {model_of(n, "1", stream): model(fallbacks=["ok@next"]) for n in names for stream in (True, False)}
    found |= {f"{n}@plain": model(fallbacks=["ok@plain"]) for n in MID}
    found |= {f"{n}@1": model(fallbacks=["ok@next"]) for n in ("400", "413", "422", "context-too-long")}
    return found | {
        "ok@next": model("spare", slots=64),
        "ok@plain": model("spare", continues="none"),
        "ok@large": model("spare", context_tokens=100_000),
        "context-too-long@2": model(fallbacks=["ok@next", "ok@large"]),
        "cut@instructed": model(fallbacks=["instructed@1"]),
        "cut@echo": model(fallbacks=["echo@1"]),
        "instructed@1": model("spare", continues="instructed"),
        "echo@1": model("spare", continues="instructed"),
        "cut@twice": model(fallbacks=["cut@again", "ok@next"]),
        "cut@again": model("spare"),
        "cut@alone": model(),
        "cut@whole": model(fallbacks=["ok@next"]),
        "cut@last": model(fallbacks=["ok@next"]),
        "500@alone": model(),
        "500@best": model(quality={"default": 0.1, "ranked": 1.0}),
        "ok@best": model("spare", quality={"default": 0.1, "ranked": 0.9}),
        "ok@nobody": model("nobody", fallbacks=["ok@next"]),
        "crawl@1": model(slots=32),
        "drip@1": model(slots=32),
        "drip@victim": model("victim", fallbacks=["ok@next"], slots=32),
        "drip@victim2": model("victim", fallbacks=["ok@plain"], slots=32),
        DOTTED: model(),
    }


def topology_of(url: str, key_file: str, **changes: Any) -> dict[str, Any]:
    provider = {"kind": "openai", "url": url, "key": {"file": key_file}}
    return {
        "version": 1,
        "bus": {"port": 0},
        "graph": {"uri": "off"},
        "providers": {
            "lab": provider,
            "spare": dict(provider),
            "victim": dict(provider),
            "nobody": {"kind": "openai", "url": "http://127.0.0.1:9/v1"},
        },
        "models": models(),
        "aliases": {"narrator": "ok@1"},
        "latency": {
            "quick": {"deadline_ms": 20_000, "first_token_ms": 1_200, "stall_ms": 900},
            "patient": {"deadline_ms": 20_000, "first_token_ms": 10_000, "stall_ms": 10_000},
        },
        "tasks": {
            "general": {"latency": "quick", "max_tokens": 4_000},
            "patient": {"latency": "patient", "max_tokens": 4_000},
            "ranked": {"latency": "quick", "max_tokens": 200, "fallbacks": ["ok@best"]},
        },
        "policy": {"failover_minimum": 1_000},
        "actors": yaml.safe_load((ROOT / "topology.yaml").read_text())["actors"],
        **changes,
    }


# --- the system ----------------------------------------------------------------------------------------------------


async def cli(*words: str) -> tuple[int, str, str]:
    code = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


class System:
    """The running whole and what tests want of it."""

    def __init__(self, fake: FakeProvider, state: Path, topology: dict[str, Any]) -> None:
        self.fake, self.state, self.topology = fake, state, topology
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.pids: set[int] = set()
        self.file = state / "topology.yaml"
        self.file.write_text(yaml.safe_dump(topology))
        self.supervisor = Supervisor(read(self.file), state, state, self._say, file=self.file)
        self.running: asyncio.Task[None] | None = None

    def _say(self, word: str, **facts: Any) -> None:
        self.said.append((word, facts))
        if facts.get("pid"):
            self.pids.add(facts["pid"])

    async def start(self) -> Self:
        self.running = asyncio.create_task(self.supervisor.run())
        await until(lambda: self.supervisor.ready.is_set() or self.running.done(), 25)
        if self.running.done():
            self.running.result()
        return self

    async def stop(self) -> None:
        self.supervisor.stop.set()
        assert self.running is not None
        await self.running

    @property
    def url(self) -> str:
        return self.supervisor.url

    def process(self, instance: str) -> Any:
        return next(p for p in self.supervisor.processes if p.seat.instance == instance)

    async def kill(self, instance: str) -> int:
        """SIGKILL, without waiting."""
        process = self.process(instance)
        pid, before = process.pid, process.restarts
        assert pid
        os.kill(pid, 9)
        return before

    async def back(self, instance: str, restarts: int) -> None:
        """The process was started again and is ready."""
        process = self.process(instance)
        await until(lambda: process.restarts > restarts and process.ready, 15)

    async def cli(self, *words: str) -> tuple[int, str, str]:
        """The real command line in a process of its own: exit code, output, errors."""
        return await cli(*words, "--state", str(self.state))

    async def operator(self) -> Client:
        return await Client.connect(self.url, user="operator", password=self.supervisor.operator_password)

    async def events(self) -> list[dict[str, Any]]:
        async with await self.operator() as client:
            return [json.loads(encode(c.event)) | {"seq": c.seq} async for c in client.events() if c.event]

    async def outcomes(self, run_id: str) -> list[dict[str, Any]]:
        return [e for e in await self.events() if e["type"] == "request.ended.v1" and e["run_id"] == run_id]

    def upstream(self, prompt: str) -> list[Any]:
        """The fake provider's requests for a prompt."""
        return [s for s in self.fake.log if s.request and any(m.text() == prompt for m in s.request.messages)]

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(x) for x in (self.state / "actors.log").read_text().splitlines() if x.startswith("{")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(faults(), require_key=KEY) as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    state = tmp_path_factory.mktemp("state")
    (state / "key").write_text(KEY + "\n")
    running = await System(fake, state, topology_of(fake.url, "key")).start()
    try:
        yield running
    finally:
        await running.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nc(system: System) -> AsyncIterator[Any]:
    """A guest: any component without a name."""
    connection = await nats.connect(system.url)
    yield connection
    await connection.close()


class Talk:
    """Ask as a component does."""

    def __init__(self, nc: Any) -> None:
        self.nc = nc

    async def raw(self, payload: bytes, subject: str = GENERATE, timeout_s: float = 10.0) -> dict[str, Any]:
        return json.loads((await self.nc.request(subject, payload, timeout=timeout_s)).data)

    async def whole(self, prompt: str, **fields: Any) -> dict[str, Any]:
        return await self.raw(json.dumps(ask_for(prompt, **fields)).encode())

    def stream(self, prompt: str, **fields: Any) -> Stream:
        return Stream(self.nc, ask_for(prompt, **fields))

    async def both(self, stream: bool, prompt: str, **fields: Any) -> tuple[dict[str, Any], Stream | None]:
        """Streamed or not: the end, and what was read before it."""
        if not stream:
            return await self.whole(prompt, **fields), None
        async with self.stream(prompt, **fields) as reading:
            return await reading.end(), reading


@pytest.fixture
def talk(nc: Any) -> Talk:
    return Talk(nc)


class Kit:
    """Helpers that a test module cannot import from here."""

    until = staticmethod(until)
    alive = staticmethod(alive)
    ask_for = staticmethod(ask_for)
    cli = staticmethod(cli)
    topology_of = staticmethod(topology_of)
    System, Stream, Talk, KEY = System, Stream, Talk, KEY
    clock = staticmethod(time.monotonic)

    @staticmethod
    def script(prompt: str, tokens: int = 48) -> str:
        return "".join(script([Message("user", prompt)], tokens))


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit
