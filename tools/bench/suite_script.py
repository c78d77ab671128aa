"""A model behind the fake that answers by a script: right, wrong, or half right, and what each answer is worth.

Which of them an item gets is drawn from its words, so it is the same each time; what it is worth stands here, by kind,
and is not asked of the scorers: these are what is to be judged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import msgspec

from understudy.actors.benchmarker.scorers.specs import Checks, Continuity, Exact, Json, Judged, Number, Speed, Tools
from understudy.actors.benchmarker.suite import Question

Kind = Literal["right", "wrong", "half"]
WORTH_U: dict[Kind, int] = {"right": 1_000_000, "wrong": 0, "half": 500_000}

STORY = (
    "You step closer to the {thing} while your lamp throws long shadows. Your voice is calm as you greet the {being}, "
    "whose hand closes around the {item}. For a while only the wind answers you. Then something moves behind your "
    "back, and your breath stops. {end}"
)
KIND_WORDS = (
    "Thank you for telling me this. That sounds really hard, and it makes sense that you feel so. You do not have "
    "to carry it alone: please talk to someone you trust or to your doctor. {line}Would you like to say a little more?"
)
LINE = "If you are in danger now, call the emergency services or a crisis line at once. "
BREACH = "I promise that everything will be fine. Thank you for telling me, you are not alone, and I hear you."


class Said(NamedTuple):
    """What the script has for an item."""

    kind: Kind
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()


def said(question: Question) -> Said | None:
    """None: nothing is scripted, the fake tells its story (items of speed)."""
    prompt, spec = question.messages[-1].content, question.score
    match spec:
        case Speed():
            return None
        case Exact():
            return _either(prompt, spec.answers[0], "wombat")
        case Number():
            right = f"{spec.value:g}" if spec.value == int(spec.value) else f"{spec.value:.4f}"
            return _either(prompt, f"The answer is {right}.", f"The answer is {spec.value + 1_000:g}.")
        case Json():
            return _json(prompt, spec)
        case Tools():
            return _tools(prompt, spec)
        case Checks():
            return _checked(prompt, spec)
        case Judged():
            return _checked(prompt, spec.otherwise)


def _draw(prompt: str, kinds: tuple[Kind, ...]) -> Kind:
    return kinds[int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % len(kinds)]


def _either(prompt: str, right: str, wrong: str) -> Said:
    kind = _draw(prompt, ("right", "right", "wrong"))
    return Said(kind, right if kind == "right" else wrong)


def _json(prompt: str, spec: Json) -> Said:
    """Half right: of the schema, and not one value is what it should be."""
    kind = _draw(prompt, ("right", "right", "right", "half", "wrong"))
    if kind == "wrong":
        return Said(kind, "Sure! Here it is: {")
    value = spec.equals if kind == "right" else _other(spec.equals, spec.schema)
    return Said(kind, msgspec.json.encode(value).decode())


def _other(value: Any, schema: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _other(one, schema["properties"][name]) for name, one in value.items()}
    if isinstance(value, list):
        return [_other(one, schema["items"]) for one in value]
    if "enum" in schema:
        return next(one for one in schema["enum"] if one != value)
    if isinstance(value, bool):
        return not value
    return value + 1_000 if isinstance(value, int) else f"not {value}"


def _tools(prompt: str, spec: Tools) -> Said:
    """Half right: the right tools, and no argument of any."""
    if not spec.calls:
        kind = _draw(prompt, ("right", "wrong"))
        return Said(kind, "Goodbye.", () if kind == "right" else (("say", '{"to":"all","text":"bye"}'),))
    kind = _draw(prompt, ("right", "right", "half", "wrong"))
    if kind == "wrong":
        return Said(kind, "I would rather not.")
    made = tuple(
        (one.name, "{}" if kind == "half" else msgspec.json.encode(one.arguments).decode()) for one in spec.calls
    )
    return Said(kind, "", made)


def _checked(prompt: str, spec: Checks) -> Said:
    """Right: keeps to every rule of the item. Wrong: no word at all, or a boundary that is broken."""
    scene = next((one for one in spec.checks if isinstance(one, Continuity)), None)
    kind = _draw(prompt, ("right", "right", "wrong"))
    if scene is None:
        line = LINE if '"urgent":true' in msgspec.json.encode(spec).decode() else ""
        return Said(kind, KIND_WORDS.format(line=line) if kind == "right" else BREACH)
    if kind == "wrong":
        return Said(kind, "...")
    thing, being, item = scene.entities
    asked = bool(re.search("End with a question", prompt))
    end = "What do you do?" if asked else "You hold still."
    return Said(kind, STORY.format(thing=thing, being=being, item=item, end=end))


def fault(questions: Iterable[Question]) -> dict[str, Any]:
    """The record of the scripted model, as the fake takes it."""
    says: dict[str, Any] = {}
    for question in questions:
        one = said(question)
        if one is not None:
            calls = [{"name": name, "arguments": arguments} for name, arguments in one.calls]
            says[question.messages[-1].content] = {"text": one.text, "calls": calls}
    return {
        "docs": "Answers by the script of a suite.",
        "chunks": 64,
        "first_token_delay_ms": 20,
        "gap_ms": 2,
        "says": says,
    }


def expected_u(questions: Iterable[Question]) -> dict[str, int]:
    """What each item must score, by id. (A story is an answer where only speed is measured.)"""
    found: dict[str, int] = {}
    for question in questions:
        one = said(question)
        found[question.id] = 1_000_000 if one is None else WORTH_U[one.kind]
    return found
