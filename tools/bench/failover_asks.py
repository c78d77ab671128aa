"""The asks of `bench failover` as a caller sees them, and the judgement of each against its case."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import aiohttp
import msgspec

from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import AnswerFailed, Client, turns
from understudy.messages.generate import Delta, Failed, Finished, Generate, Seam
from understudy.messages.wire import decode, encode
from understudy.tools.bench.failover_cases import CHUNKS, Case
from understudy.tools.fake.script import Message, script

RESETS = 3
LEFT_ALONE_S = 10.0
BACK_S = 30.0


class Seen(msgspec.Struct, kw_only=True):
    """One ask as the caller saw it. `held`: what a reader of the stream holds after the seam rule."""

    ms: float
    end: str
    attempts: tuple[str, ...]
    text: str = ""
    finish: str = ""
    held: str | None = None
    seams: tuple[str, ...] = ()
    seam_count: int = 0
    trimmed_chars: int = 0


def whole(prompt: str) -> str:
    """The fake's script for a prompt."""
    return "".join(script([Message("user", prompt)], CHUNKS))


async def ask(client: Client, model: str, prompt: str, mode: str) -> Seen:
    """Ask streamed (`s`) or for one whole reply (`w`)."""
    return await (_streamed(client, model, prompt) if mode == "s" else _single(client, model, prompt))


async def _streamed(client: Client, model: str, prompt: str) -> Seen:
    answer, began = client.generate(prompt, model=model), time.perf_counter()
    seams: list[Seam] = []
    try:
        async for piece in answer:
            if isinstance(piece, Seam):
                seams.append(piece)
        assert answer.finished is not None
        end: Finished | Failed = answer.finished
    except AnswerFailed as failure:
        end = failure.failed
    seen = _seen(end, (time.perf_counter() - began) * 1000)
    seen.held, seen.seams = answer.text, tuple(seam.mode for seam in seams)
    seen.trimmed_chars = sum(seam.trimmed_chars for seam in seams)
    return seen


async def _single(client: Client, model: str, prompt: str) -> Seen:
    body, began = encode(Generate(messages=turns(prompt), model=model)), time.perf_counter()
    received = await client.bus.request(f"{client.app}.ask.model.generate", body, timeout_s=30)
    end = decode(received.payload)
    assert isinstance(end, Finished | Failed)
    return _seen(end, (time.perf_counter() - began) * 1000)


def _seen(end: Finished | Failed, ms: float) -> Seen:
    attempts = tuple(a.outcome for a in end.attempts)
    if isinstance(end, Failed):
        return Seen(ms=ms, end=end.code, attempts=attempts)
    text, finish = end.text or "", end.finish_reason
    return Seen(ms=ms, end="finished", attempts=attempts, text=text, finish=finish, seam_count=end.seams)


async def close_breaker(client: Client, model: str) -> None:
    """A healthy answer of the faulty model itself; every other request of it is one. Its runner says busy while
    its provider wants to be left alone."""
    until, resets = time.monotonic() + LEFT_ALONE_S, 0
    while resets < RESETS and time.monotonic() < until:
        attempts = (await ask(client, model, "Be well.", "w")).attempts
        if len(attempts) == 1:
            return
        resets += attempts[0] != "busy"
        await asyncio.sleep(0.05 if attempts[0] == "busy" else 0.0)
    raise RuntimeError(f"{model} does not answer between two faults")


def wrong(case: Case, prompt: str, seen: Seen) -> list[str]:
    """What was not as it must be."""
    found: list[str] = []
    if seen.end != case.end:
        found.append("end")
    if len(seen.attempts) != case.attempts:
        found.append("attempts")
    if seen.end == "finished" and case.end == "finished":
        if seen.finish != case.finish:
            found.append("finish")
        if (case.whole and seen.text != whole(prompt)) or not seen.text or seen.held not in (None, seen.text):
            found.append("text")
        if case.whole and len(seen.text) < len(whole(prompt)):
            found.append("truncated")
    modes = (case.seam,) if case.seam else ()
    if seen.seam_count != len(modes) or (seen.held is not None and seen.seams != modes):
        found.append("seam")
    return found


# --- kills and stops -----------------------------------------------------------------------------------------------


async def strike(supervisor: Supervisor, client: Client, provider: str, number: int) -> dict[str, Any]:
    """Signal the speaking runner in mid-text; milliseconds until the next model was asked.

    That is when its request reached the provider (the fake's own log, same clock), so nothing is subtracted: it holds
    the way over the bus and HTTP, and no first token.
    """
    await _until_back(client, "ok-slow@frail")
    answer = client.generate("Go on.", model="ok-slow@frail", task="patient")
    struck_ms, pid, seams = 0.0, 0, list[str]()
    async for piece in answer:
        if isinstance(piece, Delta) and piece.seq == 5:
            pid = next(p.pid for p in supervisor.processes if p.seat.instance == "runner-frail")
            struck_ms = time.time() * 1000
            os.kill(pid, number)
        if isinstance(piece, Seam):
            seams.append(piece.mode)
    if number == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)
    async with aiohttp.ClientSession() as session, session.get(provider.removesuffix("/v1") + "/control/log") as got:
        log = (await got.json())["requests"]
    asked = [one["started_ms"] for one in log if one["model"] == "ok-slow@firm" and one["started_ms"] > struck_ms]
    noticed = min(asked) - struck_ms if asked and struck_ms else float("inf")
    return {"ms": round(noticed, 2), "right": answer.text == whole("Go on."), "seams": seams}


async def _until_back(client: Client, model: str) -> None:
    """Wait until a model is used again (bounded)."""
    until = time.monotonic() + BACK_S
    while time.monotonic() < until:
        card = next(c for c in (await client.models()).models if c.id == model)
        if card.loaded and card.status != "unavailable":
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{model} did not come back")
