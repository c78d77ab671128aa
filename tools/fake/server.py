"""The fake provider's HTTP server: every dialect on loopback, with faults on demand.

    async with FakeProvider() as provider:
        ...  # any OpenAI client at base URL provider.url, model "ok", "stall@2", ...
        assert provider.log[-1].ended == "client_closed"

Paths: POST /v1/chat/completions, /v1/responses, /api/v1/chat/completions, /v1/messages, /api/chat, /v1/embeddings,
/api/v1/embeddings, /api/embed, /api/pull (see `pulls.py`); GET /control/log, /control/bill; and the lists of models,
see `lists.py`.
Times in the log are Unix milliseconds.
"""

import asyncio
import itertools
import re
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Mapping
from email.utils import formatdate
from functools import partial
from typing import Any, Self

import msgspec
from aiohttp import web

from understudy.tools.fake import (
    anthropic_shape,
    embeddings,
    ollama_shape,
    openai_shape,
    openrouter_shape,
    responses_shape,
)
from understudy.tools.fake.bill import Bill
from understudy.tools.fake.exchange import BadRequest, Exchange, Seen, Shape, key_hash, steps
from understudy.tools.fake.lists import Lists, ListServer
from understudy.tools.fake.pulls import PullServer
from understudy.tools.fake.script import Fault, built_in_faults, fault_for, reply, struck

LOG_SIZE = 10_000
BODY_LIMIT_BYTES = 64 * 2**20
SHAPES: tuple[Shape, ...] = (openai_shape, responses_shape, openrouter_shape, anthropic_shape, ollama_shape)
SPLIT_PAUSE_S = 0.001
encode = msgspec.json.encode


async def _forever() -> None:
    await asyncio.Event().wait()


def _abort(http: web.Request) -> None:
    """Drop the connection with a TCP reset (RST, not FIN)."""
    if http.transport is not None:
        sock = http.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        http.transport.abort()


async def _write(response: web.StreamResponse, data: bytes, x: Exchange) -> None:
    """Write one event, with a comment before it or cut inside its multibyte characters if so told."""
    fault = x.fault
    if fault.comments:
        await response.write(x.shape.COMMENT)
    if not fault.split_utf8:
        await response.write(data)
        return
    cuts = [0, *(match.end() for match in re.finditer(rb"[\xc2-\xf4]", data)), len(data)]
    for begin, end in itertools.pairwise(cuts):
        await response.write(data[begin:end])
        await asyncio.sleep(SPLIT_PAUSE_S)


async def _stream(http: web.Request, x: Exchange) -> web.StreamResponse:
    """Send a streamed answer, step by step."""
    fault = x.fault
    head = {"Content-Type": x.shape.STREAM_TYPE, "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers={**head, **_heads(x)})
    await response.prepare(http)
    if fault.silent:
        await _forever()
    for kind, data in steps(x):
        if kind == "stall":
            await _forever()
        if kind in ("reset", "cut", "error", "malformed"):
            x.seen.ended = "fault"
        if kind == "reset":
            _abort(http)
            return response
        if kind == "token" and fault.gap_ms and x.seen.tokens_sent:
            await asyncio.sleep(fault.gap_ms / 1000)
        if data:
            await _write(response, data, x)
        x.seen.tokens_sent += kind == "token"
        if kind == "first" and (fault.first_token_delay_ms or fault.slow_ms):
            await asyncio.sleep((fault.first_token_delay_ms + fault.slow_ms) / 1000)
    await response.write_eof()
    return response


async def _whole(http: web.Request, x: Exchange) -> web.StreamResponse:
    """Send an answer without stream; faults after n chunks strike in the middle of the body."""
    fault = x.fault
    pause_ms = fault.first_token_delay_ms + fault.slow_ms + fault.gap_ms * max(0, len(x.reply.tokens) - 1)
    await asyncio.sleep(pause_ms / 1000)
    if fault.silent or fault.stall_after is not None:
        response = web.StreamResponse(headers={"Content-Type": "application/json", **_heads(x)})
        await response.prepare(http)
        await _forever()
    data = encode(x.shape.whole(x))
    x.seen.tokens_sent = len(x.reply.tokens)
    if fault.reset_after is not None:
        x.seen.ended = "fault"
        _abort(http)
    if fault.cut_after is not None or fault.malformed_after is not None:
        x.seen.ended, data = "fault", data[: len(data) // 2]
        while data[-1] >= 0x80:  # broken as JSON, not as UTF-8
            data = data[:-1]
    if fault.error_event_after is not None:
        x.seen.ended = "fault"
    return web.Response(body=data, content_type="application/json", headers=_heads(x))


def _heads(x: Exchange) -> dict[str, str]:
    """Return the headers of an answer; OpenRouter names the id of its record."""
    named = {"X-Generation-Id": x.id} if x.shape is openrouter_shape else {}
    return {**named, **x.fault.headers}


def _json(
    status: int, body: dict[str, Any] | str | msgspec.Raw, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a complete answer; a body that is a string goes out as HTML."""
    if isinstance(body, str):
        return web.Response(text=body, content_type="text/html", status=status, headers=headers)
    return web.Response(body=encode(body), content_type="application/json", status=status, headers=headers)


def _refusal(fault: Fault, shape: Shape) -> web.Response:
    """Return a record's error status, with its headers and words."""
    headers = dict(fault.headers)
    if fault.quota_reset is not None:
        headers |= openrouter_shape.quota_headers(fault.quota_reset, time.time())
    if fault.retry_after_date_s is not None:
        headers["Retry-After"] = formatdate(time.time() + fault.retry_after_date_s, usegmt=True)
    body = fault.body if isinstance(fault.body, str) else shape.fault_error(fault)
    return _json(fault.status, body, headers)


async def _give(http: web.Request, x: Exchange) -> web.StreamResponse:
    """Answer an accepted request: wait, then the error status, the stream or the whole."""
    fault = x.fault
    if fault.hang:
        await _forever()
    await asyncio.sleep(fault.delay_ms / 1000)
    x.seen.status = fault.status
    if fault.status != 200:
        return _refusal(fault, x.shape)
    return await (_stream(http, x) if x.request.stream else _whole(http, x))


class _Keys(msgspec.Struct):
    accepted: dict[str, str] | None


class FakeProvider:
    """The server as an async context manager, on a free port unless told otherwise.

    `faults` are merged over the built-in table and may be changed while it runs. Attributes to look at:
    `url` (base URL for clients, ends in /v1), `root` (without /v1), `log` (newest last, at most 10000),
    `connections_closed` (requests whose client left before the end of the answer), `checks` (GETs that only ask
    whether a key is good). `accepted` holds the keys that are good, by any name, and may be changed while it runs;
    None: no key is asked for.
    """

    def __init__(
        self, faults: Mapping[str, Fault] | None = None, *, require_key: str | None = None, port: int = 0
    ) -> None:
        self.faults = {**built_in_faults(), **(faults or {})}
        self.accepted: dict[str, str] | None = None if require_key is None else {"required": require_key}
        self.checks: deque[Seen] = deque(maxlen=LOG_SIZE)
        self.log: deque[Seen] = deque(maxlen=LOG_SIZE)
        self.connections_closed = 0
        self.bill = Bill()
        self._lists = ListServer()
        self.pulls = PullServer(self._lists.lists)
        self.port = port
        self.root = ""
        self._counts: Counter[str] = Counter()
        self._stopping = False
        self._runner: web.AppRunner | None = None

    @property
    def lists(self) -> Lists:
        """Return what its lists of models hold; a test changes it."""
        return self._lists.lists

    @property
    def lists_asked(self) -> Mapping[str, int]:
        """Return how often each path of a list was asked for."""
        return self._lists.asked

    @property
    def url(self) -> str:
        """Return the base URL an OpenAI client is configured with."""
        return f"{self.root}/v1"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        for shape in SHAPES:
            app.router.add_post(shape.PATH, partial(self._chat, shape))
        for path, face in embeddings.PATHS.items():
            app.router.add_post(path, partial(self._embed, face))
        app.router.add_get("/v1/models", self._models)
        app.router.add_routes(self._lists.routes())
        app.router.add_post("/api/pull", self.pulls.pull)
        app.router.add_get("/api/v1/key", self._key)
        app.router.add_get("/api/v1/generation", self._generation)
        app.router.add_get("/control/log", self._control_log)
        app.router.add_post("/control/keys", self._control_keys)
        app.router.add_get("/control/bill", self._control_bill)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]
        self.root = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        if self._runner is not None:
            await self._runner.cleanup()

    def _key_problem(self, http: web.Request, shape: Shape = openai_shape) -> web.Response | None:
        if self.accepted is None or shape.key_of(http.headers) in self.accepted.values():
            return None
        return _json(401, shape.problem(401, "Incorrect API key provided.", "invalid_api_key"))

    def _checked(self, http: web.Request, shape: Shape, body: dict[str, Any]) -> web.Response:
        """Answer a GET that needs a key, and note which one it came with."""
        return self._noted(http, shape, self._key_problem(http, shape) or _json(200, body))

    def _noted(self, http: web.Request, shape: Shape, answer: web.Response) -> web.Response:
        now = time.time() * 1000
        seen = Seen(http.path, False, 0, now, now, "done", answer.status, key=key_hash(shape.key_of(http.headers)))
        self.checks.append(seen)
        return answer

    async def _models(self, http: web.Request) -> web.Response:
        shape = anthropic_shape if {"x-api-key", "anthropic-version"} & set(http.headers) else openai_shape
        answer = self._key_problem(http, shape) or await self._lists.under_v1(http, list(self.faults))
        return self._noted(http, shape, answer)

    async def _key(self, http: web.Request) -> web.Response:
        """Tell about the key, as OpenRouter does."""
        return self._checked(http, openrouter_shape, {"data": {"label": "fake", "limit": None, "usage": 0}})

    async def _generation(self, http: web.Request) -> web.Response:
        """Tell what an answer cost once it is over, as OpenRouter does."""
        record = self.bill.records.get(http.query.get("id", ""))
        if record is None:
            return self._noted(
                http, openrouter_shape, _json(404, openrouter_shape.problem(404, "Generation not found"))
            )
        return self._checked(http, openrouter_shape, {"data": record})

    async def _control_log(self, _: web.Request) -> web.Response:
        rows = [seen.public() for seen in self.log]
        checks = [seen.public() for seen in self.checks]
        return _json(200, {"requests": rows, "checks": checks, "connections_closed": self.connections_closed})

    async def _control_keys(self, http: web.Request) -> web.Response:
        """Take other keys from now on: {"accepted": {name: key} or null}."""
        try:
            self.accepted = msgspec.json.decode(await http.read(), type=_Keys).accepted
        except msgspec.DecodeError as error:
            return _json(400, openai_shape.problem(400, f"Invalid request body: {error}"))
        return _json(200, {"accepted": list(self.accepted or {})})

    async def _embed(self, face: embeddings.Face, http: web.Request) -> web.StreamResponse:
        """Answer one request for vectors; it is noted in the log as one without stream."""
        shape = ollama_shape if face == "ollama" else openai_shape
        if http.path.startswith(openrouter_shape.PATH.removesuffix("/chat/completions")):
            shape = openrouter_shape
        seen = Seen(model="", stream=False, prefill_chars=0, started_ms=time.time() * 1000, ended="done")
        seen.key = key_hash(shape.key_of(http.headers))
        self.log.append(seen)
        refused = self._key_problem(http, shape)
        if refused is not None:
            return refused
        try:
            asked = embeddings.request(await http.read())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _json(400, shape.problem(400, f"Invalid request body: {error}"))
        seen.model = asked.model
        fault = fault_for(self.faults, asked.model)
        if fault is None:
            return _json(404, shape.problem(404, f"The model `{asked.model}` does not exist.", "model_not_found"))
        fault = struck(fault, asked.model, self._counts[asked.model])
        self._counts[asked.model] += 1
        if fault.hang:
            await _forever()
        await asyncio.sleep(fault.delay_ms / 1000)
        seen.status = fault.status
        if fault.status != 200:
            return _refusal(fault, shape)
        data = encode(embeddings.answer(face, asked, fault))
        if fault.reset_after is not None:
            _abort(http)
        return _json(200, msgspec.Raw(data[: len(data) // 2] if fault.cut_after is not None else data))

    async def _control_bill(self, _: web.Request) -> web.Response:
        return _json(200, self.bill.public(self.log))

    async def _chat(self, shape: Shape, http: web.Request) -> web.StreamResponse:
        """Answer one chat request and note in the log how that ended."""
        seen = Seen(model="", stream=False, prefill_chars=0, started_ms=time.time() * 1000)
        seen.key = key_hash(shape.key_of(http.headers))
        self.log.append(seen)
        try:
            response = await self._answer(http, shape, seen)
            if seen.ended == "open":
                seen.ended = "done" if seen.status == 200 else "fault"
            return response
        except (asyncio.CancelledError, ConnectionError):
            seen.ended = "stopped" if self._stopping else "client_closed"
            self.connections_closed += not self._stopping
            raise
        finally:
            seen.ended_ms = time.time() * 1000

    async def _answer(self, http: web.Request, shape: Shape, seen: Seen) -> web.StreamResponse:
        """Check the request, find its fault and give the answer."""
        refused = self._key_problem(http, shape)
        if refused is None:
            found = self._accept(await http.read(), http, shape, seen)
            if isinstance(found, Exchange):
                try:
                    return await _give(http, found)
                finally:
                    self.bill.add(seen, found.fault, found.reply.prompt_tokens, found.id)
            refused = found
        seen.status = refused.status
        return refused

    def _accept(self, data: bytes, http: web.Request, shape: Shape, seen: Seen) -> Exchange | web.Response:
        """Read a request body; return what to answer with, or the refusal of a bad one."""
        try:
            request = shape.request(data, http.headers)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _json(400, shape.problem(400, f"Invalid request body: {error}"))
        except BadRequest as error:
            return _json(400, shape.problem(400, str(error), param=error.param))
        seen.request, seen.model, seen.stream = request, request.model, bool(request.stream)
        record = fault_for(self.faults, request.model) or (Fault() if self.lists.has(request.model) else None)
        if record is None:
            text = f"The model `{request.model}` does not exist or you do not have access to it."
            return _json(404, shape.problem(404, text, "model_not_found", "model"))
        fault = struck(record, request.model, self._counts[request.model])
        self._counts[request.model] += 1
        planned = reply(fault, request)
        seen.prefill_chars = len(planned.prefill)
        count = sum(self._counts.values())
        return Exchange(shape, request, fault, planned, seen, f"{shape.ID}{count}", int(time.time()))
