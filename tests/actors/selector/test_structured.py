"""Requests for tools and JSON: what is refused, with the path, and what a model must be able to do for them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.selector import structured
from understudy.messages.generate import Generate

LOOK: dict[str, Any] = {"name": "look", "parameters": {"type": "object"}}
CALL: dict[str, Any] = {"id": "c1", "name": "look", "arguments": "{}"}
HI: dict[str, Any] = {"role": "user", "content": "Hi"}
CALLED: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "content": "dark", "tool_call_id": "c1"}


def ask(*turns: dict[str, Any], **fields: Any) -> Generate:
    return msgspec.convert({"type": "model.generate.v1", "messages": list(turns) or [HI], **fields}, Generate)


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (ask({**HI, "tool_calls": [CALL]}), "$.messages[0].tool_calls"),
        (ask(HI, {**CALLED, "tool_calls": [CALL, CALL]}), "$.messages[1].tool_calls[1].id"),
        (ask(HI, {**CALLED, "tool_calls": [{**CALL, "arguments": "[1]"}]}), "$.messages[1].tool_calls[0].arguments"),
        (ask(HI, {**CALLED, "tool_calls": [{**CALL, "arguments": "{"}]}), "$.messages[1].tool_calls[0].arguments"),
        (
            ask(HI, {**CALLED, "tool_calls": [{**CALL, "arguments": '{"a":' * 1_200 + "1" + "}" * 1_200}]}),
            "$.messages[1].tool_calls[0].arguments",
        ),
        (ask(HI, {"role": "tool", "content": "x"}), "$.messages[1].tool_call_id"),
        (ask({**HI, "tool_call_id": "c1"}), "$.messages[0].tool_call_id"),
        (ask(HI, RESULT, CALLED), "$.messages[1].tool_call_id"),
        (ask(HI, CALLED, HI), "$.messages[2]"),
        (ask(HI, CALLED), "$.messages"),
        (ask(HI, CALLED, RESULT, RESULT), "$.messages[3].tool_call_id"),
        (ask(tools=[{"name": "auto"}]), "$.tools[0].name"),
        (ask(tools=[LOOK, LOOK]), "$.tools[1].name"),
        (ask(tools=[{**LOOK, "parameters": {"type": "nonsense"}}]), "$.tools[0].parameters"),
        (ask(tool_choice="required"), "$.tool_choice"),
        (ask(tools=[LOOK], tool_choice="listen"), "$.tool_choice"),
        (ask(format={"type": "json_schema"}), "$.format.schema"),
        (ask(format={"type": "json", "schema": {}}), "$.format.schema"),
        (ask(format={"type": "json_schema", "schema": {"type": 7}}), "$.format.schema"),
    ],
)
def test_what_is_refused(asked: Generate, path: str) -> None:
    fault = structured.fault(asked)
    assert fault is not None and fault.path == path


@pytest.mark.parametrize(
    "asked",
    [
        ask(),
        ask(HI, CALLED, RESULT, HI),
        ask(tools=[LOOK], tool_choice="look"),
        ask(tools=[LOOK], tool_choice="none"),
        ask(tools=[{"name": "no_schema"}]),
        ask(format={"type": "json"}),
        ask(format={"type": "json_schema", "schema": {"type": "array"}, "strict": True}),
    ],
)
def test_what_is_taken(asked: Generate) -> None:
    assert structured.fault(asked) is None


def test_what_it_asks_of_a_model() -> None:
    plain = ask(requirements={"capabilities": ["vision"]})
    assert structured.needs(plain) is plain.requirements and not structured.is_structured(plain)
    both = ask(requirements={"capabilities": ["json"]}, tools=[LOOK], format={"type": "json"})
    assert structured.needs(both).capabilities == ("json", "tools")
    assert structured.needs(ask(HI, CALLED, RESULT)).capabilities == ("tools",), "who cannot read calls drops them"
    assert structured.is_structured(both) and structured.is_structured(ask(requirements={"capabilities": ["json"]}))


def test_tools_and_calls_count_as_prompt() -> None:
    assert structured.chars(ask()) == 0
    assert structured.chars(ask(tools=[LOOK])) > len("look")
    assert structured.chars(ask(HI, CALLED, RESULT)) > 0
