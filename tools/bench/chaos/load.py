"""The load and the ears of the chaos bench: who asks, what each asker got, and what an independent observer saw.

Three arms: `ours` (bus/client.py), `stream` and `single` (nats-py and json alone: one publish, no second try). An end
counts only when it was received from the bus; what a client makes up itself is none.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import nats
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import Handler, Received, Subscription
from understudy.messages.generate import Delta

GRACE_S = 5.0
"""So long after its deadline a plain caller still listens."""
FLOWS_S = 2.0
"""A stream without a delta for so long is not in the middle of its text but stuck."""

Body = dict[str, Any]
END_TAGS = ("model.finished.v1", "model.failed.v1")


@dataclass
class Asked:
    """One request of one caller and what became of it. Times in seconds of the run."""

    n: int
    arm: str
    prompt: str
    task: str
    expected: str
    begun: float
    ended: float = 0.0
    deltas: int = 0
    last_delta: float = -1e9
    outcome: str = ""  # `finished`, the code of `failed`, or `raised: ...` for what no message said
    text: str = ""
    whole: str | None = None  # the text that `finished` carried
    from_bus: bool = False
    holes: bool = False  # a plain reader that knows, from the numbers, that messages were lost on the way
    heard: list[tuple[float, Body]] = field(default_factory=list[tuple[float, Body]])

    def mid_text(self, now: float) -> bool:
        """Text is out and flows, and no end is."""
        return not self.outcome and now - self.last_delta < FLOWS_S

    @property
    def exact(self) -> bool:
        """Finished, and every character as the script has it."""
        return self.outcome == "finished" and not self.wrong and not self.holes

    @property
    def wrong(self) -> bool:
        """Finished with another text than the script's; one with known holes is a loss, and nobody's wrong text."""
        held = self.text if self.arm != "single" or self.whole is None else self.whole
        wrong = (held != self.expected and not self.holes) or self.whole not in (None, self.expected)
        return self.outcome == "finished" and wrong


class Plainly:
    """What a reader with json alone holds: at a seam drop what is later than `keep_seq`, then append."""

    def __init__(self) -> None:
        self._pieces: dict[int, str] = {}
        self._seen: set[int] = set()
        self._seams = self._seams_said = 0

    def hear(self, body: Body) -> None:
        """One message of the stream."""
        match body.get("type"):
            case "model.delta.v1":
                self._seen.add(body["seq"])
                self._pieces[body["seq"]] = body["text"]
                self._seams_said = max(self._seams_said, body.get("seams", 0))
            case "model.seam.v1":
                self._seams += 1
                self._pieces = {n: text for n, text in self._pieces.items() if n <= body["keep_seq"]}
            case _:
                pass

    @property
    def text(self) -> str:
        """The pieces in their order."""
        return "".join(text for _, text in sorted(self._pieces.items()))

    def holes(self, last_seq: int) -> bool:
        """A delta or a seam never arrived: every number up to the last is due once, and deltas count the seams."""
        return self._seen != set(range(last_seq + 1)) or self._seams < self._seams_said


class Ends:
    """Per run, the different ends that anybody received."""

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self.by_run: dict[str, dict[str, Body]] = {}
        self.observed = 0

    def hear(self, payload: bytes) -> Body | None:
        """Note one message of a run; returns it decoded."""
        try:
            body = json.loads(payload)
        except ValueError:
            return None
        run_id = body.get("run_id") if isinstance(body, dict) else None
        if run_id:
            self.runs.add(run_id)
            if body.get("type") in END_TAGS:
                self.by_run.setdefault(run_id, {}).setdefault(_outcome(body), body)
        return body

    def twice(self) -> dict[str, list[str]]:
        """Runs with ends that differ in outcome. A recorded `finished` said again to a single reply is `text_lost`."""
        return {run: sorted(ends) for run, ends in self.by_run.items() if len(set(ends) - self._again(ends)) > 1}

    def said_again(self) -> int:
        """Finished runs of single replies whose end was said twice, the second time without its text."""
        return sum(bool(self._again(ends)) for ends in self.by_run.values())

    @staticmethod
    def _again(ends: dict[str, Body]) -> set[str]:
        lost = {word for word, body in ends.items() if body.get("code") == "text_lost"}
        return lost if any(word.startswith("finished") for word in ends) else set()


def _outcome(body: Body) -> str:
    """What must not differ between two ends of a run; a text may be absent where the end comes from the log."""
    if body["type"] == "model.failed.v1":
        return f"failed {body['code']} {body.get('last_seq', -1)}"
    return f"finished {body['finish_reason']} {body['model']} {body.get('last_seq', -1)}"


class Tap:
    """Our client's bus, with an ear on every subscription."""

    def __init__(self, bus: Any, hear: Callable[[bytes], None]) -> None:
        self._bus, self._hear = bus, hear

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def subscribe(self, subject: str, handler: Handler, **how: Any) -> Subscription:
        """As the bus does, telling the bench first."""

        def tapped(received: Received) -> None:
            self._hear(received.payload)
            handler(received)

        return await self._bus.subscribe(subject, tapped, **how)


class Load:
    """Keeps so many requests in flight until enough were made and nobody wants more."""

    def __init__(self, url: str, prompts: Callable[[int], tuple[str, str]], tasks: int, deadline_s: float) -> None:
        """`prompts(n)`: the nth prompt and its exact answer."""
        self.url, self.prompts, self.tasks, self.deadline_s = url, prompts, tasks, deadline_s
        self.began = time.monotonic()
        self.asked: list[Asked] = []
        self.ends = Ends()
        self.go_on = True
        self._observer: Nats | None = None

    def now(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self.began

    def mid_text(self) -> int:
        """Streams of ours that are in the middle of their text."""
        now = self.now()
        return sum(one.mid_text(now) for one in self.asked if one.arm == "ours")

    # --- the observer ----------------------------------------------------------------------------------------------

    async def observe(self, url: str, operator: dict[str, str]) -> None:
        """Hear every reply to every component, as the operator."""
        options: dict[str, Any] = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.1, "error_cb": _ignore}
        self._observer = await nats.connect(url, **operator, **options)

        async def on_message(msg: Msg) -> None:
            self.ends.observed += 1
            self.ends.hear(msg.data)

        await self._observer.subscribe("_INBOX.>", cb=on_message)
        await self._observer.flush()

    async def close(self) -> None:
        """End the observer."""
        if self._observer is not None:
            await self._observer.close()

    # --- callers ---------------------------------------------------------------------------------------------------

    async def run(self, requests: int, in_flight: int, plain: int) -> None:
        """`in_flight` callers of ours and `plain` ones of nats-py, until `requests` were made and `go_on` is over."""
        arms: list[Awaitable[None]] = [self._caller("ours", requests) for _ in range(in_flight)]
        arms += [self._caller("single" if n % 2 else "stream", requests) for n in range(plain)]
        await asyncio.gather(*arms)

    def _next(self, arm: str, requests: int) -> Asked | None:
        made = sum(one.arm == "ours" for one in self.asked)
        if made >= requests and not self.go_on:
            return None
        n = len(self.asked)
        prompt, expected = self.prompts(n)
        one = Asked(n, arm, prompt, f"prefers-{n % self.tasks}", expected, self.now())
        self.asked.append(one)
        return one

    async def _caller(self, arm: str, requests: int) -> None:
        ask = {"ours": self._ours, "stream": self._stream, "single": self._single}[arm]
        link = await self._connect(arm)
        while (one := self._next(arm, requests)) is not None:
            try:
                await ask(link, one)
            except Exception as error:  # noqa: BLE001 - whatever a client raises is no end
                one.outcome = one.outcome or f"raised: {type(error).__name__}: {error}"[:200]
            one.ended = self.now()
        await link.close()

    async def _connect(self, arm: str) -> Any:
        if arm == "ours":
            return await Client.connect(self.url, name="chaos")
        return await nats.connect(self.url, error_cb=_ignore)

    async def _ours(self, client: Client, one: Asked) -> None:
        def hear(payload: bytes) -> None:
            body = self.ends.hear(payload)
            if body is not None:
                one.heard.append((self.now(), body))

        bus: Any = client.bus
        client.bus = Tap(getattr(bus, "_bus", bus) if isinstance(bus, Tap) else bus, hear)  # pyright: ignore[reportAttributeAccessIssue]
        answer = client.generate(one.prompt, task=one.task, deadline_ms=int(self.deadline_s * 1000))
        try:
            async for piece in answer:
                if isinstance(piece, Delta):
                    one.deltas, one.last_delta = one.deltas + 1, self.now()
        except AnswerFailed as failure:
            one.outcome, one.text = failure.code, failure.text
            one.from_bus = any(b.get("type") == END_TAGS[1] and b["code"] == failure.code for _, b in one.heard)
            return
        assert answer.finished is not None
        one.outcome, one.text, one.whole, one.from_bus = "finished", answer.text, answer.finished.text, True

    def _body(self, one: Asked, stream: bool) -> bytes:
        messages = [{"role": "user", "content": one.prompt}]
        deadline_ms = int(self.deadline_s * 1000)
        return json.dumps(
            {"messages": messages, "task": one.task, "stream": stream, "deadline_ms": deadline_ms}
        ).encode()

    async def _single(self, nc: Nats, one: Asked) -> None:
        msg = await nc.request("tta.ask.model.generate", self._body(one, False), timeout=self.deadline_s + GRACE_S)
        self._heard(one, msg.data, Plainly())

    async def _stream(self, nc: Nats, one: Asked) -> None:
        inbox, reading = nc.new_inbox(), Plainly()
        sub = await nc.subscribe(inbox)
        try:
            await nc.publish("tta.ask.model.generate", self._body(one, True), reply=inbox)
            async with asyncio.timeout(self.deadline_s + GRACE_S):
                while not one.outcome:
                    self._heard(one, (await sub.next_msg(timeout=self.deadline_s + GRACE_S)).data, reading)
        finally:
            await sub.unsubscribe()

    def _heard(self, one: Asked, payload: bytes, reading: Plainly) -> None:
        body = self.ends.hear(payload)
        if body is None:
            return
        one.heard.append((self.now(), body))
        reading.hear(body)
        match body.get("type"):
            case "model.delta.v1":
                one.deltas += 1
            case "model.finished.v1":
                one.outcome, one.whole, one.from_bus = "finished", body.get("text"), True
                one.text, one.holes = reading.text, one.arm == "stream" and reading.holes(body["last_seq"])
            case "model.failed.v1":
                one.outcome, one.from_bus = body["code"], True
            case _:
                pass


async def _ignore(_: Exception) -> None:
    """A plain client's background errors are its own."""


def progress(text: str) -> None:
    """For the person who waits."""
    print(text, file=sys.stderr, flush=True)
