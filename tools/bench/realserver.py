"""Servers that nobody here wrote, each in every dialect that it speaks, behind the whole system.

    understudy bench realserver                # what is at hand; the rest is named, with the reason
    understudy bench realserver --serve DIR    # a virtual environment with `transformers serve`, kept between runs

A real Ollama is looked for beside the repository (`../shared/bin`); `transformers serve` is installed into a throw-away
environment (or DIR), which takes minutes the first time. Asked of each dialect: the server's own list, as
`ask.model.list` shows it; an answer in pieces with its tokens counted; a cancelled one, after which the server answers
again; a text that a broken model of another server began; and one that breaks off because the server is killed, which
the next model ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, NamedTuple

from understudy.bus.client import AnswerFailed, Client
from understudy.messages.generate import Delta, Finished, Seam
from understudy.tools.bench import realserver_lists as lists
from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.stage import fake_provider, running, topology_on

BESIDE = Path("../shared/bin")
LEAD, LEAD_NAME = Path("tools/tiny/demo/lead"), "understudy/lead"
START_S, INSTALL_S = 120.0, 900.0
TOKENS, LONG = 16, 400  # the least that the Responses dialect asks for
CONTROL = "no-usage@fake"
"""A model of the fake that says no usage: the same check must find that."""
CHECKS = ("listed", "streamed", "cancelled", "went_on", "killed")


class Server(NamedTuple):
    """A server that runs: its dialects, the name of its model, and its process."""

    name: str
    root: str
    model: str
    dialects: tuple[str, ...]
    pid: int


class Missing(Exception):
    """A server that is not at hand, and why."""


async def measure(serve: str = "") -> Result:
    """All servers that are at hand. `serve`: see the module."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    missing: dict[str, str] = {}
    for name, start in (("ollama", ollama()), ("transformers", transformers(serve))):
        try:
            async with start as server:
                found[name] = await _judge(server)
        except Missing as why:
            missing[name] = str(why)
    controls = [word for dialects in found.values() for word in dialects.pop("control").values()]
    cells = [word for dialects in found.values() for cell in dialects.values() for word in cell.values()]
    bars = (
        bar("servers", len(found), "servers", None, 2, "higher"),
        bar("dialects", sum(map(len, found.values())), "dialects"),
        bar("failures", sum(word != "ok" for word in cells), "checks", 0),
        bar("controls_found", sum(word != "ok" for word in controls), "faults", 2 * len(found), None, "higher"),
    )
    return Result(bench="realserver", bars=bars, detail={"found": found, "missing": missing})


# --- the servers ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def ollama() -> AsyncGenerator[Server, None]:
    """A real Ollama with a tiny random model. Raises Missing."""
    program, maker = BESIDE / "ollama", BESIDE / "tiny_gguf.py"
    if not program.exists():
        raise Missing(f"no {program}: a real Ollama is not at hand")
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        address = f"127.0.0.1:{_free_port()}"
        own = {"HOME": folder, "OLLAMA_HOST": address, "OLLAMA_MODELS": f"{folder}/models"}
        environment = {"PATH": os.environ["PATH"], **own}
        made = await _run([sys.executable, str(maker.resolve()), "tiny.gguf", "7"], folder, environment)
        if made:
            raise Missing(f"the tiny model cannot be made (`pip install gguf`): {made}")
        await asyncio.to_thread(Path(folder, "Modelfile").write_text, "FROM ./tiny.gguf\n")
        process = await _start([str(program.resolve()), "serve"], folder, environment)
        try:
            await _answers(process, f"http://{address}/api/version")
            await _run([str(program.resolve()), "create", "tiny", "-f", "Modelfile"], folder, environment)
            yield Server("ollama", f"http://{address}", "tiny", tuple(lists.PATHS), process.pid)
        finally:
            await _end(process)


@contextlib.asynccontextmanager
async def transformers(kept: str) -> AsyncGenerator[Server, None]:
    """`transformers serve` with a model of the demo, from an environment of its own. Raises Missing."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        environment, port = Path(kept or f"{folder}/env"), _free_port()
        if not (environment / "bin" / "transformers").exists():
            await _install(environment)
        cache = Path(folder, "hub")
        await asyncio.to_thread(lists.into_hub, LEAD, cache, LEAD_NAME)
        own = {"HOME": folder, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
        command = [str(environment / "bin" / "transformers"), "serve", LEAD_NAME]
        command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        process = await _start(command, folder, {"PATH": os.environ["PATH"], **own})
        try:
            await _answers(process, f"http://127.0.0.1:{port}/v1/models")
            dialects = ("openai", "openai_responses")
            yield Server("transformers", f"http://127.0.0.1:{port}", LEAD_NAME, dialects, process.pid)
        finally:
            await _end(process)


async def _install(environment: Path) -> None:
    """Torch first and alone, as `make` does."""
    print("installing transformers[serving] into a throw-away environment (minutes)", file=sys.stderr)
    python = str(environment / "bin" / "python")
    steps = ([sys.executable, "-m", "venv", str(environment)],
             [python, "-m", "pip", "install", "-q", "torch==2.13.0"],
             [python, "-m", "pip", "install", "-q", "transformers[serving]>=5.23,<5.24"])  # fmt: skip
    for step in steps:
        said = await _run(step, ".", dict(os.environ), INSTALL_S)
        if said:
            raise Missing(f"`transformers serve` cannot be installed: {said}")


async def _run(command: list[str], folder: str, environment: dict[str, str], limit_s: float = 120.0) -> str:
    """Run to the end; '' if it went well, else the last line of what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), limit_s)
    lines = out.decode(errors="replace").strip().splitlines() or ["no word"]
    return "" if process.returncode == 0 else lines[-1][:200]


async def _start(command: list[str], folder: str, environment: dict[str, str]) -> asyncio.subprocess.Process:
    """A server in a session of its own: it may start processes that must end with it."""
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _answers(process: asyncio.subprocess.Process, url: str) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.returncode is None:
        try:
            await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=2).close())
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise Missing("it was started and does not answer")


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# --- the questions -------------------------------------------------------------------------------------------------


def _topology(server: Server, fake: str) -> Any:
    """Per dialect the real model, alone and with one behind it, and a broken one of the fake before it."""
    facts = {"name": server.model, "continues": "instructed", "context_tokens": 512, "slots": 8}
    providers: dict[str, Any] = {"fake": {"kind": "openai", "url": fake}}
    providers |= lists.providers(server.root, server.dialects, fake)
    models: dict[str, dict[str, Any]] = {"restart@fake": {}, CONTROL: {}}
    for dialect in server.dialects:
        providers[dialect] = {"kind": dialect, "url": server.root + lists.PATHS[dialect]}
        models[f"real@{dialect}"] = {"provider": dialect, **facts}
        models[f"killed@{dialect}"] = {"provider": dialect, **facts, "fallbacks": ["restart@fake"]}
        models[f"cut@{dialect}"] = {"fallbacks": [f"real@{dialect}"]}
    patient = {"deadline_ms": 60_000, "first_token_ms": 30_000, "stall_ms": 10_000}
    return topology_on(
        fake,
        models,
        providers=providers,
        latency={"interactive": patient},
        tasks={"general": {"latency": "interactive", "max_tokens": TOKENS}},
        policy={"failover_minimum": 1_000},
    )


async def _judge(server: Server) -> dict[str, dict[str, str]]:
    """What each dialect came to: `ok`, or what was seen instead."""
    async with (
        fake_provider() as (url, _),
        running(_topology(server, url)) as supervisor,
        await Client.connect(supervisor.url) as client,
    ):
        found = {dialect: {"listed": await _listed(client, server, dialect)} for dialect in server.dialects}
        control = await lists.listed(client, lists.ELSEWHERE, server.model, await lists.said(server.root, "openai"))
        for dialect in server.dialects:
            found[dialect] |= await _alive(client, dialect)
        ended = await asyncio.gather(*(_killed(client, server, dialect) for dialect in server.dialects))
        for dialect, word in zip(server.dialects, ended, strict=True):
            found[dialect]["killed"] = word
        found["control"] = {"listed": control, "streamed": await _counted(client, CONTROL)}
    return found


async def _listed(client: Client, server: Server, dialect: str) -> str:
    return await lists.listed(client, dialect, server.model, await lists.said(server.root, dialect))


async def _alive(client: Client, dialect: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, check in (("streamed", _streamed), ("cancelled", _cancelled), ("went_on", _went_on)):
        try:
            found[name] = await check(client, dialect)
        except AnswerFailed as failure:
            tried = ", ".join(f"{a.model} {a.outcome}" for a in failure.failed.attempts)
            found[name] = f"{failure.code} ({tried})"
    return found


async def _streamed(client: Client, dialect: str) -> str:
    return await _counted(client, f"real@{dialect}")


async def _counted(client: Client, model: str) -> str:
    """In pieces, its tokens counted by the server, and called cut where the limit has cut it."""
    pieces = [
        piece async for piece in client.generate("Which way is the harbour, and why?", model=model, temperature=0.0)
    ]
    end = pieces[-1]
    assert isinstance(end, Finished)
    deltas = [piece for piece in pieces if isinstance(piece, Delta)]
    if end.usage.estimated or end.usage.completion_tokens != TOKENS or not end.usage.prompt_tokens:
        return f"usage {end.usage}"
    if end.finish_reason != "length" or end.text != "".join(piece.text for piece in deltas):
        return f"finish {end.finish_reason}"
    return "ok" if len(deltas) > 2 else f"{len(deltas)} pieces"


async def _cancelled(client: Client, dialect: str) -> str:
    """Who leaves after the first word leaves nothing behind that would keep others waiting."""
    answer = client.generate("Tell me all.", model=f"real@{dialect}", max_tokens=LONG, temperature=0.0)
    async for piece in answer:
        if isinstance(piece, Delta):
            break
    end = await client.generate("Look around.", model=f"real@{dialect}", temperature=0.0)
    return "ok" if end.attempts[-1].outcome == "ok" else end.attempts[-1].outcome


async def _went_on(client: Client, dialect: str) -> str:
    """A text that another server's model began and broke."""
    answer = client.generate("Walk north.", model=f"cut@{dialect}", temperature=0.0, max_tokens=200)
    seams = [piece.mode async for piece in answer if isinstance(piece, Seam)]
    end = answer.finished
    assert end is not None
    tried = [attempt.outcome for attempt in end.attempts]
    right = seams == ["continue"] and tried == ["broken_stream", "ok"] and end.text == answer.text
    return "ok" if right else f"{tried}, seams {seams}"


async def _killed(client: Client, server: Server, dialect: str) -> str:
    """The server is killed while it speaks; the next model begins anew, visibly, and ends."""
    answer = client.generate("Go on and on.", model=f"killed@{dialect}", max_tokens=LONG, temperature=0.0)
    seams = list[str]()
    try:
        async for piece in answer:
            if isinstance(piece, Delta) and not seams:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
            if isinstance(piece, Seam):
                seams.append(piece.mode)
    except AnswerFailed as failure:
        return failure.code
    end = answer.finished
    assert end is not None
    model = end.attempts[-1].model
    return "ok" if model == "restart@fake" and end.text == answer.text else f"ended by {model}, seams {seams}"


def explain(result: Result) -> str:
    """What each dialect came to, for people."""
    lines = [f"{'server':14} {'dialect':18} " + " ".join(f"{check.replace('_', ' '):12}" for check in CHECKS)]
    for name, dialects in result.detail["found"].items():
        for dialect, cell in dialects.items():
            words = " ".join(f"{cell[check]:12}" for check in CHECKS)
            lines.append(f"{name:14} {dialect:18} {words}")
    lines += [f"{name:14} skipped: {why}" for name, why in result.detail["missing"].items()]
    return "\n".join(lines)
