"""Requests for tool calls and JSON: what is wrong with one, what a model must be able to do for it. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from understudy.messages.generate import Capability, Generate, Requirements
from understudy.messages.json_schema import BadSchema, check, decoded
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
    tools = bool(ask.tools) or any(turn.tool_calls for turn in ask.messages)
    if not (tools or ask.format):
        return ask.requirements
    wanted = [*ask.requirements.capabilities, *(["tools"] if tools else []), *(["json"] if ask.format else [])]
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
    """An assistant's calls are answered, each once, by the turns right after it, as vendors demand."""
    made: set[str] = set()
    waiting: set[str] = set()
    for i, turn in enumerate(ask.messages):
        if turn.role in ("user", "system") and not (waiting or turn.tool_calls) and turn.tool_call_id is None:
            continue  # nothing to do with tools, as most
        path = f"$.messages[{i}]"
        if waiting and turn.role != "tool":
            return Fault(path, f"Before this turn come the results of the calls: {', '.join(sorted(waiting))}.")
        if turn.tool_calls and turn.role != "assistant":
            return Fault(f"{path}.tool_calls", f"A turn of the role {turn.role} calls no tools; the assistant's do.")
        for n, call in enumerate(turn.tool_calls):
            if call.id in made:
                return Fault(f"{path}.tool_calls[{n}].id", "A call of this id was made before; ids are given once.")
            if not _is_object(call.arguments):
                return Fault(f"{path}.tool_calls[{n}].arguments", "No text of a JSON object, or one too deep.")
            made.add(call.id)
            waiting.add(call.id)
        if (turn.role == "tool") != (turn.tool_call_id is not None):
            return Fault(
                f"{path}.tool_call_id", "A turn of the role tool names the call that it answers; no other does."
            )
        if turn.tool_call_id is not None:
            if turn.tool_call_id not in waiting:
                return Fault(f"{path}.tool_call_id", "No call of this id waits for a result here.")
            waiting.discard(turn.tool_call_id)
    if waiting:
        return Fault("$.messages", f"The last calls have no results: {', '.join(sorted(waiting))}.")
    return None


def _tools(ask: Generate) -> Fault | None:
    if not ask.tools and ask.tool_choice == AUTO:
        return None
    names = [tool.name for tool in ask.tools]
    for i, tool in enumerate(ask.tools):
        if tool.name in (AUTO, NONE, REQUIRED):
            return Fault(f"$.tools[{i}].name", f"{tool.name!r} is a word of `tool_choice`; give the tool another name.")
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
        return isinstance(decoded(text), dict)
    except ValueError:
        return False
