"""The runner's edge to an OpenAI-compatible server: pooled connections, one task per call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from understudy.actors.runner import openai
from understudy.actors.runner.gather import Gather
from understudy.actors.runner.sse import Lines, Malformed
from understudy.messages.run import RunFailure
from understudy.messages.step import CallEnded, CallFailed, CallModel, CallText, CancelCall, Input
from understudy.messages.topology import Model, Provider

READ_BYTES = 65_536
ERROR_BYTES = 65_536


class Cut(Exception):
    """The call is over without a whole answer."""

    def __init__(self, reason: RunFailure, status: int | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.status, self.retry_after_ms = reason, status, retry_after_ms


class HttpEdge:
    """Performs `CallModel` against `provider.url`. The key, where there is one, stays in this process's memory."""

    def __init__(self, provider: Provider, models: dict[str, Model], key: str | None, now_ms: Callable[[], float]):
        self._provider, self._models, self._key, self._now_ms = provider, models, key, now_ms
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._feed: Callable[[Input], None] = lambda _: None

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Open the pool. No time limits here: first token, stall and deadline are the selector's."""
        self._feed = feed
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._provider.connect_timeout_ms / 1000)
        connector = aiohttp.TCPConnector(limit=self._provider.max_connections, keepalive_timeout=60)
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # Bodies are answers to private text: no redirects (they could lead off this machine), no proxy from outside.
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            connector=connector,
            headers=headers,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),  # a provider is no web site: nothing is to be remembered between calls
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            auto_decompress=False,  # none was offered; streams of small pieces gain nothing from it
        )
        return {"engine": "openai"}

    def perform(self, effect: CallModel | CancelCall) -> None:
        """Begin a call or end one."""
        match effect:
            case CallModel():
                task = asyncio.get_running_loop().create_task(self._call(effect))
                self._tasks[effect.call_id] = task
                task.add_done_callback(lambda _: self._tasks.pop(effect.call_id, None))
            case CancelCall():
                task = self._tasks.get(effect.call_id)
                if task is not None:
                    task.cancel()

    async def stop(self) -> None:
        """End all calls and the pool."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _call(self, call: CallModel) -> None:
        call_id = call.call_id
        try:
            await self._stream(call)
        except asyncio.CancelledError:
            self._fail(call_id, Cut("cancelled"))
        except Cut as cut:
            self._fail(call_id, cut)
        except aiohttp.ClientConnectorError:
            self._fail(call_id, Cut("refused_connection"))
        except aiohttp.ServerTimeoutError:
            self._fail(call_id, Cut("refused_connection"))
        except Malformed:
            self._fail(call_id, Cut("malformed"))
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError):
            self._fail(call_id, Cut("broken_stream"))

    def _fail(self, call_id: str, cut: Cut) -> None:
        self._feed(CallFailed(self._now_ms(), call_id, cut.reason, cut.status, cut.retry_after_ms))

    async def _stream(self, call: CallModel) -> None:
        assert self._session is not None
        model = self._models[call.run.model]
        url = f"{(self._provider.url or '').rstrip('/')}/chat/completions"
        payload = openai.body(call.run, model.name or call.run.model)
        async with self._session.post(url, data=payload, allow_redirects=False) as response:
            if response.status != 200:
                text = await response.content.read(ERROR_BYTES)
                headers = {k.lower(): v for k, v in response.headers.items()}
                retry = openai.retry_after_ms(headers, time.time())
                raise Cut(openai.reason_of(response.status, text), response.status, retry)
            await self._read(call.call_id, response.content)

    async def _read(self, call_id: str, content: aiohttp.StreamReader) -> None:
        out = Gather(lambda text, tokens: self._feed(CallText(self._now_ms(), call_id, text, tokens)))
        try:
            end = await self._read_whole(content, out)
        finally:
            out.flush()
        tokens = end.prompt_tokens, end.completion_tokens
        self._feed(CallEnded(self._now_ms(), call_id, end.finish or "stop", *tokens, served_by=end.model))

    async def _read_whole(self, content: aiohttp.StreamReader, out: Gather) -> openai.Piece:
        """Text goes to `out` as it arrives. Raises Cut unless the dialect's terminator came."""
        lines, end = Lines(), openai.Piece()
        while True:
            chunk = await content.readany()
            if not chunk:
                raise Cut("broken_stream", 200)  # an end without the dialect's terminator is no end
            text, count = "", 0
            for data in lines.feed(chunk):
                piece = openai.read(data)
                if piece.failure is not None:
                    out.add(text, count)
                    raise Cut(piece.failure, 200)
                if piece.text:
                    text, count = text + piece.text, count + 1
                _merge(end, piece)
            out.add(text, count)
            if end.done:
                break
        if end.finish is None:
            raise Cut("broken_stream", 200)
        return end


def _merge(end: openai.Piece, piece: openai.Piece) -> None:
    end.done = end.done or piece.done
    if end.finish != "refusal":
        end.finish = piece.finish or end.finish
    if piece.completion_tokens is not None:
        end.prompt_tokens, end.completion_tokens = piece.prompt_tokens, piece.completion_tokens
    end.model = piece.model or end.model
