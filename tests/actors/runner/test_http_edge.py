"""The HTTP edge: what each fault of a provider becomes, in the fake provider's words and in raw bytes cut anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Self

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.actors.runner.rawserver import (
    CHUNKED,
    OK,
    Peer,
    Server,
    always,
    answers,
    both_loops,
    chunk,
    deaf,
    one,
    silence,
    sized,
    then,
)
from tests.system.expected import FIRST, MID
from tests.waiting import until
from understudy.actors.runner import http_call, http_wire
from understudy.actors.runner.http_edge import HttpEdge
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.step import CallEnded, CallFailed, CallModel, CallText, CancelCall, Input
from understudy.messages.topology import Model, Provider
from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

PARAMETERS = Parameters(max_tokens=100, temperature=0.0, top_p=1.0, seed=1)


Kind = Literal["openai", "openai_responses", "openrouter", "anthropic", "ollama"]


def url_of(fake: FakeProvider, kind: Kind) -> str:
    return {"ollama": fake.root, "openrouter": f"{fake.root}/api/v1"}.get(kind, fake.url)


class Edge:
    """An edge and all it fed, by call; nothing may be fed while an effect is being performed."""

    def __init__(self, url: str, key: str | None = None, kind: Kind = "openai", **provider: Any) -> None:
        self.edge = HttpEdge(Provider(kind=kind, url=url, **provider), {}, key, lambda: 0.0)
        self.kind = kind
        self.fed: dict[str, list[Any]] = {}
        self.performing = False

    async def __aenter__(self) -> Self:
        assert await self.edge.start(self.feed) == {"engine": self.kind}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.edge.stop()
        assert all(self.ends(call_id) for call_id in self.fed), "no call is left without an end"

    def feed(self, message: Input) -> None:
        assert not self.performing, "a step is being performed"
        assert isinstance(message, CallText | CallEnded | CallFailed)
        self.fed[message.call_id].append(message)

    def perform(self, effect: CallModel | CancelCall) -> None:
        self.performing = True
        self.edge.perform(effect)
        self.performing = False

    def call(self, model: str, call_id: str = "c", **fields: Any) -> None:
        self.fed[call_id] = []
        self.edge._models.setdefault(model, Model(provider="p"))
        turns = (Turn(role="user", content="Hi"),)
        fields = {"messages": turns, "parameters": PARAMETERS, **fields}
        run = RunModel(run_id="r", attempt=0, model=model, remaining_ms=1e4, **fields)
        self.perform(CallModel(call_id, run))

    def cancel(self, call_id: str = "c") -> None:
        self.perform(CancelCall(call_id))

    def ends(self, call_id: str = "c") -> list[CallEnded | CallFailed]:
        return [m for m in self.fed[call_id] if not isinstance(m, CallText)]

    def text(self, call_id: str = "c") -> str:
        return "".join(m.text for m in self.fed[call_id] if isinstance(m, CallText))

    def heard(self, call_id: str = "c") -> tuple[str, int, CallEnded | CallFailed]:
        """Text, its tokens and the one end, after all text."""
        (end,) = self.ends(call_id)
        assert self.fed[call_id][-1] is end
        return self.text(call_id), sum(m.tokens for m in self.fed[call_id] if isinstance(m, CallText)), end

    async def ask(self, model: str = "ok", **fields: Any) -> tuple[str, int, CallEnded | CallFailed]:
        self.call(model, **fields)
        await until(self.ends)
        return self.heard()


# --- the fake provider's faults ------------------------------------------------------------------------------------

REASONS = {
    **{name: reason for name, reason in {**FIRST, **MID}.items() if "timeout" not in reason and name != "empty"},
    "400": "caller_fault",
    "413": "caller_fault",
    "422": "caller_fault",
    "context-too-long": "context_too_long",
}
KINDS = pytest.mark.parametrize("kind", ["openai", "openai_responses", "openrouter", "anthropic", "ollama"])
RETRY_AFTER_MS = {"429": 2000, "429-ms": 1500, "503": 1000}


@KINDS
@both_loops
async def test_faults_become_our_words_and_the_next_call_works(kind: Kind) -> None:
    async with FakeProvider() as fake, Edge(url_of(fake, kind), kind=kind) as edge:
        whole, count, end = await edge.ask("ok")
        assert count == 48 and (end.prompt_tokens, end.completion_tokens) == (1, 48)  # type: ignore[union-attr]
        said = ("0.000049", "FakeProvider") if kind == "openrouter" else (None, None)
        assert (end.cost_usd, end.upstream) == said  # type: ignore[union-attr]
        for model, reason in REASONS.items():
            text, _, failed = await edge.ask(model)
            assert isinstance(failed, CallFailed) and whole.startswith(text), model
            assert (failed.reason, failed.status) == (reason, fake.faults[model].status), model
            assert model == "429-date" or failed.retry_after_ms == RETRY_AFTER_MS.get(model), model
            assert (await edge.ask("ok"))[0] == whole, model


@KINDS
@both_loops
async def test_odd_but_healthy_answers(kind: Kind) -> None:
    slow = {"slow": Fault(gap_ms=8, chunks=6)}
    async with FakeProvider(slow) as fake, Edge(url_of(fake, kind), kind=kind) as edge:
        whole, *_ = await edge.ask("ok")
        for model in ("split-utf8", "comments"):
            assert (await edge.ask(model))[0] == whole
        known = 1 if kind == "anthropic" else None  # the prompt's count came with the first event
        end: Any = (await edge.ask("no-usage"))[2]
        assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("stop", known, None)
        refusal = (await edge.ask("refusal"))[2]
        assert refusal.finish_reason == ("stop" if kind == "ollama" else "refusal")  # type: ignore[union-attr]
        assert (await edge.ask("length"))[2].finish_reason == "length"  # type: ignore[union-attr]
        assert (await edge.ask("wrong-model"))[2].served_by == "some-other-model"  # type: ignore[union-attr]
        assert (await edge.ask("empty"))[0] == ""
        await edge.ask("slow")
        assert len(edge.fed["c"]) == 7, "a slow stream is passed on piece by piece"


@pytest.mark.parametrize("kind", ["openai", "openrouter", "anthropic", "ollama"])  # not Responses
@both_loops
@pytest.mark.parametrize("cut", [17, 18, 19])
async def test_every_dialect_goes_on_with_text_of_another(kind: Kind, cut: int) -> None:
    """Behind a word and inside the next one; no selector sends white space at the end, and Anthropic takes none."""
    async with FakeProvider() as fake, Edge(url_of(fake, kind), kind=kind) as edge:
        whole, *_ = await edge.ask("ok")
        at = whole.index(" ", cut)
        for end in (at, at + 2):
            rest, _, ended = await edge.ask("ok", prefill=whole[:end], continuation="native")
            assert (whole[:end] + rest, ended.finish_reason) == (whole, "stop")  # type: ignore[union-attr]


@KINDS
async def test_every_dialect_sends_its_key_and_is_refused_without(kind: Kind) -> None:
    async with FakeProvider(require_key="s3cret") as fake:
        async with Edge(url_of(fake, kind), "s3cret", kind=kind) as edge:
            assert isinstance((await edge.ask("ok"))[2], CallEnded)
        async with Edge(url_of(fake, kind), kind=kind) as edge:
            assert (await edge.ask("ok"))[2].reason == "auth"  # type: ignore[union-attr]


@both_loops
async def test_only_a_key_brings_an_authorization() -> None:
    async with Server(always(sized(b""))) as server:
        for key, count in ((None, 0), ("k-1", 1)):
            async with Edge(server.url, key) as edge:
                await edge.ask()
                assert server.heads[-1].count(b"\r\nAuthorization: Bearer k-1\r\n") == count
                assert server.heads[-1].count(b"Authorization") == count


async def test_a_key_that_no_header_can_carry_is_not_repeated() -> None:
    for key in ("can\nary", "canarÿ"):
        edge = Edge("http://localhost:1/v1", key).edge
        with pytest.raises(ValueError, match="Authorization") as caught:
            await edge.start(lambda _: None)
        assert "can" not in str(caught.value) + repr(edge)
        await edge.stop()


@both_loops
async def test_nobody_at_the_endpoint() -> None:
    async with Edge("http://127.0.0.1:1/v1") as edge:
        assert await edge.ask() == ("", 0, CallFailed(0.0, "c", "refused_connection"))


@both_loops
async def test_an_endpoint_that_takes_too_long_to_connect() -> None:
    async with Server(silence) as server, Edge(server.url_tls, connect_timeout_ms=50) as edge:
        assert await edge.ask() == ("", 0, CallFailed(0.0, "c", "refused_connection"))


# --- cancel --------------------------------------------------------------------------------------------------------


@both_loops
@pytest.mark.parametrize("model", ["hang", "silent", "stall"])
async def test_a_cancelled_call_ends_upstream(model: str) -> None:
    async with FakeProvider() as fake, Edge(fake.url) as edge:
        edge.call(model)
        await until(lambda: edge.text() if model == "stall" else fake.log and fake.log[-1].model)
        edge.cancel()
        assert edge.ends() == []
        edge.cancel()
        await until(edge.ends)
        assert edge.heard()[2].reason == "cancelled"  # type: ignore[union-attr]
        await until(lambda: fake.log[-1].ended == "client_closed")
        assert (await edge.ask("ok"))[1] == 48


@both_loops
async def test_cancelled_while_waiting_or_connecting() -> None:
    async with Server(deaf) as server, Edge(server.url, max_connections=1) as edge:
        for n in range(3):
            edge.call("ok", str(n))
        for n in (1, 0, 2):
            edge.cancel(str(n))
        await until(lambda: all(edge.ends(str(n)) for n in range(3)))
        assert [edge.heard(str(n))[2] for n in range(3)] == [CallFailed(0.0, str(n), "cancelled") for n in range(3)]
        edge.cancel("nobody")


@both_loops
async def test_a_stop_ends_what_is_in_hand() -> None:
    async with Server(deaf) as server:
        async with Edge(server.url, max_connections=2) as edge:
            for n in range(3):
                edge.call("ok", str(n))
            await until(lambda: len(server.bodies) == 2)
        assert [edge.heard(str(n))[2].reason for n in range(3)] == ["cancelled"] * 3  # type: ignore[union-attr]
        await until(lambda: server.ended == 2)


# --- raw bytes -----------------------------------------------------------------------------------------------------


def event(data: object) -> bytes:
    return b"data: %b\n\n" % (data if isinstance(data, bytes) else json.dumps(data).encode())


def say(text: str | None = None, finish: str | None = None) -> bytes:
    return event({"model": "m", "choices": [{"delta": {"content": text}, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
END = event(b"[DONE]")
STREAM = say("Grüße ☃") + b": ping\r\n\r\n" + say(" 🎭!") + say(finish="stop") + USAGE
ENDED = ("Grüße ☃ 🎭!", 2, CallEnded(0.0, "c", "stop", 3, 2, "m"))
NO_END = (*ENDED[:2], CallFailed(0.0, "c", "broken_stream", 200))
SORRY = b'{"error":{"code":"context_length_exceeded"}}'


def chunks(body: bytes, step: int) -> bytes:
    return CHUNKED + b"".join(chunk(body[at : at + step]) for at in range(0, len(body), step))


def failed(reason: str, status: int | None = 200, retry_after_ms: int | None = None) -> CallFailed:
    return CallFailed(0.0, "c", reason, status, retry_after_ms)


SENT: dict[str, tuple[bytes, Any]] = {
    "chunked": (chunks(STREAM + END, 7) + chunk(b""), ENDED),
    "trailers": (chunks(STREAM + END, 40) + b"0\r\nX: y\r\n\r\n", ENDED),
    "length": (sized(STREAM + END), ENDED),
    "until the end": (OK + b"\r\n" + STREAM + END, ENDED),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + sized(STREAM + END), ENDED),
    "done, then silence": (chunks(STREAM + END, 50), ENDED),
    "done, then rubbish": (chunks(STREAM + END + b"rubbish\n", 50) + b"zz\r\n", ENDED),
    "done, then a surplus": (sized(STREAM + END) + sized(STREAM + END), ENDED),
    "done, then more": (sized(STREAM + END + say("more") + END), ENDED),
    "done without a finish": (sized(say("Hi") + END), ("Hi", 1, failed("broken_stream"))),
    "a finish, no terminator": (sized(STREAM), ENDED),
    "no last chunk": (chunks(STREAM, 50), NO_END),
    "a finish, then closed": (OK + b"\r\n" + STREAM, ENDED),
    "bad chunk size": (chunks(STREAM, 50) + b"zz\r\n", NO_END),
    "no event stream": (sized(say("Hi") + b"<html>\n" + END), ("Hi", 1, failed("malformed"))),
    "no dialect": (sized(say("Hi") + event(b"{") + END), ("Hi", 1, failed("malformed"))),
    "an error event": (sized(say("Hi") + event({"error": {}}) + END), ("Hi", 1, failed("error_event"))),
    "empty": (sized(b""), ("", 0, failed("broken_stream"))),
    "no HTTP": (b"<html>", ("", 0, failed("broken_stream", None))),
    "half a head": (OK + b"X", ("", 0, failed("broken_stream", None))),
    "busy": (
        sized(b"{}", b"HTTP/1.1 429 Too Many Requests\r\nRETRY-AFTER: 2\r\n"),
        ("", 0, failed("rate_limited", 429, 2000)),
    ),
    "a long prompt": (sized(SORRY, b"HTTP/1.1 400 Bad Request\r\n"), ("", 0, failed("context_too_long", 400))),
    "a broken error": (
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 999\r\n\r\n" + SORRY,
        ("", 0, failed("context_too_long", 400)),
    ),
    "elsewhere": (sized(b"", b"HTTP/1.1 302 Found\r\nLocation: http://x/\r\n"), ("", 0, failed("error_event", 302))),
}


def with_edge(script: Callable[[Peer], Awaitable[object]], test: Callable[[Edge, Server], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Server(script) as server, Edge(server.url) as edge:
            await test(edge, server)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SENT)), st.lists(st.integers(1, 120), max_size=40), st.booleans())
def test_any_cut_gives_the_same_result(name: str, sizes: list[int], used: bool) -> None:
    """Straight into a live connection, since TCP would join what was cut; then the server's end of the connection."""
    data, expected = SENT[name]

    async def test(edge: Edge, server: Server) -> None:
        if used:
            await edge.ask()
        edge.call("ok")
        await until(lambda: len(server.bodies) == 1 + used)
        (connection,) = edge.edge.client._connections
        at = 0
        for size in [*sizes, len(data)]:
            if data[at : at + size] and not connection.transport.is_closing():
                connection.data_received(data[at : at + size])
            at += size
        if not connection.transport.is_closing():
            connection.eof_received()
        await until(edge.ends)
        assert edge.heard() == expected

    with_edge(then(one(sized(STREAM + END)), deaf) if used else deaf, test)


@both_loops
@pytest.mark.parametrize("name", SENT)
async def test_the_same_over_a_socket(name: str) -> None:
    data, expected = SENT[name]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        peer.writer.write_eof()
        await peer.left()

    async with Server(script) as server, Edge(server.url) as edge:
        assert await edge.ask() == expected


@both_loops
async def test_an_error_whose_body_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_call, "ERROR_S", 0.02)
    head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 10\r\n\r\n"
    for body in (b"", b"half"):
        async with Server(answers(head + body)) as server, Edge(server.url) as edge:
            assert await edge.ask() == ("", 0, failed("rate_limited", 429, 1000))
            await until(lambda server=server: server.ended == 1)


@both_loops
async def test_an_error_that_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_call, "ERROR_S", 60)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" + SORRY)
        while True:
            await peer.send(bytes(10_000))

    async with Server(script) as server, Edge(server.url) as edge:
        assert await edge.ask() == ("", 0, failed("context_too_long", 400))
        await until(lambda: server.ended == 1)


@both_loops
async def test_a_response_without_end_does_not_keep_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_wire, "LINGER_S", 0.02)
    async with Server(answers(chunks(STREAM + END, 50))) as server, Edge(server.url) as edge:
        assert await edge.ask() == ENDED
        await until(lambda: server.ended == 1)


@both_loops
async def test_connections_are_used_again() -> None:
    async with FakeProvider() as fake, Edge(fake.url, max_connections=3) as edge:
        for n in range(30):
            edge.call("ok", str(n))
        await until(lambda: all(edge.ends(str(n)) for n in range(30)))
        assert {edge.heard(str(n))[:2] for n in range(30)} == {edge.heard("0")[:2]}
        assert len(edge.edge.client._connections) == 3
