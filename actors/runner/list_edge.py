"""Reads a provider's list of models over HTTP, on connections of its own: a slow list takes no call's place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec.structs import replace

from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.http_wire import Exchange, Failure, request_head
from understudy.actors.runner.lists import BY_KIND
from understudy.actors.runner.lists.lister import Answer, BadList, Fetch, Lister, Memory
from understudy.messages.address import LOOPBACK, Target, target
from understudy.messages.listing import ListFault, Row
from understudy.messages.step import Fetched, FetchFailed, Input
from understudy.messages.topology import CataloguePlan, Provider

ANSWER_S = 15.0
"""So long may each page take."""
ANSWER_BYTES = 32_000_000
REST_S = 0.0005
"""A list is never urgent."""
CONNECTIONS = 2


class _NoAnswer(Exception):
    """`nobody`: not this request alone has none, none has."""

    def __init__(self, code: ListFault, text: str, *, nobody: bool = False) -> None:
        super().__init__(text)
        self.code: ListFault = code
        self.text, self.nobody = text, nobody


class _Whole(Exchange):
    """A response that is wanted whole."""

    __slots__ = ("_body", "_size", "answer", "client")

    def __init__(self, client: Client, request: bytes) -> None:
        super().__init__(request)
        self.client = client
        self.answer: asyncio.Future[Answer] = client.loop.create_future()
        self._body: list[bytes] = []
        self._size = 0

    def on_body(self, data: bytes) -> None:
        """Keep it, up to a limit."""
        self._size += len(data)
        self._body.append(data)
        if self._size > ANSWER_BYTES:
            self.client.cancel(self)
            self._fail("too_large", f"more than {ANSWER_BYTES} bytes")

    def on_end(self, failure: Failure | None) -> None:
        """Whole, or not."""
        if failure is None and self.status:
            if not self.answer.done():
                self.answer.set_result(Answer(self.status, b"".join(self._body)))
        elif failure == "refused":
            self._fail("unreachable", "nobody accepts connections at the list's address", nobody=True)
        else:
            self._fail("unreachable", "the connection broke before the list was whole")

    def _fail(self, code: ListFault, text: str, *, nobody: bool = False) -> None:
        if not self.answer.done():
            self.answer.set_exception(_NoAnswer(code, text, nobody=nobody))


class ListEdge:
    """Performs `FetchList`. `keys` gives the header fields with the key in use; None: nothing may be sent."""

    def __init__(
        self,
        provider: Provider,
        plan: CataloguePlan,
        keys: Callable[[], dict[str, str] | None],
        now_ms: Callable[[], float],
        feed: Callable[[Input], None],
    ) -> None:
        """Belongs to the running loop. Raises ValueError where the address cannot be used."""
        self._to = target(plan.url or provider.url or "")
        self._rows, self._memory = BY_KIND[provider.kind], Memory()
        self._on_this_machine = target(provider.url or "").host in LOOPBACK
        self._now_ms, self._feed = now_ms, feed
        self._client = Client(self._to, limit=CONNECTIONS, connect_s=provider.connect_timeout_ms / 1000)
        self._keys = keys
        self._tasks: set[asyncio.Task[None]] = set()

    def fetch(self, list_id: str) -> None:
        """Begin; the end is fed later."""
        task = asyncio.get_running_loop().create_task(self._fetch(list_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what is in hand."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    async def _fetch(self, list_id: str) -> None:
        try:
            rows = await self._read(self._rows(self._memory))
        except _NoAnswer as fault:
            self._feed(FetchFailed(self._now_ms(), list_id, fault.code, fault.text))
        except BadList as fault:
            self._feed(FetchFailed(self._now_ms(), list_id, fault.code, fault.text, fault.path))
        else:
            self._feed(Fetched(self._now_ms(), list_id, rows))

    async def _read(self, lister: Lister) -> tuple[Row, ...]:
        step = _step(lister, None)
        while isinstance(step, Fetch):
            # Not on the loop: a page of hundreds of models would hold every stream up.
            step = await asyncio.to_thread(_step, lister, await self._answer(step))
        return step if self._on_this_machine else tuple(replace(row, location="external") for row in step)

    async def _answer(self, wanted: Fetch) -> Answer:
        try:
            return await self._ask(wanted)
        except _NoAnswer as none:
            if none.nobody or not wanted.of_one:
                raise
            return Answer(0, b"", BadList(none.text, code=none.code))

    async def _ask(self, wanted: Fetch) -> Answer:
        keyed = self._keys()
        if keyed is None:
            text = "the provider's key was revoked, and nothing is sent without one"
            raise _NoAnswer("status", text, nobody=True)
        exchange = _Whole(self._client, _request(self._to, {"Accept": "application/json", **keyed}, wanted))
        self._client.send(exchange)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await exchange.answer
        except TimeoutError:
            raise _NoAnswer("timeout", f"no whole answer within {ANSWER_S:g} s") from None
        finally:
            if not exchange.answer.done() or exchange.answer.cancelled():
                self._client.cancel(exchange)


def _step(lister: Lister, answer: Answer | None) -> Fetch | tuple[Row, ...]:
    """What the reader wants next, or what it has read. Blocks for its rests; raises BadList."""
    try:
        step = next(lister) if answer is None else lister.send(answer)
        while step is None:
            time.sleep(REST_S)
            step = next(lister)
        return step
    except StopIteration as done:
        return done.value


def _request(to: Target, fields: dict[str, str], wanted: Fetch) -> bytes:
    """Raises ValueError, which names a field, not its value."""
    if not wanted.body:
        return request_head("GET", to, wanted.path, fields) + b"\r\n\r\n"
    head = request_head("POST", to, wanted.path, {**fields, "Content-Type": "application/json"})
    return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(wanted.body), wanted.body)
