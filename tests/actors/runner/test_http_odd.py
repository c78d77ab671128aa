"""Answers that no server should give, over a socket: each ends its call, keeps no slot, loses and invents nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.actors.runner.rawserver import Server, answers, both_loops, sized
from tests.actors.runner.test_http_edge import Edge, Kind, event
from tests.waiting import until
from understudy.actors.runner.dialects import openai_chat
from understudy.messages.generate import Parameters
from understudy.messages.money import Price
from understudy.messages.step import CallEnded, CallFailed, CallText
from understudy.messages.tools import Format, Tool
from understudy.messages.topology import CataloguePlan, Model
from understudy.tools.fake.server import FakeProvider

DEEP = '{"a":' * 1_200 + "1" + "}" * 1_200
LOOK = Tool(name="look")
DONE = event(b"[DONE]")


def delta(finish: str | None = None, **fields: Any) -> bytes:
    return event({"choices": [{"delta": fields, "finish_reason": finish}]})


def called(arguments: str, name: str | None = "look") -> dict[str, Any]:
    return {"tool_calls": [{"index": 0, "id": "a", "function": {"name": name, "arguments": arguments}}]}


async def answer(data: bytes, kind: Kind = "openai", **wanted: Any) -> tuple[list[Any], Any]:
    """All that was fed, and the end; no call is left in hand."""
    async with Server(answers(sized(data))) as server, Edge(server.url, kind=kind) as edge:
        await edge.ask(**wanted)
        assert edge.edge.calls == {}
        return edge.fed["c"][:-1], edge.fed["c"][-1]


@both_loops
@pytest.mark.parametrize("wanted", [{"format": Format(type="json")}, {"tools": (LOOK,)}])
async def test_what_nests_too_deeply_is_no_answer(wanted: dict[str, Any]) -> None:
    said = delta(content=DEEP) if "format" in wanted else delta(**called(DEEP))
    _, end = await answer(said + delta("stop" if "format" in wanted else "tool_calls") + DONE, **wanted)
    assert isinstance(end, CallFailed) and end.reason == "invalid_output"
    _, end = await answer(b'data: {"error":%b}\n\n' % DEEP.encode())
    assert (end.reason, end.status) == ("malformed", 200)


@both_loops
async def test_a_reader_that_raises_ends_the_call_and_keeps_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard itself: whatever our own code did not expect of an answer."""
    for fault in (RecursionError, ValueError, TypeError, KeyError):

        def raising(_: bytes, fault: type[Exception] = fault) -> Any:
            raise fault("PRIVATE")

        monkeypatch.setattr(openai_chat, "read", raising)
        assert (await answer(delta(content="Hi")))[1].reason == "malformed"
    monkeypatch.undo()
    monkeypatch.setattr("understudy.actors.runner.output.Output.judge", raising)
    _, end = await answer(delta(content="{}") + delta("stop") + DONE, format=Format(type="json"))
    assert end.reason == "malformed", "also behind the end, when the connection is let go already"


@both_loops
async def test_a_nameless_call_in_the_last_line_is_no_end() -> None:
    call = {"function": {"name": "", "arguments": {}}}
    line = {"message": {"content": "", "tool_calls": [call]}, "done": True, "done_reason": "stop", "eval_count": 3}
    _, end = await answer(json.dumps(line).encode() + b"\n", "ollama", tools=(LOOK,))
    assert isinstance(end, CallFailed) and end.reason == "invalid_output"


@both_loops
async def test_a_refusal_that_is_cut_is_not_whole() -> None:
    said, end = await answer(delta(refusal="I am so"))
    assert [piece.text for piece in said] == ["I am so"]
    assert isinstance(end, CallFailed) and end.reason == "broken_stream"
    _, end = await answer(delta(refusal="Sorry, no.") + delta("stop"))
    assert isinstance(end, CallEnded) and end.finish_reason == "refusal"
    _, end = await answer(delta(**called('{"pla')) + delta("content_filter") + DONE, tools=(LOOK,))
    assert isinstance(end, CallEnded) and (end.finish_reason, end.tool_calls) == ("refusal", ())


@both_loops
@pytest.mark.parametrize("reason", ["abort", "", "insufficient_system_resource"])
async def test_an_end_for_a_reason_that_we_do_not_know_is_not_whole(reason: str) -> None:
    for tail in (DONE, b""):
        _, end = await answer(delta(content="{}") + delta(reason) + tail, format=Format(type="json"))
        assert isinstance(end, CallFailed) and end.reason == "broken_stream"


@both_loops
async def test_of_a_call_that_nobody_offered_nothing_is_passed_on() -> None:
    said, end = await answer(delta(content="Hm. ") + delta(**called('{"far":')) + delta("tool_calls") + DONE)
    assert [(piece.kind, piece.text) for piece in said if isinstance(piece, CallText)] == [("text", "Hm. ")]
    assert isinstance(end, CallFailed) and end.reason == "invalid_output"
    _, end = await answer(delta("tool_calls") + DONE)
    assert isinstance(end, CallFailed) and end.reason == "invalid_output", "calls that never came"


@both_loops
async def test_a_count_of_nothing_is_no_count() -> None:
    usage = event({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}})
    _, end = await answer(delta(content="Hi") + delta("stop") + usage + DONE)
    assert (end.prompt_tokens, end.completion_tokens) == (None, None)
    _, end = await answer(delta("stop") + usage + DONE)
    assert (end.prompt_tokens, end.completion_tokens) == (None, 0), "there was nothing to be counted"


@both_loops
async def test_what_was_counted_before_we_hung_up_is_not_the_count() -> None:
    """Some servers count along; what an answer is billed for is known at its end alone."""
    along = event(
        {"choices": [{"delta": {"content": "Hi STOP"}}], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
    )
    stop = Parameters(max_tokens=100, temperature=0.0, top_p=1.0, seed=1, stop=("STOP",))

    async def hear(data: bytes) -> tuple[str, int | None, int | None]:
        async with Server(answers(sized(data))) as server, Edge(server.url) as edge:
            edge.edge._models["shy"] = Model(provider="p", refuses=("stop",))
            text, _, end = await edge.ask("shy", parameters=stop)
            assert isinstance(end, CallEnded)
            return text, end.prompt_tokens, end.completion_tokens

    assert await hear(along) == ("Hi ", 4, None)
    assert await hear(along + delta("stop") + DONE) == ("Hi ", 4, 2), "its end had come in the same arrival"


@both_loops
@pytest.mark.parametrize(("price", "repeatable"), [(None, True), (Price(), False), (Price(known=False), False)])
async def test_what_was_reserved_for_is_not_asked_again_whatever_this_process_knows(
    price: Price | None, repeatable: bool
) -> None:
    async with FakeProvider() as fake, Edge(fake.url) as edge:
        edge.call("ok", price=price)
        assert edge.edge.calls["c"].repeatable is repeatable
        await until(edge.ends)


def typed(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields})


COMPLETED = typed("response.completed", response={"usage": {"input_tokens": 4, "output_tokens": 16}})


@both_loops
@pytest.mark.parametrize(("pieces", "finish"), [(2, "stop"), (3, "length"), (4, "length"), (9, "length")])
async def test_a_limit_below_the_providers_least_is_held_here(pieces: int, finish: str) -> None:
    p = Parameters(max_tokens=3, temperature=0.0, top_p=1.0, seed=1)
    said = b"".join(typed("response.output_text.delta", delta=f"{n} ") for n in range(pieces))
    used = typed("response.completed", response={"usage": {"input_tokens": 4, "output_tokens": pieces}})
    texts, end = await answer(said + used, "openai_responses", parameters=p)
    assert "".join(piece.text for piece in texts) == "0 1 2 "[: 2 * pieces]
    assert (end.finish_reason, end.completion_tokens) == (finish, pieces), "it says what it has cost"


@both_loops
async def test_text_that_comes_whole_is_passed_on_once() -> None:
    part = typed("response.output_text.delta", delta="One. ")
    done = typed("response.output_text.done", text="One. ")
    second = typed("response.output_text.done", text="Two.")
    texts, end = await answer(part + done + second + COMPLETED, "openai_responses")
    assert "".join(piece.text for piece in texts) == "One. Two." and isinstance(end, CallEnded)


@pytest.mark.parametrize(
    ("kind", "catalogue", "declared", "repeatable"),
    [
        ("openrouter", True, {}, False),
        ("openrouter", False, {}, True),
        ("openrouter", True, {"price_known": True}, True),
        ("openrouter", False, {"usd_per_mtok_out": 1.0}, False),
        ("openai", True, {}, True),
    ],
)
async def test_a_call_that_its_list_may_have_a_price_for_is_sent_once(
    kind: Kind, catalogue: bool, declared: dict[str, Any], repeatable: bool
) -> None:
    plan = {"catalogue": CataloguePlan()} if catalogue else {}
    async with Server(answers(sized(b""))) as server, Edge(server.url, kind=kind, **plan) as edge:
        edge.edge._models["m"] = Model(provider="p", **declared)
        edge.call("m")
        assert edge.edge.calls["c"].repeatable is repeatable
        edge.cancel()
        await until(edge.ends)
