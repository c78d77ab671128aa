"""Nothing leaves without consent: every case in every dialect, streamed, single, vectors, first attempt and fallback.

Vendors are played by the fake provider behind a proxy of ours that counts connections and bytes; they are declared
`location: external`, as a vendor's address is. All cases come first and are waited for: not one byte may have come by
then, whenever it left. Each has a control that differs in the one thing and must get through, after them. Crises are
judged by a scripted answerer of `safety.judge`; the scanner is made to raise by a text with more
addresses than it takes. Users withdraw while their order waits at the gate, and it goes on once that was confirmed.
Orders are also put to the runner past the selector, whose word it must not need.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import Received, Subscription
from understudy.messages.generate import Failed, Generate, Parameters, Turn
from understudy.messages.run import RunFailed, RunModel
from understudy.messages.safety import Judge, Judged
from understudy.messages.slugs import slug
from understudy.messages.tools import Format, Tool
from understudy.messages.wire import WireError, decode, decode_as, encode
from understudy.tools.bench.consent_cases import DIALECTS, JUDGE_MS, OLD_TEXT, TEXT, Ask, asks, topology
from understudy.tools.bench.counting import Counter
from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.stage import fake_provider, running

USERS = ("agreed", "withdrew")
REST_S, LATE_S = 0.01, 2.0
"""After each ask, to tell whose bytes came; after all cases, for what may come late."""
BEGUN_S = JUDGE_MS / 1000 + 0.15
GOOD = ("finished", "embedded")
WAIT_S = 10.0
LEVEL = re.compile(r"\[level (\d)\]")


class Seen(msgspec.Struct, kw_only=True):
    """One ask: what was said, and what passed the counters meanwhile."""

    said: str
    connections: int
    bytes: int


class Out(msgspec.Struct):
    """All that had passed the counters once the last case was over, and what might come late had had its time."""

    connections: int = 0
    bytes: int = 0


Found = list[tuple[Ask, Seen]]


async def measure(quick: bool = False) -> Result:
    """All cases. `quick`: every 21st pair, for tests."""
    asked, found = asks(quick), Found()
    out = Out()
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        async with fake_provider() as (url, _), _counters(urlsplit(url).port or 0) as counters:
            ports = {dialect: one.port for dialect, one in counters.items()}

            def plan(here: list[Ask], text: str, pii: str) -> Any:
                return topology(url.removesuffix("/v1"), ports, here, text, pii)

            async with _system(plan([], OLD_TEXT, "redact"), Path(folder)) as client:
                await _give(client, "older")
            for pii in ("refuse", "redact"):  # only cases refuse
                here = [one for one in asked if one.policy == pii]
                async with _system(plan(here, TEXT, pii), Path(folder)) as client:
                    await _consents(client)
                    await _ask_all(client, [one for one in here if one.blocked], counters, found)
                    out = await _all_out(counters, LATE_S)
                    await _ask_all(client, [one for one in here if not one.blocked], counters, found)
    return _result(found, out)


@contextlib.asynccontextmanager
async def _counters(port: int) -> AsyncGenerator[dict[str, Counter], None]:
    async with contextlib.AsyncExitStack() as stack:
        yield {dialect: await stack.enter_async_context(Counter(port)) for dialect in DIALECTS}


@contextlib.asynccontextmanager
async def _system(plan: Any, state: Path) -> AsyncGenerator[Client, None]:
    """The log stays in the state folder from one to the next, and with it what was agreed to."""
    async with (
        running(plan, state) as supervisor,
        await Client.connect(supervisor.url, user="operator", password=supervisor.operator_password) as client,
    ):
        yield client


async def _consents(client: Client) -> None:
    for user in USERS:
        await _give(client, user)
    for dialect in DIALECTS:
        await client.withdraw_consent(dialect, "user", "withdrew")
    await _until(client, lambda chain: bool(chain), "agreed")
    await _until(client, lambda chain: not chain, "withdrew")


async def _give(client: Client, user: str) -> None:
    for text in (await client.consents()).texts:
        await client.give_consent(text.provider, "user", text.version, user)


async def _until(client: Client, right: Callable[[Any], bool], user: str) -> None:
    """Both selectors know: each of several answers is as it should be."""
    good = 0
    async with asyncio.timeout(WAIT_S):
        while good < 8:
            needs = {"location": "external"}
            found = await client.select("Walk.", user_id=user, privacy="external_allowed", requirements=needs)
            good = good + 1 if right(found.chain) else 0


# --- asking ----------------------------------------------------------------------------------------------------------


async def _ask_all(client: Client, asked: list[Ask], counters: dict[str, Counter], found: Found) -> None:
    """One after the other, so that what passes most likely belongs to it."""
    judge = Judging(client)
    for one in asked:
        await judge.present(one.tried.judge)
        if one.tried.leaves:
            await _agree_for_now(client, one)
            judge.leaving = one
            judge.left.clear()
        before = _sum(counters)
        said = await _ask(client, one)
        await asyncio.sleep(REST_S)
        if said == "begun" and not one.blocked:
            await _came(counters, before)
        after = _sum(counters)
        if one.tried.leaves and not await judge.has_left():
            said = "never_left"  # then it was no such case
        judge.leaving = None
        found.append((one, Seen(said=said, connections=after[0] - before[0], bytes=after[1] - before[1])))
    await judge.present(False)


async def _came(counters: dict[str, Counter], before: tuple[int, int]) -> None:
    """Wait for an order of which only the beginning can be heard; not for ever."""
    for _ in range(int(WAIT_S / REST_S)):
        if _sum(counters) != before:
            return
        await asyncio.sleep(REST_S)


async def _agree_for_now(client: Client, one: Ask) -> None:
    """Give consent, and have both selectors know."""
    version = next(text.version for text in (await client.consents()).texts if text.provider == one.dialect)
    await client.give_consent(one.dialect, "user", version, one.user)
    await _until(client, lambda chain: bool(chain), one.user)


async def _all_out(counters: dict[str, Counter], late_s: float) -> Out:
    """All that has come since the counters began, and what comes within a while."""
    await asyncio.sleep(late_s)
    return Out(*_sum(counters))


def _sum(counters: dict[str, Counter]) -> tuple[int, int]:
    return sum(one.connections for one in counters.values()), sum(one.bytes for one in counters.values())


class Judging:
    """The scripted answerer of `safety.judge`. `leaving`: whose user is to withdraw now; `left`: that was confirmed."""

    def __init__(self, client: Client) -> None:
        self.leaving: Ask | None = None
        self.left = asyncio.Event()
        self._client = client
        self._answering: Subscription | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def present(self, wanted: bool) -> None:
        """Be there, or not."""
        if self._answering is not None and not wanted:
            await self._answering.stop()
            self._answering = None
        elif self._answering is None and wanted:
            subject = f"{self._client.app}.ask.safety.judge"
            self._answering = await self._client.bus.subscribe(subject, self._asked)

    async def has_left(self) -> bool:
        """Was the withdrawal confirmed? An order past the selector says that it began before it is judged."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self.left.wait()
        return self.left.is_set()

    def _asked(self, received: Received) -> None:
        ask = decode_as(Judge, received.payload)
        words = " ".join((*(turn.content for turn in ask.messages), *ask.input))
        if self.leaving is not None:
            task = asyncio.create_task(self._leave(self.leaving, received.reply))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif "[late]" in words:
            return
        elif "[raise]" in words:
            self._client.bus.send(received.reply, encode(Failed(code="internal", text="It raised.")))
        else:
            level = LEVEL.search(words)
            self._answer(received.reply, int(level[1]) if level else 0)

    def _answer(self, reply: str, level: int) -> None:
        self._client.bus.send(reply, encode(Judged(level=level)))

    async def _leave(self, one: Ask, reply: str) -> None:
        """Before the judge's word, or after it, while the order is read."""
        if one.tried.leaves == "scan":
            self._answer(reply, 0)
        taken = await self._client.withdraw_consent(one.dialect, "user", one.user)
        if not taken.given:
            self.left.set()
        if one.tried.leaves == "judge":
            self._answer(reply, 0)


async def _ask(client: Client, one: Ask) -> str:
    """What came of it: `finished`, `embedded`, the code of a failure, or the runner's word."""
    tried = one.tried
    who: dict[str, Any] = {"model": one.model, "user_id": one.user, "deadline_ms": 8_000}
    if tried.privacy is not None:
        who["privacy"] = tried.privacy
    try:
        if one.path == "runner":
            return await _past_the_selector(client, one)
        if one.form == "embed":
            await client.embed([tried.text], **who)
            return "embedded"
        if one.form == "stream":
            answer = client.generate(tried.text, **who, **tried.fields)
            async for _ in answer:
                pass
            return "finished"
        body = msgspec.convert({"messages": [{"role": "user", "content": tried.text}], **who, **tried.fields}, Generate)
        received = await client.bus.request(f"{client.app}.ask.model.generate", encode(body), timeout_s=WAIT_S)
        end = decode(received.payload)
        return end.code if isinstance(end, Failed) else "finished"
    except AnswerFailed as failure:
        return failure.failed.code


async def _past_the_selector(client: Client, one: Ask) -> str:
    """As a selector that was wrong would. The runner may answer a stranger once: it refuses, or says that it began."""
    tried, embeds = one.tried, one.form == "embed"
    users = {card.who for card in (await client.consents(user_id=one.user)).consents if card.scope == "user"}
    run = RunModel(
        run_id=f"bench-{one.number}",
        attempt=0,
        model=one.model,
        messages=() if embeds else (Turn(role="user", content=tried.text),),
        input=(tried.text,) if embeds else (),
        parameters=Parameters(max_tokens=64, temperature=0.0, top_p=1.0, seed=1),
        remaining_ms=5_000.0,
        privacy=tried.privacy or "local_only",
        user=users.pop() if users else "",
        tools=msgspec.convert(tried.fields.get("tools", ()), tuple[Tool, ...]),
        format=msgspec.convert(tried.fields.get("format"), Format | None),
    )
    subject = f"{client.app}.ask.runner.run.{slug(one.dialect)}.{slug(one.model)}"
    received = await client.bus.request(subject, encode(run), timeout_s=WAIT_S)
    try:
        answer = decode(received.payload)
    except WireError as error:
        return error.code
    if isinstance(answer, RunFailed):
        return answer.reason
    if one.blocked:
        await asyncio.sleep(BEGUN_S)  # what comes of it reaches us no more
    return "begun"


# --- judging ---------------------------------------------------------------------------------------------------------


def _result(found: Found, out: Out) -> Result:
    cases = [(one, seen) for one, seen in found if one.blocked]
    controls = [(one, seen) for one, seen in found if not one.blocked]
    reached = [seen for one, seen in controls if seen.bytes > 0 and _well(one, seen)]
    answered = [seen for _, seen in cases if seen.said in (*GOOD, "never_left")]
    bars = (
        bar("bytes_out", out.bytes, "bytes", 0),
        bar("connections_out", out.connections, "connections", 0),
        bar("cases", len(cases), "cases", 1, better="higher"),
        bar("controls_reached", len(reached), "controls", len(cases), better="higher"),
        bar("cases_answered", len(answered), "cases", 0),
    )
    return Result(bench="consent", bars=bars, detail={"rows": _rows(found), "odd": _odd(found)})


def _well(one: Ask, seen: Seen) -> bool:
    """Did the control get its answer? Of an order past the selector only the beginning can be heard."""
    return seen.said in GOOD or (one.path == "runner" and seen.said == "begun")


def _rows(found: Found) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for one, seen in found:
        row = rows.setdefault(one.situation.name, {"case": one.situation.name, "cases": 0, "bytes": 0, "controls": 0})
        row["cases"] += one.blocked
        row["bytes"] += seen.bytes if one.blocked else 0
        row["controls"] += not one.blocked and seen.bytes > 0
        said = row.setdefault("said", {})
        if one.blocked:
            said[seen.said] = said.get(seen.said, 0) + 1
    return list(rows.values())


def _odd(found: Found) -> list[str]:
    """Those that were not as they should be, by name."""
    return [
        f"{one.situation.name} {one.dialect} {one.form} {one.path} {'case' if one.blocked else 'control'}: {seen.said}"
        for one, seen in found
        if (
            seen.bytes or seen.connections or seen.said in (*GOOD, "never_left")
            if one.blocked
            else not (seen.bytes and _well(one, seen))
        )
    ]


def explain(result: Result) -> str:
    """Per situation: cases, bytes that left, controls that got through, what was said of the cases."""
    lines = [f"{'case':18}{'cases':>6}{'bytes':>7}{'controls':>10}  said"]
    for row in result.detail["rows"]:
        said = ", ".join(f"{word} {count}" for word, count in sorted(row["said"].items()))
        lines.append(f"{row['case']:18}{row['cases']:>6}{row['bytes']:>7}{row['controls']:>10}  {said}")
    return "\n".join([*lines, *result.detail["odd"][:20]])
