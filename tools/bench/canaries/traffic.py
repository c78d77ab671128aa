"""What happens in the house: every fault in every dialect, refused input, kills and crashes in mid-answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import nats
from nats import errors

from understudy.bus.client import Client
from understudy.bus.port import Received
from understudy.messages.safety import Judge, Judged
from understudy.messages.topology import Topology
from understudy.messages.wire import decode_as, encode
from understudy.tools.bench.canaries import laced
from understudy.tools.bench.canaries.house import House
from understudy.tools.bench.providers_cases import NEXT, NEXT_VECTORS, PATHS
from understudy.tools.bench.stage import topology_on

TOGETHER = 10
LIMIT_MS, ASK_S = 900, 25.0
STREAMS = 6
"""Answers under way at each strike."""
BREAKS = ("selector-1", "selector-2", "cost_ledger-1", "health_tracker-1", "model_manager-1")
SHORT_S = 8.0
ROOM_BYTES = 4 * 2**20
"""Address space that a process is left with when it is to run out of memory."""


@dataclass(slots=True)
class Canaries:
    """The words to use: `text`, `stored`, `junk`; ids of the caller; keys by provider."""

    text: str
    stored: str
    junk: str
    user: str
    conversation: str
    request: str
    keys: dict[str, str] = field(default_factory=dict[str, str])


def topology(root: str, dialects: tuple[str, ...], names: tuple[str, ...]) -> Topology:
    """A provider per dialect with a key of the vault, one of them elsewhere; a model per fault and dialect."""
    providers: dict[str, dict[str, Any]] = {}
    models: dict[str, dict[str, Any]] = {}
    chat = {"capabilities": ["chat", "tools", "json"], "context_tokens": 10_000_000, "continues": "native"}
    for dialect in dialects:
        url = root + PATHS[dialect]
        providers[dialect] = {"kind": dialect, "url": url, "key": {"vault": dialect}, "max_connections": 256}
        after, vectors = _next(NEXT, dialect, dialects), _next(NEXT_VECTORS, dialect, dialects)
        continues = "instructed" if dialect == "openai_responses" else "native"
        for name in (*names, "able", "drip"):
            behind = {"fallbacks": [f"able@{after}"]} if name != "able" else {}
            facts = {"provider": dialect, "slots": 256, **behind}
            if not playable(name, dialect):
                continue
            if not name.startswith("embed"):
                models[f"{name}@{dialect}"] = {**chat, **facts, "continues": continues}
            else:
                facts |= {"capabilities": ["embeddings"], "fallbacks": [f"embed-ok@{vectors}"]}
                models[f"{name}@{dialect}"] = facts
        if dialect != "anthropic":
            models[f"embed-ok@{dialect}"] = {"provider": dialect, "name": "ok", "capabilities": ["embeddings"]}
    models["ok@paid"] = {**chat, "provider": "openrouter", "usd_per_mtok_out": 1.0, "fallbacks": ["able@openai"]}
    providers["openrouter"] |= {"location": "external", "catalogue": {"refresh_s": 1, "admit": {"ids": ["lab/*"]}}}
    limits = {"deadline_ms": 9_000, "first_token_ms": LIMIT_MS, "stall_ms": LIMIT_MS}
    return topology_on(
        root,
        models,
        providers=providers,
        latency={"interactive": limits},
        policy={"failover_minimum": 10_000},
        consent={"text": "Your words go to a company."},
        budgets={"each-user": {"scope": "user", "window": "day", "limit_usd": "0.001"}},
    )


def playable(name: str, dialect: str) -> bool:
    """Not every fault has a form in every dialect: Anthropic has no vectors, Ollama's arguments are JSON values."""
    return not ((dialect == "anthropic" and name.startswith("embed")) or (name, dialect) == ("tool-bad-json", "ollama"))


def _next(after: dict[str, str], dialect: str, dialects: tuple[str, ...]) -> str:
    """Whose model stands behind, among those that play."""
    found = after.get(dialect, "openai")
    return found if found in dialects and found != "anthropic" else "openai"


class Traffic:
    """Asks of a guest, in plain JSON, with canaries in fields and headers. `said` counts what came of them."""

    def __init__(self, house: House, canaries: Canaries, client: Any, operator: Client) -> None:
        self.said: Counter[str] = Counter()
        self.answers: list[bytes] = []
        self._house, self._words, self._nc, self._operator = house, canaries, client, operator
        self._numbers = count(1)

    @classmethod
    async def begin(cls, house: House, canaries: Canaries) -> Traffic:
        """Connect; somebody answers `safety.judge`; the user has agreed that their words leave."""
        operator = await house.operator()
        client = await nats.connect(house.run_file()["url"], max_reconnect_attempts=-1, error_cb=_ignore)

        def judge(received: Received) -> None:
            decode_as(Judge, received.payload)
            operator.bus.send(received.reply, encode(Judged(level=0)))

        await operator.bus.subscribe("tta.ask.safety.judge", judge)
        for text in (await operator.consents()).texts:
            await operator.give_consent(text.provider, "user", text.version, canaries.user)
        return cls(house, canaries, client, operator)

    async def end(self) -> None:
        """Disconnect."""
        await self._nc.close()
        await self._operator.close()

    # --- asking ------------------------------------------------------------------------------------------------------

    def ids(self) -> dict[str, str]:
        """The caller's own, the request's another each time."""
        words = self._words
        number = next(self._numbers)
        return {
            "user_id": words.user,
            "conversation_id": words.conversation,
            "request_id": f"{words.request}-{number}",
        }

    async def ask(self, model: str, *, stream: bool, **more: Any) -> None:
        """One, to its end, whatever that is."""
        number = next(self._numbers)
        body = laced.request(self._words.text, self.ids(), number, wants_json=model.startswith("json"))
        subject = "tta.ask.model.generate"
        if model.startswith("embed"):
            subject, stream = "tta.ask.model.embed", False
            body = {"input": [f"first {self._words.text}", self._words.text], "deadline_ms": 6_000, **self.ids()}
        body |= {"model": model, "labels": [self._words.stored], **more} | ({"stream": True} if stream else {})
        await self.send(subject, json.dumps(body).encode(), stream)

    async def send(self, subject: str, payload: bytes, stream: bool = False) -> None:
        """Publish and wait for the end."""
        inbox, ended = self._nc.new_inbox(), asyncio.Event()

        async def on_message(message: Any) -> None:
            self.answers.append(message.data)
            if b'"model.finished.v1"' in message.data or b'"model.failed.v1"' in message.data or not stream:
                if not ended.is_set():
                    self.said[_came(message.data)] += 1
                ended.set()

        waiting = await self._nc.subscribe(inbox, cb=on_message)
        with contextlib.suppress(errors.Error):
            fields = {"X-Canary": self._words.text, "Authorization": f"Bearer {self._words.text}"}
            await self._nc.publish(subject, payload, reply=inbox, headers=fields)
        try:
            await asyncio.wait_for(ended.wait(), ASK_S)
        except TimeoutError:
            self.said["silence"] += 1
        await waiting.unsubscribe()

    async def faults(self, dialects: tuple[str, ...], names: tuple[str, ...]) -> None:
        """Every fault in every dialect, streamed or not in turn; and the same again as a `resume`."""
        gate = asyncio.Semaphore(TOGETHER)

        async def one(number: int, model: str) -> None:
            async with gate:
                resume = (
                    {"run_id": self._words.request, "text": f"Once {self._words.text} "} if number % 7 == 3 else None
                )
                await self.ask(model, stream=number % 2 == 0, **({"resume": resume} if resume else {}))

        models = [f"{name}@{dialect}" for name in names for dialect in dialects if playable(name, dialect)]
        await asyncio.gather(*(one(number, model) for number, model in enumerate(models)))
        await asyncio.gather(*(self.ask("ok@paid", stream=False) for _ in range(3)))

    async def odd(self) -> None:
        """Input that is refused, and the small asks: pins, feedback, consent, selections; with and without a reply."""
        words = self._words
        for subject, payload in laced.refused(words.text, self.ids()):
            await self.send(subject, payload)
            if len(payload) < 100_000:
                await self._nc.publish(subject, payload)
        await self.ask("able@openai", stream=False)
        run_id = json.loads(self.answers[-1])["run_id"]
        hello = {"messages": [{"role": "user", "content": words.text}], **self.ids()}
        small: list[tuple[str, dict[str, Any]]] = [
            ("model.select", {**hello, "explain": True}),
            ("model.estimate", {**hello, "model": "ok@paid"}),
            ("model.pin", {"conversation_id": words.conversation, "model": "able@openai"}),
            ("model.pin", {"conversation_id": words.conversation}),
            ("consent.list", {"user_id": words.user, "conversation_id": words.conversation}),
            ("feedback.give", {"run_id": run_id, "rating": 0.5, "reason": words.stored, "user_id": words.user}),
            ("feedback.give", {"run_id": words.text, "rating": 0.5, "user_id": words.user}),
        ]
        for name, body in small:
            await self.send(f"tta.ask.{name}", json.dumps(body).encode())
        for n in range(3):  # what nobody can read comes as an observation, and is a dead letter
            await self._operator.bus.publish(f"tta.obs.runner.beat.{n}", f'{{"type": "{words.junk}"'.encode())
            await self._operator.bus.publish(f"tta.obs.selector.beat.{n}", words.junk.encode())

    # --- crashes -----------------------------------------------------------------------------------------------------

    async def struck(self, instance: str, number: int, dialects: tuple[str, ...]) -> None:
        """A signal while answers are under way; afterwards all are ready again."""
        asks = [
            asyncio.create_task(self.ask(f"drip@{dialects[n % len(dialects)]}", stream=n % 3 != 0))
            for n in range(STREAMS)
        ]
        await asyncio.sleep(0.4)  # some text is out
        await self._house.strike(instance, number)
        await asyncio.gather(*asks)

    async def out_of_memory(self, instance: str) -> int:
        """A process runs out of memory over large requests: exceptions by real means. How many the log has since.

        It may live on, deaf, so it is killed afterwards.
        """
        before, log = self._house.pids()[instance], self._house.state / "actors.log"
        seen = _raised(log)
        most = _mapped_bytes(before) + ROOM_BYTES
        resource.prlimit(before, resource.RLIMIT_AS, (most, most))
        large = {"role": "user", "content": f"{self._words.text} " * 150_000}
        body = {"messages": [large], "model": "able@openai", "deadline_ms": 4_000, **self.ids()}
        asks = [
            asyncio.create_task(self.send("tta.ask.model.generate", json.dumps(body).encode())) for _ in range(STREAMS)
        ]
        await asyncio.wait(asks, timeout=SHORT_S)
        for one in asks:
            one.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        if self._house.pids()[instance] == before:
            os.kill(before, signal.SIGKILL)
        await self._house.replaced(instance, before)
        return _raised(log) - seen


def _raised(log: Path) -> int:
    return log.read_bytes().count(b"MemoryError")


def _mapped_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def _came(data: bytes) -> str:
    """In a word."""
    try:
        found = json.loads(data)
    except ValueError:
        return "unreadable"
    return found.get("code") or found.get("type", "?").removeprefix("model.").removesuffix(".v1")


async def _ignore(_: Exception) -> None:
    """Refusals of the server are part of it."""
