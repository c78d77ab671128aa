"""Every dialect with tools and JSON, over HTTP against the fake: one neutral answer, one word for what is wrong."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.actors.runner.test_http_edge import KINDS, Edge, Kind, url_of
from understudy.actors.runner.dialects import BY_KIND
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.step import CallEnded, CallFailed, CallText
from understudy.messages.tools import Format, Tool, ToolCall
from understudy.messages.topology import Model
from understudy.tools.bench.providers_cases import CELLS, SCHEMA, TOOLS, Cell
from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

JSON = Format(type="json_schema", schema=SCHEMA)
LOOKED = '{"place": "the old mill", "closely": true}'


def assembled(pieces: list[Any]) -> list[tuple[str, str, str]]:
    """What a reader of the stream puts together: (id, name, arguments) per call."""
    calls: list[list[str]] = []
    for piece in pieces:
        if not isinstance(piece, CallText) or piece.call is None:
            continue
        if piece.call.name:
            assert piece.call.index == len(calls)
            calls.append([piece.call.id, piece.call.name, ""])
        calls[piece.call.index][2] += piece.text
    return [(call[0], call[1], call[2]) for call in calls]


ROWS = [
    pytest.param(kind, row.row, row.ask, cell, id=f"{kind}-{row.ask}-{row.row}")
    for kind in BY_KIND
    for row in CELLS
    if row.ask in ("tools", "json") and (cell := row.of(kind)) is not None
]


@pytest.mark.parametrize(("kind", "name", "ask", "cell"), ROWS)
async def test_cells(kind: Kind, name: str, ask: str, cell: Cell) -> None:
    """What the table of `bench providers` says of the first attempt."""
    wanted: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"} if ask == "tools" else {"format": JSON}
    async with FakeProvider() as fake, Edge(url_of(fake, kind), kind=kind) as edge:
        text, _, end = await edge.ask(name, **wanted)
    if cell.first != "ok":
        assert isinstance(end, CallFailed) and end.reason == cell.first
        return
    assert isinstance(end, CallEnded)
    assert end.finish_reason == cell.end
    assert (end.completion_tokens is None) == (cell.usage == "estimated")
    calls = assembled(edge.fed["c"])
    if cell.end == "tool_calls":
        assert [(c.id, c.name, c.arguments) for c in end.tool_calls] == [(i, n, text or "{}") for i, n, text in calls]
        first = json.loads(end.tool_calls[0].arguments)
        assert first == ({} if name == "tool-no-arguments" else json.loads(LOOKED))
    if name == "tool-text":
        assert text.startswith("Let me see.")
    if cell.end == "stop":
        assert json.loads(text)["exits"] == ["north", "down"]


LOOK = Tool(name="look", description="Look.", parameters={"type": "object"})
CALL = ToolCall(id="c1", name="look", arguments='{"far":true}')
TALK = (
    Turn(role="system", content="Be kind."),
    Turn(role="user", content="Hi"),
    Turn(role="assistant", content="Well.", tool_calls=(CALL, ToolCall(id="c2", name="look"))),
    Turn(role="tool", content="dark", tool_call_id="c1"),
    Turn(role="tool", content="light", tool_call_id="c2"),
)


def body(kind: Kind, model: Model | None = None, **fields: Any) -> Any:
    p = Parameters(max_tokens=5, temperature=0.5, top_p=0.9, seed=3, stop=("END",))
    turns = fields.pop("messages", TALK)
    run = RunModel(run_id="r", attempt=0, model="m", messages=turns, parameters=p, remaining_ms=1.0, **fields)
    return json.loads(BY_KIND[kind].body(run, "there", model or Model(provider="p")))


def test_a_conversation_with_tools_in_each_dialect() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"far":true}'}}
    messages = body("openai", tools=(LOOK,))["messages"]
    assert messages[2]["tool_calls"][0] == call and messages[2]["content"] == "Well."
    assert messages[3] == {"role": "tool", "content": "dark", "tool_call_id": "c1"}

    said = body("anthropic", tools=(LOOK,))["messages"]
    assert [turn["role"] for turn in said] == ["user", "assistant", "user"], "results stand together"
    assert said[1]["content"] == [
        {"type": "text", "text": "Well."},
        {"type": "tool_use", "id": "c1", "name": "look", "input": {"far": True}},
        {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
    ]
    assert said[2]["content"][1] == {"type": "tool_result", "tool_use_id": "c2", "content": "light"}

    local = body("ollama", tools=(LOOK,))["messages"]
    assert local[2]["tool_calls"][0] == {"function": {"name": "look", "arguments": {"far": True}}}
    assert local[3] == {"role": "tool", "content": "dark", "tool_name": "look"}

    items = body("openai_responses", tools=(LOOK,))["input"]
    assert items[2] == {"role": "assistant", "content": "Well."}
    assert items[3] == {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"far":true}'}
    assert items[5] == {"type": "function_call_output", "call_id": "c1", "output": "dark"}


@pytest.mark.parametrize(
    ("kind", "choice", "sent"),
    [
        ("openai", "required", "required"),
        ("openrouter", "look", {"type": "function", "function": {"name": "look"}}),
        ("openai_responses", "look", {"type": "function", "name": "look"}),
        ("openai_responses", "none", "none"),
        ("anthropic", "auto", {"type": "auto"}),
        ("anthropic", "required", {"type": "any"}),
        ("anthropic", "none", {"type": "none"}),
        ("anthropic", "look", {"type": "tool", "name": "look"}),
        ("ollama", "required", None),
    ],
)
def test_which_tool_must_be_called(kind: Kind, choice: str, sent: Any) -> None:
    asked = body(kind, tools=(LOOK,), tool_choice=choice)
    assert asked.get("tool_choice") == sent
    assert asked["tools"]


def test_no_tool_may_be_called() -> None:
    """A conversation that holds calls is refused by vendors where the tools are not told."""
    assert "tools" not in body("ollama", tools=(LOOK,), tool_choice="none")
    assert "tools" not in body("openai", messages=TALK[:2], tools=(LOOK,), tool_choice="none")
    assert body("openai", tools=(LOOK,), tool_choice="none")["tools"]


def test_json_in_each_dialect() -> None:
    schema, plain = Format(type="json_schema", name="room", schema={"type": "object"}), Format(type="json")
    described = {"name": "room", "schema": {"type": "object"}, "strict": False}
    assert body("openai", format=schema)["response_format"] == {"type": "json_schema", "json_schema": described}
    assert body("openai", format=plain)["response_format"] == {"type": "json_object"}
    assert body("openrouter", format=plain)["provider"]["require_parameters"] is True
    assert "require_parameters" not in body("openrouter")["provider"]
    assert body("openai_responses", format=schema)["text"] == {"format": {"type": "json_schema", **described}}
    strict = Format(type="json_schema", schema={"type": "object"}, strict=True)
    assert body("anthropic", format=strict)["output_config"]["format"]["schema"] == {"type": "object"}
    said = body("anthropic", format=schema)
    assert "output_config" not in said and '{"type":"object"}' in said["system"], "the vendor takes a subset alone"
    assert "JSON" in body("anthropic", format=plain)["system"]
    assert body("ollama", format=schema)["format"] == {"type": "object"}
    assert body("ollama", format=plain)["format"] == "json"


def test_parameters_that_a_model_refuses_are_left_out() -> None:
    shy = Model(provider="p", refuses=("temperature", "top_p", "seed", "stop"))
    assert not {"temperature", "top_p", "seed", "stop"} & body("openai", shy).keys()
    assert not {"temperature", "stop_sequences"} & body("anthropic", shy).keys()
    assert not {"temperature", "stop"} & body("ollama", shy)["options"].keys()
    assert not {"temperature", "top_p"} & body("openai_responses", shy).keys()
    assert not {"seed", "stop"} & body("openai_responses").keys(), "the vendor knows neither"


@KINDS
async def test_stop_strings_hold_everywhere(kind: Kind) -> None:
    """Also where the provider knows none: the runner ends the answer, and hangs up."""
    async with FakeProvider({"ok": Fault(gap_ms=5)}) as fake, Edge(url_of(fake, kind), kind=kind) as edge:
        whole, *_ = await edge.ask("ok")
        stop = whole.split()[9]
        edge.edge._models["ok"] = Model(provider="p", refuses=("stop",))
        p = Parameters(max_tokens=100, temperature=0.0, top_p=1.0, seed=1, stop=(stop, "never"))
        text, _, end = await edge.ask("ok", parameters=p)
        assert isinstance(end, CallEnded) and end.finish_reason == "stop"
        assert text == whole[: whole.index(stop)]
        assert end.completion_tokens is None, "who hangs up hears no usage"


@pytest.mark.parametrize(
    ("kind", "event", "thought"),
    [
        ("openai", {"choices": [{"delta": {"reasoning_content": "hm"}}]}, "hm"),
        ("openrouter", {"choices": [{"delta": {"reasoning": "hm", "content": ""}}]}, "hm"),
        ("openai_responses", {"type": "response.reasoning_summary_text.delta", "delta": "hm"}, "hm"),
        ("anthropic", {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}}, "hm"),
        ("ollama", {"message": {"content": "", "thinking": "hm"}, "done": False}, "hm"),
    ],
)
def test_what_a_model_thinks_aloud(kind: Kind, event: Any, thought: str) -> None:
    piece = BY_KIND[kind].read(msgspec.json.encode(event))
    assert (piece.reasoning, piece.text) == (thought, "")
