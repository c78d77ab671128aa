"""Tools that a model may call, and answers that must be JSON: the same words for every provider's dialect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from understudy.messages.base import Part
from understudy.messages.units import Count

ToolName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$(?![\s\S])")]
"""What every vendor takes as a name of a tool."""
CallId = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$(?![\s\S])")]

AUTO, NONE, REQUIRED = "auto", "none", "required"
"""`tool_choice` besides the name of a tool: the model decides; it must not call one; it must call at least one."""

Kind = Literal["text", "reasoning", "tool_call"]
"""What a piece of an answer is. `reasoning`: what the model thinks aloud before its answer."""


def _no_arguments() -> dict[str, Any]:
    return {"type": "object", "properties": {}}


class Tool(Part, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A function that the model may ask its caller to run. `parameters`: the JSON Schema of its arguments."""

    name: ToolName
    description: Annotated[str, Meta(max_length=10_000)] = ""
    parameters: dict[str, Any] = field(default_factory=_no_arguments)


class ToolCall(Part, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The model wants a tool to be run. `arguments` is the text of a JSON object, whatever the tool's schema says.

    `id` is the provider's own, or made by us where it has none; the turn with the tool's result names it.
    """

    id: CallId
    name: ToolName
    arguments: Annotated[str, Meta(max_length=1_000_000)] = "{}"


class ToolPart(Part, frozen=True, kw_only=True):
    """Which call of an answer a piece belongs to, counted from 0. `id` and `name` come with its first piece."""

    index: Count
    id: str = ""
    name: str = ""


class Format(Part, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The answer is one JSON value: an object (`json`), or one that a JSON Schema describes (`json_schema`).

    An answer that is none fails, and the next model is asked. `strict` has the provider itself guarantee the schema,
    where it can; the schema must then keep to that vendor's subset.
    """

    type: Literal["json", "json_schema"]
    name: ToolName = "answer"
    schema: dict[str, Any] | None = None
    strict: bool = False
