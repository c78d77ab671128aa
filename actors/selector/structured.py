"""Requests for tool calls and JSON: what is wrong with one, what a model must be able to do for it. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from understudy.actors.runner.schema import BadSchema, check
from understudy.messages.generate import Capability, Generate, Requirements
from understudy.messages.tools import AUTO, NONE, REQUIRED, Format

STRUCTURED: frozenset[Capability] = frozenset({"json", "tools"})


class Fault(NamedTuple):
    """What is wrong, and where."""

    path: str
    text: str


def is_structured(ask: Generate) -> bool:
    """Must the answer come from one model? Two halves of a JSON value or a tool call make no whole."""
    return bool(ask.tools or ask.format or STRUCTURED.intersection(ask.requirements.capabilities))


def needs(ask: Generate) -> Requirements:
    """The request's requirements, and the capabilities that follow from what it asks for."""
    if not (ask.tools or ask.format):
        return ask.requirements
    wanted = [*ask.requirements.capabilities, *(["tools"] if ask.tools else []), *(["json"] if ask.format else [])]
    return replace(ask.requirements, capabilities=tuple(dict.fromkeys(wanted)))


def chars(ask: Generate) -> int:
    """So much longer is the prompt by tools, calls and schema."""
    if not (ask.tools or ask.format or any(turn.tool_calls for turn in ask.messages)):
        return 0
    calls = [turn.tool_calls for turn in ask.messages if turn.tool_calls]
    return len(msgspec.json.encode((ask.tools, ask.format, calls)))


def fault(ask: Generate) -> Fault | None:
    """What types cannot say of tools, results and schema."""
    if "embeddings" in ask.requirements.capabilities:
        return Fault("$.requirements.capabilities", "A model of embeddings gives no text; ask `model.embed`.")
    return _turns(ask) or _tools(ask) or (None if ask.format is None else _format(ask.format))


def _turns(ask: Generate) -> Fault | None:
    """Every result answers a call of an assistant's turn before it."""
    open_calls: set[str] = set()
    for i, turn in enumerate(ask.messages):
        path = f"$.messages[{i}]"
        if turn.tool_calls and turn.role != "assistant":
            return Fault(f"{path}.tool_calls", f"A turn of the role {turn.role} calls no tools; the assistant's do.")
        for n, call in enumerate(turn.tool_calls):
            if call.id in open_calls:
                return Fault(f"{path}.tool_calls[{n}].id", "A call of this id was made before; ids are given once.")
            if not _is_object(call.arguments):
                return Fault(f"{path}.tool_calls[{n}].arguments", "No text of a JSON object.")
            open_calls.add(call.id)
        if (turn.role == "tool") != (turn.tool_call_id is not None):
            return Fault(
                f"{path}.tool_call_id", "A turn of the role tool names the call that it answers; no other does."
            )
        if turn.tool_call_id is not None and turn.tool_call_id not in open_calls:
            return Fault(f"{path}.tool_call_id", "No assistant's turn before it made a call of this id.")
    return None


def _tools(ask: Generate) -> Fault | None:
    names = [tool.name for tool in ask.tools]
    for i, tool in enumerate(ask.tools):
        if tool.name in names[:i]:
            return Fault(f"$.tools[{i}].name", f"A second tool {tool.name!r}; give each its own name.")
        try:
            check(tool.parameters)
        except BadSchema as error:
            return Fault(f"$.tools[{i}].parameters", str(error))
    if ask.tool_choice == AUTO or (ask.tools and ask.tool_choice in (NONE, REQUIRED, *names)):
        return None
    if not ask.tools:
        return Fault("$.tool_choice", f"{ask.tool_choice!r} without `tools`; leave it out, or say which there are.")
    return Fault("$.tool_choice", f"{ask.tool_choice!r} is none of auto, none, required, {', '.join(names)}.")


def _format(wanted: Format) -> Fault | None:
    if (wanted.type == "json_schema") != (wanted.schema is not None):
        return Fault("$.format.schema", "`json_schema` needs a schema, `json` takes none.")
    try:
        if wanted.schema is not None:
            check(wanted.schema)
    except BadSchema as error:
        return Fault("$.format.schema", str(error))
    return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
